//! FETCH: from the index, the summary and byte ranges to response lines.
//!
//! Messages are read ahead, of each no more than one window of bytes, and of all of them no more
//! than a budget. Its sections are cut from that window, or read one by one while the response is
//! written. A response is begun only when the window has been read, so that a message that can't be
//! read costs a NO and not the connection.

use super::account::{Broken, ImapAccount, breathe, breathe_after, refusal};
use super::ahead::Ahead;
use crate::wire::Wire;
use bytes::Bytes;
use protocols::imap::fetch::{FetchItem, FetchSection, Located, Response, SectionText};
use protocols::imap::flags::FlagBits;
use protocols::imap::{Code, Completion, Imap, Targets};
use protocols::message::{Envelope, Summary, Undecodable, field};
use std::collections::HashMap;
use std::ops::Range;
use storage::device::Device;
use storage::{Error, FlagChange, FlagMode, Flags, MailboxId, MessageEntry, Uid};
use tokio::sync::Semaphore;

/// A section up to this is read in one go, a longer one in such pieces.
const PIECE_BYTES: u64 = 64 * 1024;
/// Several sections of a message up to this are cut from one read of it. It is one record then, of
/// which the store reads all or nothing.
const WINDOW_BYTES_MAX: u64 = 256 * 1024;
/// Messages that are read ahead: one read at a time would leave the disk idle between them.
pub(super) const LOADING_MAX: usize = 16;
/// Messages of which neighbours are sought, for one read of their summaries; and reads of
/// these at a time.
const NEIGHBOURS_MAX: usize = 256;
const RUNS_MAX: usize = 4;
/// What a session holds of messages that were read ahead.
const AHEAD_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of a header that fields are picked from: as many as the summary knows.
const HEADER_BYTES_MAX: u64 = 256 * 1024;
/// Messages without any that take as long as a section, or as an envelope.
pub(super) const LONG_ITEM: u32 = 8;
const ENVELOPE_ITEM: u32 = 2;
/// Octets that a section may be picked from while one message would be worked off elsewhere.
const OCTETS_A_MESSAGE: u32 = 2048;

/// What all messages of one FETCH share.
struct Asked<'a> {
    mailbox: MailboxId,
    items: &'a [FetchItem],
    /// More than one section is asked for.
    several: bool,
    by_uid: bool,
    keywords: &'a [String],
    /// Messages that this FETCH has marked as seen.
    newly_seen: HashMap<u32, MessageEntry>,
}

type Known<'b> = (Envelope<&'b [u8]>, Option<Summary<&'b [u8]>>);

impl Asked<'_> {
    /// Of the messages themselves, nothing is needed but their summaries.
    fn summaries_alone(&self) -> bool {
        self.items.iter().any(FetchItem::needs_summary) && sections(self.items).next().is_none()
    }

    /// Of a stored summary, what is asked for: the envelope, and the parts.
    fn known<'b>(&self, summary: Option<&'b [u8]>) -> Result<Known<'b>, Undecodable> {
        let Some(bytes) = summary else { return Ok(Known::default()) };
        let needs = |wanted: fn(&FetchItem) -> bool| self.items.iter().any(wanted);
        let envelope = match needs(|item| *item == FetchItem::Envelope) {
            true => Summary::view_envelope(bytes)?.unwrap_or_default(),
            false => Envelope::default(),
        };
        let needs_parts = needs(|item| item.needs_summary() && *item != FetchItem::Envelope);
        let parts = needs_parts.then(|| Summary::view(bytes)).transpose()?;
        Ok((envelope, parts))
    }
}

impl<D: Device> ImapAccount<D> {
    pub(super) async fn fetch(
        &mut self,
        machine: &mut Imap,
        targets: &Targets,
        items: &[FetchItem],
        by_uid: bool,
        sets_seen: bool,
        wire: &mut Wire<'_>,
    ) -> Result<Completion, Broken> {
        let prepared = self.prepare(machine, targets, items, sets_seen).await;
        let (mailbox, keywords, newly_seen) = match prepared {
            Ok(prepared) => prepared,
            Err(completion) => return Ok(completion),
        };
        let several = sections(items).nth(1).is_some();
        let asked = Asked { mailbox, items, several, by_uid, keywords: &keywords, newly_seen };
        let (told, worst) = self.send(machine, targets, &asked, wire).await?;
        told.into_iter().for_each(|(uid, modseq)| machine.note_told(uid, modseq));
        Ok(match worst {
            None => Completion::Ok(None, "Fetched"),
            Some(error) => refusal(&error),
        })
    }

