//! All that a store shows, read through its public functions alone.
//!
//! Invariant: an observation is taken in one go as far as the index is concerned (nothing else of
//! the store runs between two looks), so it shows one state. Bodies are read only where asked,
//! since each takes a device operation.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use storage::device::Device;
use storage::store::{Buried, Undelete};
use storage::{
    AccountId, Changes, Error, Flags, MailboxId, MailboxInfo, MailboxStatus, MessageEntry, Modseq,
    Space, Store, Uid, UnixMillis, Usage, VerifyReport,
};

/// A message's number is hidden in its internal date, so that the index alone tells it.
const DATE_OF_NUMBER_ZERO: u64 = 1_600_000_000_000;

#[must_use]
pub fn date_of(number: u32) -> UnixMillis {
    UnixMillis(DATE_OF_NUMBER_ZERO + u64::from(number))
}

#[must_use]
pub fn summary_of(number: u32) -> Vec<u8> {
    format!("summary of {number}").into_bytes()
}

#[derive(Debug, Clone)]
pub struct SeenMessage {
    pub entry: MessageEntry,
    /// The letter's, by the internal date.
    pub number: u32,
    pub flags: Flags,
    pub keywords: BTreeSet<String>,
    /// The whole message and its summary, or why they cannot be read. `None`: not asked.
    pub content: Option<Result<(Bytes, Bytes), Error>>,
}

#[derive(Debug, Clone)]
pub struct SeenMailbox {
    pub info: MailboxInfo,
    pub status: MailboxStatus,
    pub messages: BTreeMap<Uid, SeenMessage>,
}

#[derive(Debug, Clone)]
pub struct SeenBuried {
    pub flags: Flags,
    pub keywords: BTreeSet<String>,
    /// `None`: not asked.
    pub content: Option<Result<Bytes, Error>>,
}

#[derive(Debug, Clone)]
pub struct SeenAccount {
    pub usage: Usage,
    pub highest_modseq: Modseq,
    pub mailboxes: BTreeMap<String, SeenMailbox>,
    pub subscriptions: BTreeSet<String>,
    /// What was expunged from INBOX and can be brought back.
    pub buried: BTreeMap<Uid, SeenBuried>,
    pub held: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Observation {
    pub accounts: BTreeMap<AccountId, SeenAccount>,
    pub pairs: BTreeMap<(u8, Bytes), Bytes>,
    pub messages: u64,
    pub live_bytes: u64,
    /// Records that referred to nothing: never without rot.
    pub orphans: u64,
    /// What happened since the previous observation, for each mailbox that was there then.
    pub changes: BTreeMap<(AccountId, MailboxId), Changes>,
    pub verified: Option<VerifyReport>,
    /// What opening found wrong, and had to do without.
    pub setbacks: Vec<String>,
    /// When, for how long what goes is remembered, and whether a full disk may cut that short.
    pub now: UnixMillis,
    pub retention_millis: u64,
    pub tight: bool,
}

/// Which spaces the workload uses.
pub const SPACES: [Space; 2] = [Space(1), Space(200)];

/// Looks at everything in the index. `before`: highest MODSEQ of each mailbox at the last look.
pub fn look<D: Device>(
    store: &Store<D>,
    before: &BTreeMap<(AccountId, MailboxId), Modseq>,
) -> Result<Observation, Error> {
    let stats = store.stats();
    let mut seen = Observation {
        messages: stats.messages,
        live_bytes: stats.live_bytes,
        orphans: stats.orphans,
        now: store.device().now(),
        ..Observation::default()
    };
    for account in store.accounts() {
        seen.accounts.insert(account, look_at_account(store, account)?);
    }
    for space in SPACES {
        for (key, value) in store.scan(space) {
            seen.pairs.insert((space.0, key), value);
        }
    }
    for ((account, mailbox), since) in before {
        if let Ok(changes) = store.changes_since(*account, *mailbox, *since) {
            seen.changes.insert((*account, *mailbox), changes);
        }
    }
    Ok(seen)
}

/// As [`look`], and reads every message and verifies the store.
pub async fn look_and_read<D: Device>(
    store: &Store<D>,
    before: &BTreeMap<(AccountId, MailboxId), Modseq>,
) -> Result<Observation, Error> {
    let mut seen = look(store, before)?;
    for (account, seen_account) in &mut seen.accounts {
        for mailbox in seen_account.mailboxes.values_mut() {
            let id = mailbox.info.id;
            for (uid, message) in &mut mailbox.messages {
                message.content = Some(read(store, *account, id, *uid).await);
            }
        }
    }
    for (account, seen_account) in &mut seen.accounts {
        for (uid, buried) in &mut seen_account.buried {
            let bytes = store.read_buried(*account, MailboxId::INBOX, *uid, 0..u64::MAX).await;
            buried.content = Some(bytes);
        }
    }
    seen.verified = Some(store.verify().await?);
    let recovery = store.recovery();
    seen.setbacks = recovery.setbacks.iter().chain(&recovery.damage).cloned().collect();
    if recovery.lost_records > 0 {
        seen.setbacks.push(format!("{} records are lost", recovery.lost_records));
    }
    Ok(seen)
}

async fn read<D: Device>(
    store: &Store<D>,
    account: AccountId,
    mailbox: MailboxId,
    uid: Uid,
) -> Result<(Bytes, Bytes), Error> {
    let bytes = store.read(account, mailbox, uid, 0..u64::MAX).await?;
    Ok((bytes, store.summary(account, mailbox, uid).await?))
}

fn look_at_account<D: Device>(store: &Store<D>, account: AccountId) -> Result<SeenAccount, Error> {
    let mut mailboxes = BTreeMap::new();
    for info in store.mailboxes(account)? {
        let status = store.status(account, info.id)?;
        let entries = store.entries(account, info.id, 0..=u32::MAX)?;
        let messages = entries.into_iter().map(|entry| (entry.uid, seen_message(&info, entry)));
        let messages = messages.collect();
        mailboxes.insert(info.name.clone(), SeenMailbox { info, status, messages });
    }
    let wanted = Undelete { since: UnixMillis(0), mailbox: Some("INBOX".to_owned()), uids: None };
    let (buried, _) = store.buried(account, &wanted, 100_000)?;
    Ok(SeenAccount {
        held: store.is_held(account),
        buried: buried.into_iter().map(|buried| (buried.uid, seen_buried(buried))).collect(),
        usage: store.usage(account)?,
        highest_modseq: store.highest_modseq(account)?,
        mailboxes,
        subscriptions: store.subscriptions(account)?.into_iter().collect(),
    })
}

fn seen_buried(buried: Buried) -> SeenBuried {
    let keywords = buried.keywords.into_iter().collect();
    SeenBuried { flags: buried.flags, keywords, content: None }
}

fn seen_message(info: &MailboxInfo, entry: MessageEntry) -> SeenMessage {
    let number = entry.internal_date.0.saturating_sub(DATE_OF_NUMBER_ZERO);
    let set = |(bit, _): &(usize, &String)| entry.flags.contains(Flags(1 << (8 + bit)));
    let keywords = info.keywords.iter().enumerate().filter(set);
    SeenMessage {
        entry,
        number: u32::try_from(number).unwrap_or(u32::MAX),
        flags: Flags(entry.flags.0 & 0xFF),
        keywords: keywords.map(|(_, name)| name.clone()).collect(),
        content: None,
    }
}
