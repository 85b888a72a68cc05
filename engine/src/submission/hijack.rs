//! Whether somebody else sends in an account's name: few rules, each with its reason in words. Pure: time is an argument,
//! in Unix seconds.
//!
//! | rule | within an hour | why |
//! |---|---|---|
//! | burst | recipients, beyond a floor and many times the most so far | who has a password sends as fast as they can |
//! | strangers | recipients that the account has not written to before, likewise | lists of addresses are bought |
//! | refused | recipients that are refused for good, and a third of all | such lists are old |
//! | networks | networks that messages come from, beyond a floor and three times the most so far | a botnet shares passwords |
//! | authors | addresses in `From` that are not the account's, likewise | the name on a message is forged |
//!
//! All but *refused* compare an account with its own past, so they say nothing before it has one: a list server names many
//! authors, and a login may be many devices'. What is suspected stays so
//! until an operator releases the account's mail or gives it a new password, and is not taken for its usual way.

use super::settings::Hijack;
use super::usage::{HOUR, Sliding};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// The most of any hour counts half after so many seconds.
const FADES_IN: u64 = 30 * 86_400;
/// Networks and authors: so many times the most so far are too many. They do not come in bulk.
const TIMES_DIFFERENT: u32 = 3;
/// Networks, or authors, that are known of an account.
const SEEN_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    Burst,
    Strangers,
    Refused,
    Networks,
    Authors,
}

impl Rule {
    pub const ALL: [Rule; 5] =
        [Rule::Burst, Rule::Strangers, Rule::Refused, Rule::Networks, Rule::Authors];

    pub fn name(self) -> &'static str {
        match self {
            Rule::Burst => "burst",
            Rule::Strangers => "strangers",
            Rule::Refused => "refused",
            Rule::Networks => "networks",
            Rule::Authors => "authors",
        }
    }
}

/// Why an account is thought to be in others' hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    pub since: u64,
    pub rule: Rule,
    /// In words: "it has …".
    pub why: String,
    /// The operator knows.
    #[serde(default)]
    pub is_told: bool,
}

/// An amount of an hour, and the most of any hour before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Paced {
    hour: Sliding,
    /// Of the hour that is counted, and which that is.
    this: u32,
    number: u64,
    most: u32,
    most_at: u64,
}

impl Paced {
    fn add(&mut self, now: u64, count: u32) {
        self.turn(now);
        self.hour.add(now, HOUR, count);
        self.this = self.this.saturating_add(count);
    }

    fn turn(&mut self, now: u64) {
        if now / HOUR == self.number {
            return;
        }
        // When it was over.
        self.learn((self.number + 1) * HOUR, u64::from(self.this));
        (self.this, self.number) = (0, now / HOUR);
    }

    fn learn(&mut self, at: u64, count: u64) {
        if count >= self.usual(at) {
            (self.most, self.most_at) = (u32::try_from(count).unwrap_or(u32::MAX), at);
        }
    }

    fn usual(&self, now: u64) -> u64 {
        let halves = now.saturating_sub(self.most_at) / FADES_IN;
        u64::from(self.most) >> halves.min(32)
    }

    /// How many that are, if these are too many.
    fn beyond(&self, now: u64, floor: u32, times: u32) -> Option<u64> {
        let count = self.hour.weigh(now, HOUR);
        let is_beyond = floor > 0
            && count > u64::from(floor)
            && count > self.usual(now).saturating_mul(u64::from(times));
        is_beyond.then_some(count)
    }

    /// It begins anew. `is_usual`: what was counted is nothing new any more.
    fn forget(&mut self, now: u64, is_usual: bool) {
        if is_usual {
            self.learn(now, self.hour.weigh(now, HOUR));
        }
        (self.hour, self.this) = (Sliding::default(), 0);
    }
}

/// How many different things there were: those of the last hour, by hash, with when each was seen last, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Different {
    seen: VecDeque<(u32, u64)>,
    paced: Paced,
}

