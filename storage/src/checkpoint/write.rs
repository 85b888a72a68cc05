//! Writing a checkpoint from a snapshot of the index, piece by piece, while commits go on.

use super::files::{self, Kept, RowFiles};
use super::{FRAME_HEADER_BYTES, FrameKind, Header, Position, VERSION, file_name, frame_header};
use crate::buffer::{ALIGNMENT, Buffer};
use crate::device::Device;
use crate::format::fields::{write_chunks, write_keywords, write_quota, write_special_use};
use crate::format::{SegmentId, Writer};
use crate::index::{
    Account, Block, BlockData, Counters, Index, Mailbox, ROW_BYTES, Rows, SegmentUse,
};
use crate::types::{AccountId, Lsn, MailboxId, Uid};
use std::io;
use std::rc::Rc;

/// Smaller blocks are not worth mapping: they are likely to change soon.
const MAPPED_ROWS_MIN: u32 = 16;

/// What a checkpoint is made of: all of it shared with the live store, none of it changing.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) shard: u16,
    pub(crate) run: u32,
    pub(crate) index: Index,
    pub(crate) position: Position,
    /// What stays in the files of earlier checkpoints.
    pub(crate) kept: Kept,
    /// Which file holds which segment, and its first LSN.
    pub(crate) segments: Vec<(SegmentId, u32, Lsn)>,
}

/// A block of rows as it stands in the file: the index may let go of its own copy.
#[derive(Debug)]
pub(crate) struct WrittenBlock {
    pub(crate) account: AccountId,
    pub(crate) mailbox: MailboxId,
    /// Of graves.
    pub(crate) is_buried: bool,
    pub(crate) first: Uid,
    /// What was written; the live block is the same as long as it shares this.
    pub(crate) data: Rc<BlockData>,
    /// Of the rows, in the file.
    pub(crate) offset: u64,
}

#[derive(Debug)]
pub(crate) struct Written {
    /// Of the file.
    pub(crate) bytes: u64,
    pub(crate) blocks: Vec<WrittenBlock>,
}

/// How a checkpoint is written.
#[derive(Clone, Copy)]
pub(crate) struct Manner<'m> {
    /// At once: between two writes other tasks run.
    pub(crate) piece_bytes: usize,
    /// Whether the disk is the commits' after a piece, for as long as that took.
    pub(crate) rests: &'m dyn Fn() -> bool,
    /// Only a test has it otherwise.
    pub(crate) syncs: bool,
}

pub(crate) async fn write<D: Device>(
    device: &D,
    snapshot: &Snapshot,
    manner: Manner<'_>,
) -> io::Result<Written> {
    let name = file_name(snapshot.index.applied);
    let file = device.create(&name, 0).await?;
    let buffer = Buffer::with_capacity(manner.piece_bytes);
    let kept = &snapshot.kept.files;
    let mut output = Output { device, file, manner, buffer, offset: 0, kept, blocks: Vec::new() };
    let header = Header {
        version: VERSION,
        shard: snapshot.shard,
        lsn: snapshot.index.applied,
        position: snapshot.position,
        run: snapshot.run,
    };
    output.buffer.extend(&header.encode());
    output.buffer.pad(ALIGNMENT - output.buffer.len());
    output.frame(FrameKind::Files, &files::encode(kept)).await?;
    for account in snapshot.index.accounts.values() {
        output.account(account).await?;
    }
    for (space, page) in snapshot.index.spaces.pages() {
        let mut writer = Writer::default();
        writer.u8(space);
        writer.count(page.len());
        for (key, value) in page.iter() {
            writer.bytes(key);
            writer.bytes(value);
        }
        output.frame(FrameKind::Page, &writer.bytes).await?;
    }
    for (segment, used) in snapshot.index.live.segments() {
        output.frame(FrameKind::Live, &encode_live(segment, used)).await?;
    }
    output.frame(FrameKind::Log, &encode_log(&snapshot.index)).await?;
    output.past(&snapshot.index).await?;
    output.frame(FrameKind::Segments, &encode_segments(&snapshot.segments)).await?;
    output.frame(FrameKind::Counters, &encode_counters(&snapshot.index.counters)).await?;
    output.frame(FrameKind::End, &[]).await?;
    output.finish().await
}

