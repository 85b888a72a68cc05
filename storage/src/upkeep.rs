//! What the store does beside commits: checkpoints, and spare segments for the log to grow into.
//!
//! Spares are written with zeroes while the log has little to do; a log that is always busy grows into
//! segments that are merely allocated, which is slower by half, but never waits for zeroes.

use crate::buffer::Buffer;
use crate::checkpoint::settle::settle;
use crate::checkpoint::write::{self, Snapshot, WrittenBlock};
use crate::checkpoint::{file_lsn, file_name};
use crate::core::{Core, Phase};
use crate::device::Device;
use crate::log::segments::{Spare, create_spare};
use crate::options::Sabotage;
use crate::superblock::{self, Superblock};
use crate::types::Lsn;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Zeroes written at once into a spare.
const ZERO_BYTES: u64 = 1 << 20;

/// How long the log is watched to see whether it is busy; and when the disk is full, how long to wait
/// before asking again.
const WATCH: Duration = Duration::from_millis(50);
const PAUSE_FULL: Duration = Duration::from_millis(500);

/// A log that grows by more than this while it is watched is busy (5 MB/s).
const BUSY_BYTES: u64 = 256 << 10;

/// Runs until the store is closed or halts.
pub(crate) async fn run<D: Device>(core: &Rc<Core<D>>) {
    let mut seen = 0;
    while core.phase.get() == Phase::Open {
        if core.log_bytes_since_checkpoint.get() >= core.checkpoint_due_bytes() {
            let outcome = checkpoint(core, false).await;
            if outcome.is_err() && core.phase.get() == Phase::Open {
                // Nothing is lost by a checkpoint that fails: the log is all there. Most likely the
                // disk is full; the next one is due when as much again has been logged.
                core.log_bytes_since_checkpoint.set(0);
            }
            continue;
        }
        let Some(step) = next_step(core) else {
            core.upkeep.wait().await;
            continue;
        };
        let busy = is_busy(core, &mut seen).await;
        if core.phase.get() != Phase::Open || (busy && !step.is_urgent(core)) {
            continue;
        }
        let outcome = match step {
            Step::Allocate => add_spare(core, false).await,
            Step::Zero => zero_spare(core).await,
        };
        if outcome.is_err() {
            core.device.sleep(PAUSE_FULL).await;
        }
    }
}

/// What there is to prepare.
#[derive(Debug, Clone, Copy)]
enum Step {
    Allocate,
    Zero,
}

impl Step {
    /// Having to allocate in the middle of a commit is worse than doing it beside one; zeroes are
    /// worth having, but not that.
    fn is_urgent<D: Device>(self, core: &Core<D>) -> bool {
        match self {
            Step::Allocate => core.segments.borrow().spares.len() <= core.options.reserve_segments,
            Step::Zero => false,
        }
    }
}

fn next_step<D: Device>(core: &Core<D>) -> Option<Step> {
    let segments = core.segments.borrow();
    // The second spare is allocated before the first is written.
    let few = segments.spares.len() <= core.options.reserve_segments;
    let unwritten = segments.spares.iter().any(|spare| !spare.is_prewritten());
    if segments.spares.len() < core.options.spare_segments && (few || !unwritten) {
        return Some(Step::Allocate);
    }
    unwritten.then_some(Step::Zero)
}

/// A log at rest is not watched again before each piece.
async fn is_busy<D: Device>(core: &Core<D>, seen: &mut u64) -> bool {
    let grown = core.landed_bytes.get() - *seen;
    if grown == 0 && core.queue.borrow().pending_records == 0 {
        return false;
    }
    let before = core.landed_bytes.get();
    core.device.sleep(WATCH).await;
    *seen = core.landed_bytes.get();
    *seen - before > BUSY_BYTES
}

/// Takes a spare off the list, so that the log cannot start to use it under our zeroes, writes a
/// piece, and puts it back.
async fn zero_spare<D: Device>(core: &Rc<Core<D>>) -> io::Result<()> {
    let taken = {
        let spares = &mut core.segments.borrow_mut().spares;
        let position = spares.iter().position(|spare| !spare.is_prewritten());
        position.map(|position| spares.swap_remove(position))
    };
    let Some(mut spare) = taken else { return Ok(()) };
    let outcome = write_zeroes(core, &mut spare).await;
    core.segments.borrow_mut().spares.push(spare);
    outcome
}

