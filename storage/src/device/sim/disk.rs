//! The simulated disk itself: files, what of them is durable, faults, and the crash.
//!
//! Each file keeps what a reader sees (`current`), what the medium surely holds (`durable`), and
//! the writes in between. A sync moves the writes that had completed before it began. A crash
//! decides for every sector of every other write, in flight or complete, whether the medium got it.

use super::Random;
use super::handle::{FileHandle, Handles};
use crate::device::Listed;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// The unit that a power cut does not split.
const SECTOR: usize = 512;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// An error that the next suitable operation gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Read,
    Write,
    Sync,
    Create,
}

/// A handle to the simulated disk; all clones are one disk.
#[derive(Clone)]
pub struct Sim {
    pub(super) disk: Rc<RefCell<Disk>>,
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let disk = self.disk.borrow();
        write!(f, "Sim({} operations, {} files)", disk.operations, disk.names.len())
    }
}

#[derive(Debug, Default, Clone)]
pub(super) struct Content {
    pub(super) current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Written>,
    pub(super) writes: u64,
    /// Synced once, so its length is known to the medium.
    sized: bool,
    /// Where the medium gives nothing back.
    unreadable: Vec<Range<usize>>,
}

#[derive(Debug, Clone)]
struct Written {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Clone)]
struct Entry {
    content: Rc<RefCell<Content>>,
    /// The directory was synced since this name was made.
    named: bool,
}

pub(super) struct Disk {
    pub(super) random: Random,
    names: BTreeMap<String, Entry>,
    /// Names that are removed or replaced, but not yet for the medium.
    ghosts: Vec<(String, Entry)>,
    in_flight: Vec<Rc<Operation>>,
    pub(super) sleepers: Vec<Rc<Sleeper>>,
    operations: u64,
    crash_at: Option<u64>,
    crashed: bool,
    faults: Vec<Fault>,
    fail_at: Option<u64>,
    pub(super) capacity: Option<u64>,
    pub(super) handles: Handles,
    pub(super) clock_micros: u64,
    /// What the clock says too much.
    pub(super) ahead_micros: u64,
    /// Somebody has moved the directory away.
    pub(super) is_displaced: bool,
}

pub(super) enum Work {
    List,
    Create { name: String, bytes: u64 },
    Open { name: String },
    Read { content: Rc<RefCell<Content>>, offset: usize, bytes: usize },
    Write { content: Rc<RefCell<Content>>, offset: usize, bytes: Vec<u8> },
    Sync { content: Rc<RefCell<Content>>, covers: Covers },
    Remove { name: String },
    SyncDirectory,
}

/// Which of a file's writes a sync makes durable, by their numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Covers {
    UpTo(u64),
    Only(u64),
}

pub(super) enum Answer {
    Done,
    Written(u64),
    Files(Vec<Listed>),
    File(FileHandle),
    Bytes(Vec<u8>),
}

struct Operation {
    work: RefCell<Work>,
    answer: RefCell<Option<io::Result<Answer>>>,
    waker: RefCell<Option<Waker>>,
}

pub(super) struct Sleeper {
    pub(super) until_micros: u64,
    pub(super) woken: Cell<bool>,
    pub(super) waker: RefCell<Option<Waker>>,
}

impl Sim {
    /// An empty disk without bounds or faults.
    #[must_use]
    pub fn new(seed: u64) -> Sim {
        Sim::with_names(Random::new(seed), BTreeMap::new(), 1_700_000_000_000_000)
    }

    fn with_names(random: Random, names: BTreeMap<String, Entry>, clock_micros: u64) -> Sim {
        let disk = Disk {
            random,
            names,
            ghosts: Vec::new(),
            in_flight: Vec::new(),
            sleepers: Vec::new(),
            operations: 0,
            crash_at: None,
            crashed: false,
            faults: Vec::new(),
            fail_at: None,
            capacity: None,
            handles: Handles::default(),
            clock_micros,
            ahead_micros: 0,
            is_displaced: false,
        };
        Sim { disk: Rc::new(RefCell::new(disk)) }
    }