    /// Reads ahead and writes in order. Tells as of which MODSEQ the client now knows which
    /// message's flags, and the last thing that went wrong.
    async fn send(
        &self,
        machine: &Imap,
        targets: &Targets,
        asked: &Asked<'_>,
        wire: &mut Wire<'_>,
    ) -> Result<(Vec<(u32, u64)>, Option<Error>), Broken> {
        let Some(view) = machine.view() else { return Ok((Vec::new(), None)) };
        let named = targets.positions().filter_map(|at| view.message(at));
        let named =
            named.map(|(sequence, uid)| Named { sequence, uid, recent: view.is_recent(uid) });
        let mut sent = Sent::default();
        if asked.summaries_alone() {
            let mut named = named.peekable();
            let parts = std::iter::from_fn(|| {
                named.peek()?;
                Some(named.by_ref().take(NEIGHBOURS_MAX).collect::<Vec<_>>())
            });
            let runs = parts.flat_map(|named| self.runs(asked, named));
            let mut loading = Ahead::new(runs.map(|run| self.load_summaries(asked, run)), RUNS_MAX);
            while let Some(run) = loading.next().await {
                for (message, loaded) in run {
                    self.send_one(asked, &message, loaded, &mut sent, wire).await?;
                }
            }
            return Ok((sent.told, sent.worst));
        }
        // Asked in the order of the messages, and given back when one has been written: the first
        // has always got its share.
        let budget = &Semaphore::new(to_usize(AHEAD_BYTES_MAX));
        let loads = named.map(async |message| {
            let share = budget.acquire_many(self.share(asked, message.uid)).await;
            let loaded = self.load(asked, message.uid).await;
            (message, share, loaded)
        });
        let mut loading = Ahead::new(loads, LOADING_MAX);
        while let Some((message, share, loaded)) = loading.next().await {
            self.send_one(asked, &message, loaded, &mut sent, wire).await?;
            drop(share);
        }
        Ok((sent.told, sent.worst))
    }

    async fn send_one(
        &self,
        asked: &Asked<'_>,
        message: &Named,
        loaded: Result<Loaded, Error>,
        sent: &mut Sent,
        wire: &mut Wire<'_>,
    ) -> Result<(), Broken> {
        match loaded {
            Ok(loaded) => {
                let breath = &mut sent.breath;
                let written = self.write_one(asked, message, loaded, breath, wire).await?;
                sent.told.extend(written.told);
                sent.worst = written.worst.or(sent.worst.take());
            }
            // One that another session removed; by UID it is as if it had never been.
            Err(Error::NoSuchMessage(_)) if asked.by_uid => {}
            Err(error) => sent.worst = Some(error),
        }
        wire.relieve().await?;
        breathe(&mut sent.breath).await;
        Ok(())
    }

    /// Marks as seen what is about to be read, in one record for all, and looks up the keywords.
    async fn prepare(
        &self,
        machine: &Imap,
        targets: &Targets,
        items: &[FetchItem],
        sets_seen: bool,
    ) -> Result<(MailboxId, Vec<String>, HashMap<u32, MessageEntry>), Completion> {
        let mailbox = self.here()?;
        let mut newly_seen = HashMap::new();
        if sets_seen {
            let unseen = |entry: &MessageEntry| !entry.flags.contains(Flags::SEEN);
            let uids = self.pick(machine, targets, mailbox, unseen).await;
            if !uids.is_empty() {
                let (mode, flags, keywords) = (FlagMode::Add, Flags::SEEN, Vec::new());
                let change = FlagChange { mode, flags, keywords };
                let changed =
                    self.store.change_flags(self.account, mailbox, &uids, &change, None).await;
                // The disk may be full or failed: reading still works.
                let changed = changed.map(|changed| changed.changed).unwrap_or_default();
                newly_seen.extend(changed.into_iter().map(|entry| (entry.uid.0, entry)));
            }
        }
        let named = items.contains(&FetchItem::Flags) || !newly_seen.is_empty();
        let keywords = match named {
            true => self.store.mailbox(self.account, mailbox).map(|info| info.keywords),
            false => Ok(Vec::new()),
        };
        keywords.map(|keywords| (mailbox, keywords, newly_seen)).map_err(|e| refusal(&e))
    }

