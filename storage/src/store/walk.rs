//! Looking at a segment as its bytes go by, from the first one on, in parts of any length: what of
//! its records is whole, and what does not verify. The scrub reads for that; a backup lets it see
//! what it reads to send.
//!
//! Of the log it goes batch by batch, so that records that no message needs but a rebuild does are
//! looked at, too. A cold segment has no batches, and may be full of what nobody needs any more:
//! there it finds what is whole, and tells of nothing.

use super::Store;
use crate::buffer::{ALIGNMENT, align_up};
use crate::device::Device;
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, Location, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, RecordHeader,
    SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId,
};
use crate::log::queue::run_low;
use crate::log::{Expected, find_records};
use crate::types::Lsn;

/// How far it has come, and what it has found.
#[derive(Debug)]
pub struct Walk {
    segment: SegmentId,
    /// Whole blocks.
    end: u64,
    shard: u16,
    salt: u64,
    run: u32,
    /// The LSN of the record that comes next in the log.
    due: Lsn,
    /// With which the log goes on behind the segment, if that is where `end` is.
    next_lsn: Option<Lsn>,
    /// Of what is held.
    offset: u64,
    /// Bytes that are looked at once there are more of them: a batch at most.
    held: Vec<u8>,
    /// Places of records that are whole, in eighths, ascending.
    whole: Vec<u32>,
    bad: Vec<Bad>,
}

/// What does not verify.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) what: String,
    pub(super) at: u64,
    /// The records that it is about, where that is known: as far as there, so many.
    pub(super) records: Option<(u64, usize)>,
}

impl<D: Device> Store<D> {
    /// To be fed with the bytes of a segment up to `end`.
    #[must_use]
    pub fn walk(&self, segment: SegmentId, end: u64) -> Walk {
        let segments = self.core.segments.borrow();
        let first = |id| segments.files.get(&SegmentId(id)).map(|file| file.first_lsn);
        // Where the log went on after `end` was chosen, the rest of this segment is not looked at.
        let is_cut = segments.files.get(&segment).is_none_or(|file| end < file.segment_bytes);
        let is_last = segment == self.core.position.get().segment;
        let has_next = !segment.is_cold() && !is_last && !is_cut;
        Walk {
            segment,
            end,
            shard: self.core.options.shard,
            salt: self.core.superblock.borrow().salt,
            run: 0,
            due: first(segment.0).unwrap_or_default(),
            next_lsn: first(segment.0 + 1).filter(|_| has_next),
            offset: 0,
            held: Vec::new(),
            whole: Vec::new(),
            bad: Vec::new(),
        }
    }
}

impl Walk {
    #[must_use]
    pub fn segment(&self) -> SegmentId {
        self.segment
    }

    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where the bytes come from that it wants next; at the end, all have gone by.
    #[must_use]
    pub fn wants(&self) -> u64 {
        self.offset + self.held.len() as u64
    }

