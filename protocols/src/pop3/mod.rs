//! POP3, server side; [`client`] is the other side.
//!
//! | file | what |
//! |---|---|
//! | [`session`] | the machine: from a line to what is done about it, time, strikes |
//! | [`event`] | its configuration, what it asks |
//! | `authorization` | USER, PASS, AUTH |
//! | `transaction` | the open maildrop: listings, messages, what is removed at QUIT |
//! | `command` | from a line to a command |
//! | `encode` | a stored message on its way out: dots, line ends, TOP's limit |
//! | [`reply`] | refusals and their response codes |
//!
//! RFC 1939, 2449 (CAPA, response codes), 2595 (STLS), 3206 (SYS and AUTH codes), 5034 (SASL).

mod authorization;
pub mod client;
mod command;
mod encode;
pub mod event;
pub mod reply;
pub mod session;
mod transaction;

pub use crate::sasl::LoginOutcome;
pub use event::{Config, Entry, Event};
pub use reply::Refusal;
pub use session::Pop3;
