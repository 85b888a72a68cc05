//! A gateway that the operator trusts says on whose behalf it speaks (XCLIENT): from then on the
//! session is that client's.
//!
//! What is decided about a connection is decided about the client: whether it is kept out, how many
//! it may have, and everything that looks at an address later, from SPF to greylisting. So a
//! gateway within `auth.trusted_networks` passes nobody off as trusted. What the gateway does
//! before it says for whom is its own: that is looked at like anybody's, but many connections and
//! many faults from there keep nobody out.

use super::SmtpSession;
use crate::metrics::Service;
use crate::policy::connect::{self, KeptOut};
use crate::shard::Shard;
use protocols::smtp::Refusal;
use protocols::smtp::xclient::Client;
use std::net::{IpAddr, SocketAddr};

/// Whether whoever connects from there may say so. Only where servers bring mail: who logs in
/// speaks for themselves.
pub(super) fn is_one(shard: &Shard, service: Service, address: IpAddr) -> bool {
    service == Service::Smtp && connect::is_gateway(shard, address)
}

impl SmtpSession {
    pub(super) fn speak_for(&mut self, client: &Client) -> Result<(), Refusal> {
        let before = self.peer.address;
        let address = client.address.unwrap_or(before.ip());
        let known = if address == before.ip() { before.port() } else { 0 };
        if address != before.ip() {
            connect::admit(&self.shard, address, self.service).map_err(kept_out)?;
            if !self.place.pass_to(address) {
                let words = "Too many connections, try again later".to_owned();
                return Err(Refusal::STOPPING.saying(words));
            }
            // Others' lists, and others' deeds.
            (self.listed, self.is_early, self.trapped) = (None, false, None);
        }
        self.has_spoken_for |= client.address.is_some();
        self.peer.address = SocketAddr::new(address, client.port.unwrap_or(known));
        self.forget();
        tracing::debug!(gateway = %before, peer = %self.peer.address, "speaks for another");
        Ok(())
    }

    /// A sender is named: by a gateway that says for whom, or by one that may not know how to. A
    /// gateway has mail of its own, too, so that is said once for each network, and not held
    /// against anybody.
    pub(super) fn look_for_client(&self) {
        if self.has_spoken_for || self.service != Service::Smtp {
            return;
        }
        let peer = self.peer.address;
        let gateways = &self.shard.config.listen.xclient_from;
        let Some(index) = gateways.iter().position(|network| network.contains(peer.ip())) else {
            return;
        };
        if self.shard.silent_gateways.borrow_mut().insert(index) {
            tracing::warn!(%peer, network = %gateways[index], "listen.xclient_from: a gateway from there brings mail without saying for whom (XCLIENT): what it brings is taken for its own; if it can't say (Postfix can't), name it in auth.trusted_networks instead");
        }
    }
}

fn kept_out(why: KeptOut) -> Refusal {
    match why {
        KeptOut::Denied => Refusal::POLICY.saying("Nothing is taken from that address".to_owned()),
        KeptOut::Banned => {
            Refusal::STOPPING.saying("Nothing is taken from that address for now".to_owned())
        }
    }
}
