//! `kura sieve`: users' mail filters.

use super::Outcome;
use super::directory::{Common, said, table, text};
use crate::config::ConfigError;
use crate::operations::Request;
use crate::sieve::limits;
use crate::sieve::operations::SieveRequest;
use crate::sieve::scripts::{self, Refused};
use clap::{Args, Subcommand};
use protocols::sieve::Fault;
use serde_json::{Value, json};
use std::fmt::Display;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(super) enum SieveCommand {
    /// Says what is wrong with a script, with line and column; exit code 3 if anything is.
    ///
    /// Example: kura sieve check filter.sieve
    Check {
        file: PathBuf,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Example: kura sieve list --account ann@example.org
    List {
        #[command(flatten)]
        whose: Whose,
    },
    /// Keeps a script that compiles, in the place of one of that name if there is one.
    ///
    /// Example: kura sieve put filter.sieve --account ann@example.org --activate
    Put {
        file: PathBuf,
        /// What it is called; otherwise as the file, without its extension.
        #[arg(long)]
        name: Option<String>,
        /// Makes it the account's active script.
        #[arg(long)]
        activate: bool,
        #[command(flatten)]
        whose: Whose,
    },
    /// Prints a script.
    ///
    /// Example: kura sieve get filter --account ann@example.org
    Get {
        name: String,
        #[command(flatten)]
        whose: Whose,
    },
    /// Makes a script the active one; the others are not run.
    ///
    /// Example: kura sieve activate filter --account ann@example.org
    Activate {
        #[arg(required_unless_present = "none")]
        name: Option<String>,
        /// No script is active from then on.
        #[arg(long, conflicts_with = "name")]
        none: bool,
        #[command(flatten)]
        whose: Whose,
    },
    /// Removes a script that is not active.
    ///
    /// Example: kura sieve remove filter --account ann@example.org
    Remove {
        name: String,
        #[command(flatten)]
        whose: Whose,
    },
}

#[derive(Debug, Args)]
pub(super) struct Whose {
    /// Whose scripts.
    #[arg(long, value_name = "ADDRESS")]
    account: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(command: SieveCommand) -> Result<Outcome, ConfigError> {
    match command {
        SieveCommand::Check { file, json } => check(&file, json),
        SieveCommand::List { whose: Whose { account, common } } => table(
            &common,
            Request::Sieve(SieveRequest::List { account }),
            &["name", "active", "bytes"],
        ),
        SieveCommand::Put { file, name, activate, whose: Whose { account, common } } => {
            let told = |fault: &dyn Display| ConfigError(format!("{}: {fault}", file.display()));
            let script = read(&file)?;
            if script.len() > limits().script_bytes_max {
                return Err(told(&Refused::TooLarge));
            }
            let script = String::from_utf8(script).map_err(|_| told(&"a script is UTF-8"))?;
            let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            let name = name.or(stem).unwrap_or_default();
            let request = SieveRequest::Put { account, name, script, activate };
            said(&common, Request::Sieve(request), |value| {
                let warnings = value["warnings"].as_array().into_iter().flatten();
                let warnings: String = warnings
                    .filter_map(Value::as_str)
                    .map(|warning| format!("\nwarning: {warning}"))
                    .collect();
                let active = if value["active"] == true { ", and active" } else { "" };
                format!("script {:?} is kept{active}{warnings}", text(value, "name"))
            })
        }
        SieveCommand::Get { name, whose: Whose { account, common } } => {
            let value = super::ask::ask(
                &common.place,
                Request::Sieve(SieveRequest::Get { account, name }),
            )?;
            match common.json {
                true => outln!("{value}")?,
                false => out!("{}", text(&value, "script"))?,
            }
            Ok(Outcome::Done)
        }
        SieveCommand::Activate { name, none: _, whose: Whose { account, common } } => {
            let request = SieveRequest::Activate { account, name };
            said(&common, Request::Sieve(request), |value| match value["active"].as_str() {
                Some(name) => format!("script {name:?} is active"),
                None => "no script is active".to_owned(),
            })
        }
        SieveCommand::Remove { name, whose: Whose { account, common } } => {
            let request = SieveRequest::Remove { account, name };
            said(&common, Request::Sieve(request), |value| {
                format!("script {:?} removed", text(value, "name"))
            })
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(file)
        .map_err(|error| ConfigError(format!("can't read {}: {error}", file.display())))
}

fn check(file: &Path, as_json: bool) -> Result<Outcome, ConfigError> {
    let (faults, warnings) = match scripts::check(&read(file)?) {
        Ok(warnings) => (Vec::new(), warnings),
        Err(Refused::Faulty(faults)) => (faults, Vec::new()),
        Err(other) => return Err(ConfigError(format!("{}: {other}", file.display()))),
    };
    let is_fine = faults.is_empty();
    if as_json {
        let told = |fault: &Fault| json!({ "line": fault.at.line, "column": fault.at.column, "text": fault.text });
        let told = |faults: &[Fault]| faults.iter().map(told).collect::<Vec<_>>();
        outln!("{}", json!({ "faults": told(&faults), "warnings": told(&warnings) }))?;
    } else {
        let line = |kind: &str, Fault { at, text }: &Fault| {
            outln!("{}:{}:{}: {kind}{text}", file.display(), at.line, at.column)
        };
        faults.iter().try_for_each(|fault| line("", fault))?;
        warnings.iter().try_for_each(|warning| line("warning: ", warning))?;
        if is_fine {
            outln!("{} is fine", file.display())?;
        }
    }
    Ok(if is_fine { Outcome::Done } else { Outcome::Unwell })
}
