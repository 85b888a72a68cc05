//! Recipients that share an answer get a message together, or not at all: who is told to send it
//! again sends it to all again.
//!
//! Shards know nothing of each other, so no record can say that. Three steps, each for what the one
//! before can't know:
//!
//! 1. Before anything is written, each home shard concerned keeps room for its part. A disk that is
//!    full, a core that is behind and a store that has halted are found out here.
//! 2. When a home fails nevertheless (the disk under it, at this moment), what the others have
//!    filed is expunged, before anything is sent on and before the sender is answered.
//! 3. The same when something behind the homes fails: what a script sends on, or the queue.
//!
//! What is taken back was durable for a moment, and counts as expunged from then on; somebody may
//! have seen it. It stays where that fails, too, which is logged; and after a crash in between,
//! when the sender has no answer: both may come twice, as any message may whose answer was lost
//! (RFC 5321 section 4.2.5).

use super::{Envelope, Outcome, To};
use crate::NOTICE;
use crate::directory::Home;
use crate::shard::Shard;
use crate::sieve::marks::{self, Mark};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use storage::{AccountId, Error, MailboxId, Room, Uid};

/// Homes that share an answer with another one, hence write nothing before that has room.
pub(super) fn homes(recipients: &[To], groups: &[Vec<usize>]) -> BTreeSet<u16> {
    let mut all = BTreeSet::new();
    for group in groups {
        let homes: BTreeSet<u16> = group.iter().map(|&at| recipients[at].home.shard).collect();
        if homes.len() > 1 {
            all.extend(homes);
        }
    }
    all
}

/// Who shares an answer with who has failed fails for the same reason. An account may be in several
/// groups, behind several recipients: so until nobody is added.
pub(super) fn spread(failed: &mut [Option<Error>], groups: &[Vec<usize>]) {
    let mut is_done = false;
    while !is_done {
        is_done = true;
        for group in groups {
            let Some(error) = group.iter().find_map(|&at| failed[at].clone()) else { continue };
            for &at in group {
                if failed[at].is_none() {
                    failed[at] = Some(error.clone());
                    is_done = false;
                }
            }
        }
    }
}

/// Asks all of these homes at once for room of so many bytes.
pub(super) async fn keep_rooms(
    shard: &Rc<Shard>,
    wanted: BTreeMap<u16, usize>,
) -> BTreeMap<u16, Result<Room, Error>> {
    let mut asked = Vec::with_capacity(wanted.len());
    let mut rooms = BTreeMap::new();
    for (home, bytes) in wanted {
        if home == shard.id {
            rooms.insert(home, shard.store.keep_room(bytes));
            continue;
        }
        let keep = move |shard: Rc<Shard>| async move { shard.store.keep_room(bytes) };
        asked.push((home, shard.mesh.ask(home, keep)));
    }
    for (home, answer) in asked {
        rooms.insert(home, answer.await.unwrap_or(Err(Error::Busy)));
    }
    rooms
}

/// What the recipients of a transaction have got of its message, and can be taken back.
#[derive(Debug)]
#[must_use = "nothing is remembered of what does not stay"]
pub struct Copies {
    shard: Rc<Shard>,
    envelope: Arc<Envelope>,
    recipients: Rc<[To]>,
    /// Where each of them has it.
    places: Vec<Vec<(MailboxId, Uid)>>,
    /// What their scripts want remembered once nothing is taken back any more.
    marks: Vec<(Home, Vec<Mark>)>,
}

impl Copies {
    /// One outcome for each recipient; takes the places out of them.
    pub(super) fn of(
        shard: &Rc<Shard>,
        envelope: &Arc<Envelope>,
        recipients: &Rc<[To]>,
        outcomes: &mut [Outcome],
    ) -> Copies {
        let places = |outcome: &mut Outcome| {
            outcome.as_mut().map_or_else(|_| Vec::new(), |filed| std::mem::take(&mut filed.places))
        };
        Copies {
            shard: Rc::clone(shard),
            envelope: Arc::clone(envelope),
            recipients: Rc::clone(recipients),
            places: outcomes.iter_mut().map(places).collect(),
            marks: Vec::new(),
        }
    }

    /// What an account has got beside that; of others than the recipients nothing is taken back.
    pub(super) fn note_places(&mut self, account: AccountId, more: Vec<(MailboxId, Uid)>) {
        let mut all = self.recipients.iter().zip(&mut self.places);
        if let Some((_, places)) = all.find(|(to, _)| to.home.account == account) {
            places.extend(more);
        }
    }

    pub(super) fn note_marks(&mut self, marks: Vec<(Home, Vec<Mark>)>) {
        self.marks.extend(marks);
    }

    /// What these accounts have stays, whatever happens: others were told that they have it.
    pub(super) fn leave(&mut self, accounts: &BTreeSet<AccountId>) {
        for (to, places) in self.recipients.iter().zip(&mut self.places) {
            if accounts.contains(&to.home.account) {
                places.clear();
            }
        }
    }

