//! What all handles of a store share: the index, the queue, the segments, and admission.

use crate::checkpoint::Position;
use crate::checkpoint::files::RowFiles;
use crate::clock::Clock;
use crate::compaction::Unworthy;
use crate::device::{Device, is_full};
use crate::error::Error;
use crate::format::{Location, Record, SegmentId};
use crate::index::Index;
use crate::locks::Locks;
use crate::log::queue::{Hold, Parts, Queue};
use crate::log::recovery::RecoveryReport;
use crate::log::segments::{Segments, is_ours};
use crate::options::Options;
use crate::packing::Packing;
use crate::quota::Reservations;
use crate::room::{Kept, Room};
use crate::space::Emptied;
use crate::superblock::Superblock;
use crate::types::{Lsn, UnixMillis};
use crate::uses::{Use, Uses};
use crate::wait::{Bell, Broadcast, Receipt};
use crate::watch::Watchers;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;

/// While the disk is full, how often to ask whether it still is.
const FREE_SPACE_MILLIS: u64 = 250;

/// While mail is refused, how often those who make room are called.
const CRY_AGAIN_MILLIS: u64 = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Takes nothing more; what is queued still lands.
    Closing,
    Closed,
    /// A write or sync failed, or the directory has gone.
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
    /// Its directory is not under its name any more ([`Core::check_place`]).
    pub(crate) displaced: Cell<bool>,
    /// What the disk said when the store halted.
    pub(crate) halted_by: RefCell<Option<String>>,
    pub(crate) run: Cell<u32>,
    pub(crate) next_lsn: Cell<Lsn>,
    pub(crate) durable: Cell<Lsn>,
    /// Behind the last batch that has been folded into the index, and behind all that
    /// was saved there.
    pub(crate) position: Cell<Position>,
    pub(crate) log_bytes_since_checkpoint: Cell<u64>,
    /// Since the store was opened.
    pub(crate) landed_bytes: Cell<u64>,
    pub(crate) landed_batches: Cell<u64>,
    /// What the newest checkpoint holds, in all its files: what a whole one would take.
    pub(crate) checkpoint_bytes: Cell<u64>,
    /// Of these, what was in the file that was written last.
    pub(crate) increment_bytes: Cell<u64>,
    /// Bytes of messages that have gone since upkeep was last told.
    pub(crate) given_back: Cell<u64>,
    pub(crate) superblock: RefCell<Superblock>,
    /// Which copy of the mark of the newest segment is written next.
    pub(crate) begun_copy: Cell<u64>,
    /// Where the log goes on after the checkpoints that the two superblocks name, newest first.
    pub(crate) named: Cell<[Position; 2]>,
    /// And the files that these consist of.
    pub(crate) row_files: RefCell<[RowFiles; 2]>,
    /// Segments that were seen to be empty.
    pub(crate) emptied: RefCell<BTreeMap<SegmentId, Emptied>>,
    /// Segments that compaction leaves alone until the store is opened anew, and why.
    pub(crate) spoiled: RefCell<BTreeMap<SegmentId, String>>,
    /// Segments that were not worth their copies.
    pub(crate) unworthy: RefCell<BTreeMap<SegmentId, Unworthy>>,
    /// Mail was refused for want of space, and nothing has changed since.
    pub(crate) is_full: Cell<bool>,
    /// How often something was refused for want of space since the store was opened.
    pub(crate) refused_for_space: Cell<u64>,
    /// When somebody was last called for that.
    pub(crate) cried_at: Cell<UnixMillis>,
    /// Somebody wants all space back that can be had, be it little, out of segments below these: of
    /// the log, and cold ones. What is written meanwhile is left alone, so it comes to an end.
    pub(crate) thorough_below: Cell<Option<(SegmentId, SegmentId)>>,
    /// Compaction is at work; upkeep is.
    pub(crate) compacts: Cell<bool>,
    pub(crate) maintains: Cell<bool>,
    /// No space comes back without a newer checkpoint.
    pub(crate) wants_checkpoint: Cell<bool>,
    /// When one was last asked for: again only once the log has gone on, since the
    /// disk may be full.
    pub(crate) asked_at: Cell<Lsn>,
    pub(crate) segments_freed: Cell<u64>,
    /// Checkpoints, copies and spares that the disk failed under since the store was opened, and
    /// the last reason.
    pub(crate) given_up: Cell<u64>,
    pub(crate) given_up_by: RefCell<Option<String>>,
    /// What new files may take, as the file system said last.
    pub(crate) free_bytes: Cell<u64>,
    pub(crate) free_bytes_asked: Cell<UnixMillis>,
    pub(crate) recovery: RecoveryReport,
    pub(crate) clock: Cell<Clock>,
    /// Opening found damage, and nothing has been logged since ([`Core::is_as_found`]).
    pub(crate) as_found: Cell<bool>,

    pub(crate) locks: Locks,
    pub(crate) reservations: Reservations,
    /// For messages that have not come yet.
    pub(crate) kept: Kept,
    pub(crate) watchers: Watchers,
    pub(crate) uses: Uses,
    pub(crate) packing: Packing,

    /// There is something to write.
    pub(crate) work: Bell,
    /// There is something to maintain.
    pub(crate) upkeep: Bell,
    /// There may be spares to prepare.
    pub(crate) spares: Bell,
    /// There may be something to compact.
    pub(crate) compaction: Bell,
    /// There may be something to forget.
    pub(crate) expiry: Bell,
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
            self.is_full.set(false);
            return Ok(());
        }
        let since = self.device.now().0.saturating_sub(self.free_bytes_asked.get().0);
        if since >= FREE_SPACE_MILLIS {
            self.refresh_free_space();
            if self.has_space(bytes) {
                return Ok(());
            }
        }
        self.cry_for_space();
        Err(Error::Full(self.device.place()))
    }

    /// Keeps room for so much of a message, or says why there is none.
    pub(crate) fn keep_room(&self, bytes: usize) -> Result<Room, Error> {
        // Other shards may have grown meanwhile.
        let since = self.device.now().0.saturating_sub(self.free_bytes_asked.get().0);
        if since >= FREE_SPACE_MILLIS {
            self.refresh_free_space();
        }
        // More than the queue takes at once can't be kept: it is admitted bit by bit.
        let bytes = bytes.min(self.options.pending_bytes_max / 2);
        self.admit_mail(bytes)?;
        Ok(self.kept.keep(bytes))
    }

    /// Small changes may use twice what mail may, so that a flood of mail does not
    /// lock readers out.
    fn check_queue(&self, bytes: usize, times: usize) -> Result<(), Error> {
        let queue = self.queue.borrow();
        let fits = queue.pending_bytes + self.kept.bytes() + bytes
            <= self.options.pending_bytes_max * times
            && queue.pending_records < self.options.pending_records_max * times;
        if fits { Ok(()) } else { Err(Error::Busy) }
    }

    /// Whether the log can grow by what is queued, what is kept for others and `bytes`, leaving
    /// the reserve alone.
    fn has_space(&self, bytes: usize) -> bool {
        let wanted = self.queue.borrow().pending_bytes + self.kept.bytes() + bytes;
        // Padding, and what is lost at a segment's end.
        let wanted = wanted.saturating_mul(2).saturating_add(self.options.batch_bytes_max);
        self.room() >= self.kept_from_mail().saturating_add(wanted as u64)
    }

    /// Room to expunge in, and for a base.
    fn reserve_bytes(&self) -> u64 {
        let segments = self.options.reserve_segments as u64 * self.options.segment_bytes;
        segments + 4 * self.checkpoint_bytes.get()
    }

    /// What mail leaves alone: the reserve, a segment to move the rest of others to, and as much
    /// for a base and for what a checkpoint grows by meanwhile, or compaction would take small
    /// changes their part of the reserve.
    fn kept_from_mail(&self) -> u64 {
        self.reserve_bytes() + 2 * self.options.segment_bytes
    }

    /// What gives no space back leaves half of the reserve alone, or nothing could
    /// be moved any more.
    fn check_reserve(&self, record: &Record) -> Result<(), Error> {
        let gives_back = matches!(
            record,
            Record::Expunged { .. } | Record::MailboxDeleted { .. } | Record::AccountRemoved { .. }
        );
        if gives_back || self.room() >= self.reserve_bytes() / 2 {
            return Ok(());
        }
        self.refresh_free_space();
        if self.room() >= self.reserve_bytes() / 2 {
            return Ok(());
        }
        self.cry_for_space();
        Err(Error::Full(self.device.place()))
    }

    /// Somebody has to make room: what was expunged, or lies between what is live.
    fn cry_for_space(&self) {
        self.refused_for_space.set(self.refused_for_space.get() + 1);
        // Again from time to time: what is expunged to make room comes after the first refusal.
        let since = self.device.now().0.saturating_sub(self.cried_at.get().0);
        if !self.is_full.replace(true) || since >= CRY_AGAIN_MILLIS {
            self.cried_at.set(self.device.now());
            self.upkeep.ring();
            self.expiry.ring();
        }
    }

    /// Whether mail was refused, and would be again.
    pub(crate) fn is_short(&self) -> bool {
        if self.is_full.get() && self.has_space(self.options.batch_bytes_max) {
            self.is_full.set(false);
        }
        self.is_full.get()
    }

    /// What the log may still take of the file system: not the room for the next checkpoints,
    /// without which no space would ever come back.
    pub(crate) fn growable_bytes(&self) -> u64 {
        self.free_bytes.get().saturating_sub(3 * self.checkpoint_bytes.get())
    }

    /// All that the log can grow by, the reserve included.
    pub(crate) fn room(&self) -> u64 {
        let segments = self.segments.borrow();
        let growable = self.growable_bytes() / self.options.segment_bytes;
        segments.active_room()
            + segments.spare_bytes()
            + growable.saturating_mul(self.options.segment_bytes)
    }

    /// The time to forget by.
    pub(crate) fn believed_now(&self) -> UnixMillis {
        let mut clock = self.clock.get();
        let now = clock.look(self.device.now(), self.device.steady());
        self.clock.set(clock);
        now
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
        self.check_reserve(&record)?;
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

    /// As [`Core::enqueue_parts`], for what the store writes by itself: it stops when
    /// the store closes.
    pub(crate) fn enqueue_upkeep(
        &self,
        record: Record,
        parts: &Parts<'_>,
        hold: Hold,
    ) -> Result<Receipt, Error> {
        self.check_open()?;
        self.enqueue_parts(record, parts, hold)
    }

    pub(crate) fn halt(&self, error: &io::Error) {
        if self.phase.replace(Phase::Halted) != Phase::Halted {
            *self.halted_by.borrow_mut() = Some(error.to_string());
        }
        self.work.ring();
        self.upkeep.ring();
        self.compaction.ring();
        self.expiry.ring();
        self.spares.ring();
        self.landed.ring();
    }

    /// Halts the store where its directory has been moved away, removed, or another one is in its
    /// place: what is made by its name from now on no start would find beside the rest. Who moves
    /// it back finds in it all that was acknowledged.
    pub(crate) async fn check_place(&self) -> io::Result<()> {
        if self.device.is_in_place().await? {
            return Ok(());
        }
        self.displaced.set(true);
        let what = format!("{} is not the directory that was opened", self.device.place());
        let error = io::Error::new(io::ErrorKind::NotFound, what);
        self.halt(&error);
        Err(error)
    }

    /// What the store does beside the log has failed, which costs nothing: it is counted, so
    /// that somebody hears of the disk. Its being full is no such failure, nor is what
    /// follows from the log's.
    pub(crate) fn note_given_up(&self, error: &io::Error) {
        if !is_full(error) {
            self.note_given_up_by(error.to_string());
        }
    }

    /// The same, of a failure that is known to be another one.
    pub(crate) fn note_given_up_by(&self, what: String) {
        if self.phase.get() != Phase::Halted {
            self.given_up.set(self.given_up.get() + 1);
            *self.given_up_by.borrow_mut() = Some(what);
        }
    }

    pub(crate) fn note_landed(&self, location: Location, padded_bytes: u64) {
        let offset = location.offset() + padded_bytes;
        self.position.set(Position { segment: location.segment, offset });
        self.landed_bytes.set(self.landed_bytes.get() + padded_bytes);
        self.landed_batches.set(self.landed_batches.get() + 1);
        let grown = self.log_bytes_since_checkpoint.get() + padded_bytes;
        self.log_bytes_since_checkpoint.set(grown);
        // Opening has records of its own to log.
        let goes_on = self.phase.get() == Phase::Open && self.as_found.take();
        if goes_on || grown >= self.checkpoint_due_bytes() || self.is_full.get() {
            self.upkeep.ring();
        }
        if goes_on {
            self.expiry.ring();
        }
    }

    /// What opening found is told again by the next one, as long as that reads the same log: so
    /// whoever opens a store to look at it leaves no checkpoint behind, and moves and forgets
    /// nothing, unless room is asked for.
    pub(crate) fn is_as_found(&self) -> bool {
        self.as_found.get() && self.thorough_below.get().is_none() && !self.is_short()
    }

    /// So many bytes of messages have gone: much of it, and there may be something to free, be the
    /// log ever so quiet otherwise.
    pub(crate) fn note_given_back(&self, bytes: u64) {
        self.given_back.set(self.given_back.get() + bytes);
        if self.given_back.get() >= self.options.segment_bytes / 2 {
            self.given_back.set(0);
            self.upkeep.ring();
        }
    }

    pub(crate) fn checkpoint_due_bytes(&self) -> u64 {
        let options = &self.options;
        let by_size = self.increment_bytes.get().saturating_mul(options.checkpoint_log_ratio);
        by_size.max(options.checkpoint_log_bytes_min).min(options.checkpoint_log_bytes_max)
    }

    /// For whoever reads what the index says now.
    pub(crate) fn reading(&self) -> Use {
        self.uses.begin(SegmentId(0))
    }

    /// For whoever writes what nothing refers to yet.
    pub(crate) fn writing(&self) -> Use {
        let active = self.segments.borrow().active.as_ref().map(|active| active.id);
        self.uses.begin(active.unwrap_or_default())
    }

    /// An open handle of a segment's file; of another one that is in its place, the error.
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
        let unreadable = |what: String| Error::Read {
            what,
            place: format!("{name} in {}", self.device.place()),
        };
        if self.displaced.get() {
            // Another directory may have a file of that name, with other mail in it.
            return Err(unreadable("the directory is not the one that was opened".to_owned()));
        }
        let failed = |error: io::Error| unreadable(error.to_string());
        let file = self.device.open(&name).await.map_err(failed)?;
        if !is_ours(self, id, &file).await.map_err(failed)? {
            return Err(unreadable("another file is in its place".to_owned()));
        }
        let file_id = self.device.file_id(&file).map_err(failed)?;
        self.segments.borrow_mut().keep_open(id, &file, file_id);
        Ok(file)
    }
}
