//! Records about what is remembered of the past. FORMAT.md, "What is remembered".

use super::fields::{
    read_account, read_created, read_keywords, read_ranges, write_created, write_keywords,
    write_ranges,
};
use super::{Malformed, NewMailbox, Reader, UidRange, Writer};
use crate::types::{AccountId, Flags, MailboxId, Uid};

/// Graves of one account that are given up: what they kept is garbage now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgot {
    pub account: AccountId,
    pub graves: Vec<(MailboxId, Vec<UidRange>)>,
}

/// Messages that come back out of their graves. Their new UIDs ascend from `first_uid` in the
/// order of `uids`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undeleted {
    pub account: AccountId,
    /// `to` and the levels above it, where they were gone.
    pub created: Vec<NewMailbox>,
    pub from: MailboxId,
    pub to: MailboxId,
    pub first_uid: Uid,
    pub uids: Vec<UidRange>,
}

/// A mailbox as it once was, in a read-only mailbox of its own: messages with the UIDs and flags
/// that they had. Rows or graves of `from` say where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub account: AccountId,
    /// Read-only mailboxes.
    pub created: Vec<NewMailbox>,
    pub from: MailboxId,
    pub to: MailboxId,
    /// Bit 8 + i of the flags is keyword i of these.
    pub keywords: Vec<String>,
    pub messages: Vec<(Uid, Flags)>,
}

impl Forgot {
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u32(self.account.0);
        writer.count(self.graves.len());
        for (mailbox, uids) in &self.graves {
            writer.u32(mailbox.0);
            write_ranges(writer, uids);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Forgot, Malformed> {
        let account = read_account(reader)?;
        let mut graves = Vec::new();
        for _ in 0..reader.count(8)? {
            graves.push((MailboxId(reader.u32()?), read_ranges(reader)?));
        }
        Ok(Forgot { account, graves })
    }
}

impl Undeleted {
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u32(self.account.0);
        write_created(writer, &self.created);
        writer.u32(self.from.0);
        writer.u32(self.to.0);
        writer.u32(self.first_uid.0);
        write_ranges(writer, &self.uids);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Undeleted, Malformed> {
        Ok(Undeleted {
            account: read_account(reader)?,
            created: read_created(reader)?,
            from: MailboxId(reader.u32()?),
            to: MailboxId(reader.u32()?),
            first_uid: Uid(reader.u32()?),
            uids: read_ranges(reader)?,
        })
    }
}

impl Shown {
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u32(self.account.0);
        write_created(writer, &self.created);
        writer.u32(self.from.0);
        writer.u32(self.to.0);
        write_keywords(writer, &self.keywords);
        writer.count(self.messages.len());
        for (uid, flags) in &self.messages {
            writer.u32(uid.0);
            writer.u64(flags.0);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Shown, Malformed> {
        let account = read_account(reader)?;
        let created = read_created(reader)?;
        let (from, to) = (MailboxId(reader.u32()?), MailboxId(reader.u32()?));
        let keywords = read_keywords(reader)?;
        let mut messages = Vec::new();
        for _ in 0..reader.count(12)? {
            messages.push((Uid(reader.u32()?), Flags(reader.u64()?)));
        }
        Ok(Shown { account, created, from, to, keywords, messages })
    }
}
