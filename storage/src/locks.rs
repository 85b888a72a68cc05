//! Who may change an account when: deliveries beside compaction or beside an expunge, everything
//! else that must look first alone.
//!
//! A fair lock for each account, there only while someone holds or wants it. A guard travels
//! with the record into the commit loop and is dropped when the record has been applied, so
//! it holds exactly as long as the index does not show what was decided, even when whoever
//! asked has gone away.

use crate::types::AccountId;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// A delivery: it is decided by mailboxes and quotas alone.
    Delivery,
    /// A move of messages by compaction: of such as are there, and stay until it is logged.
    Move,
    /// Messages go: such as are there, and that nobody else takes away or moves
    /// meanwhile. A delivery is not decided by it, since quotas only gain, and brings
    /// nothing that could be meant.
    Expunge,
    /// Anything else that is checked against the index before it is logged.
    Alone,
}

impl Access {
    /// Whether both may hold an account at once.
    fn goes_with(self, other: Access) -> bool {
        use Access::{Alone, Delivery, Expunge, Move};
        match (self, other) {
            (Delivery | Move, Delivery | Move) => true,
            (Delivery, Expunge) | (Expunge, Delivery) => true,
            (Move, Expunge) | (Expunge, Move | Expunge) => false,
            (Alone, _) | (_, Alone) => false,
        }
    }
}

const KINDS: [Access; 4] = [Access::Delivery, Access::Move, Access::Expunge, Access::Alone];

#[derive(Debug, Default, Clone)]
pub(crate) struct Locks {
    accounts: Rc<RefCell<HashMap<AccountId, AccountLock>>>,
}

#[derive(Debug, Default)]
struct AccountLock {
    /// Holders of each kind.
    held: [u32; KINDS.len()],
    /// In the order of arrival; nobody overtakes.
    waiting: VecDeque<Rc<Ticket>>,
}

#[derive(Debug)]
struct Ticket {
    access: Access,
    state: RefCell<TicketState>,
}

#[derive(Debug)]
enum TicketState {
    Waiting(Option<Waker>),
    Granted,
    Given,
}

impl AccountLock {
    fn free_for(&self, access: Access) -> bool {
        KINDS.iter().all(|other| self.held[*other as usize] == 0 || access.goes_with(*other))
    }

    fn take(&mut self, access: Access) {
        self.held[access as usize] += 1;
    }

    fn give_back(&mut self, access: Access) {
        self.held[access as usize] -= 1;
    }

