//! The index: what the records of a log add up to. In memory, disposable, rebuilt by replay.
//!
//! [`Index::apply`] folds one record in; it is the only way to change the index, and the same for a
//! live commit and for recovery. Everything is copy-on-write behind `Rc`, so a clone of the whole
//! index is a snapshot that costs one counter per account: checkpoints write from such a clone
//! while commits go on.
//!
//! [`apply`] folds; the rest is what it folds into: an [`account`] has [`mailbox`]es with [`names`]
//! and [`rows`], [`past`] has their graves, [`spaces`] has keys and values, [`live`] counts what of
//! each segment is in use.

pub mod account;
pub mod apply;
pub mod live;
pub mod mailbox;
pub mod names;
pub mod past;
pub mod rows;
pub mod spaces;

pub use account::Account;
pub use live::{Live, SegmentUse};
pub use mailbox::Mailbox;
pub use past::{Grave, Graves, Graveyard, Past};
pub use rows::{Block, BlockData, ROW_BYTES, Row, RowFile, Rows};
pub use spaces::Spaces;

use crate::format::{Base, SegmentId};
use crate::types::{AccountId, Lsn, MailboxId, Uid};
use std::collections::HashMap;
use std::rc::Rc;

/// Everything that one shard knows.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// The last record folded in.
    pub applied: Lsn,
    pub accounts: HashMap<AccountId, Rc<Account>>,
    pub spaces: Spaces,
    pub counters: Counters,
    /// What of each segment is in use.
    pub live: Live,
    /// The newest checkpoint in the log. The log is whole from its position on.
    pub base: Option<Rc<Base>>,
    /// Above all cold segments that anything was ever moved to.
    pub cold_next: SegmentId,
    /// What has gone and is remembered.
    pub past: Past,
}

/// Sums over the whole life of the shard, exact because they are folded like the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub messages: u64,
    /// RFC822.SIZE of all messages that are there.
    pub live_bytes: u64,
    /// Bytes of bodies delivered.
    pub bytes_received: u64,
    /// Batches with padding, and what compaction copied; checkpoints as far as they are known.
    pub bytes_written: u64,
    pub bytes_prewritten: u64,
    pub flushes: u64,
    /// Records that referred to something that rot had taken away.
    pub orphans: u64,
    /// Bytes of messages and chunks that compaction has copied.
    pub bytes_moved: u64,
    /// Bytes of checkpoints copied into the log.
    pub bytes_based: u64,
}

impl Counters {
    /// A batch was written at this offset of its segment. The first one brings the header with it.
    pub fn count_batch(&mut self, offset: u64, padded_bytes: u64) {
        let header = crate::format::SEGMENT_HEADER_BYTES as u64;
        let with_header = if offset == header { header } else { 0 };
        self.bytes_written += padded_bytes + with_header;
        self.flushes += 1;
    }
}

impl Index {
    #[must_use]
    pub fn account(&self, account: AccountId) -> Option<&Account> {
        self.accounts.get(&account).map(Rc::as_ref)
    }

    /// The row that is or was there.
    #[must_use]
    pub fn row_or_grave(&self, account: AccountId, mailbox: MailboxId, uid: Uid) -> Option<Row> {
        let found = self.account(account).and_then(|account| account.mailbox(mailbox));
        let row = found.and_then(|mailbox| mailbox.rows.get(uid));
        row.or_else(|| self.past.grave(account, mailbox, uid).map(|grave| grave.row))
    }
}
