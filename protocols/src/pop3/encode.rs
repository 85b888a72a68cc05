//! A stored message on its way out, as a multi-line reply. RFC 1939 section 3.
//!
//! Lines leave with CRLF whatever was stored: an IMAP client may have put a message with bare LFs,
//! and a dot after one of them would end the reply for the clients that take LF for a line end. A dot
//! that begins a line is doubled, a last line without its end gets one. The message comes in pieces
//! cut anywhere; nothing of it is kept.

use memchr::memchr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    LineStart,
    InLine,
    /// The last octet was a CR; `first`: and it began the line.
    AfterCr {
        first: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    Body,
    /// TOP has what it wants.
    Enough,
}

/// Follows one message.
#[derive(Debug)]
pub(super) struct Encoder {
    position: Position,
    part: Part,
    /// Lines of the body that are still wanted; `None`: all.
    lines_left: Option<u64>,
}

impl Encoder {
    /// `lines`: as many of the body (TOP), or the whole message.
    pub(super) fn new(lines: Option<u64>) -> Encoder {
        Encoder { position: Position::LineStart, part: Part::Header, lines_left: lines }
    }

    /// Less than the whole message was asked for.
    pub(super) fn is_top(&self) -> bool {
        self.lines_left.is_some()
    }

    /// True while more of the message is wanted.
    pub(super) fn wants_more(&self) -> bool {
        self.part != Part::Enough
    }

    pub(super) fn write(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while self.wants_more() && !rest.is_empty() {
            if self.position == Position::LineStart && rest.first() == Some(&b'.') {
                out.push(b'.');
            }
            let line = memchr(b'\n', rest).and_then(|at| rest.split_at_checked(at));
            let Some((text, tail)) = line else {
                out.extend_from_slice(rest);
                self.line_goes_on(rest);
                return;
            };
            out.extend_from_slice(text);
            self.line_goes_on(text);
            self.line_ends(out);
            rest = tail.get(1..).unwrap_or_default();
        }
    }

    /// The message is complete: its last line ends, and so does the reply.
    pub(super) fn finish(mut self, out: &mut Vec<u8>) {
        match self.position {
            Position::LineStart => {}
            Position::InLine | Position::AfterCr { .. } => self.line_ends(out),
        }
        out.extend_from_slice(b".\r\n");
    }

    fn line_goes_on(&mut self, text: &[u8]) {
        let Some(last) = text.last() else { return };
        let first = self.position == Position::LineStart && text.len() == 1;
        self.position = if *last == b'\r' { Position::AfterCr { first } } else { Position::InLine };
    }

    fn line_ends(&mut self, out: &mut Vec<u8>) {
        let (end, empty): (&[u8], bool) = match self.position {
            Position::LineStart => (b"\r\n", true),
            Position::InLine => (b"\r\n", false),
            Position::AfterCr { first } => (b"\n", first),
        };
        out.extend_from_slice(end);
        self.position = Position::LineStart;
        match (self.part, &mut self.lines_left) {
            (Part::Header, left) if empty => {
                self.part = if *left == Some(0) { Part::Enough } else { Part::Body };
            }
            (Part::Body, Some(left)) => {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.part = Part::Enough;
                }
            }
            (Part::Header | Part::Enough, _) | (Part::Body, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(pieces: &[&[u8]], lines: Option<u64>) -> Vec<u8> {
        let mut encoder = Encoder::new(lines);
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| encoder.write(piece, &mut out));
        encoder.finish(&mut out);
        out
    }

    /// Whole, in every two pieces, and octet by octet: always the same.
    fn every_way(message: &[u8], lines: Option<u64>) -> String {
        let whole = encode(&[message], lines);
        for cut in 0..=message.len() {
            assert_eq!(whole, encode(&[&message[..cut], &message[cut..]], lines), "cut at {cut}");
        }
        let single: Vec<&[u8]> = message.chunks(1).collect();
        assert_eq!(whole, encode(&single, lines));
        String::from_utf8(whole).unwrap()
    }

    #[test]
    fn dots_are_stuffed_and_the_end_is_marked() {
        let message = b"A: b\r\n\r\n.\r\n..c\r\nd.\r\n";
        assert_eq!(every_way(message, None), "A: b\r\n\r\n..\r\n...c\r\nd.\r\n.\r\n");
        assert_eq!(every_way(b"", None), ".\r\n");
    }

    #[test]
    fn a_last_line_without_end_gets_one() {
        assert_eq!(every_way(b"A: b\r\n\r\nc", None), "A: b\r\n\r\nc\r\n.\r\n");
        assert_eq!(every_way(b"A: b\r\n\r\nc\r", None), "A: b\r\n\r\nc\r\n.\r\n");
        assert_eq!(every_way(b".", None), "..\r\n.\r\n");
    }

    #[test]
    fn bare_line_feeds_leave_as_crlf_and_hide_no_terminator() {
        assert_eq!(every_way(b"A: b\n\nc\n.\nd", None), "A: b\r\n\r\nc\r\n..\r\nd\r\n.\r\n");
        assert_eq!(every_way(b"a\n.\r\nb\r\n.\n", None), "a\r\n..\r\nb\r\n..\r\n.\r\n");
    }

    #[test]
    fn top_counts_lines_of_the_body() {
        let message = b"A: b\r\nC: d\r\n\r\n1\r\n\r\n.3\r\n4\r\n";
        assert_eq!(every_way(message, Some(0)), "A: b\r\nC: d\r\n\r\n.\r\n");
        assert_eq!(every_way(message, Some(1)), "A: b\r\nC: d\r\n\r\n1\r\n.\r\n");
        assert_eq!(every_way(message, Some(3)), "A: b\r\nC: d\r\n\r\n1\r\n\r\n..3\r\n.\r\n");
        assert_eq!(every_way(message, Some(9)), every_way(message, None));
        assert_eq!(every_way(b"A: b\n\n1\n2\n", Some(1)), "A: b\r\n\r\n1\r\n.\r\n");
        assert_eq!(every_way(b"\r\n1\r\n2\r\n", Some(1)), "\r\n1\r\n.\r\n");
        assert_eq!(every_way(b"A: only\r\n", Some(1)), "A: only\r\n.\r\n");
    }
}
