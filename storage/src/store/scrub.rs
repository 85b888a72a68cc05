//! The scrub: reads everything that may be needed again, at a bounded rate, and says what has rotted.
//!
//! One round walks each segment once: of the log, batch by batch, so that records that no message needs
//! but a rebuild does are looked at, too; then whatever messages have in it and the walk has not seen
//! whole, record by record, which is all that counts in a cold segment. What does not verify is
//! told with its place and with the messages that it hurts; the round goes on.
//!
//! Segments are read up to what had landed when their turn came, and stay while they are being read.

use super::Store;
use crate::base::read_piece;
use crate::buffer::{ALIGNMENT, align_up_u64};
use crate::checkpoint;
use crate::checkpoint::files::RowFiles;
use crate::checkpoint::verify::Reading;
use crate::compaction::survey;
use crate::core::Phase;
use crate::device::Device;
use crate::error::Error;
use crate::format::{
    BATCH_HEADER_BYTES, Base, BatchHeader, ChunkRef, Location, RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId,
};
use crate::log::queue::run_low;
use crate::log::{Expected, find_records};
use crate::space;
use crate::types::{AccountId, Lsn, MailboxId, Uid};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Something that does not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is, and where.
    pub place: String,
    pub hurt: Vec<Hurt>,
}

/// A message that can no longer be read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hurt {
    pub account: AccountId,
    pub mailbox: String,
    pub uid: Uid,
}

/// How far a round has come. What the next opening begins with is read before the segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubProgress {
    pub bytes: u64,
    pub bytes_total: u64,
    /// The segment that comes next, for another round to go on with ([`Store::scrub_from`]); none at the end.
    pub next: Option<SegmentId>,
}

/// What the next opening begins with, and what it falls back to.
struct Beginning {
    checkpoint: Lsn,
    /// Of which it consists, with how long each is.
    files: RowFiles,
    base: Option<Rc<Base>>,
}

impl Beginning {
    fn bytes(&self) -> u64 {
        let pieces = self.base.iter().flat_map(|base| &base.pieces);
        self.files.values().sum::<u64>() + pieces.map(|one| u64::from(one.body_bytes)).sum::<u64>()
    }
}

/// A part of a segment that is being walked through: a piece of upkeep's, or a whole batch that is longer.
struct Window<'s, D: Device> {
    store: &'s Store<D>,
    segment: SegmentId,
    end: u64,
    rate: Option<u64>,
    start: u64,
    bytes: Vec<u8>,
}

impl<D: Device> Window<'_, D> {
    /// Shorter where what counts of the segment ends.
    async fn at(&mut self, offset: u64, bytes: usize) -> Result<&[u8], Error> {
        let wanted = offset..offset + bytes as u64;
        let held = self.start..self.start + self.bytes.len() as u64;
        if wanted.start < held.start || wanted.end > held.end {
            let start = offset / ALIGNMENT as u64 * ALIGNMENT as u64;
            let head = usize::try_from(offset - start).expect("less than a block");
            let room = usize::try_from(align_up_u64(self.end).saturating_sub(start));
            let room = room.unwrap_or(usize::MAX);
            let piece = self.store.core.options.upkeep_piece_bytes;
            let length = (head + bytes).max(piece).next_multiple_of(ALIGNMENT).min(room);
            self.bytes = self.store.read_segment(self.segment, start, length, self.rate).await?;
            self.start = start;
        }
        let from = usize::try_from(offset - self.start).expect("inside the window");
        let until = (from + bytes).min(self.bytes.len());
        Ok(self.bytes.get(from..until).unwrap_or(&[]))
    }
}

impl<D: Device> Store<D> {
    /// One round. `report` hears of each step and of each finding, in order. `bytes_per_second`: what it
    /// may read, be it of segments, of the checkpoint or of the base; `None` for no bound.
    pub async fn scrub(
        &self,
        bytes_per_second: Option<u64>,
        report: impl FnMut(ScrubProgress, Vec<Finding>),
    ) -> Result<(), Error> {
        self.scrub_from(None, bytes_per_second, report).await
    }

