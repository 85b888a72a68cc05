//! The full measurement, for `kura profile probe`: everything about a disk and its host that a knob
//! or an operator may want to know, in the time that it is given.
//!
//! [`points`] says what is measured and how the time is divided; the other files measure one kind
//! of point each. What cannot be measured here (no io_uring, say) becomes a line in the profile's
//! `gaps`; a disk that fails to write is an error. The probe's files are removed whatever happens.
//!
//! `cpu`: what a core does in a second. `flushes`: threads that write and sync. `ring`: many
//! operations in flight. `metadata`: files made and removed. `files` are what these write into,
//! `samples` the latencies that they bring.

mod cpu;
pub(crate) mod files;
mod flushes;
mod metadata;
mod points;
mod ring;
mod samples;

use crate::detect::{Sources, detect, kernel, space};
use crate::figures::{
    ChainForm, ChainPoint, CommitPath, CurvePoint, Operation, Sustained, Throughput,
};
use crate::profile::{Device, Disk, FORMAT, FileSystem, FlushPoint, Host, Overlap, Profile};
use crate::{Error, date};
use files::{Files, Noise, Place, WRITE_BYTES_MAX};
use points::{Flushes, Point};
use ring::{Job, Load};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How far a probe has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// What is measured now.
    pub phase: &'static str,
    /// 0 to 1.
    pub done: f64,
}

/// Measures the host and the disk under `directory` in about `budget`, and tells `progress` of each
/// step. A disk that takes long for a single flush takes longer in all. Records the command line of
/// this process.
pub fn probe(
    directory: &Path,
    budget: Duration,
    progress: &mut dyn FnMut(Step),
) -> Result<Profile, Error> {
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    probe_at(&Sources::default(), directory, budget, &command, progress)
}

/// [`probe`], with the kernel's view from elsewhere, and what to record as the command.
pub fn probe_at(
    sources: &Sources,
    directory: &Path,
    budget: Duration,
    command: &str,
    progress: &mut dyn FnMut(Step),
) -> Result<Profile, Error> {
    let identity = detect(sources, directory);
    let failed = |what| move |source| Error::Io { path: directory.to_owned(), what, source };
    let start = Instant::now();
    let points = points::points(budget);
    let streams_max = points.iter().map(streams).max().unwrap_or(1);
    if !directory.is_dir() {
        return Err(Error::NoDirectory(directory.to_owned()));
    }
    let (_, free_bytes) = space(directory);
    let needed_bytes = 4 * u64::from(streams_max) * 2 * WRITE_BYTES_MAX;
    if free_bytes < needed_bytes {
        return Err(Error::NoSpace { path: directory.to_owned(), free_bytes, needed_bytes });
    }
    progress(Step { phase: "writing files", done: 0.0 });
    let place = Place::create(directory).map_err(failed("cannot create the probe's directory"))?;
    let noise = Noise::new(WRITE_BYTES_MAX as usize);
    let files = Files::create(&place, streams_max, free_bytes, budget / 10, &noise)
        .map_err(failed("cannot write"))?;

    let mut found = Found { ring_works: true, ..Found::default() };
    let mut weight_left: u32 = points.iter().map(Point::weight).sum();
    for point in points {
        let elapsed = start.elapsed();
        let done = elapsed.as_secs_f64() / budget.as_secs_f64().max(1e-9);
        progress(Step { phase: point.phase(), done: done.min(1.0) });
        let share = points::share(budget.saturating_sub(elapsed), point.weight(), weight_left);
        weight_left -= point.weight();
        found
            .measure(point, &place, &files, &noise, share)
            .map_err(failed("cannot write and sync"))?;
    }
    progress(Step { phase: "done", done: 1.0 });
    let direct = files.direct;
    Ok(found.into_profile(identity, kernel(sources), command, direct))
}

fn streams(point: &Point) -> u32 {
    match point {
        Point::Flushes(flushes) => flushes.streams,
        _ => 1,
    }
}

/// Figures as they come in.
#[derive(Default)]
struct Found {
    ring_works: bool,
    gaps: Vec<String>,
    curve: Vec<CurvePoint>,
    chains: Vec<ChainPoint>,
    throughput: Vec<Throughput>,
    sustained: Option<Sustained>,
    metadata: Option<crate::figures::Metadata>,
    cpu: Option<crate::figures::Cpu>,
}

