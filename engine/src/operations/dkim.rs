//! The keys of a domain: shown, made, exchanged. The DNS side of it is the command's,
//! see `cli/dkim.rs`.

use super::domains::existing_domain;
use super::{Fault, change, pair, unix_now};
use crate::domain::keys::{DkimKey, DkimKeys, State};
use crate::shard::Shard;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "dkim", rename_all = "snake_case")]
pub enum DkimRequest {
    /// All domains' without one.
    List { domain: Option<String> },
    /// Makes a pair that waits, unless one does already; in a domain without keys one that signs.
    Rotate { domain: String },
    /// What waits signs, and what has signed is retired.
    Activate { domain: String },
}

impl DkimRequest {
    pub(super) fn changes_directory(&self) -> bool {
        !matches!(self, DkimRequest::List { .. })
    }
}

pub(super) async fn execute(shard: &Rc<Shard>, request: DkimRequest) -> Result<Value, Fault> {
    match request {
        DkimRequest::List { domain } => list(shard, domain),
        DkimRequest::Rotate { domain } => rotate(shard, &domain).await,
        DkimRequest::Activate { domain } => activate(shard, &domain).await,
    }
}

fn list(shard: &Shard, domain: Option<String>) -> Result<Value, Fault> {
    let domain = domain.map(|domain| existing_domain(shard, &domain)).transpose()?;
    let directory = shard.directory.borrow();
    let wanted = directory
        .domains()
        .map(|(name, _)| name)
        .filter(|name| domain.as_ref().is_none_or(|domain| domain == *name));
    let now = unix_now();
    let rows = wanted.flat_map(|name| {
        let keys = directory.dkim(name).map_or(&[][..], |keys| &keys.keys);
        let published = move |key: &&DkimKey| key.until().is_none_or(|until| now < until);
        keys.iter().filter(published).map(|key| row(name, key)).collect::<Vec<_>>()
    });
    Ok(Value::Array(rows.collect()))
}

fn row(domain: &str, key: &DkimKey) -> Value {
    json!({
        "domain": domain,
        "selector": key.selector,
        "algorithm": key.algorithm.name(),
        "state": key.state().name(),
        "created_unix": key.created_unix,
        "active_unix": key.active_unix,
        "retired_unix": key.retired_unix,
        "until_unix": key.until(),
        "name": key.record_name(domain),
        "text": key.record_text(),
    })
}

/// With a fresh pair, made off the core.
pub(super) async fn with_pair(keys: Option<Arc<DkimKeys>>) -> Result<DkimKeys, Fault> {
    let now = unix_now();
    let make = move || {
        let mut keys = keys.map_or_else(DkimKeys::default, |keys| (*keys).clone());
        keys.add_pair(now).map(|()| keys)
    };
    let made = glommio::executor().spawn_blocking(make).await;
    made.map_err(|error| error.to_string())
}

async fn rotate(shard: &Rc<Shard>, domain: &str) -> Result<Value, Fault> {
    let domain = existing_domain(shard, domain)?;
    let before = shard.directory.borrow().dkim(&domain).cloned();
    let waits = before.as_ref().is_some_and(|keys| keys.has(State::Waiting));
    let keys = match &before {
        Some(keys) if waits => (**keys).clone(),
        _ => {
            let keys = with_pair(before.clone()).await?;
            change(shard, vec![pair("k:", &domain, Some(&keys))]).await?;
            keys
        }
    };
    let fresh = if keys.has(State::Waiting) { State::Waiting } else { State::Signing };
    let rows = keys.keys.iter().filter(|key| key.state() == fresh).map(|key| row(&domain, key));
    Ok(json!({ "domain": domain, "made": !waits, "keys": rows.collect::<Vec<_>>() }))
}

async fn activate(shard: &Rc<Shard>, domain: &str) -> Result<Value, Fault> {
    let domain = existing_domain(shard, domain)?;
    let before = shard.directory.borrow().dkim(&domain).cloned();
    let mut keys = before.map_or_else(DkimKeys::default, |keys| (*keys).clone());
    if !keys.activate(unix_now()) {
        return Err(format!(
            "no keys of {domain} wait; make some with `kura domain dkim rotate {domain}`"
        ));
    }
    change(shard, vec![pair("k:", &domain, Some(&keys))]).await?;
    tracing::info!(target: crate::NOTICE, domain, "mail is signed with new DKIM keys");
    let rows: Vec<Value> = keys.keys.iter().map(|key| row(&domain, key)).collect();
    Ok(json!({ "domain": domain, "keys": rows }))
}
