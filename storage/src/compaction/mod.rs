//! Compaction: segments give their space back while the store runs. FORMAT.md, "Compaction".
//!
//! One task beside the commit loop and upkeep. It decides what is worth doing: put a
//! checkpoint into the log, or move what is live out of segments. It writes one small batch at
//! a time, so a commit waits for one such batch at the most. Freeing what it has emptied is
//! upkeep's (`space.rs`).
//!
//! It comes to rest. What is emptied was chosen by an estimate, and copies can lie as loosely as
//! what they were copied from: where records are large for their segment, a full cold segment is a
//! third garbage on the day that it is sealed. So a round is laid out before it is begun
//! (`layout.rs`), and begun only if its copies take less than what they empty, by
//! `ROUND_GAIN_PERCENT` of what makes a segment worth it. Hence:
//! - Let *F* be the bytes of all segments in which something is live, the open ones up to their
//!   end. Each round makes *F* smaller, by a block at least. Moved records and bases are never
//!   live: what they add to *F* is the rest of the one segment of the log that is open.
//! - So while clients change nothing there are finitely many rounds. What was not worth one is
//!   looked at again only when it has lost a sixteenth of a segment, or less is asked for.
//! - With the rounds, the log ends: a base wants four times its size in segments that have been
//!   filled since the last one, which its own pieces don't fill; a checkpoint is asked for once for
//!   each end of the log.
//!
//! Failure: a live record that does not verify or can't be read stays where it is, and its segment
//! with it; that is reported (`Stats::segments_spoiled`).
//!
//! Here is what is worth doing, and when. `survey` finds what refers to the records of some
//! segments, `layout` computes what their copies will take, `mover` makes these.

mod layout;
mod mover;
pub(crate) mod survey;

use crate::base;
use crate::buffer::ALIGNMENT;
use crate::core::{Core, Phase};
use crate::device::Device;
use crate::error::Error;
use crate::format::SegmentId;
use crate::index::Index;
use crate::log::segments::{SegmentFile, Segments};
use crate::options::Options;
use crate::space;
use crate::types::Lsn;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// The log grows by so many times the size of a base before the next one …
const BASE_LOG_RATIO: u64 = 20;

/// … and the next one sets free so many times its size.
const BASE_GAIN_RATIO: u64 = 4;

/// While something waits to be forgotten there is a base for each such part of the retention: so
/// much longer than that its space is kept, at the most.
const BASES_A_RETENTION: u64 = 8;

/// Emptied together.
const VICTIMS_MAX: usize = 32;

/// When somebody wants all of the garbage back, this part of a segment is worth a move.
const GAIN_PERCENT_THOROUGH: u64 = 10;

/// On a full disk even this part is.
const GAIN_PERCENT_MIN: u64 = 5;

/// Copies must take less than what they empty, by so much of the part that a segment
/// must have to spare.
const ROUND_GAIN_PERCENT: u64 = 50;

/// What was not worth a round may be when it has lost this part of its segment.
const LOOK_AGAIN_DIVISOR: u64 = 16;

/// So many of the newest segments say how much of the log is padding, and no more than this is.
const NEWEST: usize = 4;
const PADDING_PERCENT_MAX: u64 = 25;

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Task {
    WriteBase,
    Empty(Victims),
}

/// Segments to be emptied together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Victims {
    segments: BTreeSet<SegmentId>,
    /// What part of a segment made it worth it.
    least_percent: u64,
}

/// A segment that was not worth a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unworthy {
    live_bytes: u64,
    least_percent: u64,
}

