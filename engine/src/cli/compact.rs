//! `kura store compact`: all space that can be had, now.

use super::ask::{Link, ask_running, link};
use super::{Outcome, Where, counted};
use crate::backup::progress::Progress;
use crate::config::ConfigError;
use crate::operations::{self, Request};
use clap::Args;
use serde_json::Value;
use std::time::Duration;

const ASK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct CompactOptions {
    #[command(flatten)]
    place: Where,
    /// Prints JSON, and no progress.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &CompactOptions) -> Result<Outcome, ConfigError> {
    let config = options.place.load()?;
    let report = match link(&config)? {
        Link::Server(_) => follow(options)?,
        Link::Store(server) => {
            let report = server.ask(0, |shard| operations::execute(shard, Request::StoreCompact));
            server.stop();
            report?.map_err(ConfigError)?
        }
    };
    if options.json {
        outln!("{report}")?;
    } else {
        let mib = |name: &str| report[name].as_u64().unwrap_or(0) >> 20;
        outln!(
            "{} MiB of segments are {} MiB now, {} MiB of which are in use; {} MiB moved, {} freed",
            mib("log_bytes_before"),
            mib("log_bytes"),
            mib("log_live_bytes"),
            mib("bytes_moved"),
            counted(&report["segments_freed"], "segment")
        )?;
        if mib("buried_bytes") > 0 {
            outln!(
                "{} MiB of what is in use is expunged mail that the retention or a hold keeps",
                mib("buried_bytes")
            )?;
        }
    }
    match report["failed"].as_str() {
        Some(failed) => Err(ConfigError(format!("compaction was not finished: {failed}"))),
        None => Ok(Outcome::Done),
    }
}

/// Lets the running server begin, and looks until it has come to rest.
fn follow(options: &CompactOptions) -> Result<Value, ConfigError> {
    ask_running(&options.place, Request::StoreCompactBegin)?;
    let mut progress = Progress::new("compact", options.json);
    loop {
        // It begins with the next turn of each core.
        std::thread::sleep(ASK_EVERY);
        let status = ask_running(&options.place, Request::StoreCompactStatus)?;
        let figure = |name: &str| status[name].as_u64().unwrap_or(0);
        if status["running"] != Value::Bool(true) {
            progress.end();
            return Ok(status);
        }
        let garbage = figure("log_bytes_before").saturating_sub(figure("log_live_bytes"));
        let freed = figure("log_bytes_before").saturating_sub(figure("log_bytes"));
        progress.show(freed.min(garbage), garbage);
    }
}
