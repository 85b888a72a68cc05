//! IMAP, client side: how mail is collected from another server.
//!
//! | file | what |
//! |---|---|
//! | [`session`] | the machine: greeting, capabilities, STARTTLS, time, and how it ends |
//! | [`event`] | its configuration, what it asks and tells |
//! | `login` | LOGIN and AUTHENTICATE |
//! | `say` | commands, with literals where they must be |
//! | `responses` | framing: what is streamed, collected, passed over |
//! | `heard` | a response, read |
//! | `mailbox` | LIST, SELECT, SEARCH, FETCH, STORE, EXPUNGE: the commands and what their responses mean |
//!
//! RFC 3501 and 9051, 2177 no, 4315 (UIDPLUS), 4959 (SASL-IR), 7628.

pub mod event;
mod heard;
mod login;
mod mailbox;
mod responses;
mod say;
pub mod session;

pub use event::{Asked, Config, Event, Failure, Mailbox, Message, Next, Opened, Refusal, Stage};
pub use session::Client;
