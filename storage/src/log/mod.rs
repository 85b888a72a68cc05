//! The log: records gathered into batches, batches written in order, and read back after a crash.
//!
//! In the order of a record's life: [`queue`] gathers, [`commit`] writes, syncs, folds into the index
//! and acknowledges, [`segments`] finds it a place, [`reader`] fetches it, [`scan`] and [`recovery`]
//! find it again.

pub(crate) mod commit;
pub(crate) mod queue;
pub(crate) mod reader;
pub mod recovery;
pub(crate) mod scan;

pub use scan::{Expected, FoundRecord, find_records};
pub(crate) mod segments;
