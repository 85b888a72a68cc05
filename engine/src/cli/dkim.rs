//! `kura domain dkim`: the keys that sign a domain's mail.

use super::Outcome;
use super::ask::ask;
use super::directory::{Common, said, text};
use super::dns;
use crate::config::ConfigError;
use crate::domain::check::{self, Verdict};
use crate::domain::records::{Facts, What};
use crate::operations::{DkimRequest, Request};
use crate::when::time_text;
use clap::Subcommand;
use serde_json::Value;
use std::net::SocketAddr;

#[derive(Debug, Subcommand)]
pub(super) enum DkimCommand {
    /// Shows selectors, what they do, and since when.
    ///
    /// Example: kura domain dkim list example.org
    List {
        domain: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Makes new keys, and prints their records. They wait until `activate`; in a domain without
    /// keys they sign at once.
    ///
    /// Example: kura domain dkim rotate example.org
    Rotate {
        domain: String,
        #[command(flatten)]
        common: Common,
    },
    /// Signs with the keys that wait, once DNS has them. Those of before sign no more; their
    /// records stay until the last signature has expired.
    ///
    /// Example: kura domain dkim activate example.org
    Activate {
        domain: String,
        /// Whatever DNS says.
        #[arg(long)]
        force: bool,
        /// Asks this name server rather than the configured ones.
        #[arg(long, value_name = "ADDRESS", value_parser = dns::server)]
        resolver: Option<SocketAddr>,
        #[command(flatten)]
        common: Common,
    },
}

pub(super) fn run(command: DkimCommand) -> Result<Outcome, ConfigError> {
    match command {
        DkimCommand::List { domain, common } => {
            said(&common, Request::Dkim(DkimRequest::List { domain }), list_text)
        }
        DkimCommand::Rotate { domain, common } => {
            said(&common, Request::Dkim(DkimRequest::Rotate { domain }), rotated_text)
        }
        DkimCommand::Activate { domain, force, resolver, common } => {
            if !force {
                expect_published(&domain, resolver, &common)?;
            }
            said(&common, Request::Dkim(DkimRequest::Activate { domain }), |value| {
                let domain = text(value, "domain");
                format!("mail from {domain} is signed with new keys\n{}", list_text(&value["keys"]))
            })
        }
    }
}

/// A key that nobody can look up would make all signatures worthless.
fn expect_published(
    domain: &str,
    server: Option<SocketAddr>,
    common: &Common,
) -> Result<(), ConfigError> {
    let request = Request::DomainRecords { domain: domain.to_owned() };
    let facts: Facts = serde_json::from_value(ask(&common.place, request)?)
        .map_err(|error| ConfigError(error.to_string()))?;
    let keys = Request::Dkim(DkimRequest::List { domain: Some(domain.to_owned()) });
    let keys = ask(&common.place, keys)?;
    let waits = |name: &str| {
        let rows = keys.as_array().into_iter().flatten();
        rows.into_iter().any(|row| text(row, "name") == name && text(row, "state") == "waiting")
    };
    let waiting = facts.records.iter().filter(|one| one.what == What::Dkim && waits(&one.name));
    let config = common.place.load()?;
    dns::with_resolver(&config, server, async |resolver, _| {
        for record in waiting {
            let (verdict, _, why) = check::has_key(resolver, record).await;
            if verdict != Verdict::Ok {
                return Err(ConfigError(format!(
                    "{} is {} in DNS ({why}); publish it and wait until it is seen everywhere, or add --force",
                    record.name,
                    verdict.name()
                )));
            }
        }
        Ok(())
    })
}

fn list_text(value: &Value) -> String {
    let rows = value.as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        return "no keys; `kura domain dkim rotate DOMAIN` makes some".to_owned();
    }
    let day = |row: &Value, key: &str| row[key].as_u64().map(|unix| time_text(unix * 1000));
    let line = |row: &Value| {
        let since = match (text(row, "state"), day(row, "retired_unix"), day(row, "until_unix")) {
            ("retired", Some(retired), Some(until)) => {
                format!("retired {retired}, has to stay in DNS until {until}")
            }
            ("signing", ..) => {
                format!("signs since {}", day(row, "active_unix").unwrap_or_default())
            }
            _ => format!("waits since {}", day(row, "created_unix").unwrap_or_default()),
        };
        format!(
            "{}  {}  {}  {since}",
            text(row, "domain"),
            text(row, "selector"),
            text(row, "algorithm")
        )
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn rotated_text(value: &Value) -> String {
    let domain = text(value, "domain");
    let keys = value["keys"].as_array().map_or(&[][..], Vec::as_slice);
    let waits = keys.iter().any(|key| text(key, "state") == "waiting");
    let first = match (value["made"] == Value::Bool(true), waits) {
        (true, true) => format!("new keys of {domain} wait"),
        (true, false) => format!("mail from {domain} is signed from now on"),
        (false, _) => format!("keys of {domain} wait already"),
    };
    let next = match waits {
        true => format!("publish, then: kura domain dkim activate {domain}"),
        false => format!("publish, then: kura dns check {domain}"),
    };
    format!("{first}; {next}\n\n{}", keys.iter().map(record_line).collect::<Vec<_>>().join("\n"))
}

fn record_line(key: &Value) -> String {
    crate::domain::zone::text_line(text(key, "name"), text(key, "text"))
}
