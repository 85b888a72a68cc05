//! What the copies out of some segments will take, before one of them is made: a round of
//! compaction that would not make the store smaller is not begun. Why that lets a store come to
//! rest is said in `mod.rs`.
//!
//! The segments that are begun are taken to have the size of new ones, which is wrong only after
//! that was changed.
//!
//! Invariant: it decides as `mover.rs` does. Both ask [`fits`] whether a copy has room, take copies
//! in the same order, and write when [`copy_bytes`] have come together.

use super::survey::Found;
use super::{ROUND_GAIN_PERCENT, Unworthy, copy_bytes};
use crate::buffer::{ALIGNMENT, align_up};
use crate::core::Core;
use crate::device::Device;
use crate::format::{
    ChunkRef, Location, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentId,
};
use crate::index::Live;
use std::collections::{BTreeMap, BTreeSet};

/// Records laid out between two yields.
const RECORDS_AT_ONCE: usize = 1024;

/// Whether one more record has room in a cold segment behind what is waiting to be written to it.
pub(super) fn fits(room: u64, waiting_bytes: usize, record_bytes: usize) -> bool {
    align_up(waiting_bytes + record_bytes.next_multiple_of(RECORD_ALIGNMENT)) as u64 <= room
}

/// Lays copies out one behind the other.
struct Pen {
    /// In the cold segment that is open; 0: there is none.
    room: u64,
    /// Of the segments behind it.
    segment_bytes: u64,
    /// Written as soon as so much has come together.
    copy_bytes: usize,
    waiting_bytes: usize,
    taken_bytes: u64,
}

impl Pen {
    fn new(room: u64, segment_bytes: u64, copy_bytes: usize) -> Pen {
        Pen { room, segment_bytes, copy_bytes, waiting_bytes: 0, taken_bytes: 0 }
    }

    fn put(&mut self, record_bytes: u64) {
        let record_bytes = record_bytes as usize;
        if !fits(self.room, self.waiting_bytes, record_bytes) {
            self.write();
            if !fits(self.room, self.waiting_bytes, record_bytes) {
                // The rest of the old segment goes for nothing.
                self.taken_bytes += self.room + SEGMENT_HEADER_BYTES as u64;
                self.room = self.segment_bytes - SEGMENT_HEADER_BYTES as u64;
            }
        }
        self.waiting_bytes += record_bytes.next_multiple_of(RECORD_ALIGNMENT);
        if self.waiting_bytes >= self.copy_bytes {
            self.write();
        }
    }

    fn write(&mut self) {
        let bytes = align_up(self.waiting_bytes) as u64;
        self.taken_bytes += bytes;
        self.room = self.room.saturating_sub(bytes);
        self.waiting_bytes = 0;
    }
}

/// Messages that have to be copied for these segments to become empty.
fn concerns(segments: &BTreeSet<SegmentId>, live: &Live, location: Location) -> bool {
    let is_emptied = |chunk: &ChunkRef| segments.contains(&chunk.location.segment);
    segments.contains(&location.segment) || live.chunks(location).iter().any(is_emptied)
}

/// The room that all copies take, with padding, headers of segments, and what is
/// left at their ends.
async fn taken_bytes<D: Device>(
    core: &Core<D>,
    segments: &BTreeSet<SegmentId>,
    found: &BTreeMap<Location, Found>,
) -> u64 {
    let room = core.segments.borrow().cold_room();
    let segment_bytes = core.options.segment_bytes;
    let mut pen = Pen::new(room, segment_bytes, copy_bytes(&core.options));
    for (number, (location, found)) in found.iter().enumerate() {
        if number % RECORDS_AT_ONCE == RECORDS_AT_ONCE - 1 {
            core.device.yield_now().await;
        }
        let live = &core.index.borrow().live;
        if !concerns(segments, live, *location) {
            continue;
        }
        for chunk in live.chunks(*location) {
            if segments.contains(&chunk.location.segment) {
                pen.put(RECORD_HEADER_BYTES as u64 + u64::from(chunk.body_bytes));
            }
        }
        pen.put(u64::from(found.record_bytes));
    }
    pen.write();
    pen.taken_bytes
}

/// Leaves out segments, the fullest first, until the copies take enough less than what they empty.
pub(super) async fn leave_unworthy<D: Device>(
    core: &Core<D>,
    segments: &mut BTreeSet<SegmentId>,
    found: &mut BTreeMap<Location, Found>,
    least_percent: u64,
) {
    let bytes_of = |id: &SegmentId| {
        core.segments.borrow().files.get(id).map_or(0, |segment| segment.segment_bytes)
    };
    while !segments.is_empty() {
        let emptied: u64 = segments.iter().map(bytes_of).sum();
        let gain_min = emptied * least_percent * ROUND_GAIN_PERCENT / 10_000;
        let taken = taken_bytes(core, segments, found).await;
        if taken + gain_min.max(ALIGNMENT as u64) <= emptied {
            return;
        }
        let live = &core.index.borrow().live;
        let spare = |id: &&SegmentId| bytes_of(id).saturating_sub(live.bytes(**id));
        let Some(fullest) = segments.iter().min_by_key(spare).copied() else { return };
        segments.remove(&fullest);
        let unworthy = Unworthy { live_bytes: live.bytes(fullest), least_percent };
        core.unworthy.borrow_mut().insert(fullest, unworthy);
        found.retain(|location, _| concerns(segments, live, *location));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_take_their_padding_and_what_is_left_at_the_end_of_a_segment() {
        let mut pen = Pen::new(20_480, 65_536, 8_192);
        // One is written by itself, in three blocks; the next finds two, and begins a segment.
        pen.put(8_240);
        assert_eq!((pen.taken_bytes, pen.room), (12_288, 8_192));
        pen.put(8_240);
        assert_eq!((pen.taken_bytes, pen.room), (12_288 + 8_192 + 4_096 + 12_288, 49_152));
        // Small ones wait for company, and what came together is written at the end.
        pen.put(100);
        pen.put(100);
        assert_eq!(pen.room, 49_152);
        pen.write();
        assert_eq!((pen.taken_bytes, pen.room), (36_864 + 4_096, 45_056));
        pen.write();
        assert_eq!(pen.taken_bytes, 40_960);
    }
}
