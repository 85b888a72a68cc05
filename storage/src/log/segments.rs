//! The segments of a log: which file holds which, which is written, which are spare.
//!
//! Files are called `log-NUMBER`; the header inside says which segment a file is. A file whose
//! first block is all zeroes is a spare. FORMAT.md, "Segments".
//!
//! Invariants: exactly one segment of the log is active, the one with the highest number, and at
//! most one cold one; offsets below `end` in them are taken and never written again.

use crate::buffer::{ALIGNMENT, Buffer};
use crate::core::Core;
use crate::device::around::read_around;
use crate::device::{Device, is_full};
use crate::format::{BatchHeader, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId};
use crate::options::Options;
use crate::superblock::{self, Begun};
use crate::types::{Lsn, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;

#[derive(Debug, Clone)]
pub(crate) struct SegmentFile<D: Device> {
    pub(crate) number: u32,
    /// Which file it is ([`Device::file_id`]): another one may be put in its place.
    pub(crate) file_id: u64,
    pub(crate) first_lsn: Lsn,
    pub(crate) segment_bytes: u64,
    /// Of these, what there was of the file when the store was opened, or when it was made.
    pub(crate) file_bytes: u64,
    pub(crate) file: Option<D::File>,
}

#[derive(Debug, Clone)]
pub(crate) struct Active<D: Device> {
    pub(crate) id: SegmentId,
    pub(crate) file: D::File,
    /// Where the next batch goes; a whole block.
    pub(crate) end: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) salt: u64,
}

/// A file that no segment uses.
#[derive(Debug, Clone)]
pub(crate) struct Spare<D: Device> {
    pub(crate) number: u32,
    pub(crate) file: D::File,
    pub(crate) segment_bytes: u64,
    /// Written ahead with zeroes, or used before: there appends change no metadata of
    /// the file system.
    pub(crate) zeroed_bytes: u64,
}

impl<D: Device> Spare<D> {
    pub(crate) fn is_prewritten(&self) -> bool {
        self.zeroed_bytes >= self.segment_bytes
    }
}

#[derive(Debug)]
pub(crate) struct Segments<D: Device> {
    pub(crate) active: Option<Active<D>>,
    /// Of the log, and behind them the cold ones.
    pub(crate) files: BTreeMap<SegmentId, SegmentFile<D>>,
    /// Where compaction writes.
    pub(crate) cold: Option<Active<D>>,
    /// Everything in the cold segment below this is durable.
    pub(crate) cold_durable: u64,
    pub(crate) cold_next: SegmentId,
    pub(crate) spares: Vec<Spare<D>>,
    /// Spares that are being written ahead, and are not among them meanwhile.
    pub(crate) spares_away: usize,
    pub(crate) next_number: u32,
    /// Files that somebody has removed, replaced or cut ([`crate::store::Harmed`]): nothing more
    /// gets a place in them, and those that are open stay so.
    pub(crate) left: BTreeSet<u32>,
    /// So many of the segments' files are kept open ([`crate::Options`]).
    pub(crate) open_max: usize,
    /// Whose handle was closed last to make room for another.
    pub(crate) closed: SegmentId,
}

impl<D: Device> Default for Segments<D> {
    fn default() -> Self {
        Segments {
            active: None,
            files: BTreeMap::new(),
            cold: None,
            cold_durable: 0,
            cold_next: SegmentId::FIRST_COLD,
            spares: Vec::new(),
            spares_away: 0,
            next_number: 1,
            left: BTreeSet::new(),
            open_max: Options::default().open_files_max,
            closed: SegmentId::default(),
        }
    }
}

