//! The options of `kura bench smtp`, and what they may be.

use super::Error;

/// Send mail to a server as fast as asked, and measure every reply
///
/// Works with any SMTP or LMTP server. TLS certificates are not checked: this is for measuring.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Example:\n  kura bench smtp --target 127.0.0.1:2525 --to alice@example.test \
    --sessions 16 --messages 10000 --bytes 4096 --json"
)]
pub struct Options {
    /// Server to send to
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2525")]
    pub target: String,
    /// Recipients; messages go to them in turn
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', required = true)]
    pub to: Vec<String>,
    /// Sender; empty for the null sender `<>`
    #[arg(long, value_name = "ADDRESS", default_value = "bench@example.net")]
    pub from: String,
    /// Recipients of each message
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub recipients: usize,
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub sessions: usize,
    /// Messages in all, counting failed attempts
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub messages: u64,
    /// Reconnect after so many messages [default: never]
    #[arg(long, value_name = "N")]
    pub messages_per_session: Option<u64>,
    /// Size of each message, headers included
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub bytes: usize,
    /// TLS: not at all, after STARTTLS, or from the first byte
    #[arg(long, value_enum, default_value_t = Tls::None)]
    pub tls: Tls,
    /// Send MAIL, RCPT and DATA in one packet (RFC 2920)
    #[arg(long)]
    pub pipelining: bool,
    /// Speak LMTP (RFC 2033): LHLO, and a reply for each recipient
    #[arg(long)]
    pub lmtp: bool,
    /// Log in with AUTH PLAIN (submission)
    #[arg(long, value_name = "USER:PASSWORD")]
    pub auth: Option<String>,
    /// Open loop: so many messages are due each second, and latency counts from then
    #[arg(long, value_name = "MSG_PER_S")]
    pub open_rate: Option<f64>,
    /// Threads of this program
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Stop after so many seconds, whatever is left
    #[arg(long, value_name = "S", default_value_t = 600.0)]
    pub seconds: f64,
    /// A reply that takes longer is an error
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    pub timeout: f64,
    /// Seed of the message text
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Write the Message-ID of each acknowledged message to a file
    #[arg(long, value_name = "FILE")]
    pub log: Option<String>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    None,
    Starttls,
    Implicit,
}

impl Tls {
    pub(super) fn name(self) -> &'static str {
        match self {
            Tls::None => "none",
            Tls::Starttls => "starttls",
            Tls::Implicit => "implicit",
        }
    }
}

/// Limits of this program, not of any server: they keep a typing error from hurting the host.
const SESSIONS_MAX: usize = 20_000;
const BYTES_MAX: usize = 256 << 20;

impl Options {
    /// The name that certificates would carry; only sent as SNI, never checked.
    pub(super) fn host(&self) -> &str {
        let host = self.target.rsplit_once(':').map_or(self.target.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse =
            |option, problem: &str| Err(Error::Option { option, problem: problem.to_owned() });
        if self.sessions == 0 || self.sessions > SESSIONS_MAX {
            return refuse("sessions", "must be between 1 and 20000");
        }
        if self.threads == 0 || self.threads > 256 {
            return refuse("threads", "must be between 1 and 256");
        }
        if self.recipients == 0 || self.recipients > 1000 {
            return refuse("recipients", "must be between 1 and 1000");
        }
        if self.messages_per_session == Some(0) {
            return refuse("messages-per-session", "must be at least 1");
        }
        if self.bytes > BYTES_MAX {
            return refuse("bytes", "must be at most 268435456");
        }
        let positive = |value: f64| value.is_finite() && value > 0.0 && value < 1e9;
        if self.open_rate.is_some_and(|rate| !positive(rate)) {
            return refuse("open-rate", "must be a positive number of messages per second");
        }
        if !positive(self.seconds) || !positive(self.timeout) {
            return refuse("seconds", "and --timeout must be positive");
        }
        if self.auth.as_deref().is_some_and(|auth| !auth.contains(':')) {
            return refuse("auth", "must be USER:PASSWORD");
        }
        let clean = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'>');
        if self.to.iter().any(|to| to.is_empty() || !clean(to)) || !clean(&self.from) {
            return refuse("to", "and --from must be addresses without blanks or brackets");
        }
        Ok(())
    }
}
