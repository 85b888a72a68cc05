//! The real disk: a ring of the shard's own beside the executor's, and `O_DIRECT` files.
//!
//! Reads, writes, syncs and short sleeps go through the ring; a small task reaps completions
//! whenever the ring's descriptor becomes readable, or the caller does. Creating, removing and
//! syncing the directory have no fast asynchronous form and go to the executor's blocking pool.
//! Where the file system refuses `O_DIRECT` (tmpfs), files are buffered; [`Uring::direct`] says so.
//!
//! The only file that names glommio; io-uring is named by `ring` alone.

mod ring;

use super::{Device, Listed, Mapping, mapped};
use crate::buffer::{ALIGNMENT, Buffer};
use crate::types::UnixMillis;
use futures_util::future::join_all;
use glommio::io::PollableFd;
use ring::Ring;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A directory on a real disk. Lives on the executor that opened it.
#[derive(Debug)]
pub struct Uring {
    ring: RingOwner,
    directory: PathBuf,
    /// The same while it is open, whatever becomes of its name.
    opened_directory: File,
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

    /// As [`Uring::open`], for a caller that takes the completions itself, whenever their
    /// descriptor is readable: no operation ends before.
    pub fn open_unreaped(directory: &Path) -> io::Result<(Uring, Completions)> {
        let directory = directory.to_owned();
        std::fs::create_dir_all(&directory).map_err(|error| at(&directory, &error))?;
        let lock = lock_directory(&directory)?;
        let opened_directory = File::open(&directory).map_err(|error| at(&directory, &error))?;
        let direct = takes_direct(&directory)?;
        let ring = Rc::new(Ring::new()?);
        let completions = Completions(Rc::clone(&ring));
        let ring = RingOwner(ring);
        let (opened, lock) = (Instant::now(), Some(lock));
        let read_only = false;
        let device =
            Uring { ring, directory, opened_directory, direct, read_only, opened, _lock: lock };
        Ok((device, completions))
    }

    /// To read what is there, whatever its state: creates nothing, not even a lock, and refuses to
    /// write. Must be called on the executor that will use it.
    pub fn open_read_only(directory: &Path) -> io::Result<Uring> {
        let directory = directory.to_owned();
        std::fs::read_dir(&directory).map_err(|error| at(&directory, &error))?;
        let opened_directory = File::open(&directory).map_err(|error| at(&directory, &error))?;
        let ring = Rc::new(Ring::new()?);
        let completions = Completions(Rc::clone(&ring));
        glommio::spawn_local(async move { completions.reap().await }).detach();
        let ring = RingOwner(ring);
        let opened = Instant::now();
        let (direct, read_only) = (false, true);
        Ok(Uring { ring, directory, opened_directory, direct, read_only, opened, _lock: None })
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    /// How files that are there are opened.
    fn opening(&self) -> impl Fn(&Path) -> io::Result<File> + Send + 'static {
        let (direct, read_only) = (self.direct, self.read_only);
        move |path: &Path| match read_only {
            true => open_to_read(path),
            false => open_file(path, direct, &OpenOptions::new()),
        }
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
        let _awaited = Awaited::begin(&self.ring);
        glommio::executor()
            .spawn_blocking(move || work(&path).map_err(|error| at(&path, &error)))
            .await
    }
}

/// A call on the executor's pool that somebody waits for.
struct Awaited<'r>(&'r Ring);

impl<'r> Awaited<'r> {
    fn begin(ring: &'r Ring) -> Awaited<'r> {
        ring.blocking.set(ring.blocking.get() + 1);
        Awaited(ring)
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.blocking.set(self.0.blocking.get() - 1);
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

    /// Whether the store waits for the executor's pool, of which no descriptor tells: a core that
    /// sleeps for long hears late of it.
    #[must_use]
    pub fn is_pool_awaited(&self) -> bool {
        self.0.blocking.get() > 0
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

/// Past the page cache where that can be: one sector that can't be read would cost all that the
/// cache reads with it.
fn open_to_read(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    match options.custom_flags(libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(path),
        opened => opened,
    }
}

fn open_file(path: &Path, direct: bool, how: &OpenOptions) -> io::Result<File> {
    let mut options = how.clone();
    // Mail is nobody else's business, whoever may look into the directory.
    options.read(true).write(true).mode(0o600);
    if direct {
        options.custom_flags(libc::O_DIRECT);
    }
    options.open(path)
}

/// Allocates `bytes`, and removes the file again when the disk has no room for it.
fn create_file(path: &Path, direct: bool, bytes: u64) -> io::Result<File> {
    let mut options = OpenOptions::new();
    if bytes == 0 {
        return open_file(path, direct, options.create(true).truncate(true));
    }
    let file = open_file(path, direct, options.create_new(true))?;
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

/// A sleep in the ring is exact, and cannot be dropped before its time: closing waits for it. A
/// long one is the executor's.
const EXECUTOR_SLEEP_MIN: Duration = Duration::from_millis(100);

impl Device for Uring {
    type File = Rc<File>;

    async fn list(&self) -> io::Result<Vec<Listed>> {
        self.blocking("", |directory| {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(directory)? {
                let entry = entry?;
                let metadata = match entry.metadata() {
                    // Gone since the directory was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    metadata => metadata?,
                };
                if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                    files.push(Listed { name, bytes: metadata.len(), id: metadata.ino() });
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
        self.blocking(name, self.opening()).await.map(Rc::new)
    }

    async fn read_heads(&self, names: &[String]) -> io::Result<Vec<io::Result<Buffer>>> {
        let (names, open) = (names.to_vec(), self.opening());
        // They are opened by one job, and read by one system call.
        let open_all = move |directory: &Path| {
            let open_one = |name: &String| {
                let path = directory.join(name);
                open(&path).map_err(|error| at(&path, &error))
            };
            Ok(names.iter().map(open_one).collect::<Vec<_>>())
        };
        let opened = self.blocking("", open_all).await?;
        let reads = opened.into_iter().map(|file| async {
            self.read(&Rc::new(file?), 0, Buffer::with_capacity(ALIGNMENT)).await
        });
        self.ring.together(join_all(reads)).await
    }

    fn file_id(&self, file: &Rc<File>) -> io::Result<u64> {
        Ok(file.metadata()?.ino())
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

    async fn is_in_place(&self) -> io::Result<bool> {
        let opened = self.opened_directory.metadata()?;
        match self.blocking("", |directory| std::fs::metadata(directory)).await {
            Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(false),
                _ => Err(error),
            },
        }
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
            // A task of its own: the executor's timers (glommio-ng 0.12) enter themselves once
            // more each time they are polled, and leave when they are due; one that is waited for
            // beside other things, for an hour, filled memory, and every turn of the core walked
            // through all of them.
            glommio::spawn_local(glommio::timer::sleep(duration)).await;
        }
    }

    async fn yield_now(&self) {
        self.ring.gave_way.set(true);
        glommio::executor().yield_now().await;
    }
}
