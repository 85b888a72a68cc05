//! A message arrives: from DATA to one outcome for each recipient.
//!
//! The `250` is made from those outcomes alone.

use super::SmtpSession;
use super::stages::Stages;
use crate::NOTICE;
use crate::auth::verdict::Verdict;
use crate::delivery::forwarding::Forward;
use crate::delivery::{
    self, Envelope, Failure, Intake, Judged, OwnName, Scrutiny, Stamp, To, unix_millis,
};
use crate::directory::Home;
use crate::filter::verdict::Verdict as SpamVerdict;
use crate::filter::written;
use crate::metrics::count;
use crate::operations::unix_now;
use crate::policy::settings::HoneypotAction;
use crate::queue::author::Author;
use crate::queue::intake::Submission;
use crate::queue::message::{self, RECIPIENTS_MAX};
use crate::reports;
use crate::scan;
use crate::scan::settings::Action;
use crate::submission::suspects::Suspected;
use crate::submission::waiting::{self, Room};
use crate::submission::{self, NotNow, Permit};
use protocols::message::received::{Received, delivered_to, received, return_path};
use protocols::smtp::event::{Asked, Ended};
use protocols::smtp::{Answer, MailParams, RecipientParams, Refusal, Ret, Role};
use protocols::{Address, Outbox, Ticket};
use std::time::Instant;
use storage::{Durable, Error};

/// The envelope and, once it comes, the message.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub(super) id: String,
    pub(super) from: Option<Address>,
    pub(super) declared_octets: u64,
    /// Octets of the message so far.
    pub(super) octets: u64,
    /// Octets of our own trace fields.
    pub(super) head_octets: u64,
    pub(super) params: MailParams,
    pub(super) recipients: Vec<Recipient>,
    /// Recipients on other hosts.
    pub(super) outside: Vec<(Address, RecipientParams)>,
    pub(super) intake: Option<Intake>,
    /// The copy for them.
    pub(super) submission: Option<Submission>,
    /// Copies for those to whom recipients of ours are forwarded; the recipient's index.
    pub(super) forwarded: Vec<(usize, Submission)>,
    /// Why the message can't be taken, found while it came.
    pub(super) failure: Option<Error>,
    /// That it may be sent, of somebody who has logged in.
    pub(super) permit: Option<Permit>,
    /// Why it is held, if it is: somebody else may be sending it.
    pub(super) suspected: Option<Suspected>,
    /// When it is to leave, Unix seconds, if not at once.
    pub(super) release_at: Option<u64>,
    /// What was found out about the sender, for the log.
    pub(super) verdict: Option<Verdict>,
    /// Whether it looks like spam.
    pub(super) spam: Option<SpamVerdict>,
    /// And about viruses and attachments.
    pub(super) scan: Option<scan::verdict::Findings>,
}

#[derive(Debug)]
pub(super) struct Recipient {
    pub(super) address: Address,
    pub(super) params: RecipientParams,
    pub(super) homes: Vec<Home>,
    pub(super) forward: Option<Forward>,
}

/// What has become of a message at home.
struct AtHome {
    /// For each recipient, in their order; nothing where it is only forwarded.
    results: Vec<Result<Option<Durable>, Refusal>>,
    /// What was found out about it, in little room.
    fields: String,
    judged: Judged,
}

impl Transaction {
    /// Of the copy for other hosts.
    fn envelope(&self, user: Option<&str>) -> message::Envelope {
        let recipient = |(to, params): &(Address, RecipientParams)| {
            message::Recipient::new(to.to_string(), params)
        };
        message::Envelope {
            id: self.id.clone(),
            sender: self.from.as_ref().map(ToString::to_string),
            account: user.map(str::to_owned),
            recipients: self.outside.iter().map(recipient).collect(),
            arrived: unix_now(),
            octets: 0,
            eight_bit: false,
            smtp_utf8: self.params.smtp_utf8,
            ret_full: self.params.ret.map(|ret| ret == Ret::Full),
            envid: self.params.envid.clone(),
            require_tls: self.params.require_tls,
            tls_optional: false,
            release_at: self.release_at,
            suspected: self.suspected.as_ref().map(|held| held.why.clone()),
            suspicion: self.suspected.as_ref().map_or(0, |held| held.number),
            by_login: user.is_some(),
        }
    }

