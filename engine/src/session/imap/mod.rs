//! IMAP sessions: login, and the move to the core that has the account's data.
//!
//! | where | what |
//! |---|---|
//! | here | credentials, moving, the connection loop's side |
//! | [`account`] | an account being served: which event is answered where, sync points, IDLE |
//! | `append` | a message on its way in |
//! | `mailboxes` | SELECT, CREATE, DELETE, RENAME, SUBSCRIBE, LIST, STATUS, quotas |
//! | `fetch`, `search` | reading; `ahead`: several reads at once |
//! | `change` | STORE, COPY, MOVE, EXPUNGE, CLOSE |

pub mod account;
mod ahead;
mod append;
mod change;
mod fetch;
mod mailboxes;
mod search;

pub use account::ImapAccount;

use super::{Next, Session, login};
use crate::filter::sorting;
use crate::metrics::Service;
use crate::shard::{Disk, LoggedIn, LoginError, Origin, Place, Shard};
use crate::wire::{Peer, Transport, Wire};
use protocols::imap::{Config, Credentials, Event, Imap, LoginAnswer};
use protocols::{Machine, Ticket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::AccountId;

#[derive(Debug)]
pub struct ImapSession {
    shard: Rc<Shard>,
    machine: Imap,
    /// Set once logged in, on the account's home core alone.
    account: Option<ImapAccount<Disk>>,
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
    machine: Imap,
    account: Option<AccountId>,
    peer: Peer,
    service: Service,
}

impl ImapSession {
    pub fn new(
        shard: &Rc<Shard>,
        service: Service,
        transport: &Transport,
        place: Place,
    ) -> ImapSession {
        let limits = &shard.config.limits;
        let config = Config {
            host: shard.config.hostname.clone(),
            tls_available: shard.tls().is_some(),
            plaintext_login: shard.config.auth.plaintext_allowed,
            append_bytes_max: u32::try_from(limits.message_bytes_max).unwrap_or(u32::MAX),
            idle_timeout: Duration::from_secs(limits.imap_idle_seconds),
            ..Config::default()
        };
        ImapSession {
            shard: Rc::clone(shard),
            machine: Imap::new(Arc::new(config), transport.is_tls()),
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
        ticket: Ticket<Credentials>,
        wire: &mut Wire<'_>,
    ) -> Next {
        let failed = match login {
            Ok(login) => {
                self.machine.answer_login(ticket, LoginAnswer::Accepted, wire.outbox);
                let account = ImapAccount::new(self.shard.store.clone(), login.account);
                self.account = Some(account.of(&self.shard));
                return login::welcome(&self.shard, &login, self.peer, self.service);
            }
            Err(LoginError::Wrong) => LoginAnswer::Refused,
            Err(LoginError::Busy) => LoginAnswer::Unavailable,
        };
        self.machine.answer_login(ticket, failed, wire.outbox);
        Next::Continue
    }
}

impl Session for ImapSession {
    type Machine = Imap;
    type Luggage = Luggage;

    fn machine(&mut self) -> &mut Imap {
        &mut self.machine
    }

    async fn answer(
        &mut self,
        event: <Self::Machine as Machine>::Event<'_>,
        wire: &mut Wire<'_>,
    ) -> Next {
        match event {
            Event::Login { user, password, ticket } => {
                let login = self.shard.verify_password(&user, &password, self.origin()).await;
                self.answer_login(login, ticket, wire)
            }
            Event::ScramKeys { user, ticket } => {
                let (keys, nonce) = login::scram_keys(&self.shard, &user);
                self.proving = user;
                self.machine.answer_keys(ticket, keys, &nonce, wire.outbox);
                Next::Continue
            }
            Event::Verified { user, ticket } => {
                let login = login::proved(&self.shard, &user);
                self.answer_login(login, ticket, wire)
            }
            Event::LoginFailed { ticket } => {
                let wrong = login::disproved(&self.shard, &self.proving, self.origin()).await;
                self.answer_login(Err(wrong), ticket, wire)
            }
            other => match &mut self.account {
                Some(account) => {
                    let next = account.answer(&mut self.machine, other, wire).await;
                    for sorted in account.take_sorted() {
                        sorting::learn(&self.shard, account.id(), sorted);
                    }
                    next
                }
                // The machine asks for nothing else before a login.
                None => Next::Close,
            },
        }
    }

    async fn news(&self) {
        match &self.account {
            Some(account) if self.machine.is_idle() => account.news().await,
            Some(_) | None => std::future::pending().await,
        }
    }

    async fn tell(&mut self, wire: &mut Wire<'_>) -> Next {
        match &mut self.account {
            Some(account) => account.tell(&mut self.machine, wire),
            None => Next::Continue,
        }
    }

    fn in_transaction(&self) -> bool {
        self.account.as_ref().is_some_and(ImapAccount::is_receiving)
    }

    fn goodbye(&self) -> &'static [u8] {
        b"* BYE Shutting down, try again later\r\n"
    }

    fn pack(self) -> Luggage {
        let account = self.account.as_ref().map(ImapAccount::id);
        Luggage { machine: self.machine, account, peer: self.peer, service: self.service }
    }

    fn unpack(luggage: Luggage, shard: &Rc<Shard>) -> ImapSession {
        let Luggage { machine, account, peer, service } = luggage;
        ImapSession {
            shard: Rc::clone(shard),
            machine,
            account: account.map(|id| ImapAccount::new(shard.store.clone(), id).of(shard)),
            proving: String::new(),
            peer,
            service,
            _place: Place::take(shard, peer.address.ip(), service),
        }
    }
}
