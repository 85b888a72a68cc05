//! Records that upkeep writes: messages copied elsewhere, and checkpoints in the log. FORMAT.md,
//! "Compaction" and "Bases".

use super::fields::{read_account, read_chunks, read_location, write_chunks, write_location};
use super::{ChunkRef, Location, Malformed, Reader, SEGMENT_HEADER_BYTES, SegmentId, Writer};
use crate::types::{AccountId, Lsn, MailboxId, Uid};

/// Messages that compaction has copied into a cold segment, durably, before this record was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Written for it, with padding.
    pub copied_bytes: u32,
    pub moves: Vec<Move>,
}

/// One message. Its copy is the record that delivered it, under its own LSN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub from: Location,
    pub to: Location,
    /// Of the copy.
    pub record_bytes: u32,
    /// Where the chunks of its body are now, if it has any.
    pub chunks: Vec<ChunkRef>,
    /// Every row that refers to it: they refer to the copy from now on.
    pub references: Vec<Reference>,
}

/// A row of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    pub account: AccountId,
    pub mailbox: MailboxId,
    pub uid: Uid,
}

/// A checkpoint in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// All records up to here are in it.
    pub lsn: Lsn,
    /// Where the log goes on after it: nothing of the log from here on is freed while this
    /// base is the newest.
    pub segment: SegmentId,
    pub offset: u64,
    /// The checkpoint's bytes, in this order.
    pub pieces: Vec<ChunkRef>,
}

impl Moved {
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u32(self.copied_bytes);
        writer.count(self.moves.len());
        self.moves.iter().for_each(|one| one.encode(writer));
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Moved, Malformed> {
        let copied_bytes = reader.u32()?;
        let mut moves = Vec::new();
        for _ in 0..reader.count(28)? {
            moves.push(Move::decode(reader)?);
        }
        Ok(Moved { copied_bytes, moves })
    }
}

impl Move {
    fn encode(&self, writer: &mut Writer) {
        write_location(writer, self.from);
        write_location(writer, self.to);
        writer.u32(self.record_bytes);
        write_chunks(writer, &self.chunks);
        writer.count(self.references.len());
        for reference in &self.references {
            writer.u32(reference.account.0);
            writer.u32(reference.mailbox.0);
            writer.u32(reference.uid.0);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Move, Malformed> {
        let (from, to) = (read_location(reader)?, read_location(reader)?);
        let record_bytes = reader.u32()?;
        let chunks = read_chunks(reader)?;
        let mut references = Vec::new();
        for _ in 0..reader.count(12)? {
            references.push(Reference {
                account: read_account(reader)?,
                mailbox: MailboxId(reader.u32()?),
                uid: Uid(reader.u32()?),
            });
        }
        Ok(Move { from, to, record_bytes, chunks, references })
    }
}

impl Base {
    /// Stands for the log's start, where there is nothing yet.
    #[must_use]
    pub fn beginning() -> Base {
        Base {
            lsn: Lsn(0),
            segment: SegmentId(1),
            offset: SEGMENT_HEADER_BYTES as u64,
            pieces: Vec::new(),
        }
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.u64(self.lsn.0);
        writer.u32(self.segment.0);
        writer.u64(self.offset);
        write_chunks(writer, &self.pieces);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Base, Malformed> {
        Ok(Base {
            lsn: Lsn(reader.u64()?),
            segment: SegmentId(reader.u32()?),
            offset: reader.u64()?,
            pieces: read_chunks(reader)?,
        })
    }
}
