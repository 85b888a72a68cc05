//! Tells an account what was kept back from it since it was told last: on its home shard, through
//! the normal delivery.
//!
//! Key space 11 of the home shard's log: the account's number (u32, big-endian), and in JSON the
//! UID that it was told of last ([`Told`]). A digest and this note are one record, where no script
//! of the account says otherwise; else the note follows the delivery. So a crash in between tells
//! twice, never not at all.

use super::letter::{self, Item, Letter};
use super::links::{self, Action, Link};
use super::{By, actions, kept, recalled};
use crate::core::give_way;
use crate::delivery::{self, Collected, Envelope, Failure, Intake, Judged, Stamp, To, notes};
use crate::directory::Home;
use crate::host_key;
use crate::metrics::count;
use crate::shard::Shard;
use bytes::Bytes;
use protocols::Address;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::sync::Arc;
use storage::store::Space;
use storage::{AccountId, Error, MailboxId, MessageEntry, Uid};

pub const SPACE: Space = Space(11);
/// In one digest; what is left goes into the next, at once.
const LISTED_MAX: usize = 100;
/// What a delivery puts in front of a digest, at the most.
const TRACE_BYTES: u64 = 1 << 10;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    uid: u32,
}

/// Why an account could not be told.
#[derive(Debug, thiserror::Error)]
pub enum NotTold {
    #[error(transparent)]
    Store(#[from] Error),
    #[error("{0}")]
    Other(String),
}

fn key(account: AccountId) -> Bytes {
    Bytes::copy_from_slice(&account.0.to_be_bytes())
}

fn told(shard: &Shard, account: AccountId) -> Told {
    let value = shard.store.get(SPACE, &key(account));
    // What can't be read any more: all of it is told once more.
    value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default()
}

/// On the home shard of an account that is removed.
pub async fn forget(shard: &Shard, account: AccountId) -> Result<(), Error> {
    if shard.store.get(SPACE, &key(account)).is_some() {
        let _durable = shard.store.put(SPACE, vec![(key(account), None)]).await?;
    }
    Ok(())
}

/// Tells all that the account has not been told yet, if some of it was kept back before `before`
/// (Unix seconds; `None`: in any case). How many messages that were.
pub async fn send(
    shard: &Rc<Shard>,
    address: &str,
    account: AccountId,
    before: Option<u64>,
) -> Result<usize, NotTold> {
    // An operator's word and the clock's at once would tell twice.
    let _turn = shard.digest_turn.lock().await;
    let Some(quarantine) = shard.store.quarantine(account)?.map(|info| info.id) else {
        return Ok(0);
    };
    let mut count = 0;
    loop {
        let entries = untold(shard, account, quarantine)?;
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(count) };
        if let Some(before) = before.filter(|_| count == 0) {
            let note = kept::note(shard, account, quarantine, first).await;
            // Of what can't be read nobody knows: it is told.
            if note.is_ok_and(|note| note.since / 1000 >= before) {
                return Ok(0);
            }
        }
        let items = items(shard, account, quarantine, &entries).await?;
        if items.is_empty() {
            note_told(shard, account, last.uid.0).await?;
            continue;
        }
        let message = written(shard, address, &items);
        if make_room(shard, address, account, quarantine, last.uid, message.len()).await? {
            // It may have listed what is gone.
            continue;
        }
        deliver(shard, address, account, &message, items.len(), last.uid.0).await?;
        count += items.len();
    }
}

/// The oldest messages that the account was not told of.
fn untold(
    shard: &Shard,
    account: AccountId,
    quarantine: MailboxId,
) -> Result<Vec<MessageEntry>, Error> {
    let mut first = told(shard, account).uid.saturating_add(1);
    let mut untold = Vec::new();
    while untold.len() < LISTED_MAX {
        let Some(more) = kept::some_entries(shard, account, quarantine, &mut first)? else { break };
        untold.extend(more);
    }
    untold.truncate(LISTED_MAX);
    Ok(untold)
}