impl Different {
    fn note(&mut self, now: u64, what: impl Hash) {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        // The upper half is as good as the lower.
        let hash = (hasher.finish() >> 32) as u32;
        self.seen.retain(|(_, at)| now.saturating_sub(*at) < HOUR);
        let before = self.seen.len();
        self.seen.retain(|(other, _)| *other != hash);
        if self.seen.len() == before {
            self.paced.add(now, 1);
        }
        self.seen.push_back((hash, now));
        if self.seen.len() > SEEN_MAX {
            self.seen.pop_front();
        }
    }

    fn beyond(&self, now: u64, floor: u32) -> Option<u64> {
        self.paced.beyond(now, floor, TIMES_DIFFERENT)
    }

    fn forget(&mut self, now: u64, is_usual: bool) {
        self.seen.clear();
        self.paced.forget(now, is_usual);
    }
}

/// What is known of how an account sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    /// Since when; zero: it has not sent anything yet.
    since: u64,
    recipients: Paced,
    strangers: Paced,
    refused: Sliding,
    networks: Different,
    authors: Different,
    pub suspicion: Option<Suspicion>,
}

/// A message that is about to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Sending {
    pub recipients: u32,
    /// Of these, the ones whom the account has not written to.
    pub strangers: u32,
    /// Recipients refused here since the message before.
    pub refused: u32,
    pub peer: IpAddr,
}

impl Watch {
    /// What comes of a message; whether it is only now that something is suspected.
    pub fn sends(&mut self, now: u64, sending: Sending, settings: &Hijack) -> bool {
        if self.since == 0 || self.since > now {
            self.since = now;
        }
        if self.suspicion.is_some() {
            return false;
        }
        self.recipients.add(now, sending.recipients);
        self.strangers.add(now, sending.strangers);
        if sending.refused > 0 {
            self.refused.add(now, HOUR, sending.refused);
        }
        self.networks.note(now, wide_network(sending.peer));
        self.judge(now, settings)
    }

    /// The message claims to be by somebody else.
    pub fn claims(&mut self, now: u64, author: &str, settings: &Hijack) -> bool {
        self.authors.note(now, author);
        self.judge(now, settings)
    }

    /// Other servers refuse recipients for good.
    pub fn is_refused(&mut self, now: u64, recipients: u32, settings: &Hijack) -> bool {
        self.refused.add(now, HOUR, recipients);
        self.judge(now, settings)
    }

    fn judge(&mut self, now: u64, settings: &Hijack) -> bool {
        if self.suspicion.is_some() {
            return false;
        }
        let found = self.rule(now, settings);
        self.suspicion =
            found.map(|(rule, why)| Suspicion { since: now, rule, why, is_told: false });
        self.suspicion.is_some()
    }

    fn rule(&self, now: u64, settings: &Hijack) -> Option<(Rule, String)> {
        let Hijack { recipients_per_hour, strangers_per_hour, refused_per_hour, .. } = *settings;
        let Hijack { networks_per_hour, authors_per_hour, times_usual, .. } = *settings;
        let refused = self.refused.weigh(now, HOUR);
        let all = self.recipients.hour.weigh(now, HOUR).max(refused);
        if refused_per_hour > 0 && refused > u64::from(refused_per_hour) && refused * 3 >= all {
            let why =
                format!("named {refused} recipients within an hour that were refused for good");
            return Some((Rule::Refused, why));
        }
        if now.saturating_sub(self.since) < settings.past.0.as_secs() {
            return None;
        }
        if let Some(count) = self.recipients.beyond(now, recipients_per_hour, times_usual) {
            let usual = self.recipients.usual(now);
            let why = format!(
                "sent to {count} recipients within an hour, and to {usual} at the most before"
            );
            return Some((Rule::Burst, why));
        }
        if let Some(count) = self.strangers.beyond(now, strangers_per_hour, times_usual) {
            let why =
                format!("sent to {count} recipients within an hour to whom it had never written");
            return Some((Rule::Strangers, why));
        }
        if let Some(count) = self.networks.beyond(now, networks_per_hour) {
            return Some((Rule::Networks, format!("sent from {count} networks within an hour")));
        }
        if let Some(count) = self.authors.beyond(now, authors_per_hour) {
            let why =
                format!("named {count} addresses in From within an hour that are not its own");
            return Some((Rule::Authors, why));
        }
        None
    }

