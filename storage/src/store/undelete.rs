//! What has gone and is remembered: listing it, reading it, bringing it back, and
//! keeping it for good.

use super::change::reserve;
use super::history::{PastAccount, PastMailbox, PastMessage};
use super::{Store, account_in};
use crate::device::Device;
use crate::durable::Durable;
use crate::error::Error;
use crate::format::{NewMailbox, Record, UidRange, Undeleted};
use crate::index::{Account, Grave, Graveyard, Index};
use crate::types::{AccountId, Flags, MailboxId, Uid, UnixMillis};
use bytes::Bytes;
use std::ops::Range;

/// Brought back by one record.
const MESSAGES_AT_ONCE: usize = 4096;

/// A message that has gone and can be brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buried {
    pub mailbox: MailboxId,
    /// What the mailbox is called now, or was when it went.
    pub mailbox_name: String,
    pub uid: Uid,
    pub gone: UnixMillis,
    /// System flags.
    pub flags: Flags,
    pub keywords: Vec<String>,
    pub internal_date: UnixMillis,
    pub bytes: u32,
}

/// Which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undelete {
    /// Those that have gone at this time or later.
    pub since: UnixMillis,
    /// Of this mailbox alone.
    pub mailbox: Option<String>,
    /// These UIDs alone.
    pub uids: Option<Vec<UidRange>>,
}

impl Undelete {
    fn wants(&self, grave: &Grave) -> bool {
        let uids = self.uids.as_ref();
        !grave.is_elsewhere
            && grave.gone >= self.since
            && uids.is_none_or(|runs| runs.iter().any(|run| run.contains(grave.row.uid)))
    }
}

impl<D: Device> Store<D> {
    /// What can be brought back: the latest `most`, by time ascending, and how many there are in
    /// all. Also of an account that was removed.
    pub fn buried(
        &self,
        account: AccountId,
        wanted: &Undelete,
        most: usize,
    ) -> Result<(Vec<Buried>, u64), Error> {
        let index = self.core.index.borrow();
        let mut found = Vec::new();
        let mut all = 0;
        for (mailbox, name, graveyard) in graveyards(&index, account, wanted)? {
            for grave in graveyard.graves().filter(|grave| wanted.wants(grave)) {
                all += 1;
                found.push((grave.gone, mailbox, grave.row.uid, name));
                // The oldest make room for the rest.
                if found.len() >= 2 * most.max(1) {
                    found.sort_unstable();
                    found.drain(..found.len() - most);
                }
            }
        }
        found.sort_unstable();
        found.drain(..found.len().saturating_sub(most));
        let buried = found.into_iter().filter_map(|(gone, mailbox, uid, name)| {
            let graveyard = index.past.graveyard(account, mailbox)?;
            let row = graveyard.get(uid)?.row;
            Some(Buried {
                mailbox,
                mailbox_name: name.to_owned(),
                uid,
                gone,
                flags: Flags(row.flags.0 & 0xFF),
                keywords: graveyard.keyword_names(&row),
                internal_date: row.internal_date,
                bytes: row.bytes,
            })
        });
        Ok((buried.collect(), all))
    }

    /// All of it, as an account of which there is nothing else. Also of an account that was
    /// removed. A mailbox goes under its number in the place of the UIDVALIDITY, which is
    /// not known any more.
    pub fn buried_account(
        &self,
        account: AccountId,
        wanted: &Undelete,
    ) -> Result<PastAccount, Error> {
        let index = self.core.index.borrow();
        let mailboxes =
            graveyards(&index, account, wanted)?.into_iter().map(|(id, name, graveyard)| {
                let wanted = graveyard.graves().filter(|grave| wanted.wants(grave));
                PastMailbox {
                    id,
                    name: name.to_owned(),
                    uid_validity: id.0,
                    special_use: graveyard.special_use,
                    keywords: graveyard.keywords.clone(),
                    messages: wanted.map(|grave| PastMessage::of(&grave.row)).collect(),
                }
            });
        let mailboxes = mailboxes.filter(|mailbox| !mailbox.messages.is_empty()).collect();
        Ok(PastAccount { account, mailboxes, records_lost: 0 })
    }