/// Runs until the store is closed or halts.
pub(crate) async fn run<D: Device>(core: &Rc<Core<D>>) {
    while core.phase.get() == Phase::Open {
        let Some(task) = next_task(core) else {
            core.compacts.set(false);
            core.compaction.wait().await;
            continue;
        };
        core.compacts.set(true);
        let outcome = match task {
            Task::WriteBase => base::write(core).await,
            Task::Empty(victims) => mover::empty(core, victims).await,
        };
        core.upkeep.ring();
        // After a failure, most likely the disk is full: the next segment, checkpoint or
        // refusal wakes us again.
        if let Err(error) = outcome
            && core.phase.get() == Phase::Open
        {
            match error {
                Error::Device(what) => core.note_given_up_by(what),
                Error::Read { .. } => core.note_given_up_by(error.to_string()),
                _ => {}
            }
            core.compacts.set(false);
            core.compaction.wait().await;
        }
    }
}

/// Copied between two landings, at the most: a commit waits for so much and no more.
pub(crate) fn copy_bytes(options: &Options) -> usize {
    options.upkeep_piece_bytes.min(options.batch_bytes_max)
}

/// Keeps to the budget; not while mail is refused, which is all that the budget is for.
pub(crate) async fn pace<D: Device>(core: &Core<D>, bytes: usize) {
    if let Some(rate) = core.options.compaction_bytes_per_second
        && !core.is_short()
    {
        core.device.sleep(Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
    }
}

fn next_task<D: Device>(core: &Core<D>) -> Option<Task> {
    if core.is_as_found() {
        return None;
    }
    if base_is_due(core) {
        return Some(Task::WriteBase);
    }
    let victims = victims(core);
    (!victims.segments.is_empty()).then_some(Task::Empty(victims))
}

/// A newer base lets the segments before it go. It costs as much as a checkpoint does, so it comes
/// as rarely, and only where it sets enough free; unless space is short.
fn base_is_due<D: Device>(core: &Core<D>) -> bool {
    let [newest, _] = core.named.get();
    let size = core.checkpoint_bytes.get();
    let active = core.position.get().segment;
    if !wants_base(core, active) {
        return false;
    }
    let is_whole = core.row_files.borrow()[0].len() <= 1;
    let last = core.index.borrow().base.as_ref().map_or(Lsn(0), |base| base.lsn);
    if core.superblock.borrow().checkpoint > last && is_whole && wants_base(core, newest.segment) {
        // With enough left to empty a segment that it sets free.
        return core.room() >= size * 2 + core.options.segment_bytes;
    }
    // The checkpoint that there is would not help; a new one does, if the log has gone on since.
    let applied = core.index.borrow().applied;
    if (newest.segment < active || !is_whole) && core.asked_at.replace(applied) != applied {
        core.wants_checkpoint.set(true);
        core.upkeep.ring();
    }
    false
}

/// Whether a base is worth it with which the log goes on in segment `to`.
pub(crate) fn wants_base<D: Device>(core: &Core<D>, to: SegmentId) -> bool {
    let is_short = core.is_short();
    let index = core.index.borrow();
    let from = index.base.as_ref().map_or(SegmentId(1), |base| base.segment);
    if from >= to {
        return false;
    }
    let size = core.checkpoint_bytes.get();
    let segments = core.segments.borrow();
    let set_free = segments.files.range(from..to);
    let gain: u64 = set_free.map(|(id, file)| gain(core, &index, *id, file)).sum();
    let grown = u64::from(to.0 - from.0);
    let interval = (size * BASE_LOG_RATIO).div_ceil(core.options.segment_bytes).max(2);
    let is_worth_it =
        |gain: u64| gain >= (core.options.segment_bytes / 2).max(BASE_GAIN_RATIO * size);
    let is_wished = core.thorough_below.get().is_some_and(|(log, _)| from < log);
    is_worth_it(gain) && (is_short || is_wished || grown >= interval)
        || will_lapse(core, &index) && is_worth_it(gain + index.past.bytes)
}

/// Whether a base written now will let go, a retention from now, of what was buried since
/// the last one. Were it written only when that has been forgotten, the space would be kept
/// for two retentions.
fn will_lapse<D: Device>(core: &Core<D>, index: &Index) -> bool {
    let past = &index.past;
    let last = index.base.as_ref().map_or(Lsn(0), |base| base.lsn);
    let Some((time, _)) = past.bases.last() else { return false };
    let age = core.device.now().0.saturating_sub(time.0);
    past.buried > last && age >= past.retention_millis / BASES_A_RETENTION
}

/// What of a log segment's bytes is padding and headers, in percent: what nothing refers
/// to in the newest.
///
/// It is no garbage yet: it goes for nothing when the mail around it has died, while moving that
/// mail for the sake of the padding writes every byte twice.
fn padding_percent<D: Device>(index: &Index, segments: &Segments<D>, active: SegmentId) -> u64 {
    let newest = || segments.files.range(..active).rev().take(NEWEST);
    let bytes: u64 = newest().map(|(_, segment)| segment.segment_bytes).sum();
    let live: u64 = newest().map(|(id, _)| index.live.bytes(*id)).sum();
    (bytes.saturating_sub(live) * 100 / bytes.max(1)).min(PADDING_PERCENT_MAX)
}

/// How much it is worth to empty a segment now rather than later, for `empty` (0 to 1) of it, which
/// it came to have in `age` records.
///
/// Emptying it costs its live part *u*, and waiting costs the room of its empty part *E*, but a
/// segment that is losing *f* of its live bytes in each record's time will soon cost less. Of all
/// plans for segments that decay so, the one with the fewest copies for the room that it takes
/// empties each when (E + u ln u) / (u f) has reached the same value. What a segment has lost so
/// far says how fast it decays, f = −ln u / age: mail that dies young makes young segments wait,
/// and old ones, which lose little, are emptied with less garbage in them. Where all segments decay
/// alike, this takes those with the most garbage.
fn merit(empty: f64, age: f64) -> f64 {
    let live = (1.0 - empty).max(1e-9);
    let decay = -live.ln();
    age * (empty - live * decay) / (live * decay.max(1e-9))
}

fn is_wished<D: Device>(core: &Core<D>, id: SegmentId) -> bool {
    core.thorough_below.get().is_some_and(|(log, cold)| id < if id.is_cold() { cold } else { log })
}

/// What emptying a segment would give, after what its copies take with their padding.
fn gain<D: Device>(core: &Core<D>, index: &Index, id: SegmentId, segment: &SegmentFile<D>) -> u64 {
    let live = index.live.bytes(id);
    let padding = live * (ALIGNMENT as u64 / 2) / copy_bytes(&core.options) as u64;
    segment.segment_bytes.saturating_sub(live + padding)
}

/// The segments that are worth the most. Several at once, about a segment's worth, share one walk
/// over the index; all of the log or all cold, so that what has been moved once lies apart from
/// what has been moved more often, and lives longer.
fn victims<D: Device>(core: &Core<D>) -> Victims {
    let (floor, replay_floor) = (space::floor(core), space::replay_floor(core));
    let is_short = core.is_short();
    let room = core.room().saturating_sub(core.options.batch_bytes_max as u64);
    let index = core.index.borrow();
    let segments = core.segments.borrow();
    let Some(active) = segments.active.as_ref().map(|active| active.id) else {
        return Victims::default();
    };
    // What is kept for the sake of history is no garbage yet, and no help.
    let sealed = || {
        let sealed = segments.files.range(..active).chain(segments.sealed_cold());
        sealed.filter(|(id, _)| !(floor..replay_floor).contains(*id))
    };
    let padding_percent = padding_percent(&index, &segments, active);
    let garbage = |(id, segment): (&SegmentId, &SegmentFile<D>)| {
        let padding_percent = if id.is_cold() { 0 } else { padding_percent };
        let of_mail = segment.segment_bytes * (100 - padding_percent) / 100;
        of_mail.saturating_sub(index.live.bytes(*id))
    };
    let total: u64 = sealed().map(|(_, segment)| segment.segment_bytes).sum();
    let garbage_max = total * u64::from(core.options.garbage_percent_max) / 100;
    let is_little = sealed().map(garbage).sum::<u64>() <= garbage_max;
    if is_little && !is_short && core.thorough_below.get().is_none() {
        return Victims::default();
    }
    // Less is not worth a move, wherever the garbage is that asks for it: what cannot be freed yet
    // must not set off copies of what is full.
    let least = u64::from(core.options.garbage_percent_max) * 5 / 4;
    let least = if is_short { GAIN_PERCENT_MIN } else { least };
    let spoiled = core.spoiled.borrow();
    let unworthy = core.unworthy.borrow();
    let candidate = |(id, segment): (&SegmentId, &SegmentFile<D>)| {
        let gain = gain(core, &index, *id, segment);
        let is_wished = is_wished(core, *id);
        let least = if is_wished { least.min(GAIN_PERCENT_THOROUGH) } else { least };
        let is_worth_it = gain * 100 >= segment.segment_bytes * least;
        // With little garbage in all, only what was wished for is worth it.
        let is_chosen = !is_little || is_short || is_wished;
        let live_bytes = index.live.bytes(*id);
        let is_unworthy = unworthy.get(id).is_some_and(|unworthy| {
            live_bytes + segment.segment_bytes / LOOK_AGAIN_DIVISOR > unworthy.live_bytes
                && least >= unworthy.least_percent
        });
        if live_bytes == 0 || is_unworthy || !is_worth_it || !is_chosen || spoiled.contains_key(id)
        {
            return None;
        }
        let age = index.applied.0.saturating_sub(segment.first_lsn.0).max(1);
        // On a full disk what counts is the room, now.
        let age = if is_short { 1 } else { age };
        let merit = merit(gain as f64 / segment.segment_bytes as f64, age as f64);
        Some((merit, *id, segment.segment_bytes - gain, least))
    };
    let mut candidates: Vec<_> = {
        let candidates = segments.files.range(..floor).chain(segments.sealed_cold());
        candidates.filter_map(candidate).collect()
    };
    candidates.sort_by(|(one, ..), (other, ..)| other.total_cmp(one));
    let are_cold = candidates.first().is_some_and(|(_, best, ..)| best.is_cold());
    let alike = candidates.into_iter().filter(|(_, id, ..)| id.is_cold() == are_cold || is_short);
    let mut cost = 0;
    let mut chosen = Victims { least_percent: least, ..Victims::default() };
    for (_, id, its_cost, its_least) in alike {
        let segments = &mut chosen.segments;
        let is_enough = !segments.is_empty() && cost + its_cost > core.options.segment_bytes;
        if is_enough || segments.len() == VICTIMS_MAX {
            break;
        }
        if cost + its_cost <= room {
            cost += its_cost;
            segments.insert(id);
            chosen.least_percent = chosen.least_percent.min(its_least);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::merit;

    #[test]
    fn among_segments_alike_the_emptier_goes_first_and_among_equally_empty_ones_the_older() {
        let steps = || (1..100).map(|percent| f64::from(percent) / 100.0);
        for empty in steps() {
            assert!(merit(empty, 2.0) > merit(empty, 1.0), "{empty}");
            assert!(merit(empty + 0.01, 1.0) > merit(empty, 1.0), "{empty}");
        }
        assert!(merit(0.0, 1e9) <= 1e-9, "nothing to gain");
        assert!(merit(1.0, 1.0).is_finite());
    }

    #[test]
    fn a_segment_that_decays_waits_for_what_an_old_one_gives_at_once() {
        // A tenth lost in a long life goes before a half lost in a twentieth of that.
        assert!(merit(0.1, 100.0) > merit(0.5, 5.0));
        assert!(merit(0.1, 100.0) < merit(0.95, 5.0), "but not before one that is nearly empty");
    }
}
