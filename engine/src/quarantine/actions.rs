//! Released and deleted, on the account's home shard.
//!
//! A release is one record, which moves the row: the message has the received date and the flags
//! that it had (but \Deleted), and no octet of it is copied. What follows for the sender and the
//! classifier is what follows when a user moves mail out of Junk ([`sorting`]), if it was kept back
//! for what it looked like; that somebody wants a virus to look at says nothing of its sender. A
//! deletion is an expunge, so it can be brought back as long as all that is expunged.

use super::{By, Reason};
use super::{kept, recalled};
use crate::filter::classifier::Class;
use crate::filter::sorting::{self, Sorted};
use crate::scan::again;
use crate::shard::Shard;
use std::collections::BTreeSet;
use std::rc::Rc;
use storage::{AccountId, Error, MailboxId, Uid};

/// By one record; each may take a note with it.
const MOVED_AT_ONCE: usize = 2000;

/// What became of the messages that somebody wanted released.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Released {
    pub released: Vec<Uid>,
    /// Kept back all the same: they do harm.
    pub harmful: Vec<Uid>,
}

/// Lets messages into INBOX; those that are not there any more are skipped. `force`:
/// also what does harm.
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
    let (mut wanted, mut teach) = (Vec::with_capacity(uids.len()), BTreeSet::new());
    for &uid in uids {
        let Ok(entry) = shard.store.entry(account, quarantine, uid) else { continue };
        // What can't be read is taken for the worst.
        let reason = match kept::note(shard, account, quarantine, &entry).await {
            Ok(note) => note.reason,
            Err(Error::NoSuchMessage(_)) => continue,
            Err(_) => Reason::Virus,
        };
        if reason.is_harmful() && !force {
            released.harmful.push(uid);
            continue;
        }
        if reason == Reason::Virus {
            // Or the next scan of stored mail would undo what was asked for.
            let body = again::round::body_hash(shard, account, quarantine, &entry).await;
            match body {
                Ok(body) => again::progress::let_out(shard, account, &body).await?,
                Err(error) => {
                    tracing::warn!(account = account.0, uid = uid.0, %error, "released, but it may be pulled back again");
                }
            }
        }
        wanted.push(uid);
        if reason.is_judgement() {
            teach.insert(uid);
        }
    }
    if wanted.is_empty() {
        return Ok(released);
    }
    let mut pairs = Vec::with_capacity(wanted.len());
    for part in wanted.chunks(MOVED_AT_ONCE) {
        pairs.extend(recalled::let_go(shard, account, quarantine, part, MailboxId::INBOX).await?);
    }
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
    let inbox = pairs.iter().filter(|(from, _)| teach.contains(from)).map(|(_, to)| *to).collect();
    let sorted = Sorted { mailbox: MailboxId::INBOX, uids: inbox, class: Class::Wanted };
    sorting::learn_now(shard, account, sorted).await;
    released.released = pairs.into_iter().map(|(from, _)| from).collect();
    Ok(released)
}

/// Those that were still there.
pub async fn delete(
    shard: &Shard,
    account: AccountId,
    uids: &[Uid],
    by: By,
) -> Result<Vec<Uid>, Error> {
    let Some(quarantine) = shard.store.quarantine(account)?.map(|info| info.id) else {
        return Ok(Vec::new());
    };
    let (gone, _durable) = shard.store.expunge(account, quarantine, uids).await?;
    shard.metrics.quarantine.deleted(by, gone.len());
    for uid in &gone {
        tracing::info!(account = account.0, uid = uid.0, by = by.name(), "deleted from quarantine");
    }
    Ok(gone)
}
