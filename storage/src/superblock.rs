//! The superblock: two copies that take turns, each one block. FORMAT.md, "Superblock".
//!
//! It names the newest checkpoint and counts the openings ("runs"). It is disposable: without it
//! the store is rebuilt from the log, which costs time and nothing else. One that verifies and is
//! of a later version is none that was lost: whoever meets it opens nothing.
//!
//! Behind them, in the same file, stands in two copies which segment of the log was begun last
//! ([`Begun`]). It is written between the segment's header and its first batch: so a log that has
//! lost its newest segment, be it the only one, is told from one that never had it.

use crate::buffer::{ALIGNMENT, Buffer};
use crate::device::Device;
use crate::device::around::read_around;
use crate::format::{FORMAT_VERSION, Malformed, Reader, SegmentId, Writer};
use crate::types::Lsn;
use std::io;

pub(crate) const FILE_NAME: &str = "superblock";
const MAGIC: &[u8; 8] = b"KURASUP\0";
const COPIES: u64 = 2;
const USED_BYTES: usize = 60;
const BEGUN_MAGIC: &[u8; 8] = b"KURABEG\0";
const BEGUN_USED_BYTES: usize = 36;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Superblock {
    pub(crate) shard: u16,
    /// Grows by one with each write; the valid copy with the higher one counts.
    pub(crate) sequence: u64,
    pub(crate) run: u32,
    /// The newest checkpoint; zero: none yet.
    pub(crate) checkpoint: Lsn,
    /// Everything up to here was durable when this was written.
    pub(crate) durable: Lsn,
    /// The store was closed in order.
    pub(crate) clean: bool,
    /// For new segments; chosen at random when the store is made.
    pub(crate) salt: u64,
    /// As of which LSN the store was restored from a backup; zero: it was not.
    pub(crate) restored: Lsn,
}

impl Superblock {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(ALIGNMENT);
        writer.raw(MAGIC);
        writer.u8(FORMAT_VERSION);
        writer.u8(u8::from(self.clean));
        writer.u16(self.shard);
        writer.u32(self.run);
        writer.u64(self.sequence);
        writer.u64(self.checkpoint.0);
        writer.u64(self.durable.0);
        writer.u64(self.salt);
        writer.u64(self.restored.0);
        let checksum = crc32fast::hash(&writer.bytes);
        writer.u32(checksum);
        writer.bytes.resize(ALIGNMENT, 0);
        writer.bytes
    }

    fn decode(bytes: &[u8]) -> Result<Superblock, Malformed> {
        let used = bytes.get(..USED_BYTES).ok_or(Malformed("is too short"))?;
        let (covered, checksum) = used.split_at(USED_BYTES - 4);
        let mut reader = Reader::new(covered);
        if reader.raw(MAGIC.len())? != MAGIC || crc32fast::hash(covered).to_le_bytes() != checksum {
            return Err(Malformed("does not verify"));
        }
        if reader.u8()? > FORMAT_VERSION {
            return Err(Malformed("was written by a newer version"));
        }
        let clean = reader.u8()? != 0;
        let shard = reader.u16()?;
        let run = reader.u32()?;
        let sequence = reader.u64()?;
        let checkpoint = Lsn(reader.u64()?);
        let durable = Lsn(reader.u64()?);
        let salt = reader.u64()?;
        let restored = Lsn(reader.u64()?);
        Ok(Superblock { shard, sequence, run, checkpoint, durable, clean, salt, restored })
    }
}

/// The version of the block, if it is one of this file's and verifies. Where its checksum is stays
/// in all versions.
fn version(block: &[u8]) -> Option<u8> {
    let is_sound = |magic: &[u8; 8], used_bytes: usize| {
        let (covered, checksum) = block.get(..used_bytes)?.split_at(used_bytes - 4);
        let verifies = crc32fast::hash(covered).to_le_bytes() == checksum;
        (covered.starts_with(magic) && verifies).then(|| covered[magic.len()])
    };
    is_sound(MAGIC, USED_BYTES).or_else(|| is_sound(BEGUN_MAGIC, BEGUN_USED_BYTES))
}

/// Why nothing is to be opened here: a later Kura has written in this file. What can't be
/// read says nothing.
pub(crate) async fn refusal<D: Device>(device: &D) -> Option<String> {
    let file = device.open(FILE_NAME).await.ok()?;
    let mut newest = FORMAT_VERSION;
    for number in 0..2 * COPIES {
        let offset = number * ALIGNMENT as u64;
        let block = device.read(&file, offset, Buffer::with_capacity(ALIGNMENT)).await;
        let found = block.ok().and_then(|block| version(block.as_slice()));
        newest = newest.max(found.unwrap_or_default());
    }
    (newest > FORMAT_VERSION).then(|| {
        format!(
            "its {FILE_NAME} was written by a newer Kura (version {newest}, and this one knows {FORMAT_VERSION}); \
             open it with that one, or a later one. Nothing was changed"
        )
    })
}

/// The copies that verify, newest first. Without a file: none.
pub(crate) async fn read<D: Device>(device: &D) -> io::Result<Vec<Superblock>> {
    let file = match device.open(FILE_NAME).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let blocks = read_around(device, &file, 0, Buffer::with_capacity(2 * ALIGNMENT)).await?.buffer;
    let mut found: Vec<Superblock> =
        blocks.as_slice().chunks(ALIGNMENT).filter_map(|b| Superblock::decode(b).ok()).collect();
    found.sort_by_key(|superblock| std::cmp::Reverse(superblock.sequence));
    Ok(found)
}

