//! The store's vocabulary: identifiers, messages, mailboxes, deliveries.

use bytes::Bytes;

/// Position of a record in its shard's log; only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// An account, unique on the host and never reused. Its home shard is recorded by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u32);

impl AccountId {
    /// Nobody's: mail that waits to leave this host. What goes from it is not remembered,
    /// whatever the retention.
    pub const QUEUE: AccountId = AccountId(u32::MAX);
}

/// A mailbox (IMAP folder), unique within its account and never reused. Survives a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailboxId(pub u32);

impl MailboxId {
    /// Every account is created with INBOX.
    pub const INBOX: MailboxId = MailboxId(1);
}

/// RFC 9051 section 2.3.1.1. Never reused within a mailbox's UIDVALIDITY; starts at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub u32);

/// RFC 7162: grows with every change; one sequence for the whole account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Modseq(pub u64);

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

/// Flags of one message: the low byte holds the system flags, the rest is one bit for each keyword
/// in the mailbox's own table ([`MailboxInfo::keywords`]): bit `8 + i` is keyword `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u64);

impl Flags {
    pub const SEEN: Flags = Flags(1);
    pub const ANSWERED: Flags = Flags(1 << 1);
    pub const FLAGGED: Flags = Flags(1 << 2);
    pub const DELETED: Flags = Flags(1 << 3);
    pub const DRAFT: Flags = Flags(1 << 4);
    /// Keywords a mailbox can hold.
    pub const KEYWORDS_MAX: usize = 56;

    #[must_use]
    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub fn union(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    #[must_use]
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

/// RFC 6154 attributes that a mailbox may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SpecialUse {
    Archive = 1,
    Drafts = 2,
    Flagged = 3,
    Junk = 4,
    Sent = 5,
    Trash = 6,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxInfo {
    pub id: MailboxId,
    /// UTF-8, levels separated by `/`. `INBOX` is spelled in capitals.
    pub name: String,
    pub uid_validity: u32,
    pub special_use: Option<SpecialUse>,
    pub keywords: Vec<String>,
    /// It shows the past (`Store::show`): nothing can be put into it, changed or taken out.
    pub read_only: bool,
}

/// Counts of one mailbox, kept, never computed by a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxStatus {
    pub messages: u32,
    pub unseen: u32,
    pub deleted: u32,
    pub bytes: u64,
    pub uid_validity: u32,
    pub uid_next: Uid,
    pub highest_modseq: Modseq,
}

/// Exact byte and message counts of an account, and its limits (`None`: no limit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub messages: u64,
    pub bytes: u64,
    pub quota: Quota,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    pub bytes_max: Option<u64>,
    pub messages_max: Option<u64>,
}

/// What the index knows of a message without touching the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageEntry {
    pub uid: Uid,
    pub modseq: Modseq,
    pub flags: Flags,
    pub internal_date: UnixMillis,
    /// RFC822.SIZE: prefix and body together.
    pub bytes: u32,
    /// How many of them are this recipient's own prefix (`Delivered-To`); the summary's offsets
    /// count from the body, after it.
    pub prefix_bytes: u16,
}

/// A message on its way into one shard: one body, one summary, and a placement for each recipient.
/// Becomes one record, hence atomic.
#[derive(Debug)]
pub struct Delivery {
    pub placements: Vec<Placement>,
    pub internal_date: UnixMillis,
    /// Opaque to the store; computed once by the engine.
    pub summary: Vec<u8>,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub account: AccountId,
    pub mailbox: MailboxId,
    /// Bytes of this recipient's own in front of the shared body; at most 4 KiB.
    pub prefix: Vec<u8>,
    /// System flags.
    pub flags: Flags,
    pub keywords: Vec<String>,
}

#[derive(Debug)]
pub enum Body {
    Whole(Bytes),
    /// Already in the log as chunk records, pushed through a [`crate::store::BodyWriter`].
    Streamed(crate::store::StreamedBody),
}

/// Where a placement ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub account: AccountId,
    pub mailbox: MailboxId,
    pub uid_validity: u32,
    pub uid: Uid,
}

/// A change to the flags of some messages. RFC 9051 section 6.4.6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagChange {
    pub mode: FlagMode,
    /// System flags.
    pub flags: Flags,
    pub keywords: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagMode {
    Add,
    Remove,
    Replace,
}

/// What happened in a mailbox after some MODSEQ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Messages that are there and are new or changed, by UID ascending.
    pub changed: Vec<MessageEntry>,
    /// Expunged since, ascending. When the store no longer remembers that far back, `complete` is
    /// false and the caller compares UIDs itself.
    pub vanished: Vec<Uid>,
    pub complete: bool,
    pub highest_modseq: Modseq,
}
