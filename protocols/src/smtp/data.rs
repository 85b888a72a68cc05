//! Message bytes: DATA with its dots, and BDAT with its counts. One strict policy on line ends.
//!
//! Only `CRLF . CRLF` ends DATA. A CR or LF that is not part of CRLF, a NUL, or a line over the limit
//! spoils the message: the rest is swallowed up to its true end, and there it is refused. So no variant
//! of `LF . LF`, `CR . CR` and their mixtures ends a message here that goes on elsewhere, or the other
//! way round (SMTP smuggling): such a message is never taken.
//!
//! Bytes are lent from the input, as much at once as there is; between dots nothing is copied.

use super::reply::Refusal;
use memchr::memchr3;

/// RFC 5321 section 4.5.3.1.6 asks for 1000; senders of HTML in one line are many.
pub const TEXT_LINE_OCTETS_MAX: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    LineStart,
    InLine,
    AfterCr,
    /// A dot stands first in the line; whether it is stuffing is not known yet.
    AfterDot,
    AfterDotCr,
}

/// What the scanner found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'i> {
    /// Bytes of the message; may be empty.
    Body(&'i [u8]),
    /// All input is consumed.
    NeedInput,
    /// The message has ended.
    End,
}

/// Why a message will be refused. Of several faults the greatest is told: which of them was found first
/// would depend on how the network cut the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    TextLineTooLong,
    Nul,
    LineEnds,
    TooBig,
}

impl Fault {
    fn refusal(self) -> Refusal {
        match self {
            Fault::TextLineTooLong => Refusal::TEXT_LINE_TOO_LONG,
            Fault::Nul => Refusal::HOLDS_NUL,
            Fault::LineEnds => Refusal::LINE_ENDS,
            Fault::TooBig => Refusal::TOO_BIG,
        }
    }
}

/// Follows one message, whether it comes by DATA or by BDAT.
#[derive(Debug)]
pub(super) struct Scanner {
    position: Position,
    line_octets: usize,
    octets: u64,
    octets_max: u64,
    fault: Option<Fault>,
}

impl Scanner {
    pub(super) fn new(octets_max: u64) -> Scanner {
        Scanner {
            position: Position::LineStart,
            line_octets: 0,
            octets: 0,
            octets_max,
            fault: None,
        }
    }

    /// Why the message will be refused.
    pub(super) fn fault(&self) -> Option<Refusal> {
        self.fault.map(Fault::refusal)
    }

    fn spoil(&mut self, fault: Fault) {
        self.fault = self.fault.max(Some(fault));
    }

    fn count(&mut self, octets: usize) {
        self.octets = self.octets.saturating_add(u64::try_from(octets).unwrap_or(u64::MAX));
        if self.octets > self.octets_max {
            self.spoil(Fault::TooBig);
        }
    }

