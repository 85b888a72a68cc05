//! What a backup takes of this shard: segments up to one landed LSN, and their bytes.
//!
//! Opening the copy with the ordinary code gives the index as of that LSN, because it holds
//! - the log from the newest base on (or all of it), cut behind the last batch that had landed: no
//!   later write touches what is before;
//! - every other segment, cold or of the log, that something refers to at that moment.
//!
//! Checkpoints and superblock are not needed. The segments stay while the plan lives ([`Use`]):
//! what compaction empties meanwhile is freed afterwards.

use super::Store;
use super::walk::Walk;
use crate::buffer::{ALIGNMENT, Buffer};
use crate::device::Device;
use crate::error::Error;
use crate::format::{SEGMENT_HEADER_BYTES, SegmentId};
use crate::options::Sabotage;
use crate::space;
use crate::types::Lsn;
use crate::uses::{Use, Uses};
use std::time::Duration;

/// Everything that a backup as of `lsn` needs of one shard.
#[derive(Debug)]
pub struct BackupPlan {
    pub shard: u16,
    /// All records up to this one are in, and none behind it.
    pub lsn: Lsn,
    pub run: u32,
    /// Never to be shown to those who send mail (FORMAT.md, "Assumptions about the medium").
    pub salt: u64,
    pub messages: u64,
    pub live_bytes: u64,
    pub segments: Vec<PlannedSegment>,
    /// What recovery found damaged when the store was opened.
    pub damage: u64,
    /// Segments that are needed and not there: what the backup can't have.
    pub missing: Vec<SegmentId>,
    /// Of those that it has, the files that are not under their names any more: for whoever looks
    /// for them to say ([`Store::look_for_harm`]), as that takes time and this is of one moment.
    pub unlinked: Vec<String>,
    _hold: Use,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSegment {
    pub segment: SegmentId,
    /// Of the file.
    pub segment_bytes: u64,
    /// Bytes from the start that count, whole blocks; they never change any more.
    pub end: u64,
}

impl<D: Device> Store<D> {
    /// The plan as of now. Nothing is awaited, so all of it belongs to one moment.
    #[must_use]
    pub fn backup_plan(&self) -> BackupPlan {
        let core = &self.core;
        let hold = match core.options.sabotage {
            Some(Sabotage::PlanWithoutHold) => Uses::default().begin(SegmentId(0)),
            _ => core.reading(),
        };
        let index = core.index.borrow();
        let segments = core.segments.borrow();
        let position = core.position.get();
        let log_from = index.base.as_ref().map_or(SegmentId(0), |base| base.segment);
        let mut planned = Vec::new();
        for (id, file) in &segments.files {
            let is_replayed = !id.is_cold() && *id >= log_from && *id <= position.segment;
            let is_later = !id.is_cold() && *id > position.segment;
            if is_later || !(is_replayed || index.live.bytes(*id) > 0) {
                continue;
            }
            let end = if *id == position.segment {
                // Not the segment's end of today: what is on its way is behind the position.
                position.offset
            } else if segments.cold.as_ref().is_some_and(|cold| cold.id == *id) {
                // A copy on its way has no reference yet.
                segments.cold_durable
            } else {
                file.segment_bytes
            };
            let end = end.max(SEGMENT_HEADER_BYTES as u64);
            planned.push(PlannedSegment { segment: *id, segment_bytes: file.segment_bytes, end });
        }
        let superblock = core.superblock.borrow();
        BackupPlan {
            shard: core.options.shard,
            lsn: core.durable.get(),
            run: superblock.run,
            salt: superblock.salt,
            messages: index.counters.messages,
            live_bytes: index.counters.live_bytes,
            segments: planned,
            damage: core.recovery.damage.len() as u64,
            missing: space::missing(core),
            unlinked: Vec::new(),
            _hold: hold,
        }
    }

    /// Bytes of a planned segment; offset and length are whole blocks. At most `bytes_per_second`.
    pub async fn read_segment(
        &self,
        segment: SegmentId,
        offset: u64,
        bytes: usize,
        bytes_per_second: Option<u64>,
    ) -> Result<Vec<u8>, Error> {
        self.read_past(segment, offset, bytes, bytes_per_second, |_| ()).await
    }

    /// The bytes that the walk wants next, which it sees on their way: so nothing is read to be
    /// verified that is read anyway, and what is verified is what is handed out.
    pub async fn read_for(
        &self,
        walk: &mut Walk,
        bytes: usize,
        bytes_per_second: Option<u64>,
    ) -> Result<Vec<u8>, Error> {
        let (segment, offset) = (walk.segment(), walk.wants());
        self.read_past(segment, offset, bytes, bytes_per_second, |part| walk.feed(part)).await
    }

    async fn read_past(
        &self,
        segment: SegmentId,
        offset: u64,
        bytes: usize,
        bytes_per_second: Option<u64>,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<Vec<u8>, Error> {
        let file = self.core.segment_file(segment).await?;
        let mut read = Vec::with_capacity(bytes);
        while read.len() < bytes {
            let step = self.core.options.upkeep_piece_bytes.min(bytes - read.len());
            let buffer = Buffer::with_capacity(step.next_multiple_of(ALIGNMENT));
            let part = self.core.device.read(&file, offset + read.len() as u64, buffer).await;
            let part = part.map_err(|error| Error::Read {
                what: error.to_string(),
                place: format!("segment {} of {}", segment.0, self.core.device.place()),
            })?;
            if part.is_empty() {
                return Err(Error::Corrupt {
                    what: "a segment that is shorter than it was",
                    place: format!("segment {} of {}", segment.0, self.core.device.place()),
                });
            }
            let part = &part.as_slice()[..part.len().min(step)];
            seen(part);
            read.extend_from_slice(part);
            self.pause(step as u64, bytes_per_second).await;
        }
        Ok(read)
    }

    /// After so many bytes were read, so that there are not more of them in a second.
    /// `None`: no bound.
    pub(super) async fn pause(&self, bytes: u64, bytes_per_second: Option<u64>) {
        let Some(rate) = bytes_per_second else { return };
        let pause = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        self.core.device.sleep(pause).await;
    }
}
