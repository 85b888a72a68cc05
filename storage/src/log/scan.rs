//! Reading the log forward from the checkpoint, and folding it into the index.
//!
//! What to do at each place is decided by the table in [`super::recovery`]; here is the looking and
//! the doing. The costly questions (is there a later witness, does another batch follow) are asked
//! only where a batch is missing or damaged: at the log's end, and where there is rot.
//!
//! `window` reads, `times` says what the batches' times mean, `refusals` where not to go on.

mod refusals;
mod times;
mod window;

use crate::buffer::{ALIGNMENT, align_up_u64};
use crate::checkpoint::Position;
use crate::device::Device;
use crate::error::Error;
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, Location, Record, SEGMENT_HEADER_BYTES, SegmentHeader,
    SegmentId,
};
use crate::index::Index;
use crate::index::apply::Logged;
use crate::log::find::{Expected, FoundRecord, find_records};
use crate::log::queue::run_low;
use crate::log::recovery::{Content, Decision, Header, NextSegment, RecoveryReport, Seen, decide};
use crate::log::segments::file_name;
use crate::superblock::Begun;
use crate::types::{AccountId, Lsn, UnixMillis};
use std::collections::BTreeMap;
use std::io;
use window::Window;

/// A segment as it was found on the disk.
#[derive(Debug)]
pub(crate) struct FoundSegment<D: Device> {
    pub(crate) number: u32,
    /// Who opens a store of thousands has none of them open for longer than it reads.
    pub(crate) file: Option<D::File>,
    /// What there is of it. Segments are allocated whole: one that is shorter than its
    /// header says was cut.
    pub(crate) file_bytes: u64,
    /// Its header verifies: it is not what stands in it alone that says which segment it is.
    pub(crate) is_sound: bool,
    pub(crate) header: SegmentHeader,
}

impl<D: Device> FoundSegment<D> {
    pub(crate) async fn open(&self, device: &D) -> io::Result<D::File> {
        match &self.file {
            Some(file) => Ok(file.clone()),
            None => device.open(&file_name(self.number)).await,
        }
    }
}

/// A batch and what of its records was found.
struct FoundBatch {
    header: BatchHeader,
    records: Vec<FoundRecord>,
}

/// Where the log was found to end.
#[derive(Debug)]
pub(crate) struct LogEnd {
    /// Where it goes on: at a segment's end, in a new one, where what is behind the last
    /// batch is not known.
    pub(crate) position: Position,
    /// The next LSN to give out.
    pub(crate) next_lsn: Lsn,
    /// Runs of records of which nothing is left.
    pub(crate) lost: Vec<(Lsn, u64)>,
    /// The highest run seen.
    pub(crate) run: u32,
    pub(crate) log_bytes: u64,
    /// When the last batch was sealed, or its segment begun, if anything is remembered.
    pub(crate) newest: Option<UnixMillis>,
    /// The first LSN of the last batch.
    pub(crate) last_batch: Option<Lsn>,
}

pub(crate) struct Scan<'s, D: Device> {
    pub(crate) device: &'s D,
    pub(crate) shard: u16,
    pub(crate) segments: &'s BTreeMap<SegmentId, FoundSegment<D>>,
    pub(crate) index: &'s mut Index,
    pub(crate) report: &'s mut RecoveryReport,
    pub(crate) trust_torn_tail: bool,
    /// The segment that was begun last, where that is known.
    pub(crate) begun: Option<Begun>,
    /// The log is taken to end before this.
    pub(crate) forget_from: Option<Lsn>,
    /// … and behind the last batch that is not younger.
    pub(crate) until: Option<UnixMillis>,
    /// Only what concerns this account is folded in.
    pub(crate) only: Option<AccountId>,
    window: Option<Window>,
    /// The one file that is open: that of the window.
    file: Option<(SegmentId, D::File)>,
    position: Position,
    due: Lsn,
    run: u32,
    /// The highest LSN that some witness says was durable.
    witness: Lsn,
    searched_for_witness: bool,
    /// What stands at the position can't be read.
    is_blind: bool,
    lost: Vec<(Lsn, u64)>,
    log_bytes: u64,
    last_batch: Option<Lsn>,
    /// Of the batch; of the one before, where a batch's header has rotted.
    time: UnixMillis,
    /// As it was before younger batches, and how many records had been lost.
    then: Option<(Index, u64)>,
}

