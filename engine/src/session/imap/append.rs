//! APPEND: a message on its way in. RFC 3501 section 6.3.11, RFC 4315.
//!
//! At most [`MEMORY_BYTES_MAX`] of it are held: beyond that it streams into the log while it comes.
//! The summary is worked out on the way.

use super::account::{ImapAccount, refusal};
use bytes::Bytes;
use protocols::imap::command::Append;
use protocols::imap::{Code, Completion};
use protocols::message::SummaryBuilder;
use std::time::{SystemTime, UNIX_EPOCH};
use storage::device::Device;
use storage::store::BodyWriter;
use storage::{Body, Delivery, Error, Flags, MailboxId, Placement, Store, UnixMillis};

/// What a session holds of a message.
const MEMORY_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Incoming<D: Device> {
    mailbox: MailboxId,
    append: Append,
    scanner: SummaryBuilder,
    whole: Vec<u8>,
    writer: Option<BodyWriter<D>>,
    /// The first thing that went wrong; told at the end, when the client listens.
    failed: Option<Error>,
}

impl<D: Device> Incoming<D> {
    async fn push(&mut self, piece: &[u8], store: &Store<D>) -> Result<(), Error> {
        self.scanner.push(piece);
        self.whole.extend_from_slice(piece);
        if self.whole.len() <= MEMORY_BYTES_MAX {
            return Ok(());
        }
        if self.writer.is_none() {
            self.writer = Some(store.body_writer()?);
        }
        match &mut self.writer {
            Some(writer) => writer.push(Bytes::from(std::mem::take(&mut self.whole))).await,
            None => Ok(()),
        }
    }

    async fn body(whole: Vec<u8>, writer: Option<BodyWriter<D>>) -> Result<Body, Error> {
        let Some(mut writer) = writer else { return Ok(Body::Whole(Bytes::from(whole))) };
        if !whole.is_empty() {
            writer.push(Bytes::from(whole)).await?;
        }
        writer.finish().await.map(Body::Streamed)
    }
}

impl<D: Device> ImapAccount<D> {
    /// Whether the message may come: everything that can be refused early is.
    pub(super) fn append_start(
        &mut self,
        mailbox: &str,
        append: Append,
        bytes: u32,
    ) -> Result<(), Completion> {
        let mailbox = self.destination(mailbox)?;
        let admitted = self.store.admit();
        let quota = admitted.and_then(|()| self.store.check_quota(self.account, u64::from(bytes)));
        quota.map_err(|error| refusal(&error))?;
        let small = usize::try_from(bytes).unwrap_or(usize::MAX).min(MEMORY_BYTES_MAX);
        self.incoming = Some(Incoming {
            mailbox,
            append,
            scanner: SummaryBuilder::new(),
            whole: Vec::with_capacity(small),
            writer: None,
            failed: None,
        });
        Ok(())
    }

    pub(super) async fn append_piece(&mut self, piece: &[u8]) {
        let Some(incoming) = &mut self.incoming else { return };
        if incoming.failed.is_some() {
            return; // the rest is swallowed
        }
        if let Err(error) = incoming.push(piece, &self.store).await {
            incoming.whole = Vec::new();
            incoming.writer = None;
            incoming.failed = Some(error);
        }
    }

    pub(super) async fn append_end(&mut self) -> Completion {
        let Some(incoming) = self.incoming.take() else {
            return Completion::No(Some(Code::ServerBug), "The message was lost on the way");
        };
        match self.deliver(incoming).await {
            Ok(completion) => completion,
            Err(Error::NoSuchMailbox(_)) => {
                Completion::No(Some(Code::TryCreate), "There is no such mailbox; create it")
            }
            Err(error) => refusal(&error),
        }
    }

    async fn deliver(&self, incoming: Incoming<D>) -> Result<Completion, Error> {
        let Incoming { mailbox, append, scanner, whole, writer, failed } = incoming;
        if let Some(error) = failed {
            return Err(error);
        }
        let placement = Placement {
            account: self.account,
            mailbox,
            prefix: Vec::new(),
            flags: Flags(append.flags.system.0),
            keywords: append.flags.keywords,
        };
        let delivery = Delivery {
            placements: vec![placement],
            internal_date: append.unix_millis.map_or_else(now, UnixMillis),
            summary: scanner.finish().encode(),
            body: Incoming::body(whole, writer).await?,
        };
        let (placed, _durable) = self.store.deliver(delivery).await?;
        let code = placed
            .first()
            .map(|placed| Code::AppendUid { uid_validity: placed.uid_validity, uid: placed.uid.0 });
        Ok(Completion::Ok(code, "Kept"))
    }
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
