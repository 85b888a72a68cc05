//! The message's octets on their way out: with dots (DATA) or counted (BDAT), piece by piece, so
//! that no more of it is held than a piece. Lines leave with CRLF and no stray CR or LF leaves at
//! all, however the message was stored: RFC 5321 section 2.3.8, and what one server takes for a
//! line end and the next does not is how messages are smuggled.

use super::event::{Body, Piece, Stage};
use super::session::{Client, Phase, Sent};
use super::transaction::Next;
use crate::Outbox;
use crate::machine::Ticket;
use crate::wire::dots::{StrayCr, Stuffer};
use crate::wire::remote::Trouble;
use std::fmt::Write;

#[derive(Debug)]
pub(super) struct Transfer {
    /// `None`: the message is out.
    stuffer: Option<Stuffer>,
    chunks: bool,
}

impl Transfer {
    pub(super) fn data() -> Transfer {
        Transfer { stuffer: Some(Stuffer::new(StrayCr::Space)), chunks: false }
    }

    pub(super) fn chunks() -> Transfer {
        Transfer { stuffer: Some(Stuffer::without_dots()), chunks: true }
    }

    pub(super) fn is_chunks(&self) -> bool {
        self.chunks
    }

    /// Writes a piece; true when it was worth a command of its own.
    fn write(&mut self, piece: &[u8], last: bool, output: &mut Outbox) -> bool {
        let Some(mut stuffer) = self.stuffer.take() else { return false };
        if !self.chunks {
            stuffer.write(piece, output.buffer());
            if last {
                stuffer.finish(output.buffer());
            } else {
                self.stuffer = Some(stuffer);
            }
            return last;
        }
        let mut chunk = Vec::with_capacity(piece.len());
        stuffer.write(piece, &mut chunk);
        if last {
            stuffer.finish(&mut chunk);
        } else {
            self.stuffer = Some(stuffer);
        }
        if chunk.is_empty() && !last {
            return false;
        }
        // Writing to an outbox can't fail.
        let _ = write!(output, "BDAT {}{}\r\n", chunk.len(), if last { " LAST" } else { "" });
        output.push(&chunk);
        true
    }
}

impl Client {
    /// Answers [`super::Event::Body`]. What is written is about as long as the piece; send it
    /// before the next one is asked for, if it has become much.
    pub fn answer_body(&mut self, _: Ticket<Body>, piece: Piece<'_>, output: &mut Outbox) {
        let (true, Some(transaction)) = (self.phase == Phase::Asked, self.transaction.as_mut())
        else {
            return;
        };
        self.phase = Phase::Sending;
        let (octets, last) = match piece {
            Piece::More(octets) => (octets, false),
            Piece::Last(octets) => (octets, true),
            Piece::Unreadable => {
                let trouble = Trouble::Ours("the message can't be read");
                self.fail(Stage::Body, trouble, None);
                return;
            }
        };
        let command = transaction.transfer.write(octets, last, output);
        if last {
            transaction.next = Next::Nothing;
            transaction.end_written = true;
        }
        if command {
            self.say("", if last { Sent::End } else { Sent::Chunk }, output);
        }
    }
}
