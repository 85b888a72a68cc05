//! Released and deleted, on the account's home shard.
//!
//! A release is one record, which moves the row: the message has the received date that it had, and no flags, and no
//! octet of it is copied. What follows for the sender and the classifier is what follows when a user moves mail out of
//! Junk ([`sorting`]). A deletion is an expunge, so it can be brought back as long as all that is expunged.

use super::By;
use super::kept;
use super::note::Note;
use crate::filter::classifier::Class;
use crate::filter::sorting::{self, Sorted};
use crate::shard::Shard;
use std::rc::Rc;
use storage::{AccountId, Error, MailboxId, Uid};

/// What became of the messages that somebody wanted released.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Released {
    pub released: Vec<Uid>,
    /// Kept back all the same: they do harm.
    pub harmful: Vec<Uid>,
}

/// Lets messages into INBOX; those that are not there any more are skipped. `force`: also what does harm.
pub async fn release(
    shard: &Rc<Shard>,
    account: AccountId,
    uids: &[Uid],
    force: bool,
    by: By,
) -> Result<Released, Error> {
    let Some(quarantine) = shard.store.quarantine(account)?.map(|info| info.id) else {
        return Ok(Released::default());
    };
    let mut released = Released::default();
    let mut wanted = Vec::with_capacity(uids.len());
    for &uid in uids {
        match note(shard, account, quarantine, uid).await {
            Some(note) if note.reason.is_harmful() && !force => released.harmful.push(uid),
            Some(_) => wanted.push(uid),
            None => {}
        }
    }
    if wanted.is_empty() {
        return Ok(released);
    }
    let moved = shard.store.move_messages(account, quarantine, &wanted, MailboxId::INBOX).await;
    let (pairs, _durable) = moved?;
    shard.metrics.quarantine.released(by, pairs.len());
    for (from, to) in &pairs {
        tracing::info!(
            account = account.0,
            uid = from.0,
            inbox_uid = to.0,
            by = by.name(),
            "released"
        );
    }
    let inbox = pairs.iter().map(|(_, to)| *to).collect();
    let sorted = Sorted { mailbox: MailboxId::INBOX, uids: inbox, class: Class::Wanted };
    sorting::learn_now(shard, account, sorted).await;
    released.released = pairs.into_iter().map(|(from, _)| from).collect();
    Ok(released)
}

/// How many were there.
pub async fn delete(
    shard: &Shard,
    account: AccountId,
    uids: &[Uid],
    by: By,
) -> Result<usize, Error> {
    let Some(quarantine) = shard.store.quarantine(account)?.map(|info| info.id) else {
        return Ok(0);
    };
    let (gone, _durable) = shard.store.expunge(account, quarantine, uids).await?;
    shard.metrics.quarantine.deleted(by, gone.len());
    for uid in &gone {
        tracing::info!(account = account.0, uid = uid.0, by = by.name(), "deleted from quarantine");
    }
    Ok(gone.len())
}

/// `None`: it is not there.
pub async fn note(
    shard: &Shard,
    account: AccountId,
    quarantine: MailboxId,
    uid: Uid,
) -> Option<Note> {
    let entry = shard.store.entry(account, quarantine, uid).ok()?;
    Some(kept::note(shard, account, quarantine, &entry).await)
}
