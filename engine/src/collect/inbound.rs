//! One message on its way in: through the same checks and scripts as other mail, into the mailbox, in one record
//! with the fact that it was collected.
//!
//! What differs from mail that comes over SMTP: nobody can be told no. A message that the scan would refuse stays where
//! it is; a rejection by the user's script keeps it, and replies are not sent, since what is collected may
//! be years old. Who has connected is not known, so SPF says nothing, and DMARC only what a signature proves.

use super::keys::SPACE;
use super::ledger::{Filing, Hash, Hasher, Pair};
use super::reason::{Kind, Reason};
use super::source::{Protocol, Source};
use crate::auth::results;
use crate::auth::verify::Question;
use crate::delivery::{
    self, Collected, Envelope, Failure, Intake, Judged, Scrutiny, Stamp, To, unix_millis,
};
use crate::scan;
use crate::scan::settings::Action;
use crate::shard::Shard;
use protocols::Address;
use protocols::message::field::Fields;
use protocols::message::received::{Received, delivered_to, received};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `Return-Path` is looked for in so much of the message.
const HEAD_BYTES: usize = 4096;

/// Where a message comes from, and to whom it goes.
#[derive(Debug, Clone)]
pub struct Way {
    pub shard: Rc<Shard>,
    pub to: To,
    pub host: String,
    pub peer: IpAddr,
    pub protocol: Protocol,
    pub is_tls: bool,
}

/// A message that is arriving.
#[derive(Debug)]
pub struct Inbound {
    way: Way,
    id: String,
    intake: Intake,
    hasher: Hasher,
    head: Vec<u8>,
}

/// Where it goes, and what is known of it from there.
#[derive(Debug, Default)]
pub struct Target {
    /// `None`: where mail goes that nobody says anything about.
    pub mailbox: Option<delivery::Mailbox>,
    pub flags: Vec<String>,
    /// Milliseconds since 1970; `None`: now.
    pub internal_date: Option<u64>,
    /// Whether scripts look at it.
    pub scripts: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    Filed,
    /// By the scan.
    Refused,
}

impl Way {
    pub fn new(shard: &Rc<Shard>, source: &Source, to: To, peer: IpAddr) -> Way {
        Way {
            shard: Rc::clone(shard),
            to,
            host: source.host.clone(),
            peer,
            protocol: source.protocol,
            is_tls: source.tls != super::source::Tls::Off,
        }
    }

    pub fn begin(&self) -> Inbound {
        let shard = &self.shard;
        let id = shard.next_id();
        let trace = received(&Received {
            helo: &self.host,
            peer: self.peer,
            peer_name: None,
            by: &shard.config.hostname,
            with: self.protocol.name(self.is_tls),
            tls: None,
            id: &id,
            recipient: Some(&self.to.home.address),
            unix_millis: unix_millis().0,
        });
        let scrutiny = if shard.config.auth.verify { Scrutiny::All } else { Scrutiny::None };
        let homes = std::iter::once(self.to.home.shard);
        let intake = Intake::new(shard, homes, &trace, 0, scrutiny);
        let (hasher, head) = (Hasher::default(), Vec::new());
        Inbound { way: self.clone(), id, intake, hasher, head }
    }
}

