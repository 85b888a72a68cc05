//! SMTP, submission and LMTP, server side: one machine in three roles.
//!
//! | file | what |
//! |---|---|
//! | [`session`] | the machine: states, legal commands, replies |
//! | `command`, [`params`] | from a line to a command |
//! | `data` | message bytes, dots, chunks, line ends |
//! | [`reply`] | codes and texts |
//!
//! RFC 5321, 2033 (LMTP), 6409 (submission), 1870, 2034, 2920, 3030, 3207, 3461, 4954, 6152, 6531.

mod command;
mod data;
pub mod params;
pub mod reply;
pub mod session;
#[cfg(test)]
mod session_tests;

pub use data::TEXT_LINE_OCTETS_MAX;
pub use params::{MailParams, Notify, RecipientParams, Ret};
pub use reply::{Enhanced, Refusal, Reply};
pub use session::{Answer, Config, Event, Role, Smtp};
