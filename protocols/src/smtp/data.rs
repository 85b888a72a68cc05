//! Message bytes: DATA with its dots, and BDAT with its counts. One strict policy on line ends.
//!
//! Only `CRLF . CRLF` ends DATA. A CR or LF that is not part of CRLF, a NUL, or a line over the
//! limit spoils the message: the rest is swallowed up to its true end, and there it is refused. So
//! no variant of `LF . LF`, `CR . CR` and their mixtures ends a message here that goes on
//! elsewhere, or the other way round (SMTP smuggling): such a message is never taken.
//!
//! What came before the fault is lent, octet for octet, however the input was cut;
//! what follows is not.
//!
//! Bytes are lent from the input, as much at once as there is; between dots nothing is copied.

use super::reply::Refusal;
use memchr::{memchr3, memrchr};

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

/// What [`clean_blocks`] looks at in one go: enough for vector instructions.
const BLOCK_OCTETS: usize = 512;

/// How far a scan went: so many octets, so many of them before the message was spoiled.
#[derive(Debug, Clone, Copy)]
struct Passed {
    octets: usize,
    sound: usize,
}

/// Follows one message, whether it comes by DATA or by BDAT.
#[derive(Debug)]
pub(super) struct Scanner {
    position: Position,
    line_octets: usize,
    /// Of the message so far, as far as it was lent.
    octets: u64,
    octets_max: u64,
    fault: Option<Refusal>,
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
    pub(super) fn fault(&self) -> Option<&Refusal> {
        self.fault.as_ref()
    }

    fn spoil(&mut self, fault: &Refusal) {
        if self.fault.is_none() {
            self.fault = Some(fault.clone());
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
                    self.spoil(&Refusal::LINE_ENDS);
                    self.position = Position::InLine;
                }
            },
            Position::LineStart | Position::InLine | Position::AfterCr => {}
        }
        if all.is_empty() {
            return Found::NeedInput;
        }
        let passed = self.run(all, true);
        let rest = all.get(passed.octets..).unwrap_or_default();
        *input = rest;
        if let (Position::LineStart, Some((b'.', rest))) = (self.position, rest.split_first()) {
            self.position = Position::AfterDot;
            *input = rest;
        }
        self.lend(all, passed)
    }

    /// The next piece of a BDAT chunk, whose end the caller counts.
    pub(super) fn chunk<'i>(&mut self, piece: &'i [u8]) -> Found<'i> {
        let passed = self.run(piece, false);
        self.lend(piece, passed)
    }

    /// The last chunk has ended: a CR that waited for its LF is bare.
    pub(super) fn end_of_chunks(&mut self) {
        if self.position == Position::AfterCr {
            self.spoil(&Refusal::LINE_ENDS);
        }
    }

    /// Lends what came before the message was spoiled; `passed` octets of `bytes`
    /// were gone through.
    ///
    /// Which fault comes first is decided by where it stands, so that cuts don't show.
    fn lend<'i>(&mut self, bytes: &'i [u8], passed: Passed) -> Found<'i> {
        let room = self.octets_max.saturating_sub(self.octets);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if room < passed.sound {
            self.fault = Some(Refusal::TOO_BIG);
        }
        let body = bytes.get(..passed.sound.min(room)).unwrap_or_default();
        self.octets = self.octets.saturating_add(u64::try_from(body.len()).unwrap_or(u64::MAX));
        Found::Body(body)
    }

    /// Follows lines through `bytes`; stops before a dot at the start of a line when dots matter.
    fn run(&mut self, bytes: &[u8], dots: bool) -> Passed {
        let mut all = Passed { octets: 0, sound: 0 };
        loop {
            let rest = bytes.get(all.octets..).unwrap_or_default();
            match (self.position, rest.first()) {
                (_, None) => return all,
                (Position::LineStart, Some(b'.')) if dots => return all,
                (_, Some(_)) => {}
            }
            let was_sound = self.fault.is_none();
            let step = self.advance(rest);
            if was_sound {
                all.sound = all.octets.saturating_add(step.sound);
            }
            all.octets = all.octets.saturating_add(step.octets);
        }
    }

    /// Goes through the rest of a line or a part of it; `rest` is not empty.
    fn advance(&mut self, rest: &[u8]) -> Passed {
        match self.position {
            Position::AfterCr if rest.first() == Some(&b'\n') => {
                self.position = Position::LineStart;
                self.line_octets = 0;
                Passed { octets: 1, sound: 1 }
            }
            Position::AfterCr => {
                self.spoil(&Refusal::LINE_ENDS);
                self.position = Position::InLine;
                Passed { octets: 0, sound: 0 }
            }
            Position::LineStart | Position::InLine => match self.skip_clean(rest) {
                0 => self.line(rest),
                octets => Passed { octets, sound: octets },
            },
            Position::AfterDot | Position::AfterDotCr => self.line(rest),
        }
    }

    /// Goes through blocks of whole and faultless lines at twice the speed; gives their octets.
    /// This only saves time: what it does not take, `line` goes through.
    fn skip_clean(&mut self, rest: &[u8]) -> usize {
        let room = TEXT_LINE_OCTETS_MAX.saturating_sub(self.line_octets);
        // Blocks of a spoiled message fail again and again: they would cost more than they save.
        if self.fault.is_some() || rest.first() == Some(&b'\n') {
            return 0;
        }
        let clean = clean_blocks(rest.get(..room).unwrap_or(rest));
        let blocks = rest.get(..clean).unwrap_or_default();
        self.position = match blocks.last() {
            None => return 0,
            Some(b'\r') => Position::AfterCr,
            Some(b'\n') => Position::LineStart,
            Some(_) => Position::InLine,
        };
        self.line_octets = match memrchr(b'\n', blocks) {
            None => self.line_octets.saturating_add(clean),
            Some(last) => clean.saturating_sub(last).saturating_sub(1),
        };
        clean
    }

    /// Goes through the rest of a line up to and with its CR, or through a fault.
    fn line(&mut self, rest: &[u8]) -> Passed {
        let stop = memchr3(b'\r', b'\n', 0, rest);
        let text = stop.unwrap_or(rest.len());
        let room = TEXT_LINE_OCTETS_MAX.saturating_sub(self.line_octets);
        self.line_octets = self.line_octets.saturating_add(text);
        if text > room {
            self.spoil(&Refusal::TEXT_LINE_TOO_LONG);
        }
        self.position = Position::InLine;
        let sound = text.min(room);
        let Some(stop) = stop else { return Passed { octets: text, sound } };
        let octets = stop.saturating_add(1);
        match rest.get(stop) {
            Some(b'\r') => {
                self.position = Position::AfterCr;
                return Passed { octets, sound: if text > room { sound } else { octets } };
            }
            Some(b'\n') => self.spoil(&Refusal::LINE_ENDS),
            _ => self.spoil(&Refusal::HOLDS_NUL),
        }
        Passed { octets, sound }
    }
}

