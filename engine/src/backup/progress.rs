//! How far long work has come: a bar on a terminal, a line now and then otherwise;
//! on standard error.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LINE_EVERY: Duration = Duration::from_secs(5);
const BAR_EVERY: Duration = Duration::from_millis(100);
const WIDTH: u64 = 30;

#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    is_terminal: bool,
    is_silent: bool,
    started: Instant,
    shown: Option<Instant>,
    so_far: SoFar,
}

/// For whoever has to say it when the work is broken off.
#[derive(Debug, Clone, Default)]
pub struct SoFar(Arc<[AtomicU64; 2]>);

impl SoFar {
    /// Bytes done, and all of them. Zero: it has not begun.
    pub fn bytes(&self) -> (u64, u64) {
        let [done, total] = &*self.0;
        (done.load(Ordering::Relaxed), total.load(Ordering::Relaxed))
    }
}

impl Progress {
    /// `is_silent`: shows nothing.
    pub fn new(what: &'static str, is_silent: bool) -> Progress {
        let is_terminal = stderr().is_terminal();
        let (started, so_far) = (Instant::now(), SoFar::default());
        Progress { what, is_terminal, is_silent, started, shown: None, so_far }
    }

    pub fn so_far(&self) -> SoFar {
        self.so_far.clone()
    }

    /// `done` of `total` bytes.
    pub fn show(&mut self, done: u64, total: u64) {
        self.so_far.0[0].store(done, Ordering::Relaxed);
        self.so_far.0[1].store(total, Ordering::Relaxed);
        let every = if self.is_terminal { BAR_EVERY } else { LINE_EVERY };
        let last = self.shown.unwrap_or(self.started);
        let is_due = last.elapsed() >= every || (done == total && self.shown.is_some());
        if self.is_silent || !is_due {
            return;
        }
        self.shown = Some(Instant::now());
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let figures = format!(
            "{percent:3} %  {} of {} MiB, {:.0} MiB/s",
            done >> 20,
            total >> 20,
            (done >> 20) as f64 / seconds
        );
        // Nobody may be looking any more.
        let _ = if self.is_terminal {
            let filled = (percent.min(100) * WIDTH / 100) as usize;
            let bar = "█".repeat(filled) + &"░".repeat(WIDTH as usize - filled);
            write!(stderr(), "\r{} {bar} {figures} ", self.what)
        } else {
            writeln!(stderr(), "{} {figures}", self.what)
        };
    }

    /// Leaves the line of the bar.
    pub fn end(&self) {
        if self.is_terminal && self.shown.is_some() {
            let _ = writeln!(stderr());
        }
    }
}
