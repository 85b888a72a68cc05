//! Where a domain wants its reports, as far as those who would get them agree (RFC 9990 section 4).
//! On the control plane.

use crate::auth::dkim::tags::{self, Tags};
use crate::auth::dmarc::tree::Walk;
use crate::auth::dns::{Missing, Resolver};
use protocols::Address;
use std::time::Instant;
use tokio::time::timeout_at;

/// Reports of one domain go to so many addresses.
const DESTINATIONS_MAX: usize = 4;

#[derive(Debug, Clone)]
pub struct Inquiry {
    pub policy_domain: String,
    /// `mailto:` URIs.
    pub wanted: Vec<String>,
    pub deadline: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub address: String,
    /// The largest report that is wanted (`!10m`).
    pub octets_max: Option<u64>,
}

/// What is known of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Destinations {
    pub agreed: Vec<Destination>,
    /// Addresses that nobody there has said yes for, or that can't be read.
    pub refused: Vec<String>,
    /// DNS does not say; another time it may.
    pub is_silent: bool,
}

pub async fn find(resolver: &Resolver, inquiry: &Inquiry) -> Destinations {
    let until = tokio::time::Instant::from_std(inquiry.deadline);
    let mut found = Destinations::default();
    for uri in &inquiry.wanted {
        let Some(destination) = read(uri) else {
            found.refused.push(uri.clone());
            continue;
        };
        if found.agreed.len() == DESTINATIONS_MAX {
            break;
        }
        match timeout_at(until, agreed(resolver, &inquiry.policy_domain, destination)).await {
            Ok(Ok(Some(destination))) => {
                if found.agreed.iter().all(|known| known.address != destination.address) {
                    found.agreed.push(destination);
                }
            }
            Ok(Ok(None)) => found.refused.push(uri.clone()),
            Ok(Err(_)) | Err(_) => found.is_silent = true,
        }
    }
    found
}

/// `None`: somebody else's address, and they have not said that they want it.
async fn agreed(
    resolver: &Resolver,
    policy_domain: &str,
    destination: Destination,
) -> Result<Option<Destination>, Missing> {
    let host = destination.address.rsplit_once('@').map_or("", |(_, host)| host);
    let Some(host) = tags::domain(host.as_bytes()) else { return Ok(None) };
    if host == policy_domain {
        return Ok(Some(destination));
    }
    let ours = Walk::from(resolver, policy_domain).await?.organization();
    if Walk::from(resolver, &host).await?.organization() == ours {
        return Ok(Some(destination));
    }
    let texts = match resolver.texts(&format!("{policy_domain}._report._dmarc.{host}")).await {
        Ok(texts) => texts,
        Err(Missing::NoRecords | Missing::NoSuchName) => return Ok(None),
        Err(Missing::Failed) => return Err(Missing::Failed),
    };
    for text in &texts {
        let Some(tags) = Tags::read(text) else { continue };
        if tags.first("v") != Some(b"DMARC1") {
            continue;
        }
        // They may name another address of theirs, at the same host.
        let other = tags.get("rua").map(|uri| String::from_utf8_lossy(uri).into_owned());
        let other = other.as_deref().and_then(|list| read(list.split(',').next()?.trim()));
        let is_theirs = |other: &Destination| {
            let at = other.address.rsplit_once('@').map_or("", |(_, host)| host);
            tags::domain(at.as_bytes()).is_some_and(|at| at == host)
        };
        return Ok(Some(other.filter(is_theirs).unwrap_or(destination)));
    }
    Ok(None)
}

/// `mailto:dmarc@example.org!10m`.
fn read(uri: &str) -> Option<Destination> {
    let scheme = uri.get(..7)?;
    if !scheme.eq_ignore_ascii_case("mailto:") {
        return None;
    }
    let rest = uri.get(7..)?;
    let (rest, octets_max) = match rest.rsplit_once('!') {
        Some((rest, size)) => (rest, Some(octets(size)?)),
        None => (rest, None),
    };
    let text = percent(rest.split('?').next()?)?;
    let address = Address::parse(text.as_bytes()).filter(Address::is_ascii)?;
    Some(Destination { address: address.to_string(), octets_max })
}

