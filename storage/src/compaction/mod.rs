//! Compaction: segments give their space back while the store runs. FORMAT.md, "Compaction".
//!
//! One task beside the commit loop and upkeep. It decides what is worth doing: put a checkpoint into the
//! log, or move what is live out of segments. It writes one small batch at a time, so a commit waits for
//! one such batch at the most. Freeing what it has emptied is upkeep's (`space.rs`).
//!
//! Failure: a live record that does not verify stays where it is, and its segment with it; that is
//! reported (`Stats::segments_spoiled`).

mod mover;
pub(crate) mod survey;

use crate::base;
use crate::buffer::ALIGNMENT;
use crate::core::{Core, Phase};
use crate::device::Device;
use crate::error::Error;
use crate::format::SegmentId;
use crate::index::Index;
use crate::log::segments::SegmentFile;
use crate::options::Options;
use crate::space;
use crate::types::Lsn;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

const COPY_BYTES_MAX: usize = 256 << 10;

/// The log grows by so many times the size of a base before the next one …
const BASE_LOG_RATIO: u64 = 20;

/// … and the next one sets free so many times its size.
const BASE_GAIN_RATIO: u64 = 4;

/// Emptied together.
const VICTIMS_MAX: usize = 32;

/// What a segment that has just been written has to give.
const GAIN_PERCENT_YOUNG: u64 = 92;

/// The same when somebody wants all of it back.
const GAIN_PERCENT_THOROUGH: u64 = 10;

/// On a full disk even this part of a segment is worth a move.
const GAIN_PERCENT_MIN: u64 = 5;

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Task {
    WriteBase,
    Empty(BTreeSet<SegmentId>),
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
            Task::Empty(segments) => mover::empty(core, segments).await,
        };
        core.upkeep.ring();
        // After a failure, most likely the disk is full: the next segment, checkpoint or refusal wakes us
        // again.
        if let Err(error) = outcome
            && core.phase.get() == Phase::Open
        {
            if let Error::Device(what) = error {
                core.note_given_up_by(what);
            }
            core.compacts.set(false);
            core.compaction.wait().await;
        }
    }
}

/// Copied between two landings, at the most: a commit waits for so much and no more.
pub(crate) fn copy_bytes(options: &Options) -> usize {
    COPY_BYTES_MAX.min(options.batch_bytes_max)
}

/// Keeps to the budget.
pub(crate) async fn pace<D: Device>(core: &Core<D>, bytes: usize) {
    if let Some(rate) = core.options.compaction_bytes_per_second {
        core.device.sleep(Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
    }
}

fn next_task<D: Device>(core: &Core<D>) -> Option<Task> {
    if base_is_due(core) {
        return Some(Task::WriteBase);
    }
    let victims = victims(core);
    (!victims.is_empty()).then_some(Task::Empty(victims))
}

/// A newer base lets the segments before it go. It costs as much as a checkpoint does, so it comes as
/// rarely, and only where it sets enough free; unless space is short.
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
    let is_worth_it = gain >= (core.options.segment_bytes / 2).max(BASE_GAIN_RATIO * size);
    let is_wished = core.thorough_below.get().is_some_and(|(log, _)| from < log);
    is_worth_it && (is_short || is_wished || grown >= interval)
}

/// How much of a segment has to be garbage to be worth a move, in percent.
///
/// Mail dies young: a segment just written loses most of what is in it by itself, and copying it before
/// that would be for nothing. So the young have to be nearly empty, and the older a segment is, measured
/// by the whole log, the fuller it may be; what is in a cold segment has been old for long. Garbage is
/// spread evenly among cold segments, from none to the least that is worth a move. A quarter more than the
/// share that is allowed leaves five eighths of that share to them, and the rest to the young.
fn gain_percent_min<D: Device>(core: &Core<D>, id: SegmentId, active: SegmentId, all: u64) -> u64 {
    let least = u64::from(core.options.garbage_percent_max) * 5 / 4;
    if core.is_short() {
        return GAIN_PERCENT_MIN;
    }
    if is_wished(core, id) {
        return GAIN_PERCENT_THOROUGH;
    }
    if id.is_cold() {
        return least;
    }
    let age = u64::from(active.0 - id.0);
    let spread = GAIN_PERCENT_YOUNG.saturating_sub(least);
    least.max(GAIN_PERCENT_YOUNG.saturating_sub(spread * age / all.max(1)))
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

/// The segments that give the most for their copying. Several at once, about a segment's worth, share
/// one walk over the index.
fn victims<D: Device>(core: &Core<D>) -> BTreeSet<SegmentId> {
    let (floor, replay_floor) = (space::floor(core), space::replay_floor(core));
    let is_short = core.is_short();
    let room = core.room().saturating_sub(core.options.batch_bytes_max as u64);
    let index = core.index.borrow();
    let segments = core.segments.borrow();
    let Some(active) = segments.active.as_ref().map(|active| active.id) else {
        return BTreeSet::new();
    };
    // What is kept for the sake of history is no garbage yet, and no help.
    let sealed = || {
        let sealed = segments.files.range(..active).chain(segments.sealed_cold());
        sealed.filter(|(id, _)| !(floor..replay_floor).contains(*id))
    };
    let total: u64 = sealed().map(|(_, segment)| segment.segment_bytes).sum();
    let live: u64 = sealed().map(|(id, _)| index.live.bytes(*id)).sum();
    let garbage_max = total * u64::from(core.options.garbage_percent_max) / 100;
    let is_little = total.saturating_sub(live) <= garbage_max;
    if is_little && !is_short && core.thorough_below.get().is_none() {
        return BTreeSet::new();
    }
    let all = sealed().count() as u64;
    let spoiled = core.spoiled.borrow();
    let benefit = |(id, segment): (&SegmentId, &SegmentFile<D>)| {
        let live = index.live.bytes(*id);
        let gain = gain(core, &index, *id, segment);
        let percent_min = gain_percent_min(core, *id, active, all);
        let is_worth_it = gain * 100 >= segment.segment_bytes * percent_min;
        // With little garbage in all, only what was wished for is worth it.
        let is_chosen = !is_little || is_short || is_wished(core, *id);
        if live == 0 || !is_worth_it || !is_chosen || spoiled.contains_key(id) {
            return None;
        }
        let used = live as f64 / segment.segment_bytes as f64;
        let benefit = (1.0 - used) / (1.0 + used);
        Some((benefit, *id, segment.segment_bytes - gain))
    };
    let mut candidates: Vec<_> = {
        let candidates = segments.files.range(..floor).chain(segments.sealed_cold());
        candidates.filter_map(benefit).collect()
    };
    candidates.sort_by(|(one, ..), (other, ..)| other.total_cmp(one));
    let mut cost = 0;
    let mut chosen = BTreeSet::new();
    for (_, id, its_cost) in candidates {
        let is_enough = !chosen.is_empty() && cost + its_cost > core.options.segment_bytes;
        if is_enough || chosen.len() == VICTIMS_MAX {
            break;
        }
        if cost + its_cost <= room {
            cost += its_cost;
            chosen.insert(id);
        }
    }
    chosen
}
