//! Mail protocols as pure machines.
//!
//! Nothing here touches a socket, a file, a clock, a random source or a log. A machine is given
//! bytes and the time, and gives back events; it is given answers, and writes bytes. The
//! engine's one connection loop drives them all, tests drive them in virtual time, fuzzers
//! drive them with junk.
//!
//! | where | what |
//! |---|---|
//! | [`machine`] | the contract that every protocol obeys, and its laws |
//! | [`wire`] | what all line protocols share: framing of lines, dots, the outbox, what can be wrong with a server |
//! | [`message`] | mail text: envelope, body structure, dates, trace headers |
//! | [`sasl`] | PLAIN, LOGIN, SCRAM-SHA-256 for all protocols, and the bearers of tokens for clients |
//! | [`address`] | what stands between the brackets of MAIL and RCPT |
//! | [`smtp`], [`pop3`], [`imap`], [`managesieve`] | the protocols; they do not import each other. LMTP is a role of SMTP; the first three have a `client` |
//! | [`proxy`] | whose connection it is that a load balancer passes on |
//! | [`sieve`] | what users want done with their mail: scripts are compiled and run, nothing is done |
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod address;
pub mod imap;
pub mod machine;
pub mod managesieve;
pub mod message;
pub mod pop3;
pub mod proxy;
pub mod sasl;
pub mod sieve;
pub mod smtp;
pub mod wire;

pub use address::Address;
pub use machine::{Machine, Step, Tick, Ticket};
pub use wire::outbox::Outbox;
