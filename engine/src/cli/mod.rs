//! The command line: one file for each family of commands.
//!
//! Errors are one line on standard error: what, where, how to mend. Exit codes: 0 done, 1 failed,
//! 2 wrong usage (clap's), 3 done but something is wrong (`store verify` found damage).

/// Prints a line to standard output, or says why that did not work.
macro_rules! outln {
    ($($text:tt)*) => { $crate::cli::write_out(format_args!("{}\n", format_args!($($text)*))) };
}
/// The same without an end of line.
macro_rules! out {
    ($($text:tt)*) => { $crate::cli::write_out(format_args!($($text)*)) };
}

mod ask;
mod backup;
mod certificate;
mod collect;
mod compact;
mod directory;
mod dkim;
mod dns;
mod interrupted;
mod profile;
mod quarantine;
mod queue;
mod quickstart;
mod remembering;
mod reports;
mod rescan;
mod restore;
mod salvage;
mod scrub;
mod serve;
mod sieve;
mod spam;
mod store;
mod trace;

use crate::config::{Config, ConfigError};
use clap::{Args, Parser, Subcommand};
use std::io::Write;
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
    /// Serves mail until it is told to stop (SIGTERM). SIGHUP loads certificates, `[sieve]` scripts
    /// and `[policy]` lists of networks anew.
    ///
    /// Example: kura serve --config /etc/kura/kura.toml
    Serve(serve::Options),
    /// Reads a config file and says what is wrong with it, if anything.
    ///
    /// Example: kura check-config --config /etc/kura/kura.toml
    ///
    /// Example: kura check-config --config /etc/kura/kura.toml --print
    CheckConfig(serve::CheckOptions),
    /// Mail domains.
    ///
    /// Example: kura domain add example.org
    #[command(subcommand)]
    Domain(directory::DomainCommand),
    /// What DNS has to say of a domain, and whether it does.
    ///
    /// Example: kura dns check example.org
    #[command(subcommand)]
    Dns(dns::DnsCommand),
    /// Accounts, their passwords and quotas.
    ///
    /// Example: kura account add ann@example.org --quota 10G
    #[command(subcommand)]
    Account(directory::AccountCommand),
    /// Further addresses of accounts; `@domain` catches the rest of a domain.
    ///
    /// Example: kura alias add sales@example.org ann@example.org
    #[command(subcommand)]
    Alias(directory::AliasCommand),
    /// Users' mail filters (Sieve scripts).
    ///
    /// Example: kura sieve put filter.sieve --account ann@example.org --activate
    #[command(subcommand)]
    Sieve(sieve::SieveCommand),
    /// Certificates for TLS.
    ///
    /// Example: kura cert self-signed mail.example.org
    #[command(subcommand)]
    Cert(certificate::CertCommand),
    /// The mailbox store: counters, checks, backup, restore, what was deleted, and repair.
    ///
    /// Example: kura store verify
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// The spam filter: what it makes of a message, and what it is taught.
    ///
    /// Example: kura spam test suspicious.eml
    #[command(subcommand)]
    Spam(spam::SpamCommand),
    /// Mail that waits to leave this host.
    ///
    /// Example: kura queue list
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Mail that is kept back from its owners, because it looks unwanted or dangerous.
    ///
    /// Example: kura quarantine list --account ann@example.org
    #[command(subcommand)]
    Quarantine(quarantine::QuarantineCommand),
    /// Mail from mailboxes that users have elsewhere, over POP3 and IMAP.
    ///
    /// Example: kura collect add ann@example.org imap.example.com --user ann --password-stdin
    #[command(subcommand)]
    Collect(collect::CollectCommand),
    /// DMARC and TLS reports: what others say about mail in the names of your domains, and
    /// what they are told.
    ///
    /// Example: kura reports show --domain example.org --since 7d
    #[command(subcommand)]
    Reports(reports::ReportsCommand),
    /// What has become of messages: where they are, who brought them, what was decided
    /// about them and why.
    ///
    /// Example: kura trace ann@example.org --since 2h
    ///
    /// Example: kura trace '<20261126.7@example.net>' --since 7d
    Trace(trace::Options),
    /// What the host can do, and what follows from it.
    ///
    /// Example: kura profile show
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// Load generators.
    ///
    /// Example: kura bench smtp --target 127.0.0.1:2525 --to ann@example.org
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Sends messages over SMTP or LMTP and measures.
    Smtp(crate::bench::smtp::Options),
    /// Takes messages over SMTP and keeps none: a relay's other end.
    Sink(crate::bench::sink::Options),
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

