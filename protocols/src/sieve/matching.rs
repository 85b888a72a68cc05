//! Comparators and match types. RFC 5228 section 2.7, RFC 4790, RFC 5231.
//!
//! `:matches` never tries all ways to share a text among its wildcards. The text before the first
//! `*` has one place; each `*` then takes as little as it can, and once what follows it has been
//! found, an earlier `*` need never be looked at again: taking more there could not help. So the
//! cost is at most the value's length times the pattern's, and that much is taken from the run's
//! [`Work`] before.

use super::limits::WORK_OF_A_COMPARISON;
use std::borrow::Cow;
use std::cmp::Ordering;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparator {
    Octet,
    AsciiCasemap,
    AsciiNumeric,
    UnicodeCasemap,
}

impl Comparator {
    pub(super) const ALL: [(Comparator, &str); 4] = [
        (Comparator::Octet, "i;octet"),
        (Comparator::AsciiCasemap, "i;ascii-casemap"),
        (Comparator::AsciiNumeric, "i;ascii-numeric"),
        (Comparator::UnicodeCasemap, "i;unicode-casemap"),
    ];

    fn folded(self, text: &str) -> Cow<'_, str> {
        match self {
            Comparator::Octet | Comparator::AsciiNumeric => Cow::Borrowed(text),
            Comparator::AsciiCasemap => Cow::Owned(text.to_ascii_uppercase()),
            Comparator::UnicodeCasemap => Cow::Owned(text.to_uppercase()),
        }
    }

    /// What [`Comparator::compare`] says, without copies in the common case.
    fn equal(self, value: &str, key: &str) -> bool {
        match self {
            Comparator::Octet => value == key,
            Comparator::AsciiCasemap => value.eq_ignore_ascii_case(key),
            Comparator::AsciiNumeric | Comparator::UnicodeCasemap => {
                self.compare(value, key).is_eq()
            }
        }
    }

    fn compare(self, value: &str, key: &str) -> Ordering {
        match self {
            Comparator::AsciiNumeric => Numeric::of(value).cmp(&Numeric::of(key)),
            Comparator::Octet | Comparator::AsciiCasemap | Comparator::UnicodeCasemap => {
                self.folded(value).as_bytes().cmp(self.folded(key).as_bytes())
            }
        }
    }

    /// What telling two characters apart costs; see [`Work`].
    fn work_of_a_character(self) -> usize {
        match self {
            Comparator::Octet | Comparator::AsciiCasemap | Comparator::AsciiNumeric => 1,
            Comparator::UnicodeCasemap => 4,
        }
    }

    fn same(self, one: char, other: char) -> bool {
        match self {
            Comparator::Octet | Comparator::AsciiNumeric => one == other,
            Comparator::AsciiCasemap => one.eq_ignore_ascii_case(&other),
            Comparator::UnicodeCasemap => {
                one == other || one.to_uppercase().eq(other.to_uppercase())
            }
        }
    }
}

/// RFC 4790 section 9.1: digits at the beginning; without any, more than every number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Numeric<'t> {
    /// Length and digits, without leading zeros: longer is more.
    Number(usize, &'t str),
    Infinite,
}

impl Numeric<'_> {
    fn of(text: &str) -> Numeric<'_> {
        let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
        match text.get(..end) {
            None | Some("") => Numeric::Infinite,
            Some(digits) => {
                let digits = digits.trim_start_matches('0');
                Numeric::Number(digits.len(), digits)
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Equal,
    NotEqual,
}

impl Relation {
    pub(super) const ALL: [(Relation, &str); 6] = [
        (Relation::Greater, "gt"),
        (Relation::GreaterOrEqual, "ge"),
        (Relation::Less, "lt"),
        (Relation::LessOrEqual, "le"),
        (Relation::Equal, "eq"),
        (Relation::NotEqual, "ne"),
    ];

    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Relation::Greater => ordering.is_gt(),
            Relation::GreaterOrEqual => ordering.is_ge(),
            Relation::Less => ordering.is_lt(),
            Relation::LessOrEqual => ordering.is_le(),
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatchKind {
    Is,
    Contains,
    Matches,
    Value(Relation),
    /// How many values there are is compared.
    Count(Relation),
}

/// Which one of several fields of a name. RFC 5260 section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Index {
    /// From one.
    pub number: u64,
    /// Counts from the end.
    pub last: bool,
}

/// How a test compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    pub kind: MatchKind,
    pub comparator: Comparator,
    pub index: Option<Index>,
}

/// What a run may still cost; see [`super::limits`].
#[derive(Debug)]
pub(super) struct Work {
    left: u64,
}

/// All that a run may cost is spent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spent;

impl Work {
    pub(super) fn new(work_max: u64) -> Work {
        Work { left: work_max }
    }

    pub(super) fn take(&mut self, octets: usize) -> Result<(), Spent> {
        let octets = u64::try_from(octets).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(octets).ok_or(Spent)?;
        Ok(())
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }
}