impl<D: Device> Segments<D> {
    /// Room in the active segment.
    pub(crate) fn active_room(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.segment_bytes.saturating_sub(active.end))
    }

    pub(crate) fn spare_bytes(&self) -> u64 {
        self.spares.iter().map(|spare| spare.segment_bytes).sum()
    }

    pub(crate) fn next_id(&self) -> SegmentId {
        SegmentId(self.of_log().next_back().map_or(1, |(last, _)| last.0 + 1))
    }

    pub(crate) fn of_log(&self) -> impl DoubleEndedIterator<Item = (&SegmentId, &SegmentFile<D>)> {
        self.files.range(..SegmentId::FIRST_COLD)
    }

    /// Cold segments that nothing is written to any more.
    pub(crate) fn sealed_cold(&self) -> impl Iterator<Item = (&SegmentId, &SegmentFile<D>)> {
        let cold = self.cold.as_ref().map(|cold| cold.id);
        self.files.range(SegmentId::FIRST_COLD..).filter(move |(id, _)| Some(**id) != cold)
    }

    pub(crate) fn take_number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// The best spare: the one that is written ahead the farthest.
    pub(crate) fn take_spare(&mut self) -> Option<Spare<D>> {
        let spares = self.spares.iter().enumerate();
        let (best, _) = spares.max_by_key(|(_, spare)| spare.zeroed_bytes)?;
        Some(self.spares.swap_remove(best))
    }

    pub(crate) fn activate(&mut self, header: &SegmentHeader, spare: Spare<D>, file_id: u64) {
        let file = SegmentFile {
            number: spare.number,
            file_id,
            first_lsn: header.first_lsn,
            segment_bytes: spare.segment_bytes,
            file_bytes: spare.segment_bytes,
            file: Some(spare.file.clone()),
        };
        self.close_one_of_many();
        self.files.insert(header.segment, file);
        let active = Active {
            id: header.segment,
            file: spare.file,
            end: SEGMENT_HEADER_BYTES as u64,
            segment_bytes: spare.segment_bytes,
            salt: header.salt,
        };
        if header.segment.is_cold() {
            self.cold_durable = active.end;
            self.cold = Some(active);
        } else {
            self.active = Some(active);
        }
    }

    /// What is written from now on goes into files that the next start finds whole.
    pub(crate) fn leave(&mut self) {
        let Some(active) = &mut self.active else { return };
        let number = self.files.get(&active.id).map(|file| file.number);
        if number.is_some_and(|number| self.left.contains(&number)) {
            active.end = active.segment_bytes;
        }
    }

    /// Room in the cold segment for copies that have no place yet; what has one is
    /// still written there.
    pub(crate) fn cold_room(&self) -> u64 {
        let Some(cold) = &self.cold else { return 0 };
        let number = self.files.get(&cold.id).map(|file| file.number);
        let is_left = number.is_some_and(|number| self.left.contains(&number));
        if is_left { 0 } else { cold.segment_bytes - cold.end }
    }

    /// Remembers an open handle.
    pub(crate) fn keep_open(&mut self, id: SegmentId, file: &D::File, file_id: u64) {
        self.close_one_of_many();
        if let Some(segment) = self.files.get_mut(&id) {
            segment.file = Some(file.clone());
            segment.file_id = file_id;
        }
    }

    /// Before another one is kept open. They take turns: were it always the oldest, two of these
    /// that are read by turns would be opened for each read.
    fn close_one_of_many(&mut self) {
        if self.files.values().filter(|file| file.file.is_some()).count() < self.open_max {
            return;
        }
        let in_use = [&self.active, &self.cold];
        let in_use = in_use.map(|active| active.as_ref().map(|active| active.id));
        let can_be_closed = |(id, file): &(&SegmentId, &SegmentFile<D>)| {
            let is_free = !in_use.contains(&Some(**id)) && !self.left.contains(&file.number);
            file.file.is_some() && is_free
        };
        let behind = (Bound::Excluded(self.closed), Bound::Unbounded);
        let next = self.files.range(behind).find(can_be_closed);
        let next = next.or_else(|| self.files.iter().find(can_be_closed)).map(|(id, _)| *id);
        if let Some(file) = next.and_then(|id| self.files.get_mut(&id)) {
            file.file = None;
        }
        self.closed = next.unwrap_or(self.closed);
    }
}

/// Read at once where a segment has to be searched.
const SEARCH_BYTES: usize = 1 << 20;

pub(crate) fn file_name(number: u32) -> String {
    format!("log-{number:08}")
}

pub(crate) fn file_number(name: &str) -> Option<u32> {
    let number = name.strip_prefix("log-")?.parse().ok()?;
    // It is opened by its number.
    (file_name(number) == name).then_some(number)
}

