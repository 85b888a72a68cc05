//! The command line: one file for each family of commands.
//!
//! Errors are one line on standard error: what, where, how to mend. Exit codes: 0 done, 1 failed,
//! 2 wrong usage (clap's), 3 done but something is wrong (`store verify` found damage).

mod ask;
mod backup;
mod certificate;
mod directory;
mod profile;
mod quickstart;
mod remembering;
mod restore;
mod scrub;
mod serve;
mod store;

use crate::config::{Config, ConfigError};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// A high-throughput, storage-first mail engine.
#[derive(Debug, Parser)]
#[command(name = "kura", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything on high ports, ready to try: makes what is missing, then serves.
    ///
    /// Example: kura quickstart --dir /tmp/kura
    Quickstart(quickstart::Options),
    /// Serves mail until it is told to stop (SIGTERM). SIGHUP loads certificates anew.
    ///
    /// Example: kura serve --config /etc/kura/kura.toml
    Serve(serve::Options),
    /// Reads a config file and says what is wrong with it, if anything.
    ///
    /// Example: kura check-config --config /etc/kura/kura.toml
    CheckConfig(serve::Options),
    /// Mail domains.
    #[command(subcommand)]
    Domain(directory::DomainCommand),
    /// Accounts, their passwords and quotas.
    #[command(subcommand)]
    Account(directory::AccountCommand),
    /// Further addresses of accounts; `@domain` catches the rest of a domain.
    #[command(subcommand)]
    Alias(directory::AliasCommand),
    /// Certificates for TLS.
    #[command(subcommand)]
    Cert(certificate::CertCommand),
    /// The mailbox store: counters and checks.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// What the host can do, and what follows from it.
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// Load generators.
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Sends messages over SMTP or LMTP and measures.
    Smtp(crate::bench::smtp::Options),
}

/// Which installation a command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct Where {
    /// Config file of the installation.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "dir")]
    config: Option<PathBuf>,
    /// Directory that `kura quickstart` made (holds kura.toml).
    #[arg(long, global = true, value_name = "DIR", default_value = quickstart::DIR)]
    dir: PathBuf,
}

impl Where {
    fn load(&self) -> Result<Config, ConfigError> {
        match &self.config {
            Some(file) => Config::load(file),
            None => Config::load(&self.dir.join(quickstart::CONFIG_FILE)),
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// The command worked; what it looked at is not well.
    Unwell,
}

/// Parses, runs, reports.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Unwell) => ExitCode::from(3),
        Err(error) => {
            eprintln!("kura: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<Outcome, ConfigError> {
    match command {
        Command::Quickstart(options) => quickstart::run(&options),
        Command::Serve(options) => serve::run(&options),
        Command::CheckConfig(options) => serve::check(&options),
        Command::Domain(command) => directory::domain(command),
        Command::Account(command) => directory::account(command),
        Command::Alias(command) => directory::alias(command),
        Command::Cert(command) => certificate::run(command),
        Command::Store(command) => store::run(command),
        Command::Profile(command) => profile::run(command),
        Command::Bench(BenchCommand::Smtp(options)) => bench(options),
    }
}

fn bench(options: crate::bench::smtp::Options) -> Result<Outcome, ConfigError> {
    let json = options.json;
    let report =
        crate::bench::smtp::run(options).map_err(|error| ConfigError(error.to_string()))?;
    if json {
        println!(
            "{}",
            serde_json::to_string(&report).map_err(|error| ConfigError(error.to_string()))?
        );
    } else {
        println!("{report}");
    }
    Ok(if report.errors == 0 { Outcome::Done } else { Outcome::Unwell })
}
