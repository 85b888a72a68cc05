//! Listening sockets: bound before anything starts, one for each core and address.
//!
//! `SO_REUSEPORT` lets every core accept for itself. It would also let a second server of the same
//! user share our ports without an error, so each address is first bound without it, as a probe.

use crate::balancer;
use crate::config::{Config, ConfigError};
use crate::metrics::{Service, count};
use crate::policy::connect::{self, KeptOut};
use crate::session::start;
use crate::shard::{Place, Shard};
use crate::wire::Peer;
use futures_lite::future::{or, yield_now};
use glommio::io::PollableFd;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

const BACKLOG: i32 = 1024;
/// After accept fails for want of descriptors or memory: wait rather than spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A flood of connections must not keep the core from serving those that it has.
const ACCEPTED_AT_ONCE: u64 = 32;
const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// One core's listeners.
pub type Listeners = Vec<(Service, TcpListener)>;

/// The addresses of every service, as configured.
pub fn addresses(config: &Config) -> Vec<(Service, SocketAddr)> {
    let listen = &config.listen;
    let of = |service| match service {
        Service::Smtp => &listen.smtp,
        Service::Submission => &listen.submission,
        Service::Submissions => &listen.submissions,
        Service::Lmtp => &listen.lmtp,
        Service::Imap => &listen.imap,
        Service::Imaps => &listen.imaps,
        Service::Pop3 => &listen.pop3,
        Service::Pop3s => &listen.pop3s,
        Service::ManageSieve => &listen.managesieve,
    };
    Service::ALL
        .into_iter()
        .flat_map(|service| of(service).iter().map(move |&address| (service, address)))
        .collect()
}

/// Binds all configured addresses once for each of `cores`.
pub fn bind(config: &Config, cores: usize) -> Result<Vec<Listeners>, ConfigError> {
    let mut listeners: Vec<Listeners> = (0..cores).map(|_| Vec::new()).collect();
    for (service, address) in addresses(config) {
        let fault = |error: io::Error| {
            let name = service.name();
            let mend = match error.kind() {
                io::ErrorKind::AddrInUse => "stop the other server, or change the address",
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need CAP_NET_BIND_SERVICE, or choose a higher one"
                }
                io::ErrorKind::AddrNotAvailable => "this host does not have that address",
                _ => "change the address",
            };
            ConfigError(format!("can't listen on {address} (listen.{name}): {error}; {mend}"))
        };
        probe(address).map_err(fault)?;
        for core in &mut listeners {
            core.push((service, socket(address, true).map_err(fault)?));
        }
    }
    Ok(listeners)
}

/// The metrics' listener, for the control plane.
pub fn bind_metrics(config: &Config) -> Result<Option<TcpListener>, ConfigError> {
    let Some(address) = config.metrics.listen else { return Ok(None) };
    let listener = probe(address).map_err(|error| {
        ConfigError(format!(
            "can't listen on {address} (metrics.listen): {error}; stop the other server, or choose another port"
        ))
    })?;
    Ok(Some(listener))
}

/// Of the control plane's web server.
#[derive(Debug, Default)]
pub struct Web {
    pub https: Vec<TcpListener>,
    pub http: Vec<TcpListener>,
}

pub fn bind_web(config: &Config) -> Result<Web, ConfigError> {
    let bind = |key: &str, addresses: &[SocketAddr]| -> Result<Vec<TcpListener>, ConfigError> {
        let one = |&address: &SocketAddr| {
            probe(address).map_err(|error| {
                ConfigError(format!(
                    "can't listen on {address} ({key}): {error}; stop the other server, or choose another address"
                ))
            })
        };
        addresses.iter().map(one).collect()
    };
    let https = bind("web.listen", &config.web.listen)?;
    Ok(Web { https, http: bind("web.http", &config.web.http)? })
}

/// Binds alone. The sockets of a server that was just killed are still there for a moment, while
/// the kernel takes its rings apart: only a port that stays in use is an error.
fn probe(address: SocketAddr) -> io::Result<TcpListener> {
    let until = Instant::now() + PORT_PATIENCE;
    loop {
        match socket(address, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // The probe listens too: only that shows another listener with SO_REUSEADDR.
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the server stops.
pub async fn accept_all(shard: Rc<Shard>, service: Service, listener: TcpListener) {
    let listener = match PollableFd::new(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(service = service.name(), %error, "can't listen"),
    };
    let stop = async {
        shard.watchdog.watch().woken().await;
        None
    };
    let accept = async {
        for taken in 1_u64.. {
            match listener.get_ref().accept() {
                Ok((socket, address)) => {
                    admit(&shard, service, socket, address);
                    if taken.is_multiple_of(ACCEPTED_AT_ONCE) {
                        yield_now().await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = listener.readable().await {
                        return Some(error);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(service = service.name(), %error, "can't accept; waiting");
                    glommio::timer::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        None
    };
    if let Some(error) = or(stop, accept).await {
        tracing::error!(service = service.name(), %error, "stopped accepting");
    }
}

fn admit(shard: &Rc<Shard>, service: Service, socket: TcpStream, address: SocketAddr) {
    // Whose connection a balancer passes on is not known yet.
    let place = if balancer::is_one(shard, service, address.ip()) {
        None
    } else {
        if let Err(kept_out) = connect::admit(shard, address.ip(), service) {
            refuse(&socket, service, Some(kept_out));
            return;
        }
        let Some(place) = Place::take(shard, address.ip(), service) else {
            refuse(&socket, service, None);
            return;
        };
        count(&shard.metrics.connections[service as usize]);
        Some(place)
    };
    let prepare = || -> io::Result<Peer> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Peer { address, local: socket.local_addr()? })
    };
    match prepare() {
        Ok(peer) => {
            glommio::spawn_local(start(Rc::clone(shard), service, socket, peer, place)).detach();
        }
        Err(error) => tracing::debug!(%address, %error, "connection lost at once"),
    }
}

/// A word of farewell, if the socket takes it at once.
fn refuse(socket: &TcpStream, service: Service, kept_out: Option<KeptOut>) {
    let _ = socket.set_nonblocking(true);
    let _ = io::Write::write(&mut &*socket, farewell(service, kept_out));
}

/// What is said to who gets no further than the greeting.
pub fn farewell(service: Service, kept_out: Option<KeptOut>) -> &'static [u8] {
    match service {
        Service::Smtp | Service::Submission | Service::Lmtp
            if kept_out == Some(KeptOut::Denied) =>
        {
            b"554 5.7.1 Nothing is taken from your address\r\n"
        }
        // Others may send from the same address: their mail waits, and is not lost.
        Service::Smtp | Service::Submission | Service::Lmtp if kept_out.is_some() => {
            b"421 4.7.0 Nothing is taken from your address for now\r\n"
        }
        Service::Imap if kept_out.is_some() => b"* BYE Your address is kept out\r\n",
        Service::Pop3 if kept_out.is_some() => b"-ERR [SYS/TEMP] Your address is kept out\r\n",
        Service::ManageSieve => b"BYE (TRYLATER) \"Too many connections, try again later\"\r\n",
        Service::Smtp | Service::Submission | Service::Lmtp => {
            b"421 4.3.2 Too many connections, try again later\r\n"
        }
        Service::Imap => b"* BYE [LIMIT] Too many connections, try again later\r\n",
        Service::Pop3 => b"-ERR [SYS/TEMP] Too many connections, try again later\r\n",
        // Before a handshake there is nothing that the peer would understand.
        Service::Submissions | Service::Imaps | Service::Pop3s => b"",
    }
}
