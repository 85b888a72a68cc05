//! What the IMAP client is told, and what it asks and tells.

#[cfg(doc)]
use super::Client;
use crate::imap::flags::FlagBits;
use crate::machine::Ticket;
use crate::sasl::client::Login;
use crate::wire::remote::{Tls, Trouble};
use std::borrow::Cow;

#[derive(Debug, Clone)]
pub struct Config {
    pub tls: Tls,
    pub login: Login,
    /// More messages than that are not listed. A search takes about 15 octets for each.
    pub messages_max: usize,
}

/// What the machine asks and tells. Each ticket is spent with [`Client::answer_next`].
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// We are in.
    Ready(Ticket<Asked>),
    /// One mailbox of [`Next::List`].
    Mailbox(Mailbox),
    /// [`Next::Open`] has succeeded.
    Opened(Opened, Ticket<Asked>),
    /// The UIDs of [`Next::Search`], ascending.
    Found(Vec<u32>, Ticket<Asked>),
    /// One message of [`Next::Survey`].
    Message(Message),
    /// Octets of the message of [`Next::Fetch`]. It is not whole before [`Event::Fetched`]: with
    /// any other end what came of it is void.
    Piece(Cow<'i, [u8]>),
    Fetched {
        message: Message,
        /// As many came.
        octets: u64,
        ticket: Ticket<Asked>,
    },
    /// The message that was to be fetched is not there any more.
    Gone { uid: u32, ticket: Ticket<Asked> },
    /// What has nothing to tell is done.
    Completed(Ticket<Asked>),
    /// The server does not do this; the session goes on.
    Refused(Refusal, Ticket<Asked>),
    /// The session is over by our LOGOUT.
    Left,
    /// The session ends otherwise.
    Failed(Failure),
}

#[derive(Debug)]
pub enum Asked {}

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// [`Event::Mailbox`] for each mailbox, then [`Event::Completed`].
    List,
    /// [`Event::Opened`]. The name is one of a [`Mailbox`], or `INBOX`.
    Open {
        wire_name: Vec<u8>,
        read_only: bool,
    },
    /// [`Event::Found`]: UIDs from this one on.
    Search {
        first: u32,
    },
    /// [`Event::Message`] for each message in the range, then [`Event::Completed`].
    Survey {
        first: u32,
        last: u32,
    },
    /// [`Event::Piece`] and [`Event::Fetched`], or [`Event::Gone`]. A message with more octets ends
    /// the session, whatever its size was said to be. It is not marked as seen.
    Fetch {
        uid: u32,
        octets_max: u64,
    },
    /// Sets flags on messages, ranges of UIDs of which there are a few hundred at most.
    Flag {
        uids: Vec<(u32, u32)>,
        flags: FlagBits,
    },
    /// Removes these messages, as far as they are marked as deleted, and no others: refused when
    /// the server lacks UIDPLUS (RFC 4315).
    Expunge {
        uids: Vec<(u32, u32)>,
    },
    Logout,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// As it is given back.
    pub wire_name: Vec<u8>,
    /// As it is shown.
    pub name: String,
    /// `None`: there are no levels.
    pub delimiter: Option<char>,
    pub selectable: bool,
    /// With their backslashes: `\Sent`, `\Noselect`.
    pub attributes: Vec<String>,
}

/// RFC 3501 section 6.3.1.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opened {
    /// With another one, no UID that was seen before means anything.
    pub uid_validity: u32,
    pub uid_next: Option<u32>,
    pub messages: u32,
    pub read_only: bool,
}

/// What is known of a message, as the server says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    pub uid: u32,
    /// Which need not be true.
    pub octets: Option<u64>,
    pub flags: Vec<String>,
    /// Milliseconds since 1970.
    pub internal_date: Option<u64>,
}

/// NO or BAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In brackets, in capitals: `AUTHENTICATIONFAILED`, `NONEXISTENT` (RFC 5530).
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

/// Where a session was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Greeting,
    Capabilities,
    StartTls,
    Login,
    List,
    Open,
    Search,
    Survey,
    Fetch(u32),
    Flag,
    Expunge,
    Logout,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Greeting => "the connection",
            Stage::Capabilities => "CAPABILITY",
            Stage::StartTls => "STARTTLS",
            Stage::Login => "the login",
            Stage::List => "LIST",
            Stage::Open => "SELECT",
            Stage::Search => "SEARCH",
            Stage::Survey => "FETCH",
            Stage::Fetch(uid) => return write!(f, "FETCH of UID {uid}"),
            Stage::Flag => "STORE",
            Stage::Expunge => "EXPUNGE",
            Stage::Logout => "LOGOUT",
        })
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
        let other = matches!(code, Some("UNAVAILABLE" | "INUSE" | "LIMIT" | "SERVERBUG"));
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
