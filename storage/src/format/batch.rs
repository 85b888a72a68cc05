//! The header of a batch: what one flush makes durable. FORMAT.md, "Batches" and "Commit".

use super::{FORMAT_VERSION, Malformed, Reader, SegmentId};
use crate::types::{Lsn, UnixMillis};

pub const BATCH_HEADER_BYTES: usize = 64;

const MAGIC: u32 = u32::from_le_bytes(*b"KBAT");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub shard: u16,
    pub segment: SegmentId,
    /// The opening of the store that wrote it. Never falls along the log: a batch of an earlier run
    /// behind one of a later run is a leftover from before a crash.
    pub run: u32,
    pub first_lsn: Lsn,
    /// Everything up to here was durable when this batch was sealed: the witness that tells rot in
    /// an earlier batch from a torn tail.
    pub durable: Lsn,
    pub sealed: UnixMillis,
    pub records: u32,
    /// The header and all records; the padding to whole blocks is not counted.
    pub bytes: u32,
    /// A number that only this store knows: recovery looks for headers in places where mail may
    /// stand, and mail may contain anything else.
    pub salt: u64,
}

impl BatchHeader {
    /// The LSN that follows the last record.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.0.saturating_add(u64::from(self.records)))
    }

    pub fn encode_into(&self, target: &mut [u8]) {
        let mut header = [0; BATCH_HEADER_BYTES];
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4] = FORMAT_VERSION;
        header[6..8].copy_from_slice(&self.shard.to_le_bytes());
        header[8..12].copy_from_slice(&self.segment.0.to_le_bytes());
        header[12..16].copy_from_slice(&self.run.to_le_bytes());
        header[16..24].copy_from_slice(&self.first_lsn.0.to_le_bytes());
        header[24..32].copy_from_slice(&self.durable.0.to_le_bytes());
        header[32..40].copy_from_slice(&self.sealed.0.to_le_bytes());
        header[40..44].copy_from_slice(&self.records.to_le_bytes());
        header[44..48].copy_from_slice(&self.bytes.to_le_bytes());
        header[48..56].copy_from_slice(&self.salt.to_le_bytes());
        let checksum = crc32fast::hash(&header[..60]);
        header[60..64].copy_from_slice(&checksum.to_le_bytes());
        target[..BATCH_HEADER_BYTES].copy_from_slice(&header);
    }

    pub fn decode(bytes: &[u8]) -> Result<BatchHeader, Malformed> {
        let header = bytes.get(..BATCH_HEADER_BYTES).ok_or(Malformed("is too short"))?;
        let mut reader = Reader::new(header);
        if reader.u32()? != MAGIC {
            return Err(Malformed("is not a batch"));
        }
        if crc32fast::hash(&header[..60]).to_le_bytes() != header[60..] {
            return Err(Malformed("does not verify"));
        }
        if reader.u8()? > FORMAT_VERSION {
            return Err(Malformed("was written by a newer version"));
        }
        reader.u8()?;
        Ok(BatchHeader {
            shard: reader.u16()?,
            segment: SegmentId(reader.u32()?),
            run: reader.u32()?,
            first_lsn: Lsn(reader.u64()?),
            durable: Lsn(reader.u64()?),
            sealed: UnixMillis(reader.u64()?),
            records: reader.u32()?,
            bytes: reader.u32()?,
            salt: reader.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_header_survives_the_round_trip_and_no_flipped_bit() {
        let header = BatchHeader {
            shard: 1,
            segment: SegmentId(2),
            run: 3,
            first_lsn: Lsn(4),
            durable: Lsn(3),
            sealed: UnixMillis(5),
            records: 6,
            bytes: 7000,
            salt: 0x5EED,
        };
        let mut bytes = [0; BATCH_HEADER_BYTES];
        header.encode_into(&mut bytes);
        assert_eq!(BatchHeader::decode(&bytes), Ok(header));
        assert_eq!(header.next_lsn(), Lsn(10));
        for bit in 0..BATCH_HEADER_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
