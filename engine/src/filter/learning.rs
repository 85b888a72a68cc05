//! Teaching the classifier, and keeping what it was taught.
//!
//! Shard 0 learns, durably, and tells every core the slots that have changed. Each message is
//! learned once, as long as it is among the last [`SEEN_MAX`]: who says later that it is of the
//! other kind moves it there.
//!
//! Key space 4 of shard 0's log:
//!
//! | key | value |
//! |---|---|
//! | `t` and a block's number, big-endian u16 | its [`BLOCK_SLOTS`] slots: weight and doubt, f32 each |
//! | `c` and a block's number, likewise | for each of these slots how many messages had it: wanted, spam; u16 each |
//! | `n` | messages that these counts are of: wanted, spam; then the number of the first `l` that is not in the blocks; u64 each |
//! | `s` | messages learned (wanted, spam; u64 each), then fingerprints, oldest first; u64 each |
//! | `l` and a number, big-endian u64 | one message learned since the blocks were written: class, fingerprint, tokens |
//!
//! All numbers in values are little-endian. A message is durable as an `l` before it counts; every
//! [`LEARNED_BETWEEN_TABLES`] of them the blocks are written anew and the `l` keys deleted. A crash
//! between those two learns nothing twice, since `n` and `s` are one record and say how far the
//! blocks go. A crash amid the blocks has some of them learn those messages twice.

use super::classifier::{Class, Classifier, SLOTS, Slot, Totals};
use super::limits::{MESSAGE_BYTES_MAX, TOKENS_MAX};
use super::tokens::{Tokens, fingerprint};
use super::{Envelope, judge};
use crate::operations::{Fault, insist};
use crate::shard::Shard;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use storage::store::Space;

pub const SPACE: Space = Space(4);
const BLOCK_SLOTS: usize = 8192;
const _: () = assert!(SLOTS.is_multiple_of(BLOCK_SLOTS));
const LEARNED_BETWEEN_TABLES: usize = 500;
/// Fingerprints that are remembered: half a MiB at most.
const SEEN_MAX: usize = 32_768;
/// One message to learn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lesson {
    pub class: Class,
    pub fingerprint: u64,
    pub tokens: Tokens,
}

/// Whether a message was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noted {
    Known,
    New,
    /// As one of the other kind.
    Moved,
}

/// What came of lessons: how many were new, and how many of these had been learned the other way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Taught {
    pub learned: usize,
    pub moved: usize,
}

/// The classifier of one core, and, on shard 0, what else is needed to go on learning.
#[derive(Debug, Default)]
pub struct Learned {
    pub classifier: Classifier,
    seen: HashSet<u64>,
    order: VecDeque<u64>,
    /// Numbers of the `l` keys that are there.
    lessons: VecDeque<u64>,
    next: u64,
}

impl Learned {
    /// Fingerprint and class in one number.
    fn mark(lesson: &Lesson) -> u64 {
        (lesson.fingerprint & !1) | u64::from(lesson.class == Class::Spam)
    }

    /// Remembers that it has been learned.
    fn note(&mut self, mark: u64) -> Noted {
        if !self.seen.insert(mark) {
            return Noted::Known;
        }
        let other = mark ^ 1;
        let is_moved = self.seen.remove(&other);
        if is_moved && let Some(at) = self.order.iter().position(|&noted| noted == other) {
            self.order.remove(at);
        }
        self.order.push_back(mark);
        if self.order.len() > SEEN_MAX
            && let Some(old) = self.order.pop_front()
        {
            self.seen.remove(&old);
        }
        if is_moved { Noted::Moved } else { Noted::New }
    }

    /// Learns a message, unless it is known as that. What was new of it, and the slots
    /// that it has changed.
    fn take(&mut self, lesson: &Lesson) -> (Noted, Vec<Slot>) {
        let noted = self.note(Learned::mark(lesson));
        let changed = match noted {
            Noted::Known => Vec::new(),
            Noted::New => self.classifier.learn(&lesson.tokens, lesson.class),
            Noted::Moved => self.classifier.learn_otherwise(&lesson.tokens, lesson.class),
        };
        (noted, changed)
    }

