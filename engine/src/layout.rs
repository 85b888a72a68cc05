//! The data directory: what lies where, and who may use it.
//!
//! ```text
//! DATA/kura.lock          held by the process that uses the directory; names its process id
//! DATA/layout.toml        number of shards, the host's secret, whether the shards were made, and what they still need
//! DATA/store/shard-N/     segments, checkpoints and superblock of shard N (storage/FORMAT.md)
//! DATA/backup.lock        held by the command that backs the directory up
//! DATA/backups.begun      a token of each backup (backup/begun.rs)
//! DATA/certificates/      one folder for each certificate (certificates.rs)
//! DATA/control.sock       commands to the running server, owner only
//! ```

use crate::config::ConfigError;
use crate::hex;
use crate::ownership;
use crate::passwords;
use crate::server::Mode;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A locked data directory. The lock goes with the process, however it ends.
#[derive(Debug)]
pub struct DataDir {
    /// Recorded when the store was made: accounts keep their home shard for life.
    pub shards: u16,
    pub secret: [u8; 32],
    path: PathBuf,
    layout: Layout,
    _lock: File,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    version: u32,
    shards: u16,
    /// Hexadecimal. Not a key to anything stored: it makes answers about unknown users consistent.
    secret: String,
    /// Every shard's store has been made once: one that is not there any more is lost, not new.
    /// Layouts without the word are from before it was written; their stores have been made.
    #[serde(default = "made")]
    made: bool,
    /// What a store that was put there whole still needs before it serves ([`crate::settle`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settle_after: Option<After>,
}

/// Where a store has come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum After {
    Restore,
    Salvage,
}

fn made() -> bool {
    true
}

const VERSION: u32 = 1;

/// Held by a command while it backs the store up.
pub const BACKUP_LOCK: &str = "backup.lock";

pub fn shard_dir(data_dir: &Path, shard: u16) -> PathBuf {
    data_dir.join("store").join(format!("shard-{shard}"))
}

pub fn control_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

impl DataDir {
    /// Locks `path`, making it first where it is missing; `shards` counts for a new one only.
    pub fn lock(path: &Path, shards: u16) -> Result<DataDir, ConfigError> {
        let fault = |what: &str, path: &Path, error: io::Error| {
            let mend = match error.kind() {
                io::ErrorKind::PermissionDenied => "; make it writable for the user that runs kura",
                io::ErrorKind::ReadOnlyFilesystem => "; it is on a read-only file system",
                io::ErrorKind::StorageFull => "; free some space there",
                _ => "",
            };
            ConfigError(format!("can't {what} {}: {error}{mend}", path.display()))
        };
        private_dir(path).map_err(|error| fault("make data directory", path, error))?;
        let lock = take_lock(path).map_err(|error| match error {
            LockError::Io(error) => fault("write to data directory", path, error),
            LockError::Held(by) => ConfigError(format!(
                "data directory {} is in use by {by}; stop it if it is a server, wait for its end if it is a command, or choose another directory",
                path.display()
            )),
        })?;
        let layout = read_or_make(path, shards)?;
        check_shards(path, &layout)?;
        let secret = hex::octets(&layout.secret).ok_or_else(|| {
            ConfigError(format!(
                "{}: secret is not 64 hexadecimal digits",
                path.join("layout.toml").display()
            ))
        })?;
        for shard in 0..layout.shards {
            let dir = shard_dir(path, shard);
            private_dir(&dir).map_err(|error| fault("make", &dir, error))?;
        }
        // A start that was cut short may have made them and no more.
        for dir in [path.join("store"), path.to_owned()].iter().filter(|_| !layout.made) {
            sync_directory(dir).map_err(|error| fault("sync", dir, error))?;
        }
        Ok(DataDir { shards: layout.shards, secret, path: path.to_owned(), layout, _lock: lock })
    }

    /// Notes, once every store has been opened, that they are there: from now on one that is
    /// missing keeps the server from starting.
    pub fn note_made(&mut self) -> Result<(), ConfigError> {
        if self.layout.made {
            return Ok(());
        }
        self.layout.made = true;
        write_layout(&self.path, &self.layout)
    }

    /// What has to be settled before this store serves.
    pub fn settle_after(&self) -> Option<After> {
        self.layout.settle_after
    }

