//! What scrubs have found, and is not known to be gone: in memory, and in key space 45 of the
//! shard's log (`f`, JSON), so that a restart forgets none of it.
//!
//! A round puts what it finds beside what earlier ones have; at its end, what it has not seen again
//! is gone. Places are bounded; of what is beyond, the numbers are kept.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use storage::format::{Location, SegmentId};
use storage::store::{Finding, Hurt};
use storage::types::{AccountId, Uid};

/// Findings kept in memory; more are only counted.
const FINDINGS_MAX: usize = 1000;
/// Of a finding, messages that are kept by name.
const HURT_MAX: usize = 1000;
/// And in the log.
const HURT_IN_LOG_MAX: usize = 16;
/// Of all of their words there.
const WORDS_IN_LOG_MAX: usize = 64 << 10;

/// Where a finding is from, and what it says.
type Key = (Option<SegmentId>, String);

#[derive(Debug, Default)]
pub(super) struct Found {
    places: BTreeMap<Key, Known>,
    /// Beyond the bound, of the round that runs or of the last one.
    more_bad: u64,
    more_hurt: u64,
    /// The log does not say so yet.
    is_changed: bool,
}

#[derive(Debug)]
struct Known {
    finding: Finding,
    /// Messages that are not listed in it.
    more_hurt: u64,
    /// By the round that runs.
    is_seen: bool,
}

impl Found {
    /// What is in the log; nothing where that can't be read.
    pub(super) fn of_log(bytes: &[u8]) -> Found {
        let Ok(logged) = serde_json::from_slice::<Logged>(bytes) else { return Found::default() };
        let known = |one: LoggedPlace| {
            let hurt = one.hurt.into_iter().map(|hurt| Hurt {
                account: AccountId(hurt.account),
                mailbox: hurt.mailbox,
                uid: Uid(hurt.uid),
                record: Location { segment: SegmentId(hurt.segment), eighths: hurt.eighths },
            });
            let segment = one.segment.map(SegmentId);
            let finding = Finding { place: one.place, segment, hurt: hurt.collect() };
            let key = (segment, finding.place.clone());
            (key, Known { finding, more_hurt: one.more_hurt, is_seen: one.seen })
        };
        let places = logged.places.into_iter().take(FINDINGS_MAX).map(known).collect();
        let Logged { more_bad, more_hurt, .. } = logged;
        Found { places, more_bad, more_hurt, is_changed: false }
    }

    /// The log could not be told.
    pub(super) fn note_unsaved(&mut self) {
        self.is_changed = true;
    }

