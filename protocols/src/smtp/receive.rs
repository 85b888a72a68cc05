//! The octets of a message, by DATA or in chunks, and the answer to their end. Octets that nobody
//! wants are swallowed here, so that they are not taken for commands.

use super::data::{Found, Scanner};
use super::event::{Answer, Ended, Event, Role};
use super::reply::{Enhanced, Refusal, Reply};
use super::session::{Phase, Smtp};
use super::transaction::Transaction;
use crate::machine::Ticket;
use crate::{Outbox, Step};

impl<P> Smtp<P> {
    /// Whether input is message octets, not commands.
    pub(super) fn takes_octets(&self) -> bool {
        match self.phase {
            Phase::Data(_) | Phase::Chunk { .. } | Phase::Swallow { .. } => true,
            Phase::Greeting
            | Phase::Command
            | Phase::Sasl(_)
            | Phase::Asked(_)
            | Phase::Ended
            | Phase::Closing => false,
        }
    }

    pub(super) fn receive<'i>(
        &mut self,
        mut scanner: Scanner,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let found = scanner.data(input);
        let (phase, step) = match found {
            Found::Body(bytes) => {
                let step = (!bytes.is_empty()).then_some(Step::Event(Event::Body(bytes)));
                (Phase::Data(scanner), step)
            }
            Found::NeedInput => (Phase::Data(scanner), Some(Step::NeedInput)),
            Found::End => return self.message_ended(&scanner, output),
        };
        self.phase = phase;
        step
    }

    pub(super) fn receive_chunk<'i>(
        &mut self,
        mut scanner: Scanner,
        left: u64,
        last: bool,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if left == 0 {
            return self.chunk_ended(scanner, last, output);
        }
        if input.is_empty() {
            self.phase = Phase::Chunk { scanner, left, last };
            return Some(Step::NeedInput);
        }
        let taken = take(input, left);
        let found = scanner.chunk(taken);
        let left = left.saturating_sub(octets(taken));
        self.phase = Phase::Chunk { scanner, left, last };
        match found {
            Found::Body(bytes) if !bytes.is_empty() => Some(Step::Event(Event::Body(bytes))),
            Found::Body(_) | Found::NeedInput | Found::End => None,
        }
    }

    fn chunk_ended<'i>(
        &mut self,
        mut scanner: Scanner,
        last: bool,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if last {
            scanner.end_of_chunks();
            return self.message_ended(&scanner, output);
        }
        if let Some(fault) = scanner.fault() {
            let reply = fault.reply().clone();
            self.end_transaction();
            self.phase = Phase::Command;
            self.say(reply, output);
            return None;
        }
        let count = match self.transaction {
            Transaction::Recipients(count) | Transaction::Chunks(count, _) => count,
            Transaction::Fresh | Transaction::Ready | Transaction::Mail => 0,
        };
        self.transaction = Transaction::Chunks(count, scanner);
        self.phase = Phase::Command;
        Reply::new(250, Enhanced(2, 0, 0), "Chunk taken, go on").write(output);
        None
    }

    fn message_ended<'i>(
        &mut self,
        scanner: &Scanner,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        self.message_deadline = None;
        let Some(fault) = scanner.fault() else {
            self.phase = Phase::Ended;
            return Some(Step::Event(Event::End(Ticket::issue())));
        };
        for _ in 0..self.answers_due() {
            fault.reply().write(output);
        }
        self.end_transaction();
        self.sender_named = false;
        self.phase = Phase::Command;
        self.strike(1);
        None
    }

    pub(super) fn swallow<'i>(
        &mut self,
        left: u64,
        reply: Reply,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let left = left.saturating_sub(octets(take(input, left)));
        if left > 0 {
            self.phase = Phase::Swallow { left, reply };
            return Some(Step::NeedInput);
        }
        self.phase = Phase::Command;
        if !self.in_transaction() {
            self.message_deadline = None;
        }
        if self.is_put_off {
            self.say_put_off(reply, output);
        } else {
            self.say(reply, output);
        }
        None
    }

    /// Answers [`Event::End`]: one answer, or in LMTP one for each recipient that was taken, in
    /// order. The peer gets exactly as many: in place of one that is missing, 451.
    pub fn answer_end(&mut self, _: Ticket<Ended>, answers: Vec<Answer<P>>, output: &mut Outbox) {
        self.clock_due = true;
        let mut answers = answers.into_iter();
        for _ in 0..self.answers_due() {
            let reply = match answers.next() {
                Some(Answer::Accepted(_proof, text)) => {
                    self.put_off_commands = 0;
                    Reply::new(250, Enhanced(2, 0, 0), "").with_text(text)
                }
                Some(Answer::Refused(refusal)) => refusal.reply().clone(),
                None => Refusal::NO_STORE.reply().clone(),
            };
            reply.write_in(self.smtp_utf8, output);
        }
        self.idle_commands = 0;
        self.is_put_off = false;
        self.sender_named = false;
        self.transaction = Transaction::Ready;
        self.phase = Phase::Command;
    }

    /// RFC 2033 section 4.2: LMTP answers the end of data once for each recipient that was taken.
    fn answers_due(&self) -> usize {
        match (self.config.role, &self.transaction) {
            (Role::Lmtp, Transaction::Recipients(count) | Transaction::Chunks(count, _)) => *count,
            (Role::Lmtp, Transaction::Fresh | Transaction::Ready | Transaction::Mail) => 1,
            (Role::Mx | Role::Submission, _) => 1,
        }
    }
}

/// Takes at most `most` octets from the front of the input.
fn take<'i>(input: &mut &'i [u8], most: u64) -> &'i [u8] {
    let count = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    let (taken, rest) = input.split_at_checked(count).unwrap_or((input, b""));
    *input = rest;
    taken
}

fn octets(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
