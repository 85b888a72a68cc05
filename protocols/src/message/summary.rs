//! What is known of a message without reading it: the MIME tree with offsets, envelopes, the date.
//!
//! Worked out once by [`super::scanner`], kept beside the message, and enough to answer ENVELOPE,
//! BODYSTRUCTURE and the byte range of every BODY section. Offsets count from the first byte of the
//! body as the store has it, behind a recipient's own prefix.
//!
//! # Binary form, version 1
//!
//! `version:u8`, then numbers as LEB128, texts as length and bytes, options as 0 or 1 and the
//! value: sent date (option: zigzag seconds, zigzag offset minutes), references (option), number of
//! parts, parts in preorder. A reader of a later version keeps reading this one.
//! [`Summary::decode`] takes any bytes without panic, and allocates no more than a small multiple
//! of their length.

use super::content::{Content, Disposition, Parameters};
use super::date::Sent;
use super::envelope::{Address, Envelope};
use super::scanner::Scanner;

const VERSION: u8 = 1;

/// Texts are bytes of its own, or `&[u8]` into the stored form ([`Summary::view`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary<T = Vec<u8>> {
    pub sent: Option<Sent>,
    /// Unfolded References field of the message, for threading.
    pub references: Option<T>,
    /// Preorder; the first is the message itself. Never empty.
    pub parts: Vec<Part<T>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Leaf = 0,
    /// Its children follow.
    Multipart = 1,
    /// message/rfc822: the embedded message's root entity follows.
    Message = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    #[must_use]
    pub fn bytes(self) -> u32 {
        self.end.saturating_sub(self.start)
    }
}

/// One MIME entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<T = Vec<u8>> {
    pub kind: Kind,
    /// How many of the parts that follow belong to this one.
    pub subtree: u32,
    /// Blank line included.
    pub header: Span,
    pub body: Span,
    /// Line ends in the body.
    pub lines: u32,
    pub content: Content<T>,
    /// Of the root of a message or of an embedded message.
    pub envelope: Option<Box<Envelope<T>>>,
}

