//! The config file: what it may say, its defaults, and what is wrong with it in one line.
//!
//! Unknown keys are errors: a misspelt limit must not be a silently absent one. Every error names
//! the file and the key, and how to mend it.

mod check;

pub use crate::auth::settings::{Auth, Dns};
pub use crate::certificates::acme::settings::Acme;
pub use crate::collect::settings::Collect;
pub use crate::domain::settings::Web;
pub use crate::filter::settings::Spam;
pub use crate::policy::settings::Policy;
pub use crate::quarantine::settings::Quarantine;
pub use crate::relay::settings::{Relay, SmartHost};
pub use crate::reports::settings::Reports;
pub use crate::scan::settings::Scan;
pub use crate::submission::settings::Submission;
use crate::when::Span;
use check::{line_of_key, plain};
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
    /// The addresses that others know this host by, for `kura dns`; without them, those
    /// that it sends from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<std::net::IpAddr>,
    /// Holds the store, the certificates and the control socket.
    pub data_dir: PathBuf,
    /// A measured or shipped hardware profile; without it the generic one applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileName>,
    /// Overrides what is derived from the profile, knob by knob; `kura profile show`
    /// prints them all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub knobs: BTreeMap<String, u64>,
    #[serde(default)]
    pub listen: Listen,
    #[serde(default)]
    pub auth: Auth,
    #[serde(default)]
    pub dns: Dns,
    #[serde(default)]
    pub policy: Policy,
    #[serde(default)]
    pub spam: Spam,
    #[serde(default)]
    pub scan: Scan,
    #[serde(default)]
    pub quarantine: Quarantine,
    #[serde(default)]
    pub submission: Submission,
    #[serde(default)]
    pub relay: Relay,
    #[serde(default, rename = "smart_host", skip_serializing_if = "Vec::is_empty")]
    pub smart_hosts: Vec<SmartHost>,
    #[serde(default)]
    pub collect: Collect,
    #[serde(default)]
    pub reports: Reports,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub sieve: crate::sieve::Settings,
    #[serde(default)]
    pub store: StoreConfig,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub web: Web,
    #[serde(default)]
    pub acme: Acme,
    #[serde(default)]
    pub log: Log,
    /// Where it was read from, for messages.
    #[serde(skip)]
    pub file: PathBuf,
}

/// What `profile` says; a file, until it is known where the config file lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PathBuf", into = "PathBuf")]
pub enum ProfileName {
    File(PathBuf),
    /// One that is shipped goes by its name alone.
    Shipped(String),
}

impl From<PathBuf> for ProfileName {
    fn from(file: PathBuf) -> ProfileName {
        ProfileName::File(file)
    }
}

impl From<ProfileName> for PathBuf {
    fn from(name: ProfileName) -> PathBuf {
        match name {
            ProfileName::File(file) => file,
            ProfileName::Shipped(name) => name.into(),
        }
    }
}

