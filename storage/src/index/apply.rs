//! Folding one record into the index.
//!
//! Deterministic: the outcome depends on the index and the record alone, so recovery arrives where
//! the live store was. Idempotent: a record at or below `applied` changes nothing. Tolerant: after
//! rot a record may refer to what is no longer known; that part is counted as orphaned and skipped.

use super::account::Account;
use super::live::chunk_bytes;
use super::mailbox::{Mailbox, bytes_of};
use super::past::Grave;
use super::rows::{Row, Rows};
use super::{Counters, Index, Live, Past};
use crate::format::{
    Delivered, Location, Move, NewMailbox, Pairs, PlacedRecord, Record, Reference, SegmentId,
    Shown, UidRange, Undeleted,
};
use crate::types::{AccountId, FlagMode, Flags, Lsn, MailboxId, Modseq, Uid, UnixMillis};
use std::rc::Rc;

/// How far identifiers jump for each record that was lost: as much as one record can give out.
pub(crate) const RECORD_UIDS_MAX: u32 = 1 << 20;
const LOST_RECORD_MAILBOXES: u32 = 64;

/// A record and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Logged<'r> {
    pub lsn: Lsn,
    /// When its batch was sealed: a batch is the unit of time.
    pub time: UnixMillis,
    pub location: Location,
    pub record_bytes: u32,
    pub record: &'r Record,
}

/// What is counted over all accounts.
struct Ledger<'i> {
    counters: &'i mut Counters,
    live: &'i mut Live,
    past: &'i mut Past,
    now: UnixMillis,
    lsn: Lsn,
}

impl Ledger<'_> {
    /// Rows of a mailbox have gone: their references become graves, or end.
    fn bury(
        &mut self,
        account: AccountId,
        mailbox: &Mailbox,
        rows: impl IntoIterator<Item = Row>,
        is_elsewhere: bool,
    ) {
        // What shows the past is no past of its own.
        if self.past.remembers(account) && !mailbox.read_only {
            self.past.bury(account, mailbox, rows, self.now, is_elsewhere);
            self.past.buried = self.lsn;
        } else {
            let release = |row: Row| self.live.release(row.location, row.record_bytes, 1);
            rows.into_iter().for_each(release);
        }
    }
}