impl Part {
    #[must_use]
    pub fn empty(at: Span) -> Part {
        Part {
            kind: Kind::Leaf,
            subtree: 0,
            header: at,
            body: at,
            lines: 0,
            content: Content::plain_text(),
            envelope: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored summary can't be read: {0}; `kura store verify` names such messages")]
pub struct Undecodable(&'static str);

impl Summary {
    /// Scans a message that is in memory as a whole; see [`Scanner`] for one that comes in pieces.
    #[must_use]
    pub fn compute(raw: &[u8]) -> Summary {
        let mut scanner = Scanner::new();
        scanner.push(raw);
        scanner.finish()
    }

    /// Of the same message behind so many octets of further fields, none of which says what it is:
    /// trace fields, results.
    #[must_use]
    pub fn behind(mut self, octets: usize) -> Summary {
        let octets = u32::try_from(octets).unwrap_or(u32::MAX);
        for (index, part) in self.parts.iter_mut().enumerate() {
            for span in [&mut part.header, &mut part.body] {
                span.start = span.start.saturating_add(octets);
                span.end = span.end.saturating_add(octets);
            }
            if index == 0 {
                part.header.start = 0;
            }
        }
        self
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer { bytes: Vec::with_capacity(512) };
        out.bytes.push(VERSION);
        out.option(self.sent.as_ref(), |out, sent| {
            out.signed(sent.unix_seconds);
            out.signed(i64::from(sent.offset_minutes));
        });
        out.text_option(self.references.as_ref());
        out.list(&self.parts, Writer::part);
        out.bytes
    }

    /// # Errors
    /// When the bytes are not a summary, or one of a version that this reader does not know.
    pub fn decode(bytes: &[u8]) -> Result<Summary, Undecodable> {
        Summary::read(bytes)
    }
}

impl<'b> Summary<&'b [u8]> {
    /// As [`Summary::decode`], without a copy of any text: for who lists thousands of messages.
    ///
    /// # Errors
    /// The same.
    pub fn view(bytes: &'b [u8]) -> Result<Self, Undecodable> {
        Summary::read(bytes)
    }

    /// The message's envelope alone: the parts behind the first are not looked at.
    ///
    /// # Errors
    /// When the bytes up to the envelope are not a summary's.
    pub fn view_envelope(bytes: &'b [u8]) -> Result<Option<Envelope<&'b [u8]>>, Undecodable> {
        let mut input = Reader { rest: bytes };
        let _: (Option<Sent>, Option<&[u8]>) = input.head()?;
        if input.number()? == 0 {
            return Err(Undecodable("no parts"));
        }
        input.pass_content()?;
        input.option(Reader::envelope)
    }
}

impl<'b, T: From<&'b [u8]>> Summary<T> {
    fn read(bytes: &'b [u8]) -> Result<Self, Undecodable> {
        let mut input = Reader { rest: bytes };
        let (sent, references) = input.head()?;
        let parts = input.list(Reader::part)?;
        let summary = Summary { sent, references, parts };
        summary.check_tree()?;
        Ok(summary)
    }
}

impl<T> Summary<T> {
    #[must_use]
    pub fn envelope(&self) -> Option<&Envelope<T>> {
        self.parts.first()?.envelope.as_deref()
    }

    /// Length of the message's own header, blank line included.
    #[must_use]
    pub fn header_bytes(&self) -> u32 {
        self.parts.first().map_or(0, |root| root.header.end)
    }

    /// Indices of the direct children of part `parent`.
    pub fn children(&self, parent: usize) -> impl Iterator<Item = usize> + '_ {
        let subtree = self.parts.get(parent).map_or(0, |part| as_usize(part.subtree));
        let end = parent.saturating_add(subtree);
        let mut next = parent.saturating_add(1);
        std::iter::from_fn(move || {
            if next > end {
                return None;
            }
            let child = next;
            let inside = as_usize(self.parts.get(child)?.subtree);
            next = child.saturating_add(inside).saturating_add(1);
            Some(child)
        })
    }

    /// The part with an IMAP number, `[4, 2, 1]` for 4.2.1 (RFC 3501 section 6.4.5). The
    /// numbers of an embedded message's parts follow its own; a body that is not multipart is
    /// part 1 of itself.
    #[must_use]
    pub fn part(&self, path: &[u32]) -> Option<usize> {
        let mut container = Some(0_usize);
        let mut current = None;
        for &number in path {
            let holder = container?;
            let found = match self.parts.get(holder)?.kind {
                Kind::Multipart => {
                    let skip = as_usize(number.checked_sub(1)?);
                    self.children(holder).nth(skip)?
                }
                Kind::Leaf | Kind::Message if number == 1 => holder,
                Kind::Leaf | Kind::Message => return None,
            };
            current = Some(found);
            container = match self.parts.get(found)?.kind {
                Kind::Multipart => Some(found),
                Kind::Message => Some(found.saturating_add(1)),
                Kind::Leaf => None,
            };
        }
        current
    }

    /// Subtrees nest and lie inside the list, so that walking them always ends.
    fn check_tree(&self) -> Result<(), Undecodable> {
        if self.parts.is_empty() {
            return Err(Undecodable("no parts"));
        }
        let mut ends: Vec<usize> = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            while ends.last().is_some_and(|end| *end < index) {
                ends.pop();
            }
            let end = index.saturating_add(as_usize(part.subtree));
            let limit = ends.last().copied().unwrap_or(self.parts.len().saturating_sub(1));
            let childless = part.subtree == 0;
            if end > limit || childless != (part.kind == Kind::Leaf) {
                return Err(Undecodable("parts do not nest"));
            }
            if ends.len() > super::scanner::limits::DEPTH_MAX.saturating_add(1) {
                return Err(Undecodable("parts nest too deep"));
            }
            if !childless {
                ends.push(end);
            }
        }
        Ok(())
    }
}

fn as_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)).cast_unsigned());
    }

    fn text(&mut self, text: &[u8]) {
        self.number(u64::try_from(text.len()).unwrap_or(0));
        self.bytes.extend_from_slice(text);
    }

    fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Writer, &T)) {
        self.bytes.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn text_option(&mut self, value: Option<&Vec<u8>>) {
        self.option(value, |out, text| out.text(text));
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Writer, &T)) {
        self.number(u64::try_from(items.len()).unwrap_or(0));
        for item in items {
            write(self, item);
        }
    }

    fn parameters(&mut self, parameters: &Parameters) {
        self.list(parameters, |out, (name, value)| {
            out.text(name);
            out.text(value);
        });
    }

    fn span(&mut self, span: Span) {
        self.number(u64::from(span.start));
        self.number(u64::from(span.bytes()));
    }

    fn part(&mut self, part: &Part) {
        self.bytes.push(part.kind as u8);
        self.number(u64::from(part.subtree));
        self.span(part.header);
        self.span(part.body);
        self.number(u64::from(part.lines));
        self.content(&part.content);
        self.option(part.envelope.as_ref(), |out, envelope| out.envelope(envelope));
    }

    fn content(&mut self, content: &Content) {
        self.text(&content.main);
        self.text(&content.sub);
        self.parameters(&content.parameters);
        self.text_option(content.id.as_ref());
        self.text_option(content.description.as_ref());
        self.text_option(content.encoding.as_ref());
        self.text_option(content.md5.as_ref());
        self.option(content.disposition.as_ref(), |out, disposition| {
            out.text(&disposition.kind);
            out.parameters(&disposition.parameters);
        });
        self.list(&content.languages, |out, tag| out.text(tag));
        self.text_option(content.location.as_ref());
    }

    fn envelope(&mut self, envelope: &Envelope) {
        self.text_option(envelope.date.as_ref());
        self.text_option(envelope.subject.as_ref());
        for list in [
            &envelope.from,
            &envelope.sender,
            &envelope.reply_to,
            &envelope.to,
            &envelope.cc,
            &envelope.bcc,
        ] {
            self.list(list, |out, address| {
                out.text_option(address.name.as_ref());
                out.text_option(address.mailbox.as_ref());
                out.text_option(address.host.as_ref());
            });
        }
        self.text_option(envelope.in_reply_to.as_ref());
        self.text_option(envelope.message_id.as_ref());
    }
}

