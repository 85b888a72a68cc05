//! Literals of commands: taken, handed to APPEND, or refused and swallowed with the rest of their
//! command, so that none of it is read as one. RFC 3501 section 4.3, RFC 7888.

use super::event::Event;
use super::framing::Frame;
use super::lexer::{Fault, Lexer};
use super::parse::{self, AppendPrefix};
use super::session::{Imap, Reading, State};
use crate::wire::literal::Announced;
use crate::{Outbox, Step};

impl Imap {
    /// Decides about a literal before its first octet.
    pub(super) fn read_literal<'i>(
        &mut self,
        announced: Announced,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let collected = self.framing.collected();
        let length = collected.len().saturating_sub(announced.marker_bytes);
        let mut lexer = Lexer::new(collected.get(..length).unwrap_or_default());
        let tag = match parse::tag(&mut lexer) {
            Ok(tag) => tag.to_vec(),
            Err(fault) => {
                self.bad(None, fault, output);
                self.refuse_literal(announced, output);
                return None;
            }
        };
        match parse::append_prefix(&mut lexer) {
            Err(fault) => {
                self.bad(Some(&tag), fault, output);
                self.refuse_literal(announced, output);
                None
            }
            Ok(Some(AppendPrefix::Message(append))) => {
                self.begin_append(tag, append, announced, output)
            }
            Ok(Some(AppendPrefix::Mailbox) | None) => {
                self.collect_literal(&tag, announced, output);
                None
            }
        }
    }

    fn collect_literal(&mut self, tag: &[u8], announced: Announced, output: &mut Outbox) {
        let room = self.config.command_bytes_max.saturating_sub(self.framing.collected().len());
        let fits = |bytes: &u32| usize::try_from(*bytes).is_ok_and(|bytes| bytes < room);
        match announced.bytes.filter(fits) {
            Some(bytes) => {
                self.framing.take_literal(bytes);
                if announced.synchronizing {
                    output.push(b"+ Ready\r\n");
                }
            }
            None => {
                self.bad(Some(tag), Fault("The literal is too large"), output);
                self.refuse_literal(announced, output);
            }
        }
    }

    /// Nobody wants the literal. One that waits for permission will not come; one that does not
    /// wait is swallowed with the rest of its command (RFC 7888 section 4).
    pub(super) fn refuse_literal(&mut self, announced: Announced, output: &mut Outbox) {
        self.framing.forget();
        match announced {
            Announced { synchronizing: true, .. } => self.reading = Reading::Commands,
            Announced { bytes: Some(bytes), .. } if bytes <= self.config.swallow_bytes_max => {
                self.reading = Reading::Refused { left: bytes };
            }
            Announced { .. } => {
                if !matches!(self.state, State::Logout) {
                    self.bye("The literal is too large", output);
                }
            }
        }
    }

    pub(super) fn read_refused<'i>(
        &mut self,
        left: u32,
        input: &mut &'i [u8],
    ) -> Option<Step<Event<'i>>> {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        let (taken, rest) = input.split_at(wanted.min(input.len()));
        *input = rest;
        let left = left.saturating_sub(u32::try_from(taken.len()).unwrap_or(u32::MAX));
        if left > 0 {
            self.reading = Reading::Refused { left };
            return Some(Step::NeedInput);
        }
        self.reading = Reading::RefusedLine;
        None
    }

    pub(super) fn read_refused_line<'i>(
        &mut self,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        match self.framing.next(input, self.config.command_bytes_max) {
            Frame::Incomplete => return Some(Step::NeedInput),
            Frame::Command | Frame::Fault(_) => {
                self.framing.forget();
                self.reading = Reading::Commands;
            }
            Frame::Literal(announced) => self.refuse_literal(announced, output),
        }
        None
    }
}