    /// Notes that it is, durably.
    pub fn note_settled(&mut self) -> Result<(), ConfigError> {
        self.layout.settle_after = None;
        write_layout(&self.path, &self.layout)
    }
}

/// Whether a data directory can be written, or made where it is missing; nothing is.
pub fn usable(path: &Path) -> Result<(), ConfigError> {
    let nearest = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let fault = |why: &str| {
        let (path, nearest) = (path.display(), nearest.display());
        ConfigError(format!("data_dir {path} can't be used: {nearest} {why}"))
    };
    if !nearest.is_dir() {
        return Err(fault("is no directory; choose another one"));
    }
    let name = std::ffi::CString::new(nearest.as_os_str().as_encoded_bytes())
        .map_err(|_| fault("has a NUL in its name"))?;
    // SAFETY: the name is a C string that lives through the call.
    if unsafe { libc::access(name.as_ptr(), libc::W_OK | libc::X_OK) } != 0 {
        let error = io::Error::last_os_error();
        return Err(fault(&format!(
            "can't be written ({error}); give it to the user that runs kura"
        )));
    }
    Ok(())
}

/// For all but the first command of an installation, which makes the store: where there is
/// none, the disk that has it may not be mounted, and an empty one in its place would refuse
/// all mail for good.
pub fn expect_store(path: &Path) -> Result<(), ConfigError> {
    if path.join("layout.toml").exists() || path.join("store").exists() {
        return Ok(());
    }
    if fs::read_dir(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
        ownership::expect_own(path, Mode::CommandOnly)?;
    }
    Err(ConfigError(format!(
        "data_dir {} holds no store: mount the disk that has it, or restore it from a backup; a new \
         installation begins with `kura domain add DOMAIN`, which makes one",
        path.display()
    )))
}

/// Files that this process makes from now on are for their owner alone: mail, keys and
/// password hashes.
pub fn keep_private() {
    // SAFETY: it changes the process's mask and can't fail.
    unsafe { libc::umask(0o077) };
}

/// What can be said of a data directory without locking or making it: for `kura check-config`.
pub fn examine(path: &Path) -> Result<Option<u16>, ConfigError> {
    if path.join("layout.toml").exists() || path.join("store").exists() {
        // A store without its layout is an error; nothing is written here when there is one.
        let layout = read_layout(path)?.ok_or_else(|| no_layout(path))?;
        check_shards(path, &layout)?;
        return Ok(Some(layout.shards));
    }
    Ok(None)
}

/// A shard that is missing must not be replaced by an empty one: its mail would bounce, and what
/// comes in meanwhile would hide it.
fn check_shards(path: &Path, layout: &Layout) -> Result<(), ConfigError> {
    if let Some(after) = layout.settle_after.filter(|_| !path.join("store").exists()) {
        let what = match after {
            After::Restore => "restore",
            After::Salvage => "salvage",
        };
        return Err(ConfigError(format!(
            "{}: a {what} was broken off before its store was there; start the {what} again (kura store {what})",
            path.display()
        )));
    }
    for shard in 0..layout.shards {
        let dir = shard_dir(path, shard);
        if layout.made && !holds_store(&dir) {
            let what = if dir.is_dir() { "has no store in it" } else { "is missing" };
            return Err(ConfigError(format!(
                "{} {what}, but shard {shard} was made before (layout.toml): its mail is not there; \
                 mount the disk that has it, or restore it from a backup",
                dir.display()
            )));
        }
    }
    let extra =
        fs::read_dir(path.join("store")).into_iter().flatten().flatten().find_map(|entry| {
            let name = entry.file_name();
            let shard: u32 = name.to_str()?.strip_prefix("shard-")?.parse().ok()?;
            (shard >= u32::from(layout.shards)).then(|| entry.path())
        });
    match extra {
        Some(dir) => Err(ConfigError(format!(
            "{}: shards = {}, but there is {}: its accounts would be lost; set shards to what it was, \
             or move that directory away",
            path.join("layout.toml").display(),
            layout.shards,
            dir.display()
        ))),
        None => Ok(()),
    }
}