    /// From the pairs of the key space.
    pub fn restore(pairs: &[(Bytes, Bytes)]) -> Learned {
        let mut learned = Learned::default();
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let mut totals = Totals::default();
        let mut first = 0;
        let mut slots = BTreeMap::new();
        for (key, value) in pairs {
            match key.split_first() {
                Some((kind @ (b't' | b'c'), block)) => {
                    let block =
                        usize::from(u16::from_be_bytes(block.try_into().unwrap_or_default()));
                    read_block(*kind, block, value, &mut slots);
                }
                Some((b's', _)) => {
                    let mut numbers = value.chunks_exact(8).map(number);
                    totals.learned_wanted = numbers.next().unwrap_or(0);
                    totals.learned_spam = numbers.next().unwrap_or(0);
                    numbers.take(SEEN_MAX).for_each(|mark| {
                        learned.note(mark);
                    });
                }
                Some((b'n', _)) => {
                    let mut numbers = value.chunks_exact(8).map(number);
                    totals.counted_wanted = numbers.next().unwrap_or(0);
                    totals.counted_spam = numbers.next().unwrap_or(0);
                    // None, from a time before: all that are there are learned.
                    first = numbers.next().unwrap_or(0);
                }
                _ => {}
            }
        }
        let slots: Vec<Slot> = slots.into_values().collect();
        learned.classifier.apply(&slots, totals);
        learned.next = first;
        for (key, value) in pairs {
            if let Some((b'l', name)) = key.split_first()
                && let Some(lesson) = read_lesson(value)
            {
                let name = u64::from_be_bytes(name.try_into().unwrap_or_default());
                learned.lessons.push_back(name);
                learned.next = learned.next.max(name.saturating_add(1));
                if name < first {
                    continue; // to be deleted with the others, next time
                }
                learned.take(&lesson);
            }
        }
        learned
    }

    /// Everything but the lessons, which it makes superfluous.
    fn table(&self) -> Vec<(Bytes, Option<Bytes>)> {
        let mut pairs = Vec::new();
        for block in 0..SLOTS / BLOCK_SLOTS {
            let mut weights = Vec::with_capacity(BLOCK_SLOTS * 8);
            let mut counts = Vec::with_capacity(BLOCK_SLOTS * 4);
            for slot in self.classifier.slots(block * BLOCK_SLOTS..(block + 1) * BLOCK_SLOTS) {
                weights.extend(slot.weight.to_le_bytes());
                weights.extend(slot.doubt.to_le_bytes());
                counts.extend(slot.wanted.to_le_bytes());
                counts.extend(slot.spam.to_le_bytes());
            }
            let number = u16::try_from(block).unwrap_or(0).to_be_bytes();
            for (kind, value) in [(b't', weights), (b'c', counts)] {
                let key = [[kind].as_slice(), &number].concat();
                pairs.push((Bytes::from(key), Some(Bytes::from(value))));
            }
        }
        let totals = self.classifier.totals;
        let counted = [totals.counted_wanted, totals.counted_spam, self.next];
        let counted = counted.map(u64::to_le_bytes).concat();
        pairs.push((Bytes::from_static(b"n"), Some(Bytes::from(counted))));
        let mut state = Vec::with_capacity(16 + self.order.len() * 8);
        state.extend(totals.learned_wanted.to_le_bytes());
        state.extend(totals.learned_spam.to_le_bytes());
        self.order.iter().for_each(|mark| state.extend(mark.to_le_bytes()));
        pairs.push((Bytes::from_static(b"s"), Some(Bytes::from(state))));
        pairs
    }
}

/// Weights and doubts, or counts, of one block.
fn read_block(kind: u8, block: usize, value: &[u8], slots: &mut BTreeMap<u32, Slot>) {
    let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap_or_default());
    let count = |bytes: &[u8]| u16::from_le_bytes(bytes.try_into().unwrap_or_default());
    let entries = value.chunks_exact(if kind == b't' { 8 } else { 4 });
    for (index, bytes) in entries.take(BLOCK_SLOTS).enumerate() {
        let Ok(at) = u32::try_from(block * BLOCK_SLOTS + index) else { return };
        let fresh = Slot { at, weight: 0.0, doubt: 1.0, wanted: 0, spam: 0 };
        let slot = slots.entry(at).or_insert(fresh);
        match kind {
            b't' => (slot.weight, slot.doubt) = (float(&bytes[..4]), float(&bytes[4..])),
            _ => (slot.wanted, slot.spam) = (count(&bytes[..2]), count(&bytes[2..])),
        }
    }
}

fn lesson_key(number: u64) -> Bytes {
    Bytes::from([b"l".as_slice(), &number.to_be_bytes()].concat())
}

fn write_lesson(lesson: &Lesson) -> Bytes {
    let mut value = vec![u8::from(lesson.class == Class::Spam)];
    value.extend(lesson.fingerprint.to_le_bytes());
    lesson.tokens.0.iter().for_each(|token| value.extend(token.to_le_bytes()));
    Bytes::from(value)
}

fn read_lesson(value: &[u8]) -> Option<Lesson> {
    let (&class, rest) = value.split_first()?;
    let (fingerprint, rest) = rest.split_first_chunk::<8>()?;
    let tokens = rest.chunks_exact(4).take(TOKENS_MAX);
    let tokens = tokens.map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default()));
    Some(Lesson {
        class: if class == 0 { Class::Wanted } else { Class::Spam },
        fingerprint: u64::from_le_bytes(*fingerprint),
        tokens: Tokens(tokens.collect()),
    })
}

