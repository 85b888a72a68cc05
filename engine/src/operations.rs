//! What an operator can ask of a server, running or stopped.
//!
//! The commands send a [`Request`] through the control socket of a running server, or open the store
//! of a stopped one and carry it out in their own process: either way it is this code, on shard 0,
//! which alone writes the directory, one change after the other. A change is durable before any core
//! sees it.

use crate::directory::{self, Account, Alias, Domain, Pair};
use crate::filter::learning::{self, Lesson};
use crate::filter::senders;
use crate::filter::tokens::Tokens;
use crate::passwords::{self, StoredPassword};
use crate::queue;
use crate::remembering::{self, Which};
use crate::shard::Shard;
use crate::sieve::operations::SieveRequest;
use crate::sieve::{self, SystemScripts};
use crate::{certificates, tls};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use storage::{AccountId, SpecialUse};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Request {
    /// Without a postmaster, the first domain's is this one's too.
    DomainAdd {
        domain: String,
        #[serde(default)]
        postmaster: Option<String>,
    },
    DomainList,
    DomainShow {
        domain: String,
    },
    DomainRemove {
        domain: String,
    },
    /// Without a password, one is made up and returned.
    AccountAdd {
        address: String,
        password: Option<String>,
        quota_bytes: Option<u64>,
        quota_messages: Option<u64>,
    },
    AccountList {
        domain: Option<String>,
    },
    AccountPasswd {
        address: String,
        password: Option<String>,
    },
    AccountQuota {
        address: String,
        quota_bytes: Option<u64>,
        quota_messages: Option<u64>,
    },
    AccountRemove {
        address: String,
    },
    AliasAdd {
        alias: String,
        targets: Vec<String>,
        /// Whether an alias of that name may be there already.
        #[serde(default)]
        replace: bool,
    },
    AliasList,
    AliasRemove {
        alias: String,
    },
    /// Users' scripts.
    Sieve(SieveRequest),
    /// Loads all certificates, and the operator's scripts, anew.
    Reload,
    /// What the spam classifier says of each.
    SpamMargins {
        messages: Vec<Tokens>,
    },
    SpamLearn {
        lessons: Vec<Lesson>,
    },
    StoreStats,
    StoreVerify,
    /// Lists what has gone since then, in Unix milliseconds; or brings it back.
    StoreUndelete {
        account: String,
        since: u64,
        mailbox: Option<String>,
        uids: Option<Vec<(u32, u32)>>,
        apply: bool,
        over_quota: bool,
        removed: bool,
        /// Writes it to a directory, an absolute path.
        export: Option<PathBuf>,
    },
    /// Shows the account as it was, or writes it to a directory, an absolute path.
    StoreRestoreAt {
        account: String,
        at: u64,
        export: Option<PathBuf>,
        over_quota: bool,
        removed: bool,
    },
    HoldAdd {
        address: String,
    },
    HoldRemove {
        address: String,
    },
    HoldList,
    /// A round in the background.
    StoreScrubBegin,
    StoreScrubStatus,
    /// A round on the store of a stopped server: as fast as its disk goes.
    StoreScrub,
    /// In the background.
    StoreCompactBegin,
    StoreCompactStatus,
    /// On the store of a stopped server.
    StoreCompact,
    QueueList {
        which: queue::operations::Which,
    },
    QueueShow {
        id: String,
    },
    QueueSay {
        which: queue::operations::Which,
        word: queue::Word,
    },
}

