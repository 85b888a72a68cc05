//! Sieve: what users, and the operator, want done with mail that comes in.
//!
//! The language is `protocols::sieve`, which is pure. Here is the rest: scripts are kept in the log
//! of their account's home shard, compiled there once, and run there before the message is
//! answered; [`crate::delivery`] carries out what they come to.
//!
//! | file | what |
//! |---|---|
//! | [`scripts`] | the users' scripts: kept, listed, activated, within limits |
//! | [`settings`] | the operator's: `[sieve]` of the config file, compiled at the start |
//! | `compiled` | the users' scripts compiled, some of them at a time |
//! | [`marks`] | what was seen and answered lately, for `duplicate` and `vacation` |
//! | `world` | what a run may ask |
//! | [`plan`] | a run, and what it comes to |
//! | `operations` | what an operator can ask about scripts |

mod compiled;
pub mod marks;
pub(crate) mod operations;
pub mod plan;
pub mod scripts;
pub mod settings;
mod world;

pub use plan::Plan;
pub use settings::{Settings, SystemScripts};
pub use world::special_use;

use crate::directory::Home;
use crate::mesh::ShardHandle;
use crate::shard::Shard;
use compiled::Cache;
use protocols::sieve::Limits;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::AccountId;

/// A reply whose mark is not durable yet keeps others of its key back for so long.
const UNDER_WAY: Duration = Duration::from_secs(60);
const UNDER_WAY_MAX: usize = 1000;

/// What bounds scripts here. A run takes some ten milliseconds of its core at most.
#[must_use]
pub fn limits() -> Limits {
    Limits { work_max: 10_000_000, ..Limits::default() }
}

/// One core's part.
#[derive(Debug, Default)]
pub struct Sieve {
    /// Held over each change of scripts, from its first look to its last write.
    turn: tokio::sync::Mutex<()>,
    cache: RefCell<Cache>,
    system: RefCell<Arc<SystemScripts>>,
    under_way: RefCell<HashMap<(AccountId, [u8; 32]), Instant>>,
}

impl Sieve {
    pub fn new(system: Arc<SystemScripts>) -> Sieve {
        Sieve { system: RefCell::new(system), ..Sieve::default() }
    }

    pub fn system(&self) -> Arc<SystemScripts> {
        Arc::clone(&self.system.borrow())
    }

    /// Messages that come from now on are looked at with these.
    pub fn set_system(&self, system: Arc<SystemScripts>) {
        *self.system.borrow_mut() = system;
        self.cache.borrow_mut().clear();
    }

    /// That a reply of this key may be made now: two messages at once are answered once. `home`:
    /// the way to this core.
    fn begin_answer(
        &self,
        home: &ShardHandle,
        account: AccountId,
        key: [u8; 32],
    ) -> Option<Answering> {
        let mut under_way = self.under_way.borrow_mut();
        let now = Instant::now();
        if under_way.len() >= UNDER_WAY_MAX {
            under_way.retain(|_, until| *until > now);
        }
        let is_free = under_way.get(&(account, key)).is_none_or(|until| *until <= now);
        let has_room = under_way.len() < UNDER_WAY_MAX;
        (is_free && has_room).then(|| {
            under_way.insert((account, key), now + UNDER_WAY);
            Answering { home: home.clone(), account, key }
        })
    }
}

/// A reply is being made: no other of its key is as long as this lives, on whichever core. It ends
/// once the reply is remembered, or is not made after all.
#[derive(Debug)]
pub struct Answering {
    home: ShardHandle,
    account: AccountId,
    key: [u8; 32],
}

impl Drop for Answering {
    fn drop(&mut self) {
        let key = (self.account, self.key);
        // Who is too busy to hear of it forgets it by itself.
        let _ = self.home.tell(move |shard: Rc<Shard>| async move {
            shard.sieve.under_way.borrow_mut().remove(&key);
        });
    }
}

/// Whether any script looks at mail for this account: for most, this is all that Sieve costs.
pub fn applies(shard: &Shard, home: &Home) -> bool {
    scripts::has_active(shard, home.account) || shard.sieve.system.borrow().applies(&home.address)
}