    /// Takes back what these accounts have got.
    pub async fn take_back(&mut self, is_theirs: impl Fn(AccountId) -> bool) {
        self.marks.retain(|(home, _)| !is_theirs(home.account));
        let mut asked = Vec::new();
        for (To { home, .. }, places) in self.recipients.iter().zip(&mut self.places) {
            let account = home.account;
            if places.is_empty() || !is_theirs(account) {
                continue;
            }
            let places = std::mem::take(places);
            let expunge = move |shard: Rc<Shard>| async move {
                let mut outcome = Ok(());
                for (mailbox, uid) in places {
                    let gone = shard.store.expunge(account, mailbox, &[uid]).await;
                    outcome = outcome.and(gone.map(drop));
                }
                outcome
            };
            asked.push((&home.address, self.shard.mesh.ask(home.shard, expunge)));
        }
        for (account, answer) in asked {
            let id = &self.envelope.id;
            match answer.await.unwrap_or(Err(Error::Busy)) {
                Ok(()) => {
                    tracing::info!(target: NOTICE, id, account, "taken back: others did not get it");
                }
                Err(error) => {
                    tracing::warn!(id, account, %error, "could not be taken back: who sends it again sends it twice here");
                }
            }
        }
    }
}

impl Copies {
    /// Nothing is taken back any more. What was seen counts as seen only now: had it been
    /// remembered before, a message that is answered 451 would be a duplicate when it comes again,
    /// and its script might throw away the only one.
    pub async fn stay(self) {
        let mut asked = Vec::with_capacity(self.marks.len());
        for (home, marks) in self.marks {
            let account = home.account;
            let set = move |shard: Rc<Shard>| async move {
                marks::set(&shard, account, &marks, crate::operations::unix_now()).await
            };
            asked.push((home.address, self.shard.mesh.ask(home.shard, set)));
        }
        for (account, answer) in asked {
            if let Err(error) = answer.await.unwrap_or(Err(Error::Busy)) {
                tracing::warn!(account, %error, "duplicates are not remembered");
            }
        }
    }
}

/// Fails who shares an answer with who has failed, and takes back what they have got.
pub(super) async fn undo(copies: &mut Copies, groups: &[Vec<usize>], outcomes: &mut [Outcome]) {
    let envelope = &copies.envelope;
    let failed =
        |outcome: &Outcome| outcome.as_ref().err().filter(|error| counts(envelope, error)).cloned();
    let mut failed: Vec<_> = outcomes.iter().map(failed).collect();
    if failed.iter().all(Option::is_none) {
        return;
    }
    spread(&mut failed, groups);
    let mut accounts = BTreeSet::new();
    for (at, error) in failed.into_iter().enumerate() {
        if let Some(error) = error
            && outcomes[at].is_ok()
        {
            outcomes[at] = Err(error);
            accounts.insert(copies.recipients[at].home.account);
        }
    }
    copies.take_back(|account| accounts.contains(&account)).await;
}

/// Whether it keeps the message from others, too. What is collected for several stays with those
/// who have room for it: nobody is told to send it again.
pub(super) fn counts(envelope: &Envelope, error: &Error) -> bool {
    envelope.collected.is_none() || !matches!(error, Error::OverQuota)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocols::Address;

    fn to(account: u32, shard: u16) -> To {
        let address = format!("{account}@b");
        let home = Home { address: address.clone(), account: AccountId(account), shard };
        To { home, address: Address::parse(address.as_bytes()).unwrap() }
    }

    #[test]
    fn homes_are_asked_for_room_only_where_they_share_an_answer() {
        let recipients = [to(1, 0), to(2, 0), to(3, 1), to(4, 2)];
        let asked =
            |groups: &[Vec<usize>]| homes(&recipients, groups).into_iter().collect::<Vec<_>>();
        assert_eq!(asked(&[]), [] as [u16; 0]);
        assert_eq!(asked(&[vec![0], vec![1], vec![2], vec![3]]), [] as [u16; 0]);
        assert_eq!(asked(&[vec![0, 1], vec![3]]), [] as [u16; 0]);
        assert_eq!(asked(&[vec![0, 1, 2], vec![3]]), [0, 1]);
        assert_eq!(asked(&[vec![0, 1, 2, 3]]), [0, 1, 2]);
    }

    #[test]
    fn who_shares_an_answer_with_who_failed_fails_and_nobody_else() {
        let failing = |at: usize, groups: &[Vec<usize>]| {
            let mut failed = vec![None; 5];
            failed[at] = Some(Error::Busy);
            spread(&mut failed, groups);
            (0..5).filter(|&at| failed[at].is_some()).collect::<Vec<_>>()
        };
        assert_eq!(failing(2, &[]), [2]);
        assert_eq!(failing(2, &[vec![0, 1, 2, 3, 4]]), [0, 1, 2, 3, 4]);
        assert_eq!(failing(2, &[vec![0, 1], vec![2, 3], vec![4]]), [2, 3]);
        // The second group is looked at before the one that has it fail.
        assert_eq!(failing(4, &[vec![0], vec![1, 2], vec![2, 3], vec![3, 4]]), [1, 2, 3, 4]);
        let mut none: Vec<Option<Error>> = vec![None; 2];
        spread(&mut none, &[vec![0, 1]]);
        assert!(none.iter().all(Option::is_none));
    }
}
