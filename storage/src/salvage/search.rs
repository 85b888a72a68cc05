//! Looks through every segment file for whatever verifies, wherever it stands.
//!
//! Nothing here relies on order: a record whose header verifies under the store's salt is found, be
//! the segment's header, its batch's header or all that is before it gone. Mail does not know the
//! salt, so it can't imitate a record. A block that can't be read is one that has rotted
//! ([`Reader`]). Nothing is written, and no error but of the whole directory ends the search.

use super::Course;
use super::read::Reader;
use crate::buffer::{ALIGNMENT, Buffer};
use crate::device::Device;
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, Location, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, RecordHeader,
    SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId,
};
use crate::log::queue::run_low;
use crate::log::scan::FoundSegment;
use crate::log::segments::{file_name, file_number};
use crate::superblock::{self, Superblock};
use crate::types::{Lsn, UnixMillis};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Read at once; and no record is longer than half of it.
const WINDOW_BYTES: usize = 16 << 20;
const RECORD_BYTES_MAX: u64 = 8 << 20;

/// A record whose header verifies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) lsn: Lsn,
    pub(super) location: Location,
    /// Number of the file in which it was found.
    file: u32,
    pub(super) run: u32,
    /// Of its batch, or of the one before where the header of that is gone.
    pub(super) time: UnixMillis,
    pub(super) kind: u8,
    pub(super) meta_bytes: u32,
    pub(super) body_bytes: u32,
    pub(super) meta_verifies: bool,
    pub(super) body_verifies: bool,
}

impl Found {
    pub(super) fn is_whole(&self) -> bool {
        self.meta_verifies && self.body_verifies
    }

    /// Where it ends in its segment.
    pub(super) fn end(&self) -> u64 {
        let parts = u64::from(self.meta_bytes) + u64::from(self.body_bytes);
        self.location.offset() + RECORD_HEADER_BYTES as u64 + parts
    }
}

#[derive(Debug)]
pub(super) struct Searched<D: Device> {
    /// Numbers of all in which something was found.
    files: Vec<u32>,
    /// That of them which was read last, and most likely is read next.
    held: RefCell<Option<(u32, D::File)>>,
    /// Of each segment the file that goes furthest.
    pub(super) segments: BTreeMap<SegmentId, FoundSegment<D>>,
    /// By LSN; of the log before those of cold segments.
    pub(super) records: Vec<Found>,
    /// Of `records`, by location: one for each.
    places: Vec<u32>,
    /// Something said that all records up to this one were durable.
    pub(super) witness: Lsn,
    /// The store was closed in order, and this was the last record.
    pub(super) closed_at: Option<Lsn>,
    /// The segment that was begun last, where that is known.
    pub(super) begun: Option<SegmentId>,
    /// A copy of the superblock verifies, or of that mark.
    pub(super) has_superblock: bool,
    /// Files that look like spares, by what stands in them.
    pub(super) erased: BTreeMap<SegmentId, String>,
    pub(super) damage: Vec<String>,
}

/// A record's verified parts.
pub(super) struct Parts {
    pub(super) header: RecordHeader,
    bytes: Vec<u8>,
}

impl Parts {
    pub(super) fn meta(&self) -> &[u8] {
        &self.bytes[RECORD_HEADER_BYTES..][..self.header.meta_bytes as usize]
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[RECORD_HEADER_BYTES + self.header.meta_bytes as usize..]
    }
}

/// Whom to believe.
#[derive(Debug, Clone, Copy)]
struct Segment {
    shard: u16,
    id: SegmentId,
    run: u32,
    salt: u64,
}

