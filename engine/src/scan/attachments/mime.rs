//! Parts of a message: every name that a mail program might show, and the bytes that it would save.

use protocols::message::content::Content;
use protocols::message::field::Fields;
use protocols::message::text::decode_field;
use std::borrow::Cow;

/// Names of uuencoded files that are taken from one text.
const UUENCODED_MAX: usize = 100;

/// What a part's header says of its content; `None` when it says nothing.
pub fn read_header(header: &[u8]) -> Option<Content> {
    let mut content = Content::plain_text();
    let mut found = false;
    for field in Fields::new(header) {
        if field.is("Content-Type") {
            content.read_type(field.value);
        } else if field.is("Content-Disposition") {
            content.read_disposition(field.value);
        } else if field.is("Content-Transfer-Encoding") {
            content.read_encoding(field.value);
        } else {
            continue;
        }
        found = true;
    }
    found.then_some(content)
}

/// All of them: programs differ in which one they take (RFC 2183, 2231, 2047).
pub fn names(content: &Content) -> Vec<String> {
    let mut names = Vec::new();
    let disposition = content.disposition.as_ref().map(|d| &d.parameters);
    for (parameters, wanted) in
        [(disposition, &b"filename"[..]), (Some(&content.parameters), &b"name"[..])]
    {
        let Some(parameters) = parameters else { continue };
        let mut pieces: Vec<(u32, Vec<u8>)> = Vec::new();
        for (name, value) in parameters {
            let lower = name.to_ascii_lowercase();
            let Some(rest) = lower.strip_prefix(wanted) else { continue };
            match rest {
                b"" => names.push(decode_field(value)),
                b"*" => names.push(text(&percent(behind_charset(value)))),
                [b'*', number @ ..] => {
                    let (number, is_encoded) = match number.strip_suffix(b"*") {
                        Some(number) => (number, true),
                        None => (number, false),
                    };
                    let number = std::str::from_utf8(number).ok().and_then(|n| n.parse().ok());
                    let Some(number) = number else { continue };
                    let value =
                        if number == 0 && is_encoded { behind_charset(value) } else { value };
                    pieces.push((number, if is_encoded { percent(value) } else { value.to_vec() }));
                }
                _ => {}
            }
        }
        if !pieces.is_empty() {
            pieces.sort_by_key(|(number, _)| *number);
            let whole: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
            names.push(text(&whole));
        }
    }
    names.retain(|name| !name.is_empty());
    names.dedup();
    names
}

/// RFC 2231 section 4: `charset'language'value`. Extensions are ASCII in every charset of mail.
fn behind_charset(value: &[u8]) -> &[u8] {
    let mut quotes = value.iter().enumerate().filter(|(_, byte)| **byte == b'\'');
    let second = quotes.nth(1).map(|(at, _)| at);
    second.and_then(|at| value.get(at + 1..)).unwrap_or(value)
}

fn percent(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, after)) = rest.split_first() {
        let digits = (first == b'%').then(|| after.get(..2).and_then(hex)).flatten();
        match digits {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (high, low) = (digit(*digits.first()?)?, digit(*digits.get(1)?)?);
    u8::try_from(high * 16 + low).ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A message within the message that the scanner could not look into, since it is encoded.
pub fn is_message(content: &Content) -> bool {
    content.is("message")
        && (content.sub.eq_ignore_ascii_case(b"rfc822")
            || content.sub.eq_ignore_ascii_case(b"global"))
}

/// Lines `begin 644 NAME` within a text: some programs show what follows as an attachment.
pub fn uuencoded_names(body: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let starts = body.starts_with(b"begin ").then_some(0);
    let others = memchr::memmem::find_iter(body, b"\nbegin ").map(|at| at + 1);
    for at in starts.into_iter().chain(others).take(UUENCODED_MAX) {
        let line = body[at..].split(|&byte| byte == b'\n').next().unwrap_or_default();
        let mut words = line.splitn(3, |&byte| byte == b' ').skip(1);
        let mode = words.next().unwrap_or_default();
        let is_mode = (3..=4).contains(&mode.len()) && mode.iter().all(u8::is_ascii_digit);
        if let Some(name) = words.next().filter(|_| is_mode) {
            names.push(text(name.trim_ascii()));
        }
    }
    names
}

/// Never fails: what is no base64 is skipped, as mail programs do.
pub fn decode<'b>(content: &Content, body: &'b [u8]) -> Cow<'b, [u8]> {
    let encoding = content.encoding.as_deref().unwrap_or_default();
    if encoding.eq_ignore_ascii_case(b"base64") {
        Cow::Owned(base64(body))
    } else if encoding.eq_ignore_ascii_case(b"quoted-printable") {
        Cow::Owned(quoted_printable(body))
    } else {
        Cow::Borrowed(body)
    }
}

