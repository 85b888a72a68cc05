//! What DNS says, within bounds: the only way from here to a name server.
//!
//! Answers are kept by hickory, positive and negative alike, at most as many as the config says,
//! each for its TTL but no longer than the bounds below. Failures (a server that is down, SERVFAIL)
//! are not kept. Whoever publishes a record chooses its bytes: more than [`ANSWERS_MAX`] records of
//! a name are not looked at, and names that DNS can't have are absent without a question.
//!
//! Answers about where mail goes are proved besides, where they can be: [`super::dnssec`].
//!
//! Tests and the fuzz target answer from a [`Zone`] instead, so that hostile records go through
//! everything behind this door.

use super::dnssec::{Absent, Proven, Validator};
use super::settings::Dns;
use crate::config::ConfigError;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Records of one name and type that are looked at.
pub const ANSWERS_MAX: usize = 64;
/// Longest text of one TXT record: the key of 8,192 bits has 1,400.
pub const TEXT_BYTES_MAX: usize = 4096;

const POSITIVE_TTL_MAX: Duration = Duration::from_secs(86_400);
/// RFC 2308 section 5 suggests one to three hours: a record that has just been
/// published is waited for.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(3600);
/// Questions under way to one resolver; hickory's 32 are few for a server whose resolver is slow.
const QUESTIONS_MAX: usize = 1024;

/// Why there are no records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The name is there, but has none of this type.
    NoRecords,
    NoSuchName,
    /// Nobody can say: silence, SERVFAIL, an answer that can't be read.
    Failed,
}

/// Records by name (lower case, with the final dot) and type.
pub type Zone = HashMap<(String, RecordType), Vec<RData>>;

#[derive(Clone)]
pub struct Resolver(Source);

#[derive(Clone)]
enum Source {
    Network(Arc<TokioResolver>, Arc<Validator>),
    /// With the names that are proved.
    Memory(Arc<Zone>, Arc<HashSet<String>>),
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// Answers from `zone`, where a name without records does not exist.
    pub fn from_zone(zone: Zone) -> Resolver {
        Resolver(Source::Memory(Arc::new(zone), Arc::default()))
    }

    /// The same, where what these names own is proved.
    pub fn from_proved_zone(zone: Zone, proved: &[&str]) -> Resolver {
        let proved = proved.iter().map(|&name| name.to_owned()).collect();
        Resolver(Source::Memory(Arc::new(zone), Arc::new(proved)))
    }

    /// Records, and whether they are what the owner of the name has published.
    pub async fn proven(&self, name: Name, kind: RecordType) -> Result<Proven, Absent> {
        match &self.0 {
            Source::Network(_, validator)
                if !validator.is_exempt(&name) && validator.is_at_work().await =>
            {
                validator.lookup(name, kind).await
            }
            Source::Network(..) => {
                let records = self.lookup(name.clone(), kind).await?;
                Ok(Proven { records, is_secure: false, name, alias_is_secure: false })
            }
            Source::Memory(_, proved) => {
                let is_secure = proved.contains(&name.to_lowercase().to_ascii());
                let records = self.lookup(name.clone(), kind).await?;
                Ok(Proven { records, is_secure, name, alias_is_secure: false })
            }
        }
    }

    /// Asks now whether the root's keys are proved; when they were for the last time, in Unix
    /// seconds, if ever.
    pub async fn look_at_root(&self) -> Option<u64> {
        match &self.0 {
            Source::Network(_, validator) => validator.look().await,
            Source::Memory(..) => None,
        }
    }

    /// Until that is to be asked again; in memory, for ever.
    pub async fn rest_from_root(&self) {
        match &self.0 {
            Source::Network(_, validator) => validator.rest().await,
            Source::Memory(..) => std::future::pending().await,
        }
    }

    /// They were, in an earlier life of this server, at that Unix time: nothing is believed
    /// without proof any more.
    pub fn root_was_proved(&self, at: u64) {
        if let Source::Network(_, validator) = &self.0 {
            validator.root_was_proved(at);
        }
    }

    /// Whether the root's keys were proved when that was asked last, and whether nothing is
    /// believed without; `None`: nothing is to be proved.
    pub fn proofs(&self) -> Option<(bool, bool)> {
        match &self.0 {
            Source::Network(_, validator) => validator.proofs(),
            Source::Memory(..) => None,
        }
    }

    async fn lookup(&self, name: Name, kind: RecordType) -> Result<Vec<RData>, Missing> {
        let found: Vec<RData> = match &self.0 {
            Source::Network(resolver, _) => {
                let found = resolver.lookup(name, kind).await.map_err(|error| missing(&error))?;
                let answers = found.answers().iter().filter(|found| found.record_type() == kind);
                answers.take(ANSWERS_MAX).map(|found| found.data.clone()).collect()
            }
            Source::Memory(zone, _) => {
                let name = name.to_lowercase().to_ascii();
                let found = zone.get(&(name, kind)).ok_or(Missing::NoSuchName)?;
                found.iter().take(ANSWERS_MAX).cloned().collect()
            }
        };
        if found.is_empty() { Err(Missing::NoRecords) } else { Ok(found) }
    }

