//! What the fresh store is to hold: mailboxes with their messages, each where a record
//! of it was found.

use super::fold::Folded;
use super::search::{Found, Searched};
use super::{LISTED_MAX, SalvageReport};
use crate::device::Device;
use crate::format::{Location, NewMailbox, Record};
use crate::index::{Account, Grave, Graveyard, Mailbox, Row};
use crate::types::{AccountId, MailboxId, Quota, Uid};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Where messages go whose mailbox is not known any more.
pub(super) const SALVAGED: &str = "Salvaged";

/// One mailbox to be.
pub(super) struct Planned {
    pub(super) account: AccountId,
    pub(super) new: NewMailbox,
    /// Its messages by UID ascending, graves among them.
    pub(super) messages: Vec<Message>,
    /// Above every UID that was ever given out.
    pub(super) uid_next: Uid,
    /// How many of the messages have been dealt with.
    pub(super) head: usize,
    /// It had gone, and is there for its graves alone.
    pub(super) is_gone: bool,
}

#[derive(Clone)]
pub(super) struct Message {
    /// Number of the record.
    pub(super) found: u32,
    pub(super) uid: Uid,
    pub(super) row: Row,
    pub(super) keywords: Vec<String>,
    pub(super) is_grave: bool,
}

pub(super) struct PlannedAccount {
    pub(super) id: AccountId,
    pub(super) quota: Quota,
    pub(super) inbox_uid_validity: u32,
    pub(super) subscriptions: Vec<String>,
    /// It had gone, and is there for its graves alone.
    pub(super) is_gone: bool,
}

#[derive(Default)]
pub(super) struct Plan {
    pub(super) accounts: Vec<PlannedAccount>,
    pub(super) mailboxes: Vec<Planned>,
}

impl Plan {
    /// Of its messages.
    pub(super) fn bytes(&self) -> u64 {
        let messages = self.mailboxes.iter().flat_map(|mailbox| &mailbox.messages);
        messages.map(|message| u64::from(message.row.bytes)).sum()
    }

    pub(super) fn bytes_of(&self, messages: &[(usize, usize)]) -> u64 {
        let row =
            |(mailbox, index): &(usize, usize)| &self.mailboxes[*mailbox].messages[*index].row;
        messages.iter().map(|message| u64::from(row(message).bytes)).sum()
    }
}

/// Where deliveries said that they put a message, for rows whose own place does not verify.
type Deliveries = HashMap<(AccountId, MailboxId, Uid), (u32, Location)>;

pub(super) struct Planner<'s, D: Device> {
    pub(super) searched: &'s Searched<D>,
    pub(super) folded: &'s Folded,
    pub(super) deliveries: Deliveries,
    pub(super) report: &'s mut SalvageReport,
}

/// Asked for only where something is missing: it reads every delivery's meta.
pub(super) async fn deliveries<D: Device>(
    device: &D,
    searched: &Searched<D>,
    folded: &Folded,
) -> Deliveries {
    let mut deliveries = Deliveries::new();
    let is_there = |row: Row| searched.at(row.location).is_some_and(|(_, found)| found.is_whole());
    let mailboxes = folded.index.accounts.values().flat_map(|account| account.mailboxes.values());
    if mailboxes.flat_map(|mailbox| mailbox.rows.iter()).all(is_there) {
        return deliveries;
    }
    let is_delivery = |found: &Found| found.kind == Record::DELIVERED && found.is_whole();
    let mut numbered: Vec<(u32, &Found)> =
        (0_u32..).zip(&searched.records).filter(|(_, found)| is_delivery(found)).collect();
    // One file after the other: copies of old messages lie among new ones.
    numbered.sort_by_key(|(_, found)| found.location);
    for (number, found) in numbered {
        let Some(parts) = searched.read(device, found, false).await else { continue };
        let Ok(Record::Delivered(delivered)) = super::fold::decode(&parts) else { continue };
        for placement in delivered.placements {
            let place = (placement.account, placement.mailbox, placement.uid);
            let latest = deliveries.entry(place).or_insert((number, found.location));
            *latest = (*latest).max((number, found.location));
        }
    }
    deliveries
}

