//! `kura store`: counters and checks of a running or stopped store.

use super::ask::{ask, ask_showing};
use super::{
    Outcome, Where, backup, compact, counted, remembering, rescan, restore, salvage, scrub,
};
use crate::backup::progress::Progress;
use crate::config::ConfigError;
use crate::operations::Request;
use clap::Subcommand;
use serde_json::Value;
use std::sync::Arc;

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Copies the store, the configuration and the certificates to a directory or an S3 bucket,
    /// while the server runs or not; sends only what is not there yet.
    ///
    /// Example: kura store backup --to /mnt/backup --keep 14
    Backup(backup::BackupOptions),
    /// Gives back all space that can be had, now: moves what is live out of segments with
    /// garbage in them. The server does so by itself where it is worth it; what the retention
    /// and holds keep stays.
    ///
    /// Example: kura store compact --dir ./kura-data
    Compact(compact::CompactOptions),
    /// Scans the stored mail of the last days once more, now, and pulls what turns out to hold a
    /// virus back into quarantine. The server does so by itself when a scanner has new signatures.
    ///
    /// `kura quarantine list` shows what was pulled back. How many days: `days` in the config
    /// file's [scan.again]. Exit code 3: it can't go on now, because no scanner answers.
    ///
    /// Example: kura store rescan --json
    Rescan(rescan::RescanOptions),
    /// Reads everything once, now, within the scrub's share of the disk, and says what has
    /// rotted and whose messages that hurts. The server does so by itself, too. Exit code
    /// 3: something has.
    ///
    /// Example: kura store scrub --json
    Scrub(scrub::ScrubOptions),
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
    /// Reads every message and compares it with its checksum and the index. Exit code
    /// 3: damage found.
    ///
    /// Example: kura store verify
    Verify {
        #[command(flatten)]
        place: Where,
        /// Names all damaged places, not only the first 20 of each shard.
        #[arg(long)]
        all: bool,
        /// Prints JSON, which has all of them, and no progress.
        #[arg(long)]
        json: bool,
    },
    /// Lists what was expunged from an account, and brings it back with --apply.
    ///
    /// Without --apply nothing is changed. Messages come back to the mailboxes that they were in,
    /// with new UIDs. How long expunged mail is kept is `retention` in the config file's [store].
    ///
    /// Example: kura store undelete --account ann@example.org --since 2h
    Undelete(remembering::UndeleteOptions),
    /// Rebuilds a data directory from a backup, verified piece by piece; or shows an account as it
    /// was, in read-only mailboxes of its own, or writes it to a directory.
    ///
    /// Delete the tree that is shown over IMAP when it is no longer wanted.
    ///
    /// Example: kura store restore --from /mnt/backup --dir ./restored
    ///
    /// Example: kura store restore --account ann@example.org --at 2026-11-25T16:00:00Z
    Restore(Box<restore::RestoreOptions>),
    /// Takes everything that still verifies out of a stopped store that does not open any more,
    /// and makes a fresh data directory of it. The damaged one is only read. Exit code 3:
    /// something was lost.
    ///
    /// Where kura.toml is lost, too, --dir names the data directory itself: NEW gets a kura.toml
    /// with the defaults, unless you have put one there.
    ///
    /// Mail whose mailbox is not known any more is in a mailbox "Salvaged" of its account; an
    /// account whose address is not known gets one like salvaged-7@example.org.
    ///
    /// Example: kura store salvage --dir ./kura-data --to ./kura-saved
    Salvage(salvage::SalvageOptions),
}

pub(super) fn run(command: StoreCommand) -> Result<Outcome, ConfigError> {
    match command {
        StoreCommand::Undelete(options) => remembering::undelete(options),
        StoreCommand::Restore(options) => restore::run(*options),
        StoreCommand::Salvage(options) => salvage::run(&options),
        StoreCommand::Backup(options) => backup::backup(&options),
        StoreCommand::Compact(options) => compact::run(&options),
        StoreCommand::Rescan(options) => rescan::run(&options),
        StoreCommand::Scrub(options) => scrub::run(&options),
        StoreCommand::Stats { place, json } => {
            let stats = ask(&place, Request::StoreStats)?;
            if json {
                outln!("{stats}")?;
            } else {
                for (key, value) in
                    stats.as_object().into_iter().flatten().filter(|(_, v)| !v.is_array())
                {
                    outln!("{key:20} {value}{}", in_mebibytes(key, value))?;
                }
                let shards = stats["shards"].as_array().map_or(&[][..], Vec::as_slice);
                // Of one shard there is no more to say.
                if shards.len() > 1 {
                    for (number, shard) in shards.iter().enumerate() {
                        outln!("{}", shard_line(number, shard))?;
                    }
                }
            }
            Ok(Outcome::Done)
        }
        StoreCommand::Verify { place, all, json } => {
            let mut progress = Progress::new("verify", json);
            let request = Request::StoreVerify { course: Arc::default() };
            let report = ask_showing(&place, request, &mut progress)?;
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
                let places = report["bad"].as_array().into_iter().flatten();
                let places: Vec<&str> = places.filter_map(Value::as_str).collect();
                let most = if all { usize::MAX } else { PLACES_NAMED_MAX };
                for line in named(&places, most) {
                    outln!("  {line}")?;
                }
            }
            Ok(if bad == 0 { Outcome::Done } else { Outcome::Unwell })
        }
    }
}

/// Damaged places of each shard that `store verify` names unasked.
const PLACES_NAMED_MAX: usize = 20;

/// At most so many of each shard, and how many more there are.
fn named(places: &[&str], most: usize) -> Vec<String> {
    let shard = |place: &str| place.split(':').next().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    for same in places.chunk_by(|one, next| shard(one) == shard(next)) {
        lines.extend(same.iter().take(most).map(|place| (*place).to_owned()));
        let more = same.len().saturating_sub(most);
        if more > 0 {
            let more = counted(more, "more place");
            lines.push(format!("{}: {more}; --all names all", shard(same[0])));
        }
    }
    lines
}

fn mebibytes(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0) >> 20
}

/// Behind a figure in bytes that is too long to read.
fn in_mebibytes(key: &str, value: &Value) -> String {
    match mebibytes(value) {
        1.. if key.contains("bytes") => format!(" ({} MiB)", mebibytes(value)),
        _ => String::new(),
    }
}

fn shard_line(number: usize, shard: &Value) -> String {
    let halted = if shard["halted"] == true { "; it has halted" } else { "" };
    format!(
        "shard {number}: {}, {} MiB of log, {} MiB of it in use, {} and {}; {} MiB free{halted}",
        counted(&shard["messages"], "message"),
        mebibytes(&shard["log_bytes"]),
        mebibytes(&shard["log_live_bytes"]),
        counted(&shard["segments"], "segment"),
        counted(&shard["spare_segments"], "spare"),
        mebibytes(&shard["free_bytes"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_many_places_the_first_of_each_shard_are_named() {
        let places = ["shard 0: a", "shard 0: b", "shard 0: c", "shard 1: d"];
        let said = named(&places, 2);
        let more = "shard 0: 1 more place; --all names all";
        assert_eq!(said, ["shard 0: a", "shard 0: b", more, "shard 1: d"]);
        assert_eq!(named(&places, usize::MAX), places);
    }

    #[test]
    fn bytes_have_their_mebibytes_beside_them() {
        assert_eq!(in_mebibytes("log_bytes", &json!(5 << 20)), " (5 MiB)");
        assert_eq!(in_mebibytes("log_bytes", &json!(5)), "");
        assert_eq!(in_mebibytes("messages", &json!(5 << 20)), "");
    }
}