    /// Lets in those at the front who can be.
    fn admit(&mut self) {
        while let Some(first) = self.waiting.front().filter(|first| self.free_for(first.access)) {
            let first = Rc::clone(first);
            self.waiting.pop_front();
            self.take(first.access);
            if let TicketState::Waiting(Some(waker)) = first.state.replace(TicketState::Granted) {
                waker.wake();
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.held == [0; KINDS.len()] && self.waiting.is_empty()
    }
}

impl Locks {
    /// Takes the lock at once when nobody holds it against us or waits.
    pub(crate) fn try_lock(&self, account: AccountId, access: Access) -> Option<Guard> {
        let mut accounts = self.accounts.borrow_mut();
        let lock = accounts.entry(account).or_default();
        if !lock.waiting.is_empty() || !lock.free_for(access) {
            return None;
        }
        lock.take(access);
        Some(Guard { locks: self.clone(), account, access })
    }

    pub(crate) async fn lock(&self, account: AccountId, access: Access) -> Guard {
        if let Some(guard) = self.try_lock(account, access) {
            return guard;
        }
        let ticket = Rc::new(Ticket { access, state: RefCell::new(TicketState::Waiting(None)) });
        if let Some(lock) = self.accounts.borrow_mut().get_mut(&account) {
            lock.waiting.push_back(Rc::clone(&ticket));
        }
        Waiting { locks: self.clone(), account, ticket }.await
    }

    fn with(&self, account: AccountId, change: impl FnOnce(&mut AccountLock)) {
        let mut accounts = self.accounts.borrow_mut();
        let Some(lock) = accounts.get_mut(&account) else { return };
        change(lock);
        lock.admit();
        if lock.is_idle() {
            accounts.remove(&account);
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.accounts.borrow().is_empty()
    }
}

/// Gives the lock back when dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    locks: Locks,
    account: AccountId,
    access: Access,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.locks.with(self.account, |lock| lock.give_back(self.access));
    }
}

struct Waiting {
    locks: Locks,
    account: AccountId,
    ticket: Rc<Ticket>,
}

impl Future for Waiting {
    type Output = Guard;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Guard> {
        let mut state = self.ticket.state.borrow_mut();
        match &mut *state {
            TicketState::Waiting(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            TicketState::Granted => {
                *state = TicketState::Given;
                drop(state);
                let (locks, account) = (self.locks.clone(), self.account);
                Poll::Ready(Guard { locks, account, access: self.ticket.access })
            }
            TicketState::Given => unreachable!("polled after it was ready"),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let granted = match &*self.ticket.state.borrow() {
            TicketState::Given => return,
            TicketState::Granted => true,
            TicketState::Waiting(_) => false,
        };
        let ticket = &self.ticket;
        self.locks.with(self.account, |lock| {
            if granted {
                lock.give_back(ticket.access);
            } else {
                lock.waiting.retain(|other| !Rc::ptr_eq(other, ticket));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sim::{Executor, Sim};
    use std::cell::Cell;

    const ACCOUNT: AccountId = AccountId(7);

    #[test]
    fn deliveries_share_and_changes_exclude_in_order_of_arrival() {
        let sim = Sim::new(1);
        let executor = Executor::new(&sim);
        let locks = Locks::default();
        let first = locks.try_lock(ACCOUNT, Access::Delivery).expect("free");
        let second = locks.try_lock(ACCOUNT, Access::Delivery).expect("shared");
        assert!(locks.try_lock(ACCOUNT, Access::Alone).is_none());
        let order = Rc::new(RefCell::new(Vec::new()));
        for (name, access) in [("alone", Access::Alone), ("shared", Access::Delivery)] {
            let (locks, order) = (locks.clone(), Rc::clone(&order));
            executor.spawn(async move {
                let guard = locks.lock(ACCOUNT, access).await;
                order.borrow_mut().push(name);
                drop(guard);
            });
        }
        executor.run_until_idle();
        assert!(order.borrow().is_empty());
        assert!(locks.try_lock(ACCOUNT, Access::Delivery).is_none(), "nobody overtakes");
        drop((first, second));
        executor.run_until_idle();
        assert_eq!(*order.borrow(), ["alone", "shared"]);
        assert!(locks.is_empty(), "nothing is kept for an idle account");
    }

    #[test]
    fn what_goes_together_is_the_same_seen_from_both_sides() {
        let together = |one: Access, other: Access| {
            let locks = Locks::default();
            let _held = locks.try_lock(ACCOUNT, one).expect("free");
            locks.try_lock(ACCOUNT, other).is_some()
        };
        let pairs = KINDS.iter().flat_map(|one| KINDS.iter().map(move |other| (*one, *other)));
        let found: Vec<_> = pairs.filter(|(one, other)| together(*one, *other)).collect();
        use Access::{Delivery, Expunge, Move};
        let expected = [
            (Delivery, Delivery),
            (Delivery, Move),
            (Delivery, Expunge),
            (Move, Delivery),
            (Move, Move),
            (Expunge, Delivery),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn one_who_stops_waiting_leaves_nothing_behind() {
        let sim = Sim::new(1);
        let executor = Executor::new(&sim);
        let locks = Locks::default();
        let held = locks.try_lock(ACCOUNT, Access::Alone).expect("free");
        let got = Rc::new(Cell::new(0));
        let task = |executor: &Executor| {
            let (locks, got) = (locks.clone(), Rc::clone(&got));
            executor.spawn(async move {
                let _guard = locks.lock(ACCOUNT, Access::Alone).await;
                got.set(got.get() + 1);
            })
        };
        let waiting = task(&executor);
        executor.run_until_idle();
        executor.cancel(waiting);
        let granted = task(&executor);
        executor.run_until_idle();
        drop(held); // grants, but the task is dropped before it is polled again
        executor.cancel(granted);
        assert_eq!(got.get(), 0);
        assert!(locks.is_empty());
    }
}
