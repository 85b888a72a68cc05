//! AUTHENTICATE: when it is legal, and a login's turns in IMAP's words. RFC 3501 section 6.2.2.
//! The exchange itself is [`crate::sasl`]'s, as in the other protocols.

use super::encode::push;
use super::event::{Event, Keys};
use super::lexer::Fault;
use super::response::{Code, Completion};
use super::session::{Imap, Pending, PendingKind, Reading};
use crate::sasl::{self, Attempt, Challenge, Credentials, Mechanism, ScramKeys, Turn};
use crate::{Outbox, Step, Ticket};

/// An attempt that waits for the client, or for its keys.
#[derive(Debug)]
pub(super) struct Sasl {
    tag: Vec<u8>,
    attempt: Attempt,
}

impl Imap {
    pub(super) fn start_sasl<'i>(
        &mut self,
        tag: Vec<u8>,
        mechanism: &str,
        initial: Option<&[u8]>,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let Some(mechanism) = Mechanism::named(mechanism.as_bytes()) else {
            let refusal = Completion::No(Some(Code::Cannot), "That mechanism is not offered");
            refusal.write(output.buffer(), &tag);
            return None;
        };
        let sends_password = match mechanism {
            Mechanism::Plain | Mechanism::Login => true,
            Mechanism::ScramSha256 => false,
        };
        if sends_password && !self.may_send_passwords() {
            let refusal = Completion::No(Some(Code::PrivacyRequired), "Start TLS first");
            refusal.write(output.buffer(), &tag);
            return None;
        }
        self.login_turn(tag, Attempt::start(mechanism, initial), output)
    }

    /// Takes a line of the client's.
    pub(super) fn sasl_line<'i>(
        &mut self,
        sasl: Sasl,
        line: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        self.login_turn(sasl.tag, sasl.attempt.line(line), output)
    }

    fn login_turn<'i>(
        &mut self,
        tag: Vec<u8>,
        turn: Turn,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let ticket = Ticket::issue();
        let event = match turn {
            Turn::Challenge(challenge) => {
                self.challenge(tag, challenge, output);
                return None;
            }
            Turn::Keys(attempt, user) => {
                self.reading = Reading::Sasl(Sasl { tag, attempt });
                return Some(Step::Event(Event::ScramKeys { user, ticket: Ticket::issue() }));
            }
            Turn::Fault(fault) => {
                self.login_fault(&tag, fault, output);
                return None;
            }
            Turn::Password(Credentials { user, password }) => {
                Event::Login { user, password, ticket }
            }
            Turn::Proved(user) => Event::Verified { user, ticket },
            Turn::Disproved => Event::LoginFailed { ticket },
        };
        self.good();
        self.pending = Some(Pending { tag, kind: PendingKind::Login });
        Some(Step::Event(event))
    }

    fn challenge(&mut self, tag: Vec<u8>, challenge: Challenge, output: &mut Outbox) {
        push(output.buffer(), format_args!("+ {}\r\n", challenge.base64));
        self.reading = Reading::Sasl(Sasl { tag, attempt: challenge.attempt });
    }

    fn login_fault(&mut self, tag: &[u8], fault: sasl::Fault, output: &mut Outbox) {
        let text = match fault {
            sasl::Fault::Cancelled => "Cancelled",
            sasl::Fault::NotBase64 => "That is not base64",
            sasl::Fault::Malformed => "Malformed response",
        };
        self.bad(Some(tag), Fault(text), output);
    }

    /// Gives the keys of a user, and a nonce that is fresh and printable.
    pub fn answer_keys(
        &mut self,
        ticket: Ticket<Keys>,
        keys: ScramKeys,
        nonce: &str,
        output: &mut Outbox,
    ) {
        drop(ticket);
        let Reading::Sasl(sasl) = std::mem::replace(&mut self.reading, Reading::Commands) else {
            return;
        };
        match sasl.attempt.keys(keys, nonce) {
            Ok(challenge) => self.challenge(sasl.tag, challenge, output),
            Err(fault) => self.login_fault(&sasl.tag, fault, output),
        }
    }
}
