//! One pass over a message, in pieces of any size: the MIME tree, offsets, line counts, envelopes.
//!
//! Invariants: the result does not depend on how the bytes were cut; work is linear in the
//! bytes whatever they are; what is kept is under the [`limits`]. Nothing fails: what can't be
//! understood, or is past a limit, becomes one opaque part. RFC 2045–2049, RFC 2046 section
//! 5.1 for boundaries.
//!
//! Line ends may be CRLF or LF, since what the store holds may come from an import. The line end in
//! front of a boundary belongs to the boundary.

use super::content::{self, Content};
use super::date::Sent;
use super::envelope::{Envelope, addresses};
use super::field::Fields;
use super::summary::{Kind, Part, Span, Summary};
use memchr::{memchr, memchr_iter, memmem};

/// What bounds the time and memory that a message can cost.
pub mod limits {
    /// Multiparts and messages inside one another.
    pub const DEPTH_MAX: usize = 32;
    pub const PARTS_MAX: usize = 1000;
    /// Bytes of one header block that are looked at.
    pub const HEADER_BYTES_MAX: usize = 256 * 1024;
    /// Bytes of text kept of a whole message (envelopes, parameters).
    pub const TEXT_BYTES_MAX: usize = 256 * 1024;
    /// Entries kept of one address list.
    pub const ADDRESSES_MAX: usize = 2000;
    pub const BOUNDARY_BYTES_MAX: usize = 200;
    /// Bytes of References kept, for threading.
    pub const REFERENCES_BYTES_MAX: usize = 4096;
}

/// How much of a line decides whether it is a boundary: `--`, the boundary, `--`.
const LINE_START_BYTES: usize = limits::BOUNDARY_BYTES_MAX + 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Collecting the header block of a new part.
    Header,
    Body,
    /// In the rest of a boundary line; what follows is a header when the flag is set.
    Boundary {
        opens_part: bool,
    },
}

/// A part that has begun and not ended.
#[derive(Debug)]
struct Open {
    part: usize,
    /// What separates its children; `None` for a leaf, a message, or once the closing one was seen.
    boundary: Option<Vec<u8>>,
    newlines_at_body: u64,
    /// Everything up to the enclosing multipart's end: inner boundaries no longer count.
    opaque: bool,
}

#[derive(Debug)]
pub struct Scanner {
    mode: Mode,
    header: Vec<u8>,
    header_start: u64,
    /// The part to come is the root of a message, hence has an envelope.
    message_root: bool,
    parts: Vec<Part>,
    open: Vec<Open>,
    offset: u64,
    newlines: u64,
    at_line_start: bool,
    /// The start of a line that came in pieces.
    pending: Vec<u8>,
    last_byte: u8,
    /// Length of the last line end: 1 or 2.
    line_end_bytes: u64,
    text_bytes_left: usize,
    sent: Option<Sent>,
    references: Option<Vec<u8>>,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner {
            mode: Mode::Header,
            header: Vec::new(),
            header_start: 0,
            message_root: true,
            parts: Vec::new(),
            open: Vec::new(),
            offset: 0,
            newlines: 0,
            at_line_start: true,
            pending: Vec::new(),
            last_byte: 0,
            line_end_bytes: 0,
            text_bytes_left: limits::TEXT_BYTES_MAX,
            sent: None,
            references: None,
        }
    }
}

impl Scanner {
    #[must_use]
    pub fn new() -> Scanner {
        Scanner::default()
    }

