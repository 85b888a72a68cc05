//! A brief measurement of the disk under a directory, for `quickstart` and `kura profile check`.
//! `probe` is the long one.
//!
//! Writes with O_DIRECT and fdatasync, one after the other, into blocks that were written before,
//! as the log does it. Where O_DIRECT is refused (tmpfs, some network file systems) the writes go
//! through the page cache, and the profile says so.
//!
//! Bounded in time: a third of the budget goes into pre-writing, whatever the disk; each point
//! takes a few samples at least, and never more than its share. The probe's files are removed
//! whatever happens.

use crate::detect::{Sources, detect, kernel, space};
use crate::probe::files::{ALIGNMENT, Noise};
use crate::profile::{Disk, FORMAT, FlushPoint, Overlap, Profile};
use crate::{Error, date};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const SIZES: [usize; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
const WRITERS: [u32; 3] = [1, 2, 4];
const STEP_BYTES: usize = 1 << 20;
const FILE_BYTES_MAX: u64 = 128 << 20;
/// Room for one largest write, and for something to go round in.
const FILE_BYTES_MIN: u64 = 4 << 20;
const SAMPLES_MIN: usize = 5;

/// Measures the disk under `directory`, in about `budget` (longer on very slow disks, at most four
/// times). Records the command line of this process.
pub fn measure(directory: &Path, budget: Duration) -> Result<Profile, Error> {
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    measure_at(&Sources::default(), directory, budget, &command)
}

/// [`measure`], with the kernel's view from elsewhere, and what to record as the command.
pub fn measure_at(
    sources: &Sources,
    directory: &Path,
    budget: Duration,
    command: &str,
) -> Result<Profile, Error> {
    let (host, device, file_system) = detect(sources, directory);
    Ok(Profile {
        format: FORMAT,
        date: date::rfc3339(SystemTime::now()),
        kernel: kernel(sources),
        command: command.to_owned(),
        gaps: Vec::new(),
        curve: Vec::new(),
        chains: Vec::new(),
        throughput: Vec::new(),
        host,
        device,
        file_system,
        disk: disk(directory, budget)?,
        sustained: None,
        metadata: None,
        cpu: None,
        knobs: BTreeMap::new(),
    })
}

fn disk(directory: &Path, budget: Duration) -> Result<Disk, Error> {
    if !directory.is_dir() {
        return Err(Error::NoDirectory(directory.to_owned()));
    }
    let (_, free_bytes) = space(directory);
    if free_bytes < 4 * FILE_BYTES_MIN {
        let (path, needed_bytes) = (directory.to_owned(), 4 * FILE_BYTES_MIN);
        return Err(Error::NoSpace { path, free_bytes, needed_bytes });
    }
    let failed = |what| move |source| Error::Io { path: directory.to_owned(), what, source };
    let bytes_max = FILE_BYTES_MAX.min(free_bytes / 4);
    let mut probe =
        Probe::create(directory, 0).map_err(failed("cannot create the probe's file"))?;
    let fresh = probe.prewrite(bytes_max, budget / 3).map_err(failed("cannot write"))?;

    // Shares of the rest: one for each size, one for each number of writers.
    let share = budget * 2 / 3 / (SIZES.len() + WRITERS.len()) as u32;
    let mut flush = Vec::new();
    for size in SIZES {
        let times = probe.flushes(size, share).map_err(failed("cannot write and sync"))?;
        flush.push(point(size, times));
    }
    let direct = probe.direct;
    drop(probe);
    let mut overlap = Vec::new();
    for writers in WRITERS {
        let rate = flushes_together(directory, writers, share)
            .map_err(failed("cannot write and sync with several writers"))?;
        overlap.push(Overlap { writers, flushes_per_second: round(rate) });
    }
    let best = flush.iter().map(|point| point.mb_per_second).fold(fresh, f64::max);
    Ok(Disk {
        direct,
        alignment_bytes: ALIGNMENT as u32,
        write_mb_per_second: best,
        fresh_write_mb_per_second: fresh,
        flush,
        overlap,
    })
}

/// One file of the probe, removed when dropped.
struct Probe {
    path: PathBuf,
    file: File,
    direct: bool,
    bytes: u64,
    buffer: Noise,
}

impl Probe {
    fn create(directory: &Path, number: u32) -> io::Result<Probe> {
        let path = directory.join(format!(".kura-probe-{}-{number}", std::process::id()));
        let open = |flags| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true).mode(0o600);
            options.custom_flags(flags).open(&path)
        };
        let (file, direct) = match open(libc::O_DIRECT) {
            Ok(file) => (file, true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (open(0)?, false),
            Err(error) => return Err(error),
        };
        let buffer = Noise::new(STEP_BYTES);
        Ok(Probe { path, file, direct, bytes: 0, buffer })
    }

    /// Writes and syncs fresh blocks until `bytes_max` or `budget`; millions of bytes a second.
    fn prewrite(&mut self, bytes_max: u64, budget: Duration) -> io::Result<f64> {
        let start = Instant::now();
        while self.bytes < FILE_BYTES_MIN
            || (self.bytes + STEP_BYTES as u64 <= bytes_max && start.elapsed() < budget)
        {
            self.file.write_all_at(self.buffer.bytes(STEP_BYTES), self.bytes)?;
            self.file.sync_data()?;
            self.bytes += STEP_BYTES as u64;
        }
        Ok(round(self.bytes as f64 / 1e6 / start.elapsed().as_secs_f64()))
    }

    /// Latencies in microseconds of durable writes of `size` bytes, one after the other.
    fn flushes(&mut self, size: usize, budget: Duration) -> io::Result<Vec<f64>> {
        let (start, mut offset, mut times) = (Instant::now(), 0, Vec::new());
        while times.len() < SAMPLES_MIN || start.elapsed() < budget {
            if offset + size as u64 > self.bytes {
                offset = 0;
            }
            let before = Instant::now();
            self.file.write_all_at(self.buffer.bytes(size), offset)?;
            self.file.sync_data()?;
            times.push(before.elapsed().as_secs_f64() * 1e6);
            offset += size as u64;
            if start.elapsed() > budget * 4 && !times.is_empty() {
                break;
            }
        }
        Ok(times)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Nothing to be done about a file that will not go; its name says what it is.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Flushes a second of so many writers at once, of 4 KiB each, into files of their own.
fn flushes_together(directory: &Path, writers: u32, budget: Duration) -> io::Result<f64> {
    let mut probes = Vec::new();
    for number in 0..writers {
        let mut probe = Probe::create(directory, number + 1)?;
        probe.prewrite(FILE_BYTES_MIN, Duration::ZERO)?;
        probes.push(probe);
    }
    let start = Instant::now();
    let counts: Vec<io::Result<usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> = probes
            .iter_mut()
            .map(|probe| scope.spawn(move || probe.flushes(SIZES[0], budget).map(|t| t.len())))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let elapsed = start.elapsed().as_secs_f64();
    let flushes = counts.into_iter().sum::<io::Result<usize>>()?;
    Ok(flushes as f64 / elapsed)
}

fn point(size: usize, mut times: Vec<f64>) -> FlushPoint {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)];
    let seconds = times.iter().sum::<f64>() / 1e6;
    FlushPoint {
        bytes: size as u64,
        best_us: Some(round(at(0.0))),
        p50_us: round(at(0.5)),
        p99_us: round(at(0.99)),
        mb_per_second: round(times.len() as f64 * size as f64 / 1e6 / seconds),
    }
}

/// One decimal is more than a measurement of a second knows; never zero, which no figure may be.
fn round(figure: f64) -> f64 {
    ((figure * 10.0).round() / 10.0).max(0.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brief_measurement_gives_a_valid_profile_and_leaves_nothing() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let start = Instant::now();
        let profile = measure(directory.path(), Duration::from_millis(300)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!(Profile::from_toml(&profile.to_toml()).unwrap(), profile);
        let sizes: Vec<_> = profile.disk.flush.iter().map(|point| point.bytes).collect();
        assert_eq!(sizes, SIZES.map(|size| size as u64));
        assert!(profile.disk.flush.iter().all(|point| point.p50_us <= point.p99_us));
        assert_eq!(profile.disk.overlap.len(), WRITERS.len());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = measure(Path::new("/nowhere/kura"), Duration::from_millis(1));
        assert!(error.unwrap_err().to_string().contains("/nowhere/kura"));
    }

    #[test]
    fn percentiles_come_from_the_sorted_times() {
        let times = (1..=100).rev().map(f64::from).collect();
        let point = point(1000, times);
        assert_eq!((point.p50_us, point.p99_us), (51.0, 100.0));
        assert_eq!(point.mb_per_second, 19.8);
    }
}