impl Found {
    fn measure(
        &mut self,
        point: Point,
        place: &Place,
        files: &Files,
        noise: &Noise,
        budget: Duration,
    ) -> io::Result<()> {
        match point {
            Point::Flushes(flushes) => self.flushes(flushes, place, files, noise, budget)?,
            Point::Chain { form, in_flight, bytes } => {
                let load = match form {
                    ChainForm::RwfDsync => Load::WriteDsync,
                    ChainForm::LinkedFdatasync => Load::WriteThenFdatasync,
                };
                let job =
                    Job { load, random: false, bytes, depth: in_flight, file_bytes: files.bytes };
                let Some(mut outcome) = self.through_ring(files, job, budget)? else {
                    return Ok(());
                };
                let flushes_per_second = round(outcome.per_second());
                let samples::Quantiles { p50, p99, p999, .. } = outcome.samples.quantiles();
                let (p50_us, p99_us, p999_us) = (p50, p99, p999);
                self.chains.push(ChainPoint {
                    form,
                    in_flight,
                    bytes,
                    p50_us,
                    p99_us,
                    p999_us,
                    flushes_per_second,
                });
            }
            Point::Throughput { operation, random, bytes, depth } => {
                let load = match operation {
                    Operation::Read => Load::Read,
                    Operation::Write => Load::Write,
                    Operation::Mixed => Load::Mixed,
                };
                let job = Job { load, random, bytes, depth, file_bytes: files.bytes };
                let Some(mut outcome) = self.through_ring(files, job, budget)? else {
                    return Ok(());
                };
                let rate = outcome.per_second();
                let samples::Quantiles { p50, p99, p999, .. } = outcome.samples.quantiles();
                self.throughput.push(Throughput {
                    operation,
                    random,
                    bytes,
                    depth,
                    p50_us: p50,
                    p99_us: p99,
                    p999_us: p999,
                    operations_per_second: round(rate),
                    mb_per_second: round(rate * bytes as f64 / 1e6),
                });
            }
            Point::Sustained => self.sustained = Some(sustained(files, noise, budget)?),
            Point::Metadata => self.metadata = Some(metadata::measure(place, budget)?),
            Point::Cpu => match cpu::measure(budget) {
                Ok(cpu) => self.cpu = Some(cpu),
                Err(why) => self.gaps.push(format!("the CPU's rates are missing: {why}")),
            },
        }
        Ok(())
    }

