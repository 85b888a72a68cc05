//! FETCH: what is asked, where its bytes are, how a response line is put together.
//! RFC 3501 sections 6.4.5 and 7.4.2.
//!
//! Every item but decoded text is answered from the index, the summary, and byte ranges: no
//! message is parsed again. [`Section::locate`] says which bytes; [`Response`] writes one
//! line, item by item.

use super::encode;
use super::flags::{FlagBits, names};
use super::lexer::{Fault, Lexer, Parsed, is_atom_byte};
use crate::message::date::internal_date_text;
use crate::message::{Envelope, Kind, Summary};
use std::ops::Range;

/// Levels of a part number that are taken.
const PATH_LEVELS_MAX: usize = 64;
/// Items of one FETCH, and header fields that one item names: each is worked off for each message.
pub const ITEMS_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchItem {
    Flags,
    InternalDate,
    Size,
    Uid,
    Envelope,
    /// BODYSTRUCTURE, or BODY without extension data.
    Structure {
        extended: bool,
    },
    Section(FetchSection),
}

impl FetchItem {
    /// RFC 3501: reading a body sets `\Seen`, unless it only peeks.
    #[must_use]
    pub fn sets_seen(&self) -> bool {
        matches!(self, FetchItem::Section(section) if !section.peek)
    }

