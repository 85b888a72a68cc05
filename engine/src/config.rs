//! The config file: what it may say, its defaults, and what is wrong with it in one line.
//!
//! Unknown keys are errors: a misspelt limit must not be a silently absent one. Every error names
//! the file and the key, and how to mend it.

use crate::when::Span;
use hwprofiles::{Knobs, Profile};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One line for the operator: what, where, how to mend.
#[derive(Debug)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name in greetings and trace headers; a fully qualified domain name.
    pub hostname: String,
    /// Holds the store, the certificates and the control socket.
    pub data_dir: PathBuf,
    /// A measured or shipped hardware profile; without it the generic one applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<PathBuf>,
    /// Overrides what is derived from the profile, knob by knob; `kura profile show` prints them all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub knobs: BTreeMap<String, u64>,
    #[serde(default)]
    pub listen: Listen,
    #[serde(default)]
    pub auth: Auth,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub store: StoreConfig,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub log: Log,
}

/// Addresses of each service; an empty list switches it off.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    pub smtp: Vec<SocketAddr>,
    pub submission: Vec<SocketAddr>,
    pub submissions: Vec<SocketAddr>,
    pub lmtp: Vec<SocketAddr>,
    pub imap: Vec<SocketAddr>,
    pub imaps: Vec<SocketAddr>,
    pub pop3: Vec<SocketAddr>,
    pub pop3s: Vec<SocketAddr>,
}

