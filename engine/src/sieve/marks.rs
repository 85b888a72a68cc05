//! What was seen and answered lately: RFC 7352 (`duplicate`), RFC 5230 section 4.2 (`vacation`),
//! and when an account was last told that its script fails.
//!
//! A key space of the home shard: account (four bytes, the highest first), kind, digest (32
//! bytes); the value is when it is over, in seconds since 1970 (eight bytes, the highest first).
//! What is over goes with the next mark that the account sets; beyond [`MARKS_MAX`] those go that
//! would be over first.

use crate::shard::Shard;
use bytes::Bytes;
use std::time::Duration;
use storage::store::Space;
use storage::{AccountId, Error};

/// The number is part of the store's format.
pub const SPACE: Space = Space(3);
/// Marks of one account.
pub const MARKS_MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Duplicate = b'd',
    Vacation = b'v',
    /// The owner was told of a failing script; there is one key, all zeroes.
    Told = b't',
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub kind: Kind,
    pub key: [u8; 32],
    pub period: Duration,
}

fn key(account: AccountId, kind: Kind, key: &[u8; 32]) -> Bytes {
    [&account.0.to_be_bytes()[..], &[kind as u8], key].concat().into()
}

fn over(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_be_bytes)
}

pub fn is_set(shard: &Shard, account: AccountId, kind: Kind, mark: &[u8; 32], now: u64) -> bool {
    let value = shard.store.get(SPACE, &key(account, kind, mark));
    value.is_some_and(|value| over(&value) > now)
}

/// Sets marks from `now` on, in seconds since 1970, and drops what is over.
pub async fn set(shard: &Shard, account: AccountId, marks: &[Mark], now: u64) -> Result<(), Error> {
    if marks.is_empty() {
        return Ok(());
    }
    let fresh: Vec<(Bytes, u64)> = marks
        .iter()
        .map(|mark| (key(account, mark.kind, &mark.key), now.saturating_add(mark.period.as_secs())))
        .collect();
    let there = shard.store.scan_prefix(SPACE, &account.0.to_be_bytes());
    let there = there.into_iter().map(|(key, value)| (key, over(&value))).collect();
    let gone = outdated(there, &fresh, now).into_iter().map(|key| (key, None));
    let set = |(key, until): &(Bytes, u64)| {
        (key.clone(), Some(Bytes::from(until.to_be_bytes().to_vec())))
    };
    let pairs = gone.chain(fresh.iter().map(set)).collect();
    let _durable = shard.store.put(SPACE, pairs).await?;
    Ok(())
}

/// Which of the marks that are there have to go when `fresh` ones come.
fn outdated(mut there: Vec<(Bytes, u64)>, fresh: &[(Bytes, u64)], now: u64) -> Vec<Bytes> {
    there.retain(|(key, _)| fresh.iter().all(|(other, _)| other != key));
    there.sort_by_key(|(_, until)| *until);
    let over = there.iter().take_while(|(_, until)| *until <= now).count();
    let surplus = (there.len() + fresh.len()).saturating_sub(MARKS_MAX);
    there.truncate(over.max(surplus));
    there.into_iter().map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_goes_and_then_what_would_be_over_first() {
        let mark = |number: u64, until| (Bytes::from(number.to_string()), until);
        let there = vec![mark(1, 10), mark(2, 30), mark(3, 20)];
        assert_eq!(outdated(there.clone(), &[mark(9, 99)], 15), [Bytes::from("1")]);
        // One that is set anew is not dropped.
        assert_eq!(outdated(there, &[mark(1, 99)], 15), Vec::<Bytes>::new());
        let full: Vec<_> = (0..MARKS_MAX as u64).map(|n| mark(n, 1000 - n % 7)).collect();
        let gone = outdated(full, &[mark(5000, 5), mark(5001, 5)], 0);
        assert_eq!(gone, [Bytes::from("6"), Bytes::from("13")]);
    }
}
