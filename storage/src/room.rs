//! Room that is kept for a message before it comes, so that a message for several shards is written
//! on none of them unless there is room on all ([`Store::keep_room`](crate::Store::keep_room)).
//!
//! What is kept counts as if it were on its way to the disk, against whatever else is admitted. It
//! is in memory alone: after a crash nothing is kept. A room may be dropped on any core, so it is
//! given back even if the core that was to use it never hears of it; that is why the count is
//! atomic, as nothing else in a store is.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The sum of all rooms of a store.
#[derive(Debug, Default)]
pub(crate) struct Kept(Arc<AtomicUsize>);

impl Kept {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn keep(&self, bytes: usize) -> Room {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Room { kept: Arc::clone(&self.0), bytes: Cell::new(bytes) }
    }
}

/// What is left of it is given back when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Room {
    kept: Arc<AtomicUsize>,
    bytes: Cell<usize>,
}

impl Room {
    /// For bytes that go on their way now, and are counted there from here on: how many
    /// of them were kept.
    pub(crate) fn take(&self, bytes: usize) -> usize {
        let taken = bytes.min(self.bytes.get());
        self.bytes.set(self.bytes.get() - taken);
        self.kept.fetch_sub(taken, Ordering::Relaxed);
        taken
    }

    /// What was taken, and does not go.
    pub(crate) fn put_back(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
        self.kept.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.kept.fetch_sub(self.bytes.get(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_taken_once_or_given_back_on_any_thread() {
        let kept = Kept::default();
        let (one, other) = (kept.keep(100), kept.keep(20));
        assert_eq!(kept.bytes(), 120);
        assert_eq!([one.take(60), one.take(41), one.take(1)], [60, 40, 0]);
        one.put_back(40);
        assert_eq!((kept.bytes(), one.take(40)), (60, 40));
        assert_eq!(kept.bytes(), 20);
        std::thread::spawn(move || drop(other)).join().unwrap();
        assert_eq!(kept.bytes(), 0);
        drop(one);
        assert_eq!(kept.bytes(), 0);
    }
}
