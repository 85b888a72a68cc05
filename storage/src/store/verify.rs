//! The whole-store check: every message is read and verified, every count is counted again.

use super::Store;
use crate::device::Device;
use crate::error::Error;
use crate::index::{Account, Mailbox, Row};
use crate::types::{AccountId, Flags, Uid};
use std::rc::Rc;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub records: u64,
    pub messages: u64,
    pub bytes: u64,
    /// What does not verify: place, and whose message it is.
    pub bad: Vec<String>,
}

impl<D: Device> Store<D> {
    /// Reads every live record and compares it with the index; bad places are listed, not fatal.
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
            for row in mailbox.rows.iter() {
                self.verify_row(account.id, mailbox, &row, report).await?;
            }
        }
        if (messages, bytes) != (account.messages, account.bytes) {
            report.bad.push(format!(
                "account {} counts {} messages of {} bytes, its mailboxes {messages} of {bytes}",
                account.id.0, account.messages, account.bytes
            ));
        }
        Ok(())
    }

    async fn verify_row(
        &self,
        account: AccountId,
        mailbox: &Mailbox,
        row: &Row,
        report: &mut VerifyReport,
    ) -> Result<(), Error> {
        report.records += 1;
        match self.read_row(row, 0..u64::from(row.bytes)).await {
            Ok(bytes) => {
                report.messages += 1;
                report.bytes += bytes.len() as u64;
                Ok(())
            }
            Err(Error::Corrupt { what, place }) => {
                report.bad.push(format!(
                    "{what} in {place}: account {}, mailbox {:?}, UID {}",
                    account.0, mailbox.name, row.uid.0
                ));
                Ok(())
            }
            Err(Error::Device(what)) => {
                report.bad.push(format!(
                    "{what}: account {}, mailbox {:?}, UID {}",
                    account.0, mailbox.name, row.uid.0
                ));
                Ok(())
            }
            Err(other) => Err(other),
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
