//! What visits over POP3 and IMAP have in common: the messages of one maildrop or folder, what is
//! to be done with each, and the one that is under way. Without sockets, clock or disk.

use super::ledger::{Arrival, Filing, Hash, Id, Leave, Ledger, Listed, Policy, Work};

#[derive(Debug)]
pub struct Round {
    pub ledger: Ledger,
    pub(super) policy: Policy,
    pub(super) now: u32,
    pub(super) work: Work,
    pub(super) current: Option<Listed>,
    /// Messages that may still be read in this visit.
    pub(super) left: usize,
    /// Where the last visit broke off: it comes last now.
    stumbled: Option<Id>,
    pub counts: Counts,
}

/// What a visit has come to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub collected: u64,
    pub deleted: u64,
    /// Passed over for the first time: too large.
    pub too_large: u64,
    /// Passed over: the scan refuses them.
    pub refused: u64,
    /// The server does not give or delete them.
    pub withheld: u64,
    pub repeated: u64,
    /// There is more to read.
    pub more: bool,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.collected += other.collected;
        self.deleted += other.deleted;
        self.too_large += other.too_large;
        self.refused += other.refused;
        self.withheld += other.withheld;
        self.repeated += other.repeated;
        self.more |= other.more;
    }
}

impl Round {
    /// `now` in seconds since 1970; `messages_max` are read in this visit.
    pub fn new(
        ledger: Ledger,
        policy: Policy,
        now: u32,
        messages_max: usize,
        stumbled: Option<Id>,
    ) -> Round {
        Round {
            ledger,
            policy,
            now,
            work: Work::default(),
            current: None,
            left: messages_max,
            stumbled,
            counts: Counts::default(),
        }
    }

    /// All that is there.
    pub(super) fn sort(&mut self, listed: Vec<Listed>) {
        self.work = self.ledger.sort(listed, &self.policy, self.now);
        let stumbled = self.work.retrieve.iter().position(|one| Some(one.id) == self.stumbled);
        if let Some(last) = stumbled.and_then(|at| self.work.retrieve.remove(at)) {
            self.work.retrieve.push_back(last);
        }
        self.counts.too_large = self.work.too_large as u64;
        self.counts.repeated = self.work.repeated as u64;
    }

    /// Whether no more messages are read, apart from what the caller knows.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0 || self.ledger.is_full()
    }

    /// All octets of what was asked for have come. `None`: there is nothing to file.
    pub fn arrived(&mut self, hash: Hash) -> Option<Filing> {
        let one = self.current.clone()?;
        let stays = self.policy.leave != Leave::Not;
        match self.ledger.arrived(&one, hash, stays, self.now) {
            Arrival::New(filing) => Some(filing),
            Arrival::Known => {
                self.is_here(one);
                None
            }
            Arrival::Refused => None,
        }
    }

    /// It is durable.
    pub fn filed(&mut self, filing: &Filing) {
        self.ledger.filed(filing);
        self.counts.collected += 1;
        if let Some(one) = self.current.clone() {
            self.is_here(one);
        }
    }

    fn is_here(&mut self, one: Listed) {
        if self.policy.leave == Leave::Not {
            self.work.delete.push_back(one);
        }
    }

    pub fn refused(&mut self, filing: &Filing) {
        self.ledger.refused(filing);
        self.counts.refused += 1;
    }

    /// The server does not give or delete this one.
    pub(super) fn passed_over(&mut self) {
        self.counts.withheld += 1;
        self.current = None;
    }

    pub fn was_too_large(&mut self) {
        if let Some(one) = self.current.take() {
            self.ledger.was_too_large(&one);
            self.counts.too_large += 1;
        }
    }

    /// Octets of what is asked for, as the server says.
    pub fn expected(&self) -> u64 {
        self.current.as_ref().and_then(|one| one.octets).unwrap_or(0)
    }

    /// What was under way.
    pub fn current(&self) -> Option<Id> {
        self.current.as_ref().map(|one| one.id)
    }
}
