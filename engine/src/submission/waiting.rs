//! How much of an account's mail waits in the queue for something else than its recipients: left
//! for later by its sender (RFC 4865), or on hold since somebody else may have sent it. No quota
//! counts it, so it has a bound of its own, `submission.waiting_bytes_max`.
//!
//! Each core knows what waits in its own queue: it reads that from the store when it is first
//! asked, and from then on notes what comes. The account's home adds up all cores, with what is
//! just being taken, so that messages that come at the same time over many sessions are not more
//! either. What was tried once and waits for another try does not count.

use super::{NotNow, Of};
use crate::NOTICE;
use crate::core::give_way;
use crate::metrics::count;
use crate::operations::unix_now;
use crate::queue::message::Envelope;
use crate::queue::state::State;
use crate::queue::{ACCOUNT, HELD, MAILBOX};
use crate::shard::Shard;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use storage::{AccountId, Error, MessageEntry, Uid};

/// A message takes no longer to be recorded; then it is not being taken any more, whatever has
/// become of its session.
const COMING_SECONDS: u64 = 600;
/// Messages of the queue between which others have their turn.
const READ_AT_ONCE: usize = 1024;

/// On each core.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Octets of what waits, or has waited, in this core's queue.
    of: RefCell<BTreeMap<(AccountId, Uid), u64>>,
    /// What was in the queue before is among them.
    is_read: Cell<bool>,
    reading: tokio::sync::Mutex<()>,
    /// Of the accounts at home here: octets that are being taken, and until when that is believed.
    coming: RefCell<Vec<(AccountId, u64, u64)>>,
}

/// That so many octets of an account may wait; they count in any case as long as this lives.
#[derive(Debug)]
pub struct Room {
    shard: Rc<Shard>,
    home: u16,
    account: AccountId,
    octets: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        let Room { account, octets, .. } = *self;
        // Who is too busy to hear of it forgets it by itself.
        let _ = self.shard.mesh.tell(self.home, move |shard| async move {
            shard.submitting.waiting.has_come(account, octets);
        });
    }
}

/// Before a message of `user` is recorded that is to wait. `None`: there is no bound.
pub async fn reserve(shard: &Rc<Shard>, user: &str, octets: u64) -> Result<Option<Room>, NotNow> {
    let most = shard.config.submission.waiting_bytes_max;
    let Some(Of { account, home, address, .. }) = Of::login(shard, user).filter(|_| most > 0)
    else {
        return Ok(None);
    };
    let waits = move |shard: Rc<Shard>| async move {
        let waiting = &shard.submitting.waiting;
        waiting.comes(account, octets, unix_now());
        let all = sum(&shard, account).await;
        if all.is_none_or(|all| all > most) {
            waiting.has_come(account, octets);
        }
        all
    };
    let all = shard.mesh.ask(home, waits).await.ok().flatten().ok_or(NotNow::Busy)?;
    if all <= most {
        return Ok(Some(Room { shard: Rc::clone(shard), home, account, octets }));
    }
    count(&shard.metrics.submission.limited);
    let before = all.saturating_sub(octets);
    tracing::info!(target: NOTICE, account = address, octets, waiting = before, most, "too much of it waits: more is not taken to be held (submission.waiting_bytes_max)");
    let what =
        format!("{address} has {before} octets of mail here that is on hold or left for later");
    if octets > most {
        let words = format!("{what}, and may have {most}: this message alone is larger");
        return Err(NotNow::Over { words, is_for_good: true });
    }
    let remedy = "try again when some has left, or the operator has released or removed some";
    Err(NotNow::Full { words: format!("{what}, and may have {most}; {remedy}") })
}

/// On the home shard: all that waits anywhere, and what is being taken. `None`: a core is
/// too busy to say.
async fn sum(shard: &Rc<Shard>, account: AccountId) -> Option<u64> {
    // First: what comes meanwhile counts twice then, rather than not at all.
    let mut all = shard.submitting.waiting.coming(account);
    for core in 0..shard.mesh.cores() {
        let here = move |shard: Rc<Shard>| async move { here(&shard, account).await };
        let some = shard.mesh.ask(core, here).await.ok()?.ok()?;
        all = all.saturating_add(some);
    }
    Some(all)
}

