//! Writes the segments of a backup into an empty directory, so that opening it gives the store as
//! it was at the backup's LSN.
//!
//! The superblock comes last, and names no checkpoint: opening replays the log. It says which LSN
//! was durable, so that a damaged end is taken for what it is; and that this log goes on where
//! another one has gone on, too, so that the first opening skips the identifiers that the other
//! may have given out.

use crate::buffer::{ALIGNMENT, Buffer};
use crate::device::Device;
use crate::error::Error;
use crate::log::segments::{file_name, file_number};
use crate::superblock::{self, Superblock};
use crate::types::Lsn;
use std::io;

/// One shard on its way back.
#[derive(Debug)]
pub struct Restore<D: Device> {
    device: D,
    next_number: u32,
    file: Option<D::File>,
}

/// What the plan of the backup said of the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoredShard {
    pub shard: u16,
    pub lsn: Lsn,
    pub run: u32,
    pub salt: u64,
}

fn device_error(error: io::Error) -> Error {
    Error::Device(error.to_string())
}

impl<D: Device> Restore<D> {
    /// Refuses a directory in which a store lies.
    pub async fn begin(device: D) -> Result<Restore<D>, Error> {
        let files = device.list().await.map_err(device_error)?;
        let is_store = |name: &str| name == superblock::FILE_NAME || file_number(name).is_some();
        if files.iter().any(|listed| is_store(&listed.name)) {
            return Err(Error::Open {
                place: device.place(),
                what: "there is a store in it; restore into an empty directory".to_owned(),
            });
        }
        Ok(Restore { device, next_number: 1, file: None })
    }

    /// What is written from here on belongs to a segment of `bytes`; what is not written is zeroes.
    pub async fn segment(&mut self, bytes: u64) -> Result<(), Error> {
        self.end_segment().await?;
        let name = file_name(self.next_number);
        self.next_number += 1;
        self.file = Some(self.device.create(&name, bytes).await.map_err(device_error)?);
        Ok(())
    }

    /// `offset` is that of a block. Bytes up to the next block are zeroes.
    pub async fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let file = self.file.clone().expect("a segment has been begun");
        let mut buffer = Buffer::with_capacity(bytes.len());
        buffer.extend(bytes);
        buffer.pad(bytes.len().next_multiple_of(ALIGNMENT) - bytes.len());
        self.device.write(&file, offset, buffer).await.0.map_err(device_error)
    }

    async fn end_segment(&mut self) -> Result<(), Error> {
        let Some(file) = self.file.take() else { return Ok(()) };
        self.device.sync(&file).await.map_err(device_error)
    }

    /// Makes everything durable.
    pub async fn finish(mut self, shard: &RestoredShard) -> Result<(), Error> {
        self.end_segment().await?;
        self.device.sync_directory().await.map_err(device_error)?;
        let superblock = Superblock {
            shard: shard.shard,
            sequence: 1,
            run: shard.run,
            checkpoint: Lsn(0),
            durable: shard.lsn,
            clean: false,
            salt: shard.salt,
            restored: shard.lsn,
        };
        superblock::write(&self.device, &superblock).await.map_err(device_error)
    }
}
