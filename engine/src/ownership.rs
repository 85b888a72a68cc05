//! Whose a data directory is: what Kura makes in it has to be that user's.
//!
//! A file of root's in a store that another user serves keeps that user's next start from opening
//! it, and halts a shard that wants to write to it. So a store is opened by its owner alone; what
//! root makes beside it, and stores that root makes from a backup or a salvage, are given to whom
//! the directory belongs.

use crate::config::ConfigError;
use crate::server::Mode;
use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const ROOT: u32 = 0;
/// More than any entry of a user database takes.
const ENTRY_BYTES_MAX: usize = 1 << 16;
/// Of directories in a data directory; each holds a descriptor.
const DEPTH_MAX: u32 = 32;

fn ours() -> u32 {
    // SAFETY: it has no preconditions and can't fail.
    unsafe { libc::geteuid() }
}

/// Refuses to open a store for another user than its own. A directory without a store is nobody's
/// yet for a server; a command that makes one in it makes it for the directory's owner.
pub fn expect_own(data_dir: &Path, mode: Mode) -> Result<(), ConfigError> {
    let store = fs::metadata(data_dir.join("store"));
    let Ok(found) = store.or_else(|error| match mode {
        Mode::Serving if error.kind() == io::ErrorKind::NotFound => Err(error),
        _ => fs::metadata(data_dir),
    }) else {
        return Ok(());
    };
    let owner = found.uid();
    let refusal = refusal(data_dir, mode, owner, ours(), || would_belong_to(data_dir, owner));
    refusal.map_or(Ok(()), |refusal| Err(ConfigError(refusal)))
}

/// What is said to who runs as `ours`. `is_given`: what root makes there belongs to the
/// owner all the same.
fn refusal(
    data_dir: &Path,
    mode: Mode,
    owner: u32,
    ours: u32,
    is_given: impl FnOnce() -> bool,
) -> Option<String> {
    if owner == ours || (ours == ROOT && is_given()) {
        return None;
    }
    let (dir, owner, ours) = (data_dir.display(), user(owner), user(ours));
    Some(match mode {
        Mode::CommandOnly => format!(
            "data directory {dir} belongs to {owner}, and this command runs as {ours}: {owner} could not open what it writes \
             there; run it as {owner} (sudo -u {owner} kura …), or start the server, which does as root says, too"
        ),
        Mode::Serving => format!(
            "data directory {dir} belongs to {owner}, and this server runs as {ours}: {owner} could not open what it writes \
             there; run it as {owner}, or, if {ours} is to run it from now on, chown -R {ours}: {dir}"
        ),
    })
}

/// Some file systems have owners of their own for what is made in them (shares of a host that
/// runs containers).
fn would_belong_to(data_dir: &Path, owner: u32) -> bool {
    let trial = data_dir.join(format!("owner-trial-{}", std::process::id()));
    // Nothing that is there, nor what a link of that name leads to, is opened.
    let Ok(file) = File::options().write(true).create_new(true).open(&trial) else { return false };
    let made = file.metadata();
    // It was for the moment.
    let _ = fs::remove_file(&trial);
    made.is_ok_and(|made| made.uid() == owner)
}

/// Names a file that root, or another user, has left in the data directory and that this
/// one may not open.
pub fn expect_open(data_dir: &Path) -> Result<(), ConfigError> {
    if ours() == ROOT {
        return Ok(());
    }
    let mut closed = Vec::new();
    let mut look = |path: PathBuf, found: &Metadata| {
        if found.uid() != ours() && !may_open(&path) {
            closed.push((path, found.uid()));
        }
    };
    for name in ["kura.lock", "layout.toml", crate::layout::BACKUP_LOCK, "store", "certificates"] {
        let path = data_dir.join(name);
        if let Ok(found) = fs::metadata(&path) {
            look(path, &found);
        }
    }
    for folder in ["store", "certificates"].map(|name| data_dir.join(name)) {
        for (path, found) in entries(&folder).filter(|(_, found)| found.is_dir()) {
            // Other folders below are nobody's business: a file system of its own has
            // its `lost+found`.
            let files = entries(&path).filter(|(_, found)| found.is_file());
            for (path, found) in files {
                look(path, &found);
            }
            look(path, &found);
        }
    }
    let Some((path, owner)) = closed.first() else { return Ok(()) };
    let more = match closed.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let (owner, ours) = (user(*owner), user(ours()));
    Err(ConfigError(format!(
        "{}{more} belongs to {owner}, and {ours}, as whom this runs, may not open it: chown -R {ours}: {}",
        path.display(),
        data_dir.display()
    )))
}

/// With what each is; what can't be listed has none.
fn entries(folder: &Path) -> impl Iterator<Item = (PathBuf, Metadata)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let path = entry.path();
        // Of what a link leads to: a shard's directory may lie elsewhere.
        fs::metadata(&path).ok().map(|found| (path, found))
    })
}

