//! The store of one shard, as its callers use it.
//!
//! Everything that changes something returns once it is on stable media and visible. Everything
//! that is read shows only what is on stable media. A future that is dropped half-way leaves
//! nothing broken: its record may still land. Futures of changes resolve only while
//! [`Store::run`] is polled.
//!
//! | file | what |
//! |---|---|
//! | `accounts`, `mailboxes` | made, renamed, removed; limits and subscriptions |
//! | `deliver` | messages in; large bodies stream into the log before them |
//! | `change` | copies, moves, flags, expunges |
//! | `read`, `summaries` | messages out, one or a whole listing |
//! | `keys` | keys and values: the engine's own, beside mail |
//! | `undelete`, `history` | what has gone and is remembered; an account as it was |
//! | `scrub`, `walk`, `verify` | everything is read through for rot; everything is counted again |
//! | `backup` | what a backup takes, and its bytes |
//! | `harm` | files that somebody has removed, replaced or cut under the store |
//! | `compact` | all space that can be had, at somebody's wish |

mod accounts;
mod backup;
mod change;
mod compact;
mod deliver;
mod harm;
mod history;
mod keys;
mod mailboxes;
mod read;
mod scrub;
mod summaries;
mod undelete;
mod verify;
mod walk;

pub use backup::{BackupPlan, PlannedSegment};
pub use change::FlagsChanged;
pub use compact::Compacted;
pub use deliver::{BodyWriter, PLACEMENTS_MAX, StreamedBody};
pub use harm::{Cut, Harmed, Unlinked};
pub use history::{PastAccount, PastMailbox, PastMessage};
pub use keys::Space;
pub use scrub::{Finding, Hurt, ScrubProgress};
pub use undelete::{Buried, Undelete};
pub use verify::VerifyReport;
pub use walk::Walk;

use crate::core::{Core, Phase};
use crate::device::Device;
use crate::durable::Durable;
use crate::error::Error;
use crate::format::Record;
use crate::index::{Account, Index, Mailbox};
use crate::locks::Access;
use crate::log::commit;
use crate::log::queue::Hold;
use crate::log::recovery::RecoveryReport;
use crate::options::Options;
use crate::room::Room;
use crate::types::{AccountId, MailboxId};
use crate::wait::both;
use crate::{compaction, expiry, open, spares, upkeep};
use std::rc::Rc;

/// A cheap handle; all clones are one store. Lives on one core.
#[derive(Debug)]
pub struct Store<D: Device> {
    core: Rc<Core<D>>,
    /// Messages that come through this handle are written there first.
    room: Option<Rc<Room>>,
}

impl<D: Device> Clone for Store<D> {
    fn clone(&self) -> Self {
        Store { core: Rc::clone(&self.core), room: self.room.clone() }
    }
}

impl<D: Device> Store<D> {
    /// Opens or creates, recovering first. The store takes work once [`Store::run`]
    /// is being polled.
    pub async fn open(device: D, options: Options) -> Result<Store<D>, Error> {
        Ok(Store { core: Box::pin(open::open(device, options)).await?, room: None })
    }

    /// The commit loop: the caller spawns it beside its sessions. Returns after [`Store::close`],
    /// or when the store has halted.
    pub async fn run(&self) {
        let log = both(commit::run(&self.core), spares::run(&self.core));
        // On the heap, since callers hold this future in theirs.
        let upkeep = Box::pin(upkeep::run(&self.core));
        let compaction = Box::pin(compaction::run(&self.core));
        both(log, both(upkeep, both(compaction, Box::pin(expiry::run(&self.core))))).await;
        if self.core.phase.get() == Phase::Closing && self.core.is_as_found() {
            self.core.phase.set(Phase::Closed);
        }
        if self.core.phase.get() == Phase::Closing {
            let phase = match Box::pin(upkeep::close(&self.core)).await {
                Ok(()) => Phase::Closed,
                Err(error) => {
                    *self.core.halted_by.borrow_mut() = Some(error.to_string());
                    Phase::Halted
                }
            };
            self.core.phase.set(phase);
        }
        self.core.landed.ring();
    }

