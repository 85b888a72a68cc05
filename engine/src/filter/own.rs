//! What one account has sorted, learned for that account alone.
//!
//! The newest messages that it has sorted are kept as lessons, and the model is what they come to:
//! nothing else is kept of it, so who sorts a message anew, or the other way, takes back what was
//! learned of it. It corrects the shared classifier, and learns only where that one is wrong for
//! this account; so what both say is one sum, in which the account's part weighs more the more it
//! has sorted. Nobody else's mail is judged by it.
//!
//! Most people sort what they don't want, and never say what they do. So that a handful of
//! newsletters in Junk does not make everything look like them, words that much mail has, as the
//! shared classifier has counted, move little; and what average mail would be given is taken off.
//! On the corpus of benches/README.md, half of the training part learned by the shared classifier,
//! 32 of some list's messages sorted as spam moved one of some 950 other wanted ones into Junk at
//! the most; without this it was 15 to 46.
//!
//! Key space 50 of the account's home shard. The key is the account's number (u32, big-endian) and
//! the message's fingerprint (u64, big-endian); the value, little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 4 | its place in the order in which messages were sorted |
//! | 1 | 0: wanted, 1: spam |
//! | 4 | f32, what the shared classifier said of it then; 0: nothing |
//! | 4 each | [`TOKENS_MAX`] tokens at most, chosen by hash with a key of the host: the same ones of every message that has them |
//!
//! At most [`LESSONS_MAX`] of either kind, 533 bytes each: 17 KB for an account, in the log and in
//! memory; and at most [`LESSONS_ALL_MAX`] for all accounts of a shard. The figures above are of
//! twice as many messages. The model that comes of them, at most 32 KB, is kept for [`MODELS_MAX`]
//! accounts of a core, those that had mail last, and made anew for others, but for no more than
//! [`MODELS_MADE_MAX`] because of one message.

use super::classifier::{self, Class, Classifier, Totals};
use super::tokens::Tokens;
use super::{is_gone, learning};
use crate::core::give_way;
use crate::shard::Shard;
use crate::spaces::Walk;
use bytes::Bytes;
use std::collections::HashMap;
use std::rc::Rc;
use storage::store::Space;
use storage::{AccountId, Error};

pub const SPACE: Space = Space(50);
/// Of either kind, so that much of the one does not push out the other.
pub(super) const LESSONS_MAX: usize = 16;
const TOKENS_MAX: usize = 128;
/// Of all accounts of a shard: 67 MiB, beside what the index of their keys takes.
const LESSONS_ALL_MAX: usize = 1 << 17;
/// 8 MiB at most.
const MODELS_MAX: usize = 256;
/// That one message has worked out on a core.
pub const MODELS_MADE_MAX: usize = 16;
/// A model is worked out anew once the shared classifier has learned so much more.
const GROWTH_PERCENT: u64 = 5;
const VALUE_HEAD_BYTES: usize = 9;
/// How slowly it learns, as in [`classifier`].
const PATIENCE: f32 = 0.03;
/// How often each lesson is looked at.
const LOOKS: usize = 10;
/// What all mail has moves a twentieth of what none has.
const COMMON: f32 = 20.0;
/// Of what average mail would be given, since of a long message only some tokens take part.
const AVERAGE_SHARE: f32 = 0.75;
/// With so many messages sorted, what it has learned counts half.
const HALF_SURE: f64 = 2.0;
/// The most that it says, as a margin.
const SAYS_MAX: f64 = 3.0;
/// Messages of either kind without which it says nothing as long as the shared classifier says
/// nothing, either: who has only ever seen spam would take everything for it.
const ALONE_MIN: usize = 5;

