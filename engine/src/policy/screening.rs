//! Who has done too much of something is kept out for a while. Pure: time is an argument.
//!
//! Each address is counted by one core, which its hash chooses; that core tells all others of a ban
//! ([`connect`](super::connect)). Counts are of [sliding windows](crate::sliding). Memory is
//! bounded: with more addresses than [`COUNTED_MAX`] those that are quiet longest are forgotten,
//! and a table full of others forgets at random.

use super::networks::prefix;
use super::settings::Screening;
use crate::sliding::Sliding;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses and networks that one core counts: some 12 MiB at most.
const COUNTED_MAX: usize = 100_000;
/// Bans that are known at once.
const BANS_MAX: usize = 100_000;
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// A network may do so many times as much as an address.
const NETWORK_FACTOR: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    Connection,
    FailedLogin,
    UnknownRecipient,
    RefusedMessage,
}

impl Offence {
    pub const ALL: [Offence; 4] = [
        Offence::Connection,
        Offence::FailedLogin,
        Offence::UnknownRecipient,
        Offence::RefusedMessage,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Offence::Connection => "connections",
            Offence::FailedLogin => "failed logins",
            Offence::UnknownRecipient => "unknown recipients",
            Offence::RefusedMessage => "refused messages",
        }
    }

    /// Where it leads to being kept out.
    pub fn door(self) -> Door {
        match self {
            Offence::FailedLogin => Door::Login,
            Offence::Connection | Offence::UnknownRecipient | Offence::RefusedMessage => Door::Mail,
        }
    }

    /// 0: as often as anybody likes.
    pub fn limit(self, screening: &Screening) -> u32 {
        match self {
            Offence::Connection => screening.connections_max,
            Offence::FailedLogin => screening.failed_logins_max,
            Offence::UnknownRecipient => screening.unknown_recipients_max,
            Offence::RefusedMessage => screening.refused_messages_max,
        }
    }
}

/// Who guesses passwords may still bring mail, and a server whose mail is refused has users who log
/// in: many share an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// `listen.smtp`.
    Mail,
    /// Every other service.
    Login,
    /// Not shut, but slow: `listen.smtp` for who has gone half-way to being kept out.
    Tarpit,
}

/// An address, or a network by its first address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    Address(IpAddr),
    Network(IpAddr),
}

/// What one place has done, by offence.
type Counts = [Sliding; 4];

#[derive(Debug)]
pub struct Screen {
    origin: Instant,
    counted: HashMap<Place, Counts>,
    bans: HashMap<(Door, Place), Instant>,
    /// When bans that are over were last looked for.
    swept: Instant,
}

impl Screen {
    pub fn new(origin: Instant) -> Screen {
        Screen { origin, counted: HashMap::new(), bans: HashMap::new(), swept: origin }
    }

    /// Counts an offence. The places that are to be kept out from now on.
    pub fn note(
        &mut self,
        now: Instant,
        address: IpAddr,
        offence: Offence,
        screening: &Screening,
    ) -> Vec<Place> {
        let limit = offence.limit(screening);
        if limit == 0 {
            return Vec::new();
        }
        let address = address.to_canonical();
        let places = [
            (Place::Address(address), limit),
            (Place::Network(network(address)), limit.saturating_mul(NETWORK_FACTOR)),
        ];
        let mut over = Vec::new();
        for (place, limit) in places {
            if self.count(now, place, offence, screening.window_seconds) > u64::from(limit) {
                // It begins anew when the ban is over.
                self.counted.remove(&place);
                over.push(place);
            }
        }
        over
    }

    fn count(&mut self, now: Instant, place: Place, offence: Offence, window: u64) -> u64 {
        let (now, window) = (self.seconds(now), window.max(1));
        if self.counted.len() >= COUNTED_MAX && !self.counted.contains_key(&place) {
            self.forget(now, window);
        }
        let counts = &mut self.counted.entry(place).or_default()[offence as usize];
        counts.add(now, window, 1);
        counts.weigh(now, window)
    }

