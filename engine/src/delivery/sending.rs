//! What leaves a mailbox for another: redirects here; replies and rejections in
//! [`super::answering`].
//!
//! Addresses of ours get it at once, through their own scripts; for others it goes into the queue.
//! All of it is done before the transaction is answered: who has asked for nothing but a redirect
//! has no copy, so the target's receipt is what the reply is made from. What can't be sent is kept
//! by its owner instead.
//!
//! Nothing goes in circles, and chains come to an end: each redirect leaves a `Delivered-To` of its
//! owner on the message, which gets to no account a second time (RFC 9228 section 4) and not past
//! [`CHAIN_MAX`] of them; one transaction sends [`SENT_MAX`] messages at the most.

use super::payload::Payload;
use super::together::{self, Copies};
use super::{
    Envelope, Filed, Intake, Judged, Outcome, OwnName, Redirect, Stamp, To, Trace, forwarding,
};
use crate::NOTICE;
use crate::directory::{Home, Reached, Resolution};
use crate::mesh::Unreachable;
use crate::queue::author::Author;
use crate::queue::intake::Submission;
use crate::queue::message;
use crate::shard::Shard;
use crate::sieve::marks::Mark;
use crate::submission::{self, Permit};
use protocols::Address;
use protocols::message::field::Fields;
use protocols::smtp::{Notify, RecipientParams};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use storage::{AccountId, Durable, Error, MailboxId, Uid};

/// Messages that the scripts of one transaction's recipients send, one another's included.
const SENT_MAX: usize = 100;
/// Accounts one after another that redirect a message; each is a call within the one before.
const CHAIN_MAX: usize = 20;

/// Why somebody does not get a message.
#[derive(Debug, Clone)]
pub enum Failure {
    Store(Error),
    /// The owner of the mailbox refuses it, in these words.
    Rejected(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Store(error)
    }
}

/// Why a message was not sent.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum NotSent {
    #[error("nothing leaves this host ([relay] enabled = false)")]
    NoWayOut,
    #[error("nobody can be told")]
    NoSender,
    #[error("there is no such user")]
    NoSuchUser,
    #[error("it is going in circles")]
    Loop,
    #[error("too many messages are sent for one")]
    TooMany,
    #[error("it claims to come from a domain of ours, which DMARC does not prove")]
    Forged,
    #[error(transparent)]
    OverLimit(#[from] submission::NotNow),
    #[error("it was refused: {0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<Failure> for NotSent {
    fn from(failure: Failure) -> NotSent {
        match failure {
            Failure::Store(error) => NotSent::Store(error),
            Failure::Rejected(text) => NotSent::Refused(text),
        }
    }
}

