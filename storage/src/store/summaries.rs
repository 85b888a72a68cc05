//! Summaries of messages that came after each other, with one read for all that lie
//! near each other.
//!
//! Who lists a mailbox wants thousands of them, and a read costs more than the bytes between two
//! records. What lies far from its neighbours is read alone.

use super::Store;
use crate::buffer::{ALIGNMENT, WINDOW_BYTES_MAX};
use crate::device::Device;
use crate::error::Error;
use crate::index::Row;
use crate::index::mailbox::entry;
use crate::log::reader::{META_GUESS_BYTES, Meta};
use crate::types::{AccountId, MailboxId, MessageEntry, Uid};
use bytes::Bytes;

/// Read at once, at most: a window has room for the block around its first byte, too.
const RUN_BYTES_MAX: u64 = (WINDOW_BYTES_MAX - ALIGNMENT) as u64;
/// What is read for nothing between two records, at most: so much takes about as long as a read.
const GAP_BYTES_MAX: u64 = 16 << 10;

impl<D: Device> Store<D> {
    /// Parts `uids` into runs for [`Store::summaries`]: the length of each.
    pub fn summary_runs(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uids: &[Uid],
    ) -> Result<Vec<usize>, Error> {
        self.with_mailbox(account, mailbox, |mailbox| {
            let mut lengths: Vec<usize> = Vec::new();
            let mut run: Option<Run> = None;
            for uid in uids {
                let row = mailbox.rows.get(*uid);
                let longer = run.zip(row).and_then(|(run, row)| run.with(&row));
                match lengths.last_mut() {
                    Some(length) if longer.is_some() => *length += 1,
                    _ => lengths.push(1),
                }
                run = longer.or(row.map(|row| Run::of(&row)));
            }
            Ok(lengths)
        })
    }

    /// The entries and summaries of one run, in its order; each as [`Store::entry`] and
    /// [`Store::summary`] give it.
    pub async fn summaries(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        uids: &[Uid],
    ) -> Vec<Result<(MessageEntry, Bytes), Error>> {
        let rows = self.with_mailbox(account, mailbox, |mailbox| {
            let row = |uid: &Uid| mailbox.rows.get(*uid).ok_or(Error::NoSuchMessage(*uid));
            Ok(uids.iter().map(row).collect::<Vec<_>>())
        });
        let rows = rows.unwrap_or_else(|error| vec![Err(error); uids.len()]);
        let _reading = self.core.reading();
        let window = self.read_run(&rows).await;
        let mut summaries = Vec::with_capacity(rows.len());
        for row in rows {
            let row = match row {
                Ok(row) => row,
                Err(error) => {
                    summaries.push(Err(error));
                    continue;
                }
            };
            let within = window.as_ref().and_then(|window| self.summary_within(&row, window));
            let summary = match within {
                Some(summary) => summary,
                None => self.summary_of(&row).await,
            };
            summaries.push(summary.map(|summary| (entry(&row), summary)));
        }
        summaries
    }

    /// The bytes of all these records' beginnings; nothing where there is no gain, where
    /// compaction has moved some of them meanwhile, or where the read failed: then each is read,
    /// and fails, alone.
    async fn read_run(&self, rows: &[Result<Row, Error>]) -> Option<Window> {
        let mut rows = rows.iter().flatten();
        let first = rows.next()?;
        let run = rows.try_fold(Run::of(first), |run, row| run.with(row))?;
        if run.last == run.start {
            return None;
        }
        let bytes = self.core.read_window(first.location, run.end - run.start).await.ok()?;
        Some(Window { run, bytes })
    }

    /// Nothing where the meta is longer than what was read of it.
    fn summary_within(&self, row: &Row, window: &Window) -> Option<Result<Bytes, Error>> {
        let start = usize::try_from(row.location.offset() - window.run.start).ok()?;
        let record = window.bytes.get(start..)?;
        let found = self.core.find_meta(row.location, record).and_then(|found| {
            let Meta::Here(header, meta) = found else { return Ok(None) };
            let start = start + meta.start;
            let summary = self.summary_in(row, &header, &record[meta])?;
            Ok(Some(window.bytes.slice(start + summary.start..start + summary.end)))
        });
        found.transpose()
    }
}

struct Window {
    run: Run,
    bytes: Bytes,
}

/// Records of one segment near each other: offsets in it.
#[derive(Debug, Clone, Copy)]
struct Run {
    segment: crate::format::SegmentId,
    /// Of the first record, and of the last.
    start: u64,
    last: u64,
    end: u64,
}

impl Run {
    fn of(row: &Row) -> Run {
        let start = row.location.offset();
        let end = start + u64::from(row.record_bytes).min(META_GUESS_BYTES);
        Run { segment: row.location.segment, start, last: start, end }
    }

    /// With this record behind it, if that is worth one read.
    fn with(self, row: &Row) -> Option<Run> {
        let next = Run::of(row);
        // Deliveries to several mailboxes of one account share a record.
        let is_near = next.segment == self.segment
            && next.start >= self.last
            && next.start <= self.end + GAP_BYTES_MAX
            && next.end - self.start <= RUN_BYTES_MAX;
        is_near.then_some(Run { start: self.start, end: next.end.max(self.end), ..next })
    }
}