    /// Nothing is suspected any more, and counts begin anew. `is_usual`: it was all right, and nothing new from now on.
    pub fn trust(&mut self, now: u64, is_usual: bool) -> Option<Suspicion> {
        self.recipients.forget(now, is_usual);
        self.strangers.forget(now, is_usual);
        self.refused = Sliding::default();
        self.networks.forget(now, is_usual);
        self.authors.forget(now, is_usual);
        self.suspicion.take()
    }
}

/// The /16, or the /32 of IPv6: about one provider. A phone that moves stays within few of them.
fn wide_network(address: IpAddr) -> u32 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits() >> 16,
        // Apart from those of IPv4, which have sixteen bits.
        IpAddr::V6(address) => (address.to_bits() >> 96) as u32 | 1 << 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::when::Span;
    use std::time::Duration;

    const NOW: u64 = 1_800_000_000 / HOUR * HOUR;

    fn settings() -> Hijack {
        Hijack {
            past: Span(Duration::from_secs(86_400)),
            recipients_per_hour: 100,
            strangers_per_hour: 50,
            refused_per_hour: 20,
            networks_per_hour: 5,
            authors_per_hour: 3,
            times_usual: 10,
            ..Hijack::default()
        }
    }

    fn sending(recipients: u32, strangers: u32) -> Sending {
        Sending { recipients, strangers, refused: 0, peer: "192.0.2.1".parse().unwrap() }
    }

    fn rule(watch: &Watch) -> Option<Rule> {
        watch.suspicion.as_ref().map(|one| one.rule)
    }

    /// With a past of two days in which it has sent to so many within an hour.
    fn watch(usual: u32) -> Watch {
        let mut watch = Watch::default();
        assert!(!watch.sends(NOW - 48 * HOUR, sending(usual, 0), &settings()));
        watch
    }

    #[test]
    fn an_account_is_measured_by_its_own_past() {
        let settings = settings();
        // A person.
        let mut person = watch(3);
        assert!(!person.sends(NOW, sending(100, 0), &settings), "up to the floor");
        assert!(person.sends(NOW, sending(1, 0), &settings));
        assert_eq!(rule(&person), Some(Rule::Burst));
        let why = &person.suspicion.as_ref().unwrap().why;
        assert_eq!(why, "sent to 101 recipients within an hour, and to 3 at the most before");
        assert!(!person.sends(NOW, sending(1, 0), &settings), "it is suspected already");
        // A newsletter.
        let mut newsletter = watch(200);
        assert!(!newsletter.sends(NOW, sending(2000, 0), &settings));
        assert!(newsletter.sends(NOW, sending(1, 0), &settings));
        // The most so far fades.
        let mut newsletter = watch(200);
        let later = NOW + 2 * FADES_IN;
        assert!(newsletter.sends(later, sending(1000, 0), &settings));
    }

    #[test]
    fn who_has_no_past_yet_is_not_measured_by_it() {
        let mut watch = Watch::default();
        assert!(!watch.sends(NOW, sending(5000, 5000), &settings()));
        assert!(!watch.sends(NOW + 22 * HOUR, sending(5000, 5000), &settings()));
        // What it has sent by then is its usual.
        assert!(!watch.sends(NOW + 25 * HOUR, sending(5000, 5000), &settings()));
    }

    #[test]
    fn strangers_are_fewer_than_it_has_written_to_before() {
        let mut watch = watch(300);
        assert!(!watch.sends(NOW, sending(300, 50), &settings()));
        assert!(watch.sends(NOW, sending(1, 1), &settings()));
        assert_eq!(rule(&watch), Some(Rule::Strangers));
    }

    #[test]
    fn refusals_count_where_they_are_many_and_a_third() {
        let settings = settings();
        let mut dead = watch(3);
        dead.sends(NOW, sending(60, 0), &settings);
        assert!(!dead.is_refused(NOW, 20, &settings));
        assert!(dead.is_refused(NOW + 60, 1, &settings));
        assert_eq!(rule(&dead), Some(Rule::Refused));
        let mut live = watch(300);
        live.sends(NOW, sending(400, 0), &settings);
        assert!(!live.is_refused(NOW, 130, &settings), "less than a third");
        let refused = Sending { refused: 30, ..sending(0, 0) };
        assert!(watch(3).sends(NOW, refused, &settings), "refused here");
    }

    #[test]
    fn networks_and_authors_are_different_ones_within_an_hour() {
        let settings = settings();
        let from = |network: u8| Sending { peer: [10, network, 1, 1].into(), ..sending(1, 0) };
        let mut watch = watch(1);
        for network in (0..5).chain(0..5) {
            assert!(!watch.sends(NOW, from(network), &settings));
        }
        // The others are hours ago; but so many are nothing new, so that it takes three times as many.
        let later = NOW + 3 * HOUR;
        for network in 10..25 {
            assert!(!watch.sends(later, from(network), &settings), "{network}");
        }
        assert!(watch.sends(later, from(99), &settings));
        assert_eq!(rule(&watch), Some(Rule::Networks));
        assert!(watch.trust(later, true).is_some() && watch.suspicion.is_none());
        for author in ["a@x", "b@x", "c@x", "a@x"] {
            assert!(!watch.claims(later, author, &settings));
        }
        assert!(watch.claims(later, "d@x", &settings));
        assert_eq!(rule(&watch), Some(Rule::Authors));
        assert_eq!(
            watch.suspicion.unwrap().why,
            "named 4 addresses in From within an hour that are not its own"
        );
        for number in 0..1000_u32 {
            watch.authors.note(NOW, number);
        }
        assert_eq!(watch.authors.seen.len(), SEEN_MAX);
    }

    #[test]
    fn what_was_all_right_is_usual_from_then_on_and_a_new_password_teaches_nothing() {
        let settings = settings();
        let mut watch = watch(3);
        assert!(watch.sends(NOW, sending(500, 0), &settings));
        let mut renewed = watch.clone();
        watch.trust(NOW, true);
        assert!(!watch.sends(NOW, sending(5000, 0), &settings));
        renewed.trust(NOW, false);
        assert!(!renewed.sends(NOW, sending(100, 0), &settings));
        assert!(renewed.sends(NOW, sending(1, 0), &settings));
    }

    #[test]
    fn a_rule_is_off_at_zero_and_what_is_recorded_is_read_again() {
        let off = Hijack {
            recipients_per_hour: 0,
            strangers_per_hour: 0,
            refused_per_hour: 0,
            networks_per_hour: 0,
            authors_per_hour: 0,
            ..settings()
        };
        let mut watch = watch(1);
        for network in 0..100 {
            let sending =
                Sending { refused: 1000, peer: [10, network, 0, 0].into(), ..sending(1000, 1000) };
            assert!(!watch.sends(NOW, sending, &off));
            assert!(!watch.claims(NOW, &network.to_string(), &off));
        }
        watch.is_refused(NOW, 1, &settings());
        let again: Watch = serde_json::from_slice(&serde_json::to_vec(&watch).unwrap()).unwrap();
        assert_eq!(again, watch);
        assert!(again.suspicion.is_some());
        assert_eq!(serde_json::from_str::<Watch>("{}").unwrap(), Watch::default());
    }
}
