//! Whether what lies in a place comes from this data directory as it is now, or from what it was
//! before a roll-back, or from a copy.
//!
//! Before a backup sends its first piece, it writes a random token into the data directory,
//! durably, and then into the place's marker. So a directory that knows the token of a place holds
//! all that was sent there: the plan comes before the token, and what is planned is on the disk.
//! One that was rolled back since (a snapshot of the disk or of the virtual machine), one that was
//! copied before, and one that was restored from there, do not know it: their segments have the
//! same numbers and other content, and pieces of both in one backup would be no store.
//!
//! A line for each backup, the oldest first; of very many only the newest are kept.

use super::Fault;
use crate::{hex, layout, ownership, passwords};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Below the data directory; in no backup.
pub const FILE: &str = "backups.begun";

/// A place to which nothing was sent for so many backups is another's.
const TOKENS_MAX: usize = 10_000;

/// The tokens of the backups that this directory has begun.
pub fn known(data_dir: &Path) -> Result<BTreeSet<String>, Fault> {
    Ok(read(data_dir)?.lines().map(str::to_owned).collect())
}

/// A new token, which the directory knows from now on, whatever happens.
pub fn begin(data_dir: &Path) -> Result<String, Fault> {
    let token = hex::text(passwords::random::<16>());
    let file = data_dir.join(FILE);
    let text = read(data_dir)?;
    let count = text.lines().count();
    let noted = if count == 0 || count >= 2 * TOKENS_MAX {
        let newest: Vec<&str> = text.lines().skip(count.saturating_sub(TOKENS_MAX)).collect();
        let text = newest.iter().map(|line| format!("{line}\n")).collect::<String>();
        layout::write_synced(&file, &format!("{text}{token}\n"))
    } else {
        append(&file, &text, &token)
    };
    noted.and_then(|()| ownership::give(&file)).map_err(|error| {
        let mend = match error.kind() {
            io::ErrorKind::StorageFull => "; free some space there",
            io::ErrorKind::PermissionDenied => "; run this as the user that runs kura",
            _ => "",
        };
        format!("can't write {}: {error}{mend}", file.display())
    })?;
    Ok(token)
}

/// In place: there may be no room on the disk for another file.
fn append(file: &Path, before: &str, token: &str) -> io::Result<()> {
    // One that was cut short is no token.
    let end = if before.ends_with('\n') { "" } else { "\n" };
    let mut file = File::options().append(true).custom_flags(libc::O_NOFOLLOW).open(file)?;
    file.write_all(format!("{end}{token}\n").as_bytes())?;
    file.sync_all()
}

fn read(data_dir: &Path) -> Result<String, Fault> {
    let file = data_dir.join(FILE);
    match fs::read_to_string(&file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("can't read {}: {error}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_known_and_the_list_stays_short() {
        let dir = std::env::temp_dir().join(format!("kura-begun-{}", std::process::id()));
        layout::private_dir(&dir).unwrap();
        assert_eq!(known(&dir), Ok(BTreeSet::new()));
        let first = begin(&dir).unwrap();
        let second = begin(&dir).unwrap();
        assert_eq!(known(&dir).unwrap(), BTreeSet::from([first.clone(), second.clone()]));
        // A power cut in the middle of a line.
        fs::write(dir.join(FILE), format!("{first}\n{}", &second[..7])).unwrap();
        let third = begin(&dir).unwrap();
        let there = known(&dir).unwrap();
        assert!(there.contains(&first) && there.contains(&third) && !there.contains(&second));
        let many: String = (0..2 * TOKENS_MAX).map(|number| format!("{number}\n")).collect();
        fs::write(dir.join(FILE), many).unwrap();
        let last = begin(&dir).unwrap();
        let there = known(&dir).unwrap();
        assert_eq!(there.len(), TOKENS_MAX + 1);
        assert!(there.contains(&last) && there.contains("19999") && !there.contains("9999"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
