//! What is counted of a message that DMARC has judged: one row of a report to the domain that its
//! author names (RFC 9990 section 3.1).
//!
//! It is made where the message is verified, off the cores. What was done with the message is known
//! later, on its core.

use crate::auth::dkim::Verified;
use crate::auth::dmarc::record::Record;
use crate::auth::dmarc::{Conclusion, Published};
use crate::auth::verdict::{Disposition as Done, Outcome, Policy};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Signatures that a row tells of. Who has more is rare, and rows are kept for each combination.
const SIGNATURES_MAX: usize = 4;
/// DNS has no longer name.
const NAME_BYTES_MAX: usize = 253;

/// With what the domain had published then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub row: Row,
    pub record: Record,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Row {
    /// Where the record was found.
    pub policy_domain: String,
    pub source: IpAddr,
    pub header_from: String,
    /// The domain of MAIL FROM; empty for the null sender.
    pub envelope_from: String,
    pub disposition: Disposition,
    pub reason: Option<Reason>,
    pub dkim_aligned: bool,
    pub spf_aligned: bool,
    pub dkim: Vec<Signature>,
    pub spf_domain: String,
    pub spf_result: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature {
    pub domain: String,
    pub selector: String,
    pub result: String,
}

/// What was done (RFC 9990, `ActionDispositionType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    Pass,
    None,
    Quarantine,
    Reject,
}

impl Disposition {
    pub fn name(self) -> &'static str {
        match self {
            Disposition::Pass => "pass",
            Disposition::None => "none",
            Disposition::Quarantine => "quarantine",
            Disposition::Reject => "reject",
        }
    }
}

/// Why something else was done than the policy asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// `t=y`.
    PolicyTestMode,
    TrustedForwarder,
    LocalPolicy,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::PolicyTestMode => "policy_test_mode",
            Reason::TrustedForwarder => "trusted_forwarder",
            Reason::LocalPolicy => "local_policy",
        }
    }

    pub fn comment(self) -> &'static str {
        match self {
            Reason::PolicyTestMode => "t=y",
            Reason::TrustedForwarder => "an ARC chain that is trusted here",
            Reason::LocalPolicy => "results are noted in the message, and no more is done",
        }
    }
}

/// What was found out about one message beside DMARC's conclusion.
#[derive(Debug)]
pub struct Found<'f> {
    pub peer: IpAddr,
    /// MAIL FROM, with its domain as DNS has it.
    pub sender: &'f str,
    pub signatures: &'f [Verified],
    pub spf: (Outcome, &'f str),
    /// Somebody who is trusted has seen it pass.
    pub is_forwarded: bool,
    /// Its subject is that of such a report.
    pub is_report: bool,
}

impl Observed {
    /// `None`: nothing is published, or nothing is known; or it is a report itself, and two hosts
    /// must not report about each other's reports for ever.
    pub fn of(concluded: &Conclusion, found: &Found<'_>) -> Option<Box<Observed>> {
        let Published { domain, record, spf_aligned, dkim_aligned } =
            concluded.published.as_ref()?;
        let is_pass = match concluded.outcome {
            Outcome::Pass => true,
            Outcome::Fail => false,
            // Neither for nor against the sender.
            Outcome::SoftFail
            | Outcome::Neutral
            | Outcome::None
            | Outcome::TempError
            | Outcome::PermError
            | Outcome::Policy => return None,
        };
        // Who forges an author can't hide behind such a subject.
        if is_pass && found.is_report {
            return None;
        }
        let asks = [record.policy, record.subdomains, record.nonexistent];
        let reason = match (is_pass, found.is_forwarded) {
            (true, _) => None,
            (false, true) => Some(Reason::TrustedForwarder),
            (false, false) => {
                let is_softened =
                    record.is_testing && asks.iter().any(|asked| *asked != Policy::None);
                is_softened.then_some(Reason::PolicyTestMode)
            }
        };
        let mut dkim: Vec<Signature> = found.signatures.iter().filter_map(signature).collect();
        // Those that say most stay.
        dkim.sort_by_key(|one| (one.result != "pass", one.domain != concluded.author_domain));
        dkim.truncate(SIGNATURES_MAX);
        let (spf_result, spf_domain) = found.spf;
        let row = Row {
            policy_domain: domain.clone(),
            source: found.peer,
            header_from: concluded.author_domain.clone(),
            envelope_from: name(found.sender.rsplit_once('@').map_or("", |(_, domain)| domain)),
            disposition: if is_pass { Disposition::Pass } else { Disposition::None },
            reason,
            dkim_aligned: *dkim_aligned,
            spf_aligned: *spf_aligned,
            dkim,
            spf_domain: name(spf_domain),
            spf_result: spf_result.name().to_owned(),
        };
        Some(Box::new(Observed { row, record: record.clone() }))
    }

    /// What was done with the message, of which its domain has asked for `asked`.
    pub fn settle(&mut self, done: Done, asked: Policy) {
        let row = &mut self.row;
        if row.disposition == Disposition::Pass {
            return;
        }
        row.disposition = match done {
            Done::Deliver => Disposition::None,
            Done::Junk => Disposition::Quarantine,
            Done::Reject => Disposition::Reject,
        };
        let is_as_asked = match asked {
            Policy::None => true,
            Policy::Quarantine => done != Done::Deliver,
            Policy::Reject => done == Done::Reject,
        };
        if !is_as_asked {
            row.reason = row.reason.or(Some(Reason::LocalPolicy));
        }
    }
}

