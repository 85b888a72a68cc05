//! Counters of one core, and their Prometheus text.
//!
//! Plain cells, since only their own core writes them; the control plane asks each core for a
//! [`Snapshot`] and adds them up when somebody scrapes.

use crate::auth::verdict::{Method, Outcome, Verdict};
use crate::filter::verdict::{Action, Verdict as SpamVerdict};
use crate::policy::screening::Offence;
use crate::queue::Queue;
use crate::scan::again;
use crate::scrub::ScrubCounts;
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::fmt::Write;

/// Services, for labels. The order is that of [`Service::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Smtp,
    Submission,
    Submissions,
    Lmtp,
    Imap,
    Imaps,
    Pop3,
    Pop3s,
    ManageSieve,
}

impl Service {
    pub const ALL: [Service; 9] = [
        Service::Smtp,
        Service::Submission,
        Service::Submissions,
        Service::Lmtp,
        Service::Imap,
        Service::Imaps,
        Service::Pop3,
        Service::Pop3s,
        Service::ManageSieve,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Service::Smtp => "smtp",
            Service::Submission => "submission",
            Service::Submissions => "submissions",
            Service::Lmtp => "lmtp",
            Service::Imap => "imap",
            Service::Imaps => "imaps",
            Service::Pop3 => "pop3",
            Service::Pop3s => "pop3s",
            Service::ManageSieve => "managesieve",
        }
    }

    /// Whether TLS starts with the first byte (RFC 8314).
    pub fn implicit_tls(self) -> bool {
        match self {
            Service::Submissions | Service::Imaps | Service::Pop3s => true,
            Service::Smtp
            | Service::Submission
            | Service::Lmtp
            | Service::Imap
            | Service::Pop3
            | Service::ManageSieve => false,
        }
    }
}

#[derive(Debug)]
pub struct Metrics {
    pub connections: [Cell<u64>; Service::ALL.len()],
    pub connections_open: [Cell<u64>; Service::ALL.len()],
    pub connections_refused: Cell<u64>,
    /// Of addresses that are denied, or kept out for a while.
    pub connections_banned: Cell<u64>,
    /// By what has led to them.
    pub bans: [Cell<u64>; Offence::ALL.len()],
    /// Messages whose senders were asked to come again.
    pub greylisted: Cell<u64>,
    pub early_talkers: Cell<u64>,
    /// Replies that were late on purpose.
    pub tarpitted: Cell<u64>,
    pub honeypots: Cell<u64>,
    /// Clients that a list in DNS has led to the refusal of.
    pub listed_refused: Cell<u64>,
    pub messages_accepted: Cell<u64>,
    pub messages_rejected: Cell<u64>,
    pub messages_deferred: Cell<u64>,
    pub logins: Cell<u64>,
    pub logins_failed: Cell<u64>,
    /// Messages that an account's scripts have looked at.
    pub sieve_runs: Cell<u64>,
    pub sieve_errors: Cell<u64>,
    pub sieve_actions: SieveActions,
    /// Results of verification, by method and outcome.
    auth_results: [[Cell<u64>; Outcome::ALL.len()]; Method::ALL.len()],
    /// Microseconds from the question about a message to its answer.
    auth_latency: RefCell<Histogram<u64>>,
    /// What became of messages that were given a score.
    spam_actions: [Cell<u64>; Action::ALL.len()],
    /// Microseconds that giving it took.
    spam_latency: RefCell<Histogram<u64>>,
    pub scan: crate::scan::metrics::Metrics,
    pub rspamd: crate::filter::rspamd::metrics::Metrics,
    pub quarantine: crate::quarantine::Counts,
    pub submission: crate::submission::Counts,
    /// Microseconds from the end of a message's data to its positive reply.
    accept_latency: RefCell<Histogram<u64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            connections: Default::default(),
            connections_open: Default::default(),
            connections_refused: Cell::default(),
            connections_banned: Cell::default(),
            bans: Default::default(),
            listed_refused: Cell::default(),
            greylisted: Cell::default(),
            early_talkers: Cell::default(),
            tarpitted: Cell::default(),
            honeypots: Cell::default(),
            messages_accepted: Cell::default(),
            messages_rejected: Cell::default(),
            messages_deferred: Cell::default(),
            logins: Cell::default(),
            logins_failed: Cell::default(),
            sieve_runs: Cell::default(),
            sieve_errors: Cell::default(),
            sieve_actions: SieveActions::default(),
            auth_results: Default::default(),
            auth_latency: RefCell::new(histogram()),
            spam_actions: Default::default(),
            spam_latency: RefCell::new(histogram()),
            scan: Default::default(),
            rspamd: Default::default(),
            quarantine: Default::default(),
            submission: Default::default(),
            accept_latency: RefCell::new(histogram()),
        }
    }
}

