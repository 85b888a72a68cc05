//! What users sort, and whom that teaches.
//!
//! A message that is moved into Junk or gets the keyword `$Junk` is spam; one that is moved
//! out of it (but not into Trash) or gets `$NotJunk` is wanted. That decides about its sender
//! for this account ([`senders`]), trains a classifier of its own ([`own`]), and, where
//! `spam.learn = "everybody"`, the one that all share ([`learning`]). It happens behind the
//! client's command, on its account's home core, and what it takes to read the messages on
//! the blocking pool.

use super::classifier::Class;
use super::learning::{self, Lesson};
use super::limits::{HEADER_BYTES_MAX, MESSAGE_BYTES_MAX};
use super::mail::Mail;
use super::own;
use super::senders::{self, Sender};
use super::settings::Learn;
use crate::shard::Shard;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use storage::{AccountId, MailboxId, Uid};

/// Messages of one command that are looked at; the rest is not.
const SORTED_MAX: usize = 200;
/// Commands whose messages are being looked at, on one core; what comes beside them is not. Each
/// holds one message's beginning.
const COMMANDS_MAX: usize = 32;

/// Those of one account come one after the other, as they were given.
pub type Turns = RefCell<HashMap<AccountId, Rc<tokio::sync::Mutex<()>>>>;

/// What one command has sorted.
#[derive(Debug, PartialEq, Eq)]
pub struct Sorted {
    pub mailbox: MailboxId,
    pub uids: Vec<Uid>,
    pub class: Class,
}

/// On the account's home core: learns what its client has sorted, in the background.
pub fn learn(shard: &Rc<Shard>, account: AccountId, sorted: Sorted) {
    if shard.sorting.get() >= COMMANDS_MAX {
        tracing::info!(account = account.0, "too busy to learn what was sorted");
        return;
    }
    shard.sorting.set(shard.sorting.get() + 1);
    let shard = Rc::clone(shard);
    glommio::spawn_local(async move {
        learn_now(&shard, account, sorted).await;
        shard.sorting.set(shard.sorting.get() - 1);
    })
    .detach();
}

/// The same for who waits until it is done.
pub async fn learn_now(shard: &Rc<Shard>, account: AccountId, sorted: Sorted) {
    if shard.config.spam.learn == Learn::Nobody {
        return;
    }
    let (turn, key) = (turn(shard, account), shard.sample_key());
    // Who corrects themselves means what they said last, however long it takes to read the first.
    let held = turn.lock().await;
    learn_in_turn(shard, account, sorted, key).await;
    drop(held);
}

/// Who holds it comes behind all that this account has sorted before.
pub(super) fn turn(shard: &Shard, account: AccountId) -> Rc<tokio::sync::Mutex<()>> {
    let mut turns = shard.sorting_turns.borrow_mut();
    turns.retain(|_, turn| Rc::strong_count(turn) > 1);
    Rc::clone(turns.entry(account).or_default())
}

async fn learn_in_turn(shard: &Rc<Shard>, account: AccountId, mut sorted: Sorted, key: u64) {
    sorted.uids.truncate(SORTED_MAX);
    let (mut changes, mut lessons) = (Vec::new(), Vec::new());
    let for_everybody = shard.config.spam.learn == Learn::Everybody;
    // Of the others the account would forget at once what they look like.
    let last = sorted.uids.len().saturating_sub(own::LESSONS_MAX);
    for (index, &uid) in sorted.uids.iter().enumerate() {
        let whole = for_everybody || index >= last;
        let found = look_at(shard, account, &sorted, uid, whole).await;
        let Some((sender, lesson)) = found else { continue };
        changes.extend(sender.map(|sender| (sender, sorted.class)));
        let Some(lesson) = lesson else { continue };
        lessons.push(own::Lesson::of(&lesson, &shard.learned.borrow().classifier, key));
        if for_everybody {
            teach(shard, lesson).await;
        }
    }
    let mut learned = senders::remember(shard, account, &changes).await;
    if learned.is_ok() {
        learned = own::remember(shard, account, lessons).await;
    }
    if let Err(error) = learned {
        tracing::warn!(account = account.0, %error, "what was sorted was not learned");
    }
}

/// Whose it is, and, of `whole` ones, what it looks like.
async fn look_at(
    shard: &Rc<Shard>,
    account: AccountId,
    sorted: &Sorted,
    uid: Uid,
    whole: bool,
) -> Option<(Option<Sender>, Option<Lesson>)> {
    let most = if whole { MESSAGE_BYTES_MAX } else { HEADER_BYTES_MAX };
    // Expunged meanwhile: there is nothing to learn.
    let message = shard.store.read(account, sorted.mailbox, uid, 0..most as u64).await.ok()?;
    let (rules, class) = (Arc::clone(&shard.rules), sorted.class);
    let look = move || {
        let lesson = whole.then(|| learning::lesson(&rules, &message, class));
        (Sender::of(&Mail::read(&message)), lesson)
    };
    Some(glommio::executor().spawn_blocking(look).await)
}

/// A message that is one of these for sure, and has no owner whose sorting it would be.
pub fn learn_message(shard: &Rc<Shard>, message: Bytes, class: Class) {
    if shard.sorting.get() >= COMMANDS_MAX {
        tracing::info!("too busy to learn a message");
        return;
    }
    shard.sorting.set(shard.sorting.get() + 1);
    let shard = Rc::clone(shard);
    glommio::spawn_local(async move {
        let rules = Arc::clone(&shard.rules);
        let lesson = move || learning::lesson(&rules, &message, class);
        teach(&shard, glommio::executor().spawn_blocking(lesson).await).await;
        shard.sorting.set(shard.sorting.get() - 1);
    })
    .detach();
}

async fn teach(shard: &Rc<Shard>, lesson: Lesson) {
    let asked = shard.mesh.ask(0, move |shard| async move {
        let learned = learning::learn(&shard, vec![lesson]).await;
        learned.map_err(|error| error.to_string())
    });
    match asked.await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(error, "a message was not learned"),
        Err(_) => tracing::warn!("a message was not learned: shard 0 is too busy"),
    }
}
