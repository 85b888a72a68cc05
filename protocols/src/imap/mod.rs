//! IMAP4rev1 (RFC 3501, with the clarifications of RFC 9051) and the extensions that clients use.
//!
//! | where | what |
//! |---|---|
//! | [`session`], `dispatch`, [`event`] | the machine: states, commands, events, replies |
//! | `authenticate` | AUTHENTICATE |
//! | `literal`, `append` | literals: taken or refused; the one that is a message |
//! | [`framing`] | lines and literals into whole commands |
//! | [`parse`], [`lexer`] | whole commands into [`command::Command`] |
//! | [`view`] | the selected mailbox as the client knows it |
//! | [`fetch`], [`search`], [`list`] | what those commands ask, and how they are answered |
//! | [`response`] | completions and response codes |
//! | [`encode`], [`mailbox`], [`flags`], [`sequence`] | how values are written and read |

mod append;
mod authenticate;
pub mod client;
pub mod command;
mod dispatch;
pub mod encode;
pub mod event;
pub mod fetch;
pub mod flags;
pub mod framing;
pub mod lexer;
pub mod list;
mod literal;
pub mod mailbox;
pub mod parse;
pub mod response;
pub mod search;
pub mod sequence;
pub mod session;
pub mod view;

pub use event::{Completed, Credentials, Event, Keys, LoginAnswer};
pub use response::{Code, Completion};
pub use session::{Config, Imap};
pub use view::{Changed, News, Selected, Targets, View};
