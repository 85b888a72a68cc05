//! How values are written: strings, mailbox names, envelopes, body structures.
//!
//! A string is quoted when it is plain printable ASCII, and a literal otherwise; NUL, which neither
//! may hold, is left out. RFC 3501 sections 4.3, 7.4.2 and 9.

use super::mailbox::encode_utf7;
use crate::message::content::{Content, Parameters};
use crate::message::{Address, Envelope, Kind, Part, Summary};
use std::fmt::Write;

/// Longer strings are sent as literals, which no client has trouble with.
const QUOTED_BYTES_MAX: usize = 1000;

/// What a byte is in a quoted string (RFC 3501 section 9): a listing looks at each of a
/// hundred thousand.
const PLAIN: u8 = 0;
const ESCAPED: u8 = 1;
const NEVER: u8 = 2;
const QUOTED: [u8; 256] = {
    let mut table = [NEVER; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        // An index from a byte is always in a table of 256.
        #[allow(clippy::indexing_slicing)]
        {
            table[byte as usize] = if matches!(byte, b'"' | b'\\') { ESCAPED } else { PLAIN };
        }
        byte = byte.saturating_add(1);
    }
    table
};

pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    let kind = |byte: &u8| QUOTED.get(usize::from(*byte)).copied().unwrap_or(NEVER);
    let found = text.iter().fold(PLAIN, |found, byte| found | kind(byte));
    if text.len() <= QUOTED_BYTES_MAX && found < NEVER {
        out.reserve(text.len().saturating_add(2));
        out.push(b'"');
        if found == ESCAPED {
            for byte in text {
                if kind(byte) == ESCAPED {
                    out.push(b'\\');
                }
                out.push(*byte);
            }
        } else {
            out.extend_from_slice(text);
        }
        out.push(b'"');
        return;
    }
    let zeroes = memchr::memchr_iter(0, text).count();
    push(out, format_args!("{{{}}}\r\n", text.len().saturating_sub(zeroes)));
    out.extend(text.iter().filter(|byte| **byte != 0));
}

pub fn nstring(out: &mut Vec<u8>, text: Option<&[u8]>) {
    match text {
        Some(text) => string(out, text),
        None => out.extend_from_slice(b"NIL"),
    }
}

fn bytes<T: AsRef<[u8]>>(text: &Option<T>) -> Option<&[u8]> {
    text.as_ref().map(T::as_ref)
}

/// An atom where that is possible, as all other servers write plain names; otherwise quoted.
pub fn mailbox(out: &mut Vec<u8>, name: &str) {
    let wire = encode_utf7(name);
    if super::lexer::is_atom(wire.as_bytes()) && !wire.eq_ignore_ascii_case("NIL") {
        out.extend_from_slice(wire.as_bytes());
    } else {
        string(out, wire.as_bytes());
    }
}

pub fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing into memory can't fail.
    let _ = Adapter(out).write_fmt(text);
}

/// In decimal. Without the machinery of formatting, which a listing of thousands would feel.
pub fn number(out: &mut Vec<u8>, number: u32) {
    let mut digits = [b'0'; 10];
    let mut rest = number;
    let mut length = 0_usize;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' | (rest % 10) as u8;
        rest /= 10;
        length = length.saturating_add(1);
        if rest == 0 {
            break;
        }
    }
    let start = digits.len().saturating_sub(length);
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

struct Adapter<'o>(&'o mut Vec<u8>);

impl Write for Adapter<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// RFC 3501 section 7.4.2, ENVELOPE.
pub fn envelope<T: AsRef<[u8]>>(out: &mut Vec<u8>, envelope: &Envelope<T>) {
    out.push(b'(');
    nstring(out, bytes(&envelope.date));
    out.push(b' ');
    nstring(out, bytes(&envelope.subject));
    let start = out.len();
    out.push(b' ');
    addresses(out, &envelope.from);
    let from = start..out.len();
    // RFC 3501: without a Sender or Reply-To field, From stands for it.
    for list in [&envelope.sender, &envelope.reply_to] {
        if list.is_empty() {
            out.extend_from_within(from.clone());
        } else {
            out.push(b' ');
            addresses(out, list);
        }
    }
    for list in [&envelope.to, &envelope.cc, &envelope.bcc] {
        out.push(b' ');
        addresses(out, list);
    }
    out.push(b' ');
    nstring(out, bytes(&envelope.in_reply_to));
    out.push(b' ');
    nstring(out, bytes(&envelope.message_id));
    out.push(b')');
}

fn addresses<T: AsRef<[u8]>>(out: &mut Vec<u8>, list: &[Address<T>]) {
    if list.is_empty() {
        out.extend_from_slice(b"NIL");
        return;
    }
    out.push(b'(');
    for address in list {
        out.push(b'(');
        nstring(out, bytes(&address.name));
        out.extend_from_slice(b" NIL ");
        nstring(out, bytes(&address.mailbox));
        out.push(b' ');
        nstring(out, bytes(&address.host));
        out.push(b')');
    }
    out.push(b')');
}

/// BODYSTRUCTURE, or BODY without the `extended` data. RFC 3501 section 7.4.2.
pub fn body_structure<T: AsRef<[u8]>>(out: &mut Vec<u8>, summary: &Summary<T>, extended: bool) {
    body(out, summary, 0, extended);
}

