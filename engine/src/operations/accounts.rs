//! Accounts, their passwords and quotas.

use super::domains::{check_domain, existing_domain, named};
use super::{Fault, change, hash, insist, on, pair, password_or_new, unix_now};
use crate::collect;
use crate::directory::{self, Account, Alias, SendAs};
use crate::filter;
use crate::quarantine::{digest, recalled};
use crate::scan::again;
use crate::shard::Shard;
use crate::sieve;
use crate::submission::{self, settings::LimitsChange, suspects};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::rc::Rc;
use storage::{AccountId, SpecialUse};

/// Domains that one account may send for beside its own.
const SENDERS_MAX: usize = 1000;
/// The mailboxes that every account starts with (RFC 6154), as mail programs name them.
const FIRST_MAILBOXES: [(&str, SpecialUse); 5] = [
    ("Drafts", SpecialUse::Drafts),
    ("Sent", SpecialUse::Sent),
    ("Junk", SpecialUse::Junk),
    ("Trash", SpecialUse::Trash),
    ("Archive", SpecialUse::Archive),
];

pub(super) async fn add(
    shard: &Rc<Shard>,
    address: &str,
    password: Option<String>,
    quota_bytes: Option<u64>,
    quota_messages: Option<u64>,
) -> Result<Value, Fault> {
    let address = free_address(shard, address)?;
    let (password, made_up) = password_or_new(password)?;
    let stored = hash(&password).await;
    // Number first: a crash between the steps leaves a gap or an account without an address, never
    // two accounts with one number.
    let id = next_account(shard).await?;
    let home = shard.directory.borrow().emptiest_shard(shard.mesh.cores());
    let account = Account {
        id: id.0,
        shard: home,
        password: stored,
        quota_bytes,
        quota_messages,
        created_unix: unix_now(),
        limits: None,
        send_as: None,
    };
    make_at_home(shard, &account).await?;
    change(shard, vec![pair("a:", &address, Some(&account))]).await?;
    Ok(json!({ "address": address, "password": made_up.then_some(password), "shard": home }))
}

/// The account's mailboxes, on its home shard.
pub(crate) async fn make_at_home(shard: &Rc<Shard>, account: &Account) -> Result<(), Fault> {
    let (id, quota) = (account.id(), account.quota());
    on(shard, account.shard, move |shard| async move {
        let _ = shard.store.create_account(id, quota).await?;
        for (name, special_use) in FIRST_MAILBOXES {
            let _ = shard.store.create_mailbox(id, name, Some(special_use)).await?;
            let _ = shard.store.subscribe(id, name, true).await?;
        }
        let _ = shard.store.subscribe(id, "INBOX", true).await?;
        Ok::<(), storage::Error>(())
    })
    .await
}

/// A normalized address that is in one of our domains and not in use.
pub(super) fn free_address(shard: &Shard, address: &str) -> Result<String, Fault> {
    let address = directory::canonical(address).map_err(|why| format!("{address:?} {why}"))?;
    let (user, domain) = address.rsplit_once('@').unwrap_or_default();
    if user.contains('+') {
        return Err(format!(
            "{address}: `+` separates subaddresses, so it can't be part of an account's or an alias's name"
        ));
    }
    check_domain(shard, domain)?;
    let directory = shard.directory.borrow();
    if directory.account(&address).is_some() {
        return Err(format!("account {address} exists already"));
    }
    if directory.alias(&address).is_some() {
        return Err(format!(
            "{address} is an alias; remove it first with `kura alias remove {address}`"
        ));
    }
    drop(directory);
    Ok(address)
}

async fn next_account(shard: &Rc<Shard>) -> Result<AccountId, Fault> {
    let key = Bytes::from_static(directory::NEXT_ACCOUNT_KEY);
    let next =
        match shard.store.get(directory::SPACE, &key) {
            Some(value) => std::str::from_utf8(&value)
                .ok()
                .and_then(|text| text.parse::<u32>().ok())
                .ok_or("the directory's account counter is unreadable; run `kura store verify`")?,
            None => 1,
        };
    let after = Bytes::from((next + 1).to_string());
    let _ = shard
        .store
        .put(directory::SPACE, vec![(key, Some(after))])
        .await
        .map_err(|e| e.to_string())?;
    Ok(AccountId(next))
}

