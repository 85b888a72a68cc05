//! The device's calls on the simulated disk: each becomes an operation that completes when the
//! executor says so.

use super::disk::{Answer, Covers, Sim, Sleeper, Work, id};
use super::handle::FileHandle;
use crate::buffer::Buffer;
use crate::device::{Device, Listed, Mapping};
use crate::types::UnixMillis;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset in memory")
}

impl Device for Sim {
    type File = FileHandle;

    async fn list(&self) -> io::Result<Vec<Listed>> {
        match self.perform(Work::List).await? {
            Answer::Files(files) => Ok(files),
            Answer::Done | Answer::Written(_) | Answer::File(_) | Answer::Bytes(_) => {
                unreachable!("a list")
            }
        }
    }

    async fn create(&self, name: &str, bytes: u64) -> io::Result<FileHandle> {
        file(self.perform(Work::Create { name: name.to_owned(), bytes }).await?)
    }

    async fn open(&self, name: &str) -> io::Result<FileHandle> {
        file(self.perform(Work::Open { name: name.to_owned() }).await?)
    }

    fn file_id(&self, file: &FileHandle) -> io::Result<u64> {
        Ok(id(&file.content))
    }

    async fn read(&self, file: &FileHandle, offset: u64, mut buffer: Buffer) -> io::Result<Buffer> {
        let work = Work::Read {
            content: Rc::clone(&file.content),
            offset: to_index(offset),
            bytes: buffer.capacity(),
        };
        match self.perform(work).await? {
            Answer::Bytes(bytes) => {
                buffer.clear();
                buffer.extend(&bytes);
                Ok(buffer)
            }
            Answer::Done | Answer::Written(_) | Answer::File(_) | Answer::Files(_) => {
                unreachable!("bytes")
            }
        }
    }

    async fn write(
        &self,
        file: &FileHandle,
        offset: u64,
        buffer: Buffer,
    ) -> (io::Result<()>, Buffer) {
        (self.put(file, offset, &buffer).await.map(|_| ()), buffer)
    }

    async fn write_durably(
        &self,
        file: &FileHandle,
        offset: u64,
        buffer: Buffer,
    ) -> (io::Result<()>, Buffer) {
        let outcome = match self.put(file, offset, &buffer).await {
            Ok(number) => self.make_durable(file, Covers::Only(number)).await,
            Err(error) => Err(error),
        };
        (outcome, buffer)
    }

    async fn sync(&self, file: &FileHandle) -> io::Result<()> {
        let last = file.content.borrow().writes;
        self.make_durable(file, Covers::UpTo(last)).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.perform(Work::Remove { name: name.to_owned() }).await.map(|_| ())
    }

    async fn sync_directory(&self) -> io::Result<()> {
        self.perform(Work::SyncDirectory).await.map(|_| ())
    }

    async fn map(&self, name: &str) -> io::Result<Mapping> {
        let handle = Device::open(self, name).await?;
        let content = handle.content.borrow();
        content.check_readable(0..content.current.len())?;
        Ok(Rc::new(content.current.clone()))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = self.disk.borrow();
        Ok(disk.capacity.map_or(u64::MAX / 2, |bytes| bytes.saturating_sub(disk.used_bytes())))
    }

    async fn is_in_place(&self) -> io::Result<bool> {
        Ok(!self.disk.borrow().is_displaced)
    }

    fn place(&self) -> String {
        "a simulated disk".to_owned()
    }

    fn now(&self) -> UnixMillis {
        let disk = self.disk.borrow();
        UnixMillis((disk.clock_micros + disk.ahead_micros) / 1000)
    }

    fn steady(&self) -> Duration {
        Duration::from_micros(self.disk.borrow().clock_micros)
    }

    fn random(&self) -> io::Result<u64> {
        Ok(self.disk.borrow_mut().random.any())
    }

    async fn sleep(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2);
        let until_micros = self.disk.borrow().clock_micros.saturating_add(micros);
        let (woken, waker) = (Cell::new(false), RefCell::new(None));
        let sleeper = Rc::new(Sleeper { until_micros, woken, waker });
        self.disk.borrow_mut().sleepers.push(Rc::clone(&sleeper));
        Sleep { sleeper, sim: self.clone() }.await;
    }

    async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

impl Sim {
    /// Writes; the number by which the file knows this write.
    async fn put(&self, file: &FileHandle, offset: u64, buffer: &Buffer) -> io::Result<u64> {
        let work = Work::Write {
            content: Rc::clone(&file.content),
            offset: to_index(offset),
            bytes: buffer.as_slice().to_vec(),
        };
        match self.perform(work).await? {
            Answer::Written(number) => Ok(number),
            Answer::Done | Answer::File(_) | Answer::Files(_) | Answer::Bytes(_) => {
                unreachable!("a write's number")
            }
        }
    }

    async fn make_durable(&self, file: &FileHandle, covers: Covers) -> io::Result<()> {
        let work = Work::Sync { content: Rc::clone(&file.content), covers };
        self.perform(work).await.map(|_| ())
    }
}

fn file(answer: Answer) -> io::Result<FileHandle> {
    match answer {
        Answer::File(file) => Ok(file),
        Answer::Done | Answer::Written(_) | Answer::Files(_) | Answer::Bytes(_) => {
            unreachable!("a file")
        }
    }
}

/// A sleep; dropped early, it no longer moves the clock.
struct Sleep {
    sleeper: Rc<Sleeper>,
    sim: Sim,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.sleeper.woken.get() {
            return Poll::Ready(());
        }
        *self.sleeper.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.sim.disk.borrow_mut().sleepers.retain(|other| !Rc::ptr_eq(other, &self.sleeper));
    }
}