pub(super) async fn search<D: Device>(
    device: &D,
    shard: u16,
    course: &mut Course<'_>,
) -> io::Result<Searched<D>> {
    let mut search = Search { shard, file: 0, records: Vec::new(), witness: Lsn(0) };
    let mut found_in: Vec<u32> = Vec::new();
    let mut reaches: BTreeMap<SegmentId, Lsn> = BTreeMap::new();
    let mut salts = BTreeSet::new();
    // One whose file can't be read is one that is gone.
    let superblocks = superblock::read(device).await.unwrap_or_default();
    for one in &superblocks {
        salts.insert(one.salt);
        search.witness = search.witness.max(one.durable);
    }
    // Where a copy is gone, it may have been the newer one.
    let newest = superblocks.first().filter(|one| one.clean && superblocks.len() == 2);
    let closed_at = newest.map(|one| one.durable);
    let begun = superblock::read_begun(device).await.ok().and_then(|(begun, _)| begun);
    let begun = begun.filter(|begun| begun.shard == shard);
    salts.extend(begun.map(|begun| begun.salt));
    let mut files = Vec::new();
    let mut damage = Vec::new();
    for listed in device.list().await? {
        let Some(number) = file_number(&listed.name) else { continue };
        let mut reader = Reader::new(device, listed.bytes);
        if let Err(error) = reader.open(&listed.name).await {
            damage.push(format!("{}: {error}", listed.name));
            continue;
        }
        let block = reader.read(0, ALIGNMENT).await;
        let decoded = SegmentHeader::decode(block.as_slice()).ok();
        salts.extend(decoded.map(|header| header.salt));
        // A header that can't be read is none that was erased.
        let is_zeroes = block.as_slice().iter().all(|byte| *byte == 0);
        let is_spare = is_zeroes && !reader.is_unreadable(0);
        reader.close();
        files.push((number, reader, decoded, is_spare));
    }
    course.expect_files(files.iter().map(|(_, reader, _, _)| reader.bytes).sum());
    // What says itself which segment it is goes before what only looks like one.
    files.sort_by_key(|(number, _, _, is_spare)| (*is_spare, *number));
    let mut segments: BTreeMap<SegmentId, FoundSegment<D>> = BTreeMap::new();
    let (mut erased, mut searching) = (BTreeMap::new(), 0);
    for (number, mut reader, decoded, is_spare) in files {
        let (name, bytes) = (file_name(number), reader.bytes);
        course.add(std::mem::take(&mut searching));
        searching = bytes;
        if let Err(error) = reader.open(&name).await {
            damage.push(format!("{name}: {error}"));
            continue;
        }
        let header = match decoded.filter(|header| header.shard == shard) {
            Some(header) => Some(header),
            None => search.identify(&mut reader, &salts).await,
        };
        if is_spare {
            // Freed, most likely, and then what is left in it lives elsewhere. But it may have
            // lost its header.
            let header = header.filter(|header| !segments.contains_key(&header.segment));
            let Some(header) = header else {
                damage.extend(reader.damage(&name));
                continue;
            };
            let before = search.records.len();
            search.file = u32::try_from(found_in.len()).unwrap_or(u32::MAX);
            search.segment(&mut reader, &header).await;
            search.drop_given_up(before, superblocks.first());
            damage.extend(reader.damage(&name));
            erased.insert(header.segment, name);
            found_in.push(number);
            let (file, is_sound) = (None, false);
            let found = FoundSegment { number, file, file_bytes: bytes, is_sound, header };
            segments.insert(header.segment, found);
            continue;
        }
        let Some(header) = header else {
            damage.extend(reader.damage(&name));
            damage.push(format!("{name}: nothing in it says what it is"));
            continue;
        };
        if decoded.is_none() {
            damage.push(format!("{name}: its header; it is segment {}", header.segment.0));
        }
        if header.segment_bytes > bytes {
            damage.push(format!("{name}: {} bytes are cut off", header.segment_bytes - bytes));
        }
        let before = search.records.len();
        search.file = u32::try_from(found_in.len()).unwrap_or(u32::MAX);
        search.segment(&mut reader, &header).await;
        if decoded.is_none() && segments.contains_key(&header.segment) {
            // A spare that has rotted may give itself out for what it was once.
            search.drop_given_up(before, superblocks.first());
        }
        damage.extend(reader.damage(&name));
        found_in.push(number);
        let reach = search.records[before..].iter().map(|found| found.lsn).max();
        let (file, is_sound) = (None, decoded.is_some());
        let found = FoundSegment { number, file, file_bytes: bytes, is_sound, header };
        match segments.entry(header.segment) {
            Entry::Vacant(free) => {
                free.insert(found);
            }
            Entry::Occupied(mut taken) => {
                damage.push(format!(
                    "{name}: {} is segment {} already; what either of them holds was taken",
                    file_name(taken.get().number),
                    header.segment.0
                ));
                if reach > reaches.get(&header.segment).copied() {
                    taken.insert(found);
                } else {
                    continue;
                }
            }
        }
        reaches.extend(reach.map(|reach| (header.segment, reach)));
    }
    course.add(searching);
    let Search { mut records, witness, .. } = search;
    // A record that stands in two files that are one segment is one, and whole if it is in either.
    records.sort_by_key(|found| (found.lsn, found.location, found.run, !found.is_whole()));
    records.dedup_by_key(|found| (found.lsn, found.location, found.run));
    let mut places: Vec<u32> = (0..u32::try_from(records.len()).unwrap_or(u32::MAX)).collect();
    // Where they say different things of one place, the later run has written over
    // what was given up.
    places.sort_by_key(|number| {
        let found = &records[*number as usize];
        (found.location, Reverse(found.run), Reverse(found.lsn))
    });
    places.dedup_by_key(|number| records[*number as usize].location);
    let has_superblock = !superblocks.is_empty() || begun.is_some();
    let begun = begun.map(|begun| begun.segment);
    let (files, held) = (found_in, RefCell::new(None));
    Ok(Searched {
        files,
        held,
        segments,
        records,
        places,
        witness,
        closed_at,
        begun,
        has_superblock,
        erased,
        damage,
    })
}

