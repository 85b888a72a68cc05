//! AUTH: who may log in when, and a login's turns in SMTP's words. RFC 4954.
//! The exchange itself is [`crate::sasl`]'s, as in the other protocols.

use super::event::{Event, Keys, Login, Role};
use super::reply::{Enhanced, Reply};
use super::session::{LOGIN_STRIKES, Phase, Question, Smtp};
use super::transaction::Transaction;
use crate::machine::Ticket;
use crate::sasl::{Attempt, Challenge, Fault, LoginOutcome, Mechanism, ScramKeys, Turn};
use crate::{Outbox, Step};
use std::fmt::Write;

impl<P> Smtp<P> {
    pub(super) fn auth_offered(&self) -> bool {
        self.config.role == Role::Submission && (self.tls || self.config.plaintext_auth)
    }

    pub(super) fn auth<'i>(
        &mut self,
        mechanism: &[u8],
        initial: Option<Vec<u8>>,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if self.config.role != Role::Submission {
            self.fault(502, Enhanced(5, 5, 1), "No logins here; use the submission port", output);
        } else if !self.auth_offered() {
            self.fault(538, Enhanced(5, 7, 11), "Start TLS first", output);
        } else if self.user.is_some()
            || matches!(self.transaction, Transaction::Fresh)
            || self.in_transaction()
        {
            self.out_of_order("No login now", output);
        } else if let Some(mechanism) = Mechanism::named(mechanism) {
            return self.login_turn(Attempt::start(mechanism, initial.as_deref()), output);
        } else {
            self.fault(504, Enhanced(5, 5, 4), "Mechanism not known", output);
        }
        None
    }

    pub(super) fn login_turn<'i>(
        &mut self,
        turn: Turn,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        match turn {
            Turn::Challenge(challenge) => {
                self.challenge(challenge, output);
                None
            }
            Turn::Password(credentials) => {
                self.ask(Question::Login, Event::Login(credentials, Ticket::issue()))
            }
            Turn::Keys(attempt, user) => {
                self.ask(Question::Keys(attempt), Event::ScramKeys(user, Ticket::issue()))
            }
            Turn::Proved(user) => self.ask(Question::Login, Event::Proved(user, Ticket::issue())),
            Turn::Disproved => self.ask(Question::Login, Event::Disproved(Ticket::issue())),
            Turn::Fault(fault) => {
                self.login_fault(fault, output);
                None
            }
        }
    }

    fn challenge(&mut self, challenge: Challenge, output: &mut Outbox) {
        let _ = write!(output, "334 {}\r\n", challenge.base64);
        self.phase = Phase::Sasl(challenge.attempt);
    }

    fn login_fault(&mut self, fault: Fault, output: &mut Outbox) {
        let enhanced = match fault {
            Fault::Cancelled => Enhanced(5, 7, 0),
            Fault::NotBase64 | Fault::Malformed => Enhanced(5, 5, 2),
        };
        self.fault(501, enhanced, fault.text(), output);
    }

    /// `nonce` is fresh, random and printable; keys of users who don't exist are made up.
    pub fn answer_keys(
        &mut self,
        _: Ticket<Keys>,
        keys: ScramKeys,
        nonce: &str,
        output: &mut Outbox,
    ) {
        self.clock_due = true;
        let Phase::Asked(Question::Keys(attempt)) =
            std::mem::replace(&mut self.phase, Phase::Command)
        else {
            return;
        };
        match attempt.keys(keys, nonce) {
            Ok(challenge) => self.challenge(challenge, output),
            Err(fault) => self.login_fault(fault, output),
        }
    }

    pub fn answer_login(
        &mut self,
        _: Ticket<Login>,
        outcome: LoginOutcome,
        user: &str,
        output: &mut Outbox,
    ) {
        self.clock_due = true;
        self.phase = Phase::Command;
        match outcome {
            LoginOutcome::Welcome => {
                self.user = Some(user.to_owned());
                Reply::new(235, Enhanced(2, 7, 0), "Welcome").write(output);
            }
            LoginOutcome::Wrong => {
                self.strike(LOGIN_STRIKES);
                self.say(Reply::new(535, Enhanced(5, 7, 8), "Wrong user name or password"), output);
            }
            LoginOutcome::Busy => {
                Reply::new(454, Enhanced(4, 7, 0), "Too many logins at once, try again")
                    .write(output);
            }
        }
    }
}