/// A message's tokens that take part: of all messages that have them the same ones, on this host.
/// Who writes spam does not know which.
fn sample(tokens: &Tokens, key: u64) -> Tokens {
    let mut chosen = tokens.0.clone();
    let place = |token: &u32| {
        let mixed = (u64::from(*token) ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ (mixed >> 32)) ^ key).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 16
    };
    if chosen.len() > TOKENS_MAX {
        chosen.select_nth_unstable_by_key(TOKENS_MAX, place);
        chosen.truncate(TOKENS_MAX);
    }
    chosen.sort_unstable();
    Tokens(chosen)
}

/// A message that the account has sorted, before it is kept.
#[derive(Debug)]
pub struct Lesson {
    fingerprint: u64,
    sorted: Sorted,
}

impl Lesson {
    /// `shared` is what judges everybody's mail, `key` the shard's for samples.
    pub fn of(lesson: &learning::Lesson, shared: &Classifier, key: u64) -> Lesson {
        let said = shared.margin(&lesson.tokens).unwrap_or(0.0) as f32;
        let (class, tokens) = (lesson.class, sample(&lesson.tokens, key));
        let sorted = Sorted { order: 0, class, said, tokens };
        Lesson { fingerprint: lesson.fingerprint, sorted }
    }
}

/// The same as it is kept.
#[derive(Debug, Clone, PartialEq)]
struct Sorted {
    order: u32,
    class: Class,
    said: f32,
    tokens: Tokens,
}

impl Sorted {
    fn value(&self) -> Bytes {
        let mut value = Vec::with_capacity(VALUE_HEAD_BYTES + 4 * self.tokens.0.len());
        value.extend(self.order.to_le_bytes());
        value.push(u8::from(self.class == Class::Spam));
        value.extend(self.said.to_le_bytes());
        self.tokens.0.iter().for_each(|token| value.extend(token.to_le_bytes()));
        Bytes::from(value)
    }

    fn read(value: &[u8]) -> Option<Sorted> {
        let (order, rest) = value.split_first_chunk::<4>()?;
        let (&class, rest) = rest.split_first()?;
        let (said, rest) = rest.split_first_chunk::<4>()?;
        let said = f32::from_le_bytes(*said);
        let tokens = rest.as_chunks::<4>().0.iter().take(TOKENS_MAX);
        Some(Sorted {
            order: u32::from_le_bytes(*order),
            class: if class == 0 { Class::Wanted } else { Class::Spam },
            said: if said.is_finite() { said } else { 0.0 },
            tokens: Tokens(tokens.map(|token| u32::from_le_bytes(*token)).collect()),
        })
    }
}

/// What one account's lessons come to.
#[derive(Debug, Default)]
pub struct Own {
    /// Those that some lesson has, in order, and the weight of each.
    tokens: Vec<u32>,
    weights: Vec<f32>,
    wanted: usize,
    spam: usize,
    /// The sum that average mail has.
    average: f32,
    /// Of the shared classifier that it corrects.
    totals: Totals,
}

impl Own {
    /// Oldest first.
    pub fn of_lessons(lessons: &[Lesson], shared: &Classifier) -> Own {
        let lessons: Vec<Sorted> = lessons.iter().map(|lesson| lesson.sorted.clone()).collect();
        Own::of(&lessons, shared)
    }

    fn of(lessons: &[Sorted], shared: &Classifier) -> Own {
        let all = lessons.iter().flat_map(|lesson| lesson.tokens.0.iter().copied());
        let mut tokens: Vec<u32> = all.collect();
        tokens.sort_unstable();
        tokens.dedup();
        let frequencies: Vec<f32> = tokens.iter().map(|&token| shared.frequency(token)).collect();
        let mut doubts: Vec<f32> =
            frequencies.iter().map(|frequency| 1.0 / (1.0 + COMMON * frequency)).collect();
        let weights = vec![0.0; tokens.len()];
        let mut own = Own { tokens, weights, totals: shared.totals, ..Own::default() };
        let places = |lesson: &Sorted| -> Vec<usize> {
            lesson.tokens.0.iter().filter_map(|&token| own.place(token)).collect()
        };
        let places: Vec<Vec<usize>> = lessons.iter().map(places).collect();
        // They are few, and people sort one kind after the other: with one look at each, the last
        // ones would decide.
        for _ in 0..LOOKS {
            for (lesson, places) in lessons.iter().zip(&places) {
                own.learn(lesson, places, &mut doubts);
            }
        }
        own.spam = lessons.iter().filter(|lesson| lesson.class == Class::Spam).count();
        own.wanted = lessons.len() - own.spam;
        let expected = own.weights.iter().zip(&frequencies).map(|(weight, share)| weight * share);
        own.average = AVERAGE_SHARE * expected.sum::<f32>() / (TOKENS_MAX as f32).sqrt();
        own
    }

