//! What records say, one kind each. FORMAT.md, "Kinds".
//!
//! A record says what *became so*, with every choice already made (UIDs, identifiers, UIDVALIDITY),
//! so that folding it needs no clock and no luck. New versions of a kind add a decoder; old ones
//! stay for ever. Golden bytes of each are in `golden/`.

use super::delivered::Delivered;
use super::fields::{
    Pairs, read_account, read_created, read_keywords, read_mode, read_pairs, read_quota,
    read_ranges, read_renamed, write_created, write_keywords, write_pairs, write_quota,
    write_ranges,
};
use super::moves::{Base, Moved};
use super::past::{Forgot, Shown, Undeleted};
use super::{Malformed, Reader, RecordHeader, Writer};
use crate::types::{AccountId, FlagMode, Flags, Lsn, MailboxId, Quota, SpecialUse, Uid};

/// A run of UIDs, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UidRange {
    pub first: Uid,
    pub last: Uid,
}

impl UidRange {
    /// Runs of an ascending sequence.
    #[must_use]
    pub fn runs(uids: impl IntoIterator<Item = Uid>) -> Vec<UidRange> {
        let mut runs: Vec<UidRange> = Vec::new();
        for uid in uids {
            match runs.last_mut() {
                Some(run) if run.last.0.checked_add(1) == Some(uid.0) => run.last = uid,
                _ => runs.push(UidRange { first: uid, last: uid }),
            }
        }
        runs
    }

    pub fn uids(self) -> impl Iterator<Item = Uid> {
        (self.first.0..=self.last.0).map(Uid)
    }

    #[must_use]
    pub fn contains(self, uid: Uid) -> bool {
        self.first <= uid && uid <= self.last
    }
}

/// A mailbox as it comes into being.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMailbox {
    pub id: MailboxId,
    pub uid_validity: u32,
    pub special_use: Option<SpecialUse>,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    AccountCreated {
        account: AccountId,
        quota: Quota,
        uid_validity: u32,
    },
    AccountRemoved {
        account: AccountId,
    },
    QuotaSet {
        account: AccountId,
        quota: Quota,
    },
    MailboxesCreated {
        account: AccountId,
        created: Vec<NewMailbox>,
    },
    MailboxesRenamed {
        account: AccountId,
        created: Vec<NewMailbox>,
        renamed: Vec<(MailboxId, String)>,
    },
    /// The last of `created` takes INBOX's messages with their UIDs; INBOX is left empty.
    InboxRenamed {
        account: AccountId,
        created: Vec<NewMailbox>,
    },
    MailboxDeleted {
        account: AccountId,
        mailbox: MailboxId,
    },
    Subscribed {
        account: AccountId,
        subscribed: bool,
        name: String,
    },
    Delivered(Delivered),
    /// UIDs of the copies ascend from `first_uid` in the order of `uids`.
    Copied {
        account: AccountId,
        from: MailboxId,
        to: MailboxId,
        moved: bool,
        first_uid: Uid,
        uids: Vec<UidRange>,
        /// Version 2: keys of a space that are set together with it.
        put: Option<(u8, Pairs)>,
    },
    FlagsChanged {
        account: AccountId,
        mailbox: MailboxId,
        mode: FlagMode,
        flags: Flags,
        keywords: Vec<String>,
        uids: Vec<UidRange>,
    },
    Expunged {
        account: AccountId,
        mailbox: MailboxId,
        uids: Vec<UidRange>,
    },
    /// A piece of a body; garbage until a delivery names it. Packed in version 2.
    Chunk {
        packed: bool,
    },
    Put {
        space: u8,
        pairs: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    },
    /// Recovery found these records unreadable, or another continuation of this log may have had
    /// them ([`COUNT_UNKNOWN`]): identifiers that they may have given out are skipped.
    Lost {
        first: Lsn,
        count: u64,
    },
    /// Messages that compaction has copied, so that their old segments can be freed.
    Moved(Moved),
    /// A piece of a checkpoint in the log; garbage until a base names it.
    Piece,
    /// A checkpoint that lies in the log, whole: replay can begin with it.
    Based(Base),
    /// From here on what goes is remembered for so long. In the log, so that replay digs
    /// the same graves.
    RetentionSet {
        millis: u64,
    },
    /// From here on nothing of the account is forgotten, or it is as with everybody else again.
    HoldSet {
        account: AccountId,
        held: bool,
    },
    Forgot(Forgot),
    Undeleted(Undeleted),
    Shown(Shown),
}

