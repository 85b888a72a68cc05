//! Responses, read: RFC 3501 section 7. What we don't know is passed over, what is
//! malformed is `None`.

use super::event::{Mailbox, Message, Refusal};
use crate::imap::lexer::{Lexer, is_atom_byte};
use crate::imap::mailbox::decode_utf7;
use crate::message::date::read_imap_instant;
use crate::wire::remote::shown;
use std::cell::Cell;

const TEXT_OCTETS_MAX: usize = 512;
const FLAGS_MAX: usize = 256;
/// Lists within lists of items that we don't know.
const DEPTH_MAX: usize = 20;

/// The word of a status response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    No,
    Bad,
    Bye,
    Preauth,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<'l> {
    /// `+` and what is behind it.
    Continue(&'l [u8]),
    /// `None`: untagged.
    Status(Option<&'l [u8]>, Status, &'l [u8]),
    Exists(u32),
    /// What follows `* 3 FETCH `.
    Fetch(&'l [u8]),
    Capabilities(&'l [u8]),
    Mailbox(&'l [u8]),
    Search(&'l [u8]),
    /// Nothing that concerns us.
    Other,
}

/// One whole response; `None`: it is none.
pub(super) fn read(line: &[u8]) -> Option<Heard<'_>> {
    if let Some(text) = line.strip_prefix(b"+") {
        return Some(Heard::Continue(text.trim_ascii()));
    }
    let (tag, rest) = split(line);
    let (word, text) = split(rest);
    let status = status(word);
    if tag != b"*" {
        return status.map(|status| Heard::Status(Some(tag), status, text));
    }
    if let Some(status) = status {
        return Some(Heard::Status(None, status, text));
    }
    if word.is_empty() {
        return None;
    }
    if word.iter().all(u8::is_ascii_digit) {
        let number = std::str::from_utf8(word).ok()?.parse().ok()?;
        let (kind, text) = split(text);
        return Some(match kind.to_ascii_uppercase().as_slice() {
            b"EXISTS" => Heard::Exists(number),
            b"FETCH" => Heard::Fetch(text),
            _ => Heard::Other,
        });
    }
    Some(match word.to_ascii_uppercase().as_slice() {
        b"CAPABILITY" => Heard::Capabilities(text),
        b"LIST" => Heard::Mailbox(text),
        b"SEARCH" => Heard::Search(text),
        _ => Heard::Other,
    })
}

/// Whether what is collected so far is text for people, in which `{5}` announces nothing.
pub(super) fn is_text(line: &[u8]) -> bool {
    line.starts_with(b"+") || status(split(split(line).1).0).is_some()
}

fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let (word, rest) = line.split_at_checked(end).unwrap_or((line, b""));
    (word, rest.strip_prefix(b" ").unwrap_or(rest))
}

fn status(word: &[u8]) -> Option<Status> {
    match word.to_ascii_uppercase().as_slice() {
        b"OK" => Some(Status::Ok),
        b"NO" => Some(Status::No),
        b"BAD" => Some(Status::Bad),
        b"BYE" => Some(Status::Bye),
        b"PREAUTH" => Some(Status::Preauth),
        _ => None,
    }
}

/// `[CODE arguments] text`: the code's words, and the text.
pub(super) fn code(text: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let inside = text.strip_prefix(b"[");
    let split = inside.and_then(|inside| {
        let end = inside.iter().position(|&byte| byte == b']')?;
        let (code, rest) = inside.split_at_checked(end)?;
        Some((code, rest.get(1..)?))
    });
    split.map_or((None, text), |(code, rest)| (Some(code), rest))
}

/// `[UIDNOTSTICKY] text`
pub(super) fn has_code(text: &[u8], name: &[u8]) -> bool {
    code(text).0.is_some_and(|code| code.eq_ignore_ascii_case(name))
}

/// `[UIDVALIDITY 3] text`: the number behind `name`.
pub(super) fn coded_number(text: &[u8], name: &[u8]) -> Option<u32> {
    let (word, digits) = split(code(text).0?);
    let named = word.eq_ignore_ascii_case(name);
    named.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

pub(super) fn refusal(text: &[u8]) -> Refusal {
    let (code, text) = code(text);
    let code = code.map(|code| shown(&split(code).0.to_ascii_uppercase(), 64));
    Refusal { code, text: shown(text, TEXT_OCTETS_MAX) }
}

/// `(attributes) delimiter name`
pub(super) fn mailbox(text: &[u8]) -> Option<Mailbox> {
    let mut lexer = Lexer::new(text);
    let attributes = flags(&mut lexer)?;
    lexer.space().ok()?;
    let delimiter = lexer.nstring().ok()?;
    lexer.space().ok()?;
    let wire_name = lexer.astring().ok()?.into_owned();
    let decoded = decode_utf7(&wire_name);
    let name = decoded.as_ref().map_or(wire_name.as_slice(), |name| name.as_bytes());
    let name = shown(name, TEXT_OCTETS_MAX);
    let closed = |flag: &String| {
        flag.eq_ignore_ascii_case("\\Noselect") || flag.eq_ignore_ascii_case("\\NonExistent")
    };
    Some(Mailbox {
        selectable: !attributes.iter().any(closed),
        delimiter: delimiter.and_then(|text| text.first().copied().map(char::from)),
        wire_name,
        name,
        attributes,
    })
}

/// Numbers of a SEARCH response; a modification sequence at its end is passed over.
pub(super) fn numbers(text: &[u8]) -> Option<Vec<u32>> {
    let words = text.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let numbers = words.take_while(|word| !word.starts_with(b"("));
    numbers
        .map(|word| std::str::from_utf8(word).ok()?.parse().ok().filter(|uid| *uid > 0))
        .collect()
}

/// A FETCH response.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Fetched {
    pub(super) uid: Option<u32>,
    pub(super) message: Message,
    /// The whole message, when it stood in the response itself.
    pub(super) body: Option<Vec<u8>>,
}

/// `(UID 3 FLAGS (\Seen) …)`
pub(super) fn fetched(text: &[u8]) -> Option<Fetched> {
    let mut lexer = Lexer::new(text);
    let mut fetched = Fetched::default();
    lexer.expect(b'(', "").ok()?;
    while lexer.take(b' ') {}
    while !lexer.take(b')') {
        let name = item_name(&mut lexer).to_ascii_uppercase();
        if name.is_empty() {
            return None;
        }
        lexer.space().ok()?;
        match name.as_slice() {
            b"UID" => fetched.uid = Some(lexer.number().ok()?),
            b"RFC822.SIZE" => fetched.message.octets = Some(lexer.number64().ok()?),
            b"FLAGS" => fetched.message.flags = flags(&mut lexer)?,
            b"INTERNALDATE" => {
                let date = lexer.nstring().ok()?;
                fetched.message.internal_date = date.and_then(|text| read_imap_instant(&text));
            }
            b"BODY[]" => fetched.body = lexer.nstring().ok()?.map(std::borrow::Cow::into_owned),
            _ => skip(&mut lexer, 0)?,
        }
        while lexer.take(b' ') {}
    }
    fetched.message.uid = fetched.uid.unwrap_or(0);
    Some(fetched)
}

/// `BODY[HEADER.FIELDS (DATE)]<0>` is one name.
fn item_name<'l>(lexer: &mut Lexer<'l>) -> &'l [u8] {
    let inside = Cell::new(false);
    lexer.run(|byte| {
        inside.set(match byte {
            b'[' => true,
            b']' => false,
            _ => inside.get(),
        });
        inside.get() || !b" ()".contains(&byte)
    })
}

