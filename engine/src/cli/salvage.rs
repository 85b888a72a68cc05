//! `kura store salvage`: what can be saved of a damaged store.

use super::interrupted::Making;
use super::queue::say_settled;
use super::{Outcome, Where, counted, counted_as};
use crate::backup::progress::Progress;
use crate::backup::restore::check_free;
use crate::config::{Config, ConfigError};
use crate::directory::Directory;
use crate::layout;
use crate::salvage::{self, Salvaged};
use crate::server::{Mode, Server};
use crate::when::time_text;
use clap::Args;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use storage::AccountId;
use storage::salvage::{LISTED_MAX, SalvageReport, Tally};

#[derive(Debug, Args)]
pub(super) struct SalvageOptions {
    #[command(flatten)]
    place: Where,
    /// The fresh data directory: empty, or not there yet.
    #[arg(long, value_name = "NEW")]
    to: PathBuf,
    /// Prints JSON, and no progress.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &SalvageOptions) -> Result<Outcome, ConfigError> {
    let to = std::path::absolute(&options.to)
        .map_err(|error| ConfigError(format!("--to {}: {error}", options.to.display())))?;
    let making = Making {
        what: "salvage",
        data_dir: to.clone(),
        staging: salvage::STAGING,
        config_file: to.join(super::quickstart::CONFIG_FILE),
    };
    making.say()?;
    let (config, config_file, is_new) = configured(&options.place, &to)?;
    let knobs = super::profile::knobs(&config)?;
    let mut progress = Progress::new("salvage", options.json);
    let show = |shard: u16, done: u64, total: u64| {
        if total > 0 {
            return progress.show(done, total);
        }
        progress.end();
        progress = Progress::new("salvage", options.json);
        if !options.json {
            // Nobody may be looking.
            let _ = writeln!(std::io::stderr(), "shard {shard} is being looked through");
        }
    };
    let salvaged = salvage::run(&config, &config_file, &knobs, &to, show);
    progress.end();
    let salvaged = salvaged.map_err(ConfigError)?;
    let config_file = to.join(super::quickstart::CONFIG_FILE);
    let mut server = Server::start(Config::load(&config_file)?, knobs, Mode::CommandOnly)?;
    let settled = server.settled.take().unwrap_or_default();
    let names = server.ask(0, |shard| async move {
        let directory = shard.directory.borrow();
        addresses(&directory)
    });
    server.stop();
    super::backup::give_to_owner(&to)?;
    let mut said = told(&salvaged, &settled.mended, &names?);
    said["queue_on_hold"] = json!(settled.held);
    if options.json {
        outln!("{said}")?;
    } else {
        print(&said)?;
        say_settled(&settled)?;
        if is_new {
            outln!(
                "the config file was lost: {} has the defaults, and the hostname {:?}; set what it said before you start it",
                config_file.display(),
                config.hostname
            )?;
        }
        outln!("start it: kura serve --config {}", config_file.display())?;
    }
    let none = ["messages_lost", "records_lost", "segments_missing"];
    let is_whole = none.iter().all(|figure| said[figure] == 0);
    let none = ["shards_missing", "ends_missing", "named"];
    let is_known = none.iter().all(|list| said[list] == json!([]));
    Ok(if is_whole && is_known { Outcome::Done } else { Outcome::Unwell })
}

/// Where accounts have their mail when nobody knows what the host is called (RFC 2606 section 2).
const NO_HOSTNAME: &str = "salvaged.invalid";

/// The configuration and its file. Where that is lost and `--dir` is the data directory itself: the
/// defaults, in a new file in `to`, unless somebody has put one there. Whether it is new.
fn configured(place: &Where, to: &Path) -> Result<(Config, PathBuf, bool), ConfigError> {
    let config_file = place.config_file();
    if place.config.is_some() || config_file.exists() || !place.dir.join("store").is_dir() {
        if !config_file.exists() {
            return Err(ConfigError(format!(
                "there is no config file {}; if it is lost, name the data directory alone: --dir DATA, where `store` lies",
                config_file.display()
            )));
        }
        return Ok((place.load()?, config_file, false));
    }
    check_free(to).map_err(ConfigError)?;
    let config_file = to.join(super::quickstart::CONFIG_FILE);
    let is_new = !config_file.exists();
    if is_new {
        let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hostname = crate::directory::canonical_domain(hostname.trim())
            .filter(|name| name.contains('.'))
            .unwrap_or_else(|| NO_HOSTNAME.to_owned());
        let text = format!("hostname = {hostname:?}\ndata_dir = \".\"\n");
        let made = layout::private_dir(to).and_then(|()| layout::write_synced(&config_file, &text));
        made.map_err(|error| {
            ConfigError(format!("can't write {}: {error}", config_file.display()))
        })?;
    }
    let mut config = Config::load(&config_file)?;
    config.data_dir.clone_from(&place.dir);
    Ok((config, config_file, is_new))
}

