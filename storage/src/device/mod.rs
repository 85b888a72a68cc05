//! The disk, as the store sees it: one directory of flat files, and a clock.
//!
//! # What a store may rely on, and nothing else
//!
//! 1. A crash may lose, keep or tear (by 512-byte sector) any write that is not covered by a
//!    completed sync. A sync covers the writes to its file that had completed before it began; a
//!    durable write covers itself alone.
//! 2. A write or sync that failed is final: afterwards nothing unsynced of that file is known. When
//!    it was of the log, the store halts; it never repeats a sync.
//! 3. A created or removed name survives a crash only after [`Device::sync_directory`]; before that
//!    it may be there or not.
//! 4. Blocks that are not being written are not damaged by a crash.
//! 5. Reads may lie, or fail, of any block and each time: only checksums are believed. What fails
//!    to be mapped is told by [`Device::map`]; what becomes unreadable while it is mapped may end
//!    the process (`mapped`, `lost_page`).
//! 6. The directory stays under its name ([`Device::is_in_place`] tells), and files as long as they
//!    are. Who breaks that is no disk.
//! 7. A future that is dropped does not stop its operation; the buffer lives until it is over.
//!
//! [`uring::Uring`] is the real disk, [`sim::Sim`] one that crashes, tears and lies from a seed.
//! The same store code runs on both.

pub(crate) mod around;
mod lost_page;
mod mapped;
pub mod sim;
pub mod uring;

use crate::buffer::{ALIGNMENT, Buffer};
use crate::types::UnixMillis;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

pub use sim::Sim;
pub use uring::Uring;

/// The bytes of a write-once file, mapped or held.
pub type Mapping = Rc<dyn AsRef<[u8]>>;

/// A file's name and length, and which file it is ([`Device::file_id`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub bytes: u64,
    pub id: u64,
}

/// Whether this error says that there is no more room, for all or for us.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// One directory on one disk. Offsets and lengths of reads and writes are multiples of
/// [`crate::buffer::ALIGNMENT`].
#[allow(async_fn_in_trait)] // one core, static dispatch: no Send bound is wanted
pub trait Device: 'static {
    type File: Clone + fmt::Debug + 'static;

    /// All files of the directory.
    async fn list(&self) -> io::Result<Vec<Listed>>;

    /// Creates a file of `bytes` whose space is allocated (`ENOSPC` otherwise, and no file stays).
    /// Its content is zeroes. Where one of that name is there, it is `AlreadyExists`; with no bytes
    /// yet, as for a checkpoint, that one is replaced.
    async fn create(&self, name: &str, bytes: u64) -> io::Result<Self::File>;

    async fn open(&self, name: &str) -> io::Result<Self::File>;

    /// The first block of each of these files, in their order, or why it can't be had. None of them
    /// stays open. For a store of thousands, some dozens at a time: a device may have a faster way
    /// than one by one.
    async fn read_heads(&self, names: &[String]) -> io::Result<Vec<io::Result<Buffer>>> {
        let mut heads = Vec::with_capacity(names.len());
        for name in names {
            heads.push(match self.open(name).await {
                Ok(file) => self.read(&file, 0, Buffer::with_capacity(ALIGNMENT)).await,
                Err(error) => Err(error),
            });
        }
        Ok(heads)
    }

    /// Which file this is, under whatever name. Once it is gone another may be called so. Blocks
    /// nobody.
    fn file_id(&self, file: &Self::File) -> io::Result<u64>;

    /// Fills `buffer` up to its capacity from `offset`; the result's length says how
    /// much there was.
    async fn read(&self, file: &Self::File, offset: u64, buffer: Buffer) -> io::Result<Buffer>;

    /// Writes all of `buffer`. A file may grow.
    async fn write(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: Buffer,
    ) -> (io::Result<()>, Buffer);

    /// Writes all of `buffer`, and completes once that is durable. Starts when first polled.
    async fn write_durably(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: Buffer,
    ) -> (io::Result<()>, Buffer);

    /// Makes all completed writes to the file durable.
    async fn sync(&self, file: &Self::File) -> io::Result<()>;

    async fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes created and removed names durable.
    async fn sync_directory(&self) -> io::Result<()>;

    /// The whole content of a file that is never written again; an error where some of
    /// it can't be read.
    async fn map(&self, name: &str) -> io::Result<Mapping>;

    /// Space that new files may still take.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Whether the directory is under its name what it was when it was opened. Files that are open
    /// are those that they were, wherever they are now; what is created or opened by its name would
    /// be in another one.
    async fn is_in_place(&self) -> io::Result<bool>;

    /// Where this is, for messages to the operator.
    fn place(&self) -> String;

    /// What the host says that it is. It may jump.
    fn now(&self) -> UnixMillis;

    /// What has passed since some moment. It does not jump.
    fn steady(&self) -> Duration;

    /// A number that nobody can foresee.
    fn random(&self) -> io::Result<u64>;

    async fn sleep(&self, duration: Duration);

    /// Lets other tasks of this core run.
    async fn yield_now(&self);
}