    fn place(&self, token: u32) -> Option<usize> {
        self.tokens.binary_search(&token).ok()
    }

    /// The shared classifier has not learned much since.
    fn is_fresh(&self, totals: Totals) -> bool {
        let learned = |totals: Totals| totals.learned_wanted + totals.learned_spam;
        100 * learned(totals) <= (100 + GROWTH_PERCENT) * learned(self.totals)
    }

    fn learn(&mut self, lesson: &Sorted, places: &[usize], doubts: &mut [f32]) {
        let sign = match lesson.class {
            Class::Wanted => -1.0,
            Class::Spam => 1.0,
        };
        let scale = classifier::scale(&lesson.tokens);
        let sum = places.iter().map(|&at| self.weights[at]).sum::<f32>() * scale;
        let miss = 1.0 - sign * (lesson.said + sum);
        if miss <= 0.0 {
            return;
        }
        let doubt = places.iter().map(|&at| doubts[at]).sum::<f32>() * scale * scale;
        let beta = 1.0 / (doubt + PATIENCE);
        for &at in places {
            let step = doubts[at] * scale;
            self.weights[at] += sign * miss * beta * step;
            doubts[at] = (doubts[at] - beta * step * step).max(f32::MIN_POSITIVE);
        }
    }

    fn sum(&self, tokens: &Tokens) -> f32 {
        let known = tokens.0.iter().filter_map(|&token| self.place(token));
        known.map(|at| self.weights[at]).sum::<f32>() * classifier::scale(tokens)
    }

    /// What is to be added to the shared classifier's margin.
    fn says(&self, tokens: &Tokens, shared: Option<f64>) -> f64 {
        if shared.is_none() && self.wanted.min(self.spam) < ALONE_MIN {
            return 0.0;
        }
        let sorted = (self.wanted + self.spam) as f64;
        let says = f64::from(self.sum(tokens) - self.average) * sorted / (sorted + HALF_SURE);
        says.clamp(-SAYS_MAX, SAYS_MAX)
    }
}

/// Models of accounts that have had mail lately.
#[derive(Debug, Default)]
pub struct Models {
    /// And when each was asked last.
    models: HashMap<AccountId, (Rc<Own>, u64)>,
    clock: u64,
    /// Lessons of all accounts; `None`: not counted yet.
    lessons: Option<usize>,
}

impl Models {
    fn get(&mut self, account: AccountId) -> Option<Rc<Own>> {
        self.clock += 1;
        let (own, asked) = self.models.get_mut(&account)?;
        *asked = self.clock;
        Some(Rc::clone(own))
    }

    fn put(&mut self, account: AccountId, own: Rc<Own>) {
        self.clock += 1;
        let is_new = !self.models.contains_key(&account);
        if is_new && self.models.len() >= MODELS_MAX {
            let oldest = self.models.iter().min_by_key(|(_, (_, asked))| *asked);
            let oldest = oldest.map(|(account, _)| *account);
            oldest.map(|account| self.models.remove(&account));
        }
        self.models.insert(account, (own, self.clock));
    }

    pub(super) fn forget(&mut self, account: AccountId) {
        self.models.remove(&account);
    }

    /// They are worked out anew when mail comes.
    pub(super) fn forget_all(&mut self) {
        self.models.clear();
    }

