//! One account: its mailboxes by identifier and by name, its usage, its subscriptions.

use super::mailbox::Mailbox;
use super::names;
use crate::format::NewMailbox;
use crate::types::{AccountId, MailboxId, Modseq, Quota, Usage};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

#[derive(Debug, Clone)]
pub struct Account {
    pub id: AccountId,
    pub quota: Quota,
    pub messages: u64,
    pub bytes: u64,
    /// Never falls, so no identifier comes twice.
    pub mailbox_next: u32,
    /// The highest UIDVALIDITY given out: a name that is used again gets a higher one.
    pub uid_validity_max: u32,
    pub highest_modseq: Modseq,
    pub mailboxes: BTreeMap<MailboxId, Rc<Mailbox>>,
    pub names: BTreeMap<String, MailboxId>,
    pub subscriptions: BTreeSet<String>,
}

impl Account {
    /// With an empty INBOX, which is always there.
    #[must_use]
    pub fn new(id: AccountId, quota: Quota, uid_validity: u32) -> Account {
        let inbox = Mailbox::new(MailboxId::INBOX, names::INBOX.to_owned(), uid_validity);
        Account {
            id,
            quota,
            messages: 0,
            bytes: 0,
            mailbox_next: MailboxId::INBOX.0 + 1,
            uid_validity_max: uid_validity,
            highest_modseq: Modseq(0),
            mailboxes: BTreeMap::from([(MailboxId::INBOX, Rc::new(inbox))]),
            names: BTreeMap::from([(names::INBOX.to_owned(), MailboxId::INBOX)]),
            subscriptions: BTreeSet::new(),
        }
    }

    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { messages: self.messages, bytes: self.bytes, quota: self.quota }
    }

    #[must_use]
    pub fn mailbox(&self, mailbox: MailboxId) -> Option<&Mailbox> {
        self.mailboxes.get(&mailbox).map(Rc::as_ref)
    }

    pub fn mailbox_mut(&mut self, mailbox: MailboxId) -> Option<&mut Mailbox> {
        self.mailboxes.get_mut(&mailbox).map(Rc::make_mut)
    }

    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Mailbox> {
        self.mailbox(*self.names.get(name)?)
    }

    pub fn create(&mut self, new: &NewMailbox, modseq: Modseq) {
        let mut mailbox = Mailbox::new(new.id, new.name.clone(), new.uid_validity);
        mailbox.special_use = new.special_use;
        mailbox.highest_modseq = modseq;
        self.mailbox_next = self.mailbox_next.max(new.id.0.saturating_add(1));
        self.uid_validity_max = self.uid_validity_max.max(new.uid_validity);
        self.names.insert(new.name.clone(), new.id);
        self.mailboxes.insert(new.id, Rc::new(mailbox));
    }

    pub fn rename(&mut self, mailbox: MailboxId, name: &str) -> bool {
        let Some(renamed) = self.mailboxes.get_mut(&mailbox).map(Rc::make_mut) else {
            return false;
        };
        let before = std::mem::replace(&mut renamed.name, name.to_owned());
        // Within one record a name may already belong to its new owner.
        if self.names.get(&before) == Some(&mailbox) {
            self.names.remove(&before);
        }
        self.names.insert(name.to_owned(), mailbox);
        true
    }

    /// The mailboxes that have to be made so that `name` and all levels above it are there, with
    /// identifiers and UIDVALIDITY chosen. `seconds` is the time now.
    #[must_use]
    pub fn missing_levels(&self, name: &str, seconds: u32) -> Vec<NewMailbox> {
        let mut id = self.mailbox_next;
        let mut uid_validity = self.uid_validity_max.saturating_add(1).max(seconds);
        let mut missing = Vec::new();
        for level in names::parents(name).chain([name]) {
            if self.names.contains_key(level) {
                continue;
            }
            missing.push(NewMailbox {
                id: MailboxId(id),
                uid_validity,
                special_use: None,
                name: level.to_owned(),
            });
            id = id.saturating_add(1);
            uid_validity = uid_validity.saturating_add(1);
        }
        missing
    }
}
