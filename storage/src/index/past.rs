//! What is remembered of what has gone. FORMAT.md, "What is remembered".
//!
//! When a row goes, it becomes a *grave*: the same row, with the time at which it went, under the
//! mailbox that it was in. A grave refers to its record as a row does, so the record stays live.
//! Graves are made while a retention is set or the account is on hold, and go by *forgot* records
//! alone, which name them.
//!
//! Invariants: `messages` and `bytes` are those of the graves that can be brought back; no
//! graveyard is empty; an account's graves outlive the account.

use super::mailbox::Mailbox;
use super::rows::{Row, Rows};
use crate::format::{Base, UidRange};
use crate::types::{AccountId, Lsn, MailboxId, Modseq, SpecialUse, Uid, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

#[derive(Debug, Clone, Default)]
pub struct Past {
    /// Zero: what goes is gone at once.
    pub retention_millis: u64,
    /// What went before this may have been forgotten, whatever the retention.
    pub since: UnixMillis,
    /// Accounts of which nothing is forgotten.
    pub held: BTreeSet<AccountId>,
    pub graves: BTreeMap<AccountId, Rc<Graves>>,
    /// From where the log can be replayed, oldest first, and since when that is possible. When
    /// the last was added, the first was the last that is old enough for the whole retention,
    /// if there was one.
    pub bases: Vec<(UnixMillis, Rc<Base>)>,
    /// Up to here something has been buried. Its segments can go once they are below a base that is
    /// as old as the retention, so there has to be a later base.
    pub buried: Lsn,
    pub messages: u64,
    pub bytes: u64,
}

/// Of one account, by the mailbox they were in.
pub type Graves = BTreeMap<MailboxId, Rc<Graveyard>>;

/// The graves of one mailbox, and what has to be known of it should it be gone.
#[derive(Debug, Clone)]
pub struct Graveyard {
    pub name: String,
    pub special_use: Option<SpecialUse>,
    pub keywords: Vec<String>,
    /// Encoded [`Grave`]s.
    pub rows: Rows,
    /// No grave is older.
    pub oldest: UnixMillis,
    pub messages: u64,
    pub bytes: u64,
}

/// A row that has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grave {
    pub row: Row,
    pub gone: UnixMillis,
    /// The message goes on living elsewhere: it was moved there, or brought back. The grave only
    /// says where the message that was here can be found.
    pub is_elsewhere: bool,
}

impl Grave {
    /// As a row, with the time in the place of the MODSEQ, which a grave has no use for.
    #[must_use]
    pub fn to_row(self) -> Row {
        let modseq = Modseq(self.gone.0 << 1 | u64::from(self.is_elsewhere));
        Row { modseq, ..self.row }
    }

    #[must_use]
    pub fn of(row: Row) -> Grave {
        Grave { row, gone: UnixMillis(row.modseq.0 >> 1), is_elsewhere: row.modseq.0 & 1 == 1 }
    }
}

impl Graveyard {
    fn of(mailbox: &Mailbox) -> Graveyard {
        Graveyard {
            name: mailbox.name.clone(),
            special_use: mailbox.special_use,
            keywords: mailbox.keywords.clone(),
            rows: Rows::default(),
            oldest: UnixMillis(u64::MAX),
            messages: 0,
            bytes: 0,
        }
    }

    pub fn graves(&self) -> impl Iterator<Item = Grave> {
        self.rows.iter().map(Grave::of)
    }

    #[must_use]
    pub fn get(&self, uid: Uid) -> Option<Grave> {
        self.rows.get(uid).map(Grave::of)
    }

    #[must_use]
    pub fn keyword_names(&self, row: &Row) -> Vec<String> {
        let is_set = |number: &usize| row.flags.0 >> (8 + number) & 1 == 1;
        (0..self.keywords.len()).filter(is_set).map(|n| self.keywords[n].clone()).collect()
    }
}

impl Past {
    /// Whether what goes from this account is remembered.
    #[must_use]
    pub fn remembers(&self, account: AccountId) -> bool {
        account != AccountId::QUEUE && (self.retention_millis > 0 || self.held.contains(&account))
    }

    #[must_use]
    pub fn graveyard(&self, account: AccountId, mailbox: MailboxId) -> Option<&Graveyard> {
        self.graves.get(&account)?.get(&mailbox).map(Rc::as_ref)
    }

    #[must_use]
    pub fn grave(&self, account: AccountId, mailbox: MailboxId, uid: Uid) -> Option<Grave> {
        self.graveyard(account, mailbox)?.get(uid)
    }

    pub(crate) fn graveyard_mut(
        &mut self,
        account: AccountId,
        mailbox: MailboxId,
    ) -> Option<&mut Graveyard> {
        let graves = self.graves.get_mut(&account).map(Rc::make_mut)?;
        graves.get_mut(&mailbox).map(Rc::make_mut)
    }

