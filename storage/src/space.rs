//! Freeing segments: when nothing needs one any more, its header is erased, and it is a spare, if
//! its file is as it was.
//!
//! A segment is freed when all of this holds (FORMAT.md, "Compaction"):
//! - nothing in the index refers to it, nor in the newest checkpoint: so no record that says where
//!   something has gone is the only one that knows;
//! - both checkpoints that the superblocks name, and the newest base, begin behind it: no replay
//!   reads it (a cold segment is never replayed);
//! - nobody who began before it was empty is still looking;
//! - it is no part of the log that the retention needs, unless space is short.
//!
//! Failure: a segment whose erasing fails is left alone until the store is opened anew; one whose
//! file is gone or another one, until that is put back.

use crate::checkpoint::Position;
use crate::core::Core;
use crate::device::Device;
use crate::format::{Base, SegmentId};
use crate::index::Index;
use crate::log::segments::{self, Segments, Spare};
use crate::options::Sabotage;
use crate::types::{Lsn, UnixMillis};
use crate::upkeep::write_superblock;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

/// Freed before those beyond the bound go back to the file system.
const FREED_AT_ONCE: usize = 16;

/// When a segment was seen to be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Emptied {
    /// Who began before may still look into it.
    mark: u64,
    /// A checkpoint that begins here or later has nothing in it.
    position: Position,
}

/// Segments below this are needed neither to open the store, nor to rebuild it, nor to look back.
pub(crate) fn floor<D: Device>(core: &Core<D>) -> SegmentId {
    let floor = replay_floor(core);
    if core.is_short() {
        // New mail comes before the history of the old.
        return floor;
    }
    let index = core.index.borrow();
    let from = core.believed_now().0.saturating_sub(index.past.retention_millis);
    // The last that is old enough: one before it may be dated in the future, by a clock that was
    // wrong for a while.
    let mut bases = history(core, &index);
    let first = bases.next();
    let oldest = bases.filter(|(time, _)| time.0 <= from).last().or(first);
    oldest.map_or(floor, |(_, base)| base.segment.min(floor))
}

/// Segments below this are needed neither to open the store nor to rebuild it.
pub(crate) fn replay_floor<D: Device>(core: &Core<D>) -> SegmentId {
    let index = core.index.borrow();
    let [newest, previous] = core.named.get();
    let base = index.base.as_ref().map_or(SegmentId(0), |base| base.segment);
    if core.options.sabotage == Some(Sabotage::FreeUnreplayed) {
        return core.position.get().segment;
    }
    base.min(newest.segment).min(previous.segment)
}

/// The bases from which the log can be replayed, oldest first: it is whole from there on.
pub(crate) fn history<'i, D: Device>(
    core: &Core<D>,
    index: &'i Index,
) -> impl Iterator<Item = &'i (UnixMillis, Rc<Base>)> {
    let segments = core.segments.borrow();
    let mut due = segments.next_id().0;
    for (id, _) in segments.of_log().rev() {
        if id.0 + 1 != due {
            break;
        }
        due = id.0;
    }
    index.past.bases.iter().skip_while(move |(_, base)| base.segment.0 < due)
}

/// Those of [`history`] from which the log stays whole for whoever begins to read now: what was
/// seen to be empty while space was short may be freed at any moment.
pub(crate) fn readable_history<'i, D: Device>(
    core: &Core<D>,
    index: &'i Index,
) -> impl Iterator<Item = &'i (UnixMillis, Rc<Base>)> {
    let emptied = core.emptied.borrow();
    let going = emptied.range(..SegmentId::FIRST_COLD).next_back().map(|(id, _)| *id);
    history(core, index).filter(move |(_, base)| going.is_none_or(|going| base.segment > going))
}

/// Segments that are needed and have no file: of the log from the newest base on, or from its
/// first record on, and where live messages are. A store that was opened without them, or has
/// lost them since.
pub(crate) fn missing<D: Device>(core: &Core<D>) -> Vec<SegmentId> {
    missing_of(&core.index.borrow(), &core.segments.borrow())
}

pub(crate) fn missing_of<D: Device>(index: &Index, segments: &Segments<D>) -> Vec<SegmentId> {
    // A store whose newest segment is not there is not opened at all.
    let (oldest, newest) = (segments.of_log().next(), segments.of_log().next_back());
    let first = match (&index.base, oldest) {
        (Some(base), _) => base.segment.0,
        // Without a base nothing of the log was ever freed: what is before its first
        // record is lost.
        (None, Some((id, file))) if file.first_lsn > Lsn(1) => id.0.saturating_sub(1),
        (None, Some((id, _))) => id.0,
        (None, None) => 0,
    };
    let of_log = newest.into_iter().flat_map(|(newest, _)| first..newest.0).map(SegmentId);
    let live = index.live.segments().filter(|(_, used)| used.bytes > 0).map(|(id, _)| id);
    let needed: BTreeSet<SegmentId> = of_log.chain(live).collect();
    needed.into_iter().filter(|id| !segments.files.contains_key(id)).collect()
}

