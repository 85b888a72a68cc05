//! One connection to another server: a client machine and its socket.

use super::reason::{Kind, Reason};
use crate::core::{UNBROKEN_STEPS_MAX, give_way};
use crate::relay::tls::Trust;
use crate::shard::Shard;
use crate::watchdog::{Watch, Woken};
use crate::wire::Transport;
use futures_lite::future::or;
use protocols::{Machine, Outbox, Step, Tick};
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

/// What the client machines have in common beyond [`Machine`].
pub trait Client: Machine {
    /// The connection has ended, or can't be written to.
    fn lost(&mut self);
}

impl Client for protocols::pop3::client::Client {
    fn lost(&mut self) {
        protocols::pop3::client::Client::lost(self);
    }
}

impl Client for protocols::imap::client::Client {
    fn lost(&mut self) {
        protocols::imap::client::Client::lost(self);
    }
}

/// Who answers the machine's events.
pub(crate) trait Talk<M: Machine> {
    /// An error ends the session, and nothing more is said.
    async fn heard(&mut self, event: M::Event<'_>, machine: &mut M) -> Result<(), Reason>;
}

pub struct Link<M> {
    shard: Rc<Shard>,
    machine: M,
    transport: Transport,
    watch: Rc<Watch>,
    trust: Trust,
    /// For SNI and the certificate.
    name: ServerName<'static>,
    /// The session ends then, whatever it is at.
    until: Tick,
    broken: bool,
}

/// What the machine wants, apart from answers.
enum Turn {
    Read,
    Tls,
    Close,
    Go,
}

impl<M: Client> Link<M> {
    /// Connects; with `tls` the connection is encrypted from its first octet.
    pub async fn open(
        shard: &Rc<Shard>,
        address: SocketAddr,
        host: &str,
        machine: M,
        tls: bool,
        trust: Trust,
        until: Tick,
    ) -> Result<Link<M>, Reason> {
        let watch = shard.watchdog.watch();
        let mut transport = Transport::connect(address, &shard.readiness, Rc::clone(&watch))
            .await
            .map_err(|error| Reason::socket(&error))?;
        // By no other name: an address is the word of DNS alone.
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Reason::new(
                Kind::Certificate,
                format!("no certificate is for {host:?}: name the host as DNS has it"),
            )
        })?;
        if tls {
            let started = transport.start_tls_client(trust.config(), name.clone()).await;
            started.map_err(|error| Reason::tls(&error))?;
        }
        let shard = Rc::clone(shard);
        Ok(Link { shard, machine, transport, watch, trust, name, until, broken: false })
    }

    /// Steps the machine until it closes.
    pub async fn drive<T: Talk<M>>(&mut self, talk: &mut T) -> Result<(), Reason> {
        let mut outbox = Outbox::new();
        let (mut input, mut used) = (Vec::new(), 0);
        let mut steps = 0_u32;
        loop {
            steps = steps.wrapping_add(1);
            if steps.is_multiple_of(UNBROKEN_STEPS_MAX) {
                give_way().await;
            }
            let turn = {
                let mut rest = &input[used..];
                let before = rest.len();
                let step = self.machine.step(self.shard.now(), &mut rest, &mut outbox);
                used += before - rest.len();
                match step {
                    Step::NeedInput => Turn::Read,
                    Step::StartTls => Turn::Tls,
                    Step::Close => Turn::Close,
                    Step::Event(event) => {
                        let heard = talk.heard(event, &mut self.machine).await;
                        if heard.is_err() {
                            self.transport.close();
                        }
                        heard?;
                        Turn::Go
                    }
                }
            };
            match turn {
                Turn::Go => {}
                Turn::Read => {
                    self.send(&mut outbox).await;
                    input.clear();
                    used = 0;
                    self.read(&mut input).await?;
                }
                Turn::Tls => {
                    self.send(&mut outbox).await;
                    // RFC 2595 section 4: what came along in the clear is nobody's.
                    input.clear();
                    used = 0;
                    let name = self.name.clone();
                    let started = self.transport.start_tls_client(self.trust.config(), name).await;
                    started.map_err(|error| Reason::tls(&error))?;
                    self.machine.tls_started(self.shard.now());
                }
                Turn::Close => {
                    self.send(&mut outbox).await;
                    self.transport.close();
                    return Ok(());
                }
            }
        }
    }

    async fn send(&mut self, outbox: &mut Outbox) {
        if self.broken || self.transport.send(outbox).await.is_err() {
            outbox.clear();
            // Its last words may say why: they are read before the machine is told.
            self.broken = true;
        }
    }

    /// Waits for input, the deadline, or the end of the server.
    async fn read(&mut self, input: &mut Vec<u8>) -> Result<(), Reason> {
        loop {
            match self.try_read(input) {
                Ok(0) => {
                    self.machine.lost();
                    return Ok(());
                }
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.broken => {}
                Err(_) => {
                    self.machine.lost();
                    return Ok(());
                }
            }
            let deadline = self.machine.deadline().map_or(self.until, |one| one.min(self.until));
            self.watch.set_deadline(Some(deadline));
            let readable = async {
                self.transport.readable().await;
                None
            };
            let woken = async { Some(self.watch.woken().await) };
            match or(readable, woken).await {
                None => {}
                Some(Woken::Deadline) if self.shard.now() >= self.until => {
                    self.transport.close();
                    let longest = self.shard.config.collect.session_longest.text();
                    return Err(Reason::new(
                        Kind::Slow,
                        format!("did not come to an end within {longest}"),
                    ));
                }
                Some(Woken::Deadline) => return Ok(()),
                Some(Woken::Stopping | Woken::Cut) => {
                    self.broken = true;
                    self.machine.lost();
                    return Ok(());
                }
            }
        }
    }

    fn try_read(&mut self, input: &mut Vec<u8>) -> io::Result<usize> {
        let mut buffer = self.shard.buffers.take();
        let read = self.transport.try_read(&mut buffer);
        if let Ok(count) = read {
            input.extend_from_slice(&buffer[..count]);
        }
        self.shard.buffers.give(buffer);
        read
    }
}