impl<D: Device> Planner<'_, D> {
    pub(super) fn plan(mut self) -> Plan {
        let mut plan = Plan::default();
        let mut accounts: Vec<&Account> =
            self.folded.index.accounts.values().map(|account| &**account).collect();
        accounts.sort_by_key(|account| account.id);
        for account in accounts {
            let inbox = account.mailbox(MailboxId::INBOX);
            self.report.by_account.entry(account.id).or_default();
            plan.accounts.push(PlannedAccount {
                id: account.id,
                quota: account.quota,
                inbox_uid_validity: inbox.map_or(1, |inbox| inbox.uid_validity),
                subscriptions: account.subscriptions.iter().cloned().collect(),
                is_gone: false,
            });
            self.account(account, &mut plan);
        }
        let gone: Vec<AccountId> = self.folded.index.past.graves.keys().copied().collect();
        for id in gone.into_iter().filter(|id| !self.folded.index.accounts.contains_key(id)) {
            let (quota, subscriptions) = (Quota::default(), Vec::new());
            let account = Account::new(id, quota, 1);
            plan.accounts.push(PlannedAccount {
                id,
                quota,
                inbox_uid_validity: 1,
                subscriptions,
                is_gone: true,
            });
            self.account(&account, &mut plan);
        }
        plan
    }

    fn account(&mut self, account: &Account, plan: &mut Plan) {
        let folded = self.folded;
        let mut nameless: Vec<Message> = Vec::new();
        for mailbox in account.mailboxes.values() {
            let mut messages = self.rows(account.id, mailbox);
            if let Some(graveyard) = folded.index.past.graveyard(account.id, mailbox.id) {
                messages.append(&mut self.graves(account.id, mailbox.id, graveyard));
                messages.sort_by_key(|message| message.uid);
            }
            if folded.nameless.contains(&(account.id, mailbox.id)) {
                nameless.append(&mut messages);
                continue;
            }
            self.report.mailboxes += 1;
            plan.mailboxes.push(Planned {
                account: account.id,
                new: NewMailbox {
                    id: mailbox.id,
                    uid_validity: mailbox.uid_validity,
                    special_use: mailbox.special_use,
                    name: mailbox.name.clone(),
                },
                messages,
                uid_next: mailbox.uid_next,
                head: 0,
                is_gone: false,
            });
        }
        let mut next = Next { id: account.mailbox_next, uid_validity: account.uid_validity_max };
        let mut taken: BTreeSet<String> = account.names.keys().cloned().collect();
        if !nameless.is_empty() {
            let alive = nameless.iter().filter(|message| !message.is_grave).count();
            self.report.mailboxes += u64::from(alive > 0);
            self.report.messages_salvaged += alive as u64;
            for (uid, message) in (1..).zip(&mut nameless) {
                message.uid = Uid(uid);
            }
            let name = free_name(&mut taken, SALVAGED, |number| format!(" {number}"));
            let new = next.mailbox(name);
            plan.mailboxes.push(Planned {
                account: account.id,
                new,
                uid_next: Uid(1),
                messages: nameless,
                head: 0,
                is_gone: alive == 0,
            });
        }
        for (id, graveyard) in
            folded.index.past.graves.get(&account.id).into_iter().flat_map(|g| &**g)
        {
            if account.mailboxes.contains_key(id) {
                continue;
            }
            let messages = self.graves(account.id, *id, graveyard);
            if messages.is_empty() {
                continue;
            }
            let behind = |number| format!(" (deleted {number})");
            let name = free_name(&mut taken, &graveyard.name, behind);
            let new = NewMailbox { id: *id, ..next.mailbox(name) };
            plan.mailboxes.push(Planned {
                account: account.id,
                new: NewMailbox { special_use: graveyard.special_use, ..new },
                messages,
                uid_next: Uid(1),
                head: 0,
                is_gone: true,
            });
        }
    }

    fn rows(&mut self, account: AccountId, mailbox: &Mailbox) -> Vec<Message> {
        let mut messages = Vec::new();
        for row in mailbox.rows.iter() {
            let Some(found) = self.locate(account, mailbox.id, &row) else {
                self.report.lose(account, &mailbox.name, row.uid);
                continue;
            };
            let keywords = mailbox.keyword_names(row.flags);
            messages.push(Message { found, uid: row.uid, row, keywords, is_grave: false });
        }
        messages
    }

    fn graves(
        &mut self,
        account: AccountId,
        mailbox: MailboxId,
        graveyard: &Graveyard,
    ) -> Vec<Message> {
        let mut messages = Vec::new();
        for Grave { row, is_elsewhere, .. } in graveyard.graves() {
            if is_elsewhere {
                continue;
            }
            let Some(found) = self.locate(account, mailbox, &row) else {
                self.report.buried_lost += 1;
                continue;
            };
            let keywords = graveyard.keyword_names(&row);
            messages.push(Message { found, uid: row.uid, row, keywords, is_grave: true });
        }
        messages
    }

    /// The record that the row is about, if all of it verifies.
    fn locate(&self, account: AccountId, mailbox: MailboxId, row: &Row) -> Option<u32> {
        let found = self.searched.at(row.location);
        if let Some((number, _)) = found.filter(|(_, found)| found.is_whole()) {
            return Some(number);
        }
        // Compaction may have copied it, and the record that says so may be gone.
        let delivered = self.deliveries.get(&(account, mailbox, row.uid));
        delivered.filter(|(_, location)| *location != row.location).map(|(number, _)| *number)
    }
}

struct Next {
    id: u32,
    uid_validity: u32,
}

impl Next {
    fn mailbox(&mut self, name: String) -> NewMailbox {
        self.uid_validity = self.uid_validity.saturating_add(1);
        let new = NewMailbox {
            id: MailboxId(self.id),
            uid_validity: self.uid_validity,
            special_use: None,
            name,
        };
        self.id = self.id.saturating_add(1);
        new
    }
}

/// The name, or with something behind it where it is taken; from now on it is.
fn free_name(taken: &mut BTreeSet<String>, name: &str, behind: impl Fn(u32) -> String) -> String {
    let numbered = (2_u32..).map(|number| format!("{name}{}", behind(number)));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    let free = names.find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(free.clone());
    free
}

impl SalvageReport {
    pub(super) fn lose(&mut self, account: AccountId, mailbox: &str, uid: Uid) {
        self.messages_lost += 1;
        self.by_account.entry(account).or_default().lost += 1;
        if self.lost.len() < LISTED_MAX {
            self.lost.push((account, mailbox.to_owned(), uid));
        }
    }
}

/// Of each record, which messages are about it: numbers of the mailbox and of the message in it.
pub(super) fn by_record(plan: &Plan) -> BTreeMap<u32, Vec<(usize, usize)>> {
    let mut groups: BTreeMap<u32, Vec<(usize, usize)>> = BTreeMap::new();
    for (number, mailbox) in plan.mailboxes.iter().enumerate() {
        for (index, message) in mailbox.messages.iter().enumerate() {
            groups.entry(message.found).or_default().push((number, index));
        }
    }
    groups
}