impl Inbound {
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), Reason> {
        let room = HEAD_BYTES.saturating_sub(self.head.len()).min(piece.len());
        self.head.extend_from_slice(&piece[..room]);
        self.hasher.push(piece);
        self.intake.push(piece).await?;
        Ok(())
    }

    pub fn octets(&self) -> u64 {
        self.intake.bytes()
    }

    pub fn hash(&self) -> Hash {
        self.hasher.clone().finish()
    }

    /// Files it together with what `filing` says. It is durable when this returns [`Fate::Filed`].
    pub async fn file(mut self, filing: &Filing, target: Target) -> Result<Fate, Reason> {
        let sender = sender(&self.head);
        let scan = self.intake.scan().await?;
        let mut stamp = Stamp::default();
        let mut judged = Judged::default();
        let room = Stamp::BESIDE_BYTES_MAX - delivered_to(&self.way.to.home.address).len().min(512);
        let reserved = if scan.is_some() { scan::verdict::FIELD_BYTES_MAX } else { 0 };
        self.verify(&mut stamp, room.saturating_sub(reserved)).await?;
        let shard = Rc::clone(&self.way.shard);
        if let Some(scan) = scan {
            let found = scan.findings(None).await;
            judged.virus = found.virustest();
            let (action, words) = found.action(&shard.config.scan);
            match action {
                Action::Reject => {
                    tracing::info!(target: crate::NOTICE, id = self.id, account = self.way.to.home.address, host = self.way.host, words, "not collected: refused by the scan");
                    return Ok(Fate::Refused);
                }
                Action::Defer => return Err(Reason::new(Kind::Here, words)),
                Action::Junk => judged.is_junk = true,
                Action::Mark => {}
            }
            let field = found.field(&shard.config.hostname);
            if stamp.beside.len() + field.len() <= room {
                stamp.beside += &field;
            }
            stamp.fields += &field;
        }
        let collected = Collected {
            space: SPACE,
            pairs: filing.pairs.clone(),
            mailbox: target.mailbox,
            flags: target.flags,
            internal_date: target.internal_date,
        };
        let envelope = Envelope {
            id: self.id.clone(),
            sender,
            peer: Some(self.way.peer),
            judged,
            scripts: target.scripts,
            alone: true,
            collected: Some(Arc::new(collected)),
        };
        let to = std::slice::from_ref(&self.way.to);
        let octets = self.octets();
        let results = delivery::settle(self.intake, to, &[vec![0]], &stamp, envelope).await;
        match results.into_iter().next() {
            Some(Ok(_durable)) => {}
            Some(Err(Failure::Store(error))) => return Err(error.into()),
            Some(Err(Failure::Rejected(text))) => return Err(Reason::new(Kind::Here, text)),
            None => return Err(storage::Error::Busy.into()),
        }
        // What was redirected or thrown away has no record of its own.
        let is_set = |(key, value): &Pair| shard.store.get(SPACE, key) == *value;
        if !filing.pairs.iter().all(is_set) {
            let _durable = shard.store.put(SPACE, filing.pairs.clone()).await?;
        }
        tracing::info!(
            id = self.id,
            account = to[0].home.address,
            host = self.way.host,
            octets,
            "collected"
        );
        Ok(Fate::Filed)
    }

    /// From whom it is, as far as signatures prove it. Nothing follows from what they don't prove.
    async fn verify(&mut self, stamp: &mut Stamp, room: usize) -> Result<(), Reason> {
        let shard = &self.way.shard;
        let config = &shard.config;
        if !config.auth.verify {
            return Ok(());
        }
        let question = Question {
            peer: None,
            helo: String::new(),
            mail_from: String::new(),
            receiver: config.hostname.clone(),
            evidence: self.intake.evidence().await?,
            dmarc: config.auth.dmarc,
            received_spf: false,
            trusted_sealers: config.auth.trusted_sealers.clone(),
            deadline: Instant::now() + Duration::from_secs(config.auth.deadline_seconds),
        };
        let found = shard.auth.ask(shard, question).await;
        stamp.fields = results::field(&config.hostname, &found, usize::MAX);
        stamp.beside = results::field(&config.hostname, &found, room);
        Ok(())
    }
}

/// As the server there has written it down; `None`: the null path, or none.
fn sender(head: &[u8]) -> Option<Address> {
    let field = Fields::new(head).find(|field| field.is("Return-Path"))?;
    let value = field.value.trim_ascii();
    Address::parse(value.strip_prefix(b"<")?.strip_suffix(b">")?)
}

#[cfg(test)]
mod tests {
    use super::sender;

    #[test]
    fn the_sender_is_who_the_other_server_has_noted() {
        let sent = |text: &str| sender(text.as_bytes()).map(|found| found.to_string());
        assert_eq!(sent("Return-Path: <a@b.test>\r\nFrom: x\r\n\r\n").as_deref(), Some("a@b.test"));
        assert_eq!(
            sent("From: x\r\nreturn-path:  <a@b.test> \r\n\r\n").as_deref(),
            Some("a@b.test")
        );
        assert_eq!(sent("Return-Path: <>\r\n\r\n"), None);
        assert_eq!(sent("From: x\r\n\r\nReturn-Path: <a@b.test>\r\n"), None);
    }
}