const SKIPPED: u8 = 255;
const SIX_BITS: [u8; 256] = {
    let mut table = [SKIPPED; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut index = 0;
    while index < alphabet.len() {
        table[alphabet[index] as usize] = index as u8;
        index += 1;
    }
    table
};

fn base64(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for &byte in body {
        let value = SIX_BITS[usize::from(byte)];
        if value == SKIPPED {
            if byte == b'=' {
                // The end, or a piece of its own behind it.
                (bits, count) = (0, 0);
            }
            continue;
        }
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

fn quoted_printable(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = memchr::memchr(b'=', rest) {
        out.extend_from_slice(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(byte) = after.get(..2).and_then(hex) {
            out.push(byte);
            rest = &after[2..];
        } else if let Some(next) = soft_break(after) {
            rest = next;
        } else {
            out.push(b'=');
            rest = after;
        }
    }
    out.extend_from_slice(rest);
    out
}

/// What is behind a line end that does not count; white space in front of it was added on the way
/// (RFC 2045 section 6.7).
fn soft_break(after: &[u8]) -> Option<&[u8]> {
    let blank = after.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let after = &after[blank..];
    after.strip_prefix(b"\r\n").or_else(|| after.strip_prefix(b"\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_every_spelling() {
        let with = |value: &str| {
            let mut content = Content::plain_text();
            content.read_disposition(value.as_bytes());
            names(&content)
        };
        for (value, name) in [
            ("attachment; filename=a.exe", "a.exe"),
            ("attachment; FileName=\"a b.exe\"", "a b.exe"),
            ("attachment; filename*=utf-8'de'%e2%80%aexe", "\u{202e}xe"),
            ("attachment; filename*=no-charset.exe", "no-charset.exe"),
            ("attachment; filename*1=\".ex\"; filename*0=\"setup\"; filename*2*=%65", "setup.exe"),
            ("attachment; filename=\"=?utf-8?b?YS5leGU=?=\"", "a.exe"),
        ] {
            assert_eq!(with(value), [name], "{value}");
        }
        assert_eq!(with("attachment; filename=a.txt; filename*=utf-8''b.exe"), ["a.txt", "b.exe"]);
    }

    #[test]
    fn bytes_as_a_mail_program_would_save_them() {
        assert_eq!(base64(b"TVqQ\r\nAA==\r\n"), b"MZ\x90\0");
        assert_eq!(base64(b"T V q!Q*"), b"MZ\x90");
        assert_eq!(base64(b"TVo=TVo="), b"MZMZ");
        assert_eq!(base64(b""), b"");
        assert_eq!(quoted_printable(b"M=5A=\r\n=90=zz="), b"MZ\x90=zz=");
        assert_eq!(quoted_printable(b"M= \t\r\nZ=\n="), b"MZ=");
        let text = b"begin 644 one.exe\r\nM...\r\nend\r\nbegin with me\r\nbegin 0755 two x.scr\n";
        assert_eq!(uuencoded_names(text), ["one.exe", "two x.scr"]);
    }
}
