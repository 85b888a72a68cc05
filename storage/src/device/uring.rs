//! The real disk: a ring of the shard's own beside the executor's, and `O_DIRECT` files.
//!
//! Reads, writes, syncs and short sleeps go through the ring; a small task reaps completions whenever
//! the ring's descriptor becomes readable, or the caller does. Creating, removing and syncing the directory have no fast
//! asynchronous form and go to the executor's blocking pool. Where the file system refuses
//! `O_DIRECT` (tmpfs), files are buffered; [`Uring::direct`] says so.
//!
//! Invariants: a slot owns its buffer from submission to completion, so a dropped future leaves the
//! kernel nothing dangling; the ring is dropped only when no operation is in flight.
//!
//! The only file that names io-uring and glommio.

use super::{Device, Listed, Mapping, mapped};
use crate::buffer::Buffer;
use crate::types::UnixMillis;
use crate::wait::Broadcast;
use glommio::io::PollableFd;
use io_uring::{IoUring, opcode, squeue, types};
use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const RING_ENTRIES: u32 = 256;

/// Completions that fit into the ring at once; operations in flight stay below, so that none ever
/// overflows. More wait their turn.
const COMPLETION_ENTRIES: u32 = 1024;
const IN_FLIGHT_MAX: usize = 1000;

/// How often the kernel may ask to be asked again.
const SUBMIT_ATTEMPTS: u32 = 1000;

/// The completion that only wakes the reaper, so that it sees that the device is gone.
const WAKE_REAPER: u64 = u64::MAX;

/// A directory on a real disk. Lives on the executor that opened it.
#[derive(Debug)]
pub struct Uring {
    ring: RingOwner,
    directory: PathBuf,
    direct: bool,
    /// Nothing below the directory is changed.
    read_only: bool,
    opened: Instant,
    /// Holds the lock on the directory until the device is dropped.
    _lock: Option<File>,
}

impl Uring {
    /// Opens the directory, creating it when missing, and locks it against a second server.
    /// Must be called on the executor that will use it.
    #[allow(clippy::unused_async)] // callers should not rely on its being quick
    pub async fn open(directory: &Path) -> io::Result<Uring> {
        let (device, completions) = Uring::open_unreaped(directory)?;
        glommio::spawn_local(async move { completions.reap().await }).detach();
        Ok(device)
    }

    /// As [`Uring::open`], for a caller that takes the completions itself, whenever their descriptor is
    /// readable: no operation ends before.
    pub fn open_unreaped(directory: &Path) -> io::Result<(Uring, Completions)> {
        let directory = directory.to_owned();
        std::fs::create_dir_all(&directory).map_err(|error| at(&directory, &error))?;
        let lock = lock_directory(&directory)?;
        let direct = takes_direct(&directory)?;
        let ring = Rc::new(Ring::new()?);
        let completions = Completions(Rc::clone(&ring));
        let ring = RingOwner(ring);
        let (opened, lock) = (Instant::now(), Some(lock));
        let device = Uring { ring, directory, direct, read_only: false, opened, _lock: lock };
        Ok((device, completions))
    }

    /// To read what is there, whatever its state: creates nothing, not even a lock, and refuses to write. Must be called on the executor that will use it.
    pub fn open_read_only(directory: &Path) -> io::Result<Uring> {
        let directory = directory.to_owned();
        std::fs::read_dir(&directory).map_err(|error| at(&directory, &error))?;
        let ring = Rc::new(Ring::new()?);
        let completions = Completions(Rc::clone(&ring));
        glommio::spawn_local(async move { completions.reap().await }).detach();
        let ring = RingOwner(ring);
        let opened = Instant::now();
        Ok(Uring { ring, directory, direct: false, read_only: true, opened, _lock: None })
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    /// Whether files bypass the page cache.
    #[must_use]
    pub fn direct(&self) -> bool {
        self.direct
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let path = self.directory.join(name);
        glommio::executor()
            .spawn_blocking(move || work(&path).map_err(|error| at(&path, &error)))
            .await
    }
}

/// What the ring has completed, to be looked at without a system call.
#[derive(Debug, Clone)]
pub struct Completions(Rc<Ring>);

impl Completions {
    /// Wakes whoever waits for something that is complete by now. Whether there was anything.
    pub fn take(&self) -> bool {
        self.0.complete()
    }

