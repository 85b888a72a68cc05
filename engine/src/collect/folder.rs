//! One visit to a folder over IMAP: what is asked of the client machine next. Without
//! sockets, clock or disk.
//!
//! SELECT, SEARCH, sizes of what is not known, then what is due is flagged and expunged, then each
//! message is read and filed, and only then flagged and expunged where it is not to be left.

use super::ledger::{Leave, Listed, uid_id};
use super::round::Round;
use protocols::imap::client::{Message, Next, Opened};
use protocols::imap::flags::FlagBits;
use std::collections::{BTreeMap, VecDeque};

/// Messages whose size is asked for at once, and that are deleted at once.
const SURVEYED_MAX: usize = 500;
const DELETED_MAX: usize = 100;
/// What is to be known of a server without UIDPLUS.
pub const CANNOT_EXPUNGE: &str = "the server can't remove single messages (no UIDPLUS): what was to be deleted is only marked as deleted";

#[derive(Debug)]
pub struct Folder {
    pub round: Round,
    wire_name: Vec<u8>,
    stage: Stage,
    uid_validity: u32,
    found: Vec<u32>,
    sizes: BTreeMap<u32, u64>,
    deleting: Vec<Listed>,
    /// The server can't expunge single messages: they are flagged alone.
    pub cannot_expunge: bool,
}

#[derive(Debug)]
enum Stage {
    Open,
    Search,
    /// Ranges of UIDs.
    Survey(VecDeque<(u32, u32)>),
    Work,
    /// UIDs of [`Folder::deleting`].
    Flagged(Vec<(u32, u32)>),
    Expunged,
}

impl Folder {
    pub fn new(wire_name: Vec<u8>, round: Round) -> Folder {
        Folder {
            round,
            wire_name,
            stage: Stage::Open,
            uid_validity: 0,
            found: Vec::new(),
            sizes: BTreeMap::new(),
            deleting: Vec::new(),
            cannot_expunge: false,
        }
    }

    /// What is asked next. `None`: nothing more in this folder. `is_over`: no more
    /// messages are read.
    pub fn next(&mut self, is_over: bool) -> Option<Next> {
        match &mut self.stage {
            Stage::Open => {
                let read_only = self.round.policy.leave == Leave::Forever;
                Some(Next::Open { wire_name: self.wire_name.clone(), read_only })
            }
            Stage::Search => Some(Next::Search { first: 1 }),
            Stage::Survey(ranges) => match ranges.pop_front() {
                Some((first, last)) => Some(Next::Survey { first, last }),
                None => {
                    self.sort();
                    self.next(is_over)
                }
            },
            Stage::Work => self.next_message(is_over),
            Stage::Flagged(uids) => {
                let uids = std::mem::take(uids);
                self.stage = Stage::Expunged;
                Some(Next::Expunge { uids })
            }
            Stage::Expunged => None,
        }
    }

    fn next_message(&mut self, is_over: bool) -> Option<Next> {
        let is_over = is_over || self.round.is_over();
        let is_last = is_over || self.round.work.retrieve.is_empty();
        let waiting = self.round.work.delete.len();
        if waiting >= DELETED_MAX || (is_last && waiting > 0) {
            let some = self.round.work.delete.drain(..waiting.min(DELETED_MAX));
            self.deleting = some.collect();
            let mut uids: Vec<u32> = self.deleting.iter().map(|one| one.handle).collect();
            uids.sort_unstable();
            let uids: Vec<(u32, u32)> = runs(&uids);
            self.stage = Stage::Flagged(uids.clone());
            return Some(Next::Flag { uids, flags: FlagBits::DELETED });
        }
        self.round.current = None;
        if is_last {
            self.round.counts.more = !self.round.work.retrieve.is_empty();
            return None;
        }
        let one = self.round.work.retrieve.pop_front()?;
        self.round.left -= 1;
        let uid = one.handle;
        self.round.current = Some(one);
        Some(Next::Fetch { uid, octets_max: self.round.policy.octets_max })
    }

    pub fn opened(&mut self, opened: &Opened) {
        self.uid_validity = opened.uid_validity;
        self.stage = Stage::Search;
    }

    /// All UIDs there are.
    pub fn found(&mut self, uids: Vec<u32>) {
        self.round.ledger.set_epoch(self.uid_validity);
        let is_unknown =
            |uid: &&u32| !self.round.ledger.is_known(&uid_id(self.uid_validity, **uid));
        let unknown: Vec<u32> = uids.iter().filter(is_unknown).copied().collect();
        let ranges =
            unknown.chunks(SURVEYED_MAX).filter_map(|some| Some((*some.first()?, *some.last()?)));
        self.stage = Stage::Survey(ranges.collect());
        self.found = uids;
    }

    /// One of a survey, which names also those in between.
    pub fn surveyed(&mut self, message: &Message) {
        if let Some(octets) = message.octets {
            self.sizes.insert(message.uid, octets);
        }
    }

    fn sort(&mut self) {
        let listed = |uid: u32| Listed {
            id: uid_id(self.uid_validity, uid),
            handle: uid,
            octets: self.sizes.get(&uid).copied(),
            repeated: false,
        };
        let all = std::mem::take(&mut self.found).into_iter().map(listed).collect();
        self.round.sort(all);
        self.stage = Stage::Work;
    }

    /// What was asked for has gone meanwhile.
    pub fn has_gone(&mut self) {
        self.round.current = None;
    }

    /// What has nothing to tell is done.
    pub fn completed(&mut self) {
        if matches!(self.stage, Stage::Expunged) {
            self.round.counts.deleted += self.deleting.len() as u64;
            let now = self.round.now;
            self.deleting.drain(..).for_each(|one| self.round.ledger.deleted(&one.id, now));
            self.stage = Stage::Work;
        }
    }

    /// The server does not do this. False: nothing of the folder can be had.
    pub fn withheld(&mut self) -> bool {
        match self.stage {
            Stage::Open | Stage::Search | Stage::Survey(_) => return false,
            Stage::Expunged => {
                self.cannot_expunge = true;
                self.deleting.drain(..).for_each(|one| self.round.ledger.stays(&one.id));
            }
            Stage::Flagged(_) => {
                self.round.counts.withheld += self.deleting.len() as u64;
                self.deleting.clear();
            }
            Stage::Work => {
                self.round.passed_over();
            }
        }
        self.stage = Stage::Work;
        true
    }
}

/// Ranges of an ascending sequence.
fn runs(uids: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &uid in uids {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(uid) => *last = uid,
            _ => runs.push((uid, uid)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn uids_are_named_in_ranges() {
        assert_eq!(runs(&[1, 2, 3, 7, 9, 10]), [(1, 3), (7, 7), (9, 10)]);
        assert_eq!(runs(&[]), []);
    }
}
