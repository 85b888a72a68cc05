//! What the clients asked and what they were told, kept outside of everything that a crash takes.
//!
//! An operation is *acknowledged* (with an LSN), *refused* (it had no effect), or a *maybe*:
//! under way at the crash, or its client went away. A maybe took effect, if at all, after
//! everything that was acknowledged before it was issued, and before everything that was issued
//! after its client left.

use super::model::{Letter, World};
use super::observation::Observation;
use super::operation::{Operation, Outcome, Told};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use storage::{AccountId, Lsn, MailboxId, Modseq, Uid, UnixMillis};

/// Index into the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(usize);

#[derive(Debug, Clone)]
pub enum Fate {
    UnderWay,
    Left { at: u64 },
    Acknowledged(Outcome),
    Refused,
}

#[derive(Debug, Clone)]
pub struct Issued {
    pub operation: Rc<Operation>,
    /// Moments count issues and answers.
    pub issued: u64,
    pub answered: u64,
    /// The highest LSN that anyone had been told by then.
    pub lsn_floor: Lsn,
    pub fate: Fate,
}

/// A mailbox for as long as its UIDs mean the same.
pub type Identity = (AccountId, MailboxId, u32);

/// How often what happened, to show that a workload does everything.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// By kind of operation and how it ended.
    pub ends: BTreeMap<(&'static str, End), u64>,
    /// Maybes of which it came out that they had landed, or had not.
    pub maybes_landed: u64,
    pub maybes_lost: u64,
    /// By compaction.
    pub bytes_moved: u64,
    pub segments_freed: u64,
    /// Backups that were compared with the store, and that were broken off.
    pub backups: u64,
    pub backups_broken_off: u64,
    /// Accounts that were looked at as they had been.
    pub looks_back: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Acknowledged,
    Refused,
    /// Cut short by a crash, or its client left.
    Maybe,
}

#[derive(Debug, Clone, Default)]
pub struct Journal {
    /// The last state that was known exactly.
    pub base: World,
    /// Since then.
    pub issued: Vec<Issued>,
    /// The last look at the store, and when that was, as long as nothing else can
    /// have happened then.
    pub last: Option<Rc<Observation>>,
    pub last_at: Option<UnixMillis>,
    /// Which letter each UID has ever named.
    pub owners: BTreeMap<Identity, BTreeMap<Uid, u32>>,
    /// Mailboxes that some client has been told of, so that it can use them.
    pub known_mailboxes: BTreeSet<(AccountId, MailboxId)>,
    /// Which mailbox a name with a UIDVALIDITY has ever meant.
    pub names: BTreeMap<(AccountId, String, u32), MailboxId>,
    pub letters: BTreeMap<u32, Rc<Letter>>,
    /// The superblock was taken away, so that the next opening misses it.
    pub superblock_is_forgotten: bool,
    pub accounts_made: u32,
    pub highest_lsn: Lsn,
    /// What the clients themselves found wrong.
    pub complaints: Vec<String>,
    pub tally: Tally,
    moment: u64,
}

impl Journal {
    /// Begins anew from what is known exactly.
    pub fn rebase(&mut self, base: World) {
        for entry in self.issued.drain(..) {
            let end = match entry.fate {
                Fate::Acknowledged(_) => End::Acknowledged,
                Fate::Refused => End::Refused,
                Fate::UnderWay | Fate::Left { .. } => End::Maybe,
            };
            *self.tally.ends.entry((entry.operation.kind(), end)).or_default() += 1;
        }
        self.base = base;
    }

    pub fn next_letter(&mut self, body_bytes: usize) -> Rc<Letter> {
        let number = u32::try_from(self.letters.len()).expect("a few hundred letters") + 1;
        let letter = Rc::new(Letter::new(number, body_bytes));
        self.letters.insert(number, Rc::clone(&letter));
        letter
    }

    fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    pub fn issue(&mut self, operation: Operation) -> (Ticket, Rc<Operation>) {
        let operation = Rc::new(operation);
        let issued = self.tick();
        let fate = Fate::UnderWay;
        self.issued.push(Issued {
            operation: Rc::clone(&operation),
            issued,
            answered: u64::MAX,
            lsn_floor: self.highest_lsn,
            fate,
        });
        (Ticket(self.issued.len() - 1), operation)
    }

    pub fn refuse(&mut self, ticket: Ticket) {
        self.answer(ticket, Fate::Refused);
    }

    pub fn leave(&mut self, ticket: Ticket) {
        let at = self.tick();
        self.answer(ticket, Fate::Left { at });
    }

    pub fn acknowledge(&mut self, ticket: Ticket, outcome: Outcome) {
        self.highest_lsn = self.highest_lsn.max(outcome.lsn);
        self.note_identifiers(ticket, &outcome);
        self.answer(ticket, Fate::Acknowledged(outcome));
    }