fn may_open(path: &Path) -> bool {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return true };
    // SAFETY: the name is a C string that lives through the call.
    unsafe { libc::access(name.as_ptr(), libc::R_OK | libc::W_OK) == 0 }
}

/// Gives what root has made to the owner of the directory that it is in.
///
/// That owner may put anything in the place of anything there while root is at work: links to what
/// is none of its business, above all. So nothing is looked at and given by its path, but by a
/// descriptor, which goes on meaning the same file.
pub fn give(path: &Path) -> io::Result<()> {
    if ours() != ROOT {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = File::open(parent.unwrap_or(Path::new(".")))?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    give_to(&entry(&parent, name)?, &parent.metadata()?).map(drop)
}

/// The same with everything in a directory, which keeps its owner.
pub fn give_all(directory: &Path) -> io::Result<()> {
    let directory = File::open(directory)?;
    if ours() != ROOT {
        return Ok(());
    }
    give_below(&directory, &directory.metadata()?, DEPTH_MAX)
}

fn give_below(directory: &File, owner: &Metadata, depth: u32) -> io::Result<()> {
    // Of that descriptor, wherever it lies by now.
    for listed in fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))? {
        let name = listed?.file_name();
        let below = match entry(directory, &name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            below => below?,
        };
        if give_to(&below, owner)?.is_dir() {
            let depth = depth.checked_sub(1).ok_or_else(|| {
                io::Error::other(format!("{} lies too deep", Path::new(&name).display()))
            })?;
            give_below(&below, owner, depth)?;
        }
    }
    Ok(())
}

/// What has that name in the directory, whatever it is: nothing is followed, and nothing opened
/// that an opening does something to.
fn entry(directory: &File, name: &OsStr) -> io::Result<File> {
    let name = CString::new(name.as_bytes())?;
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the name is a C string that lives through the call; a descriptor that comes back
    // is nobody else's.
    unsafe {
        match libc::openat(directory.as_raw_fd(), name.as_ptr(), flags) {
            -1 => Err(io::Error::last_os_error()),
            found => Ok(File::from_raw_fd(found)),
        }
    }
}

