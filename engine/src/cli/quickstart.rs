//! `kura quickstart`: everything on high ports, ready to try.
//!
//! Makes what is missing (directory, config, profile, certificate, domain, accounts), then serves;
//! run again, it serves what is there.

use super::Outcome;
use crate::certificates;
use crate::config::{
    Auth, Config, ConfigError, Dns, Limits, Listen, Log, Metrics, Policy, Relay, Spam, StoreConfig,
};
use crate::layout::{private_dir, write_synced};
use crate::listener;
use crate::metrics::Service;
use crate::operations::{self, Request};
use crate::passwords;
use crate::server::{Mode, Server};
use crate::sieve::Settings;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const DIR: &str = "kura-data";
pub(super) const CONFIG_FILE: &str = "kura.toml";
const PROFILE_FILE: &str = "profile.toml";
/// The same, while they are being made.
const PENDING_FILE: &str = "quickstart-accounts.pending.json";
const ACCOUNTS_FILE: &str = "quickstart-accounts.json";
const DISK_MEASURED_FOR: Duration = Duration::from_millis(1500);
const USERS: [&str; 2] = ["alice", "bob"];

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where everything is kept.
    #[arg(long, value_name = "DIR", default_value = DIR)]
    dir: PathBuf,
    /// The mail domain to make.
    #[arg(long, value_name = "DOMAIN", default_value = "example.test")]
    domain: String,
    /// Prints one line of JSON with ports and accounts once it is ready, for scripts.
    #[arg(long)]
    json: bool,
    /// Takes any free ports (of FIRST-LAST) instead of 2525, 2587 …; counts when the
    /// directory is made.
    #[arg(long, value_name = "FIRST-LAST", num_args = 0..=1, require_equals = true, value_parser = port_range,
          default_missing_value = FREE_PORTS)]
    free_ports: Option<RangeInclusive<u16>>,
}

/// An account to try, with its password in the clear: for trying out only.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Trial {
    address: String,
    password: String,
}

pub(super) fn run(options: &Options) -> Result<Outcome, ConfigError> {
    let config_file = options.dir.join(CONFIG_FILE);
    let fresh = !config_file.exists();
    if fresh {
        prepare(options, &config_file)?;
    }
    let config = Config::load(&config_file)?;
    let _guard = super::serve::start_logging(&config);
    let knobs = super::profile::knobs(&config)?;
    let server = Server::start(config, knobs, Mode::Serving)?;
    let trials = accounts(&server, options)?;
    if options.json {
        let _ = outln!("{}", ready_json(&server.config, &trials));
    } else {
        print_ready(&server.config, &trials, options);
    }
    server.run();
    Ok(Outcome::Done)
}

/// Makes the directory: measures the disk, issues the certificate, and writes the config last, so
/// that an interrupted first start is a first start again.
fn prepare(options: &Options, config_file: &Path) -> Result<(), ConfigError> {
    let dir = &options.dir;
    let fault = |what: &str, error: &dyn std::fmt::Display| fault(dir, what, error);
    private_dir(dir).map_err(|error| fault("make a directory", &error))?;
    profile(options)?;
    let hostname = format!("mail.{}", options.domain);
    let names = [hostname.clone(), "localhost".to_owned()];
    certificates::self_signed(dir, &names).map_err(|error| fault("issue a certificate", &error))?;
    let (listen, metrics) = if let Some(range) = &options.free_ports {
        free_ports(range).map_err(|error| ConfigError(format!("no free ports: {error}")))?
    } else {
        (high_ports(), Metrics::default())
    };
    let config = Config {
        hostname,
        addresses: Vec::new(),
        data_dir: PathBuf::from("."),
        profile: Some(PathBuf::from(PROFILE_FILE).into()),
        knobs: BTreeMap::new(),
        listen,
        // Loopback only, see `high_ports`.
        auth: Auth { plaintext_allowed: true, ..Auth::default() },
        quarantine: Default::default(),
        scan: Default::default(),
        dns: Dns::default(),
        policy: Policy::default(),
        spam: Spam::default(),
        // A trial sends nothing into the world.
        relay: Relay { enabled: false, ..Relay::default() },
        submission: Default::default(),
        smart_hosts: Vec::new(),
        collect: Default::default(),
        reports: Default::default(),
        limits: Limits::default(),
        sieve: Settings::default(),
        store: StoreConfig::default(),
        metrics,
        web: Default::default(),
        acme: Default::default(),
        file: PathBuf::new(),
        // Each message would be a line, too: too much on a terminal.
        log: Log { level: "notice".to_owned(), ..Log::default() },
    };
    let text = toml::to_string(&config).map_err(|error| fault("write the config", &error))?;
    write_synced(config_file, &text).map_err(|error| fault("write the config", &error))
}

