//! Sessions that wait for news of an account.

use crate::format::Record;
use crate::types::AccountId;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;

/// By account, then by watch. Nothing is kept for accounts that nobody watches.
#[derive(Debug, Default, Clone)]
pub(crate) struct Watchers {
    accounts: Rc<RefCell<HashMap<AccountId, HashMap<u64, Waker>>>>,
    next: Rc<Cell<u64>>,
}

/// One wait; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    watchers: Watchers,
    account: AccountId,
    number: u64,
}

impl Watchers {
    pub(crate) fn watch(&self, account: AccountId) -> Watch {
        let number = self.next.get();
        self.next.set(number + 1);
        Watch { watchers: self.clone(), account, number }
    }

    pub(crate) fn record_applied(&self, record: &Record) {
        if self.accounts.borrow().is_empty() {
            return;
        }
        match record {
            Record::AccountCreated { account, .. }
            | Record::AccountRemoved { account }
            | Record::QuotaSet { account, .. }
            | Record::MailboxesCreated { account, .. }
            | Record::MailboxesRenamed { account, .. }
            | Record::InboxRenamed { account, .. }
            | Record::MailboxDeleted { account, .. }
            | Record::Subscribed { account, .. }
            | Record::Copied { account, .. }
            | Record::FlagsChanged { account, .. }
            | Record::Expunged { account, .. } => self.wake(*account),
            Record::Delivered(delivered) => {
                delivered.placements.iter().for_each(|placement| self.wake(placement.account));
            }
            Record::Undeleted(undeleted) => self.wake(undeleted.account),
            Record::Shown(shown) => self.wake(shown.account),
            // These change nothing that a session shows.
            Record::Chunk { .. }
            | Record::Put { .. }
            | Record::Lost { .. }
            | Record::Moved(_)
            | Record::Piece
            | Record::Based(_)
            | Record::RetentionSet { .. }
            | Record::HoldSet { .. }
            | Record::Forgot(_) => {}
        }
    }

    fn wake(&self, account: AccountId) {
        let woken = self.accounts.borrow_mut().remove(&account);
        woken.into_iter().flatten().for_each(|(_, waker)| waker.wake());
    }
}

impl Watch {
    pub(crate) fn register(&self, waker: &Waker) {
        let mut accounts = self.watchers.accounts.borrow_mut();
        accounts.entry(self.account).or_default().insert(self.number, waker.clone());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut accounts = self.watchers.accounts.borrow_mut();
        let Some(watches) = accounts.get_mut(&self.account) else { return };
        watches.remove(&self.number);
        if watches.is_empty() {
            accounts.remove(&self.account);
        }
    }
}
