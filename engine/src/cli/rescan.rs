//! `kura store rescan`: stored mail is scanned once more, and how far that is.

use super::ask::{Link, ask_running, broken_off, link};
use super::{Outcome, Where, counted};
use crate::config::ConfigError;
use crate::operations::Request;
use clap::Args;
use serde_json::Value;
use std::io::IsTerminal;
use std::time::Duration;

const ASK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct RescanOptions {
    #[command(flatten)]
    place: Where,
    /// Begins nothing: says how far it is.
    #[arg(long)]
    status: bool,
    /// Prints JSON, and no progress.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &RescanOptions) -> Result<Outcome, ConfigError> {
    if let Link::Store(server) = link(&options.place.load()?)? {
        server.stop();
        return Err(ConfigError(
            "stored mail is scanned by the running server: start it first".into(),
        ));
    }
    let report = if options.status {
        ask_running(&options.place, Request::StoreRescanStatus)?
    } else {
        follow(options)?
    };
    if options.json {
        outln!("{report}")?;
    } else {
        print(&report)?;
    }
    Ok(if report["failed"].is_null() { Outcome::Done } else { Outcome::Unwell })
}

/// Begins, and looks until it has ended.
fn follow(options: &RescanOptions) -> Result<Value, ConfigError> {
    ask_running(&options.place, Request::StoreRescanBegin)?;
    let shows = !options.json && std::io::stderr().is_terminal();
    loop {
        let status = ask_running(&options.place, Request::StoreRescanStatus)?;
        if status["running"] != Value::Bool(true) || !status["failed"].is_null() {
            if shows {
                eprintln!();
            }
            let is_known = status["rounds"].as_u64() > Some(0) || !status["failed"].is_null();
            return if is_known { Ok(status) } else { Err(broken_off()) };
        }
        if shows {
            eprint!(
                "\r{} scanned, {} pulled back ",
                counted(&status["scanned"], "message"),
                status["pulled_back"]
            );
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// Sums since the server started.
fn print(report: &Value) -> Result<(), ConfigError> {
    let shards = report["shards"].as_array().map(Vec::as_slice).unwrap_or_default();
    let sum = |name: &str| -> u64 {
        shards.iter().filter_map(|shard| shard["results"][name].as_u64()).sum()
    };
    let state = if report["running"] == Value::Bool(true) { "running" } else { "not running" };
    outln!(
        "{state}; since the server started: {} clean, {} known to be clean, {} pulled back, {} found and left, {} not scanned, {} found in quarantine",
        sum("clean"),
        sum("known"),
        sum("pulled_back"),
        sum("left"),
        sum("unscanned"),
        sum("kept_back"),
    )?;
    for shard in shards {
        if let Some(address) = shard["account"].as_str().filter(|address| !address.is_empty()) {
            outln!("  at {address}, {} of this round", counted(&shard["scanned"], "message"))?;
        }
    }
    if let Some(failed) = report["failed"].as_str() {
        let is_paused = shards.iter().any(|shard| shard["paused"] == Value::Bool(true));
        let when = if is_paused { "" } else { "it goes on later: " };
        outln!("  {when}{failed}")?;
    }
    Ok(())
}
