//! What each message of a core's queue is about to do, and what follows when
//! something happens to it.
//!
//! | what happens | unknown | waits | held | under way |
//! |---|---|---|---|---|
//! | it is found in the store | waits or held | | | |
//! | the sender takes what is due | | under way | | |
//! | an operator says a word | under way | under way | under way | the word is kept |
//! | the word is heeded | | | | no word is kept |
//! | whoever had it is done with it | | | | waits or held |
//! | there is room for it earlier | | waits until now | | |
//! | it has left the queue | | unknown | unknown | unknown |
//!
//! An empty cell: nothing changes. *Under way* is who has a message to himself: a try, or an
//! operator's word that is being carried out. So no message is tried twice at once, what somebody
//! writes of its progress was read by nobody else meanwhile, and what has left does not come back.

use super::message::Progress;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use storage::Uid;

/// When a message is tried next, Unix seconds; `None`: not before it is released.
pub type Next = Option<u64>;

/// What an operator says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    Retry,
    Hold,
    Release,
    Remove,
}

impl Word {
    /// What is left to be heeded when this is said after `before`: what is removed stays removed,
    /// and a retry neither releases nor holds.
    fn after(self, before: Option<Word>) -> Word {
        match (before, self) {
            (Some(Word::Remove), _) => Word::Remove,
            (Some(kept @ (Word::Hold | Word::Release)), Word::Retry) => kept,
            (_, word) => word,
        }
    }

