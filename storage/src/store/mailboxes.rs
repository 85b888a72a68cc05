//! Mailboxes: names, hierarchy, subscriptions. RFC 9051 sections 6.3.4 to 6.3.8.

use super::{Store, account_in};
use crate::device::Device;
use crate::durable::Durable;
use crate::error::Error;
use crate::format::Record;
use crate::index::{Account, Index, names};
use crate::types::{AccountId, MailboxId, MailboxInfo, MailboxStatus, SpecialUse, Uid};
use std::rc::Rc;

const MAILBOXES_MAX: usize = 10_000;
const SUBSCRIPTIONS_MAX: usize = 10_000;

impl<D: Device> Store<D> {
    /// By name ascending. INBOX is always there; the quarantine is not among them.
    pub fn mailboxes(&self, account: AccountId) -> Result<Vec<MailboxInfo>, Error> {
        self.with_account(account, |account| {
            Ok(account
                .names
                .iter()
                .filter(|(name, _)| *name != names::QUARANTINE)
                .filter_map(|(_, id)| account.mailbox(*id))
                .map(|m| m.info())
                .collect())
        })
    }

    /// `INBOX` in any case; other names exactly.
    pub fn mailbox_named(&self, account: AccountId, name: &str) -> Result<MailboxInfo, Error> {
        let name = shown(name)?;
        self.with_account(account, |account| match account.named(&name) {
            Some(mailbox) => Ok(mailbox.info()),
            None => Err(Error::NoSuchMailboxName(name.clone())),
        })
    }

    /// The mailbox of mail that is kept back, which has no name that anybody could give, and is
    /// reached by its identifier alone. `None`: nothing ever was.
    pub fn quarantine(&self, account: AccountId) -> Result<Option<MailboxInfo>, Error> {
        self.with_account(account, |account| {
            Ok(account.named(names::QUARANTINE).map(|mailbox| mailbox.info()))
        })
    }

    /// The same, made where it is missing. It does not count among the mailboxes that there may be:
    /// mail must have somewhere to go.
    pub async fn make_quarantine(&self, account: AccountId) -> Result<MailboxId, Error> {
        if let Some(there) = self.quarantine(account)? {
            return Ok(there.id);
        }
        let seconds = self.now_seconds();
        let plan = |index: &mut Index| {
            let found = account_in(index, account)?;
            if let Some(there) = found.named(names::QUARANTINE) {
                return Ok((None, there.id));
            }
            let created = found.missing_levels(names::QUARANTINE, seconds);
            let id = created.last().expect("the name itself is missing").id;
            Ok((Some(Record::MailboxesCreated { account, created }), id))
        };
        self.change(account, plan).await.map(|(id, _durable)| id)
    }

    pub fn mailbox(&self, account: AccountId, mailbox: MailboxId) -> Result<MailboxInfo, Error> {
        self.with_mailbox(account, mailbox, |mailbox| Ok(mailbox.info()))
    }

    pub fn status(&self, account: AccountId, mailbox: MailboxId) -> Result<MailboxStatus, Error> {
        self.with_mailbox(account, mailbox, |mailbox| Ok(mailbox.status()))
    }

    /// Creates missing parents too (RFC 9051 section 6.3.4).
    pub async fn create_mailbox(
        &self,
        account: AccountId,
        name: &str,
        special_use: Option<SpecialUse>,
    ) -> Result<(MailboxId, Durable), Error> {
        let name = names::check(name)?;
        let seconds = self.now_seconds();
        self.log(account, |index| {
            let found = account_in(index, account)?;
            if found.names.contains_key(&name) {
                return Err(Error::MailboxExists(name));
            }
            let mut created = found.missing_levels(&name, seconds);
            check_count(found, created.len())?;
            let last = created.last_mut().expect("the name itself is missing");
            last.special_use = special_use;
            let id = last.id;
            Ok((Record::MailboxesCreated { account, created }, id))
        })
        .await
    }

    /// Renames inferiors too. Renaming INBOX moves its messages and leaves it empty
    /// (section 6.3.6).
    pub async fn rename_mailbox(
        &self,
        account: AccountId,
        from: &str,
        to: &str,
    ) -> Result<Durable, Error> {
        let from = shown(from)?;
        let to = names::check(to)?;
        let seconds = self.now_seconds();
        self.log(account, |index| {
            let found = account_in(index, account)?;
            let record = if from == names::INBOX {
                rename_inbox(found, &to, seconds)?
            } else {
                rename(found, &from, &to, seconds)?
            };
            Ok((record, ()))
        })
        .await
        .map(|((), durable)| durable)
    }

