//! Hardware profiles: what a host can do, and which knobs follow from it.
//!
//! A [`Profile`] is data: the device, the file system, and a measured *flush curve* (how long a
//! durable write of so many bytes takes). [`measure`] makes one of this host, `profiles/*.toml` are
//! shipped ones. [`derive()`] is pure: profile in, [`Knobs`] out, each with the formula and the
//! figures that it comes from, so that no number in a running server is unexplained.
//!
//! Everything here blocks, and runs before the server serves.

mod date;
mod derive;
mod detect;
mod measure;
mod profile;
mod show;

pub use derive::{Knob, Knobs, Origin, UnknownKnob, derive};
pub use detect::{Sources, detect};
pub use measure::{measure, measure_at};
pub use profile::{Device, Disk, FileSystem, FlushPoint, Host, Overlap, Profile, shipped};
pub use show::show;

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {what}: {source}; the profile needs a writable directory on the data disk")]
    Io { path: PathBuf, what: &'static str, source: std::io::Error },
    #[error(
        "{path}: not a hardware profile: {problem}; measure a new one with `kura profile probe`"
    )]
    Format { path: PathBuf, problem: String },
    #[error(
        "{path}: only {free_bytes} bytes are free, the probe needs {needed_bytes}; free some space"
    )]
    NoSpace { path: PathBuf, free_bytes: u64, needed_bytes: u64 },
    #[error("no shipped profile {0:?}; there are: {1}")]
    NotShipped(String, String),
}