/// By home shard and number.
type Names = Vec<((u16, u32), String)>;

fn addresses(directory: &Directory) -> Names {
    let accounts = directory.accounts();
    accounts.map(|(address, account)| ((account.shard, account.id), address.clone())).collect()
}

fn told(salvaged: &Salvaged, mended: &Value, names: &Names) -> Value {
    let reports = &salvaged.shards;
    let numbered = || (0_u16..).zip(reports);
    let sum = |figure: fn(&SalvageReport) -> u64| reports.iter().flatten().map(figure).sum::<u64>();
    let missing: Vec<u16> =
        numbered().filter(|(_, report)| report.is_none()).map(|(shard, _)| shard).collect();
    let (mut lost, mut damage, mut begun) = (Vec::new(), Vec::new(), Vec::new());
    let mut by_account = Vec::new();
    let name = |shard: u16, account: AccountId| {
        let name = names.iter().find(|(place, _)| *place == (shard, account.0));
        match name {
            Some((_, name)) => name.as_str(),
            None if account == AccountId::QUEUE => "the queue",
            None => "an account without an address",
        }
    };
    for (shard, report) in numbered() {
        let Some(report) = report else { continue };
        begun.push(json!({ "shard": shard, "with": report.begun_with }));
        damage.extend(report.damage.iter().map(|what| format!("shard {shard}: {what}")));
        for (account, mailbox, uid) in &report.lost {
            let address = name(shard, *account);
            lost.push(json!({ "address": address, "mailbox": mailbox, "uid": uid.0 }));
        }
        for (account, Tally { saved, lost }) in &report.by_account {
            by_account.push((name(shard, *account), *saved, *lost));
        }
    }
    // Those that have lost most, first.
    by_account.sort_by_key(|(name, _, lost)| (std::cmp::Reverse(*lost), *name));
    let by_account: Vec<Value> = by_account
        .into_iter()
        .filter(|(_, saved, lost)| saved + lost > 0)
        .map(|(address, saved, lost)| json!({ "address": address, "saved": saved, "lost": lost }))
        .collect();
    json!({
        "accounts": sum(|r| r.accounts),
        "mailboxes": sum(|r| r.mailboxes),
        "messages": sum(|r| r.messages),
        "bytes": sum(|r| r.bytes),
        "messages_in_salvaged": sum(|r| r.messages_salvaged),
        "expunged_kept": sum(|r| r.buried),
        "expunged_lost": sum(|r| r.buried_lost),
        "messages_lost": sum(|r| r.messages_lost),
        "records_lost": sum(|r| r.records_lost),
        "segments_missing": sum(|r| r.segments_missing),
        "lost": lost,
        "by_account": by_account,
        "shards_missing": missing,
        "ends_missing": ends_missing(reports),
        "begun": begun,
        "damage": damage,
        "named": mended["named"],
        "emptied": mended["emptied"],
        "held": mended["held"],
        "left_out": salvaged.left_out,
    })
}

/// Shards whose log ends too early, and what is known of the rest.
fn ends_missing(reports: &[Option<SalvageReport>]) -> Vec<Value> {
    let ends = reports.iter().map(|report| report.as_ref().map_or(0, |report| report.end.time.0));
    let ends: Vec<u64> = ends.collect();
    let end = |shard: usize, report: &SalvageReport| {
        let missing = report.end_missing.as_ref()?;
        let others = (0..ends.len()).filter(|other| *other != shard && ends[*other] > ends[shard]);
        let others = others.max_by_key(|other| ends[*other]);
        let has_any = report.end.lsn.0 > 0;
        Some(json!({
            "shard": shard,
            "what": missing.what,
            "last_lsn": report.end.lsn.0,
            "last_time": has_any.then(|| time_text(report.end.time.0)),
            "reached_lsn": missing.reached.map(|reached| reached.0),
            "newer_shard": others,
            "newer_time": others.map(|other| time_text(ends[other])),
        }))
    };
    let reports = reports.iter().enumerate();
    reports.filter_map(|(shard, report)| end(shard, report.as_ref()?)).collect()
}

