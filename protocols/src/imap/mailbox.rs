//! Mailbox names: modified UTF-7 on the wire, UTF-8 inside, and which names can exist.
//!
//! RFC 3501 section 5.1. Levels are separated by `/`; INBOX is spelled in capitals inside, whatever
//! the client writes. A [`MailboxName`] is always one that could exist.

use base64_lite::{decode, encode};

pub const SEPARATOR: char = '/';
/// Bytes of a whole name, in UTF-8.
pub const NAME_BYTES_MAX: usize = 1000;
/// Bytes of one level.
pub const LEVEL_BYTES_MAX: usize = 255;
pub const LEVELS_MAX: usize = 32;

/// A name that could exist: non-empty levels without control characters or wildcards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailboxName(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    #[error("the name is empty")]
    Empty,
    #[error("the name is not valid modified UTF-7")]
    Encoding,
    #[error("a level of the name is empty, `.` or `..`")]
    Level,
    #[error("control characters and wildcards can't be in a name")]
    Character,
    #[error("the name is too long")]
    TooLong,
}

impl MailboxName {
    #[must_use]
    pub fn inbox() -> MailboxName {
        MailboxName("INBOX".into())
    }

    /// From what the client sent.
    ///
    /// # Errors
    /// When no mailbox could have that name.
    pub fn from_wire(wire: &[u8]) -> Result<MailboxName, NameFault> {
        MailboxName::new(&decode_utf7(wire).ok_or(NameFault::Encoding)?)
    }

    /// # Errors
    /// When no mailbox could have that name.
    pub fn new(name: &str) -> Result<MailboxName, NameFault> {
        if name.is_empty() {
            return Err(NameFault::Empty);
        }
        let levels = name.split(SEPARATOR);
        if levels.clone().any(|level| matches!(level, "" | "." | "..")) {
            return Err(NameFault::Level);
        }
        if name.chars().any(|c| c.is_control() || matches!(c, '*' | '%' | '\u{2028}' | '\u{2029}'))
        {
            return Err(NameFault::Character);
        }
        let too_long = levels.clone().any(|level| level.len() > LEVEL_BYTES_MAX);
        if too_long || name.len() > NAME_BYTES_MAX || levels.count() > LEVELS_MAX {
            return Err(NameFault::TooLong);
        }
        Ok(MailboxName(canonical(name)))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_inbox(&self) -> bool {
        self.0 == "INBOX"
    }
}

/// `inbox` and `inbox/…` with INBOX in capitals (RFC 9051 section 5.1).
#[must_use]
pub fn canonical(name: &str) -> String {
    let first = name.split(SEPARATOR).next().unwrap_or_default();
    match name.split_at_checked(first.len()) {
        Some((first, rest)) if first.eq_ignore_ascii_case("INBOX") => format!("INBOX{rest}"),
        Some(_) | None => name.to_owned(),
    }
}

/// Modified UTF-7 to UTF-8. Names that a client sends in raw UTF-8 are taken as they are.
#[must_use]
pub fn decode_utf7(wire: &[u8]) -> Option<String> {
    let mut rest = std::str::from_utf8(wire).ok()?;
    let mut name = String::with_capacity(rest.len());
    while let Some((plain, shifted)) = rest.split_once('&') {
        name.push_str(plain);
        let (digits, after) = shifted.split_once('-')?;
        if digits.is_empty() {
            name.push('&');
        } else {
            let bytes = decode(digits.as_bytes())?;
            let units = bytes.chunks(2).map(|pair| match pair {
                [high, low] => Some(u16::from_be_bytes([*high, *low])),
                _ => None,
            });
            let units: Vec<u16> = units.collect::<Option<_>>()?;
            let text = String::from_utf16(&units).ok()?;
            // RFC 3501: what can be written directly must not be encoded, or names
            // get two spellings.
            if text.is_empty() || text.chars().any(|c| (' '..='~').contains(&c)) {
                return None;
            }
            name.push_str(&text);
        }
        rest = after;
    }
    name.push_str(rest);
    Some(name)
}

/// UTF-8 to modified UTF-7.
#[must_use]
pub fn encode_utf7(name: &str) -> String {
    let mut wire = String::with_capacity(name.len());
    let mut units: Vec<u8> = Vec::new();
    for c in name.chars() {
        if (' '..='~').contains(&c) {
            flush(&mut units, &mut wire);
            wire.push(c);
            if c == '&' {
                wire.push('-');
            }
        } else {
            let mut buffer = [0; 2];
            for unit in c.encode_utf16(&mut buffer) {
                units.extend_from_slice(&unit.to_be_bytes());
            }
        }
    }
    flush(&mut units, &mut wire);
    wire
}

fn flush(units: &mut Vec<u8>, wire: &mut String) {
    if !units.is_empty() {
        wire.push('&');
        wire.push_str(&encode(units));
        wire.push('-');
        units.clear();
    }
}

/// Base64 with `,` for `/` and without padding, as RFC 3501 section 5.1.3 wants it.
mod base64_lite {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

