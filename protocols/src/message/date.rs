//! Dates: the Date field, IMAP's date texts, and the days between them.
//!
//! Civil-date arithmetic is Howard Hinnant's `days_from_civil`; years 1 to 9999.

/// When a message was sent, as its Date field says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Seconds since 1970-01-01 UTC.
    pub unix_seconds: i64,
    /// East of Greenwich.
    pub offset_minutes: i16,
}

impl Sent {
    /// Reads the value of a Date field; `None` when it is not a date.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Sent> {
        let text = value.get(..value.len().min(128))?;
        let text = std::str::from_utf8(text).ok()?;
        let date = mail_parser::DateTime::parse_rfc822(text)?;
        if !date.is_valid() || date.year == 0 || date.year > 9999 {
            return None;
        }
        let minutes =
            i16::from(date.tz_hour).saturating_mul(60).saturating_add(i16::from(date.tz_minute));
        let offset_minutes = if date.tz_before_gmt { minutes.saturating_neg() } else { minutes };
        Some(Sent { unix_seconds: date.to_timestamp(), offset_minutes })
    }

    /// The day that the Date field names, whatever its time zone (RFC 3501: SENTON and friends).
    #[must_use]
    pub fn day(self) -> Day {
        let offset = i64::from(self.offset_minutes).saturating_mul(60);
        Day(self.unix_seconds.saturating_add(offset).div_euclid(SECONDS_PER_DAY))
    }
}

const SECONDS_PER_DAY: i64 = 86_400;

/// A day, as a count from 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

/// Month names as IMAP and RFC 5322 write them.
pub const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

impl Day {
    #[must_use]
    pub fn of_unix_millis(millis: u64) -> Day {
        Day(i64::try_from(millis / 86_400_000).unwrap_or(i64::MAX))
    }

    /// `None` for a date that no calendar has.
    #[must_use]
    pub fn from_civil(year: i64, month: u8, day: u8) -> Option<Day> {
        let leap =
            year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
        let length = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return None,
        };
        if day == 0 || day > length || !(1..=9999).contains(&year) {
            return None;
        }
        Some(Day(days_from_civil(year, i64::from(month), i64::from(day))))
    }

    /// Year, month 1–12, day 1–31.
    #[must_use]
    pub fn civil(self) -> (i64, u8, u8) {
        let (year, month, day) = civil_from_days(self.0);
        (year, u8::try_from(month).unwrap_or(1), u8::try_from(day).unwrap_or(1))
    }
}

// Plain integer arithmetic on values bounded by four-digit years: it cannot overflow.
#[allow(clippy::arithmetic_side_effects)]
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[allow(clippy::arithmetic_side_effects)] // the input is clamped first
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days.clamp(-719_162, 2_932_896) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn clock(unix_seconds: i64) -> (i64, i64, i64) {
    let second_of_day = unix_seconds.rem_euclid(SECONDS_PER_DAY);
    (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60)
}

/// IMAP `date-time`, in UTC: ` 7-Feb-1994 21:52:25 +0000`, without the quotes.
#[must_use]
pub fn internal_date_text(unix_millis: u64) -> String {
    let seconds = i64::try_from(unix_millis / 1000).unwrap_or(i64::MAX);
    let (year, month, day) = Day::of_unix_millis(unix_millis).civil();
    let (hour, minute, second) = clock(seconds);
    let month = month_name(month);
    format!("{day:2}-{month}-{year:04} {hour:02}:{minute:02}:{second:02} +0000")
}

/// RFC 5322 `date-time`, in UTC: `Mon, 7 Feb 1994 21:52:25 +0000`.
#[must_use]
pub fn field_text(unix_millis: u64) -> String {
    let seconds = i64::try_from(unix_millis / 1000).unwrap_or(i64::MAX);
    let days = Day::of_unix_millis(unix_millis);
    let (year, month, day) = days.civil();
    let (hour, minute, second) = clock(seconds);
    let weekday = usize::try_from(days.0.rem_euclid(7)).ok().and_then(|day| WEEKDAYS.get(day));
    let weekday = weekday.unwrap_or(&"Thu");
    let month = month_name(month);
    format!("{weekday}, {day} {month} {year:04} {hour:02}:{minute:02}:{second:02} +0000")
}

fn month_name(month: u8) -> &'static str {
    MONTHS.get(usize::from(month).saturating_sub(1)).copied().unwrap_or("Jan")
}

/// Reads IMAP `date-text`, `1-Feb-1994`. RFC 3501 section 9.
#[must_use]
pub fn read_imap_day(text: &[u8]) -> Option<Day> {
    let mut pieces = text.trim_ascii().split(|byte| *byte == b'-');
    let day = number(pieces.next()?, 2)?;
    let name = pieces.next()?;
    let month = MONTHS.iter().position(|month| name.eq_ignore_ascii_case(month.as_bytes()))?;
    let year = pieces.next()?;
    if year.len() != 4 || pieces.next().is_some() {
        return None;
    }
    let month = u8::try_from(month).ok()?.checked_add(1)?;
    Day::from_civil(number(year, 4)?, month, u8::try_from(day).ok()?)
}