/// The disk's profile. One that is there is taken, knobs set by hand and all: `kura profile probe`
/// knows more than a moment shows, and a first start that was cut short has measured already.
fn profile(options: &Options) -> Result<(), ConfigError> {
    let (dir, file) = (&options.dir, options.dir.join(PROFILE_FILE));
    if file.exists() {
        let loaded = hwprofiles::Profile::load(&file);
        return loaded.map(|_| ()).map_err(|error| ConfigError(error.to_string()));
    }
    if !options.json {
        let _ = outln!("measuring the disk under {} for a moment …", dir.display());
    }
    let measured = hwprofiles::measure(dir, DISK_MEASURED_FOR)
        .map_err(|error| fault(dir, "measure the disk", &error))?;
    write_synced(&file, &measured.to_toml())
        .map_err(|error| fault(dir, "write the profile", &error))
}

fn fault(dir: &Path, what: &str, error: &dyn std::fmt::Display) -> ConfigError {
    ConfigError(format!("can't {what} in {}: {error}; choose another --dir", dir.display()))
}

fn high_ports() -> Listen {
    let on = |port| vec![SocketAddr::from(([127, 0, 0, 1], port))];
    Listen {
        smtp: on(2525),
        submission: on(2587),
        submissions: on(2465),
        lmtp: on(2424),
        imap: on(2143),
        imaps: on(2993),
        pop3: on(2110),
        pop3s: on(2995),
        managesieve: on(24190),
        proxy_protocol_from: Default::default(),
        xclient_from: Default::default(),
    }
}

/// Services and metrics.
const PORTS: usize = 10;
/// Below the ports that the kernel lends to whoever connects: such a one might be lent when the
/// server is started again.
const FREE_PORTS: &str = "10000-31999";

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) =
        text.split_once('-').ok_or("a range of ports is FIRST-LAST, as in 10000-10999")?;
    let number =
        |text: &str| text.parse::<u16>().map_err(|error| format!("{text:?} is no port: {error}"));
    let range = number(first)?..=number(last)?;
    if *range.start() == 0 || range.clone().count() < PORTS {
        return Err(format!("{PORTS} ports are needed, and 0 is none"));
    }
    Ok(range)
}

