//! ManageSieve: answers to the machine's events, from the account's scripts. RFC 5804.

use super::{Next, Session, login};
use crate::metrics::Service;
use crate::shard::{LoggedIn, LoginError, Origin, Place, Shard};
use crate::sieve::limits;
use crate::sieve::scripts::{self, Refused};
use crate::wire::{Peer, Transport, Wire};
use protocols::managesieve::event::Login;
use protocols::managesieve::{Config, Entry, Event, ManageSieve, Refusal};
use protocols::{Machine, Outbox, Ticket};
use std::rc::Rc;
use std::sync::Arc;
use storage::{AccountId, Error};

/// A script that is refused for its size is read over up to this.
const SWALLOW_BYTES_MAX: u32 = 1 << 20;

#[derive(Debug)]
pub struct ManageSieveSession {
    shard: Rc<Shard>,
    machine: ManageSieve,
    account: Option<AccountId>,
    /// Who is proving to know a password.
    proving: String,
    peer: Peer,
    service: Service,
    /// `None` when the home core was full: who has been let in is not thrown out again.
    _place: Option<Place>,
}

/// What travels to the home core.
#[derive(Debug)]
pub struct Luggage {
    machine: ManageSieve,
    account: Option<AccountId>,
    peer: Peer,
    service: Service,
}

impl ManageSieveSession {
    pub fn new(
        shard: &Rc<Shard>,
        service: Service,
        transport: &Transport,
        place: Place,
    ) -> ManageSieveSession {
        let limits = limits();
        let config = Config {
            tls_available: shard.tls().is_some(),
            plaintext_auth: shard.config.auth.plaintext_allowed,
            script_bytes_max: u32::try_from(limits.script_bytes_max).unwrap_or(u32::MAX),
            swallow_bytes_max: SWALLOW_BYTES_MAX,
            redirects_max: limits.redirects_max,
        };
        ManageSieveSession {
            shard: Rc::clone(shard),
            machine: ManageSieve::new(Arc::new(config), transport.is_tls()),
            account: None,
            proving: String::new(),
            peer: transport.peer,
            service,
            _place: Some(place),
        }
    }

    fn origin(&self) -> Origin {
        Origin { peer: self.peer.address, service: self.service }
    }

    fn answer_login(
        &mut self,
        login: Result<LoggedIn, LoginError>,
        ticket: Ticket<Login>,
        outbox: &mut Outbox,
    ) -> Next {
        match login {
            Ok(login) => {
                let welcome = protocols::managesieve::LoginOutcome::Welcome;
                self.machine.answer_login(ticket, welcome, &login.address, outbox);
                self.account = Some(login.account);
                login::welcome(&self.shard, &login, self.peer, self.service)
            }
            Err(error) => {
                self.machine.answer_login(ticket, login::outcome(error), "", outbox);
                Next::Continue
            }
        }
    }

    /// The machine asks about scripts only behind a login.
    fn account(&self) -> Result<AccountId, Refusal> {
        self.account.ok_or(Refusal::NO_STORE)
    }

    async fn put(
        &self,
        name: &str,
        script: Vec<u8>,
    ) -> Result<Vec<protocols::sieve::Fault>, Refusal> {
        let account = self.account()?;
        scripts::put(&self.shard, account, name, script, false).await.map_err(refusal)
    }

    async fn set_active(&self, name: Option<String>) -> Result<(), Refusal> {
        let account = self.account()?;
        scripts::set_active(&self.shard, account, name.as_deref()).await.map_err(refusal)
    }

    fn list(&self) -> Result<Vec<Entry>, Refusal> {
        let account = self.account()?;
        let entry = |listed: scripts::Listed| Entry { name: listed.name, active: listed.is_active };
        Ok(scripts::list(&self.shard, account).into_iter().map(entry).collect())
    }
}

/// As a client is told. RFC 5804 section 1.3.
fn refusal(refused: Refused) -> Refusal {
    match refused {
        Refused::NotFound | Refused::Name => Refusal::NOT_FOUND,
        Refused::Exists => Refusal::EXISTS,
        Refused::Active => Refusal::ACTIVE,
        Refused::TooMany => Refusal::TOO_MANY,
        Refused::NoRoom => Refusal::NO_ROOM,
        Refused::TooLarge => Refusal::TOO_LARGE,
        Refused::Faulty(faults) => Refusal::faulty(&faults),
        Refused::Store(Error::Busy) => Refusal::BUSY,
        Refused::Store(Error::Full(_)) => Refusal::NO_ROOM,
        Refused::Store(error) => {
            tracing::error!(%error, "the store failed a ManageSieve command");
            Refusal::NO_STORE
        }
    }
}

