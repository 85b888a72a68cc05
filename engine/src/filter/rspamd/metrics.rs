//! Counters of one core's questions to rspamd, and their Prometheus text.

use super::Outcome;
use crate::metrics::count;
use std::cell::Cell;
use std::fmt::Write;

#[derive(Debug, Default)]
pub struct Metrics {
    results: [Cell<u64>; Outcome::NAMES.len()],
}

impl Metrics {
    pub fn note(&self, outcome: &Outcome) {
        count(&self.results[outcome.index()]);
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot { results: std::array::from_fn(|index| self.results[index].get()) }
    }
}

/// Of one or several cores at one moment.
#[derive(Debug)]
pub struct Snapshot {
    results: [u64; Outcome::NAMES.len()],
}

impl Snapshot {
    pub fn merge(&mut self, other: &Snapshot) {
        self.results.iter_mut().zip(other.results).for_each(|(into, from)| *into += from);
    }

    pub fn write(&self, text: &mut String) {
        let name = "kura_rspamd_results_total";
        let _ = writeln!(text, "# HELP {name} Messages that rspamd was asked about, by result");
        let _ = writeln!(text, "# TYPE {name} counter");
        for (result, value) in Outcome::NAMES.iter().zip(self.results) {
            let _ = writeln!(text, "{name}{{result=\"{result}\"}} {value}");
        }
    }
}

/// Which servers have answered when they were last asked; the control plane knows.
pub fn health_text(text: &mut String, health: &[(String, bool)]) {
    let name = "kura_rspamd_server_up";
    let _ = writeln!(text, "# HELP {name} 1 while a server answers\n# TYPE {name} gauge");
    for (server, up) in health {
        let server = server.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(text, "{name}{{server=\"{server}\"}} {}", u8::from(*up));
    }
}
