//! SMTP, submission and LMTP, with a world that refuses by name.
//!
//! Senders: `busy@` is put off, `full@` finds no room at DATA, `loop@` is refused after its
//! message. Recipients: `nobody@` does not exist, `full@` has a full mailbox, other domains than
//! `example.test` are not ours unless the client has logged in; in LMTP, `late@` is taken and then
//! refused after the message.

use super::{SCRAM_NONCE, Verdict, check, scram_keys};
use crate::laws::Subject;
use crate::transcript::Witness;
use protocols::Outbox;
use protocols::smtp::session::LoginOutcome;
use protocols::smtp::{Answer, Config, Event, FutureRelease, Refusal, Role, Smtp};
use std::sync::Arc;

/// What the tests offer; small, so that limits are near.
pub const MESSAGE_OCTETS_MAX: u64 = 100_000;
pub const RECIPIENTS_MAX: usize = 5;
/// 2026-11-26T16:22:03Z.
const LATEST: u64 = 1_795_710_123;
/// A gateway's client that is kept out.
const BANNED: &str = "192.0.2.66";

/// Stands for the store's receipt.
#[derive(Debug)]
pub struct Receipt;

pub struct SmtpSubject {
    machine: Smtp<Receipt>,
    role: Role,
    sender: String,
    recipients: Vec<String>,
    message: Vec<u8>,
    /// The last message that was taken.
    pub taken: Option<Vec<u8>>,
}

fn config(role: Role, plaintext_auth: bool) -> Config {
    Config {
        hostname: "mx.example.test".into(),
        postmaster_domain: "example.test".into(),
        role,
        message_octets_max: MESSAGE_OCTETS_MAX,
        recipients_max: RECIPIENTS_MAX,
        tls_available: true,
        plaintext_auth,
        future_release: Some(FutureRelease { seconds_max: 86_400, latest: LATEST }),
        xclient: false,
    }
}

impl SmtpSubject {
    #[must_use]
    pub fn new(role: Role, tls: bool, plaintext_auth: bool) -> SmtpSubject {
        SmtpSubject::with(config(role, plaintext_auth), tls)
    }

    /// To a gateway that is known.
    #[must_use]
    pub fn for_gateway() -> SmtpSubject {
        let usual = config(Role::Mx, false);
        SmtpSubject::with(Config { tls_available: false, xclient: true, ..usual }, false)
    }

    /// The same, where TLS may be started.
    #[must_use]
    pub fn for_gateway_with_tls() -> SmtpSubject {
        SmtpSubject::with(Config { xclient: true, ..config(Role::Mx, false) }, false)
    }

    fn with(config: Config, tls: bool) -> SmtpSubject {
        SmtpSubject {
            role: config.role,
            machine: Smtp::new(Arc::new(config), tls),
            sender: String::new(),
            recipients: Vec::new(),
            message: Vec::new(),
            taken: None,
        }
    }

    fn judge(&self, recipient: &str) -> Result<(), Refusal> {
        match recipient.split_once('@') {
            Some(("nobody", _)) => Err(Refusal::NO_SUCH_USER),
            Some(("full", _)) => Err(Refusal::MAILBOX_FULL),
            Some((_, "example.test" | "mx.example.test")) => Ok(()),
            Some(_) if self.machine.user().is_some() => Ok(()),
            Some(_) | None => Err(Refusal::RELAY_DENIED),
        }
    }

    fn forget(&mut self) {
        self.recipients.clear();
        self.message.clear();
    }

    fn answers(&self) -> Vec<Answer<Receipt>> {
        let accepted = || Answer::Accepted(Receipt, "Stored as 1".into());
        if self.sender.starts_with("loop@") {
            let refused = || Answer::Refused(Refusal::LOOP);
            return match self.role {
                Role::Lmtp => self.recipients.iter().map(|_| refused()).collect(),
                Role::Mx | Role::Submission => vec![refused()],
            };
        }
        match self.role {
            Role::Mx | Role::Submission => vec![accepted()],
            Role::Lmtp => self
                .recipients
                .iter()
                .map(|recipient| {
                    if recipient.starts_with("late@") {
                        Answer::Refused(Refusal::MAILBOX_FULL)
                    } else {
                        accepted()
                    }
                })
                .collect(),
        }
    }
}

fn outcome(verdict: Verdict) -> LoginOutcome {
    match verdict {
        Verdict::Welcome => LoginOutcome::Welcome,
        Verdict::Wrong => LoginOutcome::Wrong,
        Verdict::Busy => LoginOutcome::Busy,
    }
}

impl Subject for SmtpSubject {
    type Machine = Smtp<Receipt>;

    fn machine(&mut self) -> &mut Smtp<Receipt> {
        &mut self.machine
    }

    fn answer(&mut self, event: Event<'_>, output: &mut Outbox) -> Option<String> {
        let told = match &event {
            Event::Body(_) => None,
            Event::End(_) => Some(format!("End of {}", self.message.escape_ascii())),
            event => Some(format!("{event:?}")),
        };
        match event {
            Event::Login(credentials, ticket) => {
                let outcome = outcome(check(&credentials));
                self.machine.answer_login(ticket, outcome, &credentials.user, output);
            }
            Event::ScramKeys(_, ticket) => {
                self.machine.answer_keys(ticket, scram_keys(), SCRAM_NONCE, output);
            }
            Event::Proved(user, ticket) => {
                self.machine.answer_login(ticket, LoginOutcome::Welcome, &user, output);
            }
            Event::Disproved(ticket) => {
                self.machine.answer_login(ticket, LoginOutcome::Wrong, "", output);
            }
            Event::Client(client, ticket) => {
                let banned = client.address.is_some_and(|address| address.to_string() == BANNED);
                let answer = if banned { Err(Refusal::POLICY) } else { Ok(()) };
                self.machine.answer_command(ticket, answer, output);
            }
            Event::Mail(sender, _, ticket) => {
                self.forget();
                self.sender = sender.map_or(String::new(), |sender| sender.to_string());
                let busy = self.sender.starts_with("busy@");
                let answer = if busy { Err(Refusal::BUSY) } else { Ok(()) };
                self.machine.answer_command(ticket, answer, output);
            }
            Event::Recipient(recipient, _, ticket) => {
                let recipient = recipient.to_string();
                let answer = self.judge(&recipient);
                if answer.is_ok() {
                    self.recipients.push(recipient);
                }
                self.machine.answer_command(ticket, answer, output);
            }
            Event::Data(ticket) => {
                let full = self.sender.starts_with("full@");
                let answer = if full { Err(Refusal::DISK_FULL) } else { Ok(()) };
                self.machine.answer_command(ticket, answer, output);
            }
            Event::Body(bytes) => self.message.extend_from_slice(bytes),
            Event::End(ticket) => {
                let answers = self.answers();
                self.taken = Some(std::mem::take(&mut self.message));
                self.forget();
                self.machine.answer_end(ticket, answers, output);
            }
            Event::Reset => self.forget(),
        }
        told
    }

    fn retained_bytes(&self) -> usize {
        self.machine.retained_bytes()
    }

    /// One AUTH line, whose buffer may have doubled once too often, and the hello's argument.
    fn retained_bytes_max(&self) -> usize {
        2 * 12_288 + 512
    }
}

impl Witness for SmtpSubject {
    fn message(&self) -> Option<&[u8]> {
        self.taken.as_deref()
    }
}