/// Where a scan starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) position: Position,
    pub(crate) due: Lsn,
    pub(crate) run: u32,
    pub(crate) witness: Lsn,
}

impl<'s, D: Device> Scan<'s, D> {
    pub(crate) fn new(
        device: &'s D,
        shard: u16,
        segments: &'s BTreeMap<SegmentId, FoundSegment<D>>,
        index: &'s mut Index,
        report: &'s mut RecoveryReport,
        start: Start,
    ) -> Scan<'s, D> {
        Scan {
            device,
            shard,
            segments,
            index,
            report,
            trust_torn_tail: false,
            begun: None,
            forget_from: None,
            until: None,
            only: None,
            window: None,
            file: None,
            position: start.position,
            due: start.due,
            run: start.run,
            witness: start.witness,
            searched_for_witness: false,
            is_blind: false,
            lost: Vec::new(),
            log_bytes: 0,
            last_batch: None,
            time: UnixMillis::default(),
            then: None,
        }
    }

    pub(crate) async fn run_to_the_end(mut self) -> Result<LogEnd, Error> {
        self.respect_segment_run();
        loop {
            if self.forget_from.is_some_and(|from| self.due >= from) || self.is_past() {
                break;
            }
            let (seen, batch) = self.look().await?;
            if let Some(batch) = &batch
                && matches!(seen.header, Header::Due | Header::Ahead)
            {
                self.note_time(batch.header.sealed);
            }
            let case = decide(&seen);
            if matches!(case.decision, Decision::End | Decision::SalvageToEnd) {
                self.refuse_gap()?;
            }
            if self.gives_up_the_rest(case.decision, batch.as_ref()) {
                self.refuse_cut()?;
                self.refuse_older_copy(case.decision).await?;
            }
            let decision = match case.decision {
                Decision::End if self.trust_torn_tail && seen.header == Header::Due => {
                    Decision::ApplyWhatVerifies
                }
                other => other,
            };
            match (decision, batch) {
                (Decision::Apply, Some(batch)) => self.apply_batch(&batch).await?,
                (Decision::ApplyWhatVerifies, Some(batch)) => {
                    // Other places were read since, in search of a witness, and reads may lie.
                    let (_, records) = self.content_of(&batch.header).await?;
                    self.apply_batch(&FoundBatch { records, ..batch }).await?;
                }
                (Decision::SkipToThisBatch, Some(batch)) => {
                    self.lose_up_to(batch.header.first_lsn, "records before a batch");
                }
                (Decision::SalvageToNextBatch, _) => {
                    let next = self.next_batch_here().await?.unwrap_or(self.segment_end());
                    self.salvage(next).await?;
                    self.position.offset = next;
                }
                (Decision::SalvageToNextSegment, _) => {
                    self.salvage(self.segment_end()).await?;
                    self.enter_next_segment();
                    if let Some(first) = self.segment().map(|segment| segment.header.first_lsn) {
                        self.lose_up_to(first, "records at the end of a segment");
                    }
                }
                (Decision::SalvageToEnd, _) => {
                    self.salvage(self.segment_end()).await?;
                    self.lose_up_to(Lsn(self.witness.0 + 1), "records at the end of the log");
                    self.leave_the_rest();
                    self.report.end = case.name;
                    break;
                }
                (Decision::NextSegment, _) => self.enter_next_segment(),
                (Decision::End, _) => {
                    self.report.end = case.name;
                    if self.is_blind {
                        self.end_blindly();
                    } else {
                        self.report.unfinished = self.unfinished(seen).await?;
                    }
                    break;
                }
                (
                    Decision::Apply | Decision::ApplyWhatVerifies | Decision::SkipToThisBatch,
                    None,
                ) => unreachable!("a decision about a batch where none is"),
            }
        }
        if let Some((index, lost_records)) = self.then.take() {
            *self.index = index;
            self.report.lost_records = lost_records;
        }
        Ok(LogEnd {
            newest: self.newest().await?,
            position: self.position,
            next_lsn: self.due,
            lost: self.lost,
            run: self.run,
            log_bytes: self.log_bytes,
            last_batch: self.last_batch,
        })
    }

    /// What stands where the log is taken to end, unless it is nothing, or was there before.
    async fn unfinished(&mut self, seen: Seen) -> Result<Option<String>, Error> {
        let stands = match seen.header {
            Header::Due | Header::Ahead => true,
            Header::Stale => false,
            Header::Missing => self.has_records().await? || self.next_batch_here().await?.is_some(),
        };
        Ok(stands.then(|| {
            let place = self.place(self.position.offset, self.due);
            format!(
                "the log ends in {place}: what stands there does not verify, and nothing says that it was durable. It is \
                 taken for what a crash has left unfinished; if mail is missing, the disk has lost what it had flushed"
            )
        }))
    }

    /// Whether the block at the position has a record of this segment that is due: its batch's
    /// header is damaged.
    async fn has_records(&mut self) -> Result<bool, Error> {
        if self.position.offset + ALIGNMENT as u64 > self.segment_end() {
            return Ok(false);
        }
        let expected = self.expected(Lsn(u64::MAX));
        let bytes = self.bytes(self.position.offset, ALIGNMENT as u64).await?;
        Ok(!find_records(bytes, BATCH_HEADER_BYTES, expected).is_empty())
    }

    fn segment(&self) -> Option<&'s FoundSegment<D>> {
        self.segments.get(&self.position.segment)
    }

    fn segment_end(&self) -> u64 {
        self.segment().map_or(0, |segment| segment.header.segment_bytes)
    }

    /// Whether a batch stood there is not known, only that nothing says that one was durable.
    /// It may be readable again one day: a new segment makes leftovers of it and of what
    /// follows, for good.
    fn end_blindly(&mut self) {
        let place = self.place(self.position.offset, self.due);
        self.report.damage.push(format!(
            "the block in {place} can't be read: the log ends there, without what was written last, if it was there"
        ));
        self.leave_the_rest();
    }

    /// Nothing is ever written behind here in this segment: what was saved is there, in
    /// places that only the index knows. A checkpoint says so too, since the next opening may
    /// look no further back.
    fn leave_the_rest(&mut self) {
        self.position.offset = self.segment_end();
    }

    fn enter_next_segment(&mut self) {
        let segment = SegmentId(self.position.segment.0 + 1);
        self.position = Position { segment, offset: SEGMENT_HEADER_BYTES as u64 };
        self.respect_segment_run();
    }

    /// What an earlier run than the segment's own has left in it is a leftover, from
    /// its first block on.
    fn respect_segment_run(&mut self) {
        let run = self.segment().map_or(0, |segment| segment.header.run);
        self.run = self.run.max(run);
    }

    /// What stands at the position; the batch header, when one does.
    async fn look(&mut self) -> Result<(Seen, Option<FoundBatch>), Error> {
        let found = self.batch_header_at(self.position.offset).await?;
        self.is_blind = found.is_none() && self.is_gone(self.position.offset, ALIGNMENT as u64);
        let header = match &found {
            None => Header::Missing,
            Some(batch) if self.is_leftover(batch) => Header::Stale,
            Some(batch) if batch.first_lsn > self.due => Header::Ahead,
            Some(_) => Header::Due,
        };
        let (content, records) = match (&found, header) {
            (Some(batch), Header::Due) => self.content_of(batch).await?,
            (Some(_), Header::Missing | Header::Stale | Header::Ahead) | (None, _) => {
                (Content::Whole, Vec::new())
            }
        };
        let is_damaged = header == Header::Due && content == Content::Damaged;
        let bytes = found.as_ref().map_or(0, |batch| u64::from(batch.bytes));
        // A crash tears a batch by sectors, old or new: one that can't be read has rotted.
        let has_rotted = is_damaged && self.is_gone(self.position.offset, bytes);
        let batch = found.map(|header| FoundBatch { header, records });
        let mut seen = Seen {
            header,
            content,
            proven: has_rotted || self.due <= self.witness,
            next_segment: self.next_segment(),
            more_here: false,
        };
        // A batch in order needs no more, nor does a sealed segment's end.
        let in_order = header == Header::Due && content == Content::Whole;
        let sealed = seen.next_segment == NextSegment::Due
            && (header == Header::Missing || header == Header::Stale);
        if in_order || sealed {
            return Ok((seen, batch));
        }
        if !seen.proven && !self.searched_for_witness {
            self.search_for_witness().await?;
            seen.proven = self.due <= self.witness;
        }
        if seen.proven && header == Header::Missing {
            seen.more_here = self.next_batch_here().await?.is_some();
        }
        Ok((seen, batch))
    }

    /// What a batch says that belongs here no more: it was written before the run that went on from
    /// an earlier point, be it over it in this segment or in the next one.
    fn is_leftover(&self, batch: &BatchHeader) -> bool {
        batch.run < self.run
            || batch.first_lsn < self.due
            || self.next_segment_first_lsn().is_some_and(|first| batch.first_lsn >= first)
    }

    fn following_segment(&self) -> Option<&SegmentHeader> {
        self.segments.get(&SegmentId(self.position.segment.0 + 1)).map(|next| &next.header)
    }

    /// The LSN with which the log goes on in the next segment, when there is one that counts.
    fn next_segment_first_lsn(&self) -> Option<Lsn> {
        match self.next_segment() {
            NextSegment::None | NextSegment::Stale => None,
            NextSegment::Due => Some(self.due),
            NextSegment::Ahead => self.following_segment().map(|next| next.first_lsn),
        }
    }

    fn next_segment(&self) -> NextSegment {
        match self.following_segment() {
            None => NextSegment::None,
            Some(next) if next.run < self.run || next.first_lsn < self.due => NextSegment::Stale,
            Some(next) if next.first_lsn == self.due => NextSegment::Due,
            Some(_) => NextSegment::Ahead,
        }
    }

    async fn batch_header_at(&mut self, offset: u64) -> Result<Option<BatchHeader>, Error> {
        let Some(segment) = self.segment() else { return Ok(None) };
        if offset + ALIGNMENT as u64 > segment.header.segment_bytes {
            return Ok(None);
        }
        let (shard, id, end) = (self.shard, self.position.segment, segment.header.segment_bytes);
        let salt = segment.header.salt;
        let bytes = self.bytes(offset, ALIGNMENT as u64).await?;
        Ok(BatchHeader::decode(bytes).ok().filter(|header| {
            header.shard == shard
                && header.segment == id
                && header.salt == salt
                && header.records > 0
                && header.bytes as usize >= BATCH_HEADER_BYTES
                && offset + u64::from(header.bytes) <= end
        }))
    }

    fn expected(&self, below: Lsn) -> Expected {
        let (shard, segment) = (self.shard, self.position.segment);
        let salt = self.segment().map_or(0, |segment| segment.header.salt);
        Expected { shard, segment, run_low: run_low(self.run), salt, from: self.due, below }
    }

    async fn content_of(
        &mut self,
        batch: &BatchHeader,
    ) -> Result<(Content, Vec<FoundRecord>), Error> {
        let expected = self.expected(batch.next_lsn());
        let bytes = self.bytes(self.position.offset, u64::from(batch.bytes)).await?;
        let found = find_records(bytes, BATCH_HEADER_BYTES, expected);
        let whole = found.len() == batch.records as usize
            && found.iter().all(|record| record.meta_verifies && record.body_verifies);
        Ok((if whole { Content::Whole } else { Content::Damaged }, found))
    }

    async fn apply_batch(&mut self, found: &FoundBatch) -> Result<(), Error> {
        let batch = &found.header;
        let offset = self.position.offset;
        let length = u64::from(batch.bytes);
        let window = self.window_with(offset, length).await?;
        self.time = batch.sealed;
        self.fold(window.part(offset, length), offset, &found.records)?;
        self.window = Some(window);
        self.lose_up_to(batch.next_lsn(), "records of a batch");
        let padded = align_up_u64(length);
        self.position.offset += padded;
        self.log_bytes += padded;
        self.run = batch.run;
        self.last_batch = Some(batch.first_lsn);
        self.witness = self.witness.max(batch.durable);
        self.index.counters.count_batch(offset, padded);
        Ok(())
    }

    /// Folds found records in. `offset`: where `bytes` starts in the segment.
    fn fold(&mut self, bytes: &[u8], offset: u64, found: &[FoundRecord]) -> Result<(), Error> {
        for record in found {
            let place = offset + record.offset as u64;
            if !record.meta_verifies {
                continue;
            }
            // What the medium gave a moment ago and does not give again is lost with its LSN.
            let parts = bytes.get(record.offset..).and_then(|rest| record.header.parts(rest));
            let Some((meta, _)) = parts else { continue };
            self.lose_up_to(record.header.lsn, "records");
            if !record.body_verifies {
                let what = self.place(place, record.header.lsn);
                self.report.damage.push(format!("the body of the record in {what}"));
            }
            let decoded = Record::decode(record.header.kind, record.header.version, meta).map_err(
                |malformed| Error::Corrupt {
                    what: "a record that verifies",
                    place: format!("{}: it {malformed}", self.place(place, record.header.lsn)),
                },
            )?;
            if let Record::Lost { first, .. } = &decoded {
                // An earlier opening has found this too, and its record has just been met.
                self.lost.retain(|(lost, _)| lost != first);
            }
            self.report.records += 1;
            self.due = Lsn(record.header.lsn.0 + 1);
            if self.only.is_some_and(|account| !decoded.concerns(account)) {
                continue;
            }
            self.index.apply(Logged {
                lsn: record.header.lsn,
                time: self.time,
                location: Location::new(self.position.segment, place),
                record_bytes: u32::try_from(record.header.record_bytes()).unwrap_or(u32::MAX),
                record: &decoded,
            });
        }
        Ok(())
    }

    fn place(&self, offset: u64, lsn: Lsn) -> String {
        let number = self.segment().map_or(0, |segment| segment.number);
        let file = super::segments::file_name(number);
        format!("segment {} ({file}) at {offset}, LSN {}", self.position.segment.0, lsn.0)
    }

    /// Gives up on all LSNs below `next` that have not been found.
    fn lose_up_to(&mut self, next: Lsn, what: &str) {
        if next <= self.due {
            return;
        }
        let count = next.0 - self.due.0;
        let place = self.place(self.position.offset, self.due);
        self.report.damage.push(format!("{count} {what} from {place}"));
        self.report.lost_records += count;
        self.lost.push((self.due, count));
        self.due = next;
    }

    /// Saves the records that verify between the position and `until`.
    async fn salvage(&mut self, until: u64) -> Result<(), Error> {
        let offset = self.position.offset;
        let expected = self.expected(self.next_segment_first_lsn().unwrap_or(Lsn(u64::MAX)));
        let length = until.saturating_sub(offset);
        if length == 0 {
            return Ok(());
        }
        // Rare, and a segment at most: all of it at once, so that no record lies across two reads.
        let window = self.window_with(offset, length).await?;
        let bytes = window.part(offset, length);
        let found = find_records(bytes, BATCH_HEADER_BYTES, expected);
        let found: Vec<FoundRecord> =
            found.into_iter().filter(|record| record.header.lsn <= self.witness).collect();
        let place = self.place(offset, self.due);
        self.report.damage.push(format!(
            "the header of a batch in {place}; {} records behind it were saved",
            found.len()
        ));
        self.fold(bytes, offset, &found)?;
        self.window = Some(window);
        Ok(())
    }

    /// The offset of the next batch header in this segment that could go on from here.
    async fn next_batch_here(&mut self) -> Result<Option<u64>, Error> {
        let mut offset = self.position.offset + ALIGNMENT as u64;
        while offset < self.segment_end() {
            if let Some(batch) = self.batch_header_at(offset).await?
                && !self.is_leftover(&batch)
            {
                return Ok(Some(offset));
            }
            offset += ALIGNMENT as u64;
        }
        Ok(None)
    }

    /// Asks every later batch header of the log what was durable when it was written.
    async fn search_for_witness(&mut self) -> Result<(), Error> {
        self.searched_for_witness = true;
        let here = self.position;
        let mut offset = here.offset;
        let later: Vec<SegmentId> =
            self.segments.range(here.segment..).map(|(id, _)| *id).collect();
        for segment in later {
            self.position.segment = segment;
            while offset < self.segment_end() {
                if let Some(batch) = self.batch_header_at(offset).await? {
                    self.witness = self.witness.max(batch.durable);
                }
                offset += ALIGNMENT as u64;
            }
            offset = SEGMENT_HEADER_BYTES as u64;
        }
        self.position = here;
        Ok(())
    }
}
