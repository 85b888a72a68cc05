//! Brings a backup back into an empty data directory, or checks one without writing anything.
//!
//! Every byte is verified before it counts. The store is written under another name and takes its
//! own only when all of it is there and durable; without it nothing starts
//! ([`layout::put_in_place`]). So a restore that was broken off leaves a directory into which it
//! can be started again, or a store that is all there, with a note of what is still due
//! ([`crate::settle`]).

use super::manifest::{FilePart, Manifest};
use super::progress::Progress;
use super::target::Target;
use super::{Fault, sha256};
use crate::config::Config;
use crate::executor;
use crate::layout::{self, After, private_dir};
use crate::shard::Disk;
use glommio::LocalExecutorBuilder;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::Lsn;
use storage::restore::{Restore, RestoredShard};

/// Until all of the store is there.
pub(crate) const STAGING: &str = "store.restoring";

/// The one small file without which a store does not start.
const CONFIG_FILE: &str = "kura.toml";

/// Pieces fetched ahead.
const AHEAD_MAX: usize = 2;

/// The backup of this name, or the newest.
pub fn load(target: &Target, wanted: Option<&str>) -> Result<(String, Manifest), Fault> {
    if target.marker()?.is_none() {
        return Err(target.not_a_backup());
    }
    let manifests = target.manifests()?;
    let object = match wanted {
        Some(wanted) => manifests.iter().find(|object| name_of(object) == wanted),
        None => manifests.last(),
    };
    let Some(object) = object else {
        let names: Vec<String> = manifests.iter().map(|object| name_of(object)).collect();
        return Err(match (wanted, names.is_empty()) {
            (Some(wanted), false) => {
                format!(
                    "backup {}: there is no {wanted}; there are {}",
                    target.name,
                    names.join(", ")
                )
            }
            _ => format!("backup {}: no backup in it was ever finished", target.name),
        });
    };
    let manifest = read(target, object)?.map_err(|what| {
        format!(
            "backup {}: {object}: {what}; take another with --backup (--check names the newest that is whole), or back up again",
            target.name
        )
    })?;
    Ok((name_of(object), manifest))
}

/// One of the backups in a place.
#[derive(Debug)]
pub struct Listed {
    pub name: String,
    /// Or why it can't be used.
    pub manifest: Result<Manifest, Fault>,
}

/// All backups, oldest first.
pub fn list(target: &Target) -> Result<Vec<Listed>, Fault> {
    if target.marker()?.is_none() {
        return Err(target.not_a_backup());
    }
    let manifests = target.manifests()?;
    let listed =
        |object: &String| Ok(Listed { name: name_of(object), manifest: read(target, object)? });
    manifests.iter().map(listed).collect()
}

fn read(target: &Target, object: &str) -> Result<Result<Manifest, Fault>, Fault> {
    match target.find(object) {
        Ok(text) => Ok(Manifest::decode(&text.unwrap_or_default())),
        Err(fault) if target.is_directory() => Ok(Err(fault)),
        Err(fault) => Err(fault),
    }
}

pub(super) fn name_of(object: &str) -> String {
    let name = object.rsplit('/').next().unwrap_or(object);
    name.trim_end_matches(".json").to_owned()
}

/// What the pieces of a manifest are, and for whom.
#[derive(Debug, Clone)]
struct Fetch {
    object: String,
    bytes: u64,
    sha256: String,
    place: String,
}

fn fetches(manifest: &Manifest) -> Vec<Fetch> {
    let pieces = manifest.pieces().map(|(shard, segment, piece)| Fetch {
        object: piece.object(&manifest.generation, shard.shard, segment.segment),
        bytes: piece.bytes,
        sha256: piece.sha256.clone(),
        place: format!(
            "shard {}, segment {}, bytes {} to {}",
            shard.shard, segment.segment, piece.from, piece.to
        ),
    });
    let files = manifest.files.iter().map(|file| Fetch {
        object: file.object(),
        bytes: file.bytes,
        sha256: file.sha256.clone(),
        place: file.path.clone(),
    });
    pieces.chain(files).collect()
}

/// An object that a backup needs and can't have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    pub object: String,
    /// What it is of.
    pub place: String,
    pub what: String,
}

/// What every object that was looked at suffers from, for one backup or another.
pub type Seen = BTreeMap<String, Option<String>>;

