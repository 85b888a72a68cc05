//! Verifying a checkpoint as it is read, part by part: the scrub and whoever copies it want
//! what is on the disk, not what the page cache still has of it, and hold no more of it than
//! they have just read.

use super::{
    FRAME_ALIGNMENT, FRAME_HEADER_BYTES, FrameKind, Header, Position, file_name, frame_parts,
};
use crate::buffer::{ALIGNMENT, Buffer};
use crate::device::Device;
use crate::format::Malformed;
use crate::types::Lsn;
use crc32fast::Hasher;

/// One of a checkpoint's files, from its first byte on. Errors say what is wrong with it, to be put
/// behind its name.
pub(crate) struct Reading<'d, D: Device> {
    device: &'d D,
    file: D::File,
    /// Read at once.
    part_bytes: usize,
    offset: u64,
    at_end: bool,
    verifier: Verifier,
}

impl<'d, D: Device> Reading<'d, D> {
    pub(crate) async fn begin(
        device: &'d D,
        checkpoint: Lsn,
        part_bytes: usize,
    ) -> Result<Reading<'d, D>, String> {
        let file = device.open(&file_name(checkpoint)).await;
        let file = file.map_err(|error| format!("can't be opened: {error}"))?;
        let verifier = Verifier::new();
        Ok(Reading { device, file, part_bytes, offset: 0, at_end: false, verifier })
    }

    /// The next part, which is not known to be whole before the end is. Nothing
    /// behind the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<Buffer>, String> {
        if self.at_end {
            return Ok(None);
        }
        let part = Buffer::with_capacity(self.part_bytes);
        let part = self.device.read(&self.file, self.offset, part).await;
        let part = part.map_err(|error| format!("can't be read near {}: {error}", self.offset))?;
        self.verifier.feed(part.as_slice()).map_err(|malformed| malformed.to_string())?;
        self.offset += part.len() as u64;
        self.at_end = part.len() < self.part_bytes;
        Ok(Some(part))
    }

    /// What the file says of itself, if all of it verifies: its LSN, and where the log goes on.
    pub(crate) fn finish(self) -> Result<(Lsn, Position), String> {
        self.verifier.finish().map_err(|malformed| malformed.to_string())
    }
}

/// What the next bytes belong to.
#[derive(Debug)]
enum Part {
    Header,
    FrameHeader,
    Payload {
        kind: FrameKind,
        bytes: usize,
        left: usize,
        checksum: u32,
        hasher: Hasher,
    },
    /// Zeroes up to the next frame.
    Padding(usize),
    End,
}

/// Takes a file from its first byte on, in parts of any length.
#[derive(Debug)]
struct Verifier {
    part: Part,
    /// Of a header that is not whole yet.
    held: Vec<u8>,
    described: Option<(Lsn, Position)>,
}

impl Verifier {
    fn new() -> Verifier {
        Verifier { part: Part::Header, held: Vec::new(), described: None }
    }

    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            let taken = self.step(bytes)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn finish(self) -> Result<(Lsn, Position), Malformed> {
        match (self.part, self.described) {
            (Part::End, Some(described)) => Ok(described),
            _ => Err(Malformed("ends before its last frame")),
        }
    }

    /// How many of the bytes were taken.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match &mut self.part {
            Part::Header => {
                let taken = self.hold(bytes, ALIGNMENT);
                if self.held.len() == ALIGNMENT {
                    let header = Header::decode(&self.held)?;
                    self.described = Some((header.lsn, header.position));
                    self.next(Part::FrameHeader);
                }
                Ok(taken)
            }
            Part::FrameHeader => {
                let taken = self.hold(bytes, FRAME_HEADER_BYTES);
                if self.held.len() == FRAME_HEADER_BYTES {
                    let (kind, bytes, checksum) = frame_parts(&self.held)?;
                    let hasher = Hasher::new();
                    self.next(Part::Payload { kind, bytes, left: bytes, checksum, hasher });
                    self.end_payload()?;
                }
                Ok(taken)
            }
            Part::Payload { left, hasher, .. } => {
                let taken = bytes.len().min(*left);
                hasher.update(&bytes[..taken]);
                *left -= taken;
                self.end_payload()?;
                Ok(taken)
            }
            Part::Padding(left) => {
                let taken = bytes.len().min(*left);
                *left -= taken;
                if *left == 0 {
                    self.next(Part::FrameHeader);
                }
                Ok(taken)
            }
            Part::End => Ok(bytes.len()),
        }
    }

    /// If all of it has been seen.
    fn end_payload(&mut self) -> Result<(), Malformed> {
        let Part::Payload { kind, bytes, left: 0, checksum, hasher } = &self.part else {
            return Ok(());
        };
        if hasher.clone().finalize() != *checksum {
            return Err(Malformed("has a frame that does not verify"));
        }
        let padding = bytes.next_multiple_of(FRAME_ALIGNMENT) - bytes;
        let next = match kind {
            FrameKind::End => Part::End,
            _ if padding == 0 => Part::FrameHeader,
            _ => Part::Padding(padding),
        };
        self.next(next);
        Ok(())
    }

    fn hold(&mut self, bytes: &[u8], wanted: usize) -> usize {
        let taken = bytes.len().min(wanted - self.held.len());
        self.held.extend_from_slice(&bytes[..taken]);
        taken
    }

    fn next(&mut self, part: Part) {
        self.held.clear();
        self.part = part;
    }
}
