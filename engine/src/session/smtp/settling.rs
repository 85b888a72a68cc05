//! A message has arrived: one outcome for each recipient.
//!
//! What goes into the queue is asked everything first, then everybody at home gets it,
//! then it is queued.

use super::SmtpSession;
use super::arrival::{Recipient, Transaction, refusal};
use super::stages::Stages;
use crate::delivery::{self, Copies, Envelope, Failure, Judged, OwnName, Stamp, To};
use crate::directory::Home;
use crate::queue::intake::Submission;
use crate::scan;
use crate::scan::settings::Action;
use crate::submission::waiting::{self, Room};
use crate::submission::{self, NotNow};
use protocols::Address;
use protocols::message::received::delivered_to;
use protocols::smtp::{Refusal, Role};
use std::collections::BTreeSet;
use std::rc::Rc;
use storage::{AccountId, Durable};

/// What has become of a message at home.
struct AtHome {
    /// For each recipient, in their order; nothing where it is only forwarded.
    results: Vec<Result<Option<Durable>, Refusal>>,
    /// What was found out about it, in little room.
    fields: String,
    judged: Judged,
    copies: Copies,
}

impl SmtpSession {
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

    /// What goes into the queue is asked everything first, so that nobody has the message of which
    /// somebody is told to send it again. Then everybody at home gets it: what is in the queue may
    /// leave before the sender is answered.
    pub(super) async fn settle(
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
        let mut taken = None;
        if !recipients.is_empty() {
            let others = !outside.is_empty() || !forwarded.is_empty();
            let copies = forwarded.iter_mut().map(|(_, copy)| copy);
            let queued = submission.iter_mut().chain(copies).collect();
            let answers = match self.deliver(transaction, &recipients, others, queued).await {
                Ok(at_home) => {
                    let (answers, copies) = self.forward(at_home, forwarded).await;
                    let accounts =
                        |one: &Recipient| one.homes.iter().map(|home| home.account).collect();
                    taken = Some((copies, recipients.iter().map(accounts).collect()));
                    answers
                }
                Err(why) => recipients.iter().map(|_| Err(why.clone())).collect(),
            };
            let addresses = recipients.into_iter().map(|recipient| recipient.address);
            results.extend(addresses.zip(answers));
        }
        if outside.is_empty() {
            self.conclude(taken, &results).await;
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
        self.conclude(taken, &results).await;
        results
    }

    /// Who is told to send it again must not have got it to some: what was filed when the queue
    /// did not take its copy. `taken`: what was filed, and the accounts behind each of the
    /// first recipients.
    async fn conclude(
        &self,
        taken: Option<(Copies, Vec<BTreeSet<AccountId>>)>,
        results: &[(Address, Result<Durable, Refusal>)],
    ) {
        let Some((mut copies, accounts)) = taken else { return };
        let is_again = |result: &Result<Durable, Refusal>| {
            result.as_ref().is_err_and(|refusal| !refusal.is_permanent())
        };
        if !results.iter().any(|(_, result)| is_again(result)) {
            return copies.stay().await;
        }
        let answered = accounts.iter().zip(results);
        let served =
            answered.filter(|(_, (_, result))| self.role == Role::Lmtp && !is_again(result));
        let served: BTreeSet<AccountId> =
            served.flat_map(|(accounts, _)| accounts).copied().collect();
        copies.take_back(|account| !served.contains(&account)).await;
        copies.stay().await;
    }

    /// Sends on what is forwarded, once all homes have it. Where all share an answer nothing is
    /// sent that somebody refuses: who sends again sends to all again.
    async fn forward(
        &self,
        at_home: AtHome,
        forwarded: Vec<(usize, Submission)>,
    ) -> (Vec<Result<Durable, Refusal>>, Copies) {
        let AtHome { mut results, fields, judged, copies } = at_home;
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
        // No answer yet has what was not forwarded because somebody else refuses, and whom
        // another's copy reaches.
        let refused = results.iter().find_map(|result| result.as_ref().err().cloned());
        let taken = results.iter().find_map(|result| *result.as_ref().ok()?);
        let for_all = refused.map_or(taken.ok_or(Refusal::BUSY), Err);
        let answer =
            |result: Result<Option<Durable>, Refusal>| result?.map_or_else(|| for_all.clone(), Ok);
        (results.into_iter().map(answer).collect(), copies)
    }

    /// Asks of all copies for the queue what nobody else asks, and keeps room for those that are to
    /// wait there. The error is everybody's.
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

    /// Delivers to everybody's homes. `others`: on other hosts, who share the answer; `queued`: the
    /// copies for them. The error is everybody's.
    async fn deliver(
        &self,
        transaction: &mut Transaction,
        recipients: &[Recipient],
        others: bool,
        queued: Vec<&mut Submission>,
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
        // SMTP has one reply for all: when somebody's mailbox is full, nobody may have the
        // message yet, or the others get it again with each try (RFC 5321 section 4.2.5). LMTP
        // answers for each.
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
        let to = Rc::<[To]>::from(to);
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
        // Now that nothing slow is left to ask.
        for copy in queued {
            copy.keep_room().map_err(|error| refusal(&error))?;
        }
        let (outcomes, copies) = delivery::settle(intake, &to, &groups, &stamp, envelope).await;
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
        Ok(AtHome { results, fields: stamp.beside, judged, copies })
    }
}

impl Recipient {
    fn to(&self) -> impl Iterator<Item = To> {
        self.homes.iter().map(|home| To { home: home.clone(), address: self.address.clone() })
    }
}

/// One receipt stands for all; one failure for the worst: a refusal for good only when nobody could
/// have been served by another try.
pub(super) fn one_for_all(
    results: Vec<(Address, Result<Durable, Refusal>)>,
) -> Result<Durable, Refusal> {
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

fn outcome(outcome: &Result<Durable, Failure>) -> Result<Durable, Refusal> {
    match outcome {
        Ok(durable) => Ok(*durable),
        Err(Failure::Store(error)) => Err(refusal(error)),
        // RFC 5429 section 2.2.
        Err(Failure::Rejected(text)) => Err(Refusal::POLICY.saying(text.clone())),
    }
}
