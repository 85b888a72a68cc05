//! An account as it was: the log says what was where, rows and graves say where that is now.
//! FORMAT.md, "Looking back".
//!
//! The newest base that is old enough is loaded into an index of its own, and the log is folded in
//! from there up to the last batch that is not younger than the time asked for. Only the account's
//! own records are. The store goes on meanwhile; the segments that are read stay as long.

use super::{Store, account_in};
use crate::base;
use crate::checkpoint::Position;
use crate::core::Core;
use crate::device::{Device, Listed};
use crate::durable::Durable;
use crate::error::Error;
use crate::format::{Base, Location, NewMailbox, Record, SegmentId, Shown};
use crate::index::{Index, Live, Mailbox, Row, Spaces, names};
use crate::log::recovery::RecoveryReport;
use crate::log::scan::{FoundSegment, Scan, Start};
use crate::log::segments::{Identity, SegmentFile, file_name, identify, identify_all};
use crate::space;
use crate::types::{AccountId, Flags, Lsn, MailboxId, SpecialUse, Uid, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

/// Put into a mailbox by one record.
const MESSAGES_AT_ONCE: usize = 4096;
const BYTES_PER_MESSAGE: usize = 12;

/// Segments of which the header is read at once.
const HEADS_AT_ONCE: usize = 16;

/// An account as of some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastAccount {
    pub account: AccountId,
    pub mailboxes: Vec<PastMailbox>,
    /// Records of the log, up to that time, that are not there any more: what they brought or
    /// changed is missed here, if they were of this account.
    pub records_lost: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastMailbox {
    pub id: MailboxId,
    pub name: String,
    pub uid_validity: u32,
    pub special_use: Option<SpecialUse>,
    /// Bit 8 + i of flags is keyword i.
    pub keywords: Vec<String>,
    /// By UID ascending.
    pub messages: Vec<PastMessage>,
}

/// To be read by [`Store::read_buried`] under its mailbox and UID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastMessage {
    pub uid: Uid,
    pub flags: Flags,
    pub internal_date: UnixMillis,
    pub bytes: u32,
}

impl<D: Device> Store<D> {
    /// The oldest time that one can go back to. `None`: there is no retention.
    #[must_use]
    pub fn remembered_since(&self) -> Option<UnixMillis> {
        let index = self.core.index.borrow();
        space::history(&self.core, &index).next()?;
        let oldest = space::readable_history(&self.core, &index).next();
        let based = oldest.map_or_else(|| self.core.device.now(), |(time, _)| *time);
        let from = self.core.believed_now().0.saturating_sub(index.past.retention_millis);
        Some(UnixMillis(from.max(index.past.since.0).max(based.0)))
    }

    /// The account as it was after the last batch that is not younger than `at`.
    pub async fn as_of(&self, account: AccountId, at: UnixMillis) -> Result<PastAccount, Error> {
        let oldest = self.remembered_since().ok_or(Error::NotRemembered(None))?;
        if at < oldest {
            return Err(Error::NotRemembered(Some(oldest)));
        }
        let _reading = self.core.reading();
        let end = Lsn(self.core.durable.get().0 + 1);
        let base = {
            let index = self.core.index.borrow();
            let history = space::readable_history(&self.core, &index);
            let usable = history.filter(|(time, _)| *time <= at);
            usable.last().map(|(_, base)| Rc::clone(base))
        };
        let base = base.ok_or(Error::NotRemembered(Some(oldest)))?;
        let segments = found_segments(&self.core, base.segment).await?;
        let (mut index, mut start) = self.begin(account, &base, &segments).await?;
        start.witness = Lsn(end.0 - 1);
        let mut report = RecoveryReport::default();
        let device = &self.core.device;
        let shard = self.core.options.shard;
        let mut scan = Scan::new(device, shard, &segments, &mut index, &mut report, start);
        scan.forget_from = Some(end);
        scan.until = Some(at);
        scan.only = Some(account);
        // Where a part of the log is gone, opening would be refused: here nothing is opened.
        scan.run_to_the_end().await.map_err(|error| match error {
            Error::Open { place, what } => {
                Error::Corrupt { what: "the log", place: format!("{place} ({what})") }
            }
            // Nor does the shard stop for what could not be read.
            Error::Device(what) => self.core.unreadable_log(what),
            other => other,
        })?;
        let found = index.account(account).ok_or(Error::NoSuchAccount(account))?;
        let mailboxes = found.mailboxes.values().filter(|mailbox| !mailbox.read_only);
        let mailboxes = mailboxes.map(|mailbox| of_then(mailbox)).collect();
        Ok(PastAccount { account, mailboxes, records_lost: report.lost_records })
    }

