//! What the store does beside commits: checkpoints, and spare segments for the log to grow into.
//!
//! Spares are written with zeroes only while the log is idle; a log that is never idle grows into
//! allocated segments, which is slower by half but never waits.

use crate::buffer::Buffer;
use crate::checkpoint::write::{self, Snapshot};
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

/// While the log is busy or the disk is full, how long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_FULL: Duration = Duration::from_millis(500);

/// Runs until the store is closed or halts.
pub(crate) async fn run<D: Device>(core: &Rc<Core<D>>) {
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
        match prepare_spare(core).await {
            Ok(Prepared::Something) => {}
            Ok(Prepared::Nothing) => core.upkeep.wait().await,
            Ok(Prepared::LogIsBusy) => core.device.sleep(PAUSE).await,
            Err(_) => core.device.sleep(PAUSE_FULL).await,
        }
    }
}

enum Prepared {
    Something,
    /// All is ready.
    Nothing,
    LogIsBusy,
}

async fn prepare_spare<D: Device>(core: &Rc<Core<D>>) -> io::Result<Prepared> {
    let (spares, unwritten) = {
        let segments = core.segments.borrow();
        (segments.spares.len(), segments.spares.iter().any(|spare| !spare.prewritten))
    };
    let short = spares < core.options.spare_segments;
    if !short && !unwritten {
        return Ok(Prepared::Nothing);
    }
    if !is_idle(core) {
        return Ok(Prepared::LogIsBusy);
    }
    if short && !unwritten {
        add_spare(core, false).await?;
        return Ok(Prepared::Something);
    }
    // Taken off the list, so that the log cannot start to use it under our zeroes.
    let taken = {
        let spares = &mut core.segments.borrow_mut().spares;
        let position = spares.iter().position(|spare| !spare.prewritten);
        position.map(|position| spares.swap_remove(position))
    };
    let Some(mut spare) = taken else { return Ok(Prepared::Something) };
    let outcome = write_zeroes(core, &mut spare, false).await;
    core.segments.borrow_mut().spares.push(spare);
    outcome.map(|()| Prepared::Something)
}

fn is_idle<D: Device>(core: &Core<D>) -> bool {
    core.queue.borrow().pending_records == 0
}

/// Allocates one more spare; with `prewrite`, writes it before returning.
pub(crate) async fn add_spare<D: Device>(core: &Rc<Core<D>>, prewrite: bool) -> io::Result<()> {
    let number = core.segments.borrow_mut().take_number();
    let mut spare = create_spare(&core.device, number, core.options.segment_bytes).await?;
    if prewrite {
        write_zeroes(core, &mut spare, true).await?;
    }
    core.segments.borrow_mut().spares.push(spare);
    core.refresh_free_space();
    Ok(())
}

/// Gives way to commits between pieces, unless nothing can be committed yet.
async fn write_zeroes<D: Device>(
    core: &Rc<Core<D>>,
    spare: &mut Spare<D>,
    at_once: bool,
) -> io::Result<()> {
    let mut offset = 0;
    let mut zeroes = Buffer::zeroed(ZERO_BYTES.min(spare.segment_bytes) as usize);
    while offset < spare.segment_bytes {
        while !at_once && !is_idle(core) && core.phase.get() == Phase::Open {
            core.device.sleep(PAUSE).await;
        }
        if !at_once && core.phase.get() != Phase::Open {
            return Ok(());
        }
        let bytes = (spare.segment_bytes - offset).min(ZERO_BYTES);
        zeroes.set_len(bytes as usize);
        let (outcome, given_back) = core.device.write(&spare.file, offset, zeroes).await;
        outcome?;
        zeroes = given_back;
        offset += bytes;
        core.index.borrow_mut().counters.bytes_prewritten += bytes;
    }
    core.device.sync(&spare.file).await?;
    spare.prewritten = true;
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
    if lsn != before.checkpoint && lsn != Lsn(0) {
        let sync = core.options.sabotage != Some(Sabotage::NameCheckpointEarly);
        let bytes = write::write(&core.device, &snapshot, sync).await?;
        core.checkpoint_bytes.set(bytes);
        let mut index = core.index.borrow_mut();
        index.counters.bytes_written += bytes;
        index.counters.flushes += 1;
    }
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
    remove_old(core, lsn, before.checkpoint).await
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
