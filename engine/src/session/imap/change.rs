//! Commands that change messages: STORE, COPY, MOVE, EXPUNGE, CLOSE.

use super::account::{Broken, ImapAccount, breathe, refusal};
use super::fetch::GONE;
use crate::filter::classifier::Class;
use crate::filter::sorting::Sorted;
use crate::wire::Wire;
use protocols::imap::command::{StoreFlags, StoreMode};
use protocols::imap::fetch::Response;
use protocols::imap::flags::FlagBits;
use protocols::imap::{Code, Completion, Imap, Targets};
use storage::device::Device;
use storage::store::FlagsChanged;
use storage::{Error, FlagChange, FlagMode, Flags, MailboxId, SpecialUse, Uid};

impl<D: Device> ImapAccount<D> {
    pub(super) async fn store_flags(
        &mut self,
        machine: &mut Imap,
        targets: &Targets,
        store: &StoreFlags,
        by_uid: bool,
        wire: &mut Wire<'_>,
    ) -> Result<Completion, Broken> {
        let changed = match self.change(machine, targets, store).await {
            Ok(changed) => changed,
            Err(completion) => return Ok(completion),
        };
        let (mailbox, changed) = changed;
        if store.silent {
            for entry in &changed.changed {
                machine.note_told(entry.uid.0, entry.modseq.0);
            }
            return Ok(Completion::Ok(None, "Stored"));
        }
        self.tell_stored(machine, mailbox, targets, by_uid, wire).await
    }

    async fn change(
        &mut self,
        machine: &Imap,
        targets: &Targets,
        store: &StoreFlags,
    ) -> Result<(MailboxId, FlagsChanged), Completion> {
        let mailbox = self.here()?;
        let change = FlagChange {
            mode: match store.mode {
                StoreMode::Replace => FlagMode::Replace,
                StoreMode::Add => FlagMode::Add,
                StoreMode::Remove => FlagMode::Remove,
            },
            flags: Flags(store.flags.system.0),
            keywords: store.flags.keywords.clone(),
        };
        let uids = self.pick(machine, targets, mailbox, |_| true).await;
        let changed = self.store.change_flags(self.account, mailbox, &uids, &change, None).await;
        let changed = changed.map_err(|error| refusal(&error))?;
        if store.mode != StoreMode::Remove
            && let Some(class) = class_of(&store.flags.keywords)
        {
            let uids = changed.changed.iter().map(|entry| entry.uid).collect();
            self.sorted.push(Sorted { mailbox, uids, class });
        }
        Ok((mailbox, changed))
    }

    /// The flags of all targets as they are now, changed or not (RFC 3501 section 6.4.6).
    async fn tell_stored(
        &self,
        machine: &mut Imap,
        mailbox: MailboxId,
        targets: &Targets,
        by_uid: bool,
        wire: &mut Wire<'_>,
    ) -> Result<Completion, Broken> {
        let keywords = match self.store.mailbox(self.account, mailbox) {
            Ok(info) => info.keywords,
            Err(error) => return Ok(refusal(&error)),
        };
        machine.tell_keywords(&keywords, keywords.len() < Flags::KEYWORDS_MAX, wire.outbox);
        let mut gone = false;
        let mut breath = 0;
        for position in targets.positions() {
            let Some(view) = machine.view() else { break };
            let Some((sequence, uid)) = view.message(position) else { continue };
            let recent = view.is_recent(uid);
            let Ok(entry) = self.store.entry(self.account, mailbox, Uid(uid)) else {
                gone = true;
                continue;
            };
            let mut response = Response::begin(wire.outbox.buffer(), sequence);
            response.flags(FlagBits(entry.flags.0), &keywords, recent);
            if by_uid {
                response.uid(uid);
            }
            response.end();
            machine.note_told(uid, entry.modseq.0);
            wire.relieve().await?;
            breathe(&mut breath).await;
        }
        Ok(if gone && !by_uid { GONE } else { Completion::Ok(None, "Stored") })
    }

    pub(super) async fn copy(&mut self, machine: &Imap, targets: &Targets, to: &str) -> Completion {
        let copied = async {
            let (from, to) = (self.source()?, self.destination(to)?);
            let uids = self.pick(machine, targets, from, |_| true).await;
            if uids.is_empty() {
                return Ok(None);
            }
            let copied = self.store.copy(self.account, from, &uids, to).await;
            let (pairs, _durable) = copied.map_err(|error| try_create(&error))?;
            self.note_sorted(from, to, &pairs);
            Ok(self.copy_uid(to, &pairs))
        };
        match copied.await {
            Ok(code) => Completion::Ok(code, "Copied"),
            Err(refused) => refused,
        }
    }