    /// Of [`Word::Remove`] there is nothing to be recorded.
    pub fn apply(self, progress: &mut Progress, now: u64) {
        match self {
            // Not before its sender wants it to leave.
            Word::Retry => progress.next = now.max(progress.start()),
            Word::Hold => progress.held = true,
            Word::Release => progress.release(now),
            Word::Remove => {}
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Waits(u64),
    Held,
    UnderWay(Option<Word>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Found(Next),
    Taken,
    Said(Word),
    Heeded,
    Done(Next),
    Hurried(u64),
    Left,
}

fn resting(next: Next) -> State {
    next.map_or(State::Held, State::Waits)
}

/// The table above; `None` is a message that is not known.
fn follows(state: Option<State>, event: Event) -> Option<State> {
    use Event::{Done, Found, Heeded, Hurried, Left, Said, Taken};
    use State::{Held, UnderWay, Waits};
    match (state, event) {
        (None, Found(next)) | (Some(UnderWay(_)), Done(next)) => Some(resting(next)),
        (Some(Waits(_)), Taken) | (None | Some(Waits(_) | Held), Said(_)) => Some(UnderWay(None)),
        (Some(UnderWay(before)), Said(word)) => Some(UnderWay(Some(word.after(before)))),
        (Some(UnderWay(_)), Heeded) => Some(UnderWay(None)),
        (Some(Waits(at)), Hurried(now)) => Some(Waits(at.min(now))),
        (_, Left) => None,
        (None, Taken | Heeded | Done(_) | Hurried(_))
        | (Some(Waits(_)), Found(_) | Heeded | Done(_))
        | (Some(Held), Found(_) | Taken | Heeded | Done(_) | Hurried(_))
        | (Some(UnderWay(_)), Found(_) | Taken | Hurried(_)) => state,
    }
}

/// A state and the tries so far, in five octets without alignment: there may be a million of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    /// Unix seconds, or one of the highest numbers.
    what: [u8; 4],
    tries: u8,
}

const HELD: u32 = u32::MAX;
/// Under way; below it those with a word, in the order of [`WORDS`].
const UNDER_WAY: u32 = HELD - 1;
const WORDS: [Word; 4] = [Word::Retry, Word::Hold, Word::Release, Word::Remove];
/// In the year 2106.
const LAST_SECOND: u32 = UNDER_WAY - WORDS.len() as u32 - 1;

fn seconds(at: u64) -> u32 {
    u32::try_from(at).map_or(LAST_SECOND, |at| at.min(LAST_SECOND))
}

impl Slot {
    fn new(state: State, tries: u8) -> Slot {
        let what = match state {
            State::Waits(at) => seconds(at),
            State::Held => HELD,
            State::UnderWay(None) => UNDER_WAY,
            State::UnderWay(Some(word)) => UNDER_WAY - 1 - word as u32,
        };
        Slot { what: what.to_le_bytes(), tries }
    }

    fn state(self) -> State {
        match u32::from_le_bytes(self.what) {
            HELD => State::Held,
            UNDER_WAY => State::UnderWay(None),
            at if at <= LAST_SECOND => State::Waits(u64::from(at)),
            word => State::UnderWay(Some(WORDS[(UNDER_WAY - 1 - word) as usize])),
        }
    }
}

/// All of them, and in which order they are due.
#[derive(Debug, Default)]
pub struct States {
    of: BTreeMap<Uid, Slot>,
    /// Those that wait, by the second.
    due: BTreeSet<(u32, Uid)>,
    under_way: usize,
}

impl States {
    pub fn state(&self, uid: Uid) -> Option<State> {
        self.of.get(&uid).map(|slot| slot.state())
    }

    /// Tries that came to nothing, 255 at most.
    pub fn tries(&self, uid: Uid) -> u32 {
        self.of.get(&uid).map_or(0, |slot| u32::from(slot.tries))
    }

    pub fn set_tries(&mut self, uid: Uid, tries: u32) {
        if let Some(slot) = self.of.get_mut(&uid) {
            slot.tries = u8::try_from(tries).unwrap_or(u8::MAX);
        }
    }

    /// What it was before.
    pub fn apply(&mut self, uid: Uid, event: Event) -> Option<State> {
        let slot = self.of.get(&uid).copied();
        let before = slot.map(Slot::state);
        let after = follows(before, event);
        if before == after {
            return before;
        }
        match before {
            Some(State::Waits(at)) => drop(self.due.remove(&(seconds(at), uid))),
            Some(State::UnderWay(_)) => self.under_way -= 1,
            Some(State::Held) | None => {}
        }
        match after {
            Some(State::Waits(at)) => drop(self.due.insert((seconds(at), uid))),
            Some(State::UnderWay(_)) => self.under_way += 1,
            Some(State::Held) | None => {}
        }
        match after {
            Some(state) => {
                let tries = slot.map_or(0, |slot| slot.tries);
                self.of.insert(uid, Slot::new(state, tries));
            }
            None => drop(self.of.remove(&uid)),
        }
        before
    }

    /// Takes at most `count` messages that are due.
    pub fn take_due(&mut self, now: u64, count: usize) -> Vec<Uid> {
        let due = self.due.iter().take_while(|(at, _)| u64::from(*at) <= now);
        let taken: Vec<Uid> = due.take(count).map(|(_, uid)| *uid).collect();
        for uid in &taken {
            self.apply(*uid, Event::Taken);
        }
        taken
    }

    pub fn count(&self) -> usize {
        self.of.len()
    }

    pub fn under_way(&self) -> usize {
        self.under_way
    }

    pub fn is_under_way(&self, uid: Uid) -> bool {
        matches!(self.state(uid), Some(State::UnderWay(_)))
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| u64::from(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{Done, Found, Heeded, Hurried, Left, Said, Taken};
    use State::{Held, UnderWay, Waits};

    #[test]
    fn a_state_and_its_tries_fit_five_octets() {
        let words = WORDS.map(Some).into_iter().chain([None]).map(UnderWay);
        let times = [0, 1_764_000_000, u64::from(LAST_SECOND)].map(Waits);
        for state in words.chain(times).chain([Held]) {
            assert_eq!(Slot::new(state, 7).state(), state);
        }
        assert_eq!(Slot::new(Waits(u64::MAX), 0).state(), Waits(u64::from(LAST_SECOND)));
        assert_eq!(size_of::<(Slot, Slot)>(), 10);
    }

    #[test]
    fn tries_are_counted_whatever_happens_until_it_has_left() {
        let mut states = States::default();
        states.set_tries(Uid(1), 3);
        assert_eq!(states.tries(Uid(1)), 0, "it is not known");
        states.apply(Uid(1), Found(Some(20)));
        states.set_tries(Uid(1), 3);
        for event in
            [Taken, Said(Word::Hold), Heeded, Done(None), Said(Word::Release), Done(Some(9))]
        {
            states.apply(Uid(1), event);
            assert_eq!(states.tries(Uid(1)), 3, "{event:?}");
        }
        states.set_tries(Uid(1), 1000);
        assert_eq!(states.tries(Uid(1)), 255);
        states.apply(Uid(1), Left);
        assert_eq!(states.tries(Uid(1)), 0);
    }

    #[test]
    fn every_cell_of_the_table() {
        const UNKNOWN: Option<State> = None;
        let waits = Some(Waits(20));
        let under_way = Some(UnderWay(None));
        let told = Some(UnderWay(Some(Word::Hold)));
        for (event, from_unknown, from_waits, from_held, from_under_way, from_told) in [
            (Found(Some(9)), Some(Waits(9)), waits, Some(Held), under_way, told),
            (Found(None), Some(Held), waits, Some(Held), under_way, told),
            (Taken, UNKNOWN, under_way, Some(Held), under_way, told),
            (Said(Word::Hold), under_way, under_way, under_way, told, told),
            (Heeded, UNKNOWN, waits, Some(Held), under_way, under_way),
            (Done(Some(9)), UNKNOWN, waits, Some(Held), Some(Waits(9)), Some(Waits(9))),
            (Done(None), UNKNOWN, waits, Some(Held), Some(Held), Some(Held)),
            (Hurried(10), UNKNOWN, Some(Waits(10)), Some(Held), under_way, told),
            (Hurried(30), UNKNOWN, waits, Some(Held), under_way, told),
            (Left, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
        ] {
            for (state, expected) in [
                (UNKNOWN, from_unknown),
                (waits, from_waits),
                (Some(Held), from_held),
                (under_way, from_under_way),
                (told, from_told),
            ] {
                assert_eq!(follows(state, event), expected, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn words_add_up() {
        for (before, said, left) in [
            (Word::Remove, Word::Hold, Word::Remove),
            (Word::Remove, Word::Retry, Word::Remove),
            (Word::Hold, Word::Retry, Word::Hold),
            (Word::Hold, Word::Release, Word::Release),
            (Word::Release, Word::Retry, Word::Release),
            (Word::Release, Word::Hold, Word::Hold),
            (Word::Retry, Word::Hold, Word::Hold),
            (Word::Hold, Word::Remove, Word::Remove),
        ] {
            assert_eq!(said.after(Some(before)), left, "{before:?}, then {said:?}");
        }
        for word in WORDS {
            assert_eq!(word.after(None), word);
        }
    }

    #[test]
    fn words_change_what_is_recorded() {
        for (word, held, next, is_held) in [
            (Word::Retry, false, 50, false),
            (Word::Retry, true, 50, true),
            (Word::Hold, false, 90, true),
            (Word::Release, true, 50, false),
        ] {
            let mut progress = Progress { held, next: 90, ..Progress::default() };
            word.apply(&mut progress, 50);
            assert_eq!((progress.next, progress.held), (next, is_held), "{word:?}");
        }
    }

    #[test]
    fn what_is_due_first_comes_first_and_only_once() {
        let mut states = States::default();
        states.apply(Uid(1), Found(Some(20)));
        states.apply(Uid(2), Found(Some(10)));
        states.apply(Uid(3), Found(None));
        assert_eq!((states.count(), states.next_due()), (3, Some(10)));
        assert_eq!(states.take_due(9, 10), []);
        assert_eq!(states.take_due(25, 1), [Uid(2)]);
        assert_eq!(states.take_due(25, 9), [Uid(1)]);
        assert_eq!(states.take_due(25, 9), []);
        assert_eq!((states.under_way(), states.next_due()), (2, None));
        states.apply(Uid(2), Left);
        assert_eq!((states.count(), states.under_way()), (2, 1));
    }

    /// Two operators and a sender, in any order: at no time do two of them have a message, and
    /// nothing that was said is forgotten.
    #[test]
    fn whatever_happens_the_order_and_the_counts_agree_with_the_states() {
        let mut states = States::default();
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let pick = |from: u32, of: u64| (seed >> from) % of;
            let uid = Uid(u32::try_from(pick(20, 6)).unwrap());
            let next = (pick(25, 4) > 0).then_some(pick(30, 50));
            let word = WORDS[usize::try_from(pick(35, 4)).unwrap()];
            let event = match pick(40, 7) {
                0 => Found(next),
                1 => {
                    let taken = states.take_due(pick(45, 50), 2);
                    assert!(taken.iter().all(|uid| states.is_under_way(*uid)));
                    continue;
                }
                2 => Said(word),
                3 => Heeded,
                4 => Done(next),
                5 => Hurried(pick(45, 50)),
                _ => Left,
            };
            let before = states.apply(uid, event);
            if let (Some(UnderWay(_)), Said(_)) = (before, event) {
                assert!(matches!(states.state(uid), Some(UnderWay(Some(_)))));
            }
            let due = states.of.iter().filter_map(|(uid, slot)| match slot.state() {
                Waits(at) => Some((seconds(at), *uid)),
                Held | UnderWay(_) => None,
            });
            assert_eq!(due.collect::<BTreeSet<_>>(), states.due);
            let under_way = states.of.values().filter(|slot| matches!(slot.state(), UnderWay(_)));
            assert_eq!(under_way.count(), states.under_way);
        }
    }
}
