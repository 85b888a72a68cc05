//! Bases: checkpoints that are copied into the log, so that the log alone still rebuilds everything
//! after compaction has freed segments. FORMAT.md, "Bases".
//!
//! A base counts once its last record is durable. Recovery looks for one only where no checkpoint
//! file can be used.

use crate::buffer::{Buffer, align_up};
use crate::checkpoint::file_name;
use crate::checkpoint::load::{self, Loaded};
use crate::checkpoint::verify::Reading;
use crate::compaction::{copy_bytes, pace};
use crate::core::Core;
use crate::device::Device;
use crate::device::around::read_around;
use crate::error::Error;
use crate::format::{
    BATCH_HEADER_BYTES, Base, ChunkRef, Location, RECORD_HEADER_BYTES, Record, RecordHeader,
    SEGMENT_HEADER_BYTES, SegmentId,
};
use crate::index::RowFile;
use crate::log::queue::{Hold, Parts, run_low};
use crate::log::scan::FoundSegment;
use crate::log::{Expected, find_records};
use crate::options::Options;
use crate::types::Lsn;
use crate::wait::Receipt;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

/// Copies the newest checkpoint, which has to be whole, into the log, a piece at a time. It is read
/// through first: what can't be used must not fill the log, again and again.
pub(crate) async fn write<D: Device>(core: &Rc<Core<D>>) -> Result<(), Error> {
    // Its pieces are needed by nothing until the last record lands.
    let _writing = core.writing();
    let checkpoint = core.superblock.borrow().checkpoint;
    let useless = |why: String| {
        // Another one does not lie in the same place.
        let applied = core.index.borrow().applied;
        if core.asked_at.replace(applied) != applied {
            core.wants_checkpoint.set(true);
        }
        Error::Device(format!("{}/{} {why}", core.device.place(), file_name(checkpoint)))
    };
    let at_once = core.options.upkeep_piece_bytes;
    let mut reading = Reading::begin(&core.device, checkpoint, at_once).await.map_err(useless)?;
    while let Some(part) = reading.next().await.map_err(useless)? {
        pace(core, part.len()).await;
    }
    reading.finish().map_err(useless)?;
    let (mut pending, mut pieces) = (Vec::new(), Vec::new());
    let piece_bytes = piece_bytes(&core.options, core.checkpoint_bytes.get());
    let mut reading = Reading::begin(&core.device, checkpoint, at_once).await.map_err(useless)?;
    let (mut held, mut at_end) = (Vec::new(), false);
    while !at_end || !held.is_empty() {
        if held.len() < piece_bytes && !at_end {
            match reading.next().await.map_err(useless)? {
                Some(part) => held.extend_from_slice(part.as_slice()),
                None => at_end = true,
            }
            continue;
        }
        let body: Vec<u8> = held.drain(..piece_bytes.min(held.len())).collect();
        let parts = Parts { fields: Vec::new(), summary: &[], body: &body };
        // No more at once than a commit may have to wait for, or the piece that goes beyond that.
        if pending.len() * piece_bytes >= copy_bytes(&core.options) {
            land(&mut pending, &mut pieces).await?;
        }
        pending.push((core.enqueue_upkeep(Record::Piece, &parts, Hold::default())?, body.len()));
        pace(core, body.len()).await;
    }
    land(&mut pending, &mut pieces).await?;
    let (lsn, position) = reading.finish().map_err(useless)?;
    let (segment, offset) = (position.segment, position.offset);
    let record = Record::Based(Base { lsn, segment, offset, pieces });
    let parts = Parts::of(&record);
    core.enqueue_upkeep(record, &parts, Hold::default())?.landed().await?;
    Ok(())
}

/// The last record names every piece.
const PIECES_MAX: u64 = 4096;

/// What a commit may have to wait for, but as large as few enough of them take. With their headers
/// they fill whole blocks.
fn piece_bytes(options: &Options, checkpoint_bytes: u64) -> usize {
    let few = usize::try_from(checkpoint_bytes / PIECES_MAX).unwrap_or(usize::MAX);
    let bytes = copy_bytes(options).max(align_up(few)).min(options.chunk_bytes());
    bytes - BATCH_HEADER_BYTES - RECORD_HEADER_BYTES
}

async fn land(
    pending: &mut Vec<(Receipt, usize)>,
    pieces: &mut Vec<ChunkRef>,
) -> Result<(), Error> {
    for (receipt, bytes) in pending.drain(..) {
        let (_, location) = receipt.landed().await?;
        let body_bytes = u32::try_from(bytes).expect("a piece is small");
        pieces.push(ChunkRef { location, body_bytes });
    }
    Ok(())
}

