//! The whole-store check: every message is read and verified, every count is counted again.

use super::Store;
use crate::device::Device;
use crate::error::Error;
use crate::format::{Location, SegmentId};
use crate::index::{Account, Index, Live, Mailbox, Row, Rows, SegmentUse};
use crate::log::segments::file_name;
use crate::types::{AccountId, Flags, MailboxId, Uid};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

/// Counted again between two yields.
const MAILBOXES_AT_ONCE: usize = 64;
/// The same of messages: of those that can't be had nothing is read, which would let others have a
/// turn.
const MESSAGES_AT_ONCE: u64 = 64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub records: u64,
    pub messages: u64,
    pub bytes: u64,
    /// What does not verify: place, and whose message it is.
    pub bad: Vec<String>,
}

/// A check under way.
struct Check<'c> {
    report: VerifyReport,
    /// Segments without a file, and what the disk said: what is in them is not asked for again,
    /// message by message.
    absent: BTreeMap<SegmentId, Option<String>>,
    read: &'c mut dyn FnMut(u64) -> bool,
    /// Whether somebody waits for it.
    is_wanted: bool,
}

impl Check<'_> {
    fn is_done_with(&mut self, bytes: u64) {
        self.is_wanted = self.is_wanted && (self.read)(bytes);
    }
}

impl<D: Device> Store<D> {
    /// Reads every live record and compares it with the index, then the rest of the log, the newest
    /// checkpoint and the base; bad places are listed, not fatal.
    /// Works on a snapshot, so mail may come and go meanwhile.
    pub async fn verify(&self) -> Result<VerifyReport, Error> {
        self.verify_showing(|_| true).await
    }

    /// What that has to look at.
    #[must_use]
    pub fn bytes_to_verify(&self) -> u64 {
        let index = self.core.index.borrow();
        index.counters.live_bytes + index.past.bytes + self.log_bytes_to_verify()
    }

    /// The same. `read` hears of bytes that are done with, and says whether anybody still waits: if
    /// not, the report is of what was looked at by then.
    pub async fn verify_showing(
        &self,
        mut read: impl FnMut(u64) -> bool,
    ) -> Result<VerifyReport, Error> {
        let snapshot = self.core.index.borrow().clone();
        let mut check = Check {
            report: VerifyReport::default(),
            absent: BTreeMap::new(),
            read: &mut read,
            is_wanted: true,
        };
        check.report.bad.extend(self.core.recovery.damage.iter().cloned());
        let (mut messages, mut bytes) = (0, 0);
        let mut accounts: Vec<&Rc<Account>> = snapshot.accounts.values().collect();
        accounts.sort_by_key(|account| account.id);
        for account in accounts {
            self.verify_account(account, &mut check).await?;
            messages += account.messages;
            bytes += account.bytes;
        }
        self.verify_graves(&snapshot, &mut check).await?;
        if !check.is_wanted {
            return Ok(check.report);
        }
        self.verify_live(&snapshot, &mut check.report).await;
        let mut read = |bytes| {
            check.is_done_with(bytes);
            check.is_wanted
        };
        let of_log = self.verify_log(&mut read).await?;
        let mut report = check.report;
        // What a message has told of already is not told again.
        let told: HashSet<String> = report.bad.iter().map(|bad| place_in(bad).to_owned()).collect();
        report.bad.extend(of_log.into_iter().filter(|place| !told.contains(place_in(place))));
        if (messages, bytes) != (snapshot.counters.messages, snapshot.counters.live_bytes) {
            report.bad.push(format!(
                "the store counts {} messages of {} bytes, its accounts {messages} of {bytes}",
                snapshot.counters.messages, snapshot.counters.live_bytes
            ));
        }
        Ok(report)
    }

