//! When a message is tried again, when its sender is told of the wait, and when it is given up.
//! RFC 5321 section 4.5.4.1: waits grow, and the last is days after the first.

use crate::relay::settings::Relay;

/// Seconds until the next try, after `attempts` of them. `number` spreads messages that failed together
/// over an eighth of the wait.
pub fn wait(relay: &Relay, attempts: u32, number: u32) -> u64 {
    let first = relay.retry_first.0.as_secs().max(1);
    let most = relay.retry_most.0.as_secs().max(first);
    let doubled = first.saturating_mul(1 << attempts.saturating_sub(1).min(20));
    let wait = doubled.min(most);
    wait - u64::from(number) % (wait / 8 + 1)
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
    fn patience_ends() {
        let relay = Relay::default();
        let expire = relay.expire.0.as_secs();
        assert!(!is_expired(&relay, 100, 99 + expire) && is_expired(&relay, 100, 100 + expire));
        let never = Relay { delay_notice: Span(Duration::ZERO), ..relay };
        assert!(!is_delayed(&never, 0, u64::MAX));
    }
}
