//! Takes a backup: sends the pieces that are not there yet, then the manifest.

use super::manifest::{
    self, FilePart, Manifest, Marker, Piece, SegmentPart, ShardPart, parse_rest, piece_prefix,
};
use super::progress::Progress;
use super::source::{Plan, Source};
use super::target::{Target, Uploads};
use super::{Fault, begun, generation, named_time, next_name, restore, sha256};
use crate::config::{Config, ProfileName};
use crate::when::time_text;
use crate::{hex, layout, passwords};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const BLOCK: usize = 4096;
/// A data directory has few files beside the store, and small ones.
const FILE_BYTES_MAX: u64 = 16 << 20;
const FILES_MAX: usize = 10_000;
/// Files that are named because they are not taken.
const LEFT_OUT_TOLD: usize = 20;
/// Damaged places that are named, of a segment and of a backup.
const ROTTEN_TOLD: usize = 20;
/// Not taken: what belongs to one process, and the store, which is taken by its pieces.
const NOT_TAKEN: [&str; 7] = [
    "store",
    "kura.lock",
    "control.sock",
    layout::BACKUP_LOCK,
    begun::FILE,
    "layout.toml",
    // Of a file system of its own.
    "lost+found",
];

/// What a backup did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Of the backup.
    pub name: String,
    /// Nothing was in the place, though backups of this store were begun before: in another one, or
    /// its disk is not there.
    pub away: bool,
    /// What had been answered by then is in it.
    pub as_of: String,
    pub ended: String,
    /// A backup that was there before, although it is named after a time that is still to come.
    pub ahead: Option<String>,
    pub messages: u64,
    /// All that the backup refers to.
    pub bytes: u64,
    pub pieces: usize,
    /// Of these, what was not there yet.
    pub bytes_sent: u64,
    pub pieces_sent: usize,
    /// Places of the store that are damaged; the backup has them as they are.
    pub damaged: u64,
    /// The first of those that are in the backup.
    pub rotten: Vec<String>,
    /// Files of the store that it has, and that their directory has no more: the
    /// server has them open.
    pub unlinked: Vec<String>,
    /// Files of the data directory that are not in it, and why.
    pub left_out: Vec<String>,
    /// The position of each shard.
    pub lsns: Vec<u64>,
}

/// The config file goes along, so that a host can be rebuilt.
pub fn take(
    config: &Config,
    config_file: &Path,
    source: &mut Source,
    target: &Target,
    take_over: bool,
    progress: &mut Progress,
) -> Result<Taken, Fault> {
    // Before any shard says its position: what had been answered by now is in it.
    let as_of_unix_millis = crate::delivery::unix_millis().0;
    let (plans, store) = source.plans()?;
    check_whole(&plans)?;
    let is_new = target.marker()?.is_none();
    let is_away = is_new && !begun::known(&config.data_dir)?.is_empty();
    let generation = claim(target, &config.data_dir, &store, &plans, take_over)?;
    let mut taking = Taking {
        before: before(target, &generation),
        generation,
        target,
        there: BTreeMap::new(),
        uploads: Uploads::start(target)?,
        sent: (0, 0),
        progress: (0, plans.iter().map(Plan::bytes).sum()),
    };
    target.remove_staged();
    taking.there = target.list(&format!("objects/{}", taking.generation))?;
    let mut shards = Vec::new();
    for plan in &plans {
        shards.push(taking.shard(plan, source, progress)?);
    }
    taking.uploads.finish()?;
    let SmallFiles { mut wanted, left_out, .. } = small_files(config, config_file)?;
    wanted.insert("layout.toml".to_owned(), config.data_dir.join("layout.toml"));
    let files = taking.files(wanted)?;
    let made_unix_millis = crate::delivery::unix_millis().0;
    let manifest = Manifest {
        format: manifest::FORMAT,
        kura: env!("CARGO_PKG_VERSION").to_owned(),
        store,
        generation: taking.generation.clone(),
        made_unix_millis,
        as_of_unix_millis: Some(as_of_unix_millis),
        shards,
        files,
    };
    let newest = target.manifests()?.last().map(|object| restore::name_of(object));
    let name = next_name(as_of_unix_millis, newest.as_deref());
    let ahead = newest.filter(|newest| named_time(newest) > Some(as_of_unix_millis));
    let known: u64 = plans.iter().map(|plan| plan.damage).sum();
    let damaged = known.max(manifest.rotten().count() as u64);
    target.put(&format!("manifests/{name}.json"), manifest.encode())?;
    Ok(Taken {
        name,
        away: is_away,
        as_of: time_text(as_of_unix_millis),
        ended: time_text(made_unix_millis),
        ahead,
        messages: plans.iter().map(|plan| plan.messages).sum(),
        bytes: manifest.stored_bytes(),
        pieces: manifest.pieces().count(),
        bytes_sent: taking.sent.1,
        pieces_sent: taking.sent.0,
        damaged,
        rotten: manifest.rotten().take(ROTTEN_TOLD).cloned().collect(),
        unlinked: plans.iter().flat_map(unlinked).collect(),
        left_out,
        lsns: plans.iter().map(|plan| plan.lsn).collect(),
    })
}

