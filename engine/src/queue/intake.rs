//! A message for other hosts, on its way into the queue of this core.
//!
//! Up to the session's buffer it is one record. A larger one streams into the log while it
//! arrives, so that a session never holds more. What RFC 6409 section 8 has us add goes in front:
//! a `Date` and a `Message-ID` where there is none. Whether it needs 8BITMIME or SMTPUTF8 on its
//! way is found out by looking: clients declare both out of habit, and a server without them
//! could not have it.
//!
//! What leaves in the name of a domain of ours is signed (DKIM) before it is recorded, once for all
//! tries and recipients. The signatures are the record's prefix, so they need not be known before
//! the body; they are made on the blocking pool.

use super::author::{self, Author, Signer};
use super::message::Envelope;
use super::{ACCOUNT, HELD, MAILBOX};
use crate::auth::results;
use crate::delivery::{Judged, Trace, unix_millis};
use crate::domain::sealing;
use crate::domain::signing::{Digest, Signing, authors};
use crate::metrics::count;
use crate::operations::unix_now;
use crate::relay::srs;
use crate::scan::session::Scan;
use crate::scan::verdict::Findings;
use crate::shard::{Disk, Shard};
use crate::submission::suspects::{self, Suspected};
use crate::submission::waiting;
use bytes::Bytes;
use protocols::Address;
use protocols::message::date::field_text;
use protocols::message::field::{self, Fields};
use protocols::message::scanner::Scanner;
use std::rc::Rc;
use std::sync::Arc;
use storage::{Body, BodyWriter, Delivery, Durable, Error, Flags, Placement, Room, UnixMillis};

#[derive(Debug)]
pub struct Submission {
    shard: Rc<Shard>,
    envelope: Envelope,
    author: Author,
    /// Our own trace fields.
    head: String,
    buffer: Vec<u8>,
    /// Of a message that has outgrown the buffer.
    writer: Option<BodyWriter<Disk>>,
    /// Of such a message, if it is to be signed.
    signing: Option<Box<(Signing, Signer)>>,
    /// The end of the message, or all of it, once it is complete and others look at it.
    sealed: Option<Bytes>,
    /// Those of its octets that we have put in front.
    own_octets: usize,
    /// And the outline of what has come, for it.
    scan: Option<(Scan, Scanner)>,
    octets: u64,
    /// Fields above all others.
    above: String,
    /// What is sealed of a stranger's, and with whose keys.
    sealer: Option<Signer>,
    found: Option<Arc<sealing::Found>>,
    /// What has been looked at of the header.
    seen: Seen,
    /// What is kept for its end and its record.
    room: Option<Room>,
}

/// Of an envelope, and of what stands in front of the message: signatures, a seal.
const RECORD_BYTES: usize = 8 * 1024;
const RECIPIENT_BYTES: usize = 512;

#[derive(Debug, Default)]
struct Seen {
    received: usize,
    is_header_ascii: bool,
    /// Those in `From`, of an account's message.
    authors: Vec<String>,
}

impl Submission {
    pub fn new(shard: &Rc<Shard>, author: Author, envelope: Envelope, head: String) -> Submission {
        Submission {
            shard: Rc::clone(shard),
            envelope,
            author,
            head,
            buffer: Vec::new(),
            writer: None,
            signing: None,
            sealed: None,
            own_octets: 0,
            scan: None,
            octets: 0,
            above: String::new(),
            sealer: None,
            found: None,
            seen: Seen::default(),
            room: None,
        }
    }

    /// It will be scanned, where messages are: nobody at home gets it, so nobody else looks at it.
    pub fn scanned(mut self) -> Submission {
        self.scan = Scan::begin(&self.shard).map(|scan| (scan, Scanner::new()));
        self
    }

    /// A stranger's message that was for this address of ours is sealed by its domain.
    pub fn sealed_by(mut self, through: &Address) -> Submission {
        if self.shard.config.auth.arc_seal && self.author == Author::Stranger {
            let domain = srs::domain_of(through);
            let keys = self.shard.directory.borrow().dkim(&domain).cloned();
            self.sealer = keys.map(|keys| (domain, keys));
        }
        self
    }

