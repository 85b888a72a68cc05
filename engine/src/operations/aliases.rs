//! Further addresses of accounts.

use super::accounts::free_address;
use super::domains::{existing_domain, known_target, named};
use super::{Fault, change, pair};
use crate::directory::{self, Alias, canonical_domain};
use crate::shard::Shard;
use serde_json::{Value, json};
use std::rc::Rc;

pub(super) async fn add(
    shard: &Rc<Shard>,
    alias: &str,
    targets: Vec<String>,
    replace: bool,
) -> Result<Value, Fault> {
    let alias = name(shard, alias)?;
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
    let target = |target: &String| of_ours_or_outside(shard, target);
    let targets: Vec<String> = targets
        .iter()
        .map(target)
        .collect::<Result<_, _>>()
        .map_err(|why| format!("alias {alias}: {why}"))?;
    let value = Alias { targets };
    change(shard, vec![pair("l:", &alias, Some(&value))]).await?;
    let is_outside = |target: &&String| !is_ours(shard, target);
    let outside: Vec<&String> = value.targets.iter().filter(is_outside).collect();
    Ok(json!({ "alias": alias, "targets": value.targets, "outside": outside }))
}

fn is_ours(shard: &Shard, address: &str) -> bool {
    let domain = address.rsplit_once('@').and_then(|(_, domain)| canonical_domain(domain));
    domain.is_some_and(|domain| shard.directory.borrow().domain(&domain).is_some())
}

/// Somebody here, or anybody on another host, who gets the mail through the queue.
fn of_ours_or_outside(shard: &Shard, target: &str) -> Result<String, Fault> {
    if is_ours(shard, target) {
        return known_target(shard, target);
    }
    let Some(outside) = directory::outside(target) else { return known_target(shard, target) };
    if !shard.config.relay.enabled {
        return Err(format!(
            "{outside} is on another host, and nothing leaves this one; set enabled = true in [relay]"
        ));
    }
    Ok(outside)
}

/// `user@domain`, or `@domain` for what nobody else takes.
fn name(shard: &Shard, alias: &str) -> Result<String, Fault> {
    match alias.strip_prefix('@') {
        Some(domain) => Ok(format!("@{}", existing_domain(shard, domain)?)),
        None => named(shard, alias),
    }
}

pub(super) fn list(shard: &Shard) -> Value {
    let directory = shard.directory.borrow();
    let rows = directory
        .aliases()
        .map(|(alias, value)| json!({ "alias": alias, "targets": value.targets }));
    Value::Array(rows.collect())
}

pub(super) async fn remove(shard: &Rc<Shard>, alias: &str) -> Result<Value, Fault> {
    let alias = name(shard, alias)?;
    if shard.directory.borrow().alias(&alias).is_none() {
        return Err(format!("no alias {alias}; `kura alias list` shows those there are"));
    }
    change(shard, vec![pair::<Alias>("l:", &alias, None)]).await?;
    Ok(json!({ "alias": alias }))
}