fn encode_segments(segments: &[(SegmentId, u32, Lsn)]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.count(segments.len());
    for (segment, number, first_lsn) in segments {
        writer.u32(segment.0);
        writer.u32(*number);
        writer.u64(first_lsn.0);
    }
    writer.bytes
}

fn encode_live(segment: SegmentId, used: &SegmentUse) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u32(segment.0);
    writer.u64(used.bytes);
    writer.count(used.shared.len());
    for (eighths, references) in &used.shared {
        writer.u32(*eighths);
        writer.u32(*references);
    }
    writer.count(used.chunked.len());
    for (eighths, chunks) in &used.chunked {
        writer.u32(*eighths);
        write_chunks(&mut writer, chunks);
    }
    writer.bytes
}

fn encode_log(index: &Index) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u32(index.cold_next.0);
    writer.u8(u8::from(index.base.is_some()));
    if let Some(base) = &index.base {
        base.encode(&mut writer);
    }
    writer.bytes
}

fn encode_counters(counters: &Counters) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u64(counters.messages);
    writer.u64(counters.live_bytes);
    writer.u64(counters.bytes_received);
    writer.u64(counters.bytes_written);
    writer.u64(counters.bytes_prewritten);
    writer.u64(counters.flushes);
    writer.u64(counters.orphans);
    writer.u64(counters.bytes_moved);
    writer.u64(counters.bytes_based);
    writer.bytes
}

pub(super) struct Output<'d, D: Device> {
    device: &'d D,
    file: D::File,
    manner: Manner<'d>,
    buffer: Buffer,
    /// Where `buffer` goes.
    offset: u64,
    kept: &'d RowFiles,
    blocks: Vec<WrittenBlock>,
}