    /// For the log; `None`: what it says is true already.
    pub(super) fn changed(&mut self) -> Option<Option<Vec<u8>>> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        if self.bad() == 0 {
            return Some(None);
        }
        let of_log = |known: &Known| {
            let hurt = known.finding.hurt.iter().take(HURT_IN_LOG_MAX).map(|hurt| LoggedHurt {
                account: hurt.account.0,
                mailbox: hurt.mailbox.clone(),
                uid: hurt.uid.0,
                segment: hurt.record.segment.0,
                eighths: hurt.record.eighths,
            });
            LoggedPlace {
                place: known.finding.place.clone(),
                segment: known.finding.segment.map(|segment| segment.0),
                seen: known.is_seen,
                more_hurt: known.hurt() - known.finding.hurt.len().min(HURT_IN_LOG_MAX) as u64,
                hurt: hurt.collect(),
            }
        };
        let mut words = 0;
        let fits = |known: &&Known| {
            let hurt = known.finding.hurt.iter().take(HURT_IN_LOG_MAX);
            words += known.finding.place.len() + hurt.map(|one| one.mailbox.len()).sum::<usize>();
            words <= WORDS_IN_LOG_MAX
        };
        let places: Vec<_> = self.places.values().take_while(fits).map(of_log).collect();
        let behind = || self.places.values().skip(places.len());
        let more_bad = self.more_bad + behind().count() as u64;
        let more_hurt = self.more_hurt + behind().map(Known::hurt).sum::<u64>();
        let logged = Logged { places, more_bad, more_hurt };
        Some(serde_json::to_vec(&logged).ok())
    }

    pub(super) fn bad(&self) -> u64 {
        self.places.len() as u64 + self.more_bad
    }

    pub(super) fn messages_hurt(&self) -> u64 {
        self.places.values().map(Known::hurt).sum::<u64>() + self.more_hurt
    }

    pub(super) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.places.values().map(|known| &known.finding)
    }

    /// Where something is bad.
    pub(super) fn segments(&self) -> BTreeSet<Option<SegmentId>> {
        self.places.keys().map(|(segment, _)| *segment).collect()
    }

    /// A round begins at the beginning.
    pub(super) fn begin_round(&mut self) {
        self.is_changed |= self.bad() > 0;
        (self.more_bad, self.more_hurt) = (0, 0);
        for known in self.places.values_mut() {
            known.is_seen = false;
        }
    }

    /// It has come to its end.
    pub(super) fn end_round(&mut self) {
        let before = self.places.len();
        self.places.retain(|_, known| known.is_seen);
        self.is_changed |= self.places.len() != before;
    }

    /// The round that runs has come by something.
    pub(super) fn add(&mut self, finding: Finding) {
        let known = self.places.get(&key(&finding));
        let is_of_this_round = known.is_some_and(|known| known.is_seen);
        self.put(finding, true, is_of_this_round);
    }

    /// One segment was looked at out of turn.
    pub(super) fn replace(&mut self, segment: Option<SegmentId>, findings: Vec<Finding>) {
        let of_it = |(of, _): &Key| *of == segment;
        let is_seen = self.places.iter().any(|(key, known)| of_it(key) && known.is_seen);
        let before: BTreeSet<Key> = self.places.keys().filter(|key| of_it(key)).cloned().collect();
        self.places.retain(|key, _| !of_it(key));
        self.is_changed |= !before.is_empty();
        for finding in findings {
            let is_again = self.places.contains_key(&key(&finding));
            if !is_again && !before.contains(&key(&finding)) {
                // Most likely one of those of which the number alone was known.
                self.more_bad = self.more_bad.saturating_sub(1);
                self.more_hurt = self.more_hurt.saturating_sub(finding.hurt.len() as u64);
            }
            self.put(finding, is_seen, is_again);
        }
    }

    /// `is_more`: what is known of this place was found just now, too, and hurts other messages.
    fn put(&mut self, finding: Finding, is_seen: bool, is_more: bool) {
        self.is_changed = true;
        let key = key(&finding);
        if self.places.len() >= FINDINGS_MAX && !self.places.contains_key(&key) {
            self.more_bad += 1;
            self.more_hurt += finding.hurt.len() as u64;
            return;
        }
        match self.places.get_mut(&key).filter(|_| is_more) {
            Some(known) => known.hurts(finding.hurt),
            None => {
                let (hurt, nothing) = (finding.hurt, Vec::new());
                let finding = Finding { hurt: nothing, ..finding };
                let mut known = Known { finding, more_hurt: 0, is_seen };
                known.hurts(hurt);
                self.places.insert(key, known);
            }
        }
    }
}

fn key(finding: &Finding) -> Key {
    (finding.segment, finding.place.clone())
}

impl Known {
    fn hurt(&self) -> u64 {
        self.finding.hurt.len() as u64 + self.more_hurt
    }

