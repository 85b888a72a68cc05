//! How many bytes of each segment something still refers to: what a segment is worth to compaction,
//! and the proof that nothing is left in one that it frees.
//!
//! A record is live while a row or a grave refers to it; chunks are live with the message that
//! lists them. Nearly all messages have one reference, so only more than one are counted.
//! Invariant: the sums are those of a recount over all rows; `verify` and the tests recount.

use crate::format::{ChunkRef, Location, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, SegmentId};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Per segment behind `Rc`, so that a snapshot shares all that does not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    segments: BTreeMap<SegmentId, Rc<SegmentUse>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentUse {
    /// Of live records, each with its padding.
    pub bytes: u64,
    /// References to records that have more than one, by place (in eighths).
    pub shared: BTreeMap<u32, u32>,
    /// Messages of which the body lies in chunks, and where those are.
    pub chunked: BTreeMap<u32, Vec<ChunkRef>>,
}

/// What a record takes in its segment.
fn padded(record_bytes: u32) -> u64 {
    u64::from(record_bytes).next_multiple_of(RECORD_ALIGNMENT as u64)
}

/// What a chunk takes in its segment.
#[must_use]
pub fn chunk_bytes(chunk: &ChunkRef) -> u64 {
    let bytes = RECORD_HEADER_BYTES as u64 + u64::from(chunk.body_bytes);
    bytes.next_multiple_of(RECORD_ALIGNMENT as u64)
}

impl Live {
    #[must_use]
    pub fn used(&self, segment: SegmentId) -> Option<&SegmentUse> {
        self.segments.get(&segment).map(Rc::as_ref)
    }

    /// Live bytes of a segment.
    #[must_use]
    pub fn bytes(&self, segment: SegmentId) -> u64 {
        self.segments.get(&segment).map_or(0, |used| used.bytes)
    }

    /// How many rows refer to a live record.
    #[must_use]
    pub fn references(&self, location: Location) -> u32 {
        let used = self.segments.get(&location.segment);
        used.and_then(|used| used.shared.get(&location.eighths)).copied().unwrap_or(1)
    }

    #[must_use]
    pub fn chunks(&self, location: Location) -> &[ChunkRef] {
        let used = self.segments.get(&location.segment);
        used.and_then(|used| used.chunked.get(&location.eighths)).map_or(&[], Vec::as_slice)
    }

    /// Messages in chunks, and where they are.
    pub fn chunked(&self) -> impl Iterator<Item = (Location, &[ChunkRef])> {
        self.segments.iter().flat_map(|(segment, used)| {
            let place = |eighths: &u32| Location { segment: *segment, eighths: *eighths };
            used.chunked.iter().map(move |(eighths, chunks)| (place(eighths), chunks.as_slice()))
        })
    }

    pub fn segments(&self) -> impl Iterator<Item = (SegmentId, &SegmentUse)> {
        self.segments.iter().map(|(segment, used)| (*segment, &**used))
    }

    /// From a checkpoint.
    pub fn insert(&mut self, segment: SegmentId, used: SegmentUse) {
        self.segments.insert(segment, Rc::new(used));
    }

    /// A message comes to be.
    pub fn add(
        &mut self,
        location: Location,
        record_bytes: u32,
        references: u32,
        chunks: &[ChunkRef],
    ) {
        if references == 0 {
            return;
        }
        let used = self.segment_mut(location.segment);
        used.bytes += padded(record_bytes);
        if references > 1 {
            used.shared.insert(location.eighths, references);
        }
        if !chunks.is_empty() {
            used.chunked.insert(location.eighths, chunks.to_vec());
        }
        for chunk in chunks {
            self.segment_mut(chunk.location.segment).bytes += chunk_bytes(chunk);
        }
    }

    /// One more row refers to a message.
    pub fn share(&mut self, location: Location) {
        let used = self.segment_mut(location.segment);
        *used.shared.entry(location.eighths).or_insert(1) += 1;
    }

    /// So many fewer do; the last one takes the message with it.
    pub fn release(&mut self, location: Location, record_bytes: u32, references: u32) {
        let left = self.references(location).saturating_sub(references);
        let used = self.segment_mut(location.segment);
        if left > 1 {
            used.shared.insert(location.eighths, left);
            return;
        }
        used.shared.remove(&location.eighths);
        if left == 1 {
            return;
        }
        used.bytes = used.bytes.saturating_sub(padded(record_bytes));
        let chunks = used.chunked.remove(&location.eighths).unwrap_or_default();
        self.drop_if_empty(location.segment);
        for chunk in chunks {
            let segment = chunk.location.segment;
            let used = self.segment_mut(segment);
            used.bytes = used.bytes.saturating_sub(chunk_bytes(&chunk));
            self.drop_if_empty(segment);
        }
    }

    fn segment_mut(&mut self, segment: SegmentId) -> &mut SegmentUse {
        Rc::make_mut(self.segments.entry(segment).or_default())
    }

    fn drop_if_empty(&mut self, segment: SegmentId) {
        if self.segments.get(&segment).is_some_and(|used| **used == SegmentUse::default()) {
            self.segments.remove(&segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(segment: u32, eighths: u32) -> Location {
        Location { segment: SegmentId(segment), eighths }
    }

    #[test]
    fn the_last_reference_takes_the_record_and_its_chunks() {
        let mut live = Live::default();
        let chunk = ChunkRef { location: place(1, 600), body_bytes: 1000 };
        live.add(place(2, 512), 101, 2, &[chunk]);
        live.add(place(2, 700), 80, 1, &[]);
        assert_eq!((live.bytes(SegmentId(1)), live.bytes(SegmentId(2))), (1048, 104 + 80));
        live.share(place(2, 700));
        live.share(place(2, 512));
        assert_eq!((live.references(place(2, 512)), live.references(place(2, 700))), (3, 2));
        live.release(place(2, 512), 101, 1);
        live.release(place(2, 512), 101, 1);
        assert_eq!(live.chunks(place(2, 512)), [chunk]);
        live.release(place(2, 512), 101, 1);
        assert_eq!((live.bytes(SegmentId(1)), live.bytes(SegmentId(2))), (0, 80));
        live.release(place(2, 700), 80, 2);
        assert_eq!(live, Live::default(), "nothing is kept for what is gone");
    }
}