struct Reader<'b> {
    rest: &'b [u8],
}

/// Room made for a list at once. Most have one item; a longer one grows.
const LIST_GUESS: usize = 4;

type Read<T> = Result<T, Undecodable>;

impl<'b> Reader<'b> {
    /// Version, sent date, references.
    fn head<T: From<&'b [u8]>>(&mut self) -> Read<(Option<Sent>, Option<T>)> {
        if self.byte()? != VERSION {
            return Err(Undecodable("unknown version"));
        }
        let sent = self.option(|input| {
            let unix_seconds = input.signed()?;
            let offset = i16::try_from(input.signed()?);
            let offset_minutes = offset.map_err(|_| Undecodable("time zone out of range"))?;
            Ok(Sent { unix_seconds, offset_minutes })
        })?;
        Ok((sent, self.text_option()?))
    }

    fn byte(&mut self) -> Read<u8> {
        let (first, rest) = self.rest.split_first().ok_or(Undecodable("cut short"))?;
        self.rest = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Read<u64> {
        let mut number = 0_u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        // The tenth byte holds the last bit.
        match self.byte()? {
            last @ 0..=1 => Ok(number | u64::from(last) << 63),
            _ => Err(Undecodable("number too long")),
        }
    }

    fn small(&mut self) -> Read<u32> {
        u32::try_from(self.number()?).map_err(|_| Undecodable("number out of range"))
    }

    fn signed(&mut self) -> Read<i64> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ (number & 1).cast_signed().wrapping_neg())
    }

    fn text<T: From<&'b [u8]>>(&mut self) -> Read<T> {
        let length = usize::try_from(self.number()?).map_err(|_| Undecodable("text too long"))?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(Undecodable("cut short"))?;
        self.rest = rest;
        Ok(T::from(text))
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<Option<T>> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Undecodable("neither there nor not")),
        }
    }

    fn text_option<T: From<&'b [u8]>>(&mut self) -> Read<Option<T>> {
        self.option(Self::text)
    }

    /// Every item takes at least a byte, so that the count can't promise more than there is.
    fn count(&mut self) -> Read<usize> {
        let count = usize::try_from(self.number()?).map_err(|_| Undecodable("list too long"))?;
        if count > self.rest.len() {
            return Err(Undecodable("list longer than its bytes"));
        }
        Ok(count)
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let count = self.count()?;
        let mut items = Vec::with_capacity(count.min(LIST_GUESS));
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn each(&mut self, mut read: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        (0..self.count()?).try_for_each(|_| read(self))
    }

    fn parameters<T: From<&'b [u8]>>(&mut self) -> Read<Parameters<T>> {
        self.list(|input| Ok((input.text()?, input.text()?)))
    }

    fn span(&mut self) -> Read<Span> {
        let start = self.small()?;
        let end = start.checked_add(self.small()?).ok_or(Undecodable("span out of range"))?;
        Ok(Span { start, end })
    }

    fn kind(&mut self) -> Read<Kind> {
        match self.byte()? {
            0 => Ok(Kind::Leaf),
            1 => Ok(Kind::Multipart),
            2 => Ok(Kind::Message),
            _ => Err(Undecodable("unknown kind of part")),
        }
    }

    fn part<T: From<&'b [u8]>>(&mut self) -> Read<Part<T>> {
        Ok(Part {
            kind: self.kind()?,
            subtree: self.small()?,
            header: self.span()?,
            body: self.span()?,
            lines: self.small()?,
            content: self.content()?,
            envelope: self.option(Self::envelope)?.map(Box::new),
        })
    }

    fn content<T: From<&'b [u8]>>(&mut self) -> Read<Content<T>> {
        Ok(Content {
            main: self.text()?,
            sub: self.text()?,
            parameters: self.parameters()?,
            id: self.text_option()?,
            description: self.text_option()?,
            encoding: self.text_option()?,
            md5: self.text_option()?,
            disposition: self.option(|input| {
                Ok(Disposition { kind: input.text()?, parameters: input.parameters()? })
            })?,
            languages: self.list(Self::text)?,
            location: self.text_option()?,
        })
    }

    /// Everything of a part that stands before its envelope, in the order of [`Reader::part`] and
    /// [`Reader::content`].
    fn pass_content(&mut self) -> Read<()> {
        let pass = |input: &mut Self| input.text().map(|_: &[u8]| ());
        let pass_option = |input: &mut Self| input.option(pass).map(|_| ());
        let _kind = self.kind()?;
        let _subtree = self.small()?;
        let _header = self.span()?;
        let _body = self.span()?;
        let _lines = self.small()?;
        for _ in ["main", "sub"] {
            pass(self)?;
        }
        self.pass_parameters()?;
        for _ in ["id", "description", "encoding", "md5"] {
            pass_option(self)?;
        }
        self.option(|input| pass(input).and_then(|()| input.pass_parameters()))?;
        self.each(pass)?;
        pass_option(self)
    }

    fn pass_parameters(&mut self) -> Read<()> {
        let text = |input: &mut Self| input.text().map(|_: &[u8]| ());
        self.each(|input| text(input).and_then(|()| text(input)))
    }

    fn envelope<T: From<&'b [u8]>>(&mut self) -> Read<Envelope<T>> {
        Ok(Envelope {
            date: self.text_option()?,
            subject: self.text_option()?,
            from: self.addresses()?,
            sender: self.addresses()?,
            reply_to: self.addresses()?,
            to: self.addresses()?,
            cc: self.addresses()?,
            bcc: self.addresses()?,
            in_reply_to: self.text_option()?,
            message_id: self.text_option()?,
        })
    }

    fn addresses<T: From<&'b [u8]>>(&mut self) -> Read<Vec<Address<T>>> {
        self.list(|input| {
            Ok(Address {
                name: input.text_option()?,
                mailbox: input.text_option()?,
                host: input.text_option()?,
            })
        })
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
