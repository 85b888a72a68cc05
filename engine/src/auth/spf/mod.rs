//! SPF (RFC 7208) and iprev (RFC 8601 section 3) of one connection.
//!
//! SPF is ours rather than mail-auth's, which does not keep to the RFC 7208 test suite: it takes the first
//! of several records, counts no questions without an answer, and validates no names. [`record`] reads,
//! [`macros`] expand, [`check`] evaluates.

pub mod check;
pub mod macros;
pub mod record;

use super::verdict::{Finding, Method, Outcome};
use check::Check;
use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::{IprevOutput, IprevResult, SpfOutput, SpfResult};
use std::net::IpAddr;

/// The domain in HELO or EHLO (section 2.3).
pub async fn helo(resolver: &TokioResolver, peer: IpAddr, helo: &str) -> Outcome {
    Check::new(resolver, peer, ("postmaster", helo), helo).run(helo).await
}

/// The domain of the sender in MAIL FROM (section 2.4).
pub async fn mail_from(
    resolver: &TokioResolver,
    peer: IpAddr,
    helo: &str,
    sender: &str,
) -> Outcome {
    let (local, domain) = sender.rsplit_once('@').unwrap_or(("postmaster", sender));
    Check::new(resolver, peer, (local, domain), helo).run(domain).await
}

pub fn finding(outcome: Outcome, property: &'static str, value: &str) -> Finding {
    Finding::new(Method::Spf, outcome).of(property, value)
}

/// In mail-auth's terms, for its DMARC.
pub fn output(outcome: Outcome, domain: &str) -> SpfOutput {
    SpfOutput::new(domain.to_owned()).with_result(match outcome {
        Outcome::Pass => SpfResult::Pass,
        Outcome::Fail | Outcome::Policy => SpfResult::Fail,
        Outcome::SoftFail => SpfResult::SoftFail,
        Outcome::Neutral => SpfResult::Neutral,
        Outcome::TempError => SpfResult::TempError,
        Outcome::PermError => SpfResult::PermError,
        Outcome::None => SpfResult::None,
    })
}

pub fn iprev(output: &IprevOutput, peer: IpAddr) -> Finding {
    let outcome = match output.result() {
        IprevResult::Pass => Outcome::Pass,
        IprevResult::Fail(_) => Outcome::Fail,
        IprevResult::TempError(_) => Outcome::TempError,
        // No name at all (RFC 8601 section 3 calls that permerror).
        IprevResult::PermError(_) | IprevResult::None => Outcome::PermError,
    };
    Finding::new(Method::Iprev, outcome).of("policy.iprev", peer.to_string())
}
