//! Mail that was delivered and is pulled back, since it was found out later what it holds:
//! why, and since when.
//!
//! Key space 41 of the home shard's log: the account's number and the UID in its quarantine (u32
//! each, big-endian), and in JSON a [`Recall`]. It is set by the record that moves the message, and
//! deleted by the one that lets it out; of what was expunged for good the keeper deletes it
//! ([`sweep`]). What lay in quarantine already gets one, too ([`condemn`]). Its prefix can't tell:
//! that is as old as the delivery.

use super::note::Note;
use super::{Reason, kept};
use crate::delivery::unix_millis;
use crate::shard::Shard;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use storage::store::{Space, Undelete};
use storage::{
    AccountId, Error, FlagChange, FlagMode, Flags, MailboxId, MailboxInfo, MessageEntry, Uid,
    UnixMillis,
};

pub const SPACE: Space = Space(41);
/// Deleted by one record.
const SWEPT_AT_ONCE: usize = 1000;
/// Of an account, looked at for their notes: the latest.
const GRAVES_MAX: usize = 100_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    pub reason: Reason,
    /// Unix milliseconds.
    pub since: u64,
    /// What the scan has found: `clamav=found Eicar-Test-Signature (ClamAV 1.4.6/27000)`.
    pub found: String,
    /// The mailbox that it was in, as it was called then; `None`: it was in quarantine already,
    /// for another reason.
    pub mailbox: Option<String>,
}

impl Recall {
    pub fn note(&self) -> Note {
        Note { reason: self.reason, since: self.since }
    }
}

fn key(account: AccountId, uid: Uid) -> Bytes {
    Bytes::from([account.0.to_be_bytes(), uid.0.to_be_bytes()].concat())
}

/// What is known of a message in quarantine that had been delivered.
pub fn of(shard: &Shard, account: AccountId, uid: Uid) -> Option<Recall> {
    let value = shard.store.get(SPACE, &key(account, uid))?;
    serde_json::from_slice(&value).ok()
}

/// Moves messages out of quarantine, each with the end of its note, if it has one: one record.
/// Pairs of the UIDs that they had and have. One that was pulled back may be marked \Deleted: that
/// goes before, or a client would expunge what was just released.
pub async fn let_go(
    shard: &Shard,
    account: AccountId,
    quarantine: MailboxId,
    uids: &[Uid],
    to: MailboxId,
) -> Result<Vec<(Uid, Uid)>, Error> {
    let is_deleted = |uid: &&Uid| {
        let entry = shard.store.entry(account, quarantine, **uid);
        entry.is_ok_and(|entry| entry.flags.0 & Flags::DELETED.0 != 0)
    };
    let deleted: Vec<Uid> = uids.iter().filter(is_deleted).copied().collect();
    if !deleted.is_empty() {
        let (mode, flags) = (FlagMode::Remove, Flags::DELETED);
        let change = FlagChange { mode, flags, keywords: Vec::new() };
        shard.store.change_flags(account, quarantine, &deleted, &change, None).await?;
    }
    let is_noted = |uid: &&Uid| shard.store.get(SPACE, &key(account, **uid)).is_some();
    let noted: BTreeSet<Uid> = uids.iter().filter(is_noted).copied().collect();
    let end = |was, _| {
        noted.get(&was).map(|uid| (key(account, *uid), None)).into_iter().collect::<Vec<_>>()
    };
    let noting = (SPACE, &end as &dyn Fn(Uid, Uid) -> _);
    let (pairs, _durable) = shard.store.move_and_put(account, quarantine, uids, to, noting).await?;
    Ok(pairs)
}

/// Moves a message into quarantine, with its note: one record. The UID that it has there;
/// `None`: it is gone.
pub async fn pull_back(
    shard: &Shard,
    account: AccountId,
    mailbox: &MailboxInfo,
    uid: Uid,
    found: &str,
) -> Result<Option<Uid>, Error> {
    let recall = Recall {
        reason: Reason::Virus,
        since: unix_millis().0,
        found: found.to_owned(),
        mailbox: Some(mailbox.name.clone()),
    };
    let value = Bytes::from(serde_json::to_vec(&recall).unwrap_or_default());
    let quarantine = shard.store.make_quarantine(account).await?;
    let note = |_, is| vec![(key(account, is), Some(value.clone()))];
    let noting = (SPACE, &note as &dyn Fn(Uid, Uid) -> _);
    let (pairs, _durable) =
        shard.store.move_and_put(account, mailbox.id, &[uid], quarantine, noting).await?;
    Ok(pairs.first().map(|(_, is)| *is))
}

/// What lies in quarantine for another reason was found out to do harm: from now on that is the
/// reason. Since when it is there stays, and so do the links that delete it.
pub async fn condemn(
    shard: &Shard,
    account: AccountId,
    quarantine: MailboxId,
    entry: &MessageEntry,
    found: &str,
) -> Result<(), Error> {
    let since = kept::note(shard, account, quarantine, entry).await?.since;
    let recall = Recall { reason: Reason::Virus, since, found: found.to_owned(), mailbox: None };
    // It may have been released meanwhile.
    shard.store.entry(account, quarantine, entry.uid)?;
    set(shard, account, vec![(entry.uid, recall)]).await
}

