//! DMARC (RFC 9989): what the domain in `From:` has published, and whether the message fits it.
//!
//! [`record`] reads a record, [`tree`] finds the ones that count. Ours rather than mail-auth's, for
//! the same reason as DKIM.

pub mod record;
pub mod tree;

use super::dkim::Verified;
use super::dkim::header::Header;
use super::dkim::tags;
use super::dns::{Missing, Resolver};
use super::verdict::{Finding, Method, Outcome, Policy};
use protocols::message::envelope::addresses;
use record::{Alignment, Record};
use tree::Walk;

/// Authors that are looked at; what has more is not judged.
const AUTHORS_MAX: usize = 64;

/// What DMARC says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    pub outcome: Outcome,
    pub reason: String,
    /// The domain in `From:`; empty where there is none, or several.
    pub author_domain: String,
    /// What is asked for a message that fails: none, unless it does.
    pub policy: Policy,
    /// What was found, if anything: of use to reports.
    pub published: Option<Published>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub domain: String,
    pub record: Record,
    pub spf_aligned: bool,
    pub dkim_aligned: bool,
}

impl Conclusion {
    pub fn without_record(outcome: Outcome, reason: &str, author_domain: &str) -> Conclusion {
        Conclusion {
            outcome,
            reason: reason.to_owned(),
            author_domain: author_domain.to_owned(),
            policy: Policy::None,
            published: None,
        }
    }

    pub fn finding(&self) -> Finding {
        let finding = Finding::new(Method::Dmarc, self.outcome).because(self.reason.clone());
        match self.author_domain.as_str() {
            "" => finding,
            domain => finding.of("header.from", domain),
        }
    }
}

/// The one domain of all authors (RFC 9989 section 5.3.1 leaves messages with several alone).
pub fn author_domain(header: &Header<'_>) -> Option<String> {
    let mut found: Option<String> = None;
    for field in header.named("from") {
        let authors = addresses(field.value, AUTHORS_MAX);
        for host in authors.iter().filter_map(|author| author.host.as_deref()) {
            let domain = tags::domain(host.trim_ascii())?;
            if found.as_ref().is_some_and(|known| *known != domain) {
                return None;
            }
            found = Some(domain);
        }
    }
    found
}

/// `spf` is the result for its domain: that of MAIL FROM, or of HELO when that is empty.
pub async fn verify(
    resolver: &Resolver,
    author: &str,
    dkim: &[Verified],
    spf: (Outcome, &str),
) -> Conclusion {
    let unknown =
        |author| Conclusion::without_record(Outcome::TempError, "no answer from DNS", author);
    let Ok(walk) = Walk::from(resolver, author).await else { return unknown(author) };
    let organization = walk.organization();
    let Some((policy_domain, record)) = walk.policy(&organization) else {
        return Conclusion::without_record(Outcome::None, "", author);
    };
    let (policy_domain, record) = (policy_domain.to_owned(), record.clone());

    // Whether `domain` is aligned; an error where DNS does not say.
    let mut walked: Vec<(String, String)> = Vec::new();
    let mut is_silent = false;
    let mut is_aligned = async |domain: &str, alignment: Alignment| -> bool {
        if domain == author {
            return true;
        }
        // What does not end with the organization's name can't belong to it: no question is asked.
        let may_belong = super::dkim::signature::is_within(domain, &organization);
        if alignment == Alignment::Strict || !may_belong {
            return false;
        }
        if let Some((_, known)) = walked.iter().find(|(known, _)| known == domain) {
            return *known == organization;
        }
        match Walk::from(resolver, domain).await {
            Ok(walk) => {
                let found = walk.organization();
                let aligned = found == organization;
                walked.push((domain.to_owned(), found));
                aligned
            }
            Err(Missing::Failed | Missing::NoRecords | Missing::NoSuchName) => {
                is_silent = true;
                false
            }
        }
    };
    let mut is_undecided = false;
    let mut dkim_aligned = false;
    for Verified { finding, domain } in dkim {
        let Some(domain) = domain else { continue };
        match finding.outcome {
            Outcome::Pass => dkim_aligned |= is_aligned(domain, record.dkim).await,
            Outcome::TempError => is_undecided |= is_aligned(domain, record.dkim).await,
            _ => {}
        }
    }
    let (spf_outcome, spf_domain) = spf;
    let spf_domain = tags::domain(spf_domain.as_bytes()).unwrap_or_default();
    let spf_fits = match spf_outcome {
        Outcome::Pass | Outcome::TempError => is_aligned(&spf_domain, record.spf).await,
        _ => false,
    };
    let spf_aligned = spf_fits && spf_outcome == Outcome::Pass;
    is_undecided |= spf_fits && spf_outcome == Outcome::TempError;
    is_undecided |= is_silent;

    let asked = if policy_domain == author {
        record.policy
    } else if record.nonexistent == record.subdomains {
        record.subdomains
    } else {
        match resolver.exists(author).await {
            Some(true) => record.subdomains,
            Some(false) => record.nonexistent,
            None => return unknown(author),
        }
    };
    let asked = match (record.is_testing, asked) {
        (true, Policy::Reject) => Policy::Quarantine,
        (true, Policy::Quarantine) => Policy::None,
        (_, asked) => asked,
    };
    let (outcome, reason, policy) = if spf_aligned || dkim_aligned {
        (Outcome::Pass, format!("p={}", asked.name()), Policy::None)
    } else if is_undecided {
        (Outcome::TempError, "no answer from DNS".to_owned(), Policy::None)
    } else {
        (Outcome::Fail, format!("p={}", asked.name()), asked)
    };
    let published = Some(Published { domain: policy_domain, record, spf_aligned, dkim_aligned });
    Conclusion { outcome, reason, author_domain: author.to_owned(), policy, published }
}
