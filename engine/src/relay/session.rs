//! One connection to another server: the client machine, its socket, and messages
//! read from the store.

use super::tls::Trust;
use crate::core::{UNBROKEN_STEPS_MAX, give_way};
use crate::queue;
use crate::shard::{PIECE_BYTES, Shard};
use crate::tls::fault_words;
use crate::watchdog::{Watch, Woken};
use crate::wire::Transport;
use futures_lite::future::or;
use protocols::smtp::client::{Client, Config, Envelope, Event, Failure, Piece, Report, Stage};
use protocols::wire::remote::{Tls, Trouble};
use protocols::{Machine, Outbox, Step};
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::Uid;

/// A message has to be out within this and what its octets take at the lowest rate, however
/// patiently the server answers and reads. Each answer alone may take minutes (RFC 5321
/// section 4.5.3.2).
const OUT_WITHIN: Duration = Duration::from_secs(30 * 60);
const OUT_BYTES_PER_SECOND: u64 = 10 << 10;

/// Why a connection has come to nothing.
#[derive(Debug)]
pub enum Lost {
    /// Nobody there, or a broken connection.
    Socket(io::Error),
    /// The handshake failed.
    Tls(io::Error),
    /// What the machine says.
    Failed(Failure),
}

impl Lost {
    /// No way leads to that address from here, as to IPv6 from many hosts: nobody was asked.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Lost::Socket(error) if error.kind() == io::ErrorKind::NetworkUnreachable)
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Socket(error) => write!(f, "can't be reached: {error}"),
            Lost::Tls(error) => f.write_str(&fault_words(error)),
            Lost::Failed(failure) => write!(f, "{failure}"),
        }
    }
}

pub struct Session {
    shard: Rc<Shard>,
    machine: Client,
    transport: Transport,
    watch: Rc<Watch>,
    trust: Trust,
    /// For SNI and the certificate.
    name: ServerName<'static>,
    input: Vec<u8>,
    used: usize,
    /// Nothing can be written any more.
    broken: bool,
    /// A message is under way: the server waits for its end before it stops.
    is_bringing: bool,
    steps: u32,
}

/// What the machine has to say.
enum Told {
    Ready,
    Done(Report),
    Closed,
}

