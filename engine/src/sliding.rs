//! How much of something there was within the time that ends now, in two numbers: what was counted
//! in this window, and in the one before, of which so much weighs as is still within reach. Pure:
//! time is an argument, in seconds since whenever.

use serde::{Deserialize, Serialize};

/// What was counted in windows of some length, which whoever asks has to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sliding {
    /// Which window is under way.
    window: u64,
    this: u32,
    before: u32,
}

/// Whether so many more fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Now,
    From(u64),
    Never,
}

impl Sliding {
    fn turn(&mut self, now: u64, length: u64) {
        let window = now / length;
        (self.this, self.before) = match window.checked_sub(self.window) {
            Some(0) => (self.this, self.before),
            Some(1) => (0, self.this),
            // A clock that was wrong: as if nothing had been counted.
            Some(_) | None => (0, 0),
        };
        self.window = window;
    }

    pub fn add(&mut self, now: u64, length: u64, count: u32) {
        self.turn(now, length);
        self.this = self.this.saturating_add(count);
    }

    pub fn take_back(&mut self, now: u64, length: u64, count: u32) {
        self.turn(now, length);
        let rest = count.saturating_sub(self.this);
        self.this = self.this.saturating_sub(count);
        self.before = self.before.saturating_sub(rest);
    }

    /// Within the length that ends now, rounded up.
    pub fn weigh(mut self, now: u64, length: u64) -> u64 {
        self.turn(now, length);
        let left = length - now % length;
        u64::from(self.this) + (u64::from(self.before) * left).div_ceil(length)
    }

    pub fn room(mut self, now: u64, length: u64, count: u32, limit: u32) -> Room {
        let Some(most) = limit.checked_sub(count).map(u64::from) else { return Room::Never };
        if self.weigh(now, length) <= most {
            return Room::Now;
        }
        self.turn(now, length);
        let start = self.window * length;
        // What weighs `of` at the start of a window, and nothing at its end, weighs no more than
        // `most` from then on.
        let after = |start: u64, of: u64, most: u64| start + length - most * length / of.max(1);
        let (this, before) = (u64::from(self.this), u64::from(self.before));
        if this <= most {
            Room::From(after(start, before, most - this))
        } else {
            Room::From(after(start + length, this, most))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    #[test]
    fn the_time_that_is_told_is_the_first_at_which_there_is_room() {
        let mut seed = 7_u64;
        let mut pick = |of: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % of
        };
        for _ in 0..2000 {
            let mut sliding = Sliding::default();
            let mut now = 500_000 * HOUR;
            for _ in 0..pick(20) {
                now += pick(1500);
                sliding.add(now, HOUR, u32::try_from(pick(30)).unwrap());
            }
            let (count, limit) =
                (1 + u32::try_from(pick(20)).unwrap(), 20 + u32::try_from(pick(50)).unwrap());
            let fits = |at: u64| sliding.weigh(at, HOUR) + u64::from(count) <= u64::from(limit);
            match sliding.room(now, HOUR, count, limit) {
                Room::Now => assert!(fits(now)),
                Room::From(at) => {
                    assert!(at > now && fits(at), "{sliding:?} {now} {at} {count} {limit}");
                    // To a second or so.
                    assert!(
                        !fits(at.saturating_sub(2).max(now)),
                        "{sliding:?} {now} {at} {count} {limit}"
                    );
                }
                Room::Never => assert!(count > limit),
            }
        }
    }
}