    /// UIDs of the targets whose entry `wanted` likes.
    pub(super) async fn pick(
        &self,
        machine: &Imap,
        targets: &Targets,
        mailbox: MailboxId,
        wanted: impl Fn(&MessageEntry) -> bool,
    ) -> Vec<Uid> {
        let Some(view) = machine.view() else { return Vec::new() };
        let mut picked = Vec::new();
        let mut breath = 0;
        for (_, uid) in targets.positions().filter_map(|at| view.message(at)) {
            let entry = self.store.entry(self.account, mailbox, Uid(uid));
            picked.extend(entry.ok().filter(&wanted).map(|entry| entry.uid));
            breathe(&mut breath).await;
        }
        picked
    }

    /// Writes one response. A section that can't be read is NIL.
    async fn write_one(
        &self,
        asked: &Asked<'_>,
        message: &Named,
        loaded: Loaded,
        breath: &mut u32,
        wire: &mut Wire<'_>,
    ) -> Result<Written, Broken> {
        let Named { sequence, uid, recent } = *message;
        let Loaded { entry, summary, mut source } = loaded;
        let summary_bytes = summary.as_ref().map_or(0, Bytes::len);
        let Ok((envelope, summary)) = asked.known(summary.as_deref()) else {
            let error = undecodable(asked.mailbox, entry.uid);
            return Ok(Written { told: None, worst: Some(error) });
        };
        let mut response = Response::begin(wire.outbox.buffer(), sequence);
        let mut told_uid = false;
        let mut told_flags = false;
        let mut worst = None;
        for item in asked.items {
            match item {
                FetchItem::Flags => {
                    response.flags(FlagBits(entry.flags.0), asked.keywords, recent);
                    told_flags = true;
                }
                FetchItem::InternalDate => response.internal_date(entry.internal_date.0),
                FetchItem::Size => response.size(entry.bytes),
                FetchItem::Uid if told_uid => {}
                FetchItem::Uid => {
                    response.uid(uid);
                    told_uid = true;
                }
                FetchItem::Envelope => response.envelope(&envelope),
                FetchItem::Structure { extended } => {
                    if let Some(summary) = &summary {
                        response.structure(summary, *extended);
                    }
                }
                FetchItem::Section(section) => {
                    let bytes = self.section(&mut source, section, summary.as_ref()).await;
                    match bytes.unwrap_or_else(|error| {
                        worst = Some(error);
                        SectionBytes::Nowhere
                    }) {
                        SectionBytes::Nowhere => response.section_nil(section),
                        SectionBytes::Here(bytes) => {
                            response.section_literal(section, bytes.len() as u64);
                            wire.outbox.push(&bytes);
                        }
                        SectionBytes::Streamed { first, range } => {
                            response.section_literal(section, range.end - range.start);
                            wire.outbox.push(&first);
                            let rest = range.start + first.len() as u64..range.end;
                            drop(first);
                            self.stream(asked.mailbox, Uid(uid), rest, wire).await?;
                        }
                    }
                }
            }
            if item.needs_summary() || matches!(item, FetchItem::Section(_)) {
                // Each of these may be long, and there may be many.
                wire.relieve().await?;
                let octets = source.window.len() + summary_bytes;
                let octets = u32::try_from(octets).unwrap_or(u32::MAX);
                let item = if *item == FetchItem::Envelope { ENVELOPE_ITEM } else { LONG_ITEM };
                breathe_after(breath, item + octets / OCTETS_A_MESSAGE).await;
            }
            response = Response::resume(wire.outbox.buffer());
        }
        if asked.by_uid && !told_uid {
            response.uid(uid);
        }
        if asked.newly_seen.contains_key(&uid) && !told_flags {
            response.flags(FlagBits(entry.flags.0), asked.keywords, recent);
            told_flags = true;
        }
        response.end();
        Ok(Written { told: told_flags.then_some((uid, entry.modseq.0)), worst })
    }

    /// Bytes that [`Self::load`] will hold of a message.
    fn share(&self, asked: &Asked<'_>, uid: u32) -> u32 {
        if sections(asked.items).next().is_none() {
            return 0;
        }
        let entry = self.store.entry(self.account, asked.mailbox, Uid(uid));
        entry.map_or(0, |entry| entry.bytes.min(WINDOW_BYTES_MAX as u32))
    }

