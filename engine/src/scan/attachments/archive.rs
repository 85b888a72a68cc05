//! What is packed in zip, gzip and tar files, within the limits of one message.
//!
//! A zip file is listed twice: by its directory, as most programs do, and by the headers in front
//! of each entry, as those do that read from a stream; who hides something from one of them shows
//! it to the other.

use super::content::{self, SNIFFED_BYTES, Type};
use super::{Inspection, Kind, inside, limits, names};
use memchr::memmem;
use std::io::Read;

const DIRECTORY_END: &[u8] = b"PK\x05\x06";
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
/// The end of the directory, with the longest comment behind it.
const DIRECTORY_END_BYTES_MAX: usize = 22 + 65_535;
const ENCRYPTED: u16 = 1;

struct Entry {
    name: String,
    flags: u16,
    method: u16,
    packed: u64,
    unpacked: u64,
    /// Of its local header, from where the archive begins.
    offset: u64,
}

pub(crate) fn zip(inspection: &mut Inspection, bytes: &[u8], depth: usize, path: &str) {
    let (entries, base) = directory(inspection, bytes);
    for entry in &entries {
        let lower = entry.name.to_ascii_lowercase();
        if lower.ends_with("vbaproject.bin") || lower.contains("xl/macrosheets/") {
            inspection.tell(Kind::Macros, path);
        }
        inspection.name(path, &entry.name);
    }
    for at in memmem::find_iter(bytes, LOCAL_HEADER) {
        if !inspection.list() {
            break;
        }
        let name = number(bytes, at + 26, 2).and_then(|length| slice(bytes, at + 30, length));
        inspection.name(path, &text(name.unwrap_or_default()));
    }
    if entries.is_empty() && !bytes.starts_with(DIRECTORY_END) {
        inspection.tell(Kind::Unseen, path);
    }
    let sum = |of: fn(&Entry) -> u64| entries.iter().map(of).fold(0, u64::saturating_add);
    let (packed, unpacked) = (sum(|entry| entry.packed), sum(|entry| entry.unpacked));
    // Entries that share their bytes make any ratio.
    if packed > bytes.len() as u64 || is_bomb(bytes.len(), unpacked) {
        return inspection.tell(Kind::Bomb, path);
    }
    for entry in &entries {
        let path = inside(path, &entry.name);
        if entry.flags & ENCRYPTED != 0 || entry.method == 99 {
            inspection.tell(Kind::Encrypted, &path);
        } else if entry.packed > 0 || entry.unpacked > 0 {
            let at = usize::try_from(entry.offset.saturating_add(base)).unwrap_or(usize::MAX);
            open(inspection, bytes, at, entry, depth, &path);
        }
    }
}

fn is_bomb(packed: usize, unpacked: u64) -> bool {
    unpacked > limits::CLAIMED_BYTES_MAX && unpacked / (packed as u64).max(1) > limits::RATIO_MAX
}

/// The entries that the directory lists, and where the archive begins.
fn directory(inspection: &mut Inspection, bytes: &[u8]) -> (Vec<Entry>, u64) {
    let mut entries = Vec::new();
    let Some(end) = directory_end(bytes) else { return (entries, 0) };
    let found = directory_place(bytes, end);
    let Some((mut at, size, offset)) = found else { return (entries, 0) };
    // What stands in front of the archive, such as a program that unpacks it, moves everything.
    let base = (at as u64).saturating_sub(offset);
    let stop = at.saturating_add(size);
    while at < stop && bytes.get(at..at + 4) == Some(DIRECTORY_ENTRY) {
        let read = |offset, length| number(bytes, at + offset, length);
        let lengths = (read(28, 2), read(30, 2), read(32, 2));
        let (Some(name), Some(extra), Some(comment)) = lengths else { break };
        if !inspection.list() {
            break;
        }
        let length = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let name_bytes = slice(bytes, at + 46, name).unwrap_or_default();
        let extra_bytes = slice(bytes, at + 46 + length(name), extra).unwrap_or_default();
        let mut sizes = [read(24, 4), read(20, 4), read(42, 4)].map(Option::unwrap_or_default);
        widen(&mut sizes, extra_bytes);
        entries.push(Entry {
            name: text(name_bytes),
            flags: read(8, 2).unwrap_or_default() as u16,
            method: read(10, 2).unwrap_or_default() as u16,
            unpacked: sizes[0],
            packed: sizes[1],
            offset: sizes[2],
        });
        at += 46 + length(name) + length(extra) + length(comment);
    }
    (entries, base)
}

