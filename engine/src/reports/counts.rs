//! What all cores have counted, for reports to others: key space 20 of shard 0's log. Days are
//! counted from 1970, u32, big-endian, so that keys go by day.
//!
//! | key | value |
//! |---|---|
//! | `p`, day, policy domain | what it has published, as of the last message: a DMARC record in JSON |
//! | `r`, day, policy domain, NUL, 12 octets of SHA-256 of the row | the row, and how many messages, in JSON |
//! | `m`, day | messages that were not counted, since there were too many rows: u64, little-endian |
//! | `s` | until when reports were sent by command, in Unix seconds: u64, little-endian |
//!
//! There are at most [`ROWS_MAX`] rows, which are some 25 MiB; domains that want no reports have
//! half of them at the most.

use super::row::Row;
use super::tally::Tally;
use crate::auth::dmarc::record::Record;
use crate::shard::Shard;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use storage::store::Space;

pub const SPACE: Space = Space(20);
pub const ROWS_MAX: usize = 50_000;
/// Rows in one record of the log.
const CHUNK: usize = 200;

pub type Pair = (Bytes, Option<Bytes>);
/// As [`Tally`] has it: day and row, messages and what was published.
type Entry = ((u32, Row), (u64, Record));

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub row: Row,
    pub messages: u64,
}

/// One domain's day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub day: u32,
    pub domain: String,
    pub record: Record,
}

fn key(kind: u8, day: u32, rest: &[u8]) -> Bytes {
    Bytes::from([&[kind][..], &day.to_be_bytes(), rest].concat())
}

fn row_key(day: u32, row: &Row) -> Bytes {
    let hash = Sha256::digest(serde_json::to_vec(row).unwrap_or_default());
    let name = [row.policy_domain.as_bytes(), b"\0", &hash[..12]].concat();
    key(b'r', day, &name)
}

fn rows_of(day: u32, domain: &str) -> Bytes {
    key(b'r', day, &[domain.as_bytes(), b"\0"].concat())
}

