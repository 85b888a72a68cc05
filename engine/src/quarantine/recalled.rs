//! Mail that was delivered and is pulled back, since it was found out later what it holds: why, and since when.
//!
//! Key space 41 of the home shard's log: the account's number and the UID in its quarantine (u32 each, big-endian), and
//! in JSON a [`Recall`]. It is set by the record that moves the message, and deleted by the one that lets it out; of what
//! was expunged the keeper deletes it ([`sweep`]). Its prefix can't tell: that is as old as the delivery.

use super::Reason;
use super::note::Note;
use crate::delivery::unix_millis;
use crate::shard::Shard;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use storage::store::Space;
use storage::{AccountId, Error, MailboxId, MailboxInfo, Uid};

pub const SPACE: Space = Space(41);
/// Deleted by one record.
const SWEPT_AT_ONCE: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    pub reason: Reason,
    /// Unix milliseconds.
    pub since: u64,
    /// What the scan has found: `clamav=found Eicar-Test-Signature (ClamAV 1.4.6/27000)`.
    pub found: String,
    /// The mailbox that it was in, as it was called then.
    pub mailbox: String,
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

/// Moves messages out of quarantine, each with the end of its note, if it has one: one record. Pairs of the UIDs that they
/// had and have.
pub async fn let_go(
    shard: &Shard,
    account: AccountId,
    quarantine: MailboxId,
    uids: &[Uid],
    to: MailboxId,
) -> Result<Vec<(Uid, Uid)>, Error> {
    let is_noted = |uid: &&Uid| shard.store.get(SPACE, &key(account, **uid)).is_some();
    let noted: BTreeSet<Uid> = uids.iter().filter(is_noted).copied().collect();
    let end = |was, _| {
        noted.get(&was).map(|uid| (key(account, *uid), None)).into_iter().collect::<Vec<_>>()
    };
    let noting = (SPACE, &end as &dyn Fn(Uid, Uid) -> _);
    let (pairs, _durable) = shard.store.move_and_put(account, quarantine, uids, to, noting).await?;
    Ok(pairs)
}

/// Moves a message into quarantine, with its note: one record. The UID that it has there; `None`: it is gone.
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
        mailbox: mailbox.name.clone(),
    };
    let value = Bytes::from(serde_json::to_vec(&recall).unwrap_or_default());
    let quarantine = shard.store.make_quarantine(account).await?;
    let note = |_, is| vec![(key(account, is), Some(value.clone()))];
    let noting = (SPACE, &note as &dyn Fn(Uid, Uid) -> _);
    let (pairs, _durable) =
        shard.store.move_and_put(account, mailbox.id, &[uid], quarantine, noting).await?;
    Ok(pairs.first().map(|(_, is)| *is))
}

/// Deletes the notes of what is not in quarantine any more.
pub async fn sweep(shard: &Shard, account: AccountId) -> Result<(), Error> {
    let quarantine = shard.store.quarantine(account)?.map(|info| info.id);
    let is_there = |key: &[u8]| {
        let uid = key.get(4..).and_then(|uid| uid.try_into().ok()).map(u32::from_be_bytes);
        let entry = quarantine.zip(uid).map(|(id, uid)| shard.store.entry(account, id, Uid(uid)));
        entry.is_some_and(|entry| entry.is_ok())
    };
    let notes = shard.store.scan_prefix(SPACE, &account.0.to_be_bytes());
    let gone = notes.into_iter().filter(|(key, _)| !is_there(key)).map(|(key, _)| (key, None));
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
