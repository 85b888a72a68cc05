//! Commands on their way out. A string that can't be quoted goes as a literal, which waits until
//! the server asks for it: RFC 3501 section 4.3.

use crate::sasl::client::Hidden;
use std::collections::VecDeque;

/// Longer strings go as literals, too.
const QUOTED_OCTETS_MAX: usize = 1000;

/// A command in parts: each but the first is sent when the server has said `+`.
#[derive(Default)]
pub(super) struct Say {
    parts: VecDeque<Hidden>,
    last: Vec<u8>,
}

impl Say {
    pub(super) fn new(text: &str) -> Say {
        Say { parts: VecDeque::new(), last: text.as_bytes().to_vec() }
    }

    pub(super) fn text(mut self, text: &str) -> Say {
        self.last.extend_from_slice(text.as_bytes());
        self
    }

    /// A string, whatever octets it holds but NUL, which no IMAP string can hold: `None`.
    pub(super) fn string(mut self, octets: &[u8]) -> Option<Say> {
        if octets.contains(&0) {
            return None;
        }
        let plain = |byte: &u8| (0x20..0x7f).contains(byte);
        if octets.len() <= QUOTED_OCTETS_MAX && octets.iter().all(plain) {
            self.last.push(b'"');
            for &byte in octets {
                if byte == b'"' || byte == b'\\' {
                    self.last.push(b'\\');
                }
                self.last.push(byte);
            }
            self.last.push(b'"');
        } else {
            self.last.extend_from_slice(format!("{{{}}}\r\n", octets.len()).as_bytes());
            self.parts.push_back(Hidden(std::mem::take(&mut self.last)));
            self.last.extend_from_slice(octets);
        }
        Some(self)
    }

    pub(super) fn finish(mut self) -> VecDeque<Hidden> {
        self.last.extend_from_slice(b"\r\n");
        self.parts.push_back(Hidden(self.last));
        self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(say: Option<Say>) -> Vec<String> {
        let parts = say.unwrap().finish();
        parts.iter().map(|part| part.0.escape_ascii().to_string()).collect()
    }

    #[test]
    fn strings_are_quoted_where_they_can_be() {
        let say = Say::new("a1 LOGIN ").string(b"a\"b\\c").unwrap().text(" ").string(b"p w");
        assert_eq!(parts(say), [r#"a1 LOGIN \"a\\\"b\\\\c\" \"p w\"\r\n"#]);
        let say = Say::new("a1 X ").string("ü".as_bytes()).unwrap().text(" ").string(b"a\r\nb");
        assert_eq!(parts(say), [r"a1 X {2}\r\n", r"\xc3\xbc {4}\r\n", r"a\r\nb\r\n"]);
        assert!(Say::new("x").string(b"a\0b").is_none());
    }
}