impl Session for ManageSieveSession {
    type Machine = ManageSieve;
    type Luggage = Luggage;

    fn machine(&mut self) -> &mut ManageSieve {
        &mut self.machine
    }

    async fn answer(
        &mut self,
        event: <Self::Machine as Machine>::Event<'_>,
        wire: &mut Wire<'_>,
    ) -> Next {
        let outbox = &mut *wire.outbox;
        match event {
            Event::Login(credentials, ticket) => {
                let (user, password) = (&credentials.user, &credentials.password);
                let login = self.shard.verify_password(user, password, self.origin()).await;
                return self.answer_login(login, ticket, outbox);
            }
            Event::ScramKeys(user, ticket) => {
                let (keys, nonce) = login::scram_keys(&self.shard, &user);
                self.proving = user;
                self.machine.answer_keys(ticket, keys, &nonce, outbox);
            }
            Event::Proved(user, ticket) => {
                let login = login::proved(&self.shard, &user);
                return self.answer_login(login, ticket, outbox);
            }
            Event::Disproved(ticket) => {
                let wrong = login::disproved(&self.shard, &self.proving, self.origin()).await;
                return self.answer_login(Err(wrong), ticket, outbox);
            }
            Event::HaveSpace { name, octets, ticket } => {
                let octets = usize::try_from(octets).unwrap_or(usize::MAX);
                let answer = self.account().and_then(|account| {
                    scripts::have_space(&self.shard, account, &name, octets).map_err(refusal)
                });
                self.machine.answer(ticket, answer, outbox);
            }
            Event::Put { name, script, ticket } => {
                let answer = self.put(&name, script).await;
                let answer = answer.as_deref().map_err(Clone::clone);
                self.machine.answer_checked(ticket, answer, outbox);
            }
            Event::Check { script, ticket } => {
                let answer = scripts::check(&script).map_err(refusal);
                let answer = answer.as_deref().map_err(Clone::clone);
                self.machine.answer_checked(ticket, answer, outbox);
            }
            Event::List { ticket } => {
                let answer = self.list();
                let answer = answer.as_deref().map_err(Clone::clone);
                self.machine.answer_list(ticket, answer, outbox);
            }
            Event::SetActive { name, ticket } => {
                let answer = self.set_active(name).await;
                self.machine.answer(ticket, answer, outbox);
            }
            Event::Get { name, ticket } => {
                let found = self.account().and_then(|account| {
                    scripts::get(&self.shard, account, &name).ok_or(Refusal::NOT_FOUND)
                });
                let answer = found.as_deref().map_err(Clone::clone);
                self.machine.answer_script(ticket, answer, outbox);
            }
            Event::Delete { name, ticket } => {
                let answer = match self.account() {
                    Ok(account) => {
                        scripts::remove(&self.shard, account, &name).await.map_err(refusal)
                    }
                    Err(refusal) => Err(refusal),
                };
                self.machine.answer(ticket, answer, outbox);
            }
            Event::Rename { from, to, ticket } => {
                let answer = match self.account() {
                    Ok(account) => {
                        scripts::rename(&self.shard, account, &from, &to).await.map_err(refusal)
                    }
                    Err(refusal) => Err(refusal),
                };
                self.machine.answer(ticket, answer, outbox);
            }
            Event::LoggedOut => self.account = None,
        }
        Next::Continue
    }

    fn goodbye(&self) -> &'static [u8] {
        b"BYE (TRYLATER) \"Shutting down, try again later\"\r\n"
    }

    fn pack(self) -> Luggage {
        let ManageSieveSession { machine, account, peer, service, .. } = self;
        Luggage { machine, account, peer, service }
    }

    fn unpack(luggage: Luggage, shard: &Rc<Shard>) -> ManageSieveSession {
        let Luggage { machine, account, peer, service } = luggage;
        ManageSieveSession {
            shard: Rc::clone(shard),
            machine,
            account,
            proving: String::new(),
            peer,
            service,
            _place: Place::take(shard, peer.address.ip(), service),
        }
    }
}
