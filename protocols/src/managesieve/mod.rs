//! ManageSieve, server side: how users put their Sieve scripts on the server. RFC 5804.
//!
//! | file | what |
//! |---|---|
//! | [`session`] | the machine: states, time, strikes, literals |
//! | [`event`] | its configuration, what it asks |
//! | `dispatch` | from a command to what is done about it; the answers |
//! | `login` | AUTHENTICATE |
//! | `framing` | lines and literals into whole commands |
//! | `command` | from a whole command to its keyword and arguments |
//! | [`reply`] | OK, NO and BYE with their response codes, strings |

mod command;
mod dispatch;
pub mod event;
mod framing;
mod login;
pub mod reply;
pub mod session;

pub use crate::sasl::LoginOutcome;
pub use event::{Config, Entry, Event};
pub use reply::{Code, Refusal};
pub use session::ManageSieve;
