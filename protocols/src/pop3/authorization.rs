//! The authorization state: USER, PASS, AUTH and their answers. RFC 1939 section 4, RFC 5034.
//! The exchange of AUTH is [`crate::sasl`]'s, as in the other protocols.

use super::command::Command;
use super::event::{Event, Keys, Login};
use super::reply::{Code, Refusal};
use super::session::{LOGIN_STRIKES, Phase, Pop3, Question, STRIKES_MAX, State};
use crate::machine::Ticket;
use crate::sasl::{
    Attempt, Challenge, Credentials, Fault, LoginOutcome, Mechanism, ScramKeys, Turn,
};
use crate::{Outbox, Step};
use std::fmt::Write;

/// Before a login, good commands included: who has nothing to say but CAPA is not a client.
const STRANGER_COMMANDS_MAX: u32 = 100;

impl Pop3 {
    pub(super) fn authorization(
        &mut self,
        command: Command,
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        self.stranger_commands = self.stranger_commands.saturating_add(1);
        if self.stranger_commands > STRANGER_COMMANDS_MAX {
            self.strikes = STRIKES_MAX;
            self.fault("Log in first", output);
            return None;
        }
        match command {
            Command::Capa => self.capabilities(output),
            Command::User(_) | Command::Pass(_) | Command::Auth { .. }
                if !self.passwords_taken() =>
            {
                self.fault("Start TLS first", output);
            }
            // Whether there is such a user is not told (section 7).
            Command::User(name) => {
                self.state = State::Authorization(Some(name));
                output.push(b"+OK Now the password\r\n");
            }
            Command::Pass(password) => return self.pass(password, output),
            Command::Auth { mechanism, initial } => return self.auth(&mechanism, initial, output),
            Command::Stls if self.tls_offered() => {
                output.push(b"+OK Begin TLS\r\n");
                return Some(Step::StartTls);
            }
            Command::Stls => self.fault("TLS is not available", output),
            Command::Quit => {
                output.push(b"+OK Goodbye\r\n");
                self.phase = Phase::Closing;
            }
            Command::Stat
            | Command::List(_)
            | Command::Uidl(_)
            | Command::Retr(_)
            | Command::Top(..)
            | Command::Dele(_)
            | Command::Noop
            | Command::Rset => self.fault("Log in first", output),
        }
        None
    }

    fn pass(&mut self, password: Vec<u8>, output: &mut Outbox) -> Option<Step<Event>> {
        match std::mem::replace(&mut self.state, State::Authorization(None)) {
            State::Authorization(Some(user)) => {
                let credentials = Credentials { user, password };
                self.ask(Question::Login, Event::Login(credentials, Ticket::issue()))
            }
            State::Authorization(None) => {
                self.fault("Say USER first", output);
                None
            }
            transaction @ State::Transaction(_) => {
                self.state = transaction;
                self.fault("Already logged in", output);
                None
            }
        }
    }

    fn auth(
        &mut self,
        mechanism: &[u8],
        initial: Option<Vec<u8>>,
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        let Some(mechanism) = Mechanism::named(mechanism) else {
            self.fault("Mechanism not known", output);
            return None;
        };
        self.login_turn(Attempt::start(mechanism, initial.as_deref()), output)
    }

    pub(super) fn login_turn(&mut self, turn: Turn, output: &mut Outbox) -> Option<Step<Event>> {
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
        let _ = write!(output, "+ {}\r\n", challenge.base64);
        self.phase = Phase::Sasl(challenge.attempt);
    }

    fn login_fault(&mut self, fault: Fault, output: &mut Outbox) {
        self.fault(fault.text(), output);
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

    /// A welcome is not written yet: [`Event::Open`] comes first.
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
                self.phase = Phase::Opening;
            }
            LoginOutcome::Wrong => {
                self.strike(LOGIN_STRIKES);
                self.say(&Refusal::coded(Code::Auth, "Wrong user name or password"), output);
            }
            LoginOutcome::Busy => {
                let text = "Too many logins at once, try again";
                self.say(&Refusal::coded(Code::SysTemp, text), output);
            }
        }
    }
}
