//! Times and spans of time as an operator writes them: `7d`, `2h`, `2026-11-25T16:22:03Z`.

use protocols::message::date::{read_rfc3339, rfc3339_text};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;

const UNITS: [(char, u64); 5] =
    [('w', 7 * 86_400), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// A span of time in a config file: a number and a unit, or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// `7d`, `36h`, `90m`, `30s`, `0`.
    pub fn parse(text: &str) -> Result<Span, String> {
        let wrong = || format!("{text:?} is no span of time; write it like 7d, 36h, 90m or 0");
        if text == "0" {
            return Ok(Span(Duration::ZERO));
        }
        let unit = UNITS.iter().find(|(unit, _)| text.ends_with(*unit)).ok_or_else(wrong)?;
        let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
        count
            .checked_mul(unit.1)
            .map(|seconds| Span(Duration::from_secs(seconds)))
            .ok_or_else(wrong)
    }

    /// In the largest unit that it is a multiple of.
    pub fn text(self) -> String {
        let seconds = self.0.as_secs();
        let unit =
            UNITS.iter().skip(1).find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit));
        unit.map_or_else(|| "0".to_owned(), |(name, unit)| format!("{}{name}", seconds / unit))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        Span::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A point of time in Unix milliseconds: RFC 3339, or how long before `now`. A second without a
/// fraction is taken from its start.
pub fn parse_time(text: &str, now: u64) -> Result<u64, String> {
    if let Ok(Span(before)) = Span::parse(text) {
        return Ok(now.saturating_sub(u64::try_from(before.as_millis()).unwrap_or(u64::MAX)));
    }
    read_rfc3339(text).ok_or_else(|| {
        format!("{text:?} is no time; write it like 2026-11-25T16:22:03Z, or 2h for two hours ago")
    })
}

/// RFC 3339 in UTC, to the second.
pub fn time_text(unix_millis: u64) -> String {
    rfc3339_text(unix_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-25T16:22:03Z", 1_795_623_723_000),
            ("2026-11-25T16:22:03.5Z", 1_795_623_723_500),
            ("2026-11-25t18:22:03.123456+02:00", 1_795_623_723_123),
            ("2026-11-25 10:52:03-05:30", 1_795_623_723_000),
            ("2h", 1_800_000_000_000 - 7_200_000),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_time(text, 1_800_000_000_000), Ok(millis), "{text}");
        }
        assert_eq!(time_text(1_795_623_723_999), "2026-11-25T16:22:03Z");
        let wrong = [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-11-25",
            "2026-11-25T16:22:03",
            "7",
            "d",
            "5é",
        ];
        for text in wrong {
            assert!(parse_time(text, 0).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_are_read_and_written() {
        for (text, seconds) in [("7d", 604_800), ("36h", 129_600), ("90s", 90), ("0", 0)] {
            let span = Span::parse(text).unwrap();
            assert_eq!((span.0.as_secs(), span.text().as_str()), (seconds, text));
        }
        assert_eq!(Span::parse("2w").unwrap().text(), "14d");
    }
}