impl Request {
    fn changes_directory(&self) -> bool {
        match self {
            Request::DomainAdd { .. }
            | Request::DomainRemove { .. }
            | Request::AccountAdd { .. }
            | Request::AccountPasswd { .. }
            | Request::AccountQuota { .. }
            | Request::AccountRemove { .. }
            | Request::AliasAdd { .. }
            | Request::AliasRemove { .. }
            | Request::HoldAdd { .. }
            | Request::HoldRemove { .. } => true,
            Request::DomainList
            | Request::DomainShow { .. }
            | Request::AccountList { .. }
            | Request::AliasList
            | Request::Sieve(_)
            | Request::Reload
            | Request::SpamMargins { .. }
            | Request::SpamLearn { .. }
            | Request::StoreStats
            | Request::StoreVerify
            | Request::StoreUndelete { .. }
            | Request::StoreRestoreAt { .. }
            | Request::HoldList
            | Request::StoreScrubBegin
            | Request::StoreScrubStatus
            | Request::StoreScrub
            | Request::StoreCompactBegin
            | Request::StoreCompactStatus
            | Request::StoreCompact
            | Request::QueueList { .. }
            | Request::QueueShow { .. }
            | Request::QueueSay { .. } => false,
        }
    }
}

/// One line for the operator: what is wrong, and how to mend it.
pub type Fault = String;

/// Carries out `request`. Runs on shard 0.
pub async fn execute(shard: Rc<Shard>, request: Request) -> Result<Value, Fault> {
    let _turn = match request.changes_directory() {
        true => Some(shard.directory_turn.lock().await),
        false => None,
    };
    match request {
        Request::DomainAdd { domain, postmaster } => domain_add(&shard, &domain, postmaster).await,
        Request::DomainList => Ok(domain_list(&shard)),
        Request::DomainShow { domain } => domain_show(&shard, &domain),
        Request::DomainRemove { domain } => domain_remove(&shard, &domain).await,
        Request::AccountAdd { address, password, quota_bytes, quota_messages } => {
            account_add(&shard, &address, password, quota_bytes, quota_messages).await
        }
        Request::AccountList { domain } => account_list(&shard, domain).await,
        Request::AccountPasswd { address, password } => {
            account_passwd(&shard, &address, password).await
        }
        Request::AccountQuota { address, quota_bytes, quota_messages } => {
            account_quota(&shard, &address, quota_bytes, quota_messages).await
        }
        Request::AccountRemove { address } => account_remove(&shard, &address).await,
        Request::AliasAdd { alias, targets, replace } => {
            alias_add(&shard, &alias, targets, replace).await
        }
        Request::AliasList => Ok(alias_list(&shard)),
        Request::AliasRemove { alias } => alias_remove(&shard, &alias).await,
        Request::Sieve(request) => sieve::operations::execute(&shard, request).await,
        Request::Reload => reload(&shard).await,
        Request::SpamMargins { messages } => {
            let learned = shard.learned.borrow();
            let margins = messages.iter().map(|tokens| learned.classifier.margin(tokens));
            Ok(json!(margins.collect::<Vec<_>>()))
        }
        Request::SpamLearn { lessons } => match learning::learn(&shard, lessons).await {
            Ok(learned) => Ok(json!({ "learned": learned })),
            Err(error) => Err(error.to_string()),
        },
        Request::StoreStats => store_stats(&shard).await,
        Request::StoreVerify => store_verify(&shard).await,
        Request::StoreUndelete {
            account,
            since,
            mailbox,
            uids,
            apply,
            over_quota,
            removed,
            export,
        } => {
            let which = Which { address: account, since, mailbox, uids };
            match export {
                Some(to) => remembering::export_buried(&shard, which, removed, to).await,
                None if apply => remembering::undelete(&shard, which, over_quota).await,
                None => remembering::undelete_list(&shard, which, removed).await,
            }
        }
        Request::StoreRestoreAt { account, at, export, over_quota, removed } => {
            remembering::restore_at(&shard, &account, at, export, over_quota, removed).await
        }
        Request::HoldAdd { address } => remembering::hold_add(&shard, &address).await,
        Request::HoldRemove { address } => remembering::hold_remove(&shard, &address).await,
        Request::HoldList => Ok(remembering::hold_list(&shard)),
        Request::StoreScrubBegin => {
            for home in 0..shard.mesh.cores() {
                let begin = |shard: Rc<Shard>| async move {
                    shard.scrub.begin();
                    Ok::<(), Fault>(())
                };
                on(&shard, home, begin).await?;
            }
            Ok(json!({}))
        }
        Request::StoreScrubStatus => scrub_status(&shard).await,
        Request::StoreCompactBegin => {
            for home in 0..shard.mesh.cores() {
                let begin = |shard: Rc<Shard>| async move {
                    crate::compact::begin(&shard);
                    Ok::<(), Fault>(())
                };
                on(&shard, home, begin).await?;
            }
            Ok(json!({}))
        }
        Request::StoreCompactStatus => compact_status(&shard).await,
        Request::StoreCompact => {
            for home in 0..shard.mesh.cores() {
                let compact = |shard: Rc<Shard>| async move {
                    crate::compact::run(&shard).await;
                    Ok::<(), Fault>(())
                };
                on(&shard, home, compact).await?;
            }
            compact_status(&shard).await
        }
        Request::QueueList { which } => queue::operations::list(&shard, which).await,
        Request::QueueShow { id } => queue::operations::show(&shard, id).await,
        Request::QueueSay { which, word } => queue::operations::say(&shard, which, word).await,
        Request::StoreScrub => {
            for home in 0..shard.mesh.cores() {
                let round = |shard: Rc<Shard>| async move {
                    crate::scrub::round(&shard, None).await;
                    Ok::<(), Fault>(())
                };
                on(&shard, home, round).await?;
            }
            scrub_status(&shard).await
        }
    }
}

