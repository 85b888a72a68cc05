//! `kura-slow-disk DIR BACKING MIB WRITE_US FLUSH_US MB_PER_SECOND`: mounts DIR with one file in
//! it, `disk`, which answers as slowly as a disk does. What is written is kept in the file BACKING
//! (best on a tmpfs); ends when DIR is unmounted.
//!
//! The model: bytes pass one at a time, at the bandwidth; a write is answered `WRITE_US` later,
//! when it is in the disk's cache. A flush begins behind the bytes and behind the flush before it,
//! and takes `FLUSH_US`. Nothing else is random.

use fuser::{
    FileAttr, FileType, Filesystem, KernelConfig, MountOption, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyWrite, Request, TimeOrNow,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

const ROOT: u64 = 1;
const DISK: u64 = 2;
/// The kernel may remember what it was told: nothing changes.
const FOREVER: Duration = Duration::from_secs(1 << 20);
/// `FUSE_ASYNC_DIO`: several direct reads and writes at a time.
const ASYNC_DIRECT: u32 = 1 << 15;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, backing, size, write, flush, bandwidth] = &arguments[..] else {
        eprintln!("usage: kura-slow-disk DIR BACKING MIB WRITE_US FLUSH_US MB_PER_SECOND");
        std::process::exit(2);
    };
    if let Err(error) = serve(directory, backing, size, [write, flush, bandwidth]) {
        eprintln!("kura-slow-disk: {error}");
        std::process::exit(1);
    }
}

fn serve(
    directory: &str,
    backing: &str,
    size: &str,
    [write, flush, bandwidth]: [&str; 3],
) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = size.parse::<u64>()? << 20;
    let file = File::options().read(true).write(true).create(true).truncate(true).open(backing)?;
    file.set_len(bytes)?;
    let answers = Arc::new(Answers::default());
    std::thread::spawn({
        let answers = answers.clone();
        move || answers.give()
    });
    let now = Instant::now();
    let disk = SlowDisk {
        file,
        bytes,
        write: Duration::from_micros(write.parse()?),
        flush: Duration::from_micros(flush.parse()?),
        bytes_per_second: bandwidth.parse::<f64>()? * 1e6,
        passed: now,
        flushed: now,
        answers,
    };
    fuser::mount2(disk, directory, &[MountOption::FSName("kura-slow-disk".to_owned())])?;
    Ok(())
}

/// What the kernel is told once its time has come.
enum Answer {
    Written(ReplyWrite, u32),
    Read(ReplyData, Vec<u8>),
    Flushed(ReplyEmpty),
}

#[derive(Default)]
struct Answers {
    due: Mutex<Due>,
    more: Condvar,
}

/// By the moment, and in the order in which they were asked for.
#[derive(Default)]
struct Due {
    asked: u64,
    answers: BTreeMap<(Instant, u64), Answer>,
}

impl Answers {
    fn put(&self, at: Instant, answer: Answer) {
        let mut due = self.due.lock().expect("nobody panics with it");
        due.asked += 1;
        let number = due.asked;
        due.answers.insert((at, number), answer);
        self.more.notify_one();
    }

    fn give(&self) {
        // A timer that may be late by 50 µs is no timer for a disk.
        // SAFETY: changes this thread's timers, and nothing in memory.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000) };
        let mut due = self.due.lock().expect("nobody panics with it");
        loop {
            let now = Instant::now();
            match due.answers.first_key_value().map(|((at, _), _)| *at) {
                None => due = self.more.wait(due).expect("nobody panics with it"),
                Some(at) if at > now => {
                    due = self.more.wait_timeout(due, at - now).expect("nobody panics with it").0;
                }
                Some(_) => {
                    let (_, answer) = due.answers.pop_first().expect("it was just seen");
                    drop(due);
                    match answer {
                        Answer::Written(reply, bytes) => reply.written(bytes),
                        Answer::Read(reply, bytes) => reply.data(&bytes),
                        Answer::Flushed(reply) => reply.ok(),
                    }
                    due = self.due.lock().expect("nobody panics with it");
                }
            }
        }
    }
}

struct SlowDisk {
    file: File,
    bytes: u64,
    write: Duration,
    flush: Duration,
    bytes_per_second: f64,
    /// When the last bytes have passed, and the last flush is done.
    passed: Instant,
    flushed: Instant,
    answers: Arc<Answers>,
}

impl SlowDisk {
    /// When so many bytes have passed.
    fn pass(&mut self, bytes: usize) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        self.passed = self.passed.max(Instant::now()) + takes;
        self.passed
    }

    fn attributes(&self, inode: u64) -> FileAttr {
        let is_root = inode == ROOT;
        let never = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: inode,
            size: if is_root { 0 } else { self.bytes },
            blocks: self.bytes / 512,
            atime: never,
            mtime: never,
            ctime: never,
            crtime: never,
            kind: if is_root { FileType::Directory } else { FileType::RegularFile },
            perm: if is_root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for SlowDisk {
    fn init(&mut self, _: &Request<'_>, config: &mut KernelConfig) -> Result<(), i32> {
        config.add_capabilities(ASYNC_DIRECT).map_err(|_| libc::EPROTO)?;
        config.set_max_background(128).map_err(|_| libc::EPROTO)?;
        config.set_max_write(1 << 20).map_err(|_| libc::EPROTO)?;
        Ok(())
    }

    fn lookup(&mut self, _: &Request<'_>, _: u64, name: &OsStr, reply: ReplyEntry) {
        match name == "disk" {
            true => reply.entry(&FOREVER, &self.attributes(DISK), 0),
            false => reply.error(libc::ENOENT),
        }
    }

    fn getattr(&mut self, _: &Request<'_>, inode: u64, _: Option<u64>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    /// Times are set by a loop device; there are none.
    fn setattr(
        &mut self,
        _: &Request<'_>,
        inode: u64,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<u64>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<u32>,
        reply: ReplyAttr,
    ) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn read(
        &mut self,
        _: &Request<'_>,
        _: u64,
        _: u64,
        offset: i64,
        size: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        match self.file.read_at(&mut bytes, offset as u64) {
            Ok(got) => {
                bytes.truncate(got);
                let at = self.pass(got) + self.write;
                self.answers.put(at, Answer::Read(reply, bytes));
            }
            Err(error) => reply.error(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    fn write(
        &mut self,
        _: &Request<'_>,
        _: u64,
        _: u64,
        offset: i64,
        bytes: &[u8],
        _: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyWrite,
    ) {
        match self.file.write_all_at(bytes, offset as u64) {
            Ok(()) => {
                let at = self.pass(bytes.len()) + self.write;
                self.answers.put(at, Answer::Written(reply, bytes.len() as u32));
            }
            Err(error) => reply.error(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    /// A disk that can't give space back.
    fn fallocate(
        &mut self,
        _: &Request<'_>,
        _: u64,
        _: u64,
        _: i64,
        _: i64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(libc::EOPNOTSUPP);
    }

    /// `close`, which flushes nothing.
    fn flush(&mut self, _: &Request<'_>, _: u64, _: u64, _: u64, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&mut self, _: &Request<'_>, _: u64, _: u64, _: bool, reply: ReplyEmpty) {
        self.flushed = Instant::now().max(self.flushed).max(self.passed) + self.flush;
        self.answers.put(self.flushed, Answer::Flushed(reply));
    }
}
