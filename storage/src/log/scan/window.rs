//! What a scan reads of the log's files: a part at a time, around what can't be read.

use super::Scan;
use crate::buffer::{ALIGNMENT, Buffer};
use crate::device::Device;
use crate::device::around::{Around, read_around};
use crate::error::Error;
use crate::format::SegmentId;
use std::io;

/// Read at once.
pub(super) const WINDOW_BYTES: usize = 2 << 20;

/// A window on the file that is being scanned.
pub(super) struct Window {
    buffer: Buffer,
    segment: SegmentId,
    start: u64,
    /// Blocks of it that can't be read: offsets in the file.
    gone: Vec<u64>,
}

impl Window {
    /// So many bytes from there; fewer where the file ends, whatever its headers say.
    pub(super) fn part(&self, offset: u64, length: u64) -> &[u8] {
        let place = |offset: u64| {
            let from_start = offset.saturating_sub(self.start);
            usize::try_from(from_start).unwrap_or(usize::MAX).min(self.buffer.len())
        };
        &self.buffer.as_slice()[place(offset)..place(offset.saturating_add(length))]
    }
}

impl<D: Device> Scan<'_, D> {
    /// Bytes of the current segment, through the window; shorter where the file ends.
    pub(super) async fn bytes(&mut self, offset: u64, length: u64) -> Result<&[u8], Error> {
        let window = self.window_with(offset, length).await?;
        Ok(self.window.insert(window).part(offset, length))
    }

    /// The window, with these bytes in it as far as there are any. Whoever takes it puts it back.
    pub(super) async fn window_with(&mut self, offset: u64, length: u64) -> Result<Window, Error> {
        let is_inside = |window: &Window| {
            window.segment == self.position.segment
                && window.start <= offset
                && window.part(offset, length).len() as u64 == length
        };
        let window = match self.window.take() {
            Some(window) if is_inside(&window) => return Ok(window),
            other => other,
        };
        let start = offset / ALIGNMENT as u64 * ALIGNMENT as u64;
        let wanted = usize::try_from(offset - start + length).expect("a part of a segment");
        let buffer = match window {
            Some(window) if window.buffer.capacity() >= wanted => window.buffer,
            _ => Buffer::with_capacity(wanted.max(WINDOW_BYTES)),
        };
        let read = self.read_around(start, buffer).await;
        let read = read.map_err(|error| Error::Device(error.to_string()))?;
        let (buffer, gone) = (read.buffer, read.gone);
        Ok(Window { buffer, segment: self.position.segment, start, gone })
    }

    async fn read_around(&mut self, start: u64, buffer: Buffer) -> io::Result<Around> {
        let (device, id) = (self.device, self.position.segment);
        let file = match self.file.take() {
            Some((held, file)) if held == id => file,
            other => {
                // First the one before is let go.
                drop(other);
                self.segment().expect("a segment that is being scanned").open(device).await?
            }
        };
        let read = read_around(device, &file, start, buffer).await;
        self.file = Some((id, file));
        read
    }

    /// Whether any of these bytes, which have just been asked for, can't be read.
    pub(super) fn is_gone(&self, offset: u64, length: u64) -> bool {
        let window = self.window.as_ref().filter(|one| one.segment == self.position.segment);
        let touches = |gone: &u64| *gone < offset + length && offset < gone + ALIGNMENT as u64;
        window.is_some_and(|window| window.gone.iter().any(touches))
    }
}
