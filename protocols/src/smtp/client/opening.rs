//! From the connection to a session that takes messages: greeting, hellos, STARTTLS, and the login
//! as configured. RFC 5321 sections 3.1 and 3.2, RFC 3207.

use super::event::{Event, Stage};
use super::heard::{Class, Heard};
use super::offers::Offers;
use super::session::{Client, Phase, Sent};
use crate::Outbox;
use crate::wire::remote::{Tls, Trouble};

impl Client {
    /// The same, and the server is told that we leave (RFC 5321 section 3.1).
    pub(super) fn fail_politely(
        &mut self,
        stage: Stage,
        trouble: Trouble,
        heard: Option<Heard>,
        output: &mut Outbox,
    ) {
        output.push(b"QUIT\r\n");
        self.fail(stage, trouble, heard);
    }

    pub(super) fn say_hello(&mut self, output: &mut Outbox) {
        self.phase = Phase::Opening;
        let verb = if self.config.lmtp { "LHLO" } else { "EHLO" };
        let line = format!("{verb} {}\r\n", self.config.hello);
        self.offers = Offers::default();
        self.say(&line, Sent::Ehlo, output);
    }

    pub(super) fn opened(&mut self, sent: Sent, heard: Heard, output: &mut Outbox) {
        match (sent, heard.class()) {
            (_, Class::GoOn) => {
                let trouble = Trouble::OutOfStep("a reply of 3xx to what has no more");
                self.fail(sent.stage(), trouble, Some(heard));
            }
            (_, Class::No) if heard.is_farewell() => {
                self.fail(sent.stage(), Trouble::Refused, Some(heard));
            }
            (Sent::Greeting, Class::Yes) => self.phase = Phase::Hello,
            (Sent::Ehlo | Sent::Helo, Class::Yes) => self.greeted(output),
            (Sent::Ehlo, Class::No) if heard.code >= 500 && !self.config.lmtp => {
                self.offers = Offers::default();
                let line = format!("HELO {}\r\n", self.config.hello);
                self.say(&line, Sent::Helo, output);
            }
            (Sent::StartTls, Class::Yes) => self.phase = Phase::StartTls,
            (Sent::StartTls, Class::No) if self.config.tls == Tls::WhenOffered => {
                self.tls_refused = true;
                self.greeted(output);
            }
            (_, Class::No | Class::Yes) => {
                self.fail_politely(sent.stage(), Trouble::Refused, Some(heard), output);
            }
        }
    }

    /// A hello was answered: TLS and the login as configured.
    fn greeted(&mut self, output: &mut Outbox) {
        if !self.encrypted && !self.tls_refused {
            match (self.config.tls, self.offers.start_tls) {
                (Tls::WhenOffered | Tls::Required, true) => {
                    self.say("STARTTLS\r\n", Sent::StartTls, output);
                    return;
                }
                (Tls::Required, false) => {
                    self.fail_politely(Stage::StartTls, Trouble::NoTls, None, output);
                    return;
                }
                (Tls::Active | Tls::Never | Tls::WhenOffered, _) => {}
            }
        }
        match &self.config.login {
            Some(_) if !self.logged_in => self.log_in(output),
            Some(_) | None => self.ready(),
        }
    }

    pub(super) fn login_failed(
        &mut self,
        trouble: Trouble,
        heard: Option<Heard>,
        output: &mut Outbox,
    ) {
        self.fail_politely(Stage::Login, trouble, heard, output);
    }

    pub(super) fn ready(&mut self) {
        self.phase = Phase::Idle;
        self.due = Some(Event::Ready);
    }
}
