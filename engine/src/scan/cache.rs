//! Verdicts by content: what comes to many is scanned once.
//!
//! The key is a hash of all that the scanner is sent: signatures may be about any field, and
//! whoever could choose what is left out could have one message judged for another. So a message is
//! known again when it comes to others in transactions of their own, or once more after a 4xx; not
//! when anything in it differs. A verdict holds for the program and the signatures that made it,
//! and for a while: local signatures may change without a new version.

use super::verdict::{Verdict, Version};
use ring::digest::{SHA256, digest};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

pub type Key = [u8; 32];

/// Of a message without our own trace fields.
pub fn key(message: &[u8]) -> Key {
    let mut key = Key::default();
    key.copy_from_slice(digest(&SHA256, message).as_ref());
    key
}

#[derive(Debug)]
pub struct Cache {
    entries_max: usize,
    age_max: Duration,
    known: HashMap<Key, (Verdict, Instant)>,
    /// The oldest first.
    order: VecDeque<Key>,
}

impl Cache {
    pub fn new(entries_max: usize, age_max: Duration) -> Cache {
        Cache { entries_max, age_max, known: HashMap::new(), order: VecDeque::new() }
    }

    /// What is known of this content, if `version` would say the same today.
    pub fn get(&self, key: &Key, version: &Version, now: Instant) -> Option<Verdict> {
        let (verdict, since) = self.known.get(key)?;
        let holds =
            verdict.version == *version && now.saturating_duration_since(*since) < self.age_max;
        holds.then(|| Verdict { is_cached: true, ..verdict.clone() })
    }

    /// Not what has no signature version, and no failures.
    pub fn put(&mut self, key: Key, verdict: &Verdict, now: Instant) {
        use super::verdict::Outcome::{Clean, Found, TooLarge, Unknown};
        let lasts = match verdict.outcome {
            Clean | Found(_) => !verdict.version.signatures.is_empty(),
            TooLarge | Unknown(_) => false,
        };
        if !lasts || self.entries_max == 0 {
            return;
        }
        if self.known.insert(key, (verdict.clone(), now)).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.entries_max {
            let Some(oldest) = self.order.pop_front() else { return };
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Outcome;
    use super::*;

    fn version(signatures: &str) -> Version {
        Version { engine: "E".to_owned(), signatures: signatures.to_owned() }
    }

    fn verdict(signatures: &str) -> Verdict {
        Verdict::new(Outcome::Clean, version(signatures))
    }

    #[test]
    fn only_the_same_message_has_the_same_key() {
        let message = b"To: a\r\nSubject: x\r\nContent-Type: text/plain\r\n\r\nbody";
        assert_eq!(key(message), key(message.to_vec().as_slice()));
        for at in 0..message.len() {
            let mut other = message.to_vec();
            other[at] ^= 1;
            assert_ne!(key(message), key(&other), "{at}");
            assert_ne!(key(message), key(&message[..at]), "{at}");
        }
    }

    #[test]
    fn a_verdict_holds_for_its_version_and_its_time_and_there_are_not_too_many() {
        let now = Instant::now();
        let mut cache = Cache::new(2, Duration::from_secs(10));
        let (seven, eight) = (version("7"), version("8"));
        cache.put([1; 32], &verdict("7"), now);
        assert!(cache.get(&[1; 32], &seven, now).is_some_and(|known| known.is_cached));
        assert_eq!(cache.get(&[1; 32], &eight, now), None);
        let engine = Version { engine: "F".to_owned(), ..version("7") };
        assert_eq!(cache.get(&[1; 32], &engine, now), None);
        assert_eq!(cache.get(&[1; 32], &seven, now + Duration::from_secs(10)), None);
        cache.put([2; 32], &verdict(""), now);
        assert_eq!(cache.get(&[2; 32], &version(""), now), None);
        cache.put([3; 32], &verdict("7"), now);
        cache.put([1; 32], &verdict("8"), now);
        cache.put([4; 32], &verdict("7"), now);
        assert_eq!(cache.get(&[1; 32], &eight, now), None);
        assert!(cache.get(&[3; 32], &seven, now).is_some());
        assert!(cache.get(&[4; 32], &seven, now).is_some());
        assert_eq!((cache.known.len(), cache.order.len()), (2, 2));
    }
}