async fn items(
    shard: &Rc<Shard>,
    account: AccountId,
    quarantine: MailboxId,
    entries: &[MessageEntry],
) -> Result<Vec<Item>, NotTold> {
    let config = &shard.config;
    let base = config.quarantine.links_to(&config.hostname, &config.web);
    let key = match &base {
        Some(_) => {
            let asked = shard
                .mesh
                .ask(0, |shard| async move { host_key::key(&shard, links::KEY_NAME).await })
                .await;
            Some(
                asked
                    .map_err(|error| NotTold::Other(error.to_string()))?
                    .map_err(NotTold::Other)?,
            )
        }
        None => None,
    };
    let mut items = Vec::with_capacity(entries.len());
    for entry in entries {
        let kept = match kept::look(shard, account, quarantine, entry).await {
            Ok(kept) => kept,
            // Released or deleted meanwhile.
            Err(Error::NoSuchMessage(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let since = kept.since / 1000;
        let link = |action| {
            let until = since.saturating_add(config.quarantine.keep.0.as_secs());
            let link = Link { action, account, uid: kept.uid, since, until };
            let (base, key) = (base.as_ref()?, key.as_ref()?);
            Some(format!("{base}{}{}", crate::domain::web::quarantine::PATH, link.token(key)))
        };
        let release = link(Action::Release).filter(|_| !kept.reason.is_harmful());
        items.push(Item { release, delete: link(Action::Delete), kept });
        give_way().await;
    }
    Ok(items)
}

/// Strangers can use up a quota with mail that is kept back, and its owner would not even hear of
/// it: where a digest does not fit, the oldest of that mail goes, as much as it takes, if that
/// helps and something is left to tell: what is before `last`. What had been delivered stays: no
/// stranger chose when it came here. True: something went.
async fn make_room(
    shard: &Shard,
    address: &str,
    account: AccountId,
    quarantine: MailboxId,
    last: Uid,
    bytes: usize,
) -> Result<bool, Error> {
    let usage = shard.store.usage(account)?;
    let over = |used: u64, more: u64, max: Option<u64>| {
        max.map_or(0, |max| used.saturating_add(more).saturating_sub(max))
    };
    let bytes = (bytes as u64).saturating_add(TRACE_BYTES);
    let bytes_over = over(usage.bytes, bytes, usage.quota.bytes_max);
    let messages_over = over(usage.messages, 1, usage.quota.messages_max);
    if bytes_over == 0 && messages_over == 0 {
        return Ok(false);
    }
    let (mut oldest, mut freed, mut first) = (Vec::new(), 0_u64, 1);
    let is_enough =
        |oldest: &[Uid], freed: u64| freed >= bytes_over && oldest.len() as u64 >= messages_over;
    'all: while !is_enough(&oldest, freed)
        && let Some(entries) = kept::some_entries(shard, account, quarantine, &mut first)?
    {
        for entry in entries {
            if is_enough(&oldest, freed) || entry.uid >= last {
                break 'all;
            }
            if recalled::of(shard, account, entry.uid).is_some_and(|one| one.mailbox.is_some()) {
                continue;
            }
            freed = freed.saturating_add(u64::from(entry.bytes));
            oldest.push(entry.uid);
        }
        give_way().await;
    }
    if !is_enough(&oldest, freed) {
        return Ok(false);
    }
    let gone = actions::delete(shard, account, &oldest, By::Age).await?.len();
    tracing::warn!(
        account = address,
        messages = gone,
        "its quota is used up: its oldest kept mail was expunged, so that it can be told of the rest"
    );
    Ok(gone > 0)
}

/// The message.
fn written(shard: &Shard, address: &str, items: &[Item]) -> String {
    let config = &shard.config;
    let domain = address.rsplit_once('@').map_or(config.hostname.as_str(), |(_, domain)| domain);
    let postmaster = format!("postmaster@{domain}");
    let boundary = format!("kura-{}", shard.next_id());
    let subject = letter::subject(items.len());
    let mut message = notes::head(shard, address, &subject, "auto-generated");
    message += &letter::fields(&config.hostname, &boundary);
    message += &Letter {
        address,
        postmaster: &postmaster,
        items,
        keep: config.quarantine.keep,
        has_links: config.quarantine.links_to(&config.hostname, &config.web).is_some(),
    }
    .text(&boundary);
    message
}

/// The digest into the account's mailbox, and what it was told.
async fn deliver(
    shard: &Rc<Shard>,
    address: &str,
    account: AccountId,
    message: &str,
    messages: usize,
    uid: u32,
) -> Result<(), NotTold> {
    let id = shard.next_id();
    let to = Address::parse(address.as_bytes())
        .ok_or_else(|| NotTold::Other("its address can't be read".to_owned()))?;
    let home = Home { shard: shard.id, account, address: address.to_owned() };
    let to = To { home, address: to };
    let note = (key(account), Some(told_now(uid)));
    let mut intake = Intake::of_ours(shard, std::iter::once(shard.id));
    intake.push(message.as_bytes()).await?;
    let noted = Collected {
        space: SPACE,
        pairs: vec![note.clone()],
        mailbox: None,
        flags: Vec::new(),
        internal_date: None,
    };
    let envelope = Envelope {
        id: id.clone(),
        sender: None,
        peer: None,
        judged: Judged::default(),
        scripts: true,
        alone: true,
        others: false,
        require_tls: false,
        collected: Some(Arc::new(noted)),
        once: None,
    };
    let (results, copies) =
        delivery::settle(intake, &Rc::from([to]), &[vec![0]], &Stamp::default(), envelope).await;
    copies.stay().await;
    for result in results {
        match result {
            Ok(_durable) => {}
            Err(Failure::Store(error)) => return Err(error.into()),
            Err(Failure::Rejected(text)) => return Err(NotTold::Other(text)),
        }
    }
    if shard.store.get(SPACE, &note.0) != note.1 {
        // A script has sent it elsewhere, or thrown it away.
        let _durable = shard.store.put(SPACE, vec![note]).await?;
    }
    count(&shard.metrics.quarantine.digests);
    tracing::info!(id, account = address, messages, "told of what was kept back");
    Ok(())
}

fn told_now(uid: u32) -> Bytes {
    let told = Told { uid };
    Bytes::from(serde_json::to_vec(&told).unwrap_or_default())
}

async fn note_told(shard: &Shard, account: AccountId, uid: u32) -> Result<(), Error> {
    let note = vec![(key(account), Some(told_now(uid)))];
    shard.store.put(SPACE, note).await.map(drop)
}