fn free_ports(range: &RangeInclusive<u16>) -> std::io::Result<(Listen, Metrics)> {
    let anywhere = |_| {
        let random = RandomState::new().hash_one(0);
        let among = u64::from(range.end() - range.start()) + 1;
        range.start() + u16::try_from(random % among).unwrap_or(0)
    };
    // All are held until all are known, so that they differ.
    let mut held = Vec::new();
    for port in (0..1000).map(anywhere) {
        if held.len() == PORTS {
            break;
        }
        held.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    // Where so many are taken, whatever there is.
    while held.len() < PORTS {
        held.push(TcpListener::bind(("127.0.0.1", 0))?);
    }
    let mut addresses = held.iter().map(TcpListener::local_addr);
    let mut next =
        || addresses.next().transpose().map(|address| address.into_iter().collect::<Vec<_>>());
    let metrics = Metrics { listen: next()?.first().copied() };
    let listen = Listen {
        smtp: next()?,
        submission: next()?,
        submissions: next()?,
        lmtp: next()?,
        imap: next()?,
        imaps: next()?,
        pop3: next()?,
        pop3s: next()?,
        managesieve: next()?,
        proxy_protocol_from: Default::default(),
        xclient_from: Default::default(),
    };
    Ok((listen, metrics))
}

/// The domain and its two accounts; made when the directory has none yet. Nothing that is there is
/// changed: passwords are written down before they count, so a first start that was cut short goes
/// on with the same.
fn accounts(server: &Server, options: &Options) -> Result<Vec<Trial>, ConfigError> {
    let file = server.config.data_dir.join(ACCOUNTS_FILE);
    let pending = server.config.data_dir.join(PENDING_FILE);
    let fault = |error: &dyn std::fmt::Display| ConfigError(format!("{}: {error}", file.display()));
    let read = |path: &Path| -> Result<Vec<Trial>, ConfigError> {
        let text = fs::read_to_string(path).map_err(|error| fault(&error))?;
        serde_json::from_str(&text).map_err(|error| fault(&error))
    };
    if file.exists() {
        return read(&file);
    }
    let domains = ask(server, Request::DomainList)?;
    let has_domains = domains.as_array().is_some_and(|domains| !domains.is_empty());
    let trials = if pending.exists() {
        read(&pending)?
    } else if has_domains {
        return Ok(Vec::new());
    } else {
        let trial = |user: &str| Trial {
            address: format!("{user}@{}", options.domain.to_lowercase()),
            password: passwords::generate(),
        };
        let trials: Vec<Trial> = USERS.into_iter().map(trial).collect();
        let text = serde_json::to_string_pretty(&trials).map_err(|error| fault(&error))?;
        write_synced(&pending, &text).map_err(|error| fault(&error))?;
        trials
    };
    if !has_domains {
        // A trial sends nothing, and keys take a second: `kura domain dkim rotate` makes them.
        ask(
            server,
            Request::DomainAdd {
                domain: options.domain.clone(),
                postmaster: None,
                abuse: None,
                without_dkim: true,
            },
        )?;
    }
    for trial in &trials {
        let (address, password) = (trial.address.clone(), Some(trial.password.clone()));
        let made = Request::AccountAdd {
            address: address.clone(),
            password: password.clone(),
            quota_bytes: None,
            quota_messages: None,
        };
        if ask(server, made).is_err() {
            ask(server, Request::AccountPasswd { address, password })?;
        }
    }
    // RFC 5321 section 4.5.1: a domain that takes mail takes it for postmaster; RFC
    // 2142 has the other.
    for user in ["postmaster", "abuse"] {
        let alias = format!("{user}@{}", options.domain.to_lowercase());
        let targets = vec![trials[0].address.clone()];
        ask(server, Request::AliasAdd { alias, targets, replace: true })?;
    }
    fs::rename(&pending, &file).map_err(|error| fault(&error))?;
    Ok(trials)
}

fn ask(server: &Server, request: Request) -> Result<Value, ConfigError> {
    server.ask(0, |shard| operations::execute(shard, request))?.map_err(ConfigError)
}

fn ports(config: &Config) -> Vec<(Service, SocketAddr)> {
    listener::addresses(config)
}

fn ready_json(config: &Config, trials: &[Trial]) -> Value {
    let ports: Map<String, Value> = ports(config)
        .iter()
        .map(|(service, address)| (service.name().to_owned(), json!(address.port())))
        .collect();
    json!({ "ports": ports, "accounts": trials })
}

fn print_ready(config: &Config, trials: &[Trial], options: &Options) {
    let port = |service| {
        ports(config)
            .iter()
            .find(|(found, _)| *found == service)
            .map_or(0, |(_, address)| address.port())
    };
    let _ = outln!("\nKura serves from {}\n", options.dir.display());
    for (service, address) in ports(config) {
        let _ = outln!("  {:12} {address}", service.name());
    }
    let kept = options.dir.join(ACCOUNTS_FILE);
    let (Some(sender), Some(reader)) = (trials.first(), trials.last()) else {
        let _ = outln!(
            "\naccounts: `kura account list` ({} is not there)\n\nCtrl-C stops.",
            kept.display()
        );
        return;
    };
    let _ = outln!("\naccounts, and the passwords that they were made with ({}):", kept.display());
    for trial in trials {
        let _ = outln!("  {}  {}", trial.address, trial.password);
    }
    let _ = outln!("\nsend a mail:");
    let _ = outln!(
        "  printf 'Subject: hello\\r\\n\\r\\nFrom Kura.\\r\\n' | curl -sk smtp://127.0.0.1:{} --mail-from {} --mail-rcpt {} -T -",
        port(Service::Smtp),
        sender.address,
        reader.address
    );
    let _ = outln!("read it:");
    let _ = outln!(
        "  curl -sk 'imaps://127.0.0.1:{}/INBOX;UID=*' -u {}:{}",
        port(Service::Imaps),
        reader.address,
        reader.password
    );
    let _ = outln!("\nCtrl-C stops.");
}
