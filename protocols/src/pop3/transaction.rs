//! The transaction state: an open maildrop, its listings, its messages on their way out, and what
//! is removed at QUIT. RFC 1939 sections 5 and 6.

use super::command::{Command, Number};
use super::encode::Encoder;
use super::event::{Committed, Entry, Event, Maildrop, Message};
use super::reply::Refusal;
use super::session::{Phase, Pop3, Question, State};
use crate::machine::Ticket;
use crate::{Outbox, Step};
use std::fmt::Write;

/// Lines of listings between two chances to send them.
const LISTED_LINES_MAX: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    Octets,
    Unique,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) entry: Entry,
    deleted: bool,
}

impl Pop3 {
    pub(super) fn transaction(
        &mut self,
        command: Command,
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        match command {
            Command::Capa => self.capabilities(output),
            Command::Stat => {
                let octets =
                    self.left().fold(0, |sum, (_, entry)| entry.octets.saturating_add(sum));
                let _ = write!(output, "+OK {} {octets}\r\n", self.left().count());
            }
            Command::List(number) => self.list(Listing::Octets, number, output),
            Command::Uidl(number) => self.list(Listing::Unique, number, output),
            Command::Retr(number) => return self.retrieve(number, None, output),
            Command::Top(number, lines) => return self.retrieve(number, Some(lines), output),
            Command::Dele(number) => match self.slot(number) {
                Some(slot) => {
                    slot.deleted = true;
                    let _ = write!(output, "+OK Message {number} deleted\r\n");
                }
                None => self.no_such_message(output),
            },
            Command::Noop => output.push(b"+OK\r\n"),
            Command::Rset => {
                if let State::Transaction(slots) = &mut self.state {
                    slots.iter_mut().for_each(|slot| slot.deleted = false);
                    let _ = write!(output, "+OK {} messages\r\n", slots.len());
                }
            }
            Command::Quit => {
                let deleted = self.deleted();
                let event = Event::Commit { deleted, ticket: Ticket::issue() };
                return self.ask(Question::Commit, event);
            }
            Command::User(_) | Command::Pass(_) | Command::Auth { .. } | Command::Stls => {
                self.fault("Already logged in", output);
            }
        }
        None
    }

    fn slots(&self) -> &[Slot] {
        match &self.state {
            State::Transaction(slots) => slots,
            State::Authorization(_) => &[],
        }
    }

    /// What is not marked as deleted, by index.
    fn left(&self) -> impl Iterator<Item = (usize, &Entry)> {
        let left = self.slots().iter().enumerate().filter(|(_, slot)| !slot.deleted);
        left.map(|(index, slot)| (index, &slot.entry))
    }

    fn deleted(&self) -> Vec<usize> {
        let marked = self.slots().iter().enumerate().filter(|(_, slot)| slot.deleted);
        marked.map(|(index, _)| index).collect()
    }

    /// The message with this number, unless it is marked as deleted.
    fn slot(&mut self, number: Number) -> Option<&mut Slot> {
        match &mut self.state {
            State::Transaction(slots) => {
                slots.get_mut(number.checked_sub(1)?).filter(|slot| !slot.deleted)
            }
            State::Authorization(_) => None,
        }
    }

    fn no_such_message(&mut self, output: &mut Outbox) {
        self.fault("No such message", output);
    }

    fn list(&mut self, listing: Listing, number: Option<Number>, output: &mut Outbox) {
        match number {
            None => {
                let _ = write!(output, "+OK {} messages\r\n", self.left().count());
                self.phase = Phase::Listing { listing, next: 0 };
            }
            Some(number) => match self.slot(number) {
                Some(slot) => {
                    output.push(b"+OK ");
                    listing.write(number, &slot.entry, output);
                }
                None => self.no_such_message(output),
            },
        }
    }

