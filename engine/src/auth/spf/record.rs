//! The text of an SPF record (RFC 7208 section 12), read strictly: any error
//! anywhere is a permerror.

use super::macros::MacroString;
use crate::auth::verdict::Outcome;
use std::net::{Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub directives: Vec<Directive>,
    pub redirect: Option<MacroString>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// When the mechanism matches.
    pub outcome: Outcome,
    pub mechanism: Mechanism,
}

/// `None` for the domain itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mechanism {
    All,
    Include(MacroString),
    A(Option<MacroString>, Prefix),
    Mx(Option<MacroString>, Prefix),
    Ptr(Option<MacroString>),
    Ip4(Ipv4Addr, u8),
    Ip6(Ipv6Addr, u8),
    Exists(MacroString),
}

/// How many leading bits of an address count, for each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    pub v4: u8,
    pub v6: u8,
}

/// Not in the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Whether a TXT record is an SPF record at all (section 4.5).
pub fn is_spf(text: &[u8]) -> bool {
    let version = b"v=spf1";
    text.get(..version.len()).is_some_and(|start| start.eq_ignore_ascii_case(version))
        && text.get(version.len()).is_none_or(|&next| next == b' ')
}

impl Record {
    pub fn read(text: &[u8]) -> Result<Record, Malformed> {
        if !text.is_ascii() {
            return Err(Malformed);
        }
        let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
        let mut record = Record { directives: Vec::new(), redirect: None };
        let mut is_explained = false;
        for term in text.split(' ').skip(1).filter(|term| !term.is_empty()) {
            match modifier(term) {
                Some((name, value)) if name.eq_ignore_ascii_case("redirect") => {
                    let target = MacroString::domain(value).ok_or(Malformed)?;
                    if record.redirect.replace(target).is_some() {
                        return Err(Malformed);
                    }
                }
                Some((name, value)) if name.eq_ignore_ascii_case("exp") => {
                    // What it explains is not passed on: a stranger's text has no
                    // place in our replies.
                    MacroString::domain(value).ok_or(Malformed)?;
                    if std::mem::replace(&mut is_explained, true) {
                        return Err(Malformed);
                    }
                }
                Some((_, value)) => drop(MacroString::read(value).ok_or(Malformed)?),
                None => record.directives.push(directive(term)?),
            }
        }
        Ok(record)
    }
}

/// `name=value`, with a name that could be one.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    is_name.then_some((name, value))
}

fn directive(term: &str) -> Result<Directive, Malformed> {
    let (outcome, term) = match term.split_at_checked(1) {
        Some(("+", rest)) => (Outcome::Pass, rest),
        Some(("-", rest)) => (Outcome::Fail, rest),
        Some(("~", rest)) => (Outcome::SoftFail, rest),
        Some(("?", rest)) => (Outcome::Neutral, rest),
        _ => (Outcome::Pass, term),
    };
    let end = term.find([':', '/']).unwrap_or(term.len());
    let (name, rest) = term.split_at(end);
    let value = rest.strip_prefix(':');
    let nothing = |mechanism| if rest.is_empty() { Ok(mechanism) } else { Err(Malformed) };
    let domain = || value.and_then(MacroString::domain).ok_or(Malformed);
    let mechanism = match name.to_ascii_lowercase().as_str() {
        "all" => nothing(Mechanism::All)?,
        "include" => Mechanism::Include(domain()?),
        "exists" => Mechanism::Exists(domain()?),
        "a" => {
            let (target, prefix) = target(rest)?;
            Mechanism::A(target, prefix)
        }
        "mx" => {
            let (target, prefix) = target(rest)?;
            Mechanism::Mx(target, prefix)
        }
        "ptr" if rest.is_empty() => Mechanism::Ptr(None),
        "ptr" => Mechanism::Ptr(Some(domain()?)),
        "ip4" => {
            let (address, bits) = network(value.ok_or(Malformed)?, 32)?;
            Mechanism::Ip4(address.parse().map_err(|_| Malformed)?, bits)
        }
        "ip6" => {
            let (address, bits) = network(value.ok_or(Malformed)?, 128)?;
            Mechanism::Ip6(address.parse().map_err(|_| Malformed)?, bits)
        }
        _ => return Err(Malformed),
    };
    Ok(Directive { outcome, mechanism })
}

/// `[":" domain-spec] [dual-cidr-length]`.
fn target(rest: &str) -> Result<(Option<MacroString>, Prefix), Malformed> {
    let (rest, v6) = match cut(rest, "//") {
        Some((rest, bits)) => (rest, length(bits, 128)?),
        None => (rest, 128),
    };
    let (rest, v4) = match cut(rest, "/") {
        Some((rest, bits)) => (rest, length(bits, 32)?),
        None => (rest, 32),
    };
    let target = match rest.strip_prefix(':') {
        Some(domain) => Some(MacroString::domain(domain).ok_or(Malformed)?),
        None if rest.is_empty() => None,
        None => return Err(Malformed),
    };
    Ok((target, Prefix { v4, v6 }))
}

fn network(value: &str, most: u8) -> Result<(&str, u8), Malformed> {
    match value.split_once('/') {
        Some((address, bits)) => Ok((address, length(bits, most)?)),
        None => Ok((value, most)),
    }
}

/// Cuts `mark` and the digits behind it from the end.
fn cut<'t>(text: &'t str, mark: &str) -> Option<(&'t str, &'t str)> {
    let (rest, digits) = text.rsplit_once(mark)?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some((rest, digits))
}

/// No leading zeros (section 5.6).
fn length(digits: &str, most: u8) -> Result<u8, Malformed> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || (digits.len() > 1 && digits.starts_with('0')) {
        return Err(Malformed);
    }
    digits.parse().ok().filter(|&bits| bits <= most).ok_or(Malformed)
}
