//! What is decided about a stranger before there is a message: at the connection and
//! in the envelope.
//!
//! | where | what |
//! |---|---|
//! | [`settings`] | what the operator says: `[policy]` |
//! | [`screening`] | who has done too much of something, and is kept out for a while; pure |
//! | [`connect`] | a connection is let in or not; what was done wrong is told to the core that counts it |
//! | [`greeting`] | who is answered late, and who speaks before being greeted |
//! | [`honeypot`] | addresses that nobody has reason to write to |
//! | [`greylist`] | who is asked to come again |
//! | [`networks`] | networks that are let in or kept out, from the config file and files of their own |
//! | [`lists`] | block and allow lists in DNS (RFC 5782) |
//!
//! Clients in `auth.trusted_networks` and `policy.allow` are no strangers: nothing
//! here concerns them.

pub mod connect;
pub mod greeting;
pub mod greylist;
pub mod honeypot;
pub mod lists;
pub mod networks;
pub mod screening;
pub mod settings;
