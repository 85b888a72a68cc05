//! The scrub of one core: round after round in the background, within its share of the disk, or at
//! once when an operator asks for it. What it finds is logged once, counted, and kept for
//! `kura store scrub`.
//!
//! How far a round is, and when it began, is in key space 45 of the shard's log (`p`:
//! [`Kept`], JSON): on a large disk a round takes weeks, and a host that is restarted now and
//! then would begin with the oldest mail again and again. For the same reason what was found
//! is there, too ([`found`]). It is looked at again, out of turn, at each start and when some
//! of it is seen to have gone.

mod found;

use self::found::Found;
use crate::operations::unix_now;
use crate::shard::{Disk, Shard};
use bytes::Bytes;
use futures_lite::future::or;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};
use storage::Store;
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
const FOUND: &[u8] = b"f";
/// How often to look whether something that was found has gone.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(5);
/// Places that the log has told of, so that it does not do so in each round.
const TOLD_MAX: usize = 1000;

/// What the scrub of this core has seen since the server started, and what was bad before.
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
    found: RefCell<Found>,
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
    /// With what earlier runs of the server have found.
    pub fn new(store: &Store<Disk>) -> Scrub {
        let found = store.get(SPACE, FOUND).map(|bytes| Found::of_log(&bytes)).unwrap_or_default();
        Scrub { found: RefCell::new(found), ..Scrub::default() }
    }

    /// A round from now on, or behind the rest of one; one that runs already counts.
    pub fn begin(&self) {
        if !self.running.get() || self.is_rest.get() {
            self.wanted.set(true);
            // Of this round, from now on.
            self.bytes.set(0);
        }
    }

    pub fn counts(&self) -> ScrubCounts {
        let found = self.found.borrow();
        let (bad, messages_hurt) = (found.bad(), found.messages_hurt());
        ScrubCounts { rounds: self.rounds.get(), bad, messages_hurt }
    }

    pub fn status(&self) -> Value {
        let found = self.found.borrow();
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
            "bad": found.bad(),
            "messages_hurt": found.messages_hurt(),
            "findings": found.findings().map(row).collect::<Vec<_>>(),
            "failed": *self.failed.borrow(),
        })
    }

    fn tell(&self, shard: u16, findings: &[Finding]) {
        let mut told = self.told.borrow_mut();
        for finding in findings {
            if told.len() < TOLD_MAX && told.insert(finding.place.clone()) {
                let (place, messages) = (&finding.place, finding.hurt.len());
                tracing::error!(shard, place, messages, "scrub: this does not verify");
            }
        }
    }
}

/// How far a round is: what outlives a restart.
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

    fn pair(self) -> (Bytes, Option<Bytes>) {
        let value = Bytes::from(serde_json::to_vec(&self).unwrap_or_default());
        (Bytes::from_static(PROGRESS), Some(value))
    }
}

/// How far the round is and what has been found, in one record: what is before the former is in the
/// latter. A store that takes nothing has other troubles than a round that begins anew.
async fn save(shard: &Shard, kept: Option<Kept>) {
    let found = shard.scrub.found.borrow_mut().changed();
    let found = found.map(|found| (Bytes::from_static(FOUND), found.map(Bytes::from)));
    let has_found = found.is_some();
    let pairs: Vec<_> = kept.map(Kept::pair).into_iter().chain(found).collect();
    if pairs.is_empty() {
        return;
    }
    if let Err(error) = shard.store.put(SPACE, pairs).await {
        if has_found {
            shard.scrub.found.borrow_mut().note_unsaved();
        }
        tracing::debug!(shard = shard.id, %error, "how far the scrub is could not be noted");
    }
}

/// Until the core stops. A round that an operator waits for is held to the share like any other.
pub async fn run(shard: Rc<Shard>) {
    // A task of its own: a timer that is waited for beside a round is entered anew at
    // each of its steps.
    let beside = Rc::clone(&shard);
    glommio::spawn_local(async move { look_again(&beside).await }).detach();
    rounds(&shard).await;
}

