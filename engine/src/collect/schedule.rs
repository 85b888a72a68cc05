//! When a source is visited, and what its failures do to that. Without a clock.
//!
//! A user hears of a failure once, until a visit succeeds: at once of what will not mend itself
//! (a wrong password, a certificate, a mailbox that is gone), after a day of what may (nobody
//! there, silence).

use super::reason::{Kind, Reason};
use super::settings::Collect;
use serde::{Deserialize, Serialize};

/// What may mend itself is told after so long.
const PATIENCE_SECONDS: u64 = 86_400;
/// A visit that has brought nothing new is written down so often.
const WRITTEN_EVERY_SECONDS: u64 = 3600;
/// What was left for the next visit.
const SOON_SECONDS: u64 = 1;

/// How a source stands. Times are in seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    pub collected: u64,
    pub deleted: u64,
    pub last_visit: Option<u64>,
    pub last_success: Option<u64>,
    /// In a row.
    pub failures: u32,
    pub failing_since: Option<u64>,
    pub kind: Option<Kind>,
    /// Why the last visit failed.
    pub why: Option<String>,
    /// What the user knows of already.
    pub told: Option<Kind>,
    /// A failure puts the next visit off until then.
    pub next: Option<u64>,
    /// The message at which the last visit broke off, in hexadecimal: the others come first.
    pub stumbled: Option<String>,
    /// What is odd about the server.
    pub remark: Option<String>,
}

impl Standing {
    pub fn succeeded(&mut self, now: u64) {
        *self = Standing {
            collected: self.collected,
            deleted: self.deleted,
            last_visit: Some(now),
            last_success: Some(now),
            remark: self.remark.take(),
            ..Standing::default()
        };
    }

    /// Whether it is written down: what is as it was before is, once in a while.
    pub fn is_news(&self, before: &Standing, written: &Standing) -> bool {
        let timeless =
            |one: &Standing| Standing { last_visit: None, last_success: None, ..one.clone() };
        let at = |one: &Standing| one.last_visit.unwrap_or(0);
        timeless(self) != timeless(before)
            || timeless(self) != timeless(written)
            || at(self).saturating_sub(at(written)) >= WRITTEN_EVERY_SECONDS
    }

    /// Whether the user has to be told.
    pub fn failed(&mut self, reason: &Reason, settings: &Collect, now: u64) -> bool {
        self.failures = self.failures.saturating_add(1);
        let since = *self.failing_since.get_or_insert(now);
        self.last_visit = Some(now);
        self.kind = Some(reason.kind);
        self.why = Some(reason.why.clone());
        // A server may lock an account for wrong passwords.
        let steps = if reason.kind == Kind::Login { self.failures + 2 } else { self.failures - 1 };
        let first = settings.retry_first.0.as_secs().max(1);
        let wait = first.saturating_mul(1 << steps.min(20));
        self.next = Some(now.saturating_add(wait.min(settings.retry_most.0.as_secs().max(1))));
        let patient = reason.kind.may_mend_itself() && now.saturating_sub(since) < PATIENCE_SECONDS;
        !patient && self.told != Some(reason.kind)
    }

    /// When the next visit is due; `None`: at a wish only. `has_more`: something was left.
    pub fn due(&self, every: Option<u64>, has_more: bool, now: u64) -> Option<u64> {
        if has_more {
            return Some(now + SOON_SECONDS);
        }
        let regular = every.map(|seconds| now.saturating_add(seconds))?;
        // A failing source is tried sooner than a rare schedule says, and later than a dense one.
        Some(self.next.map_or(regular, |next| if self.failures > 0 { next } else { regular }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(kind: Kind) -> Reason {
        Reason { kind, why: "because".into() }
    }

    #[test]
    fn failures_put_off_twice_as_long_each_time() {
        let settings = Collect::default();
        let mut standing = Standing::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            standing.failed(&reason(Kind::Unreachable), &settings, 1000);
            waits.push(standing.due(Some(900), false, 1000).unwrap() - 1000);
        }
        assert_eq!(waits, [300, 600, 1200, 2400, 4800, 9600, 14_400, 14_400]);
        standing.succeeded(2000);
        assert_eq!(standing.due(Some(900), false, 2000), Some(2900));
        assert_eq!(standing.due(Some(900), true, 2000), Some(2001));
        assert_eq!(standing.due(None, false, 2000), None);
        standing.failed(&reason(Kind::Login), &settings, 1000);
        assert_eq!(standing.next, Some(1000 + 2400));
    }

    #[test]
    fn visits_that_bring_nothing_are_written_down_once_an_hour() {
        let mut written = Standing::default();
        written.succeeded(1000);
        let mut next = written.clone();
        next.succeeded(1900);
        assert!(!next.is_news(&written, &written));
        next.succeeded(4600);
        assert!(next.is_news(&written, &written));
        next.succeeded(1900);
        next.collected += 1;
        assert!(next.is_news(&written, &written));
    }

    #[test]
    fn a_user_is_told_once() {
        let settings = Collect::default();
        let mut standing = Standing::default();
        let tells = |standing: &mut Standing, kind, now| {
            let told = standing.failed(&reason(kind), &settings, now);
            if told {
                standing.told = Some(kind);
            }
            told
        };
        assert!(tells(&mut standing, Kind::Login, 10));
        assert!(!tells(&mut standing, Kind::Login, 20));
        assert!(tells(&mut standing, Kind::Certificate, 30));
        standing.succeeded(40);
        assert!(!tells(&mut standing, Kind::Unreachable, 50));
        assert!(!tells(&mut standing, Kind::Unreachable, 50 + PATIENCE_SECONDS - 1));
        assert!(tells(&mut standing, Kind::Unreachable, 50 + PATIENCE_SECONDS));
        assert!(!tells(&mut standing, Kind::Unreachable, 60 + PATIENCE_SECONDS));
    }
}
