//! A message for other hosts, on its way into the queue of this core.
//!
//! Up to the session's buffer it is one record. A larger one streams into the log while it arrives, so that
//! a session never holds more. What RFC 6409 section 8 has us add goes in front: a `Date` and a
//! `Message-ID` where there is none.
//!
//! What leaves in the name of a domain of ours is signed (DKIM) before it is recorded, once for all tries and
//! recipients. The signatures are the record's prefix, so they need not be known before the body; they are
//! made on the blocking pool. [`Author`] says in whose name a message speaks.

use super::message::Envelope;
use super::{ACCOUNT, MAILBOX};
use crate::delivery::unix_millis;
use crate::directory::{self, Directory, Resolution};
use crate::domain::keys::DkimKeys;
use crate::domain::signing::{self, Digest, Signing};
use crate::metrics::count;
use crate::operations::unix_now;
use crate::shard::{Disk, Shard};
use bytes::Bytes;
use protocols::message::date::field_text;
use protocols::message::field::Fields;
use std::rc::Rc;
use std::sync::Arc;
use storage::{Body, BodyWriter, Delivery, Durable, Error, Flags, Placement};

/// Whose words a message is, for signing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// Those of the account that has logged in: signed by the domain in From if that address is the account's, so
    /// that nobody has another's domain vouch for what they write; otherwise by the domain of the sender.
    Account,
    /// Our own, or written by us for a user.
    Ourselves,
    /// Somebody else's, passed on: not signed, and what others have signed still holds.
    Stranger,
}

