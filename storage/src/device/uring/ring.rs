//! A ring and what is in flight in it: reads, writes, syncs, short sleeps.
//!
//! Invariants: a slot owns its buffer from submission to completion, so a dropped future leaves the
//! kernel nothing dangling; the ring is dropped only when no operation is in flight.

use crate::buffer::Buffer;
use crate::wait::Broadcast;
use io_uring::{IoUring, opcode, squeue, types};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const RING_ENTRIES: u32 = 256;

/// Completions that fit into the ring at once; operations in flight stay below, so that none ever
/// overflows. More wait their turn.
const COMPLETION_ENTRIES: u32 = 1024;
const IN_FLIGHT_MAX: usize = 1000;

/// How often the kernel may ask to be asked again.
const SUBMIT_ATTEMPTS: u32 = 1000;

/// The completion that only wakes the reaper, so that it sees that the device is gone.
const WAKE_REAPER: u64 = u64::MAX;

/// What is in flight under one number: the buffer, and where the results go.
#[derive(Debug, Default)]
struct Slot {
    buffer: Option<Buffer>,
    /// Keeps the descriptor open until the kernel is done with it.
    _file: Option<Rc<File>>,
    /// Of a sleep.
    _time: Option<Box<types::Timespec>>,
    in_flight: bool,
    result: i32,
    waker: Option<Waker>,
    /// The future was dropped: the slot frees itself.
    abandoned: bool,
}

impl Slot {
    fn of(file: &Rc<File>, buffer: Option<Buffer>) -> Slot {
        Slot { buffer, _file: Some(Rc::clone(file)), ..Slot::default() }
    }
}

pub(super) struct Ring {
    pub(super) ring: RefCell<IoUring>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    in_flight: Cell<usize>,
    /// Rung whenever completions have been taken.
    room: Broadcast,
    pub(super) closing: Cell<bool>,
    /// A task of the store has work left, and let others go first: the core must not sleep.
    pub(super) gave_way: Cell<bool>,
    /// What starts now is handed to the kernel together.
    is_held: Cell<bool>,
    /// Calls that block a thread of the executor's pool, and are awaited.
    pub(super) blocking: Cell<usize>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} in flight)", self.in_flight.get())
    }
}

