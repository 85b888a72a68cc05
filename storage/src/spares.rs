//! Spare segments for the log to grow into, prepared while it has little to do.
//!
//! Spares are allocated, and written with zeroes; a log that is always busy grows into segments that
//! are merely allocated, which is slower by half, but never waits for zeroes.

use crate::buffer::Buffer;
use crate::core::{Core, Phase};
use crate::device::Device;
use crate::log::segments::{Spare, create_spare};
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Zeroes written at once into a spare while the store is open. Each piece is made durable by itself: a
/// commit's flush waits for everything that the disk has in its cache, zeroes too.
const ZERO_BYTES: u64 = 128 << 10;

/// The same before anybody waits for a commit.
const ZERO_BYTES_ALONE: u64 = 1 << 20;

/// How long the log is watched to see whether it is busy: a log in use gets one piece of zeroes beside it
/// in this time, and one that grows faster than that (6 MB/s) gets none.
const WATCH: Duration = Duration::from_millis(20);

/// When the disk is full, how long to wait before asking again.
const PAUSE_FULL: Duration = Duration::from_millis(500);

/// Runs until the store is closed or halts.
pub(crate) async fn run<D: Device>(core: &Rc<Core<D>>) {
    let mut seen = 0;
    while core.phase.get() == Phase::Open {
        let Some(step) = next_step(core) else {
            core.spares.wait().await;
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
        if let Err(error) = outcome {
            core.note_given_up(&error);
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
    // Spares for mail must not take the room that checkpoints need.
    let fits = few || core.growable_bytes() >= core.options.segment_bytes;
    if segments.spares.len() < core.options.spare_segments && (few || !unwritten) && fits {
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
    *seen - before > ZERO_BYTES
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
    let outcome = write_zeroes(core, &mut spare, true).await;
    core.segments.borrow_mut().spares.push(spare);
    outcome
}

/// Allocates one more spare; with `prewrite`, writes it before returning.
pub(crate) async fn add_spare<D: Device>(core: &Rc<Core<D>>, prewrite: bool) -> io::Result<()> {
    let number = core.segments.borrow_mut().take_number();
    let mut spare = create_spare(&core.device, number, core.options.segment_bytes).await?;
    while prewrite && !spare.is_prewritten() {
        write_zeroes(core, &mut spare, false).await?;
    }
    core.segments.borrow_mut().spares.push(spare);
    core.refresh_free_space();
    Ok(())
}

/// One piece. Where it is not `durable` by itself, the last one has a sync behind it, so that the file
/// system has nothing left to do later.
async fn write_zeroes<D: Device>(
    core: &Rc<Core<D>>,
    spare: &mut Spare<D>,
    durable: bool,
) -> io::Result<()> {
    let piece = if durable { ZERO_BYTES } else { ZERO_BYTES_ALONE };
    let bytes = (spare.segment_bytes - spare.zeroed_bytes).min(piece);
    let zeroes = Buffer::zeroed(bytes as usize);
    if durable {
        core.device.write_durably(&spare.file, spare.zeroed_bytes, zeroes).await.0?;
    } else {
        core.device.write(&spare.file, spare.zeroed_bytes, zeroes).await.0?;
        if spare.zeroed_bytes + bytes == spare.segment_bytes {
            core.device.sync(&spare.file).await?;
        }
    }
    core.index.borrow_mut().counters.bytes_prewritten += bytes;
    spare.zeroed_bytes += bytes;
    Ok(())
}
