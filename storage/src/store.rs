//! The store of one shard. CONTRACT STUB: signatures as callers use them; the storage part fills them in.
#![allow(clippy::unimplemented, unused_variables, clippy::unused_async)]

use crate::device::Device;
use crate::durable::Durable;
use crate::error::Error;
use crate::types::*;
use bytes::Bytes;
use std::rc::Rc;

/// Every knob of the store; the engine derives them from the host's profile.
#[derive(Debug, Clone)]
pub struct Options {
    pub shard: u16,
    pub segment_bytes: u64,
}

/// A cheap handle; all clones are one store. Lives on one core.
#[derive(Debug)]
pub struct Store<D: Device> {
    inner: Rc<D>,
}

impl<D: Device> Clone for Store<D> {
    fn clone(&self) -> Self {
        Store { inner: Rc::clone(&self.inner) }
    }
}

impl<D: Device> Store<D> {
    /// Opens or creates, recovering first. The store takes work once [`Store::run`] is being polled.
    pub async fn open(device: D, options: Options) -> Result<Store<D>, Error> {
        unimplemented!()
    }

    /// The commit loop: the caller spawns it beside its sessions. Returns after [`Store::close`].
    pub async fn run(&self) {
        unimplemented!()
    }

    /// Finishes what is queued, writes a checkpoint, stops the commit loop.
    pub async fn close(&self) -> Result<(), Error> {
        unimplemented!()
    }

    // ── accounts ────────────────────────────────────────────────────────────────────────────────
    pub async fn create_account(&self, account: AccountId, quota: Quota) -> Result<Durable, Error> {
        unimplemented!()
    }
    pub async fn remove_account(&self, account: AccountId) -> Result<Durable, Error> {
        unimplemented!()
    }
    pub async fn set_quota(&self, account: AccountId, quota: Quota) -> Result<Durable, Error> {
        unimplemented!()
    }
    pub fn usage(&self, account: AccountId) -> Result<Usage, Error> {
        unimplemented!()
    }
    pub fn accounts(&self) -> Vec<AccountId> {
        unimplemented!()
    }

    // ── mailboxes ───────────────────────────────────────────────────────────────────────────────
    /// By name ascending. INBOX is always there.
    pub fn mailboxes(&self, account: AccountId) -> Result<Vec<MailboxInfo>, Error> {
        unimplemented!()
    }
    /// `INBOX` in any case; other names exactly.
    pub fn mailbox_named(&self, account: AccountId, name: &str) -> Result<MailboxInfo, Error> {
        unimplemented!()
    }
    pub fn mailbox(&self, account: AccountId, mailbox: MailboxId) -> Result<MailboxInfo, Error> {
        unimplemented!()
    }
    pub fn status(&self, account: AccountId, mailbox: MailboxId) -> Result<MailboxStatus, Error> {
        unimplemented!()
    }
    /// Creates missing parents too (RFC 9051 section 6.3.4).
    pub async fn create_mailbox(
        &self,
        account: AccountId,
        name: &str,
        special_use: Option<SpecialUse>,
    ) -> Result<(MailboxId, Durable), Error> {
        unimplemented!()
    }
    /// Renames inferiors too. Renaming INBOX moves its messages and leaves it empty (section 6.3.6).
    pub async fn rename_mailbox(
        &self,
        account: AccountId,
        from: &str,
        to: &str,
    ) -> Result<Durable, Error> {
        unimplemented!()
    }
    /// Deletes the mailbox and its messages; inferiors stay (their missing parent is implied by name).
    pub async fn delete_mailbox(&self, account: AccountId, name: &str) -> Result<Durable, Error> {
        unimplemented!()
    }
    /// Subscriptions are names: they may outlive the mailbox (RFC 9051 section 6.3.7).
    pub async fn subscribe(
        &self,
        account: AccountId,
        name: &str,
        subscribed: bool,
    ) -> Result<Durable, Error> {
        unimplemented!()
    }
    pub fn subscriptions(&self, account: AccountId) -> Result<Vec<String>, Error> {
        unimplemented!()
    }

    // ── messages in ─────────────────────────────────────────────────────────────────────────────
    /// Appends the message; returns once it is on stable media. Quotas are exact: what is on its way
    /// counts. `Busy` or `Full` come before anything stalls.
    pub async fn deliver(&self, delivery: Delivery) -> Result<(Vec<Placed>, Durable), Error> {
        unimplemented!()
    }
    /// For bodies over the session's buffer: streams into the log as chunk records.
    pub fn body_writer(&self) -> Result<BodyWriter<D>, Error> {
        unimplemented!()
    }
    /// Whether a delivery of `bytes` to `account` would be over quota now: for RCPT and MAIL SIZE=.
    pub fn check_quota(&self, account: AccountId, bytes: u64) -> Result<(), Error> {
        unimplemented!()
    }
    /// Whether the store would take a message now, cheaply: `Busy`, `Full`, `Halted`.
    pub fn admit(&self) -> Result<(), Error> {
        unimplemented!()
    }