/// Whether a shard's directory has a store: its superblock or a segment of its log
/// (storage/FORMAT.md). An empty one may be where a disk should have been mounted.
pub fn holds_store(dir: &Path) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        name == "superblock" || name.to_str().is_some_and(|name| name.starts_with("log-"))
    })
}

/// Makes a directory, if it is missing, that nobody else can look into: mail and password hashes
/// will lie there. Its name is durable: what is synced inside is lost with it.
pub fn private_dir(path: &Path) -> io::Result<()> {
    let outward = path.ancestors().filter(|one| !one.as_os_str().is_empty());
    let missing: Vec<&Path> = outward.take_while(|one| !one.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    missing.into_iter().try_for_each(|made| sync_directory(parent_of(made)))
}

enum LockError {
    Io(io::Error),
    Held(String),
}

fn take_lock(path: &Path) -> Result<File, LockError> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // Root salvages what is another user's: a link of that name would have the number written
        // to what it leads to.
        .custom_flags(libc::O_NOFOLLOW)
        .open(path.join("kura.lock"))
        .map_err(LockError::Io)?;
    // SAFETY: flock on a descriptor that we own; no memory is involved.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(LockError::Io(error));
        }
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = holder.trim();
        return Err(LockError::Held(match holder {
            "" => "another process".to_owned(),
            id => format!("process {id}"),
        }));
    }
    let note = || -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    // The lock is what counts; the number is a courtesy to whoever finds it taken.
    let mut note = note;
    let _ = note();
    Ok(file)
}

/// `None`: there is none.
fn read_layout(path: &Path) -> Result<Option<Layout>, ConfigError> {
    let file = path.join("layout.toml");
    let fault = |error: &dyn std::fmt::Display| ConfigError(format!("{}: {error}", file.display()));
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(&error)),
    };
    let layout: Layout = toml::from_str(&text).map_err(|error| fault(&error.message()))?;
    if layout.version != VERSION || layout.shards == 0 {
        return Err(fault(&format!(
            "layout version {} with {} shards; this kura knows version {VERSION}",
            layout.version, layout.shards
        )));
    }
    Ok(Some(layout))
}

fn read_or_make(path: &Path, shards: u16) -> Result<Layout, ConfigError> {
    if let Some(layout) = read_layout(path)? {
        return Ok(layout);
    }
    // A store without its layout is not a new store: guessing the shards would hide mail.
    if path.join("store").exists() {
        return Err(no_layout(path));
    }
    let secret = hex::text(passwords::random::<32>());
    let layout = Layout { version: VERSION, shards, secret, made: false, settle_after: None };
    write_layout(path, &layout)?;
    Ok(layout)
}

fn no_layout(path: &Path) -> ConfigError {
    ConfigError(format!(
        "{}: missing, but there is a store beside it; restore the file from a backup",
        path.join("layout.toml").display()
    ))
}

fn write_layout(path: &Path, layout: &Layout) -> Result<(), ConfigError> {
    let file = path.join("layout.toml");
    let fault = |error: &dyn std::fmt::Display| ConfigError(format!("{}: {error}", file.display()));
    let text = toml::to_string(layout).map_err(|error| fault(&error))?;
    write_synced(&file, &text).map_err(|error| fault(&error))
}

/// The secret of a directory that exists.
pub fn secret(path: &Path) -> Result<[u8; 32], ConfigError> {
    let file = path.join("layout.toml");
    let fault = |error: &dyn std::fmt::Display| ConfigError(format!("{}: {error}", file.display()));
    let text = fs::read_to_string(&file).map_err(|error| fault(&error))?;
    let layout: Layout = toml::from_str(&text).map_err(|error| fault(&error.message()))?;
    hex::octets(&layout.secret).ok_or_else(|| fault(&"secret is not 64 hexadecimal digits"))
}

/// How many shards there are, from the layout, or from what lies in the directory where
/// that can't be read.
pub fn shards_of(path: &Path) -> Result<u16, ConfigError> {
    if let Ok(Some(layout)) = read_layout(path) {
        return Ok(layout.shards);
    }
    let store = path.join("store");
    let fault = |error: io::Error| ConfigError(format!("can't read {}: {error}", store.display()));
    let mut shards = 0;
    for entry in fs::read_dir(&store).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix("shard-")?.parse::<u16>().ok());
        shards = shards.max(number.map_or(0, |number| number.saturating_add(1)));
    }
    match shards {
        0 => Err(ConfigError(format!("there is no store in {}", store.display()))),
        shards => Ok(shards),
    }
}

