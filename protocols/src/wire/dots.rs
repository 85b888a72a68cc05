//! Text that ends with a lone dot: a message in SMTP's DATA, a reply of several lines in POP3.
//! RFC 5321 section 4.5.2, RFC 1939 section 3.
//!
//! [`Stuffer`] writes: lines leave with CRLF whatever was stored, so that no dot behind a bare LF
//! can end the text for a peer that takes LF for a line end. [`Unstuffer`] reads: only
//! `CRLF . CRLF` ends the text, other line ends are its content. Both take pieces cut anywhere and
//! keep none of them.

use memchr::{memchr, memchr2};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    LineStart,
    InLine,
    /// The last octet was a CR, not written yet: the next octet tells what it is.
    HeldCr {
        first: bool,
    },
}

/// What a CR within a line becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrayCr {
    Kept,
    /// RFC 5321 section 2.3.8 forbids to send one, and some servers take it for a line end.
    Space,
}

/// A line has been written, up to and with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineEnd {
    pub empty: bool,
}

/// Writes one text.
#[derive(Debug)]
pub struct Stuffer {
    written: Written,
    stray_cr: StrayCr,
    /// Without: lines are mended, and nothing is stuffed or ended (BDAT).
    dots: bool,
}

impl Stuffer {
    #[must_use]
    pub fn new(stray_cr: StrayCr) -> Stuffer {
        Stuffer { written: Written::LineStart, stray_cr, dots: true }
    }

    /// For chunks, whose end is counted (RFC 3030).
    #[must_use]
    pub fn without_dots() -> Stuffer {
        Stuffer { written: Written::LineStart, stray_cr: StrayCr::Space, dots: false }
    }

    pub fn write(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while !rest.is_empty() {
            self.write_line(&mut rest, out);
        }
    }

    /// Writes up to and with the next line end; `None`: all is written and the line goes on.
    pub fn write_line(&mut self, rest: &mut &[u8], out: &mut Vec<u8>) -> Option<LineEnd> {
        let line = memchr(b'\n', rest).and_then(|at| rest.split_at_checked(at));
        let (text, tail) = line.unwrap_or((rest, b""));
        self.text(text, out);
        *rest = tail.get(1..).unwrap_or_default();
        line.map(|_| self.line_end(out))
    }

    /// The text is complete: its last line ends, and so does the text.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        match self.written {
            Written::LineStart => {}
            Written::InLine | Written::HeldCr { .. } => {
                self.line_end(out);
            }
        }
        if self.dots {
            out.extend_from_slice(b".\r\n");
        }
    }

    /// Octets of one line, without LF.
    fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let Some((&first, _)) = text.split_first() else { return };
        match self.written {
            Written::LineStart if self.dots && first == b'.' => out.push(b'.'),
            Written::HeldCr { .. } => self.push_stray_cr(out),
            Written::LineStart | Written::InLine => {}
        }
        let one_cr = self.written == Written::LineStart && text == b"\r";
        let (text, held) = match text.strip_suffix(b"\r") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let mut rest = text;
        while let Some((before, behind)) =
            memchr(b'\r', rest).and_then(|at| rest.split_at_checked(at))
        {
            out.extend_from_slice(before);
            self.push_stray_cr(out);
            rest = behind.get(1..).unwrap_or_default();
        }
        out.extend_from_slice(rest);
        self.written = if held { Written::HeldCr { first: one_cr } } else { Written::InLine };
    }

    fn push_stray_cr(&self, out: &mut Vec<u8>) {
        out.push(match self.stray_cr {
            StrayCr::Kept => b'\r',
            StrayCr::Space => b' ',
        });
    }

    fn line_end(&mut self, out: &mut Vec<u8>) -> LineEnd {
        let empty = match self.written {
            Written::LineStart => true,
            Written::InLine => false,
            Written::HeldCr { first } => first,
        };
        out.extend_from_slice(b"\r\n");
        self.written = Written::LineStart;
        LineEnd { empty }
    }
}

/// What [`Unstuffer::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Unstuffed<'i> {
    /// Octets of the text; not empty.
    Body(&'i [u8]),
    /// All input is consumed.
    NeedInput,
    /// The lone dot.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    LineStart,
    InLine,
    AfterCr,
    /// A dot stands first in the line.
    AfterDot,
    AfterDotCr,
}

/// Reads one text.
#[derive(Debug)]
pub struct Unstuffer {
    read: Read,
}

impl Default for Unstuffer {
    fn default() -> Unstuffer {
        Unstuffer { read: Read::LineStart }
    }
}

