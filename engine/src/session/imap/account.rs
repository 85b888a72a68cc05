//! An account being served over IMAP: answers the machine's events from the store.
//!
//! Knows no socket, no core and no password: the session around it (`mod.rs`) does. Generic over
//! the device, so that the same code is tested on a simulated disk.
//!
//! Invariants: a command is answered after what it changed is durable; what others changed is told
//! at sync points alone, from the store's changes since the view's MODSEQ; nothing that takes long
//! holds the core (`breathe`); a stream that was begun and can't be finished ends the connection,
//! since what follows could not be told from it.

use super::append::Incoming;
use crate::filter::sorting::Sorted;
use crate::session::Next;
use crate::shard::Shard;
use crate::wire::Wire;
use protocols::Ticket;
use protocols::imap::flags::FlagBits;
use protocols::imap::{Changed, Code, Completed, Completion, Event, Imap, LoginAnswer, News};
use std::cell::Cell;
use std::rc::Rc;
use storage::device::Device;
use storage::{AccountId, Error, Flags, MailboxId, MailboxInfo, Modseq, Store, Uid};

/// Messages between two chances for other tasks of the core.
const MESSAGES_BETWEEN_BREATHS: u32 = 128;

#[derive(Debug)]
pub struct ImapAccount<D: Device> {
    pub(super) store: Store<D>,
    pub(super) account: AccountId,
    pub(super) selected: Option<MailboxId>,
    pub(super) incoming: Option<Incoming<D>>,
    /// What the client has sorted into Junk or out of it, for the session to learn from.
    pub(super) sorted: Vec<Sorted>,
    /// What IDLE has looked at: everything up to here.
    watched: Cell<Modseq>,
    /// How the quarantine is called, where it is shown at all.
    pub(super) quarantine: Option<String>,
    /// Whose scanners look at what is appended; `None`: nobody's.
    pub(super) scanning: Option<Rc<Shard>>,
}

/// The connection is of no use any more.
#[derive(Debug)]
pub(super) struct Broken;

impl From<std::io::Error> for Broken {
    fn from(_: std::io::Error) -> Broken {
        Broken
    }
}

impl<D: Device> ImapAccount<D> {
    #[must_use]
    pub fn new(store: Store<D>, account: AccountId) -> ImapAccount<D> {
        let watched = Cell::new(Modseq::default());
        ImapAccount {
            store,
            account,
            selected: None,
            incoming: None,
            sorted: Vec::new(),
            watched,
            quarantine: None,
            scanning: None,
        }
    }

    /// As a session of this core: with what its configuration says of the quarantine and of
    /// what is appended.
    #[must_use]
    pub fn of(self, shard: &Rc<Shard>) -> ImapAccount<D> {
        let shown = shard.config.quarantine.shown_as();
        let scanning = shard.config.scan.append.then(|| Rc::clone(shard));
        ImapAccount { scanning, ..self.showing(shown) }
    }

    /// With the quarantine under this name, read-only, where no mailbox of the user has that name.
    #[must_use]
    pub fn showing(mut self, quarantine: Option<&str>) -> ImapAccount<D> {
        self.quarantine = quarantine.map(str::to_owned);
        self
    }

    #[must_use]
    pub fn id(&self) -> AccountId {
        self.account
    }

    /// What was sorted by the command before.
    pub fn take_sorted(&mut self) -> Vec<Sorted> {
        std::mem::take(&mut self.sorted)
    }

