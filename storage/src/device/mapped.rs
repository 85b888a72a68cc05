//! Mapping a write-once file: a sector that can't be read is an error here, not the
//! end of the process.
//!
//! Touching a mapped page that the disk does not give back is SIGBUS, which ends all shards at
//! once, and again at each start. So every page is brought in before anybody looks
//! (`MADV_POPULATE_READ`, Linux 5.14: what `MAP_POPULATE` does, at the same cost, but it says
//! when it could not). What is left: a page that the kernel has let go of, to make room, and that
//! has become unreadable since. That ends the process once (`lost_page` says why), and the next
//! start finds it here.
//!
//! Only rows are read from mappings once a store is open: by `Block::row`, and by `settle`, which
//! has just brought them in. But that is wherever an index is looked at, and most of it can't
//! fail. So there is no place to ask beforehand: a page that is there may be let go of before it
//! is read. To hold all rows in memory, or to lock the pages there, takes what mapping them saves:
//! 48 bytes a message.

use super::lost_page;
use memmap2::{Advice, Mmap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Read at once where a page could not be brought in.
const READ_BYTES: usize = 1 << 20;

pub(super) fn map(path: &Path) -> io::Result<Mmap> {
    lost_page::tell();
    let file = File::open(path)?;
    // SAFETY: the file is write-once and in a directory that we have locked; whoever truncates it
    // by hand later gets SIGBUS, as with any database.
    let map = unsafe { Mmap::map(&file) }?;
    bring_in(&file, &map)?;
    Ok(map)
}

fn bring_in(file: &File, map: &Mmap) -> io::Result<()> {
    if map.is_empty() {
        return Ok(());
    }
    match map.advise(Advice::PopulateRead) {
        Ok(()) => Ok(()),
        Err(error) => {
            // Reading says where it is, and what the disk said.
            read_through(file, map.len())?;
            match error.raw_os_error() {
                Some(libc::EFAULT | libc::EHWPOISON) => Err(error),
                // Not done for another reason: all of it could be read just now.
                _ => Ok(()),
            }
        }
    }
}

fn read_through(file: &File, bytes: usize) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES.min(bytes)];
    let mut offset = 0;
    while offset < bytes {
        let part = READ_BYTES.min(bytes - offset);
        let told = |what: String| io::Error::other(format!("it can't be read at {offset}: {what}"));
        match file.read_at(&mut buffer[..part], offset as u64) {
            Ok(0) => return Err(told(format!("it ends there, and had {bytes} bytes"))),
            Ok(read) => offset += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(told(error.to_string())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages behind the file's end are SIGBUS for whoever touches them, as those are that the
    /// disk does not give.
    #[test]
    fn a_page_that_would_kill_whoever_touches_it_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, vec![7; 10 * 4096]).expect("writes");
        assert_eq!(map(&path).expect("maps").len(), 10 * 4096);
        let file = File::options().read(true).write(true).open(&path).expect("opens");
        // SAFETY: nobody touches it before its pages are brought in.
        let mapped = unsafe { Mmap::map(&file) }.expect("maps");
        bring_in(&file, &mapped).expect("all of it is there");
        file.set_len(4 * 4096).expect("cuts");
        let told = bring_in(&file, &mapped).expect_err("the rest is gone").to_string();
        assert!(told.contains("at 16384") && told.contains("40960"), "{told}");
        std::fs::write(&path, []).expect("writes");
        assert!(map(&path).expect("maps").is_empty());
    }
}
