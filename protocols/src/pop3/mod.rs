//! POP3, server side.
//!
//! | file | what |
//! |---|---|
//! | [`session`] | the machine: states, legal commands, events |
//! | `command` | from a line to a command |
//! | `encode` | a stored message on its way out: dots, line ends, TOP's limit |
//! | [`reply`] | refusals and their response codes |
//!
//! RFC 1939, 2449 (CAPA, response codes), 2595 (STLS), 3206 (SYS and AUTH codes), 5034 (SASL).

mod command;
mod encode;
pub mod reply;
pub mod session;

pub use reply::Refusal;
pub use session::{Config, Entry, Event, LoginOutcome, Pop3};
