//! How often each fingerprint has come lately, in bounded memory.
//!
//! Two tables, one for this half of the window and one for the half before; together they cover
//! between half a window and a whole one. A table that is full ends its half early, so a flood of
//! unique messages shortens the window, and does nothing else. Distinct networks and senders are
//! counted by linear counting (Whang and others, 1990): one bit of 64 for each, and an estimate
//! from the bits that are not set.

use crate::policy::networks::prefix;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// More than this are estimated as this: all bits are set.
pub const DISTINCT_MAX: u64 = 200;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub messages: u32,
    pub recipients: u32,
    /// One bit for each, by hash.
    pub networks: u64,
    pub senders: u64,
}

impl Counts {
    fn and(self, other: Counts) -> Counts {
        Counts {
            messages: self.messages.saturating_add(other.messages),
            recipients: self.recipients.saturating_add(other.recipients),
            networks: self.networks | other.networks,
            senders: self.senders | other.senders,
        }
    }

    pub fn networks(&self) -> u32 {
        distinct(self.networks)
    }

    pub fn senders(&self) -> u32 {
        distinct(self.senders)
    }
}

fn distinct(bits: u64) -> u32 {
    match bits.count_zeros() {
        0 => DISTINCT_MAX as u32,
        zeroes => (64.0 * (64.0 / f64::from(zeroes)).ln()).round() as u32,
    }
}

/// One message, as it is counted.
#[derive(Debug, Clone)]
pub struct Sighting {
    pub fingerprints: Vec<u64>,
    pub peer: IpAddr,
    /// The domain in MAIL FROM; empty for the null sender.
    pub sender: String,
    pub recipients: u32,
}

#[derive(Debug)]
pub struct Table {
    now: HashMap<u64, Counts>,
    before: HashMap<u64, Counts>,
    since: Instant,
    half: Duration,
    half_entries_max: usize,
    seed: RandomState,
}

impl Table {
    pub fn new(entries_max: usize, window: Duration, now: Instant) -> Table {
        Table {
            now: HashMap::new(),
            before: HashMap::new(),
            since: now,
            half: window / 2,
            half_entries_max: (entries_max / 2).max(1),
            seed: RandomState::new(),
        }
    }

    /// Counts a message; what each of its fingerprints has come to, this one included.
    pub fn count(&mut self, sighting: &Sighting, now: Instant) -> Vec<Counts> {
        let age = now.saturating_duration_since(self.since);
        if age >= self.half || self.now.len() >= self.half_entries_max {
            let ended = std::mem::take(&mut self.now);
            self.before = if age >= self.half * 2 { HashMap::new() } else { ended };
            self.since = now;
        }
        let bit = |value: u64| 1_u64 << (value % 64);
        let one = Counts {
            messages: 1,
            recipients: sighting.recipients,
            networks: bit(self.seed.hash_one(network(sighting.peer))),
            senders: bit(self.seed.hash_one(&sighting.sender)),
        };
        let mut all = Vec::with_capacity(sighting.fingerprints.len());
        for fingerprint in &sighting.fingerprints {
            let counts = self.now.entry(*fingerprint).or_default();
            *counts = counts.and(one);
            let before = self.before.get(fingerprint).copied().unwrap_or_default();
            all.push(counts.and(before));
        }
        all
    }
}

/// What one party usually has: a /24 of IPv4, a /48 of IPv6.
fn network(peer: IpAddr) -> IpAddr {
    prefix(peer, 24, 48)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(fingerprint: u64, third: u8) -> Sighting {
        Sighting {
            fingerprints: vec![fingerprint],
            peer: IpAddr::from([192, 0, third, 1]),
            sender: format!("{third}.test"),
            recipients: 2,
        }
    }

    #[test]
    fn what_comes_in_the_window_is_counted_and_what_was_before_it_is_forgotten() {
        let start = Instant::now();
        let mut table = Table::new(1000, Duration::from_secs(100), start);
        let mut count = |second, third| {
            table.count(&sighting(7, third), start + Duration::from_secs(second))[0]
        };
        assert_eq!(count(0, 1).messages, 1);
        assert_eq!(count(10, 1).messages, 2);
        let third = count(60, 2);
        assert_eq!((third.messages, third.recipients), (3, 6));
        assert!(third.networks() <= 2 && third.senders() <= 2);
        assert_eq!(count(115, 1).messages, 2);
        assert_eq!(count(400, 1).messages, 1);
    }

    #[test]
    fn a_flood_shortens_the_window_and_takes_no_more_memory() {
        let start = Instant::now();
        let mut table = Table::new(1000, Duration::from_secs(100), start);
        for number in 0..10_000 {
            table.count(&sighting(number, 1), start);
            assert!(table.now.len() + table.before.len() <= 1000);
        }
        // Who comes again soon is still counted.
        assert_eq!(table.count(&sighting(9_999, 1), start)[0].messages, 2);
    }

    #[test]
    fn distinct_networks_are_estimated() {
        let start = Instant::now();
        let mut table = Table::new(1000, Duration::from_secs(100), start);
        let mut last = Counts::default();
        for third in 0..30 {
            last = table.count(&sighting(1, third), start)[0];
            last = table.count(&sighting(1, third), start)[0].and(last);
        }
        assert!((18..=45).contains(&last.networks()), "{}", last.networks());
        assert_eq!((distinct(0), distinct(1), distinct(u64::MAX)), (0, 1, 200));
        assert_eq!(
            network("::ffff:192.0.2.7".parse().unwrap()),
            network("192.0.2.9".parse().unwrap())
        );
        assert_ne!(
            network("2001:db8::1".parse().unwrap()),
            network("2001:db8:1::1".parse().unwrap())
        );
    }
}
