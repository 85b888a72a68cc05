//! How far long work has come, for the command that waits for it, and whether that still waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Course {
    done: AtomicU64,
    total: AtomicU64,
    is_unwanted: AtomicBool,
}

impl Course {
    /// Bytes that are done, and all of them. Zero: it has not begun.
    pub fn so_far(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Nobody waits for it any more.
    pub fn give_up(&self) {
        self.is_unwanted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.is_unwanted.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn of(done: u64, total: u64) -> Course {
        Course { done: done.into(), total: total.into(), ..Course::default() }
    }

    pub(crate) fn set(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}