    /// The rest of a round that was broken off: the segments before `from` were walked then.
    pub async fn scrub_from(
        &self,
        from: Option<SegmentId>,
        bytes_per_second: Option<u64>,
        mut report: impl FnMut(ScrubProgress, Vec<Finding>),
    ) -> Result<(), Error> {
        let (beginning, segments) = (self.beginning(), self.segments_to_scrub());
        let before = beginning.bytes();
        let bytes_total = before + segments.iter().map(|(_, end)| end).sum::<u64>();
        let is_past = |id: SegmentId| from.is_some_and(|from| id < from);
        let (past, segments): (Vec<_>, Vec<_>) =
            segments.into_iter().partition(|(id, _)| is_past(*id));
        let next = segments.first().map(|(id, _)| *id);
        let mut progress = ScrubProgress { bytes: 0, bytes_total, next };
        report(progress, Vec::new());
        let mut read = |bytes: u64| {
            progress.bytes = (progress.bytes + bytes).min(before);
            report(progress, Vec::new());
        };
        let findings = self.damaged_beginning(beginning, bytes_per_second, &mut read).await?;
        // Where another has followed it, or a file is damaged, the rest was not read.
        progress.bytes = before + past.iter().map(|(_, end)| end).sum::<u64>();
        report(progress, findings);
        let nexts = segments.iter().skip(1).map(|(id, _)| Some(*id)).chain([None]);
        for ((segment, end), next) in segments.iter().copied().zip(nexts) {
            if self.core.phase.get() != Phase::Open {
                return self.core.check_open();
            }
            let findings = self.scrub_segment(segment, end, bytes_per_second).await?;
            progress.bytes += end;
            progress.next = next;
            report(progress, findings);
        }
        for segment in space::missing(&self.core) {
            let mut findings = Vec::new();
            self.check_messages(segment, &[], bytes_per_second, &mut findings).await?;
            findings.push(Finding { place: self.gone(segment), hurt: Vec::new() });
            report(progress, findings);
        }
        Ok(())
    }

    /// Each with where it ends for now.
    pub(super) fn segments_to_scrub(&self) -> Vec<(SegmentId, u64)> {
        let plan_end = |id: SegmentId, bytes: u64| {
            let segments = self.core.segments.borrow();
            let position = self.core.position.get();
            if id == position.segment {
                position.offset
            } else if segments.cold.as_ref().is_some_and(|cold| cold.id == id) {
                segments.cold_durable
            } else {
                bytes
            }
        };
        let active = self.core.position.get().segment;
        let segments = self.core.segments.borrow();
        let files = segments.files.iter();
        let landed = files.filter(|(id, _)| id.is_cold() || **id <= active);
        landed.map(|(id, file)| (*id, plan_end(*id, file.segment_bytes))).collect()
    }

    /// What has rotted in a segment, as far as `end`.
    pub async fn scrub_segment(
        &self,
        segment: SegmentId,
        end: u64,
        rate: Option<u64>,
    ) -> Result<Vec<Finding>, Error> {
        let _reading = self.core.reading();
        if self.is_going(segment) {
            return Ok(Vec::new());
        }
        let mut findings = Vec::new();
        let whole = self.walk_log(segment, end, rate, &mut findings).await?;
        if self.is_going(segment) {
            return Ok(Vec::new());
        }
        self.check_messages(segment, &whole, rate, &mut findings).await?;
        Ok(findings)
    }

    fn gone(&self, segment: SegmentId) -> String {
        format!("segment {} of {} is not there", segment.0, self.core.device.place())
    }

    /// Whether the segment is freed, or about to be: it was seen to be empty, so nobody needs it.
    fn is_going(&self, segment: SegmentId) -> bool {
        self.core.emptied.borrow().contains_key(&segment)
            || !self.core.segments.borrow().files.contains_key(&segment)
    }

    /// The records of a segment of the log that are whole, by their places, ascending. None where the segment
    /// can't be read to its end: that is a finding, and who needs what is in it is looked at one by one.
    async fn walk_log(
        &self,
        segment: SegmentId,
        end: u64,
        rate: Option<u64>,
        findings: &mut Vec<Finding>,
    ) -> Result<Vec<u32>, Error> {
        let place = match self.read_log(segment, end, rate, findings).await {
            Err(Error::Read { what, place }) => format!("{place}: {what}"),
            Err(Error::Corrupt { what, place }) => format!("{what}: {place}"),
            other => return other,
        };
        findings.push(Finding { place, hurt: Vec::new() });
        Ok(Vec::new())
    }