    /// What does not go at once waits in the queue, for those at home, too: from there it gets to them. Only what is forwarded
    /// has copies of its own.
    fn leave_for_later(&mut self) {
        for recipient in &mut self.recipients {
            if !recipient.homes.is_empty() {
                recipient.homes.clear();
                self.outside.push((recipient.address.clone(), recipient.params.clone()));
            }
        }
        self.recipients.retain(|recipient| recipient.forward.is_some());
    }
}

impl SmtpSession {
    pub(super) async fn data(&mut self, ticket: Ticket<Asked>, outbox: &mut Outbox) {
        let answer = match self.permit().await {
            Ok(()) => self.begin_message(),
            Err(why) => Err(why),
        };
        if answer.is_err() {
            self.forget();
        }
        self.machine.answer_command(ticket, answer, outbox);
    }

    /// Who has logged in sends no more than they may.
    async fn permit(&mut self) -> Result<(), Refusal> {
        let Some(user) = self.machine.user() else { return Ok(()) };
        self.check_login()?;
        let Transaction { recipients, outside, .. } = &self.transaction;
        let at_home = recipients.iter().map(|one| one.address.to_string());
        let message = submission::Message {
            user,
            recipients: at_home.chain(outside.iter().map(|(to, _)| to.to_string())).collect(),
            at_home: recipients.iter().filter(|one| !one.homes.is_empty()).count(),
            refused: self.refused,
            peer: self.peer.address.ip(),
        };
        let permit = submission::permit(&self.shard, message).await;
        let (permit, suspected) = permit.map_err(NotNow::refusal)?;
        self.refused = 0;
        let transaction = &mut self.transaction;
        (transaction.permit, transaction.suspected) = (permit, suspected);
        Ok(())
    }

    fn begin_message(&mut self) -> Result<(), Refusal> {
        if self.trapped == Some(HoneypotAction::Refuse) {
            return Err(Refusal::POLICY);
        }
        self.shard.store.admit().map_err(|error| refusal(&error))?;
        let scrutiny = self.scrutiny();
        let transaction = &mut self.transaction;
        if transaction.release_at.is_some() || transaction.suspected.is_some() {
            transaction.leave_for_later();
            if transaction.outside.len() > RECIPIENTS_MAX {
                return Err(Refusal::TOO_MANY_RECIPIENTS);
            }
        }
        let only = match (transaction.recipients.as_slice(), transaction.outside.as_slice()) {
            ([one], []) => Some(one.address.to_string()),
            ([], [(one, _)]) => Some(one.to_string()),
            _ => None,
        };
        let from = transaction.from.as_ref().map(ToString::to_string).unwrap_or_default();
        let trace = received(&Received {
            helo: self.machine.hello(),
            peer: self.peer.address.ip(),
            peer_name: None,
            by: &self.shard.config.hostname,
            with: self.machine.protocol(),
            tls: self.tls.as_deref(),
            id: &transaction.id,
            recipient: only.as_deref(),
            unix_millis: unix_millis().0,
        });
        if !transaction.outside.is_empty() {
            let envelope = transaction.envelope(self.machine.user());
            let submission = Submission::new(&self.shard, Author::Account, envelope, trace.clone());
            if transaction.recipients.is_empty() {
                transaction.submission = Some(submission.scanned());
                return Ok(());
            }
            transaction.submission = Some(submission);
        }
        for (index, recipient) in transaction.recipients.iter().enumerate() {
            if let Some(forward) = &recipient.forward {
                let envelope = transaction.envelope(self.machine.user());
                let copy = forward.begin(&self.shard, envelope, &recipient.address, &trace);
                transaction.forwarded.push((index, copy));
            }
        }
        let head = return_path(&from) + &trace;
        transaction.head_octets = head.len() as u64;
        let homes = transaction
            .recipients
            .iter()
            .flat_map(|recipient| &recipient.homes)
            .map(|home| home.shard);
        let octets = transaction.declared_octets;
        transaction.intake = Some(Intake::new(&self.shard, homes, &head, octets, scrutiny));
        Ok(())
    }

    fn scrutiny(&self) -> Scrutiny {
        let auth = &self.shard.config.auth;
        let peer = self.peer.address.ip();
        match self.role {
            Role::Lmtp => Scrutiny::None,
            _ if !auth.verify && !self.shard.config.spam.enabled => Scrutiny::None,
            Role::Mx if auth.trusted_networks.iter().any(|network| network.contains(peer)) => {
                Scrutiny::None
            }
            Role::Mx if self.machine.user().is_none() => Scrutiny::All,
            Role::Mx | Role::Submission => Scrutiny::Forgery,
        }
    }

