//! A connection is let in or not; and what a stranger does wrong is told to the core
//! that counts it.

use super::screening::{Door, Offence, Place, network};
use crate::NOTICE;
use crate::metrics::{Service, count};
use crate::shard::Shard;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Whether nothing here concerns this client.
pub fn is_friend(shard: &Shard, peer: IpAddr) -> bool {
    shard.fences.borrow().allowed.contains(peer)
}

/// Whether who connects from there may say on whose behalf (XCLIENT): what many clients do is not
/// to be counted against their gateway. What it brings is looked at like anybody's.
pub fn is_gateway(shard: &Shard, peer: IpAddr) -> bool {
    shard.config.listen.xclient_from.iter().any(|network| network.contains(peer))
}

/// Why a connection goes no further than the greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptOut {
    /// By the operator's word.
    Denied,
    /// For a while.
    Banned,
}

/// Whether the connection may go on. LMTP is for gateways of one's own.
pub fn admit(shard: &Shard, peer: IpAddr, service: Service) -> Result<(), KeptOut> {
    let is_gateway = service == Service::Smtp && is_gateway(shard, peer);
    if service == Service::Lmtp || is_gateway || is_friend(shard, peer) {
        return Ok(());
    }
    let door = if service == Service::Smtp { Door::Mail } else { Door::Login };
    let kept_out = if shard.fences.borrow().denied.contains(peer) {
        KeptOut::Denied
    } else if shard.screen.borrow().is_banned(Instant::now(), door, peer) {
        KeptOut::Banned
    } else {
        if service == Service::Smtp {
            note(shard, peer, Offence::Connection);
        }
        return Ok(());
    };
    count(&shard.metrics.connections_banned);
    Err(kept_out)
}

/// A stranger has done something that adds up.
pub fn note(shard: &Shard, peer: IpAddr, offence: Offence) {
    if offence.limit(&shard.config.policy.screening) == 0 || is_friend(shard, peer) {
        return;
    }
    if offence.door() == Door::Mail && is_gateway(shard, peer) {
        return;
    }
    // All addresses of a network are counted by one core, or the network could not be.
    let mut hasher = DefaultHasher::new();
    network(peer.to_canonical()).hash(&mut hasher);
    let home = u16::try_from(hasher.finish() % u64::from(shard.mesh.cores().max(1))).unwrap_or(0);
    if home == shard.id {
        return judge(shard, peer, offence);
    }
    // A core that is too busy to hear of it has other worries.
    let _ = shard.mesh.tell(home, move |shard| async move { judge(&shard, peer, offence) });
}

fn judge(shard: &Shard, peer: IpAddr, offence: Offence) {
    let screening = &shard.config.policy.screening;
    let over = shard.screen.borrow_mut().note(Instant::now(), peer, offence, screening);
    for place in over {
        let (what, address) = match place {
            Place::Address(address) => ("address", address),
            Place::Network(address) => ("network", address),
        };
        let seconds = screening.ban_seconds;
        tracing::info!(target: NOTICE, %peer, what, %address, because = offence.name(), seconds, "kept out");
        count(&shard.metrics.bans[offence as usize]);
        ban(shard, offence.door(), place, Duration::from_secs(seconds));
    }
    if screening.tarpit_seconds > 0 && offence.door() == Door::Mail {
        let near = shard.screen.borrow().near(Instant::now(), peer, offence, screening);
        for place in near {
            ban(shard, Door::Tarpit, place, Duration::from_secs(screening.window_seconds));
        }
    }
}

/// Keeps a place out, or away from quick replies, on every core.
pub fn ban(shard: &Shard, door: Door, place: Place, time: Duration) {
    for core in 0..shard.mesh.cores() {
        let ban = move |shard: &Shard| {
            let now = Instant::now();
            shard.screen.borrow_mut().ban(now, door, place, now + time);
        };
        if core == shard.id {
            ban(shard);
        } else {
            let _ = shard.mesh.tell(core, move |shard| async move { ban(&shard) });
        }
    }
}
