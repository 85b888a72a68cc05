//! A message arrives: from DATA to its last octet, and the answer.
//!
//! The `250` is made from the outcomes of [`super::settling`] alone.

use super::SmtpSession;
use super::settling::one_for_all;
use crate::NOTICE;
use crate::auth::verdict::Verdict;
use crate::delivery::forwarding::Forward;
use crate::delivery::{Intake, Scrutiny, unix_millis};
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
use crate::submission::suspects::Suspected;
use crate::submission::{self, NotNow, Permit};
use protocols::message::received::{Received, received, return_path};
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

    /// What does not go at once waits in the queue, for those at home, too: from there it gets to
    /// them. Only what is forwarded has copies of its own.
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
        // In a box of its own, which a session needs no room for while it waits for
        // its next message.
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
}

fn answer(result: Result<Durable, Refusal>, id: &str) -> Answer<Durable> {
    match result {
        Ok(durable) => Answer::Accepted(durable, format!("Durable as {id}")),
        Err(refusal) => Answer::Refused(refusal),
    }
}

/// The store's errors, as a sender is told.
pub(super) fn refusal(error: &Error) -> Refusal {
    match error {
        Error::OverQuota => Refusal::MAILBOX_FULL,
        Error::Full(_) => Refusal::DISK_FULL,
        Error::Busy => Refusal::BUSY,
        Error::Limit(_) => Refusal::TOO_BIG,
        // The directory knows the account, or it would not have been asked for: its shard has lost
        // it, or it was removed this moment. Another try finds out which.
        Error::NoSuchAccount(_)
        | Error::Device(_)
        | Error::GivenUp(_)
        | Error::Halted
        | Error::Corrupt { .. }
        | Error::Read { .. }
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
