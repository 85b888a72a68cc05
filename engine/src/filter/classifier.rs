//! What has been learned from mail that people have sorted: a linear classifier over hashed tokens.
//!
//! AROW (Crammer, Kulesza, Dredze: Adaptive Regularization of Weight Vectors, NIPS 2009). Each slot
//! has a weight and how unsure it is of it; what is seen often moves little, what is new moves
//! much. One look at each message is enough, in any order, and a single message that was sorted by
//! mistake does little harm.
//!
//! Beside it, for each slot, how many messages of either kind had it: the mean of the most telling
//! ones' log odds, as in a Bayesian filter. It errs elsewhere than AROW does, which looks at words
//! together: on the training half of the corpus (benches/README.md) both together lose a third
//! fewer wanted messages at 95 % recall than AROW alone.
//!
//! The table has a fixed size. Tokens that share a slot disturb each other; with some hundred
//! thousand slots and a few thousand tokens to a message, that is noise. Shard 0 learns and keeps;
//! every core has a copy to read, and is told the slots that a message has changed.

use super::Hit;
use super::tokens::Tokens;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// 3 MiB of weights, doubts and counts on each core.
pub const SLOTS: usize = 1 << 18;
const _: () = assert!(SLOTS.is_power_of_two());
/// How slowly it learns: AROW's r.
const PATIENCE: f32 = 0.03;
/// What a margin of 1 is worth, near zero, and what none exceeds; between them the curve bends, so
/// that of two messages the worse one always has more. With the rules' points and `junk_at` at 5
/// this finds nine of ten spams for one or two wanted messages in a thousand (benches/README.md).
const POINTS: f64 = 10.0;
const POINTS_MAX: f64 = 8.0;
/// What a log odds of 1 adds to the margin.
const ODDS_SHARE: f64 = 0.15;
/// So many slots, the most telling ones of a message, have a say in its odds; fewer are as if the
/// rest told nothing.
const TELLING_MAX: usize = 150;
const TELLING_MIN: usize = 30;
/// A slot that was seen in one kind alone may be seen in the other, too: as if it had been, in
/// so many messages.
const UNSEEN: f64 = 0.05;
/// Messages of a kind that are counted; then all counts are halved, and what is old weighs less.
const COUNTED_MAX: u64 = 60_000;
const _: () = assert!(COUNTED_MAX < u16::MAX as u64);
/// How it is called among the rules.
pub const RULE: &str = "CLASSIFIER";
/// Of each kind, before it says anything.
pub const LEARNED_MIN: u64 = 20;

/// What a message is, as people have said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    Wanted,
    Spam,
}

impl Class {
    fn other(self) -> Class {
        match self {
            Class::Wanted => Class::Spam,
            Class::Spam => Class::Wanted,
        }
    }
}

/// One slot as it is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    pub at: u32,
    pub weight: f32,
    pub doubt: f32,
    /// Messages of either kind that had it.
    pub wanted: u16,
    pub spam: u16,
}

/// How many messages there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub learned_wanted: u64,
    pub learned_spam: u64,
    /// Those that the counts are of: fewer, where a table is from a time before there were counts,
    /// or they were halved.
    pub counted_wanted: u64,
    pub counted_spam: u64,
}

#[derive(Debug, Clone)]
pub struct Classifier {
    weights: Box<[f32]>,
    /// 1 for a slot that nothing is known of, falling towards 0.
    doubts: Box<[f32]>,
    wanted: Box<[u16]>,
    spam: Box<[u16]>,
    pub totals: Totals,
}

impl Default for Classifier {
    fn default() -> Classifier {
        Classifier {
            weights: vec![0.0; SLOTS].into(),
            doubts: vec![1.0; SLOTS].into(),
            wanted: vec![0; SLOTS].into(),
            spam: vec![0; SLOTS].into(),
            totals: Totals::default(),
        }
    }
}

fn slots(tokens: &Tokens) -> impl Iterator<Item = usize> + '_ {
    tokens.0.iter().map(|token| slot_of(*token))
}

/// Tokens are in order, so those that share a slot are neighbours: a message counts once there.
fn distinct_slots(tokens: &Tokens) -> impl Iterator<Item = usize> + '_ {
    let mut before = usize::MAX;
    slots(tokens).filter(move |&at| std::mem::replace(&mut before, at) != at)
}