async fn domain_add(
    shard: &Rc<Shard>,
    domain: &str,
    postmaster: Option<String>,
) -> Result<Value, Fault> {
    let domain = canonical_domain(domain)?;
    if shard.directory.borrow().domain(&domain).is_some() {
        return Err(format!("domain {domain} exists already"));
    }
    let value = Domain { created_unix: unix_now() };
    let targets = match postmaster {
        Some(target) => vec![known_target(shard, &target)?],
        None => first_postmaster(shard),
    };
    let mut pairs = vec![pair("d:", &domain, Some(&value))];
    if !targets.is_empty() {
        let alias = Alias { targets: targets.clone() };
        pairs.push(pair("l:", &format!("postmaster@{domain}"), Some(&alias)));
    }
    change(shard, pairs).await?;
    Ok(json!({ "domain": domain, "postmaster": targets }))
}

/// Who gets the mail for the postmaster of the first domain that has one (RFC 5321 section 4.5.1: every
/// domain that takes mail takes it for its postmaster).
fn first_postmaster(shard: &Shard) -> Vec<String> {
    let directory = shard.directory.borrow();
    let found = directory.domains().find_map(|(domain, _)| {
        let address = format!("postmaster@{domain}");
        match directory.alias(&address) {
            Some(alias) => Some(alias.targets.clone()),
            None => directory.account(&address).map(|_| vec![address.clone()]),
        }
    });
    found.unwrap_or_default()
}

/// An account's or an alias's address, as somebody typed it.
fn known_target(shard: &Shard, target: &str) -> Result<String, Fault> {
    let target = named(shard, target)?;
    let directory = shard.directory.borrow();
    if directory.account(&target).is_some() || directory.alias(&target).is_some() {
        return Ok(target);
    }
    Err(format!(
        "{target} is neither an account nor an alias here (`kura account list` shows them)"
    ))
}

fn canonical_domain(domain: &str) -> Result<String, Fault> {
    directory::canonical_domain(domain)
        .ok_or_else(|| format!("{domain:?} is no domain name; write it like example.org"))
}

/// The address in its canonical form, or as it is kept if it was made before there was one.
fn named(shard: &Shard, address: &str) -> Result<String, Fault> {
    let plain = address.to_lowercase();
    let directory = shard.directory.borrow();
    if directory.account(&plain).is_some() || directory.alias(&plain).is_some() {
        return Ok(plain);
    }
    directory::canonical(address).map_err(|why| format!("{address:?} {why}"))
}

