//! Recently read stretches of the log, so that a mailbox that is read from end to end costs one read
//! for many messages.
//!
//! A longer stretch is read only where reads have been following each other; scattered reads stay as
//! small as they are. What is kept may be stale behind the log's end, where batches were not there yet:
//! whoever finds that something here does not verify reads it anew from the disk.

use crate::buffer::ALIGNMENT;
use crate::format::{Location, SegmentId};
use bytes::Bytes;
use std::collections::VecDeque;

/// Read at once where reads follow each other.
const WINDOW_BYTES: u64 = 128 << 10;
/// Two megabytes a shard at most.
const WINDOWS_MAX: usize = 16;
/// A read that starts this far behind an earlier one follows it.
const FOLLOWING_BYTES: u64 = 64 << 10;
const RECENT_MAX: usize = 64;

#[derive(Debug)]
struct Window {
    segment: SegmentId,
    start: u64,
    bytes: Bytes,
}

#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// Newest last.
    windows: VecDeque<Window>,
    recent: VecDeque<Location>,
}

/// What to read from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// Worth keeping.
    pub(crate) keep: bool,
}

impl Windows {
    pub(crate) fn get(&self, location: Location, length: u64) -> Option<Bytes> {
        let offset = location.offset();
        let holds = |window: &&Window| {
            window.segment == location.segment
                && window.start <= offset
                && offset + length <= window.start + window.bytes.len() as u64
        };
        let window = self.windows.iter().rev().find(holds)?;
        let from = usize::try_from(offset - window.start).ok()?;
        Some(window.bytes.slice(from..from + usize::try_from(length).ok()?))
    }

    /// Notes the read, and says how much to fetch for it.
    pub(crate) fn plan(&mut self, location: Location, length: u64) -> Stretch {
        let follows = |earlier: &Location| {
            let ahead = location.offset().checked_sub(earlier.offset());
            earlier.segment == location.segment
                && ahead.is_some_and(|ahead| ahead > 0 && ahead <= FOLLOWING_BYTES)
        };
        let keep = self.recent.iter().any(follows);
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(location);
        let start = location.offset() / ALIGNMENT as u64 * ALIGNMENT as u64;
        let exact = location.offset() - start + length;
        Stretch { start, length: if keep { exact.max(WINDOW_BYTES) } else { exact }, keep }
    }

    pub(crate) fn put(&mut self, segment: SegmentId, start: u64, bytes: &Bytes) {
        if self.windows.len() == WINDOWS_MAX {
            self.windows.pop_front();
        }
        self.windows.push_back(Window { segment, start, bytes: bytes.clone() });
    }

    /// Something in this segment did not verify: none of it is believed any more.
    pub(crate) fn forget(&mut self, segment: SegmentId) {
        self.windows.retain(|window| window.segment != segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_that_follow_each_other_share_a_window_and_scattered_ones_do_not() {
        let at = |offset| Location::new(SegmentId(1), offset);
        let mut windows = Windows::default();
        let first = windows.plan(at(5000), 3000);
        assert_eq!(first, Stretch { start: 4096, length: 3904, keep: false });
        assert!(!windows.plan(at(5 << 20), 3000).keep, "far away");
        let next = windows.plan(at(8000), 3000);
        assert_eq!(next, Stretch { start: 4096, length: WINDOW_BYTES, keep: true });
        let bytes: Bytes = (0..WINDOW_BYTES).map(|i| i as u8).collect::<Vec<_>>().into();
        windows.put(SegmentId(1), 4096, &bytes);
        assert_eq!(windows.get(at(8000), 3), Some(bytes.slice(3904..3907)));
        assert_eq!(windows.get(at(4096 + WINDOW_BYTES - 8), 9), None);
        assert_eq!(windows.get(Location::new(SegmentId(2), 8000), 3), None);
        windows.forget(SegmentId(1));
        assert_eq!(windows.get(at(8000), 3), None);
    }
}
