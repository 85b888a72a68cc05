//! What a run found: one tally for each worker, merged, and the report made from it.

use super::Options;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt;
use std::time::{Duration, Instant};

/// Texts of errors that are kept; all are counted.
const SAMPLES_MAX: usize = 5;

/// Longer than any `--timeout` that makes sense; what is longer still counts as this.
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("1 < max, and three digits do")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// One worker's counts.
#[derive(Debug)]
pub(super) struct Tally {
    reply: Histogram<u64>,
    transaction: Histogram<u64>,
    /// Open loop: how late transactions started, for want of a free session or of
    /// this program's CPU.
    lag: Histogram<u64>,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) connections: u64,
    pub(super) errors: u64,
    samples: Vec<String>,
    pub(super) acknowledged: Vec<u64>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Tally {
    pub(super) fn new() -> Tally {
        Tally {
            reply: histogram(),
            transaction: histogram(),
            lag: histogram(),
            messages: 0,
            bytes: 0,
            connections: 0,
            errors: 0,
            samples: Vec::new(),
            acknowledged: Vec::new(),
            first: None,
            last: None,
        }
    }

    pub(super) fn started(&mut self, now: Instant, due: Option<Instant>) {
        self.first.get_or_insert(now);
        if let Some(due) = due {
            self.lag.saturating_record(micros(now.saturating_duration_since(due)));
        }
    }

    /// One message acknowledged. `late` is how long it started after it was due.
    pub(super) fn acknowledged(
        &mut self,
        now: Instant,
        late: Duration,
        transaction: Duration,
        reply: Duration,
        bytes: usize,
    ) {
        self.last = Some(now);
        self.messages += 1;
        self.bytes += bytes as u64;
        self.transaction.saturating_record(micros(transaction + late).max(1));
        self.reply.saturating_record(micros(reply + late).max(1));
    }

    pub(super) fn error(&mut self, text: impl Into<String>) {
        self.errors += 1;
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(text.into());
        }
    }

    pub(super) fn merge(&mut self, other: Tally) {
        let same = "both have the same bounds";
        self.reply.add(&other.reply).expect(same);
        self.transaction.add(&other.transaction).expect(same);
        self.lag.add(&other.lag).expect(same);
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.connections += other.connections;
        self.errors += other.errors;
        self.samples.extend(other.samples);
        self.samples.truncate(SAMPLES_MAX);
        self.acknowledged.extend(other.acknowledged);
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.into_iter().chain(other.last).max();
    }
}

/// The result of a run. `p50_us` and the like: from the end of the message to its `250`;
/// `transaction_*`: from MAIL to the same. In an open loop both count from when it was due.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub mode: &'static str,
    /// Open loop: messages due per second.
    pub open_rate: Option<f64>,
    pub target: String,
    pub protocol: &'static str,
    pub tls: &'static str,
    pub pipelining: bool,
    pub sessions: usize,
    pub bytes: usize,
    pub recipients: usize,
    pub seed: u64,
    /// Message-IDs of this run start with it.
    pub run_id: String,
    /// Acknowledged for all of their recipients.
    pub messages: u64,
    pub connections: u64,
    pub errors: u64,
    pub error_samples: Vec<String>,
    /// From the first MAIL to the last `250`.
    pub seconds: f64,
    pub messages_per_second: f64,
    /// Millions of message bytes per second.
    pub megabytes_per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
    pub transaction_p50_us: u64,
    pub transaction_p99_us: u64,
    pub transaction_p999_us: u64,
    pub transaction_max_us: u64,
    /// Open loop: how late transactions started; part of the latencies above.
    pub lag_p99_us: u64,
    /// CPU that this program took, so that one sees what it took from the server.
    pub client_cpu_us_per_message: f64,
}

impl Report {
    pub(super) fn new(options: &Options, run_id: u64, tally: &Tally, cpu: Duration) -> Report {
        let seconds = match (tally.first, tally.last) {
            (Some(first), Some(last)) => last.saturating_duration_since(first).as_secs_f64(),
            (None, _) | (_, None) => 0.0,
        };
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let (reply, transaction) = (&tally.reply, &tally.transaction);
        Report {
            mode: if options.open_rate.is_some() { "open" } else { "closed" },
            open_rate: options.open_rate,
            target: options.target.clone(),
            protocol: if options.lmtp { "lmtp" } else { "smtp" },
            tls: options.tls.name(),
            pipelining: options.pipelining,
            sessions: options.sessions,
            bytes: options.bytes,
            recipients: options.recipients,
            seed: options.seed,
            run_id: format!("{run_id:016x}"),
            messages: tally.messages,
            connections: tally.connections,
            errors: tally.errors,
            error_samples: tally.samples.clone(),
            seconds,
            messages_per_second: per_second(tally.messages as f64),
            megabytes_per_second: per_second(tally.bytes as f64 / 1e6),
            p50_us: reply.value_at_quantile(0.5),
            p99_us: reply.value_at_quantile(0.99),
            p999_us: reply.value_at_quantile(0.999),
            max_us: reply.max(),
            transaction_p50_us: transaction.value_at_quantile(0.5),
            transaction_p99_us: transaction.value_at_quantile(0.99),
            transaction_p999_us: transaction.value_at_quantile(0.999),
            transaction_max_us: transaction.max(),
            lag_p99_us: tally.lag.value_at_quantile(0.99),
            client_cpu_us_per_message: cpu.as_secs_f64() * 1e6 / tally.messages.max(1) as f64,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{} messages of {} bytes in {:.2} s over {} sessions: {:.0} messages/s, {:.1} MB/s",
            self.messages,
            self.bytes,
            self.seconds,
            self.sessions,
            self.messages_per_second,
            self.megabytes_per_second
        )?;
        writeln!(
            out,
            "end of message to 250   p50 {} µs   p99 {} µs   p99.9 {} µs   max {} µs",
            self.p50_us, self.p99_us, self.p999_us, self.max_us
        )?;
        write!(
            out,
            "MAIL to 250             p50 {} µs   p99 {} µs   p99.9 {} µs   max {} µs",
            self.transaction_p50_us,
            self.transaction_p99_us,
            self.transaction_p999_us,
            self.transaction_max_us
        )?;
        if let Some(rate) = self.open_rate {
            write!(
                out,
                "\nopen loop at {rate} messages/s; started late by {} µs (p99)",
                self.lag_p99_us
            )?;
        }
        if self.errors > 0 {
            write!(out, "\n{} errors; the first:", self.errors)?;
            for sample in &self.error_samples {
                write!(out, "\n  {sample}")?;
            }
        }
        Ok(())
    }
}