fn slot_of(token: u32) -> usize {
    usize::try_from(token >> (u32::BITS - SLOTS.trailing_zeros())).unwrap_or(0)
}

impl Classifier {
    /// Positive: spam; beyond 1 on either side it is sure. `None`: it has learned too little.
    pub fn margin(&self, tokens: &Tokens) -> Option<f64> {
        if self.totals.learned_wanted.min(self.totals.learned_spam) < LEARNED_MIN {
            return None;
        }
        Some(f64::from(self.sum(tokens)) + ODDS_SHARE * self.odds(tokens))
    }

    /// The share of all messages, counted so far, that have this token; 0, while
    /// nothing was counted.
    pub(super) fn frequency(&self, token: u32) -> f32 {
        let at = slot_of(token);
        let seen = f32::from(self.wanted[at]) + f32::from(self.spam[at]);
        seen / (self.totals.counted_wanted + self.totals.counted_spam).max(1) as f32
    }

    fn sum(&self, tokens: &Tokens) -> f32 {
        let sum: f32 = slots(tokens).map(|at| self.weights[at]).sum();
        sum * scale(tokens)
    }

    /// The mean log odds of what is most telling; 0 as long as too little was counted.
    fn odds(&self, tokens: &Tokens) -> f64 {
        let (wanted, spam) = (self.totals.counted_wanted, self.totals.counted_spam);
        if wanted.min(spam) < LEARNED_MIN {
            return 0.0;
        }
        let rate = |seen: u16, of: u64| (f64::from(seen) + UNSEEN) / (of as f64 + 2.0 * UNSEEN);
        let known = slots(tokens).filter(|&at| self.wanted[at] > 0 || self.spam[at] > 0);
        let odds = |at: usize| (rate(self.spam[at], spam) / rate(self.wanted[at], wanted)).ln();
        let mut all: Vec<f64> = known.map(odds).collect();
        if all.len() > TELLING_MAX {
            let by_weight = |one: &f64, other: &f64| other.abs().total_cmp(&one.abs());
            all.select_nth_unstable_by(TELLING_MAX, by_weight);
            all.truncate(TELLING_MAX);
        }
        all.iter().sum::<f64>() / all.len().max(TELLING_MIN) as f64
    }

    /// Learns one message that it has learned as the other kind: it counts as that no more,
    /// and the weights follow, as they do for any message that they are wrong about. The slots
    /// that it has changed.
    pub fn learn_otherwise(&mut self, tokens: &Tokens, class: Class) -> Vec<Slot> {
        self.discount(tokens, class.other());
        self.learn(tokens, class)
    }

    /// Learns one message. The slots that it has changed.
    pub fn learn(&mut self, tokens: &Tokens, class: Class) -> Vec<Slot> {
        let sign = match class {
            Class::Wanted => -1.0,
            Class::Spam => 1.0,
        };
        self.count(tokens, class);
        let scale = scale(tokens);
        let miss = 1.0 - sign * self.sum(tokens);
        if miss > 0.0 {
            let doubt: f32 = slots(tokens).map(|at| self.doubts[at]).sum::<f32>() * scale * scale;
            let beta = 1.0 / (doubt + PATIENCE);
            for at in slots(tokens) {
                let step = self.doubts[at] * scale;
                self.weights[at] += sign * miss * beta * step;
                self.doubts[at] = (self.doubts[at] - beta * step * step).max(f32::MIN_POSITIVE);
            }
        }
        slots(tokens).map(|at| self.slot(at)).collect()
    }

    fn count(&mut self, tokens: &Tokens, class: Class) {
        let (learned, counted, counts) = self.counts_of(class);
        *learned += 1;
        *counted += 1;
        if *counted > COUNTED_MAX {
            *counted /= 2;
            halve(counts);
        }
        for at in distinct_slots(tokens) {
            counts[at] = counts[at].saturating_add(1);
        }
    }

