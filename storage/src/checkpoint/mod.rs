//! Checkpoints: the index as of one LSN, in a write-once file that is mapped when opened, and in
//! what earlier ones have that has not changed since. FORMAT.md, "Checkpoints".
//!
//! A file is a header block and a sequence of frames. The rows of a mailbox come before the account
//! that refers to them, so neither writing nor reading needs more memory than one account. A
//! checkpoint counts only once the superblock names it, which happens after it was synced.
//!
//! `write` writes one from a snapshot, and `settle` has the index let go of what the file holds as
//! well; `load` opens one, `verify` only looks whether it is whole; `files` says of which files it
//! is made, `past` has the frames about what is remembered.

pub(crate) mod files;
pub(crate) mod load;
mod past;
pub(crate) mod settle;
pub(crate) mod verify;
pub(crate) mod write;

use crate::format::{FORMAT_VERSION, Malformed, Reader, SegmentId, Writer};
use crate::types::Lsn;

/// Where the log goes on after what the checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position {
    pub(crate) segment: SegmentId,
    pub(crate) offset: u64,
}

pub(crate) fn file_name(lsn: Lsn) -> String {
    format!("checkpoint-{:016x}", lsn.0)
}

pub(crate) fn file_lsn(name: &str) -> Option<Lsn> {
    u64::from_str_radix(name.strip_prefix("checkpoint-")?, 16).ok().map(Lsn)
}

const HEADER_MAGIC: &[u8; 8] = b"KURACKP\0";
const HEADER_USED_BYTES: usize = 44;

/// Version 1 did not say what is live. A store that has one still has its whole log, which does.
const VERSION: u8 = 3;

/// In version 2 all rows were in the checkpoint's own file.
const VERSION_WHOLE: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    version: u8,
    shard: u16,
    lsn: Lsn,
    position: Position,
    /// The opening that wrote it: what goes on at `position` is of this run or a later one.
    run: u32,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(HEADER_USED_BYTES);
        writer.raw(HEADER_MAGIC);
        writer.u8(self.version);
        writer.u8(0);
        writer.u16(self.shard);
        writer.u32(self.position.segment.0);
        writer.u64(self.position.offset);
        writer.u64(self.lsn.0);
        writer.u32(self.run);
        writer.u32(0);
        let checksum = crc32fast::hash(&writer.bytes);
        writer.u32(checksum);
        writer.bytes
    }

    fn decode(bytes: &[u8]) -> Result<Header, Malformed> {
        let used = bytes.get(..HEADER_USED_BYTES).ok_or(Malformed("is too short"))?;
        let (covered, checksum) = used.split_at(HEADER_USED_BYTES - 4);
        let mut reader = Reader::new(covered);
        if reader.raw(8)? != HEADER_MAGIC {
            return Err(Malformed("is not a checkpoint"));
        }
        let version = reader.u8()?;
        match version {
            VERSION | VERSION_WHOLE => {}
            1 => return Err(Malformed("is of version 1; the log is read from its start, once")),
            _ => return Err(Malformed("was written by a newer version")),
        }
        if crc32fast::hash(covered).to_le_bytes() != checksum {
            return Err(Malformed("has a header that does not verify"));
        }
        reader.u8()?;
        let shard = reader.u16()?;
        let segment = SegmentId(reader.u32()?);
        let offset = reader.u64()?;
        let lsn = Lsn(reader.u64()?);
        let run = reader.u32()?;
        Ok(Header { version, shard, lsn, position: Position { segment, offset }, run })
    }
}

const FRAME_HEADER_BYTES: usize = 16;
const FRAME_ALIGNMENT: usize = 8;
const FRAME_MAGIC: u16 = u16::from_le_bytes(*b"KF");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameKind {
    Rows = 1,
    Account = 2,
    Page = 3,
    Segments = 4,
    Counters = 5,
    End = 6,
    Live = 7,
    Log = 8,
    Graves = 9,
    Past = 10,
    Files = 11,
}

fn frame_header(kind: FrameKind, payload: &[u8]) -> [u8; FRAME_HEADER_BYTES] {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[0..2].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    header[2] = kind as u8;
    header[3] = FORMAT_VERSION;
    let length = u32::try_from(payload.len()).expect("a frame is far below 4 GiB");
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..12].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let checksum = crc32fast::hash(&header[..12]);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// How many bytes of rows start at `offset`, if they verify.
fn verified_rows(bytes: &[u8], offset: usize) -> Option<usize> {
    let frame = offset.checked_sub(FRAME_HEADER_BYTES).map(|start| read_frame(bytes, start));
    match frame {
        Some(Ok((FrameKind::Rows, rows, _))) => Some(rows.len()),
        Some(Ok(_) | Err(_)) | None => None,
    }
}

/// Kind and verified payload of the frame at `offset`, and where the next one starts.
fn read_frame(bytes: &[u8], offset: usize) -> Result<(FrameKind, &[u8], usize), Malformed> {
    let start = offset + FRAME_HEADER_BYTES;
    let header = bytes.get(offset..start).ok_or(Malformed("ends before its last frame"))?;
    let (kind, length, checksum) = frame_parts(header)?;
    let payload =
        bytes.get(start..start + length).ok_or(Malformed("ends in the middle of a frame"))?;
    if crc32fast::hash(payload) != checksum {
        return Err(Malformed("has a frame that does not verify"));
    }
    Ok((kind, payload, (start + length).next_multiple_of(FRAME_ALIGNMENT)))
}

/// What a frame's header says: kind, bytes and checksum of its payload.
fn frame_parts(header: &[u8]) -> Result<(FrameKind, usize, u32), Malformed> {
    if crc32fast::hash(&header[..12]).to_le_bytes() != header[12..16] {
        return Err(Malformed("has a frame header that does not verify"));
    }
    let mut reader = Reader::new(header);
    if reader.u16()? != FRAME_MAGIC {
        return Err(Malformed("has something that is not a frame"));
    }
    let kind = match reader.u8()? {
        1 => FrameKind::Rows,
        2 => FrameKind::Account,
        3 => FrameKind::Page,
        4 => FrameKind::Segments,
        5 => FrameKind::Counters,
        6 => FrameKind::End,
        7 => FrameKind::Live,
        8 => FrameKind::Log,
        9 => FrameKind::Graves,
        10 => FrameKind::Past,
        11 => FrameKind::Files,
        _ => return Err(Malformed("has a frame that only a newer Kura reads")),
    };
    if reader.u8()? > FORMAT_VERSION {
        return Err(Malformed("was written by a newer version"));
    }
    let length = reader.u32()? as usize;
    Ok((kind, length, reader.u32()?))
}