/// Of records that were lost: nobody knows how many.
pub const COUNT_UNKNOWN: u64 = u64::MAX;

/// Of deliveries and chunks with packed bodies.
pub(super) const PACKED_VERSION: u8 = 2;
/// Of deliveries that set keys, and of those with packed bodies.
pub(super) const PUTTING_VERSION: u8 = 3;
pub(super) const PUTTING_PACKED_VERSION: u8 = 4;
/// Of copies that set keys.
const COPIED_PUTTING_VERSION: u8 = 2;

/// Whether this Kura reads that version of the kind.
pub(super) fn is_known(kind: u8, version: u8) -> bool {
    let newest = match kind {
        kind::DELIVERED => PUTTING_PACKED_VERSION,
        kind::CHUNK => PACKED_VERSION,
        kind::COPIED => COPIED_PUTTING_VERSION,
        _ => 1,
    };
    (1..=newest).contains(&version)
}

/// Whether the record's body, if it has one, is packed.
#[must_use]
pub fn is_packed(header: &RecordHeader) -> bool {
    match header.kind {
        kind::DELIVERED => matches!(header.version, PACKED_VERSION | PUTTING_PACKED_VERSION),
        kind::CHUNK => header.version == PACKED_VERSION,
        _ => false,
    }
}

pub(super) mod kind {
    pub(in crate::format) const ACCOUNT_CREATED: u8 = 1;
    pub(in crate::format) const ACCOUNT_REMOVED: u8 = 2;
    pub(in crate::format) const QUOTA_SET: u8 = 3;
    pub(in crate::format) const MAILBOXES_CREATED: u8 = 4;
    pub(in crate::format) const MAILBOXES_RENAMED: u8 = 5;
    pub(in crate::format) const INBOX_RENAMED: u8 = 6;
    pub(in crate::format) const MAILBOX_DELETED: u8 = 7;
    pub(in crate::format) const SUBSCRIBED: u8 = 8;
    pub(in crate::format) const DELIVERED: u8 = 9;
    pub(in crate::format) const COPIED: u8 = 10;
    pub(in crate::format) const FLAGS_CHANGED: u8 = 11;
    pub(in crate::format) const EXPUNGED: u8 = 12;
    pub(in crate::format) const CHUNK: u8 = 13;
    pub(in crate::format) const PUT: u8 = 14;
    pub(in crate::format) const LOST: u8 = 15;
    pub(in crate::format) const MOVED: u8 = 16;
    pub(in crate::format) const PIECE: u8 = 17;
    pub(in crate::format) const BASED: u8 = 18;
    pub(in crate::format) const RETENTION_SET: u8 = 19;
    pub(in crate::format) const HOLD_SET: u8 = 20;
    pub(in crate::format) const FORGOT: u8 = 21;
    pub(in crate::format) const UNDELETED: u8 = 22;
    pub(in crate::format) const SHOWN: u8 = 23;
}

