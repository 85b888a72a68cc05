//! Who may still look at places in the log that nothing refers to any more.
//!
//! A reader holds a place across awaits, and a body that is streamed in lies in chunks that no
//! message lists yet. Each has a [`Use`] for as long; a segment is freed only when all that
//! began before it was seen to be empty have ended. What begins later finds nothing in the index
//! that leads there.
//!
//! A use says nothing when it ends, since a body that was streamed in may end on another core: its
//! count falls to zero, and whoever asks next finds that out.

use crate::format::SegmentId;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// Ended ones are forgotten when there may be so many.
const FORGET_AT_MIN: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Uses {
    inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    forget_at: usize,
    /// By number: the first segment that is of concern.
    begun: BTreeMap<u64, (SegmentId, Weak<()>)>,
}

/// Ends when dropped.
#[derive(Debug)]
pub(crate) struct Use(#[allow(dead_code)] Arc<()>);

impl Uses {
    pub(crate) fn begin(&self, from: SegmentId) -> Use {
        let mut inner = self.inner.borrow_mut();
        let number = inner.next;
        inner.next += 1;
        if inner.begun.len() >= inner.forget_at {
            inner.begun.retain(|_, (_, token)| token.strong_count() > 0);
            inner.forget_at = FORGET_AT_MIN.max(2 * inner.begun.len());
        }
        let token = Arc::new(());
        inner.begun.insert(number, (from, Arc::downgrade(&token)));
        Use(token)
    }

    /// All that have begun have a lower number.
    pub(crate) fn mark(&self) -> u64 {
        self.inner.borrow().next
    }

    /// Whether somebody who began before the mark may look into the segment.
    pub(crate) fn reach(&self, segment: SegmentId, mark: u64) -> bool {
        let inner = self.inner.borrow();
        let mut begun = inner.begun.range(..mark);
        begun.any(|(_, (from, token))| *from <= segment && token.strong_count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_began_before_the_mark_and_reaches_the_segment_keeps_it() {
        let uses = Uses::default();
        let reader = uses.begin(SegmentId(0));
        let writer = uses.begin(SegmentId(5));
        let mark = uses.mark();
        let late = uses.begin(SegmentId(0));
        assert!(uses.reach(SegmentId(3), mark));
        drop(reader);
        assert!(!uses.reach(SegmentId(3), mark) && uses.reach(SegmentId(5), mark));
        drop(writer);
        assert!(!uses.reach(SegmentId(5), mark));
        drop(late);
    }

    #[test]
    fn what_has_ended_is_forgotten_in_time_and_what_lasts_is_not() {
        let uses = Uses::default();
        let lasting = uses.begin(SegmentId(0));
        for _ in 0..10_000 {
            drop(uses.begin(SegmentId(0)));
        }
        assert!(uses.inner.borrow().begun.len() <= 2 * FORGET_AT_MIN);
        assert!(uses.reach(SegmentId(1), 1));
        drop(lasting);
        assert!(!uses.reach(SegmentId(1), uses.mark()));
    }
}
