//! SMTP, submission and LMTP, server side: one machine in three roles; [`client`] is
//! the other side.
//!
//! | file | what |
//! |---|---|
//! | [`session`] | the machine: states, time, strikes |
//! | [`event`] | its configuration, what it asks, what it is answered |
//! | `dispatch` | from a line to what is done about it; hellos, STARTTLS, idling |
//! | `login` | AUTH |
//! | `transaction` | MAIL, RCPT, DATA, BDAT and their answers |
//! | `receive` | a message's octets, and the answer to their end |
//! | `command`, [`params`] | from a line to a command |
//! | `data` | message bytes, dots, chunks, line ends |
//! | [`xclient`] | on whose behalf a gateway speaks |
//! | [`reply`] | codes and texts |
//!
//! RFC 5321, 2033 (LMTP), 6409 (submission), 1870, 2034, 2920, 3030, 3207, 3461, 4865, 4954, 6152,
//! 6531; Postfix's XCLIENT.

pub mod client;
mod command;
mod data;
mod dispatch;
pub mod event;
mod login;
pub mod params;
mod receive;
pub mod reply;
pub mod session;
#[cfg(test)]
mod session_tests;
mod transaction;
pub mod xclient;

pub use data::TEXT_LINE_OCTETS_MAX;
pub use event::{Answer, Config, Event, FutureRelease, Role};
pub use params::{MailParams, Notify, RecipientParams, Release, Ret};
pub use reply::{Enhanced, Refusal, Reply};
pub use session::Smtp;
