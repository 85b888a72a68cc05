//! Bodies are compressed as they come in, when the host's profile says that the disk is slower than
//! that. FORMAT.md, "Packed bodies".
//!
//! One step is one body or chunk, 256 KiB at the most, so a core is held for a millisecond or two.
//! Without memory for the compressor a body stays as it came.

use crate::error::Error;
use crate::format::{Malformed, Packer, Unpacker};
use crate::options::Options;
use std::cell::{Cell, RefCell};

/// What shrinks to less than this is worth unpacking each time that it is read.
const PERCENT_MAX: usize = 90;

/// Shorter bodies give back less than the alignment takes.
const BYTES_MIN: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Packing {
    /// `None`: what comes in stays as it is.
    packer: RefCell<Option<Packer>>,
    unpacker: RefCell<Option<Unpacker>>,
    pub(crate) counts: Cell<PackedCounts>,
}

/// Since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PackedCounts {
    /// Bodies and chunks of bodies.
    pub(crate) packed: u64,
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
    /// Those that would not have shrunk enough.
    pub(crate) declined: u64,
}

impl Packing {
    pub(crate) fn new(options: &Options) -> Packing {
        let level = i32::from(options.zstd_level);
        let packer = if level == 0 { None } else { Packer::new(level).ok() };
        Packing { packer: RefCell::new(packer), ..Packing::default() }
    }

    /// `None`: it stays as it is.
    pub(crate) fn pack(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut packer = self.packer.borrow_mut();
        let packer = packer.as_mut().filter(|_| body.len() >= BYTES_MIN)?;
        let packed = packer.pack(body, PERCENT_MAX);
        let mut counts = self.counts.get();
        if let Some(packed) = &packed {
            counts.packed += 1;
            counts.bytes_before += body.len() as u64;
            counts.bytes_after += packed.len() as u64;
        } else {
            counts.declined += 1;
        }
        self.counts.set(counts);
        packed
    }

    /// Malformed: what the checksum has let through is not what was written.
    pub(crate) fn unpack(&self, packed: &[u8]) -> Result<Result<Vec<u8>, Malformed>, Error> {
        let mut unpacker = self.unpacker.borrow_mut();
        if unpacker.is_none() {
            *unpacker = Some(Unpacker::new().map_err(|error| Error::Device(error.to_string()))?);
        }
        Ok(unpacker.as_mut().expect("just made").unpack(packed))
    }
}
