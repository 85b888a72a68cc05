//! Opening a checkpoint: every frame is verified, accounts are read, rows stay where they are.
//!
//! A checkpoint of which one byte is wrong is not used at all: the index is then rebuilt from an
//! older one, or from the log alone.

use super::{
    FRAME_HEADER_BYTES, FrameKind, Header, Position, VERSION_WHOLE, past, read_frame, verified_rows,
};
use crate::buffer::ALIGNMENT;
use crate::format::fields::{read_chunks, read_keywords, read_quota, read_special_use};
use crate::format::{Base, Malformed, Reader, SegmentId, UidRange};
use crate::index::{
    Account, Block, BlockData, Counters, Index, Mailbox, ROW_BYTES, RowFile, Rows, SegmentUse,
};
use crate::types::{AccountId, Lsn, MailboxId, Modseq, Uid};
use bytes::Bytes;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) index: Index,
    pub(crate) position: Position,
    pub(crate) run: u32,
    pub(crate) segments: Vec<(SegmentId, u32, Lsn)>,
    /// Of the file itself, and of the rows in others.
    pub(crate) bytes: u64,
    pub(crate) rows_bytes: u64,
}

/// `others`: the files that it refers to ([`super::files::referred`]).
pub(crate) fn load(
    shard: u16,
    checkpoint: &Rc<RowFile>,
    others: &[Rc<RowFile>],
) -> Result<Loaded, Malformed> {
    let bytes = checkpoint.bytes();
    let header = Header::decode(bytes)?;
    if header.shard != shard {
        return Err(Malformed("belongs to another shard"));
    }
    let index = Index { applied: header.lsn, ..Index::default() };
    let mut loaded = Loaded {
        index,
        position: header.position,
        run: header.run,
        segments: Vec::new(),
        bytes: bytes.len() as u64,
        rows_bytes: 0,
    };
    let is_whole = header.version == VERSION_WHOLE;
    let mut rows = RowFrames {
        checkpoint,
        others,
        is_whole,
        sizes: BTreeMap::new(),
        elsewhere_bytes: Cell::default(),
    };
    let mut offset = ALIGNMENT;
    loop {
        let (kind, payload, next) = read_frame(bytes, offset)?;
        let mut reader = Reader::new(payload);
        match kind {
            FrameKind::Rows => {
                rows.sizes.insert(offset + FRAME_HEADER_BYTES, payload.len());
            }
            FrameKind::Account => {
                let account = read_account(&mut reader, &rows)?;
                rows.sizes.clear();
                loaded.index.accounts.insert(account.id, Rc::new(account));
            }
            FrameKind::Graves => {
                past::read_graves(&mut reader, &rows, &mut loaded.index)?;
                rows.sizes.clear();
            }
            FrameKind::Past => past::read_past(&mut reader, &mut loaded.index)?,
            FrameKind::Live => read_live(&mut reader, &mut loaded.index)?,
            FrameKind::Log => read_log(&mut reader, &mut loaded.index)?,
            FrameKind::Page => read_page(&mut reader, &mut loaded.index)?,
            FrameKind::Segments => loaded.segments = read_segments(&mut reader)?,
            FrameKind::Counters => loaded.index.counters = read_counters(&mut reader)?,
            FrameKind::End => {
                loaded.rows_bytes = rows.elsewhere_bytes.get();
                return Ok(loaded);
            }
            FrameKind::Files => {}
        }
        if !matches!(kind, FrameKind::Rows | FrameKind::Files) {
            reader.finish()?;
        }
        offset = next;
    }
}

/// The rows that the next account, or its graves, may refer to.
pub(super) struct RowFrames<'c> {
    checkpoint: &'c Rc<RowFile>,
    others: &'c [Rc<RowFile>],
    is_whole: bool,
    /// Of those in the checkpoint's own file, which have been verified.
    sizes: BTreeMap<usize, usize>,
    /// Of the rows in other files.
    elsewhere_bytes: Cell<u64>,
}

impl RowFrames<'_> {
    pub(super) fn read(&self, reader: &mut Reader<'_>) -> Result<Rows, Malformed> {
        let mut blocks = Vec::new();
        for _ in 0..reader.count(if self.is_whole { 36 } else { 44 })? {
            blocks.push(self.block(reader)?);
        }
        Ok(Rows::from_blocks(blocks))
    }

    fn block(&self, reader: &mut Reader<'_>) -> Result<Block, Malformed> {
        let elsewhere = if self.is_whole { Lsn(0) } else { Lsn(reader.u64()?) };
        let offset =
            usize::try_from(reader.u64()?).map_err(|_| Malformed("refers beyond its end"))?;
        let count = reader.u32()?;
        let (first, last) = (Uid(reader.u32()?), Uid(reader.u32()?));
        let modseq_max = Modseq(reader.u64()?);
        let segments = (SegmentId(reader.u32()?), SegmentId(reader.u32()?));
        let (file, bytes) = if elsewhere == Lsn(0) {
            (Some(self.checkpoint), self.sizes.get(&offset).copied())
        } else {
            let file = self.others.iter().find(|file| file.checkpoint == Some(elsewhere));
            self.elsewhere_bytes.update(|bytes| bytes + u64::from(count) * ROW_BYTES as u64);
            (file, file.and_then(|file| verified_rows(file.bytes(), offset)))
        };
        let file = file.filter(|_| bytes == Some(count as usize * ROW_BYTES) && count != 0);
        let file = file.ok_or(Malformed("refers to rows that are not there"))?;
        let data = BlockData::Mapped { file: Rc::clone(file), offset };
        Ok(Block { first, last, modseq_max, count, segments, data: Rc::new(data) })
    }
}

