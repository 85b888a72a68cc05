//! What the SMTP machine is told once, and what it asks of the engine.

#[cfg(doc)]
use super::Smtp;
use super::params::{MailParams, RecipientParams};
use super::reply::Refusal;
use super::xclient::Client;
use crate::address::Address;
use crate::machine::Ticket;
use crate::sasl::Credentials;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Port 25: mail from other servers for our own users.
    Mx,
    /// Ports 587 and 465: our users send; they log in first (RFC 6409 section 4.3).
    Submission,
    /// RFC 2033: a gateway on this host; one reply for each recipient.
    Lmtp,
}

#[derive(Debug, Clone)]
pub struct Config {
    pub hostname: String,
    /// Whose postmaster `RCPT TO:<postmaster>` means (RFC 5321 section 4.1.1.3): a domain that we
    /// serve, which the host name need not be. The engine gives its first domain, or the host name
    /// while it has none.
    pub postmaster_domain: String,
    pub role: Role,
    pub message_octets_max: u64,
    pub recipients_max: usize,
    /// STARTTLS can be offered while TLS is not active.
    pub tls_available: bool,
    /// Passwords are taken without TLS, too.
    pub plaintext_auth: bool,
    /// Messages may be left here to leave later; in submission alone.
    pub future_release: Option<FutureRelease>,
    /// The peer is a gateway that may say on whose behalf it speaks.
    pub xclient: bool,
}

/// How much later (RFC 4865): both say the same at the time that the session begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FutureRelease {
    pub seconds_max: u64,
    /// Seconds since 1970.
    pub latest: u64,
}

/// What the machine asks of the engine. The tickets' types are these questions.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// A password to check: [`Smtp::answer_login`].
    Login(Credentials, Ticket<Login>),
    /// Keys to look up: [`Smtp::answer_keys`].
    ScramKeys(String, Ticket<Keys>),
    /// A proof was right: [`Smtp::answer_login`] lets the engine still say no.
    Proved(String, Ticket<Login>),
    /// A proof was wrong: count it, delay it, then [`Smtp::answer_login`].
    Disproved(Ticket<Login>),
    /// From now on the session is this client's, if it may speak at all; a refusal ends it:
    /// [`Smtp::answer_command`].
    Client(Client, Ticket<Asked>),
    /// A sender, `None` being the null path: [`Smtp::answer_command`].
    Mail(Option<Address>, MailParams, Ticket<Asked>),
    Recipient(Address, RecipientParams, Ticket<Asked>),
    /// The message is about to come: take it or refuse it before its first octet.
    Data(Ticket<Asked>),
    /// Octets of the message, as sent, without stuffing.
    Body(&'i [u8]),
    /// The message is complete: [`Smtp::answer_end`].
    End(Ticket<Ended>),
    /// The transaction is over without a message, for whatever reason.
    Reset,
}

#[derive(Debug)]
pub enum Login {}
#[derive(Debug)]
pub enum Keys {}
#[derive(Debug)]
pub enum Asked {}
#[derive(Debug)]
pub enum Ended {}

/// The answer for the message, or for one recipient of it in LMTP.
#[derive(Debug)]
pub enum Answer<P> {
    /// Only with the proof that it is on stable media; the text names it for both sides' logs.
    Accepted(P, String),
    Refused(Refusal),
}
