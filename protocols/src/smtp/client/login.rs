//! AUTH. RFC 4954.

use super::event::{Derived, Event, Stage};
use super::heard::{Class, Heard};
use super::session::{Client, Phase, Sent};
use crate::Outbox;
use crate::machine::Ticket;
use crate::sasl::client::{
    Exchange, Hidden, Mechanism, Reaction, Salted, challenge_octets, initial_base64,
    response_base64,
};
use crate::wire::remote::Trouble;

/// RFC 4954 section 4: AUTH is a line as all commands are (RFC 5321 section 4.5.3.1.4); a longer
/// response waits until it is asked for.
const COMMAND_OCTETS_MAX: usize = 512;

impl Client {
    pub(super) fn log_in(&mut self, output: &mut Outbox) {
        let config = std::sync::Arc::clone(&self.config);
        let Some(login) = &config.login else { return };
        match self.offers.logins.choose(login, self.encrypted, &Mechanism::ALL) {
            Ok(mechanism) => {
                let (exchange, first) = Exchange::start(mechanism, login);
                self.exchange = Some(Box::new(exchange));
                let name = mechanism.name();
                let initial = first.as_deref().map(|first| format!(" {}", initial_base64(first)));
                let line = format!("AUTH {name}{}\r\n", initial.unwrap_or_default());
                if line.len() <= COMMAND_OCTETS_MAX {
                    self.say(&line, Sent::Auth, output);
                } else {
                    self.first_response = first.map(Hidden);
                    self.say(&format!("AUTH {name}\r\n"), Sent::Auth, output);
                }
            }
            Err(trouble) => self.login_failed(trouble, None, output),
        }
    }

    pub(super) fn heard_login(&mut self, mut heard: Heard, output: &mut Outbox) {
        let Some(mut exchange) = self.exchange.take() else { return };
        match heard.class() {
            Class::Yes if exchange.may_end() => {
                self.logged_in = true;
                self.ready();
            }
            Class::Yes => {
                let trouble = Trouble::Login("it let us in without what it had to prove");
                self.fail(Stage::Login, trouble, Some(heard));
            }
            Class::No => {
                if let Some(refusal) = exchange.refusal() {
                    heard.text = format!("{} ({refusal})", heard.text);
                }
                self.login_failed(Trouble::Refused, Some(heard), output);
            }
            Class::GoOn => {
                let challenge = challenge_octets(heard.text.as_bytes());
                let reaction = match (self.first_response.take(), challenge) {
                    (Some(Hidden(first)), _) => Reaction::Respond(first),
                    (None, Some(challenge)) => exchange.challenge(&challenge),
                    (None, None) => Reaction::Cancel("its challenge is not base64"),
                };
                self.exchange = Some(exchange);
                self.react(reaction, output);
            }
        }
    }

    fn react(&mut self, reaction: Reaction, output: &mut Outbox) {
        match reaction {
            Reaction::Respond(response) => {
                let line = format!("{}\r\n", response_base64(&response));
                self.say(&line, Sent::Auth, output);
            }
            Reaction::Derive(derivation) => {
                self.phase = Phase::Asked;
                self.due = Some(Event::Derive(derivation, Ticket::issue()));
            }
            Reaction::Cancel(why) => self.fail(Stage::Login, Trouble::Login(why), None),
        }
    }

    /// Answers [`Event::Derive`].
    pub fn answer_derived(&mut self, _: Ticket<Derived>, salted: &Salted, output: &mut Outbox) {
        if self.phase != Phase::Asked {
            return;
        }
        self.phase = Phase::Opening;
        if let Some(exchange) = &mut self.exchange {
            let response = exchange.derived(salted);
            self.react(Reaction::Respond(response), output);
        }
    }
}
