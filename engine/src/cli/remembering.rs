//! `kura store undelete`, `kura store restore`, `kura account hold`.

use super::ask::ask_showing;
use super::directory::{Common, said, table, text};
use super::{Outcome, counted, counted_as, interrupted};
use crate::backup::progress::Progress;
use crate::config::ConfigError;
use crate::export::INCOMPLETE;
use crate::operations::Request;
use crate::remembering::Removed;
use crate::when::parse_time;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
pub(super) struct UndeleteOptions {
    /// Whose mail.
    #[arg(long, value_name = "ADDRESS")]
    account: String,
    /// Expunged at this time or later: 2h, 3d, or like 2026-11-25T16:22:03Z.
    #[arg(long, value_name = "TIME")]
    since: String,
    /// Only from this mailbox.
    #[arg(long, value_name = "NAME")]
    mailbox: Option<String>,
    /// Only these UIDs of the mailbox, such as 7 or 3,5:9.
    #[arg(long, value_name = "UIDS", requires = "mailbox", value_parser = parse_uids)]
    uid: Option<Uids>,
    /// Brings it back; otherwise it is listed.
    #[arg(long)]
    apply: bool,
    /// Writes it to this directory, which is made, as one Maildir for each mailbox; nothing in the
    /// account is changed.
    #[arg(long, value_name = "DIR", conflicts_with = "apply")]
    export: Option<PathBuf>,
    /// Brings it back even where the account's quota has no room.
    #[arg(long, requires = "apply")]
    over_quota: bool,
    /// Of an account on hold that had the address before, and was removed; of several, the one with
    /// this number (`kura account hold list`). What is kept of it is listed or exported: there is
    /// no account that it could come back to.
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, require_equals = true)]
    removed: Option<Option<u32>>,
    #[command(flatten)]
    common: Common,
}

/// An account as it was.
pub(super) struct RestoreAt {
    pub(super) account: String,
    pub(super) at: String,
    pub(super) export: Option<PathBuf>,
    pub(super) over_quota: bool,
    pub(super) removed: Option<Option<u32>>,
    pub(super) common: Common,
}

#[derive(Debug, Subcommand)]
pub(super) enum HoldCommand {
    /// From now on nothing of the account is forgotten.
    ///
    /// Example: kura account hold add ann@example.org
    Add {
        address: String,
        #[command(flatten)]
        common: Common,
    },
    /// What is older than the retention goes.
    ///
    /// Example: kura account hold remove ann@example.org
    Remove {
        address: String,
        /// Of an account that had the address and was removed: its mail goes for good. Of several,
        /// the one with this number (`kura account hold list`).
        #[arg(long, value_name = "NUMBER", num_args = 0..=1, require_equals = true)]
        removed: Option<Option<u32>>,
        #[command(flatten)]
        common: Common,
    },
    /// Example: kura account hold list
    List {
        #[command(flatten)]
        common: Common,
    },
}

/// What `--removed` says.
fn which(removed: Option<Option<u32>>) -> Removed {
    match removed {
        None => Removed::No,
        Some(None) => Removed::Only,
        Some(Some(number)) => Removed::Number(number),
    }
}

/// First and last of each run.
#[derive(Debug, Clone)]
struct Uids(Vec<(u32, u32)>);

fn parse_uids(text: &str) -> Result<Uids, String> {
    let run = |part: &str| {
        let (first, last) = part.split_once(':').unwrap_or((part, part));
        let run = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        (run.0 > 0 && run.0 <= run.1).then_some(run)
    };
    let runs: Option<Vec<(u32, u32)>> = text.split(',').map(run).collect();
    runs.map(Uids).ok_or_else(|| "write UIDs like 7 or 3,5:9".to_owned())
}

fn time(option: &str, text: &str) -> Result<u64, ConfigError> {
    parse_time(text, crate::delivery::unix_millis().0)
        .map_err(|fault| ConfigError(format!("{option}: {fault}")))
}

