//! What a file's first bytes say, whatever it is called.

use super::Kind;
use memchr::memmem;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Executable,
    Zip,
    Gzip,
    Tar,
    /// An archive that is not looked into.
    OtherArchive,
    /// Microsoft's compound file: documents of old, installers, encrypted documents of today.
    Compound,
    Other,
}

/// Bytes of a file from which its type is told.
pub const SNIFFED_BYTES: usize = 4096;

pub fn type_of(bytes: &[u8]) -> Type {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if is_portable_executable(bytes)
        || starts(b"\x7fELF")
        || starts(b"\xfe\xed\xfa\xce")
        || starts(b"\xfe\xed\xfa\xcf")
        || starts(b"\xce\xfa\xed\xfe")
        || starts(b"\xcf\xfa\xed\xfe")
        // Mach-O for several processors, and Java's classes.
        || starts(b"\xca\xfe\xba\xbe")
        || starts(b"dex\n0")
        // A shortcut.
        || starts(b"L\0\0\0\x01\x14\x02\0")
        // Compiled help.
        || starts(b"ITSF\x03\0\0\0")
    {
        Type::Executable
    } else if starts(b"PK\x03\x04") || starts(b"PK\x05\x06") || starts(b"PK\x07\x08") {
        Type::Zip
    } else if starts(b"\x1f\x8b\x08") {
        Type::Gzip
    } else if bytes.get(257..262) == Some(b"ustar") {
        Type::Tar
    } else if starts(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
        Type::Compound
    } else if starts(b"Rar!\x1a\x07")
        || starts(b"7z\xbc\xaf\x27\x1c")
        || starts(b"MSCF\0\0\0\0")
        || (starts(b"BZh") && bytes.get(4..10) == Some(b"1AY&SY"))
        || starts(b"\xfd7zXZ\0")
        || starts(b"\x28\xb5\x2f\xfd")
        || starts(b"\x60\xea")
        || bytes.get(2..5) == Some(b"-lh")
        || starts(b"**ACE**")
        || bytes.get(7..14) == Some(b"**ACE**")
    {
        Type::OtherArchive
    } else if super::archive::has_directory(bytes) {
        // With something in front, which programs that unpack don't mind.
        Type::Zip
    } else {
        Type::Other
    }
}

/// `MZ` alone begins texts, too: the header behind it has to be where it points.
fn is_portable_executable(bytes: &[u8]) -> bool {
    if !bytes.starts_with(b"MZ") {
        return false;
    }
    let Some(offset) = bytes.get(0x3c..0x40).and_then(|b| b.try_into().ok()) else { return false };
    let at = usize::try_from(u32::from_le_bytes(offset)).unwrap_or(usize::MAX);
    let kind = bytes.get(at..at.saturating_add(2)).unwrap_or_default();
    // Of what was cut for a look, a header further on is taken for granted.
    let is_beyond = at >= bytes.len() && bytes.len() >= SNIFFED_BYTES && at < 1 << 16;
    matches!(kind, b"PE" | b"NE" | b"LE" | b"LX") || is_beyond
}

/// Names of streams stand in a compound file's directory as they are, in UTF-16.
pub fn compound_kinds(bytes: &[u8]) -> Vec<Kind> {
    let has = |name: &str| {
        let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        memmem::find(bytes, &wide).is_some()
    };
    /// The class of Windows' installers, as the root of the directory has it.
    const INSTALLER: &[u8] = b"\x84\x10\x0c\0\0\0\0\0\xc0\0\0\0\0\0\0F";
    let mut kinds = Vec::new();
    if has("_VBA_PROJECT") {
        kinds.push(Kind::Macros);
    }
    if has("EncryptedPackage") {
        kinds.push(Kind::Encrypted);
    }
    if memmem::find(bytes, INSTALLER).is_some() {
        kinds.push(Kind::Executable);
    }
    kinds
}