/// With whose keys a message is signed.
type Signer = (String, Arc<DkimKeys>);

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
    signing: Option<(Signing, Signer)>,
    octets: u64,
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
            octets: 0,
        }
    }

    pub async fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() >= self.shard.knobs.session_buffer_bytes() {
            let piece = self.take();
            if self.writer.is_none() {
                self.signing = self.begin_signing(&piece);
            } else if let Some((signing, _)) = &mut self.signing {
                signing.push(&piece);
            }
            let writer = match &mut self.writer {
                Some(writer) => writer,
                None => self.writer.insert(self.shard.store.body_writer()?),
            };
            writer.push(piece).await?;
        }
        Ok(())
    }

    /// What is buffered; the first time, behind what we put in front.
    fn take(&mut self) -> Bytes {
        let piece = std::mem::take(&mut self.buffer);
        let piece = match std::mem::take(&mut self.head) {
            head if head.is_empty() => piece,
            head => {
                let missing =
                    missing_fields(&piece, &self.envelope.id, &self.shard.config.hostname);
                [head.as_bytes(), missing.as_bytes(), &piece].concat()
            }
        };
        self.octets += piece.len() as u64;
        self.envelope.eight_bit |= !piece.is_ascii();
        Bytes::from(piece)
    }

    /// The receipt comes once the message and its envelope are durable.
    pub async fn finish(mut self) -> Result<Durable, Error> {
        let rest = self.take();
        let (body, prefix) = match self.writer.take() {
            None => {
                let signatures = match self.signer(&rest) {
                    Some(signer) => {
                        let message = rest.clone();
                        self.sign(signer, move || Digest::of(&message)).await
                    }
                    None => Vec::new(),
                };
                (Body::Whole(rest), signatures)
            }
            Some(mut writer) => {
                let mut signing = self.signing.take();
                if let Some((signing, _)) = &mut signing {
                    signing.push(&rest);
                }
                writer.push(rest).await?;
                let body = Body::Streamed(writer.finish().await?);
                let signatures = match signing {
                    Some((signing, signer)) => self.sign(signer, move || signing.finish()).await,
                    None => Vec::new(),
                };
                (body, signatures)
            }
        };
        self.envelope.octets = self.octets + prefix.len() as u64;
        let placement = Placement {
            account: ACCOUNT,
            mailbox: MAILBOX,
            prefix,
            flags: Flags::default(),
            keywords: Vec::new(),
        };
        let delivery = Delivery {
            placements: vec![placement],
            internal_date: unix_millis(),
            summary: self.envelope.encode(),
            body,
        };
        let (placed, durable) = self.shard.store.deliver(delivery).await?;
        let queue = &self.shard.queue;
        count(&queue.counts.queued);
        placed.iter().for_each(|placed| queue.set_due(placed.uid, self.envelope.arrived));
        Ok(durable)
    }

    fn begin_signing(&self, first: &[u8]) -> Option<(Signing, Signer)> {
        let signer = self.signer(first)?;
        let signing = Signing::begin(first);
        if signing.is_none() {
            let id = &self.envelope.id;
            tracing::warn!(id, "not signed: its header does not fit the session's buffer");
        }
        Some((signing?, signer))
    }

    /// Who signs a message that begins like this.
    fn signer(&self, message: &[u8]) -> Option<Signer> {
        if self.author == Author::Stranger {
            return None;
        }
        let directory = self.shard.directory.borrow();
        let authors = signing::authors(message).unwrap_or_default();
        let candidates = match self.author {
            Author::Account => names_of_account(&directory, &self.envelope, &authors),
            Author::Ourselves | Author::Stranger => own_names(&authors),
        };
        candidates.into_iter().find_map(|domain| {
            let keys = directory.dkim(&domain)?;
            keys.signing().next()?;
            Some((domain, Arc::clone(keys)))
        })
    }

    /// Off the core. What can't be signed leaves without: its recipients may know us by our address.
    async fn sign(
        &self,
        (domain, keys): Signer,
        digest: impl FnOnce() -> Digest + Send + 'static,
    ) -> Vec<u8> {
        let signing = move || digest().sign(&domain, &keys, unix_now());
        match glommio::executor().spawn_blocking(signing).await {
            Ok(signatures) => {
                count(&self.shard.queue.counts.signed);
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

/// The one domain of all authors, if all of them are the account's own addresses; the sender's, which was looked at
/// before; the account's.
fn names_of_account(directory: &Directory, envelope: &Envelope, authors: &[String]) -> Vec<String> {
    let user = envelope.account.as_deref().unwrap_or_default();
    let own = directory.login(user).map(|(_, account)| account.id());
    let is_own = |author: &String| match directory.resolve(author) {
        Resolution::Local(homes) => homes.iter().any(|home| Some(home.account) == own),
        Resolution::NoSuchUser | Resolution::NotOurs => false,
    };
    let mut domains: Vec<Option<String>> = authors.iter().map(|one| domain_of(one)).collect();
    domains.dedup();
    let author = match domains.as_slice() {
        [Some(domain)] if authors.iter().all(is_own) => Some(domain.clone()),
        _ => None,
    };
    let sender = envelope.sender.as_deref().and_then(domain_of);
    [author, sender, domain_of(user)].into_iter().flatten().collect()
}

/// The author's domain, or the next one above it that is ours: reports come from `postmaster@` our host's name.
fn own_names(authors: &[String]) -> Vec<String> {
    let [author] = authors else { return Vec::new() };
    let mut names = Vec::new();
    let mut next = domain_of(author);
    while let Some(name) = next {
        next = name.split_once('.').map(|(_, above)| above.to_owned());
        names.push(name);
    }
    names
}

fn domain_of(address: &str) -> Option<String> {
    directory::canonical_domain(address.rsplit_once('@')?.1)
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
    use super::*;
    use crate::domain::keys::DkimKeys;

    fn directory() -> Directory {
        let mut directory = Directory::default();
        let account = |id: u32| {
            let hash = crate::passwords::ScramKeys::nobody("x", &[0; 32]);
            let password =
                crate::passwords::StoredPassword { argon2id: String::new(), scram: hash };
            directory::Account {
                id,
                shard: 0,
                password,
                quota_bytes: None,
                quota_messages: None,
                created_unix: 0,
            }
        };
        let json = |value: serde_json::Value| Some(Bytes::from(value.to_string()));
        let domain = serde_json::json!({ "created_unix": 0 });
        let alias = serde_json::json!({ "targets": ["ann@a.test"] });
        let value = |id| json(serde_json::to_value(account(id)).unwrap());
        let unreadable = directory.apply(&[
            (Bytes::from("d:a.test"), json(domain.clone())),
            (Bytes::from("d:b.test"), json(domain)),
            (Bytes::from("a:ann@a.test"), value(1)),
            (Bytes::from("a:bob@b.test"), value(2)),
            (Bytes::from("l:sales@b.test"), json(alias)),
            (Bytes::from("k:a.test"), json(serde_json::to_value(DkimKeys::default()).unwrap())),
        ]);
        assert_eq!(unreadable, [""; 0]);
        assert!(directory.dkim("a.test").is_some() && directory.dkim("b.test").is_none());
        directory
    }

    #[test]
    fn nobody_signs_with_the_domain_of_another() {
        let directory = directory();
        let envelope = Envelope {
            id: "0.1".into(),
            sender: Some("ann@a.test".into()),
            account: Some("ann@a.test".into()),
            recipients: Vec::new(),
            arrived: 0,
            octets: 0,
            eight_bit: false,
            smtp_utf8: false,
            ret_full: None,
            envid: None,
        };
        let first = |authors: &[&str]| {
            let authors: Vec<String> = authors.iter().map(|&one| one.to_owned()).collect();
            names_of_account(&directory, &envelope, &authors).remove(0)
        };
        assert_eq!(first(&["Ann@A.test"]), "a.test");
        assert_eq!(first(&["ann+news@a.test"]), "a.test");
        // An alias of hers in another domain of ours.
        assert_eq!(first(&["sales@b.test"]), "b.test");
        for forged in [
            &["bob@b.test"][..],
            &["nobody@b.test"],
            &["x@bank.test"],
            &["sales@b.test", "bob@b.test"],
            &["sales@b.test", "ann@a.test"],
            &["sales@b.test", "x@"],
            &[],
        ] {
            assert_eq!(first(forged), "a.test", "{forged:?}");
        }
    }

    #[test]
    fn our_own_words_are_signed_by_the_domain_that_our_host_is_in() {
        let names = own_names(&["postmaster@mail.a.test".to_owned()]);
        assert_eq!(names, ["mail.a.test", "a.test", "test"]);
        assert!(own_names(&[]).is_empty());
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let both = "Date: x\r\nMessage-Id: <a@b>\r\n\r\nDate";
        assert_eq!(missing_fields(both.as_bytes(), "0.1", "h.test"), "");
        let none = missing_fields(b"Subject: x\r\n\r\nDate: x\r\n", "0.1", "h.test");
        assert!(none.starts_with("Date: ") && none.ends_with("\r\nMessage-ID: <0.1@h.test>\r\n"));
    }
}