    /// So many lessons were removed.
    pub(super) fn removed(&mut self, lessons: usize) {
        self.lessons = self.lessons.map(|all| all.saturating_sub(lessons));
    }
}

/// What everybody's filter has made of a message, for accounts that may see it otherwise.
#[derive(Debug)]
pub struct Scored {
    pub score: f64,
    /// The shared classifier's.
    margin: Option<f64>,
    tokens: Tokens,
}

impl Scored {
    /// `key` is the shard's for samples.
    pub fn new(score: f64, margin: Option<f64>, tokens: &Tokens, key: u64) -> Scored {
        Scored { score, margin, tokens: sample(tokens, key) }
    }

    /// On the account's home shard: the points that what it has sorted adds to the score.
    pub async fn points(&self, shard: &Shard, account: AccountId, models_left: &mut usize) -> f64 {
        let own = model(shard, account, models_left).await;
        own.map_or(0.0, |own| self.points_of(&own))
    }

    pub fn points_of(&self, own: &Own) -> f64 {
        points(self.margin, own.says(&self.tokens, self.margin))
    }
}

/// In tenths, as all points.
fn points(shared: Option<f64>, own: f64) -> f64 {
    let before = shared.map_or(0.0, |margin| classifier::hit(margin).score);
    let after = match shared {
        None if own == 0.0 => 0.0,
        shared => classifier::hit(shared.unwrap_or(0.0) + own).score,
    };
    ((after - before) * 10.0).round() / 10.0
}

/// A message to many accounts works out no more than `left` models: for others it takes one that is
/// at hand, or none.
async fn model(shard: &Shard, account: AccountId, left: &mut usize) -> Option<Rc<Own>> {
    let totals = shard.learned.borrow().classifier.totals;
    let known = shard.own_models.borrow_mut().get(account);
    if *left == 0 || known.as_ref().is_some_and(|own| own.is_fresh(totals)) {
        return known;
    }
    let mut lessons = lessons(shard, account);
    if lessons.is_empty() {
        return None;
    }
    *left -= 1;
    lessons.sort_by_key(|(_, lesson)| lesson.order);
    let lessons: Vec<Sorted> = lessons.into_iter().map(|(_, lesson)| lesson).collect();
    let own = Rc::new(Own::of(&lessons, &shard.learned.borrow().classifier));
    shard.own_models.borrow_mut().put(account, Rc::clone(&own));
    // The next one may take as long.
    give_way().await;
    Some(own)
}

fn lessons(shard: &Shard, account: AccountId) -> Vec<(Bytes, Sorted)> {
    let pairs = shard.store.scan_prefix(SPACE, &super::key(account)).into_iter();
    pairs.filter_map(|(key, value)| Some((key, Sorted::read(&value)?))).collect()
}

fn lesson_key(account: AccountId, fingerprint: u64) -> Bytes {
    Bytes::from([account.0.to_be_bytes().as_slice(), &fingerprint.to_be_bytes()].concat())
}

/// What is to be written, so that these are known, too, and the oldest no more; what is known as it
/// is needs no writing. Where `is_full`, there are no more of a kind than before.
fn with(
    mut known: Vec<(Bytes, Sorted)>,
    more: Vec<(Bytes, Sorted)>,
    is_full: bool,
) -> Vec<(Bytes, Option<Bytes>)> {
    let count = |known: &[(Bytes, Sorted)], class| {
        known.iter().filter(|(_, lesson)| lesson.class == class).count()
    };
    let most = [Class::Wanted, Class::Spam].map(|class| match is_full {
        true => (class, count(&known, class).min(LESSONS_MAX)),
        false => (class, LESSONS_MAX),
    });
    let mut order = known.iter().map(|(_, lesson)| lesson.order).max().unwrap_or(0);
    let mut pairs = Vec::new();
    for (key, mut lesson) in more {
        let is_same = |(other, before): &(Bytes, Sorted)| {
            *other == key && before.class == lesson.class && before.tokens == lesson.tokens
        };
        if known.iter().any(is_same) {
            continue;
        }
        order = order.saturating_add(1);
        lesson.order = order;
        pairs.retain(|(other, _)| *other != key);
        pairs.push((key.clone(), Some(lesson.value())));
        known.retain(|(other, _)| *other != key);
        known.push((key, lesson));
    }
    for (class, most) in most {
        let mut of_class: Vec<_> = known.iter().filter(|(_, one)| one.class == class).collect();
        of_class.sort_by_key(|(_, lesson)| std::cmp::Reverse(lesson.order));
        for (key, _) in of_class.into_iter().skip(most) {
            pairs.retain(|(other, _)| other != key);
            pairs.push((key.clone(), None));
        }
    }
    pairs
}

