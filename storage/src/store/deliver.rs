//! Messages in: deliveries, and large bodies that stream into the log before them.

use super::Store;
use super::keys::{Space, checked_beside};
use crate::device::Device;
use crate::durable::Durable;
use crate::error::Error;
use crate::format::{ChunkRef, Delivered, Pairs, PlacedRecord, Record};
use crate::index::Index;
use crate::locks::Access;
use crate::log::queue::{Hold, Parts};
use crate::room::Room;
use crate::types::{AccountId, Body, Delivery, Flags, Placed, Placement};
use crate::uses::Use;
use crate::wait::Receipt;
use bytes::Bytes;
use std::collections::VecDeque;
use std::rc::Rc;

const PREFIX_BYTES_MAX: usize = 4096;
const KEYWORD_BYTES_MAX: usize = 255;
/// Placements of one delivery, which is one record.
pub const PLACEMENTS_MAX: usize = 1000;
/// What became of one placement.
type Outcome = Result<(Placed, Durable), Error>;
/// Keys that are set in the same record, each with the placement that it goes with;
/// `None`: with any.
type Beside = Vec<(Option<usize>, (Vec<u8>, Option<Vec<u8>>))>;
/// Chunks of one body on their way at once: that much memory, and not more, waits for the disk.
const CHUNKS_PENDING_MAX: usize = 2;

impl<D: Device> Store<D> {
    /// Whether the store would take a message now, cheaply: `Busy`, `Full`, `Halted`.
    pub fn admit(&self) -> Result<(), Error> {
        self.core.admit_mail(0)
    }

    /// Keeps room for messages of so many bytes in all, for [`Store::within`]; while it is kept,
    /// nobody else has it. Errors as of [`Store::admit`].
    pub fn keep_room(&self, bytes: usize) -> Result<Room, Error> {
        self.core.keep_room(bytes)
    }

    /// A handle through which messages come into `room`: as far as that goes, they are not refused
    /// for want of space or as too many.
    #[must_use]
    pub fn within(&self, room: Option<Room>) -> Store<D> {
        Store { core: Rc::clone(&self.core), room: room.map(Rc::new) }
    }

    /// Whether so much of a message is taken now: what goes beyond its room has to find
    /// some as anybody's.
    fn admit_bytes(&self, bytes: usize) -> Result<(), Error> {
        let Some(room) = &self.room else { return self.core.admit_mail(bytes) };
        let taken = room.take(bytes);
        let admitted = match bytes - taken {
            0 => self.core.check_open(),
            rest => self.core.admit_mail(rest),
        };
        admitted.inspect_err(|_| room.put_back(taken))
    }

    /// The receipt for a message that its owner's rules throw away: nothing of it is to be kept, so
    /// nothing can be lost. Given only while the store takes mail: it stands at what has landed.
    pub fn discard(&self) -> Result<Durable, Error> {
        self.core.check_open()?;
        Ok(Durable::new(self.core.index.borrow().applied))
    }

    /// Appends the message; returns once it is on stable media. Quotas are exact: what is on its
    /// way counts. `Busy` or `Full` come before anything stalls.
    pub async fn deliver(&self, delivery: Delivery) -> Result<(Vec<Placed>, Durable), Error> {
        let delivered = self.deliver_each(delivery, true, None).await?;
        let delivered: Vec<(Placed, Durable)> = delivered.into_iter().collect::<Result<_, _>>()?;
        let (_, durable) = *delivered.last().expect("a delivery has a placement");
        Ok((delivered.into_iter().map(|(placed, _)| placed).collect(), durable))
    }

    /// The same, but a placement for which there is no account, mailbox or quota is left out,
    /// instead of all. One outcome for each, in their order.
    pub async fn deliver_where_possible(&self, delivery: Delivery) -> Result<Vec<Outcome>, Error> {
        self.deliver_each(delivery, false, None).await
    }

    /// The same, and in the same record, hence atomically with it, keys of a space. Without a
    /// placement that is possible, they are not set either.
    pub async fn deliver_and_put(
        &self,
        delivery: Delivery,
        space: Space,
        pairs: Vec<(Bytes, Option<Bytes>)>,
    ) -> Result<Vec<Outcome>, Error> {
        let pairs = checked_beside(pairs)?;
        let pairs = pairs.into_iter().map(|pair| (None, pair)).collect();
        self.deliver_each(delivery, false, Some((space.0, pairs))).await
    }

