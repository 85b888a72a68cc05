//! An operation as it is asked of a shard, and what its client was told.

use super::model::{Group, Letter, Message};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::rc::Rc;
use storage::{
    AccountId, FlagMode, Flags, Lsn, MailboxId, MailboxInfo, Placed, Quota, SpecialUse, Uid,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub account: AccountId,
    pub mailbox: MailboxId,
    pub prefix: Bytes,
    pub flags: Flags,
    pub keywords: Vec<String>,
}

/// An operation as it is asked of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    CreateAccount {
        account: AccountId,
        quota: Quota,
    },
    RemoveAccount {
        account: AccountId,
    },
    SetQuota {
        account: AccountId,
        quota: Quota,
    },
    CreateMailbox {
        account: AccountId,
        name: String,
        special_use: Option<SpecialUse>,
    },
    RenameMailbox {
        account: AccountId,
        from: String,
        to: String,
    },
    DeleteMailbox {
        account: AccountId,
        name: String,
    },
    Subscribe {
        account: AccountId,
        name: String,
        subscribed: bool,
    },
    Deliver {
        letter: Rc<Letter>,
        targets: Vec<Target>,
        streamed: bool,
    },
    Copy {
        account: AccountId,
        from: MailboxId,
        uids: Vec<Uid>,
        to: MailboxId,
        moved: bool,
    },
    ChangeFlags {
        account: AccountId,
        mailbox: MailboxId,
        uids: Vec<Uid>,
        change: Change,
    },
    /// `at`: when it was asked for, in Unix milliseconds.
    Expunge {
        account: AccountId,
        mailbox: MailboxId,
        uids: Vec<Uid>,
        at: u64,
    },
    /// What was expunged from INBOX under these UIDs comes back; `exact`: none of it can
    /// have been forgotten.
    Undelete {
        account: AccountId,
        uids: Vec<Uid>,
        exact: bool,
    },
    Hold {
        account: AccountId,
        held: bool,
    },
    Put {
        space: u8,
        pairs: Vec<(Bytes, Option<Bytes>)>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub mode: FlagMode,
    pub flags: Flags,
    pub keywords: Vec<String>,
}

/// What the client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub lsn: Lsn,
    pub told: Told,
    /// The account's mailboxes, seen in the moment of the answer to a change of mailboxes.
    pub mailboxes: Option<Vec<MailboxInfo>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Done,
    Placed(Vec<Placed>),
    /// Source and destination.
    Copied(Vec<(Uid, Uid)>),
    Expunged(Vec<Uid>),
    /// How many messages are back.
    Undeleted(u64),
}

impl Operation {
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        match self {
            Operation::Deliver { targets, .. } => {
                let accounts: BTreeSet<AccountId> = targets.iter().map(|t| t.account).collect();
                accounts.into_iter().map(Group::Account).collect()
            }
            Operation::Put { .. } => vec![Group::Keys],
            Operation::CreateAccount { account, .. }
            | Operation::RemoveAccount { account }
            | Operation::SetQuota { account, .. }
            | Operation::CreateMailbox { account, .. }
            | Operation::RenameMailbox { account, .. }
            | Operation::DeleteMailbox { account, .. }
            | Operation::Subscribe { account, .. }
            | Operation::Copy { account, .. }
            | Operation::ChangeFlags { account, .. }
            | Operation::Expunge { account, .. }
            | Operation::Undelete { account, .. }
            | Operation::Hold { account, .. } => vec![Group::Account(*account)],
        }
    }

    /// For tallies.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Operation::CreateAccount { .. } => "create account",
            Operation::RemoveAccount { .. } => "remove account",
            Operation::SetQuota { .. } => "set quota",
            Operation::CreateMailbox { .. } => "create mailbox",
            Operation::RenameMailbox { .. } => "rename mailbox",
            Operation::DeleteMailbox { .. } => "delete mailbox",
            Operation::Subscribe { .. } => "subscribe",
            Operation::Deliver { streamed: true, .. } => "deliver a stream",
            Operation::Deliver { targets, .. } if targets.len() > 1 => "deliver to several",
            Operation::Deliver { .. } => "deliver",
            Operation::Copy { moved: false, .. } => "copy",
            Operation::Copy { moved: true, .. } => "move",
            Operation::ChangeFlags { .. } => "change flags",
            Operation::Expunge { .. } => "expunge",
            Operation::Undelete { .. } => "undelete",
            Operation::Hold { .. } => "hold",
            Operation::Put { .. } => "put",
        }
    }

    /// Whether the order of the two can be told afterwards. Deliveries only add.
    #[must_use]
    pub fn commutes_with(&self, other: &Operation) -> bool {
        matches!((self, other), (Operation::Deliver { .. }, Operation::Deliver { .. }))
    }

    /// Changes of mailboxes, after which the client may look which there are.
    #[must_use]
    pub fn changes_mailboxes(&self) -> bool {
        matches!(
            self,
            Operation::CreateAccount { .. }
                | Operation::CreateMailbox { .. }
                | Operation::RenameMailbox { .. }
                | Operation::DeleteMailbox { .. }
        )
    }
}

impl Change {
    pub(super) fn apply(&self, message: &mut Message) {
        let keywords = self.keywords.iter().cloned();
        match self.mode {
            FlagMode::Add => {
                message.flags = message.flags.union(self.flags);
                message.keywords.extend(keywords);
            }
            FlagMode::Remove => {
                message.flags = message.flags.without(self.flags);
                message.keywords.retain(|keyword| !self.keywords.contains(keyword));
            }
            FlagMode::Replace => {
                message.flags = self.flags;
                message.keywords = keywords.collect();
            }
        }
    }
}

pub(super) fn placed_uid(told: Option<&Told>, number: usize) -> Option<Uid> {
    match told {
        Some(Told::Placed(placed)) => placed.get(number).map(|placed| placed.uid),
        Some(_) | None => None,
    }
}