impl Default for Listen {
    fn default() -> Self {
        let any = |port| vec![SocketAddr::from(([0, 0, 0, 0], port))];
        Listen {
            smtp: any(25),
            submission: any(587),
            submissions: any(465),
            // LMTP has no authentication: only for a gateway on this host (RFC 2033 section 5).
            lmtp: vec![SocketAddr::from(([127, 0, 0, 1], 24))],
            imap: any(143),
            imaps: any(993),
            pop3: any(110),
            pop3s: any(995),
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Offers passwords over connections without TLS. For trying out on loopback only.
    pub plaintext_allowed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest message taken, in bytes (SIZE, APPENDLIMIT).
    pub message_bytes_max: u64,
    pub recipients_max: usize,
    /// Connections in all, over all services and cores.
    pub connections_max: usize,
    /// Connections from one address; loopback counts only against the total.
    pub connections_per_address_max: usize,
    /// A message that has passed this many servers is going in circles (RFC 5321 section 6.3).
    pub received_headers_max: usize,
    /// How long a stopping server waits for transactions under way, in seconds.
    pub shutdown_grace_seconds: u64,
    /// How long an IMAP client may stay silent, in seconds (RFC 9051 section 5.4: at least 1800).
    pub imap_idle_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes_max: 50 << 20,
            recipients_max: 1000,
            connections_max: 20_000,
            connections_per_address_max: 100,
            received_headers_max: 50,
            shutdown_grace_seconds: 10,
            imap_idle_seconds: 1800,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// For so long expunged mail can be brought back and accounts be seen as they were, such as `7d`; `0`
    /// for not at all. It takes the space of what was delivered in that time.
    pub retention: Span,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig { retention: Span(Duration::from_secs(7 * 86_400)) }
    }
}

/// What is longer was meant to be a hold.
const RETENTION_MAX: Duration = Duration::from_secs(3650 * 86_400);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Prometheus text over HTTP; must be a loopback address.
    pub listen: Option<SocketAddr>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { listen: Some(SocketAddr::from(([127, 0, 0, 1], 9925))) }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `text` or `json`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Text, level: "info".to_owned() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// Reads and checks a config file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError(format!(
                "can't read config file {}: {error}; `kura quickstart` writes one to start from",
                path.display()
            ))
        })?;
        let mut config: Config = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(&text, span.start));
            ConfigError(format!(
                "{}:{line}: {}",
                path.display(),
                error.message().replace('\n', " ")
            ))
        })?;
        // Relative paths are relative to the file, so that the server may start from anywhere.
        let base = path.parent().unwrap_or(Path::new("."));
        // By components, so that "." does not show in messages.
        config.data_dir = base.join(&config.data_dir).components().collect();
        config.profile = config.profile.map(|profile| base.join(profile));
        config.check().map_err(|fault| ConfigError(format!("{}: {fault}", path.display())))?;
        Ok(config)
    }

    /// The profile's knobs, but for those that the operator has set.
    pub fn derive_knobs(&self, profile: &Profile) -> Result<Knobs, ConfigError> {
        let mut knobs = hwprofiles::derive(profile);
        for (name, &value) in &self.knobs {
            let place = format!("the config file, knobs.{name}");
            knobs
                .set(name, value, &place)
                .map_err(|error| ConfigError(format!("[knobs]: {error}")))?;
        }
        Ok(knobs)
    }

    /// What the types can't say.
    fn check(&self) -> Result<(), String> {
        let named = !self.hostname.is_empty()
            && self.hostname.len() <= 253
            && self.hostname.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if !named {
            return Err(format!(
                "hostname {:?} is no domain name; write the host's full name, such as \"mail.example.org\"",
                self.hostname
            ));
        }
        if let Some(address) = self.metrics.listen
            && !address.ip().is_loopback()
        {
            return Err(format!(
                "metrics.listen {address} is not a loopback address; use 127.0.0.1 and let a proxy publish it"
            ));
        }
        if self.store.retention.0 > RETENTION_MAX {
            return Err(format!(
                "store.retention = {:?} is out of range; use 0 to 3650d, or put accounts on hold \
                 (`kura account hold add`)",
                self.store.retention.text()
            ));
        }
        let limits = &self.limits;
        for (key, value, least, most) in [
            ("message_bytes_max", limits.message_bytes_max, 65_536, 1 << 31),
            ("recipients_max", limits.recipients_max as u64, 100, 100_000),
            ("connections_max", limits.connections_max as u64, 16, 1_000_000),
            (
                "connections_per_address_max",
                limits.connections_per_address_max as u64,
                1,
                1_000_000,
            ),
            ("received_headers_max", limits.received_headers_max as u64, 5, 1000),
            ("shutdown_grace_seconds", limits.shutdown_grace_seconds, 0, 600),
            ("imap_idle_seconds", limits.imap_idle_seconds, 1800, 86_400),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!(
                    "limits.{key} = {value} is out of range; use {least} to {most}"
                ));
            }
        }
        const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
        if !LEVELS.contains(&self.log.level.as_str()) {
            return Err(format!(
                "log.level {:?} is unknown; use one of {LEVELS:?}",
                self.log.level
            ));
        }
        Ok(())
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir =
            std::env::temp_dir().join(format!("kura-config-{}-{:p}", std::process::id(), text));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("kura.toml");
        std::fs::write(&path, text).unwrap();
        let result = Config::load(&path);
        std::fs::remove_dir_all(&dir).unwrap();
        result
    }

    #[test]
    fn the_shortest_config_has_defaults() {
        let config = load("hostname = \"mail.example.org\"\ndata_dir = \"data\"\n").unwrap();
        assert_eq!(config.listen.smtp[0].port(), 25);
        assert!(config.data_dir.ends_with("data") && config.data_dir.is_absolute());
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let error = load("hostname = \"a.test\"\ndata_dir = \"d\"\n[limits]\nrecipient_max = 5\n")
            .unwrap_err()
            .0;
        assert!(error.contains("kura.toml:4:") && error.contains("recipient_max"), "{error}");
    }

    #[test]
    fn a_knob_may_be_set_and_a_misspelt_one_is_named() {
        let with = |knob: &str| {
            let text = format!("hostname = \"a.test\"\ndata_dir = \"d\"\n[knobs]\n{knob} = 7\n");
            load(&text).unwrap().derive_knobs(&Profile::generic())
        };
        assert_eq!(with("commit_window_us").unwrap().commit_window_us.value, 7);
        let error = with("commit_window").unwrap_err().0;
        assert!(
            error.contains("\"commit_window\"") && error.contains("commit_window_us"),
            "{error}"
        );
    }

    #[test]
    fn a_retention_is_a_span_of_time() {
        let with = |store: &str| {
            load(&format!("hostname = \"a.test\"\ndata_dir = \"d\"\n[store]\n{store}\n"))
        };
        assert_eq!(with("").unwrap().store.retention.text(), "7d");
        assert_eq!(with("retention = \"0\"").unwrap().store.retention.0, Duration::ZERO);
        let error = with("retention = \"7 days\"").unwrap_err().0;
        assert!(error.contains("kura.toml:4:") && error.contains("7d"), "{error}");
        let error = with("retention = \"4000d\"").unwrap_err().0;
        assert!(error.contains("store.retention") && error.contains("hold"), "{error}");
    }

    #[test]
    fn public_metrics_are_refused() {
        let error =
            load("hostname = \"a.test\"\ndata_dir = \"d\"\n[metrics]\nlisten = \"0.0.0.0:1\"\n")
                .unwrap_err()
                .0;
        assert!(error.contains("loopback"), "{error}");
    }

    #[test]
    fn limits_out_of_range_are_refused() {
        let error = load("hostname = \"a.test\"\ndata_dir = \"d\"\n[limits]\nrecipients_max = 5\n")
            .unwrap_err()
            .0;
        assert!(error.contains("recipients_max") && error.contains("100"), "{error}");
    }
}
