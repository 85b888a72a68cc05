//! Web addresses in a message: written out in its text, or behind a link.

use super::limits::{LINKS_MAX, URL_BYTES_MAX};
use std::net::{IpAddr, Ipv4Addr};

/// One link. `text` is what the reader sees; empty where the address itself is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub url: String,
    /// In lower case, without port, user and final dot.
    pub host: String,
    pub text: String,
    /// Something stands before an `@` in front of the host.
    pub has_user: bool,
    pub port: Option<u16>,
}

impl Link {
    /// `None`: it is no address of the web (mailto:, cid:, a fragment).
    pub fn read(target: &str, text: String) -> Option<Link> {
        let end = target.char_indices().nth(URL_BYTES_MAX).map_or(target.len(), |(at, _)| at);
        // Browsers leave white space out.
        let url: String =
            target[..end].chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect();
        let rest = after_scheme(&url)?;
        let stop = |letter: char| matches!(letter, '/' | '?' | '#' | '\\');
        let authority = &rest[..rest.find(stop).unwrap_or(rest.len())];
        let (has_user, at) = match authority.rsplit_once('@') {
            Some((user, at)) => (!user.is_empty(), at),
            None => (false, authority),
        };
        let (host, port) = match at.rsplit_once(':') {
            // The colons of an IPv6 address are inside brackets.
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
            _ => (at, None),
        };
        let host = percent_decoded(host).trim_end_matches('.').to_lowercase();
        if host.is_empty() {
            return None;
        }
        Some(Link { host, text, has_user, port, url })
    }

    /// Whether the host is an address, written in any of the ways that browsers take.
    pub fn is_numeric(&self) -> bool {
        let bare = self.host.trim_matches(['[', ']']);
        if bare.parse::<IpAddr>().is_ok() {
            return true;
        }
        let number = |part: &str| match part.strip_prefix("0x") {
            Some(hex) => !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
            None => !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()),
        };
        let parts: Vec<&str> = bare.split('.').collect();
        parts.len() <= 4 && parts.iter().all(|part| number(part))
    }

    /// Whether what is shown is an address at another site than where the link leads.
    pub fn is_mismatched(&self) -> bool {
        let shown = self.text.split_whitespace().next().unwrap_or_default();
        if self.text.split_whitespace().count() != 1 {
            return false;
        }
        let Some(host) = shown_host(shown) else { return false };
        site(&host) != site(&self.host)
    }
}

/// Behind `http://`, `https://`, or `//`, which browsers read as one of them.
fn after_scheme(url: &str) -> Option<&str> {
    for scheme in ["http:", "https:", "ftp:", ""] {
        let begins =
            url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        if begins {
            let rest = &url[scheme.len()..];
            if let Some(rest) = rest.strip_prefix("//").or_else(|| rest.strip_prefix("\\\\")) {
                return Some(rest);
            }
        }
    }
    None
}

