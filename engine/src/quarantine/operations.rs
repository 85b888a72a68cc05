//! What an operator can ask of kept mail. Runs on shard 0, which knows the addresses; the work is
//! done where the messages lie.

use super::digest;
use super::kept::{self, Kept};
use super::{By, actions};
use crate::core::give_way;
use crate::operations::{Fault, existing_account, on};
use crate::shard::{PIECE_BYTES, Shard};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use storage::{AccountId, MessageEntry, Uid};

/// Listed at the most, the latest ones; the command says how many there are.
const LISTED_MAX: usize = 1000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "quarantine", rename_all = "snake_case")]
pub enum QuarantineRequest {
    List {
        which: Which,
    },
    Show {
        id: String,
    },
    /// The message itself, from this octet on, as far as it fits an answer.
    Raw {
        id: String,
        from: u64,
    },
    Release {
        which: Which,
        force: bool,
    },
    Delete {
        which: Which,
    },
    /// Tells an account now what it has not been told.
    Digest {
        account: String,
    },
}

/// Which messages. Nothing said: all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Which {
    pub ids: Vec<String>,
    pub account: Option<String>,
    pub domain: Option<String>,
    /// Kept back since then or later, in Unix milliseconds.
    pub since: Option<u64>,
    /// For this rule or reason.
    pub rule: Option<String>,
}

impl Which {
    /// Of a message, as far as its place tells.
    fn wants(&self, kept: &Kept) -> bool {
        self.since.is_none_or(|since| kept.since >= since)
            && self.rule.as_ref().is_none_or(|rule| kept.has_rule(rule))
    }
}

/// An account and which of its messages are meant: `None`: all.
type Wanted = (String, AccountId, Option<BTreeSet<Uid>>);

/// By home shard. An error names what there is not.
fn wanted(shard: &Shard, which: &Which) -> Result<BTreeMap<u16, Vec<Wanted>>, Fault> {
    let mut homes: BTreeMap<u16, BTreeMap<String, Wanted>> = BTreeMap::new();
    let mut add = |address: String, home: u16, id: AccountId, uid: Option<Uid>| {
        let of_home = homes.entry(home).or_default();
        let none = || (address.clone(), id, uid.map(|_| BTreeSet::new()));
        let (_, _, uids) = of_home.entry(address.clone()).or_insert_with(none);
        if let (Some(uids), Some(uid)) = (uids, uid) {
            uids.insert(uid);
        }
    };
    let domain = match &which.domain {
        Some(domain) => {
            let name = crate::directory::canonical_domain(domain);
            let known = name.filter(|name| shard.directory.borrow().domain(name).is_some());
            Some(known.ok_or_else(|| {
                format!("no domain {domain}; `kura domain list` shows those there are")
            })?)
        }
        None => None,
    };
    let is_in = |address: &str| {
        let of = address.rsplit_once('@').map(|(_, domain)| domain);
        domain.as_deref().is_none_or(|domain| of == Some(domain))
    };
    let account = which.account.as_ref().map(|address| existing_account(shard, address));
    let account = account.transpose()?;
    let is_of = |address: &str| account.as_ref().is_none_or(|(name, _)| name == address);
    for id in &which.ids {
        let (address, uid) = named(id)?;
        let (address, account) = existing_account(shard, address)?;
        if is_in(&address) && is_of(&address) {
            add(address, account.shard, account.id(), Some(uid));
        }
    }
    if which.ids.is_empty() {
        for (address, account) in shard.directory.borrow().accounts() {
            if is_in(address) && is_of(address) {
                add(address.clone(), account.shard, account.id(), None);
            }
        }
    }
    Ok(homes.into_iter().map(|(home, all)| (home, all.into_values().collect())).collect())
}

fn named(id: &str) -> Result<(&str, Uid), Fault> {
    kept::of_id(id).ok_or_else(|| {
        format!("{id:?} names no message; `kura quarantine list` shows their names, such as ann@example.org:7")
    })
}

