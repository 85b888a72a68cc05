//! All methods over one message. Runs on the control plane.
//!
//! The questions to DNS of different methods run beside each other. What has no answer at the deadline is
//! `temperror`; what has one counts.

use super::evidence::Evidence;
use super::settings::DmarcMode;
use super::verdict::{Finding, Method, Outcome, Policy, Verdict};
use super::{dkim, dmarc, spf};
use mail_auth::common::headers::HeaderWriter;
use mail_auth::{DnsError, Error, IprevOutput, IprevResult, MessageAuthenticator, ReceivedSpf};
use std::net::IpAddr;
use std::time::Instant;

/// A message that has arrived, and where from.
#[derive(Debug)]
pub struct Question {
    pub peer: IpAddr,
    /// The argument of HELO or EHLO.
    pub helo: String,
    /// Empty for the null sender.
    pub mail_from: String,
    /// Our own name.
    pub receiver: String,
    pub evidence: Evidence,
    pub dmarc: DmarcMode,
    pub received_spf: bool,
    pub deadline: Instant,
}

pub async fn verify(resolver: &MessageAuthenticator, question: &Question) -> Verdict {
    let started = Instant::now();
    let Question { helo, receiver, .. } = question;
    let peer = question.peer.to_canonical();
    let sender = ascii_domain(&question.mail_from);
    let helo_domain = ascii_domain(helo);
    let (message, left_out) = dkim::read(&question.evidence).unzip();
    let message = message.unwrap_or_default();
    let until = tokio::time::Instant::from_std(question.deadline);

    let iprev = async {
        let found = tokio::time::timeout_at(until, resolver.verify_iprev(peer)).await;
        found.unwrap_or_else(|_| IprevOutput {
            result: IprevResult::TempError(Error::Dns(DnsError::Resolver(String::new()))),
            ptr: None,
        })
    };
    let spf_helo = async {
        let found = spf::helo(resolver.resolver(), peer, &helo_domain);
        tokio::time::timeout_at(until, found).await.unwrap_or(Outcome::TempError)
    };
    let spf_mail_from = async {
        if sender.is_empty() {
            return None;
        }
        let found = spf::mail_from(resolver.resolver(), peer, &helo_domain, &sender);
        Some(tokio::time::timeout_at(until, found).await.unwrap_or(Outcome::TempError))
    };
    let signatures = async {
        let found = tokio::time::timeout_at(until, dkim::verify(resolver, &message)).await;
        found.unwrap_or_else(|_| dkim::too_late(&message))
    };
    let chain = async {
        let found = tokio::time::timeout_at(until, resolver.verify_arc(&message)).await;
        found.ok().as_ref().and_then(dkim::arc)
    };
    let (iprev, spf_helo, spf_mail_from, signatures, chain) =
        tokio::join!(iprev, spf_helo, spf_mail_from, signatures, chain);

    let mut findings = vec![spf::iprev(&iprev, peer), spf::finding(spf_helo, "smtp.helo", helo)];
    if let Some(outcome) = spf_mail_from {
        findings.push(spf::finding(outcome, "smtp.mailfrom", &question.mail_from));
    }
    findings.extend(dkim::findings(&signatures));
    findings.extend(left_out.unwrap_or_default());
    if !findings.iter().any(|finding| finding.method == Method::Dkim) {
        findings.push(Finding::new(Method::Dkim, Outcome::None));
    }
    findings.extend(chain);

    // RFC 7208 section 2.4: the null sender stands for a postmaster at HELO's name.
    let (spf, spf_domain) = match spf_mail_from {
        Some(outcome) => (outcome, domain_of(&sender)),
        None => (spf_helo, helo_domain.as_str()),
    };
    let spf = spf::output(spf, spf_domain);
    let mut policy = Policy::None;
    let mut author_domain = String::new();
    if question.dmarc != DmarcMode::Off {
        let found = dmarc::verify(resolver, &message, &signatures, spf_domain, &spf);
        let output =
            tokio::time::timeout_at(until, found).await.unwrap_or_else(|_| dmarc::too_late());
        let (finding, applied) = dmarc::finding(&output);
        findings.push(finding);
        policy = applied;
        author_domain = output.into_domain();
    }
    let received_spf = if question.received_spf {
        let from = if sender.is_empty() { "" } else { &question.mail_from };
        ReceivedSpf::new(&spf, peer, helo, from, receiver).to_header()
    } else {
        String::new()
    };
    Verdict { findings, policy, author_domain, received_spf, elapsed: started.elapsed() }
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
