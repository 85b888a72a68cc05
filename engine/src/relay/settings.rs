//! `[relay]` and `[[smart_host]]`: how mail leaves this host.

use crate::when::Span;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Users who have logged in may send to other hosts.
    pub enabled: bool,
    /// The name in EHLO; `hostname` without it. It should be the name of the address that connects.
    pub hello: Option<String>,
    /// Connections to other servers in all, and to one destination.
    pub sessions_max: usize,
    pub sessions_per_destination_max: usize,
    /// The first wait, such as `5m`; each is twice the one before, up to `retry_most`.
    pub retry_first: Span,
    pub retry_most: Span,
    /// What waits longer goes back to its sender.
    pub expire: Span,
    /// What waits longer is told to its sender, once; `0`: never.
    pub delay_notice: Span,
    /// Where mail exchangers listen; anything but 25 is for tests.
    pub port: u16,
    /// Whether other domains' policies are obeyed: DANE (which needs `dns.dnssec`), and MTA-STS.
    pub dane: bool,
    pub mta_sts: bool,
    /// Senders of mail that is forwarded are rewritten (SRS), so that SPF passes where it goes.
    pub srs: bool,
    /// In this domain, whose SPF record has to name this host and whose mail has to come here;
    /// without it, in the domain of the address whose mail is forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srs_domain: Option<String>,
    /// For so long bounces come back to such an address.
    pub srs_valid: Span,
    /// Who is believed about the hosts of MTA-STS policies and their certificates, PEM, in the
    /// place of whom the system believes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl Default for Relay {
    fn default() -> Self {
        let minutes = |count: u64| Span(Duration::from_secs(60 * count));
        Relay {
            enabled: true,
            hello: None,
            sessions_max: 100,
            sessions_per_destination_max: 10,
            retry_first: minutes(5),
            retry_most: minutes(4 * 60),
            expire: minutes(5 * 24 * 60),
            delay_notice: minutes(4 * 60),
            port: 25,
            dane: true,
            mta_sts: true,
            srs: true,
            srs_domain: None,
            srs_valid: minutes(21 * 24 * 60),
            ca_file: None,
        }
    }
}

/// A server that takes mail in the place of the recipients' own. The first one that fits is used.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmartHost {
    /// `gateway.example.org`, with `:port` unless that is 587 (465 with `tls = "implicit"`).
    pub host: String,
    /// Domains of senders, recipients; both empty: everything.
    #[serde(default)]
    pub senders: Vec<String>,
    #[serde(default)]
    pub recipients: Vec<String>,
    #[serde(default)]
    pub tls: TlsMode,
    /// Certificates to believe in, PEM; without it those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub user: Option<String>,
    /// Its first line is the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// What the file said when the config was read.
    #[serde(skip)]
    pub password: Password,
}

#[derive(Clone, Default)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// STARTTLS, with a certificate that is valid for the host.
    #[default]
    Required,
    /// TLS from the first octet, with such a certificate.
    Implicit,
    /// STARTTLS where it is offered, with any certificate.
    Opportunistic,
    Off,
}

impl TlsMode {
    pub fn verifies(self) -> bool {
        matches!(self, TlsMode::Required | TlsMode::Implicit)
    }
}

impl SmartHost {
    /// Name or address, and port.
    pub fn parts(&self) -> Option<(&str, u16)> {
        let standard = if self.tls == TlsMode::Implicit { 465 } else { 587 };
        let (host, port) = match self.host.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.starts_with('[') => {
                (host, port.parse().ok().filter(|port| *port > 0)?)
            }
            _ => (self.host.as_str(), standard),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        (!host.is_empty()).then_some((host, port))
    }

    /// An empty list fits all.
    pub fn fits(&self, sender_domain: &str, recipient_domain: &str) -> bool {
        let fits = |list: &[String], domain: &str| {
            list.is_empty() || list.iter().any(|one| one.eq_ignore_ascii_case(domain))
        };
        fits(&self.senders, sender_domain) && fits(&self.recipients, recipient_domain)
    }

    /// What the types can't say, and the password from its file.
    pub(crate) fn read(&mut self) -> Result<(), String> {
        let host = &self.host;
        if self.parts().is_none() {
            return Err(format!(
                "smart_host.host {host:?} is no host with a port; write it as \"gateway.example.org:587\""
            ));
        }
        // A certificate is proved for a name, never for what DNS makes of it.
        let name = self.parts().map(|(name, _)| name.to_owned()).unwrap_or_default();
        if self.tls.verifies() && ServerName::try_from(name).is_err() {
            return Err(format!(
                "smart_host.host {host:?} is no name that a certificate can have; write it as DNS has it (A-labels)"
            ));
        }
        match (&self.user, &self.password_file) {
            (None, None) => Ok(()),
            (Some(_), Some(file)) => {
                let text = std::fs::read_to_string(file).map_err(|error| {
                    format!("smart_host.password_file {}: {error}", file.display())
                })?;
                self.password = Password(text.lines().next().unwrap_or_default().to_owned());
                Ok(())
            }
            _ => Err(format!(
                "smart_host {host}: user and password_file go together; give both or none"
            )),
        }
    }
}