    /// Parts messages into runs, the summaries of which are read together.
    fn runs(&self, asked: &Asked<'_>, named: Vec<Named>) -> Vec<Vec<Named>> {
        let uids: Vec<Uid> = named.iter().map(|message| Uid(message.uid)).collect();
        let lengths = self.store.summary_runs(self.account, asked.mailbox, &uids);
        // A mailbox that is gone: each message says so.
        let lengths = lengths.unwrap_or_else(|_| vec![1; uids.len()]);
        let mut named = named.into_iter();
        lengths.into_iter().map(|length| named.by_ref().take(length).collect()).collect()
    }

    async fn load_summaries(
        &self,
        asked: &Asked<'_>,
        run: Vec<Named>,
    ) -> impl Iterator<Item = (Named, Result<Loaded, Error>)> + use<D> {
        let (account, mailbox) = (self.account, asked.mailbox);
        let uids: Vec<Uid> = run.iter().map(|message| Uid(message.uid)).collect();
        let summaries = self.store.summaries(account, mailbox, &uids).await;
        run.into_iter().zip(summaries).map(move |(message, summary)| {
            let loaded = summary.map(|(entry, summary)| {
                let source =
                    Source { mailbox, entry, several: false, start: 0, window: Bytes::new() };
                Loaded { entry, summary: Some(summary), source }
            });
            (message, loaded)
        })
    }

    /// Before the first byte of a message's response, everything of it that is likely to fail.
    async fn load(&self, asked: &Asked<'_>, uid: u32) -> Result<Loaded, Error> {
        let (store, account, mailbox) = (&self.store, self.account, asked.mailbox);
        let entry = store.entry(account, mailbox, Uid(uid))?;
        let mut summary = None;
        if asked.items.iter().any(FetchItem::needs_summary) {
            summary = Some(store.summary(account, mailbox, Uid(uid)).await?);
        }
        let total = u64::from(entry.bytes);
        let several = asked.several;
        let mut source = Source { mailbox, entry, several, start: 0, window: Bytes::new() };
        let first = match sections(asked.items).next() {
            Some(section) => {
                let known = summary.as_deref().map(|bytes| view(bytes, mailbox, Uid(uid)));
                let (known, prefix) = (known.transpose()?, u64::from(entry.prefix_bytes));
                Some((section, section.section.locate(known.as_ref(), prefix, total)))
            }
            None => None,
        };
        let range = match first {
            Some(_) if asked.several && total <= WINDOW_BYTES_MAX => 0..total,
            Some((section, Located::Bytes(range))) => {
                let window = section.window(range.end - range.start);
                let start = range.start + window.start;
                start..(range.start + window.end).min(start + PIECE_BYTES)
            }
            Some((_, Located::Fields(range))) => {
                range.start..range.end.min(range.start + WINDOW_BYTES_MAX)
            }
            Some((_, Located::Nowhere)) | None => 0..0,
        };
        self.bytes(&mut source, range).await?;
        Ok(Loaded { entry, summary, source })
    }

    async fn section(
        &self,
        source: &mut Source,
        section: &FetchSection,
        summary: Option<&Summary<&[u8]>>,
    ) -> Result<SectionBytes, Error> {
        let (prefix, total) = (source.entry.prefix_bytes, source.entry.bytes);
        match section.section.locate(summary, u64::from(prefix), u64::from(total)) {
            Located::Nowhere => Ok(SectionBytes::Nowhere),
            Located::Fields(range) => {
                let end = range.end.min(range.start + HEADER_BYTES_MAX);
                let header = self.bytes(source, range.start..end).await?;
                let mut picked = Vec::new();
                if let SectionText::Fields { names, not } = &section.section.text {
                    field::pick(&header, names, *not, &mut picked);
                }
                let window = section.window(picked.len() as u64);
                let window = window.start as usize..window.end as usize;
                Ok(SectionBytes::Here(Bytes::from(picked).slice(window)))
            }
            Located::Bytes(range) => {
                let window = section.window(range.end - range.start);
                let range = range.start + window.start..range.start + window.end;
                if range.end - range.start <= PIECE_BYTES {
                    return self.bytes(source, range).await.map(SectionBytes::Here);
                }
                let first = self.bytes(source, range.start..range.start + PIECE_BYTES).await?;
                Ok(SectionBytes::Streamed { first, range })
            }
        }
    }

