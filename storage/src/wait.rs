//! Waiting on one core: a bell for the commit loop, an outcome that many wait for.

use crate::error::Error;
use crate::format::Location;
use crate::types::Lsn;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Wakes one waiter; rings that nobody waits for are kept, as one.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    pub fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(crate) fn poll_rung(&self, waker: &Waker) -> bool {
        if self.rung.replace(false) {
            return true;
        }
        *self.waker.borrow_mut() = Some(waker.clone());
        false
    }

    pub async fn wait(&self) {
        poll_fn(
            |context| {
                if self.poll_rung(context.waker()) { Poll::Ready(()) } else { Poll::Pending }
            },
        )
        .await;
    }
}

/// Wakes everybody who waits, and keeps nothing for those who come later.
#[derive(Debug, Default)]
pub(crate) struct Broadcast {
    rings: Cell<u64>,
    wakers: RefCell<Vec<Waker>>,
}

impl Broadcast {
    pub(crate) fn ring(&self) {
        self.rings.set(self.rings.get() + 1);
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Until the next ring.
    pub(crate) async fn wait(&self) {
        let before = self.rings.get();
        poll_fn(|context| {
            if self.rings.get() != before {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Runs two futures in one task until both are done.
pub(crate) async fn both(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut first_done, mut second_done) = (false, false);
    poll_fn(|context| {
        first_done = first_done || first.as_mut().poll(context).is_ready();
        second_done = second_done || second.as_mut().poll(context).is_ready();
        if first_done && second_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Until one of the two is done; the other is dropped.
pub(crate) async fn either(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    poll_fn(|context| {
        let is_done =
            first.as_mut().poll(context).is_ready() || second.as_mut().poll(context).is_ready();
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Where a batch ended up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Landed {
    pub(crate) location: Location,
    pub(crate) first_lsn: Lsn,
}

/// Why a batch did not. Cloned to every waiter.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    Device(String),
    Full(String),
    Halted,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Device(what) => Error::Device(what),
            Failure::Full(place) => Error::Full(place),
            Failure::Halted => Error::Halted,
        }
    }
}

/// What became of a batch: one cell that all records of the batch share.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    result: RefCell<Option<Result<Landed, Failure>>>,
    wakers: RefCell<Vec<Waker>>,
}

impl Outcome {
    pub(crate) fn settle(&self, result: Result<Landed, Failure>) {
        *self.result.borrow_mut() = Some(result);
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.result.borrow().is_some()
    }

    pub(crate) async fn settled(&self) -> Result<Landed, Failure> {
        poll_fn(|context| {
            if let Some(result) = &*self.result.borrow() {
                return Poll::Ready(result.clone());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().rev().take(4).any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// One record's share in its batch's outcome.
#[derive(Debug, Clone)]
pub(crate) struct Receipt {
    pub(crate) outcome: Rc<Outcome>,
    /// Position in the batch, counted in records and in bytes.
    pub(crate) number: u32,
    pub(crate) offset: u32,
}

impl Receipt {
    pub(crate) async fn landed(&self) -> Result<(Lsn, Location), Error> {
        let landed = self.outcome.settled().await?;
        let lsn = Lsn(landed.first_lsn.0 + u64::from(self.number));
        let offset = landed.location.offset() + u64::from(self.offset);
        Ok((lsn, Location::new(landed.location.segment, offset)))
    }
}
