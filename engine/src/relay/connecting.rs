//! From a destination to a session: its servers in their order, what protects the way to each and
//! whose certificates are believed there, and the first one that lets us in. What a domain's
//! policies have met on the way is tallied.

use super::hosts::{Host, Nobody, Question};
use super::outcome::not_reached;
use super::protection::{Believed, NoWay, Way};
use super::route::{Need, Route};
use super::session::{Lost, Session};
use super::settings::{SmartHost, TlsMode};
use super::tally::{Failed, Kind, Met};
use super::tls::Trust;
use crate::NOTICE;
use crate::hex;
use crate::operations::unix_now;
use crate::passwords;
use crate::queue::message::{Outcome, Standing};
use crate::shard::Shard;
use protocols::sasl::client::{Login, Secret};
use protocols::smtp::client::Config;
use protocols::wire::remote::Tls;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Addresses of a destination that are tried, one after the other; those to which no way leads from
/// here don't count.
const ADDRESSES_MAX: usize = 8;
/// RFC 8689: nobody there keeps to REQUIRETLS.
pub const NO_REQUIRE_TLS: &str = "5.7.30";

/// A session that takes messages.
pub struct Connected {
    pub session: Session,
    pub host: String,
    /// What protects it, in words.
    pub way: String,
}

pub struct Connector {
    shard: Rc<Shard>,
    anybody: Trust,
    /// Whose certificates are valid for their names; once that was needed.
    valid: RefCell<Option<Trust>>,
    /// Of the smart hosts, once they were needed.
    trusts: RefCell<BTreeMap<usize, Trust>>,
}

impl Connector {
    pub fn new(shard: &Rc<Shard>) -> Connector {
        Connector {
            shard: Rc::clone(shard),
            anybody: Trust::anybody(),
            valid: RefCell::default(),
            trusts: RefCell::default(),
        }
    }

    /// The first server of the destination that lets us in.
    pub async fn connect(&self, route: &Route) -> Result<Connected, Standing> {
        let shard = &self.shard;
        let relay = &shard.config.relay;
        let smart_host = match route {
            Route::SmartHost(number, _) => shard.config.smart_hosts.get(*number).zip(Some(*number)),
            Route::Domain(..) => None,
        };
        let (question, port) = match (route, smart_host.and_then(|(host, _)| host.parts())) {
            (Route::Domain(domain, _), _) => (Question::Exchangers(domain.clone()), relay.port),
            (Route::SmartHost(..), Some((host, port))) => (Question::Host(host.to_owned()), port),
            (Route::SmartHost(number, _), None) => {
                let why = format!("smart host {number} is not in the config file any more");
                return Err(Standing::new(Outcome::Waiting, "4.3.5", &why));
            }
        };
        let hosts = shard.hosts.ask(shard, question).await.map_err(
            |Nobody { is_permanent, status, why }| {
                // The operator names smart hosts: nothing is returned because of a
                // name that is wrong.
                let is_permanent = is_permanent && smart_host.is_none();
                let outcome = if is_permanent { Outcome::Failed } else { Outcome::Waiting };
                let status = if is_permanent { status } else { "4.4.3" };
                Standing::new(outcome, status, &why)
            },
        )?;
        let login = smart_host.and_then(|(host, _)| {
            Some(Login {
                user: host.user.clone()?,
                secret: Secret::Password(host.password.0.clone()),
                nonce: nonce(),
                in_clear: host.tls == TlsMode::Off,
            })
        });
        let hello = relay.hello.clone().unwrap_or_else(|| shard.config.hostname.clone());
        let config = Config { hello, lmtp: false, tls: Tls::Never, login };
        let need = route.need();
        if let Some((host, _)) = smart_host
            && need == Need::RequireTls
            && matches!(host.tls, TlsMode::Opportunistic | TlsMode::Off)
        {
            let host = &host.host;
            let why = format!(
                "REQUIRETLS: the certificate of the smart host {host} is not verified (tls = \"required\" does)"
            );
            return Err(Standing::new(Outcome::Failed, NO_REQUIRE_TLS, &why));
        }
        let mut last = None;
        // For good, unless another host says otherwise.
        let mut refused = None;
        let mut tried = 0;
        let domain = match route {
            Route::Domain(domain, Need::Usual) => Some(domain.as_str()),
            Route::Domain(..) | Route::SmartHost(..) => None,
        };
        for host in &hosts {
            let Host { name, addresses, protection, is_named, .. } = host;
            let (way, trust) = match smart_host {
                Some((host, number)) => (way_to(host), self.trust_of(number).await),
                None => match protection.way(need, *is_named) {
                    Ok(way) => {
                        let trust = self.trust(&way.believed).await;
                        (way, trust)
                    }
                    Err(NoWay { is_permanent, status, why }) => {
                        let is_permanent = is_permanent && !host.may_be_named;
                        let status = if is_permanent { status } else { "4.7.0" };
                        let outcome = if is_permanent { Outcome::Failed } else { Outcome::Waiting };
                        let failed = match host.applied.kind {
                            Kind::Tlsa => Failed::DnssecInvalid,
                            Kind::Sts | Kind::NoPolicyFound => Failed::ValidationFailure,
                        };
                        self.tally(domain, host, None, Some((failed, why.clone())));
                        let place = if is_permanent { &mut refused } else { &mut last };
                        *place = Some(
                            Standing::new(outcome, status, &format!("{name}: {why}")).by(name, ""),
                        );
                        continue;
                    }
                },
            };
            let trust = match trust {
                Ok(trust) => trust,
                Err(why) => {
                    last = Some(Standing::new(Outcome::Waiting, "4.7.5", &why));
                    continue;
                }
            };
            for address in addresses {
                if tried == ADDRESSES_MAX {
                    break;
                }
                let address = SocketAddr::new(*address, port);
                match self.open(address, (host, domain), &config, &way, &trust).await {
                    Ok(session) if need == Need::RequireTls && !session.keeps_require_tls() => {
                        session.quit().await;
                        let why = format!("{name}: it does not offer REQUIRETLS");
                        let failed = Standing::new(Outcome::Failed, NO_REQUIRE_TLS, &why);
                        refused = Some(failed.by(name, ""));
                        tried += 1;
                        break;
                    }
                    Ok(session) => {
                        let clear = if session.is_encrypted() { "" } else { ", in the clear" };
                        let way = format!("{}{clear}", way.words);
                        return Ok(Connected { session, host: name.clone(), way });
                    }
                    Err(lost) => {
                        tried += usize::from(!lost.is_unreachable());
                        let standing = not_reached(name, address, &lost, &way);
                        tracing::debug!(why = standing.why, "a server was not reached");
                        last = Some(standing);
                    }
                }
                if shard.watchdog.stopping() {
                    break;
                }
            }
            if shard.watchdog.stopping() {
                break;
            }
        }
        let none = || Standing::new(Outcome::Waiting, "4.4.1", "it has no address");
        Err(last.or(refused).unwrap_or_else(none))
    }