    fn flushes(
        &mut self,
        flushes: Flushes,
        place: &Place,
        files: &Files,
        noise: &Noise,
        budget: Duration,
    ) -> io::Result<()> {
        match flushes::measure(flushes, place, files, noise, budget) {
            Ok(point) => {
                // Without O_DIRECT both kinds are one.
                let same = |known: &CurvePoint| {
                    (known.path, known.direct, known.prewritten, known.streams, known.bytes)
                        == (point.path, point.direct, point.prewritten, point.streams, point.bytes)
                };
                if !self.curve.iter().any(same) {
                    self.curve.push(point);
                }
                Ok(())
            }
            Err(error) if flushes.path == CommitPath::RwfDsync && unsupported(&error) => {
                let gap =
                    "RWF_DSYNC is not supported here: the kernel or the file system refuses it";
                if !self.gaps.iter().any(|known| known == gap) {
                    self.gaps.push(gap.to_owned());
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// `None`: no io_uring here, which is said once. A disk that fails is an error.
    fn through_ring(
        &mut self,
        files: &Files,
        job: Job,
        budget: Duration,
    ) -> io::Result<Option<ring::Outcome>> {
        if !self.ring_works {
            return Ok(None);
        }
        let file = files.open(0, true, false)?;
        match ring::run(&file, job, budget) {
            Ok(outcome) => Ok(Some(outcome)),
            Err(error) if refused(&error) => {
                self.ring_works = false;
                self.gaps.push(format!(
                    "io_uring does not work here ({error}), and Kura needs it: Linux 5.15 or newer, \
                     sysctl kernel.io_uring_disabled=0, and no seccomp profile that forbids it"
                ));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn into_profile(
        self,
        (host, device, file_system): (Host, Device, FileSystem),
        kernel: String,
        command: &str,
        direct: bool,
    ) -> Profile {
        let disk = disk(&self.curve, direct);
        Profile {
            format: FORMAT,
            date: date::rfc3339(SystemTime::now()),
            kernel,
            command: command.to_owned(),
            gaps: self.gaps,
            curve: self.curve,
            chains: self.chains,
            throughput: self.throughput,
            host,
            device,
            file_system,
            disk,
            sustained: self.sustained,
            metadata: self.metadata,
            cpu: self.cpu,
            knobs: BTreeMap::new(),
        }
    }
}

/// Not allowed, not there, or not enough locked memory: the host's doing rather than the disk's.
fn refused(error: &io::Error) -> bool {
    unsupported(error)
        || matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOMEM))
}

fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS))
}

/// The brief curve, out of the full one: what knobs are derived from.
fn disk(curve: &[CurvePoint], direct: bool) -> Disk {
    let base = |point: &&CurvePoint| {
        point.path == CommitPath::WriteFdatasync && point.prewritten && point.direct == direct
    };
    let mut alone: Vec<_> = curve.iter().filter(base).filter(|point| point.streams == 1).collect();
    alone.sort_by_key(|point| point.bytes);
    let flush: Vec<_> = alone
        .iter()
        .map(|point| FlushPoint {
            bytes: point.bytes,
            best_us: Some(point.best_us),
            p50_us: point.p50_us,
            p99_us: point.p99_us,
            mb_per_second: point.mb_per_second,
        })
        .collect();
    let smallest = flush.first().map_or(0, |point| point.bytes);
    let overlap = curve
        .iter()
        .filter(base)
        .filter(|point| point.bytes == smallest)
        .map(|point| Overlap {
            writers: point.streams,
            flushes_per_second: round(point.mb_per_second * 1e6 / point.bytes as f64),
        })
        .collect();
    let best = |points: &mut dyn Iterator<Item = &CurvePoint>| {
        round(points.map(|point| point.mb_per_second).fold(0.0, f64::max))
    };
    let fresh = |point: &&CurvePoint| !point.prewritten && point.streams == 1;
    Disk {
        direct,
        alignment_bytes: files::ALIGNMENT as u32,
        // Of one stream, as the brief measurement has it: knobs follow what a lone log reaches.
        write_mb_per_second: best(&mut alone.into_iter()),
        fresh_write_mb_per_second: best(&mut curve.iter().filter(fresh)),
        flush,
        overlap,
    }
}

/// Durable writes of 1 MiB over and over, in windows of a quarter second.
fn sustained(files: &Files, noise: &Noise, budget: Duration) -> io::Result<Sustained> {
    use std::os::unix::fs::FileExt;
    const BYTES: u64 = 1 << 20;
    const WINDOW: Duration = Duration::from_millis(250);
    let file = files.open(0, true, false)?;
    let (start, mut offset) = (Instant::now(), 0);
    let (mut window_start, mut window_bytes) = (start, 0);
    let mut rates = Vec::new();
    while rates.is_empty() || start.elapsed() < budget {
        file.write_all_at(noise.bytes(BYTES as usize), offset)?;
        file.sync_data()?;
        offset = if offset + 2 * BYTES > files.bytes { 0 } else { offset + BYTES };
        window_bytes += BYTES;
        if window_start.elapsed() >= WINDOW.min(budget) {
            rates.push(window_bytes as f64 / 1e6 / window_start.elapsed().as_secs_f64());
            (window_start, window_bytes) = (Instant::now(), 0);
        }
    }
    let second_half = &rates[rates.len() / 2..];
    Ok(Sustained {
        seconds: round(start.elapsed().as_secs_f64()),
        burst_mb_per_second: round(rates.iter().copied().fold(0.0, f64::max)),
        sustained_mb_per_second: round(second_half.iter().sum::<f64>() / second_half.len() as f64),
    })
}

/// One decimal is more than a measurement of a second knows; never zero, which no figure may be.
fn round(figure: f64) -> f64 {
    ((figure * 10.0).round() / 10.0).max(0.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_probe_measures_every_kind_and_leaves_nothing() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let start = Instant::now();
        let mut steps = Vec::new();
        let budget = Duration::from_millis(1500);
        let sources = Sources::default();
        let profile =
            probe_at(&sources, directory.path(), budget, "a test", &mut |step| steps.push(step))
                .unwrap();
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        assert_eq!(Profile::from_toml(&profile.to_toml()).unwrap(), profile);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(profile.disk.flush.len() == 4 && profile.disk.overlap.len() == 3);
        assert!(profile.metadata.is_some() && profile.cpu.is_some() && profile.sustained.is_some());
        assert!(profile.curve.iter().any(|point| point.path == CommitPath::ODsync));
        assert!(profile.curve.iter().any(|point| !point.prewritten));
        assert!(profile.curve.iter().all(|p| p.best_us <= p.p50_us && p.p50_us <= p.p999_us));
        if profile.gaps.is_empty() {
            assert!(profile.chains.len() == 6 && profile.throughput.len() == 6);
        }
        assert!(steps.windows(2).all(|pair| pair[0].done <= pair[1].done));
        assert_eq!(steps.last().unwrap().done, 1.0);
    }

    #[test]
    fn every_point_of_a_long_probe_can_be_measured() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let place = Place::create(directory.path()).unwrap();
        let noise = Noise::new(WRITE_BYTES_MAX as usize);
        let files = Files::create(&place, 16, u64::MAX, Duration::ZERO, &noise).unwrap();
        let mut found = Found { ring_works: true, ..Found::default() };
        let all = points::points(Duration::from_secs(60));
        for point in &all {
            let moment = Duration::from_millis(2);
            found.measure(*point, &place, &files, &noise, moment).unwrap();
        }
        let identity = detect(&Sources::default(), directory.path());
        let direct = files.direct;
        let profile = found.into_profile(identity, "any".to_owned(), "a test", direct);
        assert_eq!(Profile::from_toml(&profile.to_toml()).unwrap(), profile);
        let flushes = all.iter().filter(|point| matches!(point, Point::Flushes(_))).count();
        assert!(profile.curve.len() == flushes || !direct || !profile.gaps.is_empty());
        drop((files, place));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let nowhere = Path::new("/nowhere/kura");
        let error = probe(nowhere, Duration::from_millis(1), &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/kura"), "{error}");
    }
}
