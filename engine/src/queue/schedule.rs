//! When a message is tried again, when its sender is told of the wait, and when it is given up.
//! RFC 5321 section 4.5.4.1: waits grow, and the last is days after the first.

use crate::relay::settings::Relay;

/// Waits do not grow any more after so many.
const TRIES_COUNTED_MAX: u32 = 21;

/// Seconds until the next try, after `attempts` of them. `number` spreads messages that failed
/// together over an eighth of the wait.
pub fn wait(relay: &Relay, attempts: u32, number: u32) -> u64 {
    let first = relay.retry_first.0.as_secs().max(1);
    let most = relay.retry_most.0.as_secs().max(first);
    let doubled = first.saturating_mul(1 << attempts.saturating_sub(1).min(20));
    let wait = doubled.min(most);
    wait - u64::from(number) % (wait / 8 + 1)
}

/// So many tries a message of that age has had at least, if it was tried all the while. Where less
/// than that is known of it (tries that came to nothing are not all recorded), the next wait is as
/// long as after so many.
pub fn tries_within(relay: &Relay, age: u64) -> u32 {
    let (mut tries, mut until) = (0, wait(relay, 1, 0));
    while until <= age && tries < TRIES_COUNTED_MAX {
        tries += 1;
        until += wait(relay, tries + 1, 0);
    }
    tries
}

/// When a message is tried first after a start of which nothing is recorded: at once if it is
/// young, and all others over an eighth of their wait.
pub fn first_after_start(relay: &Relay, arrived: u64, now: u64, number: u32) -> u64 {
    match tries_within(relay, now.saturating_sub(arrived)) {
        0 => arrived,
        tries => now + wait(relay, tries, 0) - wait(relay, tries, number),
    }
}

pub fn is_expired(relay: &Relay, arrived: u64, now: u64) -> bool {
    now >= arrived.saturating_add(relay.expire.0.as_secs())
}

/// Zero: senders are not told.
pub fn is_delayed(relay: &Relay, arrived: u64, now: u64) -> bool {
    let after = relay.delay_notice.0.as_secs();
    after > 0 && now >= arrived.saturating_add(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::when::Span;
    use std::time::Duration;

    #[test]
    fn waits_grow_up_to_a_bound() {
        let minutes = |count: u64| Span(Duration::from_secs(count * 60));
        let relay = Relay { retry_first: minutes(5), retry_most: minutes(60), ..Relay::default() };
        let waits: Vec<u64> = (1..=6).map(|attempts| wait(&relay, attempts, 0)).collect();
        assert_eq!(waits, [300, 600, 1200, 2400, 3600, 3600]);
        assert_eq!(wait(&relay, u32::MAX, 0), 3600);
        for number in 0..1000 {
            assert!((3150..=3600).contains(&wait(&relay, 9, number)));
        }
        let relay = Relay { retry_first: Span(Duration::ZERO), ..relay };
        assert_eq!(wait(&relay, 1, 7), 1);
    }

    #[test]
    fn age_tells_of_tries_that_nobody_recorded() {
        let seconds = |count: u64| Span(Duration::from_secs(count));
        let relay =
            Relay { retry_first: seconds(300), retry_most: seconds(3600), ..Relay::default() };
        // 300, then 600 and 1200 later.
        for (age, tries) in [(0, 0), (299, 0), (300, 1), (899, 1), (900, 2), (2100, 3)] {
            assert_eq!(tries_within(&relay, age), tries, "{age}");
        }
        assert_eq!(wait(&relay, tries_within(&relay, u64::MAX), 0), 3600);
        // Who was tried all the while has had as many.
        let (mut age, mut tries) = (0, 0);
        while age < 100_000 {
            assert!(tries_within(&relay, age) <= tries);
            tries += 1;
            age += wait(&relay, tries, 7919);
        }
        assert_eq!(first_after_start(&relay, 1000, 1299, 5), 1000);
        let later: Vec<u64> =
            (0..1000).map(|number| first_after_start(&relay, 1000, 90_000, number)).collect();
        assert_eq!(later.iter().min(), Some(&90_000));
        assert_eq!(later.iter().max(), Some(&90_450));
    }

    #[test]
    fn patience_ends() {
        let relay = Relay::default();
        let expire = relay.expire.0.as_secs();
        assert!(!is_expired(&relay, 100, 99 + expire) && is_expired(&relay, 100, 100 + expire));
        let never = Relay { delay_notice: Span(Duration::ZERO), ..relay };
        assert!(!is_delayed(&never, 0, u64::MAX));
    }
}
