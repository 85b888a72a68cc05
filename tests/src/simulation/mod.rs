//! The crash simulator: a store on a disk that loses power at any operation, judged
//! by a naive model.
//!
//! In the order of a case: [`simulator`] decides what befalls the disk and drives [`workload`]'s
//! clients, who write into the [`journal`] what they asked and were told; [`observation`] is all
//! that the store shows afterwards; [`checker`] decides whether the two agree, with the help of the
//! [`model`]. `tests/README.md` says how to run and replay.

pub mod campaign;
pub mod checker;
mod counts;
pub mod journal;
mod matching;
pub mod model;
pub mod observation;
pub mod operation;
mod past;
pub mod simulator;
pub mod workload;

pub use simulator::{Case, Failure, Trouble, count_operations, crash, run};