    /// What was found out about a message that is passed on goes in front of it. Who is named as
    /// the sender of junk is likely somebody else, and not told what becomes of it.
    pub fn judged(mut self, fields: String, judged: &Judged) -> Submission {
        self.above = fields;
        self.found = judged.found.clone();
        if judged.filing.is_junk {
            let recipients = self.envelope.recipients.iter_mut();
            recipients.for_each(|one| one.notify = Some(String::new()));
        }
        self
    }

    pub async fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        if let Some((_, scanner)) = &mut self.scan {
            scanner.push(piece);
        }
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() >= self.shard.knobs.session_buffer_bytes() {
            self.spill().await?;
        }
        Ok(())
    }

    async fn spill(&mut self) -> Result<(), Error> {
        let (piece, own) = self.take();
        if self.writer.is_none() {
            self.signing = self.begin_signing(&piece);
        } else if let Some(signing) = &mut self.signing {
            signing.0.push(&piece);
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(self.shard.store.body_writer()?),
        };
        writer.push(piece.clone()).await?;
        if let Some((scan, _)) = &mut self.scan {
            scan.push(piece.slice(own..)).await;
        }
        Ok(())
    }

    /// What is buffered; the first time, behind what we put in front: so many octets.
    fn take(&mut self) -> (Bytes, usize) {
        let mut piece = std::mem::take(&mut self.buffer);
        self.envelope.eight_bit |= !piece.is_ascii();
        let is_first = self.octets == 0;
        if is_first {
            let is_account = self.author == Author::Account;
            self.seen = Seen {
                received: Trace::read(&piece).received,
                is_header_ascii: field::header(&piece).is_ascii(),
                // More than anybody has are somebody else.
                authors: match is_account.then(|| authors(&piece)) {
                    Some(found) => found.unwrap_or_else(|| vec![String::new()]),
                    None => Vec::new(),
                },
            };
            self.envelope.tls_optional = says_tls_optional(&piece);
        }
        let is_passed_on = self.author == Author::Stranger && !self.head.is_empty();
        if is_passed_on {
            results::disarm(&mut piece, &self.shard.config.hostname);
        }
        let own = match std::mem::take(&mut self.head) {
            head if head.is_empty() || is_passed_on => head,
            head => head + &missing_fields(&piece, &self.envelope.id, &self.shard.config.hostname),
        };
        self.envelope.eight_bit |= !own.is_ascii();
        let piece =
            if own.is_empty() { piece } else { [own.as_bytes(), piece.as_slice()].concat() };
        self.octets += piece.len() as u64;
        (Bytes::from(piece), own.len())
    }

    /// The message is complete: the rest of it, without our own fields.
    fn seal(&mut self) -> Bytes {
        if self.sealed.is_none() {
            let (rest, own) = self.take();
            (self.sealed, self.own_octets) = (Some(rest), own);
        }
        self.sealed.as_ref().map(|sealed| sealed.slice(self.own_octets..)).unwrap_or_default()
    }

    /// Of a complete message of an account: whom it names in `From` who is somebody else.
    pub fn claimed(&mut self) -> Vec<String> {
        if self.author != Author::Account {
            return Vec::new();
        }
        if self.sealed.is_none() {
            self.seal();
        }
        let user = self.envelope.account.as_deref().unwrap_or_default();
        let authors = std::mem::take(&mut self.seen.authors);
        author::others(&self.shard.directory.borrow(), user, authors)
    }

    /// It waits for its release if there is a reason.
    pub fn hold(&mut self, held: Option<Suspected>) {
        if let Some(Suspected { why, number }) = held.filter(|_| self.envelope.suspected.is_none())
        {
            (self.envelope.suspected, self.envelope.suspicion) = (Some(why), number);
        }
    }

    /// How many servers the complete message has passed before us.
    pub fn received(&mut self) -> usize {
        if self.sealed.is_none() {
            self.seal();
        }
        self.seen.received
    }

    /// Of a complete message that does not leave at once, since its sender or the operator is to
    /// say when: whose it is, and its octets.
    pub fn waits(&mut self) -> Option<(String, u64)> {
        if !self.envelope.waits() {
            return None;
        }
        if self.sealed.is_none() {
            self.seal();
        }
        Some((self.envelope.account.clone()?, self.octets))
    }

    /// What is found in the complete message, where it is scanned. Before anything
    /// else is asked of it.
    pub async fn findings(&mut self) -> Result<Option<Findings>, Error> {
        let Some((mut scan, scanner)) = self.scan.take() else { return Ok(None) };
        let outline = Arc::new(scanner.finish());
        let rest = self.seal();
        if self.writer.is_none() {
            scan.complete(Some(rest), outline).await;
        } else {
            if !rest.is_empty() {
                scan.push(rest).await;
            }
            scan.complete(None, outline).await;
        }
        Ok(Some(scan.findings(None).await))
    }

    /// Of a complete message that others get by the same answer: none of them may have it unless
    /// there is room for this copy.
    pub fn keep_room(&mut self) -> Result<(), Error> {
        if self.sealed.is_none() {
            self.seal();
        }
        let held = self.writer.as_ref().map_or(0, BodyWriter::held_bytes);
        let rest = held + self.sealed.as_ref().map_or(0, Bytes::len);
        let record = RECORD_BYTES + RECIPIENT_BYTES * self.envelope.recipients.len();
        self.room = Some(self.shard.store.keep_room(rest + record)?);
        Ok(())
    }

    /// The receipt comes once the message and its envelope are durable.
    pub async fn finish(mut self) -> Result<Durable, Error> {
        let store = self.shard.store.within(self.room.take());
        let rest = match self.sealed.take() {
            Some(sealed) => sealed,
            None => self.take().0,
        };
        // In a box of its own, which sessions need not have room for while they do something else.
        let signatures = Box::pin(self.signatures(&rest)).await;
        let prefix = [std::mem::take(&mut self.above).into_bytes(), signatures].concat();
        let body = match self.writer.take() {
            None => Body::Whole(rest),
            Some(writer) => {
                let mut writer = writer.within(&store);
                writer.push(rest).await?;
                Body::Streamed(writer.finish().await?)
            }
        };
        let mut names = self.envelope.recipients.iter().map(|one| &one.to);
        let is_named_in_ascii = names.all(|to| to.is_ascii())
            && self.envelope.sender.as_ref().is_none_or(|s| s.is_ascii());
        self.envelope.smtp_utf8 &= !(is_named_in_ascii && self.seen.is_header_ascii);
        self.envelope.octets = self.octets + prefix.len() as u64;
        let fresh = match &body {
            Body::Whole(body) if prefix.is_empty() => Some(body.clone()),
            Body::Whole(body) => Some([&prefix[..], body].concat().into()),
            Body::Streamed(_) => None,
        };
        let is_held = self.envelope.suspected.is_some();
        let placement = Placement {
            account: ACCOUNT,
            mailbox: MAILBOX,
            prefix,
            flags: if is_held { HELD } else { Flags::default() },
            keywords: Vec::new(),
        };
        let summary = self.envelope.encode();
        let summary_bytes = summary.len();
        let placements = vec![placement];
        let release_at = self.envelope.release_at.map(|at| UnixMillis(at * 1000));
        let internal_date = release_at.unwrap_or_else(unix_millis);
        let delivery = Delivery { placements, internal_date, summary, body };
        let (placed, durable) = store.deliver(delivery).await?;
        let queue = &self.shard.queue;
        count(&queue.counts.queued);
        if is_held {
            self.shard.metrics.submission.held();
        }
        let next = (!is_held).then(|| self.envelope.due());
        let suspected = self.envelope.account.clone().filter(|_| is_held);
        let suspicion = self.envelope.suspicion;
        // What does not leave at once would be in others' way.
        let leaves = !self.envelope.waits();
        if !leaves && let Some(placed) = placed.first() {
            waiting::note(&self.shard, &self.envelope, placed.uid);
        }
        if let (Some(octets), Some(placed)) = (fresh.filter(|_| leaves), placed.first()) {
            queue.fresh.keep(placed.uid, self.envelope, summary_bytes, octets);
        }
        for placed in &placed {
            queue.found(placed.uid, next);
            if let Some(account) = &suspected {
                suspects::look_again(&self.shard, account, suspicion, placed.uid);
            }
        }
        Ok(durable)
    }

    fn signer(&self, message: &[u8]) -> Option<Signer> {
        if self.author == Author::Stranger {
            return self.sealer.clone();
        }
        self.author.signer(&self.shard.directory.borrow(), &self.envelope, message)
    }

    /// Of the message whose end, or all of it, is `rest`.
    async fn signatures(&mut self, rest: &Bytes) -> Vec<u8> {
        match self.signing.take() {
            Some(begun) => {
                let (mut signing, signer) = *begun;
                signing.push(rest);
                self.sign(signer, move || signing.finish()).await
            }
            None if self.writer.is_none() => {
                let Some(signer) = self.signer(rest) else { return Vec::new() };
                let message = rest.clone();
                self.sign(signer, move || Digest::of(&message)).await
            }
            None => Vec::new(),
        }
    }

    fn begin_signing(&self, first: &[u8]) -> Option<Box<(Signing, Signer)>> {
        let signer = self.signer(first)?;
        let signing = Signing::begin(first);
        if signing.is_none() {
            let id = &self.envelope.id;
            tracing::warn!(id, "not signed: its header does not fit the session's buffer");
        }
        Some(Box::new((signing?, signer)))
    }

    /// Off the core. What can't be signed leaves without: its recipients may know us
    /// by our address.
    async fn sign(
        &self,
        (domain, keys): Signer,
        digest: impl FnOnce() -> Digest + Send + 'static,
    ) -> Vec<u8> {
        let is_ours = self.author != Author::Stranger;
        let found = self.found.clone().filter(|_| !is_ours);
        let signing = move || match found {
            Some(found) => digest().seal(&found, &domain, &keys, unix_now()),
            None if is_ours => digest().sign(&domain, &keys, unix_now()),
            None => Ok(Vec::new()),
        };
        match glommio::executor().spawn_blocking(signing).await {
            Ok(signatures) => {
                if is_ours {
                    count(&self.shard.queue.counts.signed);
                }
                signatures
            }
            Err(error) => {
                let id = &self.envelope.id;
                tracing::error!(id, %error, "a message leaves without a signature");
                Vec::new()
            }
        }
    }
}