/// On shard 0: learns what is new, durably, and tells every core. Of what is said twice, the
/// last word holds.
pub async fn learn(shard: &Rc<Shard>, lessons: Vec<Lesson>) -> Result<Taught, storage::Error> {
    // One after the other: numbers and fingerprints belong to one order.
    let _turn = shard.learning_turn.lock().await;
    let mut pairs = Vec::new();
    let mut fresh = Vec::new();
    // By message, what was said of it last.
    let mut said: HashMap<u64, u64> = HashMap::new();
    {
        let mut learned = shard.learned.borrow_mut();
        for mut lesson in lessons {
            lesson.tokens.0.truncate(TOKENS_MAX);
            let mark = Learned::mark(&lesson);
            let is_known = match said.insert(mark >> 1, mark) {
                Some(before) => before == mark,
                None => learned.seen.contains(&mark),
            };
            if is_known {
                continue;
            }
            let number = learned.next;
            learned.next += 1;
            pairs.push((lesson_key(number), Some(write_lesson(&lesson))));
            fresh.push((number, lesson));
        }
    }
    if fresh.is_empty() {
        return Ok(Taught::default());
    }
    let _durable = shard.store.put(SPACE, pairs).await?;
    let mut taught = Taught::default();
    for (number, lesson) in fresh {
        let (noted, changed) = {
            let mut learned = shard.learned.borrow_mut();
            learned.lessons.push_back(number);
            learned.take(&lesson)
        };
        taught.learned += usize::from(noted != Noted::Known);
        taught.moved += usize::from(noted == Noted::Moved);
        tell(shard, changed);
        crate::core::give_way().await;
    }
    if shard.learned.borrow().lessons.len() >= LEARNED_BETWEEN_TABLES {
        keep(shard).await?;
    }
    Ok(taught)
}

/// On shard 0: all that was learned goes, durably, and from every core. How many
/// messages that were.
pub async fn forget(shard: &Rc<Shard>) -> Result<u64, Fault> {
    let _turn = shard.learning_turn.lock().await;
    let gone: Vec<_> = shard.store.scan(SPACE).into_iter().map(|(key, _)| (key, None)).collect();
    if !gone.is_empty() {
        // In one record: half a table is none.
        let _durable = shard.store.put(SPACE, gone).await.map_err(|error| error.to_string())?;
    }
    let totals = shard.learned.borrow().classifier.totals;
    let start_anew = |shard: &Shard| {
        *shard.learned.borrow_mut() = Learned::default();
        // They correct what is no more.
        shard.own_models.borrow_mut().forget_all();
    };
    // At once, since what is here is written to the log some time.
    start_anew(shard);
    for core in (0..shard.mesh.cores()).filter(|core| *core != shard.id) {
        let told = move |shard: Rc<Shard>| async move {
            start_anew(&shard);
            Ok::<(), Fault>(())
        };
        insist(shard, core, told).await?;
    }
    Ok(totals.learned_wanted + totals.learned_spam)
}

/// Tells the other cores. One whose queue is full misses it, until those slots change again or it
/// starts anew: it is some points less sure of a message or two.
fn tell(shard: &Shard, changed: Vec<Slot>) {
    let totals = shard.learned.borrow().classifier.totals;
    let changed: Arc<[Slot]> = changed.into();
    for core in (0..shard.mesh.cores()).filter(|&core| core != shard.id) {
        let changed = Arc::clone(&changed);
        let _ = shard.mesh.tell(core, move |shard| async move {
            shard.learned.borrow_mut().classifier.apply(&changed, totals);
        });
    }
}

/// Writes the table anew, and deletes the lessons that are in it.
async fn keep(shard: &Rc<Shard>) -> Result<(), storage::Error> {
    let (table, lessons): (_, Vec<u64>) = {
        let learned = shard.learned.borrow();
        (learned.table(), learned.lessons.iter().copied().collect())
    };
    let (blocks, rest): (Vec<_>, Vec<_>) =
        table.into_iter().partition(|(key, _)| matches!(key.first(), Some(b't' | b'c')));
    for block in blocks {
        let _durable = shard.store.put(SPACE, vec![block]).await?;
    }
    let _durable = shard.store.put(SPACE, rest).await?;
    let gone = lessons.iter().map(|&number| (lesson_key(number), None)).collect();
    let _durable = shard.store.put(SPACE, gone).await?;
    let mut learned = shard.learned.borrow_mut();
    learned.lessons.retain(|number| !lessons.contains(number));
    Ok(())
}

