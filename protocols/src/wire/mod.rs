//! What all line protocols share.

pub mod line;
pub mod outbox;
