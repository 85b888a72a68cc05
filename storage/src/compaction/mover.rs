//! Moving what is live out of segments, into cold ones.
//!
//! Copies do not go through the log: they are made durable in a cold segment, and then one *moved*
//! record says where many of them are, so that commits have little to wait for and what stays long
//! lies together. The locks of the accounts concerned are held from the look at the references
//! until the record has been folded in, so no copy is made meanwhile that would be forgotten.

use super::survey::{self, Found};
use super::{Victims, copy_bytes, layout, pace};
use crate::buffer::{Buffer, align_up};
use crate::core::Core;
use crate::device::{Device, is_full};
use crate::error::Error;
use crate::format::{
    ChunkRef, Location, Move, Moved, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, Record, RecordHeader,
    Reference, SegmentId,
};
use crate::locks::Access;
use crate::log::queue::{Hold, Parts, run_low};
use crate::log::reader::Fetched;
use crate::log::segments::begin_segment;
use crate::options::Sabotage;
use crate::types::AccountId;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

/// Walks over the index until a segment that does not become empty is given up.
const SURVEYS_MAX: u32 = 4;

/// Moves everything live out of these segments. Copies made behind the walk are found
/// by another walk.
pub(super) async fn empty<D: Device>(core: &Rc<Core<D>>, victims: Victims) -> Result<(), Error> {
    // What is read must stay, and so must copies that nothing refers to yet.
    let _reading = core.reading();
    let mut segments = victims.segments;
    for round in 0..SURVEYS_MAX {
        let mut found = survey::survey(core, &segments).await;
        if round == 0 {
            let least = victims.least_percent;
            layout::leave_unworthy(core, &mut segments, &mut found, least).await;
        }
        let mut mover = Mover::new(core, &segments);
        for (location, found) in &found {
            match mover.carry(*location, found).await {
                Ok(()) => {}
                Err(Error::Corrupt { what, place }) => {
                    mover.leave(*location, &format!("{what} in {place} does not verify"));
                }
                Err(Error::Read { what, place }) => {
                    mover.leave(*location, &format!("{place} can't be read: {what}"));
                }
                Err(Error::Limit(what)) => mover.leave(*location, what),
                Err(error) => return Err(error),
            }
        }
        if core.options.sabotage == Some(Sabotage::FreeEarly) {
            return mover.free_early().await;
        }
        mover.land().await?;
        if core.options.sabotage == Some(Sabotage::ForgetCopies) {
            return mover.free_early().await;
        }
        let is_left = |segment: &SegmentId| {
            core.index.borrow().live.bytes(*segment) > 0
                && !core.spoiled.borrow().contains_key(segment)
        };
        segments.retain(is_left);
        if segments.is_empty() {
            return Ok(());
        }
    }
    let why = || "it does not become empty".to_owned();
    core.spoiled.borrow_mut().extend(segments.into_iter().map(|segment| (segment, why())));
    Ok(())
}

struct Mover<'c, D: Device> {
    core: &'c Rc<Core<D>>,
    segments: &'c BTreeSet<SegmentId>,
    window: Option<(Location, Bytes)>,
    /// Copies that are not written yet: what follows the end of the cold segment.
    buffer: Buffer,
    moves: Vec<Move>,
}

