//! `[collect]`: how much is collected at once, and whom we believe.

use crate::when::Span;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Collect {
    /// Outside mailboxes are visited.
    pub enabled: bool,
    /// Visits at once in all, and to one host.
    pub sessions_max: usize,
    pub sessions_per_host_max: usize,
    /// A visit ends after so long; what is left comes with the next one.
    pub session_longest: Span,
    /// The first wait after a failure; each is twice the one before, up to `retry_most`.
    pub retry_first: Span,
    pub retry_most: Span,
    /// Certificates to believe in, PEM; without it those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl Default for Collect {
    fn default() -> Self {
        let minutes = |count: u64| Span(Duration::from_secs(60 * count));
        Collect {
            enabled: true,
            sessions_max: 20,
            sessions_per_host_max: 4,
            session_longest: minutes(30),
            retry_first: minutes(5),
            retry_most: minutes(4 * 60),
            ca_file: None,
        }
    }
}

impl Collect {
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, value, most) in [
            ("collect.sessions_max", self.sessions_max, 1000),
            ("collect.sessions_per_host_max", self.sessions_per_host_max, 1000),
        ] {
            if !(1..=most).contains(&value) {
                return Err((key, format!("{key} = {value} is out of range; use 1 to {most}")));
            }
        }
        for (key, span) in [
            ("collect.session_longest", self.session_longest),
            ("collect.retry_first", self.retry_first),
            ("collect.retry_most", self.retry_most),
        ] {
            if span.0.is_zero() {
                return Err((key, format!("{key} = 0 leaves no time; write a span such as 5m")));
            }
        }
        Ok(())
    }
}
