//! Framing of command lines: one strict policy for every protocol.
//!
//! A line ends with CRLF and with nothing else. A CR without LF, a LF without CR, or a NUL spoils
//! the line in which it stands: the fault is reported once, at the octet that makes it certain (so
//! that a peer which never sends CRLF gets an answer and not silence), and everything up to the
//! next CRLF is swallowed without being looked at. What follows a bare LF is therefore never taken
//! for a command. A second bare LF within the same spoiled line is reported as
//! [`LineFault::Hopeless`]: the peer does not speak CRLF at all, and the session should end.
//!
//! What a spoiled line began with is remembered until its end: some commands announce octets that
//! follow them, and whoever can't read such a command must not read on.
//!
//! Invariants: at most `line_octets_max` octets are ever kept; a line that arrives whole is lent
//! from the input without a copy; between lines nothing is allocated.
//!
//! RFC 5321 sections 2.3.8 and 4.1.1.4, RFC 9051 section 4, RFC 1939 section 3.

use memchr::memchr3;

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    #[error("line too long")]
    TooLong,
    #[error("CR without LF")]
    BareCr,
    #[error("LF without CR")]
    BareLf,
    #[error("NUL in a line")]
    Nul,
    /// Another bare LF in a line that was spoiled already.
    #[error("lines must end with CRLF")]
    Hopeless,
}

