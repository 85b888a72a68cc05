//! POP3, client side: how mail is collected from another server.
//!
//! | file | what |
//! |---|---|
//! | [`session`] | the machine: what is awaited, time, and how it ends |
//! | [`event`] | its configuration, what it asks and tells |
//! | `login` | capabilities, STLS, USER and PASS, AUTH |
//! | `maildrop` | STAT, UIDL, LIST, and what is done with each message |
//! | `heard` | a server's reply, read |
//!
//! RFC 1939, 2449 (CAPA, codes), 2595 (STLS), 3206 (AUTH and SYS codes), 5034 (SASL).

pub mod event;
mod heard;
mod login;
mod maildrop;
pub mod session;

pub use event::{Asked, Config, Entry, Event, Failure, Listing, Next, Refusal, Stage};
pub use session::Client;