    async fn verify_account(&self, account: &Account, check: &mut Check<'_>) -> Result<(), Error> {
        let (mut messages, mut bytes) = (0, 0);
        for mailbox in account.mailboxes.values() {
            messages += u64::from(mailbox.messages);
            bytes += mailbox.bytes;
            if account.names.get(&mailbox.name) != Some(&mailbox.id) {
                let name = &mailbox.name;
                let lost = format!("account {}: name {name:?} is lost", account.id.0);
                check.report.bad.push(lost);
            }
            check_counts(account.id, mailbox, &mut check.report);
            self.verify_rows(account.id, mailbox, check).await?;
        }
        if (messages, bytes) != (account.messages, account.bytes) {
            check.report.bad.push(format!(
                "account {} counts {} messages of {} bytes, its mailboxes {messages} of {bytes}",
                account.id.0, account.messages, account.bytes
            ));
        }
        Ok(())
    }

    async fn verify_rows(
        &self,
        account: AccountId,
        mailbox: &Mailbox,
        check: &mut Check<'_>,
    ) -> Result<(), Error> {
        for row in mailbox.rows.iter() {
            if !check.is_wanted {
                break;
            }
            let place = (account, mailbox.id, mailbox.name.as_str());
            check.report.messages += u64::from(self.verify_row(place, row, check).await?);
        }
        Ok(())
    }

    /// Whether the message is whole.
    async fn verify_row(
        &self,
        (account, mailbox, name): (AccountId, MailboxId, &str),
        mut row: Row,
        check: &mut Check<'_>,
    ) -> Result<bool, Error> {
        if !check.is_wanted {
            return Ok(false);
        }
        check.report.records += 1;
        check.is_done_with(u64::from(row.bytes));
        if check.report.records.is_multiple_of(MESSAGES_AT_ONCE) {
            self.core.device.yield_now().await;
        }
        loop {
            let what = match self.why_not_whole(&row, check).await? {
                None => return Ok(true),
                Some(what) => what,
            };
            // Behind the snapshot's back compaction may have moved it, and its segment may be gone.
            let now = self.core.index.borrow().row_or_grave(account, mailbox, row.uid);
            match now {
                Some(now) if now.location != row.location => row = now,
                None => return Ok(false),
                Some(_) => {
                    check.report.bad.push(format!(
                        "{what}: account {}, mailbox {name:?}, UID {}",
                        account.0, row.uid.0
                    ));
                    return Ok(false);
                }
            }
        }
    }

    async fn why_not_whole(
        &self,
        row: &Row,
        check: &mut Check<'_>,
    ) -> Result<Option<String>, Error> {
        let segments = self.segments_of(row);
        if let Some(said) = segments.iter().find_map(|segment| check.absent.get(segment)?.clone()) {
            return Ok(Some(said));
        }
        match self.read_row(row, 0..u64::from(row.bytes)).await {
            Ok(bytes) => {
                check.report.bytes += bytes.len() as u64;
                Ok(None)
            }
            Err(Error::Corrupt { what, place }) => Ok(Some(format!("{what} in {place}"))),
            Err(Error::Read { what, place }) => {
                let said = format!("{place}: {what}");
                for segment in segments {
                    if let Entry::Vacant(unknown) = check.absent.entry(segment) {
                        let is_absent = self.is_absent(segment).await;
                        unknown.insert(is_absent.then(|| said.clone()));
                    }
                }
                Ok(Some(said))
            }
            Err(other) => Err(other),
        }
    }

    /// Those that a message is in.
    fn segments_of(&self, row: &Row) -> BTreeSet<SegmentId> {
        let index = self.core.index.borrow();
        let chunks = index.live.chunks(row.location).iter().map(|chunk| chunk.location.segment);
        chunks.chain([row.location.segment]).collect()
    }

    /// Whether it has no file: neither is it open, nor has the directory its name.
    async fn is_absent(&self, segment: SegmentId) -> bool {
        let name = {
            let segments = self.core.segments.borrow();
            let file = segments.files.get(&segment).filter(|file| file.file.is_none());
            file.map(|file| file_name(file.number))
        };
        let Some(name) = name else { return false };
        let listed = self.core.device.list().await;
        listed.is_ok_and(|listed| listed.iter().all(|one| one.name != name))
    }

