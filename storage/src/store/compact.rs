//! Compaction at somebody's wish: all space comes back that can be had.

use super::Store;
use crate::core::Core;
use crate::device::Device;
use crate::error::Error;
use std::rc::Rc;
use std::time::Duration;

/// How often to look whether it has come to rest.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// So many checkpoints in a row set nothing free: the second makes both superblocks
/// name the newest.
const ROUNDS_IDLE: u32 = 3;
/// Another round follows one that gave this part of the log back.
const ROUND_PERCENT_MIN: u64 = 10;

/// What has come of it so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// All segments, before and now, without spares; and what of them is in use.
    pub log_bytes_before: u64,
    pub log_bytes: u64,
    pub log_live_bytes: u64,
    pub bytes_moved: u64,
    pub segments_freed: u64,
}

/// Ends with the wish.
struct Thorough<D: Device>(Rc<Core<D>>);

impl<D: Device> Drop for Thorough<D> {
    fn drop(&mut self) {
        self.0.thorough_below.set(None);
    }
}

impl<D: Device> Store<D> {
    /// Compacts until nothing more is to be had: segments of which a tenth is garbage are emptied,
    /// and freed once checkpoints let them go. Keeps to the budget of compaction, and to what the
    /// retention protects.
    pub async fn compact(&self, mut progress: impl FnMut(Compacted)) -> Result<Compacted, Error> {
        let core = &self.core;
        let _thorough = Thorough(Rc::clone(core));
        let before = self.stats();
        let so_far = || {
            let now = self.stats();
            Compacted {
                log_bytes_before: before.log_bytes,
                log_bytes: now.log_bytes,
                log_live_bytes: now.log_live_bytes,
                bytes_moved: now.bytes_moved - before.bytes_moved,
                segments_freed: now.segments_freed - before.segments_freed,
            }
        };
        let mut last = so_far();
        loop {
            let log_bytes = last.log_bytes;
            last = self.compact_once(&so_far, &mut progress).await?;
            // What was copied on the way may lie as loosely as what it came from, and a segment
            // that was needed then may not be any more.
            if last.log_bytes * 100 > log_bytes * (100 - ROUND_PERCENT_MIN) {
                return Ok(last);
            }
        }
    }

    /// Empties what is worth it of the segments that there are now.
    async fn compact_once(
        &self,
        so_far: &impl Fn() -> Compacted,
        progress: &mut impl FnMut(Compacted),
    ) -> Result<Compacted, Error> {
        let core = &self.core;
        let below = {
            let segments = core.segments.borrow();
            (segments.next_id(), segments.cold_next)
        };
        core.thorough_below.set(Some(below));
        let given_up = core.given_up.get();
        let (mut idle, mut last) = (0, so_far());
        while idle < ROUNDS_IDLE {
            core.wants_checkpoint.set(true);
            core.upkeep.ring();
            core.compaction.ring();
            loop {
                core.device.sleep(LOOK_EVERY).await;
                core.check_open()?;
                progress(so_far());
                match self.given_up() {
                    Some((count, what)) if count > given_up => return Err(Error::GivenUp(what)),
                    _ => {}
                }
                // A checkpoint is no longer wanted as soon as it is begun.
                let is_at_work =
                    core.wants_checkpoint.get() || core.maintains.get() || core.compacts.get();
                if !is_at_work {
                    break;
                }
            }
            let now = so_far();
            let is_same =
                (now.bytes_moved, now.segments_freed) == (last.bytes_moved, last.segments_freed);
            idle = if is_same { idle + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }
}
