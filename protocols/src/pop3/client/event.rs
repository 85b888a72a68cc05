//! What the POP3 client is told, and what it asks and tells.

#[cfg(doc)]
use super::Client;
use crate::machine::Ticket;
use crate::sasl::client::Login;
use crate::wire::remote::{Tls, Trouble};

#[derive(Debug, Clone)]
pub struct Config {
    pub tls: Tls,
    pub login: Login,
    /// Maildrops with more messages are not looked into. A listing takes about 100 octets for each.
    pub messages_max: usize,
}

/// What the machine asks and tells. Each ticket is spent with [`Client::answer_next`].
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// We are in; this is what is there.
    Listed(Listing, Ticket<Asked>),
    /// Octets of the message that is being retrieved, dots taken off. It is not whole before
    /// [`Event::Retrieved`]: with [`Event::Failed`] what came of it is void.
    Piece(&'i [u8]),
    Retrieved {
        number: u32,
        octets: u64,
        ticket: Ticket<Asked>,
    },
    /// It is marked: only [`Event::Left`] says that it is gone.
    Deleted {
        number: u32,
        ticket: Ticket<Asked>,
    },
    /// The server does not give or delete this one; the others are not concerned.
    Refused {
        number: u32,
        refusal: Refusal,
        ticket: Ticket<Asked>,
    },
    /// The session is over by our QUIT. `committed`: what was marked is deleted. Without, nobody
    /// knows: a reply that was lost may have said yes.
    Left {
        committed: bool,
    },
    /// The session ends otherwise. What was marked stays, by RFC 1939 section 6; not every server
    /// keeps to it.
    Failed(Failure),
}

#[derive(Debug)]
pub enum Asked {}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A message with more octets ends the session, whatever the listing said.
    Retrieve {
        number: u32,
        octets_max: u64,
    },
    Delete(u32),
    Quit,
}

/// What is in the maildrop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// By number; each with an identifier of its own.
    pub entries: Vec<Entry>,
    /// Messages that share their identifier with others, against RFC 1939 section 7: which of them
    /// was collected before can't be told.
    pub repeated: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// In this session.
    pub number: u32,
    /// As LIST says, which need not be true.
    pub octets: Option<u64>,
    /// Of UIDL: for all sessions.
    pub unique: String,
}

/// `-ERR`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In brackets, in capitals: `AUTH`, `IN-USE`, `SYS/TEMP`.
    pub code: Option<String>,
    pub text: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.code {
            Some(code) => write!(f, "[{code}] {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Where a session was; messages by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Greeting,
    Capabilities,
    StartTls,
    Login,
    Count,
    Identifiers,
    Sizes,
    Retrieve(u32),
    Delete(u32),
    Quit,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stage::Greeting => f.write_str("the connection"),
            Stage::Capabilities => f.write_str("CAPA"),
            Stage::StartTls => f.write_str("STLS"),
            Stage::Login => f.write_str("the login"),
            Stage::Count => f.write_str("STAT"),
            Stage::Identifiers => f.write_str("UIDL"),
            Stage::Sizes => f.write_str("LIST"),
            Stage::Retrieve(number) => write!(f, "RETR {number}"),
            Stage::Delete(number) => write!(f, "DELE {number}"),
            Stage::Quit => f.write_str("QUIT"),
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub stage: Stage,
    pub trouble: Trouble,
    /// The server's words, with [`Trouble::Refused`].
    pub refusal: Option<Refusal>,
}

impl Failure {
    /// The user or the password is wrong, as far as one can tell: to try again soon may lock the
    /// account.
    #[must_use]
    pub fn is_wrong_login(&self) -> bool {
        let code = self.refusal.as_ref().and_then(|refusal| refusal.code.as_deref());
        let other = matches!(code, Some("IN-USE" | "LOGIN-DELAY" | "SYS/TEMP" | "SYS/PERM"));
        self.stage == Stage::Login && self.trouble == Trouble::Refused && !other
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {} the server {}", self.stage, self.trouble)?;
        match &self.refusal {
            Some(refusal) => write!(f, ": {refusal}"),
            None => Ok(()),
        }
    }
}
