//! One visit to a POP3 maildrop: what is asked of the client machine next. Without
//! sockets, clock or disk.
//!
//! Order: what is due is deleted, then each message is read, filed, and only then marked as deleted
//! where it is not to be left. QUIT carries the deletions out; without its answer nobody knows, and
//! the next listing tells.

use super::ledger::{Id, Listed, uidl_id};
use super::round::Round;
use protocols::pop3::client::{Entry, Listing, Next};

#[derive(Debug)]
pub struct Maildrop {
    pub round: Round,
    /// Marked there.
    marked: Vec<Id>,
}

impl Maildrop {
    pub fn new(round: Round) -> Maildrop {
        Maildrop { round, marked: Vec::new() }
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
        self.round.sort(all);
    }

    /// What is asked next. `is_over`: no more messages are read.
    pub fn next(&mut self, is_over: bool) -> Next {
        if let Some(one) = self.round.work.delete.pop_front() {
            let number = one.handle;
            self.round.current = Some(one);
            return Next::Delete(number);
        }
        let is_over = is_over || self.round.is_over();
        match self.round.work.retrieve.pop_front() {
            Some(one) if !is_over => {
                self.round.left -= 1;
                let number = one.handle;
                self.round.current = Some(one);
                Next::Retrieve { number, octets_max: self.round.policy.octets_max }
            }
            more => {
                self.round.counts.more = more.is_some();
                self.round.current = None;
                Next::Quit
            }
        }
    }

    pub fn deleted(&mut self) {
        self.marked.extend(self.round.current.take().map(|one| one.id));
    }

    /// The server does not do this one.
    pub fn withheld(&mut self) {
        self.round.passed_over();
    }

    /// The session is over. `committed`: what was marked is deleted.
    pub fn left(&mut self, committed: bool) {
        if committed {
            self.round.counts.deleted += self.marked.len() as u64;
            let now = self.round.now;
            self.marked.drain(..).for_each(|id| self.round.ledger.deleted(&id, now));
        }
    }
}