/// Delivers to everybody, and sends what their scripts want sent; one result for each, in their
/// order, and what can still be taken back, of which the caller says when it stays
/// ([`Copies::stay`]). `groups` are the recipients that share an answer: where some of them refuse
/// the message and others take it, be it on other hosts, the sender is told by a message; where
/// somebody can't have it now, none of them gets it.
pub async fn settle(
    intake: Intake,
    recipients: &Rc<[To]>,
    groups: &[Vec<usize>],
    stamp: &Stamp,
    envelope: Envelope,
) -> (Vec<Result<Durable, Failure>>, Copies) {
    let shard = Rc::clone(intake.shard());
    let envelope = Arc::new(envelope);
    let (mut outcomes, at_hand) = intake.finish(recipients, groups, stamp, &envelope).await;
    let mut copies = Copies::of(&shard, &envelope, recipients, &mut outcomes);
    together::undo(&mut copies, groups, &mut outcomes).await;
    let mut post = Post {
        shard,
        judged: envelope.judged.clone(),
        require_tls: envelope.require_tls,
        writer: None,
        sent: 0,
        having: BTreeMap::new(),
        relied_on: BTreeSet::new(),
        kept: Vec::new(),
        marks: Vec::new(),
    };
    recipients.iter().zip(&outcomes).for_each(|(to, outcome)| post.note(to, outcome));
    let mut results = Vec::with_capacity(outcomes.len());
    for (to, outcome) in recipients.iter().zip(outcomes) {
        results.push(post.carry_out(to, &envelope, outcome).await);
    }
    for group in groups {
        let is = |what: fn(&Result<Durable, Failure>) -> bool| {
            group.iter().any(|&at| what(&results[at]))
        };
        let taken = envelope.others || is(|result| result.is_ok());
        let failed = is(|result| matches!(result, Err(Failure::Store(_))));
        if !taken || failed {
            continue;
        }
        for &at in group {
            if let Err(Failure::Rejected(text)) = &results[at] {
                let text = text.clone();
                results[at] = match &at_hand {
                    Some(message) => {
                        post.send_back(&recipients[at], &envelope, &text, message).await
                    }
                    // Filing refuses such a message only where the session can say so.
                    None => Err(Failure::Store(Error::Busy)),
                };
            }
        }
    }
    copies.note_marks(post.marks);
    post.kept.into_iter().for_each(|(account, places)| copies.note_places(account, places));
    // With one answer for all, nobody is told that somebody has it.
    if groups.len() != 1 {
        copies.leave(&post.relied_on);
    }
    let failed = |result: &Result<Durable, Failure>| match result {
        Err(Failure::Store(error)) if together::counts(&envelope, error) => Some(error.clone()),
        Ok(_) | Err(_) => None,
    };
    let mut failed: Vec<_> = results.iter().map(failed).collect();
    together::spread(&mut failed, groups);
    let mut undone = BTreeSet::new();
    for ((to, result), error) in recipients.iter().zip(&mut results).zip(failed) {
        if let (Ok(_), Some(error)) = (&result, error) {
            *result = Err(Failure::Store(error));
            undone.insert(to.home.account);
        }
    }
    copies.take_back(|account| undone.contains(&account)).await;
    (results, copies)
}

/// One message on its way to others.
pub(super) struct Post {
    pub(super) shard: Rc<Shard>,
    judged: Judged,
    require_tls: bool,
    /// In whose name it is written, where it is not passed on and no notice of ours.
    writer: Option<String>,
    sent: usize,
    /// Accounts that have the message already, from this transaction.
    pub(super) having: BTreeMap<AccountId, Durable>,
    /// Those of them that stand for another's.
    relied_on: BTreeSet<AccountId>,
    /// Who keeps it because it could not be sent, and where.
    kept: Vec<(AccountId, Vec<(MailboxId, Uid)>)>,
    /// What scripts want remembered.
    marks: Vec<(Home, Vec<Mark>)>,
}

type Sent<'f, T> = Pin<Box<dyn Future<Output = T> + 'f>>;

impl Post {
    /// What was thrown away is not there.
    fn note(&mut self, to: &To, outcome: &Outcome) {
        if let Ok(Filed { durable: Some(durable), has_copy: true, .. }) = outcome {
            self.having.insert(to.home.account, *durable);
        }
    }

    /// Sends another message than the one that the rest is about; `writer` is whose answer it is,
    /// if it is nothing that the host has to tell.
    pub(super) async fn send_note(
        &mut self,
        writer: Option<&str>,
        to: &Address,
        note: Vec<u8>,
    ) -> Result<Durable, NotSent> {
        let shard = Rc::clone(&self.shard);
        let mut other = Post {
            shard,
            judged: Judged::default(),
            require_tls: self.require_tls,
            writer: writer.map(str::to_owned),
            sent: self.sent,
            having: BTreeMap::new(),
            relied_on: BTreeSet::new(),
            kept: Vec::new(),
            marks: Vec::new(),
        };
        let sent = other.send(None, None, to, &Payload::Whole(note.into())).await;
        self.sent = other.sent;
        sent
    }

