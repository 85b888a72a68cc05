//! What is done on each core without being asked: accounts are told daily what was kept back from
//! them, and what has been kept for long enough is expunged.
//!
//! When an account was last told is not looked at: it is told if something that it does not know
//! was kept back before the hour that has struck last. So a server that was down at that hour tells
//! when it is up again, and one that starts every minute tells nobody twice. Work is bounded:
//! [`EXPUNGED_AT_ONCE`] messages of an account by one record, one account after the other, and
//! others have their turn in between.

use super::digest::{self, NotTold};
use super::{By, actions, kept, recalled};
use crate::core::give_way;
use crate::delivery::unix_millis;
use crate::shard::Shard;
use std::rc::Rc;
use std::time::{Duration, Instant};
use storage::{AccountId, Error};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a digest that could not be delivered.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// So often old mail is looked for, or twice while it becomes old.
const EXPUNGE_EVERY: Duration = Duration::from_secs(3600);
const EXPUNGED_AT_ONCE: usize = 1000;

/// Until the core stops.
pub async fn run(shard: Rc<Shard>) {
    let quarantine = &shard.config.quarantine;
    let expunge_every = (quarantine.keep.0 / 2).clamp(LOOK_EVERY, EXPUNGE_EVERY);
    // The hour for which all have been told.
    let mut told = None;
    let mut tell_at = Instant::now();
    let mut expunge_at = Instant::now();
    while !shard.has_stopped() {
        let now = i64::try_from(unix_millis().0 / 1000).unwrap_or(i64::MAX);
        let due = quarantine.digest_at.latest(now);
        if due != told && Instant::now() >= tell_at {
            let hour = due.and_then(|due| u64::try_from(due).ok());
            match tell_all(&shard, hour).await {
                true => told = due,
                false => tell_at = Instant::now() + AGAIN_AFTER,
            }
        }
        if Instant::now() >= expunge_at {
            let is_done = expunge_old(&shard).await;
            expunge_at = Instant::now() + if is_done { expunge_every } else { LOOK_EVERY };
        }
        glommio::timer::sleep(LOOK_EVERY).await;
    }
}

/// Those who are at home here.
fn accounts(shard: &Shard) -> Vec<(String, AccountId)> {
    let directory = shard.directory.borrow();
    let here = directory.accounts().filter(|(_, account)| account.shard == shard.id);
    here.map(|(address, account)| (address.clone(), account.id())).collect()
}

/// False: somebody is to be told later.
async fn tell_all(shard: &Rc<Shard>, hour: Option<u64>) -> bool {
    let Some(hour) = hour else { return true };
    let mut all = true;
    for (address, account) in accounts(shard) {
        match digest::send(shard, &address, account, Some(hour)).await {
            Ok(_) | Err(NotTold::Store(Error::NoSuchAccount(_))) => {}
            // Tomorrow there may be room.
            Err(NotTold::Store(error @ Error::OverQuota)) => {
                tracing::info!(target: crate::NOTICE, account = address, %error, "not told of what was kept back");
            }
            Err(error) => {
                tracing::warn!(account = address, %error, "not told of what was kept back; tried again in a minute");
                all = false;
            }
        }
        give_way().await;
    }
    all
}

/// False: there is more.
async fn expunge_old(shard: &Rc<Shard>) -> bool {
    let keep = u64::try_from(shard.config.quarantine.keep.0.as_millis()).unwrap_or(u64::MAX);
    let before = unix_millis().0.saturating_sub(keep);
    let mut all = true;
    for (address, account) in accounts(shard) {
        if let Err(error) = recalled::sweep(shard, account).await
            && !matches!(error, Error::NoSuchAccount(_))
        {
            tracing::warn!(account = address, %error, "notes of what has left quarantine stay");
        }
        match expunge_old_of(shard, account, before).await {
            Ok(count) => all &= count < EXPUNGED_AT_ONCE,
            Err(Error::NoSuchAccount(_)) => {}
            Err(error) => {
                tracing::warn!(account = address, %error, "what was kept for long enough is not expunged");
            }
        }
        give_way().await;
    }
    all
}

/// Messages come in the order of time, so the first that is younger ends it; what can't be
/// read is skipped. One that was brought back from among the expunged is behind younger ones,
/// and goes with them.
async fn expunge_old_of(
    shard: &Rc<Shard>,
    account: AccountId,
    before: u64,
) -> Result<usize, Error> {
    let Some(quarantine) = shard.store.quarantine(account)?.map(|info| info.id) else {
        return Ok(0);
    };
    let (mut old, mut unread) = (Vec::new(), None);
    let mut first = 1;
    'all: while let Some(entries) = kept::some_entries(shard, account, quarantine, &mut first)? {
        for entry in entries {
            match kept::note(shard, account, quarantine, &entry).await {
                Ok(note) if note.since > before || old.len() >= EXPUNGED_AT_ONCE => break 'all,
                Ok(_) => old.push(entry.uid),
                // Gone meanwhile.
                Err(Error::NoSuchMessage(_)) => {}
                Err(error) => unread = unread.or(Some((entry.uid, error))),
            }
            give_way().await;
        }
    }
    if let Some((uid, error)) = unread {
        tracing::warn!(
            account = account.0,
            uid = uid.0,
            %error,
            "since when a message is in quarantine can't be read: it stays until `kura quarantine delete`"
        );
    }
    if old.is_empty() {
        return Ok(0);
    }
    actions::delete(shard, account, &old, By::Age).await.map(|gone| gone.len())
}