    /// Takes over the references that rows of the mailbox had.
    pub(super) fn bury(
        &mut self,
        account: AccountId,
        mailbox: &Mailbox,
        rows: impl IntoIterator<Item = Row>,
        gone: UnixMillis,
        is_elsewhere: bool,
    ) {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return;
        }
        let graves = Rc::make_mut(self.graves.entry(account).or_default());
        let graveyard = graves.entry(mailbox.id).or_insert_with(|| Graveyard::of(mailbox).into());
        let graveyard = Rc::make_mut(graveyard);
        // Keywords are only ever added, and a mailbox goes under its last name.
        if graveyard.name != mailbox.name || graveyard.keywords.len() != mailbox.keywords.len() {
            graveyard.name.clone_from(&mailbox.name);
            graveyard.keywords.clone_from(&mailbox.keywords);
        }
        graveyard.oldest = graveyard.oldest.min(gone);
        let (messages, bytes) = (graveyard.messages, graveyard.bytes);
        for row in rows {
            // A UID goes once: it is never used again.
            let is_new = graveyard.rows.insert(Grave { row, gone, is_elsewhere }.to_row());
            if is_new && !is_elsewhere {
                graveyard.messages += 1;
                graveyard.bytes += u64::from(row.bytes);
            }
        }
        self.messages += graveyard.messages - messages;
        self.bytes += graveyard.bytes - bytes;
    }

    /// Takes graves away, and returns them: their references are to be released.
    pub(super) fn forget(
        &mut self,
        account: AccountId,
        mailbox: MailboxId,
        uids: &[UidRange],
    ) -> Vec<Grave> {
        let Some(graveyard) = self.graveyard_mut(account, mailbox) else { return Vec::new() };
        let mut gone = Vec::new();
        graveyard.rows.remove(uids, |row| gone.push(Grave::of(*row)));
        let counted = gone.iter().filter(|grave| !grave.is_elsewhere);
        let messages = counted.clone().count() as u64;
        let bytes = counted.map(|grave| u64::from(grave.row.bytes)).sum::<u64>();
        graveyard.messages -= messages;
        graveyard.bytes -= bytes;
        let is_empty = graveyard.rows.is_empty();
        // On a full disk they go before their time.
        let youngest = gone.iter().map(|grave| grave.gone.0 + 1).max().unwrap_or_default();
        self.since = self.since.max(UnixMillis(youngest));
        self.messages -= messages;
        self.bytes -= bytes;
        if is_empty && let Some(graves) = self.graves.get_mut(&account).map(Rc::make_mut) {
            graves.remove(&mailbox);
            if graves.is_empty() {
                self.graves.remove(&account);
            }
        }
        gone
    }

    /// A message comes back: from now on its grave only says that it was there.
    pub(super) fn leave(&mut self, account: AccountId, mailbox: MailboxId, uid: Uid) {
        let Some(graveyard) = self.graveyard_mut(account, mailbox) else { return };
        let mut bytes = None;
        graveyard.rows.change(&[UidRange { first: uid, last: uid }], |row| {
            let grave = Grave::of(*row);
            if grave.is_elsewhere {
                return false;
            }
            bytes = Some(u64::from(row.bytes));
            *row = Grave { is_elsewhere: true, ..grave }.to_row();
            true
        });
        if let Some(bytes) = bytes {
            graveyard.messages -= 1;
            graveyard.bytes -= bytes;
            self.messages -= 1;
            self.bytes -= bytes;
        }
    }

    /// Compaction has copied a message: lets its grave point to the copy.
    pub(super) fn repoint(
        &mut self,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
        mut change: impl FnMut(&mut Row) -> bool,
    ) -> bool {
        let Some(graveyard) = self.graveyard_mut(account, mailbox) else { return false };
        let mut changed = false;
        graveyard.rows.change(&[UidRange { first: uid, last: uid }], |row| {
            changed = change(row);
            changed
        });
        changed
    }

    /// For an index that looks back at one account: its graves are all kept, since messages may
    /// have come back out of them on the way.
    pub(crate) fn keep_only(&mut self, account: AccountId) {
        let graves = self.graves.remove(&account);
        *self = Past { held: BTreeSet::from([account]), ..Past::default() };
        for graveyard in graves.iter().flat_map(|graves| graves.values()) {
            self.messages += graveyard.messages;
            self.bytes += graveyard.bytes;
        }
        self.graves.extend(graves.map(|graves| (account, graves)));
    }

    pub(super) fn set_retention(&mut self, millis: u64, now: UnixMillis, base: Option<&Rc<Base>>) {
        let since = UnixMillis(now.0.saturating_sub(self.retention_millis));
        self.since = self.since.max(since);
        self.retention_millis = millis;
        if millis == 0 {
            self.bases.clear();
        } else if self.bases.is_empty() {
            // Without a base, the log is whole from its start.
            let base = base.map_or_else(|| Rc::new(Base::beginning()), Rc::clone);
            self.bases.push((now, base));
        }
    }

    /// Lets go of the bases that nothing within the retention needs any more. One that is
    /// dated in the future, by a clock that was wrong for a while, lets go of none by
    /// itself, and keeps none.
    pub(super) fn add_base(&mut self, base: Rc<Base>, now: UnixMillis) {
        if self.retention_millis == 0 {
            return;
        }
        let before = self.bases.last().map_or(now, |(time, _)| *time);
        self.bases.push((now, base));
        let from = now.0.min(before.0).saturating_sub(self.retention_millis);
        let is_old = |(time, _): &(UnixMillis, Rc<Base>)| time.0 <= from;
        let needless = self.bases.iter().rposition(is_old).unwrap_or(0);
        self.bases.drain(..needless);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Location, SegmentId};
    use crate::types::Flags;

    const ACCOUNT: AccountId = AccountId(3);

    fn row(uid: u32) -> Row {
        Row {
            uid: Uid(uid),
            bytes: 100,
            modseq: Modseq(9),
            flags: Flags::SEEN,
            internal_date: UnixMillis(5),
            location: Location { segment: SegmentId(1), eighths: uid },
            record_bytes: 200,
            prefix_bytes: 1,
            placement: 0,
        }
    }

    #[test]
    fn the_queue_is_not_remembered_whatever_is_set() {
        let held = BTreeSet::from([ACCOUNT, AccountId::QUEUE]);
        let past = Past { retention_millis: 1, held, ..Past::default() };
        assert!(past.remembers(ACCOUNT) && !past.remembers(AccountId::QUEUE));
    }

    #[test]
    fn what_is_counted_is_what_can_be_brought_back() {
        let mut past = Past::default();
        let mailbox = Mailbox::new(MailboxId(4), "box".into(), 1);
        past.bury(ACCOUNT, &mailbox, [row(5), row(2)], UnixMillis(1000), false);
        past.bury(ACCOUNT, &mailbox, [row(3)], UnixMillis(500), true);
        assert_eq!((past.messages, past.bytes), (2, 200));
        let grave = past.grave(ACCOUNT, mailbox.id, Uid(2)).expect("there");
        assert_eq!((grave.gone, grave.is_elsewhere), (UnixMillis(1000), false));
        assert_eq!(past.graveyard(ACCOUNT, mailbox.id).expect("one").oldest, UnixMillis(500));
        past.leave(ACCOUNT, mailbox.id, Uid(2));
        past.leave(ACCOUNT, mailbox.id, Uid(2));
        assert_eq!((past.messages, past.bytes), (1, 100));
        let all = [UidRange { first: Uid(1), last: Uid(9) }];
        assert_eq!(past.forget(ACCOUNT, mailbox.id, &all).len(), 3);
        assert_eq!((past.messages, past.bytes, past.graves.len()), (0, 0, 0));
    }

    #[test]
    fn one_base_that_is_old_enough_is_kept_and_all_later_ones() {
        let mut past = Past::default();
        let base = |lsn| Rc::new(Base { lsn: Lsn(lsn), ..Base::beginning() });
        past.add_base(base(1), UnixMillis(10));
        assert!(past.bases.is_empty(), "nothing is remembered");
        past.set_retention(100, UnixMillis(20), None);
        let lsns = |past: &Past| past.bases.iter().map(|base| base.1.lsn.0).collect::<Vec<_>>();
        assert_eq!(lsns(&past), [0], "the log's start");
        past.add_base(base(2), UnixMillis(60));
        past.add_base(base(3), UnixMillis(150));
        assert_eq!(lsns(&past), [0, 2, 3], "from the start on, since nothing else is that old");
        past.add_base(base(4), UnixMillis(161));
        past.add_base(base(5), UnixMillis(170));
        assert_eq!(lsns(&past), [2, 3, 4, 5]);
        past.add_base(base(6), UnixMillis(90_000));
        assert_eq!(lsns(&past), [2, 3, 4, 5, 6], "the clock may be wrong");
        past.add_base(base(7), UnixMillis(255));
        assert_eq!(lsns(&past), [3, 4, 5, 6, 7]);
        past.add_base(base(8), UnixMillis(900));
        assert_eq!(lsns(&past), [3, 4, 5, 6, 7, 8]);
        past.add_base(base(9), UnixMillis(910));
        assert_eq!(lsns(&past), [7, 8, 9]);
    }
}
