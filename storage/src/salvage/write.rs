//! Writes the plan into a fresh store, as records: so the same index comes of it
//! whenever it is replayed.
//!
//! A mailbox takes UIDs in ascending order only. Records go in the order in which they were made,
//! which is that of the UIDs but for messages that were copied; a message whose turn it is not yet
//! waits, and if its record has been written by then, it is written once more.

use super::plan::{Plan, Planned, by_record};
use super::search::Searched;
use super::{Course, SalvageReport};
use crate::device::Device;
use crate::error::Error;
use crate::format::fields::Pairs;
use crate::format::{COUNT_UNKNOWN, Delivered, PlacedRecord, Record, UidRange, is_packed};
use crate::index::Index;
use crate::log::queue::{Hold, Parts};
use crate::store::{PLACEMENTS_MAX, Store};
use crate::types::{AccountId, Flags, Lsn, MailboxId, Uid};
use crate::wait::Receipt;
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// On their way to the disk.
const PENDING_MAX: usize = 256;
const PENDING_BYTES_MAX: usize = 8 << 20;
/// In one record.
const MAILBOXES_AT_ONCE: usize = 64;
const UIDS_AT_ONCE: usize = 1024;
const PAIR_BYTES_AT_ONCE: usize = 64 << 10;

pub(super) struct Writer<'w, D: Device> {
    pub(super) source: &'w D,
    pub(super) searched: &'w Searched<D>,
    pub(super) target: &'w Store<D>,
    pub(super) report: &'w mut SalvageReport,
    pub(super) course: Course<'w>,
    pub(super) pending: VecDeque<(Receipt, usize)>,
    pub(super) pending_bytes: usize,
}

