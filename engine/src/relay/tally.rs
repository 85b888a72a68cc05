//! What sessions towards each domain have met, by day and policy, for the reports that tell the
//! domain (RFC 8460).
//!
//! Each core counts its own, in memory: a restart forgets the day. Bounds: [`DOMAINS_MAX`] domains
//! of all days, [`POLICIES_MAX`] policies of each, [`FAILURES_MAX`] kinds of failure of each of
//! those, and [`OCTETS_MAX`] in all, since domains choose how long their policies are. What comes
//! beyond is not counted; of failures, that there were some is.

use super::session::Lost;
use protocols::smtp::client::{Failure, Stage};
use protocols::wire::remote::Trouble;
use rustls::CertificateError;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

const DOMAINS_MAX: usize = 5000;
const POLICIES_MAX: usize = 8;
const FAILURES_MAX: usize = 32;
/// Of names, policies and reasons, on one core.
const OCTETS_MAX: usize = 16 << 20;
/// Of all cores, put together.
const ALL_DOMAINS_MAX: usize = 4 * DOMAINS_MAX;
const ALL_OCTETS_MAX: usize = 4 * OCTETS_MAX;
/// What an entry costs besides.
const ENTRY_OCTETS: usize = 128;
/// Of the words that explain a failure.
const REASON_BYTES_MAX: usize = 200;
pub const DAY_SECONDS: u64 = 86_400;

/// What a session was bound by; names are those of RFC 8460 section 4.4.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    pub kind: Kind,
    pub lines: Vec<String>,
    pub mx: Vec<String>,
    /// Why the domain's policy could not be applied.
    pub fault: Option<Failed>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Tlsa,
    Sts,
    #[default]
    NoPolicyFound,
}

/// Section 4.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failed {
    StarttlsNotSupported,
    CertificateHostMismatch,
    CertificateExpired,
    CertificateNotTrusted,
    ValidationFailure,
    DnssecInvalid,
    #[serde(rename = "sts-policy-fetch-error")]
    StsPolicyFetch,
    StsPolicyInvalid,
    StsWebpkiInvalid,
}

impl Failed {
    /// `None`: the failure has nothing to do with TLS.
    pub fn of(lost: &Lost) -> Option<Failed> {
        match lost {
            Lost::Socket(_) => None,
            Lost::Failed(Failure { stage, trouble, .. }) => (*stage == Stage::StartTls
                || *trouble == Trouble::NoTls)
                .then_some(Failed::StarttlsNotSupported),
            Lost::Tls(error) => {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                Some(match inner {
                    Some(rustls::Error::InvalidCertificate(fault)) => Failed::of_certificate(fault),
                    _ => Failed::ValidationFailure,
                })
            }
        }
    }

    fn of_certificate(fault: &CertificateError) -> Failed {
        match fault {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Failed::CertificateExpired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Failed::CertificateHostMismatch
            }
            CertificateError::UnknownIssuer | CertificateError::Revoked => {
                Failed::CertificateNotTrusted
            }
            _ => Failed::ValidationFailure,
        }
    }
}

/// One kind of failure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Met {
    pub failed: Failed,
    pub host: String,
    pub address: Option<IpAddr>,
    pub reason: String,
}

/// Under one policy of a domain, on one day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sessions {
    pub successful: u64,
    pub failures: BTreeMap<Met, u64>,
    /// More kinds of failure than are told apart.
    pub others: u64,
}

/// Day (since 1970) and domain; then policy.
pub type Days = BTreeMap<(u64, String), BTreeMap<Applied, Sessions>>;

#[derive(Debug, Default)]
pub struct Tally(RefCell<Counted>);

#[derive(Debug, Default)]
struct Counted {
    days: Days,
    /// Of all that is in `days`.
    octets: usize,
}

impl Applied {
    fn octets(&self) -> usize {
        let texts = self.lines.iter().chain(&self.mx);
        ENTRY_OCTETS + texts.map(|text| text.len() + size_of::<String>()).sum::<usize>()
    }
}

impl Met {
    fn octets(&self) -> usize {
        ENTRY_OCTETS + self.host.len() + self.reason.len()
    }
}

