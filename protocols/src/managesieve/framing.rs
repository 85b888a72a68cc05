//! Lines and literals into whole commands. RFC 5804 section 4: a client's literal, `{n+}`, does not
//! wait to be asked for.
//!
//! What is collected is handed over as it came, literals in place. Whether a literal is taken is
//! the session's decision, made before its first octet; never more than it allows is kept.

use crate::wire::line::{Framed, LineFault, LineReader};
use crate::wire::literal::{Announced, announced};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// All input is consumed.
    Incomplete,
    /// The line was spoiled; the command is forgotten.
    Fault(LineFault),
    Literal(Announced),
    Command,
}

#[derive(Debug, Default)]
pub(super) struct Framing {
    lines: LineReader,
    command: Vec<u8>,
    literal_bytes_left: usize,
}

impl Framing {
    pub(super) fn next(&mut self, input: &mut &[u8], line_bytes_max: usize) -> Frame {
        if self.literal_bytes_left > 0 {
            let length = self.literal_bytes_left.min(input.len());
            let (taken, rest) = input.split_at_checked(length).unwrap_or((input, b""));
            *input = rest;
            self.command.extend_from_slice(taken);
            self.literal_bytes_left = self.literal_bytes_left.saturating_sub(taken.len());
            if self.literal_bytes_left > 0 {
                return Frame::Incomplete;
            }
        }
        match self.lines.next(input, line_bytes_max) {
            Framed::Incomplete => Frame::Incomplete,
            Framed::Fault(fault) => {
                self.command = Vec::new();
                Frame::Fault(fault)
            }
            Framed::Line(line) => {
                self.command.extend_from_slice(line);
                announced(line).map_or(Frame::Command, Frame::Literal)
            }
        }
    }

    /// What has been collected, an announcement at its end included.
    pub(super) fn collected(&self) -> &[u8] {
        &self.command
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.command)
    }

    /// The literal that was just announced will be collected.
    pub(super) fn take_literal(&mut self, bytes: usize) {
        self.command.extend_from_slice(b"\r\n");
        // In one piece: it is large, and its length is known and allowed.
        self.command.reserve_exact(bytes);
        self.literal_bytes_left = bytes;
    }

    pub(super) fn retained_bytes(&self) -> usize {
        self.lines.retained_bytes().saturating_add(self.command.capacity())
    }

    pub(super) fn clear(&mut self) {
        *self = Framing::default();
    }
}