/// Recursion ends: summaries are checked to nest no deeper than the scanner's limit.
fn body<T: AsRef<[u8]>>(out: &mut Vec<u8>, summary: &Summary<T>, index: usize, extended: bool) {
    let Some(part) = summary.parts.get(index) else { return };
    out.push(b'(');
    match part.kind {
        Kind::Multipart => {
            for child in summary.children(index) {
                body(out, summary, child, extended);
            }
            out.push(b' ');
            string(out, part.content.sub.as_ref());
            if extended {
                out.push(b' ');
                parameters(out, &part.content.parameters);
                extension(out, &part.content);
            }
        }
        Kind::Leaf | Kind::Message => {
            single(out, part);
            if part.kind == Kind::Message {
                message(out, summary, index.saturating_add(1), extended);
            }
            if part.kind == Kind::Message || part.content.is("text") {
                push(out, format_args!(" {}", part.lines));
            }
            if extended {
                out.push(b' ');
                nstring(out, bytes(&part.content.md5));
                extension(out, &part.content);
            }
        }
    }
    out.push(b')');
}

/// The fields that all parts but multiparts begin with.
fn single<T: AsRef<[u8]>>(out: &mut Vec<u8>, part: &Part<T>) {
    let content = &part.content;
    string(out, content.main.as_ref());
    out.push(b' ');
    string(out, content.sub.as_ref());
    out.push(b' ');
    parameters(out, &content.parameters);
    out.push(b' ');
    nstring(out, bytes(&content.id));
    out.push(b' ');
    nstring(out, bytes(&content.description));
    out.push(b' ');
    string(out, bytes(&content.encoding).unwrap_or(b"7bit"));
    push(out, format_args!(" {}", part.body.bytes()));
}

fn message<T: AsRef<[u8]>>(out: &mut Vec<u8>, summary: &Summary<T>, root: usize, extended: bool) {
    out.push(b' ');
    match summary.parts.get(root).and_then(|part| part.envelope.as_deref()) {
        Some(inner) => envelope(out, inner),
        None => envelope(out, &Envelope::<&[u8]>::default()),
    }
    out.push(b' ');
    body(out, summary, root, extended);
}

fn extension<T: AsRef<[u8]>>(out: &mut Vec<u8>, content: &Content<T>) {
    match &content.disposition {
        Some(disposition) => {
            out.extend_from_slice(b" (");
            string(out, disposition.kind.as_ref());
            out.push(b' ');
            parameters(out, &disposition.parameters);
            out.push(b')');
        }
        None => out.extend_from_slice(b" NIL"),
    }
    match content.languages.as_slice() {
        [] => out.extend_from_slice(b" NIL"),
        tags => {
            for (index, tag) in tags.iter().enumerate() {
                out.extend_from_slice(if index == 0 { b" (" } else { b" " });
                string(out, tag.as_ref());
            }
            out.push(b')');
        }
    }
    out.push(b' ');
    nstring(out, bytes(&content.location));
}

fn parameters<T: AsRef<[u8]>>(out: &mut Vec<u8>, parameters: &Parameters<T>) {
    if parameters.is_empty() {
        out.extend_from_slice(b"NIL");
        return;
    }
    for (index, (name, value)) in parameters.iter().enumerate() {
        out.push(if index == 0 { b'(' } else { b' ' });
        string(out, name.as_ref());
        out.push(b' ');
        string(out, value.as_ref());
    }
    out.push(b')');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn strings_are_quoted_or_literals() {
        assert_eq!(written(|out| string(out, b"a \"b\" \\")), r#""a \"b\" \\""#);
        assert_eq!(written(|out| string(out, "ä\0".as_bytes())), "{2}\r\nä");
        assert_eq!(written(|out| nstring(out, None)), "NIL");
        for n in [0, 7, 10, 999, 1000, u32::MAX] {
            assert_eq!(written(|out| number(out, n)), n.to_string());
        }
        assert_eq!(written(|out| mailbox(out, "Entwürfe")), "Entw&APw-rfe");
        assert_eq!(written(|out| mailbox(out, "a b")), "\"a b\"");
        assert_eq!(written(|out| mailbox(out, "nil")), "\"nil\"");
    }

    #[test]
    fn a_structure_is_written_as_the_rfc_shows_it() {
        let raw = b"From: Ann <a@b>\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n\
            --x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nhi\r\nyou\r\n\
            --x\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment; filename=f\r\n\r\nSubject: s\r\n\r\nt\r\n--x--\r\n";
        let summary = Summary::compute(raw);
        assert_eq!(
            written(|out| body_structure(out, &summary, false)),
            "((\"text\" \"plain\" (\"charset\" \"utf-8\") NIL NIL \"7bit\" 7 1)\
             (\"message\" \"rfc822\" NIL NIL NIL \"7bit\" 15 (NIL \"s\" NIL NIL NIL NIL NIL NIL NIL NIL) \
             (\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 1 0) 2) \"mixed\")"
        );
        let extended = written(|out| body_structure(out, &summary, true));
        assert!(extended.contains("(\"attachment\" (\"filename\" \"f\")) NIL NIL"), "{extended}");
        assert!(extended.ends_with("\"mixed\" (\"boundary\" \"x\") NIL NIL NIL)"), "{extended}");
        assert_eq!(
            written(|out| envelope(out, summary.envelope().unwrap())),
            "(NIL NIL ((\"Ann\" NIL \"a\" \"b\")) ((\"Ann\" NIL \"a\" \"b\")) ((\"Ann\" NIL \"a\" \"b\")) NIL NIL NIL NIL NIL)"
        );
    }
}
