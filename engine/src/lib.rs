//! The engine: composes protocols, storage and profiles into a mail server.
pub mod bench;
pub mod session;
pub mod shard;
pub mod wire;
