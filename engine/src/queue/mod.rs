//! Mail that waits to leave this host: durable, in the same log as all other mail.
//!
//! A queued message is a message in the INBOX of an account that is nobody's, on the shard whose
//! session took it: one record, stored once however many recipients there are. Where other mail has
//! its summary, it has its envelope. How far it has come is a key of the shard, written anew with
//! each change; while it only waits because its destination can't be reached there is none. When
//! nobody waits for it any more, it is expunged. So compaction, recovery, checkpoints and backups
//! know nothing of a queue, and it can't be lost in any other way than mail is.
//!
//! | file | what |
//! |---|---|
//! | [`message`] | what is recorded |
//! | [`intake`] | from a transaction's bytes to a durable message, with what RFC 6409 adds, signed |
//! | [`author`] | in whose name, and with whose keys |
//! | [`fresh`] | what was just taken in need not be read back |
//! | [`state`] | what each message is about to do: one has it at a time |
//! | [`removal`] | what has been dealt with leaves |
//! | [`schedule`] | when it is tried, and for how long |
//! | [`notices`], [`report`] | what senders are told (RFC 3464) |
//! | [`operations`] | `kura queue` |
//!
//! Invariants: a `250` is built from the receipt of the record; a message has one who tries or
//! changes it at a time, and is not tried with less than is known of it; a recipient that another
//! server has taken is recorded before anything else is done with the message; a sender is told of
//! a failure before it is recorded. So a crash may repeat, to other servers: what was under way,
//! and what they took in the time of two writes and [`removal::GATHERED_FOR`] before it. To
//! senders: a notice that was under way.

pub mod author;
mod fresh;
pub mod intake;
pub mod message;
pub mod notices;
pub mod operations;
pub mod removal;
pub mod report;
pub mod schedule;
pub mod state;

use crate::core::give_way;
use crate::operations::unix_now;
use crate::relay::destination::Serving;
use crate::relay::tally::Tally;
use crate::relay::unreached::Unreached;
use crate::shard::Shard;
use crate::spaces::Walk;
use bytes::Bytes;
use fresh::Fresh;
use message::{Envelope, Progress};
use removal::{Removals, remove};
use schedule::first_after_start;
pub use state::Word;
use state::{Event, Next, State, States};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use storage::store::Space;
use storage::{AccountId, Bell, Error, Flags, MailboxId, Quota, Uid};

/// [`Progress`] by UID, four octets, the highest first.
pub const SPACE: Space = Space(7);
pub const ACCOUNT: AccountId = AccountId::QUEUE;
pub const MAILBOX: MailboxId = MailboxId::INBOX;
/// On the row of a message that is on hold from the start, so that a start need not read its
/// envelope to know that.
pub const HELD: Flags = Flags::FLAGGED;
/// Messages between which others have their turn.
const LOADED_AT_ONCE: usize = 1024;
/// What the store did not take is put to it again so often.
const AGAIN: Duration = Duration::from_secs(5);

/// What a core knows of its queue without looking: of each message, what it is about to do.
#[derive(Debug, Default)]
pub struct Queue {
    states: RefCell<States>,
    /// Of those that have not been tried.
    pub fresh: Fresh,
    removals: Removals,
    /// Where this core sends just now.
    pub serving: Serving,
    /// What its sessions have met.
    pub tally: Tally,
    /// Where they could not begin.
    pub unreached: Unreached,
    bell: Bell,
    pub counts: Counts,
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
        self.states.borrow().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn under_way(&self) -> usize {
        self.states.borrow().under_way()
    }

    pub fn is_under_way(&self, uid: Uid) -> bool {
        self.states.borrow().is_under_way(uid)
    }

    /// `None`: it is not in the queue.
    pub fn state(&self, uid: Uid) -> Option<State> {
        self.states.borrow().state(uid)
    }

