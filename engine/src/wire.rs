//! A connection's transport: a non-blocking socket, with TLS or without, and the write side that
//! sessions see.
//!
//! Reads are tried before they are waited for, and a session that waits holds no buffer: an idle
//! connection costs its socket, its TLS state and its machine. A peer that does not take its
//! replies for [`WRITE_TIMEOUT`] is dropped.

use crate::readiness::{Readiness, Socket};
use crate::watchdog::{Watch, Woken};
use protocols::Outbox;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

const WRITE_TIMEOUT: Duration = Duration::from_secs(300);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// A long answer is sent piecewise, so that it never has to fit in memory.
const OUTBOX_BYTES_MAX: usize = 64 * 1024;

/// The facts of a connection that outlive a move between cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    pub local: SocketAddr,
}

/// A socket and its TLS state.
pub struct Transport {
    socket: Socket,
    tls: Option<Box<Connection>>,
    /// Decrypted octets that wait inside `tls`: the socket will not announce them again.
    decrypted: usize,
    watch: Rc<Watch>,
    pub peer: Peer,
}

/// What travels when a connection moves to another core.
pub struct PackedTransport {
    stream: TcpStream,
    tls: Option<Box<Connection>>,
    decrypted: usize,
    peer: Peer,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("peer", &self.peer)
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

impl Transport {
    /// `stream` must be non-blocking.
    pub fn new(
        stream: TcpStream,
        peer: Peer,
        readiness: &Rc<Readiness>,
        watch: Rc<Watch>,
    ) -> io::Result<Transport> {
        Ok(Transport {
            socket: Socket::new(stream, readiness)?,
            tls: None,
            decrypted: 0,
            watch,
            peer,
        })
    }

    /// A connection of ours to another server, once it is there.
    pub async fn connect(
        address: SocketAddr,
        readiness: &Rc<Readiness>,
        watch: Rc<Watch>,
    ) -> io::Result<Transport> {
        let domain = socket2::Domain::for_address(address);
        let socket =
            socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let local = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
        let transport = Transport::new(socket.into(), Peer { address, local }, readiness, watch)?;
        transport.connected(CONNECT_TIMEOUT).await?;
        Ok(transport)
    }

    pub fn pack(self) -> PackedTransport {
        PackedTransport {
            stream: self.socket.into_stream(),
            tls: self.tls,
            decrypted: self.decrypted,
            peer: self.peer,
        }
    }

    pub fn unpack(
        packed: PackedTransport,
        readiness: &Rc<Readiness>,
        watch: Rc<Watch>,
    ) -> io::Result<Transport> {
        let mut transport = Transport::new(packed.stream, packed.peer, readiness, watch)?;
        transport.tls = packed.tls;
        transport.decrypted = packed.decrypted;
        Ok(transport)
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The negotiated version and cipher suite, for the trace header.
    pub fn tls_text(&self) -> Option<String> {
        let tls = self.tls.as_ref()?;
        let version = match tls.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => "TLS",
        };
        let suite = tls.negotiated_cipher_suite()?.suite();
        Some(format!("{version} cipher {}", suite.as_str().unwrap_or("unknown")))
    }

