//! What DNS has to say of a domain and of the host that serves it: one list, which `kura dns print`
//! shows and `kura dns check` compares with the world.
//!
//! The host's name is `hostname` of the config; its addresses are `addresses`, or those that it
//! would send from. A route is asked for these: nothing is sent. An address that the world can't
//! reach is not published.

use super::keys::{DkimKeys, State};
use super::mta_sts;
use crate::certificates;
use crate::config::Config;
use crate::relay::settings::SmartHost;
use hickory_resolver::proto::rr::Name;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// What is known of a domain.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    pub domain: String,
    pub hostname: String,
    pub addresses: Vec<IpAddr>,
    /// Where the addresses are from, in words.
    pub addresses_from: String,
    pub records: Vec<Record>,
    /// What can't be said in a record.
    pub notes: Vec<String>,
    /// The MTA-STS policy, where it is served.
    pub policy: Option<String>,
    /// Addresses on other hosts that get what is sent to any name of the domain that nobody
    /// has (catch-all).
    #[serde(default)]
    pub rest_goes_to: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub what: What,
    /// Without the final dot.
    pub name: String,
    #[serde(rename = "type")]
    pub kind: Kind,
    /// As a zone file has it; of a TXT record the text, neither quoted nor split.
    pub value: String,
    /// Mail works without it.
    pub optional: bool,
    /// For people; may be empty.
    pub note: String,
}

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Address,
    Reverse,
    Mx,
    Spf,
    /// Of the host's own name, for mail without a sender.
    SpfHost,
    Dkim,
    Dmarc,
    TlsRpt,
    MtaSts,
    MtaStsHost,
    /// Not in DNS: the policy itself.
    MtaStsPolicy,
    Service,
    Autoconfig,
    Tlsa,
    Caa,
    /// No record: whether strangers can send through this host.
    OpenRelay,
    /// No record of ours: whether a list in DNS names us.
    Blocklist,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Kind {
    A,
    Aaaa,
    Mx,
    Ptr,
    Txt,
    Srv,
    Cname,
    Tlsa,
    Caa,
    /// A document.
    Https,
    /// A session.
    Smtp,
    /// A key of the config file.
    Config,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::A => "A",
            Kind::Aaaa => "AAAA",
            Kind::Mx => "MX",
            Kind::Ptr => "PTR",
            Kind::Txt => "TXT",
            Kind::Srv => "SRV",
            Kind::Cname => "CNAME",
            Kind::Tlsa => "TLSA",
            Kind::Caa => "CAA",
            Kind::Https => "HTTPS",
            Kind::Smtp => "SMTP",
            Kind::Config => "CONFIG",
        })
    }
}

impl What {
    pub fn title(self) -> &'static str {
        match self {
            What::Address => "the host's address",
            What::Reverse => "the address's name; whoever gives you the address sets it",
            What::Mx => "where mail for the domain goes",
            What::Spf => "who sends mail for it (SPF)",
            What::SpfHost => "the same for the host's own name (SPF)",
            What::Dkim => "keys of its signatures (DKIM)",
            What::Dmarc => "what others do with mail that neither confirms (DMARC)",
            What::TlsRpt => "where others report failures of TLS (TLSRPT)",
            What::MtaSts => "others encrypt by policy (MTA-STS)",
            What::MtaStsHost => "where the policy is (MTA-STS)",
            What::MtaStsPolicy => "the policy (MTA-STS)",
            What::Service => "mail programs find the servers (SRV)",
            What::Autoconfig => "mail programs find their settings",
            What::Tlsa => "others know our certificate (DANE); of use only in a zone with DNSSEC",
            What::Caa => "who may issue certificates (CAA)",
            What::OpenRelay => "strangers can't send through this host",
            What::Blocklist => "no blocklist names us",
        }
    }
}