    /// The lines of a listing from index `next` on, as far as they may go out in one piece.
    pub(super) fn list_on(
        &mut self,
        listing: Listing,
        next: usize,
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        let room = LISTED_LINES_MAX.saturating_sub(self.listed_lines);
        let mut lines = 0_usize;
        let mut rest = self.slots().iter().enumerate().skip(next);
        for (index, slot) in rest.by_ref().take(room) {
            lines = lines.saturating_add(1);
            if !slot.deleted {
                listing.write(index.saturating_add(1), &slot.entry, output);
            }
        }
        let complete = rest.next().is_none();
        self.listed_lines = self.listed_lines.saturating_add(lines);
        if complete {
            output.push(b".\r\n");
            self.phase = Phase::Command;
        } else {
            self.phase = Phase::Listing { listing, next: next.saturating_add(lines) };
        }
        if self.listed_lines < LISTED_LINES_MAX {
            return None;
        }
        self.listed_lines = 0;
        Some(Step::Event(Event::Relieve))
    }

    fn retrieve(
        &mut self,
        number: Number,
        lines: Option<u64>,
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        let index = number.checked_sub(1).filter(|_| self.slot(number).is_some());
        let Some(index) = index else {
            self.no_such_message(output);
            return None;
        };
        let event = Event::Retrieve { index, lines, ticket: Ticket::issue() };
        self.ask(Question::Message(Encoder::new(lines)), event)
    }

    /// The maildrop, oldest first; a refusal ends the session.
    pub fn answer_open(
        &mut self,
        _: Ticket<Maildrop>,
        answer: Result<Vec<Entry>, Refusal>,
        output: &mut Outbox,
    ) {
        match answer {
            Ok(entries) => {
                let slots: Vec<Slot> =
                    entries.into_iter().map(|entry| Slot { entry, deleted: false }).collect();
                let _ = write!(output, "+OK {} messages\r\n", slots.len());
                self.state = State::Transaction(slots);
                self.phase = Phase::Command;
            }
            Err(refusal) => {
                refusal.write(output);
                self.phase = Phase::Closing;
            }
        }
    }

    /// The message is there; its octets follow.
    pub fn begin_message(&mut self, octets: u64, output: &mut Outbox) {
        match &self.phase {
            Phase::Asked(Question::Message(encoder)) if encoder.is_top() => {
                output.push(b"+OK The top of it\r\n");
            }
            Phase::Asked(_)
            | Phase::Greeting
            | Phase::Command
            | Phase::Sasl(_)
            | Phase::Opening
            | Phase::Listing { .. }
            | Phase::Closing => {
                let _ = write!(output, "+OK {octets} octets\r\n");
            }
        }
    }

    /// The next octets of the message. False once no more are wanted (TOP).
    pub fn write_message(&mut self, piece: &[u8], output: &mut Outbox) -> bool {
        let Phase::Asked(Question::Message(encoder)) = &mut self.phase else { return false };
        encoder.write(piece, output.buffer());
        encoder.wants_more()
    }

    pub fn end_message(&mut self, _: Ticket<Message>, output: &mut Outbox) {
        if let Phase::Asked(Question::Message(encoder)) =
            std::mem::replace(&mut self.phase, Phase::Command)
        {
            encoder.finish(output.buffer());
        }
    }

    /// In the place of [`Pop3::begin_message`].
    pub fn answer_failed(&mut self, _: Ticket<Message>, refusal: &Refusal, output: &mut Outbox) {
        self.phase = Phase::Command;
        refusal.write(output);
    }

    /// The rest of the message can't be had: the session ends, so that nobody takes what was sent
    /// for a whole message.
    pub fn abandon_message(&mut self, _: Ticket<Message>) {
        self.phase = Phase::Closing;
    }

    /// Ends the session; a refusal says that not all could be removed.
    pub fn answer_commit(
        &mut self,
        _: Ticket<Committed>,
        answer: Result<(), Refusal>,
        output: &mut Outbox,
    ) {
        match answer {
            Ok(()) => output.push(b"+OK Goodbye\r\n"),
            Err(refusal) => refusal.write(output),
        }
        self.phase = Phase::Closing;
    }
}

impl Listing {
    fn write(self, number: Number, entry: &Entry, output: &mut Outbox) {
        let _ = match self {
            Listing::Octets => write!(output, "{number} {}\r\n", entry.octets),
            Listing::Unique => write!(output, "{number} {}\r\n", entry.unique),
        };
    }
}