    /// The same, with a key for each placement: `marks` are in their order, and those of a
    /// placement that is left out are not set.
    pub async fn deliver_and_mark(
        &self,
        delivery: Delivery,
        space: Space,
        marks: Vec<Option<(Bytes, Bytes)>>,
    ) -> Result<Vec<Outcome>, Error> {
        let marks = marks.into_iter().enumerate();
        let marks = marks.filter_map(|(at, mark)| mark.map(|(key, value)| (at, key, Some(value))));
        let (of, pairs): (Vec<_>, Vec<_>) =
            marks.map(|(at, key, value)| (Some(at), (key, value))).unzip();
        let pairs = checked_beside(pairs)?;
        let marks = (!pairs.is_empty()).then(|| (space.0, of.into_iter().zip(pairs).collect()));
        self.deliver_each(delivery, false, marks).await
    }

    /// One record for those that can be placed; without any, there is none.
    async fn deliver_each(
        &self,
        delivery: Delivery,
        all: bool,
        put: Option<(u8, Beside)>,
    ) -> Result<Vec<Outcome>, Error> {
        let Delivery { placements, internal_date, summary, body } = delivery;
        check_placements(&placements)?;
        let body = match body {
            Body::Whole(bytes) if bytes.len() > self.core.options.chunk_bytes() => {
                Body::Streamed(self.stream(bytes).await?)
            }
            body => body,
        };
        let (body, chunks, unpacked, body_bytes, writing) = match body {
            Body::Whole(bytes) => {
                let length = bytes.len() as u64;
                match self.core.packing.pack(&bytes) {
                    Some(packed) => (Bytes::from(packed), Vec::new(), Some(vec![]), length, None),
                    None => (bytes, Vec::new(), None, length, None),
                }
            }
            Body::Streamed(streamed) => {
                let (chunks, unpacked, bytes, writing) = streamed.into_parts();
                (Bytes::new(), chunks, unpacked, bytes, Some(writing))
            }
        };
        let body_bytes = u32::try_from(body_bytes)
            .map_err(|_| Error::Limit("a message is smaller than 4 GiB"))?;
        let mut hold = self.share(&placements).await;
        self.admit_bytes(body.len())?;
        hold.writing = writing;
        let outcomes = self.place(&placements, body_bytes, &mut hold, all)?;
        let put = put.map(|(space, beside)| {
            let is_set =
                |of: Option<usize>| of.is_none_or(|at| outcomes.get(at).is_some_and(Result::is_ok));
            let set = beside.into_iter().filter(|(of, _)| is_set(*of));
            (space, set.map(|(_, pair)| pair).collect::<Pairs>())
        });
        let put = put.filter(|(_, pairs)| !pairs.is_empty());
        let placements: Vec<_> =
            placements.into_iter().zip(&outcomes).filter_map(to_record).collect();
        if placements.is_empty() {
            let refused = outcomes.into_iter().filter_map(Result::err);
            return Ok(refused.map(Err).collect());
        }
        let summary_bytes = u32::try_from(summary.len())
            .map_err(|_| Error::Limit("a summary is smaller than 4 GiB"))?;
        let delivered = Delivered {
            internal_date,
            body_bytes,
            summary_bytes,
            placements,
            chunks,
            unpacked,
            put,
        };
        let record = Record::Delivered(delivered);
        let parts = Parts { fields: record.encode(), summary: &summary, body: &body };
        let receipt = self.core.enqueue_parts(record, &parts, hold)?;
        drop((summary, body));
        let (lsn, _) = receipt.landed().await?;
        let durable = Durable::new(lsn);
        Ok(outcomes.into_iter().map(|placed| placed.map(|placed| (placed, durable))).collect())
    }

    /// Takes each account's lock once, in the order of their numbers, so that no two deliveries
    /// wait for each other.
    async fn share(&self, placements: &[Placement]) -> Hold {
        let mut hold = Hold::default();
        if let [only] = placements {
            hold.guards.push(self.core.locks.lock(only.account, Access::Delivery).await);
            return hold;
        }
        let mut accounts: Vec<AccountId> = placements.iter().map(|p| p.account).collect();
        accounts.sort_unstable();
        accounts.dedup();
        for account in accounts {
            hold.guards.push(self.core.locks.lock(account, Access::Delivery).await);
        }
        hold
    }