/// What [`LineReader::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// All input is consumed, the line goes on.
    Incomplete,
    /// A whole line, without its CRLF.
    Line(&'a [u8]),
    /// The line is spoiled; its rest will be swallowed.
    Fault(LineFault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Position {
    #[default]
    InLine,
    /// The last octet was a CR of a line that is good so far.
    AfterCr,
    /// Swallowing up to the next CRLF.
    Spoiled,
    /// The same, and the last octet was a CR.
    SpoiledAfterCr,
}

/// How much of a spoiled line is remembered: a verb.
const HEAD_OCTETS_MAX: usize = 4;

/// Collects the octets of one line across cuts of the input.
#[derive(Debug, Default)]
pub struct LineReader {
    /// What came of the line before the current input, without its CR; of a spoiled line, its head.
    kept: Vec<u8>,
    position: Position,
    /// `kept` holds a line that was lent by the last call.
    lent: bool,
}

impl LineReader {
    #[must_use]
    pub fn new() -> LineReader {
        LineReader::default()
    }

    /// Heap octets held.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        self.kept.capacity()
    }

    /// True when no part of a line has been read.
    #[must_use]
    pub fn is_at_line_start(&self) -> bool {
        self.position == Position::InLine && (self.kept.is_empty() || self.lent)
    }

    /// Whether the line that was just reported as spoiled could have been one that begins with
    /// `verb`, in any case: it did, as far as it was good. Verbs are compared by four octets.
    #[must_use]
    pub fn spoiled_line_may_begin_with(&self, verb: &[u8]) -> bool {
        let head = self.kept.get(..HEAD_OCTETS_MAX).unwrap_or(&self.kept);
        verb.get(..head.len()).is_some_and(|start| start.eq_ignore_ascii_case(head))
    }

    /// Forgets everything, as after a TLS handshake.
    pub fn clear(&mut self) {
        *self = LineReader::default();
    }

    /// The next line of at most `line_octets_max` octets before its CRLF. Consumes what it used.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
        line_octets_max: usize,
    ) -> Framed<'a> {
        if self.lent {
            self.kept = Vec::new();
            self.lent = false;
        }
        loop {
            match self.position {
                Position::Spoiled | Position::SpoiledAfterCr => match self.swallow(input) {
                    Swallowed::All => return Framed::Incomplete,
                    Swallowed::Line => self.kept = Vec::new(),
                    Swallowed::BareLf => return Framed::Fault(LineFault::Hopeless),
                },
                Position::AfterCr => match input.split_first() {
                    None => return Framed::Incomplete,
                    Some((b'\n', rest)) => {
                        *input = rest;
                        self.position = Position::InLine;
                        self.lent = true;
                        return Framed::Line(&self.kept);
                    }
                    // The octet is looked at again by `swallow`: it may be a CR.
                    Some(_) => return Framed::Fault(self.spoil(LineFault::BareCr, b"")),
                },
                Position::InLine => break,
            }
        }
        self.scan(input, line_octets_max)
    }

    fn scan<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8], line_octets_max: usize) -> Framed<'a> {
        let room = line_octets_max.saturating_sub(self.kept.len());
        // One octet beyond the room decides: it is the CR or the line is too long.
        let window = input.get(..room.saturating_add(1)).unwrap_or(input);
        let Some(stop) = memchr3(b'\r', b'\n', 0, window) else {
            if window.len() > room {
                let (head, rest) = input.split_at_checked(room).unwrap_or((input, b""));
                *input = rest;
                return Framed::Fault(self.spoil(LineFault::TooLong, head));
            }
            self.kept.extend_from_slice(window);
            *input = &[];
            return Framed::Incomplete;
        };
        let (head, tail) = input.split_at(stop);
        match tail {
            [b'\r', b'\n', rest @ ..] if self.kept.is_empty() => {
                *input = rest;
                Framed::Line(head)
            }
            [b'\r', rest @ ..] => {
                *input = rest;
                self.kept.extend_from_slice(head);
                self.position = Position::AfterCr;
                self.next(input, line_octets_max)
            }
            [b'\n', rest @ ..] => {
                *input = rest;
                Framed::Fault(self.spoil(LineFault::BareLf, head))
            }
            [_nul, rest @ ..] => {
                *input = rest;
                Framed::Fault(self.spoil(LineFault::Nul, head))
            }
            [] => Framed::Incomplete,
        }
    }

    /// `head`: what of the line is not in `kept` yet.
    fn spoil(&mut self, fault: LineFault, head: &[u8]) -> LineFault {
        let line = self.kept.iter().chain(head);
        self.kept = line.take(HEAD_OCTETS_MAX).copied().collect();
        self.position = Position::Spoiled;
        fault
    }

    fn swallow(&mut self, input: &mut &[u8]) -> Swallowed {
        loop {
            let Some((&octet, rest)) = input.split_first() else { return Swallowed::All };
            let after_cr = self.position == Position::SpoiledAfterCr;
            *input = rest;
            self.position = match (octet, after_cr) {
                (b'\n', true) => Position::InLine,
                (b'\r', _) => Position::SpoiledAfterCr,
                (_, _) => Position::Spoiled,
            };
            match (octet, after_cr) {
                (b'\n', true) => return Swallowed::Line,
                (b'\n', false) => return Swallowed::BareLf,
                (_, _) => {
                    // Skip quickly what can't matter.
                    if octet != b'\r' {
                        let skip = memchr::memchr2(b'\r', b'\n', input).unwrap_or(input.len());
                        *input = input.get(skip..).unwrap_or_default();
                    }
                }
            }
        }
    }
}

enum Swallowed {
    /// The input ended first.
    All,
    /// The spoiled line ended with its CRLF.
    Line,
    BareLf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Seen {
        Line(Vec<u8>),
        Fault(LineFault),
    }

