//! `[auth]` and `[dns]` of the config file.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Offers passwords over connections without TLS. For trying out on loopback only.
    pub plaintext_allowed: bool,
    /// Whether mail from other servers (`listen.smtp`) is verified: iprev, SPF,
    /// DKIM, ARC and DMARC.
    pub verify: bool,
    /// What follows from a DMARC policy that a message fails.
    pub dmarc: DmarcMode,
    /// Clients in these networks are not verified: this host, gateways of one's own. Addresses, or
    /// networks such as `192.0.2.0/24`.
    pub trusted_networks: Vec<Network>,
    /// Where mail goes whose author's domain asks for it (`p=quarantine`), in mode `enforce`:
    /// `junk`, or `quarantine`, where it is kept back (`[quarantine]`).
    pub dmarc_quarantine: DmarcQuarantine,
    /// Also writes `Received-SPF` (RFC 7208 section 9.1), for programs that read nothing else.
    pub received_spf: bool,
    /// What is not known of a message after so many seconds is `temperror`.
    pub deadline_seconds: u64,
    /// Domains whose word about a message counts (ARC): where they have sealed it and seen DMARC
    /// pass, a failure here has no consequence. Mailing lists and forwarders that one knows.
    pub trusted_sealers: Vec<String>,
    /// What is passed on to other hosts (aliases, redirects) is sealed for them with what was found
    /// when it came (ARC).
    pub arc_seal: bool,
    /// Another mode for some authors: by the domain in `From:`, or by the address in MAIL
    /// FROM, in lower case.
    pub dmarc_overrides: BTreeMap<String, DmarcMode>,
}

impl Auth {
    /// What follows from a failure of this author's mail. An address goes before a domain.
    pub fn dmarc_of(&self, author_domain: &str, mail_from: &str) -> DmarcMode {
        let by_address = self.dmarc_overrides.get(&mail_from.to_lowercase());
        let found = by_address.or_else(|| self.dmarc_overrides.get(author_domain));
        found.copied().unwrap_or(self.dmarc)
    }

    /// What the types can't say: the key that is at fault, and words for the operator.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let is_domain =
            |name: &str| crate::auth::dkim::tags::domain(name.as_bytes()).as_deref() == Some(name);
        for sealer in &self.trusted_sealers {
            if !is_domain(sealer) {
                let what = format!(
                    "auth.trusted_sealers: {sealer:?} is no domain in lower case (A-labels)"
                );
                return Err(("auth.trusted_sealers", what));
            }
        }
        for author in self.dmarc_overrides.keys() {
            let domain = author.rsplit_once('@').map_or(author.as_str(), |(_, domain)| domain);
            if !is_domain(domain) || *author != author.to_lowercase() {
                let what = format!(
                    "auth.dmarc_overrides: {author:?} is no domain or address in lower case (A-labels)"
                );
                return Err(("auth.dmarc_overrides", what));
            }
        }
        Ok(())
    }
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            plaintext_allowed: false,
            verify: true,
            dmarc: DmarcMode::default(),
            dmarc_quarantine: DmarcQuarantine::default(),
            trusted_networks: ["127.0.0.0/8", "::1"]
                .iter()
                .filter_map(|n| Network::read(n))
                .collect(),
            received_spf: false,
            // RFC 7208 section 4.6.4 asks for at least 20 seconds.
            deadline_seconds: 20,
            trusted_sealers: Vec::new(),
            arc_seal: false,
            dmarc_overrides: BTreeMap::new(),
        }
    }
}

/// `mark` unless the operator says otherwise: mailing lists break SPF and DKIM, so RFC 9989
/// section 7.4 forbids to refuse on the ground of `p=reject` alone; and an upgrade must not
/// begin to refuse mail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DmarcMode {
    /// No policy is looked up.
    Off,
    /// The result is written into the message; nothing else follows.
    #[default]
    Mark,
    /// `p=reject` is refused, `p=quarantine` goes into Junk or is kept back
    /// (`auth.dmarc_quarantine`).
    Enforce,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DmarcQuarantine {
    #[default]
    Junk,
    Quarantine,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Resolvers to ask; the system's (`/etc/resolv.conf`) when there are none.
    pub servers: Vec<SocketAddr>,
    /// How long one resolver has for one answer, in seconds; each question is asked twice.
    pub timeout_seconds: u64,
    /// Answers kept, positive and negative, each for as long as its TTL says, at most a day.
    pub cache_entries: u64,
    /// Blocklists that `kura dns check` asks about this host's addresses and domains, beside those
    /// of `policy.dns_lists`.
    pub blocklists: Vec<String>,
    /// Whether answers about other mail hosts are proved (DNSSEC), which DANE needs.
    pub dnssec: Dnssec,
    /// Domains that are not signed here, whatever the world says of them: private ones, and what
    /// lies behind a DNAME (RFC 7646).
    pub unsigned: Vec<String>,
    /// Keys of the root zone, as DNSKEY records, in the place of those that are built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_anchor: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dnssec {
    /// From the first proof of the root's keys on, which a resolver that hands out no signatures
    /// never brings; until then nothing counts as proved. It is remembered over restarts.
    #[default]
    Auto,
    /// Without proofs nothing leaves for other hosts.
    Required,
    /// Nothing counts as proved.
    Off,
}