    /// What has gone and is remembered must be whole, too.
    async fn verify_graves(&self, snapshot: &Index, check: &mut Check<'_>) -> Result<(), Error> {
        let (mut messages, mut bytes) = (0, 0);
        for (account, graves) in &snapshot.past.graves {
            for (mailbox, graveyard) in &**graves {
                for grave in graveyard.graves().filter(|grave| !grave.is_elsewhere) {
                    if !check.is_wanted {
                        return Ok(());
                    }
                    messages += 1;
                    bytes += u64::from(grave.row.bytes);
                    let place = (*account, *mailbox, &graveyard.name[..]);
                    self.verify_row(place, grave.row, check).await?;
                }
            }
        }
        if (messages, bytes) != (snapshot.past.messages, snapshot.past.bytes) {
            check.report.bad.push(format!(
                "the store counts {} messages of {} bytes that have gone, its graves {messages} of {bytes}",
                snapshot.past.messages, snapshot.past.bytes
            ));
        }
        Ok(())
    }

    /// What is live in each segment, counted again. Only records with several
    /// references are remembered.
    async fn verify_live(&self, snapshot: &Index, report: &mut VerifyReport) {
        let mut recount = Live::default();
        let mut shared: BTreeMap<Location, (u32, u32)> = BTreeMap::new();
        let mut all: Vec<&Rows> = Vec::new();
        for account in snapshot.accounts.values() {
            let mailboxes = account.mailboxes.values().map(|mailbox| &mailbox.rows);
            all.extend(mailboxes);
        }
        for graves in snapshot.past.graves.values() {
            all.extend(graves.values().map(|graveyard| &graveyard.rows));
        }
        for (number, rows) in all.into_iter().enumerate() {
            for row in rows.iter() {
                if snapshot.live.references(row.location) == 1 {
                    let chunks = snapshot.live.chunks(row.location);
                    recount.add(row.location, row.record_bytes, 1, chunks);
                } else {
                    shared.entry(row.location).or_insert((row.record_bytes, 0)).1 += 1;
                }
            }
            if number % MAILBOXES_AT_ONCE == 0 {
                self.core.device.yield_now().await;
            }
        }
        for (location, (record_bytes, references)) in shared {
            recount.add(location, record_bytes, references, snapshot.live.chunks(location));
        }
        let segments = recount.segments().chain(snapshot.live.segments());
        let segments: BTreeSet<SegmentId> = segments.map(|(segment, _)| segment).collect();
        for segment in segments {
            let (kept, counted) = (snapshot.live.used(segment), recount.used(segment));
            if kept != counted {
                let bytes = |used: Option<&SegmentUse>| used.map_or(0, |used| used.bytes);
                report.bad.push(format!(
                    "segment {} counts {} live bytes, its rows {}",
                    segment.0,
                    bytes(kept),
                    bytes(counted)
                ));
            }
        }
    }
}

/// Where a line says that something is, without the LSN, which is not always known.
fn place_in(told: &str) -> &str {
    let at = told.split_once(" in ").map_or(told, |(_, at)| at);
    at.split_once(',').map_or(at, |(at, _)| at)
}

fn check_counts(account: AccountId, mailbox: &Mailbox, report: &mut VerifyReport) {
    let (mut messages, mut unseen, mut deleted, mut bytes) = (0_u32, 0_u32, 0_u32, 0_u64);
    let mut last = Uid(0);
    for row in mailbox.rows.iter() {
        messages += 1;
        unseen += u32::from(!row.flags.contains(Flags::SEEN));
        deleted += u32::from(row.flags.contains(Flags::DELETED));
        bytes += u64::from(row.bytes);
        if row.uid <= last || row.uid >= mailbox.uid_next {
            report.bad.push(format!(
                "account {}, mailbox {:?}: UID {} out of order",
                account.0, mailbox.name, row.uid.0
            ));
        }
        last = row.uid;
    }
    let kept = (mailbox.messages, mailbox.unseen, mailbox.deleted, mailbox.bytes);
    if kept != (messages, unseen, deleted, bytes) {
        report.bad.push(format!(
            "account {}, mailbox {:?} counts {kept:?}, its rows {:?}",
            account.0,
            mailbox.name,
            (messages, unseen, deleted, bytes)
        ));
    }
}