impl Record {
    /// Kinds that are looked for before anything is decoded.
    pub(crate) const DELIVERED: u8 = kind::DELIVERED;
    pub(crate) const BASED: u8 = kind::BASED;

    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Record::AccountCreated { .. } => kind::ACCOUNT_CREATED,
            Record::AccountRemoved { .. } => kind::ACCOUNT_REMOVED,
            Record::QuotaSet { .. } => kind::QUOTA_SET,
            Record::MailboxesCreated { .. } => kind::MAILBOXES_CREATED,
            Record::MailboxesRenamed { .. } => kind::MAILBOXES_RENAMED,
            Record::InboxRenamed { .. } => kind::INBOX_RENAMED,
            Record::MailboxDeleted { .. } => kind::MAILBOX_DELETED,
            Record::Subscribed { .. } => kind::SUBSCRIBED,
            Record::Delivered(_) => kind::DELIVERED,
            Record::Copied { .. } => kind::COPIED,
            Record::FlagsChanged { .. } => kind::FLAGS_CHANGED,
            Record::Expunged { .. } => kind::EXPUNGED,
            Record::Chunk { .. } => kind::CHUNK,
            Record::Put { .. } => kind::PUT,
            Record::Lost { .. } => kind::LOST,
            Record::Moved(_) => kind::MOVED,
            Record::Piece => kind::PIECE,
            Record::Based(_) => kind::BASED,
            Record::RetentionSet { .. } => kind::RETENTION_SET,
            Record::HoldSet { .. } => kind::HOLD_SET,
            Record::Forgot(_) => kind::FORGOT,
            Record::Undeleted(_) => kind::UNDELETED,
            Record::Shown(_) => kind::SHOWN,
        }
    }

    /// Whether it changes what there is in the account. A message that compaction has
    /// moved stays the same.
    #[must_use]
    pub fn concerns(&self, wanted: AccountId) -> bool {
        match self {
            Record::AccountCreated { account, .. }
            | Record::AccountRemoved { account }
            | Record::QuotaSet { account, .. }
            | Record::MailboxesCreated { account, .. }
            | Record::MailboxesRenamed { account, .. }
            | Record::InboxRenamed { account, .. }
            | Record::MailboxDeleted { account, .. }
            | Record::Subscribed { account, .. }
            | Record::Copied { account, .. }
            | Record::FlagsChanged { account, .. }
            | Record::Expunged { account, .. }
            | Record::Forgot(Forgot { account, .. })
            | Record::Undeleted(Undeleted { account, .. })
            | Record::Shown(Shown { account, .. }) => *account == wanted,
            Record::Delivered(delivered) => {
                delivered.placements.iter().any(|placement| placement.account == wanted)
            }
            Record::Lost { .. } => true,
            Record::Chunk { .. }
            | Record::Put { .. }
            | Record::Moved(_)
            | Record::Piece
            | Record::Based(_)
            | Record::RetentionSet { .. }
            | Record::HoldSet { .. } => false,
        }
    }

    /// The version of the kind's meta that [`Record::encode`] writes.
    #[must_use]
    pub fn version(&self) -> u8 {
        match self {
            Record::Delivered(delivered) => delivered.version(),
            Record::Chunk { packed: true } => PACKED_VERSION,
            Record::Copied { put: Some(_), .. } => COPIED_PUTTING_VERSION,
            _ => 1,
        }
    }

    /// The meta, for a delivery without the summary that follows it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(96);
        match self {
            Record::AccountCreated { account, quota, uid_validity } => {
                writer.u32(account.0);
                write_quota(&mut writer, *quota);
                writer.u32(*uid_validity);
            }
            Record::AccountRemoved { account } => writer.u32(account.0),
            Record::QuotaSet { account, quota } => {
                writer.u32(account.0);
                write_quota(&mut writer, *quota);
            }
            Record::MailboxesCreated { account, created }
            | Record::InboxRenamed { account, created } => {
                writer.u32(account.0);
                write_created(&mut writer, created);
            }
            Record::MailboxesRenamed { account, created, renamed } => {
                writer.u32(account.0);
                write_created(&mut writer, created);
                writer.count(renamed.len());
                for (mailbox, name) in renamed {
                    writer.u32(mailbox.0);
                    writer.text(name);
                }
            }
            Record::MailboxDeleted { account, mailbox } => {
                writer.u32(account.0);
                writer.u32(mailbox.0);
            }
            Record::Subscribed { account, subscribed, name } => {
                writer.u32(account.0);
                writer.u8(u8::from(*subscribed));
                writer.text(name);
            }
            Record::Delivered(delivered) => delivered.encode(&mut writer),
            Record::Copied { account, from, to, moved, first_uid, uids, put } => {
                writer.u32(account.0);
                writer.u32(from.0);
                writer.u32(to.0);
                writer.u8(u8::from(*moved));
                writer.u32(first_uid.0);
                write_ranges(&mut writer, uids);
                if let Some((space, pairs)) = put {
                    write_pairs(&mut writer, *space, pairs);
                }
            }
            Record::FlagsChanged { account, mailbox, mode, flags, keywords, uids } => {
                writer.u32(account.0);
                writer.u32(mailbox.0);
                writer.u8(*mode as u8);
                writer.u64(flags.0);
                write_keywords(&mut writer, keywords);
                write_ranges(&mut writer, uids);
            }
            Record::Expunged { account, mailbox, uids } => {
                writer.u32(account.0);
                writer.u32(mailbox.0);
                write_ranges(&mut writer, uids);
            }
            Record::Chunk { .. } | Record::Piece => {}
            Record::Put { space, pairs } => write_pairs(&mut writer, *space, pairs),
            Record::Lost { first, count } => {
                writer.u64(first.0);
                writer.u64(*count);
            }
            Record::Moved(moved) => moved.encode(&mut writer),
            Record::Based(base) => base.encode(&mut writer),
            Record::RetentionSet { millis } => writer.u64(*millis),
            Record::HoldSet { account, held } => {
                writer.u32(account.0);
                writer.u8(u8::from(*held));
            }
            Record::Forgot(forgot) => forgot.encode(&mut writer),
            Record::Undeleted(undeleted) => undeleted.encode(&mut writer),
            Record::Shown(shown) => shown.encode(&mut writer),
        }
        writer.bytes
    }

    /// Reads a verified meta. For a delivery, the summary is checked for and left alone.
    pub fn decode(kind: u8, version: u8, meta: &[u8]) -> Result<Record, Malformed> {
        if !is_known(kind, version) {
            return Err(Malformed("has a version that only a newer Kura reads"));
        }
        let mut reader = Reader::new(meta);
        let record = read_record(kind, version, &mut reader)?;
        reader.finish()?;
        Ok(record)
    }
}

