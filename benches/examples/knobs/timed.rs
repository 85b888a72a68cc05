//! A disk with latency and bandwidth, in virtual time: the simulated disk keeps the bytes, and this
//! says when each operation is done.
//!
//! Three media, each with the figures of a profile:
//!
//! - *Write-through*: what is written is as good as stable. Writes share one bus and so many
//!   operations a second as the profile's writers get out of it together; each takes a round trip
//!   more, and these overlap.
//! - *Flash with a volatile cache*: writes share one bus; a flush empties the cache for everybody,
//!   so only one runs at a time, and those who wait for it to end share the next one, as the
//!   kernel's block layer does it.
//! - *Platter*: one arm. A durable write costs a turn, and a seek if the last one was elsewhere.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;
use storage::UnixMillis;
use storage::buffer::Buffer;
use storage::device::sim::FileHandle;
use storage::device::{Device, Listed, Mapping, Sim};

/// Nanoseconds since the start; moves only when nobody has anything to do.
#[derive(Clone, Default)]
pub struct Clock(Rc<Times>);

#[derive(Default)]
struct Times {
    now: Cell<u64>,
    numbers: Cell<u64>,
    sleepers: RefCell<BTreeMap<(u64, u64), Waker>>,
}

impl Clock {
    pub fn now(&self) -> u64 {
        self.0.now.get()
    }

    pub async fn until(&self, time: u64) {
        let number = self.0.numbers.get();
        self.0.numbers.set(number + 1);
        let sleeper = Sleeper { clock: self.clone(), key: (time, number) };
        poll_fn(|context| {
            if self.now() >= time {
                return Poll::Ready(());
            }
            self.0.sleepers.borrow_mut().insert(sleeper.key, context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Goes on to the next moment at which somebody wakes. False: nobody sleeps.
    pub fn advance(&self) -> bool {
        let Some(((time, _), waker)) = self.0.sleepers.borrow_mut().pop_first() else {
            return false;
        };
        self.0.now.set(time.max(self.now()));
        waker.wake();
        true
    }
}

/// Dropped early, it no longer moves the clock.
struct Sleeper {
    clock: Clock,
    key: (u64, u64),
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.clock.0.sleepers.borrow_mut().remove(&self.key);
    }
}

/// Something that does one thing at a time.
#[derive(Clone, Default)]
pub struct Queue(Rc<Cell<u64>>);

impl Queue {
    /// When `nanos` of its time, asked for now, will be over.
    pub fn take(&self, now: u64, nanos: u64) -> u64 {
        let end = self.0.get().max(now) + nanos;
        self.0.set(end);
        end
    }
}

#[derive(Clone)]
pub enum Medium {
    WriteThrough {
        bus: Queue,
        operations: Queue,
        nanos_per_byte: f64,
        nanos_per_operation: u64,
        trip: u64,
    },
    Flash {
        bus: Queue,
        nanos_per_byte: f64,
        flush: u64,
        next: Rc<Cell<(u64, u64)>>,
    },
    Platter {
        arm: Queue,
        nanos_per_byte: f64,
        turn: u64,
        seek: u64,
        last: Rc<RefCell<String>>,
    },
}

impl Medium {
    /// When a write that is asked for now is done.
    fn write(&self, now: u64, file: &str, bytes: usize, durable: bool) -> u64 {
        match self {
            Medium::WriteThrough { bus, operations, nanos_per_byte, nanos_per_operation, trip } => {
                let there = bus.take(now, (bytes as f64 * nanos_per_byte) as u64);
                let trip = if durable { *trip } else { 0 };
                there.max(operations.take(now, *nanos_per_operation)) + trip
            }
            Medium::Flash { bus, nanos_per_byte, flush, next } => {
                let there = bus.take(now, (bytes as f64 * nanos_per_byte) as u64);
                if !durable {
                    return there;
                }
                let (start, end) = next.get();
                if there <= start {
                    return end;
                }
                let start = there.max(end);
                next.set((start, start + flush));
                start + flush
            }
            Medium::Platter { arm, nanos_per_byte, turn, seek, last } => {
                let moved = last.replace(file.to_owned()) != file;
                let place = if moved { *seek } else { 0 } + if durable { *turn } else { 0 };
                arm.take(now, place + (bytes as f64 * nanos_per_byte) as u64)
            }
        }
    }
}

/// One shard's directory on the disk: files of all shards are in one simulated disk, by prefix.
pub struct Timed {
    pub sim: Sim,
    pub clock: Clock,
    pub medium: Medium,
    pub prefix: String,
    /// The core that issues this shard's flushes, and what each costs it.
    pub core: Queue,
    pub flush_cpu: u64,
}

impl Timed {
    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn pass(&self, file: &FileHandle, bytes: usize, durable: bool) {
        let now = self.clock.now();
        if durable {
            // The cores work on it while the disk does; it delays whoever wants them meanwhile.
            self.core.take(now, self.flush_cpu);
        }
        let name = format!("{file:?}");
        self.clock.until(self.medium.write(now, &name, bytes, durable)).await;
    }
}

impl Device for Timed {
    type File = FileHandle;

    async fn list(&self) -> io::Result<Vec<Listed>> {
        let mut files = self.sim.list().await?;
        files.retain(|file| file.name.starts_with(&self.prefix));
        for file in &mut files {
            file.name.drain(..self.prefix.len());
        }
        Ok(files)
    }

    async fn create(&self, name: &str, bytes: u64) -> io::Result<FileHandle> {
        self.sim.create(&self.path(name), bytes).await
    }

    async fn open(&self, name: &str) -> io::Result<FileHandle> {
        Device::open(&self.sim, &self.path(name)).await
    }

    fn file_id(&self, file: &FileHandle) -> io::Result<u64> {
        self.sim.file_id(file)
    }

    async fn read(&self, file: &FileHandle, offset: u64, buffer: Buffer) -> io::Result<Buffer> {
        self.pass(file, buffer.capacity(), false).await;
        self.sim.read(file, offset, buffer).await
    }

    async fn write(
        &self,
        file: &FileHandle,
        offset: u64,
        buffer: Buffer,
    ) -> (io::Result<()>, Buffer) {
        self.pass(file, buffer.len(), false).await;
        self.sim.write(file, offset, buffer).await
    }

    async fn write_durably(
        &self,
        file: &FileHandle,
        offset: u64,
        buffer: Buffer,
    ) -> (io::Result<()>, Buffer) {
        self.pass(file, buffer.len(), true).await;
        self.sim.write_durably(file, offset, buffer).await
    }

    async fn sync(&self, file: &FileHandle) -> io::Result<()> {
        self.pass(file, 0, true).await;
        self.sim.sync(file).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.sim.remove(&self.path(name)).await
    }

    async fn sync_directory(&self) -> io::Result<()> {
        self.sim.sync_directory().await
    }

    async fn map(&self, name: &str) -> io::Result<Mapping> {
        self.sim.map(&self.path(name)).await
    }

    async fn is_in_place(&self) -> io::Result<bool> {
        self.sim.is_in_place().await
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.sim.free_bytes()
    }

    fn place(&self) -> String {
        self.sim.place()
    }

    fn now(&self) -> UnixMillis {
        UnixMillis(1_790_000_000_000 + self.clock.now() / 1_000_000)
    }

    fn steady(&self) -> Duration {
        Duration::from_nanos(self.clock.now())
    }

    fn random(&self) -> io::Result<u64> {
        self.sim.random()
    }

    async fn sleep(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2);
        self.clock.until(self.clock.now().saturating_add(nanos)).await;
    }

    async fn yield_now(&self) {
        self.sim.yield_now().await;
    }
}
