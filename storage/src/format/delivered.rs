//! A message's record, and what lists one recipient or one piece of it. FORMAT.md, "Kinds": kind 9.

use super::fields::{
    Pairs, read_account, read_chunks, read_keywords, read_pairs, write_chunks, write_keywords,
    write_pairs,
};
use super::kinds::{PACKED_VERSION, PUTTING_PACKED_VERSION, PUTTING_VERSION, is_known, kind};
use super::{Location, Malformed, Reader, Writer};
use crate::types::{AccountId, Flags, MailboxId, Uid, UnixMillis};
use std::ops::Range;

/// One recipient of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedRecord {
    pub account: AccountId,
    pub mailbox: MailboxId,
    pub uid: Uid,
    /// System flags only.
    pub flags: Flags,
    pub keywords: Vec<String>,
    pub prefix: Vec<u8>,
}

/// A piece of a streamed body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    pub location: Location,
    pub body_bytes: u32,
}

/// A message. Its summary follows these fields at the end of the meta; its body is the record's
/// body, or lies in chunk records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub internal_date: UnixMillis,
    /// Of the whole body, in chunks or not.
    pub body_bytes: u32,
    pub summary_bytes: u32,
    pub placements: Vec<PlacedRecord>,
    pub chunks: Vec<ChunkRef>,
    /// Version 2: the body is packed, or (some of) its chunks are, and what each of
    /// these holds unpacked.
    /// `None`: everything is as it was received.
    pub unpacked: Option<Vec<u32>>,
    /// Versions 3 and 4: keys of a space that are set together with it.
    pub put: Option<(u8, Pairs)>,
}

impl Delivered {
    pub(super) fn version(&self) -> u8 {
        match (&self.unpacked, &self.put) {
            (None, None) => 1,
            (Some(_), None) => PACKED_VERSION,
            (None, Some(_)) => PUTTING_VERSION,
            (Some(_), Some(_)) => PUTTING_PACKED_VERSION,
        }
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u64(self.internal_date.0);
        writer.u32(self.body_bytes);
        writer.u32(self.summary_bytes);
        writer.count(self.placements.len());
        for placement in &self.placements {
            writer.u32(placement.account.0);
            writer.u32(placement.mailbox.0);
            writer.u32(placement.uid.0);
            writer.u64(placement.flags.0);
            write_keywords(writer, &placement.keywords);
            writer.bytes(&placement.prefix);
        }
        write_chunks(writer, &self.chunks);
        if let Some(unpacked) = &self.unpacked {
            writer.count(unpacked.len());
            unpacked.iter().for_each(|bytes| writer.u32(*bytes));
        }
        if let Some((space, pairs)) = &self.put {
            write_pairs(writer, *space, pairs);
        }
    }

    /// Of a verified meta: where in it the summary is, and the body's length. For who lists
    /// thousands of messages, and needs nothing else of it.
    pub(crate) fn summary(
        kind: u8,
        version: u8,
        meta: &[u8],
    ) -> Result<(Range<usize>, u32), Malformed> {
        if kind != kind::DELIVERED || !is_known(kind, version) {
            return Err(Malformed("is no message that this Kura reads"));
        }
        let mut reader = Reader::new(meta);
        let _internal_date = reader.u64()?;
        let (body_bytes, summary_bytes) = (reader.u32()?, reader.u32()?);
        let start = meta.len().checked_sub(summary_bytes as usize);
        let start = start.ok_or(Malformed("has a summary longer than itself"))?;
        Ok((start..meta.len(), body_bytes))
    }

    pub(super) fn decode(version: u8, reader: &mut Reader<'_>) -> Result<Delivered, Malformed> {
        let internal_date = UnixMillis(reader.u64()?);
        let body_bytes = reader.u32()?;
        let summary_bytes = reader.u32()?;
        let mut placements = Vec::new();
        for _ in 0..reader.count(28)? {
            placements.push(PlacedRecord {
                account: read_account(reader)?,
                mailbox: MailboxId(reader.u32()?),
                uid: Uid(reader.u32()?),
                flags: Flags(reader.u64()?),
                keywords: read_keywords(reader)?,
                prefix: reader.bytes()?.to_vec(),
            });
        }
        let chunks = read_chunks(reader)?;
        let unpacked = if matches!(version, PACKED_VERSION | PUTTING_PACKED_VERSION) {
            let count = reader.count(4)?;
            if count != chunks.len() {
                return Err(Malformed("does not say how long each of its chunks is"));
            }
            Some((0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?)
        } else {
            None
        };
        let put = match version {
            PUTTING_VERSION | PUTTING_PACKED_VERSION => Some((reader.u8()?, read_pairs(reader)?)),
            _ => None,
        };
        reader.raw(summary_bytes as usize)?;
        Ok(Delivered {
            internal_date,
            body_bytes,
            summary_bytes,
            placements,
            chunks,
            unpacked,
            put,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::Record;
    use super::*;

    #[test]
    fn the_summary_of_every_version_is_found_without_the_rest() {
        let put = Some((10, vec![(b"key".to_vec(), Some(b"value".to_vec()))]));
        for (unpacked, put) in
            [(None, None), (Some(vec![]), None), (None, put.clone()), (Some(vec![]), put)]
        {
            let delivered = Delivered {
                internal_date: UnixMillis(1),
                body_bytes: 4096,
                summary_bytes: 7,
                placements: Vec::new(),
                chunks: Vec::new(),
                unpacked,
                put,
            };
            let record = Record::Delivered(delivered);
            let meta = [record.encode(), b"summary".to_vec()].concat();
            let (kind, version) = (record.kind(), record.version());
            assert_eq!(Record::decode(kind, version, &meta).as_ref(), Ok(&record));
            let (summary, body_bytes) = Delivered::summary(kind, version, &meta).unwrap();
            assert_eq!((&meta[summary], body_bytes), (&b"summary"[..], 4096), "version {version}");
            assert!(Delivered::summary(kind, 5, &meta).is_err());
            assert!(Delivered::summary(kind::COPIED, 1, &meta).is_err());
            assert!(Delivered::summary(kind, version, &meta[..15]).is_err());
        }
    }
}
