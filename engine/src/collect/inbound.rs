//! One message on its way in: through the same checks and scripts as other mail, into the mailbox,
//! in one record with the fact that it was collected.
//!
//! What differs from mail that comes over SMTP: nobody can be told no. A message that the scan
//! would refuse stays where it is; a rejection by the user's script keeps it, and replies are not
//! sent, since what is collected may be years old. Who has connected is not known, so SPF says
//! nothing, and DMARC only what a signature proves.

use super::keys::{Key, SPACE};
use super::ledger::{Filing, Hash, Hasher, Pair};
use super::reason::{Kind, Reason};
use super::source::{Protocol, Source};
use super::split;
use crate::auth::results;
use crate::auth::verdict::{Method, Outcome, Verdict};
use crate::auth::verify::Question;
use crate::delivery::{
    self, Collected, Envelope, Failure, Intake, Judged, Scrutiny, Stamp, To, unix_millis,
};
use crate::directory::{Reached, Resolution};
use crate::filter;
use crate::filter::own::Scored;
use crate::filter::senders::Filing as Filed;
use crate::filter::settings::Learn;
use crate::quarantine;
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

/// `Return-Path`, and fields that say who a message is for, are looked for in so much of it.
const HEAD_BYTES: usize = 64 << 10;

/// Room for our own fields, and for a server's word about a size being a little wrong.
const ROOM_MORE: u64 = 4 << 10;

/// Where a message comes from, and to whom it goes.
#[derive(Debug, Clone)]
pub struct Way {
    pub shard: Rc<Shard>,
    pub key: Key,
    /// Whose mailbox it is over there.
    pub to: To,
    /// Fields that name others who get the message.
    pub split: Vec<String>,
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
    octets: u64,
    /// `None`: nobody knows yet whom it is for.
    started: Option<Started>,
    hasher: Hasher,
    /// The beginning, up to the piece in which the header ends.
    head: Vec<u8>,
    has_header: bool,
}

#[derive(Debug)]
struct Started {
    intake: Intake,
    to: Rc<[To]>,
}

/// What its score goes by, beside the message.
struct Mail<'m> {
    sender: Option<&'m Address>,
    to: &'m [To],
    verdict: &'m Verdict,
    /// Milliseconds since 1970.
    when: Option<u64>,
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
    pub fn new(shard: &Rc<Shard>, key: Key, source: &Source, to: To, peer: IpAddr) -> Way {
        Way {
            shard: Rc::clone(shard),
            key,
            to,
            split: source.split.clone(),
            host: source.host.clone(),
            peer,
            protocol: source.protocol,
            is_tls: source.tls != super::source::Tls::Off,
        }
    }

    /// `octets` is what the server says that there will be.
    pub fn begin(&self, octets: u64) -> Inbound {
        Inbound {
            way: self.clone(),
            id: self.shard.next_id(),
            octets,
            started: None,
            hasher: Hasher::default(),
            head: Vec::new(),
            has_header: false,
        }
    }

    /// Who gets a message with this header: those of ours whom it names and who have room for it,
    /// or else the owner.
    async fn recipients(&self, header: &[u8], octets: u64) -> Vec<To> {
        let ours = |address: &str| {
            let resolution = self.shard.directory.borrow().resolve(address);
            let (Resolution::Local(Reached { homes, .. }), Some(address)) =
                (resolution, Address::parse(address.as_bytes()))
            else {
                return Vec::new();
            };
            homes.into_iter().map(|home| To { home, address: address.clone() }).collect()
        };
        let mut to = Vec::new();
        for one in split::recipients(header, &self.split, ours) {
            let account = one.home.account;
            let has_room = move |shard: Rc<Shard>| async move {
                shard.store.check_quota(account, octets + ROOM_MORE).is_ok()
            };
            match self.shard.mesh.ask(one.home.shard, has_room).await {
                Ok(true) => to.push(one),
                Ok(false) | Err(_) => to.push(self.to.clone()),
            }
        }
        if to.is_empty() {
            to.push(self.to.clone());
        }
        to.sort_by(|one, other| one.home.cmp(&other.home));
        to.dedup_by_key(|to| to.home.account);
        to
    }

    fn intake(&self, id: &str, to: &[To]) -> Intake {
        let shard = &self.shard;
        let only = match to {
            [one] => Some(one.home.address.as_str()),
            _ => None,
        };
        let trace = received(&Received {
            helo: &self.host,
            peer: self.peer,
            peer_name: None,
            by: &shard.config.hostname,
            with: self.protocol.name(self.is_tls),
            tls: None,
            id,
            recipient: only,
            unix_millis: unix_millis().0,
        });
        // In any case what it says of itself in our name is forged.
        let scrutiny = if shard.config.auth.verify { Scrutiny::All } else { Scrutiny::Forgery };
        Intake::new(shard, to.iter().map(|to| to.home.shard), &trace, 0, scrutiny)
    }
}

