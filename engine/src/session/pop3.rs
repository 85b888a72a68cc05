//! POP3: answers to the machine's events, from the account's INBOX.
//!
//! The maildrop is INBOX as it was when it was opened; what arrives later waits for the next
//! session (RFC 1939 section 3). A message's unique id is UIDVALIDITY and UID, so it survives
//! restarts and restores. Deleting happens at QUIT, as one expunge: all of it or none.

use super::{Next, Session, login};
use crate::metrics::Service;
use crate::shard::{LoggedIn, LoginError, Origin, Place, Shard};
use crate::wire::{Peer, Transport, Wire};
use protocols::pop3::event::{Committed, Login, Maildrop, Message};
use protocols::pop3::{Config, Entry, Event, LoginOutcome, Pop3, Refusal};
use protocols::{Machine, Outbox, Ticket};
use std::rc::Rc;
use std::sync::Arc;
use storage::{AccountId, Error, MailboxId, Uid};

/// Octets read from the store at once.
const PIECE_OCTETS: u64 = 64 * 1024;

#[derive(Debug)]
pub struct Pop3Session {
    shard: Rc<Shard>,
    machine: Pop3,
    account: Option<AccountId>,
    /// Of the open maildrop, in the order of its messages.
    uids: Vec<Uid>,
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
    machine: Pop3,
    account: Option<AccountId>,
    peer: Peer,
    service: Service,
}

impl Pop3Session {
    pub fn new(
        shard: &Rc<Shard>,
        service: Service,
        transport: &Transport,
        place: Place,
    ) -> Pop3Session {
        let config = Config {
            hostname: shard.config.hostname.clone(),
            tls_available: shard.tls().is_some(),
            plaintext_auth: shard.config.auth.plaintext_allowed,
        };
        Pop3Session {
            shard: Rc::clone(shard),
            machine: Pop3::new(Arc::new(config), transport.is_tls()),
            account: None,
            uids: Vec::new(),
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
                self.machine.answer_login(ticket, LoginOutcome::Welcome, &login.address, outbox);
                self.account = Some(login.account);
                login::welcome(&self.shard, &login, self.peer, self.service)
            }
            Err(error) => {
                self.machine.answer_login(ticket, login::outcome(error), "", outbox);
                Next::Continue
            }
        }
    }

    fn open(&mut self, ticket: Ticket<Maildrop>, outbox: &mut Outbox) {
        let answer = self.list().map_err(|error| refusal(&error));
        self.machine.answer_open(ticket, answer, outbox);
    }

    fn list(&mut self) -> Result<Vec<Entry>, Error> {
        let Some(account) = self.account else { return Err(Error::Busy) };
        let validity = self.shard.store.status(account, MailboxId::INBOX)?.uid_validity;
        let entries = self.shard.store.entries(account, MailboxId::INBOX, 1..=u32::MAX)?;
        self.uids = entries.iter().map(|entry| entry.uid).collect();
        let entry = |entry: &storage::MessageEntry| Entry {
            octets: u64::from(entry.bytes),
            unique: format!("{validity}.{}", entry.uid.0),
        };
        Ok(entries.iter().map(entry).collect())
    }

    /// Streams a message, piece by piece.
    async fn retrieve(
        &mut self,
        index: usize,
        ticket: Ticket<Message>,
        wire: &mut Wire<'_>,
    ) -> Next {
        let (Some(account), Some(&uid)) = (self.account, self.uids.get(index)) else {
            self.machine.answer_failed(ticket, &Refusal::GONE, wire.outbox);
            return Next::Continue;
        };
        let store = self.shard.store.clone();
        let first = async {
            let octets = u64::from(store.entry(account, MailboxId::INBOX, uid)?.bytes);
            let piece = store.read(account, MailboxId::INBOX, uid, 0..PIECE_OCTETS).await?;
            Ok((octets, piece))
        };
        let (octets, mut piece) = match first.await {
            Ok(first) => first,
            Err(error) => {
                self.machine.answer_failed(ticket, &refusal(&error), wire.outbox);
                return Next::Continue;
            }
        };
        self.machine.begin_message(octets, wire.outbox);
        let mut sent = 0;
        while !piece.is_empty() {
            sent += piece.len() as u64;
            let wanted = self.machine.write_message(&piece, wire.outbox);
            if !wanted || sent >= octets {
                break;
            }
            let next = async {
                wire.relieve().await.map_err(|error| Error::Device(error.to_string()))?;
                store.read(account, MailboxId::INBOX, uid, sent..sent + PIECE_OCTETS).await
            };
            piece = match next.await {
                Ok(piece) => piece,
                Err(error) => {
                    tracing::warn!(%error, uid = uid.0, "message not sent whole");
                    self.machine.abandon_message(ticket);
                    return Next::Close;
                }
            };
        }
        self.machine.end_message(ticket, wire.outbox);
        Next::Continue
    }

    async fn commit(&mut self, deleted: &[usize], ticket: Ticket<Committed>, outbox: &mut Outbox) {
        let uids: Vec<Uid> =
            deleted.iter().filter_map(|&index| self.uids.get(index).copied()).collect();
        let answer = match self.account {
            Some(account) if !uids.is_empty() => {
                self.shard.store.expunge(account, MailboxId::INBOX, &uids).await.map(drop)
            }
            Some(_) | None => Ok(()),
        };
        if let Err(error) = &answer {
            tracing::warn!(%error, "deleted messages stay");
        }
        self.machine.answer_commit(ticket, answer.map_err(|_| Refusal::NOT_DELETED), outbox);
    }
}