pub(crate) async fn execute(shard: &Rc<Shard>, request: QuarantineRequest) -> Result<Value, Fault> {
    match request {
        QuarantineRequest::List { which } => list(shard, which).await,
        QuarantineRequest::Show { id } => show(shard, &id).await,
        QuarantineRequest::Raw { id, from } => raw(shard, &id, from).await,
        QuarantineRequest::Release { which, force } => release(shard, which, force).await,
        QuarantineRequest::Delete { which } => delete(shard, which).await,
        QuarantineRequest::Digest { account } => {
            let (address, account) = existing_account(shard, &account)?;
            let id = account.id();
            let tell = move |shard: Rc<Shard>| async move {
                digest::send(&shard, &address, id, None).await.map(|count| (address, count))
            };
            let (address, messages) = on(shard, account.shard, tell).await?;
            Ok(json!({ "account": address, "messages": messages }))
        }
    }
}

/// Those of one account that are meant, in the order in which they came; `take` gets each.
async fn find(
    shard: &Shard,
    (address, account, uids): &Wanted,
    which: &Which,
    mut take: impl FnMut(&str, Kept),
) -> Result<(), Fault> {
    let fault = |error: storage::Error| format!("{address}: {error}");
    let quarantine = match shard.store.quarantine(*account) {
        Ok(Some(info)) => info.id,
        // It has none, or is being removed.
        Ok(None) | Err(storage::Error::NoSuchAccount(_)) => return Ok(()),
        Err(error) => return Err(fault(error)),
    };
    let mut first = 1;
    let is_meant = |entry: &MessageEntry| uids.as_ref().is_none_or(|all| all.contains(&entry.uid));
    while let Some(entries) =
        kept::some_entries(shard, *account, quarantine, &mut first).map_err(fault)?
    {
        for entry in entries.iter().filter(|entry| is_meant(entry)) {
            match kept::look(shard, *account, quarantine, entry).await {
                Ok(kept) if which.wants(&kept) => take(address, kept),
                // Gone meanwhile.
                Ok(_) | Err(storage::Error::NoSuchMessage(_)) => {}
                Err(error) => return Err(fault(error)),
            }
            give_way().await;
        }
        give_way().await;
    }
    Ok(())
}

async fn list(shard: &Rc<Shard>, which: Which) -> Result<Value, Fault> {
    let (mut rows, mut all) = (Vec::new(), 0);
    for (home, accounts) in wanted(shard, &which)? {
        let which = which.clone();
        let part = on(shard, home, move |shard| async move {
            let (mut rows, mut all) = (Vec::new(), 0);
            for account in &accounts {
                let take = |address: &str, kept: Kept| {
                    all += 1;
                    rows.push(kept.row(address));
                    if rows.len() >= 2 * LISTED_MAX {
                        cut(&mut rows);
                    }
                };
                find(&shard, account, &which, take).await?;
            }
            cut(&mut rows);
            Ok::<_, Fault>((rows, all))
        });
        let (found, count) = part.await?;
        rows.extend(found);
        all += count;
    }
    cut(&mut rows);
    Ok(json!({ "messages": rows, "all": all }))
}

/// The latest.
fn cut(rows: &mut Vec<Value>) {
    let key = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        (text("since"), text("account"))
    };
    rows.sort_by_cached_key(key);
    rows.drain(..rows.len().saturating_sub(LISTED_MAX));
}

fn gone(id: &str) -> Fault {
    format!("{id} is not in quarantine (any more); `kura quarantine list` shows what is")
}

async fn show(shard: &Rc<Shard>, id: &str) -> Result<Value, Fault> {
    let (address, uid) = named(id)?;
    let (address, account) = existing_account(shard, address)?;
    let (id, account_id) = (id.to_owned(), account.id());
    on(shard, account.shard, move |shard| async move {
        let info = shard.store.quarantine(account_id).map_err(|error| error.to_string())?;
        let quarantine = info.ok_or_else(|| gone(&id))?.id;
        let entry = shard.store.entry(account_id, quarantine, uid).map_err(|_| gone(&id))?;
        let shown = kept::show(&shard, &address, account_id, quarantine, &entry).await;
        shown.map_err(|error| format!("{id}: {error}"))
    })
    .await
}

