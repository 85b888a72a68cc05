//! `kura store salvage`: everything that still verifies of a damaged data directory,
//! in a fresh one.
//!
//! Shard by shard the store's part is done by [`storage::salvage`]. Then the fresh directory is
//! opened with the ordinary code, and what fits together no more is made to fit: an account whose
//! address is not known any more gets one that says so, and an address whose mailboxes are lost
//! gets empty ones. That is due until it is done ([`crate::settle`]). The store has its place
//! only when all of it is there, so a salvage that was broken off can be started again. The
//! source is only read.

use crate::backup::restore::{check_free, for_here, room_missing, taken_back};
use crate::backup::take::{SmallFiles, small_files};
use crate::config::Config;
use crate::core::store_options;
use crate::directory::{self, Account, Domain, Held};
use crate::executor;
use crate::layout::{self, After, private_dir, shard_dir};
use crate::operations::{Fault, change, hash, make_at_home, on, pair, password_or_new, unix_now};
use crate::remembering::put_held;
use crate::shard::{Disk, Shard};
use bytes::Bytes;
use glommio::LocalExecutorBuilder;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use storage::salvage::{SalvageReport, salvage};
use storage::{AccountId, Options, Store};

/// Until all of the store is there.
pub(crate) const STAGING: &str = "store.salvaging";
/// Where accounts get an address when no domain is known any more (RFC 2606 section 2).
const NO_DOMAIN: &str = "salvaged.invalid";

/// What was found, and what the fresh directory has not.
#[derive(Debug)]
pub struct Salvaged {
    /// One for each shard; `None`: its directory is not there.
    pub shards: Vec<Option<SalvageReport>>,
    /// Files that were not taken along, and why, as of a backup.
    pub left_out: Vec<String>,
}

/// Fills `to`. `progress` hears of each shard before anything is read of it, and then of how many
/// bytes are done with, of all.
pub fn run(
    config: &Config,
    config_file: &Path,
    knobs: &hwprofiles::Knobs,
    to: &Path,
    progress: impl FnMut(u16, u64, u64),
) -> Result<Salvaged, Fault> {
    check_free(to)?;
    let _lock = layout::lock_unchanged(&config.data_dir).map_err(|error| error.0)?;
    let shards = layout::shards_of(&config.data_dir).map_err(|error| error.0)?;
    let fault = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    private_dir(to).map_err(|error| fault(to, error))?;
    let staging = to.join(STAGING);
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(|error| fault(&staging, error))?;
    }
    fill(config, config_file, knobs, to, shards, progress).map_err(|what| {
        let room = room_missing(to, allocated(&config.data_dir.join("store")));
        format!("{what}{room}; {}", taken_back(to, &staging, "salvage"))
    })
}

