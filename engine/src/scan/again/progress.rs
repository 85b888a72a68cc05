//! How far the scan of stored mail is, and what is not to be pulled back any more: key space 42 of each shard's log.
//!
//! | key | value |
//! |---|---|
//! | `p` | [`Progress`], JSON |
//! | `o`, account (u32, big-endian), SHA-256 of a message's body | until when it is let alone: Unix seconds (u64, big-endian) |

use super::super::cache::Key;
use super::super::verdict::Version;
use crate::operations::unix_now;
use crate::shard::Shard;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::store::Space;
use storage::{AccountId, Error};

pub const SPACE: Space = Space(42);
const PROGRESS: &[u8] = b"p";
const LET_OUT: u8 = b'o';
/// What an operator has let out is let alone for so long: longer than any mail is scanned again.
const LET_OUT_SECONDS: u64 = 366 * 86_400;
/// Of an account; the oldest go first.
const LET_OUT_MAX: usize = 1000;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// All that is here was scanned with these signatures, or newer ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<Version>,
    /// The round under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
}

/// Where a round is. Accounts, mailboxes and messages are gone through by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Round {
    /// The signatures when it began; a scanner that does not tell has none.
    pub version: Option<Version>,
    pub account: u32,
    pub mailbox: u32,
    /// The next message.
    pub uid: u32,
    pub scanned: u64,
    pub pulled_back: u64,
}

/// What can't be read any more is begun anew.
pub fn load(shard: &Shard) -> Progress {
    let value = shard.store.get(SPACE, PROGRESS);
    value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default()
}

pub async fn save(shard: &Shard, progress: &Progress) -> Result<(), Error> {
    let value = Bytes::from(serde_json::to_vec(progress).unwrap_or_default());
    let pairs = vec![(Bytes::from_static(PROGRESS), Some(value))];
    shard.store.put(SPACE, pairs).await.map(drop)
}

fn prefix(account: AccountId) -> Vec<u8> {
    [&[LET_OUT][..], &account.0.to_be_bytes()].concat()
}

fn of_body(account: AccountId, body: &Key) -> Bytes {
    Bytes::from([&prefix(account)[..], body].concat())
}

/// An operator wants the account to have messages with this body, whatever a scanner says of them.
pub async fn let_out(shard: &Shard, account: AccountId, body: &Key) -> Result<(), Error> {
    let until = unix_now().saturating_add(LET_OUT_SECONDS);
    let value = Bytes::copy_from_slice(&until.to_be_bytes());
    let mut pairs = vec![(of_body(account, body), Some(value))];
    let mut known = shard.store.scan_prefix(SPACE, &prefix(account));
    if known.len() >= LET_OUT_MAX {
        known.sort_by(|(_, one), (_, other)| one.cmp(other));
        let too_many = known.len() - LET_OUT_MAX + 1;
        pairs.extend(known.into_iter().take(too_many).map(|(key, _)| (key, None)));
    }
    shard.store.put(SPACE, pairs).await.map(drop)
}

pub fn is_let_out(shard: &Shard, account: AccountId, body: &Key) -> bool {
    let value = shard.store.get(SPACE, &of_body(account, body));
    let until = value.and_then(|value| value[..].try_into().ok()).map(u64::from_be_bytes);
    until.is_some_and(|until| until > unix_now())
}

/// On the home shard of an account that is removed.
pub async fn forget(shard: &Shard, account: AccountId) -> Result<(), Error> {
    let known = shard.store.scan_prefix(SPACE, &prefix(account));
    if known.is_empty() {
        return Ok(());
    }
    let pairs = known.into_iter().map(|(key, _)| (key, None)).collect();
    shard.store.put(SPACE, pairs).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_comes_back_as_it_was_and_less_of_it_is_the_beginning() {
        let version = Version { engine: "ClamAV 1.4.6".to_owned(), signatures: "27".to_owned() };
        let round =
            Round { version: Some(version.clone()), account: 7, uid: 9, ..Round::default() };
        let progress = Progress { done: Some(version), round: Some(round) };
        let text = serde_json::to_vec(&progress).unwrap();
        assert_eq!(serde_json::from_slice::<Progress>(&text).unwrap(), progress);
        assert_eq!(serde_json::from_slice::<Progress>(b"{}").unwrap(), Progress::default());
        let of = |account| of_body(AccountId(account), &[1; 32]);
        assert!(
            of(1).starts_with(&prefix(AccountId(1))) && !of(1).starts_with(&prefix(AccountId(2)))
        );
        assert!(!of(1).starts_with(PROGRESS));
    }
}
