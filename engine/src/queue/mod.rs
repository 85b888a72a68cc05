//! Mail that waits to leave this host: durable, in the same log as all other mail.
//!
//! A queued message is a message in the INBOX of an account that is nobody's, on the shard whose session took
//! it: one record, stored once however many recipients there are. Where other mail has its summary, it has
//! its envelope. How far it has come is a key of the shard, written anew with each change; when nobody
//! waits for it any more, it is expunged. So compaction, recovery, checkpoints and backups know nothing
//! of a queue, and it can't be lost in any other way than mail is.
//!
//! | file | what |
//! |---|---|
//! | [`message`] | what is recorded |
//! | [`intake`] | from a transaction's bytes to a durable message, with what RFC 6409 adds |
//! | [`schedule`] | when it is tried, and for how long |
//! | [`notices`], [`report`] | what senders are told (RFC 3464) |
//! | [`operations`] | `kura queue` |
//!
//! Invariants: a `250` is built from the receipt of the record; a recipient that another server has taken
//! is recorded before anything else is done with the message; a sender is told of a failure before it
//! is recorded. So a crash may repeat, to other servers: what was under way, and what they took within
//! the time of one write before it. To senders: a notice that was under way.

pub mod intake;
pub mod message;
pub mod notices;
pub mod operations;
pub mod report;
pub mod schedule;

use crate::operations::unix_now;
use crate::shard::Shard;
use bytes::Bytes;
use message::{Envelope, Progress};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::task::{Poll, Waker};
use storage::store::Space;
use storage::{AccountId, Error, MailboxId, Quota, Uid};

/// [`Progress`] by UID, four octets, the highest first.
pub const SPACE: Space = Space(7);
pub const ACCOUNT: AccountId = AccountId::QUEUE;
pub const MAILBOX: MailboxId = MailboxId::INBOX;
/// Of a held message: it is never due.
const NEVER: u64 = u64::MAX;

/// What a core knows of its queue without looking: when each message is due.
#[derive(Debug, Default)]
pub struct Queue {
    due: RefCell<BTreeSet<(u64, Uid)>>,
    times: RefCell<BTreeMap<Uid, u64>>,
    /// Being delivered; an operator's word about it is kept until that is over.
    under_way: RefCell<BTreeMap<Uid, Option<Word>>>,
    waker: RefCell<Option<Waker>>,
    stirred: Cell<bool>,
    pub counts: Counts,
}

/// What an operator says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    Retry,
    Hold,
    Release,
    Remove,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub queued: Cell<u64>,
    /// Of these, with DKIM signatures.
    pub signed: Cell<u64>,
    pub delivered: Cell<u64>,
    pub deferred: Cell<u64>,
    pub failed: Cell<u64>,
    pub sessions: Cell<u64>,
}