    /// RFC 6851 section 4.3: COPYUID comes before the EXPUNGEs that the sync point will tell.
    pub(super) async fn move_messages(
        &mut self,
        machine: &Imap,
        targets: &Targets,
        to: &str,
        wire: &mut Wire<'_>,
    ) -> Completion {
        let moved = async {
            let (from, to) = (self.source()?, self.destination(to)?);
            let uids = self.pick(machine, targets, from, |_| true).await;
            if uids.is_empty() {
                return Ok(None);
            }
            let moved = self.store.move_messages(self.account, from, &uids, to).await;
            let (pairs, _durable) = moved.map_err(|error| try_create(&error))?;
            self.note_sorted(from, to, &pairs);
            Ok(self.copy_uid(to, &pairs))
        };
        match moved.await {
            Ok(code) => {
                if code.is_some() {
                    Completion::Ok(code, "Moved").write(wire.outbox.buffer(), b"*");
                }
                Completion::Ok(None, "Moved")
            }
            Err(refused) => refused,
        }
    }

    /// Into Junk is spam; out of it, but not into Trash, is wanted.
    fn note_sorted(&mut self, from: MailboxId, to: MailboxId, pairs: &[(Uid, Uid)]) {
        let special = |mailbox| self.store.mailbox(self.account, mailbox).ok()?.special_use;
        let class = match (special(from), special(to)) {
            (Some(SpecialUse::Junk), Some(SpecialUse::Junk | SpecialUse::Trash)) => return,
            (_, Some(SpecialUse::Junk)) => Class::Spam,
            (Some(SpecialUse::Junk), _) => Class::Wanted,
            _ => return,
        };
        let uids = pairs.iter().map(|(_, uid)| *uid).collect();
        self.sorted.push(Sorted { mailbox: to, uids, class });
    }

    fn copy_uid(&self, to: MailboxId, pairs: &[(Uid, Uid)]) -> Option<Code> {
        let uid_validity = self.store.status(self.account, to).ok()?.uid_validity;
        let pairs: Vec<_> = pairs.iter().map(|(from, to)| (from.0, to.0)).collect();
        (!pairs.is_empty()).then_some(Code::CopyUid { uid_validity, pairs })
    }

    pub(super) async fn expunge(&mut self, machine: &Imap, targets: &Targets) -> Completion {
        match self.expunge_deleted(machine, targets).await {
            Ok(()) => Completion::Ok(None, "Expunged"),
            Err(completion) => completion,
        }
    }

    async fn expunge_deleted(&self, machine: &Imap, targets: &Targets) -> Result<(), Completion> {
        let mailbox = self.here()?;
        let status = self.store.status(self.account, mailbox).map_err(|error| refusal(&error))?;
        if status.deleted == 0 {
            return Ok(());
        }
        let deleted = |entry: &storage::MessageEntry| entry.flags.contains(Flags::DELETED);
        let uids = self.pick(machine, targets, mailbox, deleted).await;
        if !uids.is_empty() {
            let expunged = self.store.expunge(self.account, mailbox, &uids).await;
            let (_gone, _durable) = expunged.map_err(|error| refusal(&error))?;
        }
        Ok(())
    }

    pub(super) async fn close(&mut self, machine: &Imap, expunge: bool) -> Completion {
        if expunge {
            let all = machine.view().map(protocols::imap::View::all).unwrap_or_default();
            if let Err(completion) = self.expunge_deleted(machine, &all).await {
                return completion;
            }
        }
        self.selected = None;
        Completion::Ok(None, "Closed")
    }
}

/// What keywords say of a message: those of the IANA registry, and those that Thunderbird sets.
fn class_of(keywords: &[String]) -> Option<Class> {
    let has = |names: [&str; 2]| {
        keywords.iter().any(|keyword| names.iter().any(|name| keyword.eq_ignore_ascii_case(name)))
    };
    match (has(["$Junk", "Junk"]), has(["$NotJunk", "NonJunk"])) {
        (true, false) => Some(Class::Spam),
        (false, true) => Some(Class::Wanted),
        _ => None,
    }
}

/// The destination may have gone between the look and the leap.
fn try_create(error: &Error) -> Completion {
    match error {
        Error::NoSuchMailbox(_) | Error::NoSuchMailboxName(_) => {
            Completion::No(Some(Code::TryCreate), "There is no such mailbox; create it")
        }
        other => refusal(other),
    }
}
