//! What the store does beside commits: checkpoints, and freeing segments that
//! compaction has emptied.

use crate::checkpoint::files::{self, Kept, RowFiles};
use crate::checkpoint::settle::settle;
use crate::checkpoint::write::{self, Manner, Snapshot, WrittenBlock};
use crate::checkpoint::{Position, file_lsn, file_name};
use crate::core::{Core, Phase};
use crate::device::{Device, is_full};
use crate::options::Sabotage;
use crate::superblock::{self, Superblock};
use crate::types::Lsn;
use crate::{compaction, space};
use std::io;
use std::rc::Rc;

/// Runs until the store is closed or halts.
pub(crate) async fn run<D: Device>(core: &Rc<Core<D>>) {
    while core.phase.get() == Phase::Open {
        if core.is_as_found() {
            core.spares.ring();
            core.upkeep.wait().await;
            continue;
        }
        core.maintains.set(true);
        let is_wanted = core.wants_checkpoint.take();
        if is_wanted || core.log_bytes_since_checkpoint.get() >= core.checkpoint_due_bytes() {
            let outcome = checkpoint(core, false).await;
            if let Err(error) = &outcome
                && core.phase.get() == Phase::Open
            {
                core.note_given_up(error);
                // Nothing is lost by a checkpoint that fails: the log is all there. Most likely the
                // disk is full; the next one is due when as much again has been logged.
                core.log_bytes_since_checkpoint.set(0);
            }
            continue;
        }
        // What can't be freed is looked at again when the next segment is begun.
        match space::free(core).await {
            Ok(0) => {}
            Ok(_) => continue,
            Err(error) => core.note_given_up(&error),
        }
        let applied = core.index.borrow().applied;
        if space::waits_for_checkpoint(core) && core.asked_at.replace(applied) != applied {
            core.wants_checkpoint.set(true);
            continue;
        }
        // Whatever rang for upkeep may have made something to compact, or used up a spare.
        core.compaction.ring();
        core.spares.ring();
        core.maintains.set(false);
        core.upkeep.wait().await;
    }
    core.spares.ring();
}

/// Writes the index as it is now, names it in the superblock, and removes the one before last.
pub(crate) async fn checkpoint<D: Device>(core: &Rc<Core<D>>, clean: bool) -> io::Result<()> {
    core.check_place().await?;
    let index = core.index.borrow().clone();
    let position = core.position.get();
    // A base is a copy of a checkpoint, which has to be whole for that.
    let is_whole = compaction::wants_base(core, position.segment);
    let kept =
        if is_whole { Kept::default() } else { files::kept(&index, &core.row_files.borrow()[0]) };
    let snapshot = Snapshot {
        shard: core.options.shard,
        run: core.run.get(),
        index,
        kept,
        position,
        segments: segment_table(core),
    };
    let lsn = snapshot.index.applied;
    let before = *core.superblock.borrow();
    let logged_before = core.log_bytes_since_checkpoint.get();
    let is_new = lsn != before.checkpoint && lsn != Lsn(0);
    let (blocks, row_files) = if is_new {
        write_file(core, snapshot).await?
    } else {
        (Vec::new(), core.row_files.borrow()[0].clone())
    };
    let wanted = Superblock { checkpoint: lsn, clean, ..before };
    write_superblock(core, wanted, position, row_files).await?;
    let since = core.log_bytes_since_checkpoint.get();
    core.log_bytes_since_checkpoint.set(since.saturating_sub(logged_before));
    if !clean {
        settle(core, lsn, blocks).await?;
    }
    remove_old(core).await
}

/// The last checkpoint. On a full disk there is none, and the log has everything: the next opening
/// reads more of it. The superblock has its place, and testifies for the last batches as it does
/// when there is room.
pub(crate) async fn close<D: Device>(core: &Rc<Core<D>>) -> io::Result<()> {
    match checkpoint(core, true).await {
        Err(error) if is_full(&error) => {}
        outcome => return outcome,
    }
    let as_before = *core.superblock.borrow();
    let [newest, _] = core.named.get();
    let row_files = core.row_files.borrow()[0].clone();
    match write_superblock(core, as_before, newest, row_files).await {
        // A file system that writes nothing in place may have no room even for that.
        Err(error) if is_full(&error) => Ok(()),
        outcome => outcome,
    }
}

/// Writes the next copy, with what is durable now. `position`: where the log goes on after the
/// checkpoint that it names; `row_files`: what that consists of.
pub(crate) async fn write_superblock<D: Device>(
    core: &Core<D>,
    wanted: Superblock,
    position: Position,
    row_files: RowFiles,
) -> io::Result<()> {
    // A checkpoint may have taken minutes.
    core.check_place().await?;
    let superblock =
        Superblock { sequence: wanted.sequence + 1, durable: core.durable.get(), ..wanted };
    superblock::write(&core.device, &superblock).await?;
    *core.superblock.borrow_mut() = superblock;
    let [newest, _] = core.named.get();
    core.named.set([position, newest]);
    core.row_files.borrow_mut().swap(0, 1);
    core.row_files.borrow_mut()[0] = row_files;
    Ok(())
}

/// Leaves no file behind when it fails: on a full disk every bit of room counts.
async fn write_file<D: Device>(
    core: &Core<D>,
    snapshot: Snapshot,
) -> io::Result<(Vec<WrittenBlock>, RowFiles)> {
    // Who closes the store waits for it, and so does mail that is refused until space comes back.
    let rests = || core.phase.get() == Phase::Open && !core.is_short();
    let manner = Manner {
        piece_bytes: core.options.upkeep_piece_bytes,
        rests: &rests,
        syncs: core.options.sabotage != Some(Sabotage::NameCheckpointEarly),
    };
    let mut outcome = write::write(&core.device, &snapshot, manner).await;
    if outcome.as_ref().is_err_and(is_full) && space::give_back_spare(core).await? {
        // A spare is room for the log; this is how room comes back at all.
        outcome = write::write(&core.device, &snapshot, manner).await;
    }
    match outcome {
        Ok(written) => {
            core.checkpoint_bytes.set(written.bytes + snapshot.kept.rows_bytes);
            core.increment_bytes.set(written.bytes);
            let mut index = core.index.borrow_mut();
            index.counters.bytes_written += written.bytes;
            index.counters.flushes += 1;
            let mut row_files = snapshot.kept.files;
            row_files.insert(snapshot.index.applied, written.bytes);
            Ok((written.blocks, row_files))
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

/// Keeps what the newest and the one before it consist of, which the other copy of the superblock
/// names. A mapped file that is removed stays readable until it is unmapped.
async fn remove_old<D: Device>(core: &Core<D>) -> io::Result<()> {
    for listed in core.device.list().await? {
        let is_needed = |lsn| core.row_files.borrow().iter().any(|files| files.contains_key(lsn));
        match file_lsn(&listed.name) {
            Some(lsn) if !is_needed(&lsn) => {
                core.device.remove(&file_name(lsn)).await?;
            }
            _ => {}
        }
    }
    Ok(())
}