    /// Takes back what [`Self::count`] has done; where counts were halved meanwhile, a
    /// little more than that.
    fn discount(&mut self, tokens: &Tokens, class: Class) {
        let (learned, counted, counts) = self.counts_of(class);
        *learned = learned.saturating_sub(1);
        *counted = counted.saturating_sub(1);
        for at in distinct_slots(tokens) {
            counts[at] = counts[at].saturating_sub(1);
        }
    }

    /// Messages learned and counted, and those that had each slot.
    fn counts_of(&mut self, class: Class) -> (&mut u64, &mut u64, &mut [u16]) {
        let totals = &mut self.totals;
        match class {
            Class::Wanted => {
                (&mut totals.learned_wanted, &mut totals.counted_wanted, &mut self.wanted)
            }
            Class::Spam => (&mut totals.learned_spam, &mut totals.counted_spam, &mut self.spam),
        }
    }

    fn slot(&self, at: usize) -> Slot {
        Slot {
            at: u32::try_from(at).unwrap_or(0),
            weight: self.weights[at],
            doubt: self.doubts[at],
            wanted: self.wanted[at],
            spam: self.spam[at],
        }
    }

    /// Some slots, for keeping.
    pub fn slots(&self, range: Range<usize>) -> impl Iterator<Item = Slot> + '_ {
        range.map(|at| self.slot(at))
    }

    /// Takes over slots that another core has changed, and how many messages it has learned by now.
    pub fn apply(&mut self, changed: &[Slot], totals: Totals) {
        // Counts are halved everywhere when the core that learns has halved its own. By so much
        // they fall for nothing else.
        let is_halved = |before: u64, now: u64| before.saturating_sub(now) > COUNTED_MAX / 4;
        if is_halved(self.totals.counted_wanted, totals.counted_wanted) {
            halve(&mut self.wanted);
        }
        if is_halved(self.totals.counted_spam, totals.counted_spam) {
            halve(&mut self.spam);
        }
        for slot in changed {
            let at = usize::try_from(slot.at).unwrap_or(usize::MAX);
            if at < SLOTS && slot.weight.is_finite() && slot.doubt.is_finite() {
                self.weights[at] = slot.weight;
                self.doubts[at] = slot.doubt;
                self.wanted[at] = slot.wanted;
                self.spam[at] = slot.spam;
            }
        }
        self.totals = totals;
    }
}

fn halve(counts: &mut [u16]) {
    counts.iter_mut().for_each(|count| *count /= 2);
}

/// What a margin adds to a message's score.
pub fn hit(margin: f64) -> Hit {
    let score = POINTS_MAX * (POINTS * margin / POINTS_MAX).tanh();
    let like = if score > 0.0 { "spam" } else { "wanted mail" };
    let reason = format!("looks like {like} that people here have sorted (margin {margin:.2})");
    let score = (score * 10.0).round() / 10.0;
    Hit { rule: RULE.to_owned(), score, reason, of_content: true }
}