    async fn read_log(
        &self,
        segment: SegmentId,
        end: u64,
        rate: Option<u64>,
        findings: &mut Vec<Finding>,
    ) -> Result<Vec<u32>, Error> {
        let (shard, salt) = (self.core.options.shard, self.core.superblock.borrow().salt);
        let (start, bytes) = (0, Vec::new());
        let mut window = Window { store: self, segment, end, rate, start, bytes };
        let mut bad = |what: &str, offset: u64| {
            let place = format!("{what} in {}", self.place_in(segment, offset));
            findings.push(Finding { place, hurt: Vec::new() });
        };
        let block = window.at(0, SEGMENT_HEADER_BYTES).await?;
        let header = SegmentHeader::decode(block).ok().filter(|one| one.segment == segment);
        if header.is_none() {
            bad("the header of a segment", 0);
        }
        let mut whole = Vec::new();
        if segment.is_cold() {
            return Ok(whole);
        }
        let (first_lsn, next_lsn) = {
            let segments = self.core.segments.borrow();
            let first = |id| segments.files.get(&SegmentId(id)).map(|file| file.first_lsn);
            // Where the log went on after the round was planned, the rest of this segment is not looked at.
            let is_cut = segments.files.get(&segment).is_none_or(|file| end < file.segment_bytes);
            let is_last = segment == self.core.position.get().segment;
            let next = first(segment.0 + 1).filter(|_| !is_last && !is_cut);
            (first(segment.0).unwrap_or_default(), next)
        };
        let mut due = first_lsn;
        let mut run = header.map_or(0, |header| header.run);
        let salt = header.map_or(salt, |header| header.salt);
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        while offset < end {
            let block = window.at(offset, ALIGNMENT).await?;
            let batch = BatchHeader::decode(block).ok().filter(|batch| {
                (batch.shard, batch.segment, batch.salt) == (shard, segment, salt)
                    && batch.run >= run
                    && batch.first_lsn >= due
                    && next_lsn.is_none_or(|next| batch.first_lsn < next)
                    && batch.bytes as usize >= BATCH_HEADER_BYTES
                    && offset + u64::from(batch.bytes) <= end
            });
            let Some(batch) = batch else {
                // Rot, or unused: which of them the next batch or segment says.
                offset += ALIGNMENT as u64;
                continue;
            };
            if batch.first_lsn > due {
                bad(&format!("{} records before a batch", batch.first_lsn.0 - due.0), offset);
            }
            let expected = Expected {
                shard,
                segment,
                run_low: run_low(batch.run),
                salt,
                from: batch.first_lsn,
                below: batch.next_lsn(),
            };
            let bytes = window.at(offset, batch.bytes as usize).await?;
            let found = find_records(bytes, BATCH_HEADER_BYTES, expected);
            let missing = (batch.records as usize).saturating_sub(found.len());
            if missing > 0 {
                bad(&format!("{missing} of {} records of a batch", batch.records), offset);
            }
            for record in found {
                let place = offset + record.offset as u64;
                if record.meta_verifies && record.body_verifies {
                    whole.push(Location::new(segment, place).eighths);
                } else {
                    let lsn = record.header.lsn.0;
                    bad(&format!("the record with LSN {lsn}"), place);
                }
            }
            (due, run) = (batch.next_lsn(), batch.run);
            offset += align_up_u64(u64::from(batch.bytes));
            self.core.device.yield_now().await;
        }
        if let Some(next) = next_lsn.filter(|next| *next > due) {
            bad(&format!("the last {} records", next.0 - due.0), end);
        }
        Ok(whole)
    }