fn read_record(kind: u8, version: u8, reader: &mut Reader<'_>) -> Result<Record, Malformed> {
    Ok(match kind {
        kind::ACCOUNT_CREATED => Record::AccountCreated {
            account: read_account(reader)?,
            quota: read_quota(reader)?,
            uid_validity: reader.u32()?,
        },
        kind::ACCOUNT_REMOVED => Record::AccountRemoved { account: read_account(reader)? },
        kind::QUOTA_SET => {
            Record::QuotaSet { account: read_account(reader)?, quota: read_quota(reader)? }
        }
        kind::MAILBOXES_CREATED => Record::MailboxesCreated {
            account: read_account(reader)?,
            created: read_created(reader)?,
        },
        kind::MAILBOXES_RENAMED => Record::MailboxesRenamed {
            account: read_account(reader)?,
            created: read_created(reader)?,
            renamed: read_renamed(reader)?,
        },
        kind::INBOX_RENAMED => {
            Record::InboxRenamed { account: read_account(reader)?, created: read_created(reader)? }
        }
        kind::MAILBOX_DELETED => Record::MailboxDeleted {
            account: read_account(reader)?,
            mailbox: MailboxId(reader.u32()?),
        },
        kind::SUBSCRIBED => Record::Subscribed {
            account: read_account(reader)?,
            subscribed: reader.u8()? != 0,
            name: reader.text()?,
        },
        kind::DELIVERED => Record::Delivered(Delivered::decode(version, reader)?),
        kind::COPIED => Record::Copied {
            account: read_account(reader)?,
            from: MailboxId(reader.u32()?),
            to: MailboxId(reader.u32()?),
            moved: reader.u8()? != 0,
            first_uid: Uid(reader.u32()?),
            uids: read_ranges(reader)?,
            put: match version {
                COPIED_PUTTING_VERSION => Some((reader.u8()?, read_pairs(reader)?)),
                _ => None,
            },
        },
        kind::FLAGS_CHANGED => Record::FlagsChanged {
            account: read_account(reader)?,
            mailbox: MailboxId(reader.u32()?),
            mode: read_mode(reader)?,
            flags: Flags(reader.u64()?),
            keywords: read_keywords(reader)?,
            uids: read_ranges(reader)?,
        },
        kind::EXPUNGED => Record::Expunged {
            account: read_account(reader)?,
            mailbox: MailboxId(reader.u32()?),
            uids: read_ranges(reader)?,
        },
        kind::CHUNK => Record::Chunk { packed: version == PACKED_VERSION },
        kind::PUT => Record::Put { space: reader.u8()?, pairs: read_pairs(reader)? },
        kind::LOST => Record::Lost { first: Lsn(reader.u64()?), count: reader.u64()? },
        kind::MOVED => Record::Moved(Moved::decode(reader)?),
        kind::PIECE => Record::Piece,
        kind::BASED => Record::Based(Base::decode(reader)?),
        kind::RETENTION_SET => Record::RetentionSet { millis: reader.u64()? },
        kind::HOLD_SET => {
            Record::HoldSet { account: read_account(reader)?, held: reader.u8()? != 0 }
        }
        kind::FORGOT => Record::Forgot(Forgot::decode(reader)?),
        kind::UNDELETED => Record::Undeleted(Undeleted::decode(reader)?),
        kind::SHOWN => Record::Shown(Shown::decode(reader)?),
        _ => return Err(Malformed("has a kind that only a newer Kura reads")),
    })
}
