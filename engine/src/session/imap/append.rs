//! APPEND: a message on its way in. RFC 3501 section 6.3.11, RFC 4315.
//!
//! At most [`MEMORY_BYTES_MAX`] of it are held: beyond that it streams into the log while it comes.
//! The summary is worked out on the way, and so is the scan, where messages are scanned
//! (`scan.append`): a client with a stolen password must not put into a mailbox what nobody could
//! have sent to it. What is let in is filed where its owner says and left as it is: no field is
//! written into it, and nothing of it goes into Junk or quarantine by itself.

use super::account::{ImapAccount, refusal};
use crate::NOTICE;
use crate::scan::session::Scan;
use crate::scan::settings::{self, Action};
use crate::scan::verdict::{Findings, Outcome};
use bytes::Bytes;
use protocols::imap::command::Append;
use protocols::imap::{Code, Completion};
use protocols::message::{Summary, SummaryBuilder};
use std::sync::Arc;
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
    scan: Option<Scan>,
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
        self.flush().await
    }

    /// Hands over what is held of a message that streams.
    async fn flush(&mut self) -> Result<(), Error> {
        let piece = Bytes::from(std::mem::take(&mut self.whole));
        if piece.is_empty() {
            return Ok(());
        }
        if let Some(scan) = &mut self.scan {
            scan.push(piece.clone()).await;
        }
        match &mut self.writer {
            Some(writer) => writer.push(piece).await,
            None => Ok(()),
        }
    }

    /// The message is complete: its body, its summary, and what the scan has found.
    async fn finish(mut self) -> Result<(Body, Arc<Summary>, Option<Findings>), Error> {
        if self.writer.is_some() {
            self.flush().await?;
        }
        let whole = self.writer.is_none().then(|| Bytes::from(self.whole));
        let summary = Arc::new(self.scanner.finish());
        let found = match self.scan {
            Some(mut scan) => {
                scan.complete(whole.clone(), Arc::clone(&summary)).await;
                Some(scan.findings(None).await)
            }
            None => None,
        };
        let body = match (self.writer, whole) {
            (Some(writer), _) => Body::Streamed(writer.finish().await?),
            (None, whole) => Body::Whole(whole.unwrap_or_default()),
        };
        Ok((body, summary, found))
    }
}

/// Why what was found keeps a message out; `None`: it comes in. What the operator wants in Junk is
/// its owner's to file.
fn objection(found: &Findings, scan: &settings::Scan) -> Option<Completion> {
    let (code, text) = match found.action(scan).0 {
        Action::Mark | Action::Junk => return None,
        Action::Defer => {
            (Code::Unavailable, "The message can't be scanned for viruses now, try again later")
        }
        Action::Reject | Action::Quarantine => {
            let outcome = found.clamav.as_ref().map(|clamav| &clamav.outcome);
            let attached = found.attachments.worst(&scan.attachments).map(|(action, _)| action);
            match outcome {
                Some(Outcome::Found(_)) if scan.found >= Action::Quarantine => {
                    (Code::Cannot, "Refused: the message holds a virus")
                }
                _ if attached >= Some(Action::Quarantine) => {
                    (Code::Cannot, "Refused: the message brings a dangerous attachment")
                }
                Some(Outcome::TooLarge) => {
                    (Code::Limit, "Refused: too large to be scanned for viruses")
                }
                // It may come in when a scanner is back.
                Some(_) | None => (
                    Code::Unavailable,
                    "The message can't be scanned for viruses now, try again later",
                ),
            }
        }
    };
    Some(Completion::No(Some(code), text))
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
            scan: self.scanning.as_ref().and_then(Scan::begin),
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
            incoming.scan = None;
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

    async fn deliver(&self, mut incoming: Incoming<D>) -> Result<Completion, Error> {
        if let Some(error) = incoming.failed.take() {
            return Err(error);
        }
        let (mailbox, append) = (incoming.mailbox, incoming.append.clone());
        let (body, summary, found) = incoming.finish().await?;
        if let (Some(found), Some(shard)) = (&found, &self.scanning)
            && let Some(objection) = objection(found, &shard.config.scan)
        {
            let scan = found.brief().unwrap_or_default();
            tracing::info!(target: NOTICE, account = self.account.0, scan, "APPEND refused");
            return Ok(objection);
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
            summary: summary.encode(),
            body,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::attachments::{Attachments, Finding, Kind, Report};
    use crate::scan::verdict::{Verdict, Version};

    #[test]
    fn what_keeps_an_incoming_message_out_is_told_by_the_hardest_of_what_was_found() {
        let found = |outcome| Findings {
            clamav: Some(Verdict::new(outcome, Version::default())),
            ..Findings::default()
        };
        let virus = found(Outcome::Found("V".to_owned()));
        let down = found(Outcome::Unknown("down".to_owned()));
        let large = found(Outcome::TooLarge);
        let attached = Findings {
            attachments: Report {
                findings: vec![Finding { kind: Kind::Executable, name: "a.exe".to_owned() }],
                ..Report::default()
            },
            ..found(Outcome::Clean)
        };
        let code = |found: &Findings, scan: &settings::Scan| match objection(found, scan) {
            Some(Completion::No(code, _)) => code,
            _ => None,
        };
        let scan = settings::Scan::default();
        assert_eq!(code(&virus, &scan), Some(Code::Cannot));
        assert_eq!(code(&down, &scan), Some(Code::Unavailable));
        assert_eq!(code(&large, &scan), None);
        assert_eq!(code(&attached, &scan), None);
        let hard = settings::Scan {
            found: Action::Quarantine,
            when_down: Action::Quarantine,
            too_large: Action::Reject,
            attachments: Attachments {
                actions: [(Kind::Executable, Action::Quarantine)].into(),
                ..Attachments::default()
            },
            ..settings::Scan::default()
        };
        assert_eq!(code(&virus, &hard), Some(Code::Cannot));
        assert_eq!(code(&down, &hard), Some(Code::Unavailable));
        assert_eq!(code(&large, &hard), Some(Code::Limit));
        assert_eq!(code(&attached, &hard), Some(Code::Cannot));
        let soft = settings::Scan { found: Action::Junk, when_down: Action::Mark, ..hard };
        assert_eq!(objection(&virus, &soft), None, "its owner files it");
        assert_eq!(objection(&down, &soft), None);
    }
}
