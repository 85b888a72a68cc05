//! Takes everything that still verifies out of a damaged shard, and puts it into a fresh store.
//!
//! In three steps: [`search`] looks through the segment files for records; [`fold`] makes an index
//! of the newest checkpoint that verifies and of what was found; [`plan`] and [`write`] make
//! records of that index in the fresh store. [`end`] says where the log is known to have gone on
//! behind all of it. Accounts, mailboxes, UIDs, UIDVALIDITY and flags are as the records say; what
//! had been expunged and is remembered can still be brought back. MODSEQs begin anew.
//!
//! Unless the store was closed in order and no record is missing, nobody knows what else was given
//! out at its end: then all identifiers jump, as after a restore.
//!
//! The source is only read. It takes memory for the index and about a hundred bytes more
//! for each message.

mod end;
mod fold;
mod plan;
mod read;
mod search;
mod write;

use crate::buffer::align_up_u64;
use crate::device::Device;
use crate::error::Error;
use crate::format::{SEGMENT_HEADER_BYTES, SegmentId};
use crate::log::reach;
use crate::log::segments::file_name;
use crate::store::Store;
use crate::superblock;
use crate::types::{AccountId, Lsn, Uid};
pub use end::{EndMissing, LogEnd};
use fold::Folded;
use search::Searched;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

/// Messages that are named one by one.
pub const LISTED_MAX: usize = 1000;

/// Messages of one account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub saved: u64,
    pub lost: u64,
}

/// What was saved of one shard, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SalvageReport {
    /// Segment files in which something was found, and the records in them.
    pub segments: u64,
    pub records: u64,
    /// The checkpoint or base that the index was begun with.
    pub begun_with: String,
    /// What of the files does not verify or can't be read.
    pub damage: Vec<String>,
    /// Segments that are needed and of which there is no file.
    pub segments_missing: u64,
    /// Records that must have been there, behind what the index was begun with.
    pub records_lost: u64,
    /// Where what was found of the log ends.
    pub end: LogEnd,
    /// It is known that it went on, and not how far: there may be messages that are in no figure
    /// here.
    pub end_missing: Option<EndMissing>,
    pub accounts: u64,
    pub mailboxes: u64,
    pub messages: u64,
    pub bytes: u64,
    /// Of the messages, those that went to mailboxes `Salvaged`.
    pub messages_salvaged: u64,
    /// Expunged messages that can still be brought back.
    pub buried: u64,
    pub buried_lost: u64,
    /// Keys and values.
    pub pairs: u64,
    pub messages_lost: u64,
    /// Whose these are, as far as they are listed: account, mailbox, UID.
    pub lost: Vec<(AccountId, String, Uid)>,
    /// What became of each account's messages, those that are not listed among them.
    pub by_account: BTreeMap<AccountId, Tally>,
    /// Accounts that only their mail gives notice of.
    pub accounts_made_up: Vec<AccountId>,
}

/// How far it has come: each file is read once to be searched, and then what is in messages to be
/// written.
struct Course<'c> {
    done: u64,
    total: u64,
    show: &'c mut dyn FnMut(u64, u64),
}

impl Course<'_> {
    /// Of the files; of messages there are no more, and how many is not known yet.
    fn expect_files(&mut self, bytes: u64) {
        self.total = 2 * bytes;
    }

    fn expect_messages(&mut self, bytes: u64) {
        self.total = self.done + bytes;
    }

    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        (self.show)(self.done.min(self.total), self.total);
    }
}

/// Fills `target`, which is new, open and running, with what can be found in the directory of
/// `source`. Only trouble with the target, or a directory that can't be read at all, is an error.
/// `show` hears of bytes that are done with, and of all, as far as these are known.
pub async fn salvage<D: Device>(
    source: &D,
    shard: u16,
    target: &Store<D>,
    mut show: impl FnMut(u64, u64),
) -> Result<SalvageReport, Error> {
    if !target.is_new() {
        return Err(Error::Open {
            place: target.device().place(),
            what: "there is a store in it; salvage into an empty directory".to_owned(),
        });
    }
    if let Some(what) = superblock::refusal(source).await {
        return Err(Error::Open { place: source.place(), what });
    }
    let mut course = Course { done: 0, total: 0, show: &mut show };
    let searched = search::search(source, shard, &mut course).await;
    let searched = searched.map_err(|error| unreadable(source, &error))?;
    let seconds = u32::try_from(source.now().0 / 1000).unwrap_or(u32::MAX);
    let mut folded = fold::fold(source, shard, &searched, seconds).await?;
    let mut report = SalvageReport {
        segments: searched.segments.len() as u64,
        records: searched.records.len() as u64,
        begun_with: std::mem::take(&mut folded.begun_with),
        damage: searched.damage.clone(),
        records_lost: folded.records_lost,
        accounts_made_up: folded.accounts_made_up.iter().copied().collect(),
        ..SalvageReport::default()
    };
    report.damage.extend(older_copies(source, &searched).await);
    report.damage.extend(lacking(source, &searched, &folded).await);
    report.damage.append(&mut folded.damage);
    report.miss(&searched, &folded);
    report.end = end::found(&searched);
    let reached = searched.witness.max(folded.index.applied);
    report.end_missing = end::missing(&searched, report.end, reached);
    let rotten = searched.records.iter().filter(|found| !found.is_whole());
    for found in rotten.take(LISTED_MAX) {
        let (segment, offset) = (found.location.segment.0, found.location.offset());
        report.damage.push(format!("segment {segment} at {offset}, LSN {}", found.lsn.0));
    }
    let deliveries = plan::deliveries(source, &searched, &folded).await;
    let (searched, folded) = (&searched, &folded);
    let plan = plan::Planner { searched, folded, deliveries, report: &mut report }.plan();
    let all_is_known = folded.records_lost == 0
        && searched.closed_at.is_some_and(|closed_at| folded.index.applied == closed_at);
    course.expect_messages(plan.bytes());
    let (pending, pending_bytes) = (VecDeque::new(), 0);
    let mut writer = write::Writer {
        source,
        searched,
        target,
        report: &mut report,
        course,
        pending,
        pending_bytes,
    };
    writer.write(&folded.index, plan, !all_is_known).await?;
    Ok(report)
}

