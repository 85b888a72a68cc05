//! Sequence sets: `1:4,7,9:*`, of message numbers or of UIDs. RFC 3501 section 9, `sequence-set`.

/// One end of a range; `*` is the highest number in use, whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Number(u32),
    Star,
}

/// As the client wrote it, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceSet {
    pub ranges: Vec<(Bound, Bound)>,
}

impl SequenceSet {
    /// Reads the whole of `text`.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<SequenceSet> {
        let mut ranges = Vec::new();
        for piece in text.split(|byte| *byte == b',') {
            let mut ends = piece.splitn(2, |byte| *byte == b':');
            let first = bound(ends.next()?)?;
            let last = ends.next().map_or(Some(first), bound)?;
            ranges.push((first, last));
        }
        Some(SequenceSet { ranges })
    }

    /// Inclusive ranges of numbers, ascending, not touching; `highest` stands for `*`. When nothing
    /// is in use (`highest` is 0), `*` is nothing.
    #[must_use]
    pub fn resolve(&self, highest: u32) -> Vec<(u32, u32)> {
        let number = |bound: Bound| match bound {
            Bound::Number(number) => number,
            Bound::Star => highest,
        };
        let ranges = self.ranges.iter().filter_map(|(first, last)| {
            let star = *first == Bound::Star || *last == Bound::Star;
            let (first, last) = (number(*first), number(*last));
            (highest > 0 || !star).then_some((first.min(last), first.max(last)))
        });
        merge(ranges.collect())
    }
}

/// Sorts and joins ranges that overlap or touch.
#[must_use]
pub fn merge(mut ranges: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len().min(16));
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            Some(_) | None => merged.push((first, last)),
        }
    }
    merged
}

/// Joins ascending numbers into ranges, for UID sets in replies.
#[must_use]
pub fn runs(numbers: impl IntoIterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.1.checked_add(1) == Some(number) => run.1 = number,
            Some(_) | None => runs.push((number, number)),
        }
    }
    runs
}

/// Writes ranges as a set.
#[must_use]
pub fn text(ranges: &[(u32, u32)]) -> String {
    let pieces = ranges.iter().map(|(first, last)| {
        if first == last { first.to_string() } else { format!("{first}:{last}") }
    });
    pieces.collect::<Vec<_>>().join(",")
}

fn bound(text: &[u8]) -> Option<Bound> {
    if text == b"*" {
        return Some(Bound::Star);
    }
    let digits = !text.is_empty() && text.len() <= 10 && text.iter().all(u8::is_ascii_digit);
    let number: u32 = digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()?;
    (number > 0).then_some(Bound::Number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_resolved() {
        let resolve =
            |text: &str, highest| SequenceSet::read(text.as_bytes()).map(|s| s.resolve(highest));
        assert_eq!(resolve("1", 9), Some(vec![(1, 1)]));
        assert_eq!(resolve("9:3,1,2", 9), Some(vec![(1, 9)]));
        assert_eq!(resolve("*", 9), Some(vec![(9, 9)]));
        assert_eq!(resolve("12:*", 9), Some(vec![(9, 12)]));
        assert_eq!(resolve("1:*", 0), Some(vec![]));
        assert_eq!(resolve("4294967295", 1), Some(vec![(u32::MAX, u32::MAX)]));
        for bad in ["", "0", "1,", ",1", "1:", ":", "a", "1:2:3", "4294967296", "-1", "+1", "1 "] {
            assert_eq!(resolve(bad, 9), None, "{bad}");
        }
    }

    #[test]
    fn numbers_are_written_as_ranges() {
        assert_eq!(text(&runs([1, 2, 3, 7, 9, 10])), "1:3,7,9:10");
    }
}