fn octets(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 10),
        b'm' => (&text[..text.len() - 1], 20),
        b'g' => (&text[..text.len() - 1], 30),
        b't' => (&text[..text.len() - 1], 40),
        _ => (&text[..], 0),
    };
    tags::number(digits.as_bytes()).filter(|_| !digits.is_empty())?.checked_mul(1 << shift)
}

fn percent(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            octets.push(first);
            rest = after;
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        octets.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after.get(2..)?;
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dns::Zone;
    use hickory_resolver::proto::rr::rdata::TXT;
    use hickory_resolver::proto::rr::{RData, RecordType};
    use std::time::Duration;

    fn find_in(zone: &[(&str, &str)], wanted: &[&str]) -> Destinations {
        let mut known = Zone::new();
        for (name, text) in zone {
            let text = RData::TXT(TXT::new(vec![(*text).to_owned()]));
            known.entry(((*name).to_owned(), RecordType::TXT)).or_default().push(text);
        }
        let inquiry = Inquiry {
            policy_domain: "a.test".into(),
            wanted: wanted.iter().map(|&uri| uri.to_owned()).collect(),
            deadline: Instant::now() + Duration::from_secs(5),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(find(&Resolver::from_zone(known), &inquiry))
    }

    fn addresses(found: &Destinations) -> Vec<&str> {
        found.agreed.iter().map(|one| one.address.as_str()).collect()
    }

    #[test]
    fn sizes_and_addresses_are_read() {
        let one = read("mailto:dmarc@a.test!10m").unwrap();
        assert_eq!((one.address.as_str(), one.octets_max), ("dmarc@a.test", Some(10 << 20)));
        assert_eq!(read("MAILTO:d%21x@a.test").unwrap().address, "d!x@a.test");
        assert_eq!(read("mailto:d@a.test!500").unwrap().octets_max, Some(500));
        assert_eq!(read("mailto:d@a.test?subject=x").unwrap().address, "d@a.test");
        for wrong in [
            "https://a.test",
            "mailto:",
            "mailto:d",
            "mailto:d@a.test!m",
            "mailto:d@a.test!",
            "mailto:d%0ax@a.test",
            "mailto:d%zz@a.test",
            "mailto:d@a.test!99999999999999t",
            "ö",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn who_is_elsewhere_has_to_agree() {
        let policy = [("_dmarc.a.test.", "v=DMARC1; p=none")];
        let found =
            find_in(&policy, &["mailto:d@a.test", "mailto:d@reports.a.test", "mailto:d@b.test"]);
        assert_eq!(addresses(&found), ["d@a.test", "d@reports.a.test"]);
        assert_eq!(found.refused, ["mailto:d@b.test"]);
        for (text, address) in [
            ("v=DMARC1", Some("d@b.test")),
            ("v=DMARC1;", Some("d@b.test")),
            ("v=DMARC1; rua=mailto:other@b.test", Some("other@b.test")),
            ("v=DMARC1; rua=mailto:other@c.test", Some("d@b.test")),
            ("v=DMARC2", None),
            ("p=none", None),
        ] {
            let zone = [policy[0], ("a.test._report._dmarc.b.test.", text)];
            let found = find_in(&zone, &["mailto:d@b.test"]);
            assert_eq!(addresses(&found).first().copied(), address, "{text}");
        }
    }

    #[test]
    fn nobody_gets_a_report_twice_and_few_get_one() {
        let wanted: Vec<String> =
            (0..9).map(|number| format!("mailto:d{}@a.test", number / 2)).collect();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let found = find_in(&[], &wanted);
        assert_eq!(addresses(&found), ["d0@a.test", "d1@a.test", "d2@a.test", "d3@a.test"]);
    }
}
