//! Mail text: what is worked out once, when a message comes in, so that nobody parses it again.
//!
//! | where | what |
//! |---|---|
//! | [`scanner`] | one pass over the bytes, in pieces of any size: headers, MIME tree, line counts |
//! | [`summary`] | the result, its binary form, and finding a part by its IMAP number |
//! | [`envelope`] | the RFC 3501 envelope, and address lists as real mail writes them |
//! | [`content`] | Content-Type, Content-Disposition and their parameters |
//! | [`field`] | header fields: splitting, unfolding, picking |
//! | [`date`] | the Date field, IMAP dates and their arithmetic |
//! | [`text`] | decoded text of headers and bodies, for searching |
//! | [`received`] | the trace fields that we write: Received, Delivered-To, Return-Path |
//!
//! Everything here is bounded: depth, number of parts, bytes of text kept (see
//! [`scanner::limits`]).

pub mod content;
pub mod date;
pub mod envelope;
pub mod field;
pub mod received;
pub mod scanner;
pub mod summary;
pub mod text;

pub use envelope::{Address, Envelope};
pub use scanner::Scanner as SummaryBuilder;
pub use summary::{Kind, Part, Span, Summary, Undecodable};