/// On the account's home shard: learns what it has sorted, in one record.
pub async fn remember(
    shard: &Rc<Shard>,
    account: AccountId,
    lessons: Vec<Lesson>,
) -> Result<(), Error> {
    if lessons.is_empty() {
        return Ok(());
    }
    // Two commands of one account count on from the same number, or push out too much.
    let _turn = shard.learning_turn.lock().await;
    if is_gone(shard, account) {
        return Ok(());
    }
    let more = lessons.into_iter();
    let more = more.map(|one| (lesson_key(account, one.fingerprint), one.sorted)).collect();
    let all = count_all(shard).await;
    let is_full = all >= LESSONS_ALL_MAX;
    if is_full {
        tracing::info!(
            account = account.0,
            "what accounts have sorted fills its room: in place of an older message or not at all"
        );
    }
    let pairs = with(self::lessons(shard, account), more, is_full);
    if pairs.is_empty() {
        return Ok(());
    }
    let before = |key: &Bytes| shard.store.get(SPACE, key).is_some();
    let (gone, fresh) = (
        pairs.iter().filter(|(key, value)| value.is_none() && before(key)).count(),
        pairs.iter().filter(|(key, value)| value.is_some() && !before(key)).count(),
    );
    let _durable = shard.store.put(SPACE, pairs).await?;
    let mut models = shard.own_models.borrow_mut();
    models.lessons = Some((all + fresh).saturating_sub(gone));
    models.forget(account);
    Ok(())
}

