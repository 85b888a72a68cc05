//! Counters of one core's scans, and their Prometheus text.

use super::attachments::{Kind, Report};
use super::verdict::{Outcome, Verdict};
use crate::metrics::{count, histogram, latency_text};
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::fmt::Write;

#[derive(Debug)]
pub struct Metrics {
    results: [Cell<u64>; Outcome::NAMES.len()],
    cached: Cell<u64>,
    outbreaks: Cell<u64>,
    attachments: [Cell<u64>; Kind::ALL.len()],
    /// Microseconds from the last octet of a message to its verdict.
    latency: RefCell<Histogram<u64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            results: Default::default(),
            cached: Cell::default(),
            outbreaks: Cell::default(),
            attachments: Default::default(),
            latency: RefCell::new(histogram()),
        }
    }
}

impl Metrics {
    pub fn scanned(&self, verdict: &Verdict) {
        count(&self.results[verdict.outcome.index()]);
        if verdict.is_cached {
            count(&self.cached);
        }
        let micros = u64::try_from(verdict.elapsed.as_micros()).unwrap_or(u64::MAX);
        self.latency.borrow_mut().saturating_record(micros.max(1));
    }

    pub fn suspected(&self) {
        count(&self.outbreaks);
    }

    /// Each kind once for a message.
    pub fn inspected(&self, report: &Report) {
        for kind in Kind::ALL {
            if report.findings.iter().any(|finding| finding.kind == kind) {
                count(&self.attachments[kind as usize]);
            }
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            results: std::array::from_fn(|index| self.results[index].get()),
            cached: self.cached.get(),
            outbreaks: self.outbreaks.get(),
            attachments: std::array::from_fn(|index| self.attachments[index].get()),
            latency: self.latency.borrow().clone(),
        }
    }
}

/// Of one or several cores at one moment.
#[derive(Debug)]
pub struct Snapshot {
    results: [u64; Outcome::NAMES.len()],
    cached: u64,
    outbreaks: u64,
    attachments: [u64; Kind::ALL.len()],
    latency: Histogram<u64>,
}

impl Snapshot {
    pub fn merge(&mut self, other: &Snapshot) {
        self.results.iter_mut().zip(other.results).for_each(|(into, from)| *into += from);
        self.cached += other.cached;
        self.outbreaks += other.outbreaks;
        self.attachments.iter_mut().zip(other.attachments).for_each(|(into, from)| *into += from);
        let _ = self.latency.add(&other.latency);
    }

    pub fn write(&self, text: &mut String) {
        let name = "kura_scan_results_total";
        let _ = writeln!(text, "# HELP {name} Messages scanned for viruses, by result");
        let _ = writeln!(text, "# TYPE {name} counter");
        for (result, value) in Outcome::NAMES.iter().zip(self.results) {
            let _ = writeln!(text, "{name}{{engine=\"clamav\",result=\"{result}\"}} {value}");
        }
        let name = "kura_scan_cached_total";
        let _ = writeln!(text, "# HELP {name} Of these, known from the same content before");
        let _ = writeln!(text, "# TYPE {name} counter\n{name} {}", self.cached);
        let name = "kura_scan_outbreak_messages_total";
        let _ = writeln!(text, "# HELP {name} Messages whose like have come too often");
        let _ = writeln!(text, "# TYPE {name} counter\n{name} {}", self.outbreaks);
        let name = "kura_scan_attachments_total";
        let _ = writeln!(text, "# HELP {name} Messages with dangerous attachments, by kind");
        let _ = writeln!(text, "# TYPE {name} counter");
        for (kind, value) in Kind::ALL.iter().zip(self.attachments) {
            let _ = writeln!(text, "{name}{{kind=\"{}\"}} {value}", kind.name());
        }
        let name = "kura_scan_latency_seconds";
        let _ = writeln!(text, "# HELP {name} From a message's last octet to its verdict");
        let _ = writeln!(text, "# TYPE {name} summary");
        latency_text(text, name, &self.latency);
    }
}

/// Which servers have answered when they were last asked; the control plane knows.
pub fn health_text(text: &mut String, health: &[(String, bool)]) {
    let name = "kura_scan_server_up";
    let _ = writeln!(text, "# HELP {name} 1 while a scanner answers\n# TYPE {name} gauge");
    for (server, up) in health {
        let server = server.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(text, "{name}{{server=\"{server}\"}} {}", u8::from(*up));
    }
}
