//! `kura store backup` and `kura store restore --from`.

use super::ask::{Link, link};
use super::interrupted::Making;
use super::queue::say_settled;
use super::{Outcome, Where, counted};
use crate::backup::progress::Progress;
use crate::backup::restore::{Damaged, Listed, Seen};
use crate::backup::source::Source;
use crate::backup::target::Target;
use crate::backup::{Manifest, prune, restore, take};
use crate::config::{Config, ConfigError};
use crate::layout;
use crate::ownership;
use crate::server::{Mode, Server};
use crate::settle::Settled;
use crate::when::time_text;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Args)]
pub(super) struct BackupOptions {
    #[command(flatten)]
    place: Where,
    /// A directory, or s3://BUCKET/PATH (credentials, region and endpoint from AWS_… in
    /// the environment).
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// Then removes older backups, so that so many are left.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Goes on where another installation of this store has backed up, or this one before it was
    /// rolled back. All is sent once more.
    #[arg(long)]
    take_over: bool,
    /// Prints JSON, and no progress.
    #[arg(long)]
    json: bool,
}

/// A host from a backup.
pub(super) struct Restore {
    /// The new data directory, or the one that the config file names.
    pub(super) place: Where,
    pub(super) from: String,
    /// By its name; without it the newest.
    pub(super) backup: Option<String>,
    pub(super) check: bool,
    pub(super) json: bool,
}

pub(super) fn backup(options: &BackupOptions) -> Result<Outcome, ConfigError> {
    let config = options.place.load()?;
    let config_file = options.place.config_file();
    layout::expect_store(&config.data_dir)?;
    // One at a time: what one has sent is not yet known to another.
    let _lock = layout::lock_backups(&config.data_dir)?;
    let target = Target::open(&options.to, true).map_err(ConfigError)?;
    let mut source = match link(&config)? {
        Link::Server(stream) => Source::Server(std::io::BufReader::new(stream)),
        Link::Store(server) => Source::store(*server),
    };
    let mut progress = Progress::new("backup", options.json);
    let take_over = options.take_over;
    let taken = take::take(&config, &config_file, &mut source, &target, take_over, &mut progress);
    progress.end();
    source.end();
    let taken = taken.map_err(ConfigError)?;
    // What is damaged today was whole in an older backup; and whose files somebody removes
    // may need one, too.
    let is_well = taken.damaged == 0 && taken.unlinked.is_empty();
    let keep = options.keep.filter(|_| is_well);
    let pruned = keep.map(|keep| prune::prune(&target, keep as usize, &taken.name));
    let (old, objects) = pruned.transpose().map_err(ConfigError)?.unwrap_or_default();
    if options.json {
        let mut said = serde_json::to_value(&taken).map_err(|e| ConfigError(e.to_string()))?;
        said["backups_removed"] = json!(old);
        said["objects_removed"] = json!(objects);
        outln!("{said}")?;
        return Ok(if is_well { Outcome::Done } else { Outcome::Unwell });
    }
    outln!(
        "backup {} in {}, as of {}: {}, {} MiB; {} of {} sent ({} MiB), the others were there",
        taken.name,
        options.to,
        taken.as_of,
        counted(taken.messages, "message"),
        taken.bytes >> 20,
        taken.pieces_sent,
        counted(taken.pieces, "piece"),
        taken.bytes_sent >> 20
    )?;
    if taken.away {
        outln!(
            "a new place was begun: {} was empty, though this store was backed up before. If it was to there, is the disk mounted?",
            options.to
        )?;
    }
    if let Some(ahead) = &taken.ahead {
        outln!(
            "backup {ahead} was there before, and is from a time that is still to come: the clock was ahead then, or is behind now; this one \
             is named after it, so that it is the newest"
        )?;
    }
    for file in &taken.left_out {
        outln!("not in it: {file}; keep it elsewhere if it is needed")?;
    }
    if !taken.unlinked.is_empty() {
        outln!(
            "but somebody has removed or replaced {} of the store, which the running server still has open: this backup has what is in \
             it, the next start will be refused. No older backup was removed. Put it back as README.md says (\"Files that somebody has \
             removed\"), or restore this backup",
            taken.unlinked.join(", ")
        )?;
    }
    if taken.damaged > 0 {
        outln!(
            "but {} places of the store are damaged, and so they are in this backup; no older one was removed. \
             `kura store verify` names them: bring what they hurt back from an older backup, or expunge it",
            taken.damaged
        )?;
        for place in &taken.rotten {
            outln!("  {place}")?;
        }
    }
    if !is_well {
        return Ok(Outcome::Unwell);
    }
    if options.keep.is_some() {
        outln!("{old} older backups removed, and {objects} objects that nothing needs any more")?;
    }
    Ok(Outcome::Done)
}