fn unlinked(plan: &Plan) -> impl Iterator<Item = String> {
    let name = |file| format!("{}/{file}", layout::shard_dir(Path::new(""), plan.shard).display());
    plan.unlinked.iter().map(name)
}

/// A log with a hole in it can't be opened again: better no backup than one that says it is one.
fn check_whole(plans: &[Plan]) -> Result<(), Fault> {
    for plan in plans {
        if let Some(segment) = plan.missing.first() {
            return Err(format!(
                "shard {}: segment {segment} is not there ({} in all): a backup without it could not be \
                 restored, so none was taken; `kura store verify` names what is hurt, `kura store salvage` \
                 takes what there is",
                plan.shard,
                plan.missing.len()
            ));
        }
    }
    Ok(())
}

/// The generation that goes on here, with this backup noted as the last one begun. The place is
/// empty, or has backups of this store. Of a store and one that was restored from its backups,
/// copied from it, or that it was before a roll-back, only one goes on: each would take the other's
/// pieces for its own, and remove the other's backups as old ones.
fn claim(
    target: &Target,
    data_dir: &Path,
    store: &str,
    plans: &[Plan],
    take_over: bool,
) -> Result<String, Fault> {
    let generation = match target.marker()? {
        None => new_generation(),
        Some(marker) if marker.store != store => {
            return Err(format!(
                "backup {}: it holds backups of another store; choose another place",
                target.name
            ));
        }
        Some(marker) => match own_generation(target, data_dir, &marker, plans)? {
            Some(generation) => generation,
            None if take_over => new_generation(),
            None => {
                return Err(format!(
                    "backup {}: the last backup there was not begun by this data directory as it is now: it was rolled back or copied since, \
                     or this store was restored from there, and another installation backs up to it. Choose another place, or, if the \
                     other is no more, add --take-over: everything is sent once more, and the backups that are there stay",
                    target.name
                ));
            }
        },
    };
    let (store, begun) = (store.to_owned(), begun::begin(data_dir)?);
    let format = manifest::FORMAT;
    target.put_marker(&Marker { format, store, generation: generation.clone(), begun })?;
    Ok(generation)
}

fn new_generation() -> String {
    hex::text(passwords::random::<8>())
}