impl Unstuffer {
    /// The next piece. Consumes what it lends and what it drops.
    pub fn next<'i>(&mut self, input: &mut &'i [u8]) -> Unstuffed<'i> {
        loop {
            let all = *input;
            let Some((&first, rest)) = all.split_first() else { return Unstuffed::NeedInput };
            match (self.read, first) {
                (Read::LineStart, b'.') => {
                    *input = rest;
                    self.read = Read::AfterDot;
                }
                (Read::AfterDot, b'\r') => {
                    *input = rest;
                    self.read = Read::AfterDotCr;
                }
                (Read::AfterDotCr, b'\n') => {
                    *input = rest;
                    return Unstuffed::End;
                }
                // The dot was stuffing, and the CR is content: it was taken off the input already.
                (Read::AfterDotCr, _) => {
                    self.read = Read::AfterCr;
                    return Unstuffed::Body(b"\r");
                }
                (Read::LineStart | Read::InLine | Read::AfterCr | Read::AfterDot, _) => {
                    let length = self.follow(all);
                    let (body, rest) = all.split_at_checked(length).unwrap_or((all, b""));
                    *input = rest;
                    return Unstuffed::Body(body);
                }
            }
        }
    }

    /// How many octets are content; stops before a dot at the start of a line. At least one.
    fn follow(&mut self, all: &[u8]) -> usize {
        let mut length = 0_usize;
        let mut rest = all;
        loop {
            let taken = match (self.read, rest.first()) {
                (_, None) => return length,
                (Read::LineStart, Some(b'.')) => return length,
                (Read::AfterCr, Some(b'\n')) => {
                    self.read = Read::LineStart;
                    1
                }
                (_, Some(_)) => match memchr2(b'\r', b'\n', rest) {
                    Some(at) => {
                        let cr = rest.get(at) == Some(&b'\r');
                        self.read = if cr { Read::AfterCr } else { Read::InLine };
                        at.saturating_add(1)
                    }
                    None => {
                        self.read = Read::InLine;
                        rest.len()
                    }
                },
            };
            length = length.saturating_add(taken);
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unstuff(pieces: &[&[u8]]) -> (Vec<u8>, bool, Vec<u8>) {
        let (mut body, mut ended, mut left) = (Vec::new(), false, Vec::new());
        let mut unstuffer = Unstuffer::default();
        for piece in pieces {
            let mut input = *piece;
            while !ended {
                match unstuffer.next(&mut input) {
                    Unstuffed::Body(octets) => {
                        assert!(!octets.is_empty());
                        body.extend_from_slice(octets);
                    }
                    Unstuffed::NeedInput => break,
                    Unstuffed::End => ended = true,
                }
            }
            left.extend_from_slice(input);
        }
        (body, ended, left)
    }

    /// Whole, in every two pieces, and octet by octet: always the same.
    fn unstuffed(text: &[u8]) -> (String, bool, String) {
        let whole = unstuff(&[text]);
        for cut in 0..=text.len() {
            assert_eq!(whole, unstuff(&[&text[..cut], &text[cut..]]), "cut at {cut}");
        }
        assert_eq!(whole, unstuff(&text.chunks(1).collect::<Vec<_>>()));
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
        (shown(&whole.0), whole.1, shown(&whole.2))
    }

    #[test]
    fn only_a_lone_dot_between_crlfs_ends_the_text() {
        for (text, body, ended, left) in [
            (&b"a\r\n.\r\n+OK"[..], r"a\r\n", true, "+OK"),
            (b".\r\n", "", true, ""),
            (b"..\r\n.a\r\n...\r\n.\r\nx", r".\r\na\r\n..\r\n", true, "x"),
            (b"a\n.\n.\r\n\r.\r\r\n.\r\n", r"a\n.\n.\r\n\r.\r\r\n", true, ""),
            (b"a\r\n.\rb\r\n.\r\n", r"a\r\n\rb\r\n", true, ""),
            (b"a\r\n.\r\r\n.\r\n", r"a\r\n\r\r\n", true, ""),
            (b"a\r\n.\n.\r\n", r"a\r\n\n.\r\n", false, ""),
            (b"a\r\n.\r", r"a\r\n", false, ""),
        ] {
            let expected = (body.to_owned(), ended, left.to_owned());
            assert_eq!(unstuffed(text), expected, "{:?}", text.escape_ascii().to_string());
        }
    }

    fn stuffed(text: &[u8], make: impl Fn() -> Stuffer) -> String {
        let stuff = |pieces: &[&[u8]]| {
            let (mut stuffer, mut out) = (make(), Vec::new());
            pieces.iter().for_each(|piece| stuffer.write(piece, &mut out));
            stuffer.finish(&mut out);
            out
        };
        let whole = stuff(&[text]);
        for cut in 0..=text.len() {
            assert_eq!(whole, stuff(&[&text[..cut], &text[cut..]]), "cut at {cut}");
        }
        assert_eq!(whole, stuff(&text.chunks(1).collect::<Vec<_>>()));
        whole.escape_ascii().to_string()
    }

    #[test]
    fn no_stray_line_end_leaves() {
        let sent = || Stuffer::new(StrayCr::Space);
        for (text, expected) in [
            (&b"a\r\n.b\r\n"[..], r"a\r\n..b\r\n.\r\n"),
            (b"a\n.\nb", r"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\r.\rb\r\r\n", r"a . b \r\n.\r\n"),
            (b"\r.\r", r" .\r\n.\r\n"),
            (b"", r".\r\n"),
        ] {
            assert_eq!(stuffed(text, sent), expected, "{:?}", text.escape_ascii().to_string());
        }
    }

    #[test]
    fn chunks_have_no_dots_of_ours() {
        assert_eq!(stuffed(b".a\n.\r\nb", Stuffer::without_dots), r".a\r\n.\r\nb\r\n");
    }

    #[test]
    fn what_is_stuffed_comes_back() {
        for text in [&b".\r\n..\r\n\r\n.a\r\n"[..], b"", b"a\r\n", b"\r\n.\r\n"] {
            let (mut stuffer, mut out) = (Stuffer::new(StrayCr::Kept), Vec::new());
            stuffer.write(text, &mut out);
            stuffer.finish(&mut out);
            assert_eq!(unstuff(&[&out]), (text.to_vec(), true, Vec::new()));
        }
    }
}
