//! One point of the flush curve: threads that write and sync, each in a file of its own.

use super::files::{Files, Noise, Place, make_fresh, open};
use super::points::Flushes;
use super::samples::Samples;
use crate::figures::{CommitPath, CurvePoint};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

const SAMPLES_MIN: usize = 3;
/// Of each stream's file of fresh blocks; made anew when it is used up.
const FRESH_BYTES: u64 = 32 << 20;

pub(super) fn measure(
    what: Flushes,
    place: &Place,
    files: &Files,
    noise: &Noise,
    budget: Duration,
) -> io::Result<CurvePoint> {
    let dsync = what.path == CommitPath::ODsync;
    let mut streams = Vec::new();
    for number in 0..what.streams {
        let file = if what.prewritten {
            files.open(number, what.direct, dsync)?
        } else {
            let path = place.path().join(format!("fresh-{number}"));
            let file = open(&path, what.direct && files.direct, dsync)?;
            // Its blocks go back when the last descriptor is closed.
            std::fs::remove_file(&path)?;
            file
        };
        let bytes = if what.prewritten { files.bytes } else { 0 };
        streams.push(Stream { file, bytes, what });
    }
    let start = Instant::now();
    let outcomes: Vec<io::Result<Samples>> = std::thread::scope(|scope| {
        let threads: Vec<_> = streams
            .iter_mut()
            .map(|stream| scope.spawn(move || stream.run(noise, start, budget)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut samples = Samples::default();
    for outcome in outcomes {
        samples.merge(outcome?);
    }
    // Streams ran side by side: together they did as much as each, times their number.
    let mb_per_second = samples.mb_per_second(what.bytes) * f64::from(what.streams);
    let quantiles = samples.quantiles();
    Ok(CurvePoint {
        path: what.path,
        direct: what.direct && files.direct,
        prewritten: what.prewritten,
        streams: what.streams,
        bytes: what.bytes,
        best_us: quantiles.best,
        p50_us: quantiles.p50,
        p99_us: quantiles.p99,
        p999_us: quantiles.p999,
        mb_per_second: super::round(mb_per_second),
        samples: samples.len() as u64,
    })
}

struct Stream {
    file: File,
    /// Blocks that there are before the writing has to start over; none yet in a fresh file.
    bytes: u64,
    what: Flushes,
}

impl Stream {
    fn run(&mut self, noise: &Noise, start: Instant, budget: Duration) -> io::Result<Samples> {
        let (mut offset, mut samples) = (0, Samples::default());
        let buffer = noise.bytes(usize::try_from(self.what.bytes).map_err(io::Error::other)?);
        while samples.len() < SAMPLES_MIN || start.elapsed() < budget {
            if offset + self.what.bytes > self.bytes {
                if !self.what.prewritten {
                    make_fresh(&self.file, FRESH_BYTES)?;
                    self.bytes = FRESH_BYTES;
                }
                offset = 0;
            }
            let before = Instant::now();
            self.write(buffer, offset)?;
            samples.add(before.elapsed());
            offset += self.what.bytes;
            if start.elapsed() > budget * 4 {
                break;
            }
        }
        Ok(samples)
    }

    fn write(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        match self.what.path {
            CommitPath::WriteFdatasync => {
                self.file.write_all_at(buffer, offset)?;
                self.file.sync_data()
            }
            CommitPath::ODsync => self.file.write_all_at(buffer, offset),
            CommitPath::RwfDsync => write_dsync(&self.file, buffer, offset),
        }
    }
}

fn write_dsync(file: &File, buffer: &[u8], offset: u64) -> io::Result<()> {
    let part = libc::iovec { iov_base: buffer.as_ptr().cast_mut().cast(), iov_len: buffer.len() };
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: one part, which the kernel only reads while the call lasts.
    let written =
        unsafe { libc::pwritev2(file.as_raw_fd(), &raw const part, 1, offset, libc::RWF_DSYNC) };
    match usize::try_from(written) {
        Ok(written) if written == buffer.len() => Ok(()),
        Ok(written) => {
            Err(io::Error::other(format!("{written} of {} bytes written", buffer.len())))
        }
        Err(_) => Err(io::Error::last_os_error()),
    }
}
