//! Parts of dates. RFC 5260 section 4.2.

use super::program::DatePart;
use crate::message::date::{Day, MONTHS, Sent};

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
/// The Modified Julian Day of 1970-01-01.
const JULIAN_OF_EPOCH: i64 = 40_587;
const SECONDS_PER_DAY: i64 = 86_400;

const PARTS: [(DatePart, &str); 13] = [
    (DatePart::Year, "year"),
    (DatePart::Month, "month"),
    (DatePart::Day, "day"),
    (DatePart::Date, "date"),
    (DatePart::Julian, "julian"),
    (DatePart::Hour, "hour"),
    (DatePart::Minute, "minute"),
    (DatePart::Second, "second"),
    (DatePart::Time, "time"),
    (DatePart::Iso8601, "iso8601"),
    (DatePart::Std11, "std11"),
    (DatePart::Zone, "zone"),
    (DatePart::Weekday, "weekday"),
];

impl DatePart {
    pub(super) fn named(name: &str) -> Option<DatePart> {
        let found = PARTS.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
        found.map(|(part, _)| *part)
    }
}

/// `+0100` as minutes east of Greenwich.
pub(super) fn zone(text: &str) -> Option<i16> {
    let (sign, digits) = text.split_at_checked(1)?;
    if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let hours: i16 = digits.get(..2)?.parse().ok()?;
    let minutes: i16 = digits.get(2..)?.parse().ok()?;
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset = hours.checked_mul(60)?.checked_add(minutes)?;
    match sign {
        "+" => Some(offset),
        "-" => offset.checked_neg(),
        _ => None,
    }
}

/// The date of a header field; of one like Received, what stands behind the last semicolon.
pub(super) fn of_field(value: &[u8]) -> Option<Sent> {
    let tail = memchr::memrchr(b';', value).and_then(|at| value.get(at.saturating_add(1)..));
    Sent::read(tail.unwrap_or(value).trim_ascii())
}

/// An instant as a clock in that zone shows it.
pub(super) fn part(part: DatePart, unix_seconds: i64, offset_minutes: i16) -> String {
    let local = unix_seconds.saturating_add(i64::from(offset_minutes).saturating_mul(60));
    let days = local.div_euclid(SECONDS_PER_DAY);
    let of_day = local.rem_euclid(SECONDS_PER_DAY);
    let (year, month, day) = Day(days).civil();
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    // 1970-01-01 was a Thursday.
    let weekday = days.saturating_add(4).rem_euclid(7);
    match part {
        DatePart::Year => format!("{year:04}"),
        DatePart::Month => format!("{month:02}"),
        DatePart::Day => format!("{day:02}"),
        DatePart::Date => format!("{year:04}-{month:02}-{day:02}"),
        DatePart::Julian => days.saturating_add(JULIAN_OF_EPOCH).to_string(),
        DatePart::Hour => format!("{hour:02}"),
        DatePart::Minute => format!("{minute:02}"),
        DatePart::Second => format!("{second:02}"),
        DatePart::Time => format!("{hour:02}:{minute:02}:{second:02}"),
        DatePart::Iso8601 => {
            let zone = zone_text(offset_minutes, ":");
            format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{zone}")
        }
        DatePart::Std11 => {
            let zone = zone_text(offset_minutes, "");
            let name = |names: &'static [&'static str], index: i64| -> &'static str {
                usize::try_from(index).ok().and_then(|index| names.get(index)).unwrap_or(&"")
            };
            let weekday = name(&WEEKDAYS, weekday);
            let month = name(&MONTHS, i64::from(month).saturating_sub(1));
            format!(
                "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} {zone}"
            )
        }
        DatePart::Zone => zone_text(offset_minutes, ""),
        DatePart::Weekday => weekday.to_string(),
    }
}

fn zone_text(offset_minutes: i16, between: &str) -> String {
    let sign = if offset_minutes < 0 { '-' } else { '+' };
    let minutes = offset_minutes.unsigned_abs();
    format!("{sign}{:02}{between}{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_date_is_written() {
        let sent = of_field(b"by x; Thu, 12 Feb 2009 23:31:30 -0930").unwrap();
        let expected = [
            "2009",
            "02",
            "12",
            "2009-02-12",
            "54874",
            "23",
            "31",
            "30",
            "23:31:30",
            "2009-02-12T23:31:30-09:30",
            "Thu, 12 Feb 2009 23:31:30 -0930",
            "-0930",
            "4",
        ];
        for ((date_part, name), expected) in PARTS.into_iter().zip(expected) {
            assert_eq!(part(date_part, sent.unix_seconds, sent.offset_minutes), expected, "{name}");
            assert_eq!(DatePart::named(name), Some(date_part));
        }
        assert_eq!(part(DatePart::Date, sent.unix_seconds, 0), "2009-02-13");
    }

    #[test]
    fn zones_are_read() {
        assert_eq!(zone("+0100"), Some(60));
        assert_eq!(zone("-0930"), Some(-570));
        for odd in ["", "0100", "+100", "+2400", "+0060", "+01:00", "é0100", "UTC"] {
            assert_eq!(zone(odd), None, "{odd}");
        }
    }
}
