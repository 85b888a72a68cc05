//! The data directory: what lies where, and who may use it.
//!
//! ```text
//! DATA/kura.lock          held by the process that uses the directory; names its process id
//! DATA/layout.toml        number of shards and the host's secret, written once
//! DATA/store/shard-N/     segments, checkpoints and superblock of shard N (storage/FORMAT.md)
//! DATA/backup.lock         held by the command that backs the directory up
//! DATA/certificates/      one folder for each certificate (certificates.rs)
//! DATA/control.sock       commands to the running server, owner only
//! ```

use crate::config::ConfigError;
use crate::passwords;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A locked data directory. The lock goes with the process, however it ends.
#[derive(Debug)]
pub struct DataDir {
    /// Recorded when the store was made: accounts keep their home shard for life.
    pub shards: u16,
    pub secret: [u8; 32],
    _lock: File,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    version: u32,
    shards: u16,
    /// Hexadecimal. Not a key to anything stored: it makes answers about unknown users consistent.
    secret: String,
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
                "data directory {} is in use by {by}; stop that server first, or choose another directory",
                path.display()
            )),
        })?;
        let layout = read_or_make(path, shards)?;
        let secret = unhex(&layout.secret).ok_or_else(|| {
            ConfigError(format!(
                "{}: secret is not 64 hexadecimal digits",
                path.join("layout.toml").display()
            ))
        })?;
        for shard in 0..layout.shards {
            let dir = shard_dir(path, shard);
            private_dir(&dir).map_err(|error| fault("make", &dir, error))?;
        }
        Ok(DataDir { shards: layout.shards, secret, _lock: lock })
    }
}

/// Makes a directory, if it is missing, that nobody else can look into: mail and password hashes will
/// lie there.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
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

fn read_or_make(path: &Path, shards: u16) -> Result<Layout, ConfigError> {
    let file = path.join("layout.toml");
    let fault = |error: &dyn std::fmt::Display| ConfigError(format!("{}: {error}", file.display()));
    match fs::read_to_string(&file) {
        Ok(text) => {
            let layout: Layout = toml::from_str(&text).map_err(|error| fault(&error.message()))?;
            if layout.version != VERSION || layout.shards == 0 {
                return Err(fault(&format!(
                    "layout version {} with {} shards; this kura knows version {VERSION}",
                    layout.version, layout.shards
                )));
            }
            Ok(layout)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A store without its layout is not a new store: guessing the shards would hide mail.
            if path.join("store").exists() {
                return Err(fault(
                    &"missing, but there is a store beside it; restore the file from a backup",
                ));
            }
            let layout = Layout { version: VERSION, shards, secret: hex(&passwords::random()) };
            let text = toml::to_string(&layout).map_err(|error| fault(&error))?;
            write_synced(&file, &text).map_err(|error| fault(&error))?;
            Ok(layout)
        }
        Err(error) => Err(fault(&error)),
    }
}

/// The secret of a directory that exists.
pub fn secret(path: &Path) -> Result<[u8; 32], ConfigError> {
    let file = path.join("layout.toml");
    let fault = |error: &dyn std::fmt::Display| ConfigError(format!("{}: {error}", file.display()));
    let text = fs::read_to_string(&file).map_err(|error| fault(&error))?;
    let layout: Layout = toml::from_str(&text).map_err(|error| fault(&error.message()))?;
    unhex(&layout.secret).ok_or_else(|| fault(&"secret is not 64 hexadecimal digits"))
}

/// The layout of a store that was put there whole.
pub fn make_restored(path: &Path, shards: u16) -> Result<(), ConfigError> {
    let file = path.join("layout.toml");
    let fault = |error: &dyn std::fmt::Display| ConfigError(format!("{}: {error}", file.display()));
    let layout = Layout { version: VERSION, shards, secret: hex(&passwords::random()) };
    let text = toml::to_string(&layout).map_err(|error| fault(&error))?;
    write_synced(&file, &text).map_err(|error| fault(&error))
}

/// Goes with the process, or with what is returned.
pub fn lock_backups(path: &Path) -> Result<File, ConfigError> {
    let file = path.join(BACKUP_LOCK);
    let fault = |error: io::Error| ConfigError(format!("can't lock {}: {error}", file.display()));
    let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(&file);
    let lock = lock.map_err(fault)?;
    // SAFETY: flock on a descriptor that we own; no memory is involved.
    if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(lock);
    }
    let error = io::Error::last_os_error();
    Err(if error.kind() == io::ErrorKind::WouldBlock {
        ConfigError("another backup of this store is under way; wait for it to end".to_owned())
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
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
