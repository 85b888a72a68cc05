//! Writing an account as it was, or what has gone from it, to a directory: one Maildir
//! for each mailbox.
//!
//! `DIR/Archive/2024/{cur,new,tmp}`, a message to a file in `cur`, flags in its name, its internal
//! date as the file's time. Files are written on the blocking pool, many small messages by one
//! call, since a core that naps hears late of the end of each. Nothing is flushed until all is
//! written, and then everything at once: what is said to be written is durable.
//!
//! Failure: the first one ends it, and is told with the path; what was written stays. So does the
//! end of the command that asked for it ([`Course`]). A file in the directory says that not all of
//! it is there ([`INCOMPLETE`]), and goes when it is.

use crate::NOTICE;
use crate::course::Course;
use crate::operations::Fault;
use crate::shard::Shard;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use storage::store::{PastAccount, PastMailbox, PastMessage};
use storage::{Error, Flags};

const PIECE_BYTES: u64 = 1 << 20;
/// Messages that are written at once, as far as they are small.
const MESSAGES_AT_ONCE: usize = 64;

/// Beside the Maildirs until all of them are written. Not under another name of the directory
/// itself: that may be a mount point, or all that the server's user may write to.
pub(crate) const INCOMPLETE: &str = "INCOMPLETE";
const IS_INCOMPLETE: &str = "This export has not come to its end: messages are missing here. Remove the directory and start the \
    export again; this file goes when all is written.\n";

/// How many messages were written, and how many could not be read.
pub(crate) async fn maildir(
    shard: &Shard,
    past: &PastAccount,
    to: &Path,
    course: &Course,
) -> Result<(u64, u64), Fault> {
    let base = to.to_owned();
    blocking(move || empty_directory(&base)).await?;
    fill(shard, past, to, course).await.map_err(|fault| {
        format!("{fault}; what is in {} is not all, as {INCOMPLETE} there says", to.display())
    })
}

/// The directory is there, with nothing in it but the mark.
async fn fill(
    shard: &Shard,
    past: &PastAccount,
    to: &Path,
    course: &Course,
) -> Result<(u64, u64), Fault> {
    let messages = past.mailboxes.iter().flat_map(|mailbox| &mailbox.messages);
    let total = messages.clone().map(|message| u64::from(message.bytes)).sum();
    course.set(0, total);
    let (account, directory) = (past.account.0, to.display());
    tracing::info!(account, %directory, messages = messages.count(), "an export begins");
    let mut writing = Writing { shard, past, course, written: 0, damaged: 0 };
    for mailbox in &past.mailboxes {
        let folder =
            mailbox.name.split('/').fold(to.to_owned(), |path, level| path.join(safe(level)));
        if let Err(fault) = writing.mailbox(mailbox, folder).await {
            tracing::info!(target: NOTICE, account, %directory, written = writing.written, %fault, "an export has ended early");
            return Err(fault);
        }
    }
    let base = to.to_owned();
    blocking(move || {
        flush(&base).map_err(fault(&base))?;
        let mark = base.join(INCOMPLETE);
        fs::remove_file(&mark).and_then(|()| flush(&base)).map_err(fault(&mark))
    })
    .await?;
    let Writing { written, damaged, .. } = writing;
    tracing::info!(account, %directory, written, damaged, "an export has ended");
    Ok((written, damaged))
}

/// An export under way.
struct Writing<'w> {
    shard: &'w Shard,
    past: &'w PastAccount,
    course: &'w Course,
    written: u64,
    damaged: u64,
}

/// A message in one piece.
struct Whole {
    name: String,
    date: SystemTime,
    bytes: bytes::Bytes,
}

