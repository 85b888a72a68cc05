//! Which page is asked for, and about which domain.
//!
//! | page | where | for |
//! |---|---|---|
//! | MTA-STS policy (RFC 8461) | `https://mta-sts.DOMAIN/.well-known/mta-sts.txt` | other servers |
//! | autoconfig | `https://autoconfig.DOMAIN/mail/config-v1.1.xml?emailaddress=…`, `/.well-known/autoconfig/mail/config-v1.1.xml` | Thunderbird and others |
//! | Autodiscover | `https://autodiscover.DOMAIN/autodiscover/autodiscover.xml`, in any case of letters | Outlook |
//! | configuration profile | `/mail.mobileconfig?email=…` | iOS, macOS |
//!
//! None of them tells whether an account exists: any address of a domain that is ours gets
//! the same answer.

use super::settings_xml;
use crate::config::Config;
use crate::directory;
use crate::domain::mta_sts;

/// A request, as much of it as counts.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'r> {
    pub is_post: bool,
    pub path: &'r str,
    pub query: &'r str,
    /// With a port or without.
    pub host: &'r str,
    pub body: &'r [u8],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    Policy,
    Autoconfig,
    Autodiscover { address: String },
    AppleProfile { address: String },
}

/// The page, and the domain that it is about; whether the domain is ours is for the
/// caller to find out.
pub fn find(asked: &Asked<'_>) -> Option<(Page, String)> {
    let host = match asked.host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => asked.host,
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let below = |label: &str| host.strip_prefix(label).and_then(directory::canonical_domain);
    let path = asked.path.to_ascii_lowercase();
    match (path.as_str(), asked.is_post) {
        ("/.well-known/mta-sts.txt", false) => Some((Page::Policy, below("mta-sts.")?)),
        ("/mail/config-v1.1.xml" | "/.well-known/autoconfig/mail/config-v1.1.xml", false) => {
            let named = parameter(asked.query, "emailaddress").and_then(|address| domain(&address));
            let domain = named.or_else(|| below("autoconfig.")).or_else(|| below(""))?;
            Some((Page::Autoconfig, domain))
        }
        ("/autodiscover/autodiscover.xml", true) => {
            let address = own_address(&element(asked.body, "EMailAddress")?)?;
            let domain = domain(&address)?;
            Some((Page::Autodiscover { address }, domain))
        }
        ("/mail.mobileconfig", false) => {
            let address = own_address(&parameter(asked.query, "email")?)?;
            let domain = domain(&address)?;
            Some((Page::AppleProfile { address }, domain))
        }
        _ => None,
    }
}

impl Page {
    /// Its type, and itself.
    pub fn text(&self, config: &Config, domain: &str) -> (&'static str, String) {
        let servers = settings_xml::Servers::of(config);
        match self {
            Page::Policy => ("text/plain", mta_sts::policy(&servers.hostname, config.web.mta_sts)),
            Page::Autoconfig => ("text/xml; charset=utf-8", servers.autoconfig(domain)),
            Page::Autodiscover { address } => {
                ("text/xml; charset=utf-8", servers.autodiscover(address))
            }
            Page::AppleProfile { address } => (
                "application/x-apple-aspen-config; charset=utf-8",
                servers.apple_profile(address, domain),
            ),
        }
    }
}

fn own_address(text: &str) -> Option<String> {
    directory::canonical(text.trim()).ok()
}

fn domain(address: &str) -> Option<String> {
    directory::canonical_domain(address.rsplit_once('@')?.1)
}

/// One of `name=value&…`, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name))?;
    let mut octets = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        match (first, more) {
            // A plus is a part of many an address, and nobody writes a space.
            (b'%', [high, low, more @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                octets.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                rest = more;
            }
            _ => octets.push(first),
        }
    }
    String::from_utf8(octets).ok()
}

/// The text of the first element of that name; what is within has no elements of its own.
fn element(xml: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(xml).ok()?;
    let start = text.find(&format!("<{name}>"))? + name.len() + 2;
    let inside = &text[start..];
    let inside = &inside[..inside.find('<')?];
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    Some(plain.iter().fold(inside.to_owned(), |text, (coded, plain)| text.replace(coded, plain)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(host: &str, target: &str) -> Option<(Page, String)> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        find(&Asked { is_post: false, path, query, host, body: b"" })
    }

    #[test]
    fn each_page_is_found_where_others_look_for_it() {
        let a = || "a.test".to_owned();
        assert_eq!(get("mta-sts.a.test", "/.well-known/mta-sts.txt"), Some((Page::Policy, a())));
        assert_eq!(get("MTA-STS.A.test:8443", "/.well-known/mta-sts.txt").unwrap().1, a());
        assert_eq!(get("mail.a.test", "/.well-known/mta-sts.txt"), None);
        let config = "/mail/config-v1.1.xml";
        assert_eq!(get("autoconfig.a.test", config), Some((Page::Autoconfig, a())));
        let asked = format!("{config}?emailaddress=ann%40a.test");
        assert_eq!(get("autoconfig.b.test", &asked).unwrap().1, a());
        let asked = format!("/.well-known/autoconfig{config}");
        assert_eq!(get("a.test", &asked).unwrap().1, a());
        let address = || "ann+x@a.test".to_owned();
        assert_eq!(
            get("x.test", "/mail.mobileconfig?email=Ann+x@a.test"),
            Some((Page::AppleProfile { address: address() }, a()))
        );
        for nothing in ["/", "/mail.mobileconfig", "/mail.mobileconfig?email=%", "/../etc/passwd"] {
            assert_eq!(get("autoconfig.a.test", nothing), None, "{nothing}");
        }
        let body = b"<Autodiscover><Request><EMailAddress>ann+x@a.test</EMailAddress></Request>";
        let post = |path, body| find(&Asked { is_post: true, path, query: "", host: "x", body });
        let expected = Some((Page::Autodiscover { address: address() }, a()));
        assert_eq!(post("/Autodiscover/Autodiscover.xml", body), expected);
        for junk in [&b""[..], b"<EMailAddress>", b"<EMailAddress>x</EMailAddress>", b"\xff\xfe"] {
            assert_eq!(post("/autodiscover/autodiscover.xml", junk), None);
        }
    }
}
