//! Accounts: making, removing, limits.

use super::{Store, account_in};
use crate::device::Device;
use crate::durable::Durable;
use crate::error::Error;
use crate::format::Record;
use crate::types::{AccountId, Modseq, Quota, Usage};
use std::future::poll_fn;
use std::task::Poll;

impl<D: Device> Store<D> {
    /// With an empty INBOX. An account's number is never used again.
    pub async fn create_account(&self, account: AccountId, quota: Quota) -> Result<Durable, Error> {
        let uid_validity = self.now_seconds();
        self.log(account, |index| match index.account(account) {
            Some(_) => Err(Error::AccountExists(account)),
            None => Ok((Record::AccountCreated { account, quota, uid_validity }, ())),
        })
        .await
        .map(|((), durable)| durable)
    }

    pub async fn remove_account(&self, account: AccountId) -> Result<Durable, Error> {
        self.log(account, |index| {
            account_in(index, account)?;
            Ok((Record::AccountRemoved { account }, ()))
        })
        .await
        .map(|((), durable)| durable)
    }

    pub async fn set_quota(&self, account: AccountId, quota: Quota) -> Result<Durable, Error> {
        self.log(account, |index| {
            account_in(index, account)?;
            Ok((Record::QuotaSet { account, quota }, ()))
        })
        .await
        .map(|((), durable)| durable)
    }

    pub fn usage(&self, account: AccountId) -> Result<Usage, Error> {
        self.with_account(account, |account| Ok(account.usage()))
    }

    /// By number ascending.
    #[must_use]
    pub fn accounts(&self) -> Vec<AccountId> {
        let mut accounts: Vec<_> = self.core.index.borrow().accounts.keys().copied().collect();
        accounts.sort();
        accounts
    }

    /// Whether a delivery of `bytes` to `account` would be over quota now: for RCPT and MAIL SIZE=.
    pub fn check_quota(&self, account: AccountId, bytes: u64) -> Result<(), Error> {
        let usage = self.usage(account)?;
        self.core.reservations.check(account, &usage, 1, bytes)
    }

    /// The account's highest MODSEQ.
    pub fn highest_modseq(&self, account: AccountId) -> Result<Modseq, Error> {
        self.with_account(account, |account| Ok(account.highest_modseq))
    }

    /// Resolves once anything in the account has a MODSEQ above `since`, or the account is removed.
    pub async fn changed(&self, account: AccountId, since: Modseq) {
        let watch = self.core.watchers.watch(account);
        poll_fn(|context| {
            let index = self.core.index.borrow();
            match index.account(account) {
                Some(account) if account.highest_modseq <= since => {
                    watch.register(context.waker());
                    Poll::Pending
                }
                Some(_) | None => Poll::Ready(()),
            }
        })
        .await;
    }
}
