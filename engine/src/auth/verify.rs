//! All methods over one message. Runs on the control plane.
//!
//! The questions to DNS of different methods run beside each other. What has no answer at the
//! deadline is `temperror`; what has one counts.

use super::arc::{self, Chain};
use super::dkim::header::Header;
use super::dkim::{self, Verified};
use super::dmarc::{self, Conclusion};
use super::dns::Resolver;
use super::evidence::Evidence;
use super::settings::DmarcMode;
use super::spf;
use super::verdict::{Finding, Method, Outcome, Policy, Verdict};
use crate::reports::row::{Found, Observed};
use std::net::IpAddr;
use std::time::Instant;
use tokio::time::timeout_at;

/// A message that has arrived, and where from.
#[derive(Debug)]
pub struct Question {
    /// `None`: nobody knows, since it was collected from another server. Then SPF says nothing, and
    /// nothing follows from a DMARC that does not pass.
    pub peer: Option<IpAddr>,
    /// The argument of HELO or EHLO.
    pub helo: String,
    /// Empty for the null sender.
    pub mail_from: String,
    /// Our own name.
    pub receiver: String,
    pub evidence: Evidence,
    pub dmarc: DmarcMode,
    pub received_spf: bool,
    /// Domains whose word about a message counts.
    pub trusted_sealers: Vec<String>,
    pub deadline: Instant,
}

pub async fn verify(resolver: &Resolver, question: &Question) -> Verdict {
    let started = Instant::now();
    let Question { helo, receiver, .. } = question;
    let peer = question.peer.map(|peer| peer.to_canonical());
    let sender = ascii_domain(&question.mail_from);
    let helo_domain = ascii_domain(helo);
    let header = Header::read(&question.evidence.message);
    let hashes = question.evidence.body_hashes();
    let until = tokio::time::Instant::from_std(question.deadline);

    let iprev = async {
        let found = timeout_at(until, spf::iprev(resolver, peer?)).await;
        Some(found.unwrap_or(Outcome::TempError))
    };
    let spf_helo = async {
        let Some(peer) = peer else { return Outcome::None };
        let found = spf::helo(resolver, peer, &helo_domain);
        timeout_at(until, found).await.unwrap_or(Outcome::TempError)
    };
    let spf_mail_from = async {
        let peer = peer.filter(|_| !sender.is_empty())?;
        let found = spf::mail_from(resolver, peer, &helo_domain, &sender);
        Some(timeout_at(until, found).await.unwrap_or(Outcome::TempError))
    };
    let signatures = async {
        let mut verified: Vec<Verified> = Vec::new();
        // With a header that is cut nothing can be said of signatures.
        if !hashes.header_cut {
            let all = dkim::verify(resolver, &header, &hashes, &mut verified);
            let _ = timeout_at(until, all).await;
        }
        verified
    };
    let chain = async {
        let late = || (Some(Finding::new(Method::Arc, Outcome::TempError)), Chain::default());
        let found = timeout_at(until, arc::verify(resolver, &header, &hashes)).await;
        found.unwrap_or_else(|_| late())
    };
    let (iprev, spf_helo, spf_mail_from, signatures, (chain_finding, chain)) =
        tokio::join!(iprev, spf_helo, spf_mail_from, signatures, chain);

    let mut findings = Vec::new();
    if let (Some(peer), Some(iprev)) = (peer, iprev) {
        findings.push(Finding::new(Method::Iprev, iprev).of("policy.iprev", peer.to_string()));
        findings.push(spf::finding(spf_helo, "smtp.helo", helo));
    }
    if let Some(outcome) = spf_mail_from {
        findings.push(spf::finding(outcome, "smtp.mailfrom", &question.mail_from));
    }
    findings.extend(dkim::findings(&header, &hashes, &signatures));
    findings.extend(chain_finding);

    // RFC 7208 section 2.4: the null sender stands for a postmaster at HELO's name.
    let (spf, spf_domain) = match spf_mail_from {
        Some(outcome) => (outcome, domain_of(&sender)),
        None => (spf_helo, helo_domain.as_str()),
    };
    let mut policy = Policy::None;
    let mut author_domain = String::new();
    let mut observed = None;
    if question.dmarc != DmarcMode::Off {
        let mut concluded = if hashes.header_cut {
            // Another From may stand where nobody has looked.
            Conclusion::without_record(Outcome::PermError, "header too large", "")
        } else if let Some(author) = dmarc::author_domain(&header) {
            let found = dmarc::verify(resolver, &author, &signatures, (spf, spf_domain));
            let late =
                || Conclusion::without_record(Outcome::TempError, "no answer in time", &author);
            timeout_at(until, found).await.unwrap_or_else(|_| late())
        } else {
            Conclusion::without_record(Outcome::None, "no single domain in From", "")
        };
        let mut is_forwarded = false;
        if concluded.outcome == Outcome::Fail
            && let Some(sealer) = chain.voucher(&question.trusted_sealers)
        {
            // RFC 8617 section 7.2.1.
            concluded.reason.push_str(&format!(", local_policy: arc=pass of {sealer}"));
            concluded.policy = Policy::None;
            is_forwarded = true;
        }
        observed = peer.and_then(|peer| {
            let (sender, signatures) = (sender.as_str(), signatures.as_slice());
            let (spf, is_report) = ((spf, spf_domain), is_report(&header));
            let found = Found { peer, sender, signatures, spf, is_forwarded, is_report };
            Observed::of(&concluded, &found)
        });
        if peer.is_none() && concluded.outcome == Outcome::Fail {
            let why = "collected: without SPF nobody can tell";
            concluded = Conclusion::without_record(Outcome::None, why, &concluded.author_domain);
        }
        findings.push(concluded.finding());
        policy = concluded.policy;
        author_domain = concluded.author_domain;
    }
    let received_spf = match peer.filter(|_| question.received_spf) {
        Some(peer) => spf::received_spf(spf, peer, helo, &question.mail_from, receiver),
        None => String::new(),
    };
    let elapsed = started.elapsed();
    Verdict { findings, policy, author_domain, received_spf, observed, elapsed }
}

/// Whether it calls itself a DMARC report (RFC 9990 section 3.5).
fn is_report(header: &Header<'_>) -> bool {
    let begins = |value: &[u8]| {
        let value = value.trim_ascii_start();
        value.get(..14).is_some_and(|start| start.eq_ignore_ascii_case(b"Report Domain:"))
    };
    header.named("subject").any(|field| begins(field.value))
}

fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// With the domain as DNS has it: records are published for A-labels.
fn ascii_domain(name: &str) -> String {
    if name.is_ascii() {
        return name.to_owned();
    }
    let (local, domain) = match name.rsplit_once('@') {
        Some((local, domain)) => (format!("{local}@"), domain),
        None => (String::new(), name),
    };
    let domain = crate::directory::canonical_domain(domain).unwrap_or_else(|| domain.to_owned());
    local + &domain
}