/// Files of the log that end before the next one begins, or before what was durable, and in which
/// nothing was written behind that: all that they hold verifies, so nothing else would name them.
async fn older_copies<D: Device>(source: &D, searched: &Searched<D>) -> Vec<String> {
    let mut named = Vec::new();
    let segments = &searched.segments;
    for (id, segment) in segments.iter().filter(|(id, one)| !id.is_cold() && one.is_sound) {
        let next = segments.get(&SegmentId(id.0 + 1)).map(|next| next.header.first_lsn.0);
        let is_newest = segments.range(..SegmentId::FIRST_COLD).next_back().map(|(id, _)| id);
        let is_newest = is_newest == Some(id) && searched.begun.is_none_or(|begun| begun <= *id);
        let durable = is_newest.then_some(searched.witness.0 + 1);
        let (Some(due), end) = (next.or(durable), segment.file_bytes) else { continue };
        // What can't be read is told of already.
        let Ok(found) = reach::reach(source, segment, end).await else { continue };
        if found.next_lsn.0 < due
            && reach::is_unwritten(source, segment, found.offset, end).await.unwrap_or(false)
        {
            named.push(reach::older_copy(segment, found, Lsn(due - 1)));
        }
    }
    named
}

/// The same of cold segments, of which no LSN tells where they end: those in which messages should
/// be behind all that is there.
async fn lacking<D: Device>(source: &D, searched: &Searched<D>, folded: &Folded) -> Vec<String> {
    let cold = searched.segments.range(SegmentId::FIRST_COLD..).filter(|(_, one)| one.is_sound);
    let mut ends: BTreeMap<SegmentId, u64> =
        cold.map(|(id, _)| (*id, SEGMENT_HEADER_BYTES as u64)).collect();
    for found in &searched.records {
        if let Some(end) = ends.get_mut(&found.location.segment) {
            *end = (*end).max(found.end());
        }
    }
    let mut behind: BTreeMap<SegmentId, u64> = BTreeMap::new();
    let mailboxes = folded.index.accounts.values().flat_map(|account| account.mailboxes.values());
    for row in mailboxes.flat_map(|mailbox| mailbox.rows.iter()) {
        let segment = row.location.segment;
        if ends.get(&segment).is_some_and(|end| row.location.offset() >= *end) {
            *behind.entry(segment).or_default() += 1;
        }
    }
    let mut named = Vec::new();
    for (id, messages) in behind {
        let (Some(segment), Some(end)) = (searched.segments.get(&id), ends.get(&id)) else {
            continue;
        };
        let (from, to) = (align_up_u64(*end), segment.file_bytes);
        if reach::is_unwritten(source, segment, from, to).await.unwrap_or(false) {
            named.push(format!(
                "{}, which is segment {}, ends at {end}, and messages were behind that, {messages} of those that are known: they are \
                 missing. Either this is an older copy of the file, or the disk has lost what stood there",
                file_name(segment.number),
                id.0
            ));
        }
    }
    named
}

/// The directory itself.
fn unreadable<D: Device>(source: &D, error: &io::Error) -> Error {
    Error::Open { place: source.place(), what: format!("it can't be read: {error}") }
}

impl SalvageReport {
    /// Names the segments that should be there and are not, and those whose files do not
    /// look like segments.
    fn miss<D: Device>(&mut self, searched: &Searched<D>, folded: &Folded) {
        let of_log = searched.segments.keys().copied().filter(|id| !id.is_cold());
        let newest = of_log.chain(searched.begun).max();
        let from = folded.from.unwrap_or(SegmentId(1));
        let log = newest.into_iter().flat_map(|newest| from.0..=newest.0).map(SegmentId);
        let live = folded.index.live.segments().filter(|(_, used)| used.bytes > 0);
        let needed: BTreeSet<SegmentId> = log.chain(live.map(|(id, _)| id)).collect();
        let mut missing: Vec<SegmentId> = Vec::new();
        for id in needed {
            match searched.erased.get(&id) {
                Some(name) => {
                    self.damage
                        .push(format!("{name}: its header is erased; it is segment {}", id.0));
                }
                None if searched.segments.contains_key(&id) => {}
                None => missing.push(id),
            }
        }
        self.segments_missing = missing.len() as u64;
        for run in missing.chunk_by(|one, next| one.0 + 1 == next.0).take(LISTED_MAX) {
            self.damage.push(match run {
                [one] => format!("segment {} is missing, and what it held", one.0),
                [first, .., last] => {
                    format!("segments {} to {} are missing, and what they held", first.0, last.0)
                }
                [] => continue,
            });
        }
    }
}

impl<D: Device> Store<D> {
    fn is_new(&self) -> bool {
        self.core().index.borrow().applied == Lsn(0)
    }
}
