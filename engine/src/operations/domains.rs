//! Domains, and the names under which domains and addresses are kept.

use super::{Fault, change, dkim, pair, unix_now};
use crate::directory::{self, Alias, Domain};
use crate::domain::keys::DkimKeys;
use crate::domain::records::Facts;
use crate::shard::Shard;
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;

pub(super) async fn add(
    shard: &Rc<Shard>,
    domain: &str,
    postmaster: Option<String>,
    abuse: Option<String>,
    without_dkim: bool,
) -> Result<Value, Fault> {
    let domain = canonical_domain(domain)?;
    if shard.directory.borrow().domain(&domain).is_some() {
        return Err(format!("domain {domain} exists already"));
    }
    let value = Domain { created_unix: unix_now() };
    let postmaster = match postmaster {
        Some(target) => vec![target_in(shard, &domain, &target)?],
        None => first_postmaster(shard),
    };
    let abuse = match abuse {
        Some(target) => vec![target_in(shard, &domain, &target)?],
        None if postmaster.is_empty() => Vec::new(),
        None => vec![format!("postmaster@{domain}")],
    };
    let mut pairs = vec![pair("d:", &domain, Some(&value))];
    for (user, targets) in [("postmaster", &postmaster), ("abuse", &abuse)] {
        let address = format!("{user}@{domain}");
        // An account of that name is to come.
        if !targets.is_empty() && !targets.contains(&address) {
            let alias = Alias { targets: targets.clone() };
            pairs.push(pair("l:", &address, Some(&alias)));
        }
    }
    if !without_dkim {
        pairs.push(pair("k:", &domain, Some(&dkim::with_pair(None).await?)));
    }
    change(shard, pairs).await?;
    let facts = facts(shard, &domain).await?;
    let missing: Vec<&String> = {
        let directory = shard.directory.borrow();
        let is_missing = |target: &&String| {
            directory.account(target).is_none() && directory.alias(target).is_none()
        };
        let mut missing: Vec<&String> =
            postmaster.iter().chain(&abuse).filter(is_missing).collect();
        missing.sort();
        missing.dedup();
        missing
    };
    Ok(json!({
        "domain": domain,
        "postmaster": postmaster,
        "abuse": abuse,
        "missing": missing,
        "dns": facts,
    }))
}

/// Who gets the mail for an address of a domain that is just being made: somebody who is known, or
/// who is to have an account in it.
fn target_in(shard: &Shard, domain: &str, target: &str) -> Result<String, Fault> {
    match known_target(shard, target) {
        Ok(known) => Ok(known),
        Err(why) => match directory::canonical(target) {
            Ok(address) if address.rsplit_once('@').is_some_and(|(_, of)| of == domain) => {
                Ok(address)
            }
            _ => Err(why),
        },
    }
}

pub(super) async fn records(shard: &Rc<Shard>, domain: &str) -> Result<Value, Fault> {
    let domain = existing_domain(shard, domain)?;
    let facts = facts(shard, &domain).await?;
    serde_json::to_value(facts).map_err(|error| error.to_string())
}

/// Certificates are files: read off the core.
async fn facts(shard: &Rc<Shard>, domain: &str) -> Result<Facts, Fault> {
    let (config, domain) = (Arc::clone(&shard.config), domain.to_owned());
    let (keys, rest_goes_to) = {
        let directory = shard.directory.borrow();
        let outside = directory.catch_all(&domain).outside;
        (directory.dkim(&domain).cloned(), outside.into_iter().collect())
    };
    let gather = move || Facts::gather(&config, &domain, keys.as_deref(), unix_now());
    let facts = glommio::executor().spawn_blocking(gather).await?;
    Ok(Facts { rest_goes_to, ..facts })
}

/// Who gets the mail for the postmaster of the first domain that has one (RFC 5321 section 4.5.1:
/// every domain that takes mail takes it for its postmaster).
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
    let keys = directory.dkim(&domain).map_or(&[][..], |keys| &keys.keys);
    let selectors: Vec<&String> = keys.iter().map(|key| &key.selector).collect();
    Ok(json!({
        "domain": domain,
        "created_unix": found.created_unix,
        "accounts": accounts,
        "aliases": aliases,
        "dkim": selectors,
    }))
}

pub(super) async fn remove(shard: &Rc<Shard>, domain: &str) -> Result<Value, Fault> {
    let domain = existing_domain(shard, domain)?;
    let shown = show(shard, &domain)?;
    // These aliases were made with it, and go with it.
    let made = ["postmaster", "abuse"].map(|user| format!("{user}@{domain}"));
    let go_along: Vec<&String> = {
        let directory = shard.directory.borrow();
        made.iter().filter(|name| directory.alias(name).is_some()).collect()
    };
    for kind in ["accounts", "aliases"] {
        let goes = |name: &str| go_along.iter().any(|going| *going == name);
        let stays = |name: &&Value| !name.as_str().is_some_and(goes);
        let count = shown[kind].as_array().into_iter().flatten().filter(stays).count();
        if count > 0 {
            return Err(format!(
                "domain {domain} still has {count} {kind}; remove them first (`kura domain show {domain}` lists them)"
            ));
        }
    }
    let leading = {
        let directory = shard.directory.borrow();
        let is_in = |address: &str| address.rsplit_once('@').is_some_and(|(_, of)| of == domain);
        // Of the names in it only those are left that go along.
        let others = directory.aliases().filter(|(name, _)| !is_in(name));
        let leads = |(name, alias): (&String, &Alias)| {
            let target = alias.targets.iter().find(|target| is_in(target))?;
            Some(format!("alias {name} leads to {target}"))
        };
        others.into_iter().find_map(leads)
    };
    // Its mail would leave for whoever has the domain then.
    if let Some(leading) = leading {
        return Err(format!(
            "{leading}, which would be on another host without {domain}; change or remove the alias first (`kura alias list` shows all)"
        ));
    }
    let mut pairs = vec![pair::<Domain>("d:", &domain, None)];
    pairs.extend(go_along.into_iter().map(|name| pair::<Alias>("l:", name, None)));
    if shard.directory.borrow().dkim(&domain).is_some() {
        pairs.push(pair::<DkimKeys>("k:", &domain, None));
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
