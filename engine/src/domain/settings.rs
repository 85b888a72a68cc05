//! `[web]`: what is served over HTTPS about mail.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Web {
    /// HTTPS: policies for other servers, settings for mail programs. None by default: port 443
    /// may be another's.
    pub listen: Vec<SocketAddr>,
    /// HTTP: nothing but the answers that ACME's HTTP-01 asks for.
    pub http: Vec<SocketAddr>,
    pub mta_sts: PolicyMode,
}

/// RFC 8461 section 3.2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// Others report what would fail, and deliver all the same.
    #[default]
    Testing,
    /// Others deliver only with a certificate that is valid for our host name.
    Enforce,
    /// A policy is taken back.
    None,
}

impl PolicyMode {
    pub fn name(self) -> &'static str {
        match self {
            PolicyMode::Testing => "testing",
            PolicyMode::Enforce => "enforce",
            PolicyMode::None => "none",
        }
    }
}