async fn set(shard: &Shard, account: AccountId, notes: Vec<(Uid, Recall)>) -> Result<(), Error> {
    for part in notes.chunks(SWEPT_AT_ONCE) {
        let pair = |(uid, recall): &(Uid, Recall)| {
            let value = Bytes::from(serde_json::to_vec(recall).unwrap_or_default());
            (key(account, *uid), Some(value))
        };
        let _durable = shard.store.put(SPACE, part.iter().map(pair).collect()).await?;
    }
    Ok(())
}

/// Notes of what was expunged from quarantine and can be brought back, which gives it other UIDs.
pub struct Buried {
    quarantine: MailboxId,
    next: Uid,
    notes: Vec<(UnixMillis, u32, Recall)>,
}

/// Before mail is brought back: what is to be noted of it afterwards.
pub fn buried(shard: &Shard, account: AccountId) -> Result<Option<Buried>, Error> {
    let Some(quarantine) = shard.store.quarantine(account)? else { return Ok(None) };
    let next = shard.store.status(account, quarantine.id)?.uid_next;
    let notes = graves(shard, account, &quarantine)?.into_iter().filter_map(|grave| {
        Some((grave.internal_date, grave.bytes, of(shard, account, grave.uid)?))
    });
    let notes: Vec<_> = notes.collect();
    Ok((!notes.is_empty()).then_some(Buried { quarantine: quarantine.id, next, notes }))
}

/// After it: a message is known by its date and size, and one that is like it is
/// taken for the worst.
pub async fn carry_over(shard: &Shard, account: AccountId, buried: &Buried) -> Result<(), Error> {
    let end = shard.store.status(account, buried.quarantine)?.uid_next.0;
    let back = shard.store.entries(account, buried.quarantine, buried.next.0..=end)?;
    let note = |entry: &MessageEntry| {
        let is_it = |note: &&(UnixMillis, u32, Recall)| {
            note.0 == entry.internal_date && note.1 == entry.bytes
        };
        let (_, _, recall) = buried.notes.iter().find(is_it)?;
        Some((entry.uid, recall.clone()))
    };
    set(shard, account, back.iter().filter_map(note).collect()).await
}

fn graves(
    shard: &Shard,
    account: AccountId,
    quarantine: &MailboxInfo,
) -> Result<Vec<storage::store::Buried>, Error> {
    let mailbox = Some(quarantine.name.clone());
    let all = Undelete { since: UnixMillis(0), mailbox, uids: None };
    let (mut graves, _) = shard.store.buried(account, &all, GRAVES_MAX)?;
    graves.retain(|grave| grave.mailbox == quarantine.id);
    Ok(graves)
}

/// Deletes the notes of what is not in quarantine any more, and can't be brought back there.
pub async fn sweep(shard: &Shard, account: AccountId) -> Result<(), Error> {
    let quarantine = shard.store.quarantine(account)?;
    let uid_of = |key: &[u8]| {
        key.get(4..).and_then(|uid| uid.try_into().ok()).map(|uid| Uid(u32::from_be_bytes(uid)))
    };
    let is_there = |key: &[u8]| {
        let place = quarantine.as_ref().zip(uid_of(key));
        let entry = place.map(|(info, uid)| shard.store.entry(account, info.id, uid));
        entry.is_some_and(|entry| entry.is_ok())
    };
    let mut notes = shard.store.scan_prefix(SPACE, &account.0.to_be_bytes());
    notes.retain(|(key, _)| !is_there(key));
    if !notes.is_empty()
        && let Some(quarantine) = &quarantine
    {
        let graves = graves(shard, account, quarantine)?;
        let buried: BTreeSet<Uid> = graves.iter().map(|grave| grave.uid).collect();
        notes.retain(|(key, _)| uid_of(key).is_none_or(|uid| !buried.contains(&uid)));
    }
    let gone = notes.into_iter().map(|(key, _)| (key, None));
    delete(shard, gone.take(SWEPT_AT_ONCE).collect()).await
}

/// On the home shard of an account that is removed.
pub async fn forget(shard: &Shard, account: AccountId) -> Result<(), Error> {
    let notes = shard.store.scan_prefix(SPACE, &account.0.to_be_bytes());
    for part in notes.chunks(SWEPT_AT_ONCE) {
        delete(shard, part.iter().map(|(key, _)| (key.clone(), None)).collect()).await?;
    }
    Ok(())
}

async fn delete(shard: &Shard, notes: Vec<(Bytes, Option<Bytes>)>) -> Result<(), Error> {
    if !notes.is_empty() {
        let _durable = shard.store.put(SPACE, notes).await?;
    }
    Ok(())
}
