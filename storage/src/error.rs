//! What can go wrong, sorted by whose fault it is.

use crate::types::{AccountId, MailboxId, Uid, UnixMillis};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    // The caller asks for something that is not there, or not allowed.
    #[error("no account {0:?} on this shard")]
    NoSuchAccount(AccountId),
    #[error("account {0:?} exists already")]
    AccountExists(AccountId),
    #[error("no mailbox {0:?}")]
    NoSuchMailbox(MailboxId),
    #[error("no mailbox named {0:?}")]
    NoSuchMailboxName(String),
    #[error("a mailbox named {0:?} exists already")]
    MailboxExists(String),
    #[error("mailbox name {0:?} is not allowed: {1}")]
    MailboxName(String, &'static str),
    #[error("mailbox {0:?} shows the past; it is read-only")]
    ReadOnly(String),
    /// The oldest time that is remembered, if there is a retention.
    #[error("that time is not remembered")]
    NotRemembered(Option<UnixMillis>),
    #[error("no message with UID {0:?}")]
    NoSuchMessage(Uid),
    #[error("the account's quota is used up")]
    OverQuota,
    #[error("limit reached: {0}")]
    Limit(&'static str),

    // Load: try again later. 421/452 in SMTP, NO in IMAP.
    #[error("the store is busy; try again")]
    Busy,
    #[error("the disk is full; free space on {0}")]
    Full(String),

    // The disk's.
    #[error("{what} in {place} does not verify; `kura store verify` names all such places")]
    Corrupt { what: &'static str, place: String },
    /// Of a read alone, which costs what was to be read, as rot does. Of any other
    /// failure: `Device`.
    #[error(
        "{place} can't be read: {what}; the store goes on, and `kura store verify` names all such places"
    )]
    Read { what: String, place: String },
    #[error(
        "the disk failed: {0}; the shard has stopped taking mail, nothing acknowledged is lost"
    )]
    Device(String),
    /// By what only gives space back or makes opening fast.
    #[error("the disk failed: {0}; mail is still taken, and nothing is lost")]
    GivenUp(String),
    /// A write or sync failed earlier, or the directory has gone; the shard's store takes nothing
    /// more until it is opened anew.
    #[error(
        "the shard's store has halted, and the server's log says why; restart once that is mended"
    )]
    Halted,

    // The operator's.
    #[error("store options: {0}")]
    Options(&'static str),
    #[error("cannot open the store in {place}: {what}")]
    Open { place: String, what: String },
}
