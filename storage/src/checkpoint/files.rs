//! Which files a checkpoint is made of: rows that have not changed stay in the files of the
//! checkpoints before it, and the new file refers to them. So a checkpoint costs what has changed,
//! not what is there.
//!
//! Invariants: no more garbage than rows, no more than [`FILES_MAX`] files. What is needed of a
//! file that is given up is written again, as if it had changed.

use super::{FrameKind, Header, VERSION_WHOLE, read_frame};
use crate::buffer::ALIGNMENT;
use crate::format::{Malformed, Reader, Writer};
use crate::index::{BlockData, Index, ROW_BYTES};
use crate::types::Lsn;
use std::collections::BTreeMap;

/// Files by the LSN of the checkpoint that wrote them, and how long each is.
pub(crate) type RowFiles = BTreeMap<Lsn, u64>;

/// Beside the newest one.
const FILES_MAX: usize = 16;

/// So many are left of them when there are too many: those with the most rows.
const FILES_AFTER_JOINING: usize = 8;

/// What a checkpoint leaves where it is.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) files: RowFiles,
    /// Bytes of rows in them that are in use.
    pub(crate) rows_bytes: u64,
}

/// Of the files that there are, those to which a checkpoint of this index goes on referring.
pub(crate) fn kept(index: &Index, files: &RowFiles) -> Kept {
    let (used, fresh) = rows_in(index, files);
    let rows = fresh + used.values().sum::<u64>();
    let mut left: Vec<(Lsn, u64, u64)> =
        used.iter().map(|(lsn, used)| (*lsn, *used, files[lsn])).collect();
    // The ones with the largest share in use first.
    left.sort_by_key(|(_, used, bytes)| std::cmp::Reverse(used * 1000 / bytes.max(&1)));
    let mut garbage = 0;
    left.retain(|(_, used, bytes)| {
        garbage += bytes.saturating_sub(*used);
        garbage <= rows
    });
    if left.len() > FILES_MAX {
        left.sort_by_key(|(_, used, _)| std::cmp::Reverse(*used));
        left.truncate(FILES_AFTER_JOINING);
    }
    Kept {
        rows_bytes: left.iter().map(|(_, used, _)| used).sum(),
        files: left.into_iter().map(|(lsn, _, bytes)| (lsn, bytes)).collect(),
    }
}

/// Bytes of rows that lie in each of the files, and of those that lie in none.
fn rows_in(index: &Index, files: &RowFiles) -> (RowFiles, u64) {
    let (mut used, mut fresh) = (RowFiles::new(), 0);
    let mailboxes = index.accounts.values().flat_map(|account| account.mailboxes.values());
    let graveyards = index.past.graves.values().flat_map(|graves| graves.values());
    let rows = mailboxes.map(|mailbox| &mailbox.rows).chain(graveyards.map(|yard| &yard.rows));
    for block in rows.flat_map(|rows| rows.blocks()) {
        let bytes = u64::from(block.count) * ROW_BYTES as u64;
        match &*block.data {
            BlockData::Mapped { file, .. } => match file.checkpoint {
                Some(lsn) if files.contains_key(&lsn) => *used.entry(lsn).or_default() += bytes,
                _ => fresh += bytes,
            },
            BlockData::Owned(_) => fresh += bytes,
        }
    }
    (used, fresh)
}

pub(super) fn encode(files: &RowFiles) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.count(files.len());
    for (lsn, bytes) in files {
        writer.u64(lsn.0);
        writer.u64(*bytes);
    }
    writer.bytes
}

/// The other files that a checkpoint refers to.
pub(crate) fn referred(bytes: &[u8]) -> Result<RowFiles, Malformed> {
    if Header::decode(bytes)?.version == VERSION_WHOLE {
        return Ok(RowFiles::new());
    }
    let (kind, payload, _) = read_frame(bytes, ALIGNMENT)?;
    if kind != FrameKind::Files {
        return Err(Malformed("does not say which files it refers to"));
    }
    let mut reader = Reader::new(payload);
    let mut files = RowFiles::new();
    for _ in 0..reader.count(16)? {
        files.insert(Lsn(reader.u64()?), reader.u64()?);
    }
    reader.finish()?;
    Ok(files)
}
