//! DKIM (RFC 6376, 8301, 8463) over one message.
//!
//! Ours rather than mail-auth's, whose parsers unwrap on what strangers send: a panic would end the
//! server. [`tags`] and [`signature`] read what the message has, [`key`] what DNS has, [`header`]
//! gathers what is signed; body hashes are made with mail-auth's canonicalization. All of it is
//! bounded: [`SIGNATURES_MAX`] signatures, the octets of a field and a record, the bits of a key.

pub mod header;
pub mod key;
pub mod signature;
pub mod tags;

use super::dns::{Missing, Resolver};
use super::evidence::{BodyHashes, SIGNATURES_MAX};
use super::verdict::{Finding, Method, Outcome};
use header::Header;
use key::Key;
use protocols::message::field::Field;
use signature::{Form, Signature, is_within};
use std::time::{SystemTime, UNIX_EPOCH};

/// What one signature is worth.
#[derive(Debug, Clone)]
pub struct Verified {
    pub finding: Finding,
    /// Who has signed, as far as that can be read.
    pub domain: Option<String>,
}

/// Verifies the first [`SIGNATURES_MAX`] signatures. What is found goes into `verified` at once, so
/// that what has an answer counts when there is no time for the rest.
pub async fn verify(
    resolver: &Resolver,
    header: &Header<'_>,
    hashes: &BodyHashes,
    verified: &mut Vec<Verified>,
) {
    let now = unix_seconds();
    for field in header.named("dkim-signature").take(SIGNATURES_MAX) {
        let (signature, result) = match Signature::read(Form::Dkim, field.value) {
            Ok(signature) => {
                let result = one(resolver, header, hashes, &field, &signature, now).await;
                (signature, result)
            }
            Err(fault) => {
                let finding = Finding::new(Method::Dkim, fault.outcome).because(fault.reason);
                let finding = match &fault.domain {
                    Some(domain) => finding.of("header.d", domain.clone()),
                    None => finding,
                };
                verified.push(Verified { finding, domain: fault.domain });
                continue;
            }
        };
        let finding = match result {
            Ok(()) => Finding::new(Method::Dkim, Outcome::Pass),
            Err((outcome, reason)) => Finding::new(Method::Dkim, outcome).because(reason),
        };
        let finding = describe(finding, &signature);
        verified.push(Verified { finding, domain: Some(signature.domain) });
        // Others have a turn between two signatures: each may cost a millisecond.
        tokio::task::yield_now().await;
    }
}

async fn one(
    resolver: &Resolver,
    header: &Header<'_>,
    hashes: &BodyHashes,
    field: &Field<'_>,
    signature: &Signature,
    now: u64,
) -> Result<(), key::Fault> {
    if signature.expires.is_some_and(|expires| expires <= now) {
        return Err((Outcome::Neutral, "signature expired"));
    }
    check(resolver, header, hashes, field, signature).await
}

/// Body hash, key and signature: the same for DKIM and for ARC's message signature.
pub async fn check(
    resolver: &Resolver,
    header: &Header<'_>,
    hashes: &BodyHashes,
    field: &Field<'_>,
    signature: &Signature,
) -> Result<(), key::Fault> {
    if !hashes.has(signature.body, &signature.body_hash) {
        // RFC 8601 section 2.7.1: it was understood, and does not hold.
        return Err((Outcome::Fail, "body was changed"));
    }
    let key = find(resolver, signature).await?;
    let agent = signature.agent_domain.as_ref();
    if key.is_strict && agent.is_some_and(|agent| *agent != signature.domain) {
        return Err((Outcome::PermError, "key forbids subdomains in i="));
    }
    debug_assert!(agent.is_none_or(|agent| is_within(agent, &signature.domain)));
    let data = header.signed(&signature.names, signature.header, field);
    key.verify(signature.algorithm, &data, &signature.signature)
}

/// Asks DNS for the key. Of several records the first that can be used counts.
pub async fn find(resolver: &Resolver, signature: &Signature) -> Result<Key, key::Fault> {
    let texts = match resolver.texts(&signature.key_name()).await {
        Ok(texts) => texts,
        Err(Missing::NoRecords | Missing::NoSuchName) => {
            return Err((Outcome::PermError, "no key"));
        }
        Err(Missing::Failed) => return Err((Outcome::TempError, "no answer from DNS")),
    };
    let mut worst = (Outcome::PermError, "no key");
    for text in &texts {
        match Key::read(text) {
            Ok(key) => return Ok(key),
            Err(fault) => worst = fault,
        }
    }
    Err(worst)
}

/// The findings of all signatures of `header`, looked at or not.
pub fn findings(header: &Header<'_>, hashes: &BodyHashes, verified: &[Verified]) -> Vec<Finding> {
    let finding = |outcome, reason: String| Finding::new(Method::Dkim, outcome).because(reason);
    let all = header.named("dkim-signature").count();
    if hashes.header_cut && all > 0 {
        return vec![finding(Outcome::Neutral, "header too large".to_owned())];
    }
    let mut findings: Vec<Finding> = verified.iter().map(|known| known.finding.clone()).collect();
    let wanted = all.min(SIGNATURES_MAX);
    if verified.len() < wanted {
        findings.push(finding(Outcome::TempError, "no answer in time".to_owned()));
    }
    if all > wanted {
        let more = all - wanted;
        findings.push(finding(Outcome::Neutral, format!("{more} more signatures not looked at")));
    }
    if findings.is_empty() {
        findings.push(Finding::new(Method::Dkim, Outcome::None));
    }
    findings
}

fn describe(finding: Finding, signature: &Signature) -> Finding {
    finding
        .of("header.d", signature.domain.clone())
        .of("header.s", signature.selector.clone())
        .of("header.a", signature.algorithm.name())
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
