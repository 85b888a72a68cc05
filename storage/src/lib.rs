//! The store: one append-only log per shard, and everything else folded from it.
pub mod device;
pub mod durable;
pub mod error;
pub mod store;
pub mod types;

pub use durable::Durable;
pub use error::Error;
pub use store::{Options, Store};
pub use types::*;