    fn answer(&mut self, ticket: Ticket, fate: Fate) {
        let answered = self.tick();
        if let Some(entry) = self.issued.get_mut(ticket.0) {
            (entry.answered, entry.fate) = (answered, fate);
        }
    }

    fn note_identifiers(&mut self, ticket: Ticket, outcome: &Outcome) {
        let operation = Rc::clone(&self.issued[ticket.0].operation);
        let account_of_mailboxes = match &*operation {
            Operation::CreateAccount { account, .. }
            | Operation::CreateMailbox { account, .. }
            | Operation::RenameMailbox { account, .. }
            | Operation::DeleteMailbox { account, .. } => Some(*account),
            Operation::Deliver { letter, .. } => {
                if let Told::Placed(placed) = &outcome.told {
                    for placed in placed {
                        let identity = (placed.account, placed.mailbox, placed.uid_validity);
                        self.note_uid(identity, placed.uid, letter.number);
                    }
                }
                None
            }
            Operation::Copy { account, from, to, .. } => {
                if let Told::Copied(pairs) = &outcome.told {
                    self.note_copies(*account, *from, *to, pairs);
                }
                None
            }
            Operation::RemoveAccount { .. }
            | Operation::SetQuota { .. }
            | Operation::Subscribe { .. }
            | Operation::ChangeFlags { .. }
            | Operation::Expunge { .. }
            | Operation::Undelete { .. }
            | Operation::Hold { .. }
            | Operation::Put { .. } => None,
        };
        if let (Some(account), Some(mailboxes)) = (account_of_mailboxes, &outcome.mailboxes) {
            for info in mailboxes {
                self.known_mailboxes.insert((account, info.id));
                self.note_name(account, &info.name, info.uid_validity, info.id);
            }
        }
    }

    /// Copies are told without their letters; the sources' are known.
    fn note_copies(
        &mut self,
        account: AccountId,
        from: MailboxId,
        to: MailboxId,
        pairs: &[(Uid, Uid)],
    ) {
        let Some(source) = self.identity(account, from) else { return };
        let Some(target) = self.identity(account, to) else { return };
        for (old, new) in pairs {
            let number = self.owners.get(&source).and_then(|owners| owners.get(old)).copied();
            match number {
                Some(number) => self.note_uid(target, *new, number),
                None => self.complain(format!("UID {} was copied, but nobody knew it", old.0)),
            }
        }
    }

    /// With the UIDVALIDITY that was told.
    #[must_use]
    pub fn identity(&self, account: AccountId, mailbox: MailboxId) -> Option<Identity> {
        let is_it = |(key, id): &(&(AccountId, String, u32), &MailboxId)| {
            key.0 == account && **id == mailbox
        };
        self.names.iter().find(is_it).map(|((_, _, validity), _)| (account, mailbox, *validity))
    }

    /// A UID that somebody was told, or saw. It must never name another letter.
    pub fn note_uid(&mut self, identity: Identity, uid: Uid, number: u32) {
        let owners = self.owners.entry(identity).or_default();
        let owner = *owners.entry(uid).or_insert(number);
        if owner != number {
            self.complain(format!(
                "UID {} of mailbox {identity:?} named letter {owner}, now it names {number}",
                uid.0
            ));
        }
    }

    /// RFC 9051 section 2.3.1.1: name, UIDVALIDITY and UID name one message for ever.
    pub fn note_name(&mut self, account: AccountId, name: &str, validity: u32, id: MailboxId) {
        let owner = *self.names.entry((account, name.to_owned(), validity)).or_insert(id);
        if owner != id {
            self.complain(format!(
                "{name:?} of account {} with UIDVALIDITY {validity} was mailbox {}, now it is {}",
                account.0, owner.0, id.0
            ));
        }
    }

    pub fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    /// UIDs of a mailbox that clients know, and may therefore use.
    #[must_use]
    pub fn knows_uid(&self, identity: Identity, uid: Uid) -> bool {
        self.owners.get(&identity).is_some_and(|owners| owners.contains_key(&uid))
    }

    /// The highest UID that anyone was ever told.
    #[must_use]
    pub fn highest_uid(&self, identity: Identity) -> Uid {
        let last = self.owners.get(&identity).and_then(|owners| owners.keys().next_back());
        last.copied().unwrap_or(Uid(0))
    }

    /// Where each mailbox stood at the last look.
    #[must_use]
    pub fn modseqs(&self) -> BTreeMap<(AccountId, MailboxId), Modseq> {
        let Some(last) = &self.last else { return BTreeMap::new() };
        let of_account = |(id, account): (&AccountId, &super::observation::SeenAccount)| {
            let id = *id;
            let of_mailbox = move |mailbox: &super::observation::SeenMailbox| {
                ((id, mailbox.info.id), mailbox.status.highest_modseq)
            };
            account.mailboxes.values().map(of_mailbox).collect::<Vec<_>>()
        };
        last.accounts.iter().flat_map(of_account).collect()
    }
}