impl Facts {
    /// Reads certificates. `now` in Unix seconds.
    pub fn gather(
        config: &Config,
        domain: &str,
        keys: Option<&DkimKeys>,
        now: u64,
    ) -> Result<Facts, String> {
        let hostname = config.hostname.to_lowercase();
        let mut notes = Vec::new();
        let (addresses, addresses_from) = match config.addresses.as_slice() {
            [] => (routed_addresses(&mut notes), "those that this host sends from".to_owned()),
            configured => (configured.to_vec(), "`addresses` in the config file".to_owned()),
        };
        if !config.addresses.is_empty() {
            let hidden = addresses.iter().filter(|address| !is_public(**address));
            notes.extend(hidden.map(|address| {
                format!("`addresses` in the config file: the world can't reach {address}")
            }));
        }
        let mut list = List { records: Vec::new() };
        list.host(&hostname, &addresses);
        list.add(What::Mx, domain, Kind::Mx, format!("10 {hostname}."));
        list.spf(config, domain, &mut notes);
        list.keys(domain, keys, now, &mut notes);
        let dmarc = format!("v=DMARC1; p=none; rua=mailto:postmaster@{domain}");
        list.add(What::Dmarc, &format!("_dmarc.{domain}"), Kind::Txt, dmarc).note =
            "once the reports show that nothing else sends: p=quarantine, then p=reject".to_owned();
        let reports = format!("v=TLSRPTv1; rua=mailto:postmaster@{domain}");
        list.option(What::TlsRpt, &format!("_smtp._tls.{domain}"), Kind::Txt, reports);
        let policy = list.web(config, domain, &hostname, &mut notes);
        list.services(config, domain, &hostname);
        list.certificate(config, domain, &hostname, &mut notes)?;
        Ok(Facts {
            domain: domain.to_owned(),
            hostname,
            addresses,
            addresses_from,
            records: list.records,
            notes,
            policy,
            rest_goes_to: Vec::new(),
        })
    }
}

struct List {
    records: Vec<Record>,
}

impl List {
    fn add(&mut self, what: What, name: &str, kind: Kind, value: String) -> &mut Record {
        let (name, note) = (name.to_owned(), String::new());
        self.records.push(Record { what, name, kind, value, optional: false, note });
        self.records.last_mut().expect("it was pushed")
    }

    fn option(&mut self, what: What, name: &str, kind: Kind, value: String) -> &mut Record {
        let record = self.add(what, name, kind, value);
        record.optional = true;
        record
    }

    fn host(&mut self, hostname: &str, addresses: &[IpAddr]) {
        for address in addresses {
            let kind = if address.is_ipv4() { Kind::A } else { Kind::Aaaa };
            self.add(What::Address, hostname, kind, address.to_string());
        }
        for address in addresses {
            let name = Name::from(*address).to_ascii();
            let name = name.trim_end_matches('.');
            self.add(What::Reverse, name, Kind::Ptr, format!("{hostname}."));
        }
        let host = format!("{hostname}.");
        let text = "v=spf1 a -all".to_owned();
        self.option(What::SpfHost, host.trim_end_matches('.'), Kind::Txt, text);
    }

    fn spf(&mut self, config: &Config, domain: &str, notes: &mut Vec<String>) {
        let mut text = "v=spf1 mx".to_owned();
        let fits = |host: &&SmartHost| {
            let senders = &host.senders;
            senders.is_empty() || senders.iter().any(|one| one.eq_ignore_ascii_case(domain))
        };
        let hosts = config.smart_hosts.iter().filter(fits).filter_map(SmartHost::parts);
        let mut through = Vec::new();
        for (host, _) in hosts {
            text += &match host.parse::<IpAddr>() {
                Ok(IpAddr::V4(address)) => format!(" ip4:{address}"),
                Ok(IpAddr::V6(address)) => format!(" ip6:{address}"),
                Err(_) => format!(" a:{host}"),
            };
            through.push(host);
        }
        if !through.is_empty() {
            notes.push(format!(
                "mail leaves through {}: if that sends from other addresses than it has, its SPF has to be \
                 included (include:…)",
                through.join(", ")
            ));
        }
        text += " ~all";
        self.add(What::Spf, domain, Kind::Txt, text).note =
            "~all rather than -all, with which some refuse forwarded mail before they look at its signature"
                .to_owned();
    }

    fn keys(&mut self, domain: &str, keys: Option<&DkimKeys>, now: u64, notes: &mut Vec<String>) {
        let Some(keys) = keys else {
            notes.push(format!(
                "no DKIM keys: mail is not signed; `kura domain dkim rotate {domain}` makes them"
            ));
            return;
        };
        for key in keys.published(now) {
            let record =
                self.add(What::Dkim, &key.record_name(domain), Kind::Txt, key.record_text());
            record.note = match (key.state(), key.until()) {
                (State::Signing, _) => "signs".to_owned(),
                (State::Waiting, _) => {
                    format!("waits to sign: kura domain dkim activate {domain}")
                }
                (State::Retired, until) => {
                    let until = crate::when::time_text(until.unwrap_or(now) * 1000);
                    format!("retired: may go after {until}")
                }
            };
        }
    }