/// `None`: what lies in the place is another's.
fn own_generation(
    target: &Target,
    data_dir: &Path,
    marker: &Marker,
    plans: &[Plan],
) -> Result<Option<String>, Fault> {
    if !marker.begun.is_empty() {
        let is_known = begun::known(data_dir)?.contains(&marker.begun);
        return Ok(is_known.then(|| marker.generation.clone()));
    }
    // From before there were tokens. What was rolled back far enough is still seen to be older than
    // its newest backup.
    let ours = generation(&layout::secret(data_dir).map_err(|error| error.0)?);
    let newest = restore::load(target, None).ok().filter(|(_, newest)| newest.generation == ours);
    let is_ahead = newest.is_some_and(|(_, newest)| {
        let lsn = |shard| plans.iter().find(|plan| plan.shard == shard).map_or(0, |plan| plan.lsn);
        newest.shards.iter().any(|part| part.lsn > lsn(part.shard))
    });
    let is_ours = [ours.as_str(), ""].contains(&marker.generation.as_str()) && !is_ahead;
    Ok(is_ours.then_some(ours))
}

/// The segments of the newest backup, if this store made it.
fn before(target: &Target, generation: &str) -> BTreeMap<(u16, u32), SegmentPart> {
    let newest = restore::load(target, None).ok();
    let ours = newest.filter(|(_, manifest)| manifest.generation == generation);
    let segments = ours.iter().flat_map(|(_, manifest)| manifest.segments());
    segments.map(|(shard, part)| ((shard, part.segment), part.clone())).collect()
}

struct Taking<'t> {
    generation: String,
    target: &'t Target,
    /// Objects of this generation, with their sizes.
    there: BTreeMap<String, u64>,
    uploads: Uploads,
    /// Pieces and bytes.
    sent: (usize, u64),
    /// What the backup before says of segments, which are looked at once.
    before: BTreeMap<(u16, u32), SegmentPart>,
    /// Bytes done and in all.
    progress: (u64, u64),
}

impl Taking<'_> {
    fn shard(
        &mut self,
        plan: &Plan,
        source: &mut Source,
        progress: &mut Progress,
    ) -> Result<ShardPart, Fault> {
        let mut segments = Vec::new();
        for (segment, segment_bytes, end) in &plan.segments {
            let mut pieces = Vec::new();
            for (from, to) in manifest::pieces(*end) {
                pieces.push(self.piece(plan.shard, *segment, (from, to), source)?);
                self.progress.0 += to - from;
                progress.show(self.progress.0, self.progress.1);
            }
            let before = self.before.get(&(plan.shard, *segment));
            let rotten = match before.filter(|before| before.pieces == pieces) {
                Some(before) => before.rotten.clone(),
                None => {
                    let mut rotten = source.rot(plan.shard, *segment, *end)?;
                    rotten.truncate(ROTTEN_TOLD);
                    rotten
                }
            };
            let (segment, segment_bytes) = (*segment, *segment_bytes);
            segments.push(SegmentPart { segment, segment_bytes, pieces, rotten });
        }
        Ok(ShardPart {
            shard: plan.shard,
            lsn: plan.lsn,
            run: plan.run,
            salt: format!("{:016x}", plan.salt),
            messages: plan.messages,
            live_bytes: plan.live_bytes,
            segments,
        })
    }

    fn piece(
        &mut self,
        shard: u16,
        segment: u32,
        (from, to): (u64, u64),
        source: &mut Source,
    ) -> Result<Piece, Fault> {
        let prefix = piece_prefix(&self.generation, shard, segment, from, to);
        if let Some((bytes, sha256)) = self.known(&prefix) {
            return Ok(Piece { from, to, bytes, sha256 });
        }
        let mut content = source.read(shard, segment, from, to)?;
        trim(&mut content);
        let piece = Piece { from, to, bytes: content.len() as u64, sha256: sha256(&content) };
        self.sent = (self.sent.0 + 1, self.sent.1 + piece.bytes);
        self.uploads.send(piece.object(&self.generation, shard, segment), content)?;
        Ok(piece)
    }

    /// A piece that is there, whole.
    fn known(&self, prefix: &str) -> Option<(u64, String)> {
        let mut named = self.there.range(prefix.to_owned()..);
        let named = named.by_ref().take_while(|(name, _)| name.starts_with(prefix));
        let mut whole = named.filter_map(|(name, size)| {
            let (bytes, sha256) = parse_rest(name.strip_prefix(prefix)?)?;
            (bytes == *size).then_some((bytes, sha256))
        });
        whole.next()
    }

    /// Layout, configuration, profile, certificates with their keys: what a host needs
    /// beside its store.
    fn files(&self, wanted: BTreeMap<String, PathBuf>) -> Result<Vec<FilePart>, Fault> {
        let mut parts = Vec::new();
        for (path, file) in wanted {
            let bytes = match std::fs::read(&file) {
                Ok(bytes) => bytes,
                Err(error) => return Err(format!("can't read {}: {error}", file.display())),
            };
            let part = FilePart { path, bytes: bytes.len() as u64, sha256: sha256(&bytes) };
            self.target.put(&part.object(), bytes)?;
            parts.push(part);
        }
        Ok(parts)
    }
}

