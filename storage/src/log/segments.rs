//! The segments of a log: which file holds which, which is written, which are spare.
//!
//! Files are called `log-NUMBER`; the header inside says which segment a file is. A file whose header
//! does not verify is a spare. FORMAT.md, "Segments".
//!
//! Invariants: exactly one segment is active, the one with the highest number; offsets below `end` in
//! it are taken and never written again.

use crate::buffer::{ALIGNMENT, Buffer};
use crate::device::Device;
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId};
use crate::types::Lsn;
use std::collections::BTreeMap;
use std::io;

/// Handles of sealed segments that are kept open.
const OPEN_FILES_MAX: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct SegmentFile<D: Device> {
    pub(crate) number: u32,
    pub(crate) first_lsn: Lsn,
    pub(crate) file: Option<D::File>,
}

#[derive(Debug, Clone)]
pub(crate) struct Active<D: Device> {
    pub(crate) id: SegmentId,
    pub(crate) file: D::File,
    /// Where the next batch goes; a whole block.
    pub(crate) end: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) salt: u64,
}

/// A file that no segment uses.
#[derive(Debug, Clone)]
pub(crate) struct Spare<D: Device> {
    pub(crate) number: u32,
    pub(crate) file: D::File,
    pub(crate) segment_bytes: u64,
    /// Written ahead with zeroes, or used before: there appends change no metadata of the file system.
    pub(crate) zeroed_bytes: u64,
}

impl<D: Device> Spare<D> {
    pub(crate) fn is_prewritten(&self) -> bool {
        self.zeroed_bytes >= self.segment_bytes
    }
}

#[derive(Debug)]
pub(crate) struct Segments<D: Device> {
    pub(crate) active: Option<Active<D>>,
    pub(crate) files: BTreeMap<SegmentId, SegmentFile<D>>,
    pub(crate) spares: Vec<Spare<D>>,
    pub(crate) next_number: u32,
}

impl<D: Device> Default for Segments<D> {
    fn default() -> Self {
        Segments { active: None, files: BTreeMap::new(), spares: Vec::new(), next_number: 1 }
    }
}

impl<D: Device> Segments<D> {
    /// Room in the active segment.
    pub(crate) fn active_room(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.segment_bytes.saturating_sub(active.end))
    }

    pub(crate) fn spare_bytes(&self, kept_back: usize) -> u64 {
        let usable = self.spares.len().saturating_sub(kept_back);
        self.spares.iter().take(usable).map(|spare| spare.segment_bytes).sum()
    }

    pub(crate) fn next_id(&self) -> SegmentId {
        SegmentId(self.files.keys().next_back().map_or(1, |last| last.0 + 1))
    }

    pub(crate) fn take_number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// The best spare: the one that is written ahead the farthest.
    pub(crate) fn take_spare(&mut self) -> Option<Spare<D>> {
        let spares = self.spares.iter().enumerate();
        let (best, _) = spares.max_by_key(|(_, spare)| spare.zeroed_bytes)?;
        Some(self.spares.swap_remove(best))
    }

    pub(crate) fn activate(&mut self, header: &SegmentHeader, spare: Spare<D>) {
        let file = SegmentFile {
            number: spare.number,
            first_lsn: header.first_lsn,
            file: Some(spare.file.clone()),
        };
        self.files.insert(header.segment, file);
        self.active = Some(Active {
            id: header.segment,
            file: spare.file,
            end: SEGMENT_HEADER_BYTES as u64,
            segment_bytes: spare.segment_bytes,
            salt: header.salt,
        });
    }

    /// Remembers an open handle, and closes others when there are too many.
    pub(crate) fn keep_open(&mut self, id: SegmentId, file: &D::File) {
        let active = self.active.as_ref().map(|active| active.id);
        let open = self.files.values().filter(|file| file.file.is_some()).count();
        if open >= OPEN_FILES_MAX {
            let victim = self
                .files
                .iter_mut()
                .find(|(other, file)| file.file.is_some() && Some(**other) != active);
            if let Some((_, file)) = victim {
                file.file = None;
            }
        }
        if let Some(segment) = self.files.get_mut(&id) {
            segment.file = Some(file.clone());
        }
    }
}

pub(crate) fn file_name(number: u32) -> String {
    format!("log-{number:08}")
}

pub(crate) fn file_number(name: &str) -> Option<u32> {
    name.strip_prefix("log-")?.parse().ok()
}

/// Creates an allocated, durable file for a segment.
pub(crate) async fn create_spare<D: Device>(
    device: &D,
    number: u32,
    segment_bytes: u64,
) -> io::Result<Spare<D>> {
    let file = device.create(&file_name(number), segment_bytes).await?;
    device.sync_directory().await?;
    Ok(Spare { number, file, segment_bytes, zeroed_bytes: 0 })
}

/// Makes a file with a stale header spare: the header no longer verifies, for good.
pub(crate) async fn erase_header<D: Device>(device: &D, file: &D::File) -> io::Result<()> {
    device.write_durably(file, 0, Buffer::zeroed(SEGMENT_HEADER_BYTES)).await.0
}

pub(crate) async fn read_header<D: Device>(
    device: &D,
    file: &D::File,
) -> io::Result<Option<SegmentHeader>> {
    let block = device.read(file, 0, Buffer::with_capacity(ALIGNMENT)).await?;
    Ok(SegmentHeader::decode(block.as_slice()).ok())
}
