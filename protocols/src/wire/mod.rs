//! What all line protocols share.

pub mod dots;
pub mod line;
pub mod literal;
pub mod outbox;
pub mod remote;