    /// Finishes what is queued, writes a checkpoint if there is room for one, stops the commit
    /// loop. Where opening found damage and nothing has come since, there is no checkpoint: the
    /// next opening finds it, too.
    pub async fn close(&self) -> Result<(), Error> {
        loop {
            match self.core.phase.get() {
                Phase::Open => self.core.phase.set(Phase::Closing),
                Phase::Closing => {}
                Phase::Closed => return Ok(()),
                Phase::Halted => {
                    let what = self.core.halted_by.borrow().clone();
                    return Err(what.map_or(Error::Halted, Error::Device));
                }
            }
            self.core.work.ring();
            self.core.upkeep.ring();
            self.core.compaction.ring();
            self.core.expiry.ring();
            self.core.spares.ring();
            self.core.landed.wait().await;
        }
    }

    /// How opening went: what was replayed, and what did not verify.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.core.recovery
    }

    pub(crate) fn core(&self) -> &Rc<Core<D>> {
        &self.core
    }

    #[must_use]
    pub fn device(&self) -> &D {
        &self.core.device
    }

    /// What the disk said when a write or sync failed, or what became of the directory; `None`
    /// while all is well. A store that has halted takes nothing more until it is opened anew: what
    /// of the failed write is on the disk, nobody knows.
    #[must_use]
    pub fn halted_by(&self) -> Option<String> {
        let has_halted = self.core.phase.get() == Phase::Halted;
        has_halted.then(|| self.core.halted_by.borrow().clone().unwrap_or_default())
    }

    /// Whether it has halted because its directory is not under its name any more. What was
    /// acknowledged is in that directory, wherever it is now.
    #[must_use]
    pub fn is_displaced(&self) -> bool {
        self.core.displaced.get()
    }

    /// How often something was refused for want of space since the store was opened.
    #[must_use]
    pub fn refused_for_space(&self) -> u64 {
        self.core.refused_for_space.get()
    }

    /// How many checkpoints, copies and spares were given up (`Stats::given_up`), and what
    /// the disk said last.
    #[must_use]
    pub fn given_up(&self) -> Option<(u64, String)> {
        let by = self.core.given_up_by.borrow();
        by.as_ref().map(|what| (self.core.given_up.get(), what.clone()))
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let index = self.core.index.borrow();
        let counters = &index.counters;
        let superblocks = self.core.superblock.borrow().sequence;
        let segments = self.core.segments.borrow();
        Stats {
            messages: counters.messages,
            bytes_received: counters.bytes_received,
            bytes_written: counters.bytes_written + superblocks * crate::buffer::ALIGNMENT as u64,
            bytes_prewritten: counters.bytes_prewritten,
            flushes: counters.flushes + superblocks,
            segments: segments.files.len() as u64,
            spare_segments: segments.spares.len() as u64,
            live_bytes: counters.live_bytes,
            halted: self.core.phase.get() == Phase::Halted,
            recovery_records: self.core.recovery.records,
            recovery_micros: self.core.recovery.micros,
            recovery_damage: self.core.recovery.damage.len() as u64,
            free_bytes: self.core.device.free_bytes().unwrap_or(0),
            orphans: counters.orphans,
            bytes_moved: counters.bytes_moved,
            bytes_based: counters.bytes_based,
            segments_freed: self.core.segments_freed.get(),
            segments_spoiled: self.core.spoiled.borrow().len() as u64,
            files_harmed: segments.left.len() as u64,
            given_up: self.core.given_up.get(),
            log_bytes: segments.files.values().map(|segment| segment.segment_bytes).sum(),
            log_live_bytes: index.live.segments().map(|(_, used)| used.bytes).sum(),
            buried_messages: index.past.messages,
            buried_bytes: index.past.bytes,
            accounts_held: index.past.held.len() as u64,
            packed_bodies: self.core.packing.counts.get().packed,
            packed_bytes_before: self.core.packing.counts.get().bytes_before,
            packed_bytes_after: self.core.packing.counts.get().bytes_after,
            packed_declined: self.core.packing.counts.get().declined,
            remembered_since: self.remembered_since().map_or(0, |time| time.0),
        }
    }

    fn with_account<T>(
        &self,
        account: AccountId,
        look: impl FnOnce(&Account) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let index = self.core.index.borrow();
        look(index.account(account).ok_or(Error::NoSuchAccount(account))?)
    }

    fn with_mailbox<T>(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        look: impl FnOnce(&Mailbox) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.with_account(account, |account| {
            look(account.mailbox(mailbox).ok_or(Error::NoSuchMailbox(mailbox))?)
        })
    }

    /// Decides on a change while nobody else changes the account, and logs it. `None` from `plan`:
    /// there is nothing to do.
    async fn change<T>(
        &self,
        account: AccountId,
        plan: impl FnOnce(&mut Index) -> Result<(Option<Record>, T), Error>,
    ) -> Result<(T, Option<Durable>), Error> {
        self.change_beside(account, Access::Alone, plan).await
    }

    /// As [`Store::change`], beside those with whom `access` goes.
    async fn change_beside<T>(
        &self,
        account: AccountId,
        access: Access,
        plan: impl FnOnce(&mut Index) -> Result<(Option<Record>, T), Error>,
    ) -> Result<(T, Option<Durable>), Error> {
        self.core.check_open()?;
        let guard = self.core.locks.lock(account, access).await;
        let (record, value) = plan(&mut self.core.index.borrow_mut())?;
        let Some(record) = record else { return Ok((value, None)) };
        let hold = Hold { guards: vec![guard], ..Hold::default() };
        let receipt = self.core.enqueue(record, hold)?;
        let (lsn, _) = receipt.landed().await?;
        Ok((value, Some(Durable::new(lsn))))
    }

    /// As [`Store::change`], for changes that always log something.
    async fn log<T>(
        &self,
        account: AccountId,
        plan: impl FnOnce(&mut Index) -> Result<(Record, T), Error>,
    ) -> Result<(T, Durable), Error> {
        let plan = |index: &mut Index| plan(index).map(|(record, value)| (Some(record), value));
        let (value, durable) = self.change(account, plan).await?;
        Ok((value, durable.expect("a record was logged")))
    }

    fn now_seconds(&self) -> u32 {
        u32::try_from(self.core.device.now().0 / 1000).unwrap_or(u32::MAX)
    }
}

