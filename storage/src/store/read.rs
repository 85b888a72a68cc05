//! Messages out: entries from the index; summaries and bodies from the log, verified.

use super::Store;
use crate::device::Device;
use crate::error::Error;
use crate::format::{Delivered, Location, Record, RecordHeader, is_packed};
use crate::index::Row;
use crate::index::mailbox::entry;
use crate::log::reader::Fetched;
use crate::types::{AccountId, Changes, MailboxId, MessageEntry, Modseq, Uid};
use bytes::{Bytes, BytesMut};
use std::ops::{Range, RangeInclusive};

impl<D: Device> Store<D> {
    /// Entries with UID in `uids` (inclusive), ascending.
    pub fn entries(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uids: RangeInclusive<u32>,
    ) -> Result<Vec<MessageEntry>, Error> {
        self.with_mailbox(account, mailbox, |mailbox| {
            let rows = mailbox.rows.range(Uid(*uids.start()), Uid(*uids.end()));
            Ok(rows.map(|row| entry(&row)).collect())
        })
    }

    pub fn entry(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<MessageEntry, Error> {
        self.row(account, mailbox, uid).map(|row| entry(&row))
    }

    pub(super) fn row(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<Row, Error> {
        self.with_mailbox(account, mailbox, |mailbox| {
            mailbox.rows.get(uid).ok_or(Error::NoSuchMessage(uid))
        })
    }

    /// UIDs of the mailbox, ascending.
    pub fn uids(&self, account: AccountId, mailbox: MailboxId) -> Result<Vec<Uid>, Error> {
        self.with_mailbox(account, mailbox, |mailbox| {
            Ok(mailbox.rows.iter().map(|row| row.uid).collect())
        })
    }

    /// Of these the first `count` behind `uid`.
    pub fn uids_behind(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
        count: usize,
    ) -> Result<Vec<Uid>, Error> {
        self.with_mailbox(account, mailbox, |mailbox| {
            let rows = mailbox.rows.range(uid, Uid(u32::MAX)).filter(|row| row.uid > uid);
            Ok(rows.take(count).map(|row| row.uid).collect())
        })
    }

    /// The summary exactly as given at delivery.
    pub async fn summary(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<Bytes, Error> {
        let row = self.row(account, mailbox, uid)?;
        let _reading = self.core.reading();
        self.summary_of(&row).await
    }

    pub(super) async fn summary_of(&self, row: &Row) -> Result<Bytes, Error> {
        let fetched = self.core.fetch_meta(row.location, u64::from(row.record_bytes)).await?;
        let summary = self.summary_in(row, &fetched.header, &fetched.meta)?;
        Ok(fetched.meta.slice(summary))
    }

    /// Where in the meta of the record at the row's place the summary is; it must be a
    /// delivery with this body.
    pub(super) fn summary_in(
        &self,
        row: &Row,
        header: &RecordHeader,
        meta: &[u8],
    ) -> Result<Range<usize>, Error> {
        let found = Delivered::summary(header.kind, header.version, meta).ok();
        let (summary, _) = found
            .filter(|(_, body_bytes)| is_body_of(row, *body_bytes))
            .ok_or_else(|| self.core.corrupt("a reference", row.location, Some(header)))?;
        Ok(summary)
    }

    /// Bytes `range` of the message (prefix and body together), cut at its end.
    /// Verified by checksum.
    pub async fn read(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
        range: Range<u64>,
    ) -> Result<Bytes, Error> {
        let row = self.row(account, mailbox, uid)?;
        let _reading = self.core.reading();
        self.read_row(&row, range).await
    }

    pub(super) async fn read_row(&self, row: &Row, range: Range<u64>) -> Result<Bytes, Error> {
        let fetched = self.core.fetch(row.location, u64::from(row.record_bytes)).await?;
        let delivered = self.delivered(row, &fetched)?;
        let prefix = self.prefix(row, &delivered, &fetched)?;
        let body = self.unpacked(row.location, &fetched)?;
        let prefix_bytes = prefix.len() as u64;
        let end = range.end.min(u64::from(row.bytes));
        let start = range.start.min(end);
        let in_body = start.saturating_sub(prefix_bytes)..end.saturating_sub(prefix_bytes);
        if delivered.chunks.is_empty() && start >= prefix_bytes {
            return self.cut(row.location, &fetched, &body, in_body);
        }
        let mut message = BytesMut::with_capacity(to_usize(end - start));
        let from_prefix = to_usize(start.min(prefix_bytes))..to_usize(end.min(prefix_bytes));
        message.extend_from_slice(&prefix[from_prefix]);
        if delivered.chunks.is_empty() {
            message.extend_from_slice(&self.cut(row.location, &fetched, &body, in_body)?);
        } else {
            self.read_chunks(&delivered, in_body, &mut message).await?;
        }
        Ok(message.freeze())
    }

    async fn read_chunks(
        &self,
        delivered: &Delivered,
        range: Range<u64>,
        message: &mut BytesMut,
    ) -> Result<(), Error> {
        let mut chunk_start = 0;
        for (number, chunk) in delivered.chunks.iter().enumerate() {
            let lengths = delivered.unpacked.as_ref();
            let length = lengths.map_or(chunk.body_bytes, |lengths| lengths[number]);
            let chunk_end = chunk_start + u64::from(length);
            if chunk_end > range.start && chunk_start < range.end {
                let record_bytes =
                    crate::format::RECORD_HEADER_BYTES as u64 + u64::from(chunk.body_bytes);
                let fetched = self.core.fetch(chunk.location, record_bytes).await?;
                let from = range.start.saturating_sub(chunk_start);
                let until = range.end.min(chunk_end) - chunk_start;
                let piece = self.unpacked(chunk.location, &fetched)?;
                message.extend_from_slice(&self.cut(
                    chunk.location,
                    &fetched,
                    &piece,
                    from..until,
                )?);
            }
            chunk_start = chunk_end;
        }
        Ok(())
    }

    /// The body of a record as it was received: one record is unpacked at a time,
    /// and that is short.
    fn unpacked(&self, location: Location, fetched: &Fetched) -> Result<Bytes, Error> {
        let header = &fetched.header;
        if !is_packed(header) || fetched.body.is_empty() {
            return Ok(fetched.body.clone());
        }
        let body = self.core.packing.unpack(&fetched.body)?;
        body.map(Bytes::from)
            .map_err(|_| self.core.corrupt("a compressed body", location, Some(header)))
    }

    /// A part of a body, which may be shorter than the delivery claims.
    fn cut(
        &self,
        location: Location,
        fetched: &Fetched,
        body: &Bytes,
        range: Range<u64>,
    ) -> Result<Bytes, Error> {
        if range.start > range.end || range.end > body.len() as u64 {
            return Err(self.core.corrupt("a body's length", location, Some(&fetched.header)));
        }
        Ok(body.slice(to_usize(range.start)..to_usize(range.end)))
    }

    /// What the record at the row's place says; it must be a delivery with this body.
    pub(super) fn delivered(&self, row: &Row, fetched: &Fetched) -> Result<Delivered, Error> {
        let corrupt = || self.core.corrupt("a reference", row.location, Some(&fetched.header));
        let header = &fetched.header;
        let record = Record::decode(header.kind, header.version, &fetched.meta);
        let delivered = match record.map_err(|_| corrupt())? {
            Record::Delivered(delivered) => delivered,
            _ => return Err(corrupt()),
        };
        if is_body_of(row, delivered.body_bytes) { Ok(delivered) } else { Err(corrupt()) }
    }

    fn prefix<'d>(
        &self,
        row: &Row,
        delivered: &'d Delivered,
        fetched: &Fetched,
    ) -> Result<&'d [u8], Error> {
        let placement = delivered.placements.get(usize::from(row.placement));
        placement
            .map(|placement| &placement.prefix[..])
            .filter(|prefix| prefix.len() == usize::from(row.prefix_bytes))
            .ok_or_else(|| self.core.corrupt("a prefix", row.location, Some(&fetched.header)))
    }

    pub fn changes_since(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        since: Modseq,
    ) -> Result<Changes, Error> {
        self.with_mailbox(account, mailbox, |mailbox| {
            let changed = mailbox.rows.changed_since(since).map(|row| entry(&row)).collect();
            let runs = mailbox.vanished.iter().filter(|(_, modseq)| *modseq > since);
            let mut vanished: Vec<Uid> = runs.flat_map(|(run, _)| run.uids()).collect();
            vanished.sort_unstable();
            vanished.dedup();
            Ok(Changes {
                changed,
                vanished,
                complete: since >= mailbox.vanished_floor,
                highest_modseq: mailbox.highest_modseq,
            })
        })
    }
}

/// Whether a body of so many bytes makes the message that the index knows.
fn is_body_of(row: &Row, body_bytes: u32) -> bool {
    u64::from(body_bytes) + u64::from(row.prefix_bytes) == u64::from(row.bytes)
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("an offset into a message in memory")
}
