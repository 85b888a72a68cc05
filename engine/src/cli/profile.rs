//! `kura profile`: what the host can do, what follows from it, and whether that still holds.

use super::{Outcome, Where};
use crate::config::{Config, ConfigError, ProfileName};
use clap::{Args, Subcommand};
use hwprofiles::{Bar, Check, Demand, Knobs, Profile};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const OUT: &str = "kura-profile.toml";
/// Long enough to tell another disk from noise, see `hwprofiles::compare`.
const CHECKED_FOR: Duration = Duration::from_millis(1500);
const PROBE_SECONDS_MIN: f64 = 1.0;
const PROBE_SECONDS_MAX: f64 = 86_400.0;

#[derive(Debug, Subcommand)]
pub(super) enum ProfileCommand {
    /// Measures the disk under a directory, and the host. Writes a profile and a picture of
    /// its flush curve.
    ///
    /// Example: kura profile probe --dir /var/lib/kura --time 60s --out /etc/kura/profile.toml
    ///
    /// Run it on a quiet host: it uses disk and cores as fast as they go. Its files are removed.
    /// What was set by hand in an older FILE is kept: `[knobs]`, and the data sheet's
    /// `endurance_tb` and `power_loss_protection` under `[device]`. Exit code 3: flushes here are
    /// not to be trusted.
    Probe(ProbeOptions),
    /// Shows a profile and every knob derived from it, with its origin.
    ///
    /// Example: kura profile show --dir ./kura-data
    ///
    /// Example: kura profile show --profile nvme-plp
    Show {
        #[command(flatten)]
        place: Where,
        /// A profile's file, or the name of a shipped one, instead of the one in use.
        #[arg(long, value_name = "FILE|NAME")]
        profile: Option<String>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compares this host with the profile in use: facts, and a measurement of two seconds. Exit
    /// code 3: it is another host now.
    ///
    /// Example: kura profile check --config /etc/kura/kura.toml
    Check {
        #[command(flatten)]
        place: Where,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says which hardware so many users need, and where this host falls short. Exit
    /// code 3: it does.
    ///
    /// Example: kura profile plan --users 5000 --quota 2G --mails-per-day 200000 --profile nvme-plp
    Plan(PlanOptions),
}

#[derive(Debug, Args)]
pub(super) struct ProbeOptions {
    /// A directory on the disk to measure.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How long, in all: 3s to 600s and more; below 25s some points are left out. On a disk that
    /// takes milliseconds for a flush, it may take longer.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    time: Duration,
    /// Where the profile goes; the picture goes beside it, ending in .svg.
    #[arg(long, value_name = "FILE", default_value = OUT)]
    out: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PlanOptions {
    #[command(flatten)]
    place: Where,
    /// Accounts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    users: u64,
    /// Quota of each, such as 500M or 2G.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    quota: u64,
    /// Deliveries a day over all users; a message to three of them is three.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..))]
    mails_per_day: u64,
    /// Mean size of a message.
    #[arg(long, value_name = "SIZE", default_value = "75K", value_parser = message_size)]
    message_bytes: u64,
    /// Terabytes that may be written to the disk in its life (TBW in its data sheet).
    #[arg(long, value_name = "TB", value_parser = positive)]
    endurance_tb: Option<f64>,
    /// A profile's file, or the name of a shipped one, instead of the one in use.
    #[arg(long, value_name = "FILE|NAME")]
    profile: Option<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: ProfileCommand) -> Result<Outcome, ConfigError> {
    match command {
        ProfileCommand::Probe(options) => probe(&options),
        ProfileCommand::Show { place, profile, json } => show(&place, profile.as_deref(), json),
        ProfileCommand::Check { place, json } => check(&place, json),
        ProfileCommand::Plan(options) => plan(&options),
    }
}

fn probe(options: &ProbeOptions) -> Result<Outcome, ConfigError> {
    let out = &options.out;
    // Before the measuring: a minute is long to wait for "no such directory".
    let old = replaced(out)?;
    let picture = picture_beside(out, old.is_some())?;
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty())
        && !parent.is_dir()
    {
        return Err(ConfigError(format!(
            "{}: no such directory; make it, or choose another --out",
            parent.display()
        )));
    }
    let title = format!("measuring {} for {} s", options.dir.display(), options.time.as_secs_f64());
    let mut bar = Bar::new(&title);
    let probed = hwprofiles::probe(&options.dir, options.time, &mut |step| bar.show(step));
    bar.finish();
    let mut profile = probed.map_err(fault)?;
    let is_kept = old.as_ref().is_none_or(|old| profile.keep_from(old));
    let knobs = hwprofiles::derive(&profile);
    profile.save(out).map_err(fault)?;
    std::fs::write(&picture, hwprofiles::picture(&profile, &knobs)).map_err(|error| {
        ConfigError(format!("{}: can't write the picture: {error}", picture.display()))
    })?;
    if options.json {
        outln!("{}", as_json(&profile, &knobs))?;
    } else {
        out!("{}", hwprofiles::show(&profile, &knobs))?;
        outln!(
            "\nwritten: {} and {}; use it with `profile = \"{}\"` in the config file",
            out.display(),
            picture.display(),
            out.display()
        )?;
    }
    if !is_kept {
        // Whoever reads JSON may want to hear of it, too.
        let _ = writeln!(
            std::io::stderr(),
            "{}: what [device] said by hand (endurance_tb, power_loss_protection) is not in it any more, since nothing shows that this is \
             the same disk; write it again if it is",
            out.display()
        );
    }
    let findings = hwprofiles::findings(&profile);
    let wrong = findings.iter().any(|finding| finding.severity == hwprofiles::Severity::Wrong);
    Ok(if wrong { Outcome::Unwell } else { Outcome::Done })
}

/// The profile that is about to be replaced. A file that is not one is not replaced.
fn replaced(out: &Path) -> Result<Option<Profile>, ConfigError> {
    if !out.exists() {
        return Ok(None);
    }
    Profile::load(out).map(Some).map_err(|error| {
        ConfigError(format!("{error}; this file is not overwritten: choose another --out"))
    })
}

/// Where the picture of the profile goes. Only one of a profile that is replaced is.
fn picture_beside(out: &Path, is_replaced: bool) -> Result<PathBuf, ConfigError> {
    let picture = out.with_extension("svg");
    if picture == out {
        return Err(ConfigError(format!(
            "--out {}: this name is the picture's; choose one for the profile, such as {}",
            out.display(),
            out.with_extension("toml").display()
        )));
    }
    if picture.exists() && !is_replaced {
        return Err(ConfigError(format!(
            "{} is there already, and the picture would be written over it: move it away, or choose another --out",
            picture.display()
        )));
    }
    Ok(picture)
}

fn show(place: &Where, named: Option<&str>, json: bool) -> Result<Outcome, ConfigError> {
    let (profile, _) = chosen(place, named)?;
    // What another profile would give is asked about the profile alone.
    let knobs = match named {
        Some(_) => hwprofiles::derive(&profile),
        None => place.load()?.derive_knobs(&profile)?,
    };
    if json {
        outln!("{}", as_json(&profile, &knobs))?;
    } else {
        out!("{}", hwprofiles::show(&profile, &knobs))?;
    }
    Ok(Outcome::Done)
}

fn as_json(profile: &Profile, knobs: &Knobs) -> Value {
    let findings = hwprofiles::findings(profile);
    json!({ "profile": profile, "knobs": knobs, "findings": findings })
}

fn check(place: &Where, json: bool) -> Result<Outcome, ConfigError> {
    let config = place.load()?;
    let then = profile(&config)?;
    let now = hwprofiles::measure(&config.data_dir, CHECKED_FOR).map_err(fault)?;
    let checks = hwprofiles::compare(&then, &now);
    let unwell = checks.iter().any(Check::unwell);
    if json {
        outln!("{}", json!({ "checks": checks, "same": !unwell }))?;
    } else {
        checks.iter().try_for_each(|check| outln!("{check}"))?;
    }
    Ok(if unwell { Outcome::Unwell } else { Outcome::Done })
}

fn plan(options: &PlanOptions) -> Result<Outcome, ConfigError> {
    let demand = Demand {
        users: options.users,
        quota_bytes: options.quota,
        mails_per_day: options.mails_per_day,
        message_bytes: options.message_bytes,
        endurance_tb: options.endurance_tb,
    };
    let (profile, shipped) = chosen(&options.place, options.profile.as_deref())?;
    let plan = hwprofiles::Plan { shipped, ..hwprofiles::plan(&demand, &profile) };
    if options.json {
        outln!("{}", json!(plan))?;
    } else {
        out!("{plan}")?;
    }
    Ok(if plan.shortfalls.is_empty() { Outcome::Done } else { Outcome::Unwell })
}

/// The one that was asked for, or the one in use; with its name, if it is a shipped one.
fn chosen(
    place: &Where,
    file_or_name: Option<&str>,
) -> Result<(Profile, Option<String>), ConfigError> {
    match file_or_name {
        Some(text) => {
            let shipped = (!Path::new(text).exists()).then(|| text.to_owned());
            Ok((Profile::find(text).map_err(fault)?, shipped))
        }
        None => {
            let hint = |error| ConfigError(format!("{error}; or name a profile with --profile"));
            let config = place.load().map_err(hint)?;
            let shipped = match &config.profile {
                None => Some("generic".to_owned()),
                Some(ProfileName::Shipped(name)) => Some(name.clone()),
                Some(ProfileName::File(_)) => None,
            };
            Ok((profile(&config)?, shipped))
        }
    }
}

fn fault(error: hwprofiles::Error) -> ConfigError {
    ConfigError(error.to_string())
}

/// `90`, `90s`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(digits) => (digits, &text[digits.len()..]),
        None => (text, "s"),
    };
    let scale = match unit {
        "m" => 60.0,
        "h" => 3600.0,
        _ => 1.0,
    };
    let seconds = digits.parse::<f64>().map_err(|_| "a time is like 60s, 10m or 1h".to_owned())?;
    let seconds = seconds * scale;
    if (PROBE_SECONDS_MIN..=PROBE_SECONDS_MAX).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("a time is from {PROBE_SECONDS_MIN} s to a day"))
    }
}