async fn raw(shard: &Rc<Shard>, id: &str, from: u64) -> Result<Value, Fault> {
    let (address, uid) = named(id)?;
    let (_, account) = existing_account(shard, address)?;
    let (id, account_id) = (id.to_owned(), account.id());
    on(shard, account.shard, move |shard| async move {
        let info = shard.store.quarantine(account_id).map_err(|error| error.to_string())?;
        let quarantine = info.ok_or_else(|| gone(&id))?.id;
        let entry = shard.store.entry(account_id, quarantine, uid).map_err(|_| gone(&id))?;
        let piece = from..from.saturating_add(PIECE_BYTES);
        let piece = shard.store.read(account_id, quarantine, uid, piece).await;
        let piece = piece.map_err(|error| format!("{id}: {error}"))?;
        let next = from + piece.len() as u64;
        let next = (next < u64::from(entry.bytes) && !piece.is_empty()).then_some(next);
        Ok::<_, Fault>(json!({ "piece": STANDARD.encode(&piece), "next": next }))
    })
    .await
}

/// The UIDs that are meant, for each account of one home.
async fn uids_of(
    shard: &Shard,
    accounts: &[Wanted],
    which: &Which,
) -> Result<Vec<(String, AccountId, Vec<Uid>)>, Fault> {
    let mut found = Vec::new();
    for account in accounts {
        let mut uids = Vec::new();
        find(shard, account, which, |_, kept| uids.push(kept.uid)).await?;
        if !uids.is_empty() {
            found.push((account.0.clone(), account.1, uids));
        }
    }
    Ok(found)
}

async fn release(shard: &Rc<Shard>, which: Which, force: bool) -> Result<Value, Fault> {
    let (mut released, mut harmful) = (Vec::new(), Vec::new());
    for (home, accounts) in wanted(shard, &which)? {
        let which = which.clone();
        let part = on(shard, home, move |shard| async move {
            let (mut released, mut harmful) = (Vec::new(), Vec::new());
            for (address, account, uids) in uids_of(&shard, &accounts, &which).await? {
                let done = actions::release(&shard, account, &uids, force, By::Operator).await;
                let done = done.map_err(|error| format!("{address}: {error}"))?;
                released.extend(done.released.iter().map(|uid| kept::id(&address, *uid)));
                harmful.extend(done.harmful.iter().map(|uid| kept::id(&address, *uid)));
            }
            Ok::<_, Fault>((released, harmful))
        });
        let (more, kept_back) = part.await?;
        released.extend(more);
        harmful.extend(kept_back);
    }
    check_named(&which, released.len() + harmful.len(), |id| {
        released.iter().chain(&harmful).any(|done| done == id)
    })?;
    Ok(json!({ "released": released, "harmful": harmful }))
}

async fn delete(shard: &Rc<Shard>, which: Which) -> Result<Value, Fault> {
    let mut deleted = Vec::new();
    for (home, accounts) in wanted(shard, &which)? {
        let which = which.clone();
        let part = on(shard, home, move |shard| async move {
            let mut deleted = Vec::new();
            for (address, account, uids) in uids_of(&shard, &accounts, &which).await? {
                let gone = actions::delete(&shard, account, &uids, By::Operator).await;
                let gone = gone.map_err(|error| format!("{address}: {error}"))?;
                deleted.extend(gone.iter().map(|uid| kept::id(&address, *uid)));
            }
            Ok::<_, Fault>(deleted)
        });
        deleted.extend(part.await?);
    }
    check_named(&which, deleted.len(), |id| deleted.iter().any(|done| done == id))?;
    Ok(json!({ "deleted": deleted }))
}

/// Who names a message wants to know that it is not there.
fn check_named(which: &Which, done: usize, is_done: impl Fn(&String) -> bool) -> Result<(), Fault> {
    let canonical = |id: &String| {
        let (address, uid) = kept::of_id(id)?;
        Some(kept::id(&crate::directory::canonical(address).ok()?, uid))
    };
    let filters = which.rule.is_some() || which.since.is_some();
    if filters || which.account.is_some() || which.domain.is_some() || done >= which.ids.len() {
        return Ok(());
    }
    match which.ids.iter().find(|id| !canonical(id).is_some_and(|id| is_done(&id))) {
        Some(id) if done == 0 => Err(gone(id)),
        Some(id) => Err(format!("the others were dealt with, but {}", gone(id))),
        None => Ok(()),
    }
}