    /// What comes next of the segment.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let mut taken = 0;
        while let Some(step) = self.step(&held[taken..]) {
            taken += step;
            self.offset += step as u64;
        }
        held.drain(..taken);
        self.held = held;
    }

    /// Places of what is whole, and what is not. Where not all could be read, it does not tell what
    /// is missing at the end.
    pub(super) fn finish(mut self) -> (Vec<u32>, Vec<Bad>) {
        if let Some(next) =
            self.next_lsn.filter(|next| *next > self.due && self.wants() >= self.end)
        {
            self.note(format!("the last {} records", next.0 - self.due.0), self.end, None);
        }
        (self.whole, self.bad)
    }

    fn note(&mut self, what: String, at: u64, records: Option<(u64, usize)>) {
        self.bad.push(Bad { what, at, records });
    }

    /// How many of these bytes, the next ones, are done with. `None`: more of them
    /// have to be there.
    fn step(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.offset >= self.end {
            return None;
        }
        if self.offset == 0 {
            self.begin(bytes.get(..SEGMENT_HEADER_BYTES)?);
            return Some(SEGMENT_HEADER_BYTES);
        }
        if self.segment.is_cold() {
            return self.step_cold(bytes);
        }
        let Some(batch) = self.batch(bytes.get(..ALIGNMENT)?) else {
            // Rot, or unused: which of them the next batch or segment says.
            return Some(ALIGNMENT);
        };
        let padded = bytes.get(..align_up(batch.bytes as usize))?;
        self.look_at(&batch, &padded[..batch.bytes as usize]);
        Some(padded.len())
    }

    fn begin(&mut self, block: &[u8]) {
        let header = SegmentHeader::decode(block).ok().filter(|one| one.segment == self.segment);
        match header {
            Some(header) => (self.run, self.salt) = (header.run, header.salt),
            None => self.note("the header of a segment".to_owned(), 0, None),
        }
    }

    fn batch(&self, block: &[u8]) -> Option<BatchHeader> {
        BatchHeader::decode(block).ok().filter(|batch| {
            (batch.shard, batch.segment, batch.salt) == (self.shard, self.segment, self.salt)
                && batch.run >= self.run
                && batch.first_lsn >= self.due
                && self.next_lsn.is_none_or(|next| batch.first_lsn < next)
                && batch.bytes as usize >= BATCH_HEADER_BYTES
                && self.offset + u64::from(batch.bytes) <= self.end
        })
    }

    fn look_at(&mut self, batch: &BatchHeader, bytes: &[u8]) {
        if batch.first_lsn > self.due {
            let count = batch.first_lsn.0 - self.due.0;
            self.note(format!("{count} records before a batch"), self.offset, None);
        }
        let expected = Expected {
            shard: self.shard,
            segment: self.segment,
            run_low: run_low(batch.run),
            salt: self.salt,
            from: batch.first_lsn,
            below: batch.next_lsn(),
        };
        let found = find_records(bytes, BATCH_HEADER_BYTES, expected);
        let missing = (batch.records as usize).saturating_sub(found.len());
        if missing > 0 {
            let count = missing + found.iter().filter(|record| !record.is_whole()).count();
            let what = format!("{missing} of {} records of a batch", batch.records);
            self.note(what, self.offset, Some((self.offset + bytes.len() as u64, count)));
        }
        for record in found {
            let place = self.offset + record.offset as u64;
            if record.is_whole() {
                self.whole.push(Location::new(self.segment, place).eighths);
            } else {
                let lsn = record.header.lsn.0;
                let end = place + record.header.record_bytes();
                self.note(format!("the record with LSN {lsn}"), place, Some((end, 1)));
            }
        }
        (self.due, self.run) = (batch.next_lsn(), batch.run);
    }

    /// One record, or what stands before the next.
    fn step_cold(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut eights = bytes.chunks_exact(RECORD_ALIGNMENT);
        match eights.position(|eight| eight.starts_with(b"KR")) {
            Some(0) => {}
            Some(before) => return Some(before * RECORD_ALIGNMENT),
            None => {
                let none = bytes.len() / RECORD_ALIGNMENT * RECORD_ALIGNMENT;
                return Some(none).filter(|none| *none > 0);
            }
        }
        let left = self.end - self.offset;
        if bytes.len() < RECORD_HEADER_BYTES && left >= RECORD_HEADER_BYTES as u64 {
            return None;
        }
        let header = RecordHeader::decode(bytes).ok().filter(|record| {
            (record.shard, record.segment, record.salt) == (self.shard, self.segment, self.salt)
                && record.record_bytes() <= left
        });
        let Some(header) = header else { return Some(RECORD_ALIGNMENT) };
        let (meta, body) = header.parts(bytes)?;
        if crc32fast::hash(meta) == header.meta_checksum
            && crc32fast::hash(body) == header.body_checksum
        {
            self.whole.push(Location::new(self.segment, self.offset).eighths);
        }
        let padded = header.record_bytes().next_multiple_of(RECORD_ALIGNMENT as u64);
        let padded = usize::try_from(padded.min(left)).ok()?;
        bytes.get(..padded).map(<[u8]>::len)
    }
}