fn account_in(index: &Index, account: AccountId) -> Result<&Account, Error> {
    index.account(account).ok_or(Error::NoSuchAccount(account))
}

/// Counters since the store was made, summed over shards by the engine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Messages in mailboxes now.
    pub messages: u64,
    /// Bytes of bodies delivered since the store was made.
    pub bytes_received: u64,
    /// Bytes written to the device since then: batches with padding, what compaction copied,
    /// checkpoints, superblocks.
    pub bytes_written: u64,
    /// Zeroes written ahead into spare segments (once per segment's life; recycling needs none).
    pub bytes_prewritten: u64,
    /// Of batches, compaction's copies, checkpoints and superblocks; those of zeroes written ahead
    /// and of segment headers are not counted.
    pub flushes: u64,
    pub segments: u64,
    pub spare_segments: u64,
    /// RFC822.SIZE of all messages that are there.
    pub live_bytes: u64,
    pub halted: bool,
    /// How the last open went.
    pub recovery_records: u64,
    pub recovery_micros: u64,
    /// Places that did not verify then.
    pub recovery_damage: u64,
    /// What the file system has left, as it says now. Of shards on one file system:
    /// all of it for each.
    pub free_bytes: u64,
    /// Records that referred to something that rot had taken away.
    pub orphans: u64,
    /// Messages and chunks copied by compaction, and checkpoints copied into the log, since
    /// the store was made.
    pub bytes_moved: u64,
    pub bytes_based: u64,
    /// Segments that gave their space back since the store was opened.
    pub segments_freed: u64,
    /// Segments that compaction leaves alone, because something live in them does not verify.
    pub segments_spoiled: u64,
    /// Files of segments that somebody has removed, moved, replaced or cut, when that was looked at
    /// last.
    pub files_harmed: u64,
    /// Checkpoints, copies by compaction and spares that were given up since the store was opened
    /// because the disk failed. They cost nothing, but the disk should be looked at.
    pub given_up: u64,
    /// All segments of the log, and what in them something refers to.
    pub log_bytes: u64,
    pub log_live_bytes: u64,
    /// Messages that have gone and can be brought back, and their RFC822.SIZE.
    pub buried_messages: u64,
    pub buried_bytes: u64,
    /// Accounts of which nothing is forgotten.
    pub accounts_held: u64,
    /// Bodies, and pieces of large ones, that were compressed since the store was opened; their
    /// bytes as they came, and as they were stored; and how many would not have shrunk enough.
    pub packed_bodies: u64,
    pub packed_bytes_before: u64,
    pub packed_bytes_after: u64,
    pub packed_declined: u64,
    /// The oldest time that one can go back to, in Unix milliseconds. Zero: there is no retention.
    pub remembered_since: u64,
}
