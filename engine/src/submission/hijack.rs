//! Whether somebody else sends in an account's name: few rules, each with its reason in words.
//! Pure: time is an argument, in Unix seconds.
//!
//! | rule | within an hour | why |
//! |---|---|---|
//! | burst | recipients, beyond a floor and many times the most so far | who has a password sends as fast as they can |
//! | strangers | recipients that the account has not written to before, likewise | lists of addresses are bought |
//! | refused | recipients that are refused for good, and a third of all | such lists are old |
//! | networks | networks that messages come from, beyond a floor and three times the most so far | a botnet shares passwords |
//! | authors | addresses in `From` that are not the account's, likewise | the name on a message is forged |
//!
//! All but *refused* compare an account with its own past, so they say nothing before it has one: a
//! list server names many authors, and a login may be many devices'. An hour is past once it is a
//! day old, so that nobody makes a hijack usual by beginning slowly. What is suspected stays so
//! until an operator releases the account's mail, which teaches all of it, or gives it a new
//! password, which teaches nothing. Where operators are only told, it is over after a day: then the
//! next letter may come.

use super::settings::{Action, Hijack};
use super::usage::{DAY, HOUR};
use crate::sliding::Sliding;
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
/// Hours are told apart by these, until they are past.
const PART: u64 = 6 * HOUR;
/// Those of a day, and the two that it begins and ends in.
const PARTS_MAX: usize = 6;

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
    /// What the operator has been told that follows.
    #[serde(default)]
    pub told: Option<Action>,
    /// Which one of the account it is.
    #[serde(default)]
    pub number: u32,
}

/// An amount of an hour, and the most of any hour before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Paced {
    hour: Sliding,
    /// Of the hour that is counted, and which that is.
    this: u32,
    number: u64,
    /// What is not past yet: which part of which day, and the most of any hour in it;
    /// the oldest first.
    young: VecDeque<(u64, u32)>,
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
        let part = self.number * HOUR / PART;
        match self.young.back_mut() {
            _ if self.this == 0 => {}
            Some((last, most)) if *last == part => *most = self.this.max(*most),
            Some(_) | None => self.young.push_back((part, self.this)),
        }
        if self.young.len() > PARTS_MAX
            && let Some((_, count)) = self.young.pop_front()
            && let Some((_, most)) = self.young.front_mut()
        {
            // While something is suspected nothing is past: then it is the most of all that counts.
            *most = count.max(*most);
        }
        (self.this, self.number) = (0, now / HOUR);
    }

    /// What is a day old is the account's past.
    fn ripen(&mut self, now: u64) {
        self.turn(now);
        while let Some((part, count)) = self.young.front().copied() {
            let over = (part + 1) * PART;
            if now < over + DAY {
                return;
            }
            self.young.pop_front();
            self.learn(over, u64::from(count));
        }
    }

    fn take_back(&mut self, now: u64, count: u32) {
        self.hour.take_back(now, HOUR, count);
        self.this = self.this.saturating_sub(count);
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
        let young = std::mem::take(&mut self.young);
        if is_usual {
            let most = young.iter().map(|(_, most)| *most).max().unwrap_or(0).max(self.this);
            self.learn(now, self.hour.weigh(now, HOUR).max(u64::from(most)));
        }
        (self.hour, self.this) = (Sliding::default(), 0);
    }
}

/// How many different things there were: those of the last hour, by hash, with when each was seen
/// last, the oldest first.
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
    /// Recipients that were served or refused, of which the refused are a part.
    answered: Sliding,
    /// Until then dead addresses are no reason: an operator has let a list of them go, and they
    /// still come back.
    pardoned_until: u64,
    networks: Different,
    authors: Different,
    /// Suspicions so far, and the last one of which the operator has said that it was the owner.
    suspicions: u32,
    pub owner_was: u32,
    pub suspicion: Option<Suspicion>,
}

