//! A server's reply: lines of one code, hyphens but for the last. RFC 5321 section 4.2, RFC 2034.
//!
//! Bounds: a line of [`LINE_OCTETS_MAX`], [`LINES_MAX`] lines, and of their text the first
//! [`TEXT_OCTETS_MAX`] octets. A reply beyond, or that is none, ends the session: whoever is out of
//! step once can't be believed about the next recipient.

use crate::smtp::reply::Enhanced;
use crate::wire::line::{Framed, LineFault, LineReader};
use crate::wire::remote::{Trouble, shown};
use std::fmt;

/// RFC 5321 section 4.5.3.1.5 has 512; challenges of a login are longer.
pub const LINE_OCTETS_MAX: usize = 4096;
/// The longest replies are those to EHLO and the greetings of those who like to talk.
pub const LINES_MAX: u32 = 256;
pub const TEXT_OCTETS_MAX: usize = 1024;

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// 200 to 599.
    pub code: u16,
    pub enhanced: Option<Enhanced>,
    /// Its lines, a space between them; no control characters.
    pub text: String,
}

/// `550 5.1.1 No such user`
impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        Ok(())
    }
}

impl Heard {
    #[must_use]
    pub fn class(&self) -> Class {
        match self.code {
            ..300 => Class::Yes,
            300..400 => Class::GoOn,
            _ => Class::No,
        }
    }

    /// The server is about to close the connection (RFC 5321 section 3.8).
    #[must_use]
    pub fn is_farewell(&self) -> bool {
        self.code == 421
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Yes,
    GoOn,
    No,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    NeedInput,
    Reply(Heard),
    Fault(Trouble),
}

/// Reads replies, cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Reader {
    lines: LineReader,
    /// What came of a reply of several lines.
    begun: Option<Heard>,
    count: u32,
}

impl Reader {
    /// The next reply; `line` is given the text of each of its lines.
    pub(super) fn next(&mut self, input: &mut &[u8], mut line: impl FnMut(u32, &[u8])) -> Found {
        loop {
            let octets = match self.lines.next(input, LINE_OCTETS_MAX) {
                Framed::Incomplete => return Found::NeedInput,
                Framed::Line(octets) => octets,
                Framed::Fault(LineFault::TooLong) => {
                    return Found::Fault(Trouble::TooMuch("a reply's line"));
                }
                Framed::Fault(_) => {
                    return Found::Fault(Trouble::Garbage("lines that do not end with CRLF"));
                }
            };
            let Some((code, more, text)) = parts(octets) else {
                return Found::Fault(Trouble::Garbage("what is not a reply"));
            };
            line(self.count, text);
            self.count = self.count.saturating_add(1);
            let enhanced = Enhanced::read(text);
            let (enhanced, text) =
                enhanced.map_or((None, text), |(enhanced, rest)| (Some(enhanced), rest));
            let heard = match self.begun.take() {
                None => Heard { code, enhanced, text: shown(text, TEXT_OCTETS_MAX) },
                Some(heard) if heard.code != code => {
                    return Found::Fault(Trouble::Garbage("a reply of two codes"));
                }
                Some(mut heard) => {
                    let room = TEXT_OCTETS_MAX.saturating_sub(heard.text.len());
                    let text = shown(text, room.saturating_sub(1));
                    if !text.is_empty() {
                        heard.text.push(' ');
                        heard.text.push_str(&text);
                    }
                    heard
                }
            };
            if !more {
                self.count = 0;
                return Found::Reply(heard);
            }
            if self.count >= LINES_MAX {
                return Found::Fault(Trouble::TooMuch("the lines of a reply"));
            }
            self.begun = Some(heard);
        }
    }

    pub(super) fn retained_bytes(&self) -> usize {
        let begun = self.begun.as_ref().map_or(0, |heard| heard.text.capacity());
        self.lines.retained_bytes().saturating_add(begun)
    }
}

/// Code, whether more lines follow, text.
fn parts(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'] = digits else { return None };
    let code = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match rest.split_first() {
        None => Some((code, false, b"")),
        Some((b' ', text)) => Some((code, false, text)),
        Some((b'-', text)) => Some((code, true, text)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Vec<Found> {
        let mut reader = Reader::default();
        let (mut input, mut found) = (text, Vec::new());
        loop {
            match reader.next(&mut input, |_, _| {}) {
                Found::NeedInput => break,
                Found::Fault(trouble) => {
                    found.push(Found::Fault(trouble));
                    break;
                }
                reply => found.push(reply),
            }
        }
        let (mut reader, mut single) = (Reader::default(), Vec::new());
        for octet in text.chunks(1) {
            match reader.next(&mut &*octet, |_, _| {}) {
                Found::NeedInput => {}
                Found::Fault(trouble) => {
                    single.push(Found::Fault(trouble));
                    break;
                }
                reply => single.push(reply),
            }
        }
        assert_eq!(found, single, "cuts matter");
        found
    }

    fn heard(code: u16, enhanced: Option<Enhanced>, text: &str) -> Found {
        Found::Reply(Heard { code, enhanced, text: text.into() })
    }

    #[test]
    fn replies_are_read() {
        assert_eq!(
            read(b"250\r\n250 \r\n550 5.1.1 No such user\r\n"),
            [
                heard(250, None, ""),
                heard(250, None, ""),
                heard(550, Some(Enhanced(5, 1, 1)), "No such user")
            ]
        );
        let policy = b"550-5.7.1 Refused: see\r\n550-5.7.1\r\n550 5.7.1 https://a.test/\t1\r\n";
        let text = "Refused: see https://a.test/ 1";
        assert_eq!(read(policy), [heard(550, Some(Enhanced(5, 7, 1)), text)]);
        assert_eq!(read(b"250-a\r\n250"), []);
    }

    #[test]
    fn what_is_no_reply_is_a_fault() {
        for (text, fault) in [
            (&b"HTTP/1.1 400 Bad\r\n"[..], "what is not a reply"),
            (b"\r\n", "what is not a reply"),
            (b"99 x\r\n", "what is not a reply"),
            (b"199 x\r\n", "what is not a reply"),
            (b"600 x\r\n", "what is not a reply"),
            (b"250x\r\n", "what is not a reply"),
            (b"250-a\r\n251 b\r\n", "a reply of two codes"),
            (b"250 a\n", "lines that do not end with CRLF"),
            (b"250 \0\r\n", "lines that do not end with CRLF"),
        ] {
            assert_eq!(read(text), [Found::Fault(Trouble::Garbage(fault))], "{text:?}");
        }
    }

    #[test]
    fn endless_replies_are_faults_and_their_text_is_bounded() {
        let long = [b"250 ".as_slice(), &[b'x'; LINE_OCTETS_MAX]].concat();
        assert_eq!(read(&long), [Found::Fault(Trouble::TooMuch("a reply's line"))]);
        let banner = b"220-welcome\r\n".repeat(10_000);
        assert_eq!(read(&banner), [Found::Fault(Trouble::TooMuch("the lines of a reply"))]);
        let wide = [b"250-".as_slice(), &[b'x'; 900], b"\r\n"].concat().repeat(200);
        let found = read(&[wide.as_slice(), b"250 end\r\n"].concat());
        let [Found::Reply(heard)] = found.as_slice() else { panic!("{found:?}") };
        assert!(heard.text.len() <= TEXT_OCTETS_MAX, "{}", heard.text.len());
    }
}
