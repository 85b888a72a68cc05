//! Folding one record into the index.
//!
//! Deterministic: the outcome depends on the index and the record alone, so recovery arrives where
//! the live store was. Idempotent: a record at or below `applied` changes nothing. Tolerant: after
//! rot a record may refer to what is no longer known; that part is counted as orphaned and skipped.

use super::account::Account;
use super::mailbox::Mailbox;
use super::rows::Row;
use super::{Counters, Index};
use crate::format::{Delivered, Location, NewMailbox, PlacedRecord, Record, UidRange};
use crate::types::{AccountId, FlagMode, Flags, Lsn, MailboxId, Modseq, Uid};
use std::rc::Rc;

/// How far identifiers jump for each record that was lost: more than one record can give out.
const LOST_RECORD_UIDS: u32 = 4096;
const LOST_RECORD_MAILBOXES: u32 = 64;

/// A record and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Logged<'r> {
    pub lsn: Lsn,
    pub location: Location,
    pub record_bytes: u32,
    pub record: &'r Record,
}

impl Index {
    pub fn apply(&mut self, logged: Logged<'_>) {
        if logged.lsn <= self.applied {
            return;
        }
        self.applied = logged.lsn;
        let modseq = Modseq(logged.lsn.0);
        let known = match logged.record {
            Record::AccountCreated { account, quota, uid_validity } => {
                let mut created = Account::new(*account, *quota, *uid_validity);
                created.highest_modseq = modseq;
                self.accounts.insert(*account, Rc::new(created));
                true
            }
            Record::AccountRemoved { account } => self.remove_account(*account),
            Record::QuotaSet { account, quota } => {
                self.on_account(*account, modseq, |account, _| {
                    account.quota = *quota;
                    true
                })
            }
            Record::MailboxesCreated { account, created } => {
                self.on_account(*account, modseq, |account, _| create(account, created, modseq))
            }
            Record::MailboxesRenamed { account, created, renamed } => {
                self.on_account(*account, modseq, |account, _| {
                    create(account, created, modseq);
                    renamed.iter().fold(true, |known, (id, name)| account.rename(*id, name) & known)
                })
            }
            Record::InboxRenamed { account, created } => {
                self.on_account(*account, modseq, |account, _| {
                    create(account, created, modseq);
                    created.last().is_some_and(|new| empty_inbox_into(account, new.id, modseq))
                })
            }
            Record::MailboxDeleted { account, mailbox } => {
                self.on_account(*account, modseq, |account, counters| {
                    delete_mailbox(account, counters, *mailbox)
                })
            }
            Record::Subscribed { account, subscribed, name } => {
                self.on_account(*account, modseq, |account, _| {
                    if *subscribed {
                        account.subscriptions.insert(name.clone());
                    } else {
                        account.subscriptions.remove(name);
                    }
                    true
                })
            }
            Record::Delivered(delivered) => self.deliver(logged, delivered),
            Record::Copied { account, from, to, moved, first_uid, uids } => {
                self.on_account(*account, modseq, |account, counters| {
                    let copies = Copies { from: *from, to: *to, first_uid: *first_uid, uids };
                    copies.apply(account, counters, *moved, modseq)
                })
            }
            Record::FlagsChanged { account, mailbox, mode, flags, keywords, uids } => self
                .on_account(*account, modseq, |account, _| {
                    let Some(mailbox) = account.mailbox_mut(*mailbox) else { return false };
                    change_flags(mailbox, *mode, *flags, keywords, uids, modseq);
                    true
                }),
            Record::Expunged { account, mailbox, uids } => {
                self.on_account(*account, modseq, |account, counters| {
                    expunge(account, counters, *mailbox, uids, modseq)
                })
            }
            Record::Chunk => true,
            Record::Put { space, pairs } => {
                for (key, value) in pairs {
                    self.spaces.put(*space, key, value.as_deref());
                }
                true
            }
            Record::Lost { count, .. } => {
                self.skip_identifiers(*count);
                true
            }
        };
        if !known {
            self.counters.orphans += 1;
        }
    }