/// Where in the file a copy can't be read, of the superblock or of the mark: it counts as one
/// that has rotted.
pub(crate) async fn unreadable<D: Device>(device: &D) -> io::Result<Vec<u64>> {
    let file = match device.open(FILE_NAME).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let blocks = Buffer::with_capacity(2 * COPIES as usize * ALIGNMENT);
    Ok(read_around(device, &file, 0, blocks).await?.gone)
}

/// Writes the next copy, over the older one, and syncs it.
pub(crate) async fn write<D: Device>(device: &D, superblock: &Superblock) -> io::Result<()> {
    write_block(device, superblock.sequence % COPIES, &superblock.encode()).await
}

async fn write_block<D: Device>(device: &D, number: u64, bytes: &[u8]) -> io::Result<()> {
    let file = match device.open(FILE_NAME).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = device.create(FILE_NAME, 2 * COPIES * ALIGNMENT as u64).await?;
            device.sync_directory().await?;
            file
        }
        Err(error) => return Err(error),
    };
    let mut block = Buffer::with_capacity(ALIGNMENT);
    block.extend(bytes);
    device.write_durably(&file, number * ALIGNMENT as u64, block).await.0
}

/// The segment of the log that was begun last, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) shard: u16,
    /// The opening that wrote this: of two copies that with the higher one counts, then
    /// the higher segment.
    pub(crate) run: u32,
    pub(crate) segment: SegmentId,
    pub(crate) salt: u64,
}

impl Begun {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(ALIGNMENT);
        writer.raw(BEGUN_MAGIC);
        writer.u8(FORMAT_VERSION);
        writer.u8(0);
        writer.u16(self.shard);
        writer.u32(self.run);
        writer.u32(self.segment.0);
        writer.u32(0);
        writer.u64(self.salt);
        let checksum = crc32fast::hash(&writer.bytes);
        writer.u32(checksum);
        writer.bytes.resize(ALIGNMENT, 0);
        writer.bytes
    }

    fn decode(bytes: &[u8]) -> Result<Begun, Malformed> {
        let used = bytes.get(..BEGUN_USED_BYTES).ok_or(Malformed("is too short"))?;
        let (covered, checksum) = used.split_at(BEGUN_USED_BYTES - 4);
        let mut reader = Reader::new(covered);
        if reader.raw(BEGUN_MAGIC.len())? != BEGUN_MAGIC
            || crc32fast::hash(covered).to_le_bytes() != checksum
        {
            return Err(Malformed("does not verify"));
        }
        if reader.u8()? > FORMAT_VERSION {
            return Err(Malformed("was written by a newer version"));
        }
        reader.u8()?;
        let shard = reader.u16()?;
        let run = reader.u32()?;
        let segment = SegmentId(reader.u32()?);
        reader.u32()?;
        let salt = reader.u64()?;
        Ok(Begun { shard, run, segment, salt })
    }
}

/// The newest copy that verifies, and the number of the copy to be written next. A store of
/// before has none.
pub(crate) async fn read_begun<D: Device>(device: &D) -> io::Result<(Option<Begun>, u64)> {
    let file = match device.open(FILE_NAME).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, 0)),
        Err(error) => return Err(error),
    };
    let from = COPIES * ALIGNMENT as u64;
    let blocks = Buffer::with_capacity(2 * ALIGNMENT);
    let blocks = read_around(device, &file, from, blocks).await?.buffer;
    let copies = (0_u64..).zip(blocks.as_slice().chunks(ALIGNMENT));
    let found = copies.filter_map(|(copy, block)| Some((copy, Begun::decode(block).ok()?)));
    let newest = found.max_by_key(|(_, begun)| (begun.run, begun.segment));
    Ok(newest.map_or((None, 0), |(copy, begun)| (Some(begun), (copy + 1) % COPIES)))
}

/// Writes a copy, and syncs it.
pub(crate) async fn write_begun<D: Device>(device: &D, copy: u64, begun: &Begun) -> io::Result<()> {
    write_block(device, COPIES + copy % COPIES, &begun.encode()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_survives_the_round_trip_and_no_flipped_bit() {
        let begun = Begun { shard: 2, run: 4, segment: SegmentId(7), salt: 0x5EED };
        let mut bytes = begun.encode();
        assert_eq!(Begun::decode(&bytes), Ok(begun));
        let golden = include_str!("../golden/begun-v1.hex");
        let golden = golden.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap());
        assert!(golden.eq(bytes[..BEGUN_USED_BYTES].iter().copied()), "{:02x?}", &bytes[..36]);
        for bit in 0..BEGUN_USED_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Begun::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_superblock_survives_the_round_trip_and_no_flipped_bit() {
        let superblock = Superblock {
            shard: 2,
            sequence: 9,
            run: 4,
            checkpoint: Lsn(77),
            durable: Lsn(80),
            clean: true,
            salt: 0x5EED,
            restored: Lsn(70),
        };
        let mut bytes = superblock.encode();
        assert_eq!(Superblock::decode(&bytes), Ok(superblock));
        for bit in 0..USED_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
