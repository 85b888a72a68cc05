//! The users' scripts compiled: those that were of use lately, as many as fit.

use super::SystemScripts;
use super::{limits, scripts};
use crate::shard::Shard;
use protocols::sieve::{Fault, Include, Location, Missing, Script};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use storage::AccountId;

/// Octets of source behind what one core keeps compiled; a compiled script takes a few
/// times its source.
const SOURCE_BYTES_MAX: usize = 4 << 20;
/// What the smallest script counts as.
const SOURCE_BYTES_MIN: usize = 512;

/// An account's scripts, as far as a run may need them.
#[derive(Debug, Default)]
pub struct Compiled {
    /// `Err`: the active script does not compile any more.
    pub active: Option<Result<Arc<Script>, Fault>>,
    /// What is included, by name.
    personal: HashMap<String, Option<Arc<Script>>>,
    source_bytes: usize,
}

impl Compiled {
    pub fn personal(&self, name: &str) -> Result<&Script, Missing> {
        match self.personal.get(name) {
            Some(Some(script)) => Ok(script),
            Some(None) => Err(Missing::Faulty),
            None => Err(Missing::NotFound),
        }
    }
}

#[derive(Debug, Default)]
pub struct Cache {
    accounts: HashMap<AccountId, (Rc<Compiled>, u64)>,
    source_bytes: usize,
    /// Counts uses.
    now: u64,
}

impl Cache {
    pub fn clear(&mut self) {
        *self = Cache::default();
    }

    pub fn forget(&mut self, account: AccountId) {
        if let Some((compiled, _)) = self.accounts.remove(&account) {
            self.source_bytes -= compiled.source_bytes;
        }
    }

    fn get(&mut self, account: AccountId) -> Option<Rc<Compiled>> {
        self.now += 1;
        let (compiled, used) = self.accounts.get_mut(&account)?;
        *used = self.now;
        Some(Rc::clone(compiled))
    }

    fn keep(&mut self, account: AccountId, compiled: Rc<Compiled>) {
        if self.source_bytes + compiled.source_bytes > SOURCE_BYTES_MAX {
            self.drop_older_half();
        }
        self.forget(account);
        self.source_bytes += compiled.source_bytes;
        self.accounts.insert(account, (compiled, self.now));
    }

    fn drop_older_half(&mut self) {
        let mut used: Vec<(u64, AccountId)> =
            self.accounts.iter().map(|(account, (_, used))| (*used, *account)).collect();
        used.sort_unstable();
        used.truncate(used.len().div_ceil(2));
        used.into_iter().for_each(|(_, account)| self.forget(account));
    }
}

/// From the cache, or compiled now.
pub fn compiled(
    shard: &Shard,
    account: AccountId,
    system: &SystemScripts,
    address: &str,
) -> Rc<Compiled> {
    if let Some(compiled) = shard.sieve.cache.borrow_mut().get(account) {
        return compiled;
    }
    let compiled = Rc::new(compile(shard, account, system, address));
    shard.sieve.cache.borrow_mut().keep(account, Rc::clone(&compiled));
    compiled
}

fn compile(shard: &Shard, account: AccountId, system: &SystemScripts, address: &str) -> Compiled {
    let mut compiled = Compiled { source_bytes: SOURCE_BYTES_MIN, ..Compiled::default() };
    let mut wanted: Vec<Include> = Vec::new();
    let active = scripts::active(shard, account);
    if let Some(source) = active.and_then(|name| scripts::get(shard, account, &name)) {
        compiled.source_bytes += source.len();
        let script = Script::compile(&source, &limits()).map(Arc::new);
        wanted.extend(script.iter().flat_map(|script| script.includes().to_vec()));
        let first = |mut faults: Vec<Fault>| faults.swap_remove(0);
        compiled.active = Some(script.map_err(first));
    }
    let (before, after) = system.around(address);
    wanted.extend(before.iter().chain(&after).flat_map(|script| script.includes().to_vec()));
    // What is included, and what that includes in turn; each once.
    let mut known: HashSet<Include> = HashSet::new();
    while let Some(include) = wanted.pop() {
        if !known.insert(include.clone()) {
            continue;
        }
        match include.location {
            Location::Global => {
                wanted.extend(
                    system.global(&include.name).iter().flat_map(|s| s.includes().to_vec()),
                );
            }
            Location::Personal => {
                if let Some(source) = scripts::get(shard, account, &include.name) {
                    compiled.source_bytes += source.len();
                    let script = Script::compile(&source, &limits()).ok().map(Arc::new);
                    wanted.extend(script.iter().flat_map(|script| script.includes().to_vec()));
                    compiled.personal.insert(include.name, script);
                }
            }
        }
    }
    compiled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_of_use_lately_stays_and_the_rest_goes() {
        let mut cache = Cache::default();
        let one = |source_bytes| Rc::new(Compiled { source_bytes, ..Compiled::default() });
        for number in 0..8 {
            cache.keep(AccountId(number), one(SOURCE_BYTES_MAX / 8));
            assert!(cache.get(AccountId(0)).is_some(), "{number}");
        }
        assert!(cache.get(AccountId(1)).is_some());
        cache.keep(AccountId(8), one(SOURCE_BYTES_MAX / 8));
        let kept: Vec<u32> = (0..9).filter(|n| cache.get(AccountId(*n)).is_some()).collect();
        assert_eq!(kept, [0, 1, 6, 7, 8]);
        assert!(cache.source_bytes <= SOURCE_BYTES_MAX);
        cache.keep(AccountId(8), one(7));
        assert_eq!(cache.source_bytes, SOURCE_BYTES_MAX / 8 * 4 + 7);
    }
}