fn domain_list(shard: &Shard) -> Value {
    let directory = shard.directory.borrow();
    let of = |domain: &str, address: &str| address.ends_with(&format!("@{domain}"));
    let rows = directory.domains().map(|(domain, _)| {
        let accounts = directory.accounts().filter(|(address, _)| of(domain, address)).count();
        let aliases = directory.aliases().filter(|(address, _)| of(domain, address)).count();
        json!({ "domain": domain, "accounts": accounts, "aliases": aliases })
    });
    Value::Array(rows.collect())
}

fn domain_show(shard: &Shard, domain: &str) -> Result<Value, Fault> {
    let domain = existing_domain(shard, domain)?;
    let directory = shard.directory.borrow();
    let Some(found) = directory.domain(&domain) else { return Err(no_such_domain(&domain)) };
    let of = |address: &&String| address.ends_with(&format!("@{domain}"));
    let accounts: Vec<&String> =
        directory.accounts().map(|(address, _)| address).filter(of).collect();
    let aliases: Vec<&String> =
        directory.aliases().map(|(address, _)| address).filter(of).collect();
    Ok(
        json!({ "domain": domain, "created_unix": found.created_unix, "accounts": accounts, "aliases": aliases }),
    )
}

async fn domain_remove(shard: &Rc<Shard>, domain: &str) -> Result<Value, Fault> {
    let domain = existing_domain(shard, domain)?;
    let shown = domain_show(shard, &domain)?;
    let postmaster = format!("postmaster@{domain}");
    // Its postmaster's alias was made with it, and goes with it, unless another alias leads there.
    let goes_along = {
        let directory = shard.directory.borrow();
        let mut others = directory.aliases().filter(|(name, _)| **name != postmaster);
        directory.alias(&postmaster).is_some()
            && !others.any(|(_, alias)| alias.targets.contains(&postmaster))
    };
    for kind in ["accounts", "aliases"] {
        let stays = |name: &&Value| !(goes_along && name.as_str() == Some(&postmaster));
        let count = shown[kind].as_array().into_iter().flatten().filter(stays).count();
        if count > 0 {
            return Err(format!(
                "domain {domain} still has {count} {kind}; remove them first (`kura domain show {domain}` lists them)"
            ));
        }
    }
    let mut pairs = vec![pair::<Domain>("d:", &domain, None)];
    if goes_along {
        pairs.push(pair::<Alias>("l:", &postmaster, None));
    }
    change(shard, pairs).await?;
    Ok(json!({ "domain": domain }))
}

/// The name under which a domain is kept.
fn existing_domain(shard: &Shard, domain: &str) -> Result<String, Fault> {
    let plain = domain.to_lowercase();
    if shard.directory.borrow().domain(&plain).is_some() {
        return Ok(plain);
    }
    let domain = canonical_domain(domain)?;
    check_domain(shard, &domain)?;
    Ok(domain)
}

fn no_such_domain(domain: &str) -> Fault {
    format!("no domain {domain}; add it with `kura domain add {domain}`")
}

/// The mailboxes that every account starts with (RFC 6154), as mail programs name them.
const FIRST_MAILBOXES: [(&str, SpecialUse); 5] = [
    ("Drafts", SpecialUse::Drafts),
    ("Sent", SpecialUse::Sent),
    ("Junk", SpecialUse::Junk),
    ("Trash", SpecialUse::Trash),
    ("Archive", SpecialUse::Archive),
];

