//! A stored message on its way out, as a multi-line reply: its lines, and where TOP ends.
//! RFC 1939 section 3.
//!
//! An IMAP client may have stored a message with bare LFs; it leaves with CRLFs ([`Stuffer`]). The
//! message comes in pieces cut anywhere; nothing of it is kept.

use crate::wire::dots::{LineEnd, StrayCr, Stuffer};

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
    stuffer: Stuffer,
    part: Part,
    /// Lines of the body that are still wanted; `None`: all.
    lines_left: Option<u64>,
}

impl Encoder {
    /// `lines`: as many of the body (TOP), or the whole message.
    pub(super) fn new(lines: Option<u64>) -> Encoder {
        Encoder { stuffer: Stuffer::new(StrayCr::Kept), part: Part::Header, lines_left: lines }
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
            if let Some(end) = self.stuffer.write_line(&mut rest, out) {
                self.line_ended(end);
            }
        }
    }

    /// The message is complete: its last line ends, and so does the reply.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        self.stuffer.finish(out);
    }

    fn line_ended(&mut self, end: LineEnd) {
        match (self.part, &mut self.lines_left) {
            (Part::Header, left) if end.empty => {
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