/// What goes along with a store.
#[derive(Debug, Default)]
pub(crate) struct SmallFiles {
    /// Names below a data directory, and where they are.
    pub(crate) wanted: BTreeMap<String, PathBuf>,
    /// What lies in the data directory and goes not along, one line each; the last of
    /// [`LEFT_OUT_TOLD`] lines may be how many more.
    pub(crate) left_out: Vec<String>,
    left_out_count: usize,
    /// Of the data directory.
    owner: Option<Metadata>,
    /// Device and number of each folder that was looked into: a link may lead back.
    folders: BTreeSet<(u64, u64)>,
}

impl SmallFiles {
    fn leave_out(&mut self, file: &Path, why: &str) {
        self.left_out_count += 1;
        if self.left_out.len() < LEFT_OUT_TOLD {
            self.left_out.push(format!("{}: {why}", file.display()));
        } else if let Some(last) = self.left_out.last_mut() {
            *last = format!("{} more", self.left_out_count + 1 - LEFT_OUT_TOLD);
        }
    }
}

/// Configuration and the files that it names, certificates with their keys.
pub(crate) fn small_files(config: &Config, config_file: &Path) -> Result<SmallFiles, Fault> {
    let mut found = SmallFiles::default();
    gather(&config.data_dir, "", &mut found)?;
    let wanted = &mut found.wanted;
    wanted.insert("kura.toml".to_owned(), config_file.to_owned());
    if let Some(ProfileName::File(profile)) = &config.profile
        && profile.is_file()
    {
        wanted.insert("profile.toml".to_owned(), profile.clone());
    }
    let mut config = config.clone();
    let named = config.files_mut().into_iter().filter(|(_, path)| path.is_file());
    wanted.extend(named.map(|(name, path)| (name, path.clone())));
    Ok(found)
}

/// Drops trailing blocks of zeroes.
fn trim(content: &mut Vec<u8>) {
    while content.len() >= BLOCK && content[content.len() - BLOCK..].iter().all(|byte| *byte == 0) {
        content.truncate(content.len() - BLOCK);
    }
}

/// Whether the owner of the data directory may read what a link there leads to: others' secrets are
/// not to come along because root takes the backup.
fn is_owners(file: &Metadata, owner: &Metadata) -> bool {
    let is_in_group = file.gid() == owner.gid() && file.mode() & 0o040 != 0;
    owner.uid() == 0 || file.uid() == owner.uid() || is_in_group || file.mode() & 0o004 != 0
}

