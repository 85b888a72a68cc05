//! SPF (RFC 7208) and iprev (RFC 8601 section 3) of one connection.
//!
//! SPF is ours rather than mail-auth's, which does not keep to the RFC 7208 test suite: it takes
//! the first of several records, counts no questions without an answer, and validates no names.
//! [`record`] reads, [`macros`] expand, [`check`] evaluates.

pub mod check;
pub mod macros;
pub mod record;

use super::dns::{Missing, Resolver};
use super::results::push_value;
use super::verdict::{Finding, Method, Outcome};
use check::Check;
use std::net::IpAddr;

/// Names of an address that are looked at.
const NAMES_MAX: usize = 10;

/// The domain in HELO or EHLO (section 2.3).
pub async fn helo(resolver: &Resolver, peer: IpAddr, helo: &str) -> Outcome {
    Check::new(resolver, peer, ("postmaster", helo), helo).run(helo).await
}

/// The domain of the sender in MAIL FROM (section 2.4).
pub async fn mail_from(resolver: &Resolver, peer: IpAddr, helo: &str, sender: &str) -> Outcome {
    let (local, domain) = sender.rsplit_once('@').unwrap_or(("postmaster", sender));
    Check::new(resolver, peer, (local, domain), helo).run(domain).await
}

pub fn finding(outcome: Outcome, property: &'static str, value: &str) -> Finding {
    Finding::new(Method::Spf, outcome).of(property, value)
}

/// Whether a name of the client's address has the address.
pub async fn iprev(resolver: &Resolver, peer: IpAddr) -> Outcome {
    let names = match resolver.names(peer).await {
        Ok(names) => names,
        // No name at all (RFC 8601 section 3 calls that permerror).
        Err(Missing::NoRecords | Missing::NoSuchName) => return Outcome::PermError,
        Err(Missing::Failed) => return Outcome::TempError,
    };
    let mut outcome = Outcome::Fail;
    for name in names.into_iter().take(NAMES_MAX) {
        match resolver.addresses(name, peer.is_ipv4()).await {
            Ok(addresses) if addresses.contains(&peer) => return Outcome::Pass,
            Err(Missing::Failed) => outcome = Outcome::TempError,
            Ok(_) | Err(Missing::NoRecords | Missing::NoSuchName) => {}
        }
    }
    outcome
}

/// The `Received-SPF` field (RFC 7208 section 9.1), with its final CRLF.
pub fn received_spf(
    outcome: Outcome,
    peer: IpAddr,
    helo: &str,
    sender: &str,
    receiver: &str,
) -> String {
    let identity = if sender.is_empty() { "helo" } else { "mailfrom" };
    let mut text = format!("Received-SPF: {} client-ip={peer};\r\n\treceiver=", outcome.name());
    push_value(&mut text, receiver);
    text.push_str("; envelope-from=");
    push_value(&mut text, sender);
    text.push_str(";\r\n\thelo=");
    push_value(&mut text, helo);
    text.push_str("; identity=");
    text.push_str(identity);
    text.push_str(";\r\n");
    text
}