fn flags(lexer: &mut Lexer<'_>) -> Option<Vec<String>> {
    let flags = lexer.list(|lexer| {
        let flag = lexer.run(|byte| is_atom_byte(byte) || b"\\*]".contains(&byte) || byte >= 0x80);
        if flag.is_empty() { Err(crate::imap::lexer::Fault("")) } else { Ok(shown(flag, 200)) }
    });
    flags.ok().filter(|flags| flags.len() <= FLAGS_MAX)
}

/// A value of any kind.
fn skip(lexer: &mut Lexer<'_>, depth: usize) -> Option<()> {
    match lexer.peek()? {
        b'(' if depth < DEPTH_MAX => {
            lexer.take(b'(');
            while lexer.take(b' ') {}
            while !lexer.take(b')') {
                skip(lexer, depth.saturating_add(1))?;
                while lexer.take(b' ') {}
            }
        }
        b'"' | b'{' => drop(lexer.string().ok()?),
        _ => {
            let word = lexer.run(|byte| !b" ()\"".contains(&byte));
            if word.is_empty() {
                return None;
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_told_apart() {
        let tagged = |status, text| Some(Heard::Status(Some(b"k1"), status, text));
        for (line, expected) in [
            ("+ go", Some(Heard::Continue(b"go"))),
            ("+", Some(Heard::Continue(b""))),
            ("k1 OK [X] Done", tagged(Status::Ok, b"[X] Done")),
            ("k1 no", tagged(Status::No, b"")),
            ("* BYE gone", Some(Heard::Status(None, Status::Bye, b"gone"))),
            ("* 3 EXISTS", Some(Heard::Exists(3))),
            ("* 3 FETCH (UID 1)", Some(Heard::Fetch(b"(UID 1)"))),
            ("* 3 EXPUNGE", Some(Heard::Other)),
            ("* SEARCH", Some(Heard::Search(b""))),
            ("* XNEW thing", Some(Heard::Other)),
            ("*", None),
            ("k1 DONE", None),
            ("220 mx ESMTP", None),
            ("", None),
            ("* 99999999999 EXISTS", None),
        ] {
            assert_eq!(read(line.as_bytes()), expected, "{line}");
        }
        assert!(is_text(b"* OK see {5}") && is_text(b"k1 NO {5}") && is_text(b"+ {5}"));
        assert!(!is_text(b"* LIST () \"/\" {5}") && !is_text(b"* 1 FETCH (BODY[] {5}"));
    }

    #[test]
    fn codes_are_read() {
        assert_eq!(coded_number(b"[UIDVALIDITY 7] ok", b"uidvalidity"), Some(7));
        assert_eq!(coded_number(b"[UIDNEXT 7] ok", b"uidvalidity"), None);
        assert_eq!(coded_number(b"UIDVALIDITY 7", b"uidvalidity"), None);
        let no = refusal(b"[authenticationfailed x] Wrong\tpassword");
        assert_eq!(no.code.as_deref(), Some("AUTHENTICATIONFAILED"));
        assert_eq!(no.text, "Wrong password");
    }

    #[test]
    fn mailboxes_are_read_in_each_spelling() {
        let one = mailbox(b"(\\HasNoChildren \\Sent) \"/\" \"Gesendete &AMQ-\"").unwrap();
        assert_eq!((one.name.as_str(), one.delimiter), ("Gesendete Ä", Some('/')));
        assert_eq!(one.wire_name, b"Gesendete &AMQ-");
        assert!(one.selectable && one.attributes.len() == 2);
        let flat = mailbox(b"(\\noselect) NIL {3}\r\na\"b").unwrap();
        assert_eq!((flat.name.as_str(), flat.delimiter, flat.selectable), ("a\"b", None, false));
        for odd in ["", "() \"/\"", "(\\Sent \"/\" a", "NIL NIL NIL NIL"] {
            assert_eq!(mailbox(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn searches_are_read() {
        assert_eq!(numbers(b"3 1  2"), Some(vec![3, 1, 2]));
        assert_eq!(numbers(b"3 (MODSEQ 9)"), Some(vec![3]));
        assert_eq!(numbers(b""), Some(vec![]));
        assert_eq!(numbers(b"0"), None);
        assert_eq!(numbers(b"1 x"), None);
    }

    #[test]
    fn fetches_are_read_whatever_else_stands_in_them() {
        let text = b"(FLAGS (\\Seen $Junk \\*) X-GM-LABELS (\"a b\" (c {2}\r\n)(  d)) UID 7 \
            BODY[HEADER.FIELDS (DATE)]<0> NIL RFC822.SIZE 4294967296 MODSEQ (12) \
            INTERNALDATE \"01-Jan-1970 00:00:01 +0000\" BODY[] \"whole\")";
        let fetched = fetched(text).unwrap();
        assert_eq!(fetched.uid, Some(7));
        assert_eq!(fetched.message.flags, ["\\Seen", "$Junk", "\\*"]);
        assert_eq!(fetched.message.octets, Some(4_294_967_296));
        assert_eq!(fetched.message.internal_date, Some(1000));
        assert_eq!(fetched.body.as_deref(), Some(&b"whole"[..]));
    }

    #[test]
    fn malformed_fetches_are_refused() {
        let deep = [b"(X ".as_slice(), &[b'('; 100], &[b')'; 100], b")"].concat();
        for odd in [&b""[..], b"(", b"(UID)", b"(UID x)", b"(UID 1", b"(FLAGS \\Seen)", &deep] {
            assert_eq!(fetched(odd), None, "{:?}", odd.escape_ascii().to_string());
        }
        assert_eq!(fetched(b"()"), Some(Fetched::default()));
    }
}
