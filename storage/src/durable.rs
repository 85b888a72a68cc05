//! The proof that a record is on stable media.

use crate::types::Lsn;

/// Made by the store alone, once the batch that holds the record has been written and synced. The
/// positive reply to DATA can be built from nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a durable receipt is what a positive reply is made from"]
pub struct Durable {
    lsn: Lsn,
}

impl Durable {
    /// For what has landed: only this crate can vouch for a record.
    pub(crate) fn new(lsn: Lsn) -> Durable {
        Durable { lsn }
    }

    /// Position of the record in its shard's log.
    #[must_use]
    pub fn lsn(self) -> Lsn {
        self.lsn
    }
}