fn read_account(reader: &mut Reader<'_>, rows: &RowFrames<'_>) -> Result<Account, Malformed> {
    let id = AccountId(reader.u32()?);
    let quota = read_quota(reader)?;
    let messages = reader.u64()?;
    let bytes = reader.u64()?;
    let mailbox_next = reader.u32()?;
    let uid_validity_max = reader.u32()?;
    let highest_modseq = Modseq(reader.u64()?);
    let mut subscriptions = BTreeSet::new();
    for _ in 0..reader.count(4)? {
        subscriptions.insert(reader.text()?);
    }
    let mut mailboxes = BTreeMap::new();
    let mut names = BTreeMap::new();
    for _ in 0..reader.count(60)? {
        let mailbox = read_mailbox(reader, rows)?;
        names.insert(mailbox.name.clone(), mailbox.id);
        mailboxes.insert(mailbox.id, Rc::new(mailbox));
    }
    Ok(Account {
        id,
        quota,
        messages,
        bytes,
        mailbox_next,
        uid_validity_max,
        highest_modseq,
        mailboxes,
        names,
        subscriptions,
    })
}

fn read_mailbox(reader: &mut Reader<'_>, rows: &RowFrames<'_>) -> Result<Mailbox, Malformed> {
    let id = MailboxId(reader.u32()?);
    let name = reader.text()?;
    let uid_validity = reader.u32()?;
    let mut mailbox = Mailbox::new(id, name, uid_validity);
    mailbox.special_use = read_special_use(reader)?;
    mailbox.keywords = read_keywords(reader)?;
    mailbox.uid_next = Uid(reader.u32()?);
    mailbox.uid_reserved = mailbox.uid_next;
    mailbox.recent_from = Uid(reader.u32()?);
    mailbox.highest_modseq = Modseq(reader.u64()?);
    mailbox.messages = reader.u32()?;
    mailbox.unseen = reader.u32()?;
    mailbox.deleted = reader.u32()?;
    mailbox.bytes = reader.u64()?;
    mailbox.vanished_floor = Modseq(reader.u64()?);
    let mut vanished = VecDeque::new();
    for _ in 0..reader.count(16)? {
        let run = UidRange { first: Uid(reader.u32()?), last: Uid(reader.u32()?) };
        vanished.push_back((run, Modseq(reader.u64()?)));
    }
    mailbox.vanished = vanished;
    mailbox.rows = rows.read(reader)?;
    Ok(mailbox)
}

fn read_page(reader: &mut Reader<'_>, index: &mut Index) -> Result<(), Malformed> {
    let space = reader.u8()?;
    for _ in 0..reader.count(8)? {
        let (key, value) = (reader.bytes()?, reader.bytes()?);
        index.spaces.insert(space, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    }
    Ok(())
}

fn read_live(reader: &mut Reader<'_>, index: &mut Index) -> Result<(), Malformed> {
    let segment = SegmentId(reader.u32()?);
    let mut used = SegmentUse { bytes: reader.u64()?, ..SegmentUse::default() };
    for _ in 0..reader.count(8)? {
        used.shared.insert(reader.u32()?, reader.u32()?);
    }
    for _ in 0..reader.count(8)? {
        used.chunked.insert(reader.u32()?, read_chunks(reader)?);
    }
    index.live.insert(segment, used);
    Ok(())
}

fn read_log(reader: &mut Reader<'_>, index: &mut Index) -> Result<(), Malformed> {
    index.cold_next = SegmentId(reader.u32()?);
    if reader.u8()? != 0 {
        index.base = Some(Rc::new(Base::decode(reader)?));
    }
    Ok(())
}

fn read_segments(reader: &mut Reader<'_>) -> Result<Vec<(SegmentId, u32, Lsn)>, Malformed> {
    let mut segments = Vec::new();
    for _ in 0..reader.count(16)? {
        segments.push((SegmentId(reader.u32()?), reader.u32()?, Lsn(reader.u64()?)));
    }
    Ok(segments)
}

fn read_counters(reader: &mut Reader<'_>) -> Result<Counters, Malformed> {
    Ok(Counters {
        messages: reader.u64()?,
        live_bytes: reader.u64()?,
        bytes_received: reader.u64()?,
        bytes_written: reader.u64()?,
        bytes_prewritten: reader.u64()?,
        flushes: reader.u64()?,
        orphans: reader.u64()?,
        bytes_moved: reader.u64()?,
        bytes_based: reader.u64()?,
    })
}
