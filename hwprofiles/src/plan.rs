//! What so many users need, and whether a host has it. Pure.
//!
//! Every factor is a named constant below with its origin; measured ones say where. What is only
//! agreed on or assumed says that, too, and is shown with the result.

use crate::derive::{Knobs, MESSAGE_CPU_US, derive, size};
use crate::profile::Profile;
use serde::Serialize;
use std::fmt;

/// Written to the log for each message beyond its bytes: headers, summary, padding of the batch,
/// and its share of checkpoints. With [`WRITTEN_PER_BYTE`] fitted to an earlier run of
/// benches/peers/run: 1.37 bytes written for each byte received at 4 KiB, 1.05 at 100 KiB;
/// benches/README.md has the newest.
const WRITTEN_PER_MESSAGE: f64 = 1_200.0;
const WRITTEN_PER_BYTE: f64 = 1.04;
/// Writes of compaction on top, of mail that lives as users keep it: 1.97 bytes for each byte
/// received in all (benches/README.md, "What compaction's steady state costs"), of which 1.05 are
/// the log's own. Mail that mostly dies young costs 1.5 in all, mail that goes at any time 2.8.
const COMPACTION_AMPLIFICATION: f64 = 1.9;
/// So full of live bytes is the log then: measured there, 78 %; 72 % at the worst.
const LIVE_SHARE: f64 = 0.75;
/// Expunged mail stays in the log for so long: the default retention window.
const RETENTION_DAYS: f64 = 7.0;
/// Of the file system: left free, since allocators and flash slow down when they run out of it.
const FREE_SHARE: f64 = 0.1;
/// Resident index: the goal for each message; a row takes 48 (storage/src/index/rows.rs).
const INDEX_BYTES_PER_MESSAGE: f64 = 64.0;
/// What an idle IMAP session costs, kernel buffers included: tests/e2e/test_operator.py holds a
/// thousand of them under 32 MiB.
const SESSION_BYTES: f64 = 32.0 * 1024.0;
/// Assumed: half of the users have mail programs open, two connections each.
const SESSIONS_PER_USER: f64 = 1.0;
/// The process itself, and what the kernel and other programs should keep.
const BASE_MEMORY_BYTES: f64 = 512.0 * 1024.0 * 1024.0;
/// CPU for each KiB beyond the first four: 189 µs at 100 KiB against 109 µs at 4 KiB, in
/// that earlier run.
const CPU_US_PER_KIB: f64 = 0.83;
/// Cores are planned to be so busy at the peak.
const CORES_BUSY: f64 = 0.6;
/// Assumed: the busiest hour has an eighth of the day's mail, three times the mean.
const BUSY_HOUR: f64 = 3.0;
/// Assumed: mailings and queues that empty make seconds of five times the busy hour's rate.
const PEAK: f64 = 5.0;
/// A device should live so long.
const LIFE_YEARS: f64 = 5.0;

/// What is asked of a host.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Demand {
    pub users: u64,
    pub quota_bytes: u64,
    /// Deliveries a day, over all users.
    pub mails_per_day: u64,
    pub message_bytes: u64,
    /// TBW of the device; else the profile's figure counts.
    pub endurance_tb: Option<f64>,
}

/// What that takes, and what the host has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub demand: Demand,
    pub messages: u64,
    /// With all quotas full.
    pub mail_bytes: u64,
    pub needed_capacity_bytes: u64,
    pub host_capacity_bytes: u64,
    pub needed_memory_bytes: u64,
    pub host_memory_bytes: u64,
    pub needed_cores: u64,
    pub host_cores: u64,
    pub sessions: u64,
    pub host_sessions: u64,
    pub mean_messages_per_second: f64,
    pub busy_hour_messages_per_second: f64,
    pub peak_messages_per_second: f64,
    pub host_messages_per_second: u64,
    pub peak_write_mb_per_second: f64,
    pub host_write_mb_per_second: f64,
    /// Written to the disk for each byte received, compaction included.
    pub write_amplification: f64,
    /// Of disk for each byte of live mail.
    pub space_amplification: f64,
    pub written_tb_per_year: f64,
    /// `None`: nobody said what the device endures.
    pub device_years: Option<f64>,
    /// Where the host falls short, each with what would do.
    pub shortfalls: Vec<String>,
    /// Whether the profile's figures were measured.
    pub measured: bool,
    /// The shipped profile that stands for a host which is not this one.
    pub shipped: Option<String>,
}

