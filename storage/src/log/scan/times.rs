//! What the batches' times say: where the log is as of a time, and how new what it holds is.

use super::Scan;
use super::window::WINDOW_BYTES;
use crate::buffer::ALIGNMENT;
use crate::device::Device;
use crate::error::Error;
use crate::format::SEGMENT_HEADER_BYTES;
use crate::types::UnixMillis;

impl<D: Device> Scan<'_, D> {
    /// Whether a batch of this time is too young. Younger ones are folded in all the same,
    /// in case that an older one follows: then the clock was wrong, and they are part of
    /// what was before it.
    pub(super) fn note_time(&mut self, sealed: UnixMillis) {
        let Some(until) = self.until else { return };
        if sealed <= until {
            self.then = None;
        } else if self.then.is_none() {
            self.then = Some((self.index.clone(), self.report.lost_records));
        }
    }

    /// Whether nothing follows that is not younger, as far as can be told at a segment's start: no
    /// later segment was begun before the last batch was sealed, and that was not in the future.
    pub(super) fn is_past(&self) -> bool {
        let is_at_start = self.position.offset == SEGMENT_HEADER_BYTES as u64;
        if self.then.is_none() || !is_at_start || self.time > self.device.now() {
            return false;
        }
        let mut later = self.segments.range(self.position.segment..);
        !later.any(|(_, segment)| segment.header.opened < self.time)
    }

    /// When the last batch was sealed. Where none was read, and anything is remembered by its time,
    /// it is looked for.
    pub(super) async fn newest(&mut self) -> Result<Option<UnixMillis>, Error> {
        if self.index.past.graves.is_empty() {
            return Ok(None);
        }
        let start = SEGMENT_HEADER_BYTES as u64;
        let opened = self.segment().map(|segment| segment.header.opened);
        let mut offset = self.position.offset;
        while self.last_batch.is_none() && opened.is_some() && offset > start {
            let from = offset.saturating_sub(WINDOW_BYTES as u64).max(start);
            self.bytes(from, offset - from).await?;
            while offset > from {
                offset -= ALIGNMENT as u64;
                if let Some(batch) = self.batch_header_at(offset).await? {
                    return Ok(Some(batch.sealed));
                }
            }
        }
        Ok(Some(self.time.max(opened.unwrap_or_default())))
    }
}
