//! What all handles of a store share: the index, the queue, the segments, and admission.

use crate::checkpoint::Position;
use crate::device::Device;
use crate::error::Error;
use crate::format::{Location, Record, SegmentId};
use crate::index::Index;
use crate::locks::Locks;
use crate::log::queue::{Hold, Parts, Queue};
use crate::log::recovery::RecoveryReport;
use crate::log::segments::Segments;
use crate::options::Options;
use crate::quota::Reservations;
use crate::superblock::Superblock;
use crate::types::{Lsn, UnixMillis};
use crate::wait::{Bell, Broadcast, Receipt};
use crate::watch::Watchers;
use std::cell::{Cell, RefCell};
use std::io;

/// While the disk is full, how often to ask whether it still is.
const FREE_SPACE_MILLIS: u64 = 250;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Takes nothing more; what is queued still lands.
    Closing,
    Closed,
    /// A write or sync failed.
    Halted,
}

#[derive(Debug)]
pub(crate) struct Core<D: Device> {
    pub(crate) device: D,
    pub(crate) options: Options,
    pub(crate) index: RefCell<Index>,
    pub(crate) queue: RefCell<Queue>,
    pub(crate) segments: RefCell<Segments<D>>,
    pub(crate) phase: Cell<Phase>,
    /// What the disk said when the store halted.
    pub(crate) halted_by: RefCell<Option<String>>,
    pub(crate) run: Cell<u32>,
    pub(crate) next_lsn: Cell<Lsn>,
    pub(crate) durable: Cell<Lsn>,
    /// Behind the last batch that has been folded into the index.
    pub(crate) position: Cell<Position>,
    pub(crate) log_bytes_since_checkpoint: Cell<u64>,
    /// Since the store was opened.
    pub(crate) landed_bytes: Cell<u64>,
    pub(crate) checkpoint_bytes: Cell<u64>,
    pub(crate) superblock: RefCell<Superblock>,
    /// What new files may take, as the file system said last.
    pub(crate) free_bytes: Cell<u64>,
    pub(crate) free_bytes_asked: Cell<UnixMillis>,
    pub(crate) recovery: RecoveryReport,

    pub(crate) locks: Locks,
    pub(crate) reservations: Reservations,
    pub(crate) watchers: Watchers,

    /// There is something to write.
    pub(crate) work: Bell,
    /// There is something to maintain.
    pub(crate) upkeep: Bell,
    /// A batch has landed or failed, or the phase has changed.
    pub(crate) landed: Broadcast,
}

impl<D: Device> Core<D> {
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        match self.phase.get() {
            Phase::Open => Ok(()),
            Phase::Closing | Phase::Closed => Err(Error::Busy),
            Phase::Halted => Err(Error::Halted),
        }
    }

    /// Whether the store takes a message of this size now.
    pub(crate) fn admit_mail(&self, bytes: usize) -> Result<(), Error> {
        self.check_open()?;
        self.check_queue(bytes, 1)?;
        if self.has_space(bytes) {
            return Ok(());
        }
        let since = self.device.now().0.saturating_sub(self.free_bytes_asked.get().0);
        if since >= FREE_SPACE_MILLIS {
            self.refresh_free_space();
            if self.has_space(bytes) {
                return Ok(());
            }
        }
        Err(Error::Full(self.device.place()))
    }

    /// Small changes may use twice what mail may, so that a flood of mail does not lock readers out.
    fn check_queue(&self, bytes: usize, times: usize) -> Result<(), Error> {
        let queue = self.queue.borrow();
        let fits = queue.pending_bytes + bytes <= self.options.pending_bytes_max * times
            && queue.pending_records < self.options.pending_records_max * times;
        if fits { Ok(()) } else { Err(Error::Busy) }
    }

    /// Whether the log can grow by what is queued and `bytes`, leaving the reserve alone.
    fn has_space(&self, bytes: usize) -> bool {
        let segments = self.segments.borrow();
        let kept_back = self.options.reserve_segments;
        let missing = kept_back.saturating_sub(segments.spares.len()) as u64;
        let growable = self.free_bytes.get() / self.options.segment_bytes;
        let room = segments.active_room()
            + segments.spare_bytes(kept_back)
            + growable.saturating_sub(missing).saturating_mul(self.options.segment_bytes);
        let wanted = self.queue.borrow().pending_bytes + bytes;
        // Padding, and what is lost at a segment's end.
        room as usize >= wanted.saturating_mul(2).saturating_add(self.options.batch_bytes_max)
    }

    pub(crate) fn refresh_free_space(&self) {
        self.free_bytes_asked.set(self.device.now());
        // When even this question fails, what is allocated is all that can be counted on.
        self.free_bytes.set(self.device.free_bytes().unwrap_or(0));
    }

    /// Puts a record on its way. It cannot be taken back.
    pub(crate) fn enqueue(&self, record: Record, hold: Hold) -> Result<Receipt, Error> {
        let parts = Parts::of(&record);
        self.check_open()?;
        self.check_queue(parts.record_bytes(), 2)?;
        self.enqueue_parts(record, &parts, hold)
    }

    /// As [`Core::enqueue`], for what has been admitted already.
    pub(crate) fn enqueue_parts(
        &self,
        record: Record,
        parts: &Parts<'_>,
        hold: Hold,
    ) -> Result<Receipt, Error> {
        if parts.record_bytes() > self.options.record_bytes_max() {
            return Err(Error::Limit("too much for one record; use several smaller commands"));
        }
        let mut queue = self.queue.borrow_mut();
        let was_empty = queue.is_empty();
        let receipt = queue.append(record, parts, hold);
        if was_empty || queue.waiting_bytes() >= self.options.batch_bytes_eager {
            drop(queue);
            self.work.ring();
        }
        Ok(receipt)
    }

    pub(crate) fn halt(&self, error: &io::Error) {
        if self.phase.replace(Phase::Halted) != Phase::Halted {
            *self.halted_by.borrow_mut() = Some(error.to_string());
        }
        self.work.ring();
        self.upkeep.ring();
        self.landed.ring();
    }

    pub(crate) fn note_landed(&self, location: Location, padded_bytes: u64) {
        let offset = location.offset() + padded_bytes;
        self.position.set(Position { segment: location.segment, offset });
        self.landed_bytes.set(self.landed_bytes.get() + padded_bytes);
        let grown = self.log_bytes_since_checkpoint.get() + padded_bytes;
        self.log_bytes_since_checkpoint.set(grown);
        if grown >= self.checkpoint_due_bytes() {
            self.upkeep.ring();
        }
    }

    pub(crate) fn checkpoint_due_bytes(&self) -> u64 {
        let options = &self.options;
        let by_size = self.checkpoint_bytes.get().saturating_mul(options.checkpoint_log_ratio);
        by_size.max(options.checkpoint_log_bytes_min).min(options.checkpoint_log_bytes_max)
    }

    /// An open handle of a segment's file.
    pub(crate) async fn segment_file(&self, id: SegmentId) -> Result<D::File, Error> {
        let number = {
            let segments = self.segments.borrow();
            let Some(segment) = segments.files.get(&id) else {
                let place = format!("segment {} of {}", id.0, self.device.place());
                return Err(Error::Corrupt {
                    what: "a reference to a segment that is gone",
                    place,
                });
            };
            if let Some(file) = &segment.file {
                return Ok(file.clone());
            }
            segment.number
        };
        let name = crate::log::segments::file_name(number);
        let file = self.device.open(&name).await.map_err(|e| Error::Device(e.to_string()))?;
        self.segments.borrow_mut().keep_open(id, &file);
        Ok(file)
    }
}
