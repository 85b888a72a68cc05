//! Spare segments for the log to grow into, prepared beside it.
//!
//! Spares are allocated, and written with zeroes. A log that takes mail in small batches has zeroes
//! written into the next spare as fast as it grows itself: in space that is merely allocated, each
//! of its commits would be one of the file system's journal, too, and the journal is shared by all
//! shards. Large batches lose less by that than the zeroes would take from them, in time while the
//! log is in use, and in wear while it rests.

use crate::buffer::{ALIGNMENT, Buffer};
use crate::core::{Core, Phase};
use crate::device::Device;
use crate::log::segments::{Spare, create_spare};
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Zeroes written at once into a spare while the store is open, as a part of upkeep's pieces: a
/// commit's flush waits for everything that the disk has in its cache, zeroes too.
const ZERO_PIECE_PART: u64 = 2;

/// The most of them beside a log that grows fast, in upkeep's pieces.
const ZERO_PIECES_MAX: u64 = 2;

/// Zeroes written at once before anybody waits for a commit.
const ZERO_BYTES_ALONE: u64 = 1 << 20;

/// After a piece the disk is the log's for so many times as long as that took. On a platter most of
/// it is the way there and back, which larger pieces make as seldom as they can.
const REST_RATIO: u32 = 3;

/// How long a log in use is watched before more zeroes are written beside it.
const WATCH: Duration = Duration::from_millis(5);

/// What is written in that time beside a log that hardly grows: 6 MB/s, so that the
/// disk is its own.
const ZERO_BYTES_A_WATCH: u64 = 32 << 10;

/// Zeroes for each byte that the log has grown by, in percent: a little more, to be done before it.
const LEAD_PERCENT: u64 = 125;

/// Batches above this size, on average, are as well off in space that is merely allocated: a commit
/// of the journal writes some 7 KiB, and zeroes wear the disk, too.
const BATCH_BYTES_SMALL: u64 = 16 << 10;

/// When the disk is full, how long to wait before asking again.
const PAUSE_FULL: Duration = Duration::from_millis(500);

