//! What has been learned from mail that people have sorted: a linear classifier over hashed tokens.
//!
//! AROW (Crammer, Kulesza, Dredze: Adaptive Regularization of Weight Vectors, NIPS 2009). Each slot has a
//! weight and how unsure it is of it; what is seen often moves little, what is new moves much. One look at each
//! message is enough, in any order, and a single message that was sorted by mistake does little harm.
//!
//! The table has a fixed size. Tokens that share a slot disturb each other; with some hundred thousand slots
//! and a few thousand tokens to a message, that is noise. Shard 0 learns and keeps; every core has a copy to read,
//! and is told the slots that a message has changed.

use super::Hit;
use super::tokens::Tokens;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// 2 MiB of weights and doubts on each core.
pub const SLOTS: usize = 1 << 18;
const _: () = assert!(SLOTS.is_power_of_two());
/// How slowly it learns: AROW's r.
const PATIENCE: f32 = 0.1;
/// What a margin of 1 is worth, and the most that it can be. With the rules' points and `junk_at` at 5 this
/// finds nine of ten spams for one or two wanted messages in a thousand (benches/README.md).
const POINTS: f64 = 8.0;
const POINTS_MAX: f64 = 6.0;
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

/// One slot as it is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    pub at: u32,
    pub weight: f32,
    pub doubt: f32,
}

#[derive(Debug, Clone)]
pub struct Classifier {
    weights: Box<[f32]>,
    /// 1 for a slot that nothing is known of, falling towards 0.
    doubts: Box<[f32]>,
    pub learned_wanted: u64,
    pub learned_spam: u64,
}

impl Default for Classifier {
    fn default() -> Classifier {
        Classifier {
            weights: vec![0.0; SLOTS].into(),
            doubts: vec![1.0; SLOTS].into(),
            learned_wanted: 0,
            learned_spam: 0,
        }
    }
}

fn slots(tokens: &Tokens) -> impl Iterator<Item = usize> + '_ {
    let shift = u32::BITS - SLOTS.trailing_zeros();
    tokens.0.iter().map(move |hash| usize::try_from(hash >> shift).unwrap_or(0))
}

impl Classifier {
    /// What it adds to a message's score.
    pub fn hit(&self, tokens: &Tokens) -> Option<Hit> {
        self.margin(tokens).map(hit)
    }

    /// Positive: spam; beyond 1 on either side it is sure. `None`: it has learned too little.
    pub fn margin(&self, tokens: &Tokens) -> Option<f64> {
        if self.learned_wanted.min(self.learned_spam) < LEARNED_MIN {
            return None;
        }
        Some(f64::from(self.sum(tokens)))
    }

    fn sum(&self, tokens: &Tokens) -> f32 {
        let sum: f32 = slots(tokens).map(|at| self.weights[at]).sum();
        sum * scale(tokens)
    }

    /// Learns one message. The slots that it has changed.
    pub fn learn(&mut self, tokens: &Tokens, class: Class) -> Vec<Slot> {
        let sign = match class {
            Class::Wanted => {
                self.learned_wanted += 1;
                -1.0
            }
            Class::Spam => {
                self.learned_spam += 1;
                1.0
            }
        };
        let scale = scale(tokens);
        let miss = 1.0 - sign * self.sum(tokens);
        if miss <= 0.0 {
            return Vec::new();
        }
        let doubt: f32 = slots(tokens).map(|at| self.doubts[at]).sum::<f32>() * scale * scale;
        let beta = 1.0 / (doubt + PATIENCE);
        let mut changed = Vec::with_capacity(tokens.0.len());
        for at in slots(tokens) {
            let step = self.doubts[at] * scale;
            self.weights[at] += sign * miss * beta * step;
            self.doubts[at] = (self.doubts[at] - beta * step * step).max(f32::MIN_POSITIVE);
            let (weight, doubt) = (self.weights[at], self.doubts[at]);
            changed.push(Slot { at: u32::try_from(at).unwrap_or(0), weight, doubt });
        }
        changed
    }

    /// Some slots, for keeping.
    pub fn slots(&self, range: Range<usize>) -> impl Iterator<Item = Slot> + '_ {
        range.map(|at| {
            let (weight, doubt) = (self.weights[at], self.doubts[at]);
            Slot { at: u32::try_from(at).unwrap_or(0), weight, doubt }
        })
    }

    /// Takes over slots that another core has changed, and how many messages it has learned by now.
    pub fn apply(&mut self, changed: &[Slot], learned_wanted: u64, learned_spam: u64) {
        for slot in changed {
            let at = usize::try_from(slot.at).unwrap_or(usize::MAX);
            if at < SLOTS && slot.weight.is_finite() && slot.doubt.is_finite() {
                self.weights[at] = slot.weight;
                self.doubts[at] = slot.doubt;
            }
        }
        (self.learned_wanted, self.learned_spam) = (learned_wanted, learned_spam);
    }
}

/// What a margin adds to a message's score.
pub fn hit(margin: f64) -> Hit {
    let score = (POINTS * margin).clamp(-POINTS_MAX, POINTS_MAX);
    let like = if score > 0.0 { "spam" } else { "wanted mail" };
    let reason = format!("looks like {like} that people here have sorted (margin {margin:.2})");
    let score = (score * 10.0).round() / 10.0;
    Hit { rule: RULE.to_owned(), score, reason, of_content: true }
}

/// All messages weigh the same, however many tokens they have.
fn scale(tokens: &Tokens) -> f32 {
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
            copy.apply(&changed, classifier.learned_wanted, classifier.learned_spam);
        };
        for round in 0..100 {
            learn(&mut classifier, &[1, 2, 100 + round], Class::Spam);
            learn(&mut classifier, &[3, 4, 500 + round], Class::Wanted);
        }
        learn(&mut classifier, &[1, 2, 9997], Class::Wanted);
        assert!(classifier.margin(&message(&[1, 2, 9999])).unwrap() > 0.0);
        assert_eq!(copy.weights, classifier.weights);
        assert_eq!(copy.doubts, classifier.doubts);
    }

    #[test]
    fn nothing_is_learned_twice_from_what_is_sure() {
        let mut classifier = Classifier::default();
        for _ in 0..50 {
            classifier.learn(&message(&[1, 2]), Class::Spam);
        }
        let again = classifier.learn(&message(&[1, 2]), Class::Spam);
        assert!(again.is_empty() || again.iter().all(|slot| slot.weight < 2.0));
    }
}
