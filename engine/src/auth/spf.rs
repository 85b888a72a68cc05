//! SPF (RFC 7208) and iprev (RFC 8601 section 3) of one connection.

use super::verdict::{Finding, Method, Outcome};
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{IprevOutput, IprevResult, MessageAuthenticator, SpfOutput, SpfResult};
use std::net::IpAddr;

pub async fn helo(
    resolver: &MessageAuthenticator,
    peer: IpAddr,
    helo: &str,
    receiver: &str,
) -> SpfOutput {
    resolver.verify_spf(SpfParameters::verify_ehlo(peer, helo, receiver)).await
}

pub async fn mail_from(
    resolver: &MessageAuthenticator,
    peer: IpAddr,
    helo: &str,
    receiver: &str,
    sender: &str,
) -> SpfOutput {
    resolver.verify_spf(SpfParameters::verify_mail_from(peer, helo, receiver, sender)).await
}

pub fn finding(output: &SpfOutput, property: &'static str, value: &str) -> Finding {
    let outcome = match output.result() {
        SpfResult::Pass => Outcome::Pass,
        SpfResult::Fail => Outcome::Fail,
        SpfResult::SoftFail => Outcome::SoftFail,
        SpfResult::Neutral => Outcome::Neutral,
        SpfResult::TempError => Outcome::TempError,
        SpfResult::PermError => Outcome::PermError,
        SpfResult::None => Outcome::None,
    };
    Finding::new(Method::Spf, outcome).of(property, value)
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
