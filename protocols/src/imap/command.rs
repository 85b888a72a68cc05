//! The commands of IMAP, as values. One that exists is well-formed; see [`super::parse`].

use super::fetch::FetchItem;
use super::flags::FlagList;
use super::list::{ListCommand, SpecialUse};
use super::mailbox::{MailboxName, NameFault};
use super::search::SearchCommand;
use super::sequence::SequenceSet;

/// A mailbox argument: a name that could exist, or why none could.
pub type MailboxArgument = Result<MailboxName, NameFault>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Capability,
    Noop,
    Logout,
    Id,
    StartTls,
    Authenticate {
        mechanism: String,
        initial: Option<Vec<u8>>,
    },
    Login {
        user: Vec<u8>,
        password: Vec<u8>,
    },
    Enable(Vec<String>),
    Namespace,
    Select {
        mailbox: MailboxArgument,
        read_only: bool,
    },
    Create {
        mailbox: MailboxArgument,
        special_use: Option<SpecialUse>,
    },
    Delete(MailboxArgument),
    Rename {
        from: MailboxArgument,
        to: MailboxArgument,
    },
    Subscribe {
        mailbox: MailboxArgument,
        subscribe: bool,
    },
    List(ListCommand),
    Status {
        mailbox: MailboxArgument,
        items: Vec<StatusItem>,
    },
    /// Its literal follows.
    Append(Append),
    Idle,
    GetQuota {
        root: Vec<u8>,
    },
    GetQuotaRoot(MailboxArgument),
    SetQuota,
    Check,
    Close,
    Unselect,
    Expunge,
    UidExpunge(SequenceSet),
    Search {
        by_uid: bool,
        search: SearchCommand,
    },
    Fetch {
        by_uid: bool,
        set: SequenceSet,
        items: Vec<FetchItem>,
    },
    Store {
        by_uid: bool,
        set: SequenceSet,
        store: StoreFlags,
    },
    Copy {
        by_uid: bool,
        set: SequenceSet,
        to: MailboxArgument,
    },
    Move {
        by_uid: bool,
        set: SequenceSet,
        to: MailboxArgument,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    pub mailbox: MailboxArgument,
    pub flags: FlagList,
    pub unix_millis: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFlags {
    pub mode: StoreMode,
    pub silent: bool,
    pub flags: FlagList,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMode {
    Replace,
    Add,
    Remove,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusItem {
    Messages,
    Recent,
    UidNext,
    UidValidity,
    Unseen,
    Deleted,
    Size,
    AppendLimit,
}

impl StatusItem {
    pub const ALL: [(StatusItem, &'static str); 8] = [
        (StatusItem::Messages, "MESSAGES"),
        (StatusItem::Recent, "RECENT"),
        (StatusItem::UidNext, "UIDNEXT"),
        (StatusItem::UidValidity, "UIDVALIDITY"),
        (StatusItem::Unseen, "UNSEEN"),
        (StatusItem::Deleted, "DELETED"),
        (StatusItem::Size, "SIZE"),
        (StatusItem::AppendLimit, "APPENDLIMIT"),
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        StatusItem::ALL.iter().find(|(item, _)| *item == self).map_or("MESSAGES", |(_, name)| name)
    }
}