fn damaged(target: &Target, fetch: &Fetch, what: &str) -> Fault {
    format!(
        "backup {} is damaged: {} ({}): {what}. Remove that object and back up again: what the store still has is \
         sent anew; or restore an older backup (--check names the newest that is whole)",
        target.name, fetch.object, fetch.place
    )
}

/// Whether all of the store is there, by name and size, and the config file if it is needed: before
/// anything is written.
fn check_presence(target: &Target, manifest: &Manifest, data_dir: &Path) -> Result<(), Fault> {
    let there = target.list(&format!("objects/{}", manifest.generation))?;
    for fetch in fetches(manifest) {
        if fetch.object.starts_with("files/") {
            let is_needed = fetch.place == CONFIG_FILE && !data_dir.join(CONFIG_FILE).exists();
            if let Some(Err(what)) = is_needed.then(|| content(target, &fetch)).transpose()? {
                return Err(format!(
                    "{}; or put a kura.toml of your own into {}: it stays, and that of the backup is not needed",
                    damaged(target, &fetch, &what),
                    data_dir.display()
                ));
            }
            continue;
        }
        match there.get(&fetch.object) {
            None => return Err(damaged(target, &fetch, "it is missing")),
            Some(size) if *size != fetch.bytes => {
                let what = format!("it has {size} bytes, not {}", fetch.bytes);
                return Err(damaged(target, &fetch, &what));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// An object's bytes, or what is wrong with them.
fn content(target: &Target, fetch: &Fetch) -> Result<Result<Vec<u8>, String>, Fault> {
    let bytes = match target.find(&fetch.object) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Err("it is missing".to_owned())),
        // A sector of that file. A bucket that does not answer says nothing of what is in it.
        Err(fault) if target.is_directory() => return Ok(Err(fault)),
        Err(fault) => return Err(fault),
    };
    if bytes.len() as u64 != fetch.bytes {
        return Ok(Err(format!("it has {} bytes, not {}", bytes.len(), fetch.bytes)));
    }
    if sha256(&bytes) != fetch.sha256 {
        return Ok(Err("its checksum does not match".to_owned()));
    }
    Ok(Ok(bytes))
}

fn fetch(target: &Target, fetch: &Fetch) -> Result<Vec<u8>, Fault> {
    content(target, fetch)?.map_err(|what| damaged(target, fetch, &what))
}

/// Reads and verifies all of a backup, to its end, but for the objects in `seen`, which were looked
/// at for another; its own join them. What of it is damaged.
pub fn check(
    target: &Target,
    manifest: &Manifest,
    seen: &mut Seen,
    progress: &mut Progress,
) -> Result<Vec<Damaged>, Fault> {
    let (mut found, mut done) = (Vec::new(), 0);
    let total = manifest.stored_bytes();
    for one in fetches(manifest) {
        let known = seen.get(&one.object).cloned();
        let what = match known {
            Some(what) => what,
            None => {
                let what = content(target, &one)?.err();
                seen.insert(one.object.clone(), what.clone());
                what
            }
        };
        done += one.bytes;
        progress.show(done.min(total), total);
        let Fetch { object, place, .. } = one;
        found.extend(what.map(|what| Damaged { object, place, what }));
    }
    Ok(found)
}

/// Rebuilds `data_dir`; which small files it has to do without.
pub fn restore(
    target: &Arc<Target>,
    manifest: &Manifest,
    data_dir: &Path,
    mut progress: Progress,
) -> Result<Vec<Damaged>, Fault> {
    let fault =
        |path: &Path, error: std::io::Error| format!("can't write {}: {error}", path.display());
    check_free(data_dir)?;
    check_apart(target, data_dir)?;
    check_presence(target, manifest, data_dir)?;
    let left = Left::before(data_dir);
    private_dir(data_dir).map_err(|error| fault(data_dir, error))?;
    let _lock = layout::lock_backups(data_dir).map_err(|error| error.0)?;
    let staging = data_dir.join(STAGING);
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(|error| fault(&staging, error))?;
    }
    let (parts, order) = (manifest.shards.clone(), fetches(manifest));
    let (pieces, arriving) = flume::bounded(AHEAD_MAX);
    let (source, count) = (Arc::clone(target), manifest.pieces().count());
    let fetching = std::thread::Builder::new()
        .name("kura-restore".to_owned())
        .spawn(move || {
            for one in &order[..count] {
                if pieces.send(fetch(&source, one)).is_err() {
                    return;
                }
            }
        })
        .map_err(|error| format!("can't start a thread: {error}"))?;
    let total = manifest.stored_bytes();
    let shards_dir = staging.clone();
    let outcome = executor::run(LocalExecutorBuilder::default(), async move {
        let mut done = 0;
        for part in &parts {
            let dir = shards_dir.join(format!("shard-{}", part.shard));
            let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", dir.display());
            private_dir(&dir).map_err(|error| fault(&error))?;
            let disk = Disk::open(&dir).await.map_err(|error| fault(&error))?;
            let mut restore = Restore::begin(disk).await.map_err(|error| fault(&error))?;
            for segment in &part.segments {
                let begun = restore.segment(segment.segment_bytes).await;
                begun.map_err(|error| fault(&error))?;
                for piece in &segment.pieces {
                    // Nothing else runs on this executor.
                    let bytes = arriving.recv().map_err(|_| "the download ended early")??;
                    let written = restore.write(piece.from, &bytes).await;
                    written.map_err(|error| fault(&error))?;
                    done += piece.bytes;
                    progress.show(done, total);
                }
            }
            let salt = u64::from_str_radix(&part.salt, 16).map_err(|error| fault(&error))?;
            let (shard, lsn, run) = (part.shard, Lsn(part.lsn), part.run);
            let finished = restore.finish(&RestoredShard { shard, lsn, run, salt }).await;
            finished.map_err(|error| fault(&error))?;
        }
        progress.end();
        Ok::<(), Fault>(())
    });
    let _ = fetching.join();
    let finish = |()| finish(target, manifest, data_dir, &staging);
    outcome.flatten().and_then(finish).map_err(|what| {
        let needed = manifest.shards.iter().flat_map(|shard| &shard.segments);
        let needed = needed.map(|segment| segment.segment_bytes).sum();
        let room = room_missing(data_dir, needed);
        let taken_back = taken_back(data_dir, &staging, "restore");
        left.remove();
        format!("{what}{room}; {taken_back}")
    })
}

/// What a restore that is refused would leave behind, beside the store.
struct Left(Vec<PathBuf>);

impl Left {
    /// To be asked before it is made.
    fn before(data_dir: &Path) -> Left {
        let made = [data_dir.join(layout::BACKUP_LOCK), data_dir.to_owned()];
        Left(made.into_iter().filter(|path| !path.exists()).collect())
    }

    /// The lock while it is held, and then the directory if nothing else is in it.
    fn remove(self) {
        for path in self.0 {
            let _ = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        }
    }
}

/// A store amid the backup that it comes from would go with it, and the next backup there
/// would be of both.
fn check_apart(target: &Target, data_dir: &Path) -> Result<(), Fault> {
    let Some(place) = target.directory().and_then(|place| place.canonicalize().ok()) else {
        return Ok(());
    };
    let absolute = std::path::absolute(data_dir).map_err(|error| error.to_string())?;
    let there = absolute.ancestors().find_map(|part| part.canonicalize().ok());
    if there.is_some_and(|there| there.starts_with(&place)) {
        return Err(format!(
            "{} is in the backup itself, or is the backup: name another directory with --dir, outside of {}",
            data_dir.display(),
            target.name
        ));
    }
    Ok(())
}

/// What is half there is of no use to anyone: what became of it, for whoever is told why.
pub(crate) fn taken_back(data_dir: &Path, staging: &Path, what: &str) -> String {
    match layout::take_back(data_dir, staging) {
        Ok(()) => format!(
            "no store was made, what was written is removed, and the {what} can be started again"
        ),
        Err(error) => format!(
            "and what was written can't be removed ({error}): remove layout.toml, store and {} from {}, then start the {what} again",
            staging.file_name().unwrap_or_default().display(),
            data_dir.display()
        ),
    }
}

/// Where a disk has less room than is `needed` for a store, how much that is: to be said behind why
/// it was not written.
pub(crate) fn room_missing(place: &Path, needed: u64) -> String {
    let Some(free) = free_bytes(place).filter(|free| *free < needed) else { return String::new() };
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    format!(
        "; the disk of {} has {} MiB free, and up to {} MiB are needed: make room for {} MiB more, or take another disk",
        place.display(),
        free >> 20,
        mebibytes(needed),
        mebibytes(needed - free)
    )
}

/// To whoever runs this.
fn free_bytes(place: &Path) -> Option<u64> {
    let name = std::ffi::CString::new(place.as_os_str().as_encoded_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the name is a C string that lives through the call, and the result has room for
    // what is written.
    if unsafe { libc::statvfs(name.as_ptr(), found.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so all of it was written.
    let found = unsafe { found.assume_init() };
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// A directory in which nothing is, or nothing but a config file and what one that was
/// broken off has left.
pub(crate) fn check_free(data_dir: &Path) -> Result<(), Fault> {
    if layout::due(data_dir).is_some() {
        return match data_dir.join("store").exists() {
            true => Err(format!(
                "{} holds a store that was restored or salvaged, all of it: start it (kura serve), which sees to what is left to do, \
                 or move it away first",
                data_dir.display()
            )),
            false => Ok(()),
        };
    }
    for name in ["store", "layout.toml"] {
        if data_dir.join(name).exists() {
            return Err(format!(
                "{} holds a store already; restore into an empty directory, or move it away first",
                data_dir.display()
            ));
        }
    }
    Ok(())
}

/// Files first, then the layout and the store's name. A small file that is damaged keeps no mail
/// from coming back.
fn finish(
    target: &Target,
    manifest: &Manifest,
    data_dir: &Path,
    staging: &Path,
) -> Result<Vec<Damaged>, Fault> {
    let mut missed = Vec::new();
    let all = fetches(manifest).split_off(manifest.pieces().count());
    for (part, one) in manifest.files.iter().zip(all) {
        // The layout is written anew, and a config file that is there is the operator's.
        let is_config = part.path == CONFIG_FILE;
        if part.path == "layout.toml" || is_config && data_dir.join(CONFIG_FILE).exists() {
            continue;
        }
        match content(target, &one)? {
            Ok(bytes) => put_file(data_dir, part, bytes)?,
            Err(what) if is_config => return Err(damaged(target, &one, &what)),
            Err(what) => {
                missed.push(Damaged { object: one.object, place: one.place, what });
            }
        }
    }
    let shards = u16::try_from(manifest.shards.len()).map_err(|error| error.to_string())?;
    layout::put_in_place(data_dir, staging, shards, After::Restore).map_err(|error| error.0)?;
    Ok(missed)
}

/// The names come from outside: they must stay below the directory.
fn put_file(data_dir: &Path, part: &FilePart, bytes: Vec<u8>) -> Result<(), Fault> {
    let path = PathBuf::from(&part.path);
    let is_below = path.components().all(|one| matches!(one, std::path::Component::Normal(_)));
    let file = data_dir.join(&path);
    let fault = |error: &dyn std::fmt::Display| format!("can't write {}: {error}", file.display());
    if !is_below {
        return Err(format!("the backup names a file outside of the directory: {}", part.path));
    }
    let text = if part.path == CONFIG_FILE { for_here(&bytes)? } else { bytes };
    if let Some(folder) = file.parent() {
        private_dir(folder).map_err(|error| fault(&error))?;
    }
    layout::write_synced_bytes(&file, &text).map_err(|error| fault(&error))
}

/// The config file lies in the data directory now, and the profile beside it.
pub(crate) fn for_here(text: &[u8]) -> Result<Vec<u8>, Fault> {
    let text = String::from_utf8_lossy(text);
    let mut table: toml::Table =
        toml::from_str(&text).map_err(|error| format!("kura.toml of the backup: {error}"))?;
    table.insert("data_dir".to_owned(), ".".into());
    let names_file = table
        .get("profile")
        .and_then(toml::Value::as_str)
        .is_some_and(|name| Path::new(name).components().count() > 0 && name.ends_with(".toml"));
    if names_file {
        table.insert("profile".to_owned(), "profile.toml".into());
    }
    // The files that it names are under the names that the backup gave them.
    let mut config: Config =
        toml::from_str(&text).map_err(|error| format!("kura.toml of the backup: {error}"))?;
    let sections =
        |config: &Config| toml::Table::try_from(config).map_err(|error| error.to_string());
    let before = sections(&config)?;
    for (name, path) in config.files_mut() {
        *path = name.into();
    }
    let renamed = sections(&config)?.into_iter();
    table.extend(renamed.filter(|(section, content)| before.get(section) != Some(content)));
    toml::to_string(&table).map(String::into_bytes).map_err(|error| error.to_string())
}
