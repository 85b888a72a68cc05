//! From what was found to an index: the newest checkpoint or base that verifies, and behind it
//! every record that was found, in the order of the LSNs.
//!
//! Opening stops where it can't be sure; here the fold goes on over whatever is missing. An
//! account or a mailbox that a record takes for granted, but of which the record that made it is
//! gone, is made up.

use super::search::{Found, Searched};
use crate::base;
use crate::checkpoint::load::Loaded;
use crate::checkpoint::{file_lsn, file_name};
use crate::device::Device;
use crate::error::Error;
use crate::format::{Record, SegmentId};
use crate::index::apply::Logged;
use crate::index::{Account, Index, Row};
use crate::open::load_files;
use crate::types::{AccountId, Lsn, MailboxId, Modseq, Quota};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::rc::Rc;

pub(super) struct Folded {
    pub(super) index: Index,
    /// What the index was begun with, for the operator.
    pub(super) begun_with: String,
    /// Where the log goes on after that.
    pub(super) from: Option<SegmentId>,
    pub(super) damage: Vec<String>,
    /// LSNs of which no record was found.
    pub(super) records_lost: u64,
    /// Made up, under a name that nobody has given.
    pub(super) nameless: BTreeSet<(AccountId, MailboxId)>,
    pub(super) accounts_made_up: BTreeSet<AccountId>,
}

/// The name of a mailbox that was made up, until it is known; no mailbox of a user's can have it.
fn no_name(mailbox: MailboxId) -> String {
    format!("\u{1}{}", mailbox.0)
}

pub(super) async fn fold<D: Device>(
    device: &D,
    shard: u16,
    searched: &Searched<D>,
    seconds: u32,
) -> Result<Folded, Error> {
    let mut damage = Vec::new();
    let begun = begin(device, shard, searched, &mut damage).await;
    let begun = begun.map_err(|error| super::unreadable(device, &error))?;
    let from = begun.as_ref().map(|(loaded, _)| loaded.position.segment);
    let (index, run, begun_with) = match begun {
        Some((loaded, what)) => (loaded.index, loaded.run, what),
        None => (Index::default(), 0, "the records alone".to_owned()),
    };
    let mut folding = Folding {
        folded: Folded {
            index,
            begun_with,
            from,
            damage,
            records_lost: 0,
            nameless: BTreeSet::new(),
            accounts_made_up: BTreeSet::new(),
        },
        seconds,
        removed: BTreeSet::new(),
        whole_from: Lsn(0),
    };
    let is_begun = run > 0;
    folding.run(device, searched, run).await?;
    if !is_begun {
        folding.take_in_the_rest(device, searched).await;
    }
    Ok(folding.folded)
}

/// The newest checkpoint file or base in the log that is whole.
async fn begin<D: Device>(
    device: &D,
    shard: u16,
    searched: &Searched<D>,
    damage: &mut Vec<String>,
) -> io::Result<Option<(Loaded, String)>> {
    let listed = device.list().await?;
    let mut files: Vec<Lsn> = listed.iter().filter_map(|file| file_lsn(&file.name)).collect();
    files.sort_unstable();
    let mut bases = Vec::new();
    for found in searched.records.iter().filter(|found| found.kind == Record::BASED) {
        let Some(parts) = searched.read(device, found, false).await else { continue };
        if let Ok(Record::Based(base)) = decode(&parts) {
            bases.push(base);
        }
    }
    bases.sort_by_key(|base| base.lsn);
    loop {
        let file = files.last().copied();
        let base = bases.last().map(|base| base.lsn);
        if file.is_none() && base.is_none() {
            return Ok(None);
        }
        if file >= base {
            let Some(lsn) = files.pop() else { return Ok(None) };
            let name = file_name(lsn);
            match load_files(device, shard, lsn).await {
                Ok((loaded, _)) => return Ok(Some((loaded, name))),
                Err(setback) => damage.push(format!("checkpoint {name}{setback}")),
            }
            continue;
        }
        let Some(found) = bases.pop() else { return Ok(None) };
        // What can't be read of it is reason enough to look at the next one.
        match base::load(device, shard, &searched.segments, &found).await {
            Some(loaded) => {
                return Ok(Some((loaded, format!("the base as of LSN {}", found.lsn.0))));
            }
            None => {
                damage.push(format!("the base as of LSN {} does not verify", found.lsn.0));
            }
        }
    }
}

