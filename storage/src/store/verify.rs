//! The whole-store check: every message is read and verified, every count is counted again.

use super::Store;
use crate::device::Device;
use crate::error::Error;
use crate::format::{Location, SegmentId};
use crate::index::{Account, Index, Live, Mailbox, Row, Rows, SegmentUse};
use crate::types::{AccountId, Flags, MailboxId, Uid};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Counted again between two yields.
const MAILBOXES_AT_ONCE: usize = 64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub records: u64,
    pub messages: u64,
    pub bytes: u64,
    /// What does not verify: place, and whose message it is.
    pub bad: Vec<String>,
}

impl<D: Device> Store<D> {
    /// Reads every live record and compares it with the index, then the rest of the log, the newest
    /// checkpoint and the base; bad places are listed, not fatal.
    /// Works on a snapshot, so mail may come and go meanwhile.
    pub async fn verify(&self) -> Result<VerifyReport, Error> {
        let snapshot = self.core.index.borrow().clone();
        let mut report = VerifyReport::default();
        report.bad.extend(self.core.recovery.damage.iter().cloned());
        let (mut messages, mut bytes) = (0, 0);
        let mut accounts: Vec<&Rc<Account>> = snapshot.accounts.values().collect();
        accounts.sort_by_key(|account| account.id);
        for account in accounts {
            self.verify_account(account, &mut report).await?;
            messages += account.messages;
            bytes += account.bytes;
        }
        self.verify_graves(&snapshot, &mut report).await?;
        self.verify_live(&snapshot, &mut report).await;
        for place in self.verify_log().await? {
            // What a message has told of already is not told again.
            let at = place.split_once(" in ").map_or(&*place, |(_, at)| at);
            if !report.bad.iter().any(|bad| bad.contains(&format!("{at},"))) {
                report.bad.push(place);
            }
        }
        if (messages, bytes) != (snapshot.counters.messages, snapshot.counters.live_bytes) {
            report.bad.push(format!(
                "the store counts {} messages of {} bytes, its accounts {messages} of {bytes}",
                snapshot.counters.messages, snapshot.counters.live_bytes
            ));
        }
        Ok(report)
    }

    async fn verify_account(
        &self,
        account: &Account,
        report: &mut VerifyReport,
    ) -> Result<(), Error> {
        let (mut messages, mut bytes) = (0, 0);
        for mailbox in account.mailboxes.values() {
            messages += u64::from(mailbox.messages);
            bytes += mailbox.bytes;
            if account.names.get(&mailbox.name) != Some(&mailbox.id) {
                let name = &mailbox.name;
                report.bad.push(format!("account {}: name {name:?} is lost", account.id.0));
            }
            check_counts(account.id, mailbox, report);
            self.verify_rows(account.id, mailbox, report).await?;
        }
        if (messages, bytes) != (account.messages, account.bytes) {
            report.bad.push(format!(
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
        report: &mut VerifyReport,
    ) -> Result<(), Error> {
        for row in mailbox.rows.iter() {
            let place = (account, mailbox.id, mailbox.name.as_str());
            report.messages += u64::from(self.verify_row(place, row, report).await?);
        }
        Ok(())
    }

    /// Whether the message is whole.
    async fn verify_row(
        &self,
        (account, mailbox, name): (AccountId, MailboxId, &str),
        mut row: Row,
        report: &mut VerifyReport,
    ) -> Result<bool, Error> {
        report.records += 1;
        loop {
            let what = match self.read_row(&row, 0..u64::from(row.bytes)).await {
                Ok(bytes) => {
                    report.bytes += bytes.len() as u64;
                    return Ok(true);
                }
                Err(Error::Corrupt { what, place }) => format!("{what} in {place}"),
                Err(Error::Read { what, place }) => format!("{place}: {what}"),
                Err(other) => return Err(other),
            };
            // Behind the snapshot's back compaction may have moved it, and its segment may be gone.
            let now = self.core.index.borrow().row_or_grave(account, mailbox, row.uid);
            match now {
                Some(now) if now.location != row.location => row = now,
                None => return Ok(false),
                Some(_) => {
                    report.bad.push(format!(
                        "{what}: account {}, mailbox {name:?}, UID {}",
                        account.0, row.uid.0
                    ));
                    return Ok(false);
                }
            }
        }
    }

    /// What has gone and is remembered must be whole, too.
    async fn verify_graves(
        &self,
        snapshot: &Index,
        report: &mut VerifyReport,
    ) -> Result<(), Error> {
        let (mut messages, mut bytes) = (0, 0);
        for (account, graves) in &snapshot.past.graves {
            for (mailbox, graveyard) in &**graves {
                for grave in graveyard.graves().filter(|grave| !grave.is_elsewhere) {
                    messages += 1;
                    bytes += u64::from(grave.row.bytes);
                    self.verify_row((*account, *mailbox, &graveyard.name), grave.row, report)
                        .await?;
                }
            }
        }
        if (messages, bytes) != (snapshot.past.messages, snapshot.past.bytes) {
            report.bad.push(format!(
                "the store counts {} messages of {} bytes that have gone, its graves {messages} of {bytes}",
                snapshot.past.messages, snapshot.past.bytes
            ));
        }
        Ok(())
    }

    /// What is live in each segment, counted again. Only records with several references are remembered.
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