    /// Reads what is there now: `WouldBlock` when that is nothing, 0 at the end.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = &self.socket;
        let Some(tls) = &mut self.tls else { return socket.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that closes without close_notify has still closed.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                done => {
                    let taken = done?;
                    self.decrypted = self.decrypted.saturating_sub(taken);
                    return Ok(taken);
                }
            }
            if tls.read_tls(&mut socket)? == 0 {
                return Ok(0);
            }
            match tls.process_new_packets() {
                Ok(state) => self.decrypted = state.plaintext_bytes_to_read(),
                Err(error) => {
                    let _ = tls.write_tls(&mut socket); // the alert, if the socket takes it
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }

    /// Resolves when a connection that was begun stands. A stopping server does not wait for it.
    pub async fn connected(&self, timeout: Duration) -> io::Result<()> {
        self.watch.set_timeout(timeout);
        let stands = async {
            self.socket.writable().await;
            self.socket.stream().take_error()?.map_or(Ok(()), Err)
        };
        let woken = async {
            self.watch.woken().await;
            Err(io::ErrorKind::TimedOut.into())
        };
        futures_lite::future::or(stands, woken).await
    }

    /// Resolves when a read may find something.
    pub async fn readable(&self) {
        if self.decrypted == 0 {
            self.socket.readable().await;
        }
    }

    /// Performs the server's side of a handshake.
    pub async fn start_tls(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        self.handshake(connection.into()).await
    }

    /// Performs the client's side of a handshake with the server of that name.
    pub async fn start_tls_client(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<()> {
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        self.handshake(connection.into()).await
    }

    async fn handshake(&mut self, connection: Connection) -> io::Result<()> {
        let tls = self.tls.insert(Box::new(connection));
        // Bounds what rustls holds of our replies; the rest waits in the outbox.
        tls.set_buffer_limit(Some(OUTBOX_BYTES_MAX));
        self.watch.set_timeout(HANDSHAKE_TIMEOUT);
        loop {
            self.flush_tls().await?;
            let tls = self.tls.as_mut().expect("set above");
            if !tls.is_handshaking() {
                return Ok(());
            }
            match tls.read_tls(&mut &self.socket) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // What comes with the last flight of the handshake is the first command already.
                Ok(_) => match tls.process_new_packets() {
                    Ok(state) => self.decrypted = state.plaintext_bytes_to_read(),
                    Err(error) => {
                        let _ = tls.write_tls(&mut &self.socket);
                        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.or_timeout(self.socket.readable()).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends all of `outbox` and clears it.
    pub async fn send(&mut self, outbox: &mut Outbox) -> io::Result<()> {
        if outbox.is_empty() {
            return Ok(());
        }
        self.watch.set_timeout(WRITE_TIMEOUT);
        if self.tls.is_some() {
            let mut rest = outbox.as_bytes();
            while !rest.is_empty() {
                let tls = self.tls.as_mut().expect("checked above");
                let taken = tls.writer().write(rest)?;
                rest = &rest[taken..];
                self.flush_tls().await?;
            }
        } else {
            let mut rest = outbox.as_bytes();
            while !rest.is_empty() {
                match (&self.socket).write(rest) {
                    Ok(sent) => rest = &rest[sent..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.wait_writable().await?
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        outbox.clear();
        Ok(())
    }

    async fn flush_tls(&mut self) -> io::Result<()> {
        while let Some(tls) = &mut self.tls
            && tls.wants_write()
        {
            match tls.write_tls(&mut &self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_writable().await?
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn wait_writable(&self) -> io::Result<()> {
        self.or_timeout(self.socket.writable()).await?;
        self.watch.set_timeout(WRITE_TIMEOUT); // there was progress
        Ok(())
    }

    async fn or_timeout(&self, ready: impl Future<Output = ()>) -> io::Result<()> {
        let timeout = async {
            loop {
                // A stopping server does not cut a reply short while it has patience.
                if matches!(self.watch.woken().await, Woken::Deadline | Woken::Cut) {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        };
        let ready = async {
            ready.await;
            Ok(())
        };
        futures_lite::future::or(ready, timeout).await
    }

    /// Last words, if the socket takes them at once.
    pub fn say(&mut self, words: &[u8]) {
        let _ = self.socket.stream().write(words);
        let _ = self.socket.stream().shutdown(std::net::Shutdown::Write);
    }

    /// Says goodbye to TLS, politely but without waiting.
    pub fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = tls.write_tls(&mut &self.socket);
        }
        let _ = self.socket.stream().shutdown(std::net::Shutdown::Write);
    }
}

/// What a session writes to: the outbox, and a way to send it half-way through a long answer.
#[derive(Debug)]
pub struct Wire<'c> {
    pub outbox: &'c mut Outbox,
    transport: Option<&'c mut Transport>,
}

impl<'c> Wire<'c> {
    pub fn new(outbox: &'c mut Outbox, transport: &'c mut Transport) -> Wire<'c> {
        Wire { outbox, transport: Some(transport) }
    }

    /// A wire to nowhere but the outbox, for tests.
    pub fn detached(outbox: &'c mut Outbox) -> Wire<'c> {
        Wire { outbox, transport: None }
    }

    /// Sends the outbox when it has grown past 64 KiB; otherwise returns at once. An error means
    /// that the peer is gone or too slow: the session gives up what it was doing.
    pub async fn relieve(&mut self) -> io::Result<()> {
        if self.outbox.len() >= OUTBOX_BYTES_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends the outbox now: before a wait that the peer should not wait out.
    pub async fn flush(&mut self) -> io::Result<()> {
        match &mut self.transport {
            Some(transport) => transport.send(self.outbox).await,
            None => Ok(()),
        }
    }
}