/// What no figure can say.
fn print_end_missing(end: &Value) -> Result<(), ConfigError> {
    let (shard, what) = (&end["shard"], end["what"].as_str().unwrap_or_default());
    let last = match end["last_time"].as_str() {
        Some(time) => format!("the last record found is LSN {}, of {time}", end["last_lsn"]),
        None => "no record of it was found".to_owned(),
    };
    let reached = match end["reached_lsn"].as_u64() {
        Some(lsn) => format!("; it had gone on to LSN {lsn} at least"),
        None => String::new(),
    };
    let newer = match end["newer_time"].as_str() {
        Some(time) => format!("; shard {} was written to until {time}", end["newer_shard"]),
        None => String::new(),
    };
    outln!(
        "missing: the end of the log of shard {shard}: {what}. What there is ends early: {last}{reached}{newer}. How many messages and changes \
         came behind it nobody knows, and they are in no figure here; a backup may have some of them"
    )
}

/// As IMAP writes them: `3:7,9`.
fn ranges(uids: &[u64]) -> String {
    let runs = uids.chunk_by(|one, next| one + 1 == *next).map(|run| match run {
        [first, .., last] => format!("{first}:{last}"),
        run => run.iter().map(u64::to_string).collect(),
    });
    runs.collect::<Vec<_>>().join(",")
}

fn print(said: &Value) -> Result<(), ConfigError> {
    let list = |key: &str| said[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for what in list("damage") {
        outln!("damaged: {}", text(&what))?;
    }
    for shard in list("shards_missing") {
        outln!(
            "missing: shard {shard} with all its mail; what it held is unknown, and in no figure here"
        )?;
    }
    for end in list("ends_missing") {
        print_end_missing(&end)?;
    }
    let place = |one: &Value| (one["address"].clone(), one["mailbox"].clone());
    for same in list("lost").chunk_by(|one, next| place(one) == place(next)) {
        let uids: Vec<u64> = same.iter().filter_map(|one| one["uid"].as_u64()).collect();
        let (address, mailbox) = place(&same[0]);
        outln!("lost: {}, mailbox {mailbox}, UID {}", text(&address), ranges(&uids))?;
    }
    let (all, named) = (&said["messages_lost"], list("lost").len() as u64);
    let all = all.as_u64().unwrap_or(0);
    if all > named {
        outln!(
            "lost: {} more than are listed here, one by one the first {LISTED_MAX} of each shard; how many of each account:",
            counted(all - named, "message")
        )?;
    }
    for one in list("by_account") {
        outln!(
            "{}: {} saved, {} lost",
            text(&one["address"]),
            counted(&one["saved"], "message"),
            one["lost"]
        )?;
    }
    outln!(
        "saved: {} ({} MiB) in {} of {}, {} of them in mailboxes \"Salvaged\"; \
         {} that had been expunged can still be brought back",
        counted(&said["messages"], "message"),
        said["bytes"].as_u64().unwrap_or(0) >> 20,
        counted_as(&said["mailboxes"], "mailbox", "mailboxes"),
        counted(&said["accounts"], "account"),
        said["messages_in_salvaged"],
        said["expunged_kept"]
    )?;
    let known = if list("ends_missing").is_empty() { "lost" } else { "lost, as far as is known" };
    outln!(
        "{known}: {} and {} that had been expunged, for they do not verify; {} of the log not there, whatever it said",
        counted(&said["messages_lost"], "message"),
        said["expunged_lost"],
        counted(&said["records_lost"], "record")
    )?;
    for one in list("named") {
        outln!(
            "an account whose address is lost is {} now; its password is {}",
            text(&one["address"]),
            text(&one["password"])
        )?;
    }
    for address in list("held") {
        let address = text(&address);
        outln!(
            "on hold, with an entry of `kura account hold list` again: {address}; what was expunged, and the mail of an account that \
             had been removed: kura store undelete --account {address} --since 3650d --export DIR"
        )?;
    }
    for address in list("emptied") {
        outln!("{} is there, but its mail is lost", text(&address))?;
    }
    for file in list("left_out") {
        outln!("not taken along: {}; copy it if it is needed", text(&file))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn uids_in_a_row_are_one_range() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[4]), "4");
        assert_eq!(ranges(&[1, 2, 3, 5, 8, 9]), "1:3,5,8:9");
    }
}
