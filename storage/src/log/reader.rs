//! Fetching records by their place. Only what verifies is handed out.

use crate::buffer::Buffer;
use crate::core::Core;
use crate::device::Device;
use crate::error::Error;
use crate::format::{Location, RECORD_HEADER_BYTES, RecordHeader};
use bytes::Bytes;
use std::ops::Range;

/// What is read first when only the meta is wanted: it nearly always holds all of it.
const META_GUESS_BYTES: u64 = 4096;

/// A record's verified parts.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) header: RecordHeader,
    pub(crate) meta: Bytes,
    /// Verified when it was asked for, otherwise empty.
    pub(crate) body: Bytes,
}

/// Where bytes may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// From memory, if they verify there; otherwise from the disk.
    Any,
    /// A check of the disk wants the disk.
    Disk,
}

impl<D: Device> Core<D> {
    /// The whole record of `record_bytes`.
    pub(crate) async fn fetch(
        &self,
        location: Location,
        record_bytes: u64,
        source: Source,
    ) -> Result<Fetched, Error> {
        let bytes = self.read_bytes(location, record_bytes, source).await?;
        match (self.whole(location, &bytes), source) {
            (Err(Error::Corrupt { .. }), Source::Any) => {
                self.windows.borrow_mut().forget(location.segment);
                let bytes = self.read_bytes(location, record_bytes, Source::Disk).await?;
                self.whole(location, &bytes)
            }
            (outcome, _) => outcome,
        }
    }

    fn whole(&self, location: Location, bytes: &Bytes) -> Result<Fetched, Error> {
        let header = self.check_header(location, bytes)?;
        let (meta, body) = self.ranges(location, &header, bytes)?;
        let (meta, body) = (bytes.slice(meta), bytes.slice(body));
        self.check(location, &header, "a message's record", header.meta_checksum, &meta)?;
        self.check(location, &header, "a message's body", header.body_checksum, &body)?;
        Ok(Fetched { header, meta, body })
    }

    /// Header and meta, without reading a long body.
    pub(crate) async fn fetch_meta(
        &self,
        location: Location,
        record_bytes: u64,
    ) -> Result<Fetched, Error> {
        let outcome = self.meta(location, record_bytes, Source::Any).await;
        match outcome {
            Err(Error::Corrupt { .. }) => {
                self.windows.borrow_mut().forget(location.segment);
                self.meta(location, record_bytes, Source::Disk).await
            }
            outcome => outcome,
        }
    }

    async fn meta(
        &self,
        location: Location,
        record_bytes: u64,
        source: Source,
    ) -> Result<Fetched, Error> {
        let guess = record_bytes.min(META_GUESS_BYTES);
        let bytes = self.read_bytes(location, guess, source).await?;
        let header = self.check_header(location, &bytes)?;
        let end = RECORD_HEADER_BYTES + header.meta_bytes as usize;
        let bytes = if end <= bytes.len() {
            bytes
        } else {
            self.read_bytes(location, end as u64, source).await?
        };
        if end > bytes.len() {
            return Err(self.corrupt("a message's record", location, Some(&header)));
        }
        let meta = bytes.slice(RECORD_HEADER_BYTES..end);
        self.check(location, &header, "a message's record", header.meta_checksum, &meta)?;
        Ok(Fetched { header, meta, body: Bytes::new() })
    }

    async fn read_bytes(
        &self,
        location: Location,
        length: u64,
        source: Source,
    ) -> Result<Bytes, Error> {
        if source == Source::Any
            && let Some(bytes) = self.windows.borrow().get(location, length)
        {
            return Ok(bytes);
        }
        let stretch = self.windows.borrow_mut().plan(location, length);
        let file = self.segment_file(location.segment).await?;
        let wanted = usize::try_from(stretch.length).expect("a stretch of a segment");
        let read = self.device.read(&file, stretch.start, Buffer::with_capacity(wanted)).await;
        let bytes = Bytes::from_owner(read.map_err(|error| Error::Device(error.to_string()))?);
        if stretch.keep {
            self.windows.borrow_mut().put(location.segment, stretch.start, &bytes);
        }
        let head = usize::try_from(location.offset() - stretch.start).expect("less than a block");
        let end = head + usize::try_from(length).expect("a record");
        Ok(bytes.slice(head.min(bytes.len())..end.min(bytes.len())))
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
        let segments = self.segments.borrow();
        let number = segments.files.get(&location.segment).map_or(0, |segment| segment.number);
        let file = super::segments::file_name(number);
        let directory = self.device.place();
        let lsn = header.map(|header| format!(", LSN {}", header.lsn.0)).unwrap_or_default();
        let place = format!(
            "segment {} ({directory}/{file}) at {}{lsn}",
            location.segment.0,
            location.offset()
        );
        Error::Corrupt { what, place }
    }
}
