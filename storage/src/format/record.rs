//! The header of a record: kind, lengths, position, three checksums. FORMAT.md, "Records".
//!
//! Meta and body have checksums of their own, so that a reader may verify one without the other,
//! and so that rot in a body leaves the message's place in the index known.

use super::{Malformed, Reader, SegmentId};
use crate::types::Lsn;

pub const RECORD_HEADER_BYTES: usize = 48;

const MAGIC: u16 = u16::from_le_bytes(*b"KR");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    pub kind: u8,
    /// Of this kind's meta.
    pub version: u8,
    pub meta_bytes: u32,
    pub body_bytes: u32,
    pub segment: SegmentId,
    pub lsn: Lsn,
    pub shard: u16,
    /// The low half of the run, so that a record of which the batch header is lost still says
    /// whether it is a leftover.
    pub run_low: u16,
    pub meta_checksum: u32,
    pub body_checksum: u32,
    /// As in the batch's header.
    pub salt: u64,
}

impl RecordHeader {
    /// Header, meta and body, without the padding to eight bytes.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.meta_bytes) + u64::from(self.body_bytes)
    }

    pub fn encode_into(&self, target: &mut [u8]) {
        let mut header = [0; RECORD_HEADER_BYTES];
        header[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        header[2] = self.kind;
        header[3] = self.version;
        header[4..8].copy_from_slice(&self.meta_bytes.to_le_bytes());
        header[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        header[12..16].copy_from_slice(&self.segment.0.to_le_bytes());
        header[16..24].copy_from_slice(&self.lsn.0.to_le_bytes());
        header[24..26].copy_from_slice(&self.shard.to_le_bytes());
        header[26..28].copy_from_slice(&self.run_low.to_le_bytes());
        header[28..32].copy_from_slice(&self.meta_checksum.to_le_bytes());
        header[32..36].copy_from_slice(&self.body_checksum.to_le_bytes());
        header[36..44].copy_from_slice(&self.salt.to_le_bytes());
        let checksum = crc32fast::hash(&header[..44]);
        header[44..48].copy_from_slice(&checksum.to_le_bytes());
        target[..RECORD_HEADER_BYTES].copy_from_slice(&header);
    }

    pub fn decode(bytes: &[u8]) -> Result<RecordHeader, Malformed> {
        let header = bytes.get(..RECORD_HEADER_BYTES).ok_or(Malformed("is too short"))?;
        let mut reader = Reader::new(header);
        if reader.u16()? != MAGIC {
            return Err(Malformed("is not a record"));
        }
        if crc32fast::hash(&header[..44]).to_le_bytes() != header[44..] {
            return Err(Malformed("does not verify"));
        }
        let kind = reader.u8()?;
        let version = reader.u8()?;
        let meta_bytes = reader.u32()?;
        let body_bytes = reader.u32()?;
        let segment = SegmentId(reader.u32()?);
        let lsn = Lsn(reader.u64()?);
        let shard = reader.u16()?;
        let run_low = reader.u16()?;
        let meta_checksum = reader.u32()?;
        let body_checksum = reader.u32()?;
        let salt = reader.u64()?;
        Ok(RecordHeader {
            kind,
            version,
            meta_bytes,
            body_bytes,
            segment,
            lsn,
            shard,
            run_low,
            meta_checksum,
            body_checksum,
            salt,
        })
    }

    /// Meta and body of the record that starts at `bytes`, unverified. `None`: cut short.
    #[must_use]
    pub fn parts<'b>(&self, bytes: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
        let meta_end = RECORD_HEADER_BYTES.checked_add(self.meta_bytes as usize)?;
        let body_end = meta_end.checked_add(self.body_bytes as usize)?;
        Some((bytes.get(RECORD_HEADER_BYTES..meta_end)?, bytes.get(meta_end..body_end)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_header_survives_the_round_trip_and_no_flipped_bit() {
        let header = RecordHeader {
            kind: 9,
            version: 1,
            meta_bytes: 100,
            body_bytes: 4096,
            segment: SegmentId(7),
            lsn: Lsn(1234),
            shard: 2,
            run_low: 40_000,
            meta_checksum: 0xDEAD_BEEF,
            body_checksum: 0x0BAD_CAFE,
            salt: 0x5EED,
        };
        let mut bytes = [0; RECORD_HEADER_BYTES];
        header.encode_into(&mut bytes);
        assert_eq!(RecordHeader::decode(&bytes), Ok(header));
        assert_eq!(header.record_bytes(), 48 + 100 + 4096);
        for bit in 0..RECORD_HEADER_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(RecordHeader::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