impl Index {
    pub fn apply(&mut self, logged: Logged<'_>) {
        if logged.lsn <= self.applied {
            return;
        }
        self.applied = logged.lsn;
        let modseq = Modseq(logged.lsn.0);
        let now = logged.time;
        let known = match logged.record {
            Record::AccountCreated { account, quota, uid_validity } => {
                let mut created = Account::new(*account, *quota, *uid_validity);
                created.highest_modseq = modseq;
                self.accounts.insert(*account, Rc::new(created));
                true
            }
            Record::AccountRemoved { account } => self.remove_account(*account, now),
            Record::QuotaSet { account, quota } => {
                self.on_account(*account, logged, |account, _| {
                    account.quota = *quota;
                    true
                })
            }
            Record::MailboxesCreated { account, created } => {
                self.on_account(*account, logged, |account, _| create(account, created, modseq))
            }
            Record::MailboxesRenamed { account, created, renamed } => {
                self.on_account(*account, logged, |account, _| {
                    create(account, created, modseq);
                    renamed.iter().fold(true, |known, (id, name)| account.rename(*id, name) & known)
                })
            }
            Record::InboxRenamed { account, created } => {
                self.on_account(*account, logged, |account, ledger| {
                    create(account, created, modseq);
                    let target = created.last().map(|new| new.id);
                    target.is_some_and(|new| empty_inbox_into(account, ledger, new, modseq))
                })
            }
            Record::MailboxDeleted { account, mailbox } => {
                self.on_account(*account, logged, |account, ledger| {
                    delete_mailbox(account, ledger, *mailbox)
                })
            }
            Record::Subscribed { account, subscribed, name } => {
                self.on_account(*account, logged, |account, _| {
                    if *subscribed {
                        account.subscriptions.insert(name.clone());
                    } else {
                        account.subscriptions.remove(name);
                    }
                    true
                })
            }
            Record::Delivered(delivered) => self.deliver(logged, delivered),
            Record::Copied { account, from, to, moved, first_uid, uids, put } => {
                if let Some((space, pairs)) = put {
                    self.put(*space, pairs);
                }
                self.on_account(*account, logged, |account, ledger| {
                    let copies = Copies { from: *from, to: *to, first_uid: *first_uid, uids };
                    copies.apply(account, ledger, *moved, modseq)
                })
            }
            Record::FlagsChanged { account, mailbox, mode, flags, keywords, uids } => self
                .on_account(*account, logged, |account, _| {
                    let Some(mailbox) = account.mailbox_mut(*mailbox) else { return false };
                    change_flags(mailbox, *mode, *flags, keywords, uids, modseq);
                    true
                }),
            Record::Expunged { account, mailbox, uids } => {
                self.on_account(*account, logged, |account, ledger| {
                    expunge(account, ledger, *mailbox, uids, modseq, false)
                })
            }
            Record::Chunk { .. } | Record::Piece => true,
            Record::Put { space, pairs } => {
                self.put(*space, pairs);
                true
            }
            Record::Lost { count, .. } => {
                self.skip_identifiers(*count);
                true
            }
            Record::Moved(moved) => {
                self.counters.bytes_moved += u64::from(moved.copied_bytes);
                self.counters.bytes_written += u64::from(moved.copied_bytes);
                self.counters.flushes += 1;
                moved.moves.iter().fold(true, |known, one| self.repoint(one) & known)
            }
            Record::Based(base) => {
                self.counters.bytes_based += base.pieces.iter().map(chunk_bytes).sum::<u64>();
                let base = Rc::new(base.clone());
                self.past.add_base(Rc::clone(&base), now);
                self.base = Some(base);
                true
            }
            Record::RetentionSet { millis } => {
                self.past.set_retention(*millis, now, self.base.as_ref());
                true
            }
            Record::HoldSet { account, held: true } => {
                self.past.held.insert(*account);
                true
            }
            Record::HoldSet { account, held: false } => self.past.held.remove(account),
            Record::Forgot(forgot) => {
                for (mailbox, uids) in &forgot.graves {
                    for grave in self.past.forget(forgot.account, *mailbox, uids) {
                        self.live.release(grave.row.location, grave.row.record_bytes, 1);
                    }
                }
                true
            }
            Record::Undeleted(undeleted) => {
                self.on_account(undeleted.account, logged, |account, ledger| {
                    undelete(account, ledger, undeleted, modseq)
                })
            }
            Record::Shown(shown) => self.show(logged, shown),
        };
        if !known {
            self.counters.orphans += 1;
        }
    }

