//! One visit to a POP3 maildrop: what is asked of the client machine next. Without sockets, clock or disk.
//!
//! Order: what is due is deleted, then each message is read, filed, and only then marked as deleted where it is not
//! to be left. QUIT carries the deletions out; without its answer nobody knows, and the next listing tells.

use super::ledger::{Arrival, Filing, Hash, Id, Leave, Ledger, Listed, Policy, Work, uidl_id};
use protocols::pop3::client::{Entry, Listing, Next};

#[derive(Debug)]
pub struct Maildrop {
    pub ledger: Ledger,
    policy: Policy,
    now: u32,
    work: Work,
    current: Option<Listed>,
    /// Marked there.
    marked: Vec<Id>,
    /// Messages that may still be read in this visit.
    left: usize,
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

impl Maildrop {
    /// `now` in seconds since 1970; `messages_max` are read in this visit.
    pub fn new(
        ledger: Ledger,
        policy: Policy,
        now: u32,
        messages_max: usize,
        stumbled: Option<Id>,
    ) -> Maildrop {
        Maildrop {
            ledger,
            policy,
            now,
            work: Work::default(),
            current: None,
            marked: Vec::new(),
            left: messages_max,
            stumbled,
            counts: Counts::default(),
        }
    }

    pub fn listed(&mut self, listing: Listing) {
        let listed = |repeated| {
            move |entry: Entry| Listed {
                id: uidl_id(&entry.unique),
                handle: entry.number,
                octets: entry.octets,
                repeated,
            }
        };
        let own = listing.entries.into_iter().map(listed(false));
        let all = own.chain(listing.repeated.into_iter().map(listed(true))).collect();
        self.work = self.ledger.sort(all, &self.policy, self.now);
        let stumbled = self.work.retrieve.iter().position(|one| Some(one.id) == self.stumbled);
        if let Some(last) = stumbled.and_then(|at| self.work.retrieve.remove(at)) {
            self.work.retrieve.push_back(last);
        }
        self.counts.too_large = self.work.too_large as u64;
        self.counts.repeated = self.work.repeated as u64;
    }

    /// What is asked next. `is_over`: no more messages are read.
    pub fn next(&mut self, is_over: bool) -> Next {
        if let Some(one) = self.work.delete.pop_front() {
            let number = one.handle;
            self.current = Some(one);
            return Next::Delete(number);
        }
        let is_over = is_over || self.left == 0 || self.ledger.is_full();
        match self.work.retrieve.pop_front() {
            Some(one) if !is_over => {
                self.left -= 1;
                let number = one.handle;
                self.current = Some(one);
                Next::Retrieve { number, octets_max: self.policy.octets_max }
            }
            more => {
                self.counts.more = more.is_some();
                self.current = None;
                Next::Quit
            }
        }
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

    pub fn deleted(&mut self) {
        self.marked.extend(self.current.take().map(|one| one.id));
    }

    /// The server does not do this one.
    pub fn withheld(&mut self) {
        self.counts.withheld += 1;
        self.current = None;
    }

    pub fn was_too_large(&mut self) {
        if let Some(one) = self.current.take() {
            self.ledger.was_too_large(&one);
            self.counts.too_large += 1;
        }
    }

    /// The session is over. `committed`: what was marked is deleted.
    pub fn left(&mut self, committed: bool) {
        if committed {
            self.counts.deleted += self.marked.len() as u64;
            let now = self.now;
            self.marked.drain(..).for_each(|id| self.ledger.deleted(&id, now));
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