/// Takes the best spare, or makes one, and writes a segment's header into it. By itself, because a
/// batch's durable write covers the batch alone.
pub(crate) async fn begin_segment<D: Device>(core: &Core<D>, id: SegmentId) -> io::Result<()> {
    core.check_place().await?;
    if id.is_cold() {
        // Should the header's write fail, it may be on the disk all the same, and
        // the store goes on.
        core.segments.borrow_mut().cold_next = SegmentId(id.0 + 1);
    }
    let spare = core.segments.borrow_mut().take_spare();
    let spare = match spare {
        Some(spare) => spare,
        None => create_spare(core).await?,
    };
    let file_id = core.device.file_id(&spare.file)?;
    let header = SegmentHeader {
        shard: core.options.shard,
        segment: id,
        run: core.run.get(),
        first_lsn: core.next_lsn.get(),
        segment_bytes: spare.segment_bytes,
        opened: core.device.now(),
        salt: core.superblock.borrow().salt,
    };
    let mut block = Buffer::with_capacity(SEGMENT_HEADER_BYTES);
    block.extend(&header.encode());
    core.device.write_durably(&spare.file, 0, block).await.0?;
    if !id.is_cold() {
        note_begun(core, id).await?;
    }
    core.segments.borrow_mut().activate(&header, spare, file_id);
    core.refresh_free_space();
    core.upkeep.ring();
    Ok(())
}

/// Behind the header and before the first batch: what is marked is there, and what holds
/// records is marked.
async fn note_begun<D: Device>(core: &Core<D>, segment: SegmentId) -> io::Result<()> {
    let salt = core.superblock.borrow().salt;
    let begun = Begun { shard: core.options.shard, run: core.run.get(), segment, salt };
    let copy = core.begun_copy.get();
    core.begun_copy.set(copy + 1);
    match superblock::write_begun(&core.device, copy, &begun).await {
        // A store of before has no room for it in its file. The mark of an earlier
        // segment is true, too.
        Err(error) if is_full(&error) => Ok(()),
        outcome => outcome,
    }
}

/// Creates an allocated, durable file for a segment.
pub(crate) async fn create_spare<D: Device>(core: &Core<D>) -> io::Result<Spare<D>> {
    let (device, segment_bytes) = (&core.device, core.options.segment_bytes);
    let (number, file) = loop {
        let number = core.segments.borrow_mut().take_number();
        match device.create(&file_name(number), segment_bytes).await {
            // Somebody has put a file back, and mail may be in it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => break (number, created?),
        }
    };
    device.sync_directory().await?;
    Ok(Spare { number, file, segment_bytes, zeroed_bytes: 0 })
}

/// Makes a file with a stale header spare: the header no longer verifies, for good.
pub(crate) async fn erase_header<D: Device>(device: &D, file: &D::File) -> io::Result<()> {
    device.write_durably(file, 0, Buffer::zeroed(SEGMENT_HEADER_BYTES)).await.0
}

/// What a file's first block says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    Segment(SegmentHeader),
    /// Erased, or never written.
    Spare,
    /// A segment of which the header has rotted or can't be read, as what stands in it says.
    Damaged(SegmentHeader),
    /// Nothing in it says what it is: it is left alone.
    Unknown,
}

/// By the first block alone, where that verifies or is erased.
pub(crate) fn identify_by(head: &[u8]) -> Option<Identity> {
    match SegmentHeader::decode(head) {
        Ok(header) => Some(Identity::Segment(header)),
        Err(_) => head.iter().all(|byte| *byte == 0).then_some(Identity::Spare),
    }
}

/// Whether a file that was opened by its name is still this segment, or a copy of it that somebody
/// has put back.
pub(crate) async fn is_ours<D: Device>(
    core: &Core<D>,
    id: SegmentId,
    file: &D::File,
) -> io::Result<bool> {
    let known = core.segments.borrow().files.get(&id).map(|one| (one.file_id, one.segment_bytes));
    let Some((file_id, segment_bytes)) = known else { return Ok(false) };
    // A number alone is no proof: another file may have got it once ours was gone.
    let is_same = core.device.file_id(file)? == file_id;
    let salt = core.superblock.borrow().salt;
    let is_it = |header: SegmentHeader| header.segment == id && (is_same || header.salt == salt);
    // A header that can't be read is one that has rotted.
    let head = core.device.read(file, 0, Buffer::with_capacity(ALIGNMENT)).await;
    if let Some(header) = head.ok().and_then(|head| SegmentHeader::decode(head.as_slice()).ok()) {
        return Ok(is_it(header));
    }
    if is_same {
        return Ok(true);
    }
    Ok(match identify(&core.device, file, segment_bytes).await? {
        Identity::Segment(header) | Identity::Damaged(header) => is_it(header),
        Identity::Spare | Identity::Unknown => false,
    })
}

