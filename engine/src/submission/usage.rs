//! What one account has sent lately, against what it may. Pure: time is an argument,
//! in Unix seconds.
//!
//! Each amount is counted in [sliding windows](crate::sliding). So it is known, too, from when on
//! there is room again.

use super::settings::Limits;
use crate::sliding::{Room, Sliding};
use serde::{Deserialize, Serialize};

pub const HOUR: u64 = 3600;
pub const DAY: u64 = 86_400;

/// Messages and recipients, by hour and by day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    messages: [Sliding; 2],
    recipients: [Sliding; 2],
}

const LENGTHS: [u64; 2] = [HOUR, DAY];

/// What an account has sent as much of as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    what: &'static str,
    within: &'static str,
    pub limit: u32,
    /// From when on there is room; `None`: never, for one message is more than all
    /// that may be sent.
    pub until: Option<u64>,
}

impl Amounts {
    /// Whether a message to so many may go.
    pub fn check(&self, now: u64, recipients: u32, limits: &Limits) -> Result<(), Over> {
        let Limits { messages_per_hour, messages_per_day, .. } = *limits;
        let Limits { recipients_per_hour, recipients_per_day, .. } = *limits;
        let rows = [
            ("messages", self.messages, 1, [messages_per_hour, messages_per_day]),
            ("recipients", self.recipients, recipients, [recipients_per_hour, recipients_per_day]),
        ];
        let mut found: Option<Over> = None;
        for (what, counted, count, limits) in rows {
            let each = counted.iter().zip(LENGTHS).zip(["hour", "day"]).zip(limits);
            for (((sliding, length), within), limit) in each.filter(|(_, limit)| *limit > 0) {
                let until = match sliding.room(now, length, count, limit) {
                    Room::Now => continue,
                    Room::From(at) => Some(at),
                    Room::Never => None,
                };
                let over = Over { what, within, limit, until };
                // The one that lasts longest is told: else who comes again then is told the next.
                let last = |over: &Over| over.until.unwrap_or(u64::MAX);
                if found.is_none_or(|found| last(&found) < last(&over)) {
                    found = Some(over);
                }
            }
        }
        found.map_or(Ok(()), Err)
    }

    pub fn add(&mut self, now: u64, recipients: u32) {
        for (at, length) in LENGTHS.into_iter().enumerate() {
            self.messages[at].add(now, length, 1);
            self.recipients[at].add(now, length, recipients);
        }
    }

    pub fn take_back(&mut self, now: u64, recipients: u32) {
        for (at, length) in LENGTHS.into_iter().enumerate() {
            self.messages[at].take_back(now, length, 1);
            self.recipients[at].take_back(now, length, recipients);
        }
    }

    /// Messages and recipients of the last day.
    pub fn of_day(&self, now: u64) -> (u64, u64) {
        (self.messages[1].weigh(now, DAY), self.recipients[1].weigh(now, DAY))
    }
}

impl Over {
    /// For the user whose message is refused.
    pub fn words(&self, account: &str) -> String {
        let Over { what, within, limit, until } = self;
        match until {
            Some(at) => format!(
                "{account} has sent as much as it may: {limit} {what} within one {within}; try again after {}",
                crate::when::time_text(at * 1000)
            ),
            None => format!(
                "{account} may send to {limit} recipients within one {within}, and this message has more"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000 / DAY * DAY;

    fn limits(messages_per_hour: u32, recipients_per_day: u32) -> Limits {
        Limits { messages_per_hour, recipients_per_day, ..Limits::default() }
    }

    #[test]
    fn an_account_may_send_up_to_its_limit_and_again_when_it_was_told() {
        let mut amounts = Amounts::default();
        for second in 0..10 {
            assert_eq!(amounts.check(START + second, 1, &limits(10, 0)), Ok(()));
            amounts.add(START + second, 1);
        }
        let over = amounts.check(START + 600, 1, &limits(10, 0)).unwrap_err();
        let until = over.until.unwrap();
        assert!((START + HOUR..=START + 2 * HOUR).contains(&until), "{over:?}");
        assert!(amounts.check(until - 60, 1, &limits(10, 0)).is_err());
        assert_eq!(amounts.check(until, 1, &limits(10, 0)), Ok(()));
        let words = over.words("ann@a.test");
        assert!(words.starts_with("ann@a.test has sent as much as it may: 10 messages within one hour; try again after 20"), "{words}");
    }

    #[test]
    fn the_limit_that_lasts_longest_is_told_and_what_never_fits_is_refused_for_good() {
        let mut amounts = Amounts::default();
        amounts.add(START, 50);
        let over = amounts.check(START, 60, &limits(1, 100)).unwrap_err();
        assert_eq!((over.what, over.within), ("recipients", "day"));
        assert!(over.until > Some(START + DAY));
        let never = amounts.check(START, 101, &limits(1, 100)).unwrap_err();
        assert_eq!(never.until, None);
        assert!(
            never.words("a@b").contains("100 recipients within one day, and this message has more")
        );
        assert_eq!(amounts.check(START, u32::MAX, &limits(0, 0)), Ok(()), "0 is no limit");
    }

    #[test]
    fn what_was_not_taken_does_not_count() {
        let mut amounts = Amounts::default();
        amounts.add(START - 1, 7);
        amounts.add(START, 3);
        // The next window has begun meanwhile.
        amounts.take_back(START, 7);
        amounts.take_back(START, 3);
        assert_eq!(amounts.of_day(START), (0, 0));
        amounts.take_back(START, 3);
        assert_eq!(amounts.of_day(START), (0, 0));
    }

    #[test]
    fn a_clock_that_was_wrong_keeps_nobody_from_sending() {
        let mut amounts = Amounts::default();
        amounts.add(START + 400 * DAY, 10);
        assert_eq!(amounts.check(START, 1, &limits(1, 1)), Ok(()));
        amounts.add(START, 1);
        assert!(amounts.check(START, 1, &limits(1, 1)).is_err());
    }
}
