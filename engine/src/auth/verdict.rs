//! What the verification of one message has found, and what follows from it.
//!
//! Names of methods, results and properties are those of RFC 8601 and its registry.

use super::settings::DmarcMode;
use crate::reports::row::Observed;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Iprev,
    Spf,
    Dkim,
    Arc,
    Dmarc,
}

impl Method {
    pub const ALL: [Method; 5] =
        [Method::Iprev, Method::Spf, Method::Dkim, Method::Arc, Method::Dmarc];

    pub fn name(self) -> &'static str {
        match self {
            Method::Iprev => "iprev",
            Method::Spf => "spf",
            Method::Dkim => "dkim",
            Method::Arc => "arc",
            Method::Dmarc => "dmarc",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Fail,
    SoftFail,
    Neutral,
    None,
    TempError,
    PermError,
    /// It would pass, but for a rule of ours (RFC 8601 section 2.7.1).
    Policy,
}

impl Outcome {
    pub const ALL: [Outcome; 8] = [
        Outcome::Pass,
        Outcome::Fail,
        Outcome::SoftFail,
        Outcome::Neutral,
        Outcome::None,
        Outcome::TempError,
        Outcome::PermError,
        Outcome::Policy,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
            Outcome::SoftFail => "softfail",
            Outcome::Neutral => "neutral",
            Outcome::None => "none",
            Outcome::TempError => "temperror",
            Outcome::PermError => "permerror",
            Outcome::Policy => "policy",
        }
    }
}

/// One result of one method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub method: Method,
    pub outcome: Outcome,
    /// For people.
    pub reason: String,
    /// What was verified, such as `smtp.mailfrom`.
    pub properties: Vec<(&'static str, String)>,
}

impl Finding {
    pub fn new(method: Method, outcome: Outcome) -> Finding {
        Finding { method, outcome, reason: String::new(), properties: Vec::new() }
    }

    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Finding {
        self.reason = reason.into();
        self
    }

    #[must_use]
    pub fn of(mut self, property: &'static str, value: impl Into<String>) -> Finding {
        self.properties.push((property, value.into()));
        self
    }
}

/// What the domain in `From:` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    None,
    Quarantine,
    Reject,
}

impl Policy {
    pub fn name(self) -> &'static str {
        match self {
            Policy::None => "none",
            Policy::Quarantine => "quarantine",
            Policy::Reject => "reject",
        }
    }
}

/// What is done with the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    Deliver,
    Junk,
    Reject,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub findings: Vec<Finding>,
    /// Of the domain in `From:`; `None` unless the message fails DMARC.
    pub policy: Policy,
    /// That domain.
    pub author_domain: String,
    /// The whole field, when it is wanted.
    pub received_spf: String,
    /// What the domain in `From:` is told of it, if that has a policy.
    pub observed: Option<Box<Observed>>,
    pub elapsed: Duration,
}

impl Verdict {
    /// Nothing could be found out in time.
    pub fn unknown(why: &str) -> Verdict {
        let unknown =
            |&method: &Method| Finding::new(method, Outcome::TempError).because(why.to_owned());
        Verdict {
            // RFC 8601 has no temperror for ARC: nothing is said of it.
            findings: [Method::Iprev, Method::Spf, Method::Dkim, Method::Dmarc]
                .iter()
                .map(unknown)
                .collect(),
            policy: Policy::None,
            author_domain: String::new(),
            received_spf: String::new(),
            observed: None,
            elapsed: Duration::ZERO,
        }
    }

    pub fn disposition(&self, mode: DmarcMode) -> Disposition {
        match (mode, self.policy) {
            (DmarcMode::Off | DmarcMode::Mark, _) | (DmarcMode::Enforce, Policy::None) => {
                Disposition::Deliver
            }
            (DmarcMode::Enforce, Policy::Quarantine) => Disposition::Junk,
            (DmarcMode::Enforce, Policy::Reject) => Disposition::Reject,
        }
    }

    /// Whether a DKIM signature of one of these domains passes.
    pub fn is_signed_by(&self, domains: &[String]) -> bool {
        let passing = |f: &&Finding| f.method == Method::Dkim && f.outcome == Outcome::Pass;
        let mut signers = self.findings.iter().filter(passing).flat_map(|f| &f.properties);
        signers.any(|(property, value)| *property == "header.d" && domains.contains(value))
    }

    /// In words that the sender's postmaster understands.
    pub fn refusal(&self) -> String {
        let domain = &self.author_domain;
        format!(
            "Mail from {domain} fails DMARC: neither SPF nor a DKIM signature passes for {domain}, whose \
             published policy (p=reject) asks to refuse such mail (RFC 9989)"
        )
    }

    /// For the log: `spf=pass dkim=none`.
    pub fn brief(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let space = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{space}{}={}", finding.method.name(), finding.outcome.name());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_has_its_consequence_in_each_mode() {
        let with = |policy| Verdict { policy, ..Verdict::unknown("") };
        for (mode, policy, expected) in [
            (DmarcMode::Off, Policy::Reject, Disposition::Deliver),
            (DmarcMode::Mark, Policy::Reject, Disposition::Deliver),
            (DmarcMode::Mark, Policy::Quarantine, Disposition::Deliver),
            (DmarcMode::Enforce, Policy::None, Disposition::Deliver),
            (DmarcMode::Enforce, Policy::Quarantine, Disposition::Junk),
            (DmarcMode::Enforce, Policy::Reject, Disposition::Reject),
        ] {
            assert_eq!(with(policy).disposition(mode), expected, "{mode:?} {policy:?}");
        }
    }

    #[test]
    fn only_a_signature_that_passes_vouches_for_its_domain() {
        let dkim = |outcome| Finding::new(Method::Dkim, outcome).of("header.d", "news.test");
        let verdict = |finding| Verdict { findings: vec![finding], ..Verdict::unknown("") };
        let trusted = ["news.test".to_owned()];
        assert!(verdict(dkim(Outcome::Pass)).is_signed_by(&trusted));
        assert!(!verdict(dkim(Outcome::Fail)).is_signed_by(&trusted));
        assert!(!verdict(dkim(Outcome::Pass)).is_signed_by(&["other.test".to_owned()]));
    }

    #[test]
    fn an_outage_is_no_reason_to_refuse() {
        let verdict = Verdict::unknown("resolver down");
        assert_eq!(verdict.disposition(DmarcMode::Enforce), Disposition::Deliver);
        assert!(verdict.findings.iter().all(|f| f.outcome == Outcome::TempError));
    }
}