fn directory_end(bytes: &[u8]) -> Option<usize> {
    let tail = &bytes[bytes.len().saturating_sub(DIRECTORY_END_BYTES_MAX)..];
    // By its last byte, which texts don't have: a search for all four from behind takes
    // ten times as long.
    let mut lasts = memchr::memrchr_iter(DIRECTORY_END[3], tail);
    let end = lasts.find(|&last| tail[..=last].ends_with(DIRECTORY_END))?;
    Some(bytes.len() - tail.len() + end - 3)
}

/// Whether it ends as a zip file does, however it begins.
pub(crate) fn has_directory(bytes: &[u8]) -> bool {
    directory_end(bytes).is_some_and(|end| directory_place(bytes, end).is_some())
}

/// Where the directory begins, its size, and where it says that it begins.
fn directory_place(bytes: &[u8], end: usize) -> Option<(usize, usize, u64)> {
    let mut place = (end, number(bytes, end + 12, 4)?, number(bytes, end + 16, 4)?);
    let locator = end.checked_sub(20).filter(|&at| bytes[at..].starts_with(b"PK\x06\x07"));
    if let Some(locator) = locator {
        // Zip64: the numbers stand in a wider record of their own, in front of the locator.
        let at = memmem::rfind(&bytes[..locator], b"PK\x06\x06")?;
        place = (at, number(bytes, at + 40, 8)?, number(bytes, at + 48, 8)?);
    }
    let (end, size, offset) = place;
    let size = usize::try_from(size).ok()?;
    Some((end.checked_sub(size)?, size, offset))
}

/// Sizes that do not fit 32 bits stand in an extra field, those alone, in this order.
fn widen(sizes: &mut [u64; 3], mut extra: &[u8]) {
    while let (Some(kind), Some(length)) = (number(extra, 0, 2), number(extra, 2, 2)) {
        let data = slice(extra, 4, length).unwrap_or_default();
        if kind == 1 {
            let mut at = 0;
            for size in sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX)) {
                *size = number(data, at, 8).unwrap_or(*size);
                at += 8;
            }
            return;
        }
        extra = extra.get(4 + data.len()..).unwrap_or_default();
        if data.is_empty() && length > 0 {
            return;
        }
    }
}

/// An entry whose local header is at `at`: as much of it is unpacked as its type needs.
fn open(
    inspection: &mut Inspection,
    bytes: &[u8],
    at: usize,
    entry: &Entry,
    depth: usize,
    path: &str,
) {
    if bytes.get(at..at.saturating_add(4)) != Some(LOCAL_HEADER) {
        return inspection.tell(Kind::Unseen, path);
    }
    if !inspection.open() {
        return;
    }
    let lengths = (number(bytes, at + 26, 2), number(bytes, at + 28, 2));
    let (Some(name), Some(extra)) = lengths else { return };
    let start = usize::try_from(name + extra).unwrap_or(0) + at + 30;
    let Some(rest) = bytes.get(start..) else { return };
    let packed = usize::try_from(entry.packed).unwrap_or(usize::MAX).min(rest.len());
    let data = &rest[..packed];
    match entry.method {
        0 => inspection.file(data, depth + 1, path),
        8 => {
            let mut start = Vec::new();
            let _ = deflate(data).take(SNIFFED_BYTES as u64).read_to_end(&mut start);
            match content::type_of(&start) {
                Type::Other => {}
                Type::Executable | Type::OtherArchive => inspection.file(&start, depth + 1, path),
                Type::Compound | Type::Zip | Type::Gzip | Type::Tar => {
                    if let Some(whole) = inspection.unpack(deflate(data), data.len(), path) {
                        inspection.file(&whole, depth + 1, path);
                    }
                }
            }
        }
        _ => inspection.tell(Kind::Unseen, path),
    }
}

fn deflate(data: &[u8]) -> flate2::read::DeflateDecoder<&[u8]> {
    flate2::read::DeflateDecoder::new(data)
}

