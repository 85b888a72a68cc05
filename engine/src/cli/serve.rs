//! `kura serve` and `kura check-config`.

use super::Outcome;
use crate::NOTICE;
use crate::auth::dnssec;
use crate::config::{Config, ConfigError, LogFormat};
use crate::domain::openness::{Strangers, strangers_in};
use crate::layout;
use crate::policy::networks::Lists;
use crate::quarantine::settings::Daily;
use crate::relay::tls;
use crate::server::{Mode, Server};
use crate::sieve::SystemScripts;
use clap::Args;
use hwprofiles::{Knobs, Origin};
use std::fmt::Write as _;
use std::path::PathBuf;
use tracing_appender::non_blocking::WorkerGuard;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct CheckOptions {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Prints every key that there is, with the value that it has, as TOML.
    #[arg(long)]
    print: bool,
}

pub(super) fn run(options: &Options) -> Result<Outcome, ConfigError> {
    let config = Config::load(&options.config)?;
    layout::expect_store(&config.data_dir)?;
    let _guard = start_logging(&config);
    let knobs = super::profile::knobs(&config)?;
    config.at("dns.trust_anchor", dnssec::anchors(&config.dns))?;
    if let Some(what) = shards_unheeded(&config, layout::examine(&config.data_dir)?) {
        tracing::warn!("{what}");
    }
    Server::start(config, knobs, Mode::Serving)?.run();
    Ok(Outcome::Done)
}

pub(super) fn check(options: &CheckOptions) -> Result<Outcome, ConfigError> {
    let mut config = Config::load(&options.config)?;
    let knobs = super::profile::knobs(&config)?;
    let rules = config.at(config.key_of_rules(), crate::filter::load(&config.spam))?;
    rules.check_examples().map_err(ConfigError)?;
    config.at("dns.trust_anchor", dnssec::anchors(&config.dns))?;
    tls::check_files(&config)?;
    if options.print {
        let absolute = config.with_absolute_paths();
        config = absolute.map_err(|error| ConfigError(format!("where this is run: {error}")))?;
        // All of them, and at the end: what is set is among them.
        config.knobs.clear();
        let text = toml::to_string(&config).map_err(|error| ConfigError(error.to_string()))?;
        out!(
            "{text}\n{}",
            knobs_as_toml(&knobs, layout::examine(&config.data_dir).unwrap_or(None))
        )?;
        return Ok(Outcome::Done);
    }
    SystemScripts::load(&config)?;
    let lists = Lists::read(&config)?;
    layout::usable(&config.data_dir)?;
    let shards = layout::examine(&config.data_dir)?;
    let odd = strangers_in(&config, &lists);
    match odd.is_empty() {
        true => outln!("{} is fine", options.config.display())?,
        false => outln!("{} can be served, but:", options.config.display())?,
    }
    for Strangers { key, networks, why } in odd {
        outln!("warning: {key} = {}: {why}", networks.join(", "))?;
    }
    if let Some(what) = shards_unheeded(&config, shards) {
        outln!("{what}")?;
    }
    let to_one = config.relay.sessions_per_destination_max;
    if let Some(shards) = shards.map(usize::from).filter(|shards| *shards > to_one) {
        outln!(
            "relay.sessions_per_destination_max {to_one}: there may be {shards} all the same, since each of {shards} \
             cores sends what it has taken in"
        )?;
    }
    match config.store.retention {
        none if none.0.is_zero() => outln!("store.retention 0: expunged mail is gone at once")?,
        retention => outln!(
            "store.retention {}: so long expunged mail can be brought back",
            retention.text()
        )?,
    }
    say_of_quarantine(&config)?;
    Ok(Outcome::Done)
}

/// Every knob with the value that `kura profile show` explains, as it is in use.
fn knobs_as_toml(knobs: &Knobs, shards: Option<u16>) -> String {
    let mut text = "[knobs]\n".to_owned();
    for (name, knob) in knobs.all() {
        let made_with = shards.map(u64::from).filter(|_| name == "shards");
        let (value, origin) = match (&knob.origin, made_with) {
            (_, Some(shards)) => (shards, "what the store was made with"),
            (Origin::Set { .. }, None) => (knob.value, "set in the config file"),
            (Origin::Derived { .. }, None) => (knob.value, "derived from the profile"),
        };
        // Writing to a String can't fail.
        let _ = writeln!(text, "{name} = {value} # {origin}");
    }
    text
}

/// A store keeps the shards that it was made with, whatever the config file says.
fn shards_unheeded(config: &Config, there: Option<u16>) -> Option<String> {
    let (&wanted, there) = (config.knobs.get("shards")?, there?);
    let place = config.data_dir.display();
    (wanted != u64::from(there)).then(|| {
        format!(
            "knobs.shards {wanted}: not heeded, since the store in {place} was made with {there}, and is served with {there}; write \
             shards = {there}, or remove the line. Another number takes a new data directory"
        )
    })
}

/// What goes into quarantine, and how users hear of it.
fn say_of_quarantine(config: &Config) -> Result<(), ConfigError> {
    if !config.keeps_mail_back() {
        return Ok(());
    }
    let keep = config.quarantine.keep.text();
    let told = match config.quarantine.digest_at {
        Daily(None) => "users are not told (quarantine.digest_at is off)".to_owned(),
        daily => format!("users are told daily at {}", String::from(daily)),
    };
    outln!("quarantine: mail is kept for {keep}; {told}")?;
    if config.quarantine.imap {
        outln!(
            "quarantine: users read all of it over IMAP, also what holds a virus, in the mailbox {:?}; set quarantine.imap = \
             false where they should not",
            config.quarantine.mailbox
        )?;
    }
    match config.quarantine.links_to(&config.hostname, &config.web) {
        Some(base) => outln!("quarantine: the links of digests lead to {base}"),
        None => outln!(
            "quarantine: digests have no links, but name the postmaster; set web.listen, such as [\"0.0.0.0:443\"], for links \
             by which users release their mail themselves"
        ),
    }
}

/// What others' code warns of is peculiar answers of resolvers and clients, and locked memory that
/// it does without: nobody here can do anything at them, and what follows our own lines tell.
const OTHERS: &str =
    "rustls=error,glommio_ng=error,hickory_net=error,hickory_proto=error,hickory_resolver=error";

/// Log lines go to standard error from a thread of their own; when that can't keep up, lines are
/// dropped rather than a core blocked. The guard writes out what is left when it is dropped.
pub(super) fn start_logging(config: &Config) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let filter = match config.log.level.as_str() {
        "notice" => format!("warn,{NOTICE}=info,{OTHERS}"),
        level @ ("info" | "warn") => format!("{level},{OTHERS}"),
        // Who asks for everything gets it.
        level => level.to_owned(),
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_ansi(false);
    match config.log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    guard
}