impl Match {
    /// Whether one value goes with one key; `captures`: what the wildcards stood for, with the
    /// whole value at the front, when they are wanted. Counts are [`Match::counts`]'s affair.
    pub(super) fn holds(
        &self,
        value: &str,
        key: &str,
        captures: Option<&mut Vec<String>>,
        work: &mut Work,
    ) -> Result<bool, Spent> {
        work.take(value.len().saturating_add(key.len()).saturating_add(WORK_OF_A_COMPARISON))?;
        match self.kind {
            MatchKind::Is => Ok(self.comparator.equal(value, key)),
            MatchKind::Value(relation) => Ok(relation.holds(self.comparator.compare(value, key))),
            MatchKind::Contains => {
                let (value, key) = (self.comparator.folded(value), self.comparator.folded(key));
                Ok(memchr::memmem::find(value.as_bytes(), key.as_bytes()).is_some())
            }
            MatchKind::Matches => glob(self.comparator, value, key, captures, work),
            MatchKind::Count(_) => Ok(false),
        }
    }

    /// RFC 5231 section 4.2; `None`: not a test of counts.
    pub(super) fn counts(&self, count: usize, key: &str) -> Option<bool> {
        let MatchKind::Count(relation) = self.kind else { return None };
        Some(relation.holds(self.comparator.compare(&count.to_string(), key)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wild {
    Character(char),
    One,
    Many,
}

fn pattern_of(pattern: &str) -> Vec<Wild> {
    let mut wilds = Vec::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        wilds.push(match character {
            '?' => Wild::One,
            '*' => Wild::Many,
            '\\' => Wild::Character(characters.next().unwrap_or('\\')),
            plain => Wild::Character(plain),
        });
    }
    wilds
}

/// Where to go on when what follows a `*` does not fit where it was tried.
struct Retry {
    pattern_at: usize,
    value_at: usize,
    /// Ranges that were taken before that `*`.
    taken: usize,
}

fn glob(
    comparator: Comparator,
    value: &str,
    pattern: &str,
    captures: Option<&mut Vec<String>>,
    work: &mut Work,
) -> Result<bool, Spent> {
    let text: Vec<char> = value.chars().collect();
    let pattern = pattern_of(pattern);
    let Some(taken) = fit(comparator, &text, &pattern, work)? else { return Ok(false) };
    if let Some(captures) = captures {
        captures.clear();
        captures.push(value.to_owned());
        let room = super::limits::MATCH_VARIABLES_MAX;
        for (start, end) in taken.into_iter().take(room) {
            captures.push(text.get(start..end).unwrap_or_default().iter().collect());
        }
    }
    Ok(true)
}

/// The ranges that the wildcards stand for.
fn fit(
    comparator: Comparator,
    text: &[char],
    pattern: &[Wild],
    work: &mut Work,
) -> Result<Option<Vec<(usize, usize)>>, Spent> {
    let mut taken: Vec<(usize, usize)> = Vec::new();
    let mut retry: Option<Retry> = None;
    let (mut at, mut text_at) = (0_usize, 0_usize);
    let step = comparator.work_of_a_character();
    loop {
        work.take(step)?;
        let fits = match (pattern.get(at), text.get(text_at)) {
            (None, None) => return Ok(Some(taken)),
            (Some(Wild::Many), _) => {
                // It takes nothing at first.
                let before = taken.len();
                taken.push((text_at, text_at));
                at = at.saturating_add(1);
                if at == pattern.len() {
                    // The last one takes all that is left.
                    taken.pop();
                    taken.push((text_at, text.len()));
                    return Ok(Some(taken));
                }
                retry = Some(Retry { pattern_at: at, value_at: text_at, taken: before });
                continue;
            }
            (Some(Wild::One), Some(_)) => {
                taken.push((text_at, text_at.saturating_add(1)));
                true
            }
            (Some(Wild::Character(wanted)), Some(found)) => comparator.same(*wanted, *found),
            (None, Some(_)) => false,
            // Nothing is left for what must still come, however much a `*` takes.
            (Some(_), None) => return Ok(None),
        };
        if fits {
            at = at.saturating_add(1);
            text_at = text_at.saturating_add(1);
            continue;
        }
        // The last `*` takes one more.
        let Some(retry) = &mut retry else { return Ok(None) };
        retry.value_at = retry.value_at.saturating_add(1);
        at = retry.pattern_at;
        text_at = retry.value_at;
        taken.truncate(retry.taken.saturating_add(1));
        if let Some(range) = taken.last_mut() {
            range.1 = retry.value_at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: MatchKind, comparator: Comparator) -> Match {
        Match { kind, comparator, index: None }
    }

    fn glob_of(value: &str, pattern: &str) -> Option<Vec<String>> {
        let spec = spec(MatchKind::Matches, Comparator::AsciiCasemap);
        let mut captures = Vec::new();
        let mut work = Work::new(1_000_000);
        let held = spec.holds(value, pattern, Some(&mut captures), &mut work).unwrap();
        held.then(|| captures.split_off(1))
    }

    #[test]
    fn wildcards_take_as_little_as_they_can() {
        for (value, pattern, expected) in [
            (
                "[acme-users] [fwd] version 1.0",
                "[*] *",
                Some(vec!["acme-users", "[fwd] version 1.0"]),
            ),
            ("coyote@ACME.Example.COM", "coyote@**.com", Some(vec!["", "ACME.Example"])),
            ("frop", "*", Some(vec!["frop"])),
            ("", "*", Some(vec![""])),
            ("", "", Some(vec![])),
            ("a", "", None),
            ("", "?", None),
            ("abc", "?b?", Some(vec!["a", "c"])),
            ("aXa", "*a", Some(vec!["aX"])),
            ("xaab", "*a*b", Some(vec!["x", "a"])),
            ("aab", "*?b", Some(vec!["a", "a"])),
            ("aaXbYb", "*a?b*b", Some(vec!["a", "X", "Y"])),
            ("é*x", "?\\**", Some(vec!["é", "x"])),
            ("a\\b", "a\\\\b", Some(vec![])),
            ("a\\", "a\\", Some(vec![])),
            ("abcabd", "*abd", Some(vec!["abc"])),
            ("abc", "*abd", None),
        ] {
            let expected =
                expected.map(|texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect());
            assert_eq!(glob_of(value, pattern), expected, "{value} against {pattern}");
        }
    }

    /// Where a naive matcher tries every way to share the text: 2^30 of them.
    #[test]
    fn wildcards_cost_no_more_than_length_times_length() {
        let value = "a".repeat(3000);
        let pattern = format!("{}b", "*a".repeat(30));
        let spec = spec(MatchKind::Matches, Comparator::Octet);
        let mut work = Work::new(10_000_000);
        assert_eq!(spec.holds(&value, &pattern, None, &mut work), Ok(false));
        let cost = 10_000_000 - work.left();
        assert!(cost <= 2 * 3000 * 61, "{cost}");
        assert_eq!(spec.holds(&value, &pattern, None, &mut Work::new(3500)), Err(Spent));
    }

    /// Agrees with the plain definition on all short words.
    #[test]
    fn wildcards_agree_with_a_plain_matcher() {
        fn plain(value: &[u8], pattern: &[u8]) -> bool {
            match (pattern.split_first(), value.split_first()) {
                (None, None) => true,
                (Some((b'*', rest)), _) => {
                    (0..=value.len()).any(|taken| plain(&value[taken..], rest))
                }
                (Some((b'?', rest)), Some((_, after))) => plain(after, rest),
                (Some((one, rest)), Some((other, after))) => one == other && plain(after, rest),
                (_, _) => false,
            }
        }
        fn words(letters: &[u8], length_max: u32) -> Vec<String> {
            let mut all = vec![String::new()];
            let mut from = 0;
            for _ in 0..length_max {
                let to = all.len();
                for index in from..to {
                    for letter in letters {
                        all.push(format!("{}{}", all[index], char::from(*letter)));
                    }
                }
                from = to;
            }
            all
        }
        for value in words(b"ab", 5) {
            for pattern in words(b"ab?*", 5) {
                let expected = plain(value.as_bytes(), pattern.as_bytes());
                assert_eq!(glob_of(&value, &pattern).is_some(), expected, "{value} {pattern}");
            }
        }
    }

    #[test]
    fn comparators_compare() {
        use Comparator::{AsciiCasemap, AsciiNumeric, Octet, UnicodeCasemap};
        for (comparator, value, key, expected) in [
            (Octet, "a", "A", Ordering::Greater),
            (AsciiCasemap, "a", "A", Ordering::Equal),
            (AsciiCasemap, "é", "É", Ordering::Less.reverse()),
            (UnicodeCasemap, "straße é", "STRASSE É", Ordering::Equal),
            (AsciiNumeric, "10", "9", Ordering::Greater),
            (AsciiNumeric, "007x", "7", Ordering::Equal),
            (AsciiNumeric, "x", "99999999999999999999999", Ordering::Greater),
            (AsciiNumeric, "x", "", Ordering::Equal),
            (AsciiNumeric, "0", "", Ordering::Less),
        ] {
            assert_eq!(comparator.compare(value, key), expected, "{comparator:?} {value} {key}");
            assert_eq!(comparator.equal(value, key), expected.is_eq());
        }
    }

    #[test]
    fn relations_and_counts_hold() {
        let mut work = Work::new(1000);
        for (relation, name) in Relation::ALL {
            let spec = spec(MatchKind::Value(relation), Comparator::AsciiNumeric);
            let held = ["1", "2", "3"].map(|value| spec.holds(value, "2", None, &mut work));
            let expected = match name {
                "gt" => [false, false, true],
                "ge" => [false, true, true],
                "lt" => [true, false, false],
                "le" => [true, true, false],
                "eq" => [false, true, false],
                _ => [true, false, true],
            };
            assert_eq!(held, expected.map(Ok), "{name}");
        }
        let count = spec(MatchKind::Count(Relation::Greater), Comparator::AsciiNumeric);
        assert_eq!(count.counts(10, "9"), Some(true));
        assert_eq!(spec(MatchKind::Is, Comparator::Octet).counts(1, "1"), None);
    }
}
