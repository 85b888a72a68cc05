//! A message's bytes as they arrive.
//!
//! A message that fits the session's buffer becomes one record on each home shard concerned. A
//! larger one streams into the log of each of them while it arrives, so that a session never holds
//! more than its buffer, and a slow disk slows the peer down through TCP.

use super::filing::{Parcel, file};
use super::streaming::{Piece, Stream};
use super::together;
use super::{Envelope, Outcome, To, unix_millis};
use crate::auth::evidence::{Evidence, Hashing};
use crate::auth::results;
use crate::filter::{self, limits::MESSAGE_BYTES_MAX};
use crate::mesh::Unreachable;
use crate::scan::session::Scan;
use crate::scan::verdict;
use crate::shard::Shard;
use bytes::Bytes;
use protocols::message::field::Fields;
use protocols::message::scanner::Scanner;
use protocols::message::summary::Summary;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use storage::{Body, Error, PLACEMENTS_MAX, Room, UnixMillis};

/// Trace fields are looked for in this much of a message's head.
const HEADER_BYTES_SEARCHED: usize = 256 * 1024;

/// How closely a message is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrutiny {
    /// Not at all: it comes from a trusted network.
    None,
    /// Results of ours that it brings are forged (RFC 8601 section 5).
    Forgery,
    /// And it is verified: from whom is it?
    All,
}

/// What verification adds to a message, the same for each recipient.
#[derive(Debug, Default)]
pub struct Stamp {
    /// Fields behind our own head.
    pub fields: String,
    /// The same, cut to [`Stamp::BESIDE_BYTES_MAX`] less what `Delivered-To` takes: for a body that
    /// is in the log already. They go beside it, like `Delivered-To`.
    pub beside: String,
}

impl Stamp {
    /// What the store takes beside a body, for one recipient.
    pub const BESIDE_BYTES_MAX: usize = 1024;
}

/// A message on its way in.
#[derive(Debug)]
pub struct Intake {
    shard: Rc<Shard>,
    scrutiny: Scrutiny,
    /// Octets of our own head, in front of what the peer has sent.
    head_octets: usize,
    /// Home shards concerned, known before the first byte, and the records that each may need.
    homes: BTreeMap<u16, usize>,
    /// Of what has come: without our own head.
    scanner: Scanner,
    /// Of the complete message, for all who look at it.
    outline: Option<Arc<Summary>>,
    whole: Vec<u8>,
    /// What was `whole`, once it is complete and others look at it.
    sealed: Option<Bytes>,
    large: Option<Large>,
    scan: Option<Scan>,
    bytes: u64,
}

/// A message that has outgrown the session's buffer.
#[derive(Debug)]
struct Large {
    /// One for each record.
    streams: BTreeMap<u16, Vec<Stream>>,
    head: Vec<u8>,
    hashing: Option<Hashing>,
}

impl Intake {
    /// `homes` are the shards of the recipients, one for each. `head` is what we write on top of
    /// the message: its trace fields. The peer's word for the size is taken for how much room to
    /// make at first, up to the session's buffer.
    pub fn new(
        shard: &Rc<Shard>,
        homes: impl Iterator<Item = u16>,
        head: &str,
        declared_octets: u64,
        scrutiny: Scrutiny,
    ) -> Intake {
        let expected =
            usize::try_from(declared_octets).unwrap_or(usize::MAX).saturating_add(head.len());
        let mut whole =
            Vec::with_capacity(expected.clamp(8 * 1024, shard.knobs.session_buffer_bytes()));
        whole.extend_from_slice(head.as_bytes());
        Intake {
            shard: Rc::clone(shard),
            scrutiny,
            head_octets: head.len(),
            homes: records_of(homes),
            scanner: Scanner::new(),
            outline: None,
            whole,
            sealed: None,
            large: None,
            scan: Scan::begin(shard),
            bytes: 0,
        }
    }

    /// For what comes from here: a message that was looked at when it came, or one that
    /// we have written.
    pub(crate) fn of_ours(shard: &Rc<Shard>, homes: impl Iterator<Item = u16>) -> Intake {
        Intake {
            shard: Rc::clone(shard),
            scrutiny: Scrutiny::None,
            head_octets: 0,
            homes: records_of(homes),
            scanner: Scanner::new(),
            outline: None,
            whole: Vec::new(),
            sealed: None,
            large: None,
            scan: None,
            bytes: 0,
        }
    }