impl Queue {
    /// Messages, those under way included.
    pub fn len(&self) -> usize {
        self.times.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn under_way(&self) -> usize {
        self.under_way.borrow().len()
    }

    fn set_due(&self, uid: Uid, at: u64) {
        let before = self.times.borrow_mut().insert(uid, at);
        let mut due = self.due.borrow_mut();
        if let Some(before) = before {
            due.remove(&(before, uid));
        }
        due.insert((at, uid));
        drop(due);
        self.stir();
    }

    fn forget(&self, uid: Uid) {
        if let Some(at) = self.times.borrow_mut().remove(&uid) {
            self.due.borrow_mut().remove(&(at, uid));
        }
        self.under_way.borrow_mut().remove(&uid);
    }

    /// Something is to be done earlier than it seemed.
    pub fn stir(&self) {
        self.stirred.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub async fn stirred(&self) {
        std::future::poll_fn(|context| {
            if self.stirred.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Takes out what is due: at most `count` messages, which are under way from now on.
    pub fn take_due(&self, now: u64, count: usize) -> Vec<Uid> {
        let mut due = self.due.borrow_mut();
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(&(at, uid)) = due.first()
            && at <= now
        {
            due.pop_first();
            taken.push(uid);
        }
        let mut under_way = self.under_way.borrow_mut();
        under_way.extend(taken.iter().map(|uid| (*uid, None)));
        taken
    }

    /// What can't be tried is looked at again then.
    pub fn put_off(&self, uid: Uid, at: u64) {
        self.under_way.borrow_mut().remove(&uid);
        self.set_due(uid, at);
    }

    /// Due at once after all, if it waits for a time to come.
    pub fn hurry(&self, uid: Uid) {
        let at = self.times.borrow().get(&uid).copied();
        if at.is_some_and(|at| at < NEVER) && !self.under_way.borrow().contains_key(&uid) {
            self.set_due(uid, unix_now());
        }
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<u64> {
        self.due.borrow().first().map(|(at, _)| *at).filter(|at| *at < NEVER)
    }
}

fn key(uid: Uid) -> Bytes {
    Bytes::copy_from_slice(&uid.0.to_be_bytes())
}

/// Finds what is in the queue; makes its account first if need be. Before the sender begins.
pub async fn load(shard: &Rc<Shard>) -> Result<(), Error> {
    match shard.store.create_account(ACCOUNT, Quota::default()).await {
        Ok(_) | Err(Error::AccountExists(_)) => {}
        Err(error) => return Err(error),
    }
    let recorded = shard.store.scan(SPACE);
    let mut times: BTreeMap<Uid, u64> = BTreeMap::new();
    for entry in shard.store.entries(ACCOUNT, MAILBOX, 1..=u32::MAX)? {
        times.insert(entry.uid, entry.internal_date.0 / 1000);
    }
    let mut stale = Vec::new();
    for (key, value) in recorded {
        let uid = <[u8; 4]>::try_from(&key[..]).map(|octets| Uid(u32::from_be_bytes(octets)));
        match uid.ok().and_then(|uid| times.get_mut(&uid)) {
            Some(at) => *at = due_of(&value),
            // It was expunged, and then there was a crash.
            None => stale.push((key, None)),
        }
    }
    if !stale.is_empty() {
        let _ = shard.store.put(SPACE, stale).await?;
    }
    if !times.is_empty() {
        tracing::info!(shard = shard.id, messages = times.len(), "mail waits to be sent");
    }
    times.into_iter().for_each(|(uid, at)| shard.queue.set_due(uid, at));
    Ok(())
}

/// What can't be read is due at once: it says so when it is tried.
fn due_of(progress: &[u8]) -> u64 {
    match serde_json::from_slice::<Progress>(progress) {
        Ok(Progress { held: true, .. }) => NEVER,
        Ok(progress) => progress.next,
        Err(_) => 0,
    }
}

/// What is recorded of a message.
pub async fn recorded(shard: &Shard, uid: Uid) -> Result<(Envelope, Progress), String> {
    let summary = shard.store.summary(ACCOUNT, MAILBOX, uid).await;
    let envelope = Envelope::decode(&summary.map_err(|error| error.to_string())?)?;
    let progress = shard.store.get(SPACE, &key(uid));
    let progress = Progress::decode(progress.as_deref(), &envelope);
    Ok((envelope, progress))
}

/// Records how far a message has come.
pub async fn record(shard: &Shard, uid: Uid, progress: &Progress) -> Result<(), Error> {
    let value = Some(Bytes::from(progress.encode()));
    shard.store.put(SPACE, vec![(key(uid), value)]).await.map(drop)
}

/// The message leaves the queue.
pub async fn remove(shard: &Shard, uid: Uid) -> Result<(), Error> {
    shard.store.expunge(ACCOUNT, MAILBOX, &[uid]).await.map(drop)?;
    shard.queue.forget(uid);
    if shard.store.get(SPACE, &key(uid)).is_some() {
        // Without it, the next start does it.
        let _ = shard.store.put(SPACE, vec![(key(uid), None)]).await?;
    }
    Ok(())
}

/// A try is over, and the message waits on: for its time, or for what an operator has said meanwhile.
pub async fn put_back(shard: &Shard, uid: Uid, mut progress: Progress) -> Result<(), Error> {
    let word = shard.queue.under_way.borrow_mut().remove(&uid).flatten();
    match word {
        Some(Word::Remove) => return remove(shard, uid).await,
        Some(Word::Retry) => progress.next = unix_now(),
        Some(Word::Hold) => progress.held = true,
        Some(Word::Release) | None => {}
    }
    let recorded = record(shard, uid, &progress).await;
    shard.queue.set_due(uid, if progress.held { NEVER } else { progress.next });
    recorded
}

/// Carries out what an operator says; tells whether it has to wait until a try is over.
pub async fn command(shard: &Shard, uid: Uid, word: Word) -> Result<bool, String> {
    if let Some(said) = shard.queue.under_way.borrow_mut().get_mut(&uid) {
        *said = Some(word);
        return Ok(true);
    }
    let fault = |error: Error| error.to_string();
    if word == Word::Remove {
        return remove(shard, uid).await.map(|()| false).map_err(fault);
    }
    let (_, mut progress) = recorded(shard, uid).await?;
    match word {
        Word::Hold => progress.held = true,
        Word::Release => progress.held = false,
        Word::Retry | Word::Remove => {}
    }
    if word != Word::Hold {
        progress.next = unix_now();
    }
    record(shard, uid, &progress).await.map_err(fault)?;
    shard.queue.set_due(uid, if progress.held { NEVER } else { progress.next });
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_first_comes_first_and_only_once() {
        let queue = Queue::default();
        queue.set_due(Uid(1), 30);
        queue.set_due(Uid(2), 10);
        queue.set_due(Uid(3), NEVER);
        queue.set_due(Uid(1), 20);
        assert_eq!((queue.len(), queue.next_due()), (3, Some(10)));
        assert_eq!(queue.take_due(9, 10), []);
        assert_eq!(queue.take_due(25, 1), [Uid(2)]);
        assert_eq!(queue.take_due(25, 9), [Uid(1)]);
        assert_eq!((queue.under_way(), queue.next_due()), (2, None));
        queue.forget(Uid(2));
        assert_eq!((queue.len(), queue.under_way()), (2, 1));
    }
}