/// Frees what can be freed; how many segments that were.
pub(crate) async fn free<D: Device>(core: &Core<D>) -> io::Result<usize> {
    let superblock = *core.superblock.borrow();
    let [newest, previous] = core.named.get();
    if core.is_short() && previous.segment < newest.segment {
        // Then the checkpoint before the newest one is given up for the room behind it. Should the
        // newest not verify one day, there is the base.
        let row_files = core.row_files.borrow()[0].clone();
        write_superblock(core, superblock, newest, row_files).await?;
    }
    note_emptied(core);
    let segments = freeable(core);
    if segments.is_empty() {
        return Ok(0);
    }
    // By their names: another directory's files may be somebody's mail.
    core.check_place().await?;
    let mut failed = None;
    // A spare is an open file, of which there may be only so many.
    for some in segments.chunks(FREED_AT_ONCE) {
        for segment in some {
            // One that somebody has removed must not keep all behind it.
            if let Err(error) = erase(core, *segment).await {
                failed.get_or_insert(error);
            }
        }
        give_back_surplus(core).await?;
    }
    failed.map_or(Ok(segments.len()), Err)
}

/// A checkpoint is written ahead of its time when it gives back so many times its size.
const CHECKPOINT_GAIN_RATIO: u64 = 20;

/// Whether a checkpoint would give space back: enough to be worth it, or any while space is short.
pub(crate) fn waits_for_checkpoint<D: Device>(core: &Core<D>) -> bool {
    let [newest, _] = core.named.get();
    let emptied = core.emptied.borrow();
    let waiting = emptied.values().filter(|emptied| emptied.position > newest).count() as u64;
    let bytes = waiting * core.options.segment_bytes;
    waiting > 0 && (core.is_short() || bytes >= CHECKPOINT_GAIN_RATIO * core.checkpoint_bytes.get())
}

/// Cold segments are not replayed, so no floor protects them.
fn note_emptied<D: Device>(core: &Core<D>) {
    let floor = floor(core);
    let now = Emptied { mark: core.uses.mark(), position: core.position.get() };
    let index = core.index.borrow();
    let segments = core.segments.borrow();
    let spoiled = core.spoiled.borrow();
    let mut emptied = core.emptied.borrow_mut();
    let candidates = segments.files.range(..floor).chain(segments.sealed_cold()).map(|(id, _)| *id);
    let empty = candidates
        .filter(|id| index.live.bytes(*id) == 0 && !spoiled.contains_key(id))
        .map(|id| (id, emptied.get(&id).copied().unwrap_or(now)))
        .collect();
    *emptied = empty;
}

fn freeable<D: Device>(core: &Core<D>) -> Vec<SegmentId> {
    let [newest, _] = core.named.get();
    let is_free = |(id, emptied): &(&SegmentId, &Emptied)| {
        let is_forgotten =
            emptied.position <= newest || core.options.sabotage == Some(Sabotage::FreeUnreplayed);
        is_forgotten && !core.uses.reach(**id, emptied.mark)
    };
    // Of these there is nothing that could be erased, until it is put back.
    let segments = core.segments.borrow();
    let is_out_of_reach = |id: &SegmentId| {
        let file = segments.files.get(id).filter(|file| file.file.is_none());
        file.is_some_and(|file| segments.left.contains(&file.number))
    };
    let emptied = core.emptied.borrow();
    let free = emptied.iter().filter(is_free).map(|(id, _)| *id);
    free.filter(|id| !is_out_of_reach(id)).collect()
}

/// From here on the segment is gone, and its file, if nobody has harmed it, a spare that
/// was written before.
pub(crate) async fn erase<D: Device>(core: &Core<D>, id: SegmentId) -> io::Result<()> {
    let opened = core.segment_file(id).await.map_err(io::Error::other)?;
    if let Err(error) = segments::erase_header(&core.device, &opened).await {
        core.spoiled.borrow_mut().insert(id, format!("it could not be erased: {error}"));
        return Err(error);
    }
    let mut segments = core.segments.borrow_mut();
    let Some(segment) = segments.files.remove(&id) else { return Ok(()) };
    // What is written into a file without a name is lost with the next stop, and one that was cut,
    // now or before the store was opened, is no spare any more.
    let is_whole = segment.file_bytes >= segment.segment_bytes;
    if !segments.left.remove(&segment.number) && is_whole {
        segments.spares.push(Spare {
            number: segment.number,
            file: opened,
            segment_bytes: segment.segment_bytes,
            zeroed_bytes: segment.segment_bytes,
        });
    }
    core.emptied.borrow_mut().remove(&id);
    core.unworthy.borrow_mut().remove(&id);
    core.segments_freed.set(core.segments_freed.get() + 1);
    Ok(())
}

/// Spares beyond the bound go back to the file system.
async fn give_back_surplus<D: Device>(core: &Core<D>) -> io::Result<()> {
    let mut removed = false;
    loop {
        let surplus = {
            let mut segments = core.segments.borrow_mut();
            let kept = core.options.spare_segments_max.max(core.options.spare_segments);
            let is_surplus = segments.spares.len() + segments.spares_away > kept;
            if is_surplus { segments.spares.pop() } else { None }
        };
        let Some(spare) = surplus else { break };
        core.device.remove(&segments::file_name(spare.number)).await?;
        removed = true;
    }
    if removed {
        core.device.sync_directory().await?;
    }
    core.refresh_free_space();
    Ok(())
}

/// Trades a spare for room in the file system, unless it is the last that the log can go on in.
pub(crate) async fn give_back_spare<D: Device>(core: &Core<D>) -> io::Result<bool> {
    let spare = {
        let mut segments = core.segments.borrow_mut();
        let has_room = segments.active_room() >= core.options.segment_bytes / 2;
        if segments.spares.len() > usize::from(!has_room) { segments.spares.pop() } else { None }
    };
    let Some(spare) = spare else { return Ok(false) };
    core.check_place().await?;
    core.device.remove(&segments::file_name(spare.number)).await?;
    core.device.sync_directory().await?;
    core.refresh_free_space();
    Ok(true)
}
