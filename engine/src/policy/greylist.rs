//! Greylisting: a stranger whose message is doubtful is asked to come again, which real servers do.
//!
//! It is asked once the message has its score, so that only doubtful mail waits, and none from a
//! domain that is proven. A network that has come again once is not asked any more for a while: the
//! learned exceptions.
//!
//! Key space 5 of shard 0's log; keys are hashes, values Unix seconds (u64, little-endian):
//!
//! | key | value |
//! |---|---|
//! | `w` and the hash of network, sender and recipient, u64 | since when it waits |
//! | `n` and the hash of the network, u64 | when it last came again |
//!
//! At most [`KNOWN_MAX`] of both are kept; when that is full of what is not over yet, nobody
//! is asked to wait.

use super::screening::network;
use super::settings::Greylist as Settings;
use crate::shard::Shard;
use bytes::Bytes;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use storage::store::Space;

pub const SPACE: Space = Space(5);
const KNOWN_MAX: usize = 200_000;
/// Of those that are over, so many are forgotten at once, when there is no room.
const FORGOTTEN_MAX: usize = 1000;
/// And not more often than this, in seconds.
const FORGET_EVERY: u64 = 10;

/// What one message is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Triple {
    waits: u64,
    network: u64,
}

impl Triple {
    pub fn of(peer: IpAddr, sender: &str, recipient: &str) -> Triple {
        let network = network(peer.to_canonical()).to_string();
        let whole = format!("{network}\0{}\0{}", sender.to_lowercase(), recipient.to_lowercase());
        Triple { waits: hash(whole.as_bytes()), network: hash(network.as_bytes()) }
    }
}

/// The same on every host and for ever, since it is kept: FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Pass,
    Wait,
}

/// What is known on shard 0.
#[derive(Debug, Default)]
pub struct Known {
    waiting: HashMap<u64, u64>,
    networks: HashMap<u64, u64>,
    forgotten_at: u64,
}

type Pair = (Bytes, Option<Bytes>);

impl Known {
    pub fn restore(pairs: &[(Bytes, Bytes)]) -> Known {
        let mut known = Known::default();
        for (key, value) in pairs {
            let Some((kind, name)) = key.split_first() else { continue };
            let (Ok(name), Ok(value)) = (name.try_into(), value.as_ref().try_into()) else {
                continue;
            };
            let (name, value) = (u64::from_be_bytes(name), u64::from_le_bytes(value));
            match kind {
                b'w' => drop(known.waiting.insert(name, value)),
                b'n' => drop(known.networks.insert(name, value)),
                _ => {}
            }
        }
        known
    }

    /// The answer at Unix time `now`, and what is to be written.
    pub fn decide(&mut self, now: u64, triple: Triple, settings: &Settings) -> (Answer, Vec<Pair>) {
        let mut pairs = Vec::new();
        // What is of the future is of a clock that was wrong: as if it were not there.
        let fresh = |since: u64, seconds: u64| since <= now && now - since < seconds;
        if let Some(&last) = self.networks.get(&triple.network)
            && fresh(last, settings.remember_seconds)
        {
            // Written once a day at most, while it goes on coming.
            if !fresh(last, 86_400) {
                self.networks.insert(triple.network, now);
                pairs.push(put(b'n', triple.network, now));
            }
            return (Answer::Pass, pairs);
        }
        match self.waiting.get(&triple.waits) {
            Some(&since) if fresh(since, settings.delay_seconds) => (Answer::Wait, pairs),
            Some(&since) if fresh(since, settings.retry_seconds) => {
                self.waiting.remove(&triple.waits);
                self.networks.insert(triple.network, now);
                pairs.push((key(b'w', triple.waits), None));
                pairs.push(put(b'n', triple.network, now));
                (Answer::Pass, pairs)
            }
            Some(_) | None => {
                if self.waiting.len() + self.networks.len() >= KNOWN_MAX {
                    pairs.extend(self.forget(now, settings));
                }
                if self.waiting.len() + self.networks.len() >= KNOWN_MAX {
                    return (Answer::Pass, pairs);
                }
                self.waiting.insert(triple.waits, now);
                pairs.push(put(b'w', triple.waits, now));
                (Answer::Wait, pairs)
            }
        }
    }

    fn forget(&mut self, now: u64, settings: &Settings) -> Vec<Pair> {
        let mut gone = Vec::new();
        if now < self.forgotten_at + FORGET_EVERY {
            return gone;
        }
        self.forgotten_at = now;
        let mut sweep = |map: &mut HashMap<u64, u64>, kind, seconds| {
            map.retain(|&name, since| {
                let is_over = *since > now || now - *since >= seconds;
                let stays = !is_over || gone.len() >= FORGOTTEN_MAX;
                if !stays {
                    gone.push((key(kind, name), None));
                }
                stays
            });
        };
        sweep(&mut self.waiting, b'w', settings.retry_seconds);
        sweep(&mut self.networks, b'n', settings.remember_seconds);
        gone
    }
}

