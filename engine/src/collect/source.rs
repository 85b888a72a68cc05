//! One outside mailbox of an account: what `kura collect add` was told, as it is kept.
//!
//! The password is kept as it was given, since it has to be shown to the other server: in the log
//! of the account's home shard, whose files nobody but the server's user can read, and in backups.
//! A token is not kept, but the file that it is read from at each visit.

use super::ledger::{Leave, Policy};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Unique within the account.
    pub name: String,
    /// The account's address.
    pub account: String,
    pub protocol: Protocol,
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    pub user: String,
    pub secret: Secret,
    /// Seconds between visits; `None`: at a wish only.
    pub every: Option<u64>,
    pub leave: Left,
    pub octets_max: u64,
    /// Where mail goes that no script says anything about; `None`: INBOX.
    #[serde(default)]
    pub mailbox: Option<String>,
    /// IMAP: folders that are collected; without any, INBOX.
    #[serde(default)]
    pub folders: Vec<Mapping>,
    /// IMAP: all folders, under their own names.
    #[serde(default)]
    pub all_folders: bool,
    /// Fields by which a message goes to other accounts than the one that the mailbox belongs to;
    /// empty: it does not.
    #[serde(default)]
    pub split: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Pop3,
    Imap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// From the first octet, with a valid certificate.
    Implicit,
    /// STARTTLS or STLS, with a valid certificate, or nothing is said.
    Starttls,
    /// Password and mail go in the clear: the operator's explicit choice.
    Off,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Secret {
    Password(String),
    /// An OAuth 2.0 access token stands in this file, and is read at each visit, since tokens
    /// last for an hour.
    TokenFile(PathBuf),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Left {
    Forever,
    Not,
    Days(u16),
}

impl Left {
    pub fn text(self) -> String {
        match self {
            Left::Forever => "stay".to_owned(),
            Left::Not => "deleted at once".to_owned(),
            Left::Days(days) => format!("deleted after {days} d"),
        }
    }
}

/// What is to be different; `None`: as it was.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    pub host: Option<String>,
    pub port: Option<u16>,
    pub tls: Option<Tls>,
    pub user: Option<String>,
    pub secret: Option<Secret>,
    /// Seconds; 0: at a wish only.
    pub every: Option<u64>,
    pub leave: Option<Left>,
    pub octets_max: Option<u64>,
}

impl Change {
    pub fn apply(self, source: Source) -> Source {
        let tls = self.tls.unwrap_or(source.tls);
        // The usual port goes with the encryption, another one is kept.
        let is_usual = source.port == source.protocol.port(source.tls);
        let port = if is_usual { source.protocol.port(tls) } else { source.port };
        Source {
            host: self.host.unwrap_or(source.host),
            port: self.port.unwrap_or(port),
            tls,
            user: self.user.unwrap_or(source.user),
            secret: self.secret.unwrap_or(source.secret),
            every: self.every.map_or(source.every, |every| Some(every).filter(|every| *every > 0)),
            leave: self.leave.unwrap_or(source.leave),
            octets_max: self.octets_max.unwrap_or(source.octets_max),
            ..source
        }
    }
}

/// A folder there, and the mailbox here; `None`: the one of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    pub remote: String,
    pub local: Option<String>,
}

impl Mapping {
    /// `Sent Items=Sent`, `Work`.
    pub fn parse(text: &str) -> Result<Mapping, String> {
        let (remote, local) = match text.split_once('=') {
            Some((remote, local)) => (remote, Some(local)),
            None => (text, None),
        };
        if remote.is_empty() || local.is_some_and(str::is_empty) {
            return Err(format!("{text:?} names no folder; write \"Work\" or \"Sent Items=Sent\""));
        }
        Ok(Mapping { remote: remote.to_owned(), local: local.map(str::to_owned) })
    }
}

impl Protocol {
    pub fn port(self, tls: Tls) -> u16 {
        match (self, tls) {
            (Protocol::Pop3, Tls::Implicit) => 995,
            (Protocol::Pop3, Tls::Starttls | Tls::Off) => 110,
            (Protocol::Imap, Tls::Implicit) => 993,
            (Protocol::Imap, Tls::Starttls | Tls::Off) => 143,
        }
    }

    /// As in `Received`.
    pub fn name(self, is_tls: bool) -> &'static str {
        match (self, is_tls) {
            (Protocol::Pop3, false) => "POP3",
            (Protocol::Pop3, true) => "POP3S",
            (Protocol::Imap, false) => "IMAP",
            (Protocol::Imap, true) => "IMAPS",
        }
    }
}

impl Source {
    pub fn policy(&self) -> Policy {
        let leave = match self.leave {
            Left::Forever => Leave::Forever,
            Left::Not => Leave::Not,
            Left::Days(days) => Leave::For(u32::from(days) * 86_400),
        };
        Policy { leave, octets_max: self.octets_max }
    }

