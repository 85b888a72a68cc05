//! `kura bench`: load programs that measure a running server from the outside, and where a relay's
//! mail goes meanwhile.
//!
//! They speak to any server, ours or a peer's, so that one program compares both.
pub mod sink;
pub mod smtp;