/// RFC 8689 section 3.
fn says_tls_optional(message: &[u8]) -> bool {
    Fields::new(message)
        .filter(|field| field.is("TLS-Required"))
        .any(|field| field.value.trim_ascii().eq_ignore_ascii_case(b"no"))
}

fn missing_fields(message: &[u8], id: &str, hostname: &str) -> String {
    let has = |name: &str| Fields::new(message).any(|field| field.is(name));
    let mut fields = String::new();
    if !has("Date") {
        fields += &format!("Date: {}\r\n", field_text(unix_millis().0));
    }
    if !has("Message-ID") {
        fields += &format!("Message-ID: <{id}@{hostname}>\r\n");
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::{missing_fields, says_tls_optional};

    #[test]
    fn only_no_makes_tls_optional() {
        assert!(says_tls_optional(b"A: b\r\nTLS-required:  NO \r\n\r\n"));
        assert!(!says_tls_optional(b"TLS-Required: yes\r\n\r\nTLS-Required: No\r\n"));
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let both = "Date: x\r\nMessage-Id: <a@b>\r\n\r\nDate";
        assert_eq!(missing_fields(both.as_bytes(), "0.1", "h.test"), "");
        let none = missing_fields(b"Subject: x\r\n\r\nDate: x\r\n", "0.1", "h.test");
        assert!(none.starts_with("Date: ") && none.ends_with("\r\nMessage-ID: <0.1@h.test>\r\n"));
    }
}