    /// Exactly these bytes of the message. What had to be read takes the window's place: the next
    /// section may be of the same bytes.
    async fn bytes(&self, source: &mut Source, range: Range<u64>) -> Result<Bytes, Error> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let at = range.start.checked_sub(source.start).map(to_usize);
        let held = at.map(|at| at..at + to_usize(range.end - range.start));
        if let Some(held) = held.filter(|held| held.end <= source.window.len()) {
            return Ok(source.window.slice(held));
        }
        let uid = source.entry.uid;
        let until = range.end.max(range.start + PIECE_BYTES).min(u64::from(source.entry.bytes));
        let wanted = if source.several { range.start..until } else { range.clone() };
        source.window = Bytes::new();
        let bytes = self.store.read(self.account, source.mailbox, uid, wanted.clone()).await?;
        if bytes.len() as u64 == wanted.end - wanted.start {
            (source.start, source.window) = (range.start, bytes.clone());
            return Ok(bytes.slice(..to_usize(range.end - range.start)));
        }
        let place = format!("UID {} of mailbox {}", uid.0, source.mailbox.0);
        Err(Error::Corrupt { what: "message shorter than its index entry", place })
    }

    /// The rest of a section whose length has been announced: no way back.
    async fn stream(
        &self,
        mailbox: MailboxId,
        uid: Uid,
        mut range: Range<u64>,
        wire: &mut Wire<'_>,
    ) -> Result<(), Broken> {
        while !range.is_empty() {
            wire.relieve().await?;
            let end = range.end.min(range.start + PIECE_BYTES);
            let piece = self.store.read(self.account, mailbox, uid, range.start..end).await;
            let piece = piece.map_err(|error| {
                tracing::error!(%error, "a message broke off while it was sent");
                Broken
            })?;
            if piece.is_empty() {
                return Err(Broken);
            }
            wire.outbox.push(&piece);
            range.start += piece.len() as u64;
        }
        Ok(())
    }

    pub(super) async fn summary(&self, mailbox: MailboxId, uid: Uid) -> Result<Summary, Error> {
        let bytes = self.store.summary(self.account, mailbox, uid).await?;
        Summary::decode(&bytes).map_err(|_| undecodable(mailbox, uid))
    }
}

fn view(summary: &[u8], mailbox: MailboxId, uid: Uid) -> Result<Summary<&[u8]>, Error> {
    Summary::view(summary).map_err(|_| undecodable(mailbox, uid))
}

fn undecodable(mailbox: MailboxId, uid: Uid) -> Error {
    let place = format!("UID {} of mailbox {}", uid.0, mailbox.0);
    Error::Corrupt { what: "summary", place }
}

/// A message as the client names it.
struct Named {
    sequence: u32,
    uid: u32,
    recent: bool,
}

struct Loaded {
    entry: MessageEntry,
    /// As the store keeps it.
    summary: Option<Bytes>,
    source: Source,
}

/// What has become of a FETCH so far.
#[derive(Default)]
struct Sent {
    told: Vec<(u32, u64)>,
    worst: Option<Error>,
    /// See [`breathe`].
    breath: u32,
}

/// What became of a response.
struct Written {
    /// The client now knows the flags of this UID as of this MODSEQ.
    told: Option<(u32, u64)>,
    worst: Option<Error>,
}

enum SectionBytes {
    Nowhere,
    Here(Bytes),
    /// More than fits in one piece.
    Streamed {
        first: Bytes,
        range: Range<u64>,
    },
}

/// A message, and what is held of it: bytes from `start` on.
struct Source {
    mailbox: MailboxId,
    entry: MessageEntry,
    several: bool,
    start: u64,
    window: Bytes,
}

fn sections(items: &[FetchItem]) -> impl Iterator<Item = &FetchSection> {
    items.iter().filter_map(|item| match item {
        FetchItem::Section(section) => Some(section),
        _ => None,
    })
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("part of a message in memory")
}

/// Messages that were named by number and are gone.
pub(super) const GONE: Completion =
    Completion::No(Some(Code::ExpungeIssued), "Some messages are gone");
