//! What the machine asks of the world. Each event with a ticket is answered by the machine's method
//! that takes it, before the next step; a [`Ticket<Completed>`] by [`super::Imap::answer`].

use super::command::{Append, StatusItem, StoreFlags};
use super::fetch::FetchItem;
use super::list::{ListCommand, SpecialUse};
use super::mailbox::MailboxName;
use super::search::SearchCommand;
use super::view::Targets;
use crate::Ticket;

/// Question of most events: how does the command end?
#[derive(Debug)]
pub enum Completed {}
/// Question: are these credentials good?
#[derive(Debug)]
pub enum Credentials {}
/// Question: what are this user's SCRAM keys?
#[derive(Debug)]
pub enum Keys {}
/// Question: what is in the mailbox?
#[derive(Debug)]
pub enum Selection {}
/// Question: may the message come?
#[derive(Debug)]
pub enum Admission {}

#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// Answered by [`super::Imap::answer_login`].
    Login {
        user: String,
        password: Vec<u8>,
        ticket: Ticket<Credentials>,
    },
    /// Answered by [`super::Imap::answer_keys`]; a user who does not exist has made-up keys.
    ScramKeys {
        user: String,
        ticket: Ticket<Keys>,
    },
    /// The client has proved that it knows the password: as [`Event::Login`], but checked already.
    Verified {
        user: String,
        ticket: Ticket<Credentials>,
    },
    /// The client's proof is wrong: to be answered, late as a wrong password is, with a refusal.
    LoginFailed {
        ticket: Ticket<Credentials>,
    },
    /// Answered by [`super::Imap::answer_select`]. No mailbox is selected any more.
    Select {
        mailbox: MailboxName,
        read_only: bool,
        ticket: Ticket<Selection>,
    },
    Create {
        mailbox: MailboxName,
        special_use: Option<SpecialUse>,
        ticket: Ticket<Completed>,
    },
    Delete {
        mailbox: MailboxName,
        ticket: Ticket<Completed>,
    },
    Rename {
        from: MailboxName,
        to: MailboxName,
        ticket: Ticket<Completed>,
    },
    Subscribe {
        mailbox: MailboxName,
        subscribe: bool,
        ticket: Ticket<Completed>,
    },
    List {
        list: ListCommand,
        ticket: Ticket<Completed>,
    },
    Status {
        mailbox: MailboxName,
        items: Vec<StatusItem>,
        ticket: Ticket<Completed>,
    },
    GetQuota {
        ticket: Ticket<Completed>,
    },
    GetQuotaRoot {
        mailbox: MailboxName,
        ticket: Ticket<Completed>,
    },
    /// Answered by [`super::Imap::answer_append`]; if admitted, `bytes` octets follow in pieces.
    AppendStart {
        mailbox: MailboxName,
        append: Append,
        bytes: u32,
        ticket: Ticket<Admission>,
    },
    AppendPiece(&'i [u8]),
    AppendEnd {
        ticket: Ticket<Completed>,
    },
    /// The message will not be complete, or is not fit to be kept: forget the pieces.
    AppendAbort,
    /// Nothing to do but to look for news.
    Sync {
        ticket: Ticket<Completed>,
    },
    /// From now on, tell news as they come ([`super::Imap::tell`]), until the next `Sync`.
    IdleStart,
    /// With `expunge`, remove what is \Deleted, silently. No mailbox is selected afterwards.
    Close {
        expunge: bool,
        ticket: Ticket<Completed>,
    },
    /// Remove what is \Deleted among the targets.
    Expunge {
        targets: Targets,
        ticket: Ticket<Completed>,
    },
    Search {
        search: SearchCommand,
        by_uid: bool,
        ticket: Ticket<Completed>,
    },
    Fetch {
        targets: Targets,
        items: Vec<FetchItem>,
        by_uid: bool,
        /// Reading a body marks it as seen.
        sets_seen: bool,
        ticket: Ticket<Completed>,
    },
    Store {
        targets: Targets,
        store: StoreFlags,
        by_uid: bool,
        ticket: Ticket<Completed>,
    },
    Copy {
        targets: Targets,
        to: MailboxName,
        ticket: Ticket<Completed>,
    },
    Move {
        targets: Targets,
        to: MailboxName,
        ticket: Ticket<Completed>,
    },
}

/// What became of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginAnswer {
    Accepted,
    Refused,
    /// The account can't be used now: disabled, or its store is down.
    Unavailable,
}