    /// For what an account has sent, and was looked at then, but for fields of ours in it. `head`
    /// is what we write on top.
    pub(crate) fn of_account(
        shard: &Rc<Shard>,
        homes: impl Iterator<Item = u16>,
        head: &str,
    ) -> Intake {
        let whole = head.as_bytes().to_vec();
        let (scrutiny, head_octets) = (Scrutiny::Forgery, head.len());
        Intake { scrutiny, head_octets, whole, ..Intake::of_ours(shard, homes) }
    }

    pub fn scrutiny(&self) -> Scrutiny {
        self.scrutiny
    }

    /// Bytes of the message so far, without our own head.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub async fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.bytes += piece.len() as u64;
        self.scanner.push(piece);
        self.whole.extend_from_slice(piece);
        if self.whole.len() >= self.shard.knobs.session_buffer_bytes() {
            self.spill().await?;
        }
        Ok(())
    }

    /// Sends what is buffered to the logs.
    async fn spill(&mut self) -> Result<(), Error> {
        if self.large.is_none() {
            self.disarm();
        }
        let piece = Bytes::from(std::mem::take(&mut self.whole));
        let own = if self.large.is_none() { self.head_octets } else { 0 };
        if self.large.is_none() {
            let mut streams = BTreeMap::new();
            for (&home, &records) in &self.homes {
                let opened = (0..records).map(|_| Stream::open(&self.shard, home));
                streams.insert(home, opened.collect::<Result<Vec<_>, _>>()?);
            }
            let head = piece[..piece.len().min(HEADER_BYTES_SEARCHED)].to_vec();
            let hashing = (self.scrutiny == Scrutiny::All)
                .then(|| Hashing::begin(&piece.slice(self.head_octets..)));
            self.large = Some(Large { streams, head, hashing });
        } else if let Some(Large { hashing: Some(hashing), .. }) = &mut self.large {
            hashing.push(&piece);
        }
        let Some(large) = &mut self.large else { return Ok(()) };
        for stream in large.streams.values().flatten() {
            // A stream that has ended early tells why when it is asked for its outcomes.
            let _ = stream.pieces.send_async(Piece::Bytes(piece.clone())).await;
        }
        if let Some(scan) = &mut self.scan {
            scan.push(piece.slice(own..)).await;
        }
        Ok(())
    }

    /// How many servers the message has passed, and for whom it has been delivered before.
    pub fn trace(&self) -> Trace {
        match (&self.large, &self.sealed) {
            (Some(large), _) => Trace::read(&large.head),
            (None, Some(sealed)) => Trace::read(sealed),
            (None, None) => Trace::read(&self.whole),
        }
    }

    /// Before anybody else reads the message.
    fn disarm(&mut self) {
        let hostname = &self.shard.config.hostname;
        let message = &mut self.whole[self.head_octets..];
        if self.scrutiny != Scrutiny::None {
            let forged = results::disarm(message, hostname) + filter::verdict::disarm(message);
            if forged > 0 {
                tracing::info!(forged, "renamed fields that claim to be ours");
            }
        }
        // What is scanned here is scanned whoever sends it, so an earlier result of
        // ours says nothing.
        if self.scrutiny != Scrutiny::None || self.scan.is_some() {
            results::rename_forged(message, (verdict::FIELD, verdict::FORGED_FIELD), hostname);
        }
    }

    /// The message is complete, and others look at it: as a whole, without our own head, or at what
    /// has been taken down of it on its way into the logs.
    async fn seal(&mut self) -> Result<Option<Bytes>, Error> {
        if self.large.is_some() {
            if !self.whole.is_empty() {
                self.spill().await?;
            }
            return Ok(None);
        }
        if self.sealed.is_none() {
            self.disarm();
            self.sealed = Some(Bytes::from(std::mem::take(&mut self.whole)));
        }
        Ok(self.sealed.as_ref().map(|sealed| sealed.slice(self.head_octets..)))
    }

    /// The message, now that it is complete, if it is at hand as a whole: without our own head.
    pub async fn at_hand(&mut self) -> Result<Option<Bytes>, Error> {
        self.seal().await
    }

    /// What is verified of the message, now that it is complete.
    pub async fn evidence(&mut self) -> Result<Evidence, Error> {
        if let Some(message) = self.seal().await? {
            return Ok(Evidence { message, hashed: None });
        }
        let hashing = self.large.as_mut().and_then(|large| large.hashing.take());
        Ok(hashing.map(Hashing::finish).unwrap_or_default())
    }

    /// Of the complete message: it is parsed once, as it comes in.
    fn take_outline(&mut self) -> Arc<Summary> {
        let outline = self.outline.take();
        outline.unwrap_or_else(|| Arc::new(std::mem::take(&mut self.scanner).finish()))
    }

    /// What the store keeps beside the message, of which `octets` of our own are in front.
    fn summary(&mut self, octets: usize) -> Vec<u8> {
        Arc::unwrap_or_clone(self.take_outline()).behind(octets).encode()
    }

    /// The scan of the message, now that it is complete, where messages are scanned.
    pub async fn scan(&mut self) -> Result<Option<Scan>, Error> {
        if self.scan.is_none() {
            return Ok(None);
        }
        let whole = self.seal().await?;
        let mut scan = self.scan.take();
        if let Some(scan) = &mut scan {
            let outline = self.take_outline();
            self.outline = Some(Arc::clone(&outline));
            scan.complete(whole, outline).await;
        }
        Ok(scan)
    }

    /// The message's beginning, once it is complete: what the spam filter looks at.
    pub async fn beginning(&mut self) -> Result<Bytes, Error> {
        if let Some(message) = self.seal().await? {
            return Ok(message);
        }
        let head = self.large.as_ref().map(|large| large.head.as_slice()).unwrap_or_default();
        let head = head.get(self.head_octets..).unwrap_or_default();
        Ok(Bytes::copy_from_slice(&head[..head.len().min(MESSAGE_BYTES_MAX)]))
    }

    pub fn shard(&self) -> &Rc<Shard> {
        &self.shard
    }

    /// Delivers to `recipients`; one outcome for each, in their order, and the message, if it was
    /// not too large to be at hand. Those of one of the `groups` share an answer: none of them gets
    /// it unless there is room at all of their homes.
    pub(super) async fn finish(
        mut self,
        recipients: &[To],
        groups: &[Vec<usize>],
        stamp: &Stamp,
        envelope: &Arc<Envelope>,
    ) -> (Vec<Outcome>, Option<Bytes>) {
        let mut by_home: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (index, recipient) in recipients.iter().enumerate() {
            by_home.entry(recipient.home.shard).or_default().push(index);
        }
        if self.large.is_some() && !self.whole.is_empty() {
            // The rest, so that all of it is in the logs.
            if let Err(error) = self.spill().await {
                let failed = recipients.iter().map(|_| Err(error.clone())).collect();
                return (failed, None);
            }
        }
        let date = envelope.collected.as_ref().and_then(|collected| collected.internal_date);
        let internal_date = date.map_or_else(unix_millis, UnixMillis);
        let post = Post { recipients, groups, envelope, internal_date };
        let mut failed: Vec<Option<Error>> = vec![None; recipients.len()];
        let (started, at_hand) = match self.large.take() {
            Some(mut large) => {
                let head = Bytes::from(std::mem::take(&mut large.head));
                let summary = self.summary(self.head_octets);
                self.make_ready(&large, &summary, &post, &mut by_home, &mut failed).await;
                let started =
                    self.finish_large(large, &head, &summary, &post, by_home, stamp).await;
                (started, None)
            }
            None => {
                let body = self.sealed_body(stamp);
                let summary = self.summary(self.head_octets + stamp.fields.len());
                let bytes = body.len() + summary.len();
                let rooms = self.keep_rooms(bytes, &post, &mut by_home, &mut failed).await;
                (self.finish_whole(&body, &summary, &post, by_home, rooms), Some(body))
            }
        };
        let refused = |error: Option<Error>| error.map(Err);
        let mut outcomes: Vec<Option<Outcome>> = failed.into_iter().map(refused).collect();
        for (indices, asked) in started {
            let answers = asked.await;
            for (index, answer) in indices.into_iter().zip(answers) {
                outcomes[index] = Some(answer);
            }
        }
        let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or(Err(Error::Busy)));
        (outcomes.collect(), at_hand)
    }

    /// Room for a message of so many bytes at all homes that share an answer. Who can't
    /// get it is left out.
    async fn keep_rooms(
        &self,
        bytes: usize,
        post: &Post<'_>,
        by_home: &mut BTreeMap<u16, Vec<usize>>,
        failed: &mut [Option<Error>],
    ) -> BTreeMap<u16, Room> {
        let together = together::homes(post.recipients, post.groups);
        if together.is_empty() {
            return BTreeMap::new();
        }
        let wanted = by_home.iter().filter(|(home, _)| together.contains(home));
        let wanted = wanted.map(|(home, indices)| (*home, record_bytes(bytes, indices.len())));
        let mut rooms = BTreeMap::new();
        for (home, room) in together::keep_rooms(&self.shard, wanted.collect()).await {
            match room {
                Ok(room) => drop(rooms.insert(home, room)),
                Err(error) => post.fail(home, &error, failed),
            }
        }
        post.leave_out(by_home, failed);
        rooms
    }

    /// The same for what streams: at all of these homes it has to be in the log, and there has to
    /// be room for its record.
    async fn make_ready(
        &self,
        large: &Large,
        summary: &[u8],
        post: &Post<'_>,
        by_home: &mut BTreeMap<u16, Vec<usize>>,
        failed: &mut [Option<Error>],
    ) {
        let mut asked = Vec::new();
        for home in together::homes(post.recipients, post.groups) {
            let indices = by_home.get(&home).map_or(0, Vec::len);
            let streams = large.streams.get(&home).into_iter().flatten();
            for stream in streams.take(indices.div_ceil(PLACEMENTS_MAX)) {
                let (reply, answer) = self.shard.mesh.open_question::<Result<(), Error>>();
                let bytes = record_bytes(summary.len(), indices.min(PLACEMENTS_MAX));
                let _ = stream.pieces.send_async(Piece::IsReady(bytes, reply)).await;
                asked.push((home, answer));
            }
        }
        for (home, answer) in asked {
            if let Err(error) = answer.await.unwrap_or(Err(Error::Busy)) {
                post.fail(home, &error, failed);
            }
        }
        post.leave_out(by_home, failed);
    }

    /// All of the message, with what verification adds.
    fn sealed_body(&mut self, stamp: &Stamp) -> Bytes {
        let body = match self.sealed.take() {
            Some(sealed) => sealed,
            None => {
                self.disarm();
                Bytes::from(std::mem::take(&mut self.whole))
            }
        };
        if stamp.fields.is_empty() {
            body
        } else {
            let (head, message) = body.split_at(self.head_octets);
            Bytes::from([head, stamp.fields.as_bytes(), message].concat())
        }
    }

    fn finish_whole(
        &mut self,
        body: &Bytes,
        summary: &[u8],
        post: &Post<'_>,
        by_home: BTreeMap<u16, Vec<usize>>,
        mut rooms: BTreeMap<u16, Room>,
    ) -> Vec<(Vec<usize>, Outcomes)> {
        let octets = body.len() as u64;
        let mut ask = |(home, indices): (u16, Vec<usize>)| {
            let parcel = post.parcel(&indices, summary, "", body, octets);
            let parcel = Parcel { room: rooms.remove(&home), ..parcel };
            let body = body.clone();
            let shard = Rc::clone(&self.shard);
            let count = indices.len();
            // Its own core needs no queue.
            let outcomes: Outcomes = if home == shard.id {
                Box::pin(async move { file(&shard, parcel, Body::Whole(body)).await })
            } else {
                let asked = shard.mesh.ask(home, move |shard| async move {
                    file(&shard, parcel, Body::Whole(body)).await
                });
                Box::pin(async move { asked.await.unwrap_or_else(|Unreachable| busy(count)) })
            };
            (indices, outcomes)
        };
        // The others are asked first and awaited last: they work while this core does its own part.
        let (own, others): (Vec<_>, Vec<_>) =
            by_home.into_iter().partition(|(home, _)| *home == self.shard.id);
        let others: Vec<_> = others.into_iter().map(&mut ask).collect();
        own.into_iter().map(ask).chain(others).collect()
    }

    async fn finish_large(
        &mut self,
        mut large: Large,
        head: &Bytes,
        summary: &[u8],
        post: &Post<'_>,
        by_home: BTreeMap<u16, Vec<usize>>,
        stamp: &Stamp,
    ) -> Vec<(Vec<usize>, Outcomes)> {
        let octets = self.head_octets as u64 + self.bytes;
        let mut started = Vec::new();
        for (home, indices) in by_home {
            // A stream that no recipient needs after all is abandoned.
            let streams = large.streams.remove(&home).unwrap_or_default();
            for (indices, stream) in indices.chunks(PLACEMENTS_MAX).zip(streams) {
                let parcel = post.parcel(indices, summary, &stamp.beside, head, octets);
                let _ = stream.pieces.send_async(Piece::End(Box::new(parcel))).await;
                let count = indices.len();
                let outcomes: Outcomes =
                    Box::pin(async move { stream.outcomes.await.unwrap_or_else(|_| busy(count)) });
                started.push((indices.to_vec(), outcomes));
            }
        }
        started
    }
}

