//! Mail addresses of the envelope: RFC 5321 `Mailbox` and paths, with RFC 6531's UTF-8.
//!
//! Quoted local parts are kept without their quotes where the quotes are not needed, so
//! that `"ann"@x` and `ann@x` are one address. Source routes are accepted and ignored (RFC
//! 5321 appendix C).

use std::fmt;

/// RFC 5321 section 4.5.3.1.1 says 64, and section 4.5.3.1 to do with more where that is possible:
/// addresses that programs make up (bounce tags, rewritten senders) are longer.
const LOCAL_BYTES_MAX: usize = 255;
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
                local.push(Some(escaped).filter(|c| *c == ' ' || !is_invisible(*c))?);
            }
            plain if plain != ' ' && is_invisible(plain) => return None,
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
            || (!c.is_ascii() && !is_invisible(c))
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
        let letter = |c: char| {
            c.is_ascii_alphanumeric() || c == '-' || c == '_' || (!c.is_ascii() && !is_invisible(c))
        };
        // RFC 1123 section 2.1: a hyphen stands within a label only.
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(letter)
    })
}

/// Control, separator and format characters (Unicode classes Cc, Z and Cf): nobody sees them, so an
/// address with one passes for another address, and in a log some of them end the line.
fn is_invisible(c: char) -> bool {
    let is_format = matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
        | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}'..='\u{e007f}');
    c.is_control() || c.is_whitespace() || is_format
}

/// A path of MAIL or RCPT, and what follows it. `None` inside: the null path `<>`.
///
/// With a `postmaster_domain`, `<Postmaster>` means the postmaster there: RCPT alone may leave the
/// domain out (RFC 5321 section 4.1.1.3).
pub fn path<'l>(
    text: &'l [u8],
    postmaster_domain: Option<&str>,
) -> Option<(Option<Address>, &'l [u8])> {
    let inside = text.strip_prefix(b"<")?;
    let close = closing_bracket(inside)?;
    let (inside, rest) = inside.split_at_checked(close)?;
    let rest = rest.get(1..)?;
    if inside.is_empty() {
        return Some((None, rest));
    }
    if let (true, Some(domain)) = (inside.eq_ignore_ascii_case(b"postmaster"), postmaster_domain) {
        return Some((Some(Address::parse(format!("postmaster@{domain}").as_bytes())?), rest));
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
        for local_bytes in [64, 65, 255] {
            assert!(parse(&format!("{}@x", "a".repeat(local_bytes))).is_some());
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@x", "a".repeat(256));
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
            "a@-b",
            "a@b-",
            "a@b.-c.d",
            "a@b-.c",
            "a@b\u{2028}c",
            &long,
        ] {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
    }

    /// What can't be seen can't be told apart.
    #[test]
    fn invisible_characters_are_refused_everywhere() {
        for odd in
            "\u{85}\u{a0}\u{ad}\u{200b}\u{200e}\u{2028}\u{2029}\u{202e}\u{2060}\u{3000}\u{feff}"
                .chars()
        {
            for text in [
                format!("a{odd}b@c"),
                format!("a@b{odd}c"),
                format!("\"a {odd}b\"@c"),
                format!("\"a\\{odd}b\"@c"),
            ] {
                assert_eq!(parse(&text), None, "{text:?}");
            }
        }
    }

    #[test]
    fn paths_are_read() {
        let read = |text: &'static str| {
            path(text.as_bytes(), Some("us.test")).map(|(address, rest)| {
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
        assert_eq!(path(b"<postmaster>", None), None);
    }
}
