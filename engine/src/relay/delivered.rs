//! Who of ours has a message of the queue already, so that nobody gets it again after a crash
//! between its delivery and the record of that in the queue.
//!
//! Key space 44 of an account's home shard: the queue's shard (u16), the message's UID there and
//! the account's number (u32), all big-endian; the value is the message's id. It is set in the
//! record that files the message ([`Once`]), hence with it or not at all, and kept as long as the
//! message is in the queue. The id is compared, since a queue that was restored may give a UID to
//! another message.
//!
//! Not known is what a script files in several records, sends on or throws away: after a crash that
//! may be repeated.

use crate::delivery::{Failure, Once, To};
use crate::queue::{ACCOUNT, MAILBOX};
use crate::shard::Shard;
use crate::spaces::Walk;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use storage::store::Space;
use storage::{AccountId, Error, Uid};

pub const SPACE: Space = Space(44);
/// What has left the queue is forgotten so often, and at the start.
const FORGOTTEN_EVERY: Duration = Duration::from_secs(3600);
/// Marks between which others have their turn.
const MARKS_AT_ONCE: usize = 1024;

/// For a message in the queue of that shard.
pub fn once(queue: u16, uid: Uid, id: &str) -> Once {
    let key = [&queue.to_be_bytes()[..], &uid.0.to_be_bytes()].concat();
    Once { space: SPACE, key: key.into(), value: Bytes::copy_from_slice(id.as_bytes()) }
}

/// Whether each of them has it.
pub async fn known(shard: &Rc<Shard>, once: &Once, to: &[To]) -> Vec<Result<bool, Failure>> {
    let mut by_home: BTreeMap<u16, Vec<(Bytes, Bytes)>> = BTreeMap::new();
    for To { home, .. } in to {
        by_home.entry(home.shard).or_default().push(once.mark(home.account));
    }
    let mut answers = BTreeMap::new();
    for (home, marks) in by_home {
        let look = move |shard: Rc<Shard>| async move {
            let has = |(key, value): (Bytes, Bytes)| {
                let is_set = shard.store.get(SPACE, &key).as_ref() == Some(&value);
                (key, is_set)
            };
            marks.into_iter().map(has).collect::<Vec<_>>()
        };
        answers.extend(shard.mesh.ask(home, look).await.unwrap_or_default());
    }
    // A home that does not answer can't take it either.
    let answer = |account: AccountId| answers.get(&once.mark(account).0).copied();
    to.iter().map(|to| answer(to.home.account).ok_or(Failure::Store(Error::Busy))).collect()
}

/// Forgets what has left the queue, as long as the server runs.
pub async fn keep(shard: Rc<Shard>) {
    while !shard.watchdog.stopping() {
        forget(&shard).await;
        glommio::timer::sleep(FORGOTTEN_EVERY).await;
    }
}

async fn forget(shard: &Rc<Shard>) {
    let mut walk = Walk::through(shard, SPACE, MARKS_AT_ONCE);
    while let Some(pairs) = walk.next().await {
        let mut by_queue: BTreeMap<u16, Vec<(Uid, Bytes)>> = BTreeMap::new();
        for (key, _) in pairs {
            if let Some((queue, uid)) = read(&key) {
                by_queue.entry(queue).or_default().push((uid, key));
            }
        }
        for (queue, marks) in by_queue {
            let gone = move |shard: Rc<Shard>| async move {
                let is_gone = |uid| {
                    let entry = shard.store.entry(ACCOUNT, MAILBOX, uid);
                    matches!(entry, Err(Error::NoSuchMessage(_)))
                };
                let gone = marks.into_iter().filter(|(uid, _)| is_gone(*uid));
                gone.map(|(_, key)| (key, None)).collect::<Vec<_>>()
            };
            // Whatever fails now is done in an hour.
            let Ok(gone) = shard.mesh.ask(queue, gone).await else { continue };
            let count = gone.len();
            if !gone.is_empty()
                && let Err(error) = shard.store.put(SPACE, gone).await
            {
                tracing::debug!(%error, "who has had queued messages is not forgotten yet");
                return;
            }
            tracing::debug!(
                shard = shard.id,
                queue,
                count,
                "forgot who has had what left the queue"
            );
        }
    }
}

fn read(key: &[u8]) -> Option<(u16, Uid)> {
    let (queue, rest) = key.split_first_chunk()?;
    let (uid, _account) = rest.split_first_chunk()?;
    Some((u16::from_be_bytes(*queue), Uid(u32::from_be_bytes(*uid))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_which_message_of_which_queue_it_is_of() {
        let once = once(3, Uid(70_000), "0.1");
        let (key, value) = once.mark(AccountId(9));
        assert_eq!((read(&key), value.as_ref()), (Some((3, Uid(70_000))), &b"0.1"[..]));
        assert_ne!(once.mark(AccountId(10)).0, key);
        assert_eq!(read(&key[..5]), None);
    }
}