fn percent_decoded(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex.filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The host that a reader believes to see: `http://…`, `www.…`, or a bare `name.com`.
fn shown_host(text: &str) -> Option<String> {
    let text = text.trim_matches(|letter: char| "<>()[]\"'.,".contains(letter));
    if let Some(link) = Link::read(text, String::new()) {
        return Some(link.host);
    }
    let host = text.split(['/', '?', ':']).next()?.to_lowercase();
    let labels: Vec<&str> = host.split('.').collect();
    let named = labels.len() >= 2
        && labels.iter().all(|label| !label.is_empty())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    let last = labels.last().copied().unwrap_or_default();
    let known = host.starts_with("www.")
        || ["com", "net", "org", "edu", "gov", "info", "biz"].contains(&last);
    (named && known && !text.contains('@')).then_some(host)
}

/// Second-level labels under which names are registered, as in `example.co.uk`.
const REGISTRIES: [&str; 7] = ["co", "com", "net", "org", "ac", "gov", "edu"];

/// What one owner has, roughly: two labels, or three under a registry's second level. Without the
/// list of public suffixes this is a guess; it decides nothing by itself.
pub fn site(host: &str) -> &str {
    if host.parse::<Ipv4Addr>().is_ok() {
        return host;
    }
    let labels: Vec<&str> = host.rsplitn(4, '.').collect();
    let wanted = match labels.as_slice() {
        [top, second, _, ..] if top.len() == 2 && REGISTRIES.contains(second) => 3,
        _ => 2,
    };
    let length: usize = labels.iter().take(wanted).map(|label| label.len() + 1).sum();
    host.get(host.len().saturating_sub(length.saturating_sub(1))..).unwrap_or(host)
}

/// Addresses written out in `text`, at most so many that `links` holds [`LINKS_MAX`].
pub fn find(text: &str, links: &mut Vec<Link>) {
    // Tries are bounded, too: what looks like an address need not be one.
    for at in memchr::memmem::find_iter(text.as_bytes(), "://").take(4 * LINKS_MAX) {
        if links.len() >= LINKS_MAX {
            return;
        }
        let before = &text.as_bytes()[..at];
        let scheme = before.iter().rev().take(6).take_while(|b| b.is_ascii_alphabetic()).count();
        let rest = &text[at - scheme..];
        if after_scheme(rest).is_none() {
            continue;
        }
        let end = rest.floor_char_boundary(URL_BYTES_MAX);
        let stop = |letter: char| letter.is_whitespace() || "<>\"')]}|".contains(letter);
        let address = &rest[..rest[..end].find(stop).unwrap_or(end)];
        let address = address.trim_end_matches(['.', ',', ';', ':', '!']);
        links.extend(Link::read(address, String::new()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(target: &str, text: &str) -> Link {
        Link::read(target, text.to_owned()).unwrap()
    }

    #[test]
    fn a_host_is_found_however_it_is_dressed() {
        for (target, host) in [
            ("http://A.Test/x", "a.test"),
            ("HTTPS://user:pw@a.test:8080?x", "a.test"),
            ("http://www.bank.test@evil.test/", "evil.test"),
            ("//a.test.", "a.test"),
            ("http:\\\\a.test\\x", "a.test"),
            ("ht\ntp://a.te\r\nst/", "a.test"),
            ("http://%61.test/", "a.test"),
            ("http://[2001:db8::1]:80/", "[2001:db8::1]"),
        ] {
            assert_eq!(link(target, "").host, host, "{target}");
        }
        for none in ["mailto:a@b.test", "cid:x", "#top", "http://", "", "x"] {
            assert_eq!(Link::read(none, String::new()), None, "{none}");
        }
    }

    #[test]
    fn numbers_are_addresses_in_any_notation() {
        for target in ["http://1.2.3.4/", "http://3232235777/", "http://0x7f.1/", "http://[::1]/"] {
            assert!(link(target, "").is_numeric(), "{target}");
        }
        for target in ["http://1.2.3.4.example.test/", "http://a.test/", "http://163.com/"] {
            assert!(!link(target, "").is_numeric(), "{target}");
        }
    }

    #[test]
    fn a_link_that_shows_another_site_is_mismatched() {
        for (target, text, wrong) in [
            ("http://evil.test/", "www.bank.com", true),
            ("http://evil.test/", "https://bank.com/login", true),
            ("http://click.bank.com/", "www.bank.com", false),
            ("http://evil.test/", "click here", false),
            ("http://evil.test/", "here", false),
            ("http://evil.test/", "ann@bank.com", false),
            ("http://www.bank.co.uk/", "bank.co.uk", false),
            ("http://evil.co.uk/", "http://bank.co.uk", true),
        ] {
            assert_eq!(link(target, text).is_mismatched(), wrong, "{target} {text}");
        }
    }

    #[test]
    fn addresses_in_text_are_found() {
        let mut links = Vec::new();
        find("See http://a.test/x, (https://b.test) or \u{e9}http://c.test. ://no", &mut links);
        let hosts: Vec<&str> = links.iter().map(|link| link.host.as_str()).collect();
        assert_eq!(hosts, ["a.test", "b.test", "c.test"]);
        find(&"http://a.test ".repeat(10_000), &mut links);
        assert_eq!(links.len(), LINKS_MAX);
    }
}