async fn rounds(shard: &Rc<Shard>) {
    if Kept::load(shard).is_none() {
        // The first is due in a day, however often the host is restarted meanwhile.
        save(shard, Some(Kept { begun: unix_now(), next: None })).await;
    }
    let mut last: Option<Instant> = None;
    while !shard.has_stopped() {
        let is_wanted = shard.scrub.wanted.get();
        // One that failed is not tried again and again.
        let may_begin = last.is_none_or(|last| last.elapsed() >= ROUND_EVERY);
        let kept = Kept::load(shard).filter(|kept| may_begin && kept.is_due(unix_now()));
        if !is_wanted && kept.is_none() {
            glommio::timer::sleep(LOOK_EVERY).await;
            continue;
        }
        last = Some(Instant::now());
        let rate = Some(shard.scrub_bytes_per_second());
        let unfinished = kept.filter(|kept| !is_wanted && kept.next.is_some());
        or(walk(shard, unfinished, rate), note(shard)).await;
    }
}

/// What was found is true for no longer than it is there: a message may be expunged, a segment
/// compacted, and before a start everything may have been mended.
async fn look_again(shard: &Rc<Shard>) {
    let scrub = &shard.scrub;
    let ScrubCounts { bad, messages_hurt, .. } = scrub.counts();
    if bad > 0 {
        let what = "scrub: found before this start, and looked at again now";
        tracing::warn!(shard = shard.id, bad, messages_hurt, "{what}");
    }
    let mut stale = scrub.found.borrow().segments();
    let mut checkpoint = shard.store.checkpoint();
    while !shard.has_stopped() {
        for segment in std::mem::take(&mut stale) {
            let rate = Some(shard.scrub_bytes_per_second());
            match shard.store.scrub_again(segment, rate).await {
                Ok(findings) => {
                    scrub.tell(shard.id, &findings);
                    scrub.found.borrow_mut().replace(segment, findings);
                }
                Err(error) => {
                    tracing::debug!(shard = shard.id, %error, "scrub: not looked at again")
                }
            }
        }
        save(shard, None).await;
        glommio::timer::sleep(LOOK_AGAIN_EVERY).await;
        let found = scrub.found.borrow();
        let changed = found.findings().filter(|finding| shard.store.has_changed(finding));
        stale = changed.map(|finding| finding.segment).collect();
        if std::mem::replace(&mut checkpoint, shard.store.checkpoint()) != checkpoint {
            // What was bad of an earlier one has most likely been removed.
            stale.extend(found.findings().map(|finding| finding.segment).filter(Option::is_none));
        }
    }
}

/// While a round is under way.
async fn note(shard: &Rc<Shard>) {
    let mut noted = None;
    loop {
        glommio::timer::sleep(NOTE_EVERY).await;
        let kept = shard.scrub.under_way.get().filter(|kept| noted != Some(*kept));
        if let Some(kept) = kept {
            save(shard, Some(kept)).await;
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
    if from.is_none() {
        scrub.found.borrow_mut().begin_round();
    }
    *scrub.failed.borrow_mut() = None;
    let outcome = shard
        .store
        .scrub_from(from.map(SegmentId), rate, |progress, findings| {
            let next = progress.next.map(|segment| segment.0);
            scrub.under_way.set(next.map(|next| Kept { begun, next: Some(next) }));
            scrub.bytes.set(progress.bytes);
            scrub.bytes_total.set(progress.bytes_total);
            scrub.tell(shard.id, &findings);
            findings.into_iter().for_each(|finding| scrub.found.borrow_mut().add(finding));
        })
        .await;
    scrub.under_way.set(None);
    match outcome {
        Ok(()) => {
            scrub.rounds.set(scrub.rounds.get() + 1);
            scrub.whole_rounds.set(scrub.whole_rounds.get() + u64::from(from.is_none()));
            scrub.found.borrow_mut().end_round();
            save(shard, Some(Kept { begun, next: None })).await;
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
