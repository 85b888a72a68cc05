//! Writing an account as it was, or what has gone from it, to a directory: one Maildir for each mailbox.
//!
//! `DIR/Archive/2024/{cur,new,tmp}`, a message to a file in `cur`, flags in its name, its internal date as
//! the file's time. Files are written on the blocking pool, a piece at a time.
//!
//! Failure: the first one ends it, and is told with the path; what was written stays.

use crate::operations::Fault;
use crate::shard::Shard;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use storage::store::{PastAccount, PastMessage};
use storage::{Error, Flags};

const PIECE_BYTES: u64 = 1 << 20;

/// How many messages were written, and how many could not be read.
pub(crate) async fn maildir(
    shard: &Shard,
    past: &PastAccount,
    to: &Path,
) -> Result<(u64, u64), Fault> {
    let base = to.to_owned();
    blocking(move || empty_directory(&base)).await?;
    let (mut written, mut damaged) = (0, 0);
    for mailbox in &past.mailboxes {
        let folder =
            mailbox.name.split('/').fold(to.to_owned(), |path, level| path.join(safe(level)));
        let made = folder.clone();
        blocking(move || {
            let make = |part: &str| private().create(made.join(part)).map_err(fault(&made));
            ["cur", "new", "tmp"].into_iter().try_for_each(make)
        })
        .await?;
        for message in &mailbox.messages {
            let name = file_name(mailbox.uid_validity, message);
            let (tmp, cur) = (folder.join("tmp").join(&name), folder.join("cur").join(&name));
            let length = u64::from(message.bytes);
            let mut file = None;
            let mut start = 0;
            let whole = loop {
                let range = start..(start + PIECE_BYTES).min(length);
                let end = range.end;
                let read =
                    shard.store.read_buried(past.account, mailbox.id, message.uid, range).await;
                let piece = match read {
                    Ok(piece) => piece,
                    Err(Error::Corrupt { .. } | Error::Read { .. } | Error::NoSuchMessage(_)) => {
                        break false;
                    }
                    Err(other) => return Err(other.to_string()),
                };
                let path = tmp.clone();
                file = blocking(move || append(file, &path, &piece).map_err(fault(&path))).await?;
                start = end;
                if start >= length {
                    break true;
                }
            };
            let date = UNIX_EPOCH + Duration::from_millis(message.internal_date.0);
            blocking(move || match (whole, file) {
                (true, Some(file)) => finish(&file, date, &tmp, &cur).map_err(fault(&cur)),
                (_, Some(_)) => fs::remove_file(&tmp).map_err(fault(&tmp)),
                (_, None) => Ok(()),
            })
            .await?;
            if whole { written += 1 } else { damaged += 1 }
        }
    }
    Ok((written, damaged))
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    glommio::executor().spawn_blocking(work).await
}

fn fault(path: &Path) -> impl Fn(io::Error) -> Fault + use<> {
    let path = path.display().to_string();
    move |error| format!("can't write {path}: {error}")
}

fn private() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
}

fn empty_directory(path: &Path) -> Result<(), Fault> {
    private().create(path).map_err(fault(path))?;
    let mut entries = fs::read_dir(path).map_err(fault(path))?;
    if entries.next().is_some() {
        return Err(format!("{} is not empty; name a new directory", path.display()));
    }
    Ok(())
}

fn append(file: Option<File>, path: &Path, piece: &[u8]) -> io::Result<Option<File>> {
    let mut file = match file {
        Some(file) => file,
        None => File::options().write(true).create_new(true).mode(0o600).open(path)?,
    };
    file.write_all(piece)?;
    Ok(Some(file))
}

fn finish(
    file: &File,
    date: std::time::SystemTime,
    tmp: &PathBuf,
    cur: &PathBuf,
) -> io::Result<()> {
    file.set_modified(date)?;
    fs::rename(tmp, cur)
}

/// Names as every Maildir reader takes them; the letters of the flags ascend.
fn file_name(uid_validity: u32, message: &PastMessage) -> String {
    const LETTERS: [(Flags, char); 5] = [
        (Flags::DRAFT, 'D'),
        (Flags::FLAGGED, 'F'),
        (Flags::ANSWERED, 'R'),
        (Flags::SEEN, 'S'),
        (Flags::DELETED, 'T'),
    ];
    let set = LETTERS.iter().filter(|(flag, _)| message.flags.contains(*flag));
    let letters: String = set.map(|(_, letter)| letter).collect();
    let seconds = message.internal_date.0 / 1000;
    format!("{seconds}.V{uid_validity}U{}.kura,S={}:2,{letters}", message.uid.0, message.bytes)
}

/// A level of a mailbox's name as a directory: it can't leave the export, nor be taken for a part of a
/// Maildir.
fn safe(level: &str) -> String {
    const NAME_BYTES_MAX: usize = 200;
    let mut name = String::new();
    for (number, character) in level.chars().enumerate() {
        let is_plain = !character.is_control()
            && character != '%'
            && character != '\\'
            && !(number == 0 && character == '.');
        if is_plain {
            name.push(character);
        } else {
            let mut bytes = [0; 4];
            character
                .encode_utf8(&mut bytes)
                .bytes()
                .for_each(|b| name.push_str(&format!("%{b:02X}")));
        }
    }
    if ["cur", "new", "tmp"].contains(&name.as_str()) {
        name.insert(0, '%');
    }
    if name.len() > NAME_BYTES_MAX {
        let checksum = level
            .bytes()
            .fold(0_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let end = (0..=NAME_BYTES_MAX).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
        name.truncate(end);
        name.push_str(&format!("%{checksum:016x}"));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::{Uid, UnixMillis};

    #[test]
    fn names_stay_inside_the_export() {
        for (level, name) in [("INBOX", "INBOX"), ("..", "%2E."), (".x", "%2Ex"), ("cur", "%cur")] {
            assert_eq!(safe(level), name);
        }
        assert_eq!(safe("100 %\n"), "100 %25%0A");
        let (one, other) = (safe(&"é".repeat(300)), safe(&"é".repeat(301)));
        assert!(one.len() < 230 && one != other);
    }

    #[test]
    fn flags_are_in_the_name() {
        let message = PastMessage {
            uid: Uid(7),
            flags: Flags::SEEN.union(Flags::FLAGGED).union(Flags(1 << 9)),
            internal_date: UnixMillis(1_700_000_000_500),
            bytes: 99,
        };
        assert_eq!(file_name(5, &message), "1700000000.V5U7.kura,S=99:2,FS");
    }
}