/// What scripts have asked for. The order is that of [`SieveActions::NAMES`].
#[derive(Debug, Default)]
pub struct SieveActions {
    pub keep: Cell<u64>,
    pub fileinto: Cell<u64>,
    pub discard: Cell<u64>,
    pub redirect: Cell<u64>,
    pub reject: Cell<u64>,
    pub vacation: Cell<u64>,
}

impl SieveActions {
    const NAMES: [&str; 6] = ["keep", "fileinto", "discard", "redirect", "reject", "vacation"];

    fn counts(&self) -> [u64; 6] {
        let SieveActions { keep, fileinto, discard, redirect, reject, vacation } = self;
        [keep, fileinto, discard, redirect, reject, vacation].map(Cell::get)
    }
}

pub fn histogram() -> Histogram<u64> {
    // Two digits from 1 µs to 10 minutes: some 40 KiB.
    Histogram::new_with_bounds(1, 600_000_000, 2).expect("constant bounds are valid")
}

/// Adds one.
pub fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Metrics {
    pub fn accepted(&self, latency: std::time::Duration) {
        count(&self.messages_accepted);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.accept_latency.borrow_mut().saturating_record(micros.max(1));
    }

    pub fn verified(&self, verdict: &Verdict, latency: std::time::Duration) {
        for finding in &verdict.findings {
            count(&self.auth_results[finding.method as usize][finding.outcome as usize]);
        }
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.auth_latency.borrow_mut().saturating_record(micros.max(1));
    }

    pub fn judged(&self, verdict: &SpamVerdict, latency: std::time::Duration) {
        count(&self.spam_actions[verdict.action as usize]);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.spam_latency.borrow_mut().saturating_record(micros.max(1));
    }

    pub fn snapshot(
        &self,
        store: storage::store::Stats,
        scrub: ScrubCounts,
        again: again::Counts,
        queue: &Queue,
    ) -> Snapshot {
        let counts = &queue.counts;
        Snapshot {
            queue: [
                counts.queued.get(),
                counts.signed.get(),
                counts.delivered.get(),
                counts.deferred.get(),
                counts.failed.get(),
                queue.len() as u64,
                counts.sessions.get(),
            ],
            connections: std::array::from_fn(|i| self.connections[i].get()),
            connections_open: std::array::from_fn(|i| self.connections_open[i].get()),
            counters: [
                self.connections_refused.get(),
                self.messages_accepted.get(),
                self.messages_rejected.get(),
                self.messages_deferred.get(),
                self.logins.get(),
                self.logins_failed.get(),
                self.connections_banned.get(),
                self.listed_refused.get(),
                self.greylisted.get(),
                self.early_talkers.get(),
                self.tarpitted.get(),
                self.honeypots.get(),
                self.sieve_runs.get(),
                self.sieve_errors.get(),
            ],
            bans: std::array::from_fn(|offence| self.bans[offence].get()),
            sieve_actions: self.sieve_actions.counts(),
            auth_results: std::array::from_fn(|method| {
                std::array::from_fn(|outcome| self.auth_results[method][outcome].get())
            }),
            auth_latency: self.auth_latency.borrow().clone(),
            spam_actions: std::array::from_fn(|action| self.spam_actions[action].get()),
            spam_latency: self.spam_latency.borrow().clone(),
            scan: self.scan.snapshot(),
            rspamd: self.rspamd.snapshot(),
            quarantine: self.quarantine.snapshot(),
            submission: self.submission.snapshot(),
            accept_latency: self.accept_latency.borrow().clone(),
            store: vec![store],
            scrub: vec![scrub],
            again: vec![again],
        }
    }
}

