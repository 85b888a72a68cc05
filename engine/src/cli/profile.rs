//! `kura profile`: what the host can do, and which knobs follow from it.

use super::{Outcome, Where};
use crate::config::{Config, ConfigError};
use clap::Subcommand;
use hwprofiles::{Knobs, Profile};

#[derive(Debug, Subcommand)]
pub(super) enum ProfileCommand {
    /// Shows the profile in use and every knob derived from it, with its origin.
    ///
    /// Example: kura profile show --dir ./kura-data
    Show {
        #[command(flatten)]
        place: Where,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: ProfileCommand) -> Result<Outcome, ConfigError> {
    let ProfileCommand::Show { place, json } = command;
    let config = place.load()?;
    let profile = profile(&config)?;
    let knobs = config.derive_knobs(&profile)?;
    if json {
        let value = serde_json::json!({ "profile": profile, "knobs": knobs });
        println!("{value}");
    } else {
        print!("{}", hwprofiles::show(&profile, &knobs));
    }
    Ok(Outcome::Done)
}

/// The knobs that the configured profile gives, but for those that the operator has set.
pub(super) fn knobs(config: &Config) -> Result<Knobs, ConfigError> {
    config.derive_knobs(&profile(config)?)
}

fn profile(config: &Config) -> Result<Profile, ConfigError> {
    match &config.profile {
        Some(file) => Profile::load(file)
            .map_err(|error| ConfigError(format!("profile {}: {error}", file.display()))),
        None => Ok(Profile::generic()),
    }
}
