//! Hardware profiles: what a host can do, and which knobs follow from it.
//!
//! A [`Profile`] is data: the device, the file system, and a measured *flush curve* (how
//! long a durable write of so many bytes takes). [`measure`] makes one of this host in a
//! moment, [`probe()`] measures everything in the time that it is given, `profiles/*.toml`
//! are shipped ones.
//!
//! All else is pure. [`derive()`]: profile in, [`Knobs`] out, each with the formula and the
//! figures that it comes from, so that no number in a running server is unexplained.
//! [`findings()`]: what is wrong with the host, or with the measurement. [`plan()`]: what so many
//! users need. [`compare`]: whether a host is still what its profile says. [`picture()`]: the
//! flush curve as SVG.
//!
//! | file | what |
//! |---|---|
//! | `profile`, `figures` | the data: what is brief in it, and what a full probe adds |
//! | `measure`, `probe`, `detect` | where it comes from: a moment, a quarter of an hour, the kernel |
//! | `derive`, `findings`, `plan`, `check` | what follows from it, all pure; `check` has [`compare`] |
//! | `show`, `picture` | what an operator sees |
//! | `progress`, `date` | how far a measurement is; the day that it was made |
//!
//! Measuring blocks, and runs before the server serves.

mod check;
mod date;
mod derive;
mod detect;
mod figures;
mod findings;
mod measure;
mod picture;
mod plan;
mod probe;
mod profile;
mod progress;
mod show;

pub use check::{Check, Verdict, compare};
pub use derive::{Knob, Knobs, Origin, UnknownKnob, derive};
pub use detect::{Sources, detect};
pub use figures::{
    ChainForm, ChainPoint, CommitPath, Cpu, CurvePoint, Metadata, Operation, Sustained, Throughput,
};
pub use findings::{Finding, Severity, findings};
pub use measure::{measure, measure_at};
pub use picture::picture;
pub use plan::{Demand, Plan, plan};
pub use probe::{Step, probe, probe_at};
pub use profile::{
    Device, Disk, FileSystem, FlushPoint, Host, Overlap, Profile, shipped, shipped_names,
};
pub use progress::Bar;
pub use show::{show, show_findings};

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {what}: {source}; a probe needs a writable directory on the data disk")]
    Io { path: PathBuf, what: &'static str, source: std::io::Error },
    #[error(
        "{path}: not a hardware profile: {problem}; measure a new one with `kura profile probe`"
    )]
    Format { path: PathBuf, problem: String },
    #[error(
        "{path}: only {free_bytes} bytes are free, the probe needs {needed_bytes}; free some space"
    )]
    NoSpace { path: PathBuf, free_bytes: u64, needed_bytes: u64 },
    #[error("{0}: no such directory; make it, or name another one on the disk to measure")]
    NoDirectory(PathBuf),
    #[error("no shipped profile {0:?}; there are: {1}")]
    NotShipped(String, String),
}
