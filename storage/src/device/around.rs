//! Reading around what can't be read: a block that the disk does not give is zeroes, and is named.
//!
//! Zeroes verify as nothing, so whoever looks for frames takes such a block for rot, and
//! goes on behind it.

use super::Device;
use crate::buffer::{ALIGNMENT, Buffer};
use std::io;

/// Where a read of more has failed. A read that fails may take a disk seconds, so a block that is
/// gone is asked for no more than three times: with all, with its neighbours, and alone.
const STEP_BYTES: usize = 64 << 10;

/// So many blocks in a row that can't be read are no sector that has gone: nothing is known of
/// the disk any more.
const GONE_IN_A_ROW_MAX: usize = 256;

/// What was read.
#[derive(Debug)]
pub(crate) struct Around {
    pub(crate) buffer: Buffer,
    /// Where in the file the blocks are that could not be read, ascending.
    pub(crate) gone: Vec<u64>,
    /// What the disk said of the first of them.
    pub(crate) said: Option<io::Error>,
}

/// Whether this error is about the place that was read, rather than about the disk, the
/// file or ourselves.
fn is_of_the_place(error: &io::Error) -> bool {
    // What the kernel makes of a medium's error, of a failed protection or checksum, and of a
    // time that ran out.
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
    around(device, file, offset, buffer, Some(GONE_IN_A_ROW_MAX)).await
}

/// As [`read_around`], for whoever takes out of a disk that fails what there is: whatever it says
/// is of the place that was read, and so it may be of all places.
pub(crate) async fn read_what_there_is<D: Device>(
    device: &D,
    file: &D::File,
    offset: u64,
    buffer: Buffer,
) -> Around {
    let read = around(device, file, offset, buffer, None).await;
    read.unwrap_or_else(|error| unreachable!("nothing is given up for an error: {error}"))
}

/// Without a bound no error ends it.
async fn around<D: Device>(
    device: &D,
    file: &D::File,
    offset: u64,
    buffer: Buffer,
    in_a_row_max: Option<usize>,
) -> io::Result<Around> {
    let ends_it = |error: &io::Error| in_a_row_max.is_some() && !is_of_the_place(error);
    let wanted = buffer.capacity();
    match device.read(file, offset, buffer).await {
        Ok(buffer) => return Ok(Around { buffer, gone: Vec::new(), said: None }),
        Err(error) if ends_it(&error) => return Err(error),
        Err(_) => {}
    }
    let mut found = Around { buffer: Buffer::with_capacity(wanted), gone: Vec::new(), said: None };
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
            Err(error) if ends_it(&error) => return Err(error),
            Err(_) if part > ALIGNMENT => singly_until = done + part,
            Err(error) if in_a_row_max == Some(in_a_row) => return Err(error),
            Err(error) => {
                in_a_row += 1;
                found.gone.push(at);
                found.said.get_or_insert(error);
                found.buffer.pad(ALIGNMENT);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sim::{Executor, Sim};

    const BLOCK: u64 = ALIGNMENT as u64;

    /// A file in which the first of these blocks and so many behind it can't be
    /// read, read both ways.
    fn read(blocks: u64, first: u64, gone: u64) -> (io::Result<Around>, Around) {
        let sim = Sim::new(1);
        let bytes = usize::try_from(blocks).expect("a few") * ALIGNMENT;
        sim.put_file("file", vec![7; bytes]);
        assert!(sim.make_unreadable("file", first * BLOCK..(first + gone) * BLOCK));
        let disk = sim.clone();
        let reading = async move {
            let file = disk.open("file").await.expect("opens");
            let buffer = || Buffer::with_capacity(bytes);
            let opening = read_around(&disk, &file, 0, buffer()).await;
            (opening, read_what_there_is(&disk, &file, 0, buffer()).await)
        };
        Executor::new(&sim).block_on(reading).expect("comes to its end")
    }

    #[test]
    fn what_is_gone_is_zeroes_and_is_named() {
        for (first, gone) in [(0, 1), (3, 2), (15, 2), (99, 1), (17, 64)] {
            let (opening, saving) = read(100, first, gone);
            for around in [opening.expect("not much is gone"), saving] {
                let wanted: Vec<u64> = (first..first + gone).map(|block| block * BLOCK).collect();
                assert_eq!(around.gone, wanted);
                assert_eq!(around.said.and_then(|said| said.raw_os_error()), Some(libc::EIO));
                let blocks = around.buffer.as_slice().chunks(ALIGNMENT);
                assert!((0..).zip(blocks).all(|(number, block)| {
                    let left = if wanted.contains(&(number * BLOCK)) { 0 } else { 7 };
                    block.iter().all(|byte| *byte == left)
                }));
            }
        }
    }

    #[test]
    fn a_disk_that_gives_nothing_more_is_an_error_but_for_whoever_saves_what_there_is() {
        let (opening, saving) = read(700, 10, 600);
        assert_eq!(opening.expect_err("too much is gone").raw_os_error(), Some(libc::EIO));
        assert_eq!(saving.gone.len(), 600);
        assert_eq!(saving.buffer.len(), 700 * ALIGNMENT);
    }
}
