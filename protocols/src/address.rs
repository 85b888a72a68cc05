//! Mail addresses of the envelope: RFC 5321 `Mailbox` and paths, with RFC 6531's UTF-8.
//!
//! Quoted local parts are kept without their quotes where the quotes are not needed, so that
//! `"ann"@x` and `ann@x` are one address. Source routes are accepted and ignored (RFC 5321 appendix C).

use std::fmt;

/// RFC 5321 section 4.5.3.1.
const LOCAL_BYTES_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 255;

/// A valid `local@domain`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    at: usize,
}

impl Address {
    /// Reads a `Mailbox`, without angle brackets.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Address> {
        let text = std::str::from_utf8(text).ok()?;
        let (local, domain) = match text.strip_prefix('"') {
            Some(rest) => {
                let (local, rest) = quoted(rest)?;
                (local, rest.strip_prefix('@')?)
            }
            None => {
                let (local, domain) = text.split_once('@')?;
                (is_dot_string(local).then(|| local.to_owned())?, domain)
            }
        };
        let fine = !local.is_empty() && local.len() <= LOCAL_BYTES_MAX && is_domain(domain);
        fine.then(|| Address { at: local.len(), text: format!("{local}@{domain}") })
    }

    /// Local part without quotes, and domain.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    #[must_use]
    pub fn local(&self) -> &str {
        self.text.get(..self.at).unwrap_or_default()
    }

    #[must_use]
    pub fn domain(&self) -> &str {
        self.text.get(self.at.saturating_add(1)..).unwrap_or_default()
    }

    /// Whether it needs SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

/// As it stands in an envelope: quoted where it must be.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(self.local()) {
            return f.write_str(&self.text);
        }
        let escaped = self.local().replace('\\', "\\\\").replace('"', "\\\"");
        write!(f, "\"{escaped}\"@{}", self.domain())
    }
}

/// Reads up to the closing quote; gives the text without escapes, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut local = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((local, text.get(at.checked_add(1)?..)?)),
            '\\' => {
                let (_, escaped) = characters.next()?;
                local.push(Some(escaped).filter(|c| !c.is_control())?);
            }
            plain if plain.is_control() => return None,
            plain => local.push(plain),
        }
    }
    None
}

/// RFC 5321 `Dot-string`, with UTF-8 letters.
fn is_dot_string(text: &str) -> bool {
    let atext = |c: char| {
        c.is_ascii_alphanumeric()
            || "!#$%&'*+-/=?^_`{|}~".contains(c)
            || (!c.is_ascii() && !c.is_control())
    };
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(atext))
}

/// A domain name or an address literal.
fn is_domain(domain: &str) -> bool {
    if domain.is_empty() || domain.len() > DOMAIN_BYTES_MAX {
        return false;
    }
    if let Some(literal) = domain.strip_prefix('[') {
        let Some(literal) = literal.strip_suffix(']') else { return false };
        return match literal.strip_prefix("IPv6:") {
            Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok(),
            None => literal.parse::<std::net::Ipv4Addr>().is_ok(),
        };
    }
    domain.split('.').all(|label| {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || !c.is_ascii();
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| letter(c) && !c.is_control())
    })
}

/// A path of MAIL or RCPT, and what follows it. `None` inside: the null path `<>`.
///
/// `<Postmaster>` without a domain (RFC 5321 section 4.1.1.3) becomes `postmaster@` `own_domain`.
pub fn path<'l>(text: &'l [u8], own_domain: &str) -> Option<(Option<Address>, &'l [u8])> {
    let inside = text.strip_prefix(b"<")?;
    let close = closing_bracket(inside)?;
    let (inside, rest) = inside.split_at_checked(close)?;
    let rest = rest.get(1..)?;
    if inside.is_empty() {
        return Some((None, rest));
    }
    if inside.eq_ignore_ascii_case(b"postmaster") {
        return Some((Address::parse(format!("postmaster@{own_domain}").as_bytes()), rest));
    }
    let mailbox = match inside.strip_prefix(b"@") {
        Some(route) => {
            let colon = memchr::memchr(b':', route)?;
            route.get(colon.checked_add(1)?..)?
        }
        None => inside,
    };
    Some((Some(Address::parse(mailbox)?), rest))
}

/// Where the bracket that closes the path stands; one within quotes does not.
fn closing_bracket(text: &[u8]) -> Option<usize> {
    let mut in_quotes = false;
    let mut escaped = false;
    text.iter().position(|&byte| {
        let closes = byte == b'>' && !in_quotes;
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_quotes => escaped = true,
            b'"' => in_quotes = !in_quotes,
            _ => {}
        }
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<String> {
        Address::parse(text.as_bytes()).map(|address| address.to_string())
    }

    #[test]
    fn addresses_are_read_and_written() {
        for fine in [
            "a@b",
            "ann.b+c@example.test",
            "\"a b\"@example.test",
            "\"a\\\"b\"@x",
            "a@[192.0.2.1]",
            "a@[IPv6:2001:db8::1]",
            "用户@例え.test",
        ] {
            assert_eq!(parse(fine).as_deref(), Some(fine));
        }
        assert_eq!(parse("\"ann\"@x").as_deref(), Some("ann@x"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@x", "a".repeat(65));
        for odd in [
            "",
            "@",
            "a",
            "a@",
            "@b",
            "a..b@c",
            ".a@b",
            "a.@b",
            "a b@c",
            "a@b..c",
            "a@[1.2.3]",
            "a@[IPv6:x]",
            "\"a@b",
            "\"\"@b",
            "a@b c",
            "a@b>",
            "a\u{7f}@b",
            "\"a\nb\"@c",
            &long,
        ] {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn paths_are_read() {
        let read = |text: &'static str| {
            path(text.as_bytes(), "us.test").map(|(address, rest)| {
                (address.map(|a| a.as_str().to_owned()), String::from_utf8_lossy(rest).into_owned())
            })
        };
        let some = |address: &str, rest: &str| Some((Some(address.to_owned()), rest.to_owned()));
        assert_eq!(read("<a@b> SIZE=1"), some("a@b", " SIZE=1"));
        assert_eq!(read("<>"), Some((None, String::new())));
        assert_eq!(read("<@x,@y:a@b>"), some("a@b", ""));
        assert_eq!(read("<\"a>b\"@c>"), some("a>b@c", ""));
        assert_eq!(read("<PostMaster>"), some("postmaster@us.test", ""));
        assert_eq!(read("a@b"), None);
        assert_eq!(read("<a@b"), None);
        assert_eq!(read("<a>"), None);
    }
}