/// Runs until the store is closed or halts.
pub(crate) async fn run<D: Device>(core: &Rc<Core<D>>) {
    let mut pace = Pace::default();
    while core.phase.get() == Phase::Open {
        let Some(step) = next_step(core) else {
            core.spares.wait().await;
            continue;
        };
        let piece = pace.watch(core).await;
        if core.phase.get() != Phase::Open || (piece.bytes == 0 && !step.is_urgent(core)) {
            continue;
        }
        if matches!(step, Step::Zero) && pace.batches_are_large() {
            // They may have grown small by the time that the next segment is begun.
            core.spares.wait().await;
            continue;
        }
        let outcome = match step {
            Step::Allocate => add_spare(core, false).await,
            Step::Zero => {
                let began = core.device.steady();
                let outcome = zero_spare(core, piece).await;
                let now = core.device.steady();
                pace.rests_until = now + REST_RATIO * now.saturating_sub(began);
                outcome
            }
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
    // The log can't have one that is being written: on a full disk that would be the
    // one it has left.
    let can_be_missed = !few || core.growable_bytes() >= core.options.segment_bytes;
    (unwritten && can_be_missed).then_some(Step::Zero)
}

/// Zeroes to write next.
#[derive(Debug, Clone, Copy)]
struct Piece {
    bytes: u64,
    /// Whether it is on stable media before the next is written. At rest nobody else flushes, and
    /// what gathers in the disk's cache would be the next commit's to wait for. Beside a log in use
    /// the commits' own flushes take each piece along; a flush for it would be a commit of the file
    /// system's journal, too: three of the disk's flushes, for which mail would wait.
    durable: bool,
}

/// How fast zeroes are written.
#[derive(Default)]
struct Pace {
    seen: Growth,
    /// Of late: each look at a log in use lets an eighth of what was before be forgotten.
    recent: Growth,
    /// Zeroes that may be written.
    allowed: u64,
    /// By the device's steady clock.
    rests_until: Duration,
}

/// How far the log has come.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Growth {
    bytes: u64,
    batches: u64,
}

impl Pace {
    /// What to write next, if anything yet. A log at rest is not waited for.
    async fn watch<D: Device>(&mut self, core: &Core<D>) -> Piece {
        let piece = core.options.upkeep_piece_bytes as u64;
        let least = piece / ZERO_PIECE_PART;
        let rest = self.rests_until.saturating_sub(core.device.steady());
        if self.is_at_rest(core) {
            core.device.sleep(rest.min(WATCH)).await;
            return Piece { bytes: if rest > WATCH { 0 } else { least }, durable: true };
        }
        core.device.sleep(WATCH).await;
        let now = Growth::of(core);
        let bytes = self.note(now);
        let none = Piece { bytes: 0, durable: false };
        if self.batches_are_large() {
            return none;
        }
        self.allowed += (bytes * LEAD_PERCENT / 100).max(ZERO_BYTES_A_WATCH);
        if self.allowed < least || core.device.steady() < self.rests_until {
            return none;
        }
        // What is more than that is not made up for later.
        let bytes = std::mem::take(&mut self.allowed).min(ZERO_PIECES_MAX * piece);
        Piece { bytes: bytes - bytes % ALIGNMENT as u64, durable: false }
    }
}

impl Pace {
    fn is_at_rest<D: Device>(&self, core: &Core<D>) -> bool {
        Growth::of(core) == self.seen && core.queue.borrow().pending_records == 0
    }

    /// How many bytes the log has grown by since the last look.
    fn note(&mut self, now: Growth) -> u64 {
        let (bytes, batches) = (now.bytes - self.seen.bytes, now.batches - self.seen.batches);
        self.seen = now;
        self.recent.bytes = self.recent.bytes - self.recent.bytes / 8 + bytes;
        self.recent.batches = self.recent.batches - self.recent.batches / 8 + batches;
        bytes
    }

    fn batches_are_large(&self) -> bool {
        self.recent.bytes > self.recent.batches * BATCH_BYTES_SMALL
    }
}

impl Growth {
    fn of<D: Device>(core: &Core<D>) -> Growth {
        Growth { bytes: core.landed_bytes.get(), batches: core.landed_batches.get() }
    }
}

/// Takes a spare off the list, so that the log cannot start to use it under our zeroes, writes a
/// piece, and puts it back.
async fn zero_spare<D: Device>(core: &Rc<Core<D>>, piece: Piece) -> io::Result<()> {
    let taken = {
        let segments = &mut *core.segments.borrow_mut();
        let position = segments.spares.iter().position(|spare| !spare.is_prewritten());
        segments.spares_away += usize::from(position.is_some());
        position.map(|position| segments.spares.swap_remove(position))
    };
    let Some(mut spare) = taken else { return Ok(()) };
    let outcome = write_zeroes(core, &mut spare, piece).await;
    let segments = &mut *core.segments.borrow_mut();
    segments.spares_away -= 1;
    segments.spares.push(spare);
    outcome
}

/// Allocates one more spare; with `prewrite`, writes it before returning.
pub(crate) async fn add_spare<D: Device>(core: &Rc<Core<D>>, prewrite: bool) -> io::Result<()> {
    core.check_place().await?;
    let mut spare = create_spare(core).await?;
    while prewrite && !spare.is_prewritten() {
        write_zeroes(core, &mut spare, Piece { bytes: ZERO_BYTES_ALONE, durable: false }).await?;
    }
    core.segments.borrow_mut().spares.push(spare);
    core.refresh_free_space();
    Ok(())
}

/// One piece. The last one has a sync behind it, so that the file system has nothing
/// left to do later.
async fn write_zeroes<D: Device>(
    core: &Rc<Core<D>>,
    spare: &mut Spare<D>,
    piece: Piece,
) -> io::Result<()> {
    let bytes = (spare.segment_bytes - spare.zeroed_bytes).min(piece.bytes);
    let zeroes = Buffer::zeroed(bytes as usize);
    let is_last = spare.zeroed_bytes + bytes == spare.segment_bytes;
    if piece.durable && !is_last {
        core.device.write_durably(&spare.file, spare.zeroed_bytes, zeroes).await.0?;
    } else {
        core.device.write(&spare.file, spare.zeroed_bytes, zeroes).await.0?;
        if is_last {
            core.device.sync(&spare.file).await?;
        }
    }
    core.index.borrow_mut().counters.bytes_prewritten += bytes;
    spare.zeroed_bytes += bytes;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_how_large_batches_are_of_late() {
        let mut pace = Pace::default();
        assert!(!pace.batches_are_large(), "nothing is known yet: zeroes are worth having");
        let mut now = Growth::default();
        let mut take = |pace: &mut Pace, batches: u64, bytes: u64| {
            now.batches += batches;
            now.bytes += batches * bytes;
            assert_eq!(pace.note(now), batches * bytes);
            pace.batches_are_large()
        };
        assert!(!take(&mut pace, 20, 8 << 10));
        assert!(
            !take(&mut pace, 1, 100 << 10),
            "one large message among small ones changes nothing"
        );
        assert!((0..40).any(|_| take(&mut pace, 2, 100 << 10)));
        assert!(take(&mut pace, 1, 8 << 10), "nor does a small one among large ones");
        assert!((0..80).any(|_| !take(&mut pace, 2, 8 << 10)));
    }
}