    /// Deletes the mailbox and its messages; inferiors stay (their missing parent is
    /// implied by name).
    pub async fn delete_mailbox(&self, account: AccountId, name: &str) -> Result<Durable, Error> {
        let name = shown(name)?;
        self.log(account, |index| {
            let found = account_in(index, account)?;
            if name == names::INBOX {
                return Err(Error::MailboxName(name, "INBOX cannot be deleted"));
            }
            let mailbox = *found.names.get(&name).ok_or(Error::NoSuchMailboxName(name))?;
            Ok((Record::MailboxDeleted { account, mailbox }, ()))
        })
        .await
        .map(|((), durable)| durable)
    }

    /// Subscriptions are names: they may outlive the mailbox (RFC 9051 section 6.3.7).
    pub async fn subscribe(
        &self,
        account: AccountId,
        name: &str,
        subscribed: bool,
    ) -> Result<Durable, Error> {
        let name = if subscribed { names::check(name)? } else { names::canonical(name) };
        self.log(account, |index| {
            let found = account_in(index, account)?;
            if subscribed && found.subscriptions.len() >= SUBSCRIPTIONS_MAX {
                return Err(Error::Limit("10,000 subscriptions in an account"));
            }
            Ok((Record::Subscribed { account, subscribed, name }, ()))
        })
        .await
        .map(|((), durable)| durable)
    }

    pub fn subscriptions(&self, account: AccountId) -> Result<Vec<String>, Error> {
        self.with_account(account, |account| Ok(account.subscriptions.iter().cloned().collect()))
    }

    /// \Recent: the first UID that no session has been told of yet; with `take`, from now on told.
    pub fn recent_from(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        take: bool,
    ) -> Result<Uid, Error> {
        let (recent, next) = self.with_mailbox(account, mailbox, |mailbox| {
            Ok((mailbox.recent_from, mailbox.uid_next))
        })?;
        if take && recent != next {
            let mut index = self.core.index.borrow_mut();
            let found = index.accounts.get_mut(&account).map(Rc::make_mut);
            if let Some(mailbox) = found.and_then(|account| account.mailbox_mut(mailbox)) {
                mailbox.recent_from = next;
            }
        }
        Ok(recent)
    }
}

/// The canonical name of a mailbox that has one which people may say.
fn shown(name: &str) -> Result<String, Error> {
    let name = names::canonical(name);
    if name == names::QUARANTINE { Err(Error::NoSuchMailboxName(name)) } else { Ok(name) }
}

pub(super) fn check_count(account: &Account, more: usize) -> Result<(), Error> {
    if account.mailboxes.len() + more > MAILBOXES_MAX {
        return Err(Error::Limit("10,000 mailboxes in an account"));
    }
    Ok(())
}

fn rename_inbox(account: &Account, to: &str, seconds: u32) -> Result<Record, Error> {
    if account.names.contains_key(to) {
        return Err(Error::MailboxExists(to.to_owned()));
    }
    let created = account.missing_levels(to, seconds);
    check_count(account, created.len())?;
    Ok(Record::InboxRenamed { account: account.id, created })
}

fn rename(account: &Account, from: &str, to: &str, seconds: u32) -> Result<Record, Error> {
    let refuse = |why| Err(Error::MailboxName(to.to_owned(), why));
    if !account.names.contains_key(from) {
        return Err(Error::NoSuchMailboxName(from.to_owned()));
    }
    if names::is_below(to, from) {
        return refuse("a mailbox cannot move below itself");
    }
    let mut renamed = Vec::new();
    for (name, id) in &account.names {
        if name != from && !names::is_below(name, from) {
            continue;
        }
        let new_name = format!("{to}{}", &name[from.len()..]);
        if account.names.contains_key(&new_name) {
            return Err(Error::MailboxExists(new_name));
        }
        // The levels below were fine under the old name; the new one may make them too long.
        names::check(&new_name)?;
        renamed.push((*id, new_name));
    }
    // The new name's parents, but not itself. None of them can be one of those that are renamed.
    let mut created = account.missing_levels(to, seconds);
    created.pop();
    check_count(account, created.len())?;
    Ok(Record::MailboxesRenamed { account: account.id, created, renamed })
}