    /// The next piece of DATA. Consumes what it lends and what it drops.
    pub(super) fn data<'i>(&mut self, input: &mut &'i [u8]) -> Found<'i> {
        let all = *input;
        match self.position {
            Position::AfterDot => match all.first() {
                None => return Found::NeedInput,
                Some(b'\r') => {
                    self.position = Position::AfterDotCr;
                    *input = all.get(1..).unwrap_or_default();
                    return self.data(input);
                }
                // Stuffing: the dot is dropped (section 4.5.2), the octet is looked at below.
                Some(_) => self.position = Position::InLine,
            },
            Position::AfterDotCr => match all.first() {
                None => return Found::NeedInput,
                Some(b'\n') => {
                    *input = all.get(1..).unwrap_or_default();
                    return Found::End;
                }
                // `. CR` and then something else: that CR is bare.
                Some(_) => {
                    self.spoil(Fault::LineEnds);
                    self.position = Position::InLine;
                }
            },
            Position::LineStart | Position::InLine | Position::AfterCr => {}
        }
        if all.is_empty() {
            return Found::NeedInput;
        }
        let taken = self.run(all, true);
        let (body, rest) = all.split_at_checked(taken).unwrap_or((all, b""));
        *input = rest;
        if let (Position::LineStart, Some((b'.', rest))) = (self.position, rest.split_first()) {
            self.position = Position::AfterDot;
            *input = rest;
        }
        self.count(body.len());
        self.lend(body)
    }

    /// The next piece of a BDAT chunk, whose end the caller counts.
    pub(super) fn chunk<'i>(&mut self, piece: &'i [u8]) -> Found<'i> {
        self.run(piece, false);
        self.count(piece.len());
        self.lend(piece)
    }

    /// The last chunk has ended: a CR that waited for its LF is bare.
    pub(super) fn end_of_chunks(&mut self) {
        if self.position == Position::AfterCr {
            self.spoil(Fault::LineEnds);
        }
    }

    /// A spoiled message is swallowed.
    fn lend<'i>(&self, body: &'i [u8]) -> Found<'i> {
        Found::Body(if self.fault.is_some() { b"" } else { body })
    }

    /// Follows lines through `bytes`; stops before a dot at the start of a line when dots matter.
    /// Gives how many octets it went through.
    fn run(&mut self, bytes: &[u8], dots: bool) -> usize {
        let mut at = 0_usize;
        loop {
            let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { return at };
            match self.position {
                Position::LineStart if dots && rest.first() == Some(&b'.') => return at,
                Position::AfterCr => {
                    if rest.first() == Some(&b'\n') {
                        at = at.saturating_add(1);
                        self.position = Position::LineStart;
                        self.line_octets = 0;
                    } else {
                        self.spoil(Fault::LineEnds);
                        self.position = Position::InLine;
                    }
                }
                Position::LineStart
                | Position::InLine
                | Position::AfterDot
                | Position::AfterDotCr => {
                    at = at.saturating_add(self.line(rest));
                }
            }
        }
    }

    /// Goes through the rest of a line up to and with its CR, or through a fault.
    fn line(&mut self, rest: &[u8]) -> usize {
        let stop = memchr3(b'\r', b'\n', 0, rest);
        let text = stop.unwrap_or(rest.len());
        self.line_octets = self.line_octets.saturating_add(text);
        if self.line_octets > TEXT_LINE_OCTETS_MAX {
            self.spoil(Fault::TextLineTooLong);
        }
        self.position = Position::InLine;
        let Some(stop) = stop else { return text };
        match rest.get(stop) {
            Some(b'\r') => self.position = Position::AfterCr,
            Some(b'\n') => self.spoil(Fault::LineEnds),
            _ => self.spoil(Fault::Nul),
        }
        stop.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message and what is left of the input after it; `Err`: refused there.
    fn receive(pieces: &[&[u8]]) -> (Result<Vec<u8>, Refusal>, Vec<u8>, bool) {
        let mut scanner = Scanner::new(1_000_000);
        let mut body = Vec::new();
        let mut left = Vec::new();
        let mut ended = false;
        for piece in pieces {
            let mut input = *piece;
            while !ended {
                match scanner.data(&mut input) {
                    Found::Body(bytes) => body.extend_from_slice(bytes),
                    Found::NeedInput => break,
                    Found::End => ended = true,
                }
            }
            left.extend_from_slice(input);
        }
        (scanner.fault().map_or(Ok(body), Err), left, ended)
    }

    fn every_way(bytes: &[u8]) -> (Result<Vec<u8>, Refusal>, Vec<u8>, bool) {
        let whole = receive(&[bytes]);
        for cut in 0..=bytes.len() {
            let again = receive(&[&bytes[..cut], &bytes[cut..]]);
            assert_eq!(whole, again, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, receive(&single));
        whole
    }

    #[test]
    fn dots_are_unstuffed_and_the_lone_one_ends() {
        let (body, left, ended) = every_way(b"a\r\n..b\r\n...\r\n.c.\r\n\r\n.\r\nQUIT\r\n");
        assert_eq!(body.unwrap(), b"a\r\n.b\r\n..\r\nc.\r\n\r\n");
        assert_eq!(left, b"QUIT\r\n");
        assert!(ended);
    }

    #[test]
    fn an_empty_message_ends_at_once() {
        assert_eq!(every_way(b".\r\n"), (Ok(vec![]), vec![], true));
    }

    #[test]
    fn no_smuggling_variant_ends_a_message() {
        for middle in [
            &b"\n.\n"[..],
            b"\n.\r\n",
            b"\r\n.\n",
            b"\r.\r",
            b"\r.\r\n",
            b"\r\n.\r",
            b"\n.\r",
            b"\r.\n",
            b"\r\n\x00.\r\n",
            b"\r\r\n.\r\r\n",
            b"\n\n.\r\n",
        ] {
            let bytes =
                [b"Subject: a\r\n\r\nb", middle, b"MAIL FROM:<x@y>\r\n.\r\nNOOP\r\n"].concat();
            let (body, left, ended) = every_way(&bytes);
            assert!(ended, "{middle:?}");
            assert!(body.is_err(), "{middle:?} was taken");
            assert_eq!(left, b"NOOP\r\n", "{middle:?} ended the message early");
        }
    }

    #[test]
    fn a_long_line_and_a_big_message_are_swallowed_and_refused() {
        let bytes = [&[b'a'; TEXT_LINE_OCTETS_MAX + 1][..], b"\r\n.\r\nNOOP\r\n"].concat();
        let (body, left, _) = receive(&[&bytes]);
        assert_eq!((body, left), (Err(Refusal::TEXT_LINE_TOO_LONG), b"NOOP\r\n".to_vec()));
        let bytes = ["0123456789\r\n".repeat(100_000).as_bytes(), b".\r\n"].concat();
        assert_eq!(receive(&[&bytes]).0, Err(Refusal::TOO_BIG));
    }

    #[test]
    fn chunks_are_taken_as_they_are_unless_a_line_end_is_bare() {
        let take = |pieces: &[&[u8]]| {
            let mut scanner = Scanner::new(100);
            for piece in pieces {
                let _ = scanner.chunk(piece);
            }
            scanner.end_of_chunks();
            scanner.fault()
        };
        assert_eq!(take(&[b"a\r", b"\n.\r\nb"]), None);
        assert_eq!(take(&[b"a\r", b"b"]), Some(Refusal::LINE_ENDS));
        assert_eq!(take(&[b"a\r\n", b"b\r"]), Some(Refusal::LINE_ENDS));
        assert_eq!(take(&[b"a\n"]), Some(Refusal::LINE_ENDS));
        assert_eq!(take(&[b"a\0"]), Some(Refusal::HOLDS_NUL));
        assert_eq!(take(&[&[b'a'; 101]]), Some(Refusal::TOO_BIG));
    }
}