fn octets_of(days: &Days) -> usize {
    let of_policy = |(applied, sessions): (&Applied, &Sessions)| {
        applied.octets() + sessions.failures.keys().map(Met::octets).sum::<usize>()
    };
    let of_domain = |((_, domain), policies): (&(u64, String), &BTreeMap<Applied, Sessions>)| {
        ENTRY_OCTETS + domain.len() + policies.iter().map(of_policy).sum::<usize>()
    };
    days.iter().map(of_domain).sum()
}

impl Tally {
    pub fn count(&self, now: u64, domain: &str, applied: &Applied, met: Option<Met>) {
        let mut counted = self.0.borrow_mut();
        let Counted { days, octets } = &mut *counted;
        let key = (now / DAY_SECONDS, domain.to_owned());
        let mut room = Room { octets, octets_max: OCTETS_MAX, domains_max: DOMAINS_MAX };
        let Some(sessions) = room.place(days, key, applied) else { return };
        let Some(mut met) = met else {
            sessions.successful += 1;
            return;
        };
        met.reason.truncate(met.reason.floor_char_boundary(REASON_BYTES_MAX));
        room.add(sessions, met, 1);
    }

    /// What was counted before that day, which is forgotten.
    pub fn take(&self, before: u64) -> Days {
        let mut counted = self.0.borrow_mut();
        let rest = counted.days.split_off(&(before, String::new()));
        counted.octets = octets_of(&rest);
        std::mem::replace(&mut counted.days, rest)
    }

    pub fn look(&self) -> Days {
        self.0.borrow().days.clone()
    }
}

impl Sessions {
    /// Whether it is the first of its kind.
    fn add(&mut self, met: Met, count: u64) -> bool {
        let is_new = !self.failures.contains_key(&met);
        if is_new && self.failures.len() >= FAILURES_MAX {
            self.others += count;
            return false;
        }
        *self.failures.entry(met).or_default() += count;
        is_new
    }

    pub fn failed(&self) -> u64 {
        self.failures.values().sum::<u64>() + self.others
    }
}

/// What may be added to days.
struct Room<'a> {
    /// Of all that is there.
    octets: &'a mut usize,
    octets_max: usize,
    domains_max: usize,
}

impl Room<'_> {
    /// Where that is counted; `None`: there is no room.
    fn place<'d>(
        &mut self,
        days: &'d mut Days,
        key: (u64, String),
        applied: &Applied,
    ) -> Option<&'d mut Sessions> {
        let policies = days.get(&key);
        if policies.is_none_or(|policies| !policies.contains_key(applied)) {
            let (is_new, policies) = (policies.is_none(), policies.map_or(0, BTreeMap::len));
            let cost = applied.octets() + if is_new { ENTRY_OCTETS + key.1.len() } else { 0 };
            let is_full = policies >= POLICIES_MAX || (is_new && days.len() >= self.domains_max);
            if is_full || *self.octets + cost > self.octets_max {
                return None;
            }
            *self.octets += cost;
        }
        Some(days.entry(key).or_default().entry(applied.clone()).or_default())
    }

    fn add(&mut self, sessions: &mut Sessions, met: Met, count: u64) {
        let cost = met.octets();
        if sessions.failures.contains_key(&met) || *self.octets + cost <= self.octets_max {
            *self.octets += if sessions.add(met, count) { cost } else { 0 };
        } else {
            sessions.others += count;
        }
    }
}

