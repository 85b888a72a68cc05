//! The superblock: two copies that take turns, each one block. FORMAT.md, "Superblock".
//!
//! It names the newest checkpoint and counts the openings ("runs"). It is disposable: without it the
//! store is rebuilt from the log, which costs time and nothing else.

use crate::buffer::{ALIGNMENT, Buffer};
use crate::device::Device;
use crate::format::{FORMAT_VERSION, Malformed, Reader, Writer};
use crate::types::Lsn;
use std::io;

pub(crate) const FILE_NAME: &str = "superblock";
const MAGIC: &[u8; 8] = b"KURASUP\0";
const COPIES: u64 = 2;
const USED_BYTES: usize = 60;

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
        writer.u64(0);
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
        Ok(Superblock { shard, sequence, run, checkpoint, durable, clean, salt })
    }
}

/// The copies that verify, newest first. Without a file: none.
pub(crate) async fn read<D: Device>(device: &D) -> io::Result<Vec<Superblock>> {
    let file = match device.open(FILE_NAME).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let blocks = device.read(&file, 0, Buffer::with_capacity(2 * ALIGNMENT)).await?;
    let mut found: Vec<Superblock> =
        blocks.as_slice().chunks(ALIGNMENT).filter_map(|b| Superblock::decode(b).ok()).collect();
    found.sort_by_key(|superblock| std::cmp::Reverse(superblock.sequence));
    Ok(found)
}

/// Writes the next copy, over the older one, and syncs it.
pub(crate) async fn write<D: Device>(device: &D, superblock: &Superblock) -> io::Result<()> {
    let file = match device.open(FILE_NAME).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = device.create(FILE_NAME, COPIES * ALIGNMENT as u64).await?;
            device.sync_directory().await?;
            file
        }
        Err(error) => return Err(error),
    };
    let mut block = Buffer::with_capacity(ALIGNMENT);
    block.extend(&superblock.encode());
    let offset = superblock.sequence % COPIES * ALIGNMENT as u64;
    device.write_durably(&file, offset, block).await.0
}

#[cfg(test)]
mod tests {
    use super::*;

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