/// Reads IMAP `date-time`, ` 1-Feb-1994 21:52:25 -0800`, as milliseconds since 1970.
#[must_use]
pub fn read_imap_instant(text: &[u8]) -> Option<u64> {
    let mut pieces = text.trim_ascii().split(|byte| *byte == b' ');
    let day = read_imap_day(pieces.next()?)?;
    let mut clock = pieces.next()?.split(|byte| *byte == b':');
    let (hour, minute) = (number(clock.next()?, 2)?, number(clock.next()?, 2)?);
    let second = number(clock.next()?, 2)?;
    let zone = pieces.next()?;
    if hour > 23 || minute > 59 || second > 60 || zone.len() != 5 || pieces.next().is_some() {
        return None;
    }
    let (sign, digits) = zone.split_first()?;
    let digits = number(digits, 4)?;
    let offset =
        (digits / 100).saturating_mul(3600).saturating_add((digits % 100).saturating_mul(60));
    let offset = match sign {
        b'+' => offset,
        b'-' => offset.saturating_neg(),
        _ => return None,
    };
    let of_day = hour.saturating_mul(3600).saturating_add(minute.saturating_mul(60));
    let local = day.0.saturating_mul(SECONDS_PER_DAY).saturating_add(of_day).saturating_add(second);
    u64::try_from(local.saturating_sub(offset).max(0)).ok()?.checked_mul(1000)
}

/// Reads RFC 3339 `date-time`, `2026-11-25T16:22:03.5+01:00`, as milliseconds since 1970; a blank
/// may stand for the `T`. What is before 1970 is not read.
#[must_use]
pub fn read_rfc3339(text: &str) -> Option<u64> {
    let text = text.as_bytes();
    let digits = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        number(digits, digits.len())
    };
    let is = |at: usize, allowed: &[u8]| text.get(at).is_some_and(|byte| allowed.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (month, day) = (u8::try_from(digits(5, 7)?).ok()?, u8::try_from(digits(8, 10)?).ok()?);
    let day = Day::from_civil(digits(0, 4)?, month, day)?;
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let fraction = rest.strip_prefix(b".").unwrap_or_default();
    let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let zone = if length > 0 { fraction.get(length..)? } else { rest };
    let thousandths = fraction.get(..length.min(3))?;
    let millis = match (length, number(thousandths, 3)) {
        (0, _) => 0,
        (1, millis) => millis?.saturating_mul(100),
        (2, millis) => millis?.saturating_mul(10),
        (_, millis) => millis?,
    };
    let offset = match zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), hours @ .., b':', _, _] if hours.len() == 2 => {
            let minutes = number(zone.get(4..)?, 2)?;
            let minutes = number(hours, 2)?.saturating_mul(60).saturating_add(minutes);
            if *sign == b'-' { minutes.saturating_neg() } else { minutes }
        }
        _ => return None,
    };
    let minutes = hour.saturating_mul(60).saturating_add(minute).saturating_sub(offset);
    let seconds = day.0.saturating_mul(SECONDS_PER_DAY).saturating_add(minutes.saturating_mul(60));
    let seconds = seconds.saturating_add(second);
    u64::try_from(seconds.saturating_mul(1000).saturating_add(millis)).ok()
}

/// Writes it in UTC, to the second.
#[must_use]
pub fn rfc3339_text(unix_millis: u64) -> String {
    let seconds = i64::try_from(unix_millis / 1000).unwrap_or(i64::MAX);
    let (year, month, day) = Day::of_unix_millis(unix_millis).civil();
    let (hour, minute, second) = clock(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn number(digits: &[u8], length_max: usize) -> Option<i64> {
    if digits.is_empty() || digits.len() > length_max || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_count_both_ways() {
        for days in [-700_000, -1, 0, 59, 60, 11_016, 20_000, 2_900_000] {
            let (year, month, day) = Day(days).civil();
            assert_eq!(Day::from_civil(year, month, day), Some(Day(days)));
        }
        assert_eq!(Day::from_civil(2023, 2, 29), None);
        assert_eq!(Day::from_civil(1970, 1, 1), Some(Day(0)));
    }

    #[test]
    fn instants_are_read_and_written() {
        let instant = read_imap_instant(b" 7-Feb-1994 21:52:25 -0800").unwrap();
        assert_eq!(internal_date_text(instant), " 8-Feb-1994 05:52:25 +0000");
        assert_eq!(field_text(instant), "Tue, 8 Feb 1994 05:52:25 +0000");
        assert_eq!(read_imap_instant(b"7-Feb-1994"), None);
        assert_eq!(read_imap_instant(b"31-Feb-1994 00:00:00 +0000"), None);
    }

    #[test]
    fn the_sent_day_is_the_one_the_sender_saw() {
        let sent = Sent::read(b"Mon, 7 Feb 1994 23:52:25 -0800").unwrap();
        assert_eq!(Some(sent.day()), Day::from_civil(1994, 2, 7));
        assert_eq!(Sent::read(b"yesterday"), None);
    }
}
