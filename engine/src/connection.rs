//! The one loop that reads and writes sockets; it serves every protocol.
//!
//! Drive the machine while there is input; answer its events; send what it wrote; wait for input, a
//! deadline, news or the end of the server. The read buffer comes from the core's pool and goes
//! back before the wait.

use crate::NOTICE;
use crate::core::{UNBROKEN_STEPS_MAX, give_way};
use crate::session::{Next, Session};
use crate::shard::Shard;
use crate::watchdog::{Watch, Woken};
use crate::wire::{PackedTransport, Transport, Wire};
use futures_lite::future::or;
use protocols::{Machine, Outbox, Step};
use std::io;
use std::rc::Rc;

/// A peer may always have more to read, so that its session never has to wait: after so
/// many octets, and [`UNBROKEN_STEPS_MAX`] events within one buffer, the core's other tasks
/// have their turn.
const UNBROKEN_OCTETS_MAX: usize = 64 * 1024;

/// A session with its transport, on its way through life.
#[derive(Debug)]
pub struct Connection<S> {
    pub transport: Transport,
    pub session: S,
    pub watch: Rc<Watch>,
}

/// How driving the machine ended.
enum Driven {
    NeedInput,
    StartTls,
    MoveTo(u16),
    Close,
}

/// What ended a wait.
enum Waited {
    Readable,
    News,
    Woken(Woken),
}

/// Serves one connection to its end, or to its move to another core. `input` is what had been read
/// but not used before a move; empty at first, which brings out the greeting.
pub async fn serve<S: Session>(shard: Rc<Shard>, mut connection: Connection<S>, input: Vec<u8>) {
    let ended = run(&shard, &mut connection, input).await;
    match ended {
        Ok(Ended::Closed) => connection.transport.close(),
        Ok(Ended::MoveTo(home, rest)) => depart(&shard, connection, home, rest),
        Err(error) => {
            tracing::debug!(peer = %connection.transport.peer.address, %error, "connection lost");
        }
    }
}

enum Ended {
    Closed,
    MoveTo(u16, Vec<u8>),
}

async fn run<S: Session>(
    shard: &Rc<Shard>,
    connection: &mut Connection<S>,
    first: Vec<u8>,
) -> io::Result<Ended> {
    let mut outbox = Outbox::new();
    let mut input: &[u8] = &first;
    let mut driven = Box::pin(drive(shard, connection, &mut input, &mut outbox)).await?;
    let mut rest = input.to_vec();
    let mut unbroken = 0;
    loop {
        connection.transport.send(&mut outbox).await?;
        match driven {
            Driven::Close => return Ok(Ended::Closed),
            Driven::MoveTo(home) => return Ok(Ended::MoveTo(home, rest)),
            Driven::StartTls => {
                // What is left of the input was pipelined behind STARTTLS: dropped.
                let Some(config) = shard.tls() else { return Ok(Ended::Closed) };
                if let Err(error) = connection.transport.start_tls(config).await {
                    let peer = connection.transport.peer.address;
                    tracing::info!(target: NOTICE, %peer, %error, "TLS handshake failed after STARTTLS");
                    return Err(error);
                }
                connection.session.machine().tls_started(shard.now());
                connection.session.tls_started(&connection.transport);
            }
            Driven::NeedInput => {}
        }
        rest.clear();
        driven = match wait(connection).await {
            Waited::Readable => {
                let mut buffer = shard.buffers.take();
                let result =
                    read_and_drive(shard, connection, &mut buffer, &mut outbox, &mut rest).await;
                shard.buffers.give(buffer);
                let (octets, driven) = result?;
                unbroken += octets;
                if unbroken >= UNBROKEN_OCTETS_MAX {
                    unbroken = 0;
                    give_way().await;
                }
                driven
            }
            Waited::News => {
                let mut wire = Wire::new(&mut outbox, &mut connection.transport);
                match Box::pin(connection.session.tell(&mut wire)).await {
                    Next::Continue => Driven::NeedInput,
                    Next::MoveTo(home) => Driven::MoveTo(home),
                    Next::Close => Driven::Close,
                }
            }
            Waited::Woken(Woken::Stopping) if connection.session.in_transaction() => {
                Driven::NeedInput
            }
            Waited::Woken(Woken::Stopping | Woken::Cut) => {
                outbox.push(connection.session.goodbye());
                Driven::Close
            }
            // Past its deadline the machine writes its farewell.
            Waited::Woken(Woken::Deadline) => {
                Box::pin(drive(shard, connection, &mut &[][..], &mut outbox)).await?
            }
        };
    }
}