pub(super) async fn list(shard: &Rc<Shard>, domain: Option<String>) -> Result<Value, Fault> {
    let domain = domain.map(|domain| existing_domain(shard, &domain)).transpose()?;
    let suffix = domain.map(|domain| format!("@{domain}"));
    let accounts: Vec<(String, Account)> = {
        let directory = shard.directory.borrow();
        let wanted = |address: &str| suffix.as_ref().is_none_or(|suffix| address.ends_with(suffix));
        directory
            .accounts()
            .filter(|(address, _)| wanted(address))
            .map(|(address, account)| (address.clone(), account.clone()))
            .collect()
    };
    let mut rows = Vec::with_capacity(accounts.len());
    for (address, account) in accounts {
        let id = account.id();
        let usage =
            on(shard, account.shard, move |shard| async move { shard.store.usage(id) }).await;
        rows.push(json!({
            "address": address,
            "shard": account.shard,
            "messages": usage.as_ref().ok().map(|usage| usage.messages),
            "bytes": usage.as_ref().ok().map(|usage| usage.bytes),
            "fault": usage.err(),
            "quota_bytes": account.quota_bytes,
            "quota_messages": account.quota_messages,
        }));
    }
    Ok(Value::Array(rows))
}

pub(super) async fn passwd(
    shard: &Rc<Shard>,
    address: &str,
    password: Option<String>,
) -> Result<Value, Fault> {
    let (address, mut account) = existing_account(shard, address)?;
    let (password, made_up) = password_or_new(password)?;
    account.password = hash(&password).await;
    change(shard, vec![pair("a:", &address, Some(&account))]).await?;
    let (id, name) = (account.id(), address.clone());
    // Whoever knew the old one is out.
    let trust = move |shard| async move { suspects::trust(&shard, id, &name, false).await };
    // The password is changed, and nobody else knows one that was made up: it is told
    // whatever else fails.
    let fault = on(shard, account.shard, trust).await.err();
    if let Some(fault) = &fault {
        tracing::warn!(
            account = address,
            fault,
            "the password is changed, but the account is still suspected"
        );
    }
    Ok(json!({
        "address": address,
        "password": made_up.then_some(password),
        "still_suspected": fault,
    }))
}

pub(super) async fn set_quota(
    shard: &Rc<Shard>,
    address: &str,
    quota_bytes: Option<u64>,
    quota_messages: Option<u64>,
) -> Result<Value, Fault> {
    let (address, mut account) = existing_account(shard, address)?;
    (account.quota_bytes, account.quota_messages) = (quota_bytes, quota_messages);
    let (id, quota) = (account.id(), account.quota());
    on(shard, account.shard, move |shard| async move {
        shard.store.set_quota(id, quota).await.map(drop)
    })
    .await?;
    change(shard, vec![pair("a:", &address, Some(&account))]).await?;
    Ok(json!({ "address": address, "quota_bytes": quota_bytes, "quota_messages": quota_messages }))
}

/// Changes what the account may send, and shows that, and what it has sent within a day.
pub(super) async fn limits(
    shard: &Rc<Shard>,
    address: &str,
    said: LimitsChange,
) -> Result<Value, Fault> {
    let (address, mut account) = existing_account(shard, address)?;
    let before = account.limits;
    account.limits = said.apply(before, submission::limits_of(shard, &account));
    if account.limits != before {
        change(shard, vec![pair("a:", &address, Some(&account))]).await?;
    }
    let id = account.id();
    let known = on(shard, account.shard, move |shard| async move {
        let suspicion = suspects::suspicion(&shard, id).map(|suspicion| suspicion.why);
        Ok::<_, Fault>((submission::sent_today(&shard, id), suspicion))
    });
    let ((messages, recipients), suspected) = known.await?;
    Ok(json!({
        "address": address,
        "own": account.limits.is_some(),
        "limits": submission::limits_of(shard, &account),
        "messages": messages,
        "recipients": recipients,
        "suspected": suspected,
    }))
}