    /// Sends what an account's scripts want sent.
    async fn carry_out(
        &mut self,
        owner: &To,
        envelope: &Arc<Envelope>,
        outcome: Outcome,
    ) -> Result<Durable, Failure> {
        let Filed { mut durable, rejected, redirects, reply, lent, marks, .. } = outcome?;
        if let Some(text) = rejected {
            return Err(Failure::Rejected(text));
        }
        let mut stranded = None;
        for Redirect { to, payload } in redirects {
            let sender = envelope.sender.clone();
            match self.send(Some(owner), sender, &to, &payload).await {
                // Where it went does not count while the owner has a copy.
                Ok(sent) => durable = durable.or(Some(sent)),
                Err(why) => {
                    let (id, account) = (&envelope.id, &owner.home.address);
                    tracing::info!(target: NOTICE, id, account, %to, %why, "not redirected; kept");
                    stranded = stranded.or(Some(payload));
                }
            }
        }
        // What could not be sent stays with its owner, unless the owner has it anyway.
        let has_copy = self.having.get(&owner.home.account).copied();
        durable = durable.or(has_copy.filter(|_| stranded.is_some()));
        match (stranded, lent) {
            (None, Some((mailbox, uid, _))) => {
                let account = owner.home.account;
                let gone = self.at_home(owner, move |shard| async move {
                    shard.store.expunge(account, mailbox, &[uid]).await.map(drop)
                });
                if let Err(error) = gone.await {
                    tracing::warn!(account = owner.home.address, %error, "a redirected message stays in INBOX, too");
                }
            }
            (Some(Payload::Whole(message)), None) if has_copy.is_none() => {
                durable = Some(self.keep(owner, envelope, &message).await?);
            }
            // It stays where it was lent from.
            (Some(_), Some((_, _, receipt))) => durable = Some(receipt),
            (Some(_) | None, None) => {}
        }
        let durable = durable.ok_or(Error::Busy)?;
        if !marks.is_empty() {
            self.marks.push((owner.home.clone(), marks));
        }
        if let Some((reply, answering)) = reply {
            self.reply(owner, *reply, answering).await;
        }
        Ok(durable)
    }