    #[must_use]
    pub fn needs_summary(&self) -> bool {
        match self {
            FetchItem::Flags | FetchItem::InternalDate | FetchItem::Size | FetchItem::Uid => false,
            FetchItem::Envelope | FetchItem::Structure { .. } => true,
            FetchItem::Section(section) => section.section != Section::WHOLE,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchSection {
    pub peek: bool,
    pub section: Section,
    /// `<start.length>`: first byte, and how many.
    pub partial: Option<(u32, u32)>,
    /// How the response names it: `RFC822` and its kin, or as `BODY[…]` (`None`).
    pub legacy_name: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    pub path: Vec<u32>,
    pub text: SectionText,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SectionText {
    /// `BODY[]`, `BODY[2.1]`.
    Whole,
    Header,
    /// With `not`: all fields but these.
    Fields {
        names: Vec<Vec<u8>>,
        not: bool,
    },
    Text,
    Mime,
}

/// Where the bytes of a section are, in the message as the store has it: prefix and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    Bytes(Range<u64>),
    /// The fields that the section names, of the header that is there.
    Fields(Range<u64>),
    /// There is no such part: NIL.
    Nowhere,
}

impl Section {
    pub const WHOLE: Section = Section { path: Vec::new(), text: SectionText::Whole };

    /// `prefix_bytes`: the recipient's own bytes in front of the body, part of the header;
    /// `message_bytes`: prefix and body together. The summary may be missing for the whole message.
    #[must_use]
    pub fn locate<T>(
        &self,
        summary: Option<&Summary<T>>,
        prefix_bytes: u64,
        message_bytes: u64,
    ) -> Located {
        let shifted = |span: crate::message::Span| {
            let start = u64::from(span.start).saturating_add(prefix_bytes).min(message_bytes);
            let end = u64::from(span.end).saturating_add(prefix_bytes).min(message_bytes);
            start..end
        };
        let whole = Located::Bytes(0..message_bytes);
        if self.path.is_empty() && self.text == SectionText::Whole {
            return whole;
        }
        let Some(summary) = summary else { return Located::Nowhere };
        if self.path.is_empty() {
            let header = shifted(summary.parts.first().map(|root| root.header).unwrap_or_default());
            return match &self.text {
                SectionText::Whole => whole,
                SectionText::Header => Located::Bytes(0..header.end),
                SectionText::Fields { .. } => Located::Fields(0..header.end),
                SectionText::Text => Located::Bytes(header.end..message_bytes),
                SectionText::Mime => Located::Nowhere,
            };
        }
        let part = summary.part(&self.path);
        let Some((index, part)) = part.and_then(|at| Some((at, summary.parts.get(at)?))) else {
            return Located::Nowhere;
        };
        match &self.text {
            SectionText::Whole => return Located::Bytes(shifted(part.body)),
            SectionText::Mime => return Located::Bytes(shifted(part.header)),
            SectionText::Header | SectionText::Fields { .. } | SectionText::Text => {}
        }
        // HEADER and TEXT of a part are those of the message embedded in it.
        if part.kind != Kind::Message {
            return Located::Nowhere;
        }
        let Some(inner) = summary.parts.get(index.saturating_add(1)) else {
            return Located::Nowhere;
        };
        match &self.text {
            SectionText::Fields { .. } => Located::Fields(shifted(inner.header)),
            SectionText::Text => Located::Bytes(shifted(inner.body)),
            SectionText::Header | SectionText::Whole | SectionText::Mime => {
                Located::Bytes(shifted(inner.header))
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, number) in self.path.iter().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            encode::push(out, format_args!("{dot}{number}"));
        }
        if !self.path.is_empty() && self.text != SectionText::Whole {
            out.push(b'.');
        }
        match &self.text {
            SectionText::Whole => {}
            SectionText::Header => out.extend_from_slice(b"HEADER"),
            SectionText::Text => out.extend_from_slice(b"TEXT"),
            SectionText::Mime => out.extend_from_slice(b"MIME"),
            SectionText::Fields { names, not } => {
                let not = if *not { ".NOT" } else { "" };
                encode::push(out, format_args!("HEADER.FIELDS{not} ("));
                for (index, name) in names.iter().enumerate() {
                    if index > 0 {
                        out.push(b' ');
                    }
                    if super::lexer::is_atom(name) {
                        out.extend_from_slice(name);
                    } else {
                        encode::string(out, name);
                    }
                }
                out.push(b')');
            }
        }
        out.push(b']');
    }
}

impl FetchSection {
    /// `<start.length>` applied to `length` bytes: what of them to send.
    #[must_use]
    pub fn window(&self, length: u64) -> Range<u64> {
        match self.partial {
            None => 0..length,
            Some((start, count)) => {
                let start = u64::from(start).min(length);
                start..start.saturating_add(u64::from(count)).min(length)
            }
        }
    }
}

/// Reads the items of a FETCH, macros included.
pub fn read_items(lexer: &mut Lexer<'_>) -> Parsed<Vec<FetchItem>> {
    if lexer.peek() == Some(b'(') {
        let mut count = 0_usize;
        let items = lexer.list(|lexer| {
            count = count.saturating_add(1);
            if count > ITEMS_MAX { Err(Fault("too many FETCH items")) } else { read_item(lexer) }
        })?;
        return if items.is_empty() { Err(Fault("nothing to fetch")) } else { Ok(items) };
    }
    let basic = [FetchItem::Flags, FetchItem::InternalDate, FetchItem::Size];
    for (name, envelope, body) in
        [("ALL", true, false), ("FAST", false, false), ("FULL", true, true)]
    {
        if lexer.keyword(name) {
            let mut items = basic.to_vec();
            items.extend(envelope.then_some(FetchItem::Envelope));
            items.extend(body.then_some(FetchItem::Structure { extended: false }));
            return Ok(items);
        }
    }
    Ok(vec![read_item(lexer)?])
}

fn read_item(lexer: &mut Lexer<'_>) -> Parsed<FetchItem> {
    let name = lexer.run(|byte| is_atom_byte(byte) && byte != b'[').to_ascii_uppercase();
    let legacy = |section: Section, peek, name| {
        let legacy_name = Some(name);
        FetchItem::Section(FetchSection { peek, section, partial: None, legacy_name })
    };
    let of_message = |text| Section { path: Vec::new(), text };
    Ok(match name.as_slice() {
        b"FLAGS" => FetchItem::Flags,
        b"INTERNALDATE" => FetchItem::InternalDate,
        b"RFC822.SIZE" => FetchItem::Size,
        b"UID" => FetchItem::Uid,
        b"ENVELOPE" => FetchItem::Envelope,
        b"BODYSTRUCTURE" => FetchItem::Structure { extended: true },
        b"RFC822" => legacy(Section::WHOLE, false, "RFC822"),
        b"RFC822.HEADER" => legacy(of_message(SectionText::Header), true, "RFC822.HEADER"),
        b"RFC822.TEXT" => legacy(of_message(SectionText::Text), false, "RFC822.TEXT"),
        b"BODY" if lexer.peek() != Some(b'[') => FetchItem::Structure { extended: false },
        b"BODY" | b"BODY.PEEK" => {
            let section = read_section(lexer)?;
            let partial = read_partial(lexer)?;
            let peek = name == b"BODY.PEEK";
            FetchItem::Section(FetchSection { peek, section, partial, legacy_name: None })
        }
        _ => return Err(Fault("unknown FETCH item")),
    })
}

fn read_section(lexer: &mut Lexer<'_>) -> Parsed<Section> {
    lexer.expect(b'[', "expected a section")?;
    let mut path = Vec::new();
    while lexer.peek().is_some_and(|byte| byte.is_ascii_digit()) {
        let number = lexer.number()?;
        if number == 0 || path.len() >= PATH_LEVELS_MAX {
            return Err(Fault("bad part number"));
        }
        path.push(number);
        if !lexer.take(b'.') {
            lexer.expect(b']', "expected the end of the section")?;
            return Ok(Section { path, text: SectionText::Whole });
        }
    }
    if path.is_empty() && lexer.take(b']') {
        return Ok(Section::WHOLE);
    }
    let name = lexer.run(|byte| byte.is_ascii_alphabetic() || byte == b'.').to_ascii_uppercase();
    let text = match name.as_slice() {
        b"HEADER" => SectionText::Header,
        b"TEXT" => SectionText::Text,
        b"MIME" if !path.is_empty() => SectionText::Mime,
        b"HEADER.FIELDS" | b"HEADER.FIELDS.NOT" => {
            lexer.space()?;
            let names = lexer.list(|lexer| lexer.astring().map(std::borrow::Cow::into_owned))?;
            if names.is_empty() {
                return Err(Fault("no header fields named"));
            }
            if names.len() > ITEMS_MAX {
                return Err(Fault("too many header fields named"));
            }
            SectionText::Fields { names, not: name.ends_with(b"NOT") }
        }
        _ => return Err(Fault("unknown section")),
    };
    lexer.expect(b']', "expected the end of the section")?;
    Ok(Section { path, text })
}

fn read_partial(lexer: &mut Lexer<'_>) -> Parsed<Option<(u32, u32)>> {
    if !lexer.take(b'<') {
        return Ok(None);
    }
    let start = lexer.number()?;
    lexer.expect(b'.', "expected start.length")?;
    let count = lexer.number()?;
    lexer.expect(b'>', "expected start.length")?;
    if count == 0 { Err(Fault("a partial fetch of nothing")) } else { Ok(Some((start, count))) }
}

/// One `* n FETCH (…)` line, written item by item.
#[derive(Debug)]
pub struct Response<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Response<'o> {
    #[must_use]
    pub fn begin(out: &'o mut Vec<u8>, sequence: u32) -> Response<'o> {
        out.extend_from_slice(b"* ");
        encode::number(out, sequence);
        out.extend_from_slice(b" FETCH (");
        Response { out, first: true }
    }

    /// Goes on with a line that was begun earlier and has items already.
    #[must_use]
    pub fn resume(out: &'o mut Vec<u8>) -> Response<'o> {
        Response { out, first: false }
    }

    fn item(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b' ');
        }
    }

    pub fn uid(&mut self, uid: u32) {
        self.item();
        self.out.extend_from_slice(b"UID ");
        encode::number(self.out, uid);
    }

    pub fn flags(&mut self, flags: FlagBits, keywords: &[String], recent: bool) {
        self.item();
        encode::push(self.out, format_args!("FLAGS ({})", names(flags, keywords, recent)));
    }

    pub fn size(&mut self, bytes: u32) {
        self.item();
        self.out.extend_from_slice(b"RFC822.SIZE ");
        encode::number(self.out, bytes);
    }

    pub fn internal_date(&mut self, unix_millis: u64) {
        self.item();
        let date = internal_date_text(unix_millis);
        encode::push(self.out, format_args!("INTERNALDATE \"{date}\""));
    }

    pub fn envelope<T: AsRef<[u8]>>(&mut self, envelope: &Envelope<T>) {
        self.item();
        self.out.extend_from_slice(b"ENVELOPE ");
        encode::envelope(self.out, envelope);
    }

    pub fn structure<T: AsRef<[u8]>>(&mut self, summary: &Summary<T>, extended: bool) {
        self.item();
        self.out.extend_from_slice(if extended { b"BODYSTRUCTURE " } else { b"BODY " });
        encode::body_structure(self.out, summary, extended);
    }

    fn section_name(&mut self, section: &FetchSection) {
        self.item();
        match section.legacy_name {
            Some(name) => self.out.extend_from_slice(name.as_bytes()),
            None => {
                self.out.extend_from_slice(b"BODY");
                section.section.write(self.out);
                if let Some((start, _)) = section.partial {
                    encode::push(self.out, format_args!("<{start}>"));
                }
            }
        }
        self.out.push(b' ');
    }

    /// A section that is not there.
    pub fn section_nil(&mut self, section: &FetchSection) {
        self.section_name(section);
        self.out.extend_from_slice(b"NIL");
    }

    /// Announces `bytes` octets of a section: exactly so many must follow in the outbox.
    pub fn section_literal(&mut self, section: &FetchSection, bytes: u64) {
        self.section_name(section);
        encode::push(self.out, format_args!("{{{bytes}}}\r\n"));
    }

    pub fn end(self) {
        self.out.extend_from_slice(b")\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Parsed<Vec<FetchItem>> {
        let mut lexer = Lexer::new(text.as_bytes());
        let items = read_items(&mut lexer)?;
        lexer.end()?;
        Ok(items)
    }

    fn echoed(text: &str) -> String {
        let mut out = Vec::new();
        for item in read(text).unwrap() {
            if let FetchItem::Section(section) = item {
                let mut response = Response { out: &mut out, first: true };
                response.section_nil(&section);
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn items_are_read_as_clients_send_them() {
        assert_eq!(read("(FLAGS UID RFC822.SIZE)").unwrap().len(), 3);
        assert_eq!(read("full").unwrap().len(), 5);
        assert_eq!(read("BODY").unwrap(), [FetchItem::Structure { extended: false }]);
        assert_eq!(
            echoed("body.peek[header.fields (From \"To\")]"),
            "BODY[HEADER.FIELDS (From To)] NIL"
        );
        assert_eq!(echoed("BODY[1.2.MIME]<0.1024>"), "BODY[1.2.MIME]<0> NIL");
        assert_eq!(echoed("RFC822.TEXT"), "RFC822.TEXT NIL");
        for bad in [
            "()",
            "(FLAGS",
            "BODY[",
            "BODY[0]",
            "BODY[MIME]",
            "BODY[1.]",
            "BODY[]<0.0>",
            "X",
            "BODY[HEADER.FIELDS ()]",
            "BODY[]<5>",
            "(FLAGS ALL)",
            "FLAGS UID",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sections_are_byte_ranges_behind_the_prefix() {
        let raw = b"A: 1\r\nContent-Type: message/rfc822\r\n\r\nB: 2\r\n\r\nbody";
        let summary = Summary::compute(raw);
        let located = |text: &str| {
            let items = read(&format!("BODY[{text}]")).unwrap();
            let FetchItem::Section(section) = &items[0] else { unreachable!() };
            section.section.locate(Some(&summary), 10, 10 + raw.len() as u64)
        };
        let bytes = |text: &str| match located(text) {
            Located::Bytes(range) => {
                let start = (range.start as usize).saturating_sub(10);
                String::from_utf8(raw[start..range.end as usize - 10].to_vec()).unwrap()
            }
            other => format!("{other:?}"),
        };
        assert_eq!(bytes("TEXT"), "B: 2\r\n\r\nbody");
        assert_eq!(located("HEADER"), Located::Bytes(0..10 + 38));
        assert_eq!(bytes("1"), "B: 2\r\n\r\nbody");
        assert_eq!(bytes("1.HEADER"), "B: 2\r\n\r\n");
        assert_eq!(bytes("1.TEXT"), "body");
        assert_eq!(bytes("1.1"), "body");
        assert_eq!(located("1.1.HEADER"), Located::Nowhere);
        assert_eq!(located("2"), Located::Nowhere);
        assert!(matches!(located("1.HEADER.FIELDS (B)"), Located::Fields(_)));
    }
}