    /// What `[web]` serves has names of its own. Returns the policy.
    fn web(
        &mut self,
        config: &Config,
        domain: &str,
        hostname: &str,
        notes: &mut Vec<String>,
    ) -> Option<String> {
        if config.web.listen.is_empty() {
            notes.push(
                "MTA-STS and autoconfig are left out, since nothing serves them; set [web] listen"
                    .to_owned(),
            );
            return None;
        }
        let policy = mta_sts::policy(hostname, config.web.mta_sts);
        let text = mta_sts::record_text(&policy);
        self.option(What::MtaSts, &format!("_mta-sts.{domain}"), Kind::Txt, text);
        let host = format!("{hostname}.");
        let mut name = |what, label: &str| {
            let name = format!("{label}.{domain}");
            if name != hostname {
                self.option(what, &name, Kind::Cname, host.clone());
            }
        };
        name(What::MtaStsHost, "mta-sts");
        name(What::Autoconfig, "autoconfig");
        name(What::Autoconfig, "autodiscover");
        let port = config.web.listen.first().map_or(443, SocketAddr::port);
        if config.web.listen.iter().all(|address| address.port() != 443) {
            notes.push(format!(
                "MTA-STS and autoconfig are asked for on port 443 alone, but web.listen has {port}: listen on 443, or have a \
                 proxy there that hands on to {port}"
            ));
        }
        let service = format!("0 1 {port} {hostname}.");
        self.option(What::Autoconfig, &format!("_autodiscover._tcp.{domain}"), Kind::Srv, service);
        Some(policy)
    }

    /// RFC 6186, RFC 8314 section 5.1 (TLS from the first octet is better), RFC 5804 section 1.8.
    fn services(&mut self, config: &Config, domain: &str, hostname: &str) {
        let listen = &config.listen;
        for (service, addresses, priority) in [
            ("submissions", &listen.submissions, 0),
            ("submission", &listen.submission, 10),
            ("imaps", &listen.imaps, 0),
            ("imap", &listen.imap, 10),
            ("pop3s", &listen.pop3s, 20),
            ("pop3", &listen.pop3, 30),
            ("sieve", &listen.managesieve, 0),
        ] {
            let value = match addresses.first() {
                Some(address) => format!("{priority} 1 {} {hostname}.", address.port()),
                // RFC 6186 section 3.4: it is not offered.
                None => "0 0 0 .".to_owned(),
            };
            self.option(What::Service, &format!("_{service}._tcp.{domain}"), Kind::Srv, value);
        }
    }

    fn certificate(
        &mut self,
        config: &Config,
        domain: &str,
        hostname: &str,
        notes: &mut Vec<String>,
    ) -> Result<(), String> {
        let found = certificates::for_name(&config.data_dir, hostname);
        let Some(found) = found.map_err(|error| error.to_string())? else {
            notes.push(format!(
                "no certificate is for {hostname}: TLSA and CAA are left out; see `kura cert --help`"
            ));
            return Ok(());
        };
        // DANE-EE, SPKI, SHA-256: what RFC 7672 section 3.1 recommends.
        let value = format!("3 1 1 {}", found.key_sha256);
        self.option(What::Tlsa, &format!("_25._tcp.{hostname}"), Kind::Tlsa, value).note = format!(
            "of the certificate {}; it changes when the certificate gets another key",
            found.name
        );
        let asked = config.acme.directory.as_deref();
        let asked =
            asked.filter(|url| url.contains(".letsencrypt.org/")).map(|_| "letsencrypt.org");
        match asked.or_else(|| issuer_domain(&found.issuer)) {
            Some(issuer) => {
                let value = format!("0 issue \"{issuer}\"");
                self.option(What::Caa, domain, Kind::Caa, value);
            }
            None => notes.push(format!(
                "CAA is left out: who is to issue certificates can't be told from the issuer {:?}",
                found.issuer
            )),
        }
        Ok(())
    }
}