impl Inbound {
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), Reason> {
        self.hasher.push(piece);
        let mut rest = piece;
        if !self.has_header {
            let room = HEAD_BYTES.saturating_sub(self.head.len()).min(piece.len());
            let seam = self.head.len().saturating_sub(3);
            self.head.extend_from_slice(&piece[..room]);
            let ends = |part: &[u8]| part.windows(4).any(|window| window == b"\r\n\r\n");
            self.has_header = ends(&self.head[seam..]) || self.head.len() >= HEAD_BYTES;
            if self.started.is_none() {
                if !self.has_header && !self.way.split.is_empty() {
                    return Ok(());
                }
                self.start().await?;
                rest = &piece[room..];
            }
        }
        if let Some(started) = &mut self.started {
            started.intake.push(rest).await?;
        }
        Ok(())
    }

    /// It is known whom it is for.
    async fn start(&mut self) -> Result<(), Reason> {
        let to = Rc::<[To]>::from(self.way.recipients(&self.head, self.octets).await);
        let mut intake = self.way.intake(&self.id, &to);
        intake.push(&self.head).await?;
        self.started = Some(Started { intake, to });
        Ok(())
    }

    pub fn hash(&self) -> Hash {
        self.hasher.clone().finish()
    }

    /// Files it together with what `filing` says. It is durable when this returns [`Fate::Filed`].
    pub async fn file(mut self, filing: &Filing, target: Target) -> Result<Fate, Reason> {
        if !self.way.shard.collecting.is_known(self.way.key) {
            return Err(Reason::new(Kind::Here, "it was removed"));
        }
        if self.started.is_none() {
            self.start().await?;
        }
        let Some(Started { mut intake, to }) = self.started.take() else {
            return Err(storage::Error::Busy.into());
        };
        let sender = sender(&self.head);
        let scan = intake.scan().await?;
        let mut stamp = Stamp::default();
        let mut judged = Judged::default();
        let taken = to.iter().map(|to| delivered_to(&to.home.address).len()).max().unwrap_or(0);
        let room = Stamp::BESIDE_BYTES_MAX.saturating_sub(taken);
        let reserved = if scan.is_some() { scan::verdict::FIELD_BYTES_MAX } else { 0 };
        let shard = Rc::clone(&self.way.shard);
        let room_before = room.saturating_sub(reserved);
        let verdict = self.verify(&mut intake, &mut stamp, room_before).await?;
        if target.scripts
            && let Some(verdict) = &verdict
        {
            let mail =
                Mail { sender: sender.as_ref(), to: &to, verdict, when: target.internal_date };
            let left = room_before.saturating_sub(stamp.beside.len());
            self.score(&mut intake, &mut stamp, &mut judged, mail, left).await?;
        }
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
                // Whoever it is from: friends send viruses, too.
                Action::Quarantine => {
                    judged.filing = Filed::default();
                    judged.filing.keep_back(found.reason(&shard.config.scan));
                }
                Action::Junk => {
                    judged.filing = Filed { kept: judged.filing.kept, ..Filed::junk() };
                }
                Action::Mark => {}
            }
            if found.has_virus() {
                judged.filing.hold_virus();
            }
            let field = found.field(&shard.config.hostname);
            if stamp.beside.len() + field.len() <= room {
                stamp.beside += &field;
            }
            stamp.fields += &field;
        }
        // That a message for several was collected is true once all of them have it, which no
        // one record can say.
        let is_here = to.len() == 1 && to[0].home.shard == shard.id;
        let collected = Collected {
            space: SPACE,
            pairs: if is_here { filing.pairs.clone() } else { Vec::new() },
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
            alone: to.len() == 1,
            others: false,
            require_tls: false,
            collected: Some(Arc::new(collected)),
            once: None,
        };
        let octets = intake.bytes();
        let all = [(0..to.len()).collect()];
        let (results, copies) = delivery::settle(intake, &to, &all, &stamp, envelope).await;
        copies.stay().await;
        let has_been_taken = results.iter().any(Result::is_ok);
        for (result, to) in results.into_iter().zip(to.iter()) {
            match result {
                Ok(_durable) => {}
                Err(Failure::Store(storage::Error::OverQuota)) if has_been_taken => {
                    // Others have it: to try again would double it there. It stays where it is.
                    let account = &to.home.address;
                    tracing::info!(target: crate::NOTICE, id = self.id, account, host = self.way.host, "not collected for somebody whose mailbox is full");
                    return Ok(Fate::Refused);
                }
                Err(Failure::Store(error)) => return Err(error.into()),
                Err(Failure::Rejected(text)) => return Err(Reason::new(Kind::Here, text)),
            }
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
    async fn verify(
        &self,
        intake: &mut Intake,
        stamp: &mut Stamp,
        room: usize,
    ) -> Result<Option<Verdict>, Reason> {
        let shard = &self.way.shard;
        let config = &shard.config;
        if !config.auth.verify {
            return Ok(None);
        }
        let question = Question {
            peer: None,
            helo: String::new(),
            mail_from: String::new(),
            receiver: config.hostname.clone(),
            evidence: intake.evidence().await?,
            dmarc: config.auth.dmarc,
            received_spf: false,
            trusted_sealers: config.auth.trusted_sealers.clone(),
            deadline: Instant::now() + Duration::from_secs(config.auth.deadline_seconds),
        };
        let found = shard.auth.ask(shard, question).await;
        stamp.fields = results::field(&config.hostname, &found, usize::MAX);
        stamp.beside = results::field(&config.hostname, &found, room);
        Ok(Some(found))
    }

    /// How much it looks like spam. Of old mail, as of its own day.
    async fn score(
        &self,
        intake: &mut Intake,
        stamp: &mut Stamp,
        judged: &mut Judged,
        mail: Mail<'_>,
        room: usize,
    ) -> Result<(), Reason> {
        let shard = &self.way.shard;
        if !shard.config.spam.enabled {
            return Ok(());
        }
        let message = intake.beginning().await?;
        let rules = Arc::clone(&shard.rules);
        let mail_from = mail.sender.map(ToString::to_string).unwrap_or_default();
        let recipients: Vec<String> = mail.to.iter().map(|to| to.address.to_string()).collect();
        let auth: Vec<_> =
            mail.verdict.findings.iter().map(|one| (one.method, one.outcome)).collect();
        let seconds = mail.when.unwrap_or_else(|| unix_millis().0) / 1000;
        let unix_seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let judge = move || {
            let (mail_from, recipients, auth) = (&mail_from, &recipients, &auth);
            let envelope = filter::Envelope { mail_from, recipients, auth, unix_seconds };
            filter::judge(&rules, &message, &envelope)
        };
        let found = glommio::executor().spawn_blocking(judge).await;
        let found = found.judged_by(&shard.learned.borrow().classifier);
        let sender = found.sender;
        let (margin, tokens) = (found.margin, found.tokens);
        let verdict = filter::verdict::Verdict::new(found.hits, &shard.config.spam);
        stamp.fields += &verdict.fields(usize::MAX);
        stamp.beside += &verdict.fields(room);
        judged.spam_percent = Some(verdict.percent());
        // Nobody can be refused any more.
        let is_junk = verdict.action >= filter::verdict::Action::Junk;
        let keeps = shard.config.spam.quarantine_at > 0.0;
        let is_kept = keeps && verdict.action >= filter::verdict::Action::Quarantine;
        let is_proven = mail
            .verdict
            .findings
            .iter()
            .any(|one| one.method == Method::Dmarc && one.outcome == Outcome::Pass);
        let kept = is_kept.then_some(quarantine::Reason::Spam);
        let learns = shard.config.spam.learn != Learn::Nobody;
        let scored = learns
            .then(|| Arc::new(Scored::new(verdict.score, margin, &tokens, shard.sample_key())));
        judged.filing = Filed { is_junk, kept, sender, is_doubtful: !is_proven, scored };
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
