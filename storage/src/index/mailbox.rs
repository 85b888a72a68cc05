//! One mailbox: its messages, counts, keywords, and what vanished from it.
//!
//! Invariants: `uid_next` is above every UID ever given out, and only grows; the counts are those
//! of the rows; `vanished` ascends by MODSEQ.

use super::rows::{Row, Rows};
use crate::format::UidRange;
use crate::types::{
    Flags, MailboxId, MailboxInfo, MailboxStatus, MessageEntry, Modseq, SpecialUse, Uid,
};
use std::collections::VecDeque;

/// Runs of expunged UIDs that are remembered; older ones are forgotten, and the floor rises.
const VANISHED_RUNS_MAX: usize = 1024;

#[derive(Debug, Clone)]
pub struct Mailbox {
    pub id: MailboxId,
    pub name: String,
    pub uid_validity: u32,
    pub special_use: Option<SpecialUse>,
    pub read_only: bool,
    pub keywords: Vec<String>,
    pub uid_next: Uid,
    /// Above `uid_next` while deliveries are on their way; starts over after a crash, since nobody
    /// has seen those UIDs.
    pub uid_reserved: Uid,
    /// The first UID that no session has been told of. Not in the log: at worst a message is
    /// \Recent twice.
    pub recent_from: Uid,
    pub highest_modseq: Modseq,
    pub messages: u32,
    pub unseen: u32,
    pub deleted: u32,
    pub bytes: u64,
    pub rows: Rows,
    pub vanished: VecDeque<(UidRange, Modseq)>,
    /// Expunges up to this MODSEQ may be forgotten.
    pub vanished_floor: Modseq,
}

impl Mailbox {
    #[must_use]
    pub fn new(id: MailboxId, name: String, uid_validity: u32) -> Mailbox {
        Mailbox {
            id,
            name,
            uid_validity,
            special_use: None,
            read_only: false,
            keywords: Vec::new(),
            uid_next: Uid(1),
            uid_reserved: Uid(1),
            recent_from: Uid(1),
            highest_modseq: Modseq(0),
            messages: 0,
            unseen: 0,
            deleted: 0,
            bytes: 0,
            rows: Rows::default(),
            vanished: VecDeque::new(),
            vanished_floor: Modseq(0),
        }
    }

    #[must_use]
    pub fn info(&self) -> MailboxInfo {
        MailboxInfo {
            id: self.id,
            name: self.name.clone(),
            uid_validity: self.uid_validity,
            special_use: self.special_use,
            keywords: self.keywords.clone(),
            read_only: self.read_only,
        }
    }

    #[must_use]
    pub fn status(&self) -> MailboxStatus {
        MailboxStatus {
            messages: self.messages,
            unseen: self.unseen,
            deleted: self.deleted,
            bytes: self.bytes,
            uid_validity: self.uid_validity,
            uid_next: self.uid_next,
            highest_modseq: self.highest_modseq,
        }
    }

    /// Takes up to `count` UIDs for messages on their way. `None`: the 32 bits are used up.
    pub fn reserve_uids(&mut self, count: u32) -> Option<Uid> {
        let first = self.uid_reserved.max(self.uid_next);
        self.uid_reserved = Uid(first.0.checked_add(count)?);
        Some(first)
    }

    /// The bits of keywords in this mailbox's table; new ones are added while there is room.
    pub fn intern(&mut self, keywords: &[String]) -> Flags {
        let mut bits = Flags::default();
        for keyword in keywords {
            let known = self.keywords.iter().position(|other| other.eq_ignore_ascii_case(keyword));
            let number = match known {
                Some(number) => number,
                None if self.keywords.len() < Flags::KEYWORDS_MAX => {
                    self.keywords.push(keyword.clone());
                    self.keywords.len() - 1
                }
                None => continue,
            };
            bits = bits.union(Flags(1 << (8 + number)));
        }
        bits
    }

    /// The bits of those keywords that the table has.
    #[must_use]
    pub fn known_bits(&self, keywords: &[String]) -> Flags {
        let bit = |keyword: &String| {
            let known = self.keywords.iter().position(|other| other.eq_ignore_ascii_case(keyword));
            known.map_or(0, |number| 1 << (8 + number))
        };
        Flags(keywords.iter().map(bit).fold(0, |bits, bit| bits | bit))
    }

