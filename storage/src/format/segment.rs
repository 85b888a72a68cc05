//! The header of a segment: its first block. FORMAT.md, "Segments".
//!
//! It is written durably before the first batch, which costs a flush for each segment. A file whose
//! first block is all zeroes is a spare; a header that is neither zero nor verifies has rotted.

use super::{FORMAT_VERSION, Malformed, Reader, SegmentId, Writer};
use crate::types::{Lsn, UnixMillis};

/// A whole block, so that the first batch starts on one.
pub const SEGMENT_HEADER_BYTES: usize = crate::buffer::ALIGNMENT;

const MAGIC: &[u8; 8] = b"KURASEG\0";
const USED_BYTES: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub shard: u16,
    pub segment: SegmentId,
    /// The opening of the store that took the segment into use.
    pub run: u32,
    /// The LSN of the first record; of a cold segment, the LSN that was next when it was begun.
    pub first_lsn: Lsn,
    pub segment_bytes: u64,
    pub opened: UnixMillis,
    /// What frames in this segment carry to show that they are the store's own.
    pub salt: u64,
}

impl SegmentHeader {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(SEGMENT_HEADER_BYTES);
        writer.raw(MAGIC);
        writer.u8(FORMAT_VERSION);
        writer.u8(u8::from(self.segment.is_cold()));
        writer.u16(self.shard);
        writer.u32(self.segment.0);
        writer.u32(self.run);
        writer.u32(0);
        writer.u64(self.first_lsn.0);
        writer.u64(self.segment_bytes);
        writer.u64(self.opened.0);
        writer.u64(self.salt);
        let checksum = crc32fast::hash(&writer.bytes);
        writer.u32(checksum);
        writer.bytes.resize(SEGMENT_HEADER_BYTES, 0);
        writer.bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, Malformed> {
        let header = bytes.get(..USED_BYTES).ok_or(Malformed("is too short"))?;
        let (covered, checksum) = header.split_at(USED_BYTES - 4);
        let mut reader = Reader::new(covered);
        if reader.raw(MAGIC.len())? != MAGIC {
            return Err(Malformed("is not a segment"));
        }
        if crc32fast::hash(covered).to_le_bytes() != checksum {
            return Err(Malformed("does not verify"));
        }
        if reader.u8()? > FORMAT_VERSION {
            return Err(Malformed("was written by a newer version"));
        }
        reader.u8()?;
        let shard = reader.u16()?;
        let segment = SegmentId(reader.u32()?);
        let run = reader.u32()?;
        reader.u32()?;
        let first_lsn = Lsn(reader.u64()?);
        let segment_bytes = reader.u64()?;
        let opened = UnixMillis(reader.u64()?);
        let salt = reader.u64()?;
        Ok(SegmentHeader { shard, segment, run, first_lsn, segment_bytes, opened, salt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_header_survives_the_round_trip_and_no_flipped_bit() {
        let header = SegmentHeader {
            shard: 3,
            segment: SegmentId(70_000),
            run: 9,
            first_lsn: Lsn(1 << 40),
            segment_bytes: 64 << 20,
            opened: UnixMillis(1_700_000_000_123),
            salt: 0x5EED,
        };
        let mut bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..USED_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(SegmentHeader::decode(&bytes[..20]).is_err());
    }
}