/// Changes as whom the account may send, if that is said, and shows it: `any`, domains, or
/// `own`: only as itself.
pub(super) async fn send_as(
    shard: &Rc<Shard>,
    address: &str,
    senders: Vec<String>,
) -> Result<Value, Fault> {
    let (address, mut account) = existing_account(shard, address)?;
    let before = account.send_as.clone();
    if !senders.is_empty() {
        account.send_as = said_of_senders(&senders)?;
    }
    if account.send_as != before {
        change(shard, vec![pair("a:", &address, Some(&account))]).await?;
    }
    let senders: Vec<String> = match account.send_as {
        None => Vec::new(),
        Some(SendAs::Any) => vec!["any".to_owned()],
        Some(SendAs::Domains(domains)) => domains.into_iter().collect(),
    };
    Ok(json!({ "address": address, "send_as": senders }))
}

fn said_of_senders(senders: &[String]) -> Result<Option<SendAs>, Fault> {
    match senders.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["own"] => return Ok(None),
        ["any"] => return Ok(Some(SendAs::Any)),
        _ => {}
    }
    let mut domains = BTreeSet::new();
    for sender in senders {
        if matches!(sender.as_str(), "own" | "any") {
            return Err(format!("`{sender}` stands alone; name it, or domains, not both"));
        }
        let domain = directory::canonical_domain(sender).filter(|_| domains.len() < SENDERS_MAX);
        domains.insert(domain.ok_or_else(|| {
            format!("`{sender}` is no domain, or one of more than {SENDERS_MAX}; name domains such as example.org, `any` or `own`")
        })?);
    }
    Ok(Some(SendAs::Domains(domains)))
}

pub(super) async fn remove(shard: &Rc<Shard>, address: &str) -> Result<Value, Fault> {
    let (address, account) = existing_account(shard, address)?;
    let named = {
        let directory = shard.directory.borrow();
        let names = |alias: &Alias| alias.targets.contains(&address);
        directory.aliases().find(|(_, alias)| names(alias)).map(|(name, _)| name.clone())
    };
    if let Some(alias) = named {
        return Err(format!(
            "alias {alias} delivers to {address}; change or remove it first (`kura alias remove {alias}`)"
        ));
    }
    // Address first, so that no mail is taken for an account that is going.
    change(shard, vec![pair::<Account>("a:", &address, None)]).await?;
    let id = account.id();
    let held = insist(shard, account.shard, move |shard: Rc<Shard>| async move {
        let held = shard.store.is_held(id);
        digest::forget(&shard, id).await?;
        sieve::scripts::forget(&shard, id).await?;
        submission::forget(&shard, id).await?;
        shard.collecting.forget_all_of(id);
        collect::keys::remove_all(&shard, id).await?;
        match shard.store.remove_account(id).await {
            // A shard that has lost it has nothing to remove.
            Ok(_) | Err(storage::Error::NoSuchAccount(_)) => {}
            Err(error) => return Err(error),
        }
        // Behind it: until then a round over its mail could note more.
        recalled::forget(&shard, id).await?;
        again::progress::forget(&shard, id).await?;
        // What its clients have sorted just now was still being learned.
        filter::forget(&shard, id).await?;
        Ok::<_, storage::Error>(held)
    })
    .await?;
    Ok(json!({ "address": address, "held": held }))
}

pub(crate) fn existing_account(shard: &Shard, address: &str) -> Result<(String, Account), Fault> {
    let address = named(shard, address)?;
    let directory = shard.directory.borrow();
    match directory.account(&address) {
        Some(account) => Ok((address, account.clone())),
        None => Err(format!("no account {address}; `kura account list` shows those there are")),
    }
}
