//! From octets to responses: the octets of the message that was asked for are streamed, the rest is
//! collected, and what belongs to nothing is passed over within bounds.

use super::event::{Event, Refusal, Stage};
use super::heard::{self, Heard, Status};
use super::session::{Awaited, Client, Phase, RESPONSE_OCTETS_MAX, UNASKED_OCTETS_MAX};
use crate::imap::framing::Frame;
use crate::wire::line::LineFault;
use crate::wire::literal::Announced;
use crate::wire::remote::Trouble;
use crate::{Outbox, Step, Tick};
use std::borrow::Cow;

/// A UID in a search's response, with its space.
const UID_OCTETS_MAX: usize = 11;

impl Client {
    pub(super) fn read<'i>(
        &mut self,
        now: Tick,
        awaited: Awaited,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if self.literal_left > 0 {
            return self.stream(now, awaited, input);
        }
        let stage = awaited.stage();
        let most = match awaited {
            Awaited::Search { .. } => {
                self.config.messages_max.saturating_mul(UID_OCTETS_MAX).max(RESPONSE_OCTETS_MAX)
            }
            _ => RESPONSE_OCTETS_MAX,
        };
        match self.framing.next(input, most) {
            Frame::Incomplete => self.out_of_input(now, awaited),
            Frame::Fault(LineFault::TooLong) => {
                self.fail(stage, Trouble::TooMuch("a response"), None)
            }
            Frame::Fault(_) => {
                let trouble = Trouble::Garbage("lines that do not end with CRLF");
                self.fail(stage, trouble, None)
            }
            Frame::Literal(announced) if !heard::is_text(self.framing.collected()) => {
                self.literal(awaited, announced, most)
            }
            Frame::Command | Frame::Literal(_) => {
                let response = self.framing.take();
                self.response(awaited, &response, output)
            }
        }
    }

    // ── literals ────────────────────────────────────────────────────────────────────────────────

    fn literal<'i>(
        &mut self,
        mut awaited: Awaited,
        announced: Announced,
        most: usize,
    ) -> Option<Step<Event<'i>>> {
        let stage = awaited.stage();
        let collected = self.framing.collected();
        let length = collected.len().saturating_sub(announced.marker_bytes);
        let prefix = collected.get(..length).unwrap_or_default().to_ascii_uppercase();
        let is_message = prefix.ends_with(b"BODY[] ");
        match (&mut awaited, announced.bytes) {
            (Awaited::Fetch { octets: Some(_), .. }, _) if is_message => {
                let trouble = Trouble::OutOfStep("a second message in one response");
                return self.fail(stage, trouble, None);
            }
            (Awaited::Fetch { octets_max, octets, .. }, Some(bytes))
                if is_message && u64::from(bytes) <= *octets_max =>
            {
                *octets = Some(u64::from(bytes));
                self.framing.stream_literal(announced.marker_bytes);
                self.literal_left = bytes;
            }
            (Awaited::Fetch { .. }, _) if is_message => {
                return self.fail(stage, Trouble::TooMuch("octets of a message"), None);
            }
            (_, Some(bytes)) if usize::try_from(bytes).is_ok_and(|bytes| bytes < most) => {
                self.framing.take_literal(bytes);
            }
            (_, _) => return self.fail(stage, Trouble::TooMuch("a response"), None),
        }
        if self.framing.collected().len() > most {
            return self.fail(stage, Trouble::TooMuch("a response"), None);
        }
        self.phase = Phase::Awaiting(awaited);
        None
    }

    /// Octets of the message.
    fn stream<'i>(
        &mut self,
        now: Tick,
        awaited: Awaited,
        input: &mut &'i [u8],
    ) -> Option<Step<Event<'i>>> {
        let wanted = usize::try_from(self.literal_left).unwrap_or(usize::MAX);
        let all = *input;
        let (piece, rest) = all.split_at_checked(wanted.min(all.len())).unwrap_or((all, b""));
        if piece.is_empty() {
            return self.out_of_input(now, awaited);
        }
        *input = rest;
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        self.literal_left = self.literal_left.saturating_sub(length);
        self.patience.renew();
        self.phase = Phase::Awaiting(awaited);
        Some(Step::Event(Event::Piece(Cow::Borrowed(piece))))
    }

    // ── whole responses ─────────────────────────────────────────────────────────────────────────

    fn response<'i>(
        &mut self,
        awaited: Awaited,
        response: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let stage = awaited.stage();
        let Some(heard) = heard::read(response) else {
            return self.fail(stage, Trouble::Garbage("what is not a response"), None);
        };
        match (awaited, heard) {
            (Awaited::Greeting, Heard::Status(None, status, text)) => {
                self.patience.answered();
                self.greeted(status, text, output)
            }
            (Awaited::Greeting, _) => {
                self.fail(stage, Trouble::Garbage("what is not a greeting"), None)
            }
            (Awaited::Logout, Heard::Status(None, Status::Bye, _)) => {
                self.phase = Phase::Awaiting(Awaited::Logout);
                None
            }
            (_, Heard::Status(None, Status::Bye, text)) => {
                self.fail(stage, Trouble::Refused, Some(heard::refusal(text)))
            }
            (awaited, Heard::Continue(text)) => self.asked_on(awaited, text, output),
            (awaited, Heard::Status(Some(tag), status, text)) => {
                if tag != self.tag_text().as_bytes() {
                    let trouble = Trouble::OutOfStep("a reply to another command");
                    return self.fail(stage, trouble, None);
                }
                self.patience.answered();
                self.parts.clear();
                match status {
                    Status::Ok => self.yes(awaited, text, output),
                    Status::No | Status::Bad | Status::Bye | Status::Preauth => {
                        self.no(awaited, heard::refusal(text), output)
                    }
                }
            }
            (awaited, heard) => {
                let octets = response.len();
                self.untagged(awaited, heard, octets)
            }
        }
    }

    fn greeted<'i>(
        &mut self,
        status: Status,
        text: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        match status {
            Status::Ok => {
                self.phase = Phase::Hello;
                None
            }
            Status::Preauth => self.preauthenticated(output),
            Status::No | Status::Bad | Status::Bye => {
                let refusal = heard::refusal(text);
                self.fail(Stage::Greeting, Trouble::Refused, Some(refusal))
            }
        }
    }

    /// `+`: the next part of the command, or of a login.
    fn asked_on<'i>(
        &mut self,
        awaited: Awaited,
        text: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if self.say_part(output) {
            self.patience.renew();
            self.phase = Phase::Awaiting(awaited);
            return None;
        }
        match awaited {
            Awaited::Authenticate(response) => self.challenged(response, text, output),
            other => {
                let trouble = Trouble::OutOfStep("it asks for more than there is");
                self.fail(other.stage(), trouble, None)
            }
        }
    }

    /// A response that was not asked for.
    pub(super) fn pass_over<'i>(
        &mut self,
        awaited: Awaited,
        octets: usize,
    ) -> Option<Step<Event<'i>>> {
        self.unasked_octets = self.unasked_octets.saturating_add(octets);
        if self.unasked_octets > UNASKED_OCTETS_MAX {
            let trouble = Trouble::TooMuch("responses that nobody asked for");
            return self.fail(awaited.stage(), trouble, None);
        }
        self.phase = Phase::Awaiting(awaited);
        None
    }

    fn no<'i>(
        &mut self,
        awaited: Awaited,
        refusal: Refusal,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let stage = awaited.stage();
        match awaited {
            Awaited::StartTls => self.tls_refused(refusal, output),
            Awaited::Login | Awaited::Authenticate(_) => self.login_refused(refusal, output),
            Awaited::Greeting | Awaited::Capabilities | Awaited::Logout => {
                self.fail(stage, Trouble::Refused, Some(refusal))
            }
            Awaited::List { .. }
            | Awaited::Open(_)
            | Awaited::Search { .. }
            | Awaited::Survey { .. }
            | Awaited::Fetch { .. }
            | Awaited::Flag
            | Awaited::Expunge => {
                self.phase = Phase::Asked;
                Some(Step::Event(Event::Refused(refusal, crate::Ticket::issue())))
            }
        }
    }
}