    fn seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_secs()
    }

    /// The places that have gone half-way to being kept out for this, but for those that
    /// are known to have.
    pub fn near(
        &self,
        now: Instant,
        address: IpAddr,
        offence: Offence,
        screening: &Screening,
    ) -> Vec<Place> {
        let (limit, address) = (offence.limit(screening), address.to_canonical());
        let (seconds, window) = (self.seconds(now), screening.window_seconds.max(1));
        let half = |place: &Place| {
            let limit = match place {
                Place::Address(_) => limit,
                Place::Network(_) => limit.saturating_mul(NETWORK_FACTOR),
            };
            let known = self.bans.get(&(Door::Tarpit, *place)).is_some_and(|until| *until > now);
            let counts = self.counted.get(place).map(|counts| counts[offence as usize]);
            let done = counts.map_or(0, |counts| counts.weigh(seconds, window));
            limit > 0 && !known && 2 * done > u64::from(limit)
        };
        let places = [Place::Address(address), Place::Network(network(address))];
        places.into_iter().filter(half).collect()
    }

    fn forget(&mut self, now: u64, window: u64) {
        self.counted.retain(|_, counts| counts.iter().any(|one| one.weigh(now, window) > 0));
        if self.counted.len() >= COUNTED_MAX {
            // All are busy: an attack from everywhere. Half of them go; who goes on is
            // soon counted again.
            let mut keep = false;
            self.counted.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
    }

    /// Keeps a place out. On every core.
    pub fn ban(&mut self, now: Instant, door: Door, place: Place, until: Instant) {
        // A table full of bans is looked through once in a while, not with each more.
        if self.bans.len() >= BANS_MAX && now >= self.swept + SWEEP_EVERY {
            self.swept = now;
            self.bans.retain(|_, until| *until > now);
        }
        if self.bans.len() < BANS_MAX {
            self.bans.insert((door, place), until);
        }
    }

    pub fn is_banned(&self, now: Instant, door: Door, address: IpAddr) -> bool {
        if self.bans.is_empty() {
            return false;
        }
        let address = address.to_canonical();
        [Place::Address(address), Place::Network(network(address))]
            .iter()
            .any(|&place| self.bans.get(&(door, place)).is_some_and(|until| *until > now))
    }
}