pub(crate) fn gzip(inspection: &mut Inspection, bytes: &[u8], depth: usize, path: &str) {
    let mut decoder = flate2::read::MultiGzDecoder::new(bytes);
    let told = decoder.header().and_then(|header| header.filename().map(<[u8]>::to_vec));
    if let Some(name) = told {
        inspection.name(path, &text(&name));
    }
    let lower = path.to_ascii_lowercase();
    let inner = lower.strip_suffix(".gz").or_else(|| lower.strip_suffix(".gzip"));
    let inner = inner.and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    for kind in names::kinds(inner) {
        inspection.tell(kind, path);
    }
    if inspection.open()
        && let Some(whole) = inspection.unpack(&mut decoder, bytes.len(), path)
    {
        inspection.file(&whole, depth + 1, path);
    }
}

pub(crate) fn tar(inspection: &mut Inspection, bytes: &[u8], depth: usize, path: &str) {
    const BLOCK: usize = 512;
    let mut rest = bytes;
    let mut long_name: Option<String> = None;
    while rest.len() >= BLOCK && rest[0] != 0 && inspection.list() {
        let (header, after) = rest.split_at(BLOCK);
        let field = |at: usize, length: usize| first(&header[at..at + length], 0);
        let Some(size) = octal(field(124, 12)) else {
            // Too large for digits, or no tar file from here on.
            return inspection.tell(Kind::Unseen, path);
        };
        let content = &after[..size.min(after.len())];
        match header[156] {
            b'L' => long_name = Some(text(first(content, 0))),
            b'x' => long_name = extended_name(content).or(long_name),
            b'0' | 0 | b'7' => {
                let name = long_name
                    .take()
                    .unwrap_or_else(|| text(&[field(345, 155), b"/", field(0, 100)].concat()));
                let name = name.trim_start_matches('/');
                inspection.name(path, name);
                inspection.file(content, depth + 1, &inside(path, name));
            }
            _ => {}
        }
        let padded = size.div_ceil(BLOCK).saturating_mul(BLOCK);
        rest = after.get(padded..).unwrap_or_default();
    }
}

/// `30 path=a/long/name.txt` and a line end, among others (pax).
fn extended_name(content: &[u8]) -> Option<String> {
    let key = b" path=";
    let at = memmem::find(content, key)?;
    Some(text(first(&content[at + key.len()..], b'\n')))
}

/// Up to a byte, or all.
fn first(bytes: &[u8], end: u8) -> &[u8] {
    memchr::memchr(end, bytes).map_or(bytes, |at| &bytes[..at])
}

/// A name in an archive; its end, since it may be as long as the archive.
fn text(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(names::NAME_BYTES_MAX);
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

fn octal(digits: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(digits.trim_ascii()).ok()?;
    usize::from_str_radix(text, 8).ok()
}

/// Little-endian, of up to eight octets.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let octets = bytes.get(at..at.checked_add(length)?)?;
    Some(octets.iter().rev().fold(0, |number, &octet| number << 8 | u64::from(octet)))
}

fn slice(bytes: &[u8], at: usize, length: u64) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(usize::try_from(length).ok()?)?)
}

impl Inspection {
    /// Whether one more entry may be listed.
    fn list(&mut self) -> bool {
        if self.entries_left == 0 {
            self.tell(Kind::Unseen, "archives with very many entries");
            return false;
        }
        self.entries_left -= 1;
        true
    }

    /// Whether one more entry may be opened.
    fn open(&mut self) -> bool {
        if !self.unpacks {
            self.report.is_partial = true;
            return false;
        }
        if self.opened_left == 0 {
            self.tell(Kind::Unseen, "archives with very many entries");
            return false;
        }
        self.opened_left -= 1;
        true
    }

    /// All of it, or nothing when it is more than the message may still unpack. What breaks off
    /// counts as far as it went.
    fn unpack(&mut self, packed: impl Read, packed_bytes: usize, path: &str) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        let _ = packed.take(self.unpacked_left + 1).read_to_end(&mut whole);
        let unpacked = whole.len() as u64;
        if unpacked > self.unpacked_left {
            self.unpacked_left = 0;
            let far = unpacked / (packed_bytes as u64).max(1) > limits::RATIO_MAX;
            self.tell(if far { Kind::Bomb } else { Kind::Unseen }, path);
            return None;
        }
        self.unpacked_left -= unpacked;
        Some(whole)
    }
}
