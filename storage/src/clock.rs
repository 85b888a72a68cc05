//! What time it is, as far as that is believed: a clock that is wrong for a while must not make
//! the store forget.
//!
//! A host that boots with a wrong time and hears the right one later would, in between, be years
//! ahead, and all that is remembered would be older than the retention. So a clock that is more
//! than a day ahead, of what passed since the last look or of the newest batch when the store was
//! opened, is believed only after it has said so for a day. Until then what passes is counted from
//! the last time that was believed. A clock that is behind is believed at once: nothing is
//! forgotten by it.

use crate::types::UnixMillis;
use std::time::Duration;

/// Stores that were at rest for so long are nothing unusual.
const LEEWAY: Duration = Duration::from_secs(86_400);

/// Somebody sets a clock right within so long, or it is right.
const PATIENCE: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    believed: UnixMillis,
    /// When that was, by the clock that does not jump.
    looked: Duration,
    /// Since when the other one has been ahead.
    ahead_since: Option<Duration>,
}

impl Clock {
    /// `newest`: a time that has surely been.
    pub(crate) fn new(newest: UnixMillis, steady: Duration) -> Clock {
        Clock { believed: newest, looked: steady, ahead_since: None }
    }

    /// `now`: what the host says. `steady`: what has passed, without jumps.
    pub(crate) fn look(&mut self, now: UnixMillis, steady: Duration) -> UnixMillis {
        let passed = millis(steady.saturating_sub(self.looked));
        let counted = UnixMillis(self.believed.0.saturating_add(passed));
        self.looked = steady;
        if now.0 <= counted.0.saturating_add(millis(LEEWAY)) {
            self.ahead_since = None;
            self.believed = now;
        } else {
            let since = *self.ahead_since.get_or_insert(steady);
            let is_believed = steady.saturating_sub(since) >= PATIENCE;
            self.believed = if is_believed { now } else { counted };
        }
        self.believed
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const YEAR: u64 = 365 * 24 * HOUR;

    fn look(clock: &mut Clock, now: u64, hours: u64) -> u64 {
        clock.look(UnixMillis(now), Duration::from_millis(hours * HOUR)).0
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_believed_after_a_day_and_one_that_goes_back_at_once() {
        let start = 50 * YEAR;
        let mut clock = Clock::new(UnixMillis(start), Duration::ZERO);
        assert_eq!(look(&mut clock, start + 20 * HOUR, 0), start + 20 * HOUR, "a night at rest");
        assert_eq!(look(&mut clock, start + 10 * YEAR, 1), start + 21 * HOUR);
        assert_eq!(
            look(&mut clock, start + 10 * YEAR, 20),
            start + 40 * HOUR,
            "what passes counts"
        );
        assert_eq!(look(&mut clock, start + 41 * HOUR, 21), start + 41 * HOUR, "set right");
        let far = start + 9 * YEAR;
        assert_eq!(look(&mut clock, far, 22), start + 42 * HOUR, "it begins anew");
        assert_eq!(look(&mut clock, far + 23 * HOUR, 45), start + 65 * HOUR);
        assert_eq!(look(&mut clock, far + 24 * HOUR, 46), far + 24 * HOUR, "it says so for a day");
        assert_eq!(look(&mut clock, far + 25 * HOUR, 47), far + 25 * HOUR);
        assert_eq!(look(&mut clock, start, 48), start);
    }
}
