//! The scrub of one core: round after round in the background, within its share of the disk, or at once
//! when an operator asks for it. What it finds is logged once, counted, and kept for `kura store scrub`.

use crate::shard::Shard;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};
use storage::store::Finding;

/// Between the starts of two rounds, where the share is large enough for that: bits rot over years.
const ROUND_EVERY: Duration = Duration::from_secs(86_400);
/// How often to look whether a round is due, or wanted.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Findings kept in memory; more are only counted.
const FINDINGS_MAX: usize = 1000;

/// What the scrub of this core has seen since the server started.
#[derive(Debug, Default)]
pub struct Scrub {
    wanted: Cell<bool>,
    running: Cell<bool>,
    rounds: Cell<u64>,
    bytes: Cell<u64>,
    bytes_total: Cell<u64>,
    /// Of the last round that ended, or of the one that runs.
    bad: Cell<u64>,
    messages_hurt: Cell<u64>,
    findings: RefCell<Vec<Finding>>,
    failed: RefCell<Option<String>>,
    /// Places that the log has told of.
    told: RefCell<BTreeSet<String>>,
}

/// The numbers of one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubCounts {
    pub rounds: u64,
    pub bad: u64,
    pub messages_hurt: u64,
}

impl Scrub {
    /// A round from now on, without a wait; one that runs already counts.
    pub fn begin(&self) {
        if !self.running.get() {
            self.wanted.set(true);
            // Of this round, from now on.
            self.bytes.set(0);
        }
    }

    pub fn counts(&self) -> ScrubCounts {
        let (bad, messages_hurt) = (self.bad.get(), self.messages_hurt.get());
        ScrubCounts { rounds: self.rounds.get(), bad, messages_hurt }
    }

    pub fn status(&self) -> Value {
        let findings = self.findings.borrow();
        let row = |finding: &Finding| {
            let hurt = finding.hurt.iter().map(
                |one| json!({ "account": one.account.0, "mailbox": one.mailbox, "uid": one.uid.0 }),
            );
            json!({ "place": finding.place, "messages": hurt.collect::<Vec<_>>() })
        };
        json!({
            "running": self.running.get() || self.wanted.get(),
            "rounds": self.rounds.get(),
            "bytes": self.bytes.get(),
            "bytes_total": self.bytes_total.get(),
            "bad": self.bad.get(),
            "messages_hurt": self.messages_hurt.get(),
            "findings": findings.iter().map(row).collect::<Vec<_>>(),
            "failed": *self.failed.borrow(),
        })
    }

    fn note(&self, shard: u16, findings: Vec<Finding>) {
        for finding in findings {
            self.bad.set(self.bad.get() + 1);
            self.messages_hurt.set(self.messages_hurt.get() + finding.hurt.len() as u64);
            let mut told = self.told.borrow_mut();
            if told.len() < FINDINGS_MAX && told.insert(finding.place.clone()) {
                let (place, messages) = (&finding.place, finding.hurt.len());
                tracing::error!(shard, place, messages, "scrub: this does not verify");
            }
            let mut kept = self.findings.borrow_mut();
            if kept.len() < FINDINGS_MAX {
                kept.push(finding);
            }
        }
    }
}

/// Until the core stops. A round that an operator waits for is held to the share like any other.
pub async fn run(shard: Rc<Shard>) {
    let mut last = Instant::now();
    while !shard.has_stopped() {
        if !shard.scrub.wanted.get() && last.elapsed() < ROUND_EVERY {
            glommio::timer::sleep(LOOK_EVERY).await;
            continue;
        }
        last = Instant::now();
        let rate = Some(shard.scrub_bytes_per_second());
        round(&shard, rate).await;
    }
}

/// One round over this core's store; `None`: as fast as the disk goes.
pub async fn round(shard: &Rc<Shard>, rate: Option<u64>) {
    let scrub = &shard.scrub;
    if scrub.running.replace(true) {
        return;
    }
    scrub.wanted.set(false);
    scrub.bad.set(0);
    scrub.messages_hurt.set(0);
    scrub.findings.borrow_mut().clear();
    *scrub.failed.borrow_mut() = None;
    let outcome = shard
        .store
        .scrub(rate, |progress, findings| {
            scrub.bytes.set(progress.bytes);
            scrub.bytes_total.set(progress.bytes_total);
            scrub.note(shard.id, findings);
        })
        .await;
    match outcome {
        Ok(()) => scrub.rounds.set(scrub.rounds.get() + 1),
        Err(error) => *scrub.failed.borrow_mut() = Some(error.to_string()),
    }
    scrub.running.set(false);
}
