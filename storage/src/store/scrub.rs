//! The scrub: reads everything that may be needed again, at a bounded rate, and says
//! what has rotted.
//!
//! One round walks each segment of the log once ([`Walk`]); then it reads whatever messages have in
//! it and the walk has not seen whole, record by record, which is all that counts in a cold
//! segment. What does not verify is told once, with its place and with the messages that it hurts;
//! the round goes on.
//!
//! Segments are read up to what had landed when their turn came, and stay while they
//! are being read.

use super::Store;
use super::walk::{Bad, Walk};
use crate::base::read_piece;
use crate::checkpoint;
use crate::checkpoint::files::RowFiles;
use crate::checkpoint::verify::Reading;
use crate::compaction::survey;
use crate::core::Phase;
use crate::device::Device;
use crate::error::Error;
use crate::format::{
    Base, ChunkRef, Location, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentId,
};
use crate::space;
use crate::types::{AccountId, Lsn, MailboxId, Uid};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Something that does not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is, and where.
    pub place: String,
    /// The segment whose scrub tells of it; none: it is of what the next opening begins with.
    pub segment: Option<SegmentId>,
    pub hurt: Vec<Hurt>,
}

/// A message that can no longer be read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hurt {
    pub account: AccountId,
    pub mailbox: String,
    pub uid: Uid,
    /// Its record, which need not be the one that does not verify.
    pub record: Location,
}

/// How far a round has come. What the next opening begins with is read before the segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubProgress {
    pub bytes: u64,
    pub bytes_total: u64,
    /// The segment that comes next, for another round to go on with ([`Store::scrub_from`]);
    /// none at the end.
    pub next: Option<SegmentId>,
}

/// What a walk has found.
struct Walked {
    place: String,
    /// The records that it is about, where that is known: between these places, so many.
    records: Option<(Location, Location, usize)>,
}

