//! What a run came to: what is to be done with the message.

use super::Fault;
use super::program::Include;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The end of a run. An error never stands alone: with it, the script in which it happened comes to
/// the implicit keep and nothing else (RFC 5228 section 2.10.6), whatever it had wanted before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// In the order of the script, the implicit keep included. Empty: the message is discarded.
    pub actions: Vec<Action>,
    /// Marks to set once the actions have been carried out (RFC 7352 section 3).
    pub duplicates: Vec<DuplicateMark>,
    /// Why a script ended before its time; the first one, if there were several.
    pub error: Option<RunError>,
    /// The keep among the actions is there because nothing cancelled it.
    pub implicit_keep: bool,
    /// What of `work_max` was spent.
    pub work: u64,
}

/// What went wrong in a run: to be told to the script's owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RunError {
    /// Which of the scripts that were run in turn, from 0.
    pub turn: usize,
    /// The included script in which it happened; `None`: in the one that was run.
    pub script: Option<Include>,
    pub fault: Fault,
}

impl fmt::Display for RunError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.script {
            Some(include) => write!(formatter, "in \"{}\", {}", include.name, self.fault),
            None => self.fault.fmt(formatter),
        }
    }
}

/// One thing to do. A mailbox is a name in UTF-8, levels separated by `/`, not checked any further;
/// if the message can't be filed there, it is kept instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Into the inbox.
    Keep {
        flags: Vec<String>,
        header: Edited,
    },
    FileInto {
        mailbox: String,
        flags: Vec<String>,
        /// Make the mailbox if it is not there (RFC 5490 section 3.2).
        create: bool,
        /// If some mailbox has this use, it goes there instead (RFC 8579).
        special_use: Option<String>,
        /// The implicit keep was not cancelled by it.
        copy: bool,
        header: Edited,
    },
    Redirect {
        address: crate::Address,
        copy: bool,
        header: Edited,
    },
    /// Refuse the message with this text: in the SMTP session if that is possible (RFC 5429).
    Reject {
        text: String,
        /// `ereject`: rather in the session than by a message; `reject` leaves the choice.
        extended: bool,
    },
    /// Send this reply, unless one of the same key was sent within the period.
    Vacation(Box<Reply>),
}

/// The header that replaces the message's own, blank line included, and the body stays as it is;
/// `None`: as it came (RFC 5293).
pub type Edited = Option<Arc<[u8]>>;

/// An answer to the sender; see [`Reply::message`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The envelope sender of the message.
    pub to: crate::Address,
    /// What the script says; `None`: the account's own address.
    pub from: Option<(String, crate::Address)>,
    /// Decoded.
    pub subject: String,
    pub text: String,
    /// `text` is a MIME entity, its header included.
    pub mime: bool,
    /// For In-Reply-To and References, as the message has them.
    pub in_reply_to: Option<String>,
    pub references: Option<String>,
    /// Digest of what makes a reply the same: sender, and `:handle` or what is said (RFC 5230
    /// section 4.2).
    pub key: [u8; 32],
    pub period: Duration,
    /// A copy of the reply goes here (RFC 8580).
    pub copy_to: Option<ReplyCopy>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyCopy {
    pub mailbox: String,
    pub flags: Vec<String>,
    pub create: bool,
    pub special_use: Option<String>,
}

/// A message was seen: remember it for so long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateMark {
    pub key: [u8; 32],
    pub period: Duration,
}
