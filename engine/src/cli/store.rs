//! `kura store`: counters and checks of a running or stopped store.

use super::ask::ask;
use super::{Outcome, Where};
use crate::config::ConfigError;
use crate::operations::Request;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Counters since the store was made.
    ///
    /// Example: kura store stats --dir ./kura-data --json
    Stats {
        #[command(flatten)]
        place: Where,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Reads every message and compares it with its checksum and the index. Exit code 3: damage found.
    ///
    /// Example: kura store verify
    Verify {
        #[command(flatten)]
        place: Where,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: StoreCommand) -> Result<Outcome, ConfigError> {
    match command {
        StoreCommand::Stats { place, json } => {
            let stats = ask(&place, Request::StoreStats)?;
            if json {
                outln!("{stats}")?;
            } else {
                for (key, value) in
                    stats.as_object().into_iter().flatten().filter(|(_, v)| !v.is_array())
                {
                    outln!("{key:18} {value}")?;
                }
            }
            Ok(Outcome::Done)
        }
        StoreCommand::Verify { place, json } => {
            let report = ask(&place, Request::StoreVerify)?;
            let bad = report["bad"].as_array().map_or(0, Vec::len);
            if json {
                outln!("{report}")?;
            } else {
                outln!(
                    "{}, {}, {} read; {bad} damaged",
                    counted(&report["records"], "record"),
                    counted(&report["messages"], "message"),
                    counted(&report["bytes"], "byte")
                )?;
                for place in report["bad"].as_array().into_iter().flatten() {
                    outln!("  {}", place.as_str().unwrap_or_default())?;
                }
            }
            Ok(if bad == 0 { Outcome::Done } else { Outcome::Unwell })
        }
    }
}

fn counted(number: &serde_json::Value, noun: &str) -> String {
    let plural = if number.as_u64() == Some(1) { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