/// In this core's queue.
async fn here(shard: &Shard, account: AccountId) -> Result<u64, Error> {
    let waiting = &shard.submitting.waiting;
    if !waiting.is_read.get() {
        let _one = waiting.reading.lock().await;
        if !waiting.is_read.get() {
            read(shard).await?;
            waiting.is_read.set(true);
        }
    }
    let now = unix_now();
    let mut of = waiting.of.borrow_mut();
    let own = (account, Uid(0))..=(account, Uid(u32::MAX));
    let (mut octets, mut gone) = (0_u64, Vec::new());
    for (key, some) in of.range(own) {
        let entry = match shard.store.entry(ACCOUNT, MAILBOX, key.1) {
            Ok(entry) => entry,
            Err(Error::NoSuchMessage(_)) => {
                gone.push(*key);
                continue;
            }
            Err(error) => return Err(error),
        };
        if waits(shard.queue.state(key.1), &entry, now) {
            octets = octets.saturating_add(*some);
        }
    }
    for key in gone {
        of.remove(&key);
    }
    Ok(octets)
}

/// For its time or an operator's word, rather than for another try.
fn waits(state: Option<State>, entry: &MessageEntry, now: u64) -> bool {
    let is_early = entry.internal_date.0 / 1000 > now;
    match state {
        Some(State::Held | State::UnderWay(_)) => true,
        Some(State::Waits(_)) => is_early,
        // The queue is still being loaded, and has not come to it.
        None => is_early || entry.flags.contains(HELD),
    }
}

/// Finds what has waited since before the start.
async fn read(shard: &Shard) -> Result<(), Error> {
    let now = unix_now();
    let uids = shard.store.uids(ACCOUNT, MAILBOX)?;
    for uids in uids.chunks(READ_AT_ONCE) {
        let (Some(first), Some(last)) = (uids.first(), uids.last()) else { break };
        for entry in shard.store.entries(ACCOUNT, MAILBOX, first.0..=last.0)? {
            if !waits(None, &entry, now) {
                continue;
            }
            let summary = match shard.store.summary(ACCOUNT, MAILBOX, entry.uid).await {
                Ok(summary) => summary,
                Err(Error::NoSuchMessage(_)) => continue,
                Err(error) => return Err(error),
            };
            // What can't be read is told when it is tried.
            let Ok(envelope) = Envelope::decode(&summary) else { continue };
            note(shard, &envelope, entry.uid);
        }
        give_way().await;
    }
    Ok(())
}

/// A message that waits is in this core's queue.
pub fn note(shard: &Shard, envelope: &Envelope, uid: Uid) {
    let Some(address) = &envelope.account else { return };
    let account = shard.directory.borrow().login(address).map(|(_, account)| account.id());
    if let Some(account) = account {
        shard.submitting.waiting.of.borrow_mut().insert((account, uid), envelope.octets);
    }
}

impl Waiting {
    fn comes(&self, account: AccountId, octets: u64, now: u64) {
        let mut coming = self.coming.borrow_mut();
        coming.retain(|(_, _, until)| *until > now);
        coming.push((account, octets, now + COMING_SECONDS));
    }

    fn has_come(&self, account: AccountId, octets: u64) {
        let mut coming = self.coming.borrow_mut();
        let at = coming.iter().position(|(one, some, _)| (*one, *some) == (account, octets));
        at.map(|at| coming.swap_remove(at));
    }

    fn coming(&self, account: AccountId) -> u64 {
        let coming = self.coming.borrow();
        coming.iter().filter(|(one, ..)| *one == account).map(|(_, octets, _)| octets).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::{Flags, Modseq, UnixMillis};

    #[test]
    fn what_waits_counts_while_the_queue_is_still_being_loaded() {
        let entry = |flags, seconds: u64| MessageEntry {
            uid: Uid(1),
            modseq: Modseq(1),
            flags,
            internal_date: UnixMillis(seconds * 1000),
            bytes: 1,
            prefix_bytes: 0,
        };
        let (usual, held, later) =
            (entry(Flags::default(), 99), entry(HELD, 99), entry(Flags::default(), 101));
        let counts = |state| [&usual, &held, &later].map(|entry| waits(state, entry, 100));
        assert_eq!(counts(None), [false, true, true]);
        assert_eq!(counts(Some(State::Held)), [true; 3]);
        assert_eq!(counts(Some(State::UnderWay(None))), [true; 3]);
        // Released by an operator, it waits for another try.
        assert_eq!(counts(Some(State::Waits(200))), [false, false, true]);
    }

    #[test]
    fn what_is_being_taken_counts_until_it_has_come_or_nobody_tells() {
        let waiting = Waiting::default();
        let (ann, bob) = (AccountId(1), AccountId(2));
        waiting.comes(ann, 5, 100);
        waiting.comes(ann, 5, 100);
        waiting.comes(bob, 7, 100);
        assert_eq!((waiting.coming(ann), waiting.coming(bob)), (10, 7));
        waiting.has_come(ann, 5);
        waiting.has_come(ann, 6);
        assert_eq!(waiting.coming(ann), 5);
        waiting.comes(bob, 1, 100 + COMING_SECONDS);
        assert_eq!((waiting.coming(ann), waiting.coming(bob)), (0, 1));
    }
}