struct Post<'p> {
    recipients: &'p [To],
    groups: &'p [Vec<usize>],
    envelope: &'p Arc<Envelope>,
    internal_date: UnixMillis,
}

impl Post<'_> {
    fn parcel(
        &self,
        indices: &[usize],
        summary: &[u8],
        beside: &str,
        head: &Bytes,
        octets: u64,
    ) -> Parcel {
        Parcel {
            to: indices.iter().map(|&index| self.recipients[index].clone()).collect(),
            envelope: Arc::clone(self.envelope),
            internal_date: self.internal_date,
            summary: summary.to_vec(),
            beside: beside.to_owned(),
            head: head.clone(),
            octets,
            room: None,
        }
    }

    /// That home can't take it.
    fn fail(&self, home: u16, error: &Error, failed: &mut [Option<Error>]) {
        for (to, failed) in self.recipients.iter().zip(failed) {
            if to.home.shard == home {
                failed.get_or_insert_with(|| error.clone());
            }
        }
    }

    /// Who has failed, and who shares an answer with them, is not delivered to.
    fn leave_out(&self, by_home: &mut BTreeMap<u16, Vec<usize>>, failed: &mut [Option<Error>]) {
        together::spread(failed, self.groups);
        for indices in by_home.values_mut() {
            indices.retain(|&index| failed[index].is_none());
        }
        by_home.retain(|_, indices| !indices.is_empty());
    }
}