    /// A try of it is under way, and an operator wants it held after that.
    fn is_to_be_held(&self, uid: Uid) -> bool {
        self.state(uid) == Some(State::UnderWay(Some(Word::Hold)))
    }

    fn apply(&self, uid: Uid, event: Event) -> Option<State> {
        if !matches!(event, Event::Found(_)) {
            self.fresh.forget(uid);
        }
        self.states.borrow_mut().apply(uid, event)
    }

    /// It is in the store.
    pub fn found(&self, uid: Uid, next: Next) {
        self.apply(uid, Event::Found(next));
        self.stir();
    }

    /// It is in the store no more.
    fn left(&self, uid: Uid) {
        self.apply(uid, Event::Left);
        self.stir();
    }

    /// What an operator has said of a message under way since it was, or was last asked.
    fn heed(&self, uid: Uid) -> Option<Word> {
        match self.apply(uid, Event::Heeded) {
            Some(State::UnderWay(word)) => word,
            Some(State::Waits(_) | State::Held) | None => None,
        }
    }

    /// It is under way no more.
    pub fn done(&self, uid: Uid, next: Next) {
        self.apply(uid, Event::Done(next));
        self.stir();
    }

    /// The same, after so many tries.
    fn done_after(&self, uid: Uid, tries: u32, next: Next) {
        self.states.borrow_mut().set_tries(uid, tries);
        self.done(uid, next);
    }

    /// Something is to be done earlier than it seemed.
    pub fn stir(&self) {
        self.bell.ring();
    }

    pub async fn stirred(&self) {
        self.bell.wait().await;
    }

    /// Takes what is due: at most `count` messages, which are under way from now on.
    pub fn take_due(&self, now: u64, count: usize) -> Vec<Uid> {
        self.states.borrow_mut().take_due(now, count)
    }