impl Relay {
    /// Whole days for which a rewritten sender is good.
    pub fn srs_days(&self) -> u64 {
        self.srs_valid.0.as_secs() / 86_400
    }

    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, value, least, most) in [
            ("relay.sessions_max", self.sessions_max, 1, 10_000),
            ("relay.sessions_per_destination_max", self.sessions_per_destination_max, 1, 1000),
            ("relay.port", usize::from(self.port), 1, 65_535),
        ] {
            if !(least..=most).contains(&value) {
                let what = format!("{key} = {value} is out of range; use {least} to {most}");
                return Err((key, what));
            }
        }
        if self.retry_first.0 > self.retry_most.0 {
            let what = format!(
                "relay.retry_first = {:?} is more than relay.retry_most = {:?}",
                self.retry_first.text(),
                self.retry_most.text()
            );
            return Err(("relay.retry_first", what));
        }
        // What waits longer would leave with signatures that have expired.
        let expire_max = Duration::from_secs(crate::domain::keys::SIGNATURE_SECONDS - 86_400);
        if self.expire.0 > expire_max {
            let what = format!(
                "relay.expire = {:?} is out of range; use {:?} at most",
                self.expire.text(),
                Span(expire_max).text()
            );
            return Err(("relay.expire", what));
        }
        let days = self.srs_days();
        if !(1..=365).contains(&days) {
            let what = format!(
                "relay.srs_valid = {:?} is out of range; use 1d to 365d",
                self.srs_valid.text()
            );
            return Err(("relay.srs_valid", what));
        }
        if let Some(domain) = &self.srs_domain
            && crate::directory::canonical_domain(domain).as_ref() != Some(domain)
        {
            let what = format!(
                "relay.srs_domain {domain:?} is no domain in lower case (A-labels); write one of this host's, such as \"example.org\""
            );
            return Err(("relay.srs_domain", what));
        }
        let named = |name: &String| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
        };
        match &self.hello {
            Some(hello) if !named(hello) => {
                let what = format!(
                    "relay.hello {hello:?} is no domain name; write one such as \"mail.example.org\""
                );
                Err(("relay.hello", what))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> SmartHost {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_smart_host_is_one_line_or_more() {
        for (text, expected) in [
            ("host = 'gw.test'", Some(("gw.test", 587))),
            ("host = 'gw.test'\ntls = 'implicit'", Some(("gw.test", 465))),
            ("host = 'gw.test:25'", Some(("gw.test", 25))),
            ("host = '192.0.2.1:25'", Some(("192.0.2.1", 25))),
            ("host = '[2001:db8::1]:25'", Some(("2001:db8::1", 25))),
            ("host = '2001:db8::1'", Some(("2001:db8::1", 587))),
            ("host = 'gw.test:0'", None),
            ("host = ':25'", None),
            ("host = 'gw.test:x'", None),
        ] {
            assert_eq!(host(text).parts(), expected, "{text}");
        }
    }

    #[test]
    fn a_smart_host_is_for_whom_it_says() {
        let all = host("host = 'gw.test'");
        assert!(all.fits("a.test", "b.test") && all.fits("", "b.test"));
        let some =
            host("host = 'gw.test'\nsenders = ['a.test']\nrecipients = ['b.test', 'c.test']");
        assert!(some.fits("A.test", "c.test"));
        assert!(!some.fits("b.test", "c.test") && !some.fits("a.test", "d.test"));
    }

    #[test]
    fn what_no_certificate_can_name_is_refused_where_one_has_to() {
        let read = |text| host(text).read().is_ok();
        assert!(read("host = 'gw_1.test'") && read("host = '[2001:db8::1]:25'"));
        assert!(!read("host = 'b\u{fc}cher.test'"));
        assert!(read("host = 'b\u{fc}cher.test'\ntls = 'opportunistic'"));
    }

    #[test]
    fn what_is_said_of_rewritten_senders_is_checked() {
        let check = |text: &str| toml::from_str::<Relay>(text).unwrap().check();
        assert_eq!(check("srs_domain = 'a.test'\nsrs_valid = '5d'"), Ok(()));
        for (text, key) in [
            ("srs_valid = '0'", "relay.srs_valid"),
            ("srs_valid = '400d'", "relay.srs_valid"),
            ("srs_domain = 'A.test'", "relay.srs_domain"),
            ("srs_domain = 'a b'", "relay.srs_domain"),
        ] {
            assert_eq!(check(text).unwrap_err().0, key, "{text}");
        }
    }

    #[test]
    fn half_a_login_is_refused() {
        assert!(host("host = 'gw.test'\nuser = 'u'").read().is_err());
        assert!(host("host = 'gw.test'\npassword_file = 'p'").read().is_err());
    }
}
