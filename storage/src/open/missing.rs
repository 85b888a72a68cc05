//! Which files of the log are missing, cut off or there twice, and how that is told: as a refusal,
//! before anything is changed, or as damage, each time, where the store opens without them.
//!
//! A file that looks like a spare is taken for one only when no segment is missing that
//! it may have been.

use super::device_error;
use super::find::Found;
use crate::device::Device;
use crate::error::Error;
use crate::format::{ChunkRef, Location, RECORD_HEADER_BYTES, SegmentId};
use crate::index::Index;
use crate::log::reach;
use crate::log::recovery::RecoveryReport;
use crate::log::scan::FoundSegment;
use crate::log::segments::{self, Segments, Spare};
use crate::options::Options;
use crate::space;
use std::collections::{BTreeMap, BTreeSet};

/// The store itself never leaves two files that are one segment: somebody has put one of them here.
/// Either may hold what the other lacks.
pub(super) async fn refuse_doubles<D: Device>(device: &D, found: &Found<D>) -> Result<(), Error> {
    let Some(double) = found.doubles.first() else { return Ok(()) };
    let id = double.header.segment;
    let first = found.segments.get(&id).or_else(|| found.cold.get(&id));
    let mut named = Vec::new();
    for file in first.into_iter().chain(found.doubles.iter().filter(|d| d.header.segment == id)) {
        let name = segments::file_name(file.number);
        // A cold segment has no batches to tell by; nor has what can't be read.
        let reach = reach::reach(device, file, file.file_bytes).await;
        named.push(match reach {
            Ok(reach) if !id.is_cold() => format!("{name} (up to LSN {})", reach.next_lsn.0 - 1),
            Ok(_) | Err(_) => name,
        });
    }
    Err(Error::Open {
        place: device.place(),
        what: format!(
            "{} all say that they are segment {} of the log; move those that were put there out of the directory, or take out what \
             any of them holds with `kura store salvage`. Nothing was changed",
            named.join(" and "),
            id.0
        ),
    })
}

/// Why the store is not opened, what may be the file that is missed, and how to mend it.
pub(super) async fn refusal<D: Device>(device: &D, found: &Found<D>, what: &str) -> Error {
    let mut named = named_by_content(device, found).await;
    let unknown = found.unknown.iter();
    named.extend(unknown.map(|name| format!("nothing in {name} says which segment it is")));
    named.extend(gap(found));
    let named: String = named.iter().map(|named| format!("; {named}")).collect();
    Error::Open {
        place: device.place(),
        what: format!(
            "{what}{named}; put the file back, from a backup that is no older than it (README, \"When a store does not \
             open any more\"), or take out what there is with `kura store salvage`. Nothing was changed"
        ),
    }
}

/// The file that is not there, if it is one alone: segments are numbered by their place in the log,
/// files as they were made.
pub(super) fn gap<D: Device>(found: &Found<D>) -> Option<String> {
    let segments = found.segments.values().chain(found.cold.values()).map(|one| one.number);
    let spares = found.spares.iter().map(|spare| spare.number);
    let unknown = found.unknown.iter().filter_map(|name| segments::file_number(name));
    let there: BTreeSet<u32> = segments.chain(spares).chain(unknown).collect();
    let gone: Vec<u32> =
        (1..found.next_number).filter(|number| !there.contains(number)).take(2).collect();
    let [one] = gone.as_slice() else { return None };
    Some(format!("there is no file {}", segments::file_name(*one)))
}

/// Files that look like spares, with records in them. Freed segments are among them.
pub(super) async fn named_by_content<D: Device>(device: &D, found: &Found<D>) -> Vec<String> {
    let mut named = Vec::new();
    for Spare { number, file, segment_bytes, .. } in &found.spares {
        // What can't be read names nothing.
        let content = segments::content(device, file, *segment_bytes).await;
        if let Ok(Some(header)) = content {
            let (name, segment) = (segments::file_name(*number), header.segment.0);
            named.push(format!(
                "the header of {name} is erased, and records of segment {segment} are in it"
            ));
        }
    }
    named
}

/// Of files that are needed and not replayed.
const HOW_TO_MEND: &str = "Stop the server and put the file back, from a backup that is no older than it (README, \
                           \"When a store does not open any more\"), or take out what there is with `kura store salvage`";

