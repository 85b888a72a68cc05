//! Capabilities, STLS as configured, and the login: USER and PASS where they are offered, since
//! every server has them; else AUTH. APOP no: its MD5 proves little, and it wants the password in
//! the clear on the server.

use super::event::{Event, Refusal, Stage};
use super::session::{Awaited, Client, Phase};
use crate::sasl::client::{
    Exchange, Hidden, Mechanism, Reaction, Secret, challenge_octets, initial_base64,
    response_base64,
};
use crate::wire::remote::{Tls, Trouble};
use crate::{Outbox, Step};

const KNOWN: [Mechanism; 3] = [Mechanism::Plain, Mechanism::OauthBearer, Mechanism::Xoauth2];
/// RFC 5034 section 4, without the CRLF: a longer response waits until it is asked for.
const COMMAND_OCTETS_MAX: usize = 253;

const CAPABILITIES_MAX: u32 = 256;

impl Client {
    /// RFC 2449 section 6.
    pub(super) fn capability<'i>(
        &mut self,
        count: u32,
        line: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if line == b"." {
            self.patience.answered();
            return self.introduced(output);
        }
        if count >= CAPABILITIES_MAX {
            let trouble = Trouble::TooMuch("the lines of a reply");
            return self.fail(Stage::Capabilities, trouble, None);
        }
        let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        match words.next().unwrap_or_default().to_ascii_uppercase().as_slice() {
            b"STLS" => self.offers.start_tls = true,
            b"USER" => self.offers.user = true,
            b"SASL" => words.for_each(|name| self.offers.logins.add(name)),
            _ => {}
        }
        self.phase = Phase::Awaiting(Awaited::CapabilityLines(count.saturating_add(1)));
        None
    }

    /// The capabilities are known: TLS as configured, then the login.
    pub(super) fn introduced<'i>(&mut self, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        if !self.encrypted && !self.tls_refused {
            match (self.config.tls, self.offers.start_tls) {
                (Tls::WhenOffered | Tls::Required, true) => {
                    self.say("STLS", Awaited::StartTls, output);
                    return None;
                }
                (Tls::Required, false) => {
                    return self.fail_politely(Stage::StartTls, Trouble::NoTls, None, output);
                }
                (Tls::Active | Tls::Never | Tls::WhenOffered, _) => {}
            }
        }
        self.log_in(output)
    }

    pub(super) fn log_in<'i>(&mut self, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        let config = std::sync::Arc::clone(&self.config);
        let login = &config.login;
        let by_password = matches!(login.secret, Secret::Password(_));
        let sasl_plain = self.offers.logins.has(Mechanism::Plain);
        if by_password && (self.offers.user || !sasl_plain) {
            if !(self.encrypted || login.in_clear) {
                let trouble = Trouble::LoginInClear;
                return self.fail_politely(Stage::Login, trouble, None, output);
            }
            return self.say_word("USER", &login.user, Awaited::User, output);
        }
        match self.offers.logins.choose(login, self.encrypted, &KNOWN) {
            Err(trouble) => self.fail_politely(Stage::Login, trouble, None, output),
            Ok(mechanism) => {
                let (exchange, first) = Exchange::start(mechanism, login);
                self.exchange = Some(Box::new(exchange));
                let name = mechanism.name();
                let initial = first.as_deref().map(initial_base64).unwrap_or_default();
                let line = format!("AUTH {name} {initial}");
                if line.len() <= COMMAND_OCTETS_MAX {
                    self.say(&line, Awaited::Auth(None), output);
                } else {
                    self.say(&format!("AUTH {name}"), Awaited::Auth(first.map(Hidden)), output);
                }
                None
            }
        }
    }

    /// A command with the rest of its line as its argument.
    fn say_word<'i>(
        &mut self,
        verb: &str,
        word: &str,
        awaited: Awaited,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if word.contains(['\r', '\n', '\0']) {
            let trouble = Trouble::Ours("a user or password with a line end in it");
            return self.fail_politely(Stage::Login, trouble, None, output);
        }
        self.say(&format!("{verb} {word}"), awaited, output);
        None
    }

    pub(super) fn say_password<'i>(&mut self, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        let config = std::sync::Arc::clone(&self.config);
        match &config.login.secret {
            Secret::Password(secret) | Secret::Token(secret) => {
                self.say_word("PASS", secret, Awaited::Password, output)
            }
        }
    }

    pub(super) fn challenged<'i>(
        &mut self,
        response: Option<Hidden>,
        challenge: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if let Some(Hidden(response)) = response {
            self.say(&response_base64(&response), Awaited::Auth(None), output);
            return None;
        }
        let exchange = self.exchange.as_mut();
        let reaction = challenge_octets(challenge)
            .zip(exchange)
            .map(|(challenge, exchange)| exchange.challenge(&challenge));
        match reaction {
            Some(Reaction::Respond(response)) => {
                self.say(&response_base64(&response), Awaited::Auth(None), output);
                None
            }
            Some(Reaction::Cancel(why)) => self.fail(Stage::Login, Trouble::Login(why), None),
            Some(Reaction::Derive(_)) | None => {
                let trouble = Trouble::Login("its challenge is not base64");
                self.fail(Stage::Login, trouble, None)
            }
        }
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

    pub(super) fn logged_in<'i>(&mut self, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        let exchange = self.exchange.take();
        if exchange.is_some_and(|exchange| !exchange.may_end()) {
            let trouble = Trouble::Login("it let us in without what it had to prove");
            return self.fail(Stage::Login, trouble, None);
        }
        self.say("STAT", Awaited::Count, output);
        None
    }
}

#[cfg(test)]
mod tests {
    use crate::pop3::client::{Client, Config};
    use crate::sasl::client::{Login, Secret};
    use crate::wire::remote::Tls;
    use crate::{Machine, Outbox, Tick};
    use std::sync::Arc;

    /// RFC 2449 section 4: 255 octets with the CRLF.
    #[test]
    fn no_command_is_longer_than_servers_read() {
        let mut longest = 0;
        for octets in 100..200 {
            let secret = Secret::Token("t".repeat(octets));
            let login = Login { user: "user".into(), secret, nonce: "n".into(), in_clear: false };
            let config = Config { tls: Tls::Active, login, messages_max: 1 };
            let (mut client, mut output) = (Client::new(Arc::new(config)), Outbox::new());
            let _ = client.step(Tick(0), &mut &b"+OK\r\n"[..], &mut output);
            output.clear();
            let _ = client.step(Tick(0), &mut &b"+OK\r\nSASL XOAUTH2\r\n.\r\n"[..], &mut output);
            assert!(output.as_bytes().starts_with(b"AUTH XOAUTH2"));
            longest = longest.max(output.len());
        }
        assert!((250..=255).contains(&longest), "{longest}");
    }
}