    /// Encrypted as `way` wants it. Where it may do without, encryption that does not work is none.
    async fn open(
        &self,
        address: SocketAddr,
        (host, domain): (&Host, Option<&str>),
        config: &Config,
        way: &Way,
        trust: &Trust,
    ) -> Result<Session, Lost> {
        let name = host.name.as_str();
        let sni = match &way.believed {
            Believed::Dane(dane) => dane.sni(),
            Believed::Anybody | Believed::Valid => name,
        };
        let open = |tls, trust: &Trust| {
            let config = Arc::new(Config { tls, ..config.clone() });
            Session::open(&self.shard, address, sni, config, trust.clone())
        };
        let mut opened = open(way.tls, trust).await;
        let met = match &opened {
            Ok(session) if session.is_encrypted() => Some(None),
            Ok(_) => {
                Some(Some((Failed::StarttlsNotSupported, "STARTTLS is not offered".to_owned())))
            }
            Err(lost) => Failed::of(lost).map(|failed| Some((failed, lost.to_string()))),
        };
        if let Some(met) = met {
            self.tally(domain, host, Some(address), met);
        }
        if !way.may_do_without {
            return opened;
        }
        if let Err(Lost::Tls(error)) = &opened
            && way.believed != Believed::Anybody
        {
            tracing::info!(target: NOTICE, host = name, %address, %error, "a policy on trial would have kept mail back");
            opened = open(way.tls, &self.anybody).await;
        }
        if matches!(opened, Err(Lost::Tls(_))) {
            opened = open(Tls::Never, &self.anybody).await;
        }
        opened
    }

    /// For the domain's report. A policy that could not be applied is what every session has met.
    fn tally(
        &self,
        domain: Option<&str>,
        host: &Host,
        address: Option<SocketAddr>,
        met: Option<(Failed, String)>,
    ) {
        let Some(domain) = domain else { return };
        let fault = host.applied.fault.map(|fault| (fault, String::new()));
        let met = fault.or(met).map(|(failed, reason)| Met {
            failed,
            host: host.name.clone(),
            address: address.map(|address| address.ip()),
            reason,
        });
        self.shard.queue.tally.count(unix_now(), domain, &host.applied, met);
    }

    async fn trust(&self, believed: &Believed) -> Result<Trust, String> {
        match believed {
            Believed::Anybody => Ok(self.anybody.clone()),
            Believed::Dane(dane) => Ok(Trust::dane(dane)),
            Believed::Valid => {
                if let Some(known) = &*self.valid.borrow() {
                    return Ok(known.clone());
                }
                let file = self.shard.config.relay.ca_file.clone();
                let load = move || {
                    Trust::valid(file.as_ref()).map_err(|fault| format!("relay.ca_file: {fault}"))
                };
                let trust = glommio::executor().spawn_blocking(load).await?;
                *self.valid.borrow_mut() = Some(trust.clone());
                Ok(trust)
            }
        }
    }

    async fn trust_of(&self, number: usize) -> Result<Trust, String> {
        if let Some(known) = self.trusts.borrow().get(&number) {
            return Ok(known.clone());
        }
        let Some(host) = self.shard.config.smart_hosts.get(number).cloned() else {
            return Err("the smart host is not in the config file any more".to_owned());
        };
        let trust = glommio::executor().spawn_blocking(move || Trust::of(&host)).await?;
        self.trusts.borrow_mut().insert(number, trust.clone());
        Ok(trust)
    }
}

/// As the operator says: nobody else's policy is asked.
fn way_to(host: &SmartHost) -> Way {
    let (tls, believed) = match host.tls {
        TlsMode::Required => (Tls::Required, Believed::Valid),
        TlsMode::Implicit => (Tls::Active, Believed::Valid),
        TlsMode::Opportunistic => (Tls::WhenOffered, Believed::Anybody),
        TlsMode::Off => (Tls::Never, Believed::Anybody),
    };
    Way {
        tls,
        believed,
        may_do_without: tls == Tls::WhenOffered,
        words: "the configuration's smart host",
    }
}

fn nonce() -> String {
    hex::text(passwords::random::<18>())
}