    /// How many operations have been counted.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.disk.borrow().operations
    }

    /// Loses power when the operation of this number (from 1) is about to complete.
    pub fn crash_at(&self, operation: u64) {
        self.disk.borrow_mut().crash_at = Some(operation);
    }

    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.disk.borrow().crashed
    }

    /// The next operation of this kind fails: `EIO`, or `ENOSPC` for a create.
    pub fn fail_next(&self, fault: Fault) {
        self.disk.borrow_mut().faults.push(fault);
    }

    /// The operation of this number fails with `EIO`.
    pub fn fail_at(&self, operation: u64) {
        self.disk.borrow_mut().fail_at = Some(operation);
    }

    /// Sets the clock so much ahead of the time: a jump. What passes goes on as before.
    pub fn set_ahead(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2);
        self.disk.borrow_mut().ahead_micros = micros;
    }

    /// Bytes that all files together may take; `None`: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.borrow_mut().capacity = bytes;
    }

    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.disk.borrow().used_bytes()
    }

    /// Names and lengths, as [`Device::list`] gives them.
    #[must_use]
    pub fn files(&self) -> Vec<Listed> {
        self.disk.borrow().files()
    }

    /// What a reader of the file sees.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        self.disk.borrow().names.get(name).map(|entry| entry.content.borrow().current.clone())
    }

    /// Puts a durable file there, as if it had been written long ago.
    pub fn put_file(&self, name: &str, bytes: Vec<u8>) {
        let durable = bytes.clone();
        let content = Content { current: bytes, durable, sized: true, ..Content::default() };
        let entry = Entry { content: Rc::new(RefCell::new(content)), named: true };
        self.disk.borrow_mut().names.insert(name.to_owned(), entry);
    }

    /// Rot: flips the bits of `mask` in one byte, for readers and on the medium.
    /// False: no such byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) -> bool {
        let disk = self.disk.borrow();
        let Some(entry) = disk.names.get(name) else { return false };
        let mut content = entry.content.borrow_mut();
        let Ok(offset) = usize::try_from(offset) else { return false };
        let Content { current, durable, .. } = &mut *content;
        for bytes in [current, durable] {
            match bytes.get_mut(offset) {
                Some(byte) => *byte ^= mask,
                None => return false,
            }
        }
        true
    }

    /// Sectors that are gone: from now on each read and map that touches these bytes fails with
    /// `EIO`, after a crash, too. A write mends what it covers, as a disk does that has sectors to
    /// put in their place. False: no such file.
    pub fn make_unreadable(&self, name: &str, bytes: Range<u64>) -> bool {
        let disk = self.disk.borrow();
        let Some(entry) = disk.names.get(name) else { return false };
        let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = place(bytes.start)..place(bytes.end);
        entry.content.borrow_mut().unreadable.push(bytes);
        true
    }

    /// Cuts a file off behind so many bytes, for readers and on the medium.
    pub fn cut(&self, name: &str, bytes: u64) {
        let disk = self.disk.borrow();
        let Some(entry) = disk.names.get(name) else { return };
        let mut content = entry.content.borrow_mut();
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let Content { current, durable, .. } = &mut *content;
        current.truncate(length);
        durable.truncate(length);
    }

    /// Writes over the whole file, as `cp` does onto one that is there.
    pub fn overwrite(&self, name: &str, bytes: &[u8]) {
        let disk = self.disk.borrow();
        let Some(entry) = disk.names.get(name) else { return };
        let mut content = entry.content.borrow_mut();
        content.current = bytes.to_vec();
        content.durable = bytes.to_vec();
    }

    /// Moves the directory away, and puts a copy in its place, where all names lead: nothing that
    /// is done by them fails.
    pub fn displace(&self) {
        self.disk.borrow_mut().is_displaced = true;
    }

    /// The disk as it is after power comes back: a new one, with no faults or crash planned.
    #[must_use]
    pub fn after_crash(&self) -> Sim {
        let mut disk = self.disk.borrow_mut();
        disk.crashed = true;
        disk.tear_what_is_in_flight();
        let names = disk.surviving_names();
        let seed = disk.random.any();
        Sim::with_names(Random::new(seed), names, disk.clock_micros + 1_000_000)
    }

    /// The disk as the next process finds it after a kill: the machine stayed up, so nothing that
    /// was written is lost, but what was not synced can still be lost by a later crash. Operations
    /// that were in flight may have reached any of their sectors.
    #[must_use]
    pub fn after_kill(&self) -> Sim {
        let mut disk = self.disk.borrow_mut();
        disk.crashed = true;
        disk.tear_what_is_in_flight();
        let names = std::mem::take(&mut disk.names);
        let ghosts = std::mem::take(&mut disk.ghosts);
        let seed = disk.random.any();
        let next = Sim::with_names(Random::new(seed), names, disk.clock_micros + 1_000_000);
        {
            let mut next_disk = next.disk.borrow_mut();
            next_disk.ghosts = ghosts;
            next_disk.capacity = disk.capacity;
        }
        next
    }

    /// Completes one operation, or wakes one sleeper. False: nothing is under way.
    pub(super) fn step(&self) -> bool {
        self.disk.borrow_mut().step()
    }

    pub(super) async fn perform(&self, work: Work) -> io::Result<Answer> {
        let operation = Rc::new(Operation {
            work: RefCell::new(work),
            answer: RefCell::new(None),
            waker: RefCell::new(None),
        });
        self.disk.borrow_mut().in_flight.push(Rc::clone(&operation));
        poll_fn(move |context| match operation.answer.borrow_mut().take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                *operation.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

impl Disk {
    pub(super) fn used_bytes(&self) -> u64 {
        self.names.values().map(|entry| entry.content.borrow().current.len() as u64).sum()
    }

    fn files(&self) -> Vec<Listed> {
        let listed = |(name, entry): (&String, &Entry)| Listed {
            name: name.clone(),
            bytes: entry.content.borrow().current.len() as u64,
            id: id(&entry.content),
        };
        self.names.iter().map(listed).collect()
    }

    fn step(&mut self) -> bool {
        self.clock_micros += 20 + self.random.below(180);
        if self.in_flight.is_empty() || (!self.sleepers.is_empty() && self.random.chance(1, 8)) {
            return self.wake_sleeper() || self.complete_operation();
        }
        self.complete_operation()
    }

    fn wake_sleeper(&mut self) -> bool {
        let earliest = (0..self.sleepers.len()).min_by_key(|&i| self.sleepers[i].until_micros);
        let Some(index) = earliest else { return false };
        let sleeper = self.sleepers.swap_remove(index);
        self.clock_micros = self.clock_micros.max(sleeper.until_micros);
        sleeper.woken.set(true);
        if let Some(waker) = sleeper.waker.borrow_mut().take() {
            waker.wake();
        }
        true
    }

    fn complete_operation(&mut self) -> bool {
        if self.in_flight.is_empty() {
            return false;
        }
        self.operations += 1;
        if self.crash_at == Some(self.operations) {
            self.crashed = true;
            return false;
        }
        let index = self.random.index(self.in_flight.len());
        let operation = self.in_flight.remove(index);
        let answer = match self.fault_for(&operation) {
            Some(error) => {
                self.fail(&operation);
                Err(error)
            }
            None => self.execute(&operation),
        };
        *operation.answer.borrow_mut() = Some(answer);
        if let Some(waker) = operation.waker.borrow_mut().take() {
            waker.wake();
        }
        true
    }

    fn fault_for(&mut self, operation: &Operation) -> Option<io::Error> {
        let kind = match &*operation.work.borrow() {
            Work::Read { .. } => Some(Fault::Read),
            Work::Write { .. } => Some(Fault::Write),
            Work::Sync { .. } => Some(Fault::Sync),
            Work::Create { .. } => Some(Fault::Create),
            Work::List | Work::Open { .. } | Work::Remove { .. } | Work::SyncDirectory => None,
        };
        if self.fail_at == Some(self.operations) {
            return Some(io::Error::from_raw_os_error(EIO));
        }
        let kind = kind?;
        let planned = self.faults.iter().position(|fault| *fault == kind)?;
        self.faults.remove(planned);
        let number = if kind == Fault::Create { ENOSPC } else { EIO };
        Some(io::Error::from_raw_os_error(number))
    }

    /// A failed write may have reached any of its sectors; a failed sync leaves everything open.
    fn fail(&mut self, operation: &Operation) {
        if let Work::Write { content, offset, bytes } = &*operation.work.borrow() {
            let mut content = content.borrow_mut();
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                if self.random.chance(1, 2) {
                    content.write(offset + index * SECTOR, sector.to_vec());
                }
            }
        }
    }

    fn execute(&mut self, operation: &Operation) -> io::Result<Answer> {
        match &mut *operation.work.borrow_mut() {
            Work::List => Ok(Answer::Files(self.files())),
            Work::Create { name, bytes } => self.create(name, *bytes),
            Work::Open { name } => self.open(name).map(Answer::File),
            Work::Read { content, offset, bytes } => {
                let content = content.borrow();
                let end = offset.saturating_add(*bytes).min(content.current.len());
                let start = (*offset).min(end);
                content.check_readable(start..end)?;
                Ok(Answer::Bytes(content.current[start..end].to_vec()))
            }
            Work::Write { content, offset, bytes } => {
                let grows = (*offset + bytes.len()).saturating_sub(content.borrow().current.len());
                self.check_space(grows as u64)?;
                let number = content.borrow_mut().write(*offset, std::mem::take(bytes));
                Ok(Answer::Written(number))
            }
            Work::Sync { content, covers } => {
                content.borrow_mut().sync(*covers);
                Ok(Answer::Done)
            }
            Work::Remove { name } => match self.names.remove(name) {
                Some(entry) => {
                    self.ghosts.push((name.clone(), entry));
                    Ok(Answer::Done)
                }
                None => Err(io::ErrorKind::NotFound.into()),
            },
            Work::SyncDirectory => {
                self.ghosts.clear();
                self.names.values_mut().for_each(|entry| entry.named = true);
                Ok(Answer::Done)
            }
        }
    }

    fn check_space(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used_bytes() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Answer> {
        if bytes > 0 && self.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.check_space(bytes)?;
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let content =
            Content { current: vec![0; length], durable: vec![0; length], ..Content::default() };
        let entry = Entry { content: Rc::new(RefCell::new(content)), named: false };
        if let Some(old) = self.names.insert(name.to_owned(), entry) {
            self.ghosts.push((name.to_owned(), old));
        }
        self.open(name).map(Answer::File)
    }

    fn open(&self, name: &str) -> io::Result<FileHandle> {
        let entry = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.handles.open(name, &entry.content)
    }

    fn tear_what_is_in_flight(&mut self) {
        for operation in std::mem::take(&mut self.in_flight) {
            self.fail(&operation);
        }
    }

    fn surviving_names(&mut self) -> BTreeMap<String, Entry> {
        let mut survivors = BTreeMap::new();
        for (name, entry) in std::mem::take(&mut self.ghosts) {
            if entry.named && self.random.chance(1, 2) {
                survivors.insert(name, self.survivor(&entry));
            }
        }
        for (name, entry) in self.names.clone() {
            if entry.named || self.random.chance(1, 2) {
                survivors.insert(name, self.survivor(&entry));
            }
        }
        survivors
    }

    /// Decides for every sector of every unsynced write whether the medium has it.
    fn survivor(&mut self, entry: &Entry) -> Entry {
        let mut content = entry.content.borrow().clone();
        for written in std::mem::take(&mut content.unsynced) {
            // Whole writes are lost or kept as often as they are torn.
            let (kept, of) = match self.random.below(3) {
                0 => (0, 1),
                1 => (1, 1),
                _ => (1, 2),
            };
            for (index, sector) in written.bytes.chunks(SECTOR).enumerate() {
                if self.random.chance(kept, of) {
                    put(&mut content.durable, written.offset + index * SECTOR, sector);
                }
            }
        }
        if !content.sized && self.random.chance(1, 4) {
            content.durable.clear();
        }
        content.current.clone_from(&content.durable);
        content.sized = true;
        Entry { content: Rc::new(RefCell::new(content)), named: true }
    }
}

/// Which file it is.
pub(super) fn id(content: &Rc<RefCell<Content>>) -> u64 {
    Rc::as_ptr(content).addr() as u64
}

impl Content {
    pub(super) fn check_readable(&self, bytes: Range<usize>) -> io::Result<()> {
        let touches = |bad: &Range<usize>| bad.start < bytes.end && bytes.start < bad.end;
        match self.unreadable.iter().any(touches) {
            true => Err(io::Error::from_raw_os_error(EIO)),
            false => Ok(()),
        }
    }

    fn write(&mut self, offset: usize, bytes: Vec<u8>) -> u64 {
        self.writes += 1;
        put(&mut self.current, offset, &bytes);
        let end = offset + bytes.len();
        let beside =
            |bad: Range<usize>| [bad.start..bad.end.min(offset), bad.start.max(end)..bad.end];
        let left = std::mem::take(&mut self.unreadable).into_iter().flat_map(beside);
        self.unreadable = left.filter(|bad| !bad.is_empty()).collect();
        self.unsynced.push(Written { number: self.writes, offset, bytes });
        self.writes
    }

    fn sync(&mut self, covers: Covers) {
        self.sized = true;
        let covered = |written: &Written| match covers {
            Covers::UpTo(last) => written.number <= last,
            Covers::Only(number) => written.number == number,
        };
        let (durable, mut unsynced): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced).into_iter().partition(covered);
        for written in durable {
            put(&mut self.durable, written.offset, &written.bytes);
            // What an earlier write left in the cache there is gone: it can't come
            // back over this one.
            for earlier in unsynced.iter_mut().filter(|other| other.number < written.number) {
                earlier.overlay(&written);
            }
        }
        self.unsynced = unsynced;
    }
}

impl Written {
    /// Takes over what a later write has put into the same place.
    fn overlay(&mut self, later: &Written) {
        let start = self.offset.max(later.offset);
        let end = (self.offset + self.bytes.len()).min(later.offset + later.bytes.len());
        if start < end {
            let theirs = &later.bytes[start - later.offset..end - later.offset];
            self.bytes[start - self.offset..end - self.offset].copy_from_slice(theirs);
        }
    }
}

fn put(target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if target.len() < end {
        target.resize(end, 0);
    }
    target[offset..end].copy_from_slice(bytes);
}
