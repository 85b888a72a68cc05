//! What sessions towards each domain have met, by day and policy, for the reports that tell the domain (RFC 8460).
//!
//! Each core counts its own, in memory: a restart forgets the day. Bounds: [`DOMAINS_MAX`] domains of all days,
//! [`POLICIES_MAX`] policies of each, [`FAILURES_MAX`] kinds of failure of each of those; what comes beyond is not counted.

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
pub struct Tally(RefCell<Days>);

impl Tally {
    pub fn count(&self, now: u64, domain: &str, applied: &Applied, met: Option<Met>) {
        let mut days = self.0.borrow_mut();
        let key = (now / DAY_SECONDS, domain.to_owned());
        if days.len() >= DOMAINS_MAX && !days.contains_key(&key) {
            return;
        }
        let policies = days.entry(key).or_default();
        if policies.len() >= POLICIES_MAX && !policies.contains_key(applied) {
            return;
        }
        let sessions = policies.entry(applied.clone()).or_default();
        match met {
            None => sessions.successful += 1,
            Some(mut met) => {
                met.reason.truncate(met.reason.floor_char_boundary(REASON_BYTES_MAX));
                sessions.add(met, 1);
            }
        }
    }

    /// What was counted before that day, which is forgotten.
    pub fn take(&self, before: u64) -> Days {
        let mut days = self.0.borrow_mut();
        let rest = days.split_off(&(before, String::new()));
        std::mem::replace(&mut *days, rest)
    }

    pub fn look(&self) -> Days {
        self.0.borrow().clone()
    }
}

impl Sessions {
    fn add(&mut self, met: Met, count: u64) {
        if self.failures.len() < FAILURES_MAX || self.failures.contains_key(&met) {
            *self.failures.entry(met).or_default() += count;
        } else {
            self.others += count;
        }
    }

    pub fn failed(&self) -> u64 {
        self.failures.values().sum::<u64>() + self.others
    }
}

/// What another core has counted, added.
pub fn merge(days: &mut Days, other: Days) {
    for (key, policies) in other {
        let place = days.entry(key).or_default();
        for (applied, sessions) in policies {
            let sum = place.entry(applied).or_default();
            sum.successful += sessions.successful;
            sum.others += sessions.others;
            sessions.failures.into_iter().for_each(|(met, count)| sum.add(met, count));
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
}
