//! Reading what can be read of a file on a disk that fails ([`read_what_there_is`]). What it did
//! not give is kept in mind: to be told, and because a disk may take seconds for each block that
//! it does not give.

use super::LISTED_MAX;
use crate::buffer::{ALIGNMENT, Buffer};
use crate::device::Device;
use crate::device::around::read_what_there_is;
use std::collections::BTreeMap;
use std::io;

const BLOCK: u64 = ALIGNMENT as u64;

/// One file, and what of it could not be read so far.
pub(super) struct Reader<'d, D: Device> {
    device: &'d D,
    /// Of thousands no more are open than are read.
    file: Option<D::File>,
    /// Of the file.
    pub(super) bytes: u64,
    /// Blocks by their offset, and what the disk said.
    unreadable: BTreeMap<u64, String>,
}

impl<'d, D: Device> Reader<'d, D> {
    pub(super) fn new(device: &'d D, bytes: u64) -> Reader<'d, D> {
        Reader { device, file: None, bytes, unreadable: BTreeMap::new() }
    }

    /// Before anything is read.
    pub(super) async fn open(&mut self, name: &str) -> io::Result<()> {
        self.file = Some(self.device.open(name).await?);
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// So many bytes from this block on; fewer where the file ends.
    pub(super) async fn read(&mut self, offset: u64, bytes: usize) -> Buffer {
        let there = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let bytes = bytes.min(there);
        let mut found = Buffer::with_capacity(bytes);
        let Some(file) = self.file.clone() else { return found };
        while found.len() < bytes {
            let at = offset + found.len() as u64;
            if self.is_unreadable(at) {
                found.pad(ALIGNMENT);
                continue;
            }
            let next = self.unreadable.range(at..).next().map_or(u64::MAX, |(next, _)| next - at);
            let part = usize::try_from(next).unwrap_or(usize::MAX).min(bytes - found.len());
            let buffer = Buffer::with_capacity(part);
            let read = read_what_there_is(self.device, &file, at, buffer).await;
            let said = read.said.map_or_else(String::new, |error| error.to_string());
            self.unreadable.extend(read.gone.into_iter().map(|gone| (gone, said.clone())));
            found.extend(read.buffer.as_slice());
            if read.buffer.len() < part {
                break;
            }
        }
        found.set_len(found.len().min(bytes));
        found
    }

    /// Whether the block at this offset was asked for and could not be read.
    pub(super) fn is_unreadable(&self, offset: u64) -> bool {
        self.unreadable.contains_key(&offset)
    }

    /// A line for each run of blocks that could not be read.
    pub(super) fn damage(&self, name: &str) -> Vec<String> {
        let blocks: Vec<(u64, &String)> =
            self.unreadable.iter().map(|(at, error)| (*at, error)).collect();
        let runs = blocks.chunk_by(|(one, _), (next, _)| one + BLOCK == *next);
        let line = |run: &[(u64, &String)]| {
            let ((first, error), (last, _)) = (run.first()?, run.last()?);
            Some(format!("{name}: bytes {first} to {} can't be read: {error}", last + BLOCK - 1))
        };
        runs.take(LISTED_MAX).filter_map(line).collect()
    }
}