/// What `demand` takes on the host of `profile`.
#[must_use]
pub fn plan(demand: &Demand, profile: &Profile) -> Plan {
    let knobs = derive(profile);
    let bytes = demand.message_bytes.max(1) as f64;
    let stored_per_message = bytes * WRITTEN_PER_BYTE + WRITTEN_PER_MESSAGE;
    let mail_bytes = demand.users as f64 * demand.quota_bytes as f64;
    let messages = mail_bytes / bytes;
    let log_bytes = messages * stored_per_message / LIVE_SHARE;
    let retained = demand.mails_per_day as f64 * RETENTION_DAYS * stored_per_message;
    let spare = knobs.shards.value * knobs.spare_segments.value * knobs.segment_bytes.value;
    let needed_capacity = (log_bytes + retained + spare as f64) / (1.0 - FREE_SHARE);

    let sessions = demand.users as f64 * SESSIONS_PER_USER;
    let queues = knobs.shards.value * knobs.pending_bytes_max.value;
    let index = messages * INDEX_BYTES_PER_MESSAGE;
    let needed_memory = BASE_MEMORY_BYTES + index + sessions * SESSION_BYTES + queues as f64;

    let mean = demand.mails_per_day as f64 / 86_400.0;
    let busy = mean * BUSY_HOUR;
    let peak = busy * PEAK;
    let cpu_us = message_cpu_us(bytes, profile);
    let needed_cores = (peak * cpu_us / 1e6 / CORES_BUSY).ceil().max(1.0);

    let amplification = stored_per_message / bytes * COMPACTION_AMPLIFICATION;
    let written_tb_per_year = demand.mails_per_day as f64 * bytes * amplification * 365.0 / 1e12;
    let endurance = demand.endurance_tb.or(profile.device.endurance_tb);
    let lasting = profile.sustained.map(|sustained| sustained.sustained_mb_per_second);
    let bandwidth = profile.disk.write_mb_per_second;
    let mut plan = Plan {
        demand: *demand,
        messages: messages as u64,
        mail_bytes: mail_bytes as u64,
        needed_capacity_bytes: needed_capacity as u64,
        host_capacity_bytes: profile.file_system.capacity_bytes,
        needed_memory_bytes: needed_memory as u64,
        host_memory_bytes: profile.host.memory_bytes,
        needed_cores: needed_cores as u64,
        host_cores: u64::from(profile.host.cores),
        sessions: sessions as u64,
        host_sessions: knobs.sessions_max.value,
        mean_messages_per_second: mean,
        busy_hour_messages_per_second: busy,
        peak_messages_per_second: peak,
        host_messages_per_second: host_rate(demand, &knobs),
        peak_write_mb_per_second: peak * bytes * amplification / 1e6,
        host_write_mb_per_second: lasting.unwrap_or(bandwidth).min(bandwidth),
        write_amplification: amplification,
        space_amplification: needed_capacity / mail_bytes.max(1.0),
        written_tb_per_year,
        device_years: endurance.map(|tb| tb / written_tb_per_year.max(1e-9)),
        shortfalls: Vec::new(),
        measured: profile.measured(),
        shipped: None,
    };
    plan.shortfalls = shortfalls(&plan);
    plan
}

/// One core's time for a message: the measured cost, and what checking its signature takes where
/// the profile knows how fast this core is.
fn message_cpu_us(bytes: f64, profile: &Profile) -> f64 {
    let plain = MESSAGE_CPU_US + (bytes / 1024.0 - 4.0).max(0.0) * CPU_US_PER_KIB;
    let checks = profile.cpu.map_or(0.0, |cpu| {
        let hashing = bytes / cpu.sha256_mb_per_second;
        let unsealing = bytes / cpu.aes256_gcm_mb_per_second;
        1e6 / cpu.rsa2048_verify_per_second + hashing + unsealing
    });
    plain + checks
}

/// The admitted rate is stated for 4 KiB; larger messages cost the disk and the cores more.
fn host_rate(demand: &Demand, knobs: &Knobs) -> u64 {
    let bytes = demand.message_bytes.max(1) as f64;
    let written = |bytes: f64| bytes * WRITTEN_PER_BYTE + WRITTEN_PER_MESSAGE;
    let slower = (written(bytes) / written(4096.0)).max(1.0);
    ((knobs.admitted_messages_per_second.value as f64 / slower) as u64).max(1)
}