/// What there is to restore, oldest first.
pub(super) fn list(from: &str, json: bool) -> Result<Outcome, ConfigError> {
    let target = Target::open(from, false).map_err(ConfigError)?;
    let backups = restore::list(&target).map_err(ConfigError)?;
    if json {
        let rows: Vec<_> = backups
            .iter()
            .map(|Listed { name, manifest }| match manifest {
                Ok(manifest) => json!({
                    "name": name, "as_of": manifest.as_of_unix_millis.map(time_text),
                    "ended": time_text(manifest.made_unix_millis),
                    "messages": manifest.messages(), "bytes": manifest.stored_bytes(),
                    "rotten": manifest.rotten().count(),
                }),
                Err(what) => json!({ "name": name, "damaged": what }),
            })
            .collect();
        outln!("{}", json!(rows))?;
    } else if backups.is_empty() {
        outln!("no backup in {from} was ever finished")?;
    }
    for Listed { name, manifest } in backups.iter().filter(|_| !json) {
        match manifest {
            Ok(manifest) => {
                let rotten = match manifest.rotten().count() {
                    0 => String::new(),
                    count => format!("  {}", counted(count, "damaged place")),
                };
                outln!(
                    "{name}  {}  {}  {} MiB{rotten}",
                    manifest.times(),
                    counted(manifest.messages(), "message"),
                    manifest.stored_bytes() >> 20
                )?;
            }
            Err(what) => outln!("{name}  {what}")?,
        }
    }
    let is_well = backups.iter().all(|one| one.manifest.is_ok());
    Ok(if is_well { Outcome::Done } else { Outcome::Unwell })
}

/// What a check has seen of one backup.
struct Checked {
    listed: Listed,
    /// Of its objects.
    damaged: usize,
}

impl Checked {
    /// What keeps it from being whole.
    fn flaws(&self) -> Option<String> {
        let manifest = match &self.listed.manifest {
            Ok(manifest) => manifest,
            Err(what) => return Some(what.clone()),
        };
        let rotten = manifest.rotten().count();
        let of_objects = format!("{} of it damaged", counted(self.damaged, "object"));
        let of_store =
            format!("{} of the store damaged when it was taken", counted(rotten, "place"));
        match (self.damaged > 0, rotten > 0) {
            (false, false) => None,
            (true, false) => Some(of_objects),
            (false, true) => Some(of_store),
            (true, true) => Some(format!("{of_objects}, {of_store}")),
        }
    }
}

