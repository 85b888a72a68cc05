//! Records on their way: encoded once, straight into the buffer that the disk will read.
//!
//! A draft is a batch that is still growing. Its records get LSN, segment and checksum of the
//! header when the batch is sealed, since only then is it known where they will stand; so a batch
//! that finds no place leaves no gap in the LSNs.
//!
//! Invariant: `pending_bytes` and `pending_records` are the sums over all drafts and all batches in
//! flight.

use crate::buffer::{ALIGNMENT, Buffer, align_up};
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, Record, RecordHeader,
    SegmentId,
};
use crate::locks::Guard;
use crate::options::Options;
use crate::quota::Reservation;
use crate::types::{Lsn, UnixMillis};
use crate::uses::Use;
use crate::wait::{Outcome, Receipt};
use std::collections::VecDeque;
use std::rc::Rc;

/// What a record holds until it has been applied or has failed.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    pub(crate) guards: Vec<Guard>,
    pub(crate) reservations: Vec<Reservation>,
    /// What it holds together with others.
    pub(crate) _shared: Option<Rc<Hold>>,
    /// Of a body's chunks, until the index knows them.
    pub(crate) writing: Option<Use>,
}

/// A record in a draft.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    pub(crate) header: RecordHeader,
    /// Of the header, from the start of the batch.
    pub(crate) offset: u32,
    pub(crate) _hold: Hold,
}

/// A batch that still grows.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) buffer: Buffer,
    pub(crate) entries: Vec<Entry>,
    pub(crate) outcome: Rc<Outcome>,
}

impl Draft {
    fn new(mut buffer: Buffer) -> Draft {
        buffer.clear();
        buffer.pad(BATCH_HEADER_BYTES);
        Draft { buffer, entries: Vec::new(), outcome: Rc::default() }
    }

    /// What the batch will take on the disk.
    pub(crate) fn padded_bytes(&self) -> usize {
        align_up(self.buffer.len())
    }

    fn append(&mut self, record: Record, parts: &Parts<'_>, hold: Hold) -> Receipt {
        let offset = self.buffer.len();
        self.buffer.pad(RECORD_HEADER_BYTES);
        self.buffer.extend(&parts.fields);
        self.buffer.extend(parts.summary);
        let meta_bytes = parts.fields.len() + parts.summary.len();
        let meta = &self.buffer.as_slice()[offset + RECORD_HEADER_BYTES..];
        let header = RecordHeader {
            kind: record.kind(),
            version: record.version(),
            meta_bytes: bounded(meta_bytes),
            body_bytes: bounded(parts.body.len()),
            segment: SegmentId::default(),
            lsn: Lsn::default(),
            shard: 0,
            run_low: 0,
            meta_checksum: crc32fast::hash(meta),
            body_checksum: crc32fast::hash(parts.body),
            salt: 0,
        };
        self.buffer.extend(parts.body);
        let end = self.buffer.len();
        self.buffer.pad(end.next_multiple_of(RECORD_ALIGNMENT) - end);
        let number = bounded(self.entries.len());
        let offset = bounded(offset);
        self.entries.push(Entry { record, header, offset, _hold: hold });
        Receipt { outcome: Rc::clone(&self.outcome), number, offset }
    }

    /// Fills in all headers. From here on the buffer is what the disk gets.
    pub(crate) fn seal(&mut self, place: &Place) -> BatchHeader {
        for (lsn, entry) in (place.first_lsn.0..).zip(&mut self.entries) {
            entry.header.lsn = Lsn(lsn);
            entry.header.segment = place.segment;
            entry.header.shard = place.shard;
            entry.header.run_low = run_low(place.run);
            entry.header.salt = place.salt;
            entry.header.encode_into(&mut self.buffer.as_mut_slice()[entry.offset as usize..]);
        }
        let header = BatchHeader {
            shard: place.shard,
            segment: place.segment,
            run: place.run,
            first_lsn: place.first_lsn,
            durable: place.durable,
            sealed: place.now,
            records: bounded(self.entries.len()),
            bytes: bounded(self.buffer.len()),
            salt: place.salt,
        };
        header.encode_into(self.buffer.as_mut_slice());
        let end = self.buffer.len();
        self.buffer.pad(align_up(end) - end);
        header
    }
}