/// What another core has counted, added as far as there is room.
pub fn merge(days: &mut Days, other: Days) {
    let mut octets = octets_of(days);
    let (octets_max, domains_max) = (ALL_OCTETS_MAX, ALL_DOMAINS_MAX);
    let mut room = Room { octets: &mut octets, octets_max, domains_max };
    for (key, policies) in other {
        for (applied, sessions) in policies {
            let Some(sum) = room.place(days, key.clone(), &applied) else { continue };
            sum.successful += sessions.successful;
            sum.others += sessions.others;
            for (met, count) in sessions.failures {
                room.add(sum, met, count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(host: &str) -> Option<Met> {
        let failed = Failed::CertificateExpired;
        Some(Met { failed, host: host.into(), address: None, reason: "ü".repeat(200) })
    }

    #[test]
    fn days_are_taken_once_they_are_over() {
        let (one, other) = (Tally::default(), Tally::default());
        let none = Applied::default();
        one.count(DAY_SECONDS, "a.test", &none, None);
        one.count(DAY_SECONDS + 5, "a.test", &none, met("mx"));
        one.count(2 * DAY_SECONDS, "a.test", &none, None);
        other.count(DAY_SECONDS, "a.test", &none, met("mx"));
        let mut days = one.take(2);
        merge(&mut days, other.take(2));
        assert_eq!(days.keys().map(|(day, _)| *day).collect::<Vec<_>>(), [1]);
        let sessions = &days[&(1, "a.test".to_owned())][&none];
        assert_eq!((sessions.successful, sessions.failed(), sessions.failures.len()), (1, 2, 1));
        assert_eq!(one.look().len(), 1);
    }

    #[test]
    fn nothing_grows_without_end() {
        let tally = Tally::default();
        for number in 0..DOMAINS_MAX + 5 {
            tally.count(0, &format!("d{number}.test"), &Applied::default(), None);
        }
        for number in 0..POLICIES_MAX + 5 {
            let applied = Applied { lines: vec![number.to_string()], ..Applied::default() };
            tally.count(0, "d0.test", &applied, None);
        }
        for number in 0..FAILURES_MAX + 5 {
            tally.count(0, "d1.test", &Applied::default(), met(&number.to_string()));
        }
        let days = tally.take(1);
        assert_eq!(days.len(), DOMAINS_MAX);
        assert_eq!(days[&(0, "d0.test".to_owned())].len(), POLICIES_MAX);
        let sessions = &days[&(0, "d1.test".to_owned())][&Applied::default()];
        assert_eq!(
            (sessions.failures.len(), sessions.failed()),
            (FAILURES_MAX, FAILURES_MAX as u64 + 5)
        );
    }

    #[test]
    fn what_all_cores_have_counted_is_bounded_together() {
        let mut all = Days::new();
        for core in 0..6 {
            let tally = Tally::default();
            for number in 0..300 {
                let lines = vec!["mx: ".repeat(10 << 10)];
                let applied = Applied { kind: Kind::Sts, lines, ..Applied::default() };
                tally.count(0, &format!("d{core}.{number}.test"), &applied, met("mx"));
                tally.count(0, "all.test", &Applied::default(), met("mx"));
            }
            merge(&mut all, tally.take(1));
        }
        let held = octets_of(&all);
        assert!(held <= ALL_OCTETS_MAX && held > ALL_OCTETS_MAX - (64 << 10), "{held}");
        // What is known goes on being added.
        assert_eq!(all[&(0, "all.test".to_owned())][&Applied::default()].failed(), 1800);
    }

    #[test]
    fn domains_with_long_policies_use_up_the_room_and_no_more() {
        let tally = Tally::default();
        let long = |number: usize| Applied {
            kind: Kind::Sts,
            lines: vec![number.to_string(), "mx: ".repeat(16 << 10)],
            ..Applied::default()
        };
        for number in 0..400 {
            tally.count(0, &format!("d{number}.test"), &long(number), None);
        }
        let held = tally.0.borrow().octets;
        assert!(held <= OCTETS_MAX && held > OCTETS_MAX - (128 << 10), "{held}");
        assert_eq!(held, octets_of(&tally.0.borrow().days));
        // What is known goes on being counted; failures as far as there is room.
        let applied = Applied::default();
        (0..2000).for_each(|_| tally.count(0, "d0.test", &long(0), None));
        (0..2000).for_each(|number| tally.count(0, &format!("e{number}.test"), &applied, None));
        let days = tally.look();
        let first = &days[&(0, "d0.test".to_owned())][&long(0)];
        assert_eq!(first.successful, 2001);
        let full = days.len();
        tally.count(0, "d0.test", &long(0), met("a-host-of-some-length.d0.test"));
        let days = tally.look();
        let first = &days[&(0, "d0.test".to_owned())][&long(0)];
        assert_eq!((first.failed(), first.others, days.len()), (1, 1, full));
        tally.count(DAY_SECONDS, "f.test", &applied, None);
        assert_eq!(tally.take(1).len(), full);
        assert_eq!(tally.0.borrow().octets, octets_of(&tally.look()));
        tally.count(DAY_SECONDS, "d0.test", &long(0), met("mx"));
        assert_eq!(tally.look()[&(1, "d0.test".to_owned())][&long(0)].failures.len(), 1);
    }
}