async fn account_add(
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
fn free_address(shard: &Shard, address: &str) -> Result<String, Fault> {
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

fn check_domain(shard: &Shard, domain: &str) -> Result<(), Fault> {
    let known = shard.directory.borrow().domain(domain).is_some();
    if known { Ok(()) } else { Err(no_such_domain(domain)) }
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

async fn account_list(shard: &Rc<Shard>, domain: Option<String>) -> Result<Value, Fault> {
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

async fn account_passwd(
    shard: &Rc<Shard>,
    address: &str,
    password: Option<String>,
) -> Result<Value, Fault> {
    let (address, mut account) = existing_account(shard, address)?;
    let (password, made_up) = password_or_new(password)?;
    account.password = hash(&password).await;
    change(shard, vec![pair("a:", &address, Some(&account))]).await?;
    Ok(json!({ "address": address, "password": made_up.then_some(password) }))
}

async fn account_quota(
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

async fn account_remove(shard: &Rc<Shard>, address: &str) -> Result<Value, Fault> {
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
    on(shard, account.shard, move |shard| async move {
        senders::forget(&shard, id).await?;
        sieve::scripts::forget(&shard, id).await?;
        match shard.store.remove_account(id).await {
            // A shard that has lost it has nothing to remove.
            Ok(_) | Err(storage::Error::NoSuchAccount(_)) => Ok(()),
            Err(error) => Err(error),
        }
    })
    .await?;
    Ok(json!({ "address": address }))
}

pub(crate) fn existing_account(shard: &Shard, address: &str) -> Result<(String, Account), Fault> {
    let address = named(shard, address)?;
    let directory = shard.directory.borrow();
    match directory.account(&address) {
        Some(account) => Ok((address, account.clone())),
        None => Err(format!("no account {address}; `kura account list` shows those there are")),
    }
}

async fn alias_add(
    shard: &Rc<Shard>,
    alias: &str,
    targets: Vec<String>,
    replace: bool,
) -> Result<Value, Fault> {
    let alias = alias_name(shard, alias)?;
    let known = shard.directory.borrow().alias(&alias).is_some();
    if known && !replace {
        return Err(format!(
            "alias {alias} exists already; add --replace to set its targets anew (`kura alias list` shows them)"
        ));
    }
    // An alias may be set anew; an account may not be shadowed.
    if !known && !alias.starts_with('@') {
        free_address(shard, &alias)?;
    }
    if targets.is_empty() || targets.len() > directory::ALIAS_TARGETS_MAX {
        return Err(format!("alias {alias}: give 1 to {} addresses", directory::ALIAS_TARGETS_MAX));
    }
    let known = |target: &String| known_target(shard, target);
    let targets: Vec<String> = targets
        .iter()
        .map(known)
        .collect::<Result<_, _>>()
        .map_err(|why| format!("alias {alias}: {why}"))?;
    let value = Alias { targets };
    change(shard, vec![pair("l:", &alias, Some(&value))]).await?;
    Ok(json!({ "alias": alias, "targets": value.targets }))
}

/// `user@domain`, or `@domain` for what nobody else takes.
fn alias_name(shard: &Shard, alias: &str) -> Result<String, Fault> {
    match alias.strip_prefix('@') {
        Some(domain) => Ok(format!("@{}", existing_domain(shard, domain)?)),
        None => named(shard, alias),
    }
}

fn alias_list(shard: &Shard) -> Value {
    let directory = shard.directory.borrow();
    let rows = directory
        .aliases()
        .map(|(alias, value)| json!({ "alias": alias, "targets": value.targets }));
    Value::Array(rows.collect())
}

async fn alias_remove(shard: &Rc<Shard>, alias: &str) -> Result<Value, Fault> {
    let alias = alias_name(shard, alias)?;
    if shard.directory.borrow().alias(&alias).is_none() {
        return Err(format!("no alias {alias}; `kura alias list` shows those there are"));
    }
    change(shard, vec![pair::<Alias>("l:", &alias, None)]).await?;
    Ok(json!({ "alias": alias }))
}

async fn reload(shard: &Rc<Shard>) -> Result<Value, Fault> {
    let config = Arc::clone(&shard.config);
    let (config, scripts) = glommio::executor()
        .spawn_blocking(move || {
            let tls = tls::server_config(&config.data_dir).map_err(|error| error.to_string())?;
            let scripts = SystemScripts::load(&config).map_err(|error| error.to_string())?;
            Ok::<_, Fault>((tls, Arc::new(scripts)))
        })
        .await?;
    for home in 0..shard.mesh.cores() {
        let (config, scripts) = (config.clone(), Arc::clone(&scripts));
        on(shard, home, move |shard| async move {
            shard.set_tls(config);
            shard.sieve.set_system(scripts);
            Ok::<(), Fault>(())
        })
        .await?;
    }
    tracing::info!("certificates and scripts loaded anew");
    Ok(
        json!({ "certificates": certificates::list(&shard.config.data_dir).map_err(|e| e.to_string())?.len() }),
    )
}

async fn store_stats(shard: &Rc<Shard>) -> Result<Value, Fault> {
    let mut shards = Vec::new();
    for home in 0..shard.mesh.cores() {
        shards.push(
            on(shard, home, |shard| async move { Ok::<_, Fault>(shard.store.stats()) }).await?,
        );
    }
    let scrub = scrub_status(shard).await?;
    let sum = |value: fn(&storage::store::Stats) -> u64| shards.iter().map(value).sum::<u64>();
    let row = |stats: &storage::store::Stats| {
        json!({
            "messages": stats.messages,
            "bytes_received": stats.bytes_received,
            "bytes_written": stats.bytes_written,
            "bytes_prewritten": stats.bytes_prewritten,
            "bytes_moved": stats.bytes_moved,
            "bytes_based": stats.bytes_based,
            "flushes": stats.flushes,
            "segments": stats.segments,
            "spare_segments": stats.spare_segments,
            "segments_freed": stats.segments_freed,
            "segments_spoiled": stats.segments_spoiled,
            "given_up": stats.given_up,
            "log_bytes": stats.log_bytes,
            "log_live_bytes": stats.log_live_bytes,
            "live_bytes": stats.live_bytes,
            "buried_messages": stats.buried_messages,
            "buried_bytes": stats.buried_bytes,
            "accounts_held": stats.accounts_held,
            "remembered_since": remembered_since(stats.remembered_since),
            "packed_bodies": stats.packed_bodies,
            "packed_bytes_before": stats.packed_bytes_before,
            "packed_bytes_after": stats.packed_bytes_after,
            "packed_declined": stats.packed_declined,
            "halted": stats.halted,
            "recovery_records": stats.recovery_records,
            "recovery_micros": stats.recovery_micros,
            "recovery_damage": stats.recovery_damage,
        })
    };
    Ok(json!({
        "messages": sum(|s| s.messages),
        "bytes_received": sum(|s| s.bytes_received),
        "bytes_written": sum(|s| s.bytes_written),
        "bytes_prewritten": sum(|s| s.bytes_prewritten),
        "bytes_moved": sum(|s| s.bytes_moved),
        "bytes_based": sum(|s| s.bytes_based),
        "flushes": sum(|s| s.flushes),
        "segments": sum(|s| s.segments),
        "spare_segments": sum(|s| s.spare_segments),
        "segments_freed": sum(|s| s.segments_freed),
        "segments_spoiled": sum(|s| s.segments_spoiled),
        "given_up": sum(|s| s.given_up),
        "log_bytes": sum(|s| s.log_bytes),
        "log_live_bytes": sum(|s| s.log_live_bytes),
        "live_bytes": sum(|s| s.live_bytes),
        "recovery_damage": sum(|s| s.recovery_damage),
        "buried_messages": sum(|s| s.buried_messages),
        "buried_bytes": sum(|s| s.buried_bytes),
        "accounts_held": sum(|s| s.accounts_held),
        "packed_bodies": sum(|s| s.packed_bodies),
        "packed_bytes_before": sum(|s| s.packed_bytes_before),
        "packed_bytes_after": sum(|s| s.packed_bytes_after),
        "packed_declined": sum(|s| s.packed_declined),
        // To this time every shard can go back.
        "remembered_since": remembered_since(shards.iter().map(|s| s.remembered_since).max().unwrap_or(0)),
        "halted": shards.iter().any(|s| s.halted),
        "scrub_rounds": scrub["rounds"],
        "scrub_bad": scrub["bad"],
        "scrub_messages_hurt": scrub["messages_hurt"],
        "shards": shards.iter().map(row).collect::<Vec<_>>(),
    }))
}

fn remembered_since(unix_millis: u64) -> Value {
    if unix_millis == 0 { Value::Null } else { json!(crate::when::time_text(unix_millis + 999)) }
}

async fn store_verify(shard: &Rc<Shard>) -> Result<Value, Fault> {
    let (mut records, mut messages, mut bytes, mut bad) = (0, 0, 0, Vec::new());
    let accounts: Vec<(String, Account)> = {
        let directory = shard.directory.borrow();
        directory.accounts().map(|(address, account)| (address.clone(), account.clone())).collect()
    };
    for home in 0..shard.mesh.cores() {
        let (report, known) = on(shard, home, |shard| async move {
            let known = shard.store.accounts();
            shard.store.verify().await.map(|report| (report, known))
        })
        .await?;
        records += report.records;
        messages += report.messages;
        bytes += report.bytes;
        let here = || accounts.iter().filter(|(_, account)| account.shard == home);
        let by_address = |place: &str| name_account(place, here());
        bad.extend(report.bad.iter().map(|place| format!("shard {home}: {}", by_address(place))));
        let lost = here().filter(|(_, account)| !known.contains(&account.id()));
        bad.extend(lost.map(|(address, _)| {
            format!(
                "shard {home}: it does not know account {address}; restore the shard from a backup, \
                 or remove the account (`kura account remove {address}`)"
            )
        }));
    }
    let elsewhere = accounts.iter().filter(|(_, account)| account.shard >= shard.mesh.cores());
    bad.extend(elsewhere.map(|(address, account)| {
        format!("account {address} is at home on shard {}, which is not there", account.shard)
    }));
    Ok(json!({ "records": records, "messages": messages, "bytes": bytes, "bad": bad }))
}

/// Summed over the shards; accounts get their addresses.
/// Sums over the shards; each of them below.
async fn compact_status(shard: &Rc<Shard>) -> Result<Value, Fault> {
    let mut shards = Vec::new();
    for home in 0..shard.mesh.cores() {
        let status = |shard: Rc<Shard>| async move {
            Ok::<_, Fault>(shard.compact.status(shard.store.stats().buried_bytes))
        };
        shards.push(on(shard, home, status).await?);
    }
    let sum = |name: &str| shards.iter().filter_map(|one| one[name].as_u64()).sum::<u64>();
    Ok(json!({
        "running": shards.iter().any(|one| one["running"] == true),
        "log_bytes_before": sum("log_bytes_before"),
        "log_bytes": sum("log_bytes"),
        "log_live_bytes": sum("log_live_bytes"),
        "bytes_moved": sum("bytes_moved"),
        "segments_freed": sum("segments_freed"),
        "buried_bytes": sum("buried_bytes"),
        "failed": shards.iter().find_map(|one| one["failed"].as_str()),
        "shards": shards,
    }))
}

async fn scrub_status(shard: &Rc<Shard>) -> Result<Value, Fault> {
    let mut statuses = Vec::new();
    for home in 0..shard.mesh.cores() {
        let status = |shard: Rc<Shard>| async move { Ok::<_, Fault>(shard.scrub.status()) };
        statuses.push(on(shard, home, status).await?);
    }
    let addresses: std::collections::BTreeMap<u64, String> = {
        let directory = shard.directory.borrow();
        let accounts = directory.accounts();
        accounts.map(|(address, account)| (u64::from(account.id), address.clone())).collect()
    };
    let mut findings = Vec::new();
    for (home, status) in statuses.iter_mut().enumerate() {
        let found = status["findings"].as_array_mut().map(std::mem::take).unwrap_or_default();
        for mut finding in found {
            finding["shard"] = json!(home);
            for message in finding["messages"].as_array_mut().into_iter().flatten() {
                let account = message["account"].as_u64().unwrap_or_default();
                message["address"] = json!(addresses.get(&account));
            }
            findings.push(finding);
        }
    }
    let sum = |name: &str| statuses.iter().filter_map(|one| one[name].as_u64()).sum::<u64>();
    let failed = statuses.iter().find_map(|one| one["failed"].as_str());
    Ok(json!({
        "running": statuses.iter().any(|one| one["running"] == Value::Bool(true)),
        "rounds": statuses.iter().filter_map(|one| one["rounds"].as_u64()).min(),
        "bytes": sum("bytes"),
        "bytes_total": sum("bytes_total"),
        "bad": sum("bad"),
        "messages_hurt": sum("messages_hurt"),
        "findings": findings,
        "failed": failed,
    }))
}

/// The store knows accounts by number, an operator by address.
fn name_account<'a>(
    place: &str,
    mut accounts: impl Iterator<Item = &'a (String, Account)>,
) -> String {
    let Some((before, rest)) = place.split_once("account ") else { return place.to_owned() };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, after) = rest.split_at(digits);
    let id = number.parse().ok();
    match accounts.find(|(_, account)| Some(account.id) == id) {
        Some((address, _)) => format!("{before}account {address}{after}"),
        None => place.to_owned(),
    }
}

// ── shared ──────────────────────────────────────────────────────────────────────────────────────────

/// Runs `work` on core `home` and turns its error into a line for the operator.
pub(crate) async fn on<R, E, W, F>(shard: &Rc<Shard>, home: u16, work: W) -> Result<R, Fault>
where
    R: Send + 'static,
    E: ToString,
    W: FnOnce(Rc<Shard>) -> F + Send + 'static,
    F: Future<Output = Result<R, E>> + 'static,
{
    if home >= shard.mesh.cores() {
        return Err(format!("shard {home} does not exist on this host"));
    }
    let work = move |shard| {
        let future = work(shard);
        async move { future.await.map_err(|error| error.to_string()) }
    };
    shard.mesh.ask(home, work).await.map_err(|error| format!("shard {home}: {error}"))?
}

/// Writes pairs to the log, then tells every core.
pub(crate) async fn change(shard: &Rc<Shard>, pairs: Vec<Pair>) -> Result<(), Fault> {
    let _ = shard
        .store
        .put(directory::SPACE, pairs.clone())
        .await
        .map_err(|error| error.to_string())?;
    for home in 0..shard.mesh.cores() {
        let pairs = pairs.clone();
        on(shard, home, move |shard| async move {
            shard.directory.borrow_mut().apply(&pairs);
            Ok::<(), Fault>(())
        })
        .await?;
    }
    Ok(())
}

pub(crate) fn pair<T: Serialize>(kind: &str, name: &str, value: Option<&T>) -> Pair {
    let value = value.map(|value| {
        Bytes::from(serde_json::to_vec(value).expect("directory values have string keys only"))
    });
    (Bytes::from(format!("{kind}{name}")), value)
}

pub(crate) fn password_or_new(password: Option<String>) -> Result<(String, bool), Fault> {
    match password {
        Some(password) if password.len() > passwords::BYTES_MAX => Err(format!(
            "a password has at most {} bytes; choose a shorter one",
            passwords::BYTES_MAX
        )),
        Some(password) => Ok((password, false)),
        None => Ok((passwords::generate(), true)),
    }
}

pub(crate) async fn hash(password: &str) -> StoredPassword {
    let password = password.as_bytes().to_vec();
    glommio::executor().spawn_blocking(move || StoredPassword::new(&password)).await
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
