//! What all line protocols share.

pub mod line;
pub mod literal;
pub mod outbox;