    /// Reads what messages have in the segment and the walk has not seen whole.
    async fn check_messages(
        &self,
        segment: SegmentId,
        whole: &[u32],
        rate: Option<u64>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Error> {
        let is_whole = |location: Location| whole.binary_search(&location.eighths).is_ok();
        let found = survey::survey(&self.core, &BTreeSet::from([segment])).await;
        for (location, found) in found {
            let mut bad = None;
            if location.segment == segment && !is_whole(location) {
                bad = self.why_not(location, u64::from(found.record_bytes), rate).await?;
            }
            let chunks: Vec<ChunkRef> = self.core.index.borrow().live.chunks(location).to_vec();
            for chunk in chunks.iter().filter(|chunk| chunk.location.segment == segment) {
                if bad.is_none() && !is_whole(chunk.location) {
                    let bytes = RECORD_HEADER_BYTES as u64 + u64::from(chunk.body_bytes);
                    bad = self.why_not(chunk.location, bytes, rate).await?;
                }
            }
            let Some(place) = bad else { continue };
            let rows = found.references.iter().map(|one| (one.account, one.mailbox, one.uid));
            let hurt = rows.filter_map(|row| self.still_there(location, row)).collect();
            findings.push(Finding { place, hurt });
        }
        Ok(())
    }

    /// Why a record is not whole.
    async fn why_not(
        &self,
        location: Location,
        bytes: u64,
        rate: Option<u64>,
    ) -> Result<Option<String>, Error> {
        let outcome = self.core.fetch(location, bytes).await;
        self.pause(bytes, rate).await;
        match outcome {
            Ok(_) => Ok(None),
            Err(Error::Corrupt { what, place }) => Ok(Some(format!("{what} in {place}"))),
            Err(Error::Read { what, place }) => Ok(Some(format!("{place}: {what}"))),
            Err(error) => Err(error),
        }
    }

    fn still_there(
        &self,
        location: Location,
        (account, mailbox, uid): (AccountId, MailboxId, Uid),
    ) -> Option<Hurt> {
        let index = self.core.index.borrow();
        let mailbox = index.account(account)?.mailbox(mailbox)?;
        mailbox.rows.get(uid).filter(|row| row.location == location)?;
        Some(Hurt { account, mailbox: mailbox.name.clone(), uid })
    }

    fn place_in(&self, segment: SegmentId, offset: u64) -> String {
        let segments = self.core.segments.borrow();
        let number = segments.files.get(&segment).map_or(0, |file| file.number);
        let file = crate::log::segments::file_name(number);
        format!("segment {} ({}/{file}) at {offset}", segment.0, self.core.device.place())
    }

    fn beginning(&self) -> Beginning {
        Beginning {
            checkpoint: self.core.superblock.borrow().checkpoint,
            files: self.core.row_files.borrow()[0].clone(),
            base: self.core.index.borrow().base.clone(),
        }
    }

    /// `read` hears of the bytes that were read, as they are.
    async fn damaged_beginning(
        &self,
        beginning: Beginning,
        rate: Option<u64>,
        read: &mut impl FnMut(u64),
    ) -> Result<Vec<Finding>, Error> {
        let Beginning { checkpoint, files, base } = beginning;
        let mut findings = Vec::new();
        for file in files.into_keys() {
            // Upkeep may have written a newer one, and removed this.
            if let Err(why) = self.read_checkpoint(file, checkpoint, rate, read).await
                && self.is_newest(checkpoint)
            {
                let (directory, name) = (self.core.device.place(), checkpoint::file_name(file));
                let place = format!("{directory}/{name} {why}");
                findings.push(Finding { place, hurt: Vec::new() });
            }
        }
        let is_same =
            |now: Option<&Rc<Base>>| now.map(|now| now.lsn) == base.as_ref().map(|base| base.lsn);
        for piece in base.iter().flat_map(|base| &base.pieces) {
            // No longer than one piece: at a low rate all of them take so long that space would be missed.
            let _reading = self.core.reading();
            let is_current = is_same(self.core.index.borrow().base.as_ref());
            if !is_current || self.core.phase.get() != Phase::Open {
                // The pieces of one that another has followed are freed.
                break;
            }
            let file = self.core.segment_file(piece.location.segment).await;
            let found = match file {
                Ok(file) => read_piece(&self.core.device, &file, piece).await,
                Err(error) => Err(std::io::Error::other(error)),
            };
            if !matches!(found, Ok(Some(_))) {
                let place = self.place_in(piece.location.segment, piece.location.offset());
                let place = format!("a piece of the base in {place}");
                findings.push(Finding { place, hurt: Vec::new() });
            }
            self.pause(u64::from(piece.body_bytes), rate).await;
            read(u64::from(piece.body_bytes));
        }
        Ok(findings)
    }

    fn is_newest(&self, checkpoint: Lsn) -> bool {
        self.core.superblock.borrow().checkpoint == checkpoint
    }

    /// What is wrong with one of the newest checkpoint's files, on the disk: not as it is mapped. Nothing where another
    /// checkpoint has followed meanwhile.
    async fn read_checkpoint(
        &self,
        file: Lsn,
        newest: Lsn,
        rate: Option<u64>,
        read: &mut impl FnMut(u64),
    ) -> Result<(), String> {
        let at_once = self.core.options.upkeep_piece_bytes;
        let mut reading = Reading::begin(&self.core.device, file, at_once).await?;
        while self.is_newest(newest) && self.core.phase.get() == Phase::Open {
            let Some(part) = reading.next().await? else { return reading.finish().map(drop) };
            self.pause(part.len() as u64, rate).await;
            read(part.len() as u64);
            self.core.device.yield_now().await;
        }
        Ok(())
    }

    /// What `verify` adds to the messages: the log's other records, and what the next opening needs.
    pub(super) async fn verify_log(&self) -> Result<Vec<String>, Error> {
        let mut findings = self.damaged_beginning(self.beginning(), None, &mut |_| ()).await?;
        for (segment, end) in self.segments_to_scrub() {
            let _reading = self.core.reading();
            let before = findings.len();
            if !self.is_going(segment) {
                self.walk_log(segment, end, None, &mut findings).await?;
            }
            if self.is_going(segment) {
                findings.truncate(before);
            }
        }
        let gone = space::missing(&self.core).into_iter().map(|segment| self.gone(segment));
        findings.extend(gone.map(|place| Finding { place, hurt: Vec::new() }));
        let by_place: BTreeMap<String, ()> =
            findings.into_iter().map(|finding| (finding.place, ())).collect();
        Ok(by_place.into_keys().collect())
    }
}
