//! The store: one append-only log per shard, and everything else folded from it.
//!
//! In the order of a message's life: [`store`] checks and admits, `log::queue` gathers records into
//! a batch, `log::commit` writes and syncs it and folds it into the [`index`], then hands out
//! [`Durable`]. After a crash, `open` finds the newest checkpoint and folds the rest of the log in
//! again. FORMAT.md says what the bytes mean; [`device`] says what the disk promises.
//!
//! Five tasks, all within [`Store::run`]:
//!
//! | task | what |
//! |---|---|
//! | `log::commit` | batches, in order |
//! | `spares` | segments ahead of their use |
//! | `upkeep` | `checkpoint`s, the `superblock`; frees segments that nothing needs (`space`, `uses`) |
//! | `compaction` | moves what is live out of segments; copies checkpoints into the log (`base`) |
//! | `expiry` | forgets what was expunged, once its retention is over |
//!
//! [`format`] has the bytes, [`types`] what they mean, [`durable`] the receipt, [`error`] what goes
//! wrong, [`options`] what may be chosen. [`restore`] makes a store of a backup's segments,
//! [`salvage`] one of what verifies in a damaged one. [`buffer`] is memory that O_DIRECT takes.
//!
//! Around them: `core` is what they share, `clock` says which time to believe, `packing` compresses
//! bodies, `locks` and `quota` decide who may change an account, `room` is what is kept for a
//! message that has not come yet, `wait` and `watch` wake who waits.

mod base;
pub mod buffer;
mod checkpoint;
mod clock;
mod compaction;
mod core;
pub mod device;
pub mod durable;
pub mod error;
mod expiry;
pub mod format;
pub mod index;
mod locks;
pub mod log;
mod open;
pub mod options;
mod packing;
mod quota;
pub mod restore;
mod room;
pub mod salvage;
mod space;
mod spares;
pub mod store;
mod superblock;
pub mod types;
mod upkeep;
mod uses;
mod wait;
mod watch;

pub use durable::Durable;
pub use error::Error;
pub use log::recovery::RecoveryReport;
pub use options::{Options, Sabotage};
pub use room::Room;
pub use store::{
    BodyWriter, FlagsChanged, PLACEMENTS_MAX, Space, Stats, Store, StreamedBody, VerifyReport,
};
pub use types::*;
pub use wait::Bell;