    /// Whether a message is on its way in.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        self.incoming.is_some()
    }

    pub async fn answer(
        &mut self,
        machine: &mut Imap,
        event: Event<'_>,
        wire: &mut Wire<'_>,
    ) -> Next {
        match self.try_answer(machine, event, wire).await {
            Ok(()) => Next::Continue,
            Err(Broken) => Next::Close,
        }
    }

    async fn try_answer(
        &mut self,
        machine: &mut Imap,
        event: Event<'_>,
        wire: &mut Wire<'_>,
    ) -> Result<(), Broken> {
        match event {
            // A second login is not legal; the session around takes the first.
            Event::Login { ticket, .. }
            | Event::Verified { ticket, .. }
            | Event::LoginFailed { ticket } => {
                machine.answer_login(ticket, LoginAnswer::Unavailable, wire.outbox);
            }
            Event::ScramKeys { .. } => {
                machine.bye("That was out of order", wire.outbox);
            }
            Event::Select { mailbox, read_only, ticket } => {
                let selected = self.select(mailbox.as_str(), read_only).await;
                machine.answer_select(ticket, selected, wire.outbox);
            }
            Event::Create { mailbox, special_use, ticket } => {
                let done = self.create(mailbox.as_str(), special_use).await;
                self.settle(machine, ticket, done, wire);
            }
            Event::Delete { mailbox, ticket } => {
                let done = self.delete(machine, &mailbox).await;
                self.settle(machine, ticket, done, wire);
            }
            Event::Rename { from, to, ticket } => {
                let done = self.rename(from.as_str(), to.as_str()).await;
                self.settle(machine, ticket, done, wire);
            }
            Event::Subscribe { mailbox, subscribe, ticket } => {
                let done = self.subscribe(mailbox.as_str(), subscribe).await;
                self.settle(machine, ticket, done, wire);
            }
            Event::List { list, ticket } => {
                let done = self.list(machine, &list, wire).await?;
                self.settle(machine, ticket, done, wire);
            }
            Event::Status { mailbox, items, ticket } => {
                let done = self.status(machine, mailbox.as_str(), &items, wire);
                self.settle(machine, ticket, done, wire);
            }
            Event::GetQuota { ticket } => {
                let done = self.quota(wire);
                self.settle(machine, ticket, done, wire);
            }
            Event::GetQuotaRoot { mailbox, ticket } => {
                let done = self.quota_root(mailbox.as_str(), wire);
                self.settle(machine, ticket, done, wire);
            }
            Event::AppendStart { mailbox, append, bytes, ticket } => {
                let admitted = self.append_start(mailbox.as_str(), append, bytes);
                machine.answer_append(ticket, admitted, wire.outbox);
            }
            Event::AppendPiece(piece) => self.append_piece(piece).await,
            Event::AppendEnd { ticket } => {
                // In a box of its own, which a session needs no room for while it waits.
                let done = Box::pin(self.append_end()).await;
                self.settle(machine, ticket, done, wire);
            }
            Event::AppendAbort => self.incoming = None,
            Event::Sync { ticket } => self.settle(machine, ticket, Completion::DONE, wire),
            Event::IdleStart => self.idle(machine, wire),
            Event::Close { expunge, ticket } => {
                let done = self.close(machine, expunge).await;
                machine.answer(ticket, &done, wire.outbox);
            }
            Event::Expunge { targets, ticket } => {
                let done = self.expunge(machine, &targets).await;
                self.settle(machine, ticket, done, wire);
            }
            Event::Search { search, by_uid, ticket } => {
                let done = self.search(machine, &search, by_uid, wire).await;
                self.settle(machine, ticket, done, wire);
            }
            Event::Fetch { targets, items, by_uid, sets_seen, ticket } => {
                let done = self.fetch(machine, &targets, &items, by_uid, sets_seen, wire).await?;
                self.settle(machine, ticket, done, wire);
            }
            Event::Store { targets, store, by_uid, ticket } => {
                let done = self.store_flags(machine, &targets, &store, by_uid, wire).await?;
                self.settle(machine, ticket, done, wire);
            }
            Event::Copy { targets, to, ticket } => {
                let done = self.copy(machine, &targets, to.as_str()).await;
                self.settle(machine, ticket, done, wire);
            }
            Event::Move { targets, to, ticket } => {
                let done = self.move_messages(machine, &targets, to.as_str(), wire).await;
                self.settle(machine, ticket, done, wire);
            }
        }
        Ok(())
    }

    /// Ends a command at a sync point: first what happened meanwhile, then the completion.
    pub(super) fn settle(
        &mut self,
        machine: &mut Imap,
        ticket: Ticket<Completed>,
        completion: Completion,
        wire: &mut Wire<'_>,
    ) {
        self.tell_news(machine, wire);
        machine.answer(ticket, &completion, wire.outbox);
    }

    /// Tells what happened in the selected mailbox since the view's MODSEQ. A mailbox that is gone
    /// leaves the client nothing to go on with.
    pub(super) fn tell_news(&mut self, machine: &mut Imap, wire: &mut Wire<'_>) {
        let (Some(mailbox), Some(view)) = (self.selected, machine.view()) else { return };
        let news = self.news_since(mailbox, view.modseq(), view.uids(), view.read_only);
        match news {
            Ok(Some(news)) => machine.tell(&news, wire.outbox),
            Ok(None) => {}
            Err(Error::NoSuchMailbox(_) | Error::NoSuchAccount(_)) => {
                machine.bye("The mailbox is no more", wire.outbox);
            }
            Err(error) => {
                tracing::warn!(account = self.account.0, %error, "can't read a mailbox's changes");
            }
        }
    }

    fn news_since(
        &self,
        mailbox: MailboxId,
        since: u64,
        known: &[u32],
        read_only: bool,
    ) -> Result<Option<News>, Error> {
        let (store, account) = (&self.store, self.account);
        if store.status(account, mailbox)?.highest_modseq <= Modseq(since) {
            return Ok(None);
        }
        let changes = store.changes_since(account, mailbox, Modseq(since))?;
        let mut vanished: Vec<u32> = changes.vanished.iter().map(|uid| uid.0).collect();
        if !changes.complete {
            let present = store.uids(account, mailbox)?;
            let gone = |uid: &&u32| present.binary_search(&Uid(**uid)).is_err();
            vanished = known.iter().filter(gone).copied().collect();
        }
        let highest = known.last().copied().unwrap_or(0);
        let mut recent_from = u32::MAX;
        if changes.changed.last().is_some_and(|entry| entry.uid.0 > highest) {
            recent_from = store.recent_from(account, mailbox, !read_only)?.0;
        }
        let info = store.mailbox(account, mailbox)?;
        let changed = changes.changed.iter().map(|entry| Changed {
            uid: entry.uid.0,
            modseq: entry.modseq.0,
            flags: FlagBits(entry.flags.0),
        });
        Ok(Some(News {
            changed: changed.collect(),
            vanished,
            keywords_open: info.keywords.len() < Flags::KEYWORDS_MAX,
            keywords: info.keywords,
            recent_from,
            modseq: changes.highest_modseq.0,
        }))
    }

    // ── IDLE ────────────────────────────────────────────────────────────────────────────────────

    fn idle(&mut self, machine: &mut Imap, wire: &mut Wire<'_>) {
        self.note_watched();
        self.tell_news(machine, wire);
    }

    fn note_watched(&self) {
        if let Ok(modseq) = self.store.highest_modseq(self.account) {
            self.watched.set(modseq);
        }
    }

    /// Resolves when something in the account changed that IDLE has not looked at.
    pub async fn news(&self) {
        self.store.changed(self.account, self.watched.get()).await;
    }

    pub fn tell(&mut self, machine: &mut Imap, wire: &mut Wire<'_>) -> Next {
        if self.store.usage(self.account).is_err() {
            machine.bye("The account is no more", wire.outbox);
        }
        self.note_watched();
        self.tell_news(machine, wire);
        if machine.is_over() { Next::Close } else { Next::Continue }
    }

    // ── shared by the commands ──────────────────────────────────────────────────────────────────

    /// The selected mailbox, which the machine has made sure of.
    pub(super) fn here(&self) -> Result<MailboxId, Completion> {
        self.selected.ok_or(Completion::No(Some(Code::NonExistent), "No mailbox is selected"))
    }

    /// The quarantine, where it is shown and there is one.
    pub(super) fn shown_quarantine(&self) -> Option<MailboxInfo> {
        let name = self.quarantine.clone()?;
        let info = self.store.quarantine(self.account).ok()??;
        // Nobody changes anything in it but by releasing and deleting.
        Some(MailboxInfo { name, read_only: true, ..info })
    }

    /// The mailbox of that name: a user's own goes first.
    pub(super) fn named(&self, name: &str) -> Result<MailboxInfo, Error> {
        let found = self.store.mailbox_named(self.account, name);
        match (found, &self.quarantine) {
            (Err(Error::NoSuchMailboxName(gone)), Some(shown)) if *shown == gone => {
                self.shown_quarantine().ok_or(Error::NoSuchMailboxName(gone))
            }
            (found, _) => found,
        }
    }

    /// Whether the name, or the topmost level of it, is taken for the quarantine, be it that
    /// there is none yet.
    pub(super) fn is_reserved(&self, name: &str) -> bool {
        let top = name.split('/').next().unwrap_or_default();
        self.quarantine.as_deref() == Some(top)
            && matches!(
                self.store.mailbox_named(self.account, top),
                Err(Error::NoSuchMailboxName(_))
            )
    }

    /// The mailbox that messages are copied from: mail gets out of quarantine by
    /// being released alone.
    pub(super) fn source(&self) -> Result<MailboxId, Completion> {
        let here = self.here()?;
        if self.shown_quarantine().is_some_and(|info| info.id == here) {
            let text = "It is in quarantine: release it by the link that you were sent, or ask your postmaster";
            return Err(Completion::No(Some(Code::NoPermission), text));
        }
        Ok(here)
    }

    /// The mailbox that messages are to go to.
    pub(super) fn destination(&self, name: &str) -> Result<MailboxId, Completion> {
        match self.named(name) {
            Ok(info) if info.read_only && self.quarantine.as_ref() == Some(&info.name) => {
                let text = "Nothing can be put into quarantine";
                Err(Completion::No(Some(Code::NoPermission), text))
            }
            Ok(info) if info.read_only => Err(refusal(&Error::ReadOnly(info.name))),
            Ok(info) => Ok(info.id),
            Err(Error::NoSuchMailboxName(_) | Error::NoSuchMailbox(_)) => {
                Err(Completion::No(Some(Code::TryCreate), "There is no such mailbox; create it"))
            }
            Err(error) => Err(refusal(&error)),
        }
    }
}