const COUNTERS: [(&str, &str); 14] = [
    ("kura_connections_refused_total", "Connections turned away by a limit"),
    ("kura_messages_accepted_total", "Messages answered 250 after they were on stable media"),
    ("kura_messages_rejected_total", "Messages refused for good"),
    ("kura_messages_deferred_total", "Messages answered 4xx"),
    ("kura_logins_total", "Successful logins"),
    ("kura_logins_failed_total", "Failed logins"),
    ("kura_connections_banned_total", "Connections turned away by [policy]"),
    ("kura_listed_refused_total", "Recipients refused because a list in DNS names the client"),
    ("kura_greylisted_total", "Messages whose senders were asked to come again"),
    ("kura_early_talkers_total", "Clients that spoke before they were greeted"),
    ("kura_tarpitted_total", "Replies that were late on purpose"),
    ("kura_honeypots_total", "Recipients named that nobody has reason to write to"),
    ("kura_sieve_runs_total", "Messages that an account's scripts have looked at"),
    ("kura_sieve_errors_total", "Of these, the ones where a script failed"),
];

const QUEUE: [(&str, &str, &str); 7] = [
    (
        "kura_queue_messages_taken_total",
        "counter",
        "Messages for other hosts, taken into the queue",
    ),
    ("kura_queue_messages_signed_total", "counter", "Of these, the ones with DKIM signatures"),
    ("kura_queue_delivered_total", "counter", "Recipients whose server has taken a message"),
    ("kura_queue_deferred_total", "counter", "Tries of a recipient that have to be repeated"),
    ("kura_queue_failed_total", "counter", "Recipients given up, or refused for good"),
    ("kura_queue_messages", "gauge", "Messages that wait to leave"),
    ("kura_queue_sessions", "gauge", "Connections to other servers"),
];

/// The counters of one or several cores at one moment.
#[derive(Debug)]
pub struct Snapshot {
    connections: [u64; Service::ALL.len()],
    connections_open: [u64; Service::ALL.len()],
    counters: [u64; COUNTERS.len()],
    bans: [u64; Offence::ALL.len()],
    sieve_actions: [u64; SieveActions::NAMES.len()],
    queue: [u64; QUEUE.len()],
    auth_results: [[u64; Outcome::ALL.len()]; Method::ALL.len()],
    auth_latency: Histogram<u64>,
    spam_actions: [u64; Action::ALL.len()],
    spam_latency: Histogram<u64>,
    scan: crate::scan::metrics::Snapshot,
    rspamd: crate::filter::rspamd::metrics::Snapshot,
    quarantine: crate::quarantine::Snapshot,
    submission: crate::submission::Snapshot,
    accept_latency: Histogram<u64>,
    /// One for each shard, in their order.
    store: Vec<storage::store::Stats>,
    scrub: Vec<ScrubCounts>,
    again: Vec<again::Counts>,
}

impl Snapshot {
    pub fn merge(&mut self, other: Snapshot) {
        let add =
            |into: &mut [u64], from: &[u64]| into.iter_mut().zip(from).for_each(|(i, f)| *i += f);
        add(&mut self.connections, &other.connections);
        add(&mut self.connections_open, &other.connections_open);
        add(&mut self.counters, &other.counters);
        add(&mut self.bans, &other.bans);
        add(&mut self.sieve_actions, &other.sieve_actions);
        add(&mut self.queue, &other.queue);
        for (into, from) in self.auth_results.iter_mut().zip(&other.auth_results) {
            add(into, from);
        }
        add(&mut self.spam_actions, &other.spam_actions);
        let _ = self.auth_latency.add(&other.auth_latency);
        let _ = self.spam_latency.add(&other.spam_latency);
        self.scan.merge(&other.scan);
        self.rspamd.merge(&other.rspamd);
        self.quarantine.merge(&other.quarantine);
        self.submission.merge(&other.submission);
        let _ = self.accept_latency.add(&other.accept_latency);
        self.store.extend(other.store);
        self.scrub.extend(other.scrub);
        self.again.extend(other.again);
    }