/// Keeps servers and other commands out while a directory is only read; goes with what is returned.
pub fn lock_unchanged(path: &Path) -> Result<Option<File>, ConfigError> {
    let Ok(lock) = File::open(path.join("kura.lock")) else { return Ok(None) };
    // SAFETY: flock on a descriptor that we own; no memory is involved.
    if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } != 0 {
        return Err(ConfigError(format!(
            "data directory {} is in use; stop the server, or wait for the command, that has it",
            path.display()
        )));
    }
    Ok(Some(lock))
}

/// Gives a store that was written whole, under another name, its place. Its layout comes first: a
/// store without one has lost it, and nothing may write over it; a layout of this kind without a
/// store is what was broken off, and can be started again.
pub fn put_in_place(
    path: &Path,
    staging: &Path,
    shards: u16,
    after: After,
) -> Result<(), ConfigError> {
    announce(path, shards, after)?;
    let store = path.join("store");
    let moved = fs::rename(staging, &store).and_then(|()| sync_directory(path));
    moved.map_err(|error| ConfigError(format!("{}: {error}", store.display())))
}

/// Removes what a restore or a salvage has written that failed, be it before it had its
/// place or behind that.
pub fn take_back(path: &Path, staging: &Path) -> io::Result<()> {
    if due(path).is_some() {
        let store = path.join("store");
        if store.exists() && !staging.exists() {
            fs::rename(&store, staging)?;
        }
        fs::remove_file(path.join("layout.toml"))?;
    }
    if staging.exists() {
        fs::remove_dir_all(staging)?;
    }
    sync_directory(path)
}

/// What a store that was put there whole, or is still to be, needs before it serves.
pub fn due(path: &Path) -> Option<After> {
    read_layout(path).ok().flatten()?.settle_after
}

/// The layout of a store that is put there whole, under a new secret: whatever an old directory
/// still does is another line of backups.
fn announce(path: &Path, shards: u16, after: After) -> Result<(), ConfigError> {
    let secret = hex::text(passwords::random::<32>());
    let settle_after = Some(after);
    write_layout(path, &Layout { version: VERSION, shards, secret, made: true, settle_after })
}

/// Goes with the process, or with what is returned.
pub fn lock_backups(path: &Path) -> Result<File, ConfigError> {
    let file = path.join(BACKUP_LOCK);
    let fault = |error: io::Error| ConfigError(format!("can't lock {}: {error}", file.display()));
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let lock = options.open(&file).map_err(fault)?;
    // The next backup may be another user's.
    ownership::give(&file).map_err(fault)?;
    // SAFETY: flock on a descriptor that we own; no memory is involved.
    if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        // A restore that failed may have removed it meanwhile.
        return match lock.metadata().map_err(fault)?.nlink() {
            0 => lock_backups(path),
            _ => Ok(lock),
        };
    }
    let error = io::Error::last_os_error();
    Err(if error.kind() == io::ErrorKind::WouldBlock {
        ConfigError(
            "another backup or restore of this store is under way; wait for it to end".to_owned(),
        )
    } else {
        fault(error)
    })
}

/// Writes a small private file so that a crash leaves the old one or the new one.
pub fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    write_synced_bytes(path, text.as_bytes())
}

pub fn write_synced_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync_directory(parent_of(path))
}

