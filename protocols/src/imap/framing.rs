//! Lines and literals into whole commands. RFC 3501 section 4.3, RFC 7888.
//!
//! A command is one or more lines, each but the last ending with a literal's announcement. What
//! is collected is handed over as it came, literals in place. Never more than
//! `command_bytes_max` octets are kept; whether a literal is taken is the session's decision,
//! made before its first octet.

use crate::wire::line::{Framed, LineFault, LineReader};
use crate::wire::literal::{Announced, announced};

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// All input is consumed.
    Incomplete,
    /// The line was spoiled; the command is forgotten.
    Fault(LineFault),
    /// Answer with [`Framing::take_literal`], or [`Framing::take`] what is there.
    Literal(Announced),
    Command,
}

#[derive(Debug, Default)]
pub struct Framing {
    lines: LineReader,
    command: Vec<u8>,
    literal_bytes_left: u32,
}

impl Framing {
    /// Collects up to the next decision.
    pub fn next(&mut self, input: &mut &[u8], command_bytes_max: usize) -> Frame {
        if self.literal_bytes_left > 0 {
            let wanted = usize::try_from(self.literal_bytes_left).unwrap_or(usize::MAX);
            let (taken, rest) = input.split_at(wanted.min(input.len()));
            *input = rest;
            self.command.extend_from_slice(taken);
            let taken = u32::try_from(taken.len()).unwrap_or(u32::MAX);
            self.literal_bytes_left = self.literal_bytes_left.saturating_sub(taken);
            if self.literal_bytes_left > 0 {
                return Frame::Incomplete;
            }
        }
        let room = command_bytes_max.saturating_sub(self.command.len());
        let mut rest = *input;
        let framed = self.lines.next(&mut rest, room);
        let frame = match framed {
            Framed::Incomplete => Frame::Incomplete,
            Framed::Fault(fault) => {
                self.command = Vec::new();
                Frame::Fault(fault)
            }
            Framed::Line(line) => {
                self.command.extend_from_slice(line);
                announced(line).map_or(Frame::Command, Frame::Literal)
            }
        };
        *input = input.get(input.len().saturating_sub(rest.len())..).unwrap_or_default();
        frame
    }

    /// What has been collected, announcement included.
    #[must_use]
    pub fn collected(&self) -> &[u8] {
        &self.command
    }

    /// Forgets the command.
    pub fn forget(&mut self) {
        self.command = Vec::new();
    }

    /// Takes the command out, leaving nothing.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.command)
    }

    /// The literal that was just announced will be collected.
    pub fn take_literal(&mut self, bytes: u32) {
        self.command.extend_from_slice(b"\r\n");
        self.literal_bytes_left = bytes;
    }

    /// The literal that was just announced is read by somebody else; an empty string
    /// takes its place.
    pub fn stream_literal(&mut self, marker_bytes: usize) {
        self.command.truncate(self.command.len().saturating_sub(marker_bytes));
        self.command.extend_from_slice(b"\"\"");
    }

    /// Whether no part of a command has been read.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.command.is_empty() && self.literal_bytes_left == 0 && self.lines.is_at_line_start()
    }

    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        self.lines.retained_bytes().saturating_add(self.command.capacity())
    }

    pub fn clear(&mut self) {
        *self = Framing::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_collected_in_place() {
        let mut framing = Framing::default();
        let mut input = &b"a LOGIN {3}\r\nx\ny {1+}\r\nz\r\nb NOOP\r\n"[..];
        let Frame::Literal(first) = framing.next(&mut input, 100) else { panic!() };
        assert_eq!((first.bytes, first.synchronizing), (Some(3), true));
        framing.take_literal(3);
        let Frame::Literal(second) = framing.next(&mut input, 100) else { panic!() };
        assert_eq!((second.bytes, second.synchronizing), (Some(1), false));
        framing.take_literal(1);
        assert_eq!(framing.next(&mut input, 100), Frame::Command);
        assert_eq!(framing.take(), b"a LOGIN {3}\r\nx\ny {1+}\r\nz");
        assert_eq!(framing.next(&mut input, 100), Frame::Command);
        assert_eq!(framing.take(), b"b NOOP");
        assert_eq!(framing.next(&mut input, 100), Frame::Incomplete);
        assert!(framing.is_idle());
    }

    #[test]
    fn announcements_are_told_from_text() {
        assert_eq!(announced(b"x {4294967296}").unwrap().bytes, None);
        for text in [&b"x {}"[..], b"x {+}", b"x {1", b"x 1}", b"x {a}", b"x {1+} ", b"{1++}"] {
            assert_eq!(announced(text), None, "{text:?}");
        }
    }
}
