//! What the POP3 machine is told once, and what it asks of the engine.

#[cfg(doc)]
use super::Pop3;
use crate::machine::Ticket;
use crate::sasl::Credentials;

#[derive(Debug, Clone)]
pub struct Config {
    pub hostname: String,
    /// STLS can be offered while TLS is not active.
    pub tls_available: bool,
    /// Passwords are taken without TLS, too.
    pub plaintext_auth: bool,
}

/// What the machine asks of the engine. The tickets' types are these questions.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A password to check: [`Pop3::answer_login`].
    Login(Credentials, Ticket<Login>),
    /// Keys to look up: [`Pop3::answer_keys`].
    ScramKeys(String, Ticket<Keys>),
    /// A proof was right: [`Pop3::answer_login`] lets the engine still say no.
    Proved(String, Ticket<Login>),
    /// A proof was wrong: count it, delay it, then [`Pop3::answer_login`].
    Disproved(Ticket<Login>),
    /// The maildrop of [`Pop3::user`]: [`Pop3::answer_open`]. Asked on the core that owns it.
    Open(Ticket<Maildrop>),
    /// [`Pop3::begin_message`], [`Pop3::write_message`], [`Pop3::end_message`]; or, before the
    /// first octet, [`Pop3::answer_failed`]. `index` counts from zero; `lines`: header and so
    /// many of the body.
    Retrieve { index: usize, lines: Option<u64>, ticket: Ticket<Message> },
    /// Remove these (indices from zero, rising), for good: [`Pop3::answer_commit`].
    Commit { deleted: Vec<usize>, ticket: Ticket<Committed> },
    /// A long listing is under way: send what is in the outbox, then go on.
    Relieve,
}

#[derive(Debug)]
pub enum Login {}
#[derive(Debug)]
pub enum Keys {}
#[derive(Debug)]
pub enum Maildrop {}
#[derive(Debug)]
pub enum Message {}
#[derive(Debug)]
pub enum Committed {}

/// A message of the maildrop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub octets: u64,
    /// For UIDL: 1 to 70 printable octets, the same in every session (RFC 1939 section 7).
    pub unique: String,
}