/// Makes the names in a directory durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::restore::check_free;

    #[test]
    fn what_a_link_in_the_place_of_a_lock_leads_to_stays_as_it_is() {
        let path = std::env::temp_dir().join(format!("kura-layout-link-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let victim = path.join("victim");
        fs::write(&victim, "kept").unwrap();
        for lock in ["kura.lock", BACKUP_LOCK] {
            std::os::unix::fs::symlink(&victim, path.join(lock)).unwrap();
        }
        assert!(DataDir::lock(&path, 2).is_err() && lock_backups(&path).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_second_process_is_told_who_holds_the_directory() {
        let path = std::env::temp_dir().join(format!("kura-layout-{}", std::process::id()));
        let first = DataDir::lock(&path, 2).unwrap();
        let error = DataDir::lock(&path, 2).unwrap_err().0;
        assert!(error.contains("in use by process"), "{error}");
        let secret = first.secret;
        drop(first);
        // The number of shards is for life.
        let again = DataDir::lock(&path, 5).unwrap();
        assert_eq!((again.shards, again.secret), (2, secret));
        fs::remove_dir_all(&path).unwrap();
    }

    fn made(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("kura-layout-{name}-{}", std::process::id()));
        let mut data = DataDir::lock(&path, 2).unwrap();
        for shard in 0..2 {
            fs::write(shard_dir(&path, shard).join("log-00000001"), "x").unwrap();
        }
        data.note_made().unwrap();
        path
    }

    /// A disk that is not mounted leaves an empty directory, or none.
    #[test]
    fn a_shard_that_is_gone_is_missed() {
        let path = made("gone");
        drop(DataDir::lock(&path, 2).unwrap());
        let dir = shard_dir(&path, 1);
        fs::remove_file(dir.join("log-00000001")).unwrap();
        let error = DataDir::lock(&path, 2).unwrap_err().0;
        assert!(error.contains("shard-1 has no store") && error.contains("backup"), "{error}");
        fs::remove_dir(&dir).unwrap();
        let error = DataDir::lock(&path, 2).unwrap_err().0;
        assert!(error.contains("shard-1 is missing") && error.contains("mount"), "{error}");
        assert!(!dir.exists(), "made anew");
        assert_eq!(examine(&path).unwrap_err().0, error);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn fewer_shards_than_there_are_directories_are_refused() {
        let path = made("fewer");
        let file = path.join("layout.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("shards = 2", "shards = 1")).unwrap();
        let error = DataDir::lock(&path, 2).unwrap_err().0;
        assert!(error.contains("shards = 1") && error.contains("shard-1"), "{error}");
        fs::remove_dir_all(&path).unwrap();
    }

    /// Whatever interrupts a restore between its steps: it can be started again, or the
    /// store be started.
    #[test]
    fn a_store_that_is_put_there_whole_is_there_or_not() {
        let path = std::env::temp_dir().join(format!("kura-layout-put-{}", std::process::id()));
        let staging = path.join("store.restoring");
        let write = || {
            private_dir(&staging.join("shard-0")).unwrap();
            fs::write(staging.join("shard-0/log-00000001"), "x").unwrap();
        };
        write();
        check_free(&path).unwrap();
        announce(&path, 1, After::Restore).unwrap();
        check_free(&path).unwrap();
        let error = DataDir::lock(&path, 2).unwrap_err().0;
        assert!(error.contains("start the restore again"), "{error}");
        assert!(!path.join("store").exists());
        put_in_place(&path, &staging, 1, After::Restore).unwrap();
        let error = check_free(&path).unwrap_err();
        assert!(error.contains("kura serve"), "{error}");
        // Behind the rename it is a failure still.
        take_back(&path, &staging).unwrap();
        let left: Vec<_> =
            fs::read_dir(&path).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert_eq!(left, ["kura.lock"]);
        write();
        put_in_place(&path, &staging, 1, After::Salvage).unwrap();
        let mut data = DataDir::lock(&path, 2).unwrap();
        assert_eq!((data.shards, data.settle_after()), (1, Some(After::Salvage)));
        data.note_settled().unwrap();
        drop(data);
        assert_eq!(DataDir::lock(&path, 2).unwrap().settle_after(), None);
        // What serves already is nobody's to take back.
        take_back(&path, &staging).unwrap();
        assert!(path.join("store/shard-0/log-00000001").exists());
        assert!(check_free(&path).unwrap_err().contains("holds a store already"));
        fs::remove_dir_all(&path).unwrap();
    }

    /// A first start that was cut short is a first start again.
    #[test]
    fn shards_that_were_never_made_are_made() {
        let path = std::env::temp_dir().join(format!("kura-layout-new-{}", std::process::id()));
        drop(DataDir::lock(&path, 2).unwrap());
        fs::remove_dir_all(shard_dir(&path, 1)).unwrap();
        drop(DataDir::lock(&path, 2).unwrap());
        assert!(shard_dir(&path, 1).is_dir());
        fs::remove_dir_all(&path).unwrap();
    }
}