/// The /24, or the /64 of IPv6, that an address is in.
pub fn network(address: IpAddr) -> IpAddr {
    prefix(address, 24, 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LIMITS: Screening = Screening {
        window_seconds: 100,
        ban_seconds: 1000,
        tarpit_seconds: 0,
        connections_max: 0,
        failed_logins_max: 10,
        unknown_recipients_max: 20,
        refused_messages_max: 5,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_over_its_limit_within_a_sliding_window_and_not_beyond() {
        let origin = Instant::now();
        let at = |seconds: f64| origin + Duration::from_secs_f64(seconds);
        let address = ip("192.0.2.1");
        let mut screen = Screen::new(origin);
        for second in 0..10 {
            let over = screen.note(at(f64::from(second)), address, Offence::FailedLogin, &LIMITS);
            assert_eq!(over, [], "{second}");
        }
        let over = screen.note(at(10.0), address, Offence::FailedLogin, &LIMITS);
        assert_eq!(over, [Place::Address(address)]);
        // Ten in one window, and two in the middle of the next: 2 + 10/2 are within the limit.
        let mut screen = Screen::new(origin);
        for _ in 0..10 {
            assert_eq!(screen.note(at(99.0), address, Offence::FailedLogin, &LIMITS), []);
        }
        assert_eq!(screen.note(at(101.0), address, Offence::FailedLogin, &LIMITS).len(), 1);
        let mut screen = Screen::new(origin);
        for _ in 0..10 {
            screen.note(at(99.0), address, Offence::FailedLogin, &LIMITS);
        }
        assert_eq!(screen.note(at(150.0), address, Offence::FailedLogin, &LIMITS), []);
        // What is not limited is not counted, and other things are counted apart.
        for _ in 0..1000 {
            assert_eq!(screen.note(at(150.0), address, Offence::Connection, &LIMITS), []);
        }
        assert_eq!(screen.note(at(150.0), address, Offence::RefusedMessage, &LIMITS), []);
    }

    #[test]
    fn a_network_is_over_when_its_addresses_are_together() {
        let now = Instant::now();
        let mut screen = Screen::new(now);
        let mut over = Vec::new();
        for last in 1..=50 {
            over.extend(screen.note(
                now,
                ip(&format!("192.0.2.{last}")),
                Offence::FailedLogin,
                &LIMITS,
            ));
        }
        assert_eq!(over, [Place::Network(ip("192.0.2.0"))]);
        screen.ban(now, Door::Login, over[0], now + Duration::from_secs(9));
        let is_banned = |seconds, door, address| {
            screen.is_banned(now + Duration::from_secs(seconds), door, ip(address))
        };
        assert!(is_banned(0, Door::Login, "192.0.2.200"));
        assert!(is_banned(0, Door::Login, "::ffff:192.0.2.200"));
        assert!(!is_banned(0, Door::Login, "192.0.3.1"));
        assert!(!is_banned(10, Door::Login, "192.0.2.200"));
        assert!(!is_banned(0, Door::Mail, "192.0.2.200"), "it may still bring mail");
        assert_eq!(network(ip("2001:db8:1:2:3::4")), ip("2001:db8:1:2::"));
    }

    #[test]
    fn who_is_half_way_to_being_kept_out_is_answered_late() {
        let (origin, address) = (Instant::now(), ip("192.0.2.1"));
        let mut screen = Screen::new(origin);
        let at = |seconds| origin + Duration::from_secs(seconds);
        for _ in 0..LIMITS.failed_logins_max / 2 {
            screen.note(at(1), address, Offence::FailedLogin, &LIMITS);
        }
        assert_eq!(screen.near(at(1), address, Offence::FailedLogin, &LIMITS), []);
        screen.note(at(1), address, Offence::FailedLogin, &LIMITS);
        let near = screen.near(at(1), address, Offence::FailedLogin, &LIMITS);
        assert_eq!(near, [Place::Address(address)]);
        assert_eq!(screen.near(at(1), ip("192.0.2.2"), Offence::FailedLogin, &LIMITS), []);
        assert_eq!(screen.near(at(1), address, Offence::RefusedMessage, &LIMITS), []);
        let much_later = at(3 * LIMITS.window_seconds);
        assert_eq!(screen.near(much_later, address, Offence::FailedLogin, &LIMITS), []);
        screen.ban(at(1), Door::Tarpit, near[0], at(50));
        assert_eq!(screen.near(at(2), address, Offence::FailedLogin, &LIMITS), [], "it is known");
        assert!(!screen.is_banned(at(2), Door::Mail, address), "late, but not kept out");
    }

    #[test]
    fn memory_is_bounded_whoever_comes() {
        let now = Instant::now();
        let mut screen = Screen::new(now);
        for number in 0..300_000_u32 {
            let address = Ipv4Addr::from_bits(number << 8).into();
            screen.note(now, address, Offence::FailedLogin, &LIMITS);
            let until = now + Duration::from_secs(1);
            screen.ban(now, Door::Mail, Place::Address(address), until);
        }
        assert!(screen.counted.len() <= COUNTED_MAX && screen.bans.len() <= BANS_MAX);
        // And when those bans are over, there is room for others.
        let later = now + Duration::from_secs(2);
        let last = ip("203.0.113.1");
        screen.ban(later, Door::Mail, Place::Address(last), later + Duration::from_secs(9));
        assert!(screen.is_banned(later, Door::Mail, last));
        assert_eq!(screen.bans.len(), 1);
    }
}