    // ── messages changed ────────────────────────────────────────────────────────────────────────
    /// All or nothing. Pairs of source and destination UID, ascending. UIDs that are gone are skipped.
    pub async fn copy(
        &self,
        account: AccountId,
        from: MailboxId,
        uids: &[Uid],
        to: MailboxId,
    ) -> Result<(Vec<(Uid, Uid)>, Durable), Error> {
        unimplemented!()
    }
    pub async fn move_messages(
        &self,
        account: AccountId,
        from: MailboxId,
        uids: &[Uid],
        to: MailboxId,
    ) -> Result<(Vec<(Uid, Uid)>, Durable), Error> {
        unimplemented!()
    }
    /// Changes messages whose MODSEQ is at most `unchanged_since` (`None`: all); returns the changed
    /// entries and the UIDs that were left alone because they changed since (RFC 7162 UNCHANGEDSINCE).
    pub async fn change_flags(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uids: &[Uid],
        change: &FlagChange,
        unchanged_since: Option<Modseq>,
    ) -> Result<FlagsChanged, Error> {
        unimplemented!()
    }
    /// Removes exactly these UIDs (the caller has picked those that are \Deleted).
    pub async fn expunge(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uids: &[Uid],
    ) -> Result<(Vec<Uid>, Durable), Error> {
        unimplemented!()
    }

    // ── messages out ────────────────────────────────────────────────────────────────────────────
    /// Entries with UID in `uids` (inclusive), ascending.
    pub fn entries(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uids: std::ops::RangeInclusive<u32>,
    ) -> Result<Vec<MessageEntry>, Error> {
        unimplemented!()
    }
    pub fn entry(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<MessageEntry, Error> {
        unimplemented!()
    }
    /// UIDs of the mailbox, ascending.
    pub fn uids(&self, account: AccountId, mailbox: MailboxId) -> Result<Vec<Uid>, Error> {
        unimplemented!()
    }
    /// The summary exactly as given at delivery.
    pub async fn summary(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<Bytes, Error> {
        unimplemented!()
    }
    /// Bytes `range` of the message (prefix and body together), cut at its end. Verified by checksum.
    pub async fn read(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, Error> {
        unimplemented!()
    }
    pub fn changes_since(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        since: Modseq,
    ) -> Result<Changes, Error> {
        unimplemented!()
    }
    /// Resolves once anything in the account has a MODSEQ above `since`, or the account is removed.
    pub async fn changed(&self, account: AccountId, since: Modseq) {
        unimplemented!()
    }
    /// The account's highest MODSEQ.
    pub fn highest_modseq(&self, account: AccountId) -> Result<Modseq, Error> {
        unimplemented!()
    }
    /// \Recent: the first UID that no session has been told of yet; with `take`, from now on told.
    pub fn recent_from(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        take: bool,
    ) -> Result<Uid, Error> {
        unimplemented!()
    }

    // ── keys and values: the engine's directory, queue, greylist … ──────────────────────────────
    pub fn get(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        unimplemented!()
    }
    /// All pairs of a space, by key ascending.
    pub fn scan(&self, space: Space) -> Vec<(Bytes, Bytes)> {
        unimplemented!()
    }
    /// One record, hence atomic. `None` deletes.
    pub async fn put(
        &self,
        space: Space,
        pairs: Vec<(Bytes, Option<Bytes>)>,
    ) -> Result<Durable, Error> {
        unimplemented!()
    }

    // ── the operator's view ─────────────────────────────────────────────────────────────────────
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
    /// Reads every live record and compares it with the index; bad places are listed, not fatal.
    pub async fn verify(&self) -> Result<VerifyReport, Error> {
        unimplemented!()
    }
}

/// A key space; the numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(pub u8);

#[derive(Debug)]
pub struct FlagsChanged {
    pub changed: Vec<MessageEntry>,
    pub refused: Vec<Uid>,
    /// `None` when nothing had to change.
    pub durable: Option<Durable>,
}

/// Streams a large body into the log. Dropped without `finish`, it leaves garbage for compaction.
#[derive(Debug)]
pub struct BodyWriter<D: Device> {
    store: Store<D>,
}

impl<D: Device> BodyWriter<D> {
    /// Waits for room when the log is behind (back-pressure reaches the peer's TCP window).
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), Error> {
        unimplemented!()
    }
    pub async fn finish(self) -> Result<StreamedBody, Error> {
        unimplemented!()
    }
}

/// A body that is in the log already.
#[derive(Debug)]
pub struct StreamedBody {
    _private: (),
}

/// Counters since the store was made (kept in the log's checkpoint), summed over shards by the engine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Messages in mailboxes now.
    pub messages: u64,
    /// Bytes of bodies delivered since the store was made.
    pub bytes_received: u64,
    /// Bytes written to the device since then: batches with padding, checkpoints, superblocks.
    pub bytes_written: u64,
    /// Zeroes written ahead into spare segments (once per segment's life; recycling needs none).
    pub bytes_prewritten: u64,
    pub flushes: u64,
    pub segments: u64,
    pub live_bytes: u64,
    pub halted: bool,
    /// How the last open went.
    pub recovery_records: u64,
    pub recovery_micros: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub records: u64,
    pub messages: u64,
    pub bytes: u64,
    /// What does not verify: place, and whose message it is.
    pub bad: Vec<String>,
}
