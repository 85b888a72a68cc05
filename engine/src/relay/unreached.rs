//! Destinations that could not be reached, and why: known once for all messages that wait for one,
//! rather than recorded for each of them.
//!
//! In memory only: after a start each message is tried again, and so is its destination. Bound:
//! [`KNOWN_MAX`]; beyond it a message's own record says why it waits.

use super::route::Route;
use crate::queue::message::{Outcome, Standing};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Of one core. With their words they take some hundred octets each.
const KNOWN_MAX: usize = 4096;
/// Messages that were parked are tried later than their time.
const LATE_SECONDS: u64 = 3600;

/// Of one core.
#[derive(Debug, Default)]
pub struct Unreached(RefCell<BTreeMap<Route, Known>>);

#[derive(Debug)]
struct Known {
    at: u64,
    why: Standing,
}

impl Unreached {
    /// What was met at `now`, shared by all messages for that destination; as it was where it has
    /// to be recorded for each of them. No message waits longer than `wait_most` for its next try.
    pub fn share(&self, route: &Route, why: Standing, now: u64, wait_most: u64) -> Standing {
        if why.outcome != Outcome::Waiting {
            return why;
        }
        let mut all = self.0.borrow_mut();
        if all.len() >= KNOWN_MAX && !all.contains_key(route) {
            all.retain(|_, known| now < known.at + wait_most + LATE_SECONDS);
            if all.len() >= KNOWN_MAX {
                return why;
            }
        }
        let why = Standing { is_shared: true, ..why };
        all.insert(route.clone(), Known { at: now, why: why.clone() });
        why
    }

    pub fn why(&self, route: &Route) -> Option<Standing> {
        self.0.borrow().get(route).map(|known| known.why.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::route::Need;
    use super::*;

    fn route(number: usize) -> Route {
        Route::Domain(format!("d{number}.test"), Need::Usual)
    }

    fn why(words: &str) -> Standing {
        Standing::new(Outcome::Waiting, "4.4.1", words)
    }

    #[test]
    fn the_last_reason_is_known_for_all_that_wait() {
        let unreached = Unreached::default();
        assert_eq!(unreached.why(&route(1)), None);
        for words in ["nobody", "refused"] {
            let shared = unreached.share(&route(1), why(words), 10, 60);
            assert!(shared.is_shared);
            assert_eq!(unreached.why(&route(1)), Some(shared));
        }
        assert_eq!(unreached.why(&route(1)).unwrap().why, "refused");
        let failed = Standing::new(Outcome::Failed, "5.1.2", "no such domain");
        assert!(!unreached.share(&route(2), failed, 10, 60).is_shared, "its sender is told");
        assert_eq!(unreached.why(&route(2)), None);
    }

    #[test]
    fn beyond_the_bound_each_message_has_its_own_until_there_is_room() {
        let unreached = Unreached::default();
        for number in 0..KNOWN_MAX {
            assert!(unreached.share(&route(number), why("nobody"), 10, 60).is_shared);
        }
        assert!(!unreached.share(&route(KNOWN_MAX), why("nobody"), 11, 60).is_shared);
        let later = 10 + 60 + LATE_SECONDS;
        assert!(unreached.share(&route(3), why("still nobody"), later, 60).is_shared);
        assert!(unreached.share(&route(KNOWN_MAX), why("nobody"), later, 60).is_shared);
        assert_eq!(unreached.why(&route(4)), None, "nobody waits for that reason any more");
        assert!(unreached.why(&route(3)).is_some());
    }
}
