//! What deliveries on their way will add to their accounts, so that quotas are exact.
//!
//! A reservation is dropped when its record has been applied (then the account itself counts it) or
//! has failed.

use crate::error::Error;
use crate::types::{AccountId, Usage};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

#[derive(Debug, Default, Clone)]
pub(crate) struct Reservations {
    accounts: Rc<RefCell<HashMap<AccountId, Pending>>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Pending {
    messages: u64,
    bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Reservation {
    reservations: Reservations,
    account: AccountId,
    messages: u64,
    bytes: u64,
}

impl Reservations {
    /// Whether `messages` of `bytes` in all would fit now.
    pub(crate) fn check(
        &self,
        account: AccountId,
        usage: &Usage,
        messages: u64,
        bytes: u64,
    ) -> Result<(), Error> {
        let pending = self.accounts.borrow().get(&account).copied().unwrap_or_default();
        let within = |max: Option<u64>, used: u64, pending: u64, more: u64| {
            max.is_none_or(|max| used.saturating_add(pending).saturating_add(more) <= max)
        };
        let fits = within(usage.quota.bytes_max, usage.bytes, pending.bytes, bytes)
            && within(usage.quota.messages_max, usage.messages, pending.messages, messages);
        if fits { Ok(()) } else { Err(Error::OverQuota) }
    }

    pub(crate) fn reserve(
        &self,
        account: AccountId,
        usage: &Usage,
        messages: u64,
        bytes: u64,
    ) -> Result<Reservation, Error> {
        self.check(account, usage, messages, bytes)?;
        let mut accounts = self.accounts.borrow_mut();
        let pending = accounts.entry(account).or_default();
        pending.messages += messages;
        pending.bytes += bytes;
        Ok(Reservation { reservations: self.clone(), account, messages, bytes })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut accounts = self.reservations.accounts.borrow_mut();
        let Some(pending) = accounts.get_mut(&self.account) else { return };
        pending.messages -= self.messages;
        pending.bytes -= self.bytes;
        if pending.messages == 0 && pending.bytes == 0 {
            accounts.remove(&self.account);
        }
    }
}
