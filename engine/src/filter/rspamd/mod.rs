//! A second opinion: what rspamd says of a message, over its HTTP protocol (`POST /checkv2`).
//!
//! | where | what |
//! |---|---|
//! | [`answer`] | its answer, read strictly, and the rules of our verdict that it becomes |
//! | [`servers`] | asking, one server after another; on the control plane |
//! | [`desk`] | how a core asks, and waits no longer than it may |
//! | [`metrics`] | what came of it |
//!
//! Only what strangers bring is asked about, while its sender is looked up and clamd works, and
//! only a message that fits the session's buffer: a cut one would be judged for being cut. The
//! operator's thresholds decide, by the sum of both.

pub mod answer;
pub mod desk;
pub mod metrics;
pub mod servers;

use super::settings::{Spam, WhenDown};
use super::verdict::{Action, Verdict};
use answer::Opinion;
use bytes::Bytes;
use std::net::IpAddr;
use std::time::Instant;

/// One message, and how it has come.
#[derive(Debug)]
pub struct Question {
    /// Without our own trace fields.
    pub message: Bytes,
    pub peer: IpAddr,
    pub helo: String,
    pub mail_from: String,
    pub recipients: Vec<String>,
    /// The transaction, for its log.
    pub id: String,
    pub until: Instant,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Answered(Opinion),
    /// Not asked: it is larger than is asked about.
    TooLarge,
    /// No server has given an answer that can be used, in time; why.
    Unknown(String),
}

impl Outcome {
    pub const NAMES: [&'static str; 3] = ["answered", "too_large", "unknown"];

    pub fn index(&self) -> usize {
        match self {
            Outcome::Answered(_) => 0,
            Outcome::TooLarge => 1,
            Outcome::Unknown(_) => 2,
        }
    }

    /// Whether the sender is to keep the message for now.
    pub fn defers(&self, spam: &Spam) -> bool {
        matches!(self, Outcome::Unknown(_)) && spam.rspamd_when_down == WhenDown::Defer
    }

    /// Beyond the rules: its word alone refuses a message, where the operator has said so.
    pub fn insist(&self, spam: &Spam, verdict: &mut Verdict) {
        if let Outcome::Answered(opinion) = self
            && spam.rspamd_reject
            && opinion.action == answer::Action::Reject
        {
            verdict.action = Action::Reject;
        }
    }
}
