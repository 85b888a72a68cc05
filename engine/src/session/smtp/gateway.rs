//! A gateway that the operator trusts says on whose behalf it speaks (XCLIENT): from then on the session is that client's.
//!
//! What is decided about a connection is decided about the client: whether it is kept out, how many it may have, and everything that looks
//! at an address later, from SPF to greylisting. So a gateway within `auth.trusted_networks` passes nobody off as trusted. What the
//! gateway does before it says for whom counts as its own.

use super::SmtpSession;
use crate::metrics::Service;
use crate::policy::connect::{self, KeptOut};
use crate::shard::{Place, Shard};
use protocols::smtp::Refusal;
use protocols::smtp::xclient::Client;
use std::net::{IpAddr, SocketAddr};

/// Whether whoever connects from there may say so. Only where servers bring mail: who logs in speaks for themselves.
pub(super) fn is_one(shard: &Shard, service: Service, address: IpAddr) -> bool {
    let mut gateways = shard.config.listen.xclient_from.iter();
    service == Service::Smtp && gateways.any(|network| network.contains(address))
}

impl SmtpSession {
    pub(super) fn speak_for(&mut self, client: &Client) -> Result<(), Refusal> {
        let before = self.peer.address;
        let address = client.address.unwrap_or(before.ip());
        let known = if address == before.ip() { before.port() } else { 0 };
        if address != before.ip() {
            connect::admit(&self.shard, address, self.service).map_err(kept_out)?;
            let place = Place::take(&self.shard, address, self.service).ok_or_else(|| {
                Refusal::STOPPING.saying("Too many connections, try again later".to_owned())
            })?;
            self._place = place;
            // Others' lists, and others' deeds.
            (self.listed, self.is_early, self.trapped) = (None, false, None);
        }
        self.peer.address = SocketAddr::new(address, client.port.unwrap_or(known));
        self.forget();
        tracing::debug!(gateway = %before, peer = %self.peer.address, "speaks for another");
        Ok(())
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