/// What the files below a directory take on the disk.
fn allocated(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let one = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => allocated(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(one).sum()
}

fn fill(
    config: &Config,
    config_file: &Path,
    knobs: &hwprofiles::Knobs,
    to: &Path,
    shards: u16,
    mut progress: impl FnMut(u16, u64, u64),
) -> Result<Salvaged, Fault> {
    let fault = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let staging = to.join(STAGING);
    let mut reports = Vec::new();
    for shard in 0..shards {
        let source = shard_dir(&config.data_dir, shard);
        let target = staging.join(format!("shard-{shard}"));
        private_dir(&target).map_err(|error| fault(&target, error))?;
        progress(shard, 0, 0);
        let options = Options { retention: Duration::ZERO, ..store_options(config, knobs, shard) };
        // Zero says that a shard begins, also of one that has nothing to read.
        let show = |done, total: u64| {
            if total > 0 {
                progress(shard, done, total);
            }
        };
        reports.push(one_shard(&source, &target, options, show)?);
    }
    let SmallFiles { wanted, left_out, .. } = small_files(config, config_file)?;
    for (path, file) in wanted {
        let bytes = fs::read(&file).map_err(|error| fault(&file, error))?;
        let bytes = if path == "kura.toml" { for_here(&bytes)? } else { bytes };
        let copy = to.join(&path);
        if let Some(folder) = copy.parent() {
            private_dir(folder).map_err(|error| fault(folder, error))?;
        }
        layout::write_synced_bytes(&copy, &bytes).map_err(|error| fault(&copy, error))?;
    }
    layout::put_in_place(to, &staging, shards, After::Salvage).map_err(|error| error.0)?;
    Ok(Salvaged { shards: reports, left_out })
}

fn one_shard(
    source: &Path,
    target: &Path,
    options: Options,
    show: impl FnMut(u64, u64),
) -> Result<Option<SalvageReport>, Fault> {
    let fault =
        |place: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", place.display());
    executor::run(LocalExecutorBuilder::default(), async {
        let shard = options.shard;
        let disk = Disk::open(target).await.map_err(|error| fault(target, &error))?;
        let store = Store::open(disk, options).await.map_err(|error| fault(target, &error))?;
        let running = glommio::spawn_local({
            let store = store.clone();
            async move { store.run().await }
        });
        let report = match layout::holds_store(source) {
            true => {
                let from = Disk::open_read_only(source).map_err(|error| fault(source, &error))?;
                let report = salvage(&from, shard, &store, show).await;
                Some(report.map_err(|error| fault(target, &error))?)
            }
            false => None,
        };
        store.close().await.map_err(|error| fault(target, &error))?;
        running.await;
        Ok(report)
    })?
}

/// Makes the directory and the shards fit together. Runs on shard 0 of the fresh store.
pub(crate) async fn mend(shard: Rc<Shard>) -> Result<Value, Fault> {
    let mut named = Vec::new();
    let mut highest = 0;
    let mut unnamed = Vec::new();
    let mut emptied = Vec::new();
    let mut held = Vec::new();
    for home in 0..shard.mesh.cores() {
        let there = |shard: Rc<Shard>| async move {
            Ok::<_, Fault>((shard.store.accounts(), shard.store.held_accounts()))
        };
        let (mut there, on_hold) = on(&shard, home, there).await?;
        // The queue is nobody's account.
        there.retain(|id| *id != AccountId::QUEUE);
        highest = there.iter().chain(&on_hold).map(|account| account.0).fold(highest, u32::max);
        held.extend(on_hold.into_iter().map(|id| (home, id)));
        let known: Vec<(String, Account)> = {
            let directory = shard.directory.borrow();
            let at_home = directory.accounts().filter(|(_, account)| account.shard == home);
            at_home.map(|(address, account)| (address.clone(), account.clone())).collect()
        };
        for (address, account) in &known {
            highest = highest.max(account.id);
            let (id, quota) = (account.id(), account.quota());
            if there.contains(&id) {
                // The directory says it too, and the store may have lost it.
                on(&shard, home, move |shard| async move {
                    match shard.store.usage(id)?.quota == quota {
                        true => Ok(()),
                        false => shard.store.set_quota(id, quota).await.map(drop),
                    }
                })
                .await?;
            } else {
                make_at_home(&shard, account).await?;
                emptied.push(address.clone());
            }
        }
        let is_unknown = |id: &AccountId| !known.iter().any(|(_, account)| account.id() == *id);
        unnamed.extend(there.into_iter().filter(is_unknown).map(|id| (home, id)));
    }
    let domain = shard.directory.borrow().domains().next().map(|(name, _)| name.clone());
    let is_lost = |(home, id): &(u16, AccountId)| {
        !shard.directory.borrow().holds().any(|(_, one)| (one.shard, one.id) == (*home, id.0))
    };
    held.retain(is_lost);
    let is_new = domain.is_none() && (!unnamed.is_empty() || !held.is_empty());
    let domain = domain.unwrap_or_else(|| NO_DOMAIN.to_owned());
    if is_new {
        let made = Domain { created_unix: unix_now() };
        change(&shard, vec![pair("d:", &domain, Some(&made))]).await?;
    }
    for (home, id) in unnamed {
        let address = salvaged_address(id, &domain);
        let (password, _) = password_or_new(None)?;
        let usage = move |shard: Rc<Shard>| async move { shard.store.usage(id) };
        let quota = on(&shard, home, usage).await?.quota;
        let account = Account {
            id: id.0,
            shard: home,
            password: hash(&password).await,
            quota_bytes: quota.bytes_max,
            quota_messages: quota.messages_max,
            created_unix: unix_now(),
            limits: None,
            send_as: None,
        };
        change(&shard, vec![pair("a:", &address, Some(&account))]).await?;
        named.push(json!({ "address": address, "password": password }));
    }
    let mut kept = Vec::new();
    for (home, id) in held {
        kept.push(hold_again(&shard, home, id, &domain).await?);
    }
    keep_numbers_unused(&shard, highest).await?;
    Ok(json!({ "named": named, "emptied": emptied, "held": kept }))
}

/// A hold of which the store knows and the directory has lost: at the address of the account, or at
/// one that says so if that was removed. That address.
async fn hold_again(
    shard: &Rc<Shard>,
    home: u16,
    id: AccountId,
    domain: &str,
) -> Result<String, Fault> {
    let address = {
        let directory = shard.directory.borrow();
        let mut accounts = directory.accounts();
        let there = accounts.find(|(_, account)| (account.shard, account.id) == (home, id.0));
        there.map_or_else(|| salvaged_address(id, domain), |(address, _)| address.clone())
    };
    let mut held: Vec<Held> = shard.directory.borrow().held(&address).cloned().collect();
    let since_unix = unix_now();
    held.push(Held { id: id.0, shard: home, since_unix, forerunners: Vec::new() });
    put_held(shard, &address, held).await?;
    Ok(address)
}

fn salvaged_address(id: AccountId, domain: &str) -> String {
    format!("salvaged-{}@{domain}", id.0)
}

/// An account's number is never used again.
async fn keep_numbers_unused(shard: &Rc<Shard>, highest: u32) -> Result<(), Fault> {
    let key = Bytes::from_static(directory::NEXT_ACCOUNT_KEY);
    let kept = shard.store.get(directory::SPACE, &key);
    let next = kept.as_deref().and_then(|text| std::str::from_utf8(text).ok()?.parse::<u32>().ok());
    if next.is_none_or(|next| next <= highest) && highest > 0 {
        let value = Bytes::from(highest.saturating_add(1).to_string());
        change(shard, vec![(key, Some(value))]).await?;
    }
    Ok(())
}
