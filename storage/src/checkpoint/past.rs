//! The frames of a checkpoint that say what is remembered. A store that remembers nothing has none.

use super::FrameKind;
use super::load::RowFrames;
use super::write::Output;
use crate::device::Device;
use crate::format::fields::{
    read_account, read_keywords, read_special_use, write_keywords, write_special_use,
};
use crate::format::{Base, Malformed, Reader, Writer};
use crate::index::{Account, Graves, Graveyard, Index};
use crate::types::{AccountId, MailboxId, UnixMillis};
use std::io;
use std::rc::Rc;

impl<D: Device> Output<'_, D> {
    pub(super) async fn past(&mut self, index: &Index) -> io::Result<()> {
        for (account, graves) in &index.past.graves {
            let mut writer = Writer::with_capacity(256);
            writer.u32(account.0);
            writer.count(graves.len());
            for (mailbox, graveyard) in &**graves {
                writer.u32(mailbox.0);
                writer.text(&graveyard.name);
                write_special_use(&mut writer, graveyard.special_use);
                write_keywords(&mut writer, &graveyard.keywords);
                writer.u64(graveyard.oldest.0);
                writer.u64(graveyard.messages);
                writer.u64(graveyard.bytes);
                self.rows((*account, *mailbox), true, &graveyard.rows, &mut writer).await?;
            }
            self.frame(FrameKind::Graves, &writer.bytes).await?;
        }
        match encode_past(index) {
            Some(payload) => self.frame(FrameKind::Past, &payload).await,
            None => Ok(()),
        }
    }
}

fn encode_past(index: &Index) -> Option<Vec<u8>> {
    let past = &index.past;
    let read_only = |account: &Account| -> Vec<(AccountId, MailboxId)> {
        let mailboxes = account.mailboxes.values().filter(|mailbox| mailbox.read_only);
        mailboxes.map(|mailbox| (account.id, mailbox.id)).collect()
    };
    let read_only: Vec<_> =
        index.accounts.values().flat_map(|account| read_only(account)).collect();
    let is_known = past.since > UnixMillis(0);
    if !is_known && past.retention_millis == 0 && past.held.is_empty() && read_only.is_empty() {
        return None;
    }
    let mut writer = Writer::default();
    writer.u64(past.retention_millis);
    writer.u64(past.since.0);
    writer.count(past.held.len());
    past.held.iter().for_each(|account| writer.u32(account.0));
    writer.count(read_only.len());
    for (account, mailbox) in read_only {
        writer.u32(account.0);
        writer.u32(mailbox.0);
    }
    writer.count(past.bases.len());
    for (time, base) in &past.bases {
        writer.u64(time.0);
        base.encode(&mut writer);
    }
    Some(writer.bytes)
}

pub(super) fn read_graves(
    reader: &mut Reader<'_>,
    rows: &RowFrames<'_>,
    index: &mut Index,
) -> Result<(), Malformed> {
    let account = read_account(reader)?;
    let mut graves = Graves::new();
    for _ in 0..reader.count(41)? {
        let mailbox = MailboxId(reader.u32()?);
        let graveyard = Graveyard {
            name: reader.text()?,
            special_use: read_special_use(reader)?,
            keywords: read_keywords(reader)?,
            oldest: UnixMillis(reader.u64()?),
            messages: reader.u64()?,
            bytes: reader.u64()?,
            rows: rows.read(reader)?,
        };
        index.past.messages += graveyard.messages;
        index.past.bytes += graveyard.bytes;
        graves.insert(mailbox, Rc::new(graveyard));
    }
    index.past.graves.insert(account, Rc::new(graves));
    // When the last of them was dug is not kept: by then, at the latest.
    index.past.buried = index.applied;
    Ok(())
}

/// Behind the accounts, which it refers to.
pub(super) fn read_past(reader: &mut Reader<'_>, index: &mut Index) -> Result<(), Malformed> {
    index.past.retention_millis = reader.u64()?;
    index.past.since = UnixMillis(reader.u64()?);
    for _ in 0..reader.count(4)? {
        index.past.held.insert(read_account(reader)?);
    }
    for _ in 0..reader.count(8)? {
        let (account, mailbox) = (read_account(reader)?, MailboxId(reader.u32()?));
        let found = index.accounts.get_mut(&account).map(Rc::make_mut);
        let found = found.and_then(|account| account.mailbox_mut(mailbox));
        found.ok_or(Malformed("refers to a mailbox that is not there"))?.read_only = true;
    }
    for _ in 0..reader.count(28)? {
        let time = UnixMillis(reader.u64()?);
        index.past.bases.push((time, Rc::new(Base::decode(reader)?)));
    }
    Ok(())
}
