//! SMTP and LMTP, client side: how a message is brought to another server.
//!
//! | file | what |
//! |---|---|
//! | [`session`] | the machine: phases, time, and how it ends |
//! | [`event`] | its configuration, what it is given, what it asks and tells |
//! | `opening` | greeting, hellos, STARTTLS |
//! | `login` | AUTH |
//! | `transaction` | MAIL, RCPT, DATA or BDAT, and what their replies mean |
//! | `body` | the message's octets on their way out |
//! | [`heard`] | a server's reply, read |
//! | [`offers`] | what EHLO offers, and what a message needs of it |
//!
//! RFC 5321, 2033 (LMTP), 1870, 2034, 2920, 3030, 3207, 3461, 4954, 6152, 6531, 8689.

mod body;
pub mod event;
pub mod heard;
mod login;
pub mod offers;
mod opening;
pub mod session;
#[cfg(test)]
mod session_tests;
mod transaction;

pub use event::{
    Config, Envelope, Event, Failure, Outcome, Piece, Recipient, Report, Stage, Verdict,
};
pub use heard::Heard;
pub use offers::Offers;
pub use session::Client;
