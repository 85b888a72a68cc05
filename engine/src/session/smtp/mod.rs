//! SMTP, submission and LMTP: answers to the machine's events.
//!
//! Policy in the order of the transaction: may this sender send, does this recipient exist and have
//! room, will the store take a message now; then [`arrival`]: bytes into an intake; at the end
//! [`settling`]: one outcome for each recipient. What it has to pass before that: [`stages`], and
//! of these [`scoring`]. Of a gateway that speaks on others' behalf: [`gateway`].

mod arrival;
mod gateway;
mod scoring;
mod settling;
mod stages;

use super::{Next, Session, login};
use crate::NOTICE;
use crate::delivery::forwarding::{self, FORWARDS_MAX, Forward};
use crate::directory::{Home, Reached, Resolution};
use crate::metrics::{Service, count};
use crate::operations::unix_now;
use crate::policy::screening::Offence;
use crate::policy::settings::HoneypotAction;
use crate::policy::{connect, greeting, honeypot};
use crate::queue::message::RECIPIENTS_MAX;
use crate::relay::srs;
use crate::shard::{Origin, Place, Shard};
use crate::submission;
use crate::wire::{Peer, Transport, Wire};
use arrival::{Recipient, Transaction, refusal};
use protocols::Address;
use protocols::sasl::LoginOutcome;
use protocols::smtp::event::Login;
use protocols::smtp::{Config, Event, MailParams, RecipientParams, Refusal, Release, Role, Smtp};
use protocols::{Machine, Outbox, Ticket};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use storage::Durable;

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
    /// For each of `policy.dns_lists`, whether the client is on it; once somebody has asked.
    listed: Option<Vec<bool>>,
    /// It spoke before it was greeted.
    is_early: bool,
    /// It has written to an address that nobody has reason to write to.
    trapped: Option<HoneypotAction>,
    /// Recipients named by who has logged in that do not exist, since the last message.
    refused: u32,
    /// With which of its passwords the account has logged in.
    password: Option<[u8; 32]>,
    /// A gateway has said for whom it speaks.
    has_spoken_for: bool,
    place: Place,
}

