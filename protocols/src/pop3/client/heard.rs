//! A server's reply: `+OK`, `-ERR` or, in a login, `+` and a challenge. RFC 1939 section 3, RFC
//! 2449 section 8, RFC 5034 section 4.

use super::event::Refusal;
use crate::wire::remote::shown;

pub(super) const TEXT_OCTETS_MAX: usize = 512;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<'l> {
    Yes(&'l [u8]),
    No(Refusal),
    Challenge(&'l [u8]),
}

pub(super) fn read(line: &[u8]) -> Option<Heard<'_>> {
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let (word, rest) = line.split_at_checked(end)?;
    let rest = rest.trim_ascii();
    match word.to_ascii_uppercase().as_slice() {
        b"+OK" => Some(Heard::Yes(rest)),
        b"-ERR" => Some(Heard::No(refusal(rest))),
        b"+" => Some(Heard::Challenge(rest)),
        _ => None,
    }
}

fn refusal(text: &[u8]) -> Refusal {
    let coded = text.strip_prefix(b"[").and_then(|inside| {
        let end = inside.iter().position(|&byte| byte == b']')?;
        let (code, rest) = inside.split_at_checked(end)?;
        Some((shown(&code.to_ascii_uppercase(), 64), rest.get(1..)?))
    });
    match coded {
        Some((code, rest)) => Refusal { code: Some(code), text: shown(rest, TEXT_OCTETS_MAX) },
        None => Refusal { code: None, text: shown(text, TEXT_OCTETS_MAX) },
    }
}

/// `3 whatever`: a message's number, and what is said of it.
pub(super) fn numbered(line: &[u8]) -> Option<(u32, &[u8])> {
    let at = line.iter().position(|&byte| byte == b' ')?;
    let (digits, rest) = line.split_at_checked(at)?;
    let number = number(digits).and_then(|number| u32::try_from(number).ok())?;
    (number > 0).then_some((number, rest.trim_ascii()))
}

pub(super) fn number(digits: &[u8]) -> Option<u64> {
    let fine = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    fine.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read() {
        assert_eq!(read(b"+OK"), Some(Heard::Yes(b"")));
        assert_eq!(read(b"+ok 2 320"), Some(Heard::Yes(b"2 320")));
        assert_eq!(read(b"+ abc"), Some(Heard::Challenge(b"abc")));
        let no = |code: Option<&str>, text: &str| {
            Some(Heard::No(Refusal { code: code.map(str::to_owned), text: text.into() }))
        };
        assert_eq!(read(b"-ERR [in-use] Locked\t"), no(Some("IN-USE"), "Locked"));
        assert_eq!(read(b"-ERR [open"), no(None, "[open"));
        assert_eq!(read(b"-ERR"), no(None, ""));
        for odd in [&b""[..], b"OK", b"+OKAY", b"250 fine", b"."] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn listings_are_read() {
        assert_eq!(numbered(b"1 120"), Some((1, &b"120"[..])));
        assert_eq!(numbered(b"12  a b "), Some((12, &b"a b"[..])));
        for odd in ["", "1", "0 1", "x 1", "-1 1", "4294967296 1", " 1 1"] {
            assert_eq!(numbered(odd.as_bytes()), None, "{odd}");
        }
    }
}