fn number(value: Option<Bytes>) -> u64 {
    value.and_then(|value| value.as_ref().try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn little_endian(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}

fn json<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// How many rows there are.
pub fn rows(shard: &Shard) -> usize {
    shard.store.scan_prefix(SPACE, b"r").len()
}

/// What is to be written for these, where `get` says what is there and `rows` how much.
fn pairs(entries: &[Entry], get: impl Fn(&[u8]) -> Option<Bytes>, rows: &mut usize) -> Vec<Pair> {
    let mut pairs: HashMap<Bytes, Bytes> = HashMap::new();
    let mut missed: HashMap<u32, u64> = HashMap::new();
    for ((day, row), (messages, record)) in entries {
        let key = row_key(*day, row);
        let known = pairs.get(&key).cloned().or_else(|| get(&key));
        let known = known.and_then(|value| serde_json::from_slice::<Counted>(&value).ok());
        if known.is_none() {
            let most = if record.reports.is_empty() { ROWS_MAX / 2 } else { ROWS_MAX };
            if *rows >= most {
                *missed.entry(*day).or_default() += messages;
                continue;
            }
            *rows += 1;
        }
        let messages = known.map_or(0, |known| known.messages).saturating_add(*messages);
        pairs.insert(key, json(&Counted { row: row.clone(), messages }));
        let policy = self::key(b'p', *day, row.policy_domain.as_bytes());
        let record = json(record);
        if get(&policy).as_ref() != Some(&record) {
            pairs.insert(policy, record);
        }
    }
    for (day, messages) in missed {
        let key = self::key(b'm', day, b"");
        let known = number(get(&key));
        pairs.insert(key, little_endian(known.saturating_add(messages)));
    }
    pairs.into_iter().map(|(key, value)| (key, Some(value))).collect()
}

/// On shard 0, by one at a time. What can't be written comes back.
pub async fn add(shard: &Shard, tally: Tally) -> Tally {
    let reporting = &shard.reports;
    let mut left: Vec<_> = tally.rows.into_iter().collect();
    let mut back = Tally::default();
    while !left.is_empty() {
        let chunk: Vec<_> = left.split_off(left.len().saturating_sub(CHUNK));
        let mut rows = reporting.rows.get();
        let pairs = pairs(&chunk, |key| shard.store.get(SPACE, key), &mut rows);
        match shard.store.put(SPACE, pairs).await {
            Ok(_) => reporting.rows.set(rows),
            Err(error) => {
                tracing::debug!(%error, "counts for DMARC reports could not be written; later");
                for ((day, row), (messages, record)) in chunk.into_iter().chain(left) {
                    back.put(day, row, messages, record);
                }
                break;
            }
        }
    }
    for (day, messages) in tally.missed {
        let key = key(b'm', day, b"");
        let sum = number(shard.store.get(SPACE, &key)).saturating_add(messages);
        if shard.store.put(SPACE, vec![(key, Some(little_endian(sum)))]).await.is_err() {
            back.miss(day, messages);
        }
    }
    back
}

/// Domains of days, oldest first.
pub fn due(shard: &Shard) -> Vec<Due> {
    let read = |(key, value): (Bytes, Bytes)| {
        let (day, domain) = key.get(1..)?.split_at_checked(4)?;
        Some(Due {
            day: u32::from_be_bytes(day.try_into().ok()?),
            domain: std::str::from_utf8(domain).ok()?.to_owned(),
            record: serde_json::from_slice(&value).ok()?,
        })
    };
    shard.store.scan_prefix(SPACE, b"p").into_iter().filter_map(read).collect()
}

/// As they are kept; each is read by [`read_rows`].
pub fn stored_rows(shard: &Shard, due: &Due) -> Vec<(Bytes, Bytes)> {
    shard.store.scan_prefix(SPACE, &rows_of(due.day, &due.domain))
}

/// Most messages first.
pub fn read_rows(stored: &[(Bytes, Bytes)]) -> Vec<(Row, u64)> {
    let read = |(_, value): &(Bytes, Bytes)| serde_json::from_slice::<Counted>(value).ok();
    let mut rows: Vec<(Row, u64)> =
        stored.iter().filter_map(read).map(|counted| (counted.row, counted.messages)).collect();
    rows.sort_by_key(|(row, messages)| (std::cmp::Reverse(*messages), row.source));
    rows
}

pub fn missed(shard: &Shard, day: u32) -> u64 {
    number(shard.store.get(SPACE, &key(b'm', day, b"")))
}

pub fn sent_until(shard: &Shard) -> u64 {
    number(shard.store.get(SPACE, b"s"))
}

pub async fn set_sent_until(shard: &Shard, now: u64) -> Result<(), storage::Error> {
    let pairs = vec![(Bytes::from_static(b"s"), Some(little_endian(now)))];
    shard.store.put(SPACE, pairs).await.map(drop)
}

/// Of a domain's day; the policy goes last, so that what a crash leaves is found again.
pub async fn forget(shard: &Shard, due: &Due) -> Result<(), storage::Error> {
    let mut keys: Vec<Bytes> = stored_rows(shard, due).into_iter().map(|(key, _)| key).collect();
    while !keys.is_empty() {
        let some: Vec<Pair> = keys
            .split_off(keys.len().saturating_sub(CHUNK))
            .into_iter()
            .map(|key| (key, None))
            .collect();
        let gone = some.len();
        let _ = shard.store.put(SPACE, some).await?;
        let reporting = &shard.reports;
        reporting.rows.set(reporting.rows.get().saturating_sub(gone));
    }
    let policy = key(b'p', due.day, due.domain.as_bytes());
    shard.store.put(SPACE, vec![(policy, None)]).await.map(drop)
}

/// The counts of what was missed, of days before this one.
pub async fn forget_missed(shard: &Shard, before: u32) -> Result<(), storage::Error> {
    let is_old = |key: &Bytes| {
        let day = key.get(1..5).and_then(|day| day.try_into().ok()).map(u32::from_be_bytes);
        day.is_none_or(|day| day < before)
    };
    let old = shard.store.scan_prefix(SPACE, b"m").into_iter().filter(|(key, _)| is_old(key));
    let old: Vec<Pair> = old.map(|(key, _)| (key, None)).collect();
    if old.is_empty() {
        return Ok(());
    }
    shard.store.put(SPACE, old).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::row::tests::record;
    use crate::reports::tally::tests::observed;
    use std::collections::BTreeMap;

    type Known = BTreeMap<Bytes, Bytes>;

    fn apply(known: &mut Known, tally: Tally, rows: &mut usize) {
        let entries: Vec<_> = tally.rows.into_iter().collect();
        for (key, value) in pairs(&entries, |key| known.get(key).cloned(), rows) {
            known.insert(key, value.unwrap());
        }
    }

    #[test]
    fn counts_add_up_over_many_tellings() {
        let (mut known, mut rows) = (Known::new(), 0);
        for _ in 0..3 {
            let mut tally = Tally::default();
            for number in [1, 2, 1] {
                tally.add(20_000, observed(number));
            }
            tally.add(20_001, observed(1));
            apply(&mut known, tally, &mut rows);
        }
        let prefix = rows_of(20_000, "a.test");
        let stored: Vec<(Bytes, Bytes)> = known
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let read: Vec<(std::net::IpAddr, u64)> =
            read_rows(&stored).into_iter().map(|(row, messages)| (row.source, messages)).collect();
        assert_eq!(read, [("0.0.0.1".parse().unwrap(), 6), ("0.0.0.2".parse().unwrap(), 3)]);
        assert_eq!((rows, known.len()), (3, 5));
    }

    #[test]
    fn rows_are_bounded_and_domains_that_want_no_reports_have_half_of_them() {
        let (mut known, mut rows) = (Known::new(), ROWS_MAX / 2);
        let mut silent = observed(1);
        silent.record = record("v=DMARC1; p=none");
        let mut tally = Tally::default();
        tally.add(1, silent);
        tally.add(1, observed(2));
        apply(&mut known, tally, &mut rows);
        assert_eq!(rows, ROWS_MAX / 2 + 1);
        assert_eq!(number(known.get(&key(b'm', 1, b"")).cloned()), 1);
        rows = ROWS_MAX;
        let mut tally = Tally::default();
        tally.add(1, observed(2));
        tally.add(1, observed(3));
        apply(&mut known, tally, &mut rows);
        assert_eq!((rows, number(known.get(&key(b'm', 1, b"")).cloned())), (ROWS_MAX, 2));
    }
}