/// To standard output, at once. A reader that has gone (`kura account list | head`) has seen what
/// it wanted; anything else is an error.
fn write_out(text: std::fmt::Arguments<'_>) -> Result<(), ConfigError> {
    written(|stdout| stdout.write_fmt(text)).map(drop)
}

/// Whether anybody still reads what this writes.
fn written(
    write: impl FnOnce(&mut std::io::StdoutLock<'static>) -> std::io::Result<()>,
) -> Result<bool, ConfigError> {
    let mut stdout = std::io::stdout().lock();
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ConfigError(format!("can't write to standard output: {error}"))),
    }
}

/// `1 message`, `2 messages`.
fn counted(number: impl std::fmt::Display, noun: &str) -> String {
    counted_as(number, noun, &format!("{noun}s"))
}

/// Where the plural is more than an `s`, or the verb has one, too.
fn counted_as(number: impl std::fmt::Display, one: &str, more: &str) -> String {
    let number = number.to_string();
    let noun = if number == "1" { one } else { more };
    format!("{number} {noun}")
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
    abort_on_panic();
    raise_file_limit();
    match run(Cli::parse().command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Unwell) => ExitCode::from(3),
        Err(error) => {
            // Nobody may be listening.
            let _ = writeln!(std::io::stderr(), "kura: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Each connection is an open file, and so are segments. The limit that shells and systemd give at
/// first is for programs that use `select`; up to the hard one a process may raise it by itself.
/// What it is then, the server tells where it is low.
fn raise_file_limit() {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
}

/// A failed assertion is our fault, and nothing unacknowledged was promised: stop at once. Release
/// builds do so by their profile; those that tests compile have to be told.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn run(command: Command) -> Result<Outcome, ConfigError> {
    match command {
        Command::Quickstart(options) => quickstart::run(&options),
        Command::Serve(options) => serve::run(&options),
        Command::CheckConfig(options) => serve::check(&options),
        Command::Domain(command) => directory::domain(command),
        Command::Dns(command) => dns::run(command),
        Command::Account(command) => directory::account(command),
        Command::Alias(command) => directory::alias(command),
        Command::Sieve(command) => sieve::run(command),
        Command::Cert(command) => certificate::run(command),
        Command::Store(command) => store::run(command),
        Command::Spam(command) => spam::run(command),
        Command::Queue(command) => queue::run(command),
        Command::Quarantine(command) => quarantine::run(command),
        Command::Collect(command) => collect::run(command),
        Command::Reports(command) => reports::run(command),
        Command::Trace(options) => trace::run(options),
        Command::Profile(command) => profile::run(command),
        Command::Bench(BenchCommand::Smtp(options)) => bench(options),
        Command::Bench(BenchCommand::Sink(options)) => sink(&options),
    }
}

fn sink(options: &crate::bench::sink::Options) -> Result<Outcome, ConfigError> {
    let tell = |taken: crate::bench::sink::Taken| {
        let line = if options.json {
            serde_json::to_string(&taken)?
        } else {
            let (messages, connections) =
                (counted(taken.messages, "message"), counted(taken.connections, "connection"));
            format!("{messages}, {} octets, {connections}", taken.octets)
        };
        match written(|out| writeln!(out, "{line}")) {
            Ok(true) => Ok(()),
            // Nobody wants to know any more.
            Ok(false) => Err(std::io::ErrorKind::BrokenPipe.into()),
            Err(ConfigError(why)) => Err(std::io::Error::other(why)),
        }
    };
    match crate::bench::sink::run(options, tell) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(ConfigError(format!("--listen {}: {error}", options.listen)))
        }
        _ => Ok(Outcome::Done),
    }
}

fn bench(options: crate::bench::smtp::Options) -> Result<Outcome, ConfigError> {
    let json = options.json;
    let report =
        crate::bench::smtp::run(options).map_err(|error| ConfigError(error.to_string()))?;
    if json {
        outln!(
            "{}",
            serde_json::to_string(&report).map_err(|error| ConfigError(error.to_string()))?
        )?;
    } else {
        outln!("{report}")?;
    }
    Ok(if report.errors == 0 { Outcome::Done } else { Outcome::Unwell })
}