impl Ring {
    pub(super) fn new() -> io::Result<Ring> {
        let build = |cooperative: bool| {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(COMPLETION_ENTRIES);
            if cooperative {
                builder.setup_coop_taskrun();
            }
            builder.build(RING_ENTRIES)
        };
        // Completions that do not interrupt the core came with Linux 5.19.
        let ring = build(true).or_else(|_| build(false)).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "io_uring_setup: {error}; Kura needs Linux 5.15 or newer with io_uring allowed \
                     (sysctl kernel.io_uring_disabled=0, and no seccomp profile that forbids it)"
                ),
            )
        })?;
        Ok(Ring {
            ring: RefCell::new(ring),
            slots: RefCell::default(),
            free: RefCell::default(),
            in_flight: Cell::new(0),
            room: Broadcast::default(),
            closing: Cell::new(false),
            gave_way: Cell::new(false),
            is_held: Cell::new(false),
            blocking: Cell::new(0),
        })
    }

    /// A second descriptor of the ring, for the executor to poll.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        let ring = self.ring.borrow();
        // SAFETY: the ring is open as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned()
    }

    /// Takes every completion that is there, and wakes whoever waits for it. Whether there was any.
    pub(super) fn complete(&self) -> bool {
        let gave_way = self.gave_way.take();
        let mut ring = self.ring.borrow_mut();
        let completed = ring.completion();
        if completed.is_empty() {
            return gave_way;
        }
        let mut slots = self.slots.borrow_mut();
        for entry in completed {
            if entry.user_data() == WAKE_REAPER {
                continue;
            }
            let number = usize::try_from(entry.user_data()).expect("a number that we chose");
            let slot = &mut slots[number];
            slot.in_flight = false;
            slot.result = entry.result();
            self.in_flight.set(self.in_flight.get() - 1);
            if slot.abandoned {
                *slot = Slot::default();
                self.free.borrow_mut().push(number);
            } else if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
        self.room.ring();
        true
    }

    fn start(&self, slot: Slot, entry: squeue::Entry, number: usize) -> io::Result<()> {
        self.slots.borrow_mut()[number] = slot;
        let mut ring = self.ring.borrow_mut();
        let entry = entry.user_data(number as u64);
        // SAFETY: the slot owns buffer and file until the completion is in.
        while unsafe { ring.submission().push(&entry) }.is_err() {
            submit(&ring)?;
        }
        self.in_flight.set(self.in_flight.get() + 1);
        if self.is_held.get() { Ok(()) } else { submit(&ring) }
    }

    /// Runs what starts many operations when it is first polled: the kernel gets them by one call,
    /// and the disk as one batch.
    pub(super) async fn together<T>(&self, operations: impl Future<Output = T>) -> io::Result<T> {
        let mut operations = std::pin::pin!(operations);
        self.is_held.set(true);
        let first = std::future::poll_fn(|context| Poll::Ready(operations.as_mut().poll(context)));
        let first = first.await;
        self.is_held.set(false);
        submit(&self.ring.borrow())?;
        match first {
            Poll::Ready(done) => Ok(done),
            Poll::Pending => Ok(operations.await),
        }
    }

    fn claim(&self) -> usize {
        if let Some(number) = self.free.borrow_mut().pop() {
            return number;
        }
        let mut slots = self.slots.borrow_mut();
        slots.push(Slot::default());
        slots.len() - 1
    }

    pub(super) async fn read(
        self: &Rc<Ring>,
        file: &Rc<File>,
        offset: u64,
        mut buffer: Buffer,
        from: usize,
    ) -> (io::Result<usize>, Buffer) {
        let target = &mut buffer.as_mut_slice()[from..];
        let (address, length) = (target.as_mut_ptr(), ring_length(target.len()));
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), address, length)
            .offset(offset + from as u64)
            .build();
        let (outcome, buffer) = self.run(Slot::of(file, Some(buffer)), entry).await;
        (outcome, buffer.expect("a read gives its buffer back"))
    }

    pub(super) async fn write(
        self: &Rc<Ring>,
        file: &Rc<File>,
        offset: u64,
        mut buffer: Buffer,
        flags: i32,
    ) -> (io::Result<()>, Buffer) {
        let length = buffer.len();
        let descriptor = types::Fd(file.as_raw_fd());
        let entry = opcode::Write::new(descriptor, buffer.as_mut_ptr(), ring_length(length))
            .offset(offset)
            .rw_flags(flags)
            .build();
        let (outcome, buffer) = self.run(Slot::of(file, Some(buffer)), entry).await;
        let outcome = outcome.and_then(|written| {
            if written == length {
                return Ok(());
            }
            // The space was allocated, so a short write means that something is wrong.
            Err(io::Error::other(format!("{written} of {length} bytes written at {offset}")))
        });
        (outcome, buffer.expect("a write gives its buffer back"))
    }

    pub(super) async fn sync(self: &Rc<Ring>, file: &Rc<File>) -> io::Result<()> {
        let descriptor = types::Fd(file.as_raw_fd());
        let sync = opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build();
        self.run(Slot::of(file, None), sync).await.0.map(|_| ())
    }

    pub(super) async fn sleep(self: &Rc<Ring>, duration: Duration) {
        let time = Box::new(types::Timespec::from(duration));
        let entry = opcode::Timeout::new(&raw const *time).build();
        // It "fails" with ETIME. Should the ring take nothing more, sleeping is not what matters.
        let _ = self.run(Slot { _time: Some(time), ..Slot::default() }, entry).await;
    }

    async fn run(
        self: &Rc<Ring>,
        slot: Slot,
        entry: squeue::Entry,
    ) -> (io::Result<usize>, Option<Buffer>) {
        while self.in_flight.get() >= IN_FLIGHT_MAX {
            self.room.wait().await;
        }
        let number = self.claim();
        let slot = Slot { in_flight: true, ..slot };
        let operation = Operation { ring: Rc::clone(self), number };
        if let Err(error) = self.start(slot, entry, number) {
            // The kernel may hold the entry: the slot stays taken, its buffer with it.
            std::mem::forget(operation);
            return (Err(error), Some(Buffer::with_capacity(1)));
        }
        operation.await
    }

    /// Waits, blocking, until nothing is in flight; then lets the reaper go.
    pub(super) fn drain(&self) {
        self.closing.set(true);
        while self.in_flight.get() > 0 {
            if self.ring.borrow().submit_and_wait(1).is_err() {
                return;
            }
            self.complete();
        }
        let mut ring = self.ring.borrow_mut();
        let nop = opcode::Nop::new().build().user_data(WAKE_REAPER);
        // SAFETY: a nop refers to no memory.
        let _ = unsafe { ring.submission().push(&nop) };
        let _ = ring.submit();
    }
}

fn ring_length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a buffer below 4 GiB")
}

/// Hands the kernel what is queued. A signal, or a moment's lack of memory, is no
/// failure of the disk.
fn submit(ring: &IoUring) -> io::Result<()> {
    let mut patience = SUBMIT_ATTEMPTS;
    loop {
        match ring.submit() {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error)
                if patience > 0
                    && matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) =>
            {
                patience -= 1;
                std::thread::yield_now();
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits for one slot. Dropped early, it leaves the slot to the reaper.
struct Operation {
    ring: Rc<Ring>,
    number: usize,
}

impl Future for Operation {
    type Output = (io::Result<usize>, Option<Buffer>);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slots = self.ring.slots.borrow_mut();
        let slot = &mut slots[self.number];
        if slot.in_flight {
            match &mut slot.waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => slot.waker = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        let outcome =
            usize::try_from(slot.result).map_err(|_| io::Error::from_raw_os_error(-slot.result));
        Poll::Ready((outcome, slot.buffer.take()))
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let mut slots = self.ring.slots.borrow_mut();
        let slot = &mut slots[self.number];
        if slot.in_flight {
            slot.abandoned = true;
            slot.waker = None;
            return;
        }
        *slot = Slot::default();
        self.ring.free.borrow_mut().push(self.number);
    }
}