/// What the records of a message take at one home, scripts aside.
fn record_bytes(bytes: usize, recipients: usize) -> usize {
    bytes * recipients.div_ceil(PLACEMENTS_MAX) + recipients * Stamp::BESIDE_BYTES_MAX
}

/// Home shards, and the records that each may need.
fn records_of(homes: impl Iterator<Item = u16>) -> BTreeMap<u16, usize> {
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    homes.for_each(|home| *counts.entry(home).or_default() += 1);
    let records = |(home, count): (u16, usize)| (home, count.div_ceil(PLACEMENTS_MAX));
    counts.into_iter().map(records).collect()
}

type Outcomes = std::pin::Pin<Box<dyn Future<Output = Vec<Outcome>>>>;

fn busy(count: usize) -> Vec<Outcome> {
    (0..count).map(|_| Err(Error::Busy)).collect()
}

/// What a message's trace fields tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trace {
    pub received: usize,
    pub delivered_to: Vec<String>,
}

impl Trace {
    pub fn read(head: &[u8]) -> Trace {
        let mut trace = Trace::default();
        for field in Fields::new(head) {
            if field.is("Received") {
                trace.received += 1;
            } else if field.is("Delivered-To") {
                trace.delivered_to.push(String::from_utf8_lossy(field.value).trim().to_lowercase());
            }
        }
        trace
    }
}
