//! Connections that a load balancer passes on: whose they are is read from the PROXY protocol's
//! header, before anything else.
//!
//! From `listen.proxy_protocol_from` every connection must begin with one, or it ends: who could
//! leave it out would have the balancer's address, which may be a trusted one. From elsewhere
//! nobody's header is believed: there it is a faulty first command. What is decided about a
//! connection (kept out, limits) is decided about the client; until it is known, waits are bounded
//! in number and time.

use crate::NOTICE;
use crate::listener::farewell;
use crate::metrics::{Service, count};
use crate::policy::connect;
use crate::shard::{Place, Shard};
use crate::watchdog::Watch;
use crate::wire::Transport;
use futures_lite::future::or;
use protocols::proxy::{self, HEADER_BYTES_MAX, Header, Read, START_BYTES};
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A balancer writes its header at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of a core whose header is waited for.
const WAITING_MAX: usize = 1024;

/// Whether connections from there begin with a header.
pub fn is_one(shard: &Shard, service: Service, address: IpAddr) -> bool {
    let from = shard.config.listen.proxy_protocol_from.get(service.name());
    from.is_some_and(|networks| networks.iter().any(|network| network.contains(address)))
}

struct Waiting<'c>(&'c Cell<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Reads the header, and lets the client in or not. From then on the transport's
/// peer is the client.
pub async fn let_in(
    shard: &Rc<Shard>,
    service: Service,
    transport: &mut Transport,
    watch: &Watch,
) -> Option<Place> {
    let balancer = transport.peer.address;
    let waiting = &shard.balanced;
    if waiting.get() >= WAITING_MAX {
        count(&shard.metrics.connections_refused);
        transport.say(farewell(service, None));
        return None;
    }
    waiting.set(waiting.get() + 1);
    let place = Waiting(waiting);
    let header = header(transport, watch).await;
    drop(place);
    match header {
        Ok(Header::Own) => {}
        Ok(Header::Proxied(client)) => transport.peer.address = client,
        Err(why) => {
            tracing::info!(target: NOTICE, peer = %balancer, service = service.name(), why, "no PROXY header");
            return None;
        }
    }
    let client = transport.peer.address.ip();
    if let Err(kept_out) = connect::admit(shard, client, service) {
        transport.say(farewell(service, Some(kept_out)));
        return None;
    }
    let Some(place) = Place::take(shard, client, service) else {
        transport.say(farewell(service, None));
        return None;
    };
    count(&shard.metrics.connections[service as usize]);
    Some(place)
}

/// The header, and not an octet of what follows. The error is for the log.
async fn header(transport: &mut Transport, watch: &Watch) -> Result<Header, String> {
    let until = Instant::now() + HEADER_TIMEOUT;
    let mut octets = vec![0; HEADER_BYTES_MAX];
    let (mut filled, mut needed) = (0, START_BYTES);
    loop {
        match transport.try_read(&mut octets[filled..needed]) {
            Ok(0) => return Err("it has closed".to_owned()),
            Ok(count) => {
                filled += count;
                match proxy::read(&octets[..filled]) {
                    Ok(Read::Needs(more)) => needed = more,
                    Ok(Read::Done(header, _)) => return Ok(header),
                    Err(fault) => return Err(fault.to_string()),
                }
                continue;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.to_string()),
        }
        let readable = async {
            transport.readable().await;
            None
        };
        let late = async {
            glommio::timer::sleep(until.saturating_duration_since(Instant::now())).await;
            Some("it does not come in time")
        };
        let stopping = async {
            watch.woken().await;
            Some("the server stops")
        };
        if let Some(why) = or(readable, or(late, stopping)).await {
            return Err(why.to_owned());
        }
    }
}