    pub(super) fn encode(bytes: &[u8]) -> String {
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
            let bits = bits << 24_usize.saturating_sub(chunk.len().saturating_mul(8));
            for index in 0..=chunk.len() {
                let shift = 18_usize.saturating_sub(index.saturating_mul(6));
                let digit = ALPHABET.get((bits >> shift & 63) as usize).copied().unwrap_or(b'A');
                text.push(char::from(digit));
            }
        }
        text
    }

    /// Refuses foreign characters and stray bits at the end.
    pub(super) fn decode(digits: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(digits.len());
        let (mut bits, mut count) = (0_u32, 0_u32);
        for digit in digits {
            let value = ALPHABET.iter().position(|known| known == digit)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
            count = count.checked_add(6)?;
            if count >= 8 {
                count = count.checked_sub(8)?;
                bytes.push((bits >> count & 0xff) as u8);
                bits &= (1_u32 << count).checked_sub(1)?;
            }
        }
        (count < 6 && bits == 0).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf7_goes_both_ways() {
        for (name, wire) in [
            ("INBOX", "INBOX"),
            ("Entwürfe", "Entw&APw-rfe"),
            ("台北/日本語", "&U,BTFw-/&ZeVnLIqe-"),
            ("a & b", "a &- b"),
            ("😀", "&2D3eAA-"),
        ] {
            assert_eq!(encode_utf7(name), wire);
            assert_eq!(decode_utf7(wire.as_bytes()).as_deref(), Some(name));
        }
        for bad in ["&", "a&b", "&AGE-", "&2D0-", "&A-", "&AP-", "&APx-", "&!!-", "&U,BTFw"] {
            assert_eq!(decode_utf7(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn names_that_cannot_exist_are_refused() {
        for (wire, fault) in [
            (&b""[..], NameFault::Empty),
            (b"..", NameFault::Level),
            (b"/a", NameFault::Level),
            (b"a//b", NameFault::Level),
            (b"a/", NameFault::Level),
            (b"a\x01b", NameFault::Character),
            (b"a*", NameFault::Character),
            (b"\xff\xfe", NameFault::Encoding),
            (b"&bad", NameFault::Encoding),
            (&[b'x'; 300], NameFault::TooLong),
            (&[b'x'; 5000], NameFault::TooLong),
        ] {
            assert_eq!(MailboxName::from_wire(wire), Err(fault), "{wire:?}");
        }
        assert_eq!(MailboxName::from_wire(b"inBox").unwrap(), MailboxName::inbox());
        assert_eq!(MailboxName::from_wire(b"inbox/Child").unwrap().as_str(), "INBOX/Child");
        assert_eq!(MailboxName::from_wire(b"inboxes").unwrap().as_str(), "inboxes");
    }
}