/// The backup that would be restored; and, where none was named, all that are older: what only they
/// need rots unseen otherwise.
fn check(options: &Restore, target: &Target) -> Result<Outcome, ConfigError> {
    let mut listed = match &options.backup {
        Some(_) => Vec::new(),
        None => restore::list(target).map_err(ConfigError)?,
    };
    if listed.is_empty() {
        let named = restore::load(target, options.backup.as_deref());
        let (name, manifest) = named.map_err(ConfigError)?;
        listed.push(Listed { name, manifest: Ok(manifest) });
    }
    let mut seen = Seen::new();
    let mut hurt = Hurt::new();
    let mut all = Vec::new();
    for listed in listed.into_iter().rev() {
        let mut damaged = 0;
        if let Ok(manifest) = &listed.manifest {
            let mut progress = Progress::new("check", options.json);
            let checked = restore::check(target, manifest, &mut seen, &mut progress);
            progress.end();
            for one in checked.map_err(ConfigError)? {
                damaged += 1;
                let needed = hurt.entry(one.object.clone()).or_insert_with(|| (one, Vec::new()));
                needed.1.push(listed.name.clone());
            }
        }
        all.push(Checked { listed, damaged });
    }
    let whole = all.iter().find(|one| one.flaws().is_none()).map(|one| &one.listed.name);
    if options.json {
        outln!("{}", checked_json(&all, &hurt, whole))?;
    } else {
        say_checked(&all, &hurt, whole)?;
    }
    let is_well = all.iter().all(|one| one.flaws().is_none());
    Ok(if is_well { Outcome::Done } else { Outcome::Unwell })
}

/// Each damaged object, with the backups that need it.
type Hurt = BTreeMap<String, (Damaged, Vec<String>)>;

fn checked_json(all: &[Checked], hurt: &Hurt, whole: Option<&String>) -> Value {
    let row = |one: &Checked| {
        let manifest = one.listed.manifest.as_ref().ok();
        json!({
            "name": one.listed.name, "damaged": one.flaws(),
            "messages": manifest.map(Manifest::messages), "bytes": manifest.map(Manifest::stored_bytes),
            "rotten": manifest.map_or(Vec::new(), |manifest| manifest.rotten().collect()),
        })
    };
    let object = |(one, backups): &(Damaged, Vec<String>)| json!({ "object": one.object, "place": one.place, "what": one.what, "backups": backups });
    let mut said = all.first().map(row).unwrap_or_default();
    said["older"] = all.iter().skip(1).map(row).collect();
    said["objects"] = hurt.values().map(object).collect();
    said["whole"] = json!(whole);
    said
}

fn say_checked(all: &[Checked], hurt: &Hurt, whole: Option<&String>) -> Result<(), ConfigError> {
    for (one, backups) in hurt.values() {
        let Damaged { object, place, what } = one;
        outln!("damaged: {object} ({place}): {what}; needed by {}", backups.join(", "))?;
    }
    if !hurt.is_empty() {
        outln!(
            "remove what is damaged and back up again: what the store still has of it is sent anew"
        )?;
    }
    for (number, one) in all.iter().enumerate() {
        let older = if number == 0 { "" } else { "older " };
        let name = &one.listed.name;
        match (one.flaws(), &one.listed.manifest) {
            (Some(why), _) => outln!("{older}backup {name}: {why}")?,
            (None, Ok(manifest)) if number == 0 => outln!(
                "backup {name} is whole: {}, {} MiB",
                counted(manifest.messages(), "message"),
                manifest.stored_bytes() >> 20
            )?,
            (None, _) => outln!("{older}backup {name} is whole")?,
        }
    }
    let Some(newest) = all.first().filter(|newest| newest.flaws().is_some()) else { return Ok(()) };
    for place in newest.listed.manifest.iter().flat_map(Manifest::rotten) {
        outln!("  {place}")?;
    }
    match whole {
        Some(name) => outln!("the newest that is whole is {name}: restore it with --backup {name}"),
        None => outln!("none that was looked at is whole"),
    }
}