    /// False: no such account.
    fn on_account(
        &mut self,
        account: AccountId,
        logged: Logged<'_>,
        change: impl FnOnce(&mut Account, &mut Ledger<'_>) -> bool,
    ) -> bool {
        let Some(account) = self.accounts.get_mut(&account) else { return false };
        let account = Rc::make_mut(account);
        account.highest_modseq = account.highest_modseq.max(Modseq(logged.lsn.0));
        let (counters, live, past) = (&mut self.counters, &mut self.live, &mut self.past);
        change(account, &mut Ledger { counters, live, past, now: logged.time, lsn: logged.lsn })
    }

    fn remove_account(&mut self, account: AccountId, now: UnixMillis) -> bool {
        let Some(removed) = self.accounts.remove(&account) else { return false };
        self.counters.messages = self.counters.messages.saturating_sub(removed.messages);
        self.counters.live_bytes = self.counters.live_bytes.saturating_sub(removed.bytes);
        let (counters, live, past) = (&mut self.counters, &mut self.live, &mut self.past);
        let mut ledger = Ledger { counters, live, past, now, lsn: self.applied };
        for mailbox in removed.mailboxes.values() {
            ledger.bury(account, mailbox, mailbox.rows.iter(), false);
        }
        true
    }

    /// Compaction has copied a message: whatever referred to the old place refers to the new one.
    fn repoint(&mut self, one: &Move) -> bool {
        self.cold_next = self.cold_next.max(SegmentId(one.to.segment.0.saturating_add(1)));
        let (mut repointed, mut old_bytes) = (0, 0);
        for reference in &one.references {
            let Reference { account, mailbox, uid } = *reference;
            let mut change = |row: &mut Row| {
                if row.location != one.from {
                    return false;
                }
                old_bytes = row.record_bytes;
                (row.location, row.record_bytes) = (one.to, one.record_bytes);
                true
            };
            let found = self.accounts.get_mut(&account).map(Rc::make_mut);
            let row = found.and_then(|account| account.mailbox_mut(mailbox));
            let found = row.is_some_and(|mailbox| mailbox.repoint(uid, &mut change))
                || self.past.repoint(account, mailbox, uid, &mut change);
            repointed += u32::from(found);
        }
        if repointed > 0 {
            self.live.add(one.to, one.record_bytes, repointed, &one.chunks);
            self.live.release(one.from, old_bytes, repointed);
        }
        repointed as usize == one.references.len()
    }

    fn put(&mut self, space: u8, pairs: &Pairs) {
        for (key, value) in pairs {
            self.spaces.put(space, key, value.as_deref());
        }
    }

    fn deliver(&mut self, logged: Logged<'_>, delivered: &Delivered) -> bool {
        self.counters.bytes_received += u64::from(delivered.body_bytes);
        let mut placed = 0;
        for (number, placement) in delivered.placements.iter().enumerate() {
            placed += u32::from(self.on_account(placement.account, logged, |account, ledger| {
                place(account, ledger, logged, delivered, number, placement)
            }));
        }
        self.live.add(logged.location, logged.record_bytes, placed, &delivered.chunks);
        if let Some((space, pairs)) = &delivered.put {
            self.put(*space, pairs);
        }
        placed as usize == delivered.placements.len()
    }

    /// Fills a mailbox with what was in another one, wherever that is now.
    fn show(&mut self, logged: Logged<'_>, shown: &Shown) -> bool {
        let modseq = Modseq(logged.lsn.0);
        let found = |(uid, flags): &(Uid, Flags)| {
            let row = self.row_or_grave(shown.account, shown.from, *uid)?;
            Some(Row { flags: *flags, modseq, ..row })
        };
        let rows: Vec<Row> = shown.messages.iter().filter_map(found).collect();
        let known = rows.len() == shown.messages.len();
        let done = self.on_account(shown.account, logged, |account, ledger| {
            create(account, &shown.created, modseq);
            for new in &shown.created {
                account.mailbox_mut(new.id).expect("just made").read_only = true;
            }
            let Some(target) = account.mailbox_mut(shown.to) else { return false };
            let keywords = |flags: Flags| {
                let is_set = |number: &usize| flags.0 >> (8 + number) & 1 == 1;
                let set = (0..shown.keywords.len()).filter(is_set);
                set.map(|number| shown.keywords[number].clone()).collect::<Vec<_>>()
            };
            let (mut messages, mut bytes) = (0, 0);
            for row in rows {
                let flags = Flags(row.flags.0 & 0xFF).union(target.intern(&keywords(row.flags)));
                if target.add(Row { flags, ..row }) {
                    ledger.live.share(row.location);
                    messages += 1;
                    bytes += u64::from(row.bytes);
                }
            }
            count(account, ledger.counters, messages, bytes);
            true
        });
        known && done
    }

    /// What records may have given out that are not there must not be given out again.
    fn skip_identifiers(&mut self, lost: u64) {
        let lost = u32::try_from(lost).unwrap_or(u32::MAX);
        let uids = lost.saturating_mul(RECORD_UIDS_MAX).min(1 << 26);
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
    ledger: &mut Ledger<'_>,
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
    count(account, ledger.counters, 1, u64::from(bytes));
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
fn empty_inbox_into(
    account: &mut Account,
    ledger: &mut Ledger<'_>,
    target: MailboxId,
    modseq: Modseq,
) -> bool {
    let Some(inbox) = account.mailbox(MailboxId::INBOX).cloned() else { return false };
    let Some(new) = account.mailbox_mut(target) else { return false };
    let fresh = new.clone();
    *new = Mailbox { highest_modseq: modseq, vanished_floor: modseq, ..inbox };
    (new.id, new.name, new.uid_validity) = (fresh.id, fresh.name, fresh.uid_validity);
    new.special_use = fresh.special_use;
    new.vanished.clear();
    let id = account.id;
    let Some(inbox) = account.mailbox_mut(MailboxId::INBOX) else { return false };
    let rows = inbox.remove(&[UidRange { first: Uid(1), last: Uid(u32::MAX) }], modseq);
    inbox.highest_modseq = modseq;
    rows.iter().for_each(|row| ledger.live.share(row.location));
    ledger.bury(id, inbox, rows, true);
    true
}

fn delete_mailbox(account: &mut Account, ledger: &mut Ledger<'_>, mailbox: MailboxId) -> bool {
    let Some(deleted) = account.mailboxes.remove(&mailbox) else { return false };
    account.names.remove(&deleted.name);
    discount(account, ledger.counters, u64::from(deleted.messages), deleted.bytes);
    ledger.bury(account.id, &deleted, deleted.rows.iter(), false);
    true
}

fn expunge(
    account: &mut Account,
    ledger: &mut Ledger<'_>,
    mailbox: MailboxId,
    uids: &[UidRange],
    modseq: Modseq,
    is_elsewhere: bool,
) -> bool {
    let id = account.id;
    let Some(mailbox) = account.mailbox_mut(mailbox) else { return false };
    let rows = mailbox.remove(uids, modseq);
    let (messages, bytes) = (rows.len() as u64, bytes_of(&rows));
    ledger.bury(id, mailbox, rows, is_elsewhere);
    discount(account, ledger.counters, messages, bytes);
    true
}

/// Messages come out of their graves, without the mark that they are to be expunged.
fn undelete(
    account: &mut Account,
    ledger: &mut Ledger<'_>,
    undeleted: &Undeleted,
    modseq: Modseq,
) -> bool {
    create(account, &undeleted.created, modseq);
    let Some(graveyard) = ledger.past.graveyard(account.id, undeleted.from) else { return false };
    let sources = sources(&graveyard.rows, undeleted.first_uid, &undeleted.uids);
    let sources: Vec<_> = sources
        .filter(|(_, row)| !Grave::of(*row).is_elsewhere)
        .map(|(uid, row)| (uid, row, graveyard.keyword_names(&row)))
        .collect();
    let id = account.id;
    let Some(target) = account.mailbox_mut(undeleted.to) else { return false };
    let (mut messages, mut bytes) = (0, 0);
    for (uid, row, keywords) in sources {
        let flags = Flags(row.flags.0 & 0xFF).union(target.intern(&keywords));
        let flags = flags.without(Flags::DELETED);
        if target.add(Row { uid, flags, modseq, ..row }) {
            ledger.live.share(row.location);
            ledger.past.leave(id, undeleted.from, row.uid);
            messages += 1;
            bytes += u64::from(row.bytes);
        }
    }
    count(account, ledger.counters, messages, bytes);
    true
}

/// Rows of the runs, each with the UID that it gets elsewhere. One that is gone keeps its number,
/// so that the others get those that the client was told.
fn sources(rows: &Rows, first_uid: Uid, runs: &[UidRange]) -> impl Iterator<Item = (Uid, Row)> {
    let before = runs.iter().scan(0_u32, |before, run| {
        let runs_before = *before;
        *before = before.saturating_add(run.last.0 - run.first.0).saturating_add(1);
        Some((runs_before, run))
    });
    before.flat_map(move |(before, run)| {
        rows.range(run.first, run.last).map(move |row| {
            let number = before.saturating_add(row.uid.0 - run.first.0);
            (Uid(first_uid.0.saturating_add(number)), row)
        })
    })
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
        ledger: &mut Ledger<'_>,
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
                ledger.live.share(row.location);
                messages += 1;
                bytes += u64::from(row.bytes);
            }
        }
        count(account, ledger.counters, messages, bytes);
        !moved || expunge(account, ledger, self.from, self.uids, modseq, true)
    }

    /// The rows as they are in the source, already with their new UIDs.
    fn sources(&self, account: &Account) -> Option<Vec<(Row, Vec<String>)>> {
        let from = account.mailbox(self.from)?;
        let sources = sources(&from.rows, self.first_uid, self.uids);
        let source = |(uid, row): (Uid, Row)| (Row { uid, ..row }, from.keyword_names(row.flags));
        Some(sources.map(source).collect())
    }
}
