//! Block and allow lists in DNS: RFC 5782. Runs on the control plane.
//!
//! The questions run beside each other, through the one door to DNS with its cache and its bounds.
//! What has no answer at the deadline is not listed: an outage keeps nobody out.

use super::settings::DnsList;
use crate::auth::dns::{self, Resolver};
use std::net::IpAddr;
use std::time::Instant;
use tokio::time::timeout_at;

/// A client, and the lists to look in.
#[derive(Debug)]
pub struct Inquiry {
    pub peer: IpAddr,
    pub lists: Vec<DnsList>,
    pub deadline: Instant,
}

/// For each list, whether the client is on it.
pub async fn look_up(resolver: &Resolver, inquiry: &Inquiry) -> Vec<bool> {
    let until = tokio::time::Instant::from_std(inquiry.deadline);
    let one = |list: &DnsList| {
        let (name, answers) = (query_name(inquiry.peer, &list.zone), list.answers.clone());
        let resolver = resolver.clone();
        tokio::spawn(async move {
            let Some(name) = dns::name(&name) else { return false };
            let found = timeout_at(until, resolver.addresses(name, true)).await;
            let Ok(Ok(found)) = found else { return false };
            found.iter().any(|address| answers.iter().any(|known| known.contains(*address)))
        })
    };
    let asked: Vec<_> = inquiry.lists.iter().map(one).collect();
    let mut listed = Vec::with_capacity(asked.len());
    for answer in asked {
        listed.push(answer.await.unwrap_or(false));
    }
    listed
}

fn query_name(peer: IpAddr, zone: &str) -> String {
    format!("{}.{zone}.", backwards(peer.to_canonical()))
}

/// RFC 5782 section 2.1: octets backwards; section 2.4: nibbles of IPv6.
pub fn backwards(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}")
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let nibbles =
                octets.iter().rev().map(|octet| format!("{:x}.{:x}", octet & 15, octet >> 4));
            nibbles.collect::<Vec<_>>().join(".")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dns::Zone;
    use hickory_resolver::proto::rr::{RData, RecordType};
    use std::time::Duration;

    #[test]
    fn names_are_those_of_rfc_5782() {
        assert_eq!(query_name("192.0.2.99".parse().unwrap(), "bad.test"), "99.2.0.192.bad.test.");
        assert_eq!(query_name("::ffff:192.0.2.99".parse().unwrap(), "b"), "99.2.0.192.b.");
        assert_eq!(
            query_name("2001:db8:1:2:3:4:567:89ab".parse().unwrap(), "ugly.test"),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ugly.test."
        );
    }

    #[test]
    fn only_answers_that_mean_it_count() {
        let list = |zone: &str| -> DnsList {
            toml::from_str(&format!("zone = \"{zone}\"\nrefuse = true")).unwrap()
        };
        let mut zone = Zone::new();
        for (name, address) in [
            ("yes", [127, 0, 0, 2]),
            ("quota", [127, 255, 255, 254]),
            ("captured", [192, 0, 2, 80]),
        ] {
            let key = (format!("1.2.0.192.{name}.test."), RecordType::A);
            zone.insert(key, vec![RData::A(std::net::Ipv4Addr::from(address).into())]);
        }
        let lists =
            ["yes", "quota", "captured", "no"].map(|name| list(&format!("{name}.test"))).to_vec();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let peer = "192.0.2.1".parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let found = runtime
            .block_on(look_up(&Resolver::from_zone(zone), &Inquiry { peer, lists, deadline }));
        assert_eq!(found, [true, false, false, false]);
    }
}
