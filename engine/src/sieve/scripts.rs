//! The users' scripts, in the log of their account's home shard. RFC 5804 sections 1.4 and 2.
//!
//! A key space of that shard, by the account's number (four bytes, the highest first):
//!
//! | key | value |
//! |---|---|
//! | account, `s`, name | the script as it was given |
//! | account, `a` | the name of the active one |
//!
//! Everything here runs on the home shard. Changes take turns and are durable when they return.

use super::limits;
use crate::shard::Shard;
use bytes::Bytes;
use protocols::sieve::{Fault, Script, is_script_name};
use storage::store::Space;
use storage::{AccountId, Error};

/// The number is part of the store's format.
pub const SPACE: Space = Space(2);
/// Scripts of one account, and their octets together.
pub const SCRIPTS_MAX: usize = 32;
pub const SCRIPTS_BYTES_MAX: usize = 256 << 10;

/// Why something can't be done with a script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("there is no such script")]
    NotFound,
    #[error("there is a script of that name already")]
    Exists,
    #[error("the script is active; activate another one first")]
    Active,
    #[error("no script can have that name: 1 to 512 bytes, no control characters")]
    Name,
    #[error("there are {SCRIPTS_MAX} scripts already; remove one first")]
    TooMany,
    #[error("the account's scripts would take more than {SCRIPTS_BYTES_MAX} bytes together")]
    NoRoom,
    #[error("a script has at most {} bytes", limits().script_bytes_max)]
    TooLarge,
    #[error("{}", .0.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"))]
    Faulty(Vec<Fault>),
    #[error("{0}")]
    Store(#[from] Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub is_active: bool,
    pub octets: usize,
}

fn key(account: AccountId, kind: u8, name: &str) -> Bytes {
    [&account.0.to_be_bytes()[..], &[kind], name.as_bytes()].concat().into()
}

fn script_key(account: AccountId, name: &str) -> Bytes {
    key(account, b's', name)
}

fn active_key(account: AccountId) -> Bytes {
    key(account, b'a', "")
}

/// Whether the script compiles: its warnings.
pub fn check(source: &[u8]) -> Result<Vec<Fault>, Refused> {
    if source.len() > limits().script_bytes_max {
        return Err(Refused::TooLarge);
    }
    let script = Script::compile(source, &limits()).map_err(Refused::Faulty)?;
    Ok(script.warnings().to_vec())
}

pub fn has_active(shard: &Shard, account: AccountId) -> bool {
    shard.store.get(SPACE, &active_key(account)).is_some()
}

pub fn active(shard: &Shard, account: AccountId) -> Option<String> {
    let name = shard.store.get(SPACE, &active_key(account))?;
    String::from_utf8(name.into()).ok()
}

/// By name ascending.
pub fn list(shard: &Shard, account: AccountId) -> Vec<Listed> {
    let active = active(shard, account);
    let prefix = script_key(account, "");
    let listed = |(key, source): (Bytes, Bytes)| {
        let name = std::str::from_utf8(key.get(prefix.len()..)?).ok()?.to_owned();
        Some(Listed { is_active: active.as_ref() == Some(&name), name, octets: source.len() })
    };
    shard.store.scan_prefix(SPACE, &prefix).into_iter().filter_map(listed).collect()
}

pub fn get(shard: &Shard, account: AccountId, name: &str) -> Option<Bytes> {
    shard.store.get(SPACE, &script_key(account, name))
}

/// Whether a script of that size would fit, in the place of one of that name if there is one.
pub fn have_space(
    shard: &Shard,
    account: AccountId,
    name: &str,
    octets: usize,
) -> Result<(), Refused> {
    if octets > limits().script_bytes_max {
        return Err(Refused::TooLarge);
    }
    let others: Vec<Listed> =
        list(shard, account).into_iter().filter(|listed| listed.name != name).collect();
    let taken: usize = others.iter().map(|listed| listed.octets).sum();
    if others.len() >= SCRIPTS_MAX {
        Err(Refused::TooMany)
    } else if taken.saturating_add(octets) > SCRIPTS_BYTES_MAX {
        Err(Refused::NoRoom)
    } else {
        Ok(())
    }
}

/// Keeps a script that compiles, and makes it the active one if `activate`; its warnings.
pub async fn put(
    shard: &Shard,
    account: AccountId,
    name: &str,
    source: Vec<u8>,
    activate: bool,
) -> Result<Vec<Fault>, Refused> {
    if !is_script_name(name) {
        return Err(Refused::Name);
    }
    let _turn = shard.sieve.turn.lock().await;
    shard.store.usage(account)?;
    have_space(shard, account, name, source.len())?;
    let warnings = check(&source)?;
    let mut pairs = vec![(script_key(account, name), Some(Bytes::from(source)))];
    if activate {
        pairs.push((active_key(account), Some(Bytes::copy_from_slice(name.as_bytes()))));
    }
    change(shard, account, pairs).await?;
    Ok(warnings)
}

/// `None`: no script is active from now on.
pub async fn set_active(
    shard: &Shard,
    account: AccountId,
    name: Option<&str>,
) -> Result<(), Refused> {
    let _turn = shard.sieve.turn.lock().await;
    if let Some(name) = name {
        // Limits may have changed since it was put.
        check(&get(shard, account, name).ok_or(Refused::NotFound)?)?;
    }
    let value = name.map(|name| Bytes::copy_from_slice(name.as_bytes()));
    change(shard, account, vec![(active_key(account), value)]).await
}

pub async fn remove(shard: &Shard, account: AccountId, name: &str) -> Result<(), Refused> {
    let _turn = shard.sieve.turn.lock().await;
    get(shard, account, name).ok_or(Refused::NotFound)?;
    if active(shard, account).as_deref() == Some(name) {
        return Err(Refused::Active);
    }
    change(shard, account, vec![(script_key(account, name), None)]).await
}

/// Active stays active.
pub async fn rename(
    shard: &Shard,
    account: AccountId,
    from: &str,
    to: &str,
) -> Result<(), Refused> {
    if !is_script_name(to) {
        return Err(Refused::Name);
    }
    let _turn = shard.sieve.turn.lock().await;
    let source = get(shard, account, from).ok_or(Refused::NotFound)?;
    if get(shard, account, to).is_some() {
        return Err(Refused::Exists);
    }
    let mut pairs =
        vec![(script_key(account, from), None), (script_key(account, to), Some(source))];
    if active(shard, account).as_deref() == Some(from) {
        pairs.push((active_key(account), Some(Bytes::copy_from_slice(to.as_bytes()))));
    }
    change(shard, account, pairs).await
}

/// Everything of an account that goes.
pub async fn forget(shard: &Shard, account: AccountId) -> Result<(), Error> {
    let _turn = shard.sieve.turn.lock().await;
    for space in [SPACE, super::marks::SPACE] {
        let pairs = shard.store.scan_prefix(space, &account.0.to_be_bytes());
        let gone: Vec<_> = pairs.into_iter().map(|(key, _)| (key, None)).collect();
        if !gone.is_empty() {
            let _durable = shard.store.put(space, gone).await?;
        }
    }
    shard.sieve.cache.borrow_mut().forget(account);
    Ok(())
}

async fn change(
    shard: &Shard,
    account: AccountId,
    pairs: Vec<(Bytes, Option<Bytes>)>,
) -> Result<(), Refused> {
    let done = shard.store.put(SPACE, pairs).await;
    // Whatever came of it, what was compiled may be of before.
    shard.sieve.cache.borrow_mut().forget(account);
    let _durable = done?;
    Ok(())
}