    fn read(pieces: &[&[u8]], max: usize) -> Vec<Seen> {
        let mut reader = LineReader::new();
        let mut seen = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            loop {
                match reader.next(&mut input, max) {
                    Framed::Incomplete => break,
                    Framed::Line(line) => seen.push(Seen::Line(line.to_vec())),
                    Framed::Fault(fault) => seen.push(Seen::Fault(fault)),
                }
            }
            assert!(input.is_empty());
            assert!(reader.kept.len() <= max);
        }
        seen
    }

    /// Whole, in every two pieces, and octet by octet: always the same.
    fn read_every_way(bytes: &[u8], max: usize) -> Vec<Seen> {
        let whole = read(&[bytes], max);
        for cut in 0..=bytes.len() {
            assert_eq!(whole, read(&[&bytes[..cut], &bytes[cut..]], max), "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, read(&single, max));
        whole
    }

    fn line(text: &str) -> Seen {
        Seen::Line(text.as_bytes().to_vec())
    }

    #[test]
    fn lines_end_with_crlf_only() {
        assert_eq!(
            read_every_way(b"NOOP\r\n\r\nQUIT\r\n", 9),
            [line("NOOP"), line(""), line("QUIT")]
        );
    }

    #[test]
    fn a_bare_lf_spoils_the_line_and_hides_what_follows_it() {
        assert_eq!(
            read_every_way(b"NOOP\nQUIT\r\nRSET\r\n", 9),
            [Seen::Fault(LineFault::BareLf), line("RSET")]
        );
    }

    #[test]
    fn a_peer_that_never_sends_crlf_is_hopeless() {
        assert_eq!(
            read_every_way(b"NOOP\nNOOP\n", 9),
            [Seen::Fault(LineFault::BareLf), Seen::Fault(LineFault::Hopeless)]
        );
    }

    #[test]
    fn a_bare_cr_spoils_the_line() {
        for bytes in [&b"NO\rOP\r\nRSET\r\n"[..], b"NOOP\r\r\nRSET\r\n"] {
            assert_eq!(read_every_way(bytes, 9), [Seen::Fault(LineFault::BareCr), line("RSET")]);
        }
    }

    #[test]
    fn a_nul_spoils_the_line() {
        let seen = read_every_way(b"NO\0OP\r\nRSET\r\n", 9);
        assert_eq!(seen, [Seen::Fault(LineFault::Nul), line("RSET")]);
    }

    #[test]
    fn a_long_line_is_reported_once_and_swallowed() {
        assert_eq!(read_every_way(b"123456789\r\nRSET\r\n", 9), [line("123456789"), line("RSET")]);
        assert_eq!(
            read_every_way(b"1234567890abcdef\r\nRSET\r\n", 9),
            [Seen::Fault(LineFault::TooLong), line("RSET")]
        );
    }

    #[test]
    fn a_spoiled_line_is_known_by_its_verb() {
        for (bytes, may) in [
            (&b"BDAT 7\0"[..], true),
            (b"bdat 7 LAST\rx", true),
            (b"BDAT 123456789", true),
            (b"BD\n", true),
            (b"\0", true),
            (b"NOOP\n", false),
            (b"BDAX\0", false),
        ] {
            for cut in 0..=bytes.len() {
                let mut reader = LineReader::new();
                let faults = [&bytes[..cut], &bytes[cut..]].into_iter().filter(|piece| {
                    let mut input = *piece;
                    matches!(reader.next(&mut input, 12), Framed::Fault(_))
                });
                assert_eq!(faults.count(), 1);
                assert_eq!(reader.spoiled_line_may_begin_with(b"BDAT"), may, "{bytes:?}");
            }
        }
    }

    #[test]
    fn nothing_is_kept_between_lines() {
        let mut reader = LineReader::new();
        let _ = reader.next(&mut &b"NOOP\0"[..], 9);
        assert_eq!(reader.next(&mut &b"x\r\n"[..], 9), Framed::Incomplete);
        assert_eq!(reader.retained_bytes(), 0);
        assert_eq!(reader.next(&mut &b"NO"[..], 9), Framed::Incomplete);
        assert_eq!(reader.next(&mut &b"OP\r\n"[..], 9), Framed::Line(b"NOOP"));
        assert!(reader.is_at_line_start());
        assert_eq!(reader.next(&mut &b""[..], 9), Framed::Incomplete);
        assert_eq!(reader.retained_bytes(), 0);
    }
}