struct Search {
    shard: u16,
    /// Number of the one that is searched.
    file: u32,
    records: Vec<Found>,
    witness: Lsn,
}

impl Search {
    /// What a file is whose header does not say so: what stands first in it decides, since what an
    /// earlier life has left is overwritten from the front.
    async fn identify<D: Device>(
        &self,
        reader: &mut Reader<'_, D>,
        salts: &BTreeSet<u64>,
    ) -> Option<SegmentHeader> {
        let bytes = reader.bytes;
        let is_trusted = |shard: u16, salt: u64| {
            shard == self.shard && (salts.is_empty() || salts.contains(&salt))
        };
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        while offset < bytes {
            let window = reader.read(offset, WINDOW_BYTES).await;
            if window.is_empty() {
                break;
            }
            for (number, eight) in window.as_slice().chunks(RECORD_ALIGNMENT).enumerate() {
                let at = number * RECORD_ALIGNMENT;
                let rest = &window.as_slice()[at..];
                let header = |shard, segment, run, first_lsn, opened, salt| SegmentHeader {
                    shard,
                    segment,
                    run,
                    first_lsn,
                    segment_bytes: bytes,
                    opened,
                    salt,
                };
                if at.is_multiple_of(ALIGNMENT)
                    && let Ok(batch) = BatchHeader::decode(rest)
                    && is_trusted(batch.shard, batch.salt)
                {
                    let (lsn, sealed) = (batch.first_lsn, batch.sealed);
                    return Some(header(
                        batch.shard,
                        batch.segment,
                        batch.run,
                        lsn,
                        sealed,
                        batch.salt,
                    ));
                }
                // Without any salt to go by, mail could pose as a record inside of another one:
                // only what starts a cold segment's write counts then.
                if eight.starts_with(b"KR")
                    && (!salts.is_empty() || at.is_multiple_of(ALIGNMENT))
                    && let Ok(record) = RecordHeader::decode(rest)
                    && is_trusted(record.shard, record.salt)
                {
                    let (run, time) = (u32::from(record.run_low), UnixMillis::default());
                    let (segment, salt) = (record.segment, record.salt);
                    return Some(header(record.shard, segment, run, record.lsn, time, salt));
                }
            }
            offset += window.len() as u64;
            if !window.len().is_multiple_of(ALIGNMENT) {
                break;
            }
        }
        None
    }

    /// What stood behind the log's end when it was opened last had not been promised to anyone.
    fn drop_given_up(&mut self, from: usize, newest: Option<&Superblock>) {
        let Some(newest) = newest else { return };
        let found = self.records.split_off(from);
        let counts = |found: &Found| found.run >= newest.run || found.lsn <= newest.durable;
        self.records.extend(found.into_iter().filter(counts));
    }

    async fn segment<D: Device>(&mut self, reader: &mut Reader<'_, D>, header: &SegmentHeader) {
        let believed =
            Segment { shard: self.shard, id: header.segment, run: header.run, salt: header.salt };
        let (mut run, mut time) = (header.run, header.opened);
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        while offset < reader.bytes {
            let start = offset / ALIGNMENT as u64 * ALIGNMENT as u64;
            let window = reader.read(start, WINDOW_BYTES).await;
            let is_last = window.len() < WINDOW_BYTES;
            let begun = offset;
            while let Some(rest) = usize::try_from(offset - start)
                .ok()
                .and_then(|at| window.as_slice().get(at..))
                .filter(|rest| !rest.is_empty())
            {
                if offset.is_multiple_of(ALIGNMENT as u64)
                    && let Some(batch) = believed.batch(rest)
                {
                    (run, time) = (batch.run, batch.sealed);
                    self.witness = self.witness.max(batch.durable);
                    offset += BATCH_HEADER_BYTES as u64;
                    continue;
                }
                let Some(record) = believed.record(rest, run) else {
                    offset += RECORD_ALIGNMENT as u64;
                    continue;
                };
                let Some((meta, body)) = record.parts(rest) else {
                    if !is_last && offset > begun {
                        // It goes on in the next window.
                        break;
                    }
                    offset += RECORD_ALIGNMENT as u64;
                    continue;
                };
                self.records.push(Found {
                    lsn: record.lsn,
                    location: Location::new(believed.id, offset),
                    file: self.file,
                    run: full_run(run, record.run_low),
                    time,
                    kind: record.kind,
                    meta_bytes: record.meta_bytes,
                    body_bytes: record.body_bytes,
                    meta_verifies: crc32fast::hash(meta) == record.meta_checksum,
                    body_verifies: crc32fast::hash(body) == record.body_checksum,
                });
                offset += record.record_bytes().next_multiple_of(RECORD_ALIGNMENT as u64);
            }
            if is_last {
                break;
            }
        }
    }
}