    /// False: no such account.
    fn on_account(
        &mut self,
        account: AccountId,
        modseq: Modseq,
        change: impl FnOnce(&mut Account, &mut Counters) -> bool,
    ) -> bool {
        let Some(account) = self.accounts.get_mut(&account) else { return false };
        let account = Rc::make_mut(account);
        account.highest_modseq = account.highest_modseq.max(modseq);
        change(account, &mut self.counters)
    }

    fn remove_account(&mut self, account: AccountId) -> bool {
        let Some(removed) = self.accounts.remove(&account) else { return false };
        self.counters.messages = self.counters.messages.saturating_sub(removed.messages);
        self.counters.live_bytes = self.counters.live_bytes.saturating_sub(removed.bytes);
        true
    }

    fn deliver(&mut self, logged: Logged<'_>, delivered: &Delivered) -> bool {
        self.counters.bytes_received += u64::from(delivered.body_bytes);
        let mut known = true;
        for (number, placement) in delivered.placements.iter().enumerate() {
            let modseq = Modseq(logged.lsn.0);
            known &= self.on_account(placement.account, modseq, |account, counters| {
                place(account, counters, logged, delivered, number, placement)
            });
        }
        known
    }

    /// What unreadable records may have given out must not be given out again.
    fn skip_identifiers(&mut self, lost: u64) {
        let lost = u32::try_from(lost).unwrap_or(u32::MAX);
        let uids = lost.saturating_mul(LOST_RECORD_UIDS).min(1 << 24);
        for account in self.accounts.values_mut() {
            let account = Rc::make_mut(account);
            let mailboxes = lost.saturating_mul(LOST_RECORD_MAILBOXES).min(1 << 16);
            account.mailbox_next = account.mailbox_next.saturating_add(mailboxes);
            account.uid_validity_max = account.uid_validity_max.saturating_add(mailboxes);
            for mailbox in account.mailboxes.values_mut() {
                let mailbox = Rc::make_mut(mailbox);
                mailbox.uid_next = Uid(mailbox.uid_next.0.saturating_add(uids));
                mailbox.vanished_floor = mailbox.highest_modseq;
            }
        }
    }
}

fn create(account: &mut Account, created: &[NewMailbox], modseq: Modseq) -> bool {
    for new in created {
        account.create(new, modseq);
    }
    true
}

fn place(
    account: &mut Account,
    counters: &mut Counters,
    logged: Logged<'_>,
    delivered: &Delivered,
    number: usize,
    placement: &PlacedRecord,
) -> bool {
    let Some(mailbox) = account.mailbox_mut(placement.mailbox) else { return false };
    let prefix_bytes = u16::try_from(placement.prefix.len()).unwrap_or(u16::MAX);
    let bytes = delivered.body_bytes.saturating_add(u32::from(prefix_bytes));
    let row = Row {
        uid: placement.uid,
        bytes,
        modseq: Modseq(logged.lsn.0),
        flags: placement.flags.union(mailbox.intern(&placement.keywords)),
        internal_date: delivered.internal_date,
        location: logged.location,
        record_bytes: logged.record_bytes,
        prefix_bytes,
        placement: u16::try_from(number).unwrap_or(u16::MAX),
    };
    if !mailbox.add(row) {
        return false;
    }
    count(account, counters, 1, u64::from(bytes));
    true
}

fn count(account: &mut Account, counters: &mut Counters, messages: u64, bytes: u64) {
    account.messages += messages;
    account.bytes += bytes;
    counters.messages += messages;
    counters.live_bytes += bytes;
}

fn discount(account: &mut Account, counters: &mut Counters, messages: u64, bytes: u64) {
    account.messages = account.messages.saturating_sub(messages);
    account.bytes = account.bytes.saturating_sub(bytes);
    counters.messages = counters.messages.saturating_sub(messages);
    counters.live_bytes = counters.live_bytes.saturating_sub(bytes);
}

