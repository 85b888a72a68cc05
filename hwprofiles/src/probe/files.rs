//! The files that a probe writes into: created, pre-written, and removed whatever happens.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What offsets, lengths and addresses of direct writes are multiples of.
pub(crate) const ALIGNMENT: usize = 4096;
/// The largest write, which has to find room twice.
pub(super) const WRITE_BYTES_MAX: u64 = 4 << 20;
const FILE_BYTES_MIN: u64 = 2 * WRITE_BYTES_MAX;
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A directory of the probe's own, removed with everything in it when dropped.
pub(super) struct Place {
    path: PathBuf,
}

impl Place {
    pub(super) fn create(under: &Path) -> io::Result<Place> {
        let path = under.join(format!(".kura-probe-{}", std::process::id()));
        // One that was left by a kill, whose number came round again.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path)?;
        Ok(Place { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing to be done about a directory that will not go; its name says what it is.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// As many files as there are streams, all written once.
pub(super) struct Files {
    paths: Vec<PathBuf>,
    /// Of each.
    pub(super) bytes: u64,
    pub(super) direct: bool,
}

impl Files {
    /// Writes `count` files, as large as room and `budget` allow.
    pub(super) fn create(
        place: &Place,
        count: u32,
        free_bytes: u64,
        budget: Duration,
        noise: &Noise,
    ) -> io::Result<Files> {
        let room = free_bytes / 4 / u64::from(count);
        let bytes_max = (room / WRITE_BYTES_MAX * WRITE_BYTES_MAX).min(FILE_BYTES_MAX);
        let bytes_max = bytes_max.max(FILE_BYTES_MIN);
        let paths: Vec<_> =
            (0..count).map(|number| place.path().join(format!("stream-{number}"))).collect();
        let direct = takes_direct(&paths[0])?;
        let opened: Vec<_> =
            paths.iter().map(|path| open(path, direct, false)).collect::<Result<_, _>>()?;
        let (start, mut bytes) = (Instant::now(), 0);
        // All files grow together, so that they end at the same length.
        while bytes < FILE_BYTES_MIN || (bytes < bytes_max && start.elapsed() < budget) {
            for file in &opened {
                file.write_all_at(noise.bytes(WRITE_BYTES_MAX as usize), bytes)?;
            }
            bytes += WRITE_BYTES_MAX;
        }
        for file in &opened {
            file.sync_all()?;
        }
        Ok(Files { paths, bytes, direct })
    }

    /// Another descriptor of the file of this stream.
    pub(super) fn open(&self, stream: u32, direct: bool, dsync: bool) -> io::Result<File> {
        open(&self.paths[stream as usize], direct && self.direct, dsync)
    }
}

/// Whether the file system takes O_DIRECT, which it says when a file is opened.
fn takes_direct(path: &Path) -> io::Result<bool> {
    match open(path, true, false) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn open(path: &Path, direct: bool, dsync: bool) -> io::Result<File> {
    let mut flags = 0;
    if direct {
        flags |= libc::O_DIRECT;
    }
    if dsync {
        flags |= libc::O_DSYNC;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(flags).open(path)
}

/// Makes all blocks of the file fresh: allocated, and never written.
pub(super) fn make_fresh(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(0)?;
    let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: a descriptor that we own; the call touches no memory.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
        0 => file.sync_all(),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Memory that starts where direct writes want it to, filled with noise: some disks and file
/// systems are suspiciously fast with zeroes.
pub(crate) struct Noise {
    memory: Vec<u8>,
    start: usize,
}

impl Noise {
    pub(crate) fn new(bytes: usize) -> Noise {
        let mut memory = vec![0; bytes + ALIGNMENT];
        let mut random = Random::new(0x9E37_79B9_7F4A_7C15);
        for chunk in memory.chunks_mut(8) {
            chunk.copy_from_slice(&random.any().to_le_bytes()[..chunk.len()]);
        }
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Noise { memory, start }
    }

    pub(crate) fn bytes(&self, count: usize) -> &[u8] {
        &self.memory[self.start..self.start + count]
    }

    pub(super) fn address(&mut self) -> *mut u8 {
        self.memory[self.start..].as_mut_ptr()
    }
}

/// xorshift64: good enough for offsets and noise.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    pub(super) fn any(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.any() >> 16) % bound.max(1)
    }
}