    /// Reserves quota and a UID for each placement, or (`all`) fails for all.
    fn place(
        &self,
        placements: &[Placement],
        body_bytes: u32,
        hold: &mut Hold,
        all: bool,
    ) -> Result<Vec<Result<Placed, Error>>, Error> {
        self.core.check_open()?;
        let mut index = self.core.index.borrow_mut();
        let mut outcomes = Vec::with_capacity(placements.len());
        // No UID is taken before it is known that all can be placed.
        for placement in placements {
            let reserved = self.reserve_quota(&index, placement, body_bytes, hold);
            if let (Err(error), true) = (&reserved, all) {
                return Err(error.clone());
            }
            outcomes.push(reserved);
        }
        let uid = |(reserved, placement): (Result<(), Error>, &Placement)| match reserved {
            Ok(()) => reserve_uid(&mut index, placement).map(Ok),
            Err(error) => Ok(Err(error)),
        };
        outcomes.into_iter().zip(placements).map(uid).collect()
    }

    fn reserve_quota(
        &self,
        index: &Index,
        placement: &Placement,
        body_bytes: u32,
        hold: &mut Hold,
    ) -> Result<(), Error> {
        let account =
            index.account(placement.account).ok_or(Error::NoSuchAccount(placement.account))?;
        let mailbox = account.mailbox(placement.mailbox);
        let mailbox = mailbox.ok_or(Error::NoSuchMailbox(placement.mailbox))?;
        if mailbox.read_only {
            return Err(Error::ReadOnly(mailbox.name.clone()));
        }
        let bytes = u64::from(body_bytes) + placement.prefix.len() as u64;
        if bytes > u64::from(u32::MAX) {
            return Err(Error::Limit("a message is smaller than 4 GiB"));
        }
        let reservations = &self.core.reservations;
        let usage = account.usage();
        hold.reservations.push(reservations.reserve(placement.account, &usage, 1, bytes)?);
        Ok(())
    }

    /// For bodies over the session's buffer: streams into the log as chunk records.
    pub fn body_writer(&self) -> Result<BodyWriter<D>, Error> {
        match &self.room {
            Some(_) => self.core.check_open()?,
            None => self.core.admit_mail(self.core.options.chunk_bytes())?,
        }
        Ok(BodyWriter {
            store: self.clone(),
            filling: Vec::new(),
            pending: VecDeque::new(),
            chunks: Vec::new(),
            lengths: Vec::new(),
            is_packed: false,
            bytes: 0,
            writing: self.core.writing(),
        })
    }

    async fn stream(&self, bytes: Bytes) -> Result<StreamedBody, Error> {
        let mut writer = self.body_writer()?;
        writer.push(bytes).await?;
        writer.finish().await
    }
}

fn check_placements(placements: &[Placement]) -> Result<(), Error> {
    if placements.is_empty() || placements.len() > PLACEMENTS_MAX {
        return Err(Error::Limit("a delivery has from 1 to 1000 placements"));
    }
    if placements.iter().any(|placement| placement.prefix.len() > PREFIX_BYTES_MAX) {
        return Err(Error::Limit("a placement's prefix has at most 4 KiB"));
    }
    placements.iter().try_for_each(|placement| check_keywords(&placement.keywords))
}

pub(super) fn check_keywords(keywords: &[String]) -> Result<(), Error> {
    if keywords.len() > Flags::KEYWORDS_MAX {
        return Err(Error::Limit("56 keywords in a mailbox"));
    }
    if keywords.iter().any(|keyword| keyword.is_empty() || keyword.len() > KEYWORD_BYTES_MAX) {
        return Err(Error::Limit("a keyword has from 1 to 255 bytes"));
    }
    Ok(())
}

fn to_record((placement, placed): (Placement, &Result<Placed, Error>)) -> Option<PlacedRecord> {
    let placed = placed.as_ref().ok()?;
    Some(PlacedRecord {
        account: placement.account,
        mailbox: placement.mailbox,
        uid: placed.uid,
        flags: Flags(placement.flags.0 & 0xFF),
        keywords: placement.keywords,
        prefix: placement.prefix,
    })
}

fn reserve_uid(index: &mut Index, placement: &Placement) -> Result<Placed, Error> {
    let account = index.accounts.get_mut(&placement.account).map(Rc::make_mut);
    let mailbox = account
        .and_then(|account| account.mailbox_mut(placement.mailbox))
        .ok_or(Error::NoSuchMailbox(placement.mailbox))?;
    let uid = mailbox.reserve_uids(1).ok_or(Error::Limit("all UIDs of the mailbox are used up"))?;
    Ok(Placed {
        account: placement.account,
        mailbox: placement.mailbox,
        uid_validity: mailbox.uid_validity,
        uid,
    })
}

