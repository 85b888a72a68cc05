//! Reading what can be read of a file on a disk that fails: a block that it does not give is zeroes, and is named.
//!
//! Zeroes verify as nothing, so whoever searches takes the block for rot and goes on behind it.

use super::LISTED_MAX;
use crate::buffer::{ALIGNMENT, Buffer};
use crate::device::Device;
use std::collections::BTreeMap;

const BLOCK: u64 = ALIGNMENT as u64;

/// One file, and what of it could not be read so far.
pub(super) struct Reader<'d, D: Device> {
    device: &'d D,
    pub(super) file: D::File,
    /// Of the file.
    pub(super) bytes: u64,
    /// Blocks by their offset, and what the disk said.
    unreadable: BTreeMap<u64, String>,
}

impl<'d, D: Device> Reader<'d, D> {
    pub(super) fn new(device: &'d D, file: D::File, bytes: u64) -> Reader<'d, D> {
        Reader { device, file, bytes, unreadable: BTreeMap::new() }
    }

    /// So many bytes from this block on; fewer where the file ends.
    pub(super) async fn read(&mut self, offset: u64, bytes: usize) -> Buffer {
        let there = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let bytes = bytes.min(there);
        match self.device.read(&self.file, offset, Buffer::with_capacity(bytes)).await {
            Ok(read) => read,
            Err(_) => self.read_around(offset, bytes).await,
        }
    }

    /// Whether the block at this offset was asked for and could not be read.
    pub(super) fn is_unreadable(&self, offset: u64) -> bool {
        self.unreadable.contains_key(&offset)
    }

    /// In ever smaller parts up to the block that fails, and in ever larger ones behind it. A read that fails may
    /// take the disk seconds: a block that stands alone costs a dozen of them, one in a run of such blocks one.
    async fn read_around(&mut self, offset: u64, bytes: usize) -> Buffer {
        let mut found = Buffer::with_capacity(bytes);
        let mut step = bytes;
        while found.len() < bytes {
            let at = offset + found.len() as u64;
            let part = step.min(bytes - found.len());
            if self.is_unreadable(at) {
                found.pad(part.min(ALIGNMENT));
                continue;
            }
            match self.device.read(&self.file, at, Buffer::with_capacity(part)).await {
                Ok(read) => {
                    found.extend(&read.as_slice()[..read.len().min(part)]);
                    if read.len() < part {
                        break;
                    }
                    step = step.saturating_mul(2);
                }
                Err(_) if part > ALIGNMENT => step = (part / 2).next_multiple_of(ALIGNMENT),
                Err(error) => {
                    self.unreadable.insert(at, error.to_string());
                    found.pad(part.min(ALIGNMENT));
                }
            }
        }
        found
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
