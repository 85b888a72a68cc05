//! A report's file as it came: plain, gzip, or zip with one file in it. Within bounds: what unpacks
//! to more is none.

use flate2::read::{DeflateDecoder, MultiGzDecoder};
use std::borrow::Cow;
use std::io::Read;

/// Of the file as it came, and unpacked. The largest providers' reports about the largest senders
/// have some megabytes.
pub const PACKED_BYTES_MAX: usize = 8 << 20;
pub const UNPACKED_BYTES_MAX: usize = 24 << 20;
/// Files in a zip that are looked at for one that is not empty.
const ENTRIES_MAX: usize = 16;

/// Why a file is no report: for the log.
pub type Fault = &'static str;

const TOO_LARGE: Fault = "it unpacks to more than 24 MiB";
const BAD_ZIP: Fault = "the zip file is damaged";

/// What a file's first octets say that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Gzip,
    Zip,
    Xml,
    Json,
    Other,
}

pub fn form(bytes: &[u8]) -> Form {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    match (bytes, text.first()) {
        ([0x1f, 0x8b, ..], _) => Form::Gzip,
        ([b'P', b'K', 3, 4, ..], _) => Form::Zip,
        (_, Some(b'<')) => Form::Xml,
        (_, Some(b'{')) => Form::Json,
        (_, _) => Form::Other,
    }
}

pub fn unpack(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Fault> {
    if bytes.len() > PACKED_BYTES_MAX {
        return Err("the file has more than 8 MiB");
    }
    match form(bytes) {
        Form::Gzip => {
            inflated(MultiGzDecoder::new(bytes), "the gzip file is damaged").map(Cow::Owned)
        }
        Form::Zip => zip(bytes),
        Form::Xml | Form::Json => Ok(Cow::Borrowed(bytes)),
        Form::Other => Err("it is neither XML nor JSON, packed or not"),
    }
}

fn inflated(decoder: impl Read, damaged: Fault) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    let most = UNPACKED_BYTES_MAX as u64 + 1;
    decoder.take(most).read_to_end(&mut out).map_err(|_| damaged)?;
    if out.len() > UNPACKED_BYTES_MAX { Err(TOO_LARGE) } else { Ok(out) }
}

/// By the directory at its end, since only that knows all sizes.
fn zip(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Fault> {
    const END: &[u8] = b"PK\x05\x06";
    const COMMENT_BYTES_MAX: usize = 65_535 + 22;
    let tail_start = bytes.len().saturating_sub(COMMENT_BYTES_MAX);
    let tail = bytes.get(tail_start..).unwrap_or_default();
    let at = tail_start + memchr::memmem::rfind(tail, END).ok_or(BAD_ZIP)?;
    if bytes.len() < at + 22 {
        return Err(BAD_ZIP);
    }
    let mut entry = usize::try_from(number(bytes, at + 16, 4)?).map_err(|_| BAD_ZIP)?;
    for _ in 0..ENTRIES_MAX {
        if bytes.get(entry..).is_none_or(|rest| !rest.starts_with(b"PK\x01\x02")) {
            break;
        }
        let field = |at: usize, octets: usize| -> Result<usize, Fault> {
            let offset = entry.checked_add(at).ok_or(BAD_ZIP)?;
            usize::try_from(number(bytes, offset, octets)?).map_err(|_| BAD_ZIP)
        };
        let (flags, method, packed) = (field(8, 2)?, field(10, 2)?, field(20, 4)?);
        let (name, extra, comment) = (field(28, 2)?, field(30, 2)?, field(32, 2)?);
        let header = field(42, 4)?;
        if packed > 0 {
            if flags & 1 != 0 {
                return Err("the zip file is encrypted");
            }
            return file(bytes, header, packed, method);
        }
        entry = entry.checked_add(46 + name + extra + comment).ok_or(BAD_ZIP)?;
    }
    Err("the zip file has nothing in it")
}

fn file(bytes: &[u8], header: usize, packed: usize, method: usize) -> Result<Cow<'_, [u8]>, Fault> {
    if bytes.get(header..).is_none_or(|rest| !rest.starts_with(b"PK\x03\x04")) {
        return Err(BAD_ZIP);
    }
    let name = number(bytes, header + 26, 2)?;
    let extra = number(bytes, header + 28, 2)?;
    let start = header + 30 + usize::try_from(name + extra).map_err(|_| BAD_ZIP)?;
    let end = start.checked_add(packed).ok_or(BAD_ZIP)?;
    let data = bytes.get(start..end).ok_or(BAD_ZIP)?;
    match method {
        0 => Ok(Cow::Borrowed(data)),
        8 => inflated(DeflateDecoder::new(data), BAD_ZIP).map(Cow::Owned),
        _ => Err("the zip file is packed in a way that is not known here"),
    }
}

/// Little-endian.
fn number(bytes: &[u8], at: usize, octets: usize) -> Result<u64, Fault> {
    let end = at.checked_add(octets).ok_or(BAD_ZIP)?;
    let digits = bytes.get(at..end).ok_or(BAD_ZIP)?;
    Ok(digits.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flate2::write::{DeflateEncoder, GzEncoder};
    use flate2::{Compression, Crc};
    use std::io::Write;

    pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// One file, with a directory.
    pub(crate) fn zipped(data: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        let packed = encoder.finish().unwrap();
        let mut crc = Crc::new();
        crc.update(data);
        let sizes = [crc.sum(), packed.len() as u32, data.len() as u32];
        let sizes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        let common = [&[20, 0, 0, 0, 8, 0, 0, 0, 0, 0][..], &sizes, &[5, 0, 0, 0]].concat();
        let local = [b"PK\x03\x04", &common[..], b"a.xml", &packed].concat();
        let entry = [b"PK\x01\x02\x14\0", &common[..], &[0; 14], b"a.xml"].concat();
        let end = [
            &b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..],
            &(entry.len() as u32).to_le_bytes(),
            &(local.len() as u32).to_le_bytes(),
            b"\0\0",
        ];
        [local, entry, end.concat()].concat()
    }

    #[test]
    fn each_form_comes_out_as_it_went_in() {
        let text = b"<feedback></feedback>".repeat(100);
        for packed in [text.clone(), gzip(&text), zipped(&text)] {
            assert_eq!(unpack(&packed).unwrap().as_ref(), text);
        }
        assert_eq!(form(b"\xef\xbb\xbf {"), Form::Json);
        assert!(unpack(b"hello").is_err() && unpack(b"").is_err());
    }

    #[test]
    fn bombs_and_damage_are_refused_wherever_they_are_cut() {
        let zeros = vec![0; 100 << 20];
        assert_eq!(unpack(&gzip(&zeros)), Err(TOO_LARGE));
        assert_eq!(unpack(&zipped(&zeros)), Err(TOO_LARGE));
        assert!(unpack(&vec![b' '; PACKED_BYTES_MAX + 1]).is_err());
        let text = b"<feedback>0123456789</feedback>".repeat(9);
        for packed in [gzip(&text), zipped(&text)] {
            for cut in 0..packed.len() {
                assert!(unpack(&packed[..cut]).is_err(), "{cut}");
            }
            for at in 0..packed.len() {
                let mut spoiled = packed.clone();
                spoiled[at] ^= 0xff;
                let _ = unpack(&spoiled);
            }
        }
    }
}
