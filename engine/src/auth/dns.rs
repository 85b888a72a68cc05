//! The resolver of the control plane: who is asked, for how long, and how much is remembered.
//!
//! Answers are kept by hickory, positive and negative alike, at most as many as the config says, each for
//! its TTL but no longer than the bounds below. Failures (a server that is down, SERVFAIL) are not kept.

use super::settings::Dns;
use crate::config::ConfigError;
use mail_auth::MessageAuthenticator;
use mail_auth::hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use mail_auth::hickory_resolver::system_conf::read_system_conf;
use std::time::Duration;

const POSITIVE_TTL_MAX: Duration = Duration::from_secs(86_400);
/// RFC 2308 section 5 suggests one to three hours: a record that has just been published is waited for.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(3600);
/// Questions under way to one resolver; hickory's 32 are few for a server whose resolver is slow.
const QUESTIONS_MAX: usize = 1024;

/// Must be called within the runtime that it will work on.
pub fn resolver(dns: &Dns) -> Result<MessageAuthenticator, ConfigError> {
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
    MessageAuthenticator::new(ResolverConfig::from_parts(None, vec![], servers), options)
        .map_err(|error| fault(&error))
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