    /// To whom the address belongs, or out. An address that is several accounts' is all of theirs.
    fn send<'f>(
        &'f mut self,
        owner: Option<&'f To>,
        sender: Option<Address>,
        to: &'f Address,
        payload: &'f Payload,
    ) -> Sent<'f, Result<Durable, NotSent>> {
        Box::pin(async move {
            if self.sent >= SENT_MAX {
                return Err(NotSent::TooMany);
            }
            self.sent += 1;
            let resolution = self.shard.directory.borrow().resolve(to.as_str());
            let Reached { homes, outside } = match resolution {
                Resolution::Local(reached) => reached,
                Resolution::NoSuchUser => return Err(NotSent::NoSuchUser),
                Resolution::NotOurs => return self.send_out(owner, sender, to, payload).await,
            };
            let trace = self.trace_of_finite(owner, payload).await?;
            let own = owner.map(|owner| owner.home.account);
            let is_round = |home: &Home| {
                own == Some(home.account) || trace.delivered_to.contains(&home.address)
            };
            let (mut left, mut receipt, mut round) = (Vec::new(), None, false);
            for home in homes {
                if let Some(durable) = self.having.get(&home.account) {
                    // It has been delivered there, by name or by another's redirect.
                    receipt = Some(*durable);
                    self.relied_on.insert(home.account);
                } else if is_round(&home) {
                    round = true;
                } else {
                    left.push(To { home, address: to.clone() });
                }
            }
            // An alias may lead to other hosts, too.
            for to in outside {
                let Some(to) = Address::parse(to.as_bytes()) else { continue };
                receipt = Some(self.send_out(owner, sender.clone(), &to, payload).await?);
            }
            if !left.is_empty() {
                receipt = Some(self.deliver(owner, sender, &left, payload).await?);
            }
            match receipt {
                Some(durable) if !round => Ok(durable),
                Some(_) | None => Err(NotSent::Loop),
            }
        })
    }

    async fn deliver(
        &mut self,
        owner: Option<&To>,
        sender: Option<Address>,
        recipients: &[To],
        payload: &Payload,
    ) -> Result<Durable, NotSent> {
        let envelope = Arc::new(Envelope {
            id: self.shard.next_id(),
            sender,
            peer: None,
            judged: self.judged.clone(),
            scripts: true,
            alone: recipients.len() == 1,
            collected: None,
            once: None,
            others: false,
            require_tls: self.require_tls,
        });
        let shards = recipients.iter().map(|to| to.home.shard);
        let mut intake = Intake::of_ours(&self.shard, shards);
        self.pour(owner, payload, async |piece: &[u8]| intake.push(piece).await).await?;
        let (outcomes, _) = intake.finish(recipients, &[], &Stamp::default(), &envelope).await;
        let mut sent = Err(NotSent::NoSuchUser);
        let mut failed = None;
        // Who can't be served does not keep it from the others: all are gone through.
        for (to, outcome) in recipients.iter().zip(outcomes) {
            self.note(to, &outcome);
            match self.carry_out(to, &envelope, outcome).await {
                Ok(durable) => sent = Ok(durable),
                Err(failure) => failed = failed.or(Some(NotSent::from(failure))),
            }
        }
        failed.map_or(sent, Err)
    }

    /// Into the queue of this core; without the `Return-Path`, which belongs to the last server
    /// alone (RFC 5321 section 4.4). It may leave before the sender is answered, and again if the
    /// sender has to repeat. Who is named as the sender of junk is likely somebody else, and not
    /// told when another host refuses it.
    async fn send_out(
        &self,
        owner: Option<&To>,
        sender: Option<Address>,
        to: &Address,
        payload: &Payload,
    ) -> Result<Durable, NotSent> {
        if !self.shard.config.relay.enabled {
            return Err(NotSent::NoWayOut);
        }
        if self.judged.own_name != OwnName::Fine {
            return Err(NotSent::Forged);
        }
        self.trace_of_finite(owner, payload).await?;
        let permit = match owner {
            Some(owner) => self.permit(owner).await?,
            None => None,
        };
        let sender = match (sender, owner) {
            (Some(sender), Some(owner)) => {
                if !forwarding::is_ready(&self.shard).await {
                    return Err(NotSent::Store(Error::Busy));
                }
                Some(forwarding::sender_abroad(&self.shard, &sender, &owner.address))
            }
            (sender, _) => sender.map(|sender| sender.to_string()),
        };
        let params = RecipientParams {
            notify: self.judged.filing.is_junk.then(Notify::default),
            ..RecipientParams::default()
        };
        let recipient = message::Recipient::new(to.to_string(), &params);
        let envelope = message::Envelope {
            id: self.shard.next_id(),
            smtp_utf8: !recipient.to.is_ascii()
                || sender.as_ref().is_some_and(|sender| !sender.is_ascii()),
            sender,
            account: owner.map(|owner| owner.home.address.clone()).or_else(|| self.writer.clone()),
            recipients: vec![recipient],
            arrived: crate::operations::unix_now(),
            octets: 0,
            eight_bit: false,
            ret_full: None,
            envid: None,
            require_tls: self.require_tls,
            tls_optional: false,
            ..message::Envelope::default()
        };
        let author = if owner.is_some() { Author::Stranger } else { Author::Ourselves };
        let mut submission = Submission::new(&self.shard, author, envelope, String::new());
        if let Some(owner) = owner {
            submission = submission.sealed_by(&owner.address).judged(String::new(), &self.judged);
        }
        let mut header = HeaderOnItsWay::default();
        let push = async |piece: &[u8]| {
            for part in header.without_return_path(piece) {
                submission.push(part).await?;
            }
            Ok(())
        };
        self.pour(owner, payload, push).await?;
        let durable = submission.finish().await?;
        permit.into_iter().for_each(Permit::used);
        Ok(durable)
    }

    /// That a script of this account may have one more message leave.
    async fn permit(&self, owner: &To) -> Result<Option<Permit>, NotSent> {
        Ok(submission::permit_script(&self.shard, &owner.home.address).await?)
    }

    /// The same for what is written in its owner's name, if it leaves at all.
    pub(super) async fn permit_note(
        &self,
        owner: &To,
        to: &Address,
    ) -> Result<Option<Permit>, NotSent> {
        match self.shard.directory.borrow().resolve(to.as_str()) {
            Resolution::NotOurs => {}
            Resolution::Local(_) | Resolution::NoSuchUser => return Ok(None),
        }
        self.permit(owner).await
    }

    /// The trace of a message that does not go in circles.
    async fn trace_of_finite(
        &self,
        owner: Option<&To>,
        payload: &Payload,
    ) -> Result<Trace, NotSent> {
        let trace = self.trace(owner, payload).await?;
        let is_endless = trace.received > self.shard.config.limits.received_headers_max
            || trace.delivered_to.len() >= CHAIN_MAX;
        if is_endless { Err(NotSent::Loop) } else { Ok(trace) }
    }

    /// Runs on the account's home shard.
    pub(super) async fn at_home<R, W, F>(&self, owner: &To, work: W) -> Result<R, Error>
    where
        R: Send + 'static,
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = Result<R, Error>> + 'static,
    {
        let answer = self.shard.mesh.ask(owner.home.shard, work).await;
        answer.unwrap_or_else(|Unreachable| Err(Error::Busy))
    }

    /// Into the mailbox of its owner, past all scripts.
    pub(super) async fn keep(
        &mut self,
        owner: &To,
        envelope: &Envelope,
        message: &[u8],
    ) -> Result<Durable, Failure> {
        let envelope = Arc::new(Envelope { scripts: false, ..envelope.clone() });
        let homes = std::iter::once(owner.home.shard);
        let mut intake = Intake::of_ours(&self.shard, homes);
        intake.push(message).await?;
        let recipients = std::slice::from_ref(owner);
        let (outcomes, _) = intake.finish(recipients, &[], &Stamp::default(), &envelope).await;
        match outcomes.into_iter().next() {
            Some(Ok(Filed { durable: Some(durable), places, .. })) => {
                self.having.insert(owner.home.account, durable);
                self.kept.push((owner.home.account, places));
                Ok(durable)
            }
            Some(Err(error)) => Err(Failure::Store(error)),
            Some(Ok(_)) | None => Err(Failure::Store(Error::Busy)),
        }
    }
}

