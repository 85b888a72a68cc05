//! SEARCH: each message is loaded no further than its keys need.

use super::account::{ImapAccount, breathe, refusal};
use crate::wire::Wire;
use protocols::imap::flags::FlagBits;
use protocols::imap::search::{
    Candidate, HeaderText, Level, SearchCommand, Verdict, body_texts, write_result,
};
use protocols::imap::{Completion, Imap};
use protocols::message::Summary;
use protocols::message::date::Day;
use storage::device::Device;
use storage::{Error, MailboxId, MessageEntry};

/// Bytes of a message that a search looks at.
const TEXT_BYTES_MAX: u64 = 8 * 1024 * 1024;
const HEADER_BYTES_MAX: u64 = 256 * 1024;

/// What has been read of the message at hand.
#[derive(Default)]
struct Loaded {
    summary: Option<Summary>,
    header: Option<HeaderText>,
    text: Option<Vec<String>>,
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
        let mut found = Vec::new();
        let mut breath = 0;
        for position in view.all().positions() {
            let Some((sequence, uid)) = view.message(position) else { continue };
            let entry = match self.store.entry(self.account, mailbox, storage::Uid(uid)) {
                Ok(entry) => entry,
                Err(Error::NoSuchMessage(_)) => continue,
                Err(error) => return Err(error),
            };
            let recent = view.is_recent(uid);
            if self.matches(mailbox, search, &entry, sequence, recent, &keywords).await? {
                found.push(if by_uid { uid } else { sequence });
            }
            breathe(&mut breath).await;
        }
        Ok(found)
    }

    async fn matches(
        &self,
        mailbox: MailboxId,
        search: &SearchCommand,
        entry: &MessageEntry,
        sequence: u32,
        recent: bool,
        keywords: &[String],
    ) -> Result<bool, Error> {
        let mut loaded = Loaded::default();
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
            };
            let level = match search.key.decide(&candidate) {
                Verdict::Yes => return Ok(true),
                Verdict::No => return Ok(false),
                Verdict::Needs(level) => level,
            };
            match self.load_level(mailbox, entry, level, &mut loaded).await {
                Ok(()) => {}
                // One bad message spoils itself alone: it is not found.
                Err(Error::NoSuchMessage(_) | Error::Corrupt { .. }) => return Ok(false),
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
            Level::Header => {
                let end = prefix + u64::from(summary.header_bytes());
                let header = read(0..end.min(HEADER_BYTES_MAX)).await?;
                loaded.header = Some(HeaderText::of(&header));
            }
            Level::Text => {
                let end = u64::from(entry.bytes).min(prefix + TEXT_BYTES_MAX);
                let body = read(prefix..end).await?;
                loaded.text = Some(body_texts(summary, &body));
            }
        }
        Ok(())
    }
}
