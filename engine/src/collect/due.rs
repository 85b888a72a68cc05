//! What a core knows of its sources without looking: when each is due, which are being
//! visited, how they stand.

use super::keys::Key;
use super::schedule::Standing;
use crate::mesh::ShardHandle;
use crate::shard::Shard;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use storage::Bell;

/// What a core knows of its sources without looking.
#[derive(Debug, Default)]
pub struct Collecting {
    sources: RefCell<BTreeMap<Key, Known>>,
    due: RefCell<BTreeSet<(u64, Key)>>,
    bell: Bell,
    /// Visits are made at all: not by a command on a stopped store, nor where `[collect]` says no.
    pub runs: Cell<bool>,
    pub counts: Totals,
}

/// Since the start, for metrics.
#[derive(Debug, Default)]
pub struct Totals {
    pub sessions: Cell<u64>,
    pub collected: Cell<u64>,
    pub deleted: Cell<u64>,
    pub failed: Cell<u64>,
}

#[derive(Debug)]
struct Known {
    host: String,
    due: Option<u64>,
    is_running: bool,
    /// Visits that are over.
    visits: u64,
    /// Somebody has wished for a visit while there was one.
    again: bool,
    /// As of the last visit; what has not changed is not written down each time.
    standing: Option<Standing>,
}

impl Collecting {
    pub fn len(&self) -> usize {
        self.sources.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A source is there from now on. `due`: its next visit; `None`: at a wish.
    pub fn know(&self, key: Key, host: &str, due: Option<u64>) {
        let host = host.to_owned();
        let known =
            Known { host, due: None, is_running: false, visits: 0, again: false, standing: None };
        self.sources.borrow_mut().insert(key, known);
        self.set_due(key, due);
    }

    /// It is another one than it was, and how it stands has to be found out.
    pub fn know_anew(&self, key: Key, host: &str, due: Option<u64>) {
        let mut sources = self.sources.borrow_mut();
        let Some(known) = sources.get_mut(&key) else {
            drop(sources);
            return self.know(key, host, due);
        };
        (known.host, known.standing) = (host.to_owned(), None);
        known.again |= known.is_running && due.is_some();
        let is_running = known.is_running;
        drop(sources);
        if !is_running {
            self.set_due(key, due);
        }
    }

    pub fn forget(&self, key: Key) {
        let gone = self.sources.borrow_mut().remove(&key);
        if let Some(due) = gone.and_then(|known| known.due) {
            self.due.borrow_mut().remove(&(due, key));
        }
    }

    pub fn forget_all_of(&self, account: storage::AccountId) {
        let keys: Vec<Key> = self.sources.borrow().keys().copied().collect();
        keys.into_iter().filter(|key| key.account == account).for_each(|key| self.forget(key));
    }

    pub fn is_known(&self, key: Key) -> bool {
        self.sources.borrow().contains_key(&key)
    }

    /// How it stands, where a visit has found out.
    pub fn standing(&self, key: Key) -> Option<Standing> {
        self.sources.borrow().get(&key)?.standing.clone()
    }

    pub(super) fn stands(&self, key: Key, standing: &Standing) {
        if let Some(known) = self.sources.borrow_mut().get_mut(&key) {
            known.standing = Some(standing.clone());
        }
    }

    pub fn is_running(&self, key: Key) -> bool {
        self.sources.borrow().get(&key).is_some_and(|known| known.is_running)
    }

    pub fn due_of(&self, key: Key) -> Option<u64> {
        self.sources.borrow().get(&key)?.due
    }

    /// The number of the visit that does what is wished for now.
    pub fn hurry(&self, key: Key) -> Option<u64> {
        let mut sources = self.sources.borrow_mut();
        let known = sources.get_mut(&key)?;
        let wanted = known.visits + 1 + u64::from(known.is_running);
        known.again |= known.is_running;
        let is_running = known.is_running;
        drop(sources);
        if !is_running {
            self.set_due(key, Some(0));
        }
        Some(wanted)
    }

    /// Whether that visit is over.
    pub fn is_over(&self, key: Key, visit: u64) -> bool {
        self.sources.borrow().get(&key).is_none_or(|known| known.visits >= visit)
    }

    fn set_due(&self, key: Key, at: Option<u64>) {
        let mut sources = self.sources.borrow_mut();
        let Some(known) = sources.get_mut(&key) else { return };
        let mut due = self.due.borrow_mut();
        if let Some(before) = std::mem::replace(&mut known.due, at) {
            due.remove(&(before, key));
        }
        if let Some(at) = at {
            due.insert((at, key));
        }
        drop((sources, due));
        self.stir();
    }

    /// The first one that is due and whose host has room.
    pub(super) fn take_due(&self, now: u64, per_host_max: usize) -> Option<Key> {
        let mut sources = self.sources.borrow_mut();
        let mut busy: BTreeMap<&str, usize> = BTreeMap::new();
        for known in sources.values().filter(|known| known.is_running) {
            *busy.entry(known.host.as_str()).or_default() += 1;
        }
        let mut due = self.due.borrow_mut();
        let has_room = |key: &Key| {
            let host = sources.get(key).map(|known| known.host.as_str());
            host.is_some_and(|host| busy.get(host).is_none_or(|count| *count < per_host_max))
        };
        let found = due.iter().take_while(|(at, _)| *at <= now).find(|(_, key)| has_room(key));
        let (at, key) = *found?;
        due.remove(&(at, key));
        let known = sources.get_mut(&key)?;
        (known.due, known.is_running) = (None, true);
        Some(key)
    }

    pub(super) fn is_finished(&self, key: Key, due: Option<u64>) {
        let mut sources = self.sources.borrow_mut();
        let Some(known) = sources.get_mut(&key) else { return };
        known.is_running = false;
        known.visits += 1;
        let due = if std::mem::take(&mut known.again) { Some(0) } else { due };
        drop(sources);
        self.set_due(key, due);
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.due.borrow().first().map(|(at, _)| *at)
    }

    fn stir(&self) {
        self.bell.ring();
    }

    pub(super) async fn stirred(&self) {
        self.bell.wait().await;
    }
}

/// Of all cores, for Prometheus; a core that does not answer is left out.
pub async fn metrics_text(handles: &[ShardHandle]) -> String {
    let mut sums = [0; 5];
    for handle in handles {
        let counts = |shard: Rc<Shard>| async move {
            let Collecting { counts, .. } = &shard.collecting;
            let Totals { sessions, collected, deleted, failed } = counts;
            let sources = shard.collecting.len() as u64;
            [sources, sessions.get(), collected.get(), deleted.get(), failed.get()]
        };
        if let Ok(counts) = handle.ask(counts).await {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    let names = [
        ("kura_collect_sources", "gauge", "Outside mailboxes that mail is collected from"),
        ("kura_collect_sessions", "gauge", "Outside mailboxes that are being visited"),
        ("kura_collect_messages_total", "counter", "Messages collected"),
        ("kura_collect_deleted_total", "counter", "Messages deleted on other servers"),
        ("kura_collect_failed_total", "counter", "Visits that failed"),
    ];
    let lines = names.iter().zip(sums).map(|((name, kind, help), value)| {
        format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
    });
    lines.collect()
}
