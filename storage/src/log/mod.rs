//! The log: records gathered into batches, batches written in order, and read back after a crash.
//!
//! In the order of a record's life: [`queue`] gathers, [`commit`] writes, syncs, folds into
//! the index and acknowledges, [`segments`] finds it a place, [`reader`] fetches it, [`scan`]
//! and [`recovery`] find it again, by its header where need be (`find`); [`reach`] tells how
//! far a file goes.

pub(crate) mod commit;
mod find;
pub(crate) mod queue;
pub(crate) mod reach;
pub(crate) mod reader;
pub mod recovery;
pub(crate) mod scan;

pub use find::{Expected, FoundRecord, find_records};
pub(crate) mod segments;