    pub(super) async fn body(&mut self, bytes: &[u8]) {
        if self.transaction.failure.is_some() {
            return; // swallowed; refused at the end
        }
        let transaction = &mut self.transaction;
        let pushed = async {
            if let Some(intake) = &mut transaction.intake {
                intake.push(bytes).await?;
            }
            let copies = transaction.forwarded.iter_mut().map(|(_, copy)| copy);
            for submission in transaction.submission.iter_mut().chain(copies) {
                submission.push(bytes).await?;
            }
            Ok::<(), Error>(())
        };
        let pushed = pushed.await;
        transaction.octets += bytes.len() as u64;
        if let Err(error) = pushed {
            transaction.failure = Some(error);
            transaction.intake = None;
            transaction.submission = None;
            transaction.forwarded.clear();
        }
    }

    pub(super) async fn end(&mut self, ticket: Ticket<Ended>, outbox: &mut Outbox) {
        let started = Instant::now();
        let mut transaction = std::mem::take(&mut self.transaction);
        let octets = transaction.octets;
        let id = transaction.id.clone();
        let from = transaction.from.as_ref().map(ToString::to_string).unwrap_or_default();
        // In a box of its own, which a session needs no room for while it waits for its next message.
        let results = Box::pin(self.settle(&mut transaction)).await;
        let auth = transaction.verdict.as_ref().map(Verdict::brief);
        let auth = auth.as_deref();
        let spam = transaction.spam.as_ref().map(SpamVerdict::brief);
        let spam = spam.as_deref();
        let scan = transaction.scan.as_ref().and_then(scan::verdict::Findings::brief);
        let scan = scan.as_deref();
        let metrics = &self.shard.metrics;
        for (address, result) in &results {
            match result {
                Ok(_) => {
                    tracing::info!(id, from, to = %address, octets, peer = %self.peer.address, auth, spam, scan, "accepted");
                }
                Err(refusal) => {
                    let (peer, service) = (self.peer.address, self.service.name());
                    tracing::info!(target: NOTICE, %peer, service, id, from, to = %address, octets, auth, spam, scan, reason = %refusal, "message refused");
                }
            }
        }
        if let Some(user) = self.machine.user() {
            let sent = results.iter().filter(|(_, result)| result.is_ok());
            if let Some(permit) =
                transaction.permit.take().filter(|_| sent.clone().next().is_some())
            {
                permit.used();
            }
            // Else whoever has the password makes friends of all the world.
            if transaction.suspected.is_none() {
                written::learn(&self.shard, user, sent.map(|(address, _)| address.as_str()));
            }
        }
        let answers: Vec<Answer<Durable>> = match self.role {
            Role::Lmtp => results.into_iter().map(|(_, result)| answer(result, &id)).collect(),
            Role::Mx | Role::Submission => vec![answer(one_for_all(results), &id)],
        };
        let is_settled = |answer: &Answer<Durable>| match answer {
            Answer::Accepted(..) => true,
            Answer::Refused(refusal) => refusal.is_permanent(),
        };
        if let Some(verdict) =
            transaction.verdict.as_mut().filter(|_| answers.iter().all(is_settled))
        {
            let mode = self.shard.config.auth.dmarc_of(&verdict.author_domain, &from);
            let done = verdict.disposition(mode);
            reports::count(&self.shard, verdict, done);
        }
        for answer in &answers {
            match answer {
                Answer::Accepted(..) => metrics.accepted(started.elapsed()),
                Answer::Refused(refusal) if refusal.is_permanent() => {
                    count(&metrics.messages_rejected)
                }
                Answer::Refused(_) => count(&metrics.messages_deferred),
            }
        }
        self.machine.answer_end(ticket, answers, outbox);
    }

    /// Who shares an answer: over LMTP the accounts behind one recipient, otherwise everybody.
    fn groups(&self, recipients: &[Recipient], to: &[To]) -> Vec<Vec<usize>> {
        let place = |home: &Home| to.iter().position(|to| to.home.account == home.account);
        match self.role {
            Role::Lmtp => {
                let of = |recipient: &Recipient| recipient.homes.iter().filter_map(place).collect();
                recipients.iter().map(of).collect()
            }
            Role::Mx | Role::Submission => vec![(0..to.len()).collect()],
        }
    }