    /// The records of any type.
    pub async fn records(&self, domain: &str, kind: RecordType) -> Result<Vec<RData>, Missing> {
        self.lookup(name(domain).ok_or(Missing::NoSuchName)?, kind).await
    }

    /// Each record's strings, joined. What is too long to be of use is left out.
    pub async fn texts(&self, domain: &str) -> Result<Vec<Vec<u8>>, Missing> {
        let name = name(domain).ok_or(Missing::NoSuchName)?;
        let text = |data: RData| match data {
            RData::TXT(txt) => {
                let octets: usize = txt.txt_data.iter().map(|part| part.len()).sum();
                (octets <= TEXT_BYTES_MAX).then(|| txt.txt_data.concat())
            }
            _ => None,
        };
        Ok(self.lookup(name, RecordType::TXT).await?.into_iter().filter_map(text).collect())
    }

    pub async fn mail_hosts(&self, name: Name) -> Result<Vec<Name>, Missing> {
        let host = |data| match data {
            RData::MX(mx) => Some(mx.exchange),
            _ => None,
        };
        Ok(self.lookup(name, RecordType::MX).await?.into_iter().filter_map(host).collect())
    }

    /// The same with their preferences.
    pub async fn exchangers(&self, name: Name) -> Result<Vec<(u16, Name)>, Missing> {
        let host = |data| match data {
            RData::MX(mx) => Some((mx.preference, mx.exchange)),
            _ => None,
        };
        Ok(self.lookup(name, RecordType::MX).await?.into_iter().filter_map(host).collect())
    }

    /// IPv4 addresses, or IPv6.
    pub async fn addresses(&self, name: Name, v4: bool) -> Result<Vec<IpAddr>, Missing> {
        let address = |data| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        };
        let kind = if v4 { RecordType::A } else { RecordType::AAAA };
        Ok(self.lookup(name, kind).await?.into_iter().filter_map(address).collect())
    }

    /// The names that an address claims to have.
    pub async fn names(&self, address: IpAddr) -> Result<Vec<Name>, Missing> {
        let name = |data| match data {
            RData::PTR(name) => Some(name.0),
            _ => None,
        };
        let found = self.lookup(Name::from(address), RecordType::PTR).await?;
        Ok(found.into_iter().filter_map(name).collect())
    }

    /// Whether a name is there at all (RFC 8020); `None` where nobody can say.
    pub async fn exists(&self, domain: &str) -> Option<bool> {
        let name = name(domain)?;
        match self.lookup(name, RecordType::A).await {
            Ok(_) | Err(Missing::NoRecords) => Some(true),
            Err(Missing::NoSuchName) => Some(false),
            Err(Missing::Failed) => None,
        }
    }
}

pub(super) fn missing(error: &NetError) -> Missing {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NoError => Missing::NoRecords,
            ResponseCode::NXDomain => Missing::NoSuchName,
            _ => Missing::Failed,
        },
        _ => Missing::Failed,
    }
}

/// Label by label: what peers bring may hold anything. `None`: DNS has no such name.
pub fn name(text: &str) -> Option<Name> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Must be called within the runtime that it will work on.
pub fn resolver(dns: &Dns) -> Result<Resolver, ConfigError> {
    let fault = |error: &dyn std::fmt::Display| ConfigError(format!("[dns] servers: {error}"));
    let servers: Vec<NameServerConfig> = if dns.servers.is_empty() {
        match read_system_conf() {
            Ok((system, _)) => system.name_servers().to_vec(),
            Err(error) => {
                // As resolv.conf(5) has it: the one on this host.
                tracing::warn!(%error, "the system names no resolver: 127.0.0.1 is asked; set dns.servers");
                vec![NameServerConfig::udp_and_tcp(std::net::Ipv4Addr::LOCALHOST.into())]
            }
        }
    } else {
        dns.servers.iter().map(|server| name_server(*server)).collect()
    };
    let mut options = ResolverOpts::default();
    options.timeout = Duration::from_secs(dns.timeout_seconds);
    options.attempts = 1;
    options.cache_size = dns.cache_entries;
    options.positive_max_ttl = Some(POSITIVE_TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    options.max_active_requests = QUESTIONS_MAX;
    options.edns0 = true;
    // Names are looked up as they are: no search list, no hosts file.
    options.use_hosts_file = ResolveHosts::Never;
    let config = ResolverConfig::from_parts(None, vec![], servers);
    let validator = Validator::new(dns, config.clone(), options.clone())?;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map(|resolver| Resolver(Source::Network(Arc::new(resolver), Arc::new(validator))))
        .map_err(|error| fault(&error))
}

/// The first server that the system names.
pub fn system_server() -> Option<std::net::SocketAddr> {
    let (system, _) = read_system_conf().ok()?;
    let first = system.name_servers().first()?;
    let port = first.connections.first().map_or(53, |connection| connection.port);
    Some(std::net::SocketAddr::new(first.ip, port))
}

fn name_server(address: std::net::SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    server.connections = server.connections.into_iter().map(at_port).collect();
    server
}