/// Bytes: `75000`, `75K`, `500M`, `2G`, `1T`.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        "T" => Some(40),
        _ => None,
    };
    let bytes =
        digits.parse::<u64>().ok().zip(scale).and_then(|(n, bits)| n.checked_mul(1 << bits));
    bytes.ok_or_else(|| "a size is a number, with K, M, G or T behind it".to_owned())
}

/// None is empty, and none is larger than what a server may take at once.
fn message_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes @ 1..=0x4000_0000 => Ok(bytes),
        _ => Err("a size from 1 to 1G".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(figure) if figure.is_finite() && figure > 0.0 => Ok(figure),
        _ => Err("a number above zero".to_owned()),
    }
}

/// The knobs that the configured profile gives, but for those that the operator has set.
pub(super) fn knobs(config: &Config) -> Result<Knobs, ConfigError> {
    config.derive_knobs(&profile(config)?)
}

fn profile(config: &Config) -> Result<Profile, ConfigError> {
    let in_config = |what: String| config.fault("profile", &format!("profile: {what}"));
    let found = match &config.profile {
        None => return Ok(Profile::generic()),
        Some(ProfileName::Shipped(name)) => hwprofiles::shipped(name),
        Some(ProfileName::File(file)) if !file.exists() => {
            return Err(in_config(format!(
                "there is no file {}; `kura profile probe --dir {} --out FILE` measures one, and shipped are, by these names alone, {}",
                file.display(),
                config.data_dir.display(),
                hwprofiles::shipped_names().join(", ")
            )));
        }
        Some(ProfileName::File(file)) => Profile::load(file),
    };
    found.map_err(|error| in_config(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let cases =
            [("0", 0), ("75000", 75_000), ("75K", 75 << 10), ("2g", 2 << 30), ("1T", 1 << 40)];
        for (text, bytes) in cases {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["0", "100T", "2G"] {
            assert!(message_size(text).is_err(), "{text}");
        }
        assert_eq!(message_size("1G"), Ok(1 << 30));
        for text in ["", "K", "2GB", "-1", "1.5G", "99999999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_units() {
        let cases = [("3", 3.0), ("3s", 3.0), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0)];
        for (text, seconds) in cases {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "s", "fast", "-3s", "0", "0.1s", "NaN", "inf", "100h", "3d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