/// What there is to learn from a message as it is stored.
pub fn lesson(rules: &super::rules::Rules, message: &[u8], class: Class) -> Lesson {
    let message = &message[..message.len().min(MESSAGE_BYTES_MAX)];
    let envelope = Envelope { mail_from: "", recipients: &[], auth: &[], unix_seconds: 0 };
    let found = judge(rules, message, &envelope);
    Lesson { class, fingerprint: fingerprint(message), tokens: found.tokens }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lesson(number: u64, class: Class) -> Lesson {
        let word = u32::try_from(number).unwrap().wrapping_mul(0x9e37_79b1);
        let common = if class == Class::Spam { 7 << 20 } else { 9 << 24 };
        Lesson { class, fingerprint: number << 8, tokens: Tokens(vec![common, word]) }
    }

    /// What `learn` does, without a store.
    fn learn(learned: &mut Learned, pairs: &mut Vec<(Bytes, Bytes)>, lesson: Lesson) -> bool {
        if learned.take(&lesson).0 == Noted::Known {
            return false;
        }
        pairs.push((lesson_key(learned.next), write_lesson(&lesson)));
        learned.next += 1;
        true
    }

    #[test]
    fn what_was_learned_comes_back_from_table_and_lessons() {
        let (mut learned, mut pairs) = (Learned::default(), Vec::new());
        for number in 1..100 {
            let class = if number % 3 == 0 { Class::Wanted } else { Class::Spam };
            assert!(learn(&mut learned, &mut pairs, lesson(number, class)));
            if number == 60 {
                let table = learned.table().into_iter();
                let table = table.map(|(key, value)| (key, value.unwrap()));
                // The others were to be deleted then, and a crash came before: they are
                // not learned twice.
                pairs.drain(..50);
                pairs.extend(table);
            }
        }
        pairs.sort();
        let restored = Learned::restore(&pairs);
        assert_eq!(restored.next, learned.next);
        assert_eq!(restored.classifier.totals, learned.classifier.totals);
        let probe = Tokens(vec![7 << 20, 5]);
        assert_eq!(restored.classifier.margin(&probe), learned.classifier.margin(&probe));
        assert!(restored.classifier.margin(&probe).unwrap() > 0.3);
        let mut restored = restored;
        assert!(!learn(&mut restored, &mut Vec::new(), lesson(3, Class::Wanted)));
    }

    #[test]
    fn a_message_is_learned_once_and_who_says_otherwise_moves_it() {
        let (mut learned, mut pairs) = (Learned::default(), Vec::new());
        let totals = |wanted, spam| Totals {
            learned_wanted: wanted,
            learned_spam: spam,
            counted_wanted: wanted,
            counted_spam: spam,
        };
        for (class, is_new, counts) in [
            (Class::Spam, true, totals(0, 1)),
            (Class::Spam, false, totals(0, 1)),
            (Class::Wanted, true, totals(1, 0)),
            (Class::Wanted, false, totals(1, 0)),
            (Class::Spam, true, totals(0, 1)),
        ] {
            assert_eq!(learn(&mut learned, &mut pairs, lesson(1, class)), is_new);
            assert_eq!(learned.classifier.totals, counts);
        }
        assert_eq!((learned.seen.len(), learned.order.len()), (1, 1));
        let restored = Learned::restore(&pairs);
        assert_eq!(restored.classifier.totals, totals(0, 1));
        assert_eq!(restored.seen, learned.seen);
        // One of before has kept both words in its table: the last one holds.
        let both = [0_u64, 0, 1 << 8, (1 << 8) | 1, 1 << 8].map(u64::to_le_bytes).concat();
        let old = Learned::restore(&[(Bytes::from_static(b"s"), Bytes::from(both))]);
        assert_eq!(old.order, [1 << 8]);
    }

    #[test]
    fn fingerprints_are_bounded_and_damaged_values_harm_nothing() {
        let mut learned = Learned::default();
        for mark in 0..2 * SEEN_MAX as u64 {
            learned.note(mark << 1);
        }
        assert!(learned.seen.len() <= SEEN_MAX && learned.order.len() <= SEEN_MAX);
        let odd =
            |key: &[u8], value: &[u8]| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        let nan = f32::NAN.to_le_bytes().repeat(4);
        let pairs = [
            odd(b"t", b"x"),
            odd(b"t\xff\xff", &nan),
            odd(b"t\0\0", &nan),
            odd(b"c\0\0", b"12345"),
            odd(b"n", b"1"),
            odd(b"l", b""),
            odd(b"lx", b"123456789012"),
            odd(b"s", b"1"),
            odd(b"", b""),
        ];
        let restored = Learned::restore(&pairs);
        assert_eq!(restored.classifier.margin(&Tokens(vec![0])), None);
    }
}