impl Segment {
    fn batch(&self, bytes: &[u8]) -> Option<BatchHeader> {
        BatchHeader::decode(bytes).ok().filter(|batch| {
            batch.shard == self.shard
                && batch.segment == self.id
                && batch.salt == self.salt
                && batch.run >= self.run
        })
    }

    fn record(&self, bytes: &[u8], run: u32) -> Option<RecordHeader> {
        if !bytes.starts_with(b"KR") {
            return None;
        }
        RecordHeader::decode(bytes).ok().filter(|record| {
            record.shard == self.shard
                && record.segment == self.id
                && record.salt == self.salt
                && record.run_low.wrapping_sub(run_low(run)) < 1 << 15
                && record.record_bytes() <= RECORD_BYTES_MAX
        })
    }
}

/// The run with this low half that is not below the one before.
fn full_run(before: u32, low: u16) -> u32 {
    before.wrapping_add(u32::from(low.wrapping_sub(run_low(before))))
}

impl<D: Device> Searched<D> {
    /// By where it stands.
    pub(super) fn at(&self, location: Location) -> Option<(u32, &Found)> {
        let place = |number: &u32| self.records[*number as usize].location;
        let found = self.places.binary_search_by_key(&location, place).ok()?;
        let number = self.places[found];
        Some((number, &self.records[number as usize]))
    }

    /// The record, and the other copies of it that compaction has made.
    pub(super) fn copies(&self, number: u32) -> Vec<u32> {
        let one = self.records[number as usize];
        let first = self.records.partition_point(|found| found.lsn < one.lsn);
        let same = self.records[first..].iter().take_while(|found| found.lsn == one.lsn);
        let numbered = (u32::try_from(first).unwrap_or(u32::MAX)..).zip(same);
        let others = numbered.filter(|(other, found)| {
            *other != number && found.kind == one.kind && found.is_whole()
        });
        std::iter::once(number).chain(others.map(|(other, _)| other)).collect()
    }

    async fn open(&self, device: &D, number: u32) -> Option<D::File> {
        let held = self.held.borrow().clone().filter(|(held, _)| *held == number);
        if let Some((_, file)) = held {
            return Some(file);
        }
        let file = device.open(&file_name(number)).await.ok()?;
        *self.held.borrow_mut() = Some((number, file.clone()));
        Some(file)
    }

    /// Reads a record again, with its body if that is asked for. `None`: it does not
    /// verify (any more).
    pub(super) async fn read(&self, device: &D, found: &Found, with_body: bool) -> Option<Parts> {
        let file = self.open(device, *self.files.get(found.file as usize)?).await?;
        let start = found.location.offset() / ALIGNMENT as u64 * ALIGNMENT as u64;
        let head = usize::try_from(found.location.offset() - start).ok()?;
        let body_bytes = if with_body { found.body_bytes as usize } else { 0 };
        let length = RECORD_HEADER_BYTES + found.meta_bytes as usize + body_bytes;
        let buffer = device.read(&file, start, Buffer::with_capacity(head + length)).await;
        let bytes = buffer.ok()?.as_slice().get(head..head + length)?.to_vec();
        let header = RecordHeader::decode(&bytes).ok()?;
        let parts = Parts { header, bytes };
        let same = header.meta_bytes == found.meta_bytes && header.body_bytes == found.body_bytes;
        let verifies = same
            && crc32fast::hash(parts.meta()) == header.meta_checksum
            && (!with_body || crc32fast::hash(parts.body()) == header.body_checksum);
        verifies.then_some(parts)
    }
}