impl<D: Device> Output<'_, D> {
    async fn account(&mut self, account: &Account) -> io::Result<()> {
        let mut writer = Writer::with_capacity(256);
        writer.u32(account.id.0);
        write_quota(&mut writer, account.quota);
        writer.u64(account.messages);
        writer.u64(account.bytes);
        writer.u32(account.mailbox_next);
        writer.u32(account.uid_validity_max);
        writer.u64(account.highest_modseq.0);
        writer.count(account.subscriptions.len());
        for name in &account.subscriptions {
            writer.text(name);
        }
        writer.count(account.mailboxes.len());
        for mailbox in account.mailboxes.values() {
            self.mailbox(account.id, mailbox, &mut writer).await?;
        }
        self.frame(FrameKind::Account, &writer.bytes).await
    }

    /// Writes rows that are in no other file at once, the rest into the account's frame.
    async fn mailbox(
        &mut self,
        account: AccountId,
        mailbox: &Mailbox,
        writer: &mut Writer,
    ) -> io::Result<()> {
        writer.u32(mailbox.id.0);
        writer.text(&mailbox.name);
        writer.u32(mailbox.uid_validity);
        write_special_use(writer, mailbox.special_use);
        write_keywords(writer, &mailbox.keywords);
        writer.u32(mailbox.uid_next.0);
        writer.u32(mailbox.recent_from.0);
        writer.u64(mailbox.highest_modseq.0);
        writer.u32(mailbox.messages);
        writer.u32(mailbox.unseen);
        writer.u32(mailbox.deleted);
        writer.u64(mailbox.bytes);
        writer.u64(mailbox.vanished_floor.0);
        writer.count(mailbox.vanished.len());
        for (run, modseq) in &mailbox.vanished {
            writer.u32(run.first.0);
            writer.u32(run.last.0);
            writer.u64(modseq.0);
        }
        self.rows((account, mailbox.id), false, &mailbox.rows, writer).await
    }

    /// Writes rows that are in no other file at once, and where they are into the frame
    /// that refers to them.
    pub(super) async fn rows(
        &mut self,
        (account, mailbox): (AccountId, MailboxId),
        is_buried: bool,
        rows: &Rows,
        writer: &mut Writer,
    ) -> io::Result<()> {
        writer.count(rows.blocks().len());
        let mut bytes = Vec::new();
        for block in rows.blocks() {
            let place = self.place_elsewhere(block);
            let (file, offset) = place.unwrap_or((Lsn(0), self.next_payload_offset()));
            writer.u64(file.0);
            writer.u64(offset);
            writer.u32(block.count);
            writer.u32(block.first.0);
            writer.u32(block.last.0);
            writer.u64(block.modseq_max.0);
            writer.u32(block.segments.0.0);
            writer.u32(block.segments.1.0);
            if place.is_some() {
                continue;
            }
            // What is mapped has to let go of the file that it is in.
            if block.count >= MAPPED_ROWS_MIN || matches!(*block.data, BlockData::Mapped { .. }) {
                let (first, data) = (block.first, Rc::clone(&block.data));
                let written = WrittenBlock { account, mailbox, is_buried, first, data, offset };
                self.blocks.push(written);
            }
            bytes.clear();
            bytes.reserve(block.count as usize * ROW_BYTES);
            (0..block.count as usize).for_each(|index| block.row(index).encode_into(&mut bytes));
            self.frame(FrameKind::Rows, &bytes).await?;
        }
        Ok(())
    }

    /// Where the rows are, if in a file that is kept.
    fn place_elsewhere(&self, block: &Block) -> Option<(Lsn, u64)> {
        match &*block.data {
            BlockData::Mapped { file, offset } => {
                let lsn = file.checkpoint.filter(|lsn| self.kept.contains_key(lsn))?;
                Some((lsn, *offset as u64))
            }
            BlockData::Owned(_) => None,
        }
    }

    fn next_payload_offset(&self) -> u64 {
        self.offset + (self.buffer.len() + FRAME_HEADER_BYTES) as u64
    }

    pub(super) async fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
        self.buffer.extend(&frame_header(kind, payload));
        self.buffer.extend(payload);
        let end = self.buffer.len();
        self.buffer.pad(end.next_multiple_of(8) - end);
        if self.buffer.len() < self.manner.piece_bytes {
            return Ok(());
        }
        // Whole blocks go out; the rest starts the next piece.
        let whole = self.buffer.len() / ALIGNMENT * ALIGNMENT;
        let mut next = Buffer::with_capacity(self.manner.piece_bytes);
        next.extend(&self.buffer.as_slice()[whole..]);
        self.buffer.set_len(whole);
        let piece = std::mem::replace(&mut self.buffer, next);
        let began = self.device.steady();
        self.write(piece).await?;
        if (self.manner.rests)() {
            let took = self.device.steady().saturating_sub(began);
            self.device.sleep(took).await;
        }
        self.device.yield_now().await;
        Ok(())
    }

    async fn write(&mut self, piece: Buffer) -> io::Result<()> {
        let bytes = piece.len() as u64;
        self.device.write(&self.file, self.offset, piece).await.0?;
        self.offset += bytes;
        Ok(())
    }

    async fn finish(mut self) -> io::Result<Written> {
        let end = self.buffer.len();
        self.buffer.pad(crate::buffer::align_up(end) - end);
        let last = std::mem::replace(&mut self.buffer, Buffer::with_capacity(1));
        self.write(last).await?;
        if self.manner.syncs {
            self.device.sync(&self.file).await?;
            self.device.sync_directory().await?;
        }
        Ok(Written { bytes: self.offset, blocks: self.blocks })
    }
}