    /// An index that holds the account as of the base, and where the log goes on.
    async fn begin(
        &self,
        account: AccountId,
        base: &Base,
        segments: &BTreeMap<SegmentId, FoundSegment<D>>,
    ) -> Result<(Index, Start), Error> {
        let position = Position { segment: base.segment, offset: base.offset };
        if base.lsn == Lsn(0) {
            let start = Start { position, due: Lsn(1), run: 0, witness: Lsn(0) };
            let mut index = Index::default();
            index.past.keep_only(account);
            return Ok((index, start));
        }
        let loaded = base::load(&self.core.device, self.core.options.shard, segments, base).await;
        let Some(loaded) = loaded else {
            let place = format!("the log of {}", self.core.device.place());
            return Err(Error::Corrupt { what: "a base", place });
        };
        let mut index = loaded.index;
        index.accounts.retain(|id, _| *id == account);
        (index.spaces, index.live) = (Spaces::default(), Live::default());
        index.past.keep_only(account);
        let due = Lsn(index.applied.0 + 1);
        Ok((index, Start { position: loaded.position, due, run: loaded.run, witness: Lsn(0) }))
    }

    /// Shows an account as it was, in read-only mailboxes below `root`, with the UIDs and flags of
    /// then. How many messages there are, and how many were not found (rot has taken them). Until
    /// it is whole it is called "`root` (unfinished)": what was broken off is begun anew by the
    /// next try. It counts against the quota. What was in quarantine is not shown.
    pub async fn show(
        &self,
        past: &PastAccount,
        root: &str,
        over_quota: bool,
    ) -> Result<(u64, u64, Durable), Error> {
        let account = past.account;
        let unfinished = format!("{root} (unfinished)");
        let is_shown = |mailbox: &&PastMailbox| mailbox.name != names::QUARANTINE;
        let shown_mailboxes = past.mailboxes.iter().filter(is_shown);
        // Whatever would refuse it is looked for before anything is made. This is the longer name.
        let name = |mailbox: &PastMailbox| names::check(&format!("{unfinished}/{}", mailbox.name));
        let wanted: Vec<String> = shown_mailboxes.clone().map(name).collect::<Result<_, _>>()?;
        for name in self.broken_off(account, root, &unfinished)? {
            let _ = self.delete_mailbox(account, &name).await?;
        }
        self.with_account(account, |found| {
            let levels = wanted.iter().flat_map(|name| names::parents(name).chain([&name[..]]));
            let missing: BTreeSet<&str> =
                levels.filter(|level| !found.names.contains_key(*level)).collect();
            super::mailboxes::check_count(found, missing.len())
        })?;
        if !over_quota {
            let messages = shown_mailboxes.clone().flat_map(|mailbox| &mailbox.messages);
            let bytes = messages.clone().map(|message| u64::from(message.bytes)).sum();
            let usage = self.usage(account)?;
            self.core.reservations.check(account, &usage, messages.count() as u64, bytes)?;
        }
        let (mut shown, mut missing) = (0, 0);
        let most = self.core.options.record_bytes_max() / 2 / BYTES_PER_MESSAGE;
        for (mailbox, name) in shown_mailboxes.zip(&wanted) {
            let mut parts = mailbox.messages.chunks(most.min(MESSAGES_AT_ONCE));
            let first = parts.next().unwrap_or(&[]);
            for part in std::iter::once(first).chain(parts) {
                let there = self.show_part(account, mailbox, name, part).await?;
                shown += there;
                missing += part.len() as u64 - there;
            }
        }
        let durable = self.rename_mailbox(account, &unfinished, root).await?;
        Ok((shown, missing, durable))
    }

    /// What a try that was broken off has left. Mailboxes that somebody has made himself are in
    /// the way, and stay.
    fn broken_off(
        &self,
        account: AccountId,
        root: &str,
        unfinished: &str,
    ) -> Result<Vec<String>, Error> {
        self.with_account(account, |found| {
            let is_of = |name: &str, tree: &str| name == tree || names::is_below(name, tree);
            let mut left = Vec::new();
            for (name, id) in &found.names {
                let is_ours = || found.mailbox(*id).is_some_and(|mailbox| mailbox.read_only);
                if is_of(name, root) || (is_of(name, unfinished) && !is_ours()) {
                    return Err(Error::MailboxExists(name.clone()));
                }
                if is_of(name, unfinished) {
                    left.push(name.clone());
                }
            }
            Ok(left)
        })
    }