/// A message that is about to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Sending {
    pub recipients: u32,
    /// Of these, the ones whom the account has not written to.
    pub strangers: u32,
    /// And those here: they are answered.
    pub at_home: u32,
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
        self.expire(now, settings);
        self.recipients.add(now, sending.recipients);
        self.strangers.add(now, sending.strangers);
        self.refused.add(now, HOUR, sending.refused);
        self.answered.add(now, HOUR, sending.refused.saturating_add(sending.at_home));
        self.networks.note(now, wide_network(sending.peer));
        if self.suspicion.is_none() {
            let paced = [&mut self.recipients, &mut self.strangers];
            let different = [&mut self.networks.paced, &mut self.authors.paced];
            paced.into_iter().chain(different).for_each(|one| one.ripen(now));
        }
        self.judge(now, settings)
    }

    /// Who is only told is told again of what goes on after a day.
    fn expire(&mut self, now: u64, settings: &Hijack) {
        let is_over = |one: &Suspicion| one.told == Some(Action::Tell) && now >= one.since + DAY;
        if settings.action == Action::Tell && self.suspicion.as_ref().is_some_and(is_over) {
            self.trust(now, false);
        }
    }

    /// A message that was noted was not taken, and is likely to come again.
    pub fn take_back(&mut self, now: u64, recipients: u32, strangers: u32) {
        self.recipients.take_back(now, recipients);
        self.strangers.take_back(now, strangers);
    }

    /// The message claims to be by somebody else.
    pub fn claims(&mut self, now: u64, author: &str, settings: &Hijack) -> bool {
        self.authors.note(now, author);
        self.judge(now, settings)
    }

    /// So many recipients have been served, and so many refused for good.
    pub fn is_answered(&mut self, now: u64, served: u32, refused: u32, settings: &Hijack) -> bool {
        self.refused.add(now, HOUR, refused);
        self.answered.add(now, HOUR, served.saturating_add(refused));
        self.judge(now, settings)
    }

    fn judge(&mut self, now: u64, settings: &Hijack) -> bool {
        if self.suspicion.is_some() {
            return false;
        }
        let found = self.rule(now, settings);
        let Some((rule, why)) = found else { return false };
        self.suspicions = self.suspicions.wrapping_add(1);
        let number = self.suspicions;
        self.suspicion = Some(Suspicion { since: now, rule, why, told: None, number });
        true
    }

    fn rule(&self, now: u64, settings: &Hijack) -> Option<(Rule, String)> {
        let Hijack { recipients_per_hour, strangers_per_hour, refused_per_hour, .. } = *settings;
        let Hijack { networks_per_hour, authors_per_hour, times_usual, .. } = *settings;
        let refused = self.refused.weigh(now, HOUR);
        let answered = self.answered.weigh(now, HOUR);
        let is_many = refused_per_hour > 0 && refused > u64::from(refused_per_hour);
        if is_many && refused * 3 >= answered && now >= self.pardoned_until {
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

    /// Nothing is suspected any more, and counts begin anew. `is_usual`: it was all right, and
    /// nothing new from now on.
    pub fn trust(&mut self, now: u64, is_usual: bool) -> Option<Suspicion> {
        self.recipients.forget(now, is_usual);
        self.strangers.forget(now, is_usual);
        (self.refused, self.answered) = (Sliding::default(), Sliding::default());
        self.networks.forget(now, is_usual);
        self.authors.forget(now, is_usual);
        let suspicion = self.suspicion.take();
        if let Some(Suspicion { number, rule, .. }) = suspicion.as_ref().filter(|_| is_usual) {
            self.owner_was = *number;
            if *rule == Rule::Refused {
                self.pardoned_until = now + DAY;
            }
        }
        suspicion
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
        Sending {
            recipients,
            strangers,
            at_home: 0,
            refused: 0,
            peer: "192.0.2.1".parse().unwrap(),
        }
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
        assert!(!watch.sends(NOW + 31 * HOUR, sending(5000, 5000), &settings()));
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
        assert!(!dead.is_answered(NOW, 40, 20, &settings));
        assert!(dead.is_answered(NOW + 60, 1, 1, &settings));
        assert_eq!(rule(&dead), Some(Rule::Refused));
        // What is let go comes back, too.
        dead.trust(NOW + HOUR, true);
        assert!(!dead.is_answered(NOW + HOUR, 0, 500, &settings));
        assert!(dead.is_answered(NOW + 30 * HOUR, 0, 500, &settings));
        let mut live = watch(300);
        assert!(!live.is_answered(NOW, 270, 130, &settings), "less than a third");
        // What it sent in another hour is none of that.
        live.sends(NOW + 5 * HOUR, sending(2000, 0), &settings);
        assert!(live.is_answered(NOW + 5 * HOUR, 30, 130, &settings));
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
        // The others are a day ago; so many are nothing new, so that it takes three times as many.
        let later = NOW + 31 * HOUR;
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
    fn who_begins_slowly_is_measured_by_what_was_before() {
        let settings = settings();
        let mut watch = watch(3);
        assert!(!watch.sends(NOW, sending(90, 0), &settings));
        assert!(!watch.sends(NOW + 2 * HOUR, sending(100, 0), &settings));
        assert!(
            watch.sends(NOW + 4 * HOUR, sending(101, 0), &settings),
            "90 are not its usual yet"
        );
        assert!(watch.suspicion.as_ref().unwrap().why.ends_with("to 3 at the most before"));
    }

    #[test]
    fn a_release_teaches_what_was_sent_under_suspicion_however_late() {
        let settings = settings();
        let mut watch = watch(3);
        for hour in 0..60 {
            assert_eq!(watch.sends(NOW + hour * HOUR, sending(500, 0), &settings), hour == 0);
        }
        let later = NOW + 100 * HOUR;
        let mut renewed = watch.clone();
        assert_eq!(watch.trust(later, true).unwrap().number, watch.owner_was);
        assert!(!watch.sends(later, sending(5000, 0), &settings));
        renewed.trust(later, false);
        assert_eq!(renewed.owner_was, 0);
        assert!(renewed.sends(later, sending(101, 0), &settings), "what it did was not learned");
    }

    #[test]
    fn what_was_not_taken_is_not_noted() {
        let settings = settings();
        let mut watch = watch(3);
        for _ in 0..20 {
            assert!(!watch.sends(NOW, sending(60, 20), &settings));
            watch.take_back(NOW, 60, 20);
        }
    }

    #[test]
    fn who_is_only_told_is_told_again_after_a_day() {
        let tell = Hijack { action: Action::Tell, ..settings() };
        let mut watch = watch(3);
        assert!(watch.sends(NOW, sending(200, 0), &tell));
        watch.suspicion.as_mut().unwrap().told = Some(Action::Tell);
        assert!(!watch.sends(NOW + 2 * HOUR, sending(200, 0), &tell));
        assert!(watch.sends(NOW + 25 * HOUR, sending(200, 0), &tell));
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
        watch.is_answered(NOW, 0, 1, &settings());
        let again: Watch = serde_json::from_slice(&serde_json::to_vec(&watch).unwrap()).unwrap();
        assert_eq!(again, watch);
        assert!(again.suspicion.is_some());
        assert_eq!(serde_json::from_str::<Watch>("{}").unwrap(), Watch::default());
    }
}
