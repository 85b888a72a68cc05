//! `kura cert`: issue, ask for, import and list certificates; a running server takes them at once.

use super::ask::tell_if_running;
use super::{Outcome, Where, counted};
use crate::certificates::request::{Request as Asked, request};
use crate::certificates::{self, DAYS_LEFT_WARNED, Listed};
use crate::config::ConfigError;
use crate::operations::Request;
use crate::when::time_text;
use clap::Subcommand;
use serde_json::json;
use std::io::Write;
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
    /// Makes a key and prints a request for a certificate (PEM), for whoever issues yours.
    /// The key stays here.
    ///
    /// Example: kura cert csr mail.example.org mta-sts.example.org > mail.csr
    Csr {
        #[arg(required = true)]
        names: Vec<String>,
        /// Asks with the key of the certificate that serves the first name now: TLSA records
        /// stay as they are.
        #[arg(long)]
        keep_key: bool,
        #[command(flatten)]
        place: Where,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Takes a certificate chain and its key from PEM files, if they belong together, the chain
    /// holds, and it is for this host.
    ///
    /// Example: kura cert import --chain fullchain.pem --key privkey.pem
    ///
    /// Example: kura cert import --chain issued.pem --name mail.example.com
    Import {
        /// The host's own certificate, then who issued it, and so on.
        #[arg(long)]
        chain: PathBuf,
        /// Absent: the one that `kura cert csr` has made.
        #[arg(long)]
        key: Option<PathBuf>,
        /// The host that it has to be for; absent: `hostname` of the config file. Clients that ask
        /// for another of its names (SNI) get it, too.
        #[arg(long)]
        name: Option<String>,
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

pub(super) fn run(command: CertCommand) -> Result<Outcome, ConfigError> {
    let fault = |error: certificates::CertificateError| ConfigError(error.to_string());
    match command {
        CertCommand::SelfSigned { names, place, json } => {
            expect_host_names(&names)?;
            let made = certificates::self_signed(&place.load()?.data_dir, &names).map_err(fault)?;
            let line =
                format!("certificate {} issued for {}", made.name, made.dns_names.join(", "));
            tell_server(&place, &made, json, &line)
        }
        CertCommand::Csr { names, keep_key, place, json } => {
            expect_host_names(&names)?;
            let asked = request(&place.load()?.data_dir, &names, keep_key).map_err(fault)?;
            if json {
                outln!("{}", json!(asked))?;
            } else {
                let Asked { csr, key_file, .. } = asked;
                out!("{csr}")?;
                // What goes to a file is the request alone.
                let _ = writeln!(
                    std::io::stderr(),
                    "its key is in {}; once it is issued: kura cert import --chain FILE --name {}",
                    key_file.display(),
                    names[0]
                );
            }
            Ok(Outcome::Done)
        }
        CertCommand::Import { chain, key, name, place, json } => {
            let config = place.load()?;
            let name = name.unwrap_or_else(|| config.hostname.clone());
            let (made, odd) = certificates::import(&config.data_dir, &chain, key.as_deref(), &name)
                .map_err(fault)?;
            let line = format!(
                "certificate {} imported: {}, {} left{}",
                made.name,
                made.dns_names.join(", "),
                counted(made.days_left, "day"),
                odd.iter().map(|odd| format!("\nbut {odd}")).collect::<String>()
            );
            tell_server(&place, &made, json, &line)
        }
        CertCommand::List { place, json } => {
            let listed = certificates::list(&place.load()?.data_dir).map_err(fault)?;
            if json {
                outln!("{}", json!(listed.good))?;
            } else {
                listed.good.iter().try_for_each(print)?;
            }
            let unread: Vec<String> = listed.bad.iter().map(ToString::to_string).collect();
            if !unread.is_empty() {
                return Err(ConfigError(format!(
                    "not served: {}; mend the folder, or move it away",
                    unread.join("; ")
                )));
            }
            Ok(Outcome::Done)
        }
    }
}

fn print(one: &Listed) -> Result<(), ConfigError> {
    let warning = match one.days_left {
        ..0 => "  EXPIRED",
        0..DAYS_LEFT_WARNED => "  RENEW SOON",
        _ => "",
    };
    let until = u64::try_from(one.not_after_unix).map_or(0, |unix| unix * 1000);
    outln!(
        "{}: {} ({}), until {}, {} left{warning}",
        one.name,
        one.dns_names.join(", "),
        one.issuer,
        time_text(until),
        counted(one.days_left, "day")
    )
}

fn expect_host_names(names: &[String]) -> Result<(), ConfigError> {
    let is_odd = |name: &&String| {
        let plain = name.strip_prefix("*.").unwrap_or(name);
        crate::directory::canonical_domain(plain).is_none()
    };
    match names.iter().find(is_odd) {
        Some(name) => {
            Err(ConfigError(format!("{name:?} is no host name; write it like mail.example.org")))
        }
        None => Ok(()),
    }
}

/// The server first: it must not miss a certificate because nobody reads what is printed.
fn tell_server(
    place: &Where,
    made: &Listed,
    json: bool,
    line: &str,
) -> Result<Outcome, ConfigError> {
    tell_if_running(place, Request::Reload)?;
    if json {
        outln!("{}", json!(made))?;
    } else {
        outln!("{line}")?;
    }
    Ok(Outcome::Done)
}