    /// The summary of a message that has gone.
    pub async fn buried_summary(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<Bytes, Error> {
        let _reading = self.core.reading();
        let row = self.core.index.borrow().row_or_grave(account, mailbox, uid);
        self.summary_of(&row.ok_or(Error::NoSuchMessage(uid))?).await
    }

    /// Bytes of a message that is there or has gone.
    pub async fn read_buried(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
        range: Range<u64>,
    ) -> Result<Bytes, Error> {
        let _reading = self.core.reading();
        let row = self.core.index.borrow().row_or_grave(account, mailbox, uid);
        self.read_row(&row.ok_or(Error::NoSuchMessage(uid))?, range).await
    }

    /// Brings messages back into the mailboxes that they were in, which are made anew if they are
    /// gone, with new UIDs and without \Deleted. For each mailbox its name and how many came back.
    /// A message that is back is no more among those that have gone, so doing it twice does nothing
    /// more. Each part of at most 4096 messages comes back whole or not at all.
    pub async fn undelete(
        &self,
        account: AccountId,
        wanted: &Undelete,
        over_quota: bool,
    ) -> Result<(Vec<(String, u64)>, Durable), Error> {
        let mailboxes: Vec<MailboxId> = {
            let index = self.core.index.borrow();
            let found = account_in(&index, account)?;
            let (mut messages, mut bytes) = (0, 0);
            let mut mailboxes = Vec::new();
            for (mailbox, _, graveyard) in graveyards(&index, account, wanted)? {
                for grave in graveyard.graves().filter(|grave| wanted.wants(grave)) {
                    messages += 1;
                    bytes += u64::from(grave.row.bytes);
                }
                mailboxes.push(mailbox);
            }
            if !over_quota {
                self.core.reservations.check(account, &found.usage(), messages, bytes)?;
            }
            mailboxes
        };
        let mut back = Vec::new();
        let mut last = None;
        for mailbox in mailboxes {
            let (mut messages, mut name) = (0, String::new());
            loop {
                let (part, durable) =
                    self.undelete_part(account, mailbox, wanted, over_quota).await?;
                let Some((target, count)) = part else { break };
                (name, messages, last) = (target, messages + count, durable);
            }
            if messages > 0 {
                back.push((name, messages));
            }
        }
        Ok((back, last.unwrap_or_else(|| self.durable_so_far())))
    }

    /// The target's name and how many; `None`: there is no more.
    async fn undelete_part(
        &self,
        account: AccountId,
        from: MailboxId,
        wanted: &Undelete,
        over_quota: bool,
    ) -> Result<(Option<(String, u64)>, Option<Durable>), Error> {
        let reservations = self.core.reservations.clone();
        let seconds = self.now_seconds();
        let plan = |index: &mut Index| {
            let Some(graveyard) = index.past.graveyard(account, from) else {
                return Ok((None, None));
            };
            let graves = graveyard.graves().filter(|grave| wanted.wants(grave));
            let graves: Vec<Grave> = graves.take(MESSAGES_AT_ONCE).collect();
            if graves.is_empty() {
                return Ok((None, None));
            }
            let found = account_in(index, account)?;
            let bytes = graves.iter().map(|grave| u64::from(grave.row.bytes)).sum();
            let messages = graves.len() as u64;
            if !over_quota {
                reservations.check(account, &found.usage(), messages, bytes)?;
            }
            let (to, created) = target(found, from, graveyard, seconds)?;
            let known = found.mailbox(to).map(|mailbox| mailbox.name.clone());
            let name = known.or_else(|| created.last().map(|new| new.name.clone()));
            let first_uid = if created.is_empty() {
                reserve(index, account, to, graves.len())?
            } else {
                Uid(1)
            };
            let uids = UidRange::runs(graves.iter().map(|grave| grave.row.uid));
            let undeleted = Undeleted { account, created, from, to, first_uid, uids };
            let done = (name.unwrap_or_default(), messages);
            Ok((Some(Record::Undeleted(undeleted)), Some(done)))
        };
        self.change(account, plan).await
    }

    /// While an account is on hold, nothing that goes from it is forgotten, be it removed
    /// itself. It may be set for an account that has been removed, as long as something of
    /// it is remembered.
    pub async fn set_hold(&self, account: AccountId, held: bool) -> Result<Durable, Error> {
        let plan = |index: &mut Index| {
            let is_known = index.account(account).is_some()
                || index.past.graves.contains_key(&account)
                || index.past.held.contains(&account);
            if !is_known {
                return Err(Error::NoSuchAccount(account));
            }
            let is_new = index.past.held.contains(&account) != held;
            Ok((is_new.then_some(Record::HoldSet { account, held }), ()))
        };
        let ((), durable) = self.change(account, plan).await?;
        self.core.expiry.ring();
        Ok(durable.unwrap_or_else(|| self.durable_so_far()))
    }

    /// All that are on hold, be they there or removed.
    #[must_use]
    pub fn held_accounts(&self) -> Vec<AccountId> {
        self.core.index.borrow().past.held.iter().copied().collect()
    }

    #[must_use]
    pub fn is_held(&self, account: AccountId) -> bool {
        self.core.index.borrow().past.held.contains(&account)
    }
}

/// Of the mailboxes that are wanted, with the names that they have now.
fn graveyards<'i>(
    index: &'i Index,
    account: AccountId,
    wanted: &Undelete,
) -> Result<Vec<(MailboxId, &'i str, &'i Graveyard)>, Error> {
    let found = index.account(account);
    let graves = index.past.graves.get(&account);
    if found.is_none() && graves.is_none() {
        return Err(Error::NoSuchAccount(account));
    }
    let named = graves.into_iter().flat_map(|graves| graves.iter()).map(|(id, graveyard)| {
        let mailbox = found.and_then(|account| account.mailbox(*id));
        let name = mailbox.map_or(&graveyard.name, |mailbox| &mailbox.name);
        (*id, name.as_str(), &**graveyard)
    });
    let is_wanted = |name: &str| wanted.mailbox.as_ref().is_none_or(|wanted| wanted == name);
    let chosen: Vec<_> = named.filter(|(_, name, _)| is_wanted(name)).collect();
    match &wanted.mailbox {
        Some(name) if chosen.is_empty() && found.is_none_or(|one| one.named(name).is_none()) => {
            Err(Error::NoSuchMailboxName(name.clone()))
        }
        _ => Ok(chosen),
    }
}

/// Where messages of a mailbox go back to: itself, one that has its name now, or one made for them.
fn target(
    account: &Account,
    from: MailboxId,
    graveyard: &Graveyard,
    seconds: u32,
) -> Result<(MailboxId, Vec<NewMailbox>), Error> {
    let there = account.mailbox(from).or_else(|| account.named(&graveyard.name));
    if let Some(there) = there {
        if there.read_only {
            return Err(Error::ReadOnly(there.name.clone()));
        }
        return Ok((there.id, Vec::new()));
    }
    let mut created = account.missing_levels(&graveyard.name, seconds);
    super::mailboxes::check_count(account, created.len())?;
    let last = created.last_mut().expect("the name itself is missing");
    let is_taken = |mailbox: &crate::index::Mailbox| mailbox.special_use == graveyard.special_use;
    if !account.mailboxes.values().any(|mailbox| is_taken(mailbox)) {
        last.special_use = graveyard.special_use;
    }
    Ok((last.id, created))
}
