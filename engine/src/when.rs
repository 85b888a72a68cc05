//! Times and spans of time as an operator writes them: `7d`, `2h`, `2026-11-25T16:22:03Z`.

use protocols::message::date::Day;
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

/// A point of time in Unix milliseconds: RFC 3339, or how long before `now`. A second without a fraction
/// is taken from its start.
pub fn parse_time(text: &str, now: u64) -> Result<u64, String> {
    if let Ok(Span(before)) = Span::parse(text) {
        return Ok(now.saturating_sub(u64::try_from(before.as_millis()).unwrap_or(u64::MAX)));
    }
    rfc3339(text).ok_or_else(|| {
        format!("{text:?} is no time; write it like 2026-11-25T16:22:03Z, or 2h for two hours ago")
    })
}

fn rfc3339(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, allowed: &str| {
        text.as_bytes().get(at).is_some_and(|byte| allowed.as_bytes().contains(byte))
    };
    if !(is(4, "-") && is(7, "-") && is(10, "Tt ") && is(13, ":") && is(16, ":")) {
        return None;
    }
    let day = Day::from_civil(
        number(0, 4)?,
        u8::try_from(number(5, 7)?).ok()?,
        u8::try_from(number(8, 10)?).ok()?,
    )?;
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let digits = rest
        .strip_prefix('.')
        .map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let (fraction, zone) = if digits > 0 { rest.split_at(digits + 1) } else { ("", rest) };
    let millis: i64 =
        format!("{:0<3}", fraction.get(1..).unwrap_or_default()).get(..3)?.parse().ok()?;
    let offset = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - 5;
            let minutes = number(at, at + 2)? * 60 + number(at + 3, at + 5)?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let seconds = day.0 * 86_400 + hour * 3600 + (minute - offset) * 60 + second;
    u64::try_from(seconds * 1000 + millis).ok()
}

/// RFC 3339 in UTC, to the second.
pub fn time_text(unix_millis: u64) -> String {
    let (year, month, day) = Day::of_unix_millis(unix_millis).civil();
    let seconds = unix_millis / 1000 % 86_400;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
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
