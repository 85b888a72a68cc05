//! Opening a store: superblock, checkpoint, log, in this order; then the log's end is made ready
//! for new batches.
//!
//! Every step leaves the disk in a state from which opening again arrives at the same store.
//! New batches are written only after the superblock says that a new run has begun.
//! FORMAT.md, "Opening".
//!
//! Where files of the log are gone, opening stops before it has changed anything.
//!
//! `find` lists what is there, `missing` tells what is not.

mod find;
mod missing;

use crate::base;
use crate::checkpoint::files::{self, RowFiles};
use crate::checkpoint::load::{self, Loaded};
use crate::checkpoint::{Position, file_name};
use crate::clock::Clock;
use crate::core::{Core, Phase};
use crate::device::{Device, is_full};
use crate::error::Error;
use crate::format::{COUNT_UNKNOWN, Record, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId};
use crate::index::{Index, RowFile};
use crate::log::commit;
use crate::log::queue::{Hold, Queue};
use crate::log::reach;
use crate::log::recovery::RecoveryReport;
use crate::log::scan::{FoundSegment, LogEnd, Scan, Start};
use crate::log::segments::{self, Active, SegmentFile, Segments, Spare};
use crate::options::{Options, Sabotage};
use crate::packing::Packing;
use crate::superblock::{self, Begun, Superblock};
use crate::types::{Lsn, Uid};
use find::{Found, check_shard, find};
use missing::{
    gap, named_by_content, refusal, refuse_doubles, report_cut, report_missing, take_spares,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Instant;

fn device_error(error: io::Error) -> Error {
    Error::Device(error.to_string())
}

pub(crate) async fn open<D: Device>(device: D, options: Options) -> Result<Rc<Core<D>>, Error> {
    options.check()?;
    let started = Instant::now();
    let mut found = find(&device, &options).await?;
    check_shard(&device, &options, &found)?;
    refuse_doubles(&device, &found).await?;
    let damage = std::mem::take(&mut found.damage);
    let mut report = RecoveryReport { damage, ..RecoveryReport::default() };
    let mut index = Index::default();
    let start = load_checkpoint(&device, &options, &found, &mut index, &mut report).await?;
    let checkpoint = start.checkpoint;
    report.setbacks.extend(superblock_lost(&device, &found, start.scan.due));
    let forget_from = forgotten(&device, &options, &found, &index, start.scan).await?;
    let mut scan =
        Scan::new(&device, options.shard, &found.segments, &mut index, &mut report, start.scan);
    scan.forget_from = forget_from;
    scan.trust_torn_tail = options.sabotage == Some(Sabotage::TrustTornTail);
    scan.begun = found.begun;
    let end = match scan.run_to_the_end().await {
        Err(Error::Open { what, .. }) => return Err(refusal(&device, &found, &what).await),
        end => end?,
    };
    if let Some(what) = ends_before_a_checkpoint(&device, &options, &found, end.next_lsn).await {
        return Err(refusal(&device, &found, &what).await);
    }
    sabotage_index(&options, &mut index);

    let newest = found.superblocks.first().copied().unwrap_or_default();
    let begun_in = found.begun.map_or(0, |begun| begun.run);
    let superblock = Superblock {
        shard: options.shard,
        sequence: newest.sequence + 1,
        run: newest.run.max(end.run).max(begun_in) + 1,
        checkpoint,
        durable: Lsn(end.next_lsn.0 - 1),
        clean: false,
        salt: salt_of(&device, &found).map_err(device_error)?,
        restored: newest.restored,
    };
    make_sure(&device, &found, start.scan.position.segment).await?;
    superblock::write(&device, &superblock).await.map_err(device_error)?;
    let gone = gap(&found);
    mark_end(&device, &mut found, &end, &superblock).await.map_err(device_error)?;
    report_cut(&device, &found, &index, &mut report);
    let mut segments = take_over(&device, &options, &mut found, &end).await?;
    take_over_cold(&device, &mut segments, &mut found, index.cold_next)?;
    report_missing(&device, &segments, &index, (&start.files, gone), &mut report);
    take_spares(&device, &options, &mut segments, found.spares, &index, &mut report).await?;
    report.micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    report.lsn = superblock.durable;
    let core = Core {
        queue: RefCell::new(Queue::new(&options)),
        index: RefCell::new(index),
        segments: RefCell::new(segments),
        phase: Cell::new(Phase::Closing),
        displaced: Cell::default(),
        halted_by: RefCell::default(),
        run: Cell::new(superblock.run),
        next_lsn: Cell::new(end.next_lsn),
        durable: Cell::new(superblock.durable),
        position: Cell::new(end.position),
        log_bytes_since_checkpoint: Cell::new(end.log_bytes),
        landed_bytes: Cell::default(),
        landed_batches: Cell::default(),
        checkpoint_bytes: Cell::new(start.increment_bytes + start.rows_bytes),
        increment_bytes: Cell::new(start.increment_bytes),
        given_back: Cell::default(),
        superblock: RefCell::new(superblock),
        begun_copy: Cell::new(found.begun_copy),
        // The copy that was not written now names this checkpoint, or an older base's.
        named: Cell::new([start.scan.position; 2]),
        row_files: RefCell::new([start.row_files.clone(), start.row_files]),
        emptied: RefCell::default(),
        unworthy: RefCell::default(),
        spoiled: RefCell::default(),
        is_full: Cell::default(),
        refused_for_space: Cell::default(),
        cried_at: Cell::default(),
        thorough_below: Cell::default(),
        compacts: Cell::default(),
        maintains: Cell::default(),
        wants_checkpoint: Cell::default(),
        asked_at: Cell::default(),
        segments_freed: Cell::default(),
        given_up: Cell::default(),
        given_up_by: RefCell::default(),
        free_bytes: Cell::default(),
        free_bytes_asked: Cell::default(),
        as_found: Cell::new(!report.damage.is_empty()),
        recovery: report,
        // Where nothing is remembered, nothing can be forgotten too early.
        clock: Cell::new(Clock::new(end.newest.unwrap_or(device.now()), device.steady())),
        locks: Default::default(),
        reservations: Default::default(),
        kept: Default::default(),
        watchers: Default::default(),
        uses: Default::default(),
        packing: Packing::new(&options),
        work: Default::default(),
        upkeep: Default::default(),
        spares: Default::default(),
        compaction: Default::default(),
        expiry: Default::default(),
        landed: Default::default(),
        device,
        options,
    };
    let core = Rc::new(core);
    core.refresh_free_space();
    first_segment(&core).await?;
    log_first(&core, &end).await?;
    core.phase.set(Phase::Open);
    core.upkeep.ring();
    Ok(core)
}

struct StartPoint {
    scan: Start,
    /// Of the file; zero: there is none that can be used.
    checkpoint: Lsn,
    /// It and those that it refers to.
    row_files: RowFiles,
    increment_bytes: u64,
    rows_bytes: u64,
    /// Which file held which segment when it was written.
    files: BTreeMap<SegmentId, u32>,
}

/// The newest checkpoint that a superblock names and that verifies; without one, the newest base in
/// the log; without that, the log's start.
async fn load_checkpoint<D: Device>(
    device: &D,
    options: &Options,
    found: &Found<D>,
    index: &mut Index,
    report: &mut RecoveryReport,
) -> Result<StartPoint, Error> {
    let witness = found.superblocks.iter().map(|superblock| superblock.durable).max();
    let witness = witness.unwrap_or_default();
    for superblock in &found.superblocks {
        if superblock.checkpoint == Lsn(0) || !found.checkpoints.contains(&superblock.checkpoint) {
            continue;
        }
        let name = file_name(superblock.checkpoint);
        match load_files(device, options.shard, superblock.checkpoint).await {
            Ok((loaded, mut row_files)) => {
                let went_on_in = loaded.position.segment;
                let was_there = loaded.segments.iter().any(|(id, _, _)| *id == went_on_in);
                if was_there && !found.segments.contains_key(&went_on_in) {
                    let what = format!(
                        "segment {} of the log is missing or unreadable, in which the log goes on after {name}",
                        went_on_in.0
                    );
                    return Err(refusal(device, found, &what).await);
                }
                let checkpoint = loaded.index.applied;
                let short = reach::short(device, &found.segments, loaded.position, &loaded.index);
                if let Some(what) = short.await {
                    return Err(refusal(device, found, &what).await);
                }
                let start = begin_with(loaded, index, witness);
                // Its own bytes and flush were not known when its counters were written.
                index.counters.bytes_written += start.increment_bytes;
                index.counters.flushes += 1;
                row_files.insert(checkpoint, start.increment_bytes);
                return Ok(StartPoint { checkpoint, row_files, ..start });
            }
            Err(setback) => report.setbacks.push(format!("checkpoint {name}{setback}")),
        }
    }
    if may_be_based(found) {
        let based = base::find(device, options.shard, &found.segments).await;
        if let Some(loaded) = based.map_err(device_error)? {
            return Ok(begin_with(loaded, index, witness));
        }
    }
    let first = found.segments.iter().next();
    if let Some((id, segment)) = first.filter(|(_, segment)| segment.header.first_lsn != Lsn(1)) {
        let what = format!(
            "no checkpoint can be read, and the log starts only at LSN {} (segment {}): files of it are missing",
            segment.header.first_lsn.0, id.0
        );
        return Err(refusal(device, found, &what).await);
    }
    // Without any segment the store is new, unless there is mail in what looks like spares.
    if first.is_none() && !named_by_content(device, found).await.is_empty() {
        let what = "the log is missing: none of its files says what it is";
        return Err(refusal(device, found, what).await);
    }
    let segment = first.map_or(SegmentId(1), |(id, _)| *id);
    let position = Position { segment, offset: SEGMENT_HEADER_BYTES as u64 };
    let scan = Start { position, due: Lsn(1), run: 0, witness };
    let row_files = RowFiles::new();
    let files = BTreeMap::new();
    Ok(StartPoint { scan, checkpoint: Lsn(0), row_files, increment_bytes: 0, rows_bytes: 0, files })
}

/// Without a superblock nothing says how far the log went, but for a checkpoint: it was written
/// once the log had what is in it.
async fn ends_before_a_checkpoint<D: Device>(
    device: &D,
    options: &Options,
    found: &Found<D>,
    next_lsn: Lsn,
) -> Option<String> {
    if !found.superblocks.is_empty() {
        return None;
    }
    for checkpoint in found.checkpoints.iter().filter(|checkpoint| **checkpoint >= next_lsn) {
        // By its name alone it may be anything.
        if load_files(device, options.shard, *checkpoint).await.is_ok() {
            return Some(format!(
                "the log ends with LSN {}, and {} was written when it had gone on to LSN {}: its newest part is missing, and so \
                 is the superblock, which knew how far it went",
                next_lsn.0 - 1,
                file_name(*checkpoint),
                checkpoint.0
            ));
        }
    }
    None
}

/// A store that has lived has a superblock: how it was lost, and what takes its place.
fn superblock_lost<D: Device>(device: &D, found: &Found<D>, due: Lsn) -> Option<String> {
    let has_lived = !found.segments.is_empty() || !found.checkpoints.is_empty();
    if !found.superblocks.is_empty() || !has_lived {
        return None;
    }
    let how = match found.superblock_bytes {
        None => "is missing",
        Some(0) => "is empty",
        Some(_) => "has no copy that verifies",
    };
    let from = match due {
        Lsn(1) => "the whole log".to_owned(),
        due => format!("the base in the log at LSN {}, and what follows it", due.0 - 1),
    };
    let begun = match found.begun {
        Some(_) => "",
        None => "; whether the newest segment of the log is there could not be told",
    };
    let name = superblock::FILE_NAME;
    Some(format!(
        "{name} in {} {how}: it is made anew, and the index from {from}{begun}",
        device.place()
    ))
}

/// A checkpoint with the other files that it refers to; why not, to be put behind its name.
pub(crate) async fn load_files<D: Device>(
    device: &D,
    shard: u16,
    checkpoint: Lsn,
) -> Result<(Loaded, RowFiles), String> {
    let file = map_rows(device, checkpoint).await.map_err(|error| format!(": {error}"))?;
    let referred = files::referred(file.bytes()).map_err(|malformed| format!(" {malformed}"))?;
    let mut others = Vec::new();
    for lsn in referred.keys() {
        let other = map_rows(device, *lsn).await;
        others.push(other.map_err(|error| format!(" needs {}: {error}", file_name(*lsn)))?);
    }
    let loaded = load::load(shard, &file, &others).map_err(|malformed| format!(" {malformed}"))?;
    Ok((loaded, referred))
}

async fn map_rows<D: Device>(device: &D, checkpoint: Lsn) -> io::Result<Rc<RowFile>> {
    let mapping = device.map(&file_name(checkpoint)).await?;
    Ok(Rc::new(RowFile { mapping, checkpoint: Some(checkpoint) }))
}

/// A store that has never had a checkpoint has no base either, and all of its log.
fn may_be_based<D: Device>(found: &Found<D>) -> bool {
    let had_checkpoint = found.superblocks.iter().any(|one| one.checkpoint != Lsn(0));
    let ids = || found.segments.keys().map(|id| id.0);
    let is_whole = ids().zip(ids().skip(1)).all(|(one, next)| next == one + 1);
    let first = found.segments.values().next().map(|segment| segment.header.first_lsn);
    had_checkpoint || found.superblocks.is_empty() || !is_whole || first != Some(Lsn(1))
}

fn begin_with(loaded: Loaded, index: &mut Index, witness: Lsn) -> StartPoint {
    *index = loaded.index;
    let due = Lsn(index.applied.0 + 1);
    let (position, run) = (loaded.position, loaded.run);
    let scan = Start { position, due, run, witness: witness.max(index.applied) };
    StartPoint {
        scan,
        checkpoint: Lsn(0),
        row_files: RowFiles::new(),
        increment_bytes: loaded.bytes,
        rows_bytes: loaded.rows_bytes,
        files: loaded.segments.iter().map(|(id, number, _)| (*id, *number)).collect(),
    }
}

/// For the crash simulator: where to let go of the last batch.
async fn forgotten<D: Device>(
    device: &D,
    options: &Options,
    found: &Found<D>,
    index: &Index,
    start: Start,
) -> Result<Option<Lsn>, Error> {
    if options.sabotage != Some(Sabotage::ForgetTail) {
        return Ok(None);
    }
    let (mut index, mut report) = (index.clone(), RecoveryReport::default());
    let scan = Scan::new(device, options.shard, &found.segments, &mut index, &mut report, start);
    Ok(scan.run_to_the_end().await?.last_batch)
}

/// The store's own, from wherever it is still known; a new one for a new store.
fn salt_of<D: Device>(device: &D, found: &Found<D>) -> io::Result<u64> {
    let by_superblock = found.superblocks.first().map(|superblock| superblock.salt);
    let by_segment = found.segments.values().next_back().map(|segment| segment.header.salt);
    by_superblock.or(by_segment).map_or_else(|| device.random(), Ok)
}

/// What was read may still be in a volatile cache when only the process died: it is about to be
/// shown to clients, so it is made durable first.
async fn make_sure<D: Device>(device: &D, found: &Found<D>, from: SegmentId) -> Result<(), Error> {
    for segment in found.segments.range(from..).map(|(_, segment)| segment) {
        let file = segment.open(device).await.map_err(device_error)?;
        device.sync(&file).await.map_err(device_error)?;
    }
    device.sync_directory().await.map_err(device_error)
}

fn sabotage_index(options: &Options, index: &mut Index) {
    if options.sabotage != Some(Sabotage::ReuseUid) {
        return;
    }
    for account in index.accounts.values_mut() {
        for mailbox in Rc::make_mut(account).mailboxes.values_mut() {
            let mailbox = Rc::make_mut(mailbox);
            mailbox.uid_next = Uid(mailbox.rows.last_uid().map_or(1, |last| last.0 + 1));
        }
    }
}

/// Says which segment is the newest from now on, ahead of those behind it being given up.
async fn mark_end<D: Device>(
    device: &D,
    found: &mut Found<D>,
    end: &LogEnd,
    superblock: &Superblock,
) -> io::Result<()> {
    let segment = end.position.segment;
    let is_marked = found.begun.is_some_and(|begun| begun.segment == segment);
    if is_marked || !found.segments.contains_key(&segment) {
        return Ok(());
    }
    let Superblock { shard, run, salt, .. } = *superblock;
    let begun = Begun { shard, run, segment, salt };
    match superblock::write_begun(device, found.begun_copy, &begun).await {
        // A store of before may have no room for it. It is as before, then.
        Err(error) if is_full(&error) && found.begun.is_none() => return Ok(()),
        outcome => outcome?,
    }
    found.begun_copy += 1;
    Ok(())
}

impl<D: Device> Found<D> {
    fn taken_over(
        &self,
        device: &D,
        segment: &FoundSegment<D>,
        file: Option<D::File>,
    ) -> io::Result<SegmentFile<D>> {
        let (number, header) = (segment.number, segment.header);
        let SegmentHeader { first_lsn, segment_bytes, .. } = header;
        let file_bytes = segment.file_bytes.min(segment_bytes);
        let file_id = match &file {
            Some(file) => device.file_id(file)?,
            None => self.file_ids[&number],
        };
        Ok(SegmentFile { number, file_id, first_lsn, segment_bytes, file_bytes, file })
    }
}

/// Makes segments behind the log's end spare, and the one at its end active.
async fn take_over<D: Device>(
    device: &D,
    options: &Options,
    found: &mut Found<D>,
    end: &LogEnd,
) -> Result<Segments<D>, Error> {
    let (next_number, open_max) = (found.next_number, options.open_files_max);
    let mut segments = Segments { next_number, open_max, ..Segments::default() };
    // From the top, so that a crash in between leaves no gap, which would look like a missing file.
    for (id, segment) in std::mem::take(&mut found.segments).into_iter().rev() {
        let salt = segment.header.salt;
        let (number, segment_bytes) = (segment.number, segment.header.segment_bytes);
        if id < end.position.segment {
            let taken = found.taken_over(device, &segment, None).map_err(device_error)?;
            segments.files.insert(id, taken);
            continue;
        }
        let file = segment.open(device).await.map_err(device_error)?;
        if id > end.position.segment {
            segments::erase_header(device, &file).await.map_err(device_error)?;
            // Used before: how far is not known, but its start is what counts soonest.
            segments.spares.push(Spare { number, file, segment_bytes, zeroed_bytes: 0 });
            continue;
        }
        let taken = found.taken_over(device, &segment, Some(file.clone()));
        segments.files.insert(id, taken.map_err(device_error)?);
        let end = end.position.offset;
        segments.active = Some(Active { id, file, end, segment_bytes, salt });
    }
    Ok(segments)
}

/// Where each of them ends is not known; so nothing more is written to them, and what nothing
/// refers to in them goes with the next compaction.
fn take_over_cold<D: Device>(
    device: &D,
    segments: &mut Segments<D>,
    found: &mut Found<D>,
    next: SegmentId,
) -> Result<(), Error> {
    let last = found.cold.keys().next_back().map_or(SegmentId(0), |last| SegmentId(last.0 + 1));
    segments.cold_next = SegmentId::FIRST_COLD.max(next).max(last);
    for (id, segment) in std::mem::take(&mut found.cold) {
        let taken = found.taken_over(device, &segment, None).map_err(device_error)?;
        segments.files.insert(id, taken);
    }
    Ok(())
}

/// A new store starts on a pre-written segment; the reserve is allocated before mail can take it.
async fn first_segment<D: Device>(core: &Rc<Core<D>>) -> Result<(), Error> {
    let is_new = core.segments.borrow().files.is_empty();
    let wanted = core.options.reserve_segments + usize::from(is_new);
    while core.segments.borrow().spares.len() < wanted {
        match crate::spares::add_spare(core, is_new).await {
            Ok(()) => {}
            Err(error) if is_full(&error) && !is_new => break,
            Err(error) => return Err(device_error(error)),
        }
    }
    Ok(())
}

/// What has to be durable before anything new is. Records that were lost may have given out
/// identifiers, and so may have those that followed the backup from which a store was restored: a
/// record says which to skip. Another says for how long what goes from now on is remembered.
async fn log_first<D: Device>(core: &Rc<Core<D>>, end: &LogEnd) -> Result<(), Error> {
    let mut records: Vec<Record> = end
        .lost
        .iter()
        .map(|(first, count)| Record::Lost { first: *first, count: *count })
        .collect();
    // Once: behind it the log does not end there any more.
    let restored = core.superblock.borrow().restored;
    if restored != Lsn(0) && end.next_lsn.0 == restored.0 + 1 {
        records.push(Record::Lost { first: end.next_lsn, count: COUNT_UNKNOWN });
    }
    let millis = u64::try_from(core.options.retention.as_millis()).unwrap_or(u64::MAX);
    if core.index.borrow().past.retention_millis != millis {
        records.push(Record::RetentionSet { millis });
    }
    let mut receipts = Vec::new();
    for record in records {
        let parts = crate::log::queue::Parts::of(&record);
        receipts.push(core.enqueue_parts(record, &parts, Hold::default())?);
    }
    if receipts.is_empty() {
        return Ok(());
    }
    // In this phase the loop returns as soon as its queue is empty.
    commit::run(core).await;
    for receipt in receipts {
        receipt.landed().await?;
    }
    Ok(())
}
