//! Which of a core's sockets are ready: one epoll set, edge-triggered, for all of them, for the
//! ring of its store, and for the doorbell that other cores ring.
//!
//! The executor's own way, a poll request in its ring for every wait, takes several entries into
//! the kernel and a turn of its reactor for each piece that comes in. Here a busy core asks
//! epoll for all that has become ready, lets those sessions run, and asks again; see `core.rs`
//! for how it sleeps.
//!
//! Edges mean that a socket is announced once, when something comes. So each remembers that it may
//! have something to read until a read has emptied it.

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll as Polled, Waker};
use std::time::{Duration, Instant};

/// Announcements that are taken from the kernel at once.
const EVENTS_MAX: usize = 256;

/// What is no socket: it ends a sleep, and whoever hears of it looks for himself.
const NO_SOCKET: Token = Token(usize::MAX - 1);

/// Wakes a core from another thread, if it sleeps.
#[derive(Debug)]
pub struct Doorbell {
    /// Set before the core looks into its queues for the last time. So whoever puts something into
    /// one after that look finds it set: the queue's own lock orders the two.
    listening: AtomicBool,
    bell: mio::Waker,
}

impl Doorbell {
    /// The bell of the core that will use `poll`.
    pub fn new(poll: &Poll) -> io::Result<Doorbell> {
        let bell = mio::Waker::new(poll.registry(), NO_SOCKET)?;
        Ok(Doorbell { listening: AtomicBool::new(false), bell })
    }

    pub fn ring(&self) {
        if self.listening.swap(false, Ordering::SeqCst)
            && let Err(error) = self.bell.wake()
        {
            tracing::error!(%error, "can't wake a core");
        }
    }

    pub fn listen(&self) {
        self.listening.store(true, Ordering::SeqCst);
    }

    pub fn ignore(&self) {
        self.listening.store(false, Ordering::SeqCst);
    }
}

/// The epoll set of a core.
pub struct Readiness {
    poll: RefCell<(Poll, Events)>,
    sockets: RefCell<Slab<Rc<State>>>,
}

/// What is known of a socket.
#[derive(Debug, Default)]
struct State {
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// The peer has sent its last, or the connection broke: there is no edge to come.
    ended: Cell<bool>,
    /// Of the one task that the socket belongs to.
    waker: RefCell<Option<Waker>>,
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readiness").field("sockets", &self.sockets.borrow().len()).finish()
    }
}

impl Readiness {
    pub fn new(poll: Poll) -> Readiness {
        let poll = RefCell::new((poll, Events::with_capacity(EVENTS_MAX)));
        Readiness { poll, sockets: RefCell::default() }
    }

    /// Ends sleep when `descriptor` becomes readable, too.
    pub fn wake_for(&self, descriptor: &impl AsRawFd) -> io::Result<()> {
        let descriptor = descriptor.as_raw_fd();
        let poll = self.poll.borrow();
        poll.0.registry().register(&mut SourceFd(&descriptor), NO_SOCKET, Interest::READABLE)
    }

    /// Wakes the tasks whose sockets have become ready, waiting for the first for so long, with the
    /// whole thread. Whether there was anything.
    pub fn turn(&self, patience: Duration) -> io::Result<bool> {
        let (poll, events) = &mut *self.poll.borrow_mut();
        let end = Instant::now() + patience;
        let mut left = patience;
        // The executor's own timers interrupt it; they have their turn when the nap is over.
        while let Err(error) = poll.poll(events, Some(left)) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            left = end.saturating_duration_since(Instant::now());
        }
        let sockets = self.sockets.borrow();
        for event in &*events {
            let Some(state) = sockets.get(event.token().0) else { continue };
            if event.is_read_closed() || event.is_error() {
                state.ended.set(true);
            }
            if event.is_readable() || state.ended.get() {
                state.readable.set(true);
            }
            if event.is_writable() || event.is_write_closed() || event.is_error() {
                state.writable.set(true);
            }
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
        Ok(!events.is_empty())
    }
}

/// A non-blocking stream that can be waited for. Lives on one core, and belongs to one task.
#[derive(Debug)]
pub struct Socket {
    // Before the stream, so that it is undone while the descriptor is still ours.
    registration: Registration,
    stream: TcpStream,
}

#[derive(Debug)]
struct Registration {
    readiness: Rc<Readiness>,
    state: Rc<State>,
    key: usize,
    descriptor: RawFd,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let poll = self.readiness.poll.borrow();
        let _ = poll.0.registry().deregister(&mut SourceFd(&self.descriptor));
        self.readiness.sockets.borrow_mut().remove(self.key);
    }
}

impl Socket {
    /// `stream` must be non-blocking.
    pub fn new(stream: TcpStream, readiness: &Rc<Readiness>) -> io::Result<Socket> {
        let state = Rc::new(State::default());
        let key = readiness.sockets.borrow_mut().insert(Rc::clone(&state));
        let descriptor = stream.as_raw_fd();
        let readiness = Rc::clone(readiness);
        let registration = Registration { readiness, state, key, descriptor };
        registration.readiness.poll.borrow().0.registry().register(
            &mut SourceFd(&descriptor),
            Token(key),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        Ok(Socket { registration, stream })
    }

    /// The bare stream, for another core.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Resolves when a read may find something.
    pub async fn readable(&self) {
        std::future::poll_fn(|context| self.poll(&self.registration.state.readable, context)).await;
    }

    /// Resolves when a write may find room.
    pub async fn writable(&self) {
        std::future::poll_fn(|context| self.poll(&self.registration.state.writable, context)).await;
    }

    fn poll(&self, ready: &Cell<bool>, context: &mut Context<'_>) -> Polled<()> {
        if ready.get() {
            return Polled::Ready(());
        }
        let mut waker = self.registration.state.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
        Polled::Pending
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = retry(|| (&self.stream).read(buffer));
        let state = &self.registration.state;
        match &outcome {
            // A stream that gives less than was asked for is empty (epoll(7)), but for its end.
            Ok(count) if *count < buffer.len() => state.readable.set(state.ended.get()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => state.readable.set(false),
            _ => {}
        }
        outcome
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let outcome = retry(|| (&self.stream).write(bytes));
        self.note_room(outcome)
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let outcome = retry(|| (&self.stream).write_vectored(parts));
        self.note_room(outcome)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket {
    fn note_room(&self, outcome: io::Result<usize>) -> io::Result<usize> {
        if let Err(error) = &outcome
            && error.kind() == io::ErrorKind::WouldBlock
        {
            self.registration.state.writable.set(false);
        }
        outcome
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