impl Default for Dns {
    fn default() -> Self {
        Dns {
            servers: Vec::new(),
            timeout_seconds: 3,
            cache_entries: 10_000,
            blocklists: Vec::new(),
            dnssec: Dnssec::Auto,
            unsigned: Vec::new(),
            trust_anchor: None,
        }
    }
}

const BLOCKLISTS_MAX: usize = 32;
/// Each question looks through them.
const UNSIGNED_MAX: usize = 1000;

impl Dns {
    /// What the types can't say: the key that is at fault, and words for the operator.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let is_domain =
            |name: &str| crate::auth::dkim::tags::domain(name.as_bytes()).as_deref() == Some(name);
        for (key, domains, most) in [
            ("dns.blocklists", &self.blocklists, BLOCKLISTS_MAX),
            ("dns.unsigned", &self.unsigned, UNSIGNED_MAX),
        ] {
            if let Some(wrong) = domains.iter().find(|domain| !is_domain(domain)) {
                let what = format!(
                    "{key}: {wrong:?} is no domain in lower case; write it as \"example.org\""
                );
                return Err((key, what));
            }
            if domains.len() > most {
                let count = domains.len();
                return Err((key, format!("{key} has {count} domains; use {most} at most")));
            }
        }
        Ok(())
    }
}

/// An address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn read(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse().ok()?, bits.parse().ok()?),
            None => {
                let address: IpAddr = text.parse().ok()?;
                (address, if address.is_ipv4() { 32 } else { 128 })
            }
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Network { address, bits })
    }

    /// The first and the last address in it, and how many leading bits they share.
    pub fn ends(&self) -> (IpAddr, IpAddr, u8) {
        match self.address {
            IpAddr::V4(address) => {
                let rest = u32::MAX.checked_shr(u32::from(self.bits)).unwrap_or(0);
                let first = address.to_bits() & !rest;
                (IpAddr::V4(first.into()), IpAddr::V4((first | rest).into()), self.bits)
            }
            IpAddr::V6(address) => {
                let rest = u128::MAX.checked_shr(u32::from(self.bits)).unwrap_or(0);
                let first = address.to_bits() & !rest;
                (IpAddr::V6(first.into()), IpAddr::V6((first | rest).into()), self.bits)
            }
        }
    }

    /// An IPv4 address in IPv6's clothes is an IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Network, String> {
        Network::read(&text).ok_or_else(|| {
            format!("{text:?} is no address or network; write \"192.0.2.1\" or \"192.0.2.0/24\"")
        })
    }
}

impl From<Network> for String {
    fn from(network: Network) -> String {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_goes_before_a_domain_and_both_before_the_rest() {
        let mut auth = Auth { dmarc: DmarcMode::Enforce, ..Auth::default() };
        auth.dmarc_overrides.insert("a.test".to_owned(), DmarcMode::Mark);
        auth.dmarc_overrides.insert("x@a.test".to_owned(), DmarcMode::Off);
        assert_eq!(auth.dmarc_of("a.test", "X@a.test"), DmarcMode::Off);
        assert_eq!(auth.dmarc_of("a.test", "y@a.test"), DmarcMode::Mark);
        assert_eq!(auth.dmarc_of("b.test", ""), DmarcMode::Enforce);
        assert_eq!(auth.check(), Ok(()));
        for wrong in ["A.test", "a b", "x@", "@"] {
            let mut auth = Auth::default();
            auth.dmarc_overrides.insert(wrong.to_owned(), DmarcMode::Mark);
            assert!(auth.check().is_err(), "{wrong}");
        }
        let auth = Auth { trusted_sealers: vec!["Lists.test".to_owned()], ..Auth::default() };
        assert!(auth.check().is_err());
    }

    #[test]
    fn domains_of_dns_are_domains() {
        let with = |text: &str| toml::from_str::<Dns>(text).unwrap().check().map_err(|it| it.0);
        assert_eq!(with("blocklists = ['bl.test']\nunsigned = ['corp.test', 'internal']"), Ok(()));
        assert_eq!(with("blocklists = ['BL.test']"), Err("dns.blocklists"));
        assert_eq!(with("unsigned = ['.']"), Err("dns.unsigned"));
    }

    #[test]
    fn a_network_contains_what_shares_its_leading_bits() {
        for (network, address, inside) in [
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("127.0.0.0/8", "::ffff:127.1.2.3", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
            ("::1", "::1", true),
        ] {
            let known = Network::read(network).unwrap();
            assert_eq!(known.contains(address.parse().unwrap()), inside, "{network} {address}");
        }
        for wrong in ["192.0.2.0/33", "::/129", "192.0.2", "a/8", "192.0.2.0/", ""] {
            assert_eq!(Network::read(wrong), None, "{wrong}");
        }
    }
}
