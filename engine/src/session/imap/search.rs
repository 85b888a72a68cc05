//! SEARCH: each message is loaded no further than its keys need.

use super::account::{ImapAccount, breathe_after, refusal};
use super::ahead::Ahead;
use super::fetch::{LOADING_MAX, LONG_ITEM};
use crate::core::give_way;
use crate::wire::Wire;
use protocols::imap::flags::FlagBits;
use protocols::imap::search::{
    Candidate, HeaderText, Level, Looked, SearchCommand, Verdict, source_texts, text_sources,
    write_result,
};
use protocols::imap::{Completion, Imap};
use protocols::message::Summary;
use protocols::message::date::Day;
use storage::device::Device;
use storage::{Error, MailboxId, MessageEntry, Uid};

/// Bytes of a message's text that a search looks at. What is no text is not even read.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;
const HEADER_BYTES_MAX: u64 = 256 * 1024;

/// What has been read of the message at hand.
#[derive(Default)]
struct Loaded {
    summary: Option<Summary>,
    header: Option<HeaderText>,
    text: Option<Vec<String>>,
    looked: Looked,
}

impl<D: Device> ImapAccount<D> {
    pub(super) async fn search(
        &mut self,
        machine: &Imap,
        search: &SearchCommand,
        by_uid: bool,
        wire: &mut Wire<'_>,
    ) -> Completion {
        let mailbox = match self.here() {
            Ok(mailbox) => mailbox,
            Err(completion) => return completion,
        };
        match self.find(machine, mailbox, search, by_uid).await {
            Ok(found) => {
                let out = wire.outbox.buffer();
                write_result(out, machine.tag(), by_uid, search.options, &found);
                Completion::Ok(None, "Searched")
            }
            Err(error) => refusal(&error),
        }
    }

    async fn find(
        &self,
        machine: &Imap,
        mailbox: MailboxId,
        search: &SearchCommand,
        by_uid: bool,
    ) -> Result<Vec<u32>, Error> {
        let Some(view) = machine.view() else { return Ok(Vec::new()) };
        let keywords = self.store.mailbox(self.account, mailbox)?.keywords;
        let keywords = keywords.as_slice();
        let all = view.all();
        let named = all.positions().filter_map(|at| view.message(at));
        let decisions = named.map(async |(sequence, uid)| {
            let entry = match self.store.entry(self.account, mailbox, Uid(uid)) {
                Ok(entry) => entry,
                Err(Error::NoSuchMessage(_)) => return Ok((None, 1)),
                Err(error) => return Err(error),
            };
            let recent = view.is_recent(uid);
            let (matched, weight) =
                self.matches(mailbox, search, &entry, sequence, recent, keywords).await?;
            Ok((matched.then_some(if by_uid { uid } else { sequence }), weight))
        });
        let mut deciding = Ahead::new(decisions, LOADING_MAX);
        let mut found = Vec::new();
        let mut breath = 0;
        while let Some(decided) = deciding.next().await {
            let (matched, weight) = decided?;
            found.extend(matched);
            breathe_after(&mut breath, weight).await;
        }
        Ok(found)
    }

    /// Whether the message is found, and as how many messages its decision counts for a breath.
    async fn matches(
        &self,
        mailbox: MailboxId,
        search: &SearchCommand,
        entry: &MessageEntry,
        sequence: u32,
        recent: bool,
        keywords: &[String],
    ) -> Result<(bool, u32), Error> {
        let mut loaded = Loaded::default();
        let mut weight = 1;
        loop {
            let candidate = Candidate {
                sequence,
                uid: entry.uid.0,
                flags: FlagBits(entry.flags.0),
                keywords,
                recent,
                internal_day: Day::of_unix_millis(entry.internal_date.0),
                bytes: entry.bytes,
                summary: loaded.summary.as_ref(),
                header: loaded.header.as_ref(),
                text: loaded.text.as_deref(),
                looked: &loaded.looked,
            };
            let level = match search.key.decide(&candidate) {
                Verdict::Yes => return Ok((true, weight)),
                Verdict::No => return Ok((false, weight)),
                Verdict::Needs(level) => level,
            };
            weight = LONG_ITEM;
            match self.load_level(mailbox, entry, level, &mut loaded).await {
                Ok(()) => {}
                // One bad message spoils itself alone: it is not found.
                Err(Error::NoSuchMessage(_) | Error::Corrupt { .. } | Error::Read { .. }) => {
                    return Ok((false, weight));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn load_level(
        &self,
        mailbox: MailboxId,
        entry: &MessageEntry,
        level: Level,
        loaded: &mut Loaded,
    ) -> Result<(), Error> {
        if loaded.summary.is_none() {
            loaded.summary = Some(self.summary(mailbox, entry.uid).await?);
        }
        let Some(summary) = &loaded.summary else { return Ok(()) };
        let prefix = u64::from(entry.prefix_bytes);
        let read = |range| self.store.read(self.account, mailbox, entry.uid, range);
        match level {
            Level::Summary => {}
            Level::Pause => {
                give_way().await;
                loaded.looked.rested();
            }
            Level::Header => {
                let end = prefix + u64::from(summary.header_bytes());
                let header = read(0..end.min(HEADER_BYTES_MAX)).await?;
                loaded.header = Some(HeaderText::of(&header));
                // Decoding takes its time, and so do the messages beside this one.
                give_way().await;
            }
            Level::Text => {
                let mut texts = Vec::new();
                let mut left = TEXT_BYTES_MAX;
                for source in text_sources(summary) {
                    let start = prefix + u64::from(source.span.start);
                    let bytes = u64::from(source.span.bytes()).min(left);
                    left -= bytes;
                    if bytes > 0 {
                        let text = read(start..start + bytes).await?;
                        texts.extend(source_texts(summary, source, &text));
                        give_way().await;
                    }
                }
                loaded.text = Some(texts);
            }
        }
        Ok(())
    }
}
