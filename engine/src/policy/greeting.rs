//! Who is answered late: at the greeting everybody, if the operator says so, and at each reply who
//! has done too much already.
//!
//! A server waits for the greeting (RFC 5321 section 3.1); programs that only pour out spam often
//! don't, and so tell what they are. The wait is a timer, no core is held, and those that wait are
//! bounded: whoever comes beside them is answered at once.

use super::connect;
use super::screening::Door;
use super::settings::EarlyTalkers;
use crate::NOTICE;
use crate::metrics::count;
use crate::shard::Shard;
use crate::watchdog::Watch;
use crate::wire::Transport;
use futures_lite::future::or;
use std::cell::Cell;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// On one core: each holds its connection, and one whose reply is late a read buffer of 64 KiB.
const GREETINGS_HELD_MAX: usize = 4096;
const REPLIES_HELD_MAX: usize = 128;
/// Of what an early talker has said, kept for the session.
const EARLY_BYTES_MAX: usize = 4096;

const REFUSED: &[u8] = b"554 5.5.1 You speak before you are greeted\r\n";

/// Those of a core that wait.
#[derive(Debug, Default)]
pub struct Delayed {
    greetings: Cell<usize>,
    replies: Cell<usize>,
}

/// One of them; gives its place back when dropped.
struct Place<'h>(&'h Cell<usize>);

impl<'h> Place<'h> {
    fn take(held: &'h Cell<usize>, most: usize) -> Option<Place<'h>> {
        (held.get() < most).then(|| {
            held.set(held.get() + 1);
            Place(held)
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What a peer did while it waited for its greeting.
#[derive(Debug)]
pub enum Waited {
    Quietly,
    /// It spoke, and may go on all the same; what it said.
    Speaking(Vec<u8>),
    /// It spoke and was refused, it left, or the server stops.
    Gone,
}

/// Before the greeting of `listen.smtp`.
pub async fn wait(shard: &Shard, transport: &mut Transport, watch: &Watch) -> Waited {
    let peer = transport.peer.address;
    let policy = &shard.config.policy;
    let delay = Duration::from_millis(policy.greeting_delay_ms).max(lateness(shard, peer.ip()));
    let is_known = connect::is_friend(shard, peer.ip()) || connect::is_gateway(shard, peer.ip());
    if delay.is_zero() || is_known {
        return Waited::Quietly;
    }
    let Some(_place) = Place::take(&shard.delayed.greetings, GREETINGS_HELD_MAX) else {
        return Waited::Quietly;
    };
    enum Ended {
        Readable,
        Over,
        Stopping,
    }
    let until = Instant::now() + delay;
    loop {
        let timer = async {
            glommio::timer::sleep(until.saturating_duration_since(Instant::now())).await;
            Ended::Over
        };
        let readable = async {
            transport.readable().await;
            Ended::Readable
        };
        let stopping = async {
            watch.woken().await;
            Ended::Stopping
        };
        match or(readable, or(timer, stopping)).await {
            Ended::Over => return Waited::Quietly,
            Ended::Stopping => return Waited::Gone,
            Ended::Readable => {}
        }
        let mut said = vec![0; EARLY_BYTES_MAX];
        match transport.try_read(&mut said) {
            Ok(0) => return Waited::Gone,
            Ok(octets) => {
                said.truncate(octets);
                count(&shard.metrics.early_talkers);
                tracing::info!(target: NOTICE, %peer, service = "smtp", "spoke before it was greeted");
                if policy.early_talkers == EarlyTalkers::Mark {
                    return Waited::Speaking(said);
                }
                transport.say(REFUSED);
                return Waited::Gone;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Waited::Gone,
        }
    }
}

/// How late this stranger is answered.
fn lateness(shard: &Shard, peer: IpAddr) -> Duration {
    let seconds = shard.config.policy.screening.tarpit_seconds;
    let is_slowed = seconds > 0
        && !connect::is_friend(shard, peer)
        && !connect::is_gateway(shard, peer)
        && shard.screen.borrow().is_banned(Instant::now(), Door::Tarpit, peer);
    if is_slowed { Duration::from_secs(seconds) } else { Duration::ZERO }
}

/// Before a reply to a stranger on `listen.smtp`, where that one has done too much already. Ends
/// early when the server stops.
pub async fn hold_back(shard: &Shard, peer: IpAddr) {
    let delay = lateness(shard, peer);
    if delay.is_zero() {
        return;
    }
    let Some(_place) = Place::take(&shard.delayed.replies, REPLIES_HELD_MAX) else { return };
    count(&shard.metrics.tarpitted);
    let watch = shard.watchdog.watch();
    let stopping = async {
        watch.woken().await;
    };
    let timer = async {
        glommio::timer::sleep(delay).await;
    };
    or(timer, stopping).await;
}
