//! The fields that several kinds of records, and checkpoints, are made of. FORMAT.md, "Kinds".

use super::{ChunkRef, Location, Malformed, NewMailbox, Reader, SegmentId, UidRange, Writer};
use crate::types::{AccountId, FlagMode, MailboxId, Quota, SpecialUse, Uid};

pub(crate) fn read_account(reader: &mut Reader<'_>) -> Result<AccountId, Malformed> {
    reader.u32().map(AccountId)
}

pub(crate) fn write_quota(writer: &mut Writer, quota: Quota) {
    writer.optional_u64(quota.bytes_max);
    writer.optional_u64(quota.messages_max);
}

pub(crate) fn read_quota(reader: &mut Reader<'_>) -> Result<Quota, Malformed> {
    Ok(Quota { bytes_max: reader.optional_u64()?, messages_max: reader.optional_u64()? })
}

pub(crate) fn write_special_use(writer: &mut Writer, special_use: Option<SpecialUse>) {
    writer.u8(special_use.map_or(0, |special_use| special_use as u8));
}

pub(crate) fn read_special_use(reader: &mut Reader<'_>) -> Result<Option<SpecialUse>, Malformed> {
    Ok(match reader.u8()? {
        0 => None,
        1 => Some(SpecialUse::Archive),
        2 => Some(SpecialUse::Drafts),
        3 => Some(SpecialUse::Flagged),
        4 => Some(SpecialUse::Junk),
        5 => Some(SpecialUse::Sent),
        6 => Some(SpecialUse::Trash),
        _ => return Err(Malformed("has a special use that only a newer Kura knows")),
    })
}

pub(crate) fn read_mode(reader: &mut Reader<'_>) -> Result<FlagMode, Malformed> {
    Ok(match reader.u8()? {
        0 => FlagMode::Add,
        1 => FlagMode::Remove,
        2 => FlagMode::Replace,
        _ => return Err(Malformed("has an unknown way to change flags")),
    })
}

pub(crate) fn write_created(writer: &mut Writer, created: &[NewMailbox]) {
    writer.count(created.len());
    for mailbox in created {
        writer.u32(mailbox.id.0);
        writer.u32(mailbox.uid_validity);
        write_special_use(writer, mailbox.special_use);
        writer.text(&mailbox.name);
    }
}

pub(crate) fn read_created(reader: &mut Reader<'_>) -> Result<Vec<NewMailbox>, Malformed> {
    let mut created = Vec::new();
    for _ in 0..reader.count(13)? {
        created.push(NewMailbox {
            id: MailboxId(reader.u32()?),
            uid_validity: reader.u32()?,
            special_use: read_special_use(reader)?,
            name: reader.text()?,
        });
    }
    Ok(created)
}

pub(crate) fn read_renamed(reader: &mut Reader<'_>) -> Result<Vec<(MailboxId, String)>, Malformed> {
    let mut renamed = Vec::new();
    for _ in 0..reader.count(8)? {
        renamed.push((MailboxId(reader.u32()?), reader.text()?));
    }
    Ok(renamed)
}

pub(crate) fn write_keywords(writer: &mut Writer, keywords: &[String]) {
    writer.count(keywords.len());
    for keyword in keywords {
        writer.text(keyword);
    }
}

pub(crate) fn read_keywords(reader: &mut Reader<'_>) -> Result<Vec<String>, Malformed> {
    let mut keywords = Vec::new();
    for _ in 0..reader.count(4)? {
        keywords.push(reader.text()?);
    }
    Ok(keywords)
}

pub(crate) fn write_ranges(writer: &mut Writer, ranges: &[UidRange]) {
    writer.count(ranges.len());
    for range in ranges {
        writer.u32(range.first.0);
        writer.u32(range.last.0);
    }
}

pub(crate) fn read_ranges(reader: &mut Reader<'_>) -> Result<Vec<UidRange>, Malformed> {
    let mut ranges = Vec::new();
    for _ in 0..reader.count(8)? {
        let range = UidRange { first: Uid(reader.u32()?), last: Uid(reader.u32()?) };
        if range.first > range.last {
            return Err(Malformed("has a run of UIDs that ends before it starts"));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

pub(crate) fn write_pairs(writer: &mut Writer, space: u8, pairs: &[(Vec<u8>, Option<Vec<u8>>)]) {
    writer.u8(space);
    writer.count(pairs.len());
    for (key, value) in pairs {
        writer.bytes(key);
        writer.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            writer.bytes(value);
        }
    }
}

/// Keys, each with its value; `None`: it is deleted.
pub type Pairs = Vec<(Vec<u8>, Option<Vec<u8>>)>;

pub(crate) fn read_pairs(reader: &mut Reader<'_>) -> Result<Pairs, Malformed> {
    let mut pairs = Vec::new();
    for _ in 0..reader.count(5)? {
        let key = reader.bytes()?.to_vec();
        let value = if reader.u8()? == 0 { None } else { Some(reader.bytes()?.to_vec()) };
        pairs.push((key, value));
    }
    Ok(pairs)
}

pub(crate) fn write_location(writer: &mut Writer, location: Location) {
    writer.u32(location.segment.0);
    writer.u32(location.eighths);
}

pub(crate) fn read_location(reader: &mut Reader<'_>) -> Result<Location, Malformed> {
    Ok(Location { segment: SegmentId(reader.u32()?), eighths: reader.u32()? })
}

pub(crate) fn write_chunks(writer: &mut Writer, chunks: &[ChunkRef]) {
    writer.count(chunks.len());
    for chunk in chunks {
        write_location(writer, chunk.location);
        writer.u32(chunk.body_bytes);
    }
}

pub(crate) fn read_chunks(reader: &mut Reader<'_>) -> Result<Vec<ChunkRef>, Malformed> {
    let mut chunks = Vec::new();
    for _ in 0..reader.count(12)? {
        chunks.push(ChunkRef { location: read_location(reader)?, body_bytes: reader.u32()? });
    }
    Ok(chunks)
}