/// The name by which CAA knows whoever has issued a certificate.
fn issuer_domain(issuer: &str) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 9] = [
        ("Let's Encrypt", "letsencrypt.org"),
        ("ZeroSSL", "sectigo.com"),
        ("Sectigo", "sectigo.com"),
        ("DigiCert", "digicert.com"),
        ("Google Trust Services", "pki.goog"),
        ("GlobalSign", "globalsign.com"),
        ("Buypass", "buypass.com"),
        ("Actalis", "actalis.it"),
        ("HARICA", "harica.gr"),
    ];
    KNOWN.iter().find(|(name, _)| issuer.contains(name)).map(|(_, domain)| *domain)
}

/// The addresses that packets to the world would carry, of each family.
fn routed_addresses(notes: &mut Vec<String>) -> Vec<IpAddr> {
    // Root servers; connecting a UDP socket only asks for the route.
    let ways = [("0.0.0.0:0", "198.41.0.4:53"), ("[::]:0", "[2001:503:ba3e::2:30]:53")];
    let mut found = Vec::new();
    for (from, to) in ways {
        let route = UdpSocket::bind(from).and_then(|socket| {
            socket.connect(to)?;
            socket.local_addr()
        });
        match route.map(|address| address.ip()) {
            Ok(address) if is_public(address) => found.push(address),
            Ok(address) => notes.push(format!(
                "this host sends from {address}, which the world does not know: name the addresses that it does \
                 know with `addresses` in the config file"
            )),
            Err(_) => {}
        }
    }
    if found.is_empty() && notes.is_empty() {
        notes.push(
            "this host has no way into the world: name its addresses with `addresses` in the config file"
                .to_owned(),
        );
    }
    found
}

/// Whether the world can reach an address: what IANA's registries of special-purpose addresses (RFC
/// 6890) do not except.
pub(crate) fn is_public(address: IpAddr) -> bool {
    !is_documentation(address)
        && match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [first, second, third, _] = v4.octets();
                let is_shared = first == 100 && second & 0xc0 == 64;
                let is_for_benchmarks = first == 198 && second & 0xfe == 18;
                let is_for_protocols = (first, second, third) == (192, 0, 0);
                !(v4.is_private()
                    || v4.is_loopback()
                    || v4.is_link_local()
                    || first == 0
                    || first >= 224
                    || is_shared
                    || is_for_benchmarks
                    || is_for_protocols)
            }
            // All that was ever given out is in 2000::/3.
            IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
        }
}

/// Whether it stands in books alone (RFC 5737, RFC 3849, RFC 9637).
pub(crate) fn is_documentation(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_documentation(),
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            (first, second) == (0x2001, 0xdb8) || (first == 0x3fff && second < 0x1000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_world_can_not_reach_is_not_published() {
        for (address, public) in [
            ("8.8.8.8", true),
            ("2001:4860::1", true),
            ("10.1.2.3", false),
            ("192.168.0.1", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("127.0.0.1", false),
            ("192.0.2.1", false),
            ("198.51.100.7", false),
            ("203.0.113.255", false),
            ("203.0.114.1", true),
            ("::ffff:192.0.2.1", false),
            ("198.19.0.1", false),
            ("192.0.0.8", false),
            ("192.0.1.1", true),
            ("240.0.0.1", false),
            ("2001:db8::1", false),
            ("2001:db9::1", true),
            ("3fff:fff::1", false),
            ("3fff:1000::1", true),
            ("ff02::1", false),
            ("::1", false),
            ("fd00::1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn a_web_server_on_another_port_is_noted() {
        let noted = |listen: &str| {
            let text = format!(
                "hostname = \"mail.a.test\"\ndata_dir = \"/nowhere\"\n[web]\nlisten = [{listen}]\n"
            );
            let config: Config = toml::from_str(&text).unwrap();
            let mut notes = Vec::new();
            List { records: Vec::new() }.web(&config, "a.test", "mail.a.test", &mut notes);
            notes.iter().any(|note| note.contains("port 443 alone"))
        };
        assert!(noted("\"0.0.0.0:8443\""));
        assert!(!noted("\"127.0.0.1:8443\", \"0.0.0.0:443\""));
    }

    #[test]
    fn issuers_are_known_by_their_domains() {
        assert_eq!(issuer_domain("C=US, O=Let's Encrypt, CN=R11"), Some("letsencrypt.org"));
        assert_eq!(issuer_domain("CN=mail.example.test"), None);
    }
}
