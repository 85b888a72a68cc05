//! Domains, and the names under which domains and addresses are kept.

use super::{Fault, change, pair, unix_now};
use crate::directory::{self, Alias, Domain};
use crate::shard::Shard;
use serde_json::{Value, json};
use std::rc::Rc;

pub(super) async fn add(
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
pub(super) fn known_target(shard: &Shard, target: &str) -> Result<String, Fault> {
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
pub(super) fn named(shard: &Shard, address: &str) -> Result<String, Fault> {
    let plain = address.to_lowercase();
    let directory = shard.directory.borrow();
    if directory.account(&plain).is_some() || directory.alias(&plain).is_some() {
        return Ok(plain);
    }
    directory::canonical(address).map_err(|why| format!("{address:?} {why}"))
}

pub(super) fn list(shard: &Shard) -> Value {
    let directory = shard.directory.borrow();
    let of = |domain: &str, address: &str| address.ends_with(&format!("@{domain}"));
    let rows = directory.domains().map(|(domain, _)| {
        let accounts = directory.accounts().filter(|(address, _)| of(domain, address)).count();
        let aliases = directory.aliases().filter(|(address, _)| of(domain, address)).count();
        json!({ "domain": domain, "accounts": accounts, "aliases": aliases })
    });
    Value::Array(rows.collect())
}

pub(super) fn show(shard: &Shard, domain: &str) -> Result<Value, Fault> {
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

pub(super) async fn remove(shard: &Rc<Shard>, domain: &str) -> Result<Value, Fault> {
    let domain = existing_domain(shard, domain)?;
    let shown = show(shard, &domain)?;
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
pub(super) fn existing_domain(shard: &Shard, domain: &str) -> Result<String, Fault> {
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

pub(super) fn check_domain(shard: &Shard, domain: &str) -> Result<(), Fault> {
    let known = shard.directory.borrow().domain(domain).is_some();
    if known { Ok(()) } else { Err(no_such_domain(domain)) }
}
