//! Finding records among bytes of which some are damaged: by their headers, wherever these stand.

use crate::format::{RECORD_ALIGNMENT, RECORD_HEADER_BYTES, RecordHeader, SegmentId};
use crate::types::Lsn;

/// A record that was found by its header, and what of it verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundRecord {
    /// From the start of the bytes that were searched.
    pub offset: usize,
    pub header: RecordHeader,
    pub meta_verifies: bool,
    pub body_verifies: bool,
}

impl FoundRecord {
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.meta_verifies && self.body_verifies
    }
}

/// Which records to take for real.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    pub shard: u16,
    pub segment: SegmentId,
    /// Records of earlier runs are leftovers. Compared around the wrap, as TCP
    /// compares its numbers.
    pub run_low: u16,
    pub salt: u64,
    /// The first LSN that is due, and the first that is not expected any more.
    pub from: Lsn,
    pub below: Lsn,
}

/// Finds records in `bytes` from `start`, skipping what is damaged. Never panics on any bytes.
#[must_use]
pub fn find_records(bytes: &[u8], start: usize, expected: Expected) -> Vec<FoundRecord> {
    let mut found: Vec<FoundRecord> = Vec::new();
    let mut offset = start;
    let mut due = expected.from;
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let header = RecordHeader::decode(rest).ok().filter(|header| {
            header.shard == expected.shard
                && header.segment == expected.segment
                && header.salt == expected.salt
                && header.run_low.wrapping_sub(expected.run_low) < 1 << 15
                && header.lsn >= due
                && header.lsn < expected.below
        });
        let Some((header, (meta, body))) = header.and_then(|h| Some((h, h.parts(rest)?))) else {
            offset += RECORD_ALIGNMENT;
            continue;
        };
        found.push(FoundRecord {
            offset,
            header,
            meta_verifies: crc32fast::hash(meta) == header.meta_checksum,
            body_verifies: crc32fast::hash(body) == header.body_checksum,
        });
        due = Lsn(header.lsn.0 + 1);
        let length = RECORD_HEADER_BYTES + meta.len() + body.len();
        offset += length.next_multiple_of(RECORD_ALIGNMENT);
    }
    found
}
