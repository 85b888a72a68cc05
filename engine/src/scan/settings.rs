//! `[scan]` of the config file.

use super::again::settings::Again;
use super::attachments::Attachments;
use super::outbreak::Outbreak;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scan {
    /// Where clamd listens: `unix:/run/clamav/clamd.ctl` or `127.0.0.1:3310`. Several take turns,
    /// and stand in for one another. None: no message is scanned.
    pub clamd: Vec<Socket>,
    /// What follows when a virus is found.
    pub found: Action,
    /// What follows when no scanner has answered in time: `mark` lets mail through, `junk` puts it
    /// aside, `defer` (451) lets the sender keep it.
    pub when_down: Action,
    /// What follows for a message that is larger than `stream_bytes_max`, or than clamd takes.
    pub too_large: Action,
    /// No more of a message is sent to clamd. Not more than its `StreamMaxLength`.
    pub stream_bytes_max: u64,
    /// How long a server may take to accept a connection, in seconds.
    pub connect_seconds: u64,
    /// How long all servers together may take for a message, from its last octet on, in seconds.
    pub answer_seconds: u64,
    /// Messages scanned at once. As many again may be on their way to clamd while
    /// they still arrive.
    pub connections_max: u64,
    /// Verdicts kept, so that the same content is scanned once; none without a signature version.
    pub cache_entries: u64,
    /// For so long, in seconds, and not beyond a change of the signature version.
    pub cache_seconds: u64,
    /// Whether what clients put into mailboxes (IMAP's APPEND) is looked at, too.
    pub append: bool,
    pub again: Again,
    pub attachments: Attachments,
    pub outbreak: Outbreak,
}

impl Default for Scan {
    fn default() -> Self {
        Scan {
            clamd: Vec::new(),
            found: Action::Reject,
            // Mail comes again; what a virus has done stays.
            when_down: Action::Defer,
            too_large: Action::Mark,
            // Debian's clamd takes 25 MiB.
            stream_bytes_max: 25 << 20,
            connect_seconds: 2,
            answer_seconds: 60,
            connections_max: 10,
            cache_entries: 100_000,
            cache_seconds: 600,
            append: true,
            again: Again::default(),
            attachments: Attachments::default(),
            outbreak: Outbreak::default(),
        }
    }
}

/// What is done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Delivered as if nothing were wrong, with what was found written on top.
    Mark,
    /// Delivered into the mailbox for junk, so marked.
    Junk,
    /// Kept back from its recipient (`[quarantine]`), so marked. Where it is to leave this host it
    /// is refused: for now if only a scanner is missing, else for good.
    Quarantine,
    /// 451: the sender tries again.
    Defer,
    /// 550.
    Reject,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::Mark => "mark",
            Action::Junk => "junk",
            Action::Quarantine => "quarantine",
            Action::Defer => "defer",
            Action::Reject => "reject",
        }
    }

    /// What mail meets while no scanner answers, where this is `when_down`.
    pub fn meanwhile(self) -> &'static str {
        match self {
            Action::Mark => "mail is let through unscanned, so marked (scan.when_down = \"mark\")",
            Action::Junk => {
                "mail is put into the mailbox for junk unscanned (scan.when_down = \"junk\")"
            }
            Action::Quarantine => "mail is kept in quarantine (scan.when_down = \"quarantine\")",
            Action::Defer => "mail is put off with 451 (scan.when_down = \"defer\")",
            // No config file may say so.
            Action::Reject => "mail is refused (scan.when_down = \"reject\")",
        }
    }
}

impl Scan {
    /// What the types can't say: the key that is at fault, and words for the operator.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        use Action::{Defer, Junk, Mark, Quarantine, Reject};
        let endless = "the sender would try again for days, with the same end";
        let harsh = "mail would be lost because a scanner is down";
        for (key, action, allowed, why) in [
            ("scan.found", self.found, [Mark, Junk, Quarantine, Reject], endless),
            ("scan.too_large", self.too_large, [Mark, Junk, Quarantine, Reject], endless),
            ("scan.when_down", self.when_down, [Mark, Junk, Quarantine, Defer], harsh),
        ] {
            if !allowed.contains(&action) {
                let names = allowed.map(Action::name).join(", ");
                let name = action.name();
                return Err((key, format!("{key} = {name:?}: {why}; use one of {names}")));
            }
        }
        for (key, value, least, most) in [
            ("scan.stream_bytes_max", self.stream_bytes_max, 1 << 16, 1 << 31),
            ("scan.connect_seconds", self.connect_seconds, 1, 60),
            ("scan.answer_seconds", self.answer_seconds, 1, 300),
            ("scan.connections_max", self.connections_max, 1, 1000),
            ("scan.cache_entries", self.cache_entries, 0, 10_000_000),
            ("scan.cache_seconds", self.cache_seconds, 0, 86_400),
        ] {
            if !(least..=most).contains(&value) {
                let what = format!("{key} = {value} is out of range; use {least} to {most}");
                return Err((key, what));
            }
        }
        self.again.check()?;
        self.attachments.check()?;
        self.outbreak.check()
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Socket {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl TryFrom<String> for Socket {
    type Error = String;

    fn try_from(text: String) -> Result<Socket, String> {
        let path = text.strip_prefix("unix:").unwrap_or(&text);
        if path.starts_with('/') {
            return Ok(Socket::Unix(PathBuf::from(path)));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Socket::Tcp(address)),
            Ok(_) | Err(_) => Err(format!(
                "{text:?} is no socket; write \"unix:/run/clamav/clamd.ctl\" or \"127.0.0.1:3310\""
            )),
        }
    }
}

impl From<Socket> for String {
    fn from(socket: Socket) -> String {
        socket.to_string()
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Socket::Unix(path) => write!(f, "unix:{}", path.display()),
            Socket::Tcp(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_paths_or_addresses_with_a_port() {
        for (text, shown) in [
            ("unix:/run/clamav/clamd.ctl", "unix:/run/clamav/clamd.ctl"),
            ("/run/clamd", "unix:/run/clamd"),
            ("127.0.0.1:3310", "127.0.0.1:3310"),
            ("[::1]:3310", "[::1]:3310"),
        ] {
            assert_eq!(Socket::try_from(text.to_owned()).unwrap().to_string(), shown);
        }
        for wrong in ["", "unix:", "unix:clamd", "127.0.0.1", "127.0.0.1:0", "localhost:3310"] {
            assert!(Socket::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_action_that_would_lose_mail_or_never_end_is_refused() {
        assert_eq!(Scan::default().check(), Ok(()));
        let key = |scan: Scan| scan.check().map_err(|(key, _)| key);
        let found = Scan { found: Action::Defer, ..Scan::default() };
        assert_eq!(key(found), Err("scan.found"));
        let too_large = Scan { too_large: Action::Defer, ..Scan::default() };
        assert_eq!(key(too_large), Err("scan.too_large"));
        let when_down = Scan { when_down: Action::Reject, ..Scan::default() };
        assert_eq!(key(when_down), Err("scan.when_down"));
    }
}