impl<'c, D: Device> Mover<'c, D> {
    fn new(core: &'c Rc<Core<D>>, segments: &'c BTreeSet<SegmentId>) -> Mover<'c, D> {
        let buffer = Buffer::with_capacity(copy_bytes(&core.options));
        Mover { core, segments, window: None, buffer, moves: Vec::new() }
    }

    /// Copies one message.
    async fn carry(&mut self, location: Location, found: &Found) -> Result<(), Error> {
        let core = self.core;
        let chunks = core.index.borrow().live.chunks(location).len();
        if move_bytes(chunks, found.references.len()) > core.options.record_bytes_max() / 2 {
            return Err(Error::Limit("too many copies of one message to move it"));
        }
        let fetched = self.fetch(location, u64::from(found.record_bytes)).await?;
        let record = Record::decode(fetched.header.kind, fetched.header.version, &fetched.meta);
        let Ok(Record::Delivered(mut delivered)) = record else {
            return Err(core.corrupt("a message's record", location, Some(&fetched.header)));
        };
        delivered.chunks = self.carry_chunks(&delivered.chunks).await?;
        let summary_start = fetched.meta.len() - delivered.summary_bytes as usize;
        let chunks = delivered.chunks.clone();
        let meta = [&Record::Delivered(delivered).encode()[..], &fetched.meta[summary_start..]];
        let (to, record_bytes) = self.place(&fetched.header, &meta.concat(), &fetched.body).await?;
        let references = found.references.clone();
        self.moves.push(Move { from: location, to, record_bytes, chunks, references });
        if self.buffer.len() >= copy_bytes(&core.options) {
            self.land().await?;
        }
        Ok(())
    }

    /// Those chunks that are in the segments are copied.
    async fn carry_chunks(&mut self, chunks: &[ChunkRef]) -> Result<Vec<ChunkRef>, Error> {
        let mut carried = Vec::new();
        for chunk in chunks {
            if !self.segments.contains(&chunk.location.segment) {
                carried.push(*chunk);
                continue;
            }
            let record_bytes = RECORD_HEADER_BYTES as u64 + u64::from(chunk.body_bytes);
            let fetched = self.fetch(chunk.location, record_bytes).await?;
            let (location, _) = self.place(&fetched.header, &[], &fetched.body).await?;
            carried.push(ChunkRef { location, body_bytes: chunk.body_bytes });
            if self.buffer.len() >= copy_bytes(&self.core.options) {
                self.land().await?;
            }
        }
        Ok(carried)
    }

    /// Puts a copy behind the others; where it will be, and its bytes. Its LSN stays what it was.
    async fn place(
        &mut self,
        original: &RecordHeader,
        meta: &[u8],
        body: &[u8],
    ) -> Result<(Location, u32), Error> {
        let core = self.core;
        let bytes = RECORD_HEADER_BYTES + meta.len() + body.len();
        if !self.fits(bytes) {
            self.land().await?;
            if !self.fits(bytes) {
                let id = core.segments.borrow().cold_next;
                begin_segment(core, id).await.map_err(device_error)?;
            }
        }
        let (segment, end, salt) = {
            let segments = core.segments.borrow();
            let cold = segments.cold.as_ref().expect("just made sure of");
            (cold.id, cold.end, cold.salt)
        };
        let start = self.buffer.len();
        let header = RecordHeader {
            segment,
            meta_bytes: u32::try_from(meta.len()).expect("a record's"),
            meta_checksum: crc32fast::hash(meta),
            run_low: run_low(core.run.get()),
            salt,
            ..*original
        };
        self.buffer.pad(RECORD_HEADER_BYTES);
        header.encode_into(&mut self.buffer.as_mut_slice()[start..]);
        self.buffer.extend(meta);
        self.buffer.extend(body);
        self.buffer.pad(bytes.next_multiple_of(RECORD_ALIGNMENT) - bytes);
        let record_bytes = u32::try_from(bytes).expect("a record's");
        Ok((Location::new(segment, end + start as u64), record_bytes))
    }

    fn fits(&self, bytes: usize) -> bool {
        let room = self.core.segments.borrow().cold_room();
        layout::fits(room, self.buffer.len(), bytes)
    }

    /// Makes the copies durable, then says in the log where they are; then the budget
    /// may want a rest.
    async fn land(&mut self) -> Result<(), Error> {
        let copied = align_up(self.buffer.len());
        if copied > 0 {
            self.buffer.pad(copied - self.buffer.len());
            self.write(copied).await.map_err(device_error)?;
        }
        let mut moves = std::mem::take(&mut self.moves);
        let mut hold = Hold::default();
        for account in accounts_of(&moves) {
            hold.guards.push(self.core.locks.lock(account, Access::Move).await);
        }
        // From here to the queue nothing is awaited.
        moves.retain_mut(|one| survey::confirm(self.core, one));
        if self.core.options.sabotage == Some(Sabotage::ForgetCopies) {
            moves.iter_mut().for_each(|one| one.references.truncate(1));
        }
        let mut receipts = Vec::new();
        let mut copied_bytes = u32::try_from(copied).expect("a small batch");
        let parts_max = self.core.options.record_bytes_max() / 2;
        let guards = Rc::new(hold);
        for moves in in_parts(moves, parts_max) {
            let record = Record::Moved(Moved { copied_bytes, moves });
            let parts = Parts::of(&record);
            let hold = Hold { _shared: Some(Rc::clone(&guards)), ..Hold::default() };
            receipts.push(self.core.enqueue_upkeep(record, &parts, hold)?);
            copied_bytes = 0;
        }
        drop(guards);
        for receipt in receipts {
            receipt.landed().await?;
        }
        pace(self.core, copied).await;
        Ok(())
    }

    async fn write(&mut self, bytes: usize) -> io::Result<()> {
        let target = {
            let mut segments = self.core.segments.borrow_mut();
            let cold = segments.cold.as_mut().expect("copies have a place");
            let target = (cold.file.clone(), cold.end);
            cold.end += bytes as u64;
            target
        };
        let buffer = std::mem::replace(&mut self.buffer, Buffer::with_capacity(1));
        let (outcome, mut buffer) =
            self.core.device.write_durably(&target.0, target.1, buffer).await;
        buffer.clear();
        self.buffer = buffer;
        if outcome.is_err() {
            // Nothing refers to what was to be there, so the store goes on, and never
            // writes there again.
            self.core.segments.borrow_mut().cold = None;
        } else {
            self.core.segments.borrow_mut().cold_durable = target.1 + bytes as u64;
        }
        outcome
    }

    /// What of this message is in these segments stays there.
    fn leave(&self, location: Location, why: &str) {
        let index = self.core.index.borrow();
        let chunks = index.live.chunks(location).iter().map(|chunk| chunk.location);
        let places = chunks.chain([location]).map(|place| place.segment);
        let mine = places.filter(|segment| self.segments.contains(segment));
        self.core.spoiled.borrow_mut().extend(mine.map(|segment| (segment, why.to_owned())));
    }

    /// A verified record, through a window: what lies together is read together.
    async fn fetch(&mut self, location: Location, record_bytes: u64) -> Result<Fetched, Error> {
        if let Some((start, bytes)) = &self.window
            && start.segment == location.segment
            && let Some(skip) = location.offset().checked_sub(start.offset())
            && skip + record_bytes <= bytes.len() as u64
        {
            return self.core.take_apart(location, &bytes.slice(skip as usize..));
        }
        let window = self.core.options.upkeep_piece_bytes as u64;
        let read = self.core.read_bytes(location, record_bytes.max(window)).await;
        let Ok(bytes) = read else {
            // A sector somewhere in the window is gone, which may be none of the record's.
            return self.core.fetch(location, record_bytes).await;
        };
        let fetched = self.core.take_apart(location, &bytes);
        self.window = Some((location, bytes));
        fetched
    }

    /// For the crash simulator: frees the segments, whatever still needs it.
    async fn free_early(&mut self) -> Result<(), Error> {
        for segment in self.segments {
            let erased = crate::space::erase(self.core, *segment).await;
            erased.map_err(|error| Error::Device(error.to_string()))?;
        }
        self.land().await
    }
}

fn device_error(error: io::Error) -> Error {
    let what = error.to_string();
    if is_full(&error) { Error::Full(what) } else { Error::Device(what) }
}

/// Ascending, each once: in this order deliveries take their locks too.
fn accounts_of(moves: &[Move]) -> BTreeSet<AccountId> {
    let references = moves.iter().flat_map(|one| &one.references);
    references.map(|reference: &Reference| reference.account).collect()
}

fn move_bytes(chunks: usize, references: usize) -> usize {
    28 + 12 * chunks + 12 * references
}

/// So that each part fits into a record.
fn in_parts(moves: Vec<Move>, bytes_max: usize) -> Vec<Vec<Move>> {
    let mut parts: Vec<Vec<Move>> = Vec::new();
    let mut bytes = bytes_max;
    for one in moves {
        let its_bytes = move_bytes(one.chunks.len(), one.references.len());
        if bytes + its_bytes > bytes_max {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += its_bytes;
        parts.last_mut().expect("just made sure of").push(one);
    }
    parts
}
