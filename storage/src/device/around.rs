//! Reading around what can't be read: a block that the disk does not give is zeroes, and is named.
//!
//! Zeroes verify as nothing, so whoever looks for frames takes such a block for rot, and goes on behind it.

use super::Device;
use crate::buffer::{ALIGNMENT, Buffer};
use std::io;

/// Where a read of more has failed. A read that fails may take a disk seconds, so a block that is gone is asked for no
/// more than three times: with all, with its neighbours, and alone.
const STEP_BYTES: usize = 64 << 10;

/// So many blocks in a row that can't be read are no sector that has gone: nothing is known of the disk any more.
const GONE_IN_A_ROW_MAX: usize = 256;

/// What was read.
#[derive(Debug)]
pub(crate) struct Around {
    pub(crate) buffer: Buffer,
    /// Where in the file the blocks are that could not be read, ascending.
    pub(crate) gone: Vec<u64>,
}

/// Whether this error is about the place that was read, rather than about the disk, the file or ourselves.
fn is_of_the_place(error: &io::Error) -> bool {
    // What the kernel makes of a medium's error, of a failed protection or checksum, and of a time that ran out.
    let of_the_place = [
        libc::EIO,
        libc::ENODATA,
        libc::EILSEQ,
        libc::EBADMSG,
        libc::EREMOTEIO,
        libc::EUCLEAN,
        libc::ETIMEDOUT,
    ];
    error.raw_os_error().is_some_and(|number| of_the_place.contains(&number))
}

/// As [`Device::read`], which fills `buffer` as far as there is anything.
pub(crate) async fn read_around<D: Device>(
    device: &D,
    file: &D::File,
    offset: u64,
    buffer: Buffer,
) -> io::Result<Around> {
    let wanted = buffer.capacity();
    match device.read(file, offset, buffer).await {
        Ok(buffer) => return Ok(Around { buffer, gone: Vec::new() }),
        Err(error) if !is_of_the_place(&error) => return Err(error),
        Err(_) => {}
    }
    let mut found = Around { buffer: Buffer::with_capacity(wanted), gone: Vec::new() };
    let (mut singly_until, mut in_a_row) = (0, 0);
    while found.buffer.len() < wanted {
        let done = found.buffer.len();
        let at = offset + done as u64;
        let step = if done < singly_until { ALIGNMENT } else { STEP_BYTES };
        let part = step.min(wanted - done);
        match device.read(file, at, Buffer::with_capacity(part)).await {
            Ok(read) => {
                in_a_row = 0;
                found.buffer.extend(read.as_slice());
                if read.len() < part {
                    break;
                }
            }
            Err(error) if !is_of_the_place(&error) => return Err(error),
            Err(_) if part > ALIGNMENT => singly_until = done + part,
            Err(error) if in_a_row == GONE_IN_A_ROW_MAX => return Err(error),
            Err(_) => {
                in_a_row += 1;
                found.gone.push(at);
                found.buffer.pad(ALIGNMENT);
            }
        }
    }
    Ok(found)
}
