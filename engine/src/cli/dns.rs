//! `kura dns`: what DNS has to say of a domain, and whether it does.

use super::Outcome;
use super::ask::ask;
use super::directory::Common;
use crate::auth::dns::{self, Resolver};
use crate::config::{Config, ConfigError};
use crate::domain::check::{self, Asking, Finding, Verdict};
use crate::domain::records::Facts;
use crate::domain::zone;
use crate::domain::{blocklists, openness};
use crate::operations::Request;
use crate::relay::tls::Trust;
use clap::Subcommand;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(super) enum DnsCommand {
    /// Prints the records of a domain and of the host that serves it, as a zone file.
    ///
    /// The host's name is `hostname` of the config file; its addresses are `addresses`, or those
    /// that it sends from.
    ///
    /// Example: kura dns print example.org
    Print {
        domain: String,
        /// One record on a line, without comments.
        #[arg(long, conflicts_with = "json")]
        one_line: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Looks each record up: ok, missing or wrong, with the record to set. Exit code 3 if
    /// something is to be done.
    ///
    /// Besides, the running server is asked as a stranger whether it relays, and lists in DNS
    /// whether they name this host or the domain: those of policy.dns_lists and dns.blocklists.
    ///
    /// Example: kura dns check example.org --resolver 9.9.9.9
    Check {
        domain: String,
        /// Asks this name server rather than the configured ones: an address, with :port
        /// unless that is 53.
        #[arg(long, value_name = "ADDRESS", value_parser = server)]
        resolver: Option<SocketAddr>,
        /// Believes these certificates (PEM) when it fetches the MTA-STS policy, rather
        /// than the system's.
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
}

/// `192.0.2.1`, `192.0.2.1:5353`, `[2001:db8::1]:5353`.
pub(super) fn server(text: &str) -> Result<SocketAddr, String> {
    let plain = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    plain
        .or_else(|_| text.parse())
        .map_err(|_| "write an address such as 192.0.2.1 or 192.0.2.1:5353".to_owned())
}

pub(super) fn run(command: DnsCommand) -> Result<Outcome, ConfigError> {
    match command {
        DnsCommand::Print { domain, one_line, common } => {
            let facts = facts(domain, &common)?;
            if common.json {
                outln!("{}", json!(facts))?;
            } else if one_line {
                out!("{}", zone::lines(&facts))?;
            } else {
                out!("{}", zone::zone(&facts))?;
            }
            Ok(Outcome::Done)
        }
        DnsCommand::Check { domain, resolver, ca_file, common } => {
            check_all(domain, resolver, ca_file, &common)
        }
    }
}

fn facts(domain: String, common: &Common) -> Result<Facts, ConfigError> {
    let value = ask(&common.place, Request::DomainRecords { domain })?;
    serde_json::from_value(value)
        .map_err(|error| ConfigError(format!("the server is of another version: {error}")))
}

/// Runs `work` with a resolver of its own, which remembers nothing of before; and with the
/// address that it asks.
pub(super) fn with_resolver<R>(
    config: &Config,
    server: Option<SocketAddr>,
    work: impl AsyncFnOnce(&Resolver, Option<SocketAddr>) -> Result<R, ConfigError>,
) -> Result<R, ConfigError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ConfigError(format!("can't start: {error}")))?;
    runtime.block_on(async {
        let mut settings = config.dns.clone();
        if let Some(server) = server {
            settings.servers = vec![server];
        }
        let asked = settings.servers.first().copied().or_else(dns::system_server);
        let resolver = dns::resolver(&settings)?;
        work(&resolver, asked).await
    })
}

fn check_all(
    domain: String,
    server: Option<SocketAddr>,
    ca_file: Option<PathBuf>,
    common: &Common,
) -> Result<Outcome, ConfigError> {
    let facts = facts(domain, common)?;
    let config = common.place.load()?;
    let trust = Trust::valid(ca_file.as_ref()).map_err(ConfigError)?;
    let timeout = Duration::from_secs(config.dns.timeout_seconds.max(5));
    let (mut findings, open, listed) = with_resolver(&config, server, async |resolver, asked| {
        let tls = (*trust.config()).clone();
        let asking = Asking { resolver, server: asked, tls, timeout };
        Ok(tokio::join!(
            check::check(&asking, &facts),
            openness::check(&facts, &config, timeout),
            blocklists::check(&asking, &facts, &config)
        ))
    })?;
    findings.extend(open);
    let mut notes = facts.notes.clone();
    if listed.is_none() {
        notes.push(
            "no blocklists were asked: name those that count where you send to with dns.blocklists"
                .to_owned(),
        );
    }
    findings.extend(listed.into_iter().flatten());
    let faults = findings.iter().filter(|finding| finding.is_fault()).count();
    if common.json {
        let value = json!({
            "domain": facts.domain,
            "ok": faults == 0,
            "findings": findings,
            "notes": notes,
        });
        outln!("{value}")?;
    } else {
        findings.iter().try_for_each(print)?;
        notes.iter().try_for_each(|note| outln!("note: {note}"))?;
        match faults {
            0 => outln!("{}: all that is needed is there", facts.domain)?,
            1 => outln!("{}: one line says what to mend", facts.domain)?,
            some => outln!("{}: {some} lines say what to mend", facts.domain)?,
        }
    }
    Ok(if faults == 0 { Outcome::Done } else { Outcome::Unwell })
}

fn print(finding: &Finding) -> Result<(), ConfigError> {
    let Finding { record, verdict, found, why, set } = finding;
    let optional = match verdict {
        Verdict::Missing if record.optional => " (optional)",
        _ => "",
    };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    outln!("{:7} {} {}{optional}{why}", verdict.name(), record.name, record.kind)?;
    if *verdict != Verdict::Ok {
        found.iter().try_for_each(|one| outln!("          found {one}"))?;
        if !set.is_empty() {
            outln!("          set   {set}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::server;

    #[test]
    fn a_server_is_an_address_with_or_without_a_port() {
        assert_eq!(server("192.0.2.1"), Ok(([192, 0, 2, 1], 53).into()));
        assert_eq!(server("192.0.2.1:5353"), Ok(([192, 0, 2, 1], 5353).into()));
        assert_eq!(server("2001:db8::1").map(|server| server.port()), Ok(53));
        assert!(server("dns.example.org").is_err());
    }
}
