//! What can be asked about the store: figures, what verifies, how far background work is.

use super::{Fault, on};
use crate::course::Course;
use crate::directory::Account;
use crate::shard::Shard;
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;

pub(super) async fn stats(shard: &Rc<Shard>) -> Result<Value, Fault> {
    let mut shards = Vec::new();
    for home in 0..shard.mesh.cores() {
        let stats = |shard: Rc<Shard>| async move {
            crate::harm::look(&shard).await;
            Ok::<_, Fault>(shard.store.stats())
        };
        shards.push(on(shard, home, stats).await?);
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
            "files_harmed": stats.files_harmed,
            "given_up": stats.given_up,
            "log_bytes": stats.log_bytes,
            "log_live_bytes": stats.log_live_bytes,
            "live_bytes": stats.live_bytes,
            "free_bytes": stats.free_bytes,
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
        "files_harmed": sum(|s| s.files_harmed),
        "given_up": sum(|s| s.given_up),
        "log_bytes": sum(|s| s.log_bytes),
        "log_live_bytes": sum(|s| s.log_live_bytes),
        "live_bytes": sum(|s| s.live_bytes),
        // Shards may share a file system; of several the one that is full first counts.
        "free_bytes": shards.iter().map(|s| s.free_bytes).min(),
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

pub(super) async fn verify(shard: &Rc<Shard>, course: Arc<Course>) -> Result<Value, Fault> {
    let (mut records, mut messages, mut bytes, mut bad) = (0, 0, 0, Vec::new());
    let accounts: Vec<(String, Account)> = {
        let directory = shard.directory.borrow();
        directory.accounts().map(|(address, account)| (address.clone(), account.clone())).collect()
    };
    let (mut before, mut total) = (0, 0);
    for home in 0..shard.mesh.cores() {
        let bytes = |shard: Rc<Shard>| async move { Ok::<_, Fault>(shard.store.bytes_to_verify()) };
        total += on(shard, home, bytes).await?;
    }
    for home in 0..shard.mesh.cores() {
        let on_course = Arc::clone(&course);
        let (report, known, done) = on(shard, home, move |shard| async move {
            let known = shard.store.accounts();
            let mut done = 0;
            let show = |bytes| {
                done += bytes;
                on_course.set((before + done).min(total), total);
                !on_course.is_given_up()
            };
            shard.store.verify_showing(show).await.map(|report| (report, known, done))
        })
        .await?;
        if course.is_given_up() {
            return Err("the command that asked for it has gone".to_owned());
        }
        before += done;
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

/// Sums over the shards; each of them below.
pub(super) async fn rescan_status(shard: &Rc<Shard>) -> Result<Value, Fault> {
    let mut shards = Vec::new();
    for home in 0..shard.mesh.cores() {
        let status =
            |shard: Rc<Shard>| async move { Ok::<_, Fault>(crate::scan::again::status(&shard)) };
        shards.push(on(shard, home, status).await?);
    }
    let sum = |name: &str| shards.iter().filter_map(|one| one[name].as_u64()).sum::<u64>();
    Ok(json!({
        "running": shards.iter().any(|one| one["running"] == true),
        "rounds": shards.iter().filter_map(|one| one["rounds"].as_u64()).min(),
        "scanned": sum("scanned"),
        "pulled_back": sum("pulled_back"),
        "failed": shards.iter().find_map(|one| one["failed"].as_str()),
        "shards": shards,
    }))
}

/// Sums over the shards; each of them below.
pub(super) async fn compact_status(shard: &Rc<Shard>) -> Result<Value, Fault> {
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

/// Summed over the shards; accounts get their addresses.
pub(super) async fn scrub_status(shard: &Rc<Shard>) -> Result<Value, Fault> {
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
        "whole": statuses.iter().any(|one| one["whole"] == Value::Bool(true)),
        "rounds": statuses.iter().filter_map(|one| one["rounds"].as_u64()).min(),
        "whole_rounds": statuses.iter().filter_map(|one| one["whole_rounds"].as_u64()).min(),
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