/// All messages weigh the same, however many tokens they have.
pub(super) fn scale(tokens: &Tokens) -> f32 {
    1.0 / (tokens.0.len().max(1) as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(words: &[u32]) -> Tokens {
        Tokens(words.iter().map(|word| word.wrapping_mul(0x9e37_79b1)).collect())
    }

    #[test]
    fn what_it_has_learned_it_tells_apart_and_little_is_not_enough() {
        let mut classifier = Classifier::default();
        for round in 0..LEARNED_MIN as u32 {
            assert_eq!(classifier.margin(&message(&[1])), None);
            classifier.learn(&message(&[1, 2, 100 + round]), Class::Spam);
            classifier.learn(&message(&[3, 4, 500 + round]), Class::Wanted);
        }
        assert!(classifier.margin(&message(&[1, 2, 9999])).unwrap() > 0.5);
        assert!(classifier.margin(&message(&[3, 4, 9998])).unwrap() < -0.5);
        let unknown = classifier.margin(&message(&[7777, 8888])).unwrap();
        assert!(unknown.abs() < 0.1, "{unknown}");
    }

    #[test]
    fn a_mistake_is_forgiven_and_a_copy_that_is_told_the_changes_is_the_same() {
        let (mut classifier, mut copy) = (Classifier::default(), Classifier::default());
        let mut learn = |classifier: &mut Classifier, words: &[u32], class| {
            let changed = classifier.learn(&message(words), class);
            copy.apply(&changed, classifier.totals);
        };
        for round in 0..100 {
            learn(&mut classifier, &[1, 2, 100 + round], Class::Spam);
            learn(&mut classifier, &[3, 4, 500 + round], Class::Wanted);
        }
        learn(&mut classifier, &[1, 2, 9997], Class::Wanted);
        assert!(classifier.margin(&message(&[1, 2, 9999])).unwrap() > 0.0);
        assert_eq!(copy.weights, classifier.weights);
        assert_eq!(copy.doubts, classifier.doubts);
        assert_eq!((&copy.wanted, &copy.spam), (&classifier.wanted, &classifier.spam));
        assert_eq!(copy.totals, classifier.totals);
    }

    #[test]
    fn a_message_that_is_learned_the_other_way_moves_and_every_copy_with_it() {
        let teach = |classifier: &mut Classifier| {
            for round in 0..LEARNED_MIN as u32 {
                classifier.learn(&message(&[1, 2, 100 + round]), Class::Spam);
                classifier.learn(&message(&[3, 4, 500 + round]), Class::Wanted);
            }
        };
        let odd = message(&[5, 6, 7, 8]);
        let (mut moved, mut straight) = (Classifier::default(), Classifier::default());
        teach(&mut moved);
        teach(&mut straight);
        let mut copy = moved.clone();
        for step in [moved.learn(&odd, Class::Spam), moved.learn_otherwise(&odd, Class::Wanted)] {
            copy.apply(&step, moved.totals);
        }
        straight.learn(&odd, Class::Wanted);
        assert_eq!(moved.totals, straight.totals);
        assert_eq!((&moved.wanted, &moved.spam), (&straight.wanted, &straight.spam));
        let (moved_says, says) = (moved.margin(&odd).unwrap(), straight.margin(&odd).unwrap());
        assert!(says < -0.5 && (moved_says - says).abs() < 0.1, "{moved_says} {says}");
        assert_eq!((&copy.wanted, &copy.spam), (&moved.wanted, &moved.spam));
        assert_eq!((&copy.weights, copy.totals), (&moved.weights, moved.totals));
    }

    #[test]
    fn counts_are_halved_in_all_copies_before_they_overflow() {
        let (mut classifier, mut copy) = (Classifier::default(), Classifier::default());
        for number in 0..COUNTED_MAX + 2 {
            let changed = classifier.learn(&message(&[1]), Class::Spam);
            copy.apply(&changed, classifier.totals);
            if number == 5 {
                let changed = classifier.learn(&message(&[2]), Class::Spam);
                copy.apply(&changed, classifier.totals);
            }
        }
        assert!(classifier.totals.counted_spam <= COUNTED_MAX / 2 + 3);
        assert_eq!(classifier.totals.learned_spam, COUNTED_MAX + 3);
        assert_eq!(copy.spam, classifier.spam);
    }

    #[test]
    fn a_table_without_counts_says_what_it_said_before() {
        let (mut classifier, mut old) = (Classifier::default(), Classifier::default());
        for round in 0..50 {
            classifier.learn(&message(&[1, 2, 100 + round]), Class::Spam);
            classifier.learn(&message(&[3, 4, 500 + round]), Class::Wanted);
        }
        let bare = |slot: Slot| Slot { wanted: 0, spam: 0, ..slot };
        let slots: Vec<Slot> = classifier.slots(0..SLOTS).map(bare).collect();
        let totals = Totals { counted_wanted: 0, counted_spam: 0, ..classifier.totals };
        old.apply(&slots, totals);
        let probe = message(&[1, 2, 9999]);
        assert_eq!(old.margin(&probe), Some(f64::from(classifier.sum(&probe))));
        assert!(classifier.margin(&probe) > old.margin(&probe), "counts agree");
    }

    #[test]
    fn nothing_is_learned_twice_from_what_is_sure() {
        let mut classifier = Classifier::default();
        for _ in 0..50 {
            classifier.learn(&message(&[1, 2]), Class::Spam);
        }
        let again = classifier.learn(&message(&[1, 2]), Class::Spam);
        assert!(again.iter().all(|slot| slot.weight < 2.0));
    }
}