/// The octets of the leading blocks in which nothing needs a closer look: no NUL, each CR before a
/// LF and each LF behind a CR, no dot at the start of a line. One octet more than the blocks
/// decides; the first octet is the caller's to judge.
fn clean_blocks(bytes: &[u8]) -> usize {
    let mut clean = 0_usize;
    let mut rest = bytes;
    while let Some((block, behind)) = rest.split_first_chunk::<BLOCK_OCTETS>() {
        let Some(next) = rest.get(1..).and_then(<[u8]>::first_chunk::<BLOCK_OCTETS>) else { break };
        // Without branches, so that the compiler takes sixteen octets and more at a time.
        let odd = block.iter().zip(next).fold(0, |odd, (&here, &next)| {
            odd | u8::from((here == b'\r') != (next == b'\n'))
                | u8::from(here == 0)
                | (u8::from(here == b'\n') & u8::from(next == b'.'))
        });
        if odd != 0 {
            break;
        }
        clean = clean.saturating_add(BLOCK_OCTETS);
        rest = behind;
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message and what is left of the input after it; `Err`: refused there.
    fn receive(pieces: &[&[u8]]) -> (Result<Vec<u8>, Refusal>, Vec<u8>, bool) {
        let (body, fault, left, ended) = receive_most(1_000_000, pieces);
        (fault.map_or(Ok(body), Err), left, ended)
    }

    type Received = (Vec<u8>, Option<Refusal>, Vec<u8>, bool);

    /// What was lent of a message of at most `octets_max`, its fault, what follows,
    /// whether it ended.
    fn receive_most(octets_max: u64, pieces: &[&[u8]]) -> Received {
        let mut scanner = Scanner::new(octets_max);
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
        (body, scanner.fault().cloned(), left, ended)
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

    /// One octet before the fault is lent, none after it, in whatever pieces it all comes.
    #[test]
    fn what_came_before_a_fault_is_lent_in_any_pieces() {
        let long = [b"ab\r\n", &[b'a'; 600][..], b"\r\nc\nd\r\n"].concat();
        let cases: [(&[u8], &[u8], Refusal, u64); 9] = [
            (b"abc\r\ndef\nghi\r\n", b"abc\r\ndef", Refusal::LINE_ENDS, 99),
            (b"abc\r\nd\refghi\r\n", b"abc\r\nd\r", Refusal::LINE_ENDS, 99),
            (b"abc\r\n..\rd\r\n", b"abc\r\n.\r", Refusal::LINE_ENDS, 99),
            (b"abc\r\n.\rd\r\n", b"abc\r\n", Refusal::LINE_ENDS, 99),
            (b"abc\0d\ne\r\n", b"abc", Refusal::HOLDS_NUL, 99),
            (b"abc\r\ndef\r\n", b"abc\r\nd", Refusal::TOO_BIG, 6),
            (b"abc\r\nd\nef\r\n", b"abc\r\nd", Refusal::LINE_ENDS, 6),
            (b"abc\r\nde\nf\r\n", b"abc\r\nd", Refusal::TOO_BIG, 6),
            (&long, &long[..607], Refusal::LINE_ENDS, 1000),
        ];
        for (sent, lent, fault, octets_max) in cases {
            let bytes = [sent, b".\r\n"].concat();
            let expected = (lent.to_vec(), Some(fault), vec![], true);
            for cut in 0..=bytes.len() {
                let received = receive_most(octets_max, &[&bytes[..cut], &bytes[cut..]]);
                assert_eq!(received, expected, "{sent:?} cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(receive_most(octets_max, &single), expected, "{sent:?}");
        }
    }

    /// Blocks are only a short cut: a fault, a dot or an end in any place of one is seen.
    #[test]
    fn blocks_hide_nothing() {
        let lines =
            |count: usize| b"0123456789abcdef0123456789abcdef0123456789abcdef\r\n".repeat(count);
        let clean = lines(60);
        let ended = [&clean[..], b".\r\n"].concat();
        assert_eq!(receive(&[&ended]), (Ok(clean.clone()), vec![], true));
        for at in 0..clean.len() {
            for odd in [b'\0', b'\n', b'\r', b'.'] {
                let mut bytes = ended.clone();
                bytes[at] = odd;
                let single: Vec<&[u8]> = bytes.chunks(1).collect();
                let exact = receive_most(1_000_000, &single);
                assert_eq!(receive_most(1_000_000, &[&bytes]), exact, "{odd} at {at}");
                assert_eq!(receive_most(1_000_000, &[&bytes[..700], &bytes[700..]]), exact);
            }
        }
    }

    #[test]
    fn a_message_of_just_the_limit_is_taken() {
        let bytes = b"abc\r\n..\r\n.\r\n";
        for cut in 0..=bytes.len() {
            let received = receive_most(8, &[&bytes[..cut], &bytes[cut..]]);
            assert_eq!(received, (b"abc\r\n.\r\n".to_vec(), None, vec![], true), "cut at {cut}");
        }
    }

    #[test]
    fn a_line_over_the_limit_is_lent_up_to_it() {
        let line = [b'a'; TEXT_LINE_OCTETS_MAX + 1];
        for cut in [0, 1, 600, TEXT_LINE_OCTETS_MAX - 1, TEXT_LINE_OCTETS_MAX] {
            let pieces = [&line[..cut], &line[cut..], b"\r\n.\r\n"];
            let (body, fault, ..) = receive_most(1_000_000, &pieces);
            assert_eq!(
                (body.len(), fault),
                (TEXT_LINE_OCTETS_MAX, Some(Refusal::TEXT_LINE_TOO_LONG))
            );
        }
    }

    #[test]
    fn chunks_are_taken_as_they_are_unless_a_line_end_is_bare() {
        let take = |pieces: &[&[u8]]| {
            let mut scanner = Scanner::new(100);
            for piece in pieces {
                let _ = scanner.chunk(piece);
            }
            scanner.end_of_chunks();
            scanner.fault().cloned()
        };
        assert_eq!(take(&[b"a\r", b"\n.\r\nb"]), None);
        assert_eq!(take(&[b"a\r", b"b"]), Some(Refusal::LINE_ENDS));
        assert_eq!(take(&[b"a\r\n", b"b\r"]), Some(Refusal::LINE_ENDS));
        assert_eq!(take(&[b"a\n"]), Some(Refusal::LINE_ENDS));
        assert_eq!(take(&[b"a\0"]), Some(Refusal::HOLDS_NUL));
        assert_eq!(take(&[&[b'a'; 101]]), Some(Refusal::TOO_BIG));
    }
}