fn shortfalls(plan: &Plan) -> Vec<String> {
    let mut short = Vec::new();
    let mut need = |falls_short: bool, text: String| {
        if falls_short {
            short.push(text);
        }
    };
    need(
        plan.needed_capacity_bytes > plan.host_capacity_bytes,
        format!(
            "disk: {} needed, the file system has {}; a larger disk, or smaller quotas",
            size(plan.needed_capacity_bytes),
            size(plan.host_capacity_bytes)
        ),
    );
    need(
        plan.needed_memory_bytes > plan.host_memory_bytes,
        format!(
            "memory: {} needed, the host has {}; more memory, or fewer users on it",
            size(plan.needed_memory_bytes),
            size(plan.host_memory_bytes)
        ),
    );
    need(
        plan.needed_cores > plan.host_cores,
        format!(
            "cores: {} needed at the peak, the host has {}",
            plan.needed_cores, plan.host_cores
        ),
    );
    need(
        plan.peak_messages_per_second > plan.host_messages_per_second as f64,
        format!(
            "rate: {:.0} messages/s at the peak, the host is planned to take {} of this size; senders \
             will be told to come back later",
            plan.peak_messages_per_second, plan.host_messages_per_second
        ),
    );
    need(
        plan.peak_write_mb_per_second > plan.host_write_mb_per_second,
        format!(
            "bandwidth: {:.0} MB/s written at the peak, the disk keeps up {:.0} MB/s",
            plan.peak_write_mb_per_second, plan.host_write_mb_per_second
        ),
    );
    need(
        plan.sessions > plan.host_sessions,
        format!(
            "sessions: {} expected, the host admits {}: raise sessions_max under [knobs], or with more memory it is higher by itself, up \
             to 65536",
            plan.sessions, plan.host_sessions
        ),
    );
    if let Some(years) = plan.device_years {
        need(
            years < LIFE_YEARS,
            format!(
                "device life: {years:.1} years at {:.0} TB written a year; a disk rated for {:.0} TB \
                 lives {LIFE_YEARS:.0} years",
                plan.written_tb_per_year,
                (plan.written_tb_per_year * LIFE_YEARS).ceil()
            ),
        );
    }
    short
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Demand { users, quota_bytes, mails_per_day, message_bytes, .. } = self.demand;
        writeln!(
            f,
            "{users} users with {} each, {mails_per_day} mails a day of {}\n",
            size(quota_bytes),
            size(message_bytes)
        )?;
        let (column, host) = match &self.shipped {
            Some(name) => ("the profile", format!("a host as the profile {name} has it")),
            None => ("this host", "this host".to_owned()),
        };
        writeln!(f, "{:<12} {:>14} {:>14}", "", "needed", column)?;
        let limit = |value: u64| format!("{value}*");
        let mut row = |name: &str, needed: String, has: String, why: String| {
            writeln!(f, "{name:<12} {needed:>14} {has:>14}  {why}")
        };
        row(
            "disk",
            size(self.needed_capacity_bytes),
            size(self.host_capacity_bytes),
            format!(
                "{} of mail with all quotas full, times {:.2}: {:.0} % live, {RETENTION_DAYS:.0} days \
                 of expunged mail, {:.0} % free",
                size(self.mail_bytes),
                self.space_amplification,
                LIVE_SHARE * 100.0,
                FREE_SHARE * 100.0
            ),
        )?;
        row(
            "memory",
            size(self.needed_memory_bytes),
            size(self.host_memory_bytes),
            format!(
                "{} messages at {INDEX_BYTES_PER_MESSAGE:.0} bytes of index, {} sessions at {}",
                self.messages,
                self.sessions,
                size(SESSION_BYTES as u64)
            ),
        )?;
        row(
            "cores",
            self.needed_cores.to_string(),
            self.host_cores.to_string(),
            format!("at the peak, {:.0} % busy", CORES_BUSY * 100.0),
        )?;
        row(
            "messages/s",
            format!("{:.1}", self.peak_messages_per_second),
            limit(self.host_messages_per_second),
            format!(
                "peak; {:.1} in the busy hour, {:.1} on average",
                self.busy_hour_messages_per_second, self.mean_messages_per_second
            ),
        )?;
        row(
            "MB/s written",
            format!("{:.1}", self.peak_write_mb_per_second),
            format!("{:.0}", self.host_write_mb_per_second),
            format!(
                "{:.2} bytes written for each received, compaction included",
                self.write_amplification
            ),
        )?;
        row(
            "sessions",
            self.sessions.to_string(),
            limit(self.host_sessions),
            "IMAP, with two mail programs for every other user".to_owned(),
        )?;
        writeln!(
            f,
            "\n* a limit that Kura sets itself by the profile: half of what disk and cores carry, a quarter of the memory. Not a figure that \
             was measured; `kura profile show` derives it (admitted_messages_per_second, sessions_max)"
        )?;
        let life = match self.device_years {
            Some(years) if years > 100.0 => "over 100 years".to_owned(),
            Some(years) => format!("{years:.1} years"),
            None => "unknown: give the data sheet's TBW with --endurance-tb".to_owned(),
        };
        writeln!(f, "\n{:.1} TB written a year, device life {life}", self.written_tb_per_year)?;
        if !self.measured {
            writeln!(
                f,
                "the host's figures were not measured: `kura profile probe` measures this host's"
            )?;
        }
        if self.shortfalls.is_empty() {
            return writeln!(f, "{host} carries that");
        }
        writeln!(f, "{host} falls short:")?;
        self.shortfalls.iter().try_for_each(|short| writeln!(f, "  {short}"))
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
