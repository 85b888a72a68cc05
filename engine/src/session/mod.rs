//! What a session is: a protocol machine, and answers to its events.
//!
//! The connection loop (`connection.rs`) owns the socket, drives the machine and calls here. A
//! session never touches the socket; it answers events, and writes through [`Wire`].

pub mod imap;
mod login;
pub mod managesieve;
pub mod pop3;
pub mod smtp;

use crate::NOTICE;
use crate::balancer;
use crate::connection::{Connection, serve};
use crate::metrics::Service;
use crate::policy::greeting::{self, Waited};
use crate::shard::{Place, Shard};
use crate::wire::{Peer, Transport, Wire};
use protocols::Machine;
use std::net::TcpStream;
use std::rc::Rc;

/// What the connection loop does after an event has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Continue,
    /// Sends what is written, then takes the connection to the core that owns the data.
    MoveTo(u16),
    Close,
}

/// One TCP life of one protocol.
#[allow(async_fn_in_trait)] // one core, static dispatch: no Send bound is wanted
pub trait Session: Sized + 'static {
    type Machine: Machine;
    /// What travels when the session moves to another core.
    type Luggage: Send + 'static;

    fn machine(&mut self) -> &mut Self::Machine;

    /// Answers one event of the machine, through the machine's own `answer_*` methods, before it
    /// returns. Long answers call [`Wire::relieve`] between parts, so that memory stays bounded.
    async fn answer(
        &mut self,
        event: <Self::Machine as Machine>::Event<'_>,
        wire: &mut Wire<'_>,
    ) -> Next;

    /// Resolves when there is something to say that nobody asked for (IDLE). Raced against the
    /// socket and the deadline, so it must not lose anything when dropped half-way.
    async fn news(&self) {
        std::future::pending().await
    }

    /// Says it.
    async fn tell(&mut self, _wire: &mut Wire<'_>) -> Next {
        Next::Continue
    }

    /// The handshake is complete; the machine has been told already.
    fn tls_started(&mut self, _transport: &Transport) {}

    /// The peer has closed its side: what is unfinished stays unfinished.
    fn input_ended(&mut self) {}

    /// Whether a stopping server should let this session go on for a while.
    fn in_transaction(&self) -> bool {
        false
    }

    /// The protocol's last words when the server stops.
    fn goodbye(&self) -> &'static [u8];

    fn pack(self) -> Self::Luggage;
    fn unpack(luggage: Self::Luggage, shard: &Rc<Shard>) -> Self;
}

/// A fresh connection, without a place where whose it is has yet to be read: TLS first where the
/// service wants it, then the protocol's session.
pub async fn start(
    shard: Rc<Shard>,
    service: Service,
    socket: TcpStream,
    peer: Peer,
    place: Option<Place>,
) {
    let watch = shard.watchdog.watch();
    let mut transport = match Transport::new(socket, peer, &shard.readiness, Rc::clone(&watch)) {
        Ok(transport) => transport,
        Err(error) => {
            return tracing::debug!(peer = %peer.address, %error, "connection lost at once");
        }
    };
    let place = match place {
        Some(place) => place,
        None => match balancer::let_in(&shard, service, &mut transport, &watch).await {
            Some(place) => place,
            None => return,
        },
    };
    let peer = transport.peer;
    let begin = async {
        if service.implicit_tls() {
            let config = shard.tls().ok_or(std::io::ErrorKind::Unsupported)?;
            transport.start_tls(config).await?;
        }
        Ok::<_, std::io::Error>(transport)
    };
    let transport = match begin.await {
        Ok(transport) => transport,
        Err(error) => {
            let (peer, service) = (peer.address, service.name());
            return tracing::info!(target: NOTICE, %peer, service, %error, "TLS handshake failed");
        }
    };
    match service {
        Service::Smtp | Service::Submission | Service::Submissions | Service::Lmtp => {
            let mut transport = transport;
            let said = match service {
                Service::Smtp => greeting::wait(&shard, &mut transport, &watch).await,
                _ => Waited::Quietly,
            };
            let (said, is_early) = match said {
                Waited::Quietly => (Vec::new(), false),
                Waited::Speaking(said) => (said, true),
                Waited::Gone => return,
            };
            let session = smtp::SmtpSession::new(&shard, service, &transport, place, is_early);
            serve(shard, Connection { transport, session, watch }, said).await;
        }
        Service::Imap | Service::Imaps => {
            let session = imap::ImapSession::new(&shard, service, &transport, place);
            serve(shard, Connection { transport, session, watch }, Vec::new()).await;
        }
        Service::ManageSieve => {
            let session = managesieve::ManageSieveSession::new(&shard, service, &transport, place);
            serve(shard, Connection { transport, session, watch }, Vec::new()).await;
        }
        Service::Pop3 | Service::Pop3s => {
            let session = pop3::Pop3Session::new(&shard, service, &transport, place);
            serve(shard, Connection { transport, session, watch }, Vec::new()).await;
        }
    }
}
