//! What the types of the config file can't say, and how what is wrong with it is told.

use super::Config;
use std::time::Duration;

/// What is longer was meant to be a hold.
const RETENTION_MAX: Duration = Duration::from_secs(3650 * 86_400);

impl Config {
    fn check_listeners(&self) -> Result<(), (&'static str, String)> {
        let addresses = crate::listener::addresses(self);
        if addresses.is_empty() {
            let what = "no service listens anywhere; give at least one an address, such as smtp = [\"0.0.0.0:25\"]";
            return Err(("listen", what.to_owned()));
        }
        let known = |name: &str| crate::metrics::Service::ALL.iter().any(|one| one.name() == name);
        if let Some(name) = self.listen.proxy_protocol_from.keys().find(|name| !known(name)) {
            let what = format!(
                "listen.proxy_protocol_from: {name:?} is no service; write {{ smtp = [\"192.0.2.1\"] }}"
            );
            return Err(("listen.proxy_protocol_from", what));
        }
        for (index, (service, address)) in addresses.iter().enumerate() {
            let earlier = addresses[..index].iter().find(|(_, other)| other == address);
            let taken_by = match earlier {
                Some((other, _)) => format!("listen.{}", other.name()),
                None if self.metrics.listen == Some(*address) => "metrics.listen".to_owned(),
                None => continue,
            };
            let key = service.name();
            return Err((
                "listen",
                format!(
                    "listen.{key}: {address} is in {taken_by} already; give one of them another port"
                ),
            ));
        }
        Ok(())
    }

    /// What the types can't say.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let named = !self.hostname.is_empty()
            && self.hostname.len() <= 253
            && self.hostname.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if !named {
            return Err((
                "hostname",
                format!(
                    "hostname {:?} is no domain name; write the host's full name, such as \"mail.example.org\"",
                    self.hostname
                ),
            ));
        }
        if let Some(address) = self.metrics.listen
            && !address.ip().is_loopback()
        {
            return Err((
                "metrics.listen",
                format!(
                    "metrics.listen {address} is not a loopback address; use 127.0.0.1 and let a proxy publish it"
                ),
            ));
        }
        if self.store.retention.0 > RETENTION_MAX {
            return Err((
                "store.retention",
                format!(
                    "store.retention = {:?} is out of range; use 0 to 3650d, or put accounts on hold \
                     (`kura account hold add`)",
                    self.store.retention.text()
                ),
            ));
        }
        self.auth.check()?;
        self.dns.check()?;
        self.policy.check()?;
        self.spam.check()?;
        if self.policy.greylist.enabled && !self.spam.enabled {
            let what = "policy.greylist asks who has a spam score; set spam.enabled = true";
            return Err(("policy.greylist.enabled", what.to_owned()));
        }
        let asks_filter =
            self.policy.honeypot_action != crate::policy::settings::HoneypotAction::Refuse;
        if asks_filter && !self.policy.honeypots.is_empty() && !self.spam.enabled {
            let what = "policy.honeypot_action leaves it to the spam filter; set spam.enabled = true, or use \"refuse\"";
            return Err(("policy.honeypot_action", what.to_owned()));
        }
        self.sieve.check()?;
        self.scan.check()?;
        self.quarantine.check()?;
        self.submission.check()?;
        self.relay.check()?;
        self.acme.check(!self.web.http.is_empty(), !self.web.listen.is_empty())?;
        self.collect.check()?;
        self.reports.check(self.relay.enabled)?;
        let limits = &self.limits;
        for (key, value, least, most) in [
            ("limits.message_bytes_max", limits.message_bytes_max, 65_536, 1 << 31),
            ("limits.recipients_max", limits.recipients_max as u64, 100, 100_000),
            ("limits.connections_max", limits.connections_max as u64, 16, 1_000_000),
            (
                "limits.connections_per_address_max",
                limits.connections_per_address_max as u64,
                1,
                1_000_000,
            ),
            ("limits.received_headers_max", limits.received_headers_max as u64, 5, 1000),
            ("limits.shutdown_grace_seconds", limits.shutdown_grace_seconds, 0, 600),
            ("limits.imap_idle_seconds", limits.imap_idle_seconds, 1800, 86_400),
            ("auth.deadline_seconds", self.auth.deadline_seconds, 1, 120),
            ("dns.timeout_seconds", self.dns.timeout_seconds, 1, 30),
            ("dns.cache_entries", self.dns.cache_entries, 16, 10_000_000),
        ] {
            if !(least..=most).contains(&value) {
                return Err((
                    key,
                    format!("{key} = {value} is out of range; use {least} to {most}"),
                ));
            }
        }
        const LEVELS: [&str; 6] = ["error", "warn", "notice", "info", "debug", "trace"];
        if !LEVELS.contains(&self.log.level.as_str()) {
            return Err((
                "log.level",
                format!("log.level {:?} is unknown; use one of {LEVELS:?}", self.log.level),
            ));
        }
        if let Some(server) = self.dns.servers.iter().find(|server| server.port() == 0) {
            let what =
                format!("dns.servers: {server} has no port; write it as \"{}:53\"", server.ip());
            return Err(("dns.servers", what));
        }
        self.check_listeners()
    }
}

/// The operator's words for what the parser says in a programmer's.
pub(super) fn plain(message: &str) -> String {
    let mut text = message.replace('\n', " ");
    for (theirs, ours) in [
        ("expected usize", "expected a whole number, 0 or more"),
        ("expected u64", "expected a whole number, 0 or more"),
        ("expected u32", "expected a whole number, 0 or more"),
        ("expected u16", "expected a whole number, 0 or more"),
        ("expected a sequence", "expected a list, such as [\"127.0.0.1:25\"]"),
        ("expected a boolean", "expected true or false"),
        ("expected path string", "expected a path in quotes"),
        ("expected socket address", "expected an address with a port, such as \"127.0.0.1:25\""),
        (
            "invalid socket address syntax",
            "that is no address with a port, such as \"127.0.0.1:25\"",
        ),
    ] {
        text = text.replace(theirs, ours);
    }
    match text.find("expected struct ") {
        Some(at) => text[..at].to_owned() + "expected a section of its own, such as [limits]",
        None => text,
    }
}

/// The line that sets `key`, such as `limits.recipients_max`; or where its section begins.
pub(super) fn line_of_key(text: &str, key: &str) -> Option<usize> {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut current = String::new();
    let mut found = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            current = header.trim().to_owned();
            if current == section || current == key {
                found = found.or(Some(index + 1));
            }
        } else if current == section
            && line.split('=').next().is_some_and(|left| left.trim() == name)
        {
            return Some(index + 1);
        }
    }
    found
}