fn key(kind: u8, name: u64) -> Bytes {
    Bytes::from([[kind].as_slice(), &name.to_be_bytes()].concat())
}

fn put(kind: u8, name: u64, seconds: u64) -> Pair {
    (key(kind, name), Some(Bytes::copy_from_slice(&seconds.to_le_bytes())))
}

/// On shard 0. When the store takes nothing, the message has other troubles than this.
pub async fn decide(shard: &Rc<Shard>, now: u64, triple: Triple) -> Answer {
    let settings = &shard.config.policy.greylist;
    let (answer, pairs) = shard.greylist.borrow_mut().decide(now, triple, settings);
    if !pairs.is_empty()
        && let Err(error) = shard.store.put(SPACE, pairs).await
    {
        tracing::warn!(%error, "the greylist could not be written");
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            delay_seconds: 300,
            retry_seconds: 10_000,
            remember_seconds: 1_000_000,
            ..Settings::default()
        }
    }

    fn triple(peer: &str, sender: &str) -> Triple {
        Triple::of(peer.parse().unwrap(), sender, "bob@b.test")
    }

    #[test]
    fn who_comes_again_in_time_passes_and_their_network_from_then_on() {
        let mut known = Known::default();
        let mut decide = |now, peer, sender| known.decide(now, triple(peer, sender), &settings()).0;
        assert_eq!(decide(1000, "192.0.2.1", "a@a.test"), Answer::Wait);
        assert_eq!(decide(1299, "192.0.2.1", "a@a.test"), Answer::Wait);
        // Another sender waits for itself; another host of the same network is the same.
        assert_eq!(decide(1300, "192.0.2.1", "c@a.test"), Answer::Wait);
        assert_eq!(decide(1300, "192.0.2.9", "A@a.test"), Answer::Pass);
        assert_eq!(decide(1301, "192.0.2.7", "new@a.test"), Answer::Pass);
        assert_eq!(decide(1301, "192.0.3.7", "a@a.test"), Answer::Wait);
        // The exception is not for ever, and neither is the wait.
        assert_eq!(decide(1_001_301, "192.0.2.7", "x@a.test"), Answer::Wait);
        assert_eq!(decide(1_020_000, "192.0.2.7", "x@a.test"), Answer::Wait);
    }

    #[test]
    fn a_clock_that_was_wrong_keeps_nobody_waiting() {
        let mut known = Known::default();
        let mut decide = |now| known.decide(now, triple("192.0.2.1", "a@a.test"), &settings()).0;
        assert_eq!(decide(1_000_000), Answer::Wait);
        // It has been set back by days: the wait begins anew, and ends.
        assert_eq!(decide(1000), Answer::Wait);
        assert_eq!(decide(1300), Answer::Pass);
    }

    #[test]
    fn what_is_written_is_what_comes_back() {
        let mut known = Known::default();
        let mut stored: std::collections::BTreeMap<Bytes, Bytes> = Default::default();
        for (now, peer) in [(1000, "192.0.2.1"), (1000, "198.51.100.1"), (2000, "192.0.2.1")] {
            for (key, value) in known.decide(now, triple(peer, "a@a.test"), &settings()).1 {
                match value {
                    Some(value) => drop(stored.insert(key, value)),
                    None => drop(stored.remove(&key)),
                }
            }
        }
        let pairs: Vec<(Bytes, Bytes)> = stored.into_iter().collect();
        let restored = Known::restore(&pairs);
        assert_eq!((&restored.waiting, &restored.networks), (&known.waiting, &known.networks));
        assert_eq!((restored.waiting.len(), restored.networks.len()), (1, 1));
        let odd = [(Bytes::from("w"), Bytes::from("x")), (Bytes::new(), Bytes::new())];
        assert!(Known::restore(&odd).waiting.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_a_full_list_keeps_nobody_waiting() {
        let mut known = Known::default();
        let settings = settings();
        for number in 0..KNOWN_MAX as u64 {
            known.decide(1000, Triple { waits: number, network: 0 }, &settings);
        }
        let more = Triple { waits: u64::MAX, network: 1 };
        assert_eq!(known.decide(1001, more, &settings).0, Answer::Pass);
        let (answer, pairs) = known.decide(20_000, more, &settings);
        assert_eq!((answer, pairs.len()), (Answer::Wait, FORGOTTEN_MAX + 1));
        assert_eq!(known.waiting.len(), KNOWN_MAX - FORGOTTEN_MAX + 1);
    }
}