/// As [`report_missing`], of files that are shorter than they were, if anything was
/// in what is gone.
pub(super) fn report_cut<D: Device>(
    device: &D,
    found: &Found<D>,
    index: &Index,
    report: &mut RecoveryReport,
) {
    let is_cut = |one: &&FoundSegment<D>| one.file_bytes < one.header.segment_bytes;
    let cut = found.segments.values().chain(found.cold.values()).filter(is_cut);
    let cut: BTreeMap<SegmentId, &FoundSegment<D>> =
        cut.map(|segment| (segment.header.segment, segment)).collect();
    if cut.is_empty() {
        return;
    }
    let is_gone = |location: Location, bytes: u64| {
        cut.get(&location.segment)
            .is_some_and(|segment| location.offset() + bytes > segment.file_bytes)
    };
    // The message is where its delivery is; the file, where its first chunk that is gone was.
    let in_chunks: BTreeMap<Location, SegmentId> = index
        .live
        .chunked()
        .filter_map(|(location, chunks)| {
            let bytes = |chunk: &ChunkRef| RECORD_HEADER_BYTES as u64 + u64::from(chunk.body_bytes);
            let gone = chunks.iter().find(|chunk| is_gone(chunk.location, bytes(chunk)))?;
            Some((location, gone.location.segment))
        })
        .collect();
    let mailboxes = index.accounts.values().flat_map(|account| account.mailboxes.values());
    let graveyards = index.past.graves.values().flat_map(|graves| graves.values());
    let rows = mailboxes.map(|mailbox| &mailbox.rows).chain(graveyards.map(|yard| &yard.rows));
    let mut missed = BTreeMap::<SegmentId, u64>::new();
    for row in rows.flat_map(|rows| rows.iter()) {
        let of_record = is_gone(row.location, u64::from(row.record_bytes));
        let of_record = of_record.then_some(row.location.segment);
        if let Some(segment) = of_record.or_else(|| in_chunks.get(&row.location).copied()) {
            *missed.entry(segment).or_default() += 1;
        }
    }
    for (id, messages) in missed {
        let Some(segment) = cut.get(&id) else { continue };
        report.damage.push(format!(
            "{}, which is segment {} in {}, is cut off after {} of {} bytes: {messages} messages that are in mailboxes were in what \
             is gone. {HOW_TO_MEND}",
            segments::file_name(segment.number),
            id.0,
            device.place(),
            segment.file_bytes,
            segment.header.segment_bytes
        ));
    }
}

/// Older segments are not replayed, but what lies in them is needed all the same. The store
/// opens without them, so that mail flows. `names`: which files the checkpoint knew, and the one
/// that is not there.
pub(super) fn report_missing<D: Device>(
    device: &D,
    segments: &Segments<D>,
    index: &Index,
    names: (&BTreeMap<SegmentId, u32>, Option<String>),
    report: &mut RecoveryReport,
) {
    let (known, gone) = names;
    for (id, used) in index.live.segments().filter(|(_, used)| used.bytes > 0) {
        if !segments.files.contains_key(&id) {
            let named =
                known.get(&id).map(|number| format!("it was {}", segments::file_name(*number)));
            let named = named
                .or_else(|| gone.clone())
                .map_or_else(String::new, |named| format!(" ({named})"));
            report.damage.push(format!(
                "segment {}{named} in {} is missing: {} bytes of messages that are in mailboxes. {HOW_TO_MEND}",
                id.0,
                device.place(),
                used.bytes
            ));
        }
    }
}

/// A file whose first block is zeroes may be a segment that has lost its header. It is none of
/// those that are needed when these are there, or when nothing in it is of one that is not.
pub(super) async fn take_spares<D: Device>(
    device: &D,
    options: &Options,
    segments: &mut Segments<D>,
    spares: Vec<Spare<D>>,
    index: &Index,
    report: &mut RecoveryReport,
) -> Result<(), Error> {
    let missing = space::missing_of(index, segments);
    for spare in spares {
        let name = segments::file_name(spare.number);
        let (file, bytes) = (&spare.file, spare.segment_bytes);
        // What can't be read is not known to hold nothing.
        let is_needed = !missing.is_empty()
            && segments::holds_any(device, file, bytes, &missing).await.unwrap_or(true);
        if is_needed {
            report.damage.push(format!(
                "{name} in {} has no header: it may be a segment that is missing, and is left alone",
                device.place()
            ));
        } else if spare.segment_bytes < options.segment_bytes {
            // Cut short by a crash while it was allocated, or of another size today: made anew.
            device.remove(&name).await.map_err(device_error)?;
        } else {
            segments.spares.push(spare);
        }
    }
    Ok(())
}