/// Allocates one more spare; with `prewrite`, writes it before returning.
pub(crate) async fn add_spare<D: Device>(core: &Rc<Core<D>>, prewrite: bool) -> io::Result<()> {
    let number = core.segments.borrow_mut().take_number();
    let mut spare = create_spare(&core.device, number, core.options.segment_bytes).await?;
    while prewrite && !spare.is_prewritten() {
        write_zeroes(core, &mut spare).await?;
    }
    core.segments.borrow_mut().spares.push(spare);
    core.refresh_free_space();
    Ok(())
}

/// One piece; a sync behind the last one, so that the file system has nothing left to do later.
async fn write_zeroes<D: Device>(core: &Rc<Core<D>>, spare: &mut Spare<D>) -> io::Result<()> {
    let bytes = (spare.segment_bytes - spare.zeroed_bytes).min(ZERO_BYTES);
    let zeroes = Buffer::zeroed(bytes as usize);
    core.device.write(&spare.file, spare.zeroed_bytes, zeroes).await.0?;
    core.index.borrow_mut().counters.bytes_prewritten += bytes;
    if spare.zeroed_bytes + bytes == spare.segment_bytes {
        core.device.sync(&spare.file).await?;
    }
    spare.zeroed_bytes += bytes;
    Ok(())
}

/// Writes the index as it is now, names it in the superblock, and removes the one before last.
pub(crate) async fn checkpoint<D: Device>(core: &Rc<Core<D>>, clean: bool) -> io::Result<()> {
    let snapshot = Snapshot {
        shard: core.options.shard,
        run: core.run.get(),
        index: core.index.borrow().clone(),
        position: core.position.get(),
        segments: segment_table(core),
    };
    let lsn = snapshot.index.applied;
    let before = *core.superblock.borrow();
    let logged_before = core.log_bytes_since_checkpoint.get();
    let is_new = lsn != before.checkpoint && lsn != Lsn(0);
    let blocks = if is_new { write_file(core, snapshot).await? } else { Vec::new() };
    let superblock = Superblock {
        sequence: before.sequence + 1,
        checkpoint: lsn,
        durable: core.durable.get(),
        clean,
        ..before
    };
    superblock::write(&core.device, &superblock).await?;
    *core.superblock.borrow_mut() = superblock;
    let since = core.log_bytes_since_checkpoint.get();
    core.log_bytes_since_checkpoint.set(since.saturating_sub(logged_before));
    if !clean {
        settle(core, lsn, blocks).await?;
    }
    remove_old(core, lsn, before.checkpoint).await
}

/// Leaves no file behind when it fails: on a full disk every bit of room counts.
async fn write_file<D: Device>(
    core: &Core<D>,
    snapshot: Snapshot,
) -> io::Result<Vec<WrittenBlock>> {
    let sync = core.options.sabotage != Some(Sabotage::NameCheckpointEarly);
    match write::write(&core.device, &snapshot, sync).await {
        Ok(written) => {
            core.checkpoint_bytes.set(written.bytes);
            let mut index = core.index.borrow_mut();
            index.counters.bytes_written += written.bytes;
            index.counters.flushes += 1;
            Ok(written.blocks)
        }
        Err(error) => {
            // Whether this works or not, the first error is the one to tell.
            let _ = core.device.remove(&file_name(snapshot.index.applied)).await;
            Err(error)
        }
    }
}

fn segment_table<D: Device>(core: &Core<D>) -> Vec<(crate::format::SegmentId, u32, Lsn)> {
    let segments = core.segments.borrow();
    segments.files.iter().map(|(id, file)| (*id, file.number, file.first_lsn)).collect()
}

/// Keeps the newest and the one before it, which the other copy of the superblock names. A mapped
/// file that is removed stays readable until it is unmapped.
async fn remove_old<D: Device>(core: &Core<D>, newest: Lsn, previous: Lsn) -> io::Result<()> {
    for listed in core.device.list().await? {
        match file_lsn(&listed.name) {
            Some(lsn) if lsn != newest && lsn != previous => {
                core.device.remove(&file_name(lsn)).await?;
            }
            _ => {}
        }
    }
    Ok(())
}
