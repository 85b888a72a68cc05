//! Addresses that nobody has reason to write to: who does is a spammer, or has bought
//! addresses from one.
//!
//! Such an address stands where only programs find it. A stranger who names it in RCPT is kept out
//! for a while, with all that the session brings from there on refused, or taken as junk. It is the
//! connection's address that counts, which nobody forges.

use super::connect;
use super::screening::{Door, Place};
use super::settings::HoneypotAction;
use crate::NOTICE;
use crate::directory::canonical;
use crate::metrics::count;
use crate::shard::Shard;
use std::net::SocketAddr;
use std::time::Duration;

/// Whether a recipient is one.
pub fn is_one(shard: &Shard, recipient: &str) -> bool {
    let honeypots = &shard.config.policy.honeypots;
    !honeypots.is_empty()
        && canonical(recipient).is_ok_and(|recipient| honeypots.contains(&recipient))
}

/// A stranger has written to one.
pub fn spring(shard: &Shard, peer: SocketAddr, recipient: &str) -> HoneypotAction {
    let policy = &shard.config.policy;
    count(&shard.metrics.honeypots);
    let seconds = policy.honeypot_ban_seconds;
    tracing::info!(target: NOTICE, %peer, service = "smtp", recipient, seconds, "wrote to a honeypot");
    if seconds > 0 {
        let place = Place::Address(peer.ip().to_canonical());
        connect::ban(shard, Door::Mail, place, Duration::from_secs(seconds));
    }
    policy.honeypot_action
}
