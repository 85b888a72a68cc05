//! Messages changed: copies, moves, flags, expunges.

use super::deliver::check_keywords;
use super::keys::{Space, checked_beside};
use super::{Store, account_in};
use crate::device::Device;
use crate::durable::Durable;
use crate::error::Error;
use crate::format::{Record, UidRange};
use crate::index::apply::{RECORD_UIDS_MAX, changed_flags};
use crate::index::mailbox::entry;
use crate::index::{Account, Index, Mailbox};
use crate::locks::Access;
use crate::types::{AccountId, FlagChange, FlagMode, Flags, MailboxId, MessageEntry, Modseq, Uid};
use bytes::Bytes;
use std::rc::Rc;

#[derive(Debug)]
pub struct FlagsChanged {
    pub changed: Vec<MessageEntry>,
    pub refused: Vec<Uid>,
    /// `None` when nothing had to change.
    pub durable: Option<Durable>,
}

/// Pairs of source and destination UID, and the receipt.
type Copied = (Vec<(Uid, Uid)>, Durable);
/// Keys, each with its value; `None`: it is deleted.
type Notes = Vec<(Bytes, Option<Bytes>)>;
/// What is set for a message that was here and will be there.
type Noting<'n> = &'n dyn Fn(Uid, Uid) -> Notes;

impl<D: Device> Store<D> {
    /// All or nothing. Pairs of source and destination UID, ascending. UIDs that are gone are
    /// skipped; when all are, nothing is logged.
    pub async fn copy(
        &self,
        account: AccountId,
        from: MailboxId,
        uids: &[Uid],
        to: MailboxId,
    ) -> Result<Copied, Error> {
        self.copy_or_move(account, from, uids, to, false, None).await
    }

    pub async fn move_messages(
        &self,
        account: AccountId,
        from: MailboxId,
        uids: &[Uid],
        to: MailboxId,
    ) -> Result<Copied, Error> {
        self.copy_or_move(account, from, uids, to, true, None).await
    }

