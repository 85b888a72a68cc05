//! `kura store scrub`: a round now, with what it finds.

use super::ask::{Link, ask_running, broken_off, link};
use super::{Outcome, Where, counted};
use crate::backup::progress::Progress;
use crate::config::ConfigError;
use crate::operations::{self, Request};
use clap::Args;
use serde_json::Value;
use std::time::Duration;

const ASK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct ScrubOptions {
    #[command(flatten)]
    place: Where,
    /// Prints JSON, and no progress.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &ScrubOptions) -> Result<Outcome, ConfigError> {
    let config = options.place.load()?;
    let report = match link(&config)? {
        Link::Server(_) => follow(options)?,
        Link::Store(server) => {
            let report = server.ask(0, |shard| operations::execute(shard, Request::StoreScrub));
            server.stop();
            report?.map_err(ConfigError)?
        }
    };
    let is_well = report["bad"].as_u64() == Some(0) && report["failed"].is_null();
    if options.json {
        outln!("{report}")?;
    } else {
        print(&report)?;
    }
    Ok(if is_well { Outcome::Done } else { Outcome::Unwell })
}

/// Starts a round in the running server and looks until it has ended.
fn follow(options: &ScrubOptions) -> Result<Value, ConfigError> {
    ask_running(&options.place, Request::StoreScrubBegin)?;
    let mut progress = Progress::new("scrub", options.json);
    loop {
        let status = ask_running(&options.place, Request::StoreScrubStatus)?;
        if status["whole"] != Value::Bool(true) {
            progress.end();
            // A server that was started anew meanwhile has seen no round, or the rest of one, and
            // no failure either.
            let is_known = status["whole_rounds"].as_u64() > Some(0) || !status["failed"].is_null();
            return if is_known { Ok(status) } else { Err(broken_off()) };
        }
        let figure = |name: &str| status[name].as_u64().unwrap_or(0);
        progress.show(figure("bytes"), figure("bytes_total"));
        std::thread::sleep(ASK_EVERY);
    }
}

fn print(report: &Value) -> Result<(), ConfigError> {
    outln!(
        "{} read; {} damaged, {} hurt",
        counted(&report["bytes"], "byte"),
        counted(&report["bad"], "place"),
        counted(&report["messages_hurt"], "message")
    )?;
    for finding in report["findings"].as_array().into_iter().flatten() {
        outln!("  {}", finding["place"].as_str().unwrap_or_default())?;
        for message in finding["messages"].as_array().into_iter().flatten() {
            outln!(
                "    {}, mailbox {}, UID {}",
                message["address"].as_str().unwrap_or("an account without an address"),
                message["mailbox"],
                message["uid"]
            )?;
        }
    }
    if let Some(failed) = report["failed"].as_str() {
        outln!("  not finished: {failed}")?;
    }
    Ok(())
}