/// Reads once, as much as the buffer takes, and drives the machine with it. Tells how many octets.
async fn read_and_drive<S: Session>(
    shard: &Rc<Shard>,
    connection: &mut Connection<S>,
    buffer: &mut [u8],
    outbox: &mut Outbox,
    rest: &mut Vec<u8>,
) -> io::Result<(usize, Driven)> {
    let count = match connection.transport.try_read(buffer) {
        Ok(0) => {
            connection.session.input_ended();
            return Ok((0, Driven::Close));
        }
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Ok((0, Driven::NeedInput));
        }
        Err(error) => return Err(error),
    };
    let mut input = &buffer[..count];
    let driven = drive(shard, connection, &mut input, outbox).await?;
    rest.extend_from_slice(input);
    // Once the server stops, a session ends with the transaction that it was in.
    let leaving = shard.watchdog.stopping() && !connection.session.in_transaction();
    if leaving && matches!(driven, Driven::NeedInput) {
        outbox.push(connection.session.goodbye());
        return Ok((count, Driven::Close));
    }
    Ok((count, driven))
}

/// Steps the machine through `input`, answering its events.
async fn drive<S: Session>(
    shard: &Rc<Shard>,
    connection: &mut Connection<S>,
    input: &mut &[u8],
    outbox: &mut Outbox,
) -> io::Result<Driven> {
    let mut events = 0;
    loop {
        match connection.session.machine().step(shard.now(), input, outbox) {
            Step::NeedInput => return Ok(Driven::NeedInput),
            Step::StartTls => return Ok(Driven::StartTls),
            Step::Close => return Ok(Driven::Close),
            Step::Event(event) => {
                let mut wire = Wire::new(outbox, &mut connection.transport);
                match connection.session.answer(event, &mut wire).await {
                    Next::Continue => wire.relieve().await?,
                    Next::MoveTo(home) => return Ok(Driven::MoveTo(home)),
                    Next::Close => return Ok(Driven::Close),
                }
                events += 1;
                if events % UNBROKEN_STEPS_MAX == 0 {
                    give_way().await;
                }
            }
        }
    }
}

async fn wait<S: Session>(connection: &mut Connection<S>) -> Waited {
    connection.watch.set_deadline(connection.session.machine().deadline());
    let transport = &connection.transport;
    let readable = async {
        transport.readable().await;
        Waited::Readable
    };
    let news = async {
        connection.session.news().await;
        Waited::News
    };
    let woken = async { Waited::Woken(connection.watch.woken().await) };
    or(readable, or(news, woken)).await
}

/// Sends the connection to the core that owns its data.
fn depart<S: Session>(shard: &Rc<Shard>, connection: Connection<S>, home: u16, rest: Vec<u8>) {
    let peer = connection.transport.peer.address;
    let packed: PackedTransport = connection.transport.pack();
    let luggage = connection.session.pack();
    let sent = shard.mesh.tell(home, move |shard| async move {
        let watch = shard.watchdog.watch();
        match Transport::unpack(packed, &shard.readiness, Rc::clone(&watch)) {
            Ok(transport) => {
                let session = S::unpack(luggage, &shard);
                serve(shard, Connection { transport, session, watch }, rest).await;
            }
            Err(error) => tracing::warn!(%peer, %error, "can't adopt a connection"),
        }
    });
    if sent.is_err() {
        tracing::warn!(%peer, home, "connection dropped: its home core is too far behind");
    }
}
