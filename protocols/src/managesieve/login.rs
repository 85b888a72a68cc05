//! AUTHENTICATE, and a login's turns in ManageSieve's words. RFC 5804 section 2.1. The exchange
//! itself is [`crate::sasl`]'s, as in the other protocols: challenges are strings of base64, and so
//! are responses; a star cancels. What a mechanism says at its end is a challenge, answered by an
//! empty response, rather than the SASL response code.

use super::command;
use super::event::{Event, Keys, Login};
use super::reply::{Code, Refusal, string};
use super::session::{LOGIN_STRIKES, ManageSieve, Phase, Question};
use crate::machine::Ticket;
use crate::sasl::{Attempt, Challenge, Fault, LoginOutcome, Mechanism, ScramKeys, Turn};
use crate::{Outbox, Step};

impl ManageSieve {
    pub(super) fn authenticate(
        &mut self,
        mechanism: &[u8],
        initial: Option<&[u8]>,
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        let mechanism = match Mechanism::named(mechanism) {
            Some(mechanism @ (Mechanism::Plain | Mechanism::ScramSha256)) => mechanism,
            // PLAIN says the same and is a standard.
            Some(Mechanism::Login) => {
                let text = "Use PLAIN or SCRAM-SHA-256";
                self.fault(&Refusal::coded(Code::AuthTooWeak, text), output);
                return None;
            }
            None => {
                self.fault(&Refusal::plain("That mechanism is not offered"), output);
                return None;
            }
        };
        if mechanism == Mechanism::Plain && !self.passwords_taken() {
            self.fault(&Refusal::coded(Code::EncryptNeeded, "Start TLS first"), output);
            return None;
        }
        // An empty string is an empty response; what other protocols write as `=`.
        let initial = initial.map(|text| if text.is_empty() { b"=" } else { text });
        self.login_turn(Attempt::start(mechanism, initial), output)
    }

    pub(super) fn response(
        &mut self,
        attempt: Attempt,
        collected: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        match command::response(collected) {
            Ok(response) => self.login_turn(attempt.line(&response), output),
            Err(_) => {
                self.fault(&Refusal::plain("A string was expected"), output);
                None
            }
        }
    }

    fn login_turn(&mut self, turn: Turn, output: &mut Outbox) -> Option<Step<Event>> {
        let (question, event) = match turn {
            Turn::Challenge(challenge) => {
                self.challenge(challenge, output);
                return None;
            }
            Turn::Fault(fault) => {
                self.login_fault(fault, output);
                return None;
            }
            Turn::Keys(attempt, user) => {
                (Question::Keys(attempt), Event::ScramKeys(user, Ticket::issue()))
            }
            Turn::Password(credentials) => {
                (Question::Login, Event::Login(credentials, Ticket::issue()))
            }
            Turn::Proved(user) => (Question::Login, Event::Proved(user, Ticket::issue())),
            Turn::Disproved => (Question::Login, Event::Disproved(Ticket::issue())),
        };
        self.phase = Phase::Asked(question);
        Some(Step::Event(event))
    }

    fn challenge(&mut self, challenge: Challenge, output: &mut Outbox) {
        string(challenge.base64.as_bytes(), output);
        output.push(b"\r\n");
        self.phase = Phase::Sasl(challenge.attempt);
    }

    fn login_fault(&mut self, fault: Fault, output: &mut Outbox) {
        self.fault(&Refusal::plain(fault.text()), output);
    }

    /// `nonce` is fresh, random and printable; keys of users who don't exist are made up.
    pub fn answer_keys(
        &mut self,
        _: Ticket<Keys>,
        keys: ScramKeys,
        nonce: &str,
        output: &mut Outbox,
    ) {
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
        self.phase = Phase::Command;
        match outcome {
            LoginOutcome::Welcome => {
                self.user = Some(user.to_owned());
                self.strikes = 0;
                output.push(b"OK \"Logged in\"\r\n");
            }
            LoginOutcome::Wrong => {
                self.strike(LOGIN_STRIKES);
                self.say(&Refusal::plain("Wrong user name or password"), output);
            }
            LoginOutcome::Busy => {
                let refusal = Refusal::coded(Code::TryLater, "Too many logins at once, try again");
                self.say(&refusal, output);
            }
        }
    }
}