impl ProfileName {
    /// A file in that directory goes before a shipped one of the same name.
    fn beside(self, directory: &Path) -> ProfileName {
        let named = PathBuf::from(self);
        let file: PathBuf = directory.join(&named).components().collect();
        match named.to_str().filter(|name| hwprofiles::shipped_names().contains(name)) {
            Some(name) if !file.exists() => ProfileName::Shipped(name.to_owned()),
            _ => ProfileName::File(file),
        }
    }
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
    pub managesieve: Vec<SocketAddr>,
    /// Load balancers, by service: connections from there must begin with a header of the PROXY
    /// protocol, version 2, and are its client's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub proxy_protocol_from: BTreeMap<String, Vec<crate::auth::settings::Network>>,
    /// Gateways that may say on `smtp` on whose behalf they speak (XCLIENT).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xclient_from: Vec<crate::auth::settings::Network>,
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
            managesieve: any(4190),
            proxy_protocol_from: BTreeMap::new(),
            xclient_from: Vec::new(),
        }
    }
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
    /// For so long expunged mail can be brought back and accounts be seen as they were, such as
    /// `7d`; `0` for not at all. It takes the space of what was delivered in that time.
    pub retention: Span,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig { retention: Span(Duration::from_secs(7 * 86_400)) }
    }
}

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
    /// `error`, `warn`, `notice`, `info`, `debug` or `trace`. `notice`: starts and stops, failed
    /// logins and refusals, but not a line for each message.
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
            ConfigError(format!("{}:{line}: {}", path.display(), plain(error.message())))
        })?;
        // Relative paths are relative to the file, so that the server may start from anywhere.
        let base = path.parent().unwrap_or(Path::new("."));
        // By components, so that "." does not show in messages.
        config.data_dir = base.join(&config.data_dir).components().collect();
        config.profile = config.profile.map(|profile| profile.beside(base));
        for (_, file) in config.files_mut() {
            *file = base.join(&file).components().collect();
        }
        config.file = path.to_owned();
        let read = config.smart_hosts.iter_mut().try_for_each(SmartHost::read);
        read.map_err(|fault| config.fault("smart_host", &fault))?;
        config.check().map_err(|(key, fault)| config.fault(key, &fault))?;
        Ok(config)
    }

    /// The files that it names, but for the profile, and what they are called in a backup, where
    /// all lie beside it.
    pub fn files_mut(&mut self) -> Vec<(String, &mut PathBuf)> {
        let mut files = self.sieve.files_mut();
        files.extend(self.spam.rules.iter_mut().map(|path| ("spam-rules.toml".to_owned(), path)));
        for (list, paths) in
            [("allow", &mut self.policy.allow_files), ("deny", &mut self.policy.deny_files)]
        {
            let name = |number: u32| format!("policy-{list}-{number}.networks");
            files.extend((1..).zip(paths).map(|(number, path)| (name(number), path)));
        }
        let anchor = self.dns.trust_anchor.iter_mut();
        files.extend(anchor.map(|path| ("dns-trust-anchor.key".to_owned(), path)));
        let relay = self.relay.ca_file.iter_mut();
        files.extend(relay.map(|path| ("relay-ca.pem".to_owned(), path)));
        files.extend(self.acme.ca_file.iter_mut().map(|path| ("acme-ca.pem".to_owned(), path)));
        for (number, host) in (1..).zip(&mut self.smart_hosts) {
            let name = |what: &str| format!("smart-host-{number}{what}");
            files.extend(host.password_file.iter_mut().map(|path| (name(".password"), path)));
            files.extend(host.ca_file.iter_mut().map(|path| (name(".pem"), path)));
        }
        let collect = self.collect.ca_file.iter_mut();
        files.extend(collect.map(|path| ("collect-ca.pem".to_owned(), path)));
        files
    }

    /// As the server finds everything, named so that it is found from wherever one stands.
    pub fn with_absolute_paths(mut self) -> std::io::Result<Config> {
        self.data_dir = std::path::absolute(&self.data_dir)?;
        if let Some(ProfileName::File(file)) = &mut self.profile {
            *file = std::path::absolute(&*file)?;
        }
        for (_, file) in self.files_mut() {
            *file = std::path::absolute(&*file)?;
        }
        Ok(self)
    }

    /// The profile's knobs, but for those that the operator has set.
    pub fn derive_knobs(&self, profile: &Profile) -> Result<Knobs, ConfigError> {
        let mut knobs = hwprofiles::derive(profile);
        for (name, &value) in &self.knobs {
            let place = format!("the config file, knobs.{name}");
            knobs
                .set(name, value, &place)
                .map_err(|error| self.fault(&format!("knobs.{name}"), &error.to_string()))?;
        }
        crate::core::check_knobs(&knobs).map_err(|fault| {
            // Which one is at fault is the first word of what is said.
            let knob = fault.split([' ', ':']).next().unwrap_or_default();
            self.fault(&format!("knobs.{knob}"), &fault)
        })?;
        Ok(knobs)
    }

    /// What is wrong with `key`, such as `limits.recipients_max`, and where that stands.
    pub(crate) fn fault(&self, key: &str, what: &str) -> ConfigError {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let line = line_of_key(&text, key).map(|line| format!(":{line}")).unwrap_or_default();
        ConfigError(format!("{}{line}: {what}", self.file.display()))
    }

    /// What is wrong with a file that `key` names, if anything: with the place that names it.
    pub(crate) fn at<T>(&self, key: &str, read: Result<T, ConfigError>) -> Result<T, ConfigError> {
        read.map_err(|ConfigError(what)| match what.starts_with(key) {
            true => self.fault(key, &what),
            false => self.fault(key, &format!("{key}: {what}")),
        })
    }

    /// The key to which the spam filter's rules owe what is wrong with them.
    pub(crate) fn key_of_rules(&self) -> &'static str {
        if self.spam.rules.is_some() { "spam.rules" } else { "spam.scores" }
    }

    /// Whether any of it says that mail is to be kept back.
    pub fn keeps_mail_back(&self) -> bool {
        use crate::auth::settings::{DmarcMode, DmarcQuarantine};
        use crate::scan::settings::Action;
        let scan = &self.scan;
        let modes = self.auth.dmarc_overrides.values();
        let enforces =
            [self.auth.dmarc].iter().chain(modes).any(|mode| *mode == DmarcMode::Enforce);
        let mut actions = [scan.found, scan.when_down, scan.too_large, scan.outbreak.action]
            .into_iter()
            .chain(scan.attachments.actions.values().copied());
        self.spam.enabled && self.spam.quarantine_at > 0.0
            || enforces && self.auth.dmarc_quarantine == DmarcQuarantine::Quarantine
            || actions.any(|action| action == Action::Quarantine)
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
    fn what_is_said_of_verification_is_checked_with_its_line() {
        let head = "hostname = \"a.test\"\ndata_dir = \"d\"\n";
        let fine = format!(
            "{head}[auth]\ndmarc = \"enforce\"\ntrusted_networks = []\n[dns]\nservers = [\"127.0.0.1:5353\"]\n"
        );
        assert_eq!(load(&fine).unwrap().dns.servers[0].port(), 5353);
        for (more, words) in [
            ("[auth]\ndmarc = \"reject\"\n", ["kura.toml:4:", "enforce"]),
            ("[auth]\ntrusted_networks = [\"10/8\"]\n", ["kura.toml:4:", "192.0.2.0/24"]),
            ("[auth]\ndeadline_seconds = 0\n", ["kura.toml:4:", "1 to 120"]),
            ("[auth]\ntrusted_sealers = [\"Lists.test\"]\n", ["kura.toml:4:", "lower case"]),
            ("[auth]\ndmarc_overrides = { \"a b\" = \"mark\" }\n", ["kura.toml:4:", "lower case"]),
            ("[dns]\nservers = [\"127.0.0.1\"]\n", ["kura.toml:4:", "address with a port"]),
            ("[dns]\ntimeout_seconds = 60\n", ["kura.toml:4:", "1 to 30"]),
        ] {
            let said = load(&format!("{head}{more}")).unwrap_err().0;
            for word in words {
                assert!(said.contains(word), "{more}: {said}");
            }
        }
    }

    #[test]
    fn what_is_said_of_scanning_is_checked_with_its_line() {
        let head = "hostname = \"a.test\"\ndata_dir = \"d\"\n[scan]\n";
        let fine =
            format!("{head}clamd = [\"/run/clamd\", \"127.0.0.1:3310\"]\nfound = \"junk\"\n");
        assert_eq!(load(&fine).unwrap().scan.clamd.len(), 2);
        for (more, words) in [
            ("clamd = [\"localhost\"]\n", ["kura.toml:4:", "unix:/run"]),
            ("found = \"delete\"\n", ["kura.toml:4:", "`junk`"]),
            ("found = \"defer\"\n", ["kura.toml:4:", "reject"]),
            ("when_down = \"reject\"\n", ["kura.toml:4:", "lost"]),
            ("answer_seconds = 0\n", ["kura.toml:4:", "1 to 300"]),
            ("timeout = 3\n", ["kura.toml:4:", "answer_seconds"]),
        ] {
            let said = load(&format!("{head}{more}")).unwrap_err().0;
            for word in words {
                assert!(said.contains(word), "{more}: {said}");
            }
        }
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

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_in_plain_words() {
        let head = "hostname = \"a.test\"\ndata_dir = \"d\"\n";
        let fault = |more: &str| {
            let loaded = load(&format!("{head}{more}"));
            match loaded {
                Ok(config) => config.derive_knobs(&Profile::generic()).unwrap_err().0,
                Err(error) => error.0,
            }
        };
        let none = "[listen]\nsmtp = []\nsubmission = []\nsubmissions = []\nlmtp = []\nimap = []\n\
                    imaps = []\npop3 = []\npop3s = []\nmanagesieve = []\n";
        for (more, words) in [
            (none, ["kura.toml:3:", "no service listens"]),
            ("[listen]\nimap = [\"0.0.0.0:25\"]\n", ["kura.toml:3:", "listen.smtp already"]),
            ("[limits]\nrecipients_max = \"many\"\n", ["kura.toml:4:", "a whole number"]),
            ("[limits]\nrecipients_max = 5\n", ["kura.toml:4:", "100 to 100000"]),
            ("[listen]\nimap = \"0.0.0.0:25\"\n", ["kura.toml:4:", "a list, such as"]),
            ("[listen]\nimap = [\"25\"]\n", ["kura.toml:4:", "address with a port"]),
            ("limits = 5\n", ["kura.toml:3:", "[limits]"]),
            ("[log]\nlevel = \"loud\"\n", ["kura.toml:4:", "notice"]),
        ] {
            let said = fault(more);
            for word in words {
                assert!(said.contains(word), "{more}: {said}");
            }
        }
        // A file that is gone by the time has no lines.
        for (knob, word) in [
            ("chains_in_flight = 99", "from 1 to 16"),
            ("segment_bytes = 5", "64 KiB"),
            ("shards = 0", "shards"),
            ("session_buffer_bytes = 1", "session_buffer_bytes"),
            ("backup_share_percent = 0", "use 1 to 100"),
            ("scrub_share_percent = 1000", "use 1 to 100"),
            ("admitted_messages_per_second = 0", "use 1 to"),
            ("commit_window_us = 99999999", "use 0 to 1000000"),
            ("spare_segments = 0", "spare_segments = 0 is out of range; use 1 to 1024"),
            ("checkpoint_bytes = 1", "checkpoint_bytes"),
        ] {
            let said = fault(&format!("[knobs]\n{knob}\n"));
            assert!(said.contains(word), "{knob}: {said}");
        }
        let text = "a = 1\n[knobs]\nb = 2\n[limits]\nb = 3\n";
        assert_eq!(line_of_key(text, "limits.b"), Some(5));
        assert_eq!(line_of_key(text, "knobs.b"), Some(3));
        assert_eq!(line_of_key(text, "a"), Some(1));
        assert_eq!(line_of_key(text, "knobs.c"), Some(2));
    }
}