    /// What goes into the queue is asked everything first, so that nobody has the message of which somebody is told to send it
    /// again. Then everybody at home gets it: what is in the queue may leave before the sender is answered.
    async fn settle(
        &self,
        transaction: &mut Transaction,
    ) -> Vec<(Address, Result<Durable, Refusal>)> {
        let outside = std::mem::take(&mut transaction.outside);
        let recipients = std::mem::take(&mut transaction.recipients);
        let mut submission = transaction.submission.take();
        let mut forwarded = std::mem::take(&mut transaction.forwarded);
        let admitted = self.admit(transaction, submission.as_mut(), &mut forwarded).await;
        // Counts until the messages are among those that wait.
        let _rooms = match admitted {
            Ok(rooms) => rooms,
            Err(why) => {
                let homes = recipients.into_iter().map(|recipient| recipient.address);
                let all = homes.chain(outside.into_iter().map(|(address, _)| address));
                return all.map(|address| (address, Err(why.clone()))).collect();
            }
        };
        let mut results = Vec::new();
        if !recipients.is_empty() {
            let others = !outside.is_empty() || !forwarded.is_empty();
            let answers = match self.deliver(transaction, &recipients, others).await {
                Ok(at_home) => self.forward(at_home, forwarded).await,
                Err(why) => recipients.iter().map(|_| Err(why.clone())).collect(),
            };
            let addresses = recipients.into_iter().map(|recipient| recipient.address);
            results.extend(addresses.zip(answers));
        }
        if outside.is_empty() {
            return results;
        }
        // One answer for all: who is told to send again sends to all again.
        let refused = results.iter().find_map(|(_, result)| result.as_ref().err().cloned());
        let queued = match (submission, refused) {
            (Some(submission), None) => submission.finish().await.map_err(|error| refusal(&error)),
            (_, Some(why)) => Err(why),
            (None, None) => Err(transaction.failure.as_ref().map_or(Refusal::BUSY, refusal)),
        };
        results.extend(outside.into_iter().map(|(address, _)| (address, queued.clone())));
        results
    }

    /// Sends on what is forwarded, once all homes have it. Where all share an answer nothing is sent that somebody refuses: who
    /// sends again sends to all again.
    async fn forward(
        &self,
        at_home: AtHome,
        forwarded: Vec<(usize, Submission)>,
    ) -> Vec<Result<Durable, Refusal>> {
        let AtHome { mut results, fields, judged } = at_home;
        for (index, submission) in forwarded {
            let is_refused = match self.role {
                Role::Lmtp => results[index].is_err(),
                Role::Mx | Role::Submission => results.iter().any(Result::is_err),
            };
            if !is_refused {
                let copy = submission.judged(fields.clone(), &judged);
                let queued = copy.finish().await;
                results[index] = queued.map(Some).map_err(|error| refusal(&error));
            }
        }
        // No answer yet has what was not forwarded because somebody else refuses, and whom another's copy reaches.
        let refused = results.iter().find_map(|result| result.as_ref().err().cloned());
        let taken = results.iter().find_map(|result| *result.as_ref().ok()?);
        let for_all = refused.map_or(taken.ok_or(Refusal::BUSY), Err);
        results.into_iter().map(|result| result?.map_or_else(|| for_all.clone(), Ok)).collect()
    }

    /// Asks of all copies for the queue what nobody else asks, and keeps room for those that are to wait there. The error is
    /// everybody's.
    async fn admit(
        &self,
        transaction: &mut Transaction,
        submission: Option<&mut Submission>,
        forwarded: &mut [(usize, Submission)],
    ) -> Result<Vec<Room>, Refusal> {
        let mut rooms = Vec::new();
        if let Some(submission) = submission {
            let claimed = submission.claimed();
            if let Some(user) = self.machine.user().filter(|_| !claimed.is_empty()) {
                let held = submission::claims(&self.shard, user, claimed).await;
                transaction.suspected = transaction.suspected.take().or_else(|| held.clone());
                submission.hold(held);
            }
            self.check_findings(submission, &mut transaction.scan).await?;
            rooms.extend(self.room(submission).await?);
        }
        for (_, copy) in forwarded {
            rooms.extend(self.room(copy).await?);
        }
        Ok(rooms)
    }