pub(super) fn decode(parts: &super::search::Parts) -> Result<Record, crate::format::Malformed> {
    Record::decode(parts.header.kind, parts.header.version, parts.meta())
}

struct Folding {
    folded: Folded,
    seconds: u32,
    /// Their records are no reason to make them up.
    removed: BTreeSet<AccountId>,
    /// No record from here on is missing.
    whole_from: Lsn,
}

impl Folding {
    async fn run<D: Device>(
        &mut self,
        device: &D,
        searched: &Searched<D>,
        run: u32,
    ) -> Result<(), Error> {
        let mut run = run;
        let mut due = Lsn(self.folded.index.applied.0 + 1);
        let from = searched.records.partition_point(|found| found.lsn < due);
        for same in searched.records[from..].chunk_by(|one, other| one.lsn == other.lsn) {
            // Runs never fall along the log: what an earlier one left behind a later
            // one is a leftover.
            let in_log = same.iter().filter(|found| !found.location.segment.is_cold());
            run = in_log.map(|found| found.run).max().map_or(run, |highest| run.max(highest));
            let counts = |found: &&Found| {
                found.meta_verifies && (found.location.segment.is_cold() || found.run == run)
            };
            // A copy that compaction has made will do where the record itself does not verify.
            let best = same
                .iter()
                .filter(counts)
                .max_by_key(|found| (found.body_verifies, !found.location.segment.is_cold()));
            let Some(found) = best else { continue };
            let Some(parts) = searched.read(device, found, false).await else { continue };
            let record = decode(&parts).map_err(|malformed| Error::Corrupt {
                what: "a record that verifies",
                place: format!("LSN {}: it {malformed}", found.lsn.0),
            })?;
            if found.lsn > due {
                self.folded.records_lost += found.lsn.0 - due.0;
                self.whole_from = found.lsn;
            }
            due = Lsn(found.lsn.0 + 1);
            self.prepare(&record);
            let record_bytes = parts.header.record_bytes();
            self.folded.index.apply(Logged {
                lsn: found.lsn,
                time: found.time,
                location: found.location,
                record_bytes: u32::try_from(record_bytes).unwrap_or(u32::MAX),
                record: &record,
            });
        }
        self.folded.records_lost += (searched.witness.0 + 1).saturating_sub(due.0);
        Ok(())
    }