    /// Takes them until the device is dropped, by way of the executor's reactor.
    pub async fn reap(&self) {
        let Ok(poll) = self.0.descriptor().and_then(|ring| Ok(PollableFd::new(ring)?)) else {
            return;
        };
        while !self.0.closing.get() && poll.readable().await.is_ok() {
            self.take();
        }
    }
}

impl AsRawFd for Completions {
    fn as_raw_fd(&self) -> RawFd {
        self.0.ring.borrow().as_raw_fd()
    }
}

/// The device's share of the ring. When it goes, the ring is drained and the reaper let go.
#[derive(Debug)]
struct RingOwner(Rc<Ring>);

impl std::ops::Deref for RingOwner {
    type Target = Rc<Ring>;

    fn deref(&self) -> &Rc<Ring> {
        &self.0
    }
}

impl Drop for RingOwner {
    fn drop(&mut self) {
        self.0.drain();
    }
}

/// Keeps the kind of the error, adds the file.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn lock_directory(directory: &Path) -> io::Result<File> {
    let path = directory.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| at(&path, &error))?;
    // SAFETY: flock on a descriptor that we own; it touches no memory.
    let outcome = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if outcome == 0 {
        return Ok(lock);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!(
                "data directory {} is in use by another process; stop that one first, \
                 or give this one a directory of its own",
                directory.display()
            ),
        ));
    }
    Err(at(&path, &error))
}

/// Tries `O_DIRECT` on a scratch file, since file systems differ and say so only at open.
fn takes_direct(directory: &Path) -> io::Result<bool> {
    let path = directory.join("direct-io-trial");
    let trial = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    let direct = match trial {
        Ok(_) => true,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => false,
        Err(error) => return Err(at(&path, &error)),
    };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path, &error)),
        _ => Ok(direct),
    }
}

/// Past the page cache where that can be: one sector that can't be read would cost all that the cache reads with it.
fn open_to_read(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    match options.custom_flags(libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(path),
        opened => opened,
    }
}

fn open_file(path: &Path, direct: bool, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Mail is nobody else's business, whoever may look into the directory.
    options.read(true).write(true).mode(0o600);
    if create {
        options.create(true).truncate(true);
    }
    if direct {
        options.custom_flags(libc::O_DIRECT);
    }
    options.open(path)
}

/// Allocates `bytes`, and removes the file again when the disk has no room for it.
fn create_file(path: &Path, direct: bool, bytes: u64) -> io::Result<File> {
    let file = open_file(path, direct, true)?;
    if bytes == 0 {
        return Ok(file);
    }
    let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: a descriptor that we own; the call touches no memory.
    let outcome = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) };
    if outcome == 0 {
        return Ok(file);
    }
    let error = io::Error::from_raw_os_error(outcome);
    let _ = std::fs::remove_file(path);
    Err(error)
}

/// A sleep in the ring is exact, and cannot be dropped before its time: closing waits for it. A long one
/// is the executor's.
const EXECUTOR_SLEEP_MIN: Duration = Duration::from_millis(100);

impl Device for Uring {
    type File = Rc<File>;

