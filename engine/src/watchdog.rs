//! Deadlines of all sessions of a core, kept by one timer.
//!
//! A timer for each wait would cost more than most replies. Sessions note their deadline in a cell;
//! one task looks at all of them twice a second and wakes those that are late, and all of them when
//! the server stops. Deadlines are minutes: half a second of slack is nobody's loss.

use protocols::Tick;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(500);

/// Why a waiting session was woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    Deadline,
    /// The server begins to stop: what is under way may finish.
    Stopping,
    /// The server's patience has ended.
    Cut,
}

/// One session's deadline.
#[derive(Debug)]
pub struct Watch {
    deadline: Cell<Option<Tick>>,
    /// No deadline is later than this, whatever progress there is.
    limit: Cell<Option<Tick>>,
    waker: RefCell<Option<Waker>>,
    /// Whether this session has been told that the server stops.
    told: Cell<bool>,
    told_to_end: Cell<bool>,
    clock: Rc<Clock>,
}

#[derive(Debug)]
struct Clock {
    origin: Instant,
    stopping: Cell<bool>,
    cutting: Cell<bool>,
}

impl Clock {
    fn now(&self) -> Tick {
        Tick(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

impl Watch {
    pub fn set_deadline(&self, deadline: Option<Tick>) {
        let limit = self.limit.get();
        self.deadline.set(match (deadline, limit) {
            (Some(deadline), Some(limit)) => Some(deadline.min(limit)),
            (deadline, limit) => deadline.or(limit),
        });
    }

    pub fn set_timeout(&self, timeout: Duration) {
        self.set_deadline(Some(self.clock.now().after(timeout)));
    }

    /// For the deadlines that are set from now on; `None`: they may be as late as they like.
    pub fn set_limit(&self, limit: Option<Tick>) {
        self.limit.set(limit);
    }

    pub fn is_limit_over(&self) -> bool {
        self.limit.get().is_some_and(|limit| limit <= self.clock.now())
    }

    /// Resolves at the deadline, once when the server begins to stop, and once when it
    /// waits no longer.
    pub async fn woken(&self) -> Woken {
        std::future::poll_fn(|context| {
            if self.clock.cutting.get() && !self.told_to_end.replace(true) {
                return Poll::Ready(Woken::Cut);
            }
            if self.clock.stopping.get() && !self.told.replace(true) {
                return Poll::Ready(Woken::Stopping);
            }
            if self.deadline.get().is_some_and(|deadline| deadline <= self.clock.now()) {
                return Poll::Ready(Woken::Deadline);
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

#[derive(Debug)]
pub struct Watchdog {
    clock: Rc<Clock>,
    watches: RefCell<Vec<Weak<Watch>>>,
}

impl Watchdog {
    /// Ticks count from `origin`.
    pub fn new(origin: Instant) -> Watchdog {
        let clock = Clock { origin, stopping: Cell::new(false), cutting: Cell::new(false) };
        Watchdog { clock: Rc::new(clock), watches: RefCell::default() }
    }

    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    pub fn watch(&self) -> Rc<Watch> {
        let watch = Rc::new(Watch {
            deadline: Cell::new(None),
            limit: Cell::new(None),
            waker: RefCell::new(None),
            told: Cell::new(false),
            told_to_end: Cell::new(false),
            clock: Rc::clone(&self.clock),
        });
        self.watches.borrow_mut().push(Rc::downgrade(&watch));
        watch
    }

    pub fn stopping(&self) -> bool {
        self.clock.stopping.get()
    }

    /// Wakes every session, so that each takes its leave.
    pub fn stop(&self) {
        self.clock.stopping.set(true);
        self.bark(|_| true);
    }

    /// Wakes those that are still there: they end with what they have.
    pub fn cut(&self) {
        self.clock.cutting.set(true);
        self.bark(|_| true);
    }

    /// The one timer. Runs until the executor ends.
    pub async fn run(&self) {
        loop {
            glommio::timer::sleep(PERIOD).await;
            let now = self.now();
            self.bark(|watch| watch.deadline.get().is_some_and(|deadline| deadline <= now));
        }
    }

    fn bark(&self, late: impl Fn(&Watch) -> bool) {
        self.watches.borrow_mut().retain(|watch| {
            let Some(watch) = watch.upgrade() else { return false };
            if late(&watch)
                && let Some(waker) = watch.waker.take()
            {
                waker.wake();
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_progress_moves_a_deadline_past_the_limit() {
        let watchdog = Watchdog::new(Instant::now());
        let watch = watchdog.watch();
        let limit = watchdog.now().after(Duration::from_secs(10));
        watch.set_limit(Some(limit));
        watch.set_timeout(Duration::from_secs(300));
        assert_eq!(watch.deadline.get(), Some(limit));
        watch.set_timeout(Duration::from_secs(1));
        assert!(watch.deadline.get() < Some(limit));
        watch.set_deadline(None);
        assert_eq!(watch.deadline.get(), Some(limit));
        assert!(!watch.is_limit_over());
        watch.set_limit(Some(watchdog.now()));
        assert!(watch.is_limit_over());
        watch.set_limit(None);
        watch.set_timeout(Duration::from_secs(300));
        assert!(watch.deadline.get() > Some(limit) && !watch.is_limit_over());
    }
}