    /// Of a message that nobody at home gets, and looks at.
    async fn check_findings(
        &self,
        submission: &mut Submission,
        scanned: &mut Option<scan::verdict::Findings>,
    ) -> Result<(), Refusal> {
        let found = submission.findings().await.map_err(|error| refusal(&error))?;
        let Some(found) = found else { return Ok(()) };
        let found = scanned.insert(found);
        let (action, words) = found.action(&self.shard.config.scan);
        match action {
            Action::Reject => Err(Refusal::POLICY.saying(words)),
            // What leaves can't be kept back.
            Action::Quarantine => Err(found.refusal(&self.shard.config.scan, words)),
            Action::Defer => Err(Refusal::BUSY.saying(words)),
            // What leaves is not changed, and files itself nowhere.
            Action::Junk | Action::Mark => Ok(()),
        }
    }

    /// For a copy that does not go in circles, if it is to wait.
    async fn room(&self, submission: &mut Submission) -> Result<Option<Room>, Refusal> {
        // We are one more.
        if submission.received() >= self.shard.config.limits.received_headers_max {
            return Err(Refusal::LOOP);
        }
        match submission.waits() {
            Some((user, octets)) => {
                waiting::reserve(&self.shard, &user, octets).await.map_err(NotNow::refusal)
            }
            None => Ok(None),
        }
    }

    /// Delivers to everybody's homes. `others`: on other hosts, who share the answer. The error is everybody's.
    async fn deliver(
        &self,
        transaction: &mut Transaction,
        recipients: &[Recipient],
        others: bool,
    ) -> Result<AtHome, Refusal> {
        let intake = transaction.intake.take();
        let require_tls = transaction.params.require_tls;
        let Transaction { id, failure, head_octets, from, verdict, spam, scan: scanned, .. } =
            transaction;
        let Some(mut intake) = intake else {
            return Err(failure.as_ref().map_or(Refusal::BUSY, refusal));
        };
        let trace = intake.trace();
        // Ours is among them.
        if trace.received > self.shard.config.limits.received_headers_max {
            return Err(Refusal::LOOP);
        }
        // What was forwarded from here under this name and is back.
        let is_back = |recipient: &Recipient| {
            let forward = recipient.forward.as_ref();
            forward.is_some_and(|forward| trace.delivered_to.contains(&forward.name))
        };
        // SMTP has one reply for all: who is told of a loop must not have got it to others.
        if self.role != Role::Lmtp && recipients.iter().any(is_back) {
            return Err(Refusal::LOOP);
        }
        // Two recipients may share a home: it gets the message once.
        let finite = recipients.iter().filter(|one| !is_back(one));
        let mut to: Vec<To> = finite.flat_map(Recipient::to).collect();
        to.sort_by(|one, other| one.home.cmp(&other.home));
        to.dedup_by_key(|to| to.home.account);
        // RFC 9228 section 4: what has been delivered to this address before is going in circles.
        to.retain(|to| !trace.delivered_to.contains(&to.home.address));
        // SMTP has one reply for all: when somebody's mailbox is full, nobody may have the message yet, or
        // the others get it again with each try (RFC 5321 section 4.2.5). LMTP answers for each.
        if self.role != Role::Lmtp && to.len() > 1 {
            for To { home, .. } in &to {
                let octets =
                    *head_octets + intake.bytes() + delivered_to(&home.address).len() as u64;
                self.check_quota(home, octets).await?;
            }
        }
        // It works while the sender is looked up.
        let scan = intake.scan().await.map_err(|error| refusal(&error))?;
        let taken = to.iter().map(|to| delivered_to(&to.home.address).len()).max().unwrap_or(0);
        let reserved = if scan.is_some() { scan::verdict::FIELD_BYTES_MAX } else { 0 };
        let mut stamp = Stamp::default();
        let sender = from.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut stages = Stages {
            from: &sender,
            recipients,
            room: Stamp::BESIDE_BYTES_MAX.saturating_sub(taken + reserved),
            stamp: &mut stamp,
            judged: Judged::default(),
        };
        let second = self.ask_second(&mut intake, &stages, id).await?;
        self.authenticate(&mut intake, &mut stages, verdict).await?;
        self.score(&mut intake, &mut stages, verdict.as_ref(), second, spam).await?;
        if let Some(scan) = scan {
            stages.room += reserved;
            self.scanned(scan, &mut stages, verdict.as_ref(), scanned, others).await?;
        }
        let judged = stages.judged;
        let forwards = recipients.iter().any(|one| one.forward.is_some());
        match judged.own_name {
            OwnName::Unknown if forwards => return Err(Refusal::BUSY),
            OwnName::Forged if forwards => {
                let words = "From names a domain of ours, or none, and DMARC does not prove it: not forwarded";
                return Err(Refusal::POLICY.saying(words.to_owned()));
            }
            _ => {}
        }
        // Nothing that leaves can be kept back.
        if forwards && judged.filing.kept.is_some() {
            return Err(Refusal::POLICY.saying("Not forwarded: it looks unwanted".to_owned()));
        }
        let groups = self.groups(recipients, &to);
        let envelope = Envelope {
            id: id.clone(),
            sender: from.clone(),
            peer: Some(self.peer.address.ip()),
            judged: judged.clone(),
            scripts: true,
            alone: !others && groups.iter().all(|group| group.len() <= 1),
            others,
            require_tls,
            collected: None,
            once: None,
        };
        let outcomes = delivery::settle(intake, &to, &groups, &stamp, envelope).await;
        let outcome_of = |home: &Home| -> Result<Durable, Refusal> {
            match to.iter().position(|other| other.home.account == home.account) {
                Some(at) => outcome(&outcomes[at]),
                None => Err(Refusal::LOOP),
            }
        };
        let result = |recipient: &Recipient| {
            if is_back(recipient) {
                return Err(Refusal::LOOP);
            }
            if recipient.homes.is_empty() {
                return Ok(None);
            }
            let results =
                recipient.homes.iter().map(|home| (recipient.address.clone(), outcome_of(home)));
            one_for_all(results.collect()).map(Some)
        };
        let results = recipients.iter().map(result).collect();
        Ok(AtHome { results, fields: stamp.beside, judged })
    }
}