impl Writing<'_> {
    async fn mailbox(&mut self, mailbox: &PastMailbox, folder: PathBuf) -> Result<(), Fault> {
        let made = folder.clone();
        blocking(move || {
            let make = |part: &str| private().create(made.join(part)).map_err(fault(&made));
            ["cur", "new", "tmp"].into_iter().try_for_each(make)
        })
        .await?;
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        for message in &mailbox.messages {
            if self.course.is_given_up() {
                let written = self.written;
                return Err(format!(
                    "the command that asked for it has ended; {written} messages are in {}",
                    folder.display()
                ));
            }
            let length = u64::from(message.bytes);
            if length > PIECE_BYTES {
                self.large(mailbox, message, &folder).await?;
                continue;
            }
            let name = file_name(mailbox.uid_validity, message);
            match self.read(mailbox, message, 0..length).await? {
                Some(bytes) => waiting.push(Whole { name, date: date(message), bytes }),
                None => self.damaged += 1,
            }
            bytes += length;
            if waiting.len() >= MESSAGES_AT_ONCE || bytes >= PIECE_BYTES {
                self.small(&folder, std::mem::take(&mut waiting)).await?;
                bytes = 0;
            }
        }
        self.small(&folder, waiting).await
    }

    /// `None`: it can't be read.
    async fn read(
        &self,
        mailbox: &PastMailbox,
        message: &PastMessage,
        range: std::ops::Range<u64>,
    ) -> Result<Option<bytes::Bytes>, Fault> {
        let store = &self.shard.store;
        match store.read_buried(self.past.account, mailbox.id, message.uid, range).await {
            Ok(piece) => Ok(Some(piece)),
            Err(Error::Corrupt { .. } | Error::Read { .. } | Error::NoSuchMessage(_)) => Ok(None),
            Err(other) => Err(other.to_string()),
        }
    }

    async fn small(&mut self, folder: &Path, messages: Vec<Whole>) -> Result<(), Fault> {
        if messages.is_empty() {
            return Ok(());
        }
        let count = messages.len() as u64;
        let bytes = messages.iter().map(|message| message.bytes.len() as u64).sum();
        let folder = folder.to_owned();
        blocking(move || {
            for Whole { name, date, bytes } in messages {
                let (tmp, cur) = places(&folder, &name);
                let file = append(None, &tmp, &bytes).map_err(fault(&tmp))?;
                finish(&file, date, &tmp, &cur).map_err(fault(&cur))?;
            }
            Ok::<(), Fault>(())
        })
        .await?;
        self.written += count;
        self.course.add(bytes);
        Ok(())
    }

    /// Piece by piece.
    async fn large(
        &mut self,
        mailbox: &PastMailbox,
        message: &PastMessage,
        folder: &Path,
    ) -> Result<(), Fault> {
        let (tmp, cur) = places(folder, &file_name(mailbox.uid_validity, message));
        let length = u64::from(message.bytes);
        let mut file = None;
        let mut start = 0;
        let whole = loop {
            let end = (start + PIECE_BYTES).min(length);
            let Some(piece) = self.read(mailbox, message, start..end).await? else { break false };
            let path = tmp.clone();
            let so_far = file.take();
            let more = move || append(so_far, &path, &piece).map_err(fault(&path));
            file = Some(blocking(more).await?);
            self.course.add(end - start);
            start = end;
            if start >= length {
                break true;
            }
        };
        let date = date(message);
        blocking(move || match (whole, file) {
            (true, Some(file)) => finish(&file, date, &tmp, &cur).map_err(fault(&cur)),
            (_, Some(_)) => fs::remove_file(&tmp).map_err(fault(&tmp)),
            (_, None) => Ok(()),
        })
        .await?;
        if whole {
            self.written += 1
        } else {
            self.damaged += 1
        }
        Ok(())
    }
}

fn date(message: &PastMessage) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(message.internal_date.0)
}

/// Where a message is written, and where it lies then.
fn places(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    (folder.join("tmp").join(name), folder.join("cur").join(name))
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
    let mark = path.join(INCOMPLETE);
    append(None, &mark, IS_INCOMPLETE.as_bytes()).map(drop).map_err(fault(&mark))
}

fn append(file: Option<File>, path: &Path, piece: &[u8]) -> io::Result<File> {
    let mut file = match file {
        Some(file) => file,
        None => File::options().write(true).create_new(true).mode(0o600).open(path)?,
    };
    file.write_all(piece)?;
    Ok(file)
}

/// All that was written to the file system on which `path` is.
fn flush(path: &Path) -> io::Result<()> {
    let directory = File::open(path)?;
    // SAFETY: the descriptor is open as long as `directory`.
    match unsafe { libc::syncfs(directory.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn finish(file: &File, date: SystemTime, tmp: &PathBuf, cur: &PathBuf) -> io::Result<()> {
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

/// A level of a mailbox's name as a directory: it can't leave the export, nor be taken for a
/// part of a Maildir.
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
    if ["cur", "new", "tmp", INCOMPLETE].contains(&name.as_str()) {
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
        for (level, name) in [
            ("INBOX", "INBOX"),
            ("..", "%2E."),
            (".x", "%2Ex"),
            ("cur", "%cur"),
            (INCOMPLETE, "%INCOMPLETE"),
        ] {
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