/// Lessons of all accounts at home here; they are counted once.
async fn count_all(shard: &Shard) -> usize {
    const AT_ONCE: usize = 1000;
    let known = shard.own_models.borrow().lessons;
    if let Some(known) = known {
        return known;
    }
    let (mut walk, mut count) = (Walk::through(shard, SPACE, AT_ONCE), 0);
    while let Some(some) = walk.next().await {
        count += some.len();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as tokens: any number is a hash.
    fn message(words: impl IntoIterator<Item = u32>) -> Tokens {
        let mut tokens: Vec<u32> =
            words.into_iter().map(|word| word.wrapping_mul(0x9e37_79b1)).collect();
        tokens.sort_unstable();
        Tokens(tokens)
    }

    /// Newsletters (their words are from 1000 on), letters (from 2000 on), offers (from 3000 on);
    /// with words of their own, and some that all have.
    fn mail(kind: u32, number: u32) -> Tokens {
        let own = (0..10).map(|word| 10_000 + number * 10 + word);
        message((kind..kind + 20).chain(own).chain(0..40))
    }

    /// To which newsletters are rather new.
    fn shared() -> Classifier {
        let mut shared = Classifier::default();
        for number in 0..40 {
            shared.learn(&mail(2000, number), Class::Wanted);
            shared.learn(&mail(3000, 50 + number), Class::Spam);
        }
        shared.learn(&mail(1000, 90), Class::Wanted);
        shared
    }

    fn sorted(tokens: Tokens, class: Class, shared: &Classifier) -> Sorted {
        let said = shared.margin(&tokens).unwrap_or(0.0) as f32;
        Sorted { order: 0, class, said, tokens }
    }

    #[test]
    fn two_accounts_that_sort_the_same_mail_otherwise_have_each_its_own_way() {
        let shared = shared();
        let lessons = |class| -> Vec<Sorted> {
            (100..108).map(|number| sorted(mail(1000, number), class, &shared)).collect()
        };
        let (likes, dislikes) =
            (Own::of(&lessons(Class::Wanted), &shared), Own::of(&lessons(Class::Spam), &shared));
        let probe = mail(1000, 500);
        let margin = shared.margin(&probe);
        assert!(dislikes.says(&probe, margin) + margin.unwrap() > 0.5);
        assert!(likes.says(&probe, margin) + margin.unwrap() < -0.3);
        assert!(points(margin, dislikes.says(&probe, margin)) > 4.0);
        // Other mail is as it was, nearly, though neither has said a word about it.
        for kind in [2000, 3000] {
            let other = mail(kind, 501);
            let margin = shared.margin(&other);
            assert!(dislikes.says(&other, margin).abs() < 0.1);
            assert!(likes.says(&other, margin).abs() < 0.1);
        }
    }

    #[test]
    fn alone_it_says_nothing_before_it_has_seen_both_kinds_and_then_tells_them_apart() {
        let shared = Classifier::default();
        let spam: Vec<Sorted> =
            (0..20).map(|number| sorted(mail(1000, number), Class::Spam, &shared)).collect();
        assert_eq!(Own::of(&spam, &shared).says(&mail(2000, 99), None), 0.0);
        let wanted = (20..26).map(|number| sorted(mail(2000, number), Class::Wanted, &shared));
        let own = Own::of(&spam.into_iter().chain(wanted).collect::<Vec<_>>(), &shared);
        assert!(own.says(&mail(1000, 98), None) > 0.4);
        assert!(own.says(&mail(2000, 99), None) < -0.4);
        assert!(points(None, own.says(&mail(1000, 98), None)) > 3.0);
    }

    #[test]
    fn one_message_sorted_by_mistake_moves_little_and_sorted_back_nothing() {
        let shared = shared();
        let key = lesson_key(AccountId(7), 1);
        let lesson = |class| vec![(key.clone(), sorted(mail(1000, 100), class, &shared))];
        let read = |pairs: &[(Bytes, Option<Bytes>)]| -> Vec<(Bytes, Sorted)> {
            let there = pairs.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
            there.map(|(key, value)| (key.clone(), Sorted::read(value).unwrap())).collect()
        };
        let probe = mail(1000, 500);
        let says = |known: &[(Bytes, Sorted)]| {
            let lessons: Vec<Sorted> = known.iter().map(|(_, lesson)| lesson.clone()).collect();
            Own::of(&lessons, &shared).says(&probe, shared.margin(&probe))
        };
        let known = read(&with(Vec::new(), lesson(Class::Spam), false));
        assert!(with(known.clone(), lesson(Class::Spam), false).is_empty(), "it is known as that");
        assert!(says(&known) > 0.0 && says(&known) < 0.4, "{}", says(&known));
        let known = read(&with(known, lesson(Class::Wanted), false));
        assert_eq!(known.len(), 1);
        assert!(says(&known) <= 0.0);
    }

    #[test]
    fn lessons_are_bounded_by_kind_and_the_oldest_go_first() {
        let shared = Classifier::default();
        let mut known: Vec<(Bytes, Sorted)> = Vec::new();
        let fill =
            |known: &mut Vec<(Bytes, Sorted)>, numbers: std::ops::Range<u32>, class, is_full| {
                let more = numbers.map(|number| {
                    let key = lesson_key(AccountId(7), u64::from(number) << 8);
                    (key, sorted(mail(1000, number), class, &shared))
                });
                for (key, value) in with(known.clone(), more.collect(), is_full) {
                    known.retain(|(other, _)| *other != key);
                    known.extend(value.map(|value| (key, Sorted::read(&value).unwrap())));
                }
            };
        let add = |known: &mut Vec<_>, numbers, class| fill(known, numbers, class, false);
        add(&mut known, 0..5, Class::Wanted);
        add(&mut known, 100..300, Class::Spam);
        for number in 300..340 {
            add(&mut known, number..number + 1, Class::Spam);
        }
        let of = |class| known.iter().filter(move |(_, one)| one.class == class);
        assert_eq!((of(Class::Wanted).count(), of(Class::Spam).count()), (5, LESSONS_MAX));
        let newest = lesson_key(AccountId(7), 339 << 8);
        assert!(known.iter().any(|(key, _)| *key == newest));
        let bytes: usize = known.iter().map(|(key, one)| key.len() + one.value().len()).sum();
        assert!(bytes <= 2 * LESSONS_MAX * (12 + VALUE_HEAD_BYTES + 4 * TOKENS_MAX));
        // In a shard that has no more room it learns in place of what it knows.
        fill(&mut known, 400..410, Class::Wanted, true);
        let of = |class| known.iter().filter(move |(_, one)| one.class == class).count();
        assert_eq!((of(Class::Wanted), of(Class::Spam)), (5, LESSONS_MAX));
        let newest = lesson_key(AccountId(7), 409 << 8);
        assert!(known.iter().any(|(key, _)| *key == newest));
        let mut nobody = Vec::new();
        fill(&mut nobody, 0..3, Class::Spam, true);
        assert!(nobody.is_empty());
    }

    #[test]
    fn a_sample_has_the_same_words_of_all_messages_that_have_them() {
        let (one, other) = (message(0..600), message(300..900));
        let (first, second) = (sample(&one, 7), sample(&other, 7));
        assert_eq!((first.0.len(), second.0.len()), (TOKENS_MAX, TOKENS_MAX));
        let common = first.0.iter().filter(|token| second.0.contains(token)).count();
        assert!(common > TOKENS_MAX / 3, "{common}");
        assert_eq!(sample(&message(0..5), 7), message(0..5));
        let elsewhere = sample(&one, 8);
        let common = first.0.iter().filter(|token| elsewhere.0.contains(token)).count();
        assert!(common < TOKENS_MAX / 3, "{common}: another host takes others");
    }

    #[test]
    fn models_are_bounded_and_those_asked_last_stay() {
        let mut models = Models::default();
        for number in 0..2 * MODELS_MAX {
            models.put(AccountId(number as u32), Rc::default());
            assert!(models.get(AccountId(0)).is_some());
        }
        assert_eq!(models.models.len(), MODELS_MAX);
        assert!(models.get(AccountId(1)).is_none());
        models.forget(AccountId(0));
        assert!(models.get(AccountId(0)).is_none());
    }

    #[test]
    fn a_model_is_good_until_the_shared_classifier_has_learned_much_more() {
        let of = |spam| Totals { learned_wanted: 100, learned_spam: spam, ..Totals::default() };
        let own = Own { totals: of(100), ..Own::default() };
        assert!(own.is_fresh(of(100)) && own.is_fresh(of(110)) && !own.is_fresh(of(111)));
        let own = Own::default();
        assert!(own.is_fresh(Totals::default()) && !own.is_fresh(of(0)));
    }

    #[test]
    fn values_that_are_damaged_harm_nothing() {
        assert_eq!(Sorted::read(b"12345678"), None);
        let nan = [&1_u32.to_le_bytes()[..], &[1], &f32::NAN.to_le_bytes(), b"12345"].concat();
        let read = Sorted::read(&nan).unwrap();
        assert_eq!((read.said, read.tokens.0.len()), (0.0, 1));
        let huge = [[0; VALUE_HEAD_BYTES].as_slice(), &[7; 100_000]].concat();
        assert_eq!(Sorted::read(&huge).unwrap().tokens.0.len(), TOKENS_MAX);
    }
}