/// Lets the other tasks of the core run now and then; `count` is kept by the caller.
pub(super) async fn breathe(count: &mut u32) {
    breathe_after(count, 1).await;
}

/// The same after what took as long as `messages`.
pub(super) async fn breathe_after(count: &mut u32, messages: u32) {
    *count = count.saturating_add(messages);
    if *count >= MESSAGES_BETWEEN_BREATHS {
        *count = 0;
        crate::core::give_way().await;
    }
}

/// What an error of the store means to a client. RFC 5530.
pub(super) fn refusal(error: &Error) -> Completion {
    let no = |code, text| Completion::No(Some(code), text);
    match error {
        Error::NoSuchAccount(_) => no(Code::Unavailable, "The account is no more"),
        Error::NoSuchMailbox(_) | Error::NoSuchMailboxName(_) => {
            no(Code::NonExistent, "There is no such mailbox")
        }
        Error::MailboxExists(_) => no(Code::AlreadyExists, "There is such a mailbox already"),
        Error::ReadOnly(_) => no(Code::NoPermission, "The mailbox shows the past; it is read-only"),
        Error::MailboxName(..) => no(Code::Cannot, "No mailbox can have that name"),
        Error::NoSuchMessage(_) => no(Code::ExpungeIssued, "Some messages are gone"),
        Error::OverQuota => no(Code::OverQuota, "The quota is used up"),
        Error::Limit(_) => no(Code::Limit, "A limit has been reached"),
        Error::Corrupt { .. } | Error::Read { .. } => {
            tracing::error!(%error, "a message can't be read");
            no(Code::Corruption, "A message can't be read")
        }
        Error::Busy => no(Code::Unavailable, "Try again later"),
        // No OVERQUOTA (RFC 9208 section 4.3.1), which is about the user's own limits.
        Error::Full(_) => no(
            Code::Unavailable,
            "The server's disk is full; what is expunged makes room, try again later",
        ),
        other => {
            tracing::error!(error = %other, "the store failed an IMAP command");
            no(Code::Unavailable, "The store is not available")
        }
    }
}
