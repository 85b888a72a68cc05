//! Fetching records by their place. Only what verifies is handed out; what can't be read is
//! [`Error::Read`].

use crate::buffer::{ALIGNMENT, Buffer, Window};
use crate::core::Core;
use crate::device::Device;
use crate::error::Error;
use crate::format::{Location, RECORD_HEADER_BYTES, RecordHeader};
use bytes::Bytes;
use std::ops::Range;

/// What is read first when only the meta is wanted: it nearly always holds all of it.
pub(crate) const META_GUESS_BYTES: u64 = 4096;

/// A record's verified parts.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) header: RecordHeader,
    pub(crate) meta: Bytes,
    /// Verified when it was asked for, otherwise empty.
    pub(crate) body: Bytes,
}

/// Where a record's meta is among bytes that start with the record.
pub(crate) enum Meta {
    Here(RecordHeader, Range<usize>),
    /// The bytes end before it does: so many hold it.
    Until(usize),
}

impl<D: Device> Core<D> {
    /// The whole record of `record_bytes`.
    pub(crate) async fn fetch(
        &self,
        location: Location,
        record_bytes: u64,
    ) -> Result<Fetched, Error> {
        let bytes = self.read_bytes(location, record_bytes).await?;
        self.take_apart(location, &bytes)
    }

    /// A record's verified parts, of the bytes that start with it.
    pub(crate) fn take_apart(&self, location: Location, bytes: &Bytes) -> Result<Fetched, Error> {
        let header = self.check_header(location, bytes)?;
        let (meta, body) = self.ranges(location, &header, bytes)?;
        self.check(
            location,
            &header,
            "a message's record",
            header.meta_checksum,
            &bytes[meta.clone()],
        )?;
        self.check(
            location,
            &header,
            "a message's body",
            header.body_checksum,
            &bytes[body.clone()],
        )?;
        Ok(Fetched { header, meta: bytes.slice(meta), body: bytes.slice(body) })
    }

    /// Header and meta, without reading a long body.
    pub(crate) async fn fetch_meta(
        &self,
        location: Location,
        record_bytes: u64,
    ) -> Result<Fetched, Error> {
        let mut bytes = self.read_bytes(location, record_bytes.min(META_GUESS_BYTES)).await?;
        let mut found = self.find_meta(location, &bytes)?;
        if let Meta::Until(end) = found {
            bytes = self.read_bytes(location, end as u64).await?;
            found = self.find_meta(location, &bytes)?;
        }
        match found {
            Meta::Here(header, meta) => {
                Ok(Fetched { header, meta: bytes.slice(meta), body: Bytes::new() })
            }
            Meta::Until(_) => Err(self.corrupt("a message's record", location, None)),
        }
    }

    /// The verified meta in bytes that start with the record.
    pub(crate) fn find_meta(&self, location: Location, bytes: &[u8]) -> Result<Meta, Error> {
        let header = self.check_header(location, bytes)?;
        let range = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.meta_bytes as usize;
        let Some(meta) = bytes.get(range.clone()) else { return Ok(Meta::Until(range.end)) };
        self.check(location, &header, "a message's record", header.meta_checksum, meta)?;
        Ok(Meta::Here(header, range))
    }

    pub(crate) async fn read_bytes(&self, location: Location, length: u64) -> Result<Bytes, Error> {
        let (buffer, range) = self.read_blocks(location, length, Buffer::with_capacity).await?;
        Ok(Bytes::from_owner(buffer).slice(range))
    }

    /// As [`Self::read_bytes`], for many reads one after the other. What is kept of it
    /// keeps all of it.
    pub(crate) async fn read_window(
        &self,
        location: Location,
        length: u64,
    ) -> Result<Bytes, Error> {
        let (buffer, range) = self.read_blocks(location, length, Window::buffer).await?;
        Ok(Bytes::from_owner(Window::from(buffer)).slice(range))
    }

    /// The blocks around these bytes, and where in them they are.
    async fn read_blocks(
        &self,
        location: Location,
        length: u64,
        buffer: impl FnOnce(usize) -> Buffer,
    ) -> Result<(Buffer, Range<usize>), Error> {
        let file = self.segment_file(location.segment).await?;
        let start = location.offset() / ALIGNMENT as u64 * ALIGNMENT as u64;
        let head = usize::try_from(location.offset() - start).expect("less than a block");
        let length = usize::try_from(length).expect("a record");
        let read = self.device.read(&file, start, buffer(head + length)).await;
        let buffer = read.map_err(|error| Error::Read {
            what: error.to_string(),
            place: self.place_of(location, None),
        })?;
        let end = (head + length).min(buffer.len());
        Ok((buffer, head.min(end)..end))
    }

    fn check_header(&self, location: Location, bytes: &[u8]) -> Result<RecordHeader, Error> {
        RecordHeader::decode(bytes)
            .ok()
            .filter(|header| {
                header.segment == location.segment && header.shard == self.options.shard
            })
            .ok_or_else(|| self.corrupt("a record's header", location, None))
    }

    fn ranges(
        &self,
        location: Location,
        header: &RecordHeader,
        bytes: &[u8],
    ) -> Result<(Range<usize>, Range<usize>), Error> {
        let meta_end = RECORD_HEADER_BYTES + header.meta_bytes as usize;
        let body_end = meta_end + header.body_bytes as usize;
        if body_end > bytes.len() {
            return Err(self.corrupt("a record", location, Some(header)));
        }
        Ok((RECORD_HEADER_BYTES..meta_end, meta_end..body_end))
    }

    fn check(
        &self,
        location: Location,
        header: &RecordHeader,
        what: &'static str,
        checksum: u32,
        bytes: &[u8],
    ) -> Result<(), Error> {
        if crc32fast::hash(bytes) == checksum {
            return Ok(());
        }
        Err(self.corrupt(what, location, Some(header)))
    }

    pub(crate) fn corrupt(
        &self,
        what: &'static str,
        location: Location,
        header: Option<&RecordHeader>,
    ) -> Error {
        Error::Corrupt { what, place: self.place_of(location, header) }
    }

    /// For people: segment, file, offset, and the LSN where that is known.
    fn place_of(&self, location: Location, header: Option<&RecordHeader>) -> String {
        let segments = self.segments.borrow();
        let number = segments.files.get(&location.segment).map_or(0, |segment| segment.number);
        let file = super::segments::file_name(number);
        let directory = self.device.place();
        let lsn = header.map(|header| format!(", LSN {}", header.lsn.0)).unwrap_or_default();
        format!("segment {} ({directory}/{file}) at {}{lsn}", location.segment.0, location.offset())
    }
}
