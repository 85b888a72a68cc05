//! Commands on mailboxes: SELECT, CREATE, DELETE, RENAME, SUBSCRIBE, LIST, STATUS, GETQUOTA.

use super::account::{Broken, ImapAccount, breathe_after, refusal};
use crate::wire::Wire;
use protocols::imap::command::StatusItem;
use protocols::imap::list::{self, ListCommand};
use protocols::imap::mailbox::MailboxName;
use protocols::imap::response::{self, QuotaResource, StatusValues};
use protocols::imap::{Code, Completion, Imap, Selected};
use storage::device::Device;
use storage::{Error, Flags, MailboxId, SpecialUse, Uid};

/// UIDs looked at in one go when searching the first unseen message.
const UNSEEN_WINDOW: usize = 1024;
/// Octets of patterns that a name is held against while one message would be worked off elsewhere.
const PATTERN_OCTETS_A_MESSAGE: u32 = 16;

impl<D: Device> ImapAccount<D> {
    pub(super) async fn select(
        &mut self,
        name: &str,
        read_only: bool,
    ) -> Result<Selected, Completion> {
        self.selected = None;
        let (mailbox, selected) = self.look_into(name, read_only).map_err(|e| refusal(&e))?;
        self.selected = Some(mailbox);
        Ok(selected)
    }

    /// One moment's state of a mailbox: nothing here awaits.
    fn look_into(&self, name: &str, read_only: bool) -> Result<(MailboxId, Selected), Error> {
        let (store, account) = (&self.store, self.account);
        let info = self.named(name)?;
        let status = store.status(account, info.id)?;
        let uids = store.uids(account, info.id)?;
        let unseen_first = match status.unseen {
            0 => None,
            _ => self.first_unseen(info.id, &uids)?.map(|uid| uid.0),
        };
        let selected = Selected {
            recent_from: store.recent_from(account, info.id, !read_only && !info.read_only)?.0,
            read_only: info.read_only,
            unseen_first,
            keywords_open: info.keywords.len() < Flags::KEYWORDS_MAX,
            keywords: info.keywords,
            uid_validity: status.uid_validity,
            uid_next: status.uid_next.0,
            modseq: status.highest_modseq.0,
            uids: uids.into_iter().map(|uid| uid.0).collect(),
        };
        Ok((info.id, selected))
    }

    fn first_unseen(&self, mailbox: MailboxId, uids: &[Uid]) -> Result<Option<Uid>, Error> {
        for window in uids.chunks(UNSEEN_WINDOW) {
            let (Some(first), Some(last)) = (window.first(), window.last()) else { break };
            let entries = self.store.entries(self.account, mailbox, first.0..=last.0)?;
            let unseen = entries.iter().find(|entry| !entry.flags.contains(Flags::SEEN));
            if let Some(entry) = unseen {
                return Ok(Some(entry.uid));
            }
        }
        Ok(None)
    }

    pub(super) async fn create(
        &self,
        name: &str,
        special_use: Option<list::SpecialUse>,
    ) -> Completion {
        let special_use = special_use.map(to_store);
        let taken = |use_: SpecialUse| {
            let mailboxes = self.store.mailboxes(self.account).unwrap_or_default();
            mailboxes.iter().any(|info| info.special_use == Some(use_))
        };
        if special_use.is_some_and(taken) {
            let text = "Another mailbox has that special use";
            return Completion::No(Some(Code::UseAttribute), text);
        }
        if self.is_reserved(name) {
            return refusal(&Error::MailboxExists(name.to_owned()));
        }
        match self.store.create_mailbox(self.account, name, special_use).await {
            Ok((_, _durable)) => Completion::Ok(None, "Created"),
            Err(error) => refusal(&error),
        }
    }

    pub(super) async fn delete(&mut self, machine: &mut Imap, name: &MailboxName) -> Completion {
        if name.is_inbox() {
            return Completion::No(Some(Code::Cannot), "INBOX can't be deleted");
        }
        let deleted = async {
            let mailbox = self.store.mailbox_named(self.account, name.as_str())?.id;
            let _durable = self.store.delete_mailbox(self.account, name.as_str()).await?;
            Ok(mailbox)
        };
        match deleted.await {
            Ok(mailbox) => {
                if self.selected == Some(mailbox) {
                    self.selected = None;
                    machine.deselect();
                }
                Completion::Ok(None, "Deleted")
            }
            Err(error) => refusal(&error),
        }
    }

    pub(super) async fn rename(&self, from: &str, to: &str) -> Completion {
        if self.is_reserved(to) {
            return refusal(&Error::MailboxExists(to.to_owned()));
        }
        match self.store.rename_mailbox(self.account, from, to).await {
            Ok(_durable) => Completion::Ok(None, "Renamed"),
            Err(error) => refusal(&error),
        }
    }

    pub(super) async fn subscribe(&self, name: &str, subscribe: bool) -> Completion {
        // RFC 3501 section 6.3.6: what is not there can't be subscribed to, though a subscription
        // may outlive its mailbox.
        if subscribe && let Err(error) = self.named(name) {
            return refusal(&error);
        }
        match self.store.subscribe(self.account, name, subscribe).await {
            Ok(_durable) => Completion::DONE,
            Err(error) => refusal(&error),
        }
    }