impl Session {
    /// Connects, greets, secures and logs in.
    pub async fn open(
        shard: &Rc<Shard>,
        address: SocketAddr,
        host: &str,
        config: Arc<Config>,
        trust: Trust,
    ) -> Result<Session, Lost> {
        let watch = shard.watchdog.watch();
        let mut transport = Transport::connect(address, &shard.readiness, Rc::clone(&watch))
            .await
            .map_err(Lost::Socket)?;
        let name = trust.name(host, address.ip()).map_err(Lost::Tls)?;
        if config.tls == Tls::Active {
            let started = transport.start_tls_client(trust.config(), name.clone()).await;
            started.map_err(Lost::Tls)?;
        }
        let mut session = Session {
            shard: Rc::clone(shard),
            machine: Client::new(config),
            transport,
            watch,
            trust,
            name,
            input: Vec::new(),
            used: 0,
            broken: false,
            is_bringing: false,
            steps: 0,
        };
        match session.drive(None).await? {
            Told::Ready => Ok(session),
            Told::Done(_) | Told::Closed => Err(Lost::Socket(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Brings a message, of which `uid` is the body.
    pub async fn bring(&mut self, envelope: Envelope, uid: Uid) -> Result<Report, Lost> {
        let octets = envelope.octets;
        if self.machine.begin(envelope).is_err() {
            let (stage, trouble) = (Stage::Idle, Trouble::Lost);
            return Err(Lost::Failed(Failure { stage, trouble, heard: None }));
        }
        let patience = out_within(octets);
        self.watch.set_limit(Some(self.shard.now().after(patience)));
        let told = self.drive(Some(uid)).await;
        self.watch.set_limit(None);
        match told? {
            Told::Done(report) => Ok(report),
            Told::Ready | Told::Closed => {
                let (stage, trouble) = (Stage::Idle, Trouble::Lost);
                Err(Lost::Failed(Failure { stage, trouble, heard: None }))
            }
        }
    }

    /// Whether what is said is encrypted, and whether the server promises to pass a message on in
    /// the same way (RFC 8689).
    pub fn is_encrypted(&self) -> bool {
        self.machine.is_encrypted()
    }

    pub fn keeps_require_tls(&self) -> bool {
        self.machine.offers().require_tls
    }

    /// Says goodbye, and waits for the answer as long as the machine does.
    pub async fn quit(mut self) {
        self.machine.quit();
        let _ = self.drive(None).await;
        self.transport.close();
    }

    /// Steps the machine until it has something to say.
    async fn drive(&mut self, message: Option<Uid>) -> Result<Told, Lost> {
        let mut outbox = Outbox::new();
        let mut at = 0;
        let mut is_out = false;
        self.is_bringing = message.is_some();
        loop {
            let mut input = &self.input[self.used..];
            let before = input.len();
            let step = self.machine.step(self.shard.now(), &mut input, &mut outbox);
            self.used += before - input.len();
            // Over all messages: each takes but a few.
            self.steps = self.steps.wrapping_add(1);
            if self.steps.is_multiple_of(UNBROKEN_STEPS_MAX) {
                give_way().await;
            }
            match step {
                Step::NeedInput => {
                    self.send(&mut outbox).await;
                    if is_out {
                        // The last word has its own time: to cut it short would be to send
                        // all of it again.
                        self.watch.set_limit(None);
                    }
                    self.read().await;
                }
                Step::StartTls => {
                    self.send(&mut outbox).await;
                    // RFC 3207 section 4.2: what came along in the clear is nobody's.
                    self.input.clear();
                    self.used = 0;
                    let name = self.name.clone();
                    let started = self.transport.start_tls_client(self.trust.config(), name).await;
                    started.map_err(Lost::Tls)?;
                    self.machine.tls_started(self.shard.now());
                }
                Step::Close => {
                    self.send(&mut outbox).await;
                    self.transport.close();
                    return Ok(Told::Closed);
                }
                Step::Event(Event::Ready) => return Ok(Told::Ready),
                Step::Event(Event::Done(report)) => {
                    self.send(&mut outbox).await;
                    return Ok(Told::Done(report));
                }
                Step::Event(Event::Failed(failure)) => {
                    self.send(&mut outbox).await;
                    return Err(Lost::Failed(failure));
                }
                Step::Event(Event::Derive(derivation, ticket)) => {
                    let salted = glommio::executor().spawn_blocking(move || derivation.run()).await;
                    self.machine.answer_derived(ticket, &salted, &mut outbox);
                }
                Step::Event(Event::Body(ticket)) => {
                    // What went before leaves while the store reads.
                    self.send(&mut outbox).await;
                    if self.broken {
                        self.machine.lost();
                        continue;
                    }
                    let piece = self.piece(message, &mut at).await;
                    is_out = !matches!(piece, Some((_, false)));
                    let piece = match &piece {
                        Some((octets, true)) => Piece::Last(octets),
                        Some((octets, false)) => Piece::More(octets),
                        None => Piece::Unreadable,
                    };
                    self.machine.answer_body(ticket, piece, &mut outbox);
                }
            }
        }
    }

    /// The next piece of the message, and whether it is the last.
    async fn piece(&self, message: Option<Uid>, at: &mut u64) -> Option<(bytes::Bytes, bool)> {
        let (account, mailbox) = (queue::ACCOUNT, queue::MAILBOX);
        let store = &self.shard.store;
        let uid = message?;
        if let Some(fresh) = self.shard.queue.fresh.octets(uid) {
            let end = fresh.len().min((*at + PIECE_BYTES) as usize);
            let piece = fresh.slice(*at as usize..end);
            *at = end as u64;
            return Some((piece, end == fresh.len()));
        }
        let octets = u64::from(store.entry(account, mailbox, uid).ok()?.bytes);
        let read = store.read(account, mailbox, uid, *at..*at + PIECE_BYTES).await;
        let piece = read
            .inspect_err(
                |error| tracing::error!(uid = uid.0, %error, "a queued message can't be read"),
            )
            .ok()?;
        *at += piece.len() as u64;
        Some((piece, *at >= octets))
    }

    async fn send(&mut self, outbox: &mut Outbox) {
        if self.broken {
            outbox.clear();
        } else if self.transport.send(outbox).await.is_err() {
            outbox.clear();
            self.broken = true;
            // Its last words may say why.
            let _ = self.try_read();
            self.machine.lost();
        }
    }

    /// Waits for input, the deadline, or the end of the server.
    async fn read(&mut self) {
        if self.broken {
            self.machine.lost();
            return;
        }
        match self.try_read() {
            Ok(0) => return self.machine.lost(),
            Ok(_) => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return self.machine.lost(),
        }
        self.watch.set_deadline(self.machine.deadline());
        let readable = async {
            self.transport.readable().await;
            None
        };
        let woken = async { Some(self.watch.woken().await) };
        match or(readable, woken).await {
            None => {}
            Some(Woken::Deadline) if !self.watch.is_limit_over() => {}
            Some(Woken::Deadline) => {
                self.broken = true;
                self.machine.lost();
            }
            Some(Woken::Stopping) if self.is_bringing => {}
            Some(Woken::Stopping | Woken::Cut) => {
                self.broken = true;
                self.machine.lost();
            }
        }
    }

    /// Behind what is not used yet, of which there is none when the machine needs input.
    fn try_read(&mut self) -> io::Result<usize> {
        self.input.drain(..self.used);
        self.used = 0;
        let mut buffer = self.shard.buffers.take();
        let read = self.transport.try_read(&mut buffer);
        if let Ok(count) = read {
            self.input.extend_from_slice(&buffer[..count]);
        }
        self.shard.buffers.give(buffer);
        read
    }
}

fn out_within(octets: u64) -> Duration {
    OUT_WITHIN + Duration::from_secs(octets / OUT_BYTES_PER_SECOND)
}
