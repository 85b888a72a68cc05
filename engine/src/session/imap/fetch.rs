//! FETCH: from the index, the summary and byte ranges to response lines.
//!
//! Large sections stream in pieces; a response is begun only when its first piece has been read, so
//! that a message that can't be read costs a NO and not the connection.

use super::account::{Broken, ImapAccount, breathe, refusal};
use crate::wire::Wire;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use protocols::imap::fetch::{FetchItem, FetchSection, Located, Response, SectionText};
use protocols::imap::flags::FlagBits;
use protocols::imap::{Code, Completion, Imap, Targets};
use protocols::message::{Summary, field};
use std::collections::HashMap;
use std::ops::Range;
use std::pin::pin;
use storage::device::Device;
use storage::{Error, FlagChange, FlagMode, Flags, MailboxId, MessageEntry, Uid};

/// A message up to this is read in one go.
const PIECE_BYTES: u64 = 64 * 1024;
/// Messages that are read ahead, each at most a piece for each section: one read at a time would
/// leave the disk idle between them.
pub(super) const LOADING_MAX: usize = 16;
/// Bytes of a header that fields are picked from.
const HEADER_BYTES_MAX: u64 = 1024 * 1024;

/// What all messages of one FETCH share.
struct Asked<'a> {
    mailbox: MailboxId,
    items: &'a [FetchItem],
    by_uid: bool,
    keywords: &'a [String],
    /// Messages that this FETCH has marked as seen.
    newly_seen: HashMap<u32, MessageEntry>,
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
        let asked = Asked { mailbox, items, by_uid, keywords: &keywords, newly_seen };
        let (told, worst) = self.send(machine, targets, &asked, wire).await?;
        told.into_iter().for_each(|(uid, modseq)| machine.note_told(uid, modseq));
        Ok(match worst {
            None => Completion::Ok(None, "Fetched"),
            Some(error) => refusal(&error),
        })
    }

    /// Reads ahead and writes in order. Tells as of which MODSEQ the client now knows which message's
    /// flags, and the last thing that went wrong.
    async fn send(
        &self,
        machine: &Imap,
        targets: &Targets,
        asked: &Asked<'_>,
        wire: &mut Wire<'_>,
    ) -> Result<(Vec<(u32, u64)>, Option<Error>), Broken> {
        let Some(view) = machine.view() else { return Ok((Vec::new(), None)) };
        let named = targets.positions().filter_map(|at| view.message(at));
        let mut loading = pin!(
            stream::iter(named)
                .map(|(sequence, uid)| async move { (sequence, uid, self.load(asked, uid).await) })
                .buffered(LOADING_MAX)
        );
        let mut told = Vec::new();
        let mut worst = None;
        let mut breath = 0;
        while let Some((sequence, uid, loaded)) = loading.next().await {
            match loaded {
                Ok(loaded) => {
                    let message = Named { sequence, uid, recent: view.is_recent(uid) };
                    told.extend(self.write_one(asked, &message, loaded, wire).await?);
                }
                // One that another session removed; by UID it is as if it had never been.
                Err(Error::NoSuchMessage(_)) if asked.by_uid => {}
                Err(error) => worst = Some(error),
            }
            wire.relieve().await?;
            breathe(&mut breath).await;
        }
        Ok((told, worst))
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
            let uids =
                self.pick(machine, targets, mailbox, |entry| !entry.flags.contains(Flags::SEEN));
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
    pub(super) fn pick(
        &self,
        machine: &Imap,
        targets: &Targets,
        mailbox: MailboxId,
        wanted: impl Fn(&MessageEntry) -> bool,
    ) -> Vec<Uid> {
        let Some(view) = machine.view() else { return Vec::new() };
        let uids = targets.positions().filter_map(|at| view.message(at)).map(|(_, uid)| Uid(uid));
        let entry = |uid: &Uid| self.store.entry(self.account, mailbox, *uid);
        uids.filter(|uid| entry(uid).is_ok_and(|entry| wanted(&entry))).collect()
    }

    /// Writes one response; tells as of which MODSEQ the client now knows the flags, if it does.
    async fn write_one(
        &self,
        asked: &Asked<'_>,
        message: &Named,
        loaded: Loaded,
        wire: &mut Wire<'_>,
    ) -> Result<Option<(u32, u64)>, Broken> {
        let Named { sequence, uid, recent } = *message;
        let Loaded { entry, summary, sections } = loaded;
        let mut sections = sections.into_iter();
        let mut response = Response::begin(wire.outbox.buffer(), sequence);
        let mut told_uid = false;
        let mut told_flags = false;
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
                FetchItem::Envelope => {
                    if let Some(summary) = &summary {
                        response.envelope(summary);
                    }
                }
                FetchItem::Structure { extended } => {
                    if let Some(summary) = &summary {
                        response.structure(summary, *extended);
                    }
                }
                FetchItem::Section(section) => {
                    match sections.next().unwrap_or(SectionBytes::Nowhere) {
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
                    response = Response::resume(wire.outbox.buffer());
                }
            }
        }
        if asked.by_uid && !told_uid {
            response.uid(uid);
        }
        if asked.newly_seen.contains_key(&uid) && !told_flags {
            response.flags(FlagBits(entry.flags.0), asked.keywords, recent);
            told_flags = true;
        }
        response.end();
        Ok(told_flags.then_some((uid, entry.modseq.0)))
    }

    /// Everything of a message that can fail, before the first byte of its response.
    async fn load(&self, asked: &Asked<'_>, uid: u32) -> Result<Loaded, Error> {
        let (store, account, mailbox) = (&self.store, self.account, asked.mailbox);
        let entry = store.entry(account, mailbox, Uid(uid))?;
        let mut summary = None;
        if asked.items.iter().any(FetchItem::needs_summary) {
            summary = Some(self.summary(mailbox, Uid(uid)).await?);
        }
        let mut sections = Vec::new();
        let mut whole = None;
        let wanted = asked.items.iter().filter_map(|item| match item {
            FetchItem::Section(section) => Some(section),
            _ => None,
        });
        let several = wanted.clone().nth(1).is_some();
        if several && u64::from(entry.bytes) <= PIECE_BYTES {
            whole = Some(store.read(account, mailbox, Uid(uid), 0..PIECE_BYTES).await?);
        }
        for section in wanted {
            let source = Source { mailbox, entry: &entry, whole: whole.as_ref() };
            sections.push(self.section(&source, section, summary.as_ref()).await?);
        }
        Ok(Loaded { entry, summary, sections })
    }

    async fn section(
        &self,
        source: &Source<'_>,
        section: &FetchSection,
        summary: Option<&Summary>,
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

    /// Exactly these bytes of the message.
    async fn bytes(&self, source: &Source<'_>, range: Range<u64>) -> Result<Bytes, Error> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let wanted = range.end - range.start;
        let bytes = match source.whole {
            Some(whole) => {
                let end = (range.end as usize).min(whole.len());
                whole.slice((range.start as usize).min(end)..end)
            }
            None => {
                let uid = source.entry.uid;
                self.store.read(self.account, source.mailbox, uid, range).await?
            }
        };
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        let place = format!("UID {} of mailbox {}", source.entry.uid.0, source.mailbox.0);
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
        Summary::decode(&bytes).map_err(|_| Error::Corrupt {
            what: "summary",
            place: format!("UID {} of mailbox {}", uid.0, mailbox.0),
        })
    }
}

/// A message as the client names it.
struct Named {
    sequence: u32,
    uid: u32,
    recent: bool,
}

struct Loaded {
    entry: MessageEntry,
    summary: Option<Summary>,
    /// In the order of the items that ask for one.
    sections: Vec<SectionBytes>,
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

struct Source<'a> {
    mailbox: MailboxId,
    entry: &'a MessageEntry,
    /// The whole message, when it was read already.
    whole: Option<&'a Bytes>,
}

/// Messages that were named by number and are gone.
pub(super) const GONE: Completion =
    Completion::No(Some(Code::ExpungeIssued), "Some messages are gone");