    async fn list(&self) -> io::Result<Vec<Listed>> {
        self.blocking("", |directory| {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(directory)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                    files.push(Listed { name, bytes: metadata.len() });
                }
            }
            Ok(files)
        })
        .await
    }

    async fn create(&self, name: &str, bytes: u64) -> io::Result<Rc<File>> {
        self.check_writable()?;
        let direct = self.direct;
        self.blocking(name, move |path| create_file(path, direct, bytes)).await.map(Rc::new)
    }

    async fn open(&self, name: &str) -> io::Result<Rc<File>> {
        let (direct, read_only) = (self.direct, self.read_only);
        let open = move |path: &Path| match read_only {
            true => open_to_read(path),
            false => open_file(path, direct, false),
        };
        self.blocking(name, open).await.map(Rc::new)
    }

    async fn read(&self, file: &Rc<File>, offset: u64, mut buffer: Buffer) -> io::Result<Buffer> {
        let wanted = buffer.capacity();
        buffer.set_len(wanted);
        let mut filled = 0;
        // A short read is the end of the file, or a signal: only a second, empty one tells.
        while filled < wanted {
            let (outcome, given_back) = self.ring.read(file, offset, buffer, filled).await;
            buffer = given_back;
            match outcome? {
                0 => break,
                more => filled += more,
            }
            if !filled.is_multiple_of(crate::buffer::ALIGNMENT) {
                break;
            }
        }
        buffer.set_len(filled);
        Ok(buffer)
    }

    async fn write(
        &self,
        file: &Rc<File>,
        offset: u64,
        buffer: Buffer,
    ) -> (io::Result<()>, Buffer) {
        self.ring.write(file, offset, buffer, 0).await
    }

    async fn write_durably(
        &self,
        file: &Rc<File>,
        offset: u64,
        buffer: Buffer,
    ) -> (io::Result<()>, Buffer) {
        self.ring.write(file, offset, buffer, libc::RWF_DSYNC).await
    }

    async fn sync(&self, file: &Rc<File>) -> io::Result<()> {
        self.ring.sync(file).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        self.blocking(name, |path| std::fs::remove_file(path)).await
    }

    async fn sync_directory(&self) -> io::Result<()> {
        self.blocking("", |path| File::open(path)?.sync_all()).await
    }

    async fn map(&self, name: &str) -> io::Result<Mapping> {
        Ok(Rc::new(self.blocking(name, mapped::map).await?))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(self.directory.as_os_str().as_bytes())?;
        // SAFETY: all-zero is a valid `statvfs`.
        let mut answer: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: a terminated path, and room for the answer.
        if unsafe { libc::statvfs(path.as_ptr(), &mut answer) } != 0 {
            return Err(at(&self.directory, &io::Error::last_os_error()));
        }
        Ok(answer.f_bavail.saturating_mul(answer.f_frsize))
    }

    fn place(&self) -> String {
        self.directory.display().to_string()
    }

    fn now(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn steady(&self) -> Duration {
        self.opened.elapsed()
    }

    fn random(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        // SAFETY: room for as many bytes as are asked for. So few are never cut short.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if got == 8 { Ok(u64::from_ne_bytes(bytes)) } else { Err(io::Error::last_os_error()) }
    }

    async fn sleep(&self, duration: Duration) {
        if duration < EXECUTOR_SLEEP_MIN {
            self.ring.sleep(duration).await;
        } else {
            // A task of its own: the executor's timers (glommio-ng 0.12) enter themselves once more each time
            // they are polled, and leave when they are due; one that is waited for beside other things, for
            // an hour, filled memory, and every turn of the core walked through all of them.
            glommio::spawn_local(glommio::timer::sleep(duration)).await;
        }
    }

    async fn yield_now(&self) {
        self.ring.gave_way.set(true);
        glommio::executor().yield_now().await;
    }
}

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

struct Ring {
    ring: RefCell<IoUring>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    in_flight: Cell<usize>,
    /// Rung whenever completions have been taken.
    room: Broadcast,
    closing: Cell<bool>,
    /// A task of the store has work left, and let others go first: the core must not sleep.
    gave_way: Cell<bool>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} in flight)", self.in_flight.get())
    }
}

impl Ring {
    fn new() -> io::Result<Ring> {
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
        })
    }

    /// A second descriptor of the ring, for the executor to poll.
    fn descriptor(&self) -> io::Result<OwnedFd> {
        let ring = self.ring.borrow();
        // SAFETY: the ring is open as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned()
    }

    /// Takes every completion that is there, and wakes whoever waits for it. Whether there was any.
    fn complete(&self) -> bool {
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
        submit(&ring)
    }

    fn claim(&self) -> usize {
        if let Some(number) = self.free.borrow_mut().pop() {
            return number;
        }
        let mut slots = self.slots.borrow_mut();
        slots.push(Slot::default());
        slots.len() - 1
    }

    async fn read(
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

    async fn write(
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

    async fn sync(self: &Rc<Ring>, file: &Rc<File>) -> io::Result<()> {
        let descriptor = types::Fd(file.as_raw_fd());
        let sync = opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build();
        self.run(Slot::of(file, None), sync).await.0.map(|_| ())
    }

    async fn sleep(self: &Rc<Ring>, duration: Duration) {
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
    fn drain(&self) {
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

/// Hands the kernel what is queued. A signal, or a moment's lack of memory, is no failure of the disk.
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
