//! What all line protocols share.

pub mod outbox;