/// What a walk has found and what messages miss, each once: a record that both tell of goes by
/// its place in the log, with its messages; a batch of which each missing record is a message's
/// is told by these.
fn told_once(
    segment: SegmentId,
    walked: Vec<Walked>,
    mut hurting: BTreeMap<Location, Finding>,
) -> Vec<Finding> {
    let once = |Walked { place, records }: Walked| {
        let hurt = match records {
            None => Vec::new(),
            Some((from, to, count)) => match hurting.remove(&from) {
                Some(finding) => finding.hurt,
                None if hurting.range(from..to).count() >= count => return None,
                None => Vec::new(),
            },
        };
        Some(Finding { place, segment: Some(segment), hurt })
    };
    let mut findings: Vec<Finding> = walked.into_iter().filter_map(once).collect();
    findings.extend(hurting.into_values());
    findings
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

impl<D: Device> Store<D> {
    /// One round. `report` hears of each step and of each finding, in order. `bytes_per_second`:
    /// what it may read, be it of segments, of the checkpoint or of the base; `None` for no bound.
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
            report(progress, self.scrub_missing(segment, bytes_per_second).await?);
        }
        Ok(())
    }

    /// What a round finds where a finding is from ([`Finding::segment`]), and there alone.
    pub async fn scrub_again(
        &self,
        segment: Option<SegmentId>,
        rate: Option<u64>,
    ) -> Result<Vec<Finding>, Error> {
        let Some(segment) = segment else {
            return self.damaged_beginning(self.beginning(), rate, &mut |_| ()).await;
        };
        if space::missing(&self.core).contains(&segment) {
            return self.scrub_missing(segment, rate).await;
        }
        let there = self.segments_to_scrub().into_iter().find(|(id, _)| *id == segment);
        let Some((segment, end)) = there else { return Ok(Vec::new()) };
        self.scrub_segment(segment, end, rate).await
    }

    /// The newest one: what was found in another may have gone with it.
    #[must_use]
    pub fn checkpoint(&self) -> Lsn {
        self.core.superblock.borrow().checkpoint
    }

    /// Whether what a finding tells of has gone since, or some of it. Of what the next opening
    /// begins with that is not known before another checkpoint is written.
    #[must_use]
    pub fn has_changed(&self, finding: &Finding) -> bool {
        let Some(segment) = finding.segment else { return false };
        let is_hurt = |hurt: &Hurt| {
            let index = self.core.index.borrow();
            let mailbox = index.account(hurt.account).and_then(|one| one.named(&hurt.mailbox));
            let row = mailbox.and_then(|mailbox| mailbox.rows.get(hurt.uid));
            row.is_some_and(|row| row.location == hurt.record)
        };
        let is_gone = self.is_going(segment) && !space::missing(&self.core).contains(&segment);
        is_gone || !finding.hurt.iter().all(is_hurt)
    }

    async fn scrub_missing(
        &self,
        segment: SegmentId,
        rate: Option<u64>,
    ) -> Result<Vec<Finding>, Error> {
        let hurting = self.check_messages(segment, &[], rate).await?;
        let mut findings: Vec<Finding> = hurting.into_values().collect();
        let place = self.gone(segment);
        findings.push(Finding { place, segment: Some(segment), hurt: Vec::new() });
        Ok(findings)
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
        let mut walk = self.walk(segment, end);
        let unread = self.walk_on(&mut walk, rate).await?;
        self.judge(walk, unread, rate).await
    }

    /// The same of a segment whose bytes have gone by: of these nothing is read again, but what a
    /// message needs and was not seen whole.
    pub async fn scrub_walked(&self, walk: Walk, rate: Option<u64>) -> Result<Vec<Finding>, Error> {
        let _reading = self.core.reading();
        self.judge(walk, None, rate).await
    }

    /// `unread`: why not all of it has been walked.
    async fn judge(
        &self,
        walk: Walk,
        unread: Option<String>,
        rate: Option<u64>,
    ) -> Result<Vec<Finding>, Error> {
        let segment = walk.segment();
        if self.is_going(segment) {
            return Ok(Vec::new());
        }
        let (walked, whole) = self.findings(walk, unread);
        Ok(told_once(segment, walked, self.check_messages(segment, &whole, rate).await?))
    }

    /// What the walk has found, and the records that are whole, by their places, ascending. None
    /// where the segment can't be read to its end: that is a finding, and who needs what is in it
    /// is looked at one by one.
    fn findings(&self, walk: Walk, unread: Option<String>) -> (Vec<Walked>, Vec<u32>) {
        let segment = walk.segment();
        let (mut whole, bad) = walk.finish();
        let location = |at: u64| Location::new(segment, at.next_multiple_of(8));
        let walked = bad.into_iter().map(|Bad { what, at, records }| Walked {
            place: format!("{what} in {}", self.place_in(segment, at)),
            records: records.map(|(end, count)| (location(at), location(end), count)),
        });
        let mut walked: Vec<Walked> = walked.collect();
        if unread.is_some() {
            whole.clear();
        }
        walked.extend(unread.map(|place| Walked { place, records: None }));
        (walked, whole)
    }

    fn gone(&self, segment: SegmentId) -> String {
        format!("segment {} of {} is not there", segment.0, self.core.device.place())
    }

    /// Whether the segment is freed, or about to be: it was seen to be empty, so nobody needs it.
    fn is_going(&self, segment: SegmentId) -> bool {
        self.core.emptied.borrow().contains_key(&segment)
            || !self.core.segments.borrow().files.contains_key(&segment)
    }

    /// Reads for the walk. Of a cold segment it is told the header alone: messages are read one by
    /// one, and nothing else counts there.
    async fn walk_on(&self, walk: &mut Walk, rate: Option<u64>) -> Result<Option<String>, Error> {
        let segment = walk.segment();
        let end = if segment.is_cold() { SEGMENT_HEADER_BYTES as u64 } else { walk.end() };
        let piece = self.core.options.upkeep_piece_bytes;
        while walk.wants() < end {
            let left = usize::try_from(end - walk.wants()).unwrap_or(usize::MAX);
            let place = match self.read_for(walk, left.min(piece), rate).await {
                Ok(_) => {
                    self.core.device.yield_now().await;
                    continue;
                }
                Err(Error::Read { what, place }) => format!("{place}: {what}"),
                Err(Error::Corrupt { what, place }) => format!("{what}: {place}"),
                Err(other) => return Err(other),
            };
            return Ok(Some(place));
        }
        Ok(None)
    }

    /// Reads what messages have in the segment and the walk has not seen whole: what is not, by the
    /// places of the records there.
    async fn check_messages(
        &self,
        segment: SegmentId,
        whole: &[u32],
        rate: Option<u64>,
    ) -> Result<BTreeMap<Location, Finding>, Error> {
        let mut findings = BTreeMap::new();
        let is_whole = |location: Location| whole.binary_search(&location.eighths).is_ok();
        let found = survey::survey(&self.core, &BTreeSet::from([segment])).await;
        for (location, found) in found {
            let mut bad = None;
            if location.segment == segment && !is_whole(location) {
                let why = self.why_not(location, u64::from(found.record_bytes), rate).await?;
                bad = why.map(|why| (location, why));
            }
            let chunks: Vec<ChunkRef> = self.core.index.borrow().live.chunks(location).to_vec();
            for chunk in chunks.iter().filter(|chunk| chunk.location.segment == segment) {
                if bad.is_none() && !is_whole(chunk.location) {
                    let bytes = RECORD_HEADER_BYTES as u64 + u64::from(chunk.body_bytes);
                    let why = self.why_not(chunk.location, bytes, rate).await?;
                    bad = why.map(|why| (chunk.location, why));
                }
            }
            let Some((at, place)) = bad else { continue };
            let rows = found.references.iter().map(|one| (one.account, one.mailbox, one.uid));
            let hurt = rows.filter_map(|row| self.still_there(location, row)).collect();
            findings.insert(at, Finding { place, segment: Some(segment), hurt });
        }
        Ok(findings)
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
        Some(Hurt { account, mailbox: mailbox.name.clone(), uid, record: location })
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
                findings.push(Finding { place, segment: None, hurt: Vec::new() });
            }
        }
        let is_same =
            |now: Option<&Rc<Base>>| now.map(|now| now.lsn) == base.as_ref().map(|base| base.lsn);
        for piece in base.iter().flat_map(|base| &base.pieces) {
            // No longer than one piece: at a low rate all of them take so long that space
            // would be missed.
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
                findings.push(Finding { place, segment: None, hurt: Vec::new() });
            }
            self.pause(u64::from(piece.body_bytes), rate).await;
            read(u64::from(piece.body_bytes));
        }
        Ok(findings)
    }

    fn is_newest(&self, checkpoint: Lsn) -> bool {
        self.core.superblock.borrow().checkpoint == checkpoint
    }

    /// What is wrong with one of the newest checkpoint's files, on the disk: not as it is mapped.
    /// Nothing where another checkpoint has followed meanwhile.
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

    /// What [`Store::verify_log`] reads.
    pub(super) fn log_bytes_to_verify(&self) -> u64 {
        let log = self.segments_to_scrub().into_iter().filter(|(id, _)| !id.is_cold());
        self.beginning().bytes() + log.map(|(_, end)| end).sum::<u64>()
    }

    /// What `verify` adds to the messages: the log's other records, and what the next opening
    /// needs. `read` hears of the bytes that were, and says whether to go on.
    pub(super) async fn verify_log(
        &self,
        read: &mut impl FnMut(u64) -> bool,
    ) -> Result<Vec<String>, Error> {
        let beginning = self.beginning();
        let mut heard = |bytes| {
            let _ = read(bytes);
        };
        let mut findings = self.damaged_beginning(beginning, None, &mut heard).await?;
        for (segment, end) in self.segments_to_scrub() {
            if !read(if segment.is_cold() { 0 } else { end }) {
                break;
            }
            let _reading = self.core.reading();
            let before = findings.len();
            if !self.is_going(segment) {
                let mut walk = self.walk(segment, end);
                let unread = self.walk_on(&mut walk, None).await?;
                let (walked, _) = self.findings(walk, unread);
                let places = walked.into_iter().map(|walked| walked.place);
                findings.extend(places.map(|place| Finding {
                    place,
                    segment: None,
                    hurt: Vec::new(),
                }));
            }
            if self.is_going(segment) {
                findings.truncate(before);
            }
        }
        let gone = space::missing(&self.core).into_iter().map(|segment| self.gone(segment));
        let places: BTreeSet<String> =
            findings.into_iter().map(|finding| finding.place).chain(gone).collect();
        Ok(places.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_and_messages_tell_of_is_told_once() {
        let at = |offset| Location::new(SegmentId(1), offset);
        let segment = Some(SegmentId(1));
        let message = |offset, uid| {
            let record = at(offset);
            let hurt =
                Hurt { account: AccountId(1), mailbox: "INBOX".into(), uid: Uid(uid), record };
            (record, Finding { place: format!("message {uid}"), segment, hurt: vec![hurt] })
        };
        let bad = |place: &str, records| Walked { place: place.to_owned(), records };
        let told = |walked, hurting: Vec<_>| {
            let findings = told_once(SegmentId(1), walked, hurting.into_iter().collect());
            let told = findings.into_iter().map(|one| (one.place, one.hurt.len()));
            told.collect::<Vec<_>>()
        };
        let record = bad("record", Some((at(104), at(200), 1)));
        assert_eq!(told(vec![record], vec![message(104, 7)]), [("record".to_owned(), 1)]);
        // No message's; and of a cold segment, which is not walked.
        let record = bad("record", Some((at(104), at(200), 1)));
        let both = [("record".to_owned(), 0), ("message 7".to_owned(), 1)];
        assert_eq!(told(vec![record], vec![message(304, 7)]), both);
        // A batch in which two records are not to be found, both a message's, or one of them.
        let batch = || bad("batch", Some((at(0), at(4096), 2)));
        let two = [("message 7".to_owned(), 1), ("message 8".to_owned(), 1)];
        assert_eq!(told(vec![batch()], vec![message(104, 7), message(304, 8)]), two);
        let one = [("batch".to_owned(), 0), ("message 7".to_owned(), 1)];
        assert_eq!(told(vec![batch()], vec![message(104, 7)]), one);
        assert_eq!(told(vec![bad("header", None)], Vec::new()), [("header".to_owned(), 0)]);
    }
}