    /// Names of the keywords that are set.
    #[must_use]
    pub fn keyword_names(&self, flags: Flags) -> Vec<String> {
        let is_set = |number: &usize| flags.contains(Flags(1 << (8 + number)));
        (0..self.keywords.len()).filter(is_set).map(|n| self.keywords[n].clone()).collect()
    }

    /// Adds a message. False: its UID was given out before (a record that rot left
    /// without its past).
    #[must_use]
    pub fn add(&mut self, row: Row) -> bool {
        if row.uid < self.uid_next || !self.rows.push(row) {
            return false;
        }
        self.uid_next = Uid(row.uid.0.saturating_add(1));
        self.messages += 1;
        self.bytes += u64::from(row.bytes);
        self.count_flags(row.flags, 1);
        self.highest_modseq = self.highest_modseq.max(row.modseq);
        true
    }

    fn count_flags(&mut self, flags: Flags, by: i32) {
        if !flags.contains(Flags::SEEN) {
            self.unseen = self.unseen.saturating_add_signed(by);
        }
        if flags.contains(Flags::DELETED) {
            self.deleted = self.deleted.saturating_add_signed(by);
        }
    }

    /// Replaces the flags of the runs by what `compute` makes of them, stamping those that change.
    pub fn change_flags(
        &mut self,
        runs: &[UidRange],
        modseq: Modseq,
        compute: impl Fn(Flags) -> Flags,
    ) {
        let mut changes = Vec::new();
        self.rows.change(runs, |row| {
            let flags = compute(row.flags);
            if flags == row.flags {
                return false;
            }
            changes.push((row.flags, flags));
            row.flags = flags;
            row.modseq = modseq;
            true
        });
        if !changes.is_empty() {
            self.highest_modseq = self.highest_modseq.max(modseq);
        }
        for (before, after) in changes {
            self.count_flags(before, -1);
            self.count_flags(after, 1);
        }
    }

    /// Takes messages out and remembers that they vanished. Returns their rows.
    pub fn remove(&mut self, runs: &[UidRange], modseq: Modseq) -> Vec<Row> {
        let mut gone = Vec::new();
        self.rows.remove(runs, |row| gone.push(*row));
        for row in &gone {
            self.count_flags(row.flags, -1);
        }
        if gone.is_empty() {
            return gone;
        }
        self.messages = self.messages.saturating_sub(u32::try_from(gone.len()).unwrap_or(u32::MAX));
        self.bytes = self.bytes.saturating_sub(bytes_of(&gone));
        self.highest_modseq = self.highest_modseq.max(modseq);
        self.remember(UidRange::runs(gone.iter().map(|row| row.uid)), modseq);
        gone
    }

    /// Lets a row point elsewhere. False: there is no such row, or it does not point to `from`.
    pub fn repoint(&mut self, uid: Uid, mut change: impl FnMut(&mut Row) -> bool) -> bool {
        let mut changed = false;
        self.rows.change(&[UidRange { first: uid, last: uid }], |row| {
            changed = change(row);
            changed
        });
        changed
    }

    fn remember(&mut self, runs: Vec<UidRange>, modseq: Modseq) {
        for run in runs {
            // Message after message expunged from the front is one run, at the later MODSEQ:
            // telling of a UID twice is allowed, forgetting one is not.
            match self.vanished.back_mut() {
                Some((last, at)) if last.last.0.checked_add(1) == Some(run.first.0) => {
                    (last.last, *at) = (run.last, modseq);
                }
                _ => self.vanished.push_back((run, modseq)),
            }
        }
        while self.vanished.len() > VANISHED_RUNS_MAX {
            if let Some((_, at)) = self.vanished.pop_front() {
                self.vanished_floor = self.vanished_floor.max(at);
            }
        }
    }
}

/// RFC822.SIZE of all together.
#[must_use]
pub fn bytes_of(rows: &[Row]) -> u64 {
    rows.iter().map(|row| u64::from(row.bytes)).sum()
}

#[must_use]
pub fn entry(row: &Row) -> MessageEntry {
    MessageEntry {
        uid: row.uid,
        modseq: row.modseq,
        flags: row.flags,
        internal_date: row.internal_date,
        bytes: row.bytes,
        prefix_bytes: row.prefix_bytes,
    }
}