pub(super) fn restore(options: &Restore) -> Result<Outcome, ConfigError> {
    if options.check {
        return check(options, &Target::open(&options.from, false).map_err(ConfigError)?);
    }
    let data_dir = match &options.place.config {
        Some(file) => Config::load(file)?.data_dir,
        None => options.place.dir.clone(),
    };
    let config_file = options
        .place
        .config
        .clone()
        .unwrap_or_else(|| data_dir.join(super::quickstart::CONFIG_FILE));
    let making = Making {
        what: "restore",
        data_dir: data_dir.clone(),
        staging: restore::STAGING,
        config_file: config_file.clone(),
    };
    // A bucket is asked by threads.
    making.say()?;
    let target = Arc::new(Target::open(&options.from, false).map_err(ConfigError)?);
    let (name, manifest) =
        restore::load(&target, options.backup.as_deref()).map_err(ConfigError)?;
    let messages = manifest.messages();
    let all = counted(messages, "message");
    let progress = Progress::new("restore", options.json);
    let missed = restore::restore(&target, &manifest, &data_dir, progress).map_err(ConfigError)?;
    let (settled, differing) = look_at(&config_file, &manifest)?;
    give_to_owner(&data_dir)?;
    let is_well = differing.is_none() && missed.is_empty();
    let outcome = if is_well { Outcome::Done } else { Outcome::Unwell };
    if options.json {
        let said = json!({
            "name": name, "messages": messages, "dir": data_dir, "queue_on_hold": settled.held, "differing": differing,
            "files_missed": missed.iter().map(|one| &one.place).collect::<Vec<_>>(),
        });
        outln!("{said}")?;
    } else {
        outln!(
            "backup {name} ({}) is restored: {all} in {}",
            manifest.times(),
            data_dir.display()
        )?;
        say_settled(&settled)?;
        say_rotten(&manifest)?;
        for Damaged { object, place, what } in &missed {
            outln!(
                "but without {place}: {object}: {what}; put it there by hand, or take it from an older backup"
            )?;
        }
        if let Some(what) = differing {
            outln!(
                "but {what}. What is there opens and can be served; `kura store verify --config {}` names what is hurt, and an older backup may \
                 have it whole",
                config_file.display()
            )?;
        }
        outln!("start it: kura serve --config {}", config_file.display())?;
    }
    Ok(outcome)
}

/// Whose server is to open it.
pub(super) fn give_to_owner(data_dir: &Path) -> Result<(), ConfigError> {
    ownership::give_all(data_dir).map_err(|error| {
        ConfigError(format!("can't give what is in {} to its owner: {error}", data_dir.display()))
    })
}

/// What was damaged before it was backed up.
fn say_rotten(manifest: &Manifest) -> Result<(), ConfigError> {
    let count = manifest.rotten().count();
    if count > 0 {
        outln!(
            "but {count} places of the store were damaged when it was taken; an older backup may have them whole (--check names the newest that is)"
        )?;
        for place in manifest.rotten() {
            outln!("  {place}")?;
        }
    }
    Ok(())
}

/// Opens what was restored with the ordinary code: it has to be what was backed up, or how it
/// differs is told. Then it is settled.
fn look_at(
    config_file: &Path,
    manifest: &Manifest,
) -> Result<(Settled, Option<String>), ConfigError> {
    let config = Config::load(config_file)?;
    let knobs = super::profile::knobs(&config)?;
    let mut wrong = None;
    let mut server = Server::start_with(config, knobs, Mode::CommandOnly, |server| {
        wrong = differing(server, manifest)?;
        Ok(())
    })?;
    let settled = server.settled.take().unwrap_or_default();
    server.stop();
    Ok((settled, wrong))
}

/// A shard that is not as the backup says.
fn differing(server: &Server, manifest: &Manifest) -> Result<Option<String>, ConfigError> {
    for part in &manifest.shards {
        let plan = server.ask(usize::from(part.shard), |shard| async move {
            let plan = shard.store.backup_plan();
            // Not the plan's: a store that is open may have begun to write, a base for one.
            (shard.store.recovery().lsn.0, plan.messages, plan.live_bytes)
        })?;
        if plan != (part.lsn, part.messages, part.live_bytes) {
            return Ok(Some(format!(
                "shard {} has LSN {}, {} messages of {} bytes after the restore; the backup says LSN {}, {} of {}: \
                 the store was damaged when it was backed up",
                part.shard, plan.0, plan.1, plan.2, part.lsn, part.messages, part.live_bytes
            )));
        }
    }
    Ok(None)
}

impl Where {
    pub(super) fn config_file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.dir.join(super::quickstart::CONFIG_FILE))
    }
}