    /// Without anything to begin with, records that made copies are gone with the log that was
    /// freed. A message that nothing refers to, and that is older than the last record that is
    /// missing, may be such a copy's: it is saved rather than lost, be it that it was expunged.
    async fn take_in_the_rest<D: Device>(&mut self, device: &D, searched: &Searched<D>) {
        let mut known: HashSet<(AccountId, Lsn)> = HashSet::new();
        for account in self.folded.index.accounts.values() {
            let rows = account.mailboxes.values().flat_map(|mailbox| mailbox.rows.iter());
            let found = rows.filter_map(|row| searched.at(row.location));
            known.extend(found.map(|(_, found)| (account.id, found.lsn)));
        }
        let mut boxes: BTreeMap<AccountId, MailboxId> = BTreeMap::new();
        for found in &searched.records {
            let is_candidate =
                found.kind == Record::DELIVERED && found.is_whole() && found.lsn < self.whole_from;
            if !is_candidate {
                continue;
            }
            let Some(parts) = searched.read(device, found, false).await else { continue };
            let Ok(Record::Delivered(delivered)) = decode(&parts) else { continue };
            for (number, placement) in (0..).zip(&delivered.placements) {
                let id = placement.account;
                let is_there = self.folded.index.accounts.contains_key(&id);
                if !is_there || !known.insert((id, found.lsn)) {
                    continue;
                }
                let next = self.folded.index.account(id).map_or(0, |account| account.mailbox_next);
                let mailbox = *boxes.entry(id).or_insert(MailboxId(next));
                self.mailbox(id, mailbox);
                let account = self.folded.index.accounts.get_mut(&id).map(Rc::make_mut);
                let Some(to) = account.and_then(|account| account.mailbox_mut(mailbox)) else {
                    continue;
                };
                let prefix_bytes = u16::try_from(placement.prefix.len()).unwrap_or(u16::MAX);
                let row = Row {
                    uid: to.uid_next,
                    bytes: delivered.body_bytes.saturating_add(u32::from(prefix_bytes)),
                    modseq: Modseq(found.lsn.0),
                    flags: placement.flags,
                    internal_date: delivered.internal_date,
                    location: found.location,
                    record_bytes: u32::try_from(parts.header.record_bytes()).unwrap_or(u32::MAX),
                    prefix_bytes,
                    placement: number,
                };
                let _ = to.add(row);
            }
        }
    }

    /// Makes up what the record takes for granted.
    fn prepare(&mut self, record: &Record) {
        match record {
            Record::AccountRemoved { account } => drop(self.removed.insert(*account)),
            Record::Delivered(delivered) => {
                for placement in &delivered.placements {
                    self.mailbox(placement.account, placement.mailbox);
                }
            }
            Record::Copied { account, from, to, .. } => {
                self.mailbox(*account, *from);
                self.mailbox(*account, *to);
            }
            Record::Undeleted(undeleted) => {
                self.account(undeleted.account);
                if !undeleted.created.iter().any(|new| new.id == undeleted.to) {
                    self.mailbox(undeleted.account, undeleted.to);
                }
            }
            Record::MailboxesRenamed { account, renamed, .. } => {
                for (mailbox, _) in renamed {
                    self.mailbox(*account, *mailbox);
                    // It gets its name now.
                    self.folded.nameless.remove(&(*account, *mailbox));
                }
            }
            Record::QuotaSet { account, .. }
            | Record::MailboxesCreated { account, .. }
            | Record::InboxRenamed { account, .. }
            | Record::Subscribed { account, .. } => self.account(*account),
            Record::AccountCreated { .. }
            | Record::MailboxDeleted { .. }
            | Record::FlagsChanged { .. }
            | Record::Expunged { .. }
            | Record::Chunk { .. }
            | Record::Put { .. }
            | Record::Lost { .. }
            | Record::Moved(_)
            | Record::Piece
            | Record::Based(_)
            | Record::RetentionSet { .. }
            | Record::HoldSet { .. }
            | Record::Forgot(_)
            | Record::Shown(_) => {}
        }
    }

    fn account(&mut self, account: AccountId) {
        let folded = &mut self.folded;
        if folded.index.accounts.contains_key(&account) || self.removed.contains(&account) {
            return;
        }
        let made_up = Account::new(account, Quota::default(), self.seconds);
        folded.index.accounts.insert(account, Rc::new(made_up));
        folded.accounts_made_up.insert(account);
    }

    fn mailbox(&mut self, account: AccountId, mailbox: MailboxId) {
        self.account(account);
        let folded = &mut self.folded;
        let Some(found) = folded.index.accounts.get_mut(&account).map(Rc::make_mut) else { return };
        if found.mailboxes.contains_key(&mailbox) {
            return;
        }
        let new = crate::format::NewMailbox {
            id: mailbox,
            uid_validity: found.uid_validity_max.saturating_add(1).max(self.seconds),
            special_use: None,
            name: no_name(mailbox),
        };
        found.create(&new, Modseq(0));
        folded.nameless.insert((account, mailbox));
    }
}
