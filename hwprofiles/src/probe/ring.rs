//! Many operations in flight through one ring: chains of durable writes as the store makes them,
//! and unsynced reads and writes for bandwidth and IOPS.
//!
//! Safety: the kernel reads and writes `Area`'s memory while operations are in flight; the ring is
//! drained before that memory goes, and if it can't be drained the memory is leaked.

use super::files::{Noise, Random};
use super::samples::Samples;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// What goes through the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    Read,
    Write,
    /// Seven reads to three writes.
    Mixed,
    WriteDsync,
    WriteThenFdatasync,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) load: Load,
    pub(super) random: bool,
    pub(super) bytes: u64,
    pub(super) depth: u32,
    /// Of the file, all written before.
    pub(super) file_bytes: u64,
}

pub(super) struct Outcome {
    pub(super) samples: Samples,
    pub(super) elapsed: Duration,
}

impl Outcome {
    pub(super) fn per_second(&self) -> f64 {
        self.samples.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

const OPERATIONS_MIN: usize = 4;

pub(super) fn run(file: &File, job: Job, budget: Duration) -> io::Result<Outcome> {
    let depth = job.depth as usize;
    let mut ring = IoUring::new((2 * job.depth).next_power_of_two())?;
    let mut memory = Noise::new(usize::try_from(job.bytes).map_err(io::Error::other)? * depth);
    let mut state = State {
        job,
        file: types::Fd(file.as_raw_fd()),
        address: memory.address(),
        started: vec![None; depth],
        cursor: 0,
        random: Random::new(job.bytes ^ u64::from(job.depth)),
    };
    let start = Instant::now();
    let result = drive(&mut ring, &mut state, start, budget);
    let elapsed = start.elapsed();
    if result.is_err() && state.started.iter().any(Option::is_some) {
        std::mem::forget(memory);
    }
    Ok(Outcome { samples: result?, elapsed })
}

struct State {
    job: Job,
    file: types::Fd,
    address: *mut u8,
    /// When the operation in each slot began.
    started: Vec<Option<Instant>>,
    cursor: u64,
    random: Random,
}

fn drive(
    ring: &mut IoUring,
    state: &mut State,
    start: Instant,
    budget: Duration,
) -> io::Result<Samples> {
    let mut samples = Samples::default();
    for slot in 0..state.started.len() {
        state.launch(ring, slot)?;
    }
    while state.started.iter().any(Option::is_some) {
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            outcome => outcome?,
        };
        let completed: Vec<cqueue::Entry> = ring.completion().collect();
        for entry in completed {
            let slot = usize::try_from(entry.user_data() >> 1).map_err(io::Error::other)?;
            if entry.result() < 0 {
                return Err(io::Error::from_raw_os_error(-entry.result()));
            }
            // Of a chain, only the sync's completion ends the operation.
            if entry.user_data() & 1 == 1 {
                continue;
            }
            if let Some(began) = state.started[slot].take() {
                samples.add(began.elapsed());
            }
            let under_way = state.started.iter().flatten().count();
            if samples.len() + under_way < OPERATIONS_MIN || start.elapsed() < budget {
                state.launch(ring, slot)?;
            }
        }
    }
    Ok(samples)
}

impl State {
    fn launch(&mut self, ring: &mut IoUring, slot: usize) -> io::Result<()> {
        let bytes = self.job.bytes;
        let places = self.job.file_bytes / bytes;
        let place = if self.job.random { self.random.below(places) } else { self.cursor % places };
        self.cursor += 1;
        let offset = place * bytes;
        let length = u32::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: each slot has `bytes` of the memory to itself.
        let address = unsafe { self.address.add(slot * length as usize) };
        let write = |flags| {
            opcode::Write::new(self.file, address, length).offset(offset).rw_flags(flags).build()
        };
        let read = || opcode::Read::new(self.file, address, length).offset(offset).build();
        let end = (slot as u64) << 1;
        let entries: Vec<squeue::Entry> = match self.job.load {
            Load::Read => vec![read().user_data(end)],
            Load::Write => vec![write(0).user_data(end)],
            Load::Mixed if self.random.below(10) < 7 => vec![read().user_data(end)],
            Load::Mixed => vec![write(0).user_data(end)],
            Load::WriteDsync => vec![write(libc::RWF_DSYNC).user_data(end)],
            Load::WriteThenFdatasync => vec![
                write(0).flags(squeue::Flags::IO_LINK).user_data(end | 1),
                opcode::Fsync::new(self.file)
                    .flags(types::FsyncFlags::DATASYNC)
                    .build()
                    .user_data(end),
            ],
        };
        // SAFETY: memory and file outlive the operation, see the head of this file.
        unsafe { ring.submission().push_multiple(&entries) }
            .map_err(|_| io::Error::other("the ring is full"))?;
        self.started[slot] = Some(Instant::now());
        Ok(())
    }
}
