//! `kura cert`: issue, import and list certificates; a running server takes them at once.

use super::ask::ask;
use super::{Outcome, Where};
use crate::certificates::{self, Listed};
use crate::config::ConfigError;
use crate::operations::Request;
use clap::Subcommand;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum CertCommand {
    /// Issues a self-signed certificate; clients must be told to trust it.
    ///
    /// Example: kura cert self-signed mail.example.org imap.example.org
    SelfSigned {
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        place: Where,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Takes a certificate chain and its key from PEM files.
    ///
    /// Example: kura cert import --chain fullchain.pem --key privkey.pem
    Import {
        #[arg(long)]
        chain: PathBuf,
        #[arg(long)]
        key: PathBuf,
        #[command(flatten)]
        place: Where,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows names, issuer and days left.
    ///
    /// Example: kura cert list --json
    List {
        #[command(flatten)]
        place: Where,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Certificates with fewer days left are pointed out.
const DAYS_LEFT_WARNED: i64 = 21;

pub(super) fn run(command: CertCommand) -> Result<Outcome, ConfigError> {
    let fault = |error: certificates::CertificateError| ConfigError(error.to_string());
    match command {
        CertCommand::SelfSigned { names, place, json } => {
            if let Some(name) =
                names.iter().find(|name| crate::directory::canonical_domain(name).is_none())
            {
                return Err(ConfigError(format!(
                    "{name:?} is no host name; write it like mail.example.org"
                )));
            }
            let made = certificates::self_signed(&place.load()?.data_dir, &names).map_err(fault)?;
            let line =
                format!("certificate {} issued for {}", made.name, made.dns_names.join(", "));
            tell_server(&place, &made, json, &line)
        }
        CertCommand::Import { chain, key, place, json } => {
            let made =
                certificates::import(&place.load()?.data_dir, &chain, &key).map_err(fault)?;
            let line = format!("certificate {} imported, {} days left", made.name, made.days_left);
            tell_server(&place, &made, json, &line)
        }
        CertCommand::List { place, json } => {
            let listed = certificates::list(&place.load()?.data_dir).map_err(fault)?;
            if json {
                outln!("{}", json!(listed))?;
            } else {
                listed.iter().try_for_each(print)?;
            }
            Ok(Outcome::Done)
        }
    }
}

fn print(one: &Listed) -> Result<(), ConfigError> {
    let warning = if one.days_left < DAYS_LEFT_WARNED { "  RENEW SOON" } else { "" };
    outln!(
        "{}: {} ({}), {} days left{warning}",
        one.name,
        one.dns_names.join(", "),
        one.issuer,
        one.days_left
    )
}

/// The server first: it must not miss a certificate because nobody reads what is printed.
fn tell_server(
    place: &Where,
    made: &Listed,
    json: bool,
    line: &str,
) -> Result<Outcome, ConfigError> {
    ask(place, Request::Reload)?;
    if json {
        outln!("{}", json!(made))?;
    } else {
        outln!("{line}")?;
    }
    Ok(Outcome::Done)
}