/// The store's errors, as a client is told.
fn refusal(error: &Error) -> Refusal {
    match error {
        Error::NoSuchMessage(_) => Refusal::GONE,
        Error::Corrupt { .. } | Error::Read { .. } => Refusal::CORRUPT,
        Error::Busy => Refusal::BUSY,
        _ => Refusal::NO_STORE,
    }
}

impl Session for Pop3Session {
    type Machine = Pop3;
    type Luggage = Luggage;

    fn machine(&mut self) -> &mut Pop3 {
        &mut self.machine
    }

    async fn answer(
        &mut self,
        event: <Self::Machine as Machine>::Event<'_>,
        wire: &mut Wire<'_>,
    ) -> Next {
        match event {
            Event::Login(credentials, ticket) => {
                let (user, password) = (&credentials.user, &credentials.password);
                let login = self.shard.verify_password(user, password, self.origin()).await;
                return self.answer_login(login, ticket, wire.outbox);
            }
            Event::ScramKeys(user, ticket) => {
                let (keys, nonce) = login::scram_keys(&self.shard, &user);
                self.proving = user;
                self.machine.answer_keys(ticket, keys, &nonce, wire.outbox);
            }
            Event::Proved(user, ticket) => {
                let login = login::proved(&self.shard, &user);
                return self.answer_login(login, ticket, wire.outbox);
            }
            Event::Disproved(ticket) => {
                let wrong = login::disproved(&self.shard, &self.proving, self.origin()).await;
                return self.answer_login(Err(wrong), ticket, wire.outbox);
            }
            Event::Open(ticket) => self.open(ticket, wire.outbox),
            Event::Retrieve { index, lines: _, ticket } => {
                return Box::pin(self.retrieve(index, ticket, wire)).await;
            }
            Event::Commit { deleted, ticket } => self.commit(&deleted, ticket, wire.outbox).await,
            // The loop relieves the outbox after every event.
            Event::Relieve => {}
        }
        Next::Continue
    }

    fn goodbye(&self) -> &'static [u8] {
        b"-ERR [SYS/TEMP] Shutting down, try again later\r\n"
    }

    fn pack(self) -> Luggage {
        Luggage {
            machine: self.machine,
            account: self.account,
            peer: self.peer,
            service: self.service,
        }
    }

    fn unpack(luggage: Luggage, shard: &Rc<Shard>) -> Pop3Session {
        let Luggage { machine, account, peer, service } = luggage;
        Pop3Session {
            shard: Rc::clone(shard),
            machine,
            account,
            uids: Vec::new(),
            proving: String::new(),
            peer,
            service,
            _place: Place::take(shard, peer.address.ip(), service),
        }
    }
}
