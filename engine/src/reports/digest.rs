//! What is kept of a report that somebody has sent: sums, and what has failed.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Of one report; the rest is counted together.
pub const SOURCES_MAX: usize = 200;
pub const FAILURES_MAX: usize = 50;
/// Octets of a text of somebody else's.
pub const TEXT_BYTES_MAX: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// About whom it is.
    pub domain: String,
    /// Who reports, as they call themselves.
    pub organization: String,
    pub id: String,
    /// Unix seconds.
    pub begin: u64,
    pub end: u64,
    #[serde(flatten)]
    pub about: About,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum About {
    Dmarc(Dmarc),
    Tls(Tls),
}

/// Messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dmarc {
    pub passed: u64,
    pub failed: u64,
    /// Those that failed, most messages first.
    pub sources: Vec<Source>,
    /// Messages of further ones.
    pub more: u64,
}

/// Messages that passed neither by SPF nor by DKIM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub address: IpAddr,
    /// The domain in From.
    pub from: String,
    pub messages: u64,
    pub disposition: String,
    /// Other domains for which SPF or DKIM did pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_for: Vec<String>,
}

/// TLS sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Such as `sts`.
    pub policy: String,
    pub passed: u64,
    pub failed: u64,
    pub failures: Vec<Failure>,
    pub more: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// RFC 8460 section 4.3.
    pub what: String,
    /// Of our mail exchangers.
    pub host: String,
    pub sessions: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
}

impl Digest {
    /// The day that most of it is about, counted from 1970.
    pub fn day(&self) -> u32 {
        let middle = self.begin + self.end.saturating_sub(self.begin) / 2;
        u32::try_from(middle / 86_400).unwrap_or(u32::MAX)
    }
}

/// One line of somebody else's text, of a bounded length.
pub fn line(text: &str) -> String {
    let mut out = String::new();
    for letter in text.trim().chars() {
        if out.len() + letter.len_utf8() > TEXT_BYTES_MAX {
            break;
        }
        out.push(if letter.is_control() { ' ' } else { letter });
    }
    out
}