    /// Due at once after all, if it waits for a time to come.
    pub fn hurry(&self, uid: Uid) {
        self.apply(uid, Event::Hurried(unix_now()));
        self.stir();
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<u64> {
        self.states.borrow().next_due()
    }
}

fn key(uid: Uid) -> Bytes {
    Bytes::copy_from_slice(&uid.0.to_be_bytes())
}

/// Finds what is in the queue; makes its account first if need be. Before the sender begins, and
/// beside sessions: a million messages take no core for long.
pub async fn load(shard: &Rc<Shard>) -> Result<(), Error> {
    match shard.store.create_account(ACCOUNT, Quota::default()).await {
        Ok(_) | Err(Error::AccountExists(_)) => {}
        Err(error) => return Err(error),
    }
    let uids = shard.store.uids(ACCOUNT, MAILBOX)?;
    let now = unix_now();
    for uids in uids.chunks(LOADED_AT_ONCE) {
        let (Some(first), Some(last)) = (uids.first(), uids.last()) else { break };
        // What has left meanwhile is not among these, and what somebody has already is known.
        for entry in shard.store.entries(ACCOUNT, MAILBOX, first.0..=last.0)? {
            // When it came, or is to leave.
            let due = entry.internal_date.0 / 1000;
            let from = |due| first_after_start(&shard.config.relay, due, now, entry.uid.0);
            let next = match shard.store.get(SPACE, &key(entry.uid)) {
                Some(progress) => next_of(&progress, due, from),
                None if entry.flags.contains(HELD) => None,
                None => Some(from(due)),
            };
            shard.queue.found(entry.uid, next);
        }
        give_way().await;
    }
    if !uids.is_empty() {
        tracing::info!(shard = shard.id, messages = uids.len(), "mail waits to be sent");
    }
    forget_stale(shard).await;
    Ok(())
}

/// Progress of messages that were expunged, and then there was a crash.
async fn forget_stale(shard: &Rc<Shard>) {
    let mut walk = Walk::through(shard, SPACE, LOADED_AT_ONCE);
    while let Some(pairs) = walk.next().await {
        let uid =
            |key: &[u8]| <[u8; 4]>::try_from(key).map(|octets| Uid(u32::from_be_bytes(octets)));
        let is_stale = |key: &[u8]| {
            uid(key).is_ok_and(|uid| shard.store.entry(ACCOUNT, MAILBOX, uid).is_err())
                || key.len() != 4
        };
        let stale: Vec<_> = pairs
            .into_iter()
            .filter(|(key, _)| is_stale(key))
            .map(|(key, _)| (key, None))
            .collect();
        if !stale.is_empty()
            && let Err(error) = shard.store.put(SPACE, stale).await
        {
            tracing::debug!(%error, "progress of messages that have left stays until the next start");
            return;
        }
    }
}

/// What can't be read is due at once: it says so when it is tried. `due`: what an operator
/// has said nothing of starts then; `from`: where nothing is recorded of the next try, it
/// follows from that time.
fn next_of(progress: &[u8], due: u64, from: impl Fn(u64) -> u64) -> Next {
    match serde_json::from_slice::<Progress>(progress) {
        Ok(Progress { held: false, next: 0, released_at: 0, .. }) => Some(from(due)),
        Ok(Progress { held: false, next: 0, released_at, .. }) => Some(from(released_at)),
        Ok(progress) => progress.next(),
        Err(_) => Some(0),
    }
}

/// What is recorded of a message.
pub async fn recorded(shard: &Shard, uid: Uid) -> Result<(Envelope, Progress), String> {
    let envelope = match shard.queue.fresh.envelope(uid) {
        Some(envelope) => envelope,
        None => {
            let summary = shard.store.summary(ACCOUNT, MAILBOX, uid).await;
            Envelope::decode(&summary.map_err(|error| error.to_string())?)?
        }
    };
    let recorded = shard.store.get(SPACE, &key(uid));
    let mut progress = Progress::decode(recorded.as_deref(), &envelope);
    if recorded.is_none() || progress.next == 0 {
        let states = shard.queue.states.borrow();
        progress.attempts = states.tries(uid);
        if let Some(State::Waits(at)) = states.state(uid) {
            progress.next = at;
        }
    }
    Ok((envelope, progress))
}

/// Records how far a message has come, if there is anything to be told.
pub async fn record(shard: &Shard, uid: Uid, progress: &Progress) -> Result<(), Error> {
    let value = progress.is_own().then(|| Bytes::from(progress.encode()));
    if shard.store.get(SPACE, &key(uid)) == value {
        return Ok(());
    }
    shard.queue.moves().await;
    shard.store.put(SPACE, vec![(key(uid), value)]).await.map(drop)
}

/// Who had the message is done with it: it waits on, for its time or for what an operator has said
/// meanwhile, or leaves. What the store does not take now is put to it until it does. Until then
/// the message stays under way: nobody tries it with what is recorded of it, which is less than
/// what has been done.
pub async fn finish(shard: &Rc<Shard>, uid: Uid, mut progress: Progress) {
    let Err(error) = put_back(shard, uid, &mut progress).await else { return };
    tracing::error!(shard = shard.id, uid = uid.0, %error, "can't record what became of a queued message; it waits until that is possible");
    let shard = Rc::clone(shard);
    let again = async move {
        while !shard.watchdog.stopping() {
            glommio::timer::sleep(AGAIN).await;
            if put_back(&shard, uid, &mut progress).await.is_ok() {
                tracing::info!(
                    shard = shard.id,
                    uid = uid.0,
                    "what became of a queued message is recorded after all"
                );
                return;
            }
        }
    };
    glommio::spawn_local(again).detach();
}

async fn put_back(shard: &Rc<Shard>, uid: Uid, progress: &mut Progress) -> Result<(), Error> {
    let mut is_recorded = false;
    loop {
        match shard.queue.heed(uid) {
            Some(Word::Remove) => {
                let removed = remove(shard, uid).await;
                if removed.is_err() {
                    // It is still to be heeded.
                    shard.queue.apply(uid, Event::Said(Word::Remove));
                }
                return removed;
            }
            Some(word) => {
                word.apply(progress, unix_now());
                is_recorded = false;
            }
            None => {}
        }
        if progress.is_over() {
            return remove(shard, uid).await;
        }
        // Nothing can be said between this look and the end.
        if is_recorded {
            shard.queue.done_after(uid, progress.attempts, progress.next());
            return Ok(());
        }
        if let Err(error) = record(shard, uid, progress).await {
            if progress.adds_to(shard.store.get(SPACE, &key(uid)).as_deref()) {
                return Err(error);
            }
            // How often it was tried in vain is no reason to wait until there is room.
            tracing::debug!(uid = uid.0, %error, "a try that came to nothing is not recorded");
        }
        is_recorded = true;
    }
}

/// A message under way is not tried after all, but looked at again at `at`. `known`: what is
/// recorded, if that can be read.
pub async fn put_off(shard: &Rc<Shard>, uid: Uid, at: u64, known: Option<Progress>) {
    let Some(word) = shard.queue.heed(uid) else { return shard.queue.done(uid, Some(at)) };
    match (word, known) {
        (Word::Remove, _) => {
            if let Err(error) = remove(shard, uid).await {
                tracing::error!(uid = uid.0, %error, "a queued message can't be removed");
                shard.queue.done(uid, Some(at));
            }
        }
        (word, Some(mut progress)) => {
            word.apply(&mut progress, unix_now());
            finish(shard, uid, progress).await;
        }
        // To record something would be to forget what is recorded and can't be read.
        (Word::Hold, None) => shard.queue.done(uid, None),
        (Word::Retry | Word::Release, None) => shard.queue.done(uid, Some(unix_now())),
    }
}

/// Carries out what an operator says; tells whether it has to wait until a try is over.
pub async fn command(shard: &Rc<Shard>, uid: Uid, word: Word) -> Result<bool, String> {
    let before = shard.queue.apply(uid, Event::Said(word));
    if matches!(before, Some(State::UnderWay(_))) {
        return Ok(true);
    }
    // From here on the message is ours.
    let done = carry_out(shard, uid, word).await;
    if done.is_err() {
        if let Some(word) = shard.queue.heed(uid) {
            tracing::warn!(
                uid = uid.0,
                ?word,
                "what was said of a queued message meanwhile can't be done either"
            );
        }
        match before {
            Some(State::Waits(at)) => shard.queue.done(uid, Some(at)),
            Some(State::Held) => shard.queue.done(uid, None),
            // The queue was not loaded yet, and by now it may have passed this one by.
            None if shard.store.entry(ACCOUNT, MAILBOX, uid).is_ok() => {
                shard.queue.done(uid, Some(unix_now()));
            }
            Some(State::UnderWay(_)) | None => shard.queue.left(uid),
        }
    }
    done.map(|()| false)
}

async fn carry_out(shard: &Rc<Shard>, uid: Uid, word: Word) -> Result<(), String> {
    let fault = |error: Error| error.to_string();
    if word == Word::Remove {
        return remove(shard, uid).await.map_err(fault);
    }
    let (_, mut progress) = recorded(shard, uid).await?;
    word.apply(&mut progress, unix_now());
    put_back(shard, uid, &mut progress).await.map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::next_of;

    #[test]
    fn a_start_finds_when_each_message_is_due() {
        let next = |progress: &str| next_of(progress.as_bytes(), 1000, |due| due + 5);
        for (progress, expected) in [
            (r#"{"told_of_delay":true}"#, Some(1005)),
            (r#"{"held":true}"#, None),
            (r#"{"released_at":2000}"#, Some(2005)),
            (r#"{"released_at":2000,"held":true}"#, None),
            (r#"{"released_at":2000,"next":3000}"#, Some(3000)),
            ("x", Some(0)),
        ] {
            assert_eq!(next(progress), expected, "{progress}");
        }
    }
}