    /// The same, and in the same record, hence atomically with it, keys of a space: what `note`
    /// says of each message that is moved, by the UID that it had and the one that it gets. Without
    /// a message that is still there, nothing is set. It is called while the index is being looked
    /// at: it must not ask the store.
    pub async fn move_and_put(
        &self,
        account: AccountId,
        from: MailboxId,
        uids: &[Uid],
        to: MailboxId,
        (space, note): (Space, Noting<'_>),
    ) -> Result<Copied, Error> {
        self.copy_or_move(account, from, uids, to, true, Some((space, note))).await
    }

    async fn copy_or_move(
        &self,
        account: AccountId,
        from: MailboxId,
        uids: &[Uid],
        to: MailboxId,
        moved: bool,
        noting: Option<(Space, Noting<'_>)>,
    ) -> Result<Copied, Error> {
        let reservations = self.core.reservations.clone();
        let plan = |index: &mut Index| {
            let found = account_in(index, account)?;
            let source = mailbox_in(found, from)?;
            writable(found, to)?;
            let source = if moved { writable(found, from)? } else { source };
            let present = present(source, uids);
            if present.is_empty() {
                return Ok((None, Vec::new()));
            }
            if present.len() > RECORD_UIDS_MAX as usize {
                return Err(Error::Limit(
                    "copying a million messages at once; use several commands",
                ));
            }
            if !moved {
                let bytes = bytes_of(source, &present);
                reservations.check(account, &found.usage(), present.len() as u64, bytes)?;
            }
            let first_uid = reserve(index, account, to, present.len())?;
            let uids = UidRange::runs(present.iter().copied());
            let pairs: Vec<_> = present.into_iter().zip((first_uid.0..).map(Uid)).collect();
            let put = match &noting {
                Some((space, note)) => {
                    let notes = pairs.iter().flat_map(|(was, is)| note(*was, *is)).collect();
                    let notes = checked_beside(notes)?;
                    (!notes.is_empty()).then_some((space.0, notes))
                }
                None => None,
            };
            let record = Record::Copied { account, from, to, moved, first_uid, uids, put };
            Ok((Some(record), pairs))
        };
        let (pairs, durable) = self.change(account, plan).await?;
        Ok((pairs, durable.unwrap_or_else(|| self.durable_so_far())))
    }

    /// Changes messages whose MODSEQ is at most `unchanged_since` (`None`: all); returns the
    /// changed entries and the UIDs that were left alone because they changed since (RFC 7162
    /// UNCHANGEDSINCE).
    pub async fn change_flags(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uids: &[Uid],
        change: &FlagChange,
        unchanged_since: Option<Modseq>,
    ) -> Result<FlagsChanged, Error> {
        check_keywords(&change.keywords)?;
        let mut total = FlagsChanged { changed: Vec::new(), refused: Vec::new(), durable: None };
        for part in uids.chunks(self.uids_per_record()) {
            let plan = |index: &mut Index| {
                let found = writable(account_in(index, account)?, mailbox)?;
                check_table(found, change)?;
                let (affected, refused) = affected(found, part, change, unchanged_since);
                let record = (!affected.is_empty()).then(|| Record::FlagsChanged {
                    account,
                    mailbox,
                    mode: change.mode,
                    flags: Flags(change.flags.0 & 0xFF),
                    keywords: change.keywords.clone(),
                    uids: UidRange::runs(affected.iter().copied()),
                });
                Ok((record, (affected, refused)))
            };
            let ((affected, refused), durable) = self.change(account, plan).await?;
            total.refused.extend(refused);
            total.durable = durable.or(total.durable);
            // Someone may have expunged or deleted in the meantime: then there is nothing to tell.
            let entries = self.with_mailbox(account, mailbox, |mailbox| {
                Ok(affected
                    .iter()
                    .filter_map(|uid| mailbox.rows.get(*uid))
                    .map(|r| entry(&r))
                    .collect())
            });
            total.changed.extend(entries.unwrap_or_else(|_| Vec::new()));
        }
        Ok(total)
    }

    /// Removes exactly these UIDs (the caller has picked those that are \Deleted).
    pub async fn expunge(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uids: &[Uid],
    ) -> Result<(Vec<Uid>, Durable), Error> {
        let (mut expunged, mut last) = (Vec::new(), None);
        for part in uids.chunks(self.uids_per_record()) {
            let plan = |index: &mut Index| {
                let found = writable(account_in(index, account)?, mailbox)?;
                let gone = present(found, part);
                let uids = UidRange::runs(gone.iter().copied());
                let record = Record::Expunged { account, mailbox, uids };
                Ok(((!gone.is_empty()).then_some(record), gone))
            };
            let (gone, durable) = self.change_beside(account, Access::Expunge, plan).await?;
            expunged.extend(gone);
            last = durable.or(last);
        }
        Ok((expunged, last.unwrap_or_else(|| self.durable_so_far())))
    }

    /// For a change that had nothing to do: it is as durable as all before it.
    pub(super) fn durable_so_far(&self) -> Durable {
        Durable::new(self.core.durable.get())
    }

    /// So many single UIDs fit into one record with room to spare.
    fn uids_per_record(&self) -> usize {
        self.core.options.record_bytes_max() / 16
    }
}

fn mailbox_in(account: &Account, mailbox: MailboxId) -> Result<&Mailbox, Error> {
    account.mailbox(mailbox).ok_or(Error::NoSuchMailbox(mailbox))
}

/// What shows the past is not changed.
fn writable(account: &Account, mailbox: MailboxId) -> Result<&Mailbox, Error> {
    let mailbox = mailbox_in(account, mailbox)?;
    if mailbox.read_only { Err(Error::ReadOnly(mailbox.name.clone())) } else { Ok(mailbox) }
}

/// Those that are there, ascending, each once.
fn present(mailbox: &Mailbox, uids: &[Uid]) -> Vec<Uid> {
    let mut present: Vec<Uid> =
        uids.iter().copied().filter(|uid| mailbox.rows.get(*uid).is_some()).collect();
    present.sort_unstable();
    present.dedup();
    present
}

fn bytes_of(mailbox: &Mailbox, uids: &[Uid]) -> u64 {
    uids.iter().filter_map(|uid| mailbox.rows.get(*uid)).map(|row| u64::from(row.bytes)).sum()
}

pub(super) fn reserve(
    index: &mut Index,
    account: AccountId,
    to: MailboxId,
    count: usize,
) -> Result<Uid, Error> {
    let count = u32::try_from(count).map_err(|_| Error::Limit("messages in one command"))?;
    let account = index.accounts.get_mut(&account).map(Rc::make_mut);
    account
        .and_then(|account| account.mailbox_mut(to))
        .ok_or(Error::NoSuchMailbox(to))?
        .reserve_uids(count)
        .ok_or(Error::Limit("all UIDs of the mailbox are used up"))
}

/// New keywords must fit into the mailbox's table.
fn check_table(mailbox: &Mailbox, change: &FlagChange) -> Result<(), Error> {
    let is_new = |keyword: &&String| {
        !mailbox.keywords.iter().any(|known| known.eq_ignore_ascii_case(keyword))
    };
    let new = change.keywords.iter().filter(is_new).count();
    if change.mode != FlagMode::Remove && mailbox.keywords.len() + new > Flags::KEYWORDS_MAX {
        return Err(Error::Limit("56 keywords in a mailbox"));
    }
    Ok(())
}

/// Which messages will change, and which may not because somebody else changed them.
fn affected(
    mailbox: &Mailbox,
    uids: &[Uid],
    change: &FlagChange,
    unchanged_since: Option<Modseq>,
) -> (Vec<Uid>, Vec<Uid>) {
    let (mut affected, mut refused) = (Vec::new(), Vec::new());
    let known = mailbox.known_bits(&change.keywords);
    let given = Flags(change.flags.0 & 0xFF).union(known);
    let all_known = known.0.count_ones() as usize == change.keywords.len();
    for uid in present(mailbox, uids) {
        let Some(row) = mailbox.rows.get(uid) else { continue };
        if unchanged_since.is_some_and(|since| row.modseq > since) {
            refused.push(uid);
            continue;
        }
        let adds_new = !all_known && change.mode != FlagMode::Remove;
        if adds_new || changed_flags(change.mode, row.flags, given) != row.flags {
            affected.push(uid);
        }
    }
    (affected, refused)
}