impl<D: Device> Writer<'_, D> {
    /// `jumps`: identifiers may have been given out that nothing tells of.
    pub(super) async fn write(
        &mut self,
        index: &Index,
        mut plan: Plan,
        jumps: bool,
    ) -> Result<(), Error> {
        self.accounts(&plan).await?;
        self.spaces(index).await?;
        self.messages(&mut plan).await?;
        for mailbox in &plan.mailboxes {
            self.skip_uids(mailbox).await?;
        }
        self.graves(index, &plan).await?;
        if jumps {
            // Of another log: none of the LSNs in this one.
            self.put(Record::Lost { first: Lsn(0), count: COUNT_UNKNOWN }).await?;
        }
        while !self.pending.is_empty() {
            self.land_oldest().await?;
        }
        Ok(())
    }

    async fn put(&mut self, record: Record) -> Result<(), Error> {
        let parts = Parts::of(&record);
        self.put_parts(record, &parts, Hold::default()).await
    }

    async fn put_parts(
        &mut self,
        record: Record,
        parts: &Parts<'_>,
        hold: Hold,
    ) -> Result<(), Error> {
        let core = self.target.core();
        loop {
            match core.admit_mail(parts.record_bytes()) {
                Ok(()) => break,
                Err(Error::Busy) if !self.pending.is_empty() => self.land_oldest().await?,
                Err(error) => return Err(error),
            }
        }
        let bytes = parts.record_bytes();
        let receipt = core.enqueue_parts(record, parts, hold)?;
        self.pending.push_back((receipt, bytes));
        self.pending_bytes += bytes;
        while self.pending.len() > PENDING_MAX || self.pending_bytes > PENDING_BYTES_MAX {
            self.land_oldest().await?;
        }
        Ok(())
    }

    async fn land_oldest(&mut self) -> Result<(), Error> {
        let Some((receipt, bytes)) = self.pending.pop_front() else { return Ok(()) };
        receipt.landed().await?;
        self.pending_bytes -= bytes;
        Ok(())
    }

    async fn accounts(&mut self, plan: &Plan) -> Result<(), Error> {
        for account in &plan.accounts {
            let (id, quota, uid_validity) = (account.id, account.quota, account.inbox_uid_validity);
            self.put(Record::AccountCreated { account: id, quota, uid_validity }).await?;
            let of_account = plan.mailboxes.iter().filter(|mailbox| mailbox.account == id);
            let others: Vec<_> = of_account
                .filter(|mailbox| mailbox.new.id != MailboxId::INBOX)
                .map(|mailbox| mailbox.new.clone())
                .collect();
            for some in others.chunks(MAILBOXES_AT_ONCE) {
                self.put(Record::MailboxesCreated { account: id, created: some.to_vec() }).await?;
            }
            for name in &account.subscriptions {
                let name = name.clone();
                self.put(Record::Subscribed { account: id, subscribed: true, name }).await?;
            }
            // The queue's is nobody's.
            let is_somebodys = !account.is_gone && account.id != AccountId::QUEUE;
            self.report.accounts += u64::from(is_somebodys);
        }
        Ok(())
    }

    async fn spaces(&mut self, index: &Index) -> Result<(), Error> {
        let mut some: BTreeMap<u8, Pairs> = BTreeMap::new();
        let mut bytes = 0;
        for (space, page) in index.spaces.pages() {
            for (key, value) in &**page {
                bytes += key.len() + value.len();
                some.entry(space).or_default().push((key.to_vec(), Some(value.to_vec())));
                self.report.pairs += 1;
                if bytes >= PAIR_BYTES_AT_ONCE {
                    self.put_pairs(std::mem::take(&mut some)).await?;
                    bytes = 0;
                }
            }
        }
        self.put_pairs(some).await
    }

    async fn put_pairs(&mut self, some: BTreeMap<u8, Pairs>) -> Result<(), Error> {
        for (space, pairs) in some {
            self.put(Record::Put { space, pairs }).await?;
        }
        Ok(())
    }

    async fn messages(&mut self, plan: &mut Plan) -> Result<(), Error> {
        let groups = by_record(plan);
        let mut seen = BTreeSet::new();
        for group in groups.keys() {
            seen.insert(*group);
            let mut due = vec![*group];
            while let Some(record) = due.pop() {
                let ready = take_ready(plan, &groups[&record]);
                if ready.is_empty() {
                    continue;
                }
                self.course.add(plan.bytes_of(&ready));
                let mut is_saved = false;
                // The pieces of a large body may have gone with another copy of the record.
                for copy in self.searched.copies(record) {
                    is_saved = is_saved || self.message(plan, copy, &ready).await?;
                }
                if !is_saved {
                    self.lose(plan, &ready);
                }
                // Those that have waited for these.
                for (mailbox, _) in ready {
                    let planned = &plan.mailboxes[mailbox];
                    let next = planned.messages.get(planned.head).map(|message| message.found);
                    due.extend(next.filter(|next| seen.contains(next)));
                }
            }
        }
        Ok(())
    }

    fn lose(&mut self, plan: &Plan, messages: &[(usize, usize)]) {
        for (mailbox, index) in messages {
            let planned = &plan.mailboxes[*mailbox];
            let message = &planned.messages[*index];
            if message.is_grave {
                self.report.buried_lost += 1;
            } else {
                self.report.lose(planned.account, &planned.new.name, message.uid);
            }
        }
    }

    /// Writes one record for these messages, which are all about it. False: it does not verify.
    async fn message(
        &mut self,
        plan: &Plan,
        record: u32,
        messages: &[(usize, usize)],
    ) -> Result<bool, Error> {
        let found = self.searched.records[record as usize];
        let Some(parts) = self.searched.read(self.source, &found, true).await else {
            return Ok(false);
        };
        let Ok(Record::Delivered(delivered)) = super::fold::decode(&parts) else {
            return Ok(false);
        };
        let mut placements = Vec::with_capacity(messages.len());
        for (mailbox, index) in messages {
            let planned = &plan.mailboxes[*mailbox];
            let message = &planned.messages[*index];
            let from = delivered.placements.get(usize::from(message.row.placement));
            let prefix = from.map(|from| from.prefix.clone()).unwrap_or_default();
            let bytes = u64::from(delivered.body_bytes) + prefix.len() as u64;
            if bytes != u64::from(message.row.bytes) {
                return Ok(false);
            }
            placements.push(PlacedRecord {
                account: planned.account,
                mailbox: planned.new.id,
                uid: message.uid,
                flags: Flags(message.row.flags.0 & 0xFF),
                keywords: message.keywords.clone(),
                prefix,
            });
        }
        let summary_at = parts.meta().len().checked_sub(delivered.summary_bytes as usize);
        let Some(summary) = summary_at.and_then(|at| parts.meta().get(at..)) else {
            return Ok(false);
        };
        let Some(received) = self.received(&parts) else { return Ok(false) };
        let mut hold = Hold::default();
        let mut body = &received[..];
        let (mut chunks, mut unpacked) = (Vec::new(), None);
        let is_streamed =
            !delivered.chunks.is_empty() || body.len() > self.target.core().options.chunk_bytes();
        if is_streamed {
            let Some(streamed) = self.stream(&delivered, body).await? else { return Ok(false) };
            let (places, lengths, bytes, writing) = streamed.into_parts();
            if bytes != u64::from(delivered.body_bytes) {
                return Ok(false);
            }
            (chunks, unpacked, body) = (places, lengths, &[]);
            hold.writing = Some(writing);
        }
        let mut some = placements.into_iter().peekable();
        let mut hold = Some(hold);
        while some.peek().is_some() {
            let placements: Vec<_> = some.by_ref().take(PLACEMENTS_MAX).collect();
            let (chunks, unpacked, copy) = (chunks.clone(), unpacked.clone(), &delivered);
            let record = Record::Delivered(Delivered {
                internal_date: copy.internal_date,
                body_bytes: copy.body_bytes,
                summary_bytes: copy.summary_bytes,
                placements,
                chunks,
                unpacked,
                // Keys are written from what all records have made of them.
                put: None,
            });
            let parts = Parts { fields: record.encode(), summary, body };
            self.put_parts(record, &parts, hold.take().unwrap_or_default()).await?;
        }
        for (mailbox, index) in messages {
            let planned = &plan.mailboxes[*mailbox];
            let message = &planned.messages[*index];
            if message.is_grave {
                self.report.buried += 1;
            } else {
                self.report.by_account.entry(planned.account).or_default().saved += 1;
                self.report.messages += 1;
                self.report.bytes += u64::from(message.row.bytes);
            }
        }
        Ok(true)
    }

    /// The body of a record as it was received. `None`: it does not unpack.
    fn received<'p>(&self, parts: &'p super::search::Parts) -> Option<Cow<'p, [u8]>> {
        if !is_packed(&parts.header) || parts.body().is_empty() {
            return Some(Cow::Borrowed(parts.body()));
        }
        let unpacked = self.target.core().packing.unpack(parts.body()).ok()?;
        unpacked.ok().map(Cow::Owned)
    }

    /// `None`: a piece of it does not verify.
    async fn stream(
        &mut self,
        delivered: &Delivered,
        body: &[u8],
    ) -> Result<Option<crate::store::StreamedBody>, Error> {
        // It takes its turn in the queue like any other large body.
        while !self.pending.is_empty() {
            self.land_oldest().await?;
        }
        let mut writer = self.target.body_writer()?;
        writer.push(Bytes::copy_from_slice(body)).await?;
        for chunk in &delivered.chunks {
            let Some((_, found)) = self.searched.at(chunk.location) else { return Ok(None) };
            let Some(piece) = self.searched.read(self.source, found, true).await else {
                return Ok(None);
            };
            if piece.body().len() != chunk.body_bytes as usize {
                return Ok(None);
            }
            let Some(received) = self.received(&piece) else { return Ok(None) };
            writer.push(Bytes::from(received.into_owned())).await?;
        }
        writer.finish().await.map(Some)
    }

    /// UIDs that were given out, and are not in use any more, must not be given out again.
    async fn skip_uids(&mut self, mailbox: &Planned) -> Result<(), Error> {
        let last = mailbox.messages.last().map_or(0, |message| message.uid.0);
        let wanted = mailbox.uid_next.0.saturating_sub(1);
        if wanted <= last {
            return Ok(());
        }
        let (account, id, uid) = (mailbox.account, mailbox.new.id, Uid(wanted));
        let placement = PlacedRecord {
            account,
            mailbox: id,
            uid,
            flags: Flags::default(),
            keywords: Vec::new(),
            prefix: Vec::new(),
        };
        let empty = Delivered {
            internal_date: self.source.now(),
            body_bytes: 0,
            summary_bytes: 0,
            placements: vec![placement],
            chunks: Vec::new(),
            unpacked: None,
            put: None,
        };
        self.put(Record::Delivered(empty)).await?;
        let uids = vec![UidRange { first: uid, last: uid }];
        self.put(Record::Expunged { account, mailbox: id, uids }).await
    }

    /// What had gone goes again, now that it will be remembered; its time counts from now on.
    async fn graves(&mut self, index: &Index, plan: &Plan) -> Result<(), Error> {
        if index.past.retention_millis > 0 {
            self.put(Record::RetentionSet { millis: index.past.retention_millis }).await?;
        }
        for account in &index.past.held {
            self.put(Record::HoldSet { account: *account, held: true }).await?;
        }
        for mailbox in &plan.mailboxes {
            let (account, id) = (mailbox.account, mailbox.new.id);
            if mailbox.is_gone {
                self.put(Record::MailboxDeleted { account, mailbox: id }).await?;
                continue;
            }
            let graves = mailbox.messages.iter().filter(|message| message.is_grave);
            let graves: Vec<Uid> = graves.map(|message| message.uid).collect();
            for some in graves.chunks(UIDS_AT_ONCE) {
                let uids = UidRange::runs(some.iter().copied());
                self.put(Record::Expunged { account, mailbox: id, uids }).await?;
            }
        }
        let gone: Vec<AccountId> =
            plan.accounts.iter().filter(|account| account.is_gone).map(|a| a.id).collect();
        for account in gone {
            self.put(Record::AccountRemoved { account }).await?;
        }
        Ok(())
    }
}

/// Of the messages about one record, those whose turn it is; they count as dealt with.
fn take_ready(plan: &mut Plan, group: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut ready = Vec::new();
    for (mailbox, index) in group {
        let planned = &mut plan.mailboxes[*mailbox];
        if planned.head == *index {
            planned.head += 1;
            ready.push((*mailbox, *index));
        }
    }
    ready
}