/// RFC 9051 section 6.3.6: renaming INBOX moves its messages, and INBOX stays.
fn empty_inbox_into(account: &mut Account, target: MailboxId, modseq: Modseq) -> bool {
    let Some(inbox) = account.mailbox(MailboxId::INBOX).cloned() else { return false };
    let Some(new) = account.mailbox_mut(target) else { return false };
    let fresh = new.clone();
    *new = Mailbox { highest_modseq: modseq, vanished_floor: modseq, ..inbox };
    (new.id, new.name, new.uid_validity) = (fresh.id, fresh.name, fresh.uid_validity);
    new.special_use = fresh.special_use;
    new.vanished.clear();
    let Some(inbox) = account.mailbox_mut(MailboxId::INBOX) else { return false };
    inbox.remove(&[UidRange { first: Uid(1), last: Uid(u32::MAX) }], modseq);
    inbox.highest_modseq = modseq;
    true
}

fn delete_mailbox(account: &mut Account, counters: &mut Counters, mailbox: MailboxId) -> bool {
    let Some(deleted) = account.mailboxes.remove(&mailbox) else { return false };
    account.names.remove(&deleted.name);
    discount(account, counters, u64::from(deleted.messages), deleted.bytes);
    true
}

fn expunge(
    account: &mut Account,
    counters: &mut Counters,
    mailbox: MailboxId,
    uids: &[UidRange],
    modseq: Modseq,
) -> bool {
    let Some(mailbox) = account.mailbox_mut(mailbox) else { return false };
    let (messages, bytes) = mailbox.remove(uids, modseq);
    discount(account, counters, messages, bytes);
    true
}

/// What a message's flags become. Also asked before the record is made, to see what will change.
#[must_use]
pub fn changed_flags(mode: FlagMode, before: Flags, given: Flags) -> Flags {
    match mode {
        FlagMode::Add => before.union(given),
        FlagMode::Remove => before.without(given),
        FlagMode::Replace => given,
    }
}

fn change_flags(
    mailbox: &mut Mailbox,
    mode: FlagMode,
    flags: Flags,
    keywords: &[String],
    uids: &[UidRange],
    modseq: Modseq,
) {
    let keywords = match mode {
        FlagMode::Add | FlagMode::Replace => mailbox.intern(keywords),
        FlagMode::Remove => mailbox.known_bits(keywords),
    };
    let given = flags.union(keywords);
    mailbox.change_flags(uids, modseq, |before| changed_flags(mode, before, given));
}

struct Copies<'r> {
    from: MailboxId,
    to: MailboxId,
    first_uid: Uid,
    uids: &'r [UidRange],
}

impl Copies<'_> {
    fn apply(
        &self,
        account: &mut Account,
        counters: &mut Counters,
        moved: bool,
        modseq: Modseq,
    ) -> bool {
        let Some(sources) = self.sources(account) else { return false };
        let Some(target) = account.mailbox_mut(self.to) else { return false };
        let (mut messages, mut bytes) = (0, 0);
        for (mut row, keywords) in sources {
            row.modseq = modseq;
            row.flags = Flags(row.flags.0 & 0xFF).union(target.intern(&keywords));
            if target.add(row) {
                messages += 1;
                bytes += u64::from(row.bytes);
            }
        }
        count(account, counters, messages, bytes);
        !moved || expunge(account, counters, self.from, self.uids, modseq)
    }

    /// The rows as they are in the source, already with their new UIDs. A UID that is gone keeps its
    /// number, so that the others get those that the client was told.
    fn sources(&self, account: &Account) -> Option<Vec<(Row, Vec<String>)>> {
        let from = account.mailbox(self.from)?;
        let mut before = 0_u32;
        let mut sources = Vec::new();
        for run in self.uids {
            for row in from.rows.range(run.first, run.last) {
                let number = before.saturating_add(row.uid.0 - run.first.0);
                let uid = Uid(self.first_uid.0.saturating_add(number));
                sources.push((Row { uid, ..row }, from.keyword_names(row.flags)));
            }
            before = before.saturating_add(run.last.0 - run.first.0).saturating_add(1);
        }
        Some(sources)
    }
}