    fn hurts(&mut self, messages: Vec<Hurt>) {
        for message in messages {
            if self.finding.hurt.len() >= HURT_MAX {
                self.more_hurt += 1;
            } else if !self.finding.hurt.contains(&message) {
                self.finding.hurt.push(message);
            }
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Logged {
    places: Vec<LoggedPlace>,
    more_bad: u64,
    more_hurt: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct LoggedPlace {
    place: String,
    segment: Option<u32>,
    seen: bool,
    hurt: Vec<LoggedHurt>,
    more_hurt: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct LoggedHurt {
    account: u32,
    mailbox: String,
    uid: u32,
    segment: u32,
    eighths: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(segment: u32, place: &str, hurt: usize) -> Finding {
        let segment = SegmentId(segment);
        let record = Location { segment, eighths: 512 };
        let one = |uid| Hurt {
            account: AccountId(7),
            mailbox: "INBOX".to_owned(),
            uid: Uid(uid as u32),
            record,
        };
        let hurt = (1..=hurt).map(one).collect();
        Finding { place: place.to_owned(), segment: Some(segment), hurt }
    }

    fn reopened(found: &mut Found) -> Found {
        let bytes = found.changed().expect("has changed").expect("is not empty");
        Found::of_log(&bytes)
    }

    #[test]
    fn what_was_found_outlives_a_restart_and_the_rest_of_its_round() {
        let mut found = Found::default();
        found.begin_round();
        assert_eq!(found.changed(), None, "a clean store writes nothing");
        found.add(finding(1, "a", 2));
        let mut found = reopened(&mut found);
        assert_eq!((found.bad(), found.messages_hurt()), (1, 2));
        assert_eq!(found.findings().cloned().collect::<Vec<_>>(), [finding(1, "a", 2)]);
        assert_eq!(found.changed(), None);
        // The rest of the round comes by another.
        found.add(finding(3, "b", 0));
        found.end_round();
        assert_eq!((found.bad(), found.messages_hurt()), (2, 2));
        // Another round: nothing goes before it has ended, and nothing counts twice.
        let mut found = reopened(&mut found);
        found.begin_round();
        found.add(finding(3, "b", 1));
        assert_eq!((found.bad(), found.messages_hurt()), (2, 3));
        found.end_round();
        assert_eq!((found.bad(), found.messages_hurt()), (1, 1));
        found.replace(Some(SegmentId(3)), Vec::new());
        assert_eq!(found.changed(), Some(None), "there is nothing to keep");
        assert_eq!(found.changed(), None);
    }

    #[test]
    fn a_segment_that_is_looked_at_out_of_turn_says_what_it_is_now() {
        let mut found = Found::default();
        for (segment, place) in [(1, "a"), (1, "b"), (2, "c")] {
            found.add(finding(segment, place, 1));
        }
        assert_eq!(found.segments().len(), 2);
        found.replace(Some(SegmentId(1)), vec![finding(1, "b", 0)]);
        let places: Vec<&str> = found.findings().map(|one| one.place.as_str()).collect();
        assert_eq!((places, found.messages_hurt()), (vec!["b", "c"], 1));
        found.end_round();
        assert_eq!(found.bad(), 2, "the round that runs had seen it");
    }

    #[test]
    fn a_place_that_hurts_many_messages_may_be_told_one_by_one() {
        let mut found = Found::default();
        let one = |found: &mut Found, uid| {
            let mut finding = finding(1, "a file that is gone", 1);
            finding.hurt[0].uid = Uid(uid);
            found.add(finding);
        };
        (1..=1200).for_each(|uid| one(&mut found, uid));
        one(&mut found, 7);
        assert_eq!(
            (found.bad(), found.messages_hurt()),
            (1, 1201),
            "beyond the bound none is known"
        );
        found.begin_round();
        (1..=3).for_each(|uid| one(&mut found, uid));
        assert_eq!((found.bad(), found.messages_hurt()), (1, 3));
        let again = found.findings().flat_map(|finding| finding.hurt.clone());
        let again = again.map(|hurt| Finding { hurt: vec![hurt], ..finding(1, "again", 0) });
        let again: Vec<_> = again.collect();
        found.replace(Some(SegmentId(1)), again);
        assert_eq!((found.bad(), found.messages_hurt()), (1, 3));
    }

    #[test]
    fn what_the_log_has_no_room_for_counts_once_when_it_is_looked_at_again() {
        let mut found = Found::default();
        let all = || (0..1500).map(|n| finding(1, &format!("{n}{}", "x".repeat(1000)), 1));
        all().for_each(|finding| found.add(finding));
        let mut found = reopened(&mut found);
        assert_eq!((found.bad(), found.messages_hurt()), (1500, 1500));
        found.replace(Some(SegmentId(1)), all().collect());
        assert_eq!((found.bad(), found.messages_hurt()), (1500, 1500));
    }

    #[test]
    fn what_is_beyond_the_bounds_is_counted() {
        let mut found = Found::default();
        let place = "x".repeat(1000);
        for number in 0..1100 {
            found.add(finding(number, &place, 20));
        }
        let numbers = |found: &Found| (found.bad(), found.messages_hurt());
        assert_eq!((numbers(&found), found.findings().count()), ((1100, 22_000), 1000));
        let found = reopened(&mut found);
        assert_eq!((numbers(&found), found.findings().count()), ((1100, 22_000), 60));
        assert_eq!(Found::of_log(b"what is this").bad(), 0);
    }
}