/// The part of a run's number that fits into a record's header.
pub(crate) fn run_low(run: u32) -> u16 {
    (run & 0xFFFF) as u16
}

fn bounded(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a batch is far below 4 GiB")
}

/// Where and when a batch is sealed.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) shard: u16,
    pub(crate) segment: SegmentId,
    pub(crate) run: u32,
    pub(crate) first_lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) now: UnixMillis,
    pub(crate) salt: u64,
}

/// A record's bytes before they are copied into the draft.
#[derive(Debug)]
pub(crate) struct Parts<'p> {
    pub(crate) fields: Vec<u8>,
    pub(crate) summary: &'p [u8],
    pub(crate) body: &'p [u8],
}

impl Parts<'_> {
    pub(crate) fn of(record: &Record) -> Parts<'static> {
        Parts { fields: record.encode(), summary: &[], body: &[] }
    }

    pub(crate) fn record_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.fields.len() + self.summary.len() + self.body.len()
    }
}

/// The drafts, oldest first, and buffers for more.
#[derive(Debug)]
pub(crate) struct Queue {
    drafts: VecDeque<Draft>,
    buffers: Vec<Buffer>,
    batch_bytes_max: usize,
    buffers_max: usize,
    pub(crate) pending_bytes: usize,
    pub(crate) pending_records: usize,
}

impl Queue {
    pub(crate) fn new(options: &Options) -> Queue {
        Queue {
            drafts: VecDeque::new(),
            buffers: Vec::new(),
            batch_bytes_max: options.batch_bytes_max,
            buffers_max: options.chains_in_flight + 1,
            pending_bytes: 0,
            pending_records: 0,
        }
    }

    pub(crate) fn append(&mut self, record: Record, parts: &Parts<'_>, hold: Hold) -> Receipt {
        let bytes = parts.record_bytes().next_multiple_of(RECORD_ALIGNMENT);
        let fits = |draft: &Draft| draft.buffer.len() + bytes <= self.batch_bytes_max;
        if !self.drafts.back().is_some_and(fits) {
            let buffer = self.buffers.pop().unwrap_or_else(|| {
                Buffer::with_capacity(self.batch_bytes_max.max(BATCH_HEADER_BYTES + bytes))
            });
            self.drafts.push_back(Draft::new(buffer));
        }
        self.pending_bytes += bytes;
        self.pending_records += 1;
        let draft = self.drafts.back_mut().expect("a draft was just made sure of");
        draft.append(record, parts, hold)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }

    /// Bytes that wait for their turn, as far as that matters for starting a batch.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.drafts.iter().map(|draft| draft.buffer.len()).sum()
    }

    pub(crate) fn next_padded_bytes(&self) -> Option<usize> {
        self.drafts.front().map(Draft::padded_bytes)
    }

    pub(crate) fn take(&mut self) -> Option<Draft> {
        self.drafts.pop_front()
    }

    /// Accounts for a draft that landed or failed, and keeps its buffer for the next.
    pub(crate) fn finished(&mut self, entries: &[Entry], buffer: Buffer) {
        let bytes = |entry: &Entry| {
            let bytes = usize::try_from(entry.header.record_bytes()).unwrap_or(usize::MAX);
            bytes.next_multiple_of(RECORD_ALIGNMENT)
        };
        self.pending_bytes -= entries.iter().map(bytes).sum::<usize>();
        self.pending_records -= entries.len();
        let usual = align_up(self.batch_bytes_max) + ALIGNMENT;
        if self.buffers.len() < self.buffers_max && buffer.capacity() <= usual {
            self.buffers.push(buffer);
        }
    }
}