    /// Takes the next piece of the message.
    pub fn push(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            if self.at_line_start {
                let Some(rest) = self.line_start(piece) else { return };
                piece = rest;
            } else {
                piece = self.line_rest(piece);
            }
        }
    }

    /// The message is complete.
    #[must_use]
    pub fn finish(mut self) -> Summary {
        if self.at_line_start && !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            self.classify(&pending);
        }
        self.end_headers();
        let end = self.offset;
        self.close_down_to(0, end, self.newlines);
        Summary { sent: self.sent, references: self.references, parts: self.parts }
    }

    /// Decides what the line is once enough of it is there. `None`: wants more.
    fn line_start<'p>(&mut self, piece: &'p [u8]) -> Option<&'p [u8]> {
        if self.mode == Mode::Body && !self.has_boundaries() {
            self.at_line_start = false;
            return Some(piece);
        }
        let missing = LINE_START_BYTES.saturating_sub(self.pending.len());
        let window = piece.get(..missing).unwrap_or(piece);
        let line = memchr(b'\n', window).map(|at| at.saturating_add(1));
        let enough = line.is_some() || window.len() == missing;
        let (taken, rest) = piece.split_at_checked(line.unwrap_or(window.len()))?;
        if self.pending.is_empty() && enough {
            self.classify(taken);
            return Some(rest);
        }
        self.pending.extend_from_slice(taken);
        if !enough {
            return None;
        }
        let pending = std::mem::take(&mut self.pending);
        self.classify(&pending);
        Some(rest)
    }

    /// `line` is a whole line, or the first [`LINE_START_BYTES`] of one, or the last
    /// of the message.
    fn classify(&mut self, line: &[u8]) {
        self.at_line_start = false;
        if let Some((level, closing)) = self.boundary_of(line) {
            self.boundary(level, closing);
            self.consume(line);
            return;
        }
        match self.mode {
            Mode::Header if line == b"\r\n" || line == b"\n" => {
                self.consume(line);
                self.end_header();
            }
            Mode::Header => {
                let room = limits::HEADER_BYTES_MAX.saturating_sub(self.header.len());
                self.header.extend_from_slice(line.get(..room).unwrap_or(line));
                self.consume(line);
            }
            Mode::Body | Mode::Boundary { .. } => self.consume(line),
        }
    }

    /// Takes what can be taken without looking at line starts; returns the rest.
    fn line_rest<'p>(&mut self, piece: &'p [u8]) -> &'p [u8] {
        let length = match self.mode {
            Mode::Body if !self.has_boundaries() => piece.len(),
            Mode::Body => match memmem::find(piece, b"\n--") {
                Some(at) => at.saturating_add(1),
                // The dashes may be in the next piece.
                None if piece.ends_with(b"\n-") => piece.len().saturating_sub(1),
                None => piece.len(),
            },
            Mode::Header | Mode::Boundary { .. } => {
                memchr(b'\n', piece).map_or(piece.len(), |at| at.saturating_add(1))
            }
        };
        let (taken, rest) = piece.split_at_checked(length).unwrap_or((piece, b""));
        if self.mode == Mode::Header {
            let room = limits::HEADER_BYTES_MAX.saturating_sub(self.header.len());
            self.header.extend_from_slice(taken.get(..room).unwrap_or(taken));
        }
        self.consume(taken);
        rest
    }

    fn consume(&mut self, bytes: &[u8]) {
        let Some((&last, before)) = bytes.split_last() else { return };
        self.offset = self.offset.saturating_add(as_u64(bytes.len()));
        self.newlines = self.newlines.saturating_add(as_u64(memchr_iter(b'\n', bytes).count()));
        if last == b'\n' {
            let carriage_return = before.last().copied().unwrap_or(self.last_byte) == b'\r';
            self.line_end_bytes = if carriage_return { 2 } else { 1 };
            self.at_line_start = true;
            if let Mode::Boundary { opens_part } = self.mode {
                self.mode = Mode::Body;
                if opens_part {
                    self.begin_part(false);
                }
            }
        }
        self.last_byte = last;
    }

    fn has_boundaries(&self) -> bool {
        self.open.iter().any(|open| open.boundary.is_some())
    }

    /// Which open multipart the line belongs to, innermost first, and whether it closes it.
    fn boundary_of(&self, line: &[u8]) -> Option<(usize, bool)> {
        let text = line.strip_prefix(b"--")?;
        let opaque_under = match self.open.last() {
            Some(last) if last.opaque => self.open.len().checked_sub(2),
            Some(_) | None => None,
        };
        for (level, open) in self.open.iter().enumerate().rev() {
            let Some(boundary) = &open.boundary else { continue };
            let Some(after) = text.strip_prefix(boundary.as_slice()) else { continue };
            let closing = after.starts_with(b"--");
            let tail = if closing { after.get(2..).unwrap_or_default() } else { after };
            if !tail.trim_ascii().is_empty() {
                continue; // a longer boundary that begins like this one
            }
            // Past the limit on parts, what is between the parts is text like any other.
            let swallowed = opaque_under == Some(level) && !closing;
            return (!swallowed).then_some((level, closing));
        }
        None
    }

    /// A boundary line of the multipart at `level` begins at `self.offset`.
    fn boundary(&mut self, level: usize, closing: bool) {
        self.end_headers();
        let end = self.offset.saturating_sub(self.line_end_bytes);
        let newlines = self.newlines.saturating_sub(1);
        self.close_down_to(level.saturating_add(1), end, newlines);
        if closing && let Some(open) = self.open.get_mut(level) {
            open.boundary = None;
        }
        self.mode = Mode::Boundary { opens_part: !closing };
    }

    /// Ends the parts above `level`.
    fn close_down_to(&mut self, level: usize, end: u64, newlines: u64) {
        while self.open.len() > level {
            let Some(open) = self.open.pop() else { return };
            let last = self.parts.len().saturating_sub(1);
            let Some(part) = self.parts.get_mut(open.part) else { return };
            part.body.end = span_offset(end).max(part.body.start);
            let lines = newlines.saturating_sub(open.newlines_at_body);
            part.lines = u32::try_from(lines).unwrap_or(u32::MAX);
            part.subtree = u32::try_from(last.saturating_sub(open.part)).unwrap_or(0);
            if part.kind == Kind::Multipart && part.subtree == 0 {
                // RFC 3501 has no multipart without parts: show an empty text.
                part.subtree = 1;
                let empty = Span { start: part.body.end, end: part.body.end };
                self.parts.insert(open.part.saturating_add(1), Part::empty(empty));
            }
        }
    }

    fn begin_part(&mut self, message_root: bool) {
        self.header.clear();
        self.header_start = self.offset;
        self.message_root = message_root;
        if self.parts.len() >= limits::PARTS_MAX {
            self.mode = Mode::Body;
            let here = Span { start: span_offset(self.offset), end: span_offset(self.offset) };
            let opaque = Part {
                content: Content::of_type("application", "octet-stream"),
                ..Part::empty(here)
            };
            self.open_part(opaque, None, true);
        } else {
            self.mode = Mode::Header;
        }
    }

    fn open_part(&mut self, part: Part, boundary: Option<Vec<u8>>, opaque: bool) {
        let index = self.parts.len();
        self.parts.push(part);
        let newlines_at_body = self.newlines;
        self.open.push(Open { part: index, boundary, newlines_at_body, opaque });
    }

    /// Input or parent ends before the blank line did. An embedded message begins a header of its
    /// own, which ends here too.
    fn end_headers(&mut self) {
        while self.mode == Mode::Header {
            self.end_header();
        }
    }

    /// The header block is complete and the body begins at `self.offset`.
    fn end_header(&mut self) {
        let header = std::mem::take(&mut self.header);
        let first = self.parts.is_empty();
        let mut content = Content::plain_text();
        if self.in_digest() {
            content = Content::of_type("message", "rfc822");
        }
        let mut envelope = Envelope::default();
        for field in Fields::new(&header) {
            self.read_content_field(&mut content, field.name, field.value);
            if self.message_root {
                self.read_envelope_field(&mut envelope, field.name, field.value, first);
            }
        }
        self.mode = Mode::Body;
        let deep = self.open.len() >= limits::DEPTH_MAX;
        let boundary = content.parameter("boundary").map(|text| text.trim_ascii_end().to_vec());
        let boundary =
            boundary.filter(|text| !text.is_empty() && text.len() <= limits::BOUNDARY_BYTES_MAX);
        let kind = if !deep && content.is("multipart") && boundary.is_some() {
            Kind::Multipart
        } else if !deep && content.is_embedded_message() {
            Kind::Message
        } else {
            Kind::Leaf
        };
        if kind == Kind::Leaf && (content.is("multipart") || content.is_embedded_message()) {
            // Declared as a tree that we do not look into: IMAP can only show it as bytes.
            let encoding = content.encoding.take();
            content = Content { encoding, ..Content::of_type("application", "octet-stream") };
        }
        let part = Part {
            kind,
            subtree: 0,
            header: Span { start: span_offset(self.header_start), end: span_offset(self.offset) },
            body: Span { start: span_offset(self.offset), end: span_offset(self.offset) },
            lines: 0,
            content,
            envelope: self.message_root.then(|| Box::new(envelope)),
        };
        let boundary = if kind == Kind::Multipart { boundary } else { None };
        self.open_part(part, boundary, false);
        if kind == Kind::Message {
            self.begin_part(true);
        } else {
            // Reuse the buffer for the next part's header.
            self.header = header;
            self.header.clear();
        }
    }

    fn in_digest(&self) -> bool {
        let parent = self.open.last().and_then(|open| self.parts.get(open.part));
        parent.is_some_and(|part| {
            part.kind == Kind::Multipart && part.content.sub.eq_ignore_ascii_case(b"digest")
        })
    }

    /// Counts text against what a message may keep; past it, nothing more is kept.
    fn afford(&mut self, value: &[u8]) -> bool {
        let cost = value.len().saturating_add(16);
        match self.text_bytes_left.checked_sub(cost) {
            Some(left) => {
                self.text_bytes_left = left;
                true
            }
            None => false,
        }
    }

    fn read_content_field(&mut self, content: &mut Content, name: &[u8], value: &[u8]) {
        let Some((prefix, what)) = name.split_at_checked(8) else { return };
        if !prefix.eq_ignore_ascii_case(b"content-") || !self.afford(value) {
            return;
        }
        match what.to_ascii_lowercase().as_slice() {
            b"type" => content.read_type(value),
            b"transfer-encoding" => content.read_encoding(value),
            b"disposition" => content.read_disposition(value),
            b"language" => content.read_languages(value),
            b"id" => content.id = content::bounded(value),
            b"description" => content.description = content::bounded(value),
            b"location" => content.location = content::bounded(value),
            b"md5" => content.md5 = content::bounded(value),
            _ => {}
        }
    }

    fn read_envelope_field(
        &mut self,
        envelope: &mut Envelope,
        name: &[u8],
        value: &[u8],
        first: bool,
    ) {
        /// Longest name of interest.
        const NAME_BYTES_MAX: usize = 11;
        if name.len() > NAME_BYTES_MAX {
            return;
        }
        let lower = name.to_ascii_lowercase();
        let list = match lower.as_slice() {
            b"from" => &mut envelope.from,
            b"sender" => &mut envelope.sender,
            b"reply-to" => &mut envelope.reply_to,
            b"to" => &mut envelope.to,
            b"cc" => &mut envelope.cc,
            b"bcc" => &mut envelope.bcc,
            other => {
                self.read_envelope_text(envelope, other, value, first);
                return;
            }
        };
        // Each address costs its text and a few words more, so that empty ones are not free.
        let room = limits::ADDRESSES_MAX.saturating_sub(list.len());
        if room > 0 && self.afford(value) {
            let found = addresses(value, room);
            let overhead = found.len().saturating_mul(24);
            self.text_bytes_left = self.text_bytes_left.saturating_sub(overhead);
            list.extend(found);
        }
    }

    fn read_envelope_text(
        &mut self,
        envelope: &mut Envelope,
        name: &[u8],
        value: &[u8],
        first: bool,
    ) {
        let slot = match name {
            b"date" => {
                if first && self.sent.is_none() {
                    self.sent = Sent::read(value);
                }
                &mut envelope.date
            }
            b"subject" => &mut envelope.subject,
            b"in-reply-to" => &mut envelope.in_reply_to,
            b"message-id" => &mut envelope.message_id,
            b"references" if first && self.references.is_none() => {
                let mut references = super::field::unfold(value);
                references.truncate(limits::REFERENCES_BYTES_MAX);
                self.references = Some(references);
                return;
            }
            _ => return,
        };
        if slot.is_none() && self.afford(value) {
            *slot = content::bounded(value);
        }
    }
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Offsets are 32 bits wide: messages are far smaller than 4 GiB.
fn span_offset(offset: u64) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}