/// What it is. A file of root's that has another name may be one that root has not made here.
fn give_to(entry: &File, owner: &Metadata) -> io::Result<Metadata> {
    let found = entry.metadata()?;
    let is_made_here = found.is_dir() || found.nlink() == 1;
    if found.uid() == ROOT && owner.uid() != ROOT && is_made_here {
        let (file, user, group) = (entry.as_raw_fd(), owner.uid(), owner.gid());
        // SAFETY: an empty name names the descriptor, which lives through the call.
        if unsafe { libc::fchownat(file, c"".as_ptr(), user, group, libc::AT_EMPTY_PATH) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(found)
}

/// The name of a user, or the number of one that has none.
fn user(id: u32) -> String {
    let mut buffer = vec![0; ENTRY_BYTES_MAX];
    let mut found = std::ptr::null_mut();
    // SAFETY: all-zero is a valid entry; the pointers are to room that outlives the call, of the
    // size that is told.
    let name = unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        libc::getpwuid_r(id, &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found);
        // It is in the buffer, and ends with a NUL.
        (!found.is_null()).then(|| CStr::from_ptr(entry.pw_name).to_string_lossy().into_owned())
    };
    name.unwrap_or_else(|| format!("user {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    #[test]
    fn users_have_names_or_numbers() {
        assert_eq!(user(ROOT), "root");
        assert_eq!(user(3_999_999_999), "user 3999999999");
    }

    #[test]
    fn a_store_is_opened_by_its_owner_and_by_root_where_that_changes_nothing() {
        const OWNER: u32 = 3_999_999_998;
        const OTHER: u32 = 3_999_999_999;
        let asked = || -> bool { panic!("only what root makes may be somebody else's") };
        let told = |mode, owner, ours| refusal(Path::new("/d"), mode, owner, ours, asked);
        for mode in [Mode::Serving, Mode::CommandOnly] {
            assert_eq!(told(mode, OWNER, OWNER), None);
            assert_eq!(told(mode, ROOT, ROOT), None);
            assert_eq!(refusal(Path::new("/d"), mode, OWNER, ROOT, || true), None);
        }
        let by_root = |mode| refusal(Path::new("/d"), mode, OWNER, ROOT, || false);
        for (refused, belongs, remedy) in [
            (
                told(Mode::CommandOnly, OWNER, OTHER),
                "user 3999999998",
                "sudo -u user 3999999998 kura",
            ),
            (told(Mode::CommandOnly, ROOT, OTHER), "root", "sudo -u root kura"),
            (by_root(Mode::CommandOnly), "user 3999999998", "sudo -u user 3999999998 kura"),
            (told(Mode::Serving, OWNER, OTHER), "user 3999999998", "chown -R user 3999999999: /d"),
            (told(Mode::Serving, ROOT, OTHER), "root", "chown -R user 3999999999: /d"),
            (by_root(Mode::Serving), "user 3999999998", "chown -R root: /d"),
        ] {
            let refused = refused.expect("refused");
            let belongs = format!("data directory /d belongs to {belongs}, and this ");
            assert!(refused.starts_with(&belongs) && refused.contains(remedy), "{refused}");
        }
    }

    #[test]
    fn a_trial_opens_nothing_that_is_there() {
        let dir = std::env::temp_dir().join(format!("kura-owner-trial-{}", std::process::id()));
        let (data, victim) = (dir.join("data"), dir.join("victim"));
        fs::create_dir_all(&data).unwrap();
        fs::write(&victim, "kept").unwrap();
        assert!(would_belong_to(&data, ours()));
        let trial = data.join(format!("owner-trial-{}", std::process::id()));
        symlink(&victim, &trial).unwrap();
        assert!(!would_belong_to(&data, ours()));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        assert!(fs::symlink_metadata(&trial).is_ok(), "what others have made stays");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn root_gives_what_is_there_and_nothing_that_a_link_leads_to() {
        const OWNER: u32 = 3_999_999_998;
        if ours() != ROOT {
            return;
        }
        let dir = std::env::temp_dir().join(format!("kura-owner-links-{}", std::process::id()));
        let (data, outside) = (dir.join("data"), dir.join("outside"));
        fs::create_dir_all(data.join("store/shard-0")).unwrap();
        fs::create_dir_all(outside.join("below")).unwrap();
        for file in ["data/store/shard-0/log", "outside/file", "outside/below/file", "outside/hard"]
        {
            fs::write(dir.join(file), "x").unwrap();
        }
        chown(&data, Some(OWNER), Some(OWNER)).unwrap();
        symlink(&outside, data.join("store/shard-1")).unwrap();
        symlink(outside.join("file"), data.join("link")).unwrap();
        fs::hard_link(outside.join("hard"), data.join("hard")).unwrap();
        // Opened, a pipe would keep root until somebody writes to it.
        let pipe = CString::new(data.join("pipe").as_os_str().as_bytes()).unwrap();
        // SAFETY: the name is a C string that lives through the call.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        let owner = |path: &str| fs::symlink_metadata(dir.join(path)).unwrap().uid();
        give(&data.join("link")).unwrap();
        give(&data.join("hard")).unwrap();
        assert_eq!((owner("data/link"), owner("data/hard")), (OWNER, ROOT));
        give_all(&data).unwrap();
        for given in ["store", "store/shard-0", "store/shard-0/log", "store/shard-1", "pipe"] {
            assert_eq!(owner(&format!("data/{given}")), OWNER, "{given}");
        }
        for kept in
            ["outside", "outside/file", "outside/below", "outside/below/file", "outside/hard"]
        {
            assert_eq!(owner(kept), ROOT, "{kept}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_directory_that_is_swapped_for_a_link_takes_root_nowhere() {
        const OWNER: u32 = 3_999_999_998;
        if ours() != ROOT {
            return;
        }
        let dir = std::env::temp_dir().join(format!("kura-owner-swap-{}", std::process::id()));
        let (data, outside) = (dir.join("data"), dir.join("outside"));
        fs::create_dir_all(data.join("certificates")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(data.join("certificates/inside"), "x").unwrap();
        fs::write(outside.join("file"), "x").unwrap();
        chown(&data, Some(OWNER), Some(OWNER)).unwrap();
        let owner = File::open(&data).unwrap();
        let certificates = entry(&owner, OsStr::new("certificates")).unwrap();
        let owner = owner.metadata().unwrap();
        assert!(give_to(&certificates, &owner).unwrap().is_dir());
        // Between the two steps, by its new owner.
        fs::rename(data.join("certificates"), data.join("moved")).unwrap();
        symlink(&outside, data.join("certificates")).unwrap();
        give_below(&certificates, &owner, DEPTH_MAX).unwrap();
        let owner = |path: &str| fs::symlink_metadata(dir.join(path)).unwrap().uid();
        assert_eq!((owner("data/moved/inside"), owner("outside/file")), (OWNER, ROOT));
        // Nor is anything too deep.
        fs::create_dir_all(data.join("moved/a/b")).unwrap();
        assert!(give_below(&certificates, &certificates.metadata().unwrap(), 1).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_ours_is_open_to_us() {
        let dir = std::env::temp_dir().join(format!("kura-owner-{}", std::process::id()));
        fs::create_dir_all(dir.join("store/shard-0")).unwrap();
        fs::write(dir.join("store/shard-0/log-00000001"), "x").unwrap();
        for mode in [Mode::Serving, Mode::CommandOnly] {
            expect_own(&dir, mode).unwrap();
        }
        expect_open(&dir).unwrap();
        give_all(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        // What is not there is nobody's.
        expect_own(&dir, Mode::Serving).unwrap();
    }
}