    /// Prometheus text format 0.0.4.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut head = |text: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        head(&mut text, "kura_connections_total", "counter", "Connections accepted");
        for (service, value) in Service::ALL.iter().zip(self.connections) {
            let _ =
                writeln!(text, "kura_connections_total{{service=\"{}\"}} {value}", service.name());
        }
        head(&mut text, "kura_connections_open", "gauge", "Connections open now");
        for (service, value) in Service::ALL.iter().zip(self.connections_open) {
            let _ =
                writeln!(text, "kura_connections_open{{service=\"{}\"}} {value}", service.name());
        }
        for ((name, help), value) in COUNTERS.iter().zip(self.counters) {
            head(&mut text, name, "counter", help);
            let _ = writeln!(text, "{name} {value}");
        }
        let name = "kura_sieve_actions_total";
        head(&mut text, name, "counter", "What scripts have asked for");
        for (action, value) in SieveActions::NAMES.iter().zip(self.sieve_actions) {
            let _ = writeln!(text, "{name}{{action=\"{action}\"}} {value}");
        }
        for ((name, kind, help), value) in QUEUE.iter().zip(self.queue) {
            head(&mut text, name, kind, help);
            let _ = writeln!(text, "{name} {value}");
        }
        for (name, help, latency) in [
            (
                "kura_accept_latency_seconds",
                "From the end of a message's data to its 250",
                &self.accept_latency,
            ),
            (
                "kura_auth_latency_seconds",
                "Of that, for who has sent it (SPF, DKIM, DMARC)",
                &self.auth_latency,
            ),
            ("kura_spam_latency_seconds", "Of that, for its score", &self.spam_latency),
        ] {
            head(&mut text, name, "summary", help);
            latency_text(&mut text, name, latency);
        }
        let name = "kura_auth_results_total";
        head(&mut text, name, "counter", "Results of verification, as RFC 8601 names them");
        for (method, row) in Method::ALL.iter().zip(&self.auth_results) {
            for (outcome, value) in Outcome::ALL.iter().zip(row) {
                let (method, result) = (method.name(), outcome.name());
                let _ = writeln!(text, "{name}{{method=\"{method}\",result=\"{result}\"}} {value}");
            }
        }
        let name = "kura_bans_total";
        head(&mut text, name, "counter", "Addresses and networks kept out for a while, by reason");
        for (offence, value) in Offence::ALL.iter().zip(self.bans) {
            let _ = writeln!(text, "{name}{{reason=\"{}\"}} {value}", offence.name());
        }
        let name = "kura_spam_verdicts_total";
        head(&mut text, name, "counter", "Messages that were given a score, by what followed");
        for (action, value) in Action::ALL.iter().zip(self.spam_actions) {
            let _ = writeln!(text, "{name}{{action=\"{}\"}} {value}", action.name());
        }
        self.scan.write(&mut text);
        self.rspamd.write(&mut text);
        self.quarantine.write(&mut text);
        self.submission.write(&mut text);
        self.store_text(&mut text, &mut head);
        self.scrub_text(&mut text, &mut head);
        again::metrics_text(&mut text, &self.again);
        text
    }

    fn scrub_text(&self, text: &mut String, head: &mut impl FnMut(&mut String, &str, &str, &str)) {
        type Column = (&'static str, &'static str, &'static str, fn(&ScrubCounts) -> u64);
        let columns: [Column; 3] = [
            ("kura_scrub_rounds_total", "counter", "Rounds over the whole store", |s| s.rounds),
            (
                "kura_scrub_bad",
                "gauge",
                "Places that did not verify when they were last read",
                |s| s.bad,
            ),
            ("kura_scrub_messages_hurt", "gauge", "Messages that can't be read whole", |s| {
                s.messages_hurt
            }),
        ];
        for (name, kind, help, value) in columns {
            head(text, name, kind, help);
            for (shard, counts) in self.scrub.iter().enumerate() {
                let _ = writeln!(text, "{name}{{shard=\"{shard}\"}} {}", value(counts));
            }
        }
    }

    fn store_text(&self, text: &mut String, head: &mut impl FnMut(&mut String, &str, &str, &str)) {
        type Column = (&'static str, &'static str, &'static str, fn(&storage::store::Stats) -> u64);
        let columns: [Column; 22] = [
            ("kura_store_messages", "gauge", "Messages in mailboxes", |s| s.messages),
            ("kura_store_bytes_received_total", "counter", "Bytes of bodies delivered", |s| {
                s.bytes_received
            }),
            ("kura_store_bytes_written_total", "counter", "Bytes written to the device", |s| {
                s.bytes_written
            }),
            ("kura_store_bytes_prewritten_total", "counter", "Zeroes written ahead", |s| {
                s.bytes_prewritten
            }),
            ("kura_store_bytes_moved_total", "counter", "Bytes copied by compaction", |s| {
                s.bytes_moved
            }),
            ("kura_store_bytes_based_total", "counter", "Bytes of checkpoints in the log", |s| {
                s.bytes_based
            }),
            ("kura_store_flushes_total", "counter", "Device flushes", |s| s.flushes),
            ("kura_store_segments", "gauge", "Segments of the log", |s| s.segments),
            ("kura_store_segments_freed_total", "counter", "Segments given back", |s| {
                s.segments_freed
            }),
            ("kura_store_segments_spoiled", "gauge", "Segments with damage in what is live", |s| {
                s.segments_spoiled
            }),
            (
                "kura_store_files_harmed",
                "gauge",
                "Files of segments that somebody has removed, replaced or cut",
                |s| s.files_harmed,
            ),
            (
                "kura_store_given_up_total",
                "counter",
                "Checkpoints, copies and spares given up because the disk failed",
                |s| s.given_up,
            ),
            ("kura_store_log_bytes", "gauge", "Bytes of the log", |s| s.log_bytes),
            ("kura_store_log_live_bytes", "gauge", "Of these, still referred to", |s| {
                s.log_live_bytes
            }),
            ("kura_store_live_bytes", "gauge", "Bytes that mailboxes refer to", |s| s.live_bytes),
            (
                "kura_store_free_bytes",
                "gauge",
                "Bytes that the file system of the shard has free",
                |s| s.free_bytes,
            ),
            (
                "kura_store_recovery_damage",
                "gauge",
                "Places that did not verify at the start",
                |s| s.recovery_damage,
            ),
            (
                "kura_store_buried_messages",
                "gauge",
                "Expunged messages that can be brought back",
                |s| s.buried_messages,
            ),
            (
                "kura_store_buried_bytes",
                "gauge",
                "Bytes of expunged messages that can be brought back",
                |s| s.buried_bytes,
            ),
            ("kura_store_accounts_held", "gauge", "Accounts on hold", |s| s.accounts_held),
            (
                "kura_store_remembered_since_seconds",
                "gauge",
                "The oldest time to go back to, Unix time; 0: nothing is remembered",
                |s| s.remembered_since.div_ceil(1000),
            ),
            (
                "kura_store_halted",
                "gauge",
                "1 once a write or sync has failed, or the shard's directory has gone",
                |s| u64::from(s.halted),
            ),
        ];
        for (name, kind, help, value) in columns {
            head(text, name, kind, help);
            for (shard, stats) in self.store.iter().enumerate() {
                let _ = writeln!(text, "{name}{{shard=\"{shard}\"}} {}", value(stats));
            }
        }
    }
}

/// The quantiles of a summary in microseconds, behind its head.
pub fn latency_text(text: &mut String, name: &str, latency: &Histogram<u64>) {
    for quantile in [0.5, 0.99, 0.999] {
        let seconds = micros_to_seconds(latency.value_at_quantile(quantile));
        let _ = writeln!(text, "{name}{{quantile=\"{quantile}\"}} {seconds}");
    }
    let _ = writeln!(text, "{name}_count {}", latency.len());
}

fn micros_to_seconds(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64()
}
