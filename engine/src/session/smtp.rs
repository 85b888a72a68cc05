//! SMTP, submission and LMTP: answers to the machine's events.
//!
//! Policy in the order of the transaction: may this sender send, does this recipient exist and have
//! room, will the store take a message now; then bytes into an [`Intake`], and at the end one outcome
//! for each recipient. The `250` is made from those outcomes alone.

use super::{Next, Session, login};
use crate::NOTICE;
use crate::auth::results;
use crate::auth::verdict::{Disposition, Verdict};
use crate::auth::verify::Question;
use crate::delivery::{Intake, Outcome, Scrutiny, Stamp, unix_millis};
use crate::directory::{Home, Resolution};
use crate::metrics::{Service, count};
use crate::shard::{Origin, Place, Shard};
use crate::wire::{Peer, Transport, Wire};
use protocols::Address;
use protocols::message::received::{Received, delivered_to, received, return_path};
use protocols::sasl::LoginOutcome;
use protocols::smtp::event::{Asked, Ended, Login};
use protocols::smtp::{Answer, Config, Event, MailParams, Refusal, Role, Smtp};
use protocols::{Machine, Outbox, Ticket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::{Durable, Error};

/// Domains that are asked for a postmaster, at the start of each session.
const POSTMASTERS_TRIED_MAX: usize = 16;

#[derive(Debug)]
pub struct SmtpSession {
    shard: Rc<Shard>,
    machine: Smtp<Durable>,
    role: Role,
    service: Service,
    /// Who is proving to know a password.
    proving: String,
    peer: Peer,
    tls: Option<String>,
    transaction: Transaction,
    _place: Place,
}

/// The envelope and, once it comes, the message.
#[derive(Debug, Default)]
struct Transaction {
    id: String,
    from: Option<Address>,
    declared_octets: u64,
    /// Octets of our own trace fields.
    head_octets: u64,
    recipients: Vec<Recipient>,
    intake: Option<Intake>,
    /// Why the message can't be taken, found while it came.
    failure: Option<Error>,
    /// What was found out about the sender, for the log.
    verdict: Option<Verdict>,
}

#[derive(Debug)]
struct Recipient {
    address: Address,
    homes: Vec<Home>,
}

impl SmtpSession {
    pub fn new(
        shard: &Rc<Shard>,
        service: Service,
        transport: &Transport,
        place: Place,
    ) -> SmtpSession {
        let role = match service {
            Service::Submission | Service::Submissions => Role::Submission,
            Service::Lmtp => Role::Lmtp,
            Service::Smtp | Service::Imap | Service::Imaps | Service::Pop3 | Service::Pop3s => {
                Role::Mx
            }
        };
        let config = Config {
            hostname: shard.config.hostname.clone(),
            postmaster_domain: postmaster_domain(shard),
            role,
            message_octets_max: shard.config.limits.message_bytes_max,
            recipients_max: shard.config.limits.recipients_max,
            tls_available: shard.tls().is_some(),
            plaintext_auth: shard.config.auth.plaintext_allowed,
        };
        SmtpSession {
            shard: Rc::clone(shard),
            machine: Smtp::new(Arc::new(config), transport.is_tls()),
            role,
            service,
            proving: String::new(),
            peer: transport.peer,
            tls: transport.tls_text(),
            transaction: Transaction::default(),
            _place: place,
        }
    }

    fn origin(&self) -> Origin {
        Origin { peer: self.peer.address, service: self.service }
    }

    async fn login(
        &mut self,
        credentials: protocols::sasl::Credentials,
        ticket: Ticket<Login>,
        outbox: &mut Outbox,
    ) {
        let outcome = match self
            .shard
            .verify_password(&credentials.user, &credentials.password, self.origin())
            .await
        {
            Ok(_) => LoginOutcome::Welcome,
            Err(error) => login::outcome(error),
        };
        self.machine.answer_login(ticket, outcome, &credentials.user.to_lowercase(), outbox);
    }

    fn mail(&mut self, from: Option<Address>, params: &MailParams) -> Result<(), Refusal> {
        self.shard.store.admit().map_err(|error| refusal(&error))?;
        if let Some(user) = self.machine.user() {
            self.check_sender(user, from.as_ref())?;
        }
        self.transaction = Transaction {
            id: self.shard.next_id(),
            from,
            declared_octets: params.size.unwrap_or(0),
            ..Transaction::default()
        };
        Ok(())
    }

    /// RFC 6409 section 6.1: who has logged in sends as themselves, or as an alias that reaches them.
    fn check_sender(&self, user: &str, from: Option<&Address>) -> Result<(), Refusal> {
        let Some(from) = from else { return Ok(()) };
        let directory = self.shard.directory.borrow();
        let own = directory.login(user).map(|(_, account)| account.id());
        let reaches = match directory.resolve(from.as_str()) {
            Resolution::Local(homes) => homes.iter().any(|home| Some(home.account) == own),
            Resolution::NoSuchUser | Resolution::NotOurs => false,
        };
        if reaches { Ok(()) } else { Err(Refusal::NOT_OWN_SENDER) }
    }

    async fn recipient(&mut self, address: Address) -> Result<(), Refusal> {
        let resolution = self.shard.directory.borrow().resolve(address.as_str());
        let homes = match resolution {
            Resolution::Local(homes) => homes,
            Resolution::NoSuchUser => return Err(Refusal::NO_SUCH_USER),
            Resolution::NotOurs => return Err(Refusal::RELAY_DENIED),
        };
        for home in &homes {
            self.check_quota(home, self.transaction.declared_octets).await?;
        }
        self.transaction.recipients.push(Recipient { address, homes });
        Ok(())
    }

    /// Asks the home shard, but only about accounts that have a quota: most recipients cost no hop.
    async fn check_quota(&self, home: &Home, octets: u64) -> Result<(), Refusal> {
        let limited = {
            let directory = self.shard.directory.borrow();
            let account = directory.account(&home.address);
            account.is_some_and(|account| {
                account.quota_bytes.is_some() || account.quota_messages.is_some()
            })
        };
        if !limited {
            return Ok(());
        }
        let account = home.account;
        let check = move |shard: Rc<Shard>| async move { shard.store.check_quota(account, octets) };
        match self.shard.mesh.ask(home.shard, check).await {
            Ok(answer) => answer.map_err(|error| refusal(&error)),
            Err(_) => Err(Refusal::BUSY),
        }
    }

    fn report_refused(&self, what: &str, from: &str, to: Option<&str>, why: &Refusal) {
        let (peer, service) = (self.peer.address, self.service.name());
        tracing::info!(target: NOTICE, %peer, service, from, to, reason = %why, "{what}");
    }

    fn begin_message(&mut self) -> Result<(), Refusal> {
        self.shard.store.admit().map_err(|error| refusal(&error))?;
        let scrutiny = self.scrutiny();
        let transaction = &mut self.transaction;
        let only = match transaction.recipients.as_slice() {
            [one] => Some(one.address.to_string()),
            _ => None,
        };
        let from = transaction.from.as_ref().map(ToString::to_string).unwrap_or_default();
        let head = return_path(&from)
            + &received(&Received {
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
            _ if !auth.verify => Scrutiny::None,
            Role::Mx if auth.trusted_networks.iter().any(|network| network.contains(peer)) => {
                Scrutiny::None
            }
            Role::Mx if self.machine.user().is_none() => Scrutiny::All,
            Role::Mx | Role::Submission => Scrutiny::Forgery,
        }
    }

    /// Asks the control plane who has sent the message, and awaits it until the deadline.
    async fn verify(&self, intake: &mut Intake, from: String) -> Result<Verdict, Error> {
        let evidence = intake.evidence().await?;
        let config = &self.shard.config;
        let question = Question {
            peer: self.peer.address.ip(),
            helo: self.machine.hello().to_owned(),
            mail_from: from,
            receiver: config.hostname.clone(),
            evidence,
            dmarc: config.auth.dmarc,
            received_spf: config.auth.received_spf,
            trusted_sealers: config.auth.trusted_sealers.clone(),
            deadline: Instant::now() + Duration::from_secs(config.auth.deadline_seconds),
        };
        let started = Instant::now();
        let verdict = self.shard.auth.ask(&self.shard, question).await;
        self.shard.metrics.verified(&verdict, started.elapsed());
        Ok(verdict)
    }

    async fn body(&mut self, bytes: &[u8]) {
        if self.transaction.failure.is_some() {
            return; // swallowed; refused at the end
        }
        if let Some(intake) = &mut self.transaction.intake
            && let Err(error) = intake.push(bytes).await
        {
            self.transaction.failure = Some(error);
            self.transaction.intake = None;
        }
    }

    async fn end(&mut self, ticket: Ticket<Ended>, outbox: &mut Outbox) {
        let started = Instant::now();
        let mut transaction = std::mem::take(&mut self.transaction);
        let octets = transaction.intake.as_ref().map_or(0, Intake::bytes);
        let id = transaction.id.clone();
        let from = transaction.from.as_ref().map(ToString::to_string).unwrap_or_default();
        let results = self.deliver(&mut transaction).await;
        let auth = transaction.verdict.as_ref().map(Verdict::brief);
        let auth = auth.as_deref();
        let metrics = &self.shard.metrics;
        for (address, result) in &results {
            match result {
                Ok(_) => {
                    tracing::info!(id, from, to = %address, octets, peer = %self.peer.address, auth, "accepted");
                }
                Err(refusal) => {
                    let (peer, service) = (self.peer.address, self.service.name());
                    tracing::info!(target: NOTICE, %peer, service, id, from, to = %address, octets, auth, reason = %refusal, "message refused");
                }
            }
        }
        let answers: Vec<Answer<Durable>> = match self.role {
            Role::Lmtp => results.into_iter().map(|(_, result)| answer(result, &id)).collect(),
            Role::Mx | Role::Submission => vec![answer(one_for_all(results), &id)],
        };
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

    /// Delivers to everybody's homes; one result for each recipient, in their order.
    async fn deliver(
        &self,
        transaction: &mut Transaction,
    ) -> Vec<(Address, Result<Durable, Refusal>)> {
        let recipients = std::mem::take(&mut transaction.recipients);
        let intake = transaction.intake.take();
        let Transaction { failure, head_octets, from, verdict, .. } = transaction;
        let refuse_all = |why: &Refusal, recipients: Vec<Recipient>| {
            recipients.into_iter().map(|recipient| (recipient.address, Err(why.clone()))).collect()
        };
        let Some(mut intake) = intake else {
            let why = failure.as_ref().map_or(Refusal::BUSY, refusal);
            return refuse_all(&why, recipients);
        };
        let trace = intake.trace();
        if trace.received > self.shard.config.limits.received_headers_max {
            return refuse_all(&Refusal::LOOP, recipients);
        }
        // Two recipients may share a home: it gets the message once.
        let mut homes: Vec<Home> =
            recipients.iter().flat_map(|recipient| recipient.homes.clone()).collect();
        homes.sort();
        homes.dedup_by_key(|home| home.account);
        // RFC 9228 section 4: what has been delivered to this address before is going in circles.
        homes.retain(|home| !trace.delivered_to.contains(&home.address));
        // SMTP has one reply for all: when somebody's mailbox is full, nobody may have the message yet, or
        // the others get it again with each try (RFC 5321 section 4.2.5). LMTP answers for each.
        if self.role != Role::Lmtp && homes.len() > 1 {
            for home in &homes {
                let octets =
                    *head_octets + intake.bytes() + delivered_to(&home.address).len() as u64;
                if let Err(why) = self.check_quota(home, octets).await {
                    return refuse_all(&why, recipients);
                }
            }
        }
        let mut stamp = Stamp::default();
        if intake.scrutiny() == Scrutiny::All {
            let from = from.as_ref().map(ToString::to_string).unwrap_or_default();
            let found = match self.verify(&mut intake, from.clone()).await {
                Ok(found) => verdict.insert(found),
                Err(error) => return refuse_all(&refusal(&error), recipients),
            };
            let mode = self.shard.config.auth.dmarc_of(&found.author_domain, &from);
            match found.disposition(mode) {
                Disposition::Reject => {
                    return refuse_all(&Refusal::POLICY.saying(found.refusal()), recipients);
                }
                Disposition::Junk => stamp.is_junk = true,
                Disposition::Deliver => {}
            }
            let hostname = &self.shard.config.hostname;
            stamp.fields = results::field(hostname, found, usize::MAX) + &found.received_spf;
            let taken = homes.iter().map(|home| delivered_to(&home.address).len()).max();
            let room = Stamp::BESIDE_BYTES_MAX.saturating_sub(taken.unwrap_or(0));
            stamp.beside = results::field(hostname, found, room);
            if stamp.beside.len() + found.received_spf.len() <= room {
                stamp.beside += &found.received_spf;
            }
        }
        let outcomes = intake.finish(&homes, &stamp).await;
        let outcome_of = |home: &Home| -> Result<Durable, Refusal> {
            match homes.iter().position(|other| other.account == home.account) {
                Some(at) => outcome(&outcomes[at]),
                None => Err(Refusal::LOOP),
            }
        };
        let result = |recipient: Recipient| {
            let results =
                recipient.homes.iter().map(|home| (recipient.address.clone(), outcome_of(home)));
            (recipient.address.clone(), one_for_all(results.collect()))
        };
        recipients.into_iter().map(result).collect()
    }

    fn forget(&mut self) {
        self.transaction = Transaction::default();
    }
}

/// Whose postmaster `<postmaster>` without a domain is (RFC 5321 section 4.5.1): that of the first domain
/// which has one.
fn postmaster_domain(shard: &Shard) -> String {
    let directory = shard.directory.borrow();
    let reached = |domain: &&String| {
        matches!(directory.resolve(&format!("postmaster@{domain}")), Resolution::Local(_))
    };
    let domains = || directory.domains().map(|(domain, _)| domain).take(POSTMASTERS_TRIED_MAX);
    let first = domains().find(reached).or_else(|| domains().next()).cloned();
    first.unwrap_or_else(|| shard.config.hostname.clone())
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

fn outcome(outcome: &Outcome) -> Result<Durable, Refusal> {
    match outcome {
        Ok(durable) => Ok(*durable),
        Err(error) => Err(refusal(error)),
    }
}

/// The store's errors, as a sender is told.
fn refusal(error: &Error) -> Refusal {
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

impl Session for SmtpSession {
    type Machine = Smtp<Durable>;
    /// SMTP sessions stay where they were accepted.
    type Luggage = std::convert::Infallible;

    fn machine(&mut self) -> &mut Smtp<Durable> {
        &mut self.machine
    }

    async fn answer(
        &mut self,
        event: <Self::Machine as Machine>::Event<'_>,
        wire: &mut Wire<'_>,
    ) -> Next {
        match event {
            Event::Body(bytes) => self.body(bytes).await,
            Event::Mail(from, params, ticket) => {
                let sender = from.as_ref().map(ToString::to_string).unwrap_or_default();
                let answer = self.mail(from, &params);
                if let Err(why) = &answer {
                    self.report_refused("sender refused", &sender, None, why);
                }
                self.machine.answer_command(ticket, answer, wire.outbox);
            }
            Event::Recipient(address, _params, ticket) => {
                let name = address.to_string();
                let answer = self.recipient(address).await;
                if let Err(why) = &answer {
                    let from = self.transaction.from.as_ref().map(ToString::to_string);
                    self.report_refused(
                        "recipient refused",
                        &from.unwrap_or_default(),
                        Some(&name),
                        why,
                    );
                }
                self.machine.answer_command(ticket, answer, wire.outbox);
            }
            Event::Data(ticket) => self.data(ticket, wire.outbox),
            Event::End(ticket) => self.end(ticket, wire.outbox).await,
            Event::Reset => self.forget(),
            Event::Login(credentials, ticket) => self.login(credentials, ticket, wire.outbox).await,
            Event::ScramKeys(user, ticket) => {
                let (keys, nonce) = login::scram_keys(&self.shard, &user);
                self.proving = user;
                self.machine.answer_keys(ticket, keys, &nonce, wire.outbox);
            }
            Event::Proved(user, ticket) => {
                count(&self.shard.metrics.logins);
                self.machine.answer_login(
                    ticket,
                    LoginOutcome::Welcome,
                    &user.to_lowercase(),
                    wire.outbox,
                );
            }
            Event::Disproved(ticket) => {
                let outcome = login::outcome(
                    login::disproved(&self.shard, &self.proving, self.origin()).await,
                );
                self.machine.answer_login(ticket, outcome, "", wire.outbox);
            }
        }
        Next::Continue
    }

    fn tls_started(&mut self, transport: &Transport) {
        self.tls = transport.tls_text();
    }

    fn input_ended(&mut self) {
        self.forget();
    }

    /// A message on its way may arrive; an envelope is soon said again, to the next server.
    fn in_transaction(&self) -> bool {
        self.transaction.intake.is_some() || self.transaction.failure.is_some()
    }

    fn goodbye(&self) -> &'static [u8] {
        b"421 4.3.2 Shutting down, try again later\r\n"
    }

    fn pack(self) -> Self::Luggage {
        unreachable!("SMTP sessions never answer MoveTo")
    }

    fn unpack(luggage: Self::Luggage, _: &Rc<Shard>) -> Self {
        match luggage {}
    }
}

impl SmtpSession {
    fn data(&mut self, ticket: Ticket<Asked>, outbox: &mut Outbox) {
        let answer = self.begin_message();
        if answer.is_err() {
            self.forget();
        }
        self.machine.answer_command(ticket, answer, outbox);
    }
}
