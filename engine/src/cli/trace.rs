//! `kura trace`: what has become of messages.

use super::Outcome;
use super::ask::ask;
use super::directory::{Common, text};
use crate::config::ConfigError;
use crate::operations::Request;
use crate::when::parse_time;
use clap::Args;
use serde_json::Value;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// An account or alias here: all its mail. Another address: mail from it or to it.
    /// Or a Message-ID.
    #[arg(value_name = "ADDRESS|MESSAGE-ID")]
    who: String,
    /// That came at this time or later: 2h, 3d, or like 2026-11-25T16:22:03Z.
    #[arg(long, value_name = "TIME", default_value = "1d")]
    since: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(options: Options) -> Result<Outcome, ConfigError> {
    let Options { who, since, common } = options;
    let since = parse_time(&since, crate::delivery::unix_millis().0)
        .map_err(|fault| ConfigError(format!("--since: {fault}")))?;
    let traced = ask(&common.place, Request::Trace { who, since })?;
    if common.json {
        outln!("{traced}")?;
        return Ok(Outcome::Done);
    }
    let (messages, queue) = (list(&traced["messages"]), list(&traced["queue"]));
    for row in messages {
        outln!("{}", told(row))?;
    }
    for row in queue {
        outln!(
            "waits to leave: {} from {} to {}: {}",
            text(row, "id"),
            text(row, "sender"),
            list(&row["recipients"])
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(", "),
            text(row, "why"),
        )?;
    }
    let waiting = traced["queue_all"].as_u64().unwrap_or(0);
    if waiting > queue.len() as u64 {
        outln!(
            "({} of {waiting} that wait to leave: those that have waited longest)",
            queue.len()
        )?;
    }
    let all = traced["all"].as_u64().unwrap_or(0);
    if all > messages.len() as u64 {
        outln!("({} of {all}: the latest; --since a later time tells fewer)", messages.len())?;
    }
    if messages.is_empty() && queue.is_empty() {
        outln!("nothing has come since then; what was refused, or has left, is in the log")?;
    }
    Ok(Outcome::Done)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A message in a paragraph: where it is, then what there is to say about it.
fn told(row: &Value) -> String {
    let mut told = format!(
        "{}  {} in {}, UID {}, {} octets",
        text(row, "arrived"),
        text(row, "account"),
        text(row, "mailbox"),
        row["uid"],
        row["octets"],
    );
    if let Some(time) = row["expunged"].as_str() {
        told += &format!(", expunged {time}");
    }
    if let Some(state) = row["quarantine"].as_str() {
        told += &format!("\n    quarantine: {state} ({})", text(row, "kept"));
        if let Some(why) = row["pulled_back"].as_str() {
            told += &format!("\n    pulled back: {why}");
        }
    }
    let lines = [
        ("from", "from"),
        ("subject", "subject"),
        ("message_id", "message-id"),
        ("received", "received"),
        ("authentication", "authentication"),
        ("spam", "spam"),
        ("sorted", "sorted as"),
        ("virus", "scan"),
        ("unreadable", "can't be read"),
    ];
    for (key, name) in lines {
        if let Some(value) = row[key].as_str() {
            told += &format!("\n    {name}: {value}");
        }
    }
    told
}