    pub(super) async fn list(
        &self,
        machine: &Imap,
        list: &ListCommand,
        wire: &mut Wire<'_>,
    ) -> Result<Completion, Broken> {
        let found = self.store.mailboxes(self.account);
        let found = found.and_then(|found| Ok((found, self.store.subscriptions(self.account)?)));
        let (mut mailboxes, subscribed) = match found {
            Ok(found) => found,
            Err(error) => return Ok(refusal(&error)),
        };
        if let Some(quarantine) = self.shown_quarantine() {
            match mailboxes.binary_search_by(|info| info.name.cmp(&quarantine.name)) {
                // A user's own hides it.
                Ok(_) => {}
                Err(at) => mailboxes.insert(at, quarantine),
            }
        }
        let names = mailboxes.into_iter().map(|info| (info.name, info.special_use.map(to_wire)));
        let existing: Vec<_> = names.collect();
        let octets = u32::try_from(list.pattern_octets()).unwrap_or(u32::MAX);
        let weight = 1 + octets / PATTERN_OCTETS_A_MESSAGE;
        let mut breath = 0;
        for step in list.select(&existing, &subscribed) {
            breathe_after(&mut breath, weight).await;
            let Some(entry) = step else { continue };
            entry.write(wire.outbox.buffer(), list.lsub);
            if let Some(items) = list.return_status.as_ref().filter(|_| entry.exists) {
                // One that can't be read is left out, as RFC 5819 section 2 has it.
                if let Ok(values) = self.status_values(machine, &entry.name, items) {
                    response::status(wire.outbox.buffer(), &entry.name, items, &values);
                }
            }
            wire.relieve().await?;
        }
        Ok(Completion::DONE)
    }

    pub(super) fn status(
        &self,
        machine: &Imap,
        name: &str,
        items: &[StatusItem],
        wire: &mut Wire<'_>,
    ) -> Completion {
        match self.status_values(machine, name, items) {
            Ok(values) => {
                response::status(wire.outbox.buffer(), name, items, &values);
                Completion::DONE
            }
            Err(error) => refusal(&error),
        }
    }

    fn status_values(
        &self,
        machine: &Imap,
        name: &str,
        items: &[StatusItem],
    ) -> Result<StatusValues, Error> {
        let mailbox = self.named(name)?.id;
        let status = self.store.status(self.account, mailbox)?;
        let mut recent = 0;
        if items.contains(&StatusItem::Recent) {
            let from = self.store.recent_from(self.account, mailbox, false)?.0;
            if from < status.uid_next.0 {
                let entries = self.store.entries(self.account, mailbox, from..=u32::MAX)?;
                recent = u32::try_from(entries.len()).unwrap_or(u32::MAX);
            }
        }
        Ok(StatusValues {
            messages: status.messages,
            recent,
            uid_next: status.uid_next.0,
            uid_validity: status.uid_validity,
            unseen: status.unseen,
            deleted: status.deleted,
            bytes: status.bytes,
            append_bytes_max: u64::from(machine.config().append_bytes_max),
        })
    }

    pub(super) fn quota_root(&self, mailbox: &str, wire: &mut Wire<'_>) -> Completion {
        if let Err(error) = self.named(mailbox) {
            return refusal(&error);
        }
        response::quota_root(wire.outbox.buffer(), mailbox);
        self.quota(wire)
    }

    pub(super) fn quota(&self, wire: &mut Wire<'_>) -> Completion {
        let usage = match self.store.usage(self.account) {
            Ok(usage) => usage,
            Err(error) => return refusal(&error),
        };
        // RFC 9208 section 5.3.1: storage counts in units of 1024 octets.
        let storage = usage.quota.bytes_max.map(|limit| QuotaResource {
            name: "STORAGE",
            usage: usage.bytes.div_ceil(1024),
            limit: limit / 1024,
        });
        let messages = usage.quota.messages_max.map(|limit| QuotaResource {
            name: "MESSAGE",
            usage: usage.messages,
            limit,
        });
        let resources: Vec<_> = storage.into_iter().chain(messages).collect();
        response::quota(wire.outbox.buffer(), &resources);
        Completion::DONE
    }
}

fn to_store(special: list::SpecialUse) -> SpecialUse {
    match special {
        list::SpecialUse::Archive => SpecialUse::Archive,
        list::SpecialUse::Drafts => SpecialUse::Drafts,
        list::SpecialUse::Flagged => SpecialUse::Flagged,
        list::SpecialUse::Junk => SpecialUse::Junk,
        list::SpecialUse::Sent => SpecialUse::Sent,
        list::SpecialUse::Trash => SpecialUse::Trash,
    }
}

fn to_wire(special: SpecialUse) -> list::SpecialUse {
    match special {
        SpecialUse::Archive => list::SpecialUse::Archive,
        SpecialUse::Drafts => list::SpecialUse::Drafts,
        SpecialUse::Flagged => list::SpecialUse::Flagged,
        SpecialUse::Junk => list::SpecialUse::Junk,
        SpecialUse::Sent => list::SpecialUse::Sent,
        SpecialUse::Trash => list::SpecialUse::Trash,
    }
}