impl SmtpSession {
    pub fn new(
        shard: &Rc<Shard>,
        service: Service,
        transport: &Transport,
        place: Place,
        is_early: bool,
    ) -> SmtpSession {
        let role = match service {
            Service::Submission | Service::Submissions => Role::Submission,
            Service::Lmtp => Role::Lmtp,
            Service::Smtp
            | Service::Imap
            | Service::Imaps
            | Service::Pop3
            | Service::Pop3s
            | Service::ManageSieve => Role::Mx,
        };
        let config = Config {
            hostname: shard.config.hostname.clone(),
            postmaster_domain: postmaster_domain(shard),
            role,
            message_octets_max: shard.config.limits.message_bytes_max,
            recipients_max: shard.config.limits.recipients_max,
            tls_available: shard.tls().is_some(),
            plaintext_auth: shard.config.auth.plaintext_allowed,
            future_release: shard.config.submission.future_release(&shard.config.relay, unix_now()),
            xclient: gateway::is_one(shard, service, transport.peer.address.ip()),
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
            listed: None,
            is_early,
            trapped: None,
            refused: 0,
            password: None,
            has_spoken_for: false,
            place,
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
        // Before it is checked: whoever proves an old one while it is changed is out with
        // the next message.
        self.password = self.password_of(&credentials.user);
        let outcome = match self
            .shard
            .verify_password(&credentials.user, &credentials.password, self.origin())
            .await
        {
            Ok(_) => LoginOutcome::Welcome,
            Err(error) => login::outcome(error),
        };
        let user = self.name_of(&credentials.user);
        self.machine.answer_login(ticket, outcome, &user, outbox);
    }

    /// An account by its address, however the client writes it.
    fn name_of(&self, user: &str) -> String {
        let directory = self.shard.directory.borrow();
        directory.login(user).map_or_else(|| user.to_lowercase(), |(name, _)| name.to_owned())
    }

    fn password_of(&self, user: &str) -> Option<[u8; 32]> {
        let directory = self.shard.directory.borrow();
        directory.login(user).map(|(_, account)| account.password.scram.stored_key)
    }

    /// Whoever has logged in sends no longer than the account and its password last.
    fn check_login(&self) -> Result<(), Refusal> {
        let Some(user) = self.machine.user() else { return Ok(()) };
        if self.password.is_some() && self.password_of(user) == self.password {
            return Ok(());
        }
        let words = "The account's password has changed, log in again";
        Err(Refusal::STOPPING.saying(words.to_owned()))
    }

    fn mail(&mut self, from: Option<Address>, params: &MailParams) -> Result<(), Refusal> {
        self.look_for_client();
        self.shard.store.admit().map_err(|error| refusal(&error))?;
        self.check_login()?;
        if let Some(user) = self.machine.user() {
            self.check_sender(user, from.as_ref())?;
        }
        self.transaction = Transaction {
            id: self.shard.next_id(),
            from,
            declared_octets: params.size.unwrap_or(0),
            params: params.clone(),
            release_at: params.release.and_then(|release| later(release, unix_now())),
            ..Transaction::default()
        };
        Ok(())
    }

    fn check_sender(&self, user: &str, from: Option<&Address>) -> Result<(), Refusal> {
        let directory = self.shard.directory.borrow();
        match from {
            Some(from) if !directory.may_send_as(user, from.as_str()) => {
                Err(Refusal::NOT_OWN_SENDER)
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn recipient(
        &mut self,
        address: Address,
        params: RecipientParams,
    ) -> Result<(), Refusal> {
        let is_honeypot = self.is_stranger() && honeypot::is_one(&self.shard, address.as_str());
        if is_honeypot && self.transaction.from.is_none() {
            // What comes back to it: somebody has put it into `MAIL FROM`, and an honest server
            // tells of a failure.
            return Err(Refusal::NO_SUCH_USER);
        }
        if is_honeypot {
            let action = honeypot::spring(&self.shard, self.peer.address, address.as_str());
            self.trapped = Some(action);
            if action == HoneypotAction::Refuse {
                return Err(Refusal::NO_SUCH_USER);
            }
        } else if self.trapped == Some(HoneypotAction::Refuse) {
            return Err(Refusal::POLICY);
        }
        let resolution = match forwarding::stands_for(&self.shard, &address) {
            None => self.shard.directory.borrow().resolve(address.as_str()),
            Some(original) => self.returned(original)?,
        };
        let reached = match resolution {
            Resolution::Local(reached) => reached,
            Resolution::NoSuchUser => {
                if self.is_stranger() {
                    connect::note(&self.shard, self.peer.address.ip(), Offence::UnknownRecipient);
                }
                if self.machine.user().is_some() {
                    self.refused = self.refused.saturating_add(1);
                }
                return Err(Refusal::NO_SUCH_USER);
            }
            Resolution::NotOurs if self.may_relay() => {
                if self.transaction.outside.len() >= RECIPIENTS_MAX {
                    return Err(Refusal::TOO_MANY_RECIPIENTS);
                }
                self.transaction.outside.push((address, params));
                return Ok(());
            }
            Resolution::NotOurs => return Err(Refusal::RELAY_DENIED),
        };
        self.check_lists().await?;
        let homes: Vec<Home> = reached.homes.iter().cloned().collect();
        let mut forward = Forward::of(&address, &reached, &params);
        if !self.shard.config.relay.enabled && forward.is_some() {
            tracing::warn!(to = %address, "not forwarded: nothing leaves this host ([relay] enabled = false)");
            if homes.is_empty() {
                return Err(Refusal::RELAY_DENIED);
            }
            forward = None;
        }
        // Who is in two of them gets it once.
        for other in &self.transaction.recipients {
            let covered = |one: Forward| one.without(other.forward.as_ref());
            forward = forward.and_then(covered);
        }
        if forward.is_some() {
            let others = self.transaction.recipients.iter();
            if others.filter(|one| one.forward.is_some()).count() >= FORWARDS_MAX {
                return Err(Refusal::TOO_MANY_RECIPIENTS);
            }
            if !forwarding::is_ready(&self.shard).await {
                return Err(Refusal::BUSY);
            }
        }
        for home in &homes {
            self.check_quota(home, self.transaction.declared_octets).await?;
        }
        self.transaction.recipients.push(Recipient { address, params, homes, forward });
        Ok(())
    }

    /// Who gets what comes back to a rewritten sender: bounces only, which come from nobody.
    fn returned(&self, original: Result<Address, srs::Fault>) -> Result<Resolution, Refusal> {
        let original = original.map_err(|fault| {
            if self.is_stranger() {
                connect::note(&self.shard, self.peer.address.ip(), Offence::UnknownRecipient);
            }
            Refusal::NO_SUCH_USER.saying(fault.to_string())
        })?;
        if self.transaction.from.is_some() {
            let words = "That address takes bounces only (MAIL FROM:<>)";
            return Err(Refusal::POLICY.saying(words.to_owned()));
        }
        Ok(match self.shard.directory.borrow().resolve(original.as_str()) {
            Resolution::NotOurs => Resolution::Local(Reached {
                outside: BTreeSet::from([original.to_string()]),
                ..Reached::default()
            }),
            of_ours => of_ours,
        })
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

    /// Only who has logged in sends to other hosts.
    fn may_relay(&self) -> bool {
        self.shard.config.relay.enabled && self.role != Role::Lmtp && self.machine.user().is_some()
    }

    fn report_refused(&self, what: &str, from: &str, to: Option<&str>, why: &Refusal) {
        let (peer, service) = (self.peer.address, self.service.name());
        tracing::info!(target: NOTICE, %peer, service, from, to, reason = %why, "{what}");
    }

    /// Who names recipients that don't exist, and sends no message, is noticed all the same.
    fn report_dead(&mut self) {
        let dead = std::mem::take(&mut self.refused);
        if let Some(user) = self.machine.user().filter(|_| dead > 0) {
            submission::answered(&self.shard, user, 0, dead as usize);
        }
    }

    fn forget(&mut self) {
        self.transaction = Transaction::default();
    }
}

/// When a message leaves that is not to leave at once.
fn later(release: Release, now: u64) -> Option<u64> {
    let at = match release {
        Release::After(seconds) => now + seconds,
        Release::At(at) => at,
    };
    (at > now).then_some(at)
}

/// Whose postmaster `<postmaster>` without a domain is (RFC 5321 section 4.5.1): that of the first
/// domain which has one.
fn postmaster_domain(shard: &Shard) -> String {
    let directory = shard.directory.borrow();
    let any = || directory.domains().next().map(|(domain, _)| domain.as_str());
    let first = directory.postmaster_domain(None, |_| true).or_else(any);
    first.unwrap_or(&shard.config.hostname).to_owned()
}

impl Drop for SmtpSession {
    fn drop(&mut self) {
        self.report_dead();
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
        // What was accepted is acknowledged as soon as ever, or the peer might bring it again.
        let may_wait =
            self.service == Service::Smtp && !matches!(event, Event::Body(_) | Event::End(_));
        let is_asked = matches!(event, Event::Mail(..) | Event::Data(_));
        match event {
            Event::Body(bytes) => self.body(bytes).await,
            Event::Client(client, ticket) => {
                let answer = self.speak_for(&client);
                self.machine.answer_command(ticket, answer, wire.outbox);
            }
            Event::Mail(from, params, ticket) => {
                let sender = from.as_ref().map(ToString::to_string).unwrap_or_default();
                let answer = self.mail(from, &params);
                if let Err(why) = &answer {
                    self.report_refused("sender refused", &sender, None, why);
                }
                self.machine.answer_command(ticket, answer, wire.outbox);
            }
            Event::Recipient(address, params, ticket) => {
                let name = address.to_string();
                let answer = self.recipient(address, params).await;
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
            Event::Data(ticket) => self.data(ticket, wire.outbox).await,
            Event::End(ticket) => self.end(ticket, wire.outbox).await,
            Event::Reset => {
                self.report_dead();
                self.forget();
            }
            Event::Login(credentials, ticket) => self.login(credentials, ticket, wire.outbox).await,
            Event::ScramKeys(user, ticket) => {
                let (keys, nonce) = login::scram_keys(&self.shard, &user);
                self.password = self.password_of(&user);
                self.proving = user;
                self.machine.answer_keys(ticket, keys, &nonce, wire.outbox);
            }
            Event::Proved(user, ticket) => {
                count(&self.shard.metrics.logins);
                let user = self.name_of(&user);
                self.machine.answer_login(ticket, LoginOutcome::Welcome, &user, wire.outbox);
            }
            Event::Disproved(ticket) => {
                let outcome = login::outcome(
                    login::disproved(&self.shard, &self.proving, self.origin()).await,
                );
                self.machine.answer_login(ticket, outcome, "", wire.outbox);
            }
        }
        if is_asked && self.check_login().is_err() {
            return Next::Close;
        }
        if may_wait && self.machine.user().is_none() {
            greeting::hold_back(&self.shard, self.peer.address.ip()).await;
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
        let transaction = &self.transaction;
        transaction.intake.is_some()
            || transaction.submission.is_some()
            || transaction.failure.is_some()
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