    /// What is wrong with it, and how to mend it.
    pub fn check(&self) -> Result<(), String> {
        let is_named = |text: &str, most: usize| {
            !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control)
        };
        if !is_named(&self.name, 100) {
            return Err(
                "a name has 1 to 100 bytes and no control characters; choose another --name".into(),
            );
        }
        if !is_named(&self.host, 253) || self.host.contains([' ', '/', '@']) {
            return Err(format!(
                "{:?} is no host; write a name such as pop.example.com, with :port if need be",
                self.host
            ));
        }
        if !is_named(&self.user, 1000) {
            return Err("the user on the other server is missing; give it with --user".into());
        }
        if let Secret::Password(password) = &self.secret
            && !is_named(password, 1000)
        {
            return Err("a password has 1 to 1000 bytes on one line".into());
        }
        if let Secret::TokenFile(file) = &self.secret
            && !file.is_absolute()
        {
            return Err("--token-file wants an absolute path".into());
        }
        if self.every.is_some_and(|seconds| !(60..=30 * 86_400).contains(&seconds)) {
            return Err("--every is out of range; use 1m to 30d".into());
        }
        if self.protocol == Protocol::Pop3 && (self.all_folders || !self.folders.is_empty()) {
            return Err("POP3 has no folders; use --protocol imap, or leave --folder out".into());
        }
        if !self.split.is_empty()
            && (self.all_folders || !self.folders.is_empty() || self.mailbox.is_some())
        {
            return Err(
                "--split is for INBOX; leave --mailbox, --folder and --all-folders out".into()
            );
        }
        let is_field = |name: &String| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
        };
        if !self.split.iter().all(is_field) || self.split.len() > 20 {
            return Err(
                "--split-by names a header field, such as X-Original-To; up to 20 of them".into()
            );
        }
        if self.octets_max < 1024 {
            return Err("--size-max is out of range; use 1K and more".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source {
            name: "n".into(),
            account: "a@b.test".into(),
            protocol: Protocol::Pop3,
            host: "pop.test".into(),
            port: 995,
            tls: Tls::Implicit,
            user: "u".into(),
            secret: Secret::Password("secret".into()),
            every: Some(900),
            leave: Left::Days(30),
            octets_max: 1 << 20,
            mailbox: None,
            folders: Vec::new(),
            all_folders: false,
            split: Vec::new(),
        }
    }

    #[test]
    fn a_source_is_kept_as_it_was_told_and_its_password_is_not_shown() {
        let text = serde_json::to_vec(&source()).unwrap();
        assert_eq!(serde_json::from_slice::<Source>(&text).unwrap(), source());
        assert!(!format!("{:?}", source()).contains("secret\""));
        assert_eq!(source().policy().leave, Leave::For(30 * 86_400));
    }

    #[test]
    fn what_is_changed_is_changed_and_nothing_else() {
        assert_eq!(Change::default().apply(source()), source());
        let change = Change { tls: Some(Tls::Starttls), every: Some(0), ..Change::default() };
        let changed = change.apply(source());
        assert_eq!((changed.port, changed.every, changed.secret), (110, None, source().secret));
        let other = Source { port: 1995, ..source() };
        let change = Change { tls: Some(Tls::Starttls), ..Change::default() };
        assert_eq!(change.apply(other).port, 1995);
    }

    #[test]
    fn faulty_sources_are_refused() {
        assert_eq!(source().check(), Ok(()));
        for faulty in [
            Source { host: String::new(), ..source() },
            Source { host: "a b".into(), ..source() },
            Source { user: "a\nb".into(), ..source() },
            Source { every: Some(5), ..source() },
            Source { all_folders: true, ..source() },
            Source { octets_max: 1, ..source() },
            Source { split: vec!["To:".into()], ..source() },
            Source { split: vec!["To".into()], mailbox: Some("x".into()), ..source() },
            Source { secret: Secret::Password(String::new()), ..source() },
            Source { secret: Secret::TokenFile("token".into()), ..source() },
        ] {
            assert!(faulty.check().is_err(), "{faulty:?}");
        }
    }

    #[test]
    fn folders_are_mapped() {
        let mapping = |remote: &str, local: Option<&str>| {
            Ok(Mapping { remote: remote.into(), local: local.map(str::to_owned) })
        };
        assert_eq!(Mapping::parse("Work"), mapping("Work", None));
        assert_eq!(Mapping::parse("Sent Items=Sent"), mapping("Sent Items", Some("Sent")));
        assert!(Mapping::parse("=x").is_err() && Mapping::parse("x=").is_err());
    }
}