/// The newest base that is whole. Reads the whole log if it must: it is asked for only
/// after a disaster.
pub(crate) async fn find<D: Device>(
    device: &D,
    shard: u16,
    segments: &BTreeMap<SegmentId, FoundSegment<D>>,
) -> io::Result<Option<Loaded>> {
    for id in segments.keys().rev() {
        let mut bases = bases_in(device, shard, segments, *id).await?;
        bases.sort_by_key(|base| base.lsn);
        while let Some(base) = bases.pop() {
            // A log with gaps would end at the first one: then an older base is none.
            if log_is_whole(segments, base.segment)
                && let Some(loaded) = load(device, shard, segments, &base).await
            {
                return Ok(Some(loaded));
            }
        }
    }
    Ok(None)
}

fn log_is_whole<D: Device>(
    segments: &BTreeMap<SegmentId, FoundSegment<D>>,
    from: SegmentId,
) -> bool {
    segments.contains_key(&from)
        && (from.0..).zip(segments.range(from..)).all(|(due, (id, _))| due == id.0)
}

async fn bases_in<D: Device>(
    device: &D,
    shard: u16,
    segments: &BTreeMap<SegmentId, FoundSegment<D>>,
    id: SegmentId,
) -> io::Result<Vec<Base>> {
    let Some(segment) = segments.get(&id) else { return Ok(Vec::new()) };
    let header = &segment.header;
    let room = header.segment_bytes.saturating_sub(SEGMENT_HEADER_BYTES as u64);
    let buffer = Buffer::with_capacity(usize::try_from(room).map_err(io::Error::other)?);
    let from = SEGMENT_HEADER_BYTES as u64;
    let bytes = read_around(device, &segment.open(device).await?, from, buffer).await?.buffer;
    let expected = Expected {
        shard,
        segment: id,
        run_low: run_low(header.run),
        salt: header.salt,
        from: header.first_lsn,
        below: Lsn(u64::MAX),
    };
    let found = find_records(bytes.as_slice(), 0, expected);
    let base = |found: &crate::log::FoundRecord| {
        let record = bytes.as_slice().get(found.offset..)?;
        let (meta, _) = found.header.parts(record).filter(|_| found.meta_verifies)?;
        match Record::decode(found.header.kind, found.header.version, meta) {
            Ok(Record::Based(base)) => Some(base),
            Ok(_) | Err(_) => None,
        }
    };
    Ok(found.iter().filter_map(base).collect())
}

/// `None`: some of it is not there any more, or can't be read.
pub(crate) async fn load<D: Device>(
    device: &D,
    shard: u16,
    segments: &BTreeMap<SegmentId, FoundSegment<D>>,
    base: &Base,
) -> Option<Loaded> {
    let mut bytes = Vec::new();
    // Those of one segment stand beside each other.
    for pieces in base.pieces.chunk_by(|one, next| one.location.segment == next.location.segment) {
        let segment = segments.get(&pieces[0].location.segment)?;
        let file = segment.open(device).await.ok()?;
        for piece in pieces {
            bytes.extend_from_slice(&read_piece(device, &file, piece).await.ok()??);
        }
    }
    let file = RowFile { mapping: Rc::new(bytes), checkpoint: None };
    load::load(shard, &Rc::new(file), &[]).ok()
}

/// The piece's bytes, if they verify.
pub(crate) async fn read_piece<D: Device>(
    device: &D,
    file: &D::File,
    piece: &ChunkRef,
) -> io::Result<Option<Vec<u8>>> {
    const BLOCK: u64 = crate::buffer::ALIGNMENT as u64;
    let Location { segment, .. } = piece.location;
    let start = piece.location.offset() / BLOCK * BLOCK;
    let head = (piece.location.offset() - start) as usize;
    let length = RECORD_HEADER_BYTES + piece.body_bytes as usize;
    let buffer = device.read(file, start, Buffer::with_capacity(head + length)).await?;
    let Some(record) = buffer.as_slice().get(head..head + length) else { return Ok(None) };
    let verifies = |header: &RecordHeader| {
        header.segment == segment
            && header.body_bytes == piece.body_bytes
            && header
                .parts(record)
                .is_some_and(|(_, body)| crc32fast::hash(body) == header.body_checksum)
    };
    let header = RecordHeader::decode(record).ok().filter(verifies);
    Ok(header.and_then(|header| header.parts(record)).map(|(_, body)| body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_what_a_commit_may_wait_for_until_there_would_be_too_many() {
        let options = Options { upkeep_piece_bytes: 64 << 10, ..Options::default() };
        let headers = BATCH_HEADER_BYTES + RECORD_HEADER_BYTES;
        let piece = |checkpoint_bytes| piece_bytes(&options, checkpoint_bytes) + headers;
        assert_eq!(piece(0), 64 << 10);
        assert_eq!(piece(PIECES_MAX * (64 << 10)), 64 << 10);
        assert_eq!(piece(PIECES_MAX * (100 << 10)), 100 << 10);
        assert_eq!(piece(u64::MAX), options.chunk_bytes());
    }
}