/// Small files below the data directory, and what links there lead to.
fn gather(folder: &Path, below: &str, found: &mut SmallFiles) -> Result<(), Fault> {
    let fault = |error: std::io::Error| format!("can't read {}: {error}", folder.display());
    let itself = std::fs::metadata(folder).map_err(fault)?;
    let owner = found.owner.get_or_insert_with(|| itself.clone()).clone();
    if !found.folders.insert((itself.dev(), itself.ino())) {
        found.leave_out(folder, "its files go along under another name already");
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let (file, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else {
            found.leave_out(&file, "its name is not UTF-8");
            continue;
        };
        let path = format!("{below}{name}");
        let is_certificates = below.starts_with("certificates/") || path == "certificates";
        if NOT_TAKEN.contains(&path.as_str()) || name.ends_with(".new") {
            continue;
        }
        let kind = match std::fs::metadata(&file) {
            Ok(kind) => kind,
            // It was removed in this moment.
            Err(_) if std::fs::symlink_metadata(&file).is_err() => continue,
            Err(error) => {
                found.leave_out(&file, &format!("what it leads to can't be read: {error}"));
                continue;
            }
        };
        let is_link = entry.file_type().map_err(fault)?.is_symlink() || itself.uid() != owner.uid();
        if is_link && !is_owners(&kind, &owner) {
            found.leave_out(&file, "it leads to what the owner of the data directory may not read");
        } else if kind.is_dir() && is_certificates {
            gather(&file, &format!("{path}/"), found)?;
        } else if kind.is_dir() {
            found.leave_out(&file, "it is a directory, and none but certificates go along");
        } else if !kind.is_file() {
            found.leave_out(&file, "it is no file");
        } else if kind.len() > FILE_BYTES_MAX {
            let (bytes, most) = (kind.len() >> 20, FILE_BYTES_MAX >> 20);
            found.leave_out(
                &file,
                &format!("it has {bytes} MiB, and more than {most} are no small file"),
            );
        } else if found.wanted.len() >= FILES_MAX {
            found.leave_out(&file, &format!("there are more than {FILES_MAX} files"));
        } else {
            found.wanted.insert(path, file);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_and_what_goes_not_along_is_named() {
        let base = std::env::temp_dir().join(format!("kura-gather-{}", std::process::id()));
        let (data, elsewhere) = (base.join("data"), base.join("elsewhere"));
        for dir in ["data/certificates/a.test", "data/store", "data/notes", "elsewhere/b.test"] {
            fs::create_dir_all(base.join(dir)).unwrap();
        }
        // As certbot has them: links to what was renewed last.
        fs::write(elsewhere.join("chain1.pem"), "chain").unwrap();
        fs::write(elsewhere.join("b.test/key.pem"), "key").unwrap();
        symlink(elsewhere.join("chain1.pem"), data.join("certificates/a.test/chain.pem")).unwrap();
        symlink(elsewhere.join("b.test"), data.join("certificates/b.test")).unwrap();
        symlink(data.join("certificates"), data.join("certificates/again")).unwrap();
        symlink(elsewhere.join("gone"), data.join("gone.pem")).unwrap();
        fs::write(data.join(OsStr::from_bytes(b"caf\xe9.txt")), "x").unwrap();
        fs::write(data.join("accounts.txt"), "x").unwrap();
        fs::write(data.join(begun::FILE), "x").unwrap();
        let mut found = SmallFiles::default();
        gather(&data, "", &mut found).unwrap();
        let wanted: Vec<&str> = found.wanted.keys().map(String::as_str).collect();
        let all = ["accounts.txt", "certificates/a.test/chain.pem", "certificates/b.test/key.pem"];
        assert_eq!(wanted, all);
        let left_out = found.left_out.join("\n");
        for what in [
            "certificates/again: its files",
            "gone.pem: what it leads to",
            ".txt: its name",
            "notes: it is a directory",
        ] {
            assert!(left_out.contains(what), "{what}: {left_out}");
        }
        assert_eq!(found.left_out.len(), 4);
        let owner = fs::metadata(&data).unwrap();
        assert!(is_owners(&fs::metadata(elsewhere.join("chain1.pem")).unwrap(), &owner));
        for number in 0..LEFT_OUT_TOLD + 5 {
            found.leave_out(Path::new("x"), &number.to_string());
        }
        assert_eq!(found.left_out.len(), LEFT_OUT_TOLD);
        assert_eq!(found.left_out.last().unwrap(), "10 more");
        fs::remove_dir_all(&base).unwrap();
    }
}