/// Streams a large body into the log. Dropped without `finish`, it leaves garbage for compaction.
#[derive(Debug)]
pub struct BodyWriter<D: Device> {
    store: Store<D>,
    /// Less than a chunk.
    filling: Vec<u8>,
    pending: VecDeque<(Receipt, u32)>,
    chunks: Vec<ChunkRef>,
    /// Of each, before it was packed.
    lengths: Vec<u32>,
    /// Whether any is.
    is_packed: bool,
    bytes: u64,
    writing: Use,
}

impl<D: Device> BodyWriter<D> {
    /// Bytes that have come and are not on their way yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.filling.len()
    }

    /// What comes from now on comes through that handle, hence into its room ([`Store::within`]).
    #[must_use]
    pub fn within(self, store: &Store<D>) -> BodyWriter<D> {
        BodyWriter { store: store.clone(), ..self }
    }

    /// Waits for room when the log is behind (back-pressure reaches the peer's TCP window).
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), Error> {
        let chunk_bytes = self.store.core.options.chunk_bytes();
        let mut rest = &bytes[..];
        while self.filling.len() + rest.len() >= chunk_bytes {
            if self.filling.is_empty() {
                let (chunk, later) = rest.split_at(chunk_bytes);
                self.write_chunk(chunk).await?;
                rest = later;
                continue;
            }
            let (part, later) = rest.split_at(chunk_bytes - self.filling.len());
            self.filling.extend_from_slice(part);
            let chunk = std::mem::take(&mut self.filling);
            self.write_chunk(&chunk).await?;
            rest = later;
        }
        self.filling.extend_from_slice(rest);
        Ok(())
    }

    pub async fn finish(mut self) -> Result<StreamedBody, Error> {
        let last = std::mem::take(&mut self.filling);
        if !last.is_empty() {
            self.write_chunk(&last).await?;
        }
        while !self.pending.is_empty() {
            self.land_oldest().await?;
        }
        let BodyWriter { chunks, lengths, is_packed, bytes, writing, .. } = self;
        Ok(StreamedBody { chunks, lengths, is_packed, bytes, writing })
    }

    async fn write_chunk(&mut self, body: &[u8]) -> Result<(), Error> {
        while self.pending.len() >= CHUNKS_PENDING_MAX {
            self.land_oldest().await?;
        }
        let core = &self.store.core;
        // Busy is no reason to give up here: the peer can wait, and so can its bytes. But not where
        // nothing lands, since all is kept for others, nor while others wait for what is kept for
        // this one: they might wait for each other.
        let is_on_its_way = || core.queue.borrow().pending_records > 0;
        let may_wait = || self.store.room.is_none() && is_on_its_way();
        loop {
            match self.store.admit_bytes(body.len()) {
                Ok(()) => break,
                Err(Error::Busy) if core.check_open().is_ok() && may_wait() => {
                    core.landed.wait().await;
                }
                Err(error) => return Err(error),
            }
        }
        let packed = core.packing.pack(body);
        let stored = packed.as_deref().unwrap_or(body);
        let record = Record::Chunk { packed: packed.is_some() };
        let parts = Parts { fields: Vec::new(), summary: &[], body: stored };
        let receipt = core.enqueue_parts(record, &parts, Hold::default())?;
        let bounded = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a chunk is small");
        self.bytes += body.len() as u64;
        self.lengths.push(bounded(body));
        self.is_packed |= packed.is_some();
        self.pending.push_back((receipt, bounded(stored)));
        Ok(())
    }

    async fn land_oldest(&mut self) -> Result<(), Error> {
        let Some((receipt, body_bytes)) = self.pending.front() else { return Ok(()) };
        let (_, location) = receipt.landed().await?;
        self.chunks.push(ChunkRef { location, body_bytes: *body_bytes });
        self.pending.pop_front();
        Ok(())
    }
}

/// A body that is in the log already.
#[derive(Debug)]
pub struct StreamedBody {
    chunks: Vec<ChunkRef>,
    lengths: Vec<u32>,
    is_packed: bool,
    bytes: u64,
    /// Its chunks' segments stay as long as this.
    writing: Use,
}

impl StreamedBody {
    /// Its chunks, what each of them holds unpacked if any is packed, bytes of all, and
    /// what keeps them.
    pub(crate) fn into_parts(self) -> (Vec<ChunkRef>, Option<Vec<u32>>, u64, Use) {
        let unpacked = self.is_packed.then_some(self.lengths);
        (self.chunks, unpacked, self.bytes, self.writing)
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