impl Recipient {
    fn to(&self) -> impl Iterator<Item = To> {
        self.homes.iter().map(|home| To { home: home.clone(), address: self.address.clone() })
    }
}

/// One receipt stands for all; one failure for the worst: a refusal for good only when nobody could
/// have been served by another try.
fn one_for_all(results: Vec<(Address, Result<Durable, Refusal>)>) -> Result<Durable, Refusal> {
    let mut answer = Err(Refusal::NO_STORE);
    let mut refused: Option<Refusal> = None;
    for (_, result) in results {
        match result {
            Ok(durable) => answer = Ok(durable),
            Err(refusal) if refusal.is_permanent() => refused = refused.or(Some(refusal)),
            Err(refusal) => refused = Some(refusal),
        }
    }
    match refused {
        Some(refusal) => Err(refusal),
        None => answer,
    }
}

fn answer(result: Result<Durable, Refusal>, id: &str) -> Answer<Durable> {
    match result {
        Ok(durable) => Answer::Accepted(durable, format!("Durable as {id}")),
        Err(refusal) => Answer::Refused(refusal),
    }
}

fn outcome(outcome: &Result<Durable, Failure>) -> Result<Durable, Refusal> {
    match outcome {
        Ok(durable) => Ok(*durable),
        Err(Failure::Store(error)) => Err(refusal(error)),
        // RFC 5429 section 2.2.
        Err(Failure::Rejected(text)) => Err(Refusal::POLICY.saying(text.clone())),
    }
}

/// The store's errors, as a sender is told.
pub(super) fn refusal(error: &Error) -> Refusal {
    match error {
        Error::OverQuota => Refusal::MAILBOX_FULL,
        Error::Full(_) => Refusal::DISK_FULL,
        Error::Busy => Refusal::BUSY,
        Error::Limit(_) => Refusal::TOO_BIG,
        // The directory knows the account, or it would not have been asked for: its shard has lost it, or it
        // was removed this moment. Another try finds out which.
        Error::NoSuchAccount(_)
        | Error::Device(_)
        | Error::GivenUp(_)
        | Error::Halted
        | Error::Corrupt { .. }
        | Error::AccountExists(_)
        | Error::NoSuchMailbox(_)
        | Error::NoSuchMailboxName(_)
        | Error::MailboxExists(_)
        | Error::MailboxName(..)
        | Error::NoSuchMessage(_)
        | Error::ReadOnly(_)
        | Error::NotRemembered(_)
        | Error::Options(_)
        | Error::Open { .. } => Refusal::NO_STORE,
    }
}
