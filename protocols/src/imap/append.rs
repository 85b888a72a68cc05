//! APPEND: a message on its way through, in slices of the input. RFC 3501 section 6.3.11.

use super::command::Append;
use super::event::{Admission, Event};
use super::framing::Frame;
use super::lexer::Fault;
use super::response::{Code, Completion};
use super::session::{Imap, Pending, PendingKind, Reading, State};
use crate::wire::literal::Announced;
use crate::{Outbox, Step, Ticket};

impl Imap {
    pub(super) fn begin_append<'i>(
        &mut self,
        tag: Vec<u8>,
        append: Append,
        announced: Announced,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let refusal = match (&self.state, &append.mailbox, announced.bytes) {
            (State::Greeting | State::NotAuthenticated | State::Logout, ..) => {
                Err(Completion::Bad("Log in first"))
            }
            (_, Err(_), _) => Err(Completion::No(Some(Code::Cannot), "No mailbox has such a name")),
            (_, _, Some(0)) => Err(Completion::No(Some(Code::Cannot), "The message is empty")),
            (_, Ok(mailbox), Some(bytes)) if bytes <= self.config.append_bytes_max => {
                Ok((mailbox.clone(), bytes))
            }
            (_, Ok(_), _) => Err(Completion::No(Some(Code::TooBig), "The message is too large")),
        };
        match refusal {
            Ok((mailbox, bytes)) => {
                self.good();
                self.framing.forget();
                self.pending = Some(Pending { tag, kind: PendingKind::Append(announced) });
                let ticket = Ticket::issue();
                Some(Step::Event(Event::AppendStart { mailbox, append, bytes, ticket }))
            }
            Err(Completion::Bad(text)) => {
                self.bad(Some(&tag), Fault(text), output);
                self.refuse_literal(announced, output);
                None
            }
            Err(completion) => {
                completion.write(output.buffer(), &tag);
                self.refuse_literal(announced, output);
                None
            }
        }
    }

    /// Lets the message come, or refuses it with a completion.
    pub fn answer_append(
        &mut self,
        ticket: Ticket<Admission>,
        answer: Result<(), Completion>,
        output: &mut Outbox,
    ) {
        drop(ticket);
        let Some(pending) = &self.pending else { return };
        let PendingKind::Append(announced) = pending.kind else { return };
        match answer {
            Ok(()) => {
                if announced.synchronizing {
                    output.push(b"+ Ready\r\n");
                }
                let left = announced.bytes.unwrap_or(0);
                self.reading = Reading::Message { left, spoiled: false };
            }
            Err(refusal) => {
                refusal.write(output.buffer(), &pending.tag);
                self.pending = None;
                self.refuse_literal(announced, output);
            }
        }
    }

    pub(super) fn read_message<'i>(
        &mut self,
        left: u32,
        spoiled: bool,
        input: &mut &'i [u8],
    ) -> Option<Step<Event<'i>>> {
        if left == 0 {
            self.reading = Reading::MessageEnd { spoiled };
            return None;
        }
        if input.is_empty() {
            return Some(Step::NeedInput);
        }
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        let (piece, rest) = input.split_at(wanted.min(input.len()));
        *input = rest;
        let taken = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        // RFC 3501 section 9: no literal holds NUL, and no client could be sent it.
        let spoiled = spoiled || memchr::memchr(0, piece).is_some();
        self.reading = Reading::Message { left: left.saturating_sub(taken), spoiled };
        Some(Step::Event(Event::AppendPiece(piece)))
    }

    pub(super) fn read_message_end<'i>(
        &mut self,
        spoiled: bool,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let frame = self.framing.next(input, self.config.command_bytes_max);
        if frame == Frame::Incomplete {
            return Some(Step::NeedInput);
        }
        let collected = self.framing.take();
        let fault = match frame {
            Frame::Command if collected.is_empty() && !spoiled => {
                self.reading = Reading::Commands;
                return Some(Step::Event(Event::AppendEnd { ticket: Ticket::issue() }));
            }
            Frame::Command if collected.is_empty() => Fault("NUL in the message"),
            Frame::Command | Frame::Fault(_) | Frame::Incomplete => {
                Fault("Only one message can be appended at a time")
            }
            Frame::Literal(announced) => {
                self.refuse_literal(announced, output);
                Fault("Only one message can be appended at a time")
            }
        };
        if !matches!(self.reading, Reading::Refused { .. }) {
            self.reading = Reading::Commands;
        }
        let tag = self.pending.take().map(|pending| pending.tag);
        if !matches!(self.state, State::Logout) {
            self.bad(tag.as_deref(), fault, output);
        }
        Some(Step::Event(Event::AppendAbort))
    }
}