/// What files of these numbers, with so many bytes each, say that they are. `at_once` of them are
/// open, and as many reads on their way to the disk; none stays open.
pub(crate) async fn identify_all<D: Device>(
    device: &D,
    files: &[(u32, u64)],
    at_once: usize,
) -> io::Result<Vec<Identity>> {
    let mut identities = Vec::with_capacity(files.len());
    for files in files.chunks(at_once) {
        let names: Vec<String> = files.iter().map(|(number, _)| file_name(*number)).collect();
        for ((name, (_, bytes)), head) in
            names.iter().zip(files).zip(device.read_heads(&names).await?)
        {
            let by_head = head.ok().and_then(|head| identify_by(head.as_slice()));
            identities.push(match by_head {
                Some(identity) => identity,
                // It has rotted or can't be read, which is looked at more closely.
                None => identify(device, &device.open(name).await?, *bytes).await?,
            });
        }
    }
    Ok(identities)
}

pub(crate) async fn identify<D: Device>(
    device: &D,
    file: &D::File,
    segment_bytes: u64,
) -> io::Result<Identity> {
    let found = read_around(device, file, 0, Buffer::with_capacity(2 * ALIGNMENT)).await?;
    let blocks = found.buffer.as_slice();
    let (header, first) = blocks.split_at(ALIGNMENT.min(blocks.len()));
    // A header that can't be read may be any.
    let header = (!found.gone.contains(&0)).then_some(header);
    if let Some(identity) = header.and_then(identify_by) {
        return Ok(identity);
    }
    if let Some(by_content) =
        by_batch(first, segment_bytes).or_else(|| by_copy(first, segment_bytes))
    {
        return Ok(Identity::Damaged(by_content));
    }
    // Its first batch is gone too.
    let found = content(device, file, segment_bytes).await?;
    Ok(found.map_or(Identity::Unknown, Identity::Damaged))
}

/// What batches in the file say that it is; where they disagree, the one of its latest life. Where
/// there are none, what copies say that compaction made.
pub(crate) async fn content<D: Device>(
    device: &D,
    file: &D::File,
    segment_bytes: u64,
) -> io::Result<Option<SegmentHeader>> {
    let (mut best, mut copy): (Option<SegmentHeader>, _) = (None, None);
    let mut offset = ALIGNMENT as u64;
    while offset < segment_bytes {
        let blocks = read_around(device, file, offset, Buffer::with_capacity(SEARCH_BYTES)).await?;
        for block in blocks.buffer.as_slice().chunks(ALIGNMENT) {
            copy = copy.or_else(|| by_copy(block, segment_bytes));
            let found = by_batch(block, segment_bytes);
            best = match (best, found) {
                (Some(best), Some(found)) if found.segment <= best.segment => Some(best),
                (best, found) => found.or(best),
            };
        }
        offset += SEARCH_BYTES as u64;
    }
    Ok(best.or(copy))
}

/// Whether anything in the file may be of one of these segments: what can't be read may be of any.
/// Writes to all of them start on blocks.
pub(crate) async fn holds_any<D: Device>(
    device: &D,
    file: &D::File,
    file_bytes: u64,
    segments: &[SegmentId],
) -> io::Result<bool> {
    let mut offset = ALIGNMENT as u64;
    while offset < file_bytes {
        let blocks = read_around(device, file, offset, Buffer::with_capacity(SEARCH_BYTES)).await?;
        if !blocks.gone.is_empty() {
            return Ok(true);
        }
        for block in blocks.buffer.as_slice().chunks(ALIGNMENT) {
            let found = by_batch(block, file_bytes).or_else(|| by_copy(block, file_bytes));
            if found.is_some_and(|found| segments.contains(&found.segment)) {
                return Ok(true);
            }
        }
        offset += SEARCH_BYTES as u64;
    }
    Ok(false)
}

fn by_batch(first: &[u8], segment_bytes: u64) -> Option<SegmentHeader> {
    let batch = BatchHeader::decode(first).ok()?;
    Some(SegmentHeader {
        shard: batch.shard,
        segment: batch.segment,
        run: batch.run,
        first_lsn: batch.first_lsn,
        segment_bytes,
        opened: batch.sealed,
        salt: batch.salt,
    })
}

/// A cold segment has no batches.
fn by_copy(first: &[u8], segment_bytes: u64) -> Option<SegmentHeader> {
    let record = RecordHeader::decode(first).ok().filter(|record| record.segment.is_cold())?;
    Some(SegmentHeader {
        shard: record.shard,
        segment: record.segment,
        run: u32::from(record.run_low),
        first_lsn: record.lsn,
        segment_bytes,
        opened: UnixMillis::default(),
        salt: record.salt,
    })
}
