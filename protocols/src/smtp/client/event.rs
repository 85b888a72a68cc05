//! What the SMTP client is told, and what it asks and tells.

#[cfg(doc)]
use super::Client;
use super::heard::Heard;
use crate::address::Address;
use crate::machine::Ticket;
use crate::sasl::client::{Derivation, Login};
use crate::smtp::params::{RecipientParams, Ret};
use crate::smtp::reply::Enhanced;
use crate::wire::remote::{Tls, Trouble};

#[derive(Debug, Clone)]
pub struct Config {
    /// What we call ourselves at EHLO.
    pub hello: String,
    /// LMTP: LHLO, and a reply for each recipient after the message.
    pub lmtp: bool,
    pub tls: Tls,
    /// Who we are there; `None`: we don't log in.
    pub login: Option<Login>,
}

/// A message to be brought. Memory: it is kept until its report.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// `None`: the null path.
    pub sender: Option<Address>,
    pub recipients: Vec<Recipient>,
    /// Of the message as it will be handed over.
    pub octets: u64,
    /// It holds octets above 127.
    pub eight_bit: bool,
    /// Its header fields hold UTF-8. Addresses are looked at by the client itself.
    pub smtp_utf8: bool,
    /// RFC 8689: over TLS, with the certificate verified, to servers that promise the same.
    pub require_tls: bool,
    pub ret: Option<Ret>,
    pub envid: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Recipient {
    pub address: Address,
    pub params: RecipientParams,
}

/// What the machine asks and tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Work for [`Client::answer_derived`].
    Derive(Derivation, Ticket<Derived>),
    /// The server has greeted, TLS is as wished, we are logged in: [`Client::begin`] or
    /// [`Client::quit`], now or later.
    Ready,
    /// The next piece of the message: [`Client::answer_body`].
    Body(Ticket<Body>),
    /// What became of the message. Another may follow if the connection is reusable.
    Done(Report),
    /// The session ends without having got anywhere, and between messages.
    Failed(Failure),
}

#[derive(Debug)]
pub enum Derived {}
#[derive(Debug)]
pub enum Body {}

/// A piece of the message.
#[derive(Debug, Clone, Copy)]
pub enum Piece<'p> {
    More(&'p [u8]),
    /// With it the message is complete.
    Last(&'p [u8]),
    /// It can't be read any more. The server is left without an end of the message.
    Unreadable,
}

/// Where a session was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Greeting,
    Hello,
    StartTls,
    Login,
    Idle,
    Reset,
    Mail,
    Recipient,
    Data,
    /// Octets of the message were on their way.
    Body,
    /// The message was complete.
    End,
    Quit,
}

impl Stage {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Greeting => "the connection",
            Stage::Hello => "EHLO",
            Stage::StartTls => "STARTTLS",
            Stage::Login => "AUTH",
            Stage::Idle => "no command",
            Stage::Reset => "RSET",
            Stage::Mail => "MAIL",
            Stage::Recipient => "RCPT",
            Stage::Data => "DATA",
            Stage::Body => "the message",
            Stage::End => "the end of the message",
            Stage::Quit => "QUIT",
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub stage: Stage,
    pub trouble: Trouble,
    /// The server's words, with [`Trouble::Refused`].
    pub heard: Option<Heard>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {} the server {}", self.stage.name(), self.trouble)?;
        match &self.heard {
            Some(heard) => write!(f, ": {heard}"),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server has taken it upon itself.
    Delivered,
    /// For good.
    Failed,
    Later,
    /// The message went out whole and no reply came: it may have been taken. To send it again may
    /// be to send it twice; not to, to lose it. RFC 5321 section 4.5.3.2.6 and RFC 1047 tell of it.
    InDoubt,
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub stage: Stage,
    /// `None`: delivered.
    pub trouble: Option<Trouble>,
    /// The reply that decided it.
    pub heard: Option<Heard>,
    /// The server's, or what comes nearest (RFC 3463).
    pub status: Enhanced,
}

impl Verdict {
    /// A reply decides: its class is the outcome.
    pub(super) fn of_reply(stage: Stage, heard: &Heard) -> Verdict {
        let (outcome, class) = match heard.code {
            ..400 => (Outcome::Delivered, 2),
            400..500 => (Outcome::Later, 4),
            // Too many recipients, said in the old way (RFC 5321 section 4.5.3.1.10): unless it
            // says that it means something else, as a full mailbox.
            552 if stage == Stage::Recipient
                && heard.enhanced.is_none_or(|status| (status.1, status.2) == (5, 3)) =>
            {
                (Outcome::Later, 4)
            }
            _ => (Outcome::Failed, 5),
        };
        let trouble = (outcome != Outcome::Delivered).then_some(Trouble::Refused);
        let status = heard.enhanced.filter(|enhanced| enhanced.0 == class);
        let status = status.unwrap_or(Enhanced(class, 0, 0));
        Verdict { outcome, stage, trouble, heard: Some(heard.clone()), status }
    }

    pub(super) fn of_failure(outcome: Outcome, failure: &Failure) -> Verdict {
        let status = failure.heard.as_ref().and_then(|heard| heard.enhanced);
        let status = status.filter(|enhanced| enhanced.0 == 4);
        // RFC 3463 section 3.5: 4.4.2 is a connection that broke, 4.5.0 a protocol that did.
        let own = match failure.trouble {
            Trouble::Lost | Trouble::Silent | Trouble::Refused => Enhanced(4, 4, 2),
            Trouble::Ours(_) => Enhanced(4, 3, 0),
            Trouble::NoTls
            | Trouble::NoLogin
            | Trouble::LoginInClear
            | Trouble::LoginNeedsTls
            | Trouble::Login(_) => Enhanced(4, 7, 0),
            Trouble::Garbage(_)
            | Trouble::OutOfStep(_)
            | Trouble::TooMuch(_)
            | Trouble::NotOffered(_) => Enhanced(4, 5, 0),
        };
        Verdict {
            outcome,
            stage: failure.stage,
            trouble: Some(failure.trouble),
            heard: failure.heard.clone(),
            status: status.unwrap_or(own),
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.trouble, &self.heard) {
            (None, Some(heard)) => write!(f, "delivered: {heard}"),
            (None, None) => f.write_str("delivered"),
            (Some(trouble), heard) => {
                let (stage, heard) = (self.stage, heard.clone());
                Failure { stage, trouble, heard }.fmt(f)
            }
        }
    }
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// In the order of the envelope's recipients.
    pub verdicts: Vec<Verdict>,
    /// Another message may be sent.
    pub reusable: bool,
    /// The server has taken over what NOTIFY asks; without, RFC 3461 section 5.2.2 makes it ours.
    pub dsn: bool,
}