pub(super) fn undelete(options: UndeleteOptions) -> Result<Outcome, ConfigError> {
    let UndeleteOptions {
        account,
        since,
        mailbox,
        uid,
        apply,
        export,
        over_quota,
        removed,
        common,
    } = options;
    if apply && removed.is_some() {
        return Err(ConfigError(format!(
            "--removed with --apply: the account that had the address {account} is gone, mailboxes and all, so its mail can't come \
             back to it. Write it to a directory with --export DIR rather than --apply: as Maildirs, one for each mailbox, from \
             which a mail program copies it into any account"
        )));
    }
    let since = time("--since", &since)?;
    let uids = uid.map(|uids| uids.0);
    let export = export.map(absolute).transpose()?;
    let is_export = export.is_some();
    let request = Request::StoreUndelete {
        account,
        since,
        mailbox,
        uids,
        apply,
        over_quota,
        removed: which(removed),
        export,
        course: Arc::default(),
    };
    if is_export {
        return exported(&common, request);
    }
    if apply {
        return said(&common, request, |value| {
            let lists = value["mailboxes"].as_array().into_iter().flatten();
            let lines: String =
                lines(lists, |one| format!("\n  {} to {}", one["messages"], text(one, "mailbox")));
            let back = counted_as(&value["messages"], "message is back", "messages are back");
            format!("{back}{lines}")
        });
    }
    said(&common, request, |value| {
        let messages = value["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let all = value["all"].as_u64().unwrap_or(0);
        let numbers = value["forerunners"].as_array().map_or(&[][..], Vec::as_slice);
        let forerunner = match numbers {
            [] => String::new(),
            [_] => "\nan account that had this address before was removed and is on hold; --removed lists what is \
                    kept of it"
                .to_owned(),
            several => {
                let which = lines(several.iter(), |number| format!(" --removed={number}"));
                format!(
                    "\n{} accounts that had this address before were removed and are on hold; what is kept of each lists{which}",
                    several.len()
                )
            }
        };
        if all == 0 {
            return format!(
                "nothing was expunged since then that could be brought back{forerunner}"
            );
        }
        let more = all.saturating_sub(messages.len() as u64);
        let before = if more > 0 {
            format!("({more} earlier ones are not listed)\n")
        } else {
            String::new()
        };
        let rows = lines(messages.iter(), |one| {
            format!(
                "{}  {}  UID {}  {} bytes  {}  {}\n",
                text(one, "expunged"),
                text(one, "mailbox"),
                one["uid"],
                one["bytes"],
                text(one, "from"),
                text(one, "subject")
            )
        });
        if value["is_removed"] == true {
            return format!(
                "{before}{rows}{all} are kept on hold; the account was removed, so add --export DIR to have them"
            );
        }
        format!("{before}{rows}{all} can be brought back; add --apply to do it{forerunner}")
    })
}

fn lines<'v>(rows: impl Iterator<Item = &'v Value>, line: impl Fn(&Value) -> String) -> String {
    rows.map(line).collect()
}

pub(super) fn restore(options: RestoreAt) -> Result<Outcome, ConfigError> {
    let RestoreAt { account, at, export, over_quota, removed, common } = options;
    let at = time("--at", &at)?;
    let export = export.map(absolute).transpose()?;
    let removed = which(removed);
    let course = Arc::default();
    exported(&common, Request::StoreRestoreAt { account, at, export, over_quota, removed, course })
}

fn absolute(dir: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&dir)
        .map_err(|error| ConfigError(format!("--export {}: {error}", dir.display())))
}

fn broken_off(directory: &std::path::Path, (done, total): (u64, u64)) -> String {
    let place = directory.display();
    let kib = |bytes: u64| bytes.div_ceil(1024);
    let written = match (done, total) {
        (0, _) => "hardly anything was written yet".to_owned(),
        (done, total) if done >= total => "all was written, and perhaps not yet flushed".to_owned(),
        (done, total) => format!("about {} of {} KiB were written", kib(done), kib(total)),
    };
    format!(
        "broken off: {written}. As long as there is a file {INCOMPLETE} in {place}, not all of the mail is there: remove that \
         directory, or name another one, and start again"
    )
}

/// What was written to a directory, or shown.
fn exported(common: &Common, request: Request) -> Result<Outcome, ConfigError> {
    let mut progress = Progress::new("written", common.json);
    if let Some(directory) = request.export().map(std::path::Path::to_owned) {
        let so_far = progress.so_far();
        interrupted::say(move || broken_off(&directory, so_far.bytes()))?;
    }
    let value = ask_showing(&common.place, request, &mut progress)?;
    let damaged = value["damaged"].as_u64().unwrap_or(0);
    let lost = value["records_lost"].as_u64().unwrap_or(0);
    if common.json {
        outln!("{value}")?;
    } else {
        let (messages, mailboxes) = (&value["messages"], &value["mailboxes"]);
        let place = match value["directory"].as_str() {
            Some(directory) => format!("written to {directory}"),
            None => format!("shown below the mailbox {:?}, read-only", text(&value, "tree")),
        };
        let as_of = match value["at"].as_str() {
            Some(at) => format!(" as of {at}"),
            None => String::new(),
        };
        let mailboxes = counted_as(mailboxes, "mailbox", "mailboxes");
        outln!("{} in {mailboxes}{as_of}, {place}", counted(messages, "message"))?;
        if damaged > 0 {
            outln!(
                "{} could not be read; `kura store verify` names the places",
                counted(damaged, "message")
            )?;
        }
        if lost > 0 {
            outln!(
                "{} of the log could not be read: messages and changes of that time may be missing here; \
                 an older backup may have them",
                counted(lost, "record")
            )?;
        }
    }
    Ok(if damaged == 0 && lost == 0 { Outcome::Done } else { Outcome::Unwell })
}

pub(super) fn hold(command: HoldCommand) -> Result<Outcome, ConfigError> {
    match command {
        HoldCommand::Add { address, common } => {
            said(&common, Request::HoldAdd { address }, |value| {
                format!("{} is on hold: nothing of it is forgotten", text(value, "address"))
            })
        }
        HoldCommand::Remove { address, removed, common } => {
            let removed = which(removed);
            said(&common, Request::HoldRemove { address, removed }, |value| {
                let whose = if value["removed"] == true { "what was removed of " } else { "" };
                format!("{whose}{} is no longer on hold", text(value, "address"))
            })
        }
        HoldCommand::List { common } => {
            table(&common, Request::HoldList, &["address", "since", "account", "number"])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_uids;

    #[test]
    fn uids_are_runs() {
        assert_eq!(parse_uids("3,5:9").unwrap().0, [(3, 3), (5, 9)]);
        for text in ["", "0", "9:5", "a", "1,,2", "1:*"] {
            assert!(parse_uids(text).is_err(), "{text}");
        }
    }
}