    async fn show_part(
        &self,
        account: AccountId,
        mailbox: &PastMailbox,
        name: &str,
        part: &[PastMessage],
    ) -> Result<u64, Error> {
        let seconds = self.now_seconds();
        let plan = |index: &mut Index| {
            let found = account_in(index, account)?;
            let created: Vec<NewMailbox> = found.missing_levels(name, seconds);
            super::mailboxes::check_count(found, created.len())?;
            let to = found.names.get(name).copied().or_else(|| created.last().map(|new| new.id));
            let is_there = |message: &&PastMessage| {
                index.row_or_grave(account, mailbox.id, message.uid).is_some()
            };
            let there = part.iter().filter(is_there).map(|message| (message.uid, message.flags));
            let messages: Vec<(Uid, Flags)> = there.collect();
            let count = messages.len() as u64;
            let shown = Shown {
                account,
                created,
                from: mailbox.id,
                to: to.expect("there or about to be made"),
                keywords: mailbox.keywords.clone(),
                messages,
            };
            Ok((Record::Shown(shown), count))
        };
        self.log(account, plan).await.map(|(count, _)| count)
    }
}

impl PastMessage {
    pub(super) fn of(row: &Row) -> PastMessage {
        PastMessage {
            uid: row.uid,
            flags: row.flags,
            internal_date: row.internal_date,
            bytes: row.bytes,
        }
    }
}

fn of_then(mailbox: &Mailbox) -> PastMailbox {
    PastMailbox {
        id: mailbox.id,
        name: mailbox.name.clone(),
        uid_validity: mailbox.uid_validity,
        special_use: mailbox.special_use,
        keywords: mailbox.keywords.clone(),
        messages: mailbox.rows.iter().map(|row| PastMessage::of(&row)).collect(),
    }
}

/// A segment of the log, and what there is under its name.
struct Looked<D: Device> {
    id: SegmentId,
    number: u32,
    segment_bytes: u64,
    file_bytes: u64,
    /// If it is open, and under its name there is none or another one: it was removed.
    unnamed: Option<D::File>,
    /// It is the file that it was, as far as that can be told ([`Device::file_id`]).
    is_same: bool,
}

/// The log's segments from this one on, with their headers. Where they are under their names none
/// stays open: of a long log they would be more than a process may have.
async fn found_segments<D: Device>(
    core: &Core<D>,
    from: SegmentId,
) -> Result<BTreeMap<SegmentId, FoundSegment<D>>, Error> {
    let unreadable = |error: io::Error| core.unreadable_log(error.to_string());
    // By their names: another directory may have files of another time.
    core.check_place().await.map_err(unreadable)?;
    // As they are now: a file may have been cut off under the store.
    let listed = core.device.list().await.map_err(unreadable)?;
    let listed: BTreeMap<String, Listed> =
        listed.into_iter().map(|listed| (listed.name.clone(), listed)).collect();
    let look = |(id, one): (&SegmentId, &SegmentFile<D>)| {
        let there = listed.get(&file_name(one.number));
        let is_named = there.is_some_and(|there| there.id == one.file_id);
        let unnamed = one.file.clone().filter(|_| !is_named);
        let there = there.filter(|_| unnamed.is_none());
        let file_bytes = there.map_or(one.segment_bytes, |there| there.bytes);
        let is_same = is_named || unnamed.is_some();
        let (id, number, segment_bytes) = (*id, one.number, one.segment_bytes);
        Looked { id, number, segment_bytes, file_bytes, unnamed, is_same }
    };
    let (unnamed, named): (Vec<_>, Vec<_>) = {
        let segments = core.segments.borrow();
        let later = segments.of_log().filter(|(id, _)| **id >= from);
        later.map(look).partition(|one| one.unnamed.is_some())
    };
    let heads: Vec<(u32, u64)> = named.iter().map(|one| (one.number, one.segment_bytes)).collect();
    let identities = identify_all(&core.device, &heads, HEADS_AT_ONCE).await.map_err(unreadable)?;
    let mut all: Vec<(Looked<D>, Identity)> = named.into_iter().zip(identities).collect();
    for one in unnamed {
        // A file that was removed is whole for whoever has it open.
        let Some(file) = &one.unnamed else { continue };
        let identity = identify(&core.device, file, one.segment_bytes).await.map_err(unreadable)?;
        all.push((one, identity));
    }
    let salt = core.superblock.borrow().salt;
    let mut found = BTreeMap::new();
    for (Looked { id, number, file_bytes, unnamed: file, is_same, .. }, identity) in all {
        match identity {
            Identity::Segment(header) | Identity::Damaged(header)
                if header.segment == id && (is_same || header.salt == salt) =>
            {
                let is_sound = true;
                found.insert(id, FoundSegment { number, file, file_bytes, is_sound, header });
            }
            _ => return Err(core.corrupt("a segment's header", Location::new(id, 0), None)),
        }
    }
    Ok(found)
}

impl<D: Device> Core<D> {
    fn unreadable_log(&self, what: String) -> Error {
        Error::Read { what, place: format!("the log of {}", self.device.place()) }
    }
}
