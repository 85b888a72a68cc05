//! How far a segment's file goes, and whether that is as far as it has to.
//!
//! An older copy of a file, put back from a backup, verifies from end to end and lacks what was
//! written into the segment since. Whatever lies before the checkpoint is not replayed, so only
//! its end tells ([`short`]); where a segment is replayed, `scan` meets it. Rot is told from
//! it: where a copy ends, nothing has been written yet; where there is rot, something stands,
//! or little is gone.

use crate::buffer::{ALIGNMENT, Buffer, align_up_u64};
use crate::checkpoint::Position;
use crate::device::Device;
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId,
};
use crate::index::Index;
use crate::log::queue::run_low;
use crate::log::scan::FoundSegment;
use crate::log::segments::file_name;
use crate::types::Lsn;
use futures_util::stream::{self, StreamExt};
use std::collections::BTreeMap;
use std::io;

/// Read at once: the last batch of a sealed segment is hardly ever longer.
const WINDOW_BYTES: u64 = 64 << 10;
const BLOCK: u64 = ALIGNMENT as u64;

/// Of the newest, so that a store of terabytes opens as fast as any. What an older copy of another
/// lacks, the scrub finds.
const LOOKED_AT_MAX: usize = 256;
const FILES_AT_ONCE: usize = 16;

/// Where the batches of a segment end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) offset: u64,
    /// The LSN that is due there.
    pub(crate) next_lsn: Lsn,
}

/// Behind the last batch that ends at `before`, or ahead of it. Searches from there to the front.
pub(crate) async fn reach<D: Device>(
    device: &D,
    segment: &FoundSegment<D>,
    before: u64,
) -> io::Result<Reach> {
    let header = &segment.header;
    let mut end = before.min(segment.file_bytes) / BLOCK * BLOCK;
    while end > SEGMENT_HEADER_BYTES as u64 {
        let start = end.saturating_sub(WINDOW_BYTES).max(SEGMENT_HEADER_BYTES as u64);
        let bytes = read(device, segment, start, end).await?;
        for (number, block) in bytes.as_slice().chunks(ALIGNMENT).enumerate().rev() {
            let Ok(batch) = BatchHeader::decode(block) else { continue };
            let at = start + number as u64 * BLOCK;
            let offset = at + align_up_u64(u64::from(batch.bytes));
            let is_ours = batch.shard == header.shard
                && batch.segment == header.segment
                && batch.salt == header.salt
                && batch.run >= header.run;
            if is_ours && offset <= before {
                return Ok(Reach { offset, next_lsn: batch.next_lsn() });
            }
        }
        end = start;
    }
    Ok(Reach { offset: SEGMENT_HEADER_BYTES as u64, next_lsn: header.first_lsn })
}

/// Whether more than a block is there, and nothing has been written to it since the file became
/// this segment: zeroes, or what another life of the file has left.
pub(crate) async fn is_unwritten<D: Device>(
    device: &D,
    segment: &FoundSegment<D>,
    from: u64,
    to: u64,
) -> io::Result<bool> {
    if to.saturating_sub(from) <= BLOCK {
        return Ok(false);
    }
    let header = &segment.header;
    let is_left_over = |block: &[u8]| {
        let batch = BatchHeader::decode(block).ok();
        batch.is_some_and(|batch| batch.segment != header.segment || batch.run < header.run)
    };
    let (mut offset, mut is_zeroes, mut has_left_overs) = (from, true, false);
    while offset < to {
        let end = to.min(offset + WINDOW_BYTES);
        let bytes = read(device, segment, offset, end).await?;
        let mut blocks = bytes.as_slice().chunks(ALIGNMENT);
        if blocks.clone().any(|block| begins_with_a_record(header, block)) {
            return Ok(false);
        }
        has_left_overs = has_left_overs || blocks.any(is_left_over);
        is_zeroes = is_zeroes && bytes.as_slice().iter().all(|byte| *byte == 0);
        offset = end;
    }
    Ok(is_zeroes || has_left_overs)
}

/// A batch of this segment begins here: be its header rotten, its first record says so.
fn begins_with_a_record(header: &SegmentHeader, block: &[u8]) -> bool {
    let behind = block.get(BATCH_HEADER_BYTES..).unwrap_or_default();
    RecordHeader::decode(behind).is_ok_and(|record| {
        record.shard == header.shard
            && record.segment == header.segment
            && record.salt == header.salt
            && record.run_low.wrapping_sub(run_low(header.run)) < 1 << 15
    })
}

/// What is said of an older copy: where it ends, and how far the segment went. A batch of one block
/// that the disk has made zeroes looks the same as one that came behind the copy.
pub(crate) fn older_copy<D: Device>(segment: &FoundSegment<D>, end: Reach, went_to: Lsn) -> String {
    format!(
        "{}, which is segment {} of the log, ends at byte {} with LSN {}, and it went on to LSN {}: what came then is missing. \
         Either this is an older copy of the file, or the disk has lost what stood there",
        file_name(segment.number),
        segment.header.segment.0,
        end.offset,
        end.next_lsn.0 - 1,
        went_to.0
    )
}

/// Which file lacks messages that the index has in it, if one does. What had been given up as lost
/// is missed by nobody: a row has to lead there.
pub(crate) async fn short<D: Device>(
    device: &D,
    segments: &BTreeMap<SegmentId, FoundSegment<D>>,
    checkpoint: Position,
    index: &Index,
) -> Option<String> {
    let some = segments.range(..=checkpoint.segment).rev().take(LOOKED_AT_MAX);
    let with_ends = some.filter_map(|(id, segment)| {
        let next = segments.get(&SegmentId(id.0 + 1)).map(|next| next.header.first_lsn);
        let (due, end) = match next {
            _ if *id == checkpoint.segment => (Lsn(index.applied.0 + 1), checkpoint.offset),
            Some(due) => (due, segment.header.segment_bytes),
            None => return None,
        };
        (index.live.bytes(*id) > 0).then_some((*id, segment, due, end))
    });
    let suspects: BTreeMap<_, _> = stream::iter(with_ends)
        .map(|(id, segment, due, end)| async move {
            // What can't be read tells nothing.
            let reach = reach(device, segment, end).await.ok()?;
            let to = end.min(segment.file_bytes);
            let is_short = reach.next_lsn < due
                && is_unwritten(device, segment, reach.offset, to).await.unwrap_or(false);
            is_short.then_some((id, (segment, reach, due)))
        })
        .buffered(FILES_AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    if suspects.is_empty() {
        return None;
    }
    let mailboxes = index.accounts.values().flat_map(|account| account.mailboxes.values());
    let missed = mailboxes.flat_map(|mailbox| mailbox.rows.iter()).find_map(|row| {
        let suspect = suspects.get(&row.location.segment)?;
        (row.location.offset() >= suspect.1.offset).then_some(suspect)
    });
    let (segment, reach, due) = missed?;
    Some(older_copy(segment, *reach, Lsn(due.0 - 1)))
}

async fn read<D: Device>(
    device: &D,
    segment: &FoundSegment<D>,
    from: u64,
    to: u64,
) -> io::Result<Buffer> {
    let bytes = usize::try_from(to - from).map_err(io::Error::other)?;
    device.read(&segment.open(device).await?, from, Buffer::with_capacity(bytes)).await
}