fn signature(verified: &Verified) -> Option<Signature> {
    let properties = &verified.finding.properties;
    let selector = properties.iter().find(|(property, _)| *property == "header.s");
    Some(Signature {
        domain: name(verified.domain.as_deref()?),
        selector: name(selector.map_or("", |(_, value)| value)),
        result: verified.finding.outcome.name().to_owned(),
    })
}

/// What a peer has said, as long as a name may be.
fn name(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(NAME_BYTES_MAX).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::auth::verdict::{Finding, Method};

    pub(crate) fn record(text: &str) -> Record {
        Record::read(text.as_bytes()).unwrap()
    }

    fn concluded(outcome: Outcome, text: &str) -> Conclusion {
        let published = Published {
            domain: "a.test".into(),
            record: record(text),
            spf_aligned: outcome == Outcome::Pass,
            dkim_aligned: false,
        };
        Conclusion {
            outcome,
            reason: String::new(),
            author_domain: "news.a.test".into(),
            policy: Policy::None,
            published: Some(published),
        }
    }

    fn found(signatures: &[Verified]) -> Found<'_> {
        Found {
            peer: "192.0.2.7".parse().unwrap(),
            sender: "x@b.test",
            signatures,
            spf: (Outcome::Fail, "b.test"),
            is_forwarded: false,
            is_report: false,
        }
    }

    #[test]
    fn what_was_done_and_why_is_told() {
        let reject = concluded(Outcome::Fail, "v=DMARC1; p=reject");
        let settled = |concluded: &Conclusion, found: Found<'_>, done, asked| {
            let mut observed = Observed::of(concluded, &found).unwrap();
            observed.settle(done, asked);
            (observed.row.disposition, observed.row.reason)
        };
        assert_eq!(
            settled(&reject, found(&[]), Done::Reject, Policy::Reject),
            (Disposition::Reject, None)
        );
        assert_eq!(
            settled(&reject, found(&[]), Done::Deliver, Policy::Reject),
            (Disposition::None, Some(Reason::LocalPolicy))
        );
        let forwarded = Found { is_forwarded: true, ..found(&[]) };
        assert_eq!(
            settled(&reject, forwarded, Done::Deliver, Policy::None),
            (Disposition::None, Some(Reason::TrustedForwarder))
        );
        let testing = concluded(Outcome::Fail, "v=DMARC1; p=quarantine; t=y");
        assert_eq!(
            settled(&testing, found(&[]), Done::Deliver, Policy::None),
            (Disposition::None, Some(Reason::PolicyTestMode))
        );
        let none = concluded(Outcome::Fail, "v=DMARC1; p=none");
        assert_eq!(
            settled(&none, found(&[]), Done::Deliver, Policy::None),
            (Disposition::None, None)
        );
        let pass = concluded(Outcome::Pass, "v=DMARC1; p=reject");
        assert_eq!(
            settled(&pass, found(&[]), Done::Deliver, Policy::None),
            (Disposition::Pass, None)
        );
    }

    #[test]
    fn what_nobody_knows_and_true_reports_are_not_counted() {
        for outcome in [Outcome::TempError, Outcome::PermError, Outcome::None] {
            let concluded = concluded(outcome, "v=DMARC1; p=reject");
            assert!(Observed::of(&concluded, &found(&[])).is_none());
        }
        let without = Conclusion::without_record(Outcome::None, "", "a.test");
        assert!(Observed::of(&without, &found(&[])).is_none());
        let report = Found { is_report: true, ..found(&[]) };
        let pass = concluded(Outcome::Pass, "v=DMARC1; p=reject");
        assert!(Observed::of(&pass, &report).is_none());
        let forged = concluded(Outcome::Fail, "v=DMARC1; p=reject");
        assert!(Observed::of(&forged, &report).is_some());
    }

    #[test]
    fn signatures_that_say_most_stay() {
        let one = |domain: &str, outcome| Verified {
            finding: Finding::new(Method::Dkim, outcome).of("header.s", "sel"),
            domain: Some(domain.to_owned()),
        };
        let mut all: Vec<Verified> =
            (0..9).map(|n| one(&format!("{n}.test"), Outcome::Fail)).collect();
        all.push(one("list.test", Outcome::Pass));
        all.push(one("news.a.test", Outcome::Fail));
        let concluded = concluded(Outcome::Fail, "v=DMARC1; p=reject");
        let row = Observed::of(&concluded, &found(&all)).unwrap().row;
        let domains: Vec<&str> = row.dkim.iter().map(|one| one.domain.as_str()).collect();
        assert_eq!(domains, ["list.test", "news.a.test", "0.test", "1.test"]);
        assert_eq!(row.dkim[0].selector, "sel");
        assert_eq!((row.policy_domain.as_str(), row.envelope_from.as_str()), ("a.test", "b.test"));
    }
}
