//! How far the scan of stored mail is, and what is not to be pulled back any more: key space 42 of
//! each shard's log.
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
use std::collections::BTreeMap;
use storage::store::Space;
use storage::{AccountId, Error, Lsn};

pub const SPACE: Space = Space(42);
const PROGRESS: &[u8] = b"p";
pub const DAY_MILLIS: u64 = 86_400_000;
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
    /// When the last round began, Unix seconds.
    pub begun: u64,
    /// A moment of each day (Unix milliseconds), and how far the log was then: what came since has
    /// a higher modseq, whatever its date.
    pub days: Vec<(u64, u64)>,
    /// The round under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
}

impl Progress {
    /// The modseq that all has which came at `since` or later. Where nothing is known of so long
    /// ago, of what came since something is known.
    pub fn arrived_after(&self, since: u64) -> u64 {
        let before = self.days.iter().rev().find(|(at, _)| *at <= since);
        before.or(self.days.first()).map_or(u64::MAX, |(_, modseq)| *modseq)
    }

    pub fn is_day_due(&self, now: u64) -> bool {
        self.days.last().is_none_or(|(at, _)| now.saturating_sub(*at) >= DAY_MILLIS)
    }

    /// Notes how far the log is; of the days before `since` one is enough.
    pub fn note_day(&mut self, now: u64, modseq: u64, since: u64) {
        self.days.push((now, modseq));
        let old = self.days.iter().filter(|(at, _)| *at <= since).count();
        self.days.drain(..old.saturating_sub(1));
    }
}

/// Where a round is. Accounts are gone through by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Round {
    /// The signatures when it began; a scanner that does not tell has none.
    pub version: Option<Version>,
    pub account: u32,
    /// Of that account's mailboxes, by number, the next UID.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: BTreeMap<u32, u32>,
    pub scanned: u64,
    pub pulled_back: u64,
    /// So much was found that an operator is to look at it first.
    pub is_paused: bool,
    /// One has.
    pub is_trusted: bool,
}

/// What can't be read any more is begun anew.
pub fn load(shard: &Shard) -> Progress {
    let value = shard.store.get(SPACE, PROGRESS);
    value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default()
}

pub async fn save(shard: &Shard, progress: &Progress) -> Result<Lsn, Error> {
    let value = Bytes::from(serde_json::to_vec(progress).unwrap_or_default());
    let pairs = vec![(Bytes::from_static(PROGRESS), Some(value))];
    shard.store.put(SPACE, pairs).await.map(|durable| durable.lsn())
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
    let key = of_body(account, body);
    let known = shard.store.scan_prefix(SPACE, &prefix(account));
    let mut pairs: Vec<_> = too_many(known, &key).into_iter().map(|key| (key, None)).collect();
    pairs.push((key, Some(value)));
    shard.store.put(SPACE, pairs).await.map(drop)
}

/// The oldest of those that are known, as many as have to go so that `new` has a place.
fn too_many(mut known: Vec<(Bytes, Bytes)>, new: &Bytes) -> Vec<Bytes> {
    known.retain(|(key, _)| key != new);
    known.sort_by(|(_, one), (_, other)| one.cmp(other));
    let too_many = (known.len() + 1).saturating_sub(LET_OUT_MAX);
    known.into_iter().take(too_many).map(|(key, _)| key).collect()
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
        let round = Round {
            version: Some(version.clone()),
            account: 7,
            seen: [(1, 9)].into(),
            ..Round::default()
        };
        let progress = Progress { done: Some(version), round: Some(round), ..Progress::default() };
        let text = serde_json::to_vec(&progress).unwrap();
        assert_eq!(serde_json::from_slice::<Progress>(&text).unwrap(), progress);
        assert_eq!(serde_json::from_slice::<Progress>(b"{}").unwrap(), Progress::default());
        let of = |account| of_body(AccountId(account), &[1; 32]);
        assert!(
            of(1).starts_with(&prefix(AccountId(1))) && !of(1).starts_with(&prefix(AccountId(2)))
        );
        assert!(!of(1).starts_with(PROGRESS));
    }

    #[test]
    fn who_is_let_out_once_more_stays_and_only_the_oldest_make_room() {
        let key = |number: usize| Bytes::from(number.to_be_bytes().to_vec());
        let known = |count: usize| (0..count).map(|number| (key(number), key(number))).collect();
        assert!(too_many(known(LET_OUT_MAX), &key(0)).is_empty());
        assert!(too_many(known(LET_OUT_MAX - 1), &key(LET_OUT_MAX)).is_empty());
        assert_eq!(too_many(known(LET_OUT_MAX + 1), &key(LET_OUT_MAX + 1)), [key(0), key(1)]);
    }

    #[test]
    fn what_came_lately_is_known_by_where_the_log_was_each_day() {
        let mut progress = Progress::default();
        assert_eq!(progress.arrived_after(0), u64::MAX, "nothing is known yet: dates alone count");
        let day = |number: u64| number * DAY_MILLIS;
        for number in 10..20 {
            assert!(progress.is_day_due(day(number)));
            progress.note_day(day(number), number * 100, day(number - 3));
            assert!(!progress.is_day_due(day(number) + DAY_MILLIS / 2));
        }
        assert_eq!(progress.days.len(), 4);
        assert_eq!(progress.arrived_after(day(17) + 1), 1700);
        assert_eq!(progress.arrived_after(day(16)), 1600);
        assert_eq!(progress.arrived_after(day(1)), 1600, "of what came since something is known");
    }
}
