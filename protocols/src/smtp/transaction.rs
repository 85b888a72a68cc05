//! A transaction, from MAIL to the first octet of its message: what MAIL, RCPT, DATA and BDAT ask,
//! and what their answers make of it.

use super::data::Scanner;
use super::event::{Asked, Event, FutureRelease, Role};
use super::params::{MailParams, RecipientParams, Release};
use super::reply::{Enhanced, Refusal, Reply};
use super::session::{Phase, Question, Smtp};
use crate::address::Address;
use crate::machine::Ticket;
use crate::{Outbox, Step};

/// How far the transaction is.
#[derive(Debug)]
pub(super) enum Transaction {
    Fresh,
    Ready,
    Mail,
    Recipients(usize),
    /// Between chunks; the scanner remembers line ends across them.
    Chunks(usize, Scanner),
}

impl<P> Smtp<P> {
    /// Whether a message is on its way: a stopping server waits for it.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        !matches!(self.transaction, Transaction::Fresh | Transaction::Ready)
    }

    pub(super) fn mail<'i>(
        &mut self,
        from: Option<Address>,
        params: MailParams,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        match self.transaction {
            Transaction::Ready => {}
            Transaction::Fresh => {
                self.out_of_order("Say hello first", output);
                return None;
            }
            Transaction::Mail | Transaction::Recipients(_) | Transaction::Chunks(..) => {
                self.out_of_order("A message is under way", output);
                return None;
            }
        }
        if self.config.role == Role::Submission && self.user.is_none() {
            self.fault(530, Enhanced(5, 7, 0), "Log in first", output);
            return None;
        }
        if params.size.is_some_and(|size| size > self.config.message_octets_max) {
            self.say(Refusal::TOO_BIG.reply().clone(), output);
            return None;
        }
        if params.require_tls && !self.require_tls_offered() {
            self.fault(555, Enhanced(5, 5, 4), "REQUIRETLS needs TLS", output);
            return None;
        }
        match (params.release, self.future_release_offered()) {
            (None, _) => {}
            (Some(_), None) => {
                self.fault(555, Enhanced(5, 5, 4), "Parameter not known", output);
                return None;
            }
            (Some(Release::After(seconds)), Some(most)) if seconds <= most.seconds_max => {}
            (Some(Release::At(time)), Some(most)) if time <= most.latest => {}
            (Some(_), Some(_)) => {
                self.fault(501, Enhanced(5, 5, 4), "Messages are not kept for so long", output);
                return None;
            }
        }
        if !params.smtp_utf8 && from.as_ref().is_some_and(|from| !from.is_ascii()) {
            self.fault(553, Enhanced(5, 6, 7), "That address needs SMTPUTF8", output);
            return None;
        }
        if !self.may_idle(output) {
            return None;
        }
        self.smtp_utf8 = params.smtp_utf8;
        self.ask(Question::Mail, Event::Mail(from, params, Ticket::issue()))
    }

    /// Only over TLS (RFC 8689 section 2). LMTP is the last step: nothing is passed on from it.
    pub(super) fn require_tls_offered(&self) -> bool {
        self.tls && self.config.role != Role::Lmtp
    }

    /// Only our own users leave messages here for later.
    pub(super) fn future_release_offered(&self) -> Option<FutureRelease> {
        self.config.future_release.filter(|_| self.config.role == Role::Submission)
    }

    pub(super) fn recipient<'i>(
        &mut self,
        to: Address,
        params: RecipientParams,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let taken = match self.transaction {
            Transaction::Mail => 0,
            Transaction::Recipients(count) => count,
            Transaction::Fresh | Transaction::Ready => {
                self.out_of_place(503, Enhanced(5, 5, 1), "Say MAIL first", output);
                return None;
            }
            Transaction::Chunks(..) => {
                self.out_of_order("The message is under way", output);
                return None;
            }
        };
        if taken >= self.config.recipients_max {
            // RFC 5321 section 4.5.3.1.10: the client sends the rest in another transaction.
            self.say(Refusal::TOO_MANY_RECIPIENTS.reply().clone(), output);
            return None;
        }
        if !self.smtp_utf8 && !to.is_ascii() {
            self.fault(553, Enhanced(5, 6, 7), "That address needs SMTPUTF8", output);
            return None;
        }
        self.ask(Question::Recipient, Event::Recipient(to, params, Ticket::issue()))
    }

    pub(super) fn data<'i>(&mut self, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        match self.transaction {
            Transaction::Recipients(_) => self.ask(Question::Data, Event::Data(Ticket::issue())),
            Transaction::Mail => {
                self.out_of_place(554, Enhanced(5, 5, 1), "No valid recipients", output);
                None
            }
            Transaction::Fresh | Transaction::Ready => {
                self.out_of_place(503, Enhanced(5, 5, 1), "Say MAIL first", output);
                None
            }
            Transaction::Chunks(..) => {
                self.out_of_order("The message comes by BDAT", output);
                None
            }
        }
    }

    /// RFC 3030 section 2: whatever the answer, the announced octets are not commands.
    pub(super) fn bdat<'i>(&mut self, octets: u64, last: bool) -> Option<Step<Event<'i>>> {
        match std::mem::replace(&mut self.transaction, Transaction::Ready) {
            Transaction::Recipients(count) => {
                self.transaction = Transaction::Recipients(count);
                self.ask(Question::FirstChunk { octets, last }, Event::Data(Ticket::issue()))
            }
            Transaction::Chunks(count, scanner) => {
                self.transaction = Transaction::Recipients(count);
                self.phase = Phase::Chunk { scanner, left: octets, last };
                None
            }
            other => {
                self.transaction = other;
                // Chunks behind one that we have put off could not know.
                if !self.is_put_off {
                    self.strike(1);
                }
                let reply = match self.transaction {
                    Transaction::Mail => Reply::new(554, Enhanced(5, 5, 1), "No valid recipients"),
                    Transaction::Fresh
                    | Transaction::Ready
                    | Transaction::Recipients(_)
                    | Transaction::Chunks(..) => {
                        Reply::new(503, Enhanced(5, 5, 1), "Say MAIL first")
                    }
                };
                self.phase = Phase::Swallow { left: octets, reply };
                None
            }
        }
    }

    /// Answers [`Event::Mail`], [`Event::Recipient`], [`Event::Data`] and [`Event::Client`].
    pub fn answer_command(
        &mut self,
        _: Ticket<Asked>,
        answer: Result<(), Refusal>,
        output: &mut Outbox,
    ) {
        self.clock_due = true;
        let Phase::Asked(question) = std::mem::replace(&mut self.phase, Phase::Command) else {
            return;
        };
        match (question, answer) {
            (Question::Mail, Ok(())) => {
                self.is_put_off = false;
                self.transaction = Transaction::Mail;
                Reply::new(250, Enhanced(2, 1, 0), "Sender fine").write(output);
            }
            (Question::Recipient, Ok(())) => {
                let count = match self.transaction {
                    Transaction::Recipients(count) => count,
                    Transaction::Fresh | Transaction::Ready | Transaction::Mail => 0,
                    Transaction::Chunks(count, _) => count,
                };
                self.transaction = Transaction::Recipients(count.saturating_add(1));
                Reply::new(250, Enhanced(2, 1, 5), "Recipient fine").write(output);
            }
            (Question::Data, Ok(())) => {
                self.phase = Phase::Data(Scanner::new(self.config.message_octets_max));
                Reply::bare(354, "End data with <CR><LF>.<CR><LF>").write(output);
            }
            (Question::FirstChunk { octets, last }, Ok(())) => {
                let scanner = Scanner::new(self.config.message_octets_max);
                self.phase = Phase::Chunk { scanner, left: octets, last };
            }
            (Question::FirstChunk { octets, .. }, Err(refusal)) => {
                self.note_put_off(&refusal);
                self.end_transaction();
                self.phase = Phase::Swallow { left: octets, reply: refusal.reply().clone() };
            }
            (Question::Data, Err(refusal)) => {
                self.note_put_off(&refusal);
                self.end_transaction();
                self.refuse(&refusal, output);
            }
            (Question::Client(address, hello), Ok(())) => self.begin_anew(address, hello),
            (Question::Client(..), Err(refusal)) => self.hang_up(refusal.reply(), output),
            (Question::Recipient, Err(refusal)) => {
                if refusal.is_permanent() {
                    // Unknown recipients are how addresses are guessed.
                    self.strike(1);
                } else {
                    self.note_put_off(&refusal);
                }
                self.refuse(&refusal, output);
            }
            (Question::Mail, Err(refusal)) => {
                self.is_put_off = false;
                self.note_put_off(&refusal);
                self.refuse(&refusal, output);
            }
            // A login has answers of its own.
            (Question::Login | Question::Keys(_), _) => {}
        }
    }

    fn note_put_off(&mut self, refusal: &Refusal) {
        let was = std::mem::replace(&mut self.is_put_off, !refusal.is_permanent());
        if self.is_put_off && !was {
            // The MAIL of this transaction was counted when it came.
            self.idle_commands = self.idle_commands.saturating_sub(1);
        }
    }

    fn refuse(&mut self, refusal: &Refusal, output: &mut Outbox) {
        if refusal.is_permanent() {
            self.say(refusal.reply().clone(), output);
        } else {
            self.say_put_off(refusal.reply().clone(), output);
        }
    }

    /// Forgets the transaction; the engine is told before anything else happens.
    pub(super) fn end_transaction(&mut self) {
        self.reset_due = self.reset_due || self.in_transaction();
        if self.in_transaction() {
            self.transaction = Transaction::Ready;
        }
        self.message_deadline = None;
    }
}