/// The header of a message that goes by in pieces. `Return-Path` is the first field of what we have
/// delivered, but other fields may have been put in front.
#[derive(Default)]
struct HeaderOnItsWay {
    is_over: bool,
}

impl HeaderOnItsWay {
    /// The piece in parts, without that field. A field that is cut in two is left alone: those of a
    /// header stand at its beginning, and pieces are larger.
    fn without_return_path<'p>(&mut self, piece: &'p [u8]) -> Vec<&'p [u8]> {
        let mut parts = Vec::new();
        let (mut from, mut at) = (0, 0);
        if !self.is_over && !piece.is_empty() {
            for field in Fields::new(piece) {
                if field.is("Return-Path") {
                    parts.push(&piece[from..at]);
                    from = at + field.whole.len();
                }
                at += field.whole.len();
            }
            self.is_over = at < piece.len() || !piece.ends_with(b"\n");
        }
        parts.push(&piece[from..]);
        parts.retain(|part| !part.is_empty());
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::HeaderOnItsWay;

    fn without(pieces: &[&str]) -> String {
        let mut header = HeaderOnItsWay::default();
        let parts = pieces.iter().flat_map(|piece| header.without_return_path(piece.as_bytes()));
        String::from_utf8(parts.flatten().copied().collect()).unwrap()
    }

    #[test]
    fn a_return_path_stays_here() {
        assert_eq!(without(&["Return-Path: <a@b>\r\nSubject: x\r\n"]), "Subject: x\r\n");
        assert_eq!(without(&["return-path:\r\n", "A: b\r\n"]), "A: b\r\n");
        assert_eq!(
            without(&["A: b\r\nReturn-Path:\r\n <>\r\nC: d\r\n\r\nx"]),
            "A: b\r\nC: d\r\n\r\nx"
        );
        assert_eq!(without(&[""]), "");
    }

    #[test]
    fn a_return_path_behind_what_we_put_in_front_stays_here_too() {
        let pieces = ["Delivered-To: a@b\r\n", "", "X: y\r\n", "Return-Path: <>\r\nA: b\r\n\r\n"];
        assert_eq!(without(&pieces), "Delivered-To: a@b\r\nX: y\r\nA: b\r\n\r\n");
    }

    #[test]
    fn what_looks_like_one_in_the_text_leaves() {
        let pieces = ["A: b\r\n\r\n", "Return-Path: <>\r\n"];
        assert_eq!(without(&pieces), pieces.concat());
        let pieces = ["A: b\r\n", "\r\nReturn-Path: <>\r\n", "Return-Path: <>\r\n"];
        assert_eq!(without(&pieces), pieces.concat());
    }
}
