//! The scrub of one core: round after round in the background, within its share of the disk, or at once
//! when an operator asks for it. What it finds is logged once, counted, and kept for `kura store scrub`.
//!
//! How far a round is, and when it began, is in key space 45 of the shard's log (`p`: [`Kept`], JSON): on a large disk a round takes
//! weeks, and a host that is restarted now and then would begin with the oldest mail again and again.

use crate::operations::unix_now;
use crate::shard::Shard;
use bytes::Bytes;
use futures_lite::future::or;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};
use storage::format::SegmentId;
use storage::store::{Finding, Space};

/// Between the starts of two rounds, where the share is large enough for that: bits rot over years.
const ROUND_EVERY: Duration = Duration::from_secs(86_400);
/// How often to look whether a round is due, or wanted.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a round that is under way is noted.
const NOTE_EVERY: Duration = Duration::from_secs(2);
pub const SPACE: Space = Space(45);
const PROGRESS: &[u8] = b"p";
/// Findings kept in memory; more are only counted.
const FINDINGS_MAX: usize = 1000;

/// What the scrub of this core has seen since the server started.
#[derive(Debug, Default)]
pub struct Scrub {
    wanted: Cell<bool>,
    running: Cell<bool>,
    /// What runs is the rest of a round of before a restart.
    is_rest: Cell<bool>,
    under_way: Cell<Option<Kept>>,
    rounds: Cell<u64>,
    /// Of these, from beginning to end.
    whole_rounds: Cell<u64>,
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
    /// A round from now on, or behind the rest of one; one that runs already counts.
    pub fn begin(&self) {
        if !self.running.get() || self.is_rest.get() {
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
            "whole": (self.running.get() && !self.is_rest.get()) || self.wanted.get(),
            "rounds": self.rounds.get(),
            "whole_rounds": self.whole_rounds.get(),
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

/// What outlives a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// When the last round began, Unix seconds.
    begun: u64,
    /// The segment that it has still to begin with; none: it came to its end.
    next: Option<u32>,
}

impl Kept {
    /// A clock that was far ahead when the last one began must not put off the next for so long.
    fn is_due(&self, now: u64) -> bool {
        let every = ROUND_EVERY.as_secs();
        self.next.is_some() || now.saturating_sub(self.begun) >= every || self.begun > now + every
    }

    fn load(shard: &Shard) -> Option<Kept> {
        serde_json::from_slice(&shard.store.get(SPACE, PROGRESS)?).ok()
    }

    /// A store that takes nothing has other troubles than a round that begins anew.
    async fn save(self, shard: &Shard) {
        let value = Bytes::from(serde_json::to_vec(&self).unwrap_or_default());
        let pairs = vec![(Bytes::from_static(PROGRESS), Some(value))];
        if let Err(error) = shard.store.put(SPACE, pairs).await {
            tracing::debug!(shard = shard.id, %error, "how far the scrub is could not be noted");
        }
    }
}

/// Until the core stops. A round that an operator waits for is held to the share like any other.
pub async fn run(shard: Rc<Shard>) {
    if Kept::load(&shard).is_none() {
        // The first is due in a day, however often the host is restarted meanwhile.
        Kept { begun: unix_now(), next: None }.save(&shard).await;
    }
    let mut last: Option<Instant> = None;
    while !shard.has_stopped() {
        let is_wanted = shard.scrub.wanted.get();
        // One that failed is not tried again and again.
        let may_begin = last.is_none_or(|last| last.elapsed() >= ROUND_EVERY);
        let kept = Kept::load(&shard).filter(|kept| may_begin && kept.is_due(unix_now()));
        if !is_wanted && kept.is_none() {
            glommio::timer::sleep(LOOK_EVERY).await;
            continue;
        }
        last = Some(Instant::now());
        let rate = Some(shard.scrub_bytes_per_second());
        let unfinished = kept.filter(|kept| !is_wanted && kept.next.is_some());
        or(walk(&shard, unfinished, rate), note(&shard)).await;
    }
}

/// While a round is under way.
async fn note(shard: &Rc<Shard>) {
    let mut noted = None;
    loop {
        glommio::timer::sleep(NOTE_EVERY).await;
        let kept = shard.scrub.under_way.get().filter(|kept| noted != Some(*kept));
        if let Some(kept) = kept {
            kept.save(shard).await;
            noted = Some(kept);
        }
    }
}

/// One round over this core's store; `None`: as fast as the disk goes.
pub async fn round(shard: &Rc<Shard>, rate: Option<u64>) {
    walk(shard, None, rate).await;
}

/// A round, or the rest of one.
async fn walk(shard: &Rc<Shard>, unfinished: Option<Kept>, rate: Option<u64>) {
    let scrub = &shard.scrub;
    if scrub.running.replace(true) {
        return;
    }
    scrub.wanted.set(false);
    let begun = unfinished.map_or_else(unix_now, |kept| kept.begun);
    let from = unfinished.and_then(|kept| kept.next);
    scrub.is_rest.set(from.is_some());
    scrub.bad.set(0);
    scrub.messages_hurt.set(0);
    scrub.findings.borrow_mut().clear();
    *scrub.failed.borrow_mut() = None;
    let outcome = shard
        .store
        .scrub_from(from.map(SegmentId), rate, |progress, findings| {
            let next = progress.next.map(|segment| segment.0);
            scrub.under_way.set(next.map(|next| Kept { begun, next: Some(next) }));
            scrub.bytes.set(progress.bytes);
            scrub.bytes_total.set(progress.bytes_total);
            scrub.note(shard.id, findings);
        })
        .await;
    scrub.under_way.set(None);
    match outcome {
        Ok(()) => {
            scrub.rounds.set(scrub.rounds.get() + 1);
            scrub.whole_rounds.set(scrub.whole_rounds.get() + u64::from(from.is_none()));
            Kept { begun, next: None }.save(shard).await;
        }
        Err(error) => *scrub.failed.borrow_mut() = Some(error.to_string()),
    }
    scrub.running.set(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_due_a_day_after_the_last_or_where_that_was_broken_off() {
        let now = 1_800_000_000;
        let ended = |begun| Kept { begun, next: None };
        assert!(!ended(now).is_due(now));
        assert!(!ended(now - 86_399).is_due(now));
        assert!(ended(now - 86_400).is_due(now));
        assert!(Kept { begun: now, next: Some(7) }.is_due(now));
        assert!(!ended(now + 60).is_due(now), "a clock that was put back a little");
        assert!(ended(now + 365 * 86_400).is_due(now), "a clock that was a year ahead");
    }
}
