//! Where a scan must not go on: what is missing there was in a file that has been lost, cut off, or
//! replaced by an older copy.

use super::{FoundBatch, FoundSegment, Scan};
use crate::device::Device;
use crate::error::Error;
use crate::format::{SegmentHeader, SegmentId};
use crate::log::reach::{self, Reach};
use crate::log::recovery::Decision;
use crate::log::segments::file_name;
use crate::superblock::Begun;
use crate::types::Lsn;

impl<D: Device> Scan<'_, D> {
    /// Segments are begun one after the other, each with a durable header, and given up from the
    /// last one on: where one is not there but a later one is or was begun, its file has been lost.
    /// To go on without it would be to take all that is behind it for leftovers, and an empty store
    /// for all that there was.
    pub(super) fn refuse_gap(&self) -> Result<(), Error> {
        let here = self.position.segment;
        let is_here = self.segment().is_some();
        let missing = if is_here { SegmentId(here.0 + 1) } else { here };
        if self.segments.contains_key(&missing) {
            return Ok(());
        }
        // Whoever wrote no mark of what was begun had at least a witness of what was durable.
        // Whoever gave up what was marked, and went on here without a mark, is of a later run.
        let counts = |begun: Begun| missing <= begun.segment && self.run <= begun.run;
        let was_begun = self.begun.is_some_and(counts);
        if was_begun || (!is_here && self.due <= self.witness) {
            return Err(self.lost_segment(missing, ""));
        }
        let counts = |next: &&SegmentHeader| next.run >= self.run && next.first_lsn >= self.due;
        let later = self.segments.range(missing..).map(|(_, segment)| &segment.header).find(counts);
        let Some(later) = later else { return Ok(()) };
        let goes_on =
            format!(", and segment {} goes on with LSN {}", later.segment.0, later.first_lsn.0);
        Err(self.lost_segment(missing, &goes_on))
    }

    fn lost_segment(&self, missing: SegmentId, more: &str) -> Error {
        Error::Open {
            place: self.device.place(),
            what: format!(
                "segment {} of the log is missing or unreadable: it held LSNs from about {} on{more}",
                missing.0, self.due.0
            ),
        }
    }

    /// Whether something of this segment that its file should hold is taken for lost.
    pub(super) fn gives_up_the_rest(&self, decision: Decision, batch: Option<&FoundBatch>) -> bool {
        match decision {
            Decision::End | Decision::SalvageToEnd | Decision::SalvageToNextSegment => true,
            Decision::ApplyWhatVerifies => {
                batch.zip(self.segment()).is_some_and(|(batch, segment)| {
                    let bytes = u64::from(batch.header.bytes);
                    self.position.offset + bytes > segment.file_bytes
                })
            }
            Decision::Apply
            | Decision::SkipToThisBatch
            | Decision::SalvageToNextBatch
            | Decision::NextSegment => false,
        }
    }

    /// What was cut off a file looks like the log's end, or like rot: what it held may be put back,
    /// and the first opening that goes on without it gives it up for good.
    pub(super) fn refuse_cut(&self) -> Result<(), Error> {
        let is_cut = |segment: &&FoundSegment<D>| segment.file_bytes < segment.header.segment_bytes;
        let Some(segment) = self.segment().filter(is_cut) else { return Ok(()) };
        Err(Error::Open {
            place: self.device.place(),
            what: format!(
                "{}, which is segment {} of the log, is cut off after {} of {} bytes: what it held from LSN \
                 {} on is missing",
                file_name(segment.number),
                self.position.segment.0,
                segment.file_bytes,
                segment.header.segment_bytes,
                self.due.0
            ),
        })
    }

    /// The same of a file in which nothing was written behind its last batch, though there was
    /// more. Where records have rotted, something stands, or little is gone.
    pub(super) async fn refuse_older_copy(&self, decision: Decision) -> Result<(), Error> {
        let went_to = match decision {
            Decision::SalvageToNextSegment => {
                self.next_segment_first_lsn().map(|first| Lsn(first.0 - 1))
            }
            Decision::SalvageToEnd => Some(self.witness),
            Decision::Apply
            | Decision::ApplyWhatVerifies
            | Decision::SkipToThisBatch
            | Decision::SalvageToNextBatch
            | Decision::NextSegment
            | Decision::End => None,
        };
        let Some((segment, went_to)) = self.segment().zip(went_to) else { return Ok(()) };
        let end = Reach { offset: self.position.offset, next_lsn: self.due };
        let to = segment.header.segment_bytes.min(segment.file_bytes);
        // What can't be read tells nothing.
        let is_unwritten = reach::is_unwritten(self.device, segment, end.offset, to).await;
        if !is_unwritten.unwrap_or(false) {
            return Ok(());
        }
        let what = reach::older_copy(segment, end, went_to);
        Err(Error::Open { place: self.device.place(), what })
    }
}
