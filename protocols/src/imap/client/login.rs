//! The login: AUTHENTICATE where it is offered, else LOGIN. RFC 3501 sections 6.2.2 and 6.2.3.

use super::event::{Event, Refusal, Stage};
use super::session::{Awaited, Client, Phase};
use crate::sasl::client::{
    Exchange, Hidden, Mechanism, Reaction, Secret, challenge_octets, initial_base64,
    response_base64,
};
use crate::wire::remote::Trouble;
use crate::{Outbox, Step};

const KNOWN: [Mechanism; 3] = [Mechanism::Plain, Mechanism::OauthBearer, Mechanism::Xoauth2];

impl Client {
    pub(super) fn log_in<'i>(&mut self, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        let config = std::sync::Arc::clone(&self.config);
        let login = &config.login;
        let mechanism =
            match (self.offers.logins.choose(login, self.encrypted, &KNOWN), &login.secret) {
                (Ok(mechanism), _) => mechanism,
                (Err(Trouble::NoLogin), Secret::Password(password))
                    if !self.offers.login_disabled =>
                {
                    return self.log_in_plainly(&login.user, password, login.in_clear, output);
                }
                // Without TLS everything is withheld (LOGINDISABLED): that is what to
                // tell the operator.
                (Err(Trouble::NoLogin), Secret::Password(_)) if !self.encrypted => {
                    return self.fail_politely(Stage::Login, Trouble::LoginNeedsTls, None, output);
                }
                (Err(trouble), _) => {
                    return self.fail_politely(Stage::Login, trouble, None, output);
                }
            };
        let (exchange, first) = Exchange::start(mechanism, login);
        self.exchange = Some(Box::new(exchange));
        let mut say = self.tagged().text("AUTHENTICATE ").text(mechanism.name());
        let mut waiting = first;
        if let (true, Some(first)) = (self.offers.initial_response, &waiting) {
            say = say.text(" ").text(&initial_base64(first));
            waiting = None;
        }
        self.say(say, Awaited::Authenticate(waiting.map(Hidden)), output);
        None
    }

    fn log_in_plainly<'i>(
        &mut self,
        user: &str,
        password: &str,
        in_clear: bool,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if !(self.encrypted || in_clear) {
            return self.fail_politely(Stage::Login, Trouble::LoginInClear, None, output);
        }
        let say = self.tagged().text("LOGIN ").string(user.as_bytes());
        let say = say.and_then(|say| say.text(" ").string(password.as_bytes()));
        match say {
            Some(say) => {
                self.say(say, Awaited::Login, output);
                None
            }
            None => {
                let trouble = Trouble::Ours("a user or password with a NUL in it");
                self.fail_politely(Stage::Login, trouble, None, output)
            }
        }
    }

    pub(super) fn challenged<'i>(
        &mut self,
        response: Option<Hidden>,
        challenge: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let response = match response {
            Some(Hidden(response)) => response,
            None => {
                let reaction = challenge_octets(challenge)
                    .zip(self.exchange.as_mut())
                    .map(|(challenge, exchange)| exchange.challenge(&challenge));
                match reaction {
                    Some(Reaction::Respond(response)) => response,
                    Some(Reaction::Cancel(why)) => {
                        return self.fail(Stage::Login, Trouble::Login(why), None);
                    }
                    Some(Reaction::Derive(_)) | None => {
                        let trouble = Trouble::Login("its challenge is not base64");
                        return self.fail(Stage::Login, trouble, None);
                    }
                }
            }
        };
        output.push(response_base64(&response).as_bytes());
        output.push(b"\r\n");
        self.patience.answered();
        self.phase = Phase::Awaiting(Awaited::Authenticate(None));
        None
    }

    pub(super) fn login_refused<'i>(
        &mut self,
        mut refusal: Refusal,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if let Some(why) = self.exchange.as_ref().and_then(|exchange| exchange.refusal()) {
            refusal.text = format!("{} ({why})", refusal.text);
        }
        self.fail_politely(Stage::Login, Trouble::Refused, Some(refusal), output)
    }

    pub(super) fn let_in<'i>(&mut self) -> Option<Step<Event<'i>>> {
        let exchange = self.exchange.take();
        if exchange.is_some_and(|exchange| !exchange.may_end()) {
            let trouble = Trouble::Login("it let us in without what it had to prove");
            return self.fail(Stage::Login, trouble, None);
        }
        self.logged_in = true;
        self.phase = Phase::Hello;
        None
    }
}
