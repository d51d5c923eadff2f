//! Dates as templates write them: `strftime` in the C locale.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// A moment and where it is looked at from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub unix_seconds: i64,
    /// Local time minus UTC, in seconds.
    pub utc_offset_seconds: i32,
}

impl Clock {
    /// The present moment, in UTC.
    #[must_use]
    pub fn now_utc() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            unix_seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            utc_offset_seconds: 0,
        }
    }
}

/// Fields of local time.
struct Civil {
    year: i64,
    month: usize,
    day: i64,
    /// 0 is Monday.
    weekday: usize,
    /// 1 is 1 January.
    day_of_year: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Civil {
    fn new(clock: Clock) -> Self {
        // 253,402,300,799 is the end of the year 9999, where Python's calendar ends.
        let seconds = clock
            .unix_seconds
            .saturating_add(clock.utc_offset_seconds.into())
            .clamp(0, 253_402_300_799);
        let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
        // Days of the Gregorian calendar counted from 1 March 0000: H. Hinnant, "chrono-compatible low-level date algorithms".
        let since_march = days + 719_468;
        let era = since_march / 146_097;
        let day_of_era = since_march % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let day_of_year = if month <= 2 {
            day_from_march - 305
        } else {
            day_from_march + 60 + i64::from(is_leap)
        };
        Self {
            year,
            month: usize::try_from(month - 1).unwrap_or_default(),
            day: day_from_march - (153 * month_from_march + 2) / 5 + 1,
            weekday: usize::try_from((days + 3) % 7).unwrap_or_default(),
            day_of_year,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }
}

/// `clock` in `format`; the directive that is not supported, if there is one.
pub(crate) fn strftime(clock: Clock, format: &str) -> Result<String, String> {
    let civil = Civil::new(clock);
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut directive = characters.next().ok_or("%")?;
        let is_padded = directive != '-';
        if !is_padded {
            directive = characters.next().ok_or("%-")?;
        }
        write_directive(&mut out, &civil, clock, directive, is_padded)?;
    }
    Ok(out)
}

fn write_directive(
    out: &mut String,
    civil: &Civil,
    clock: Clock,
    directive: char,
    is_padded: bool,
) -> Result<(), String> {
    let mut number = |value: i64, width: usize, fill: char| {
        let digits = value.to_string();
        if is_padded {
            out.extend(std::iter::repeat_n(
                fill,
                width.saturating_sub(digits.len()),
            ));
        }
        out.push_str(&digits);
    };
    let hour12 = (civil.hour + 11) % 12 + 1;
    match directive {
        'Y' => number(civil.year, 4, '0'),
        'y' => number(civil.year % 100, 2, '0'),
        'm' => number(i64::try_from(civil.month).unwrap_or_default() + 1, 2, '0'),
        'd' => number(civil.day, 2, '0'),
        'e' => number(civil.day, 2, ' '),
        'j' => number(civil.day_of_year, 3, '0'),
        'H' => number(civil.hour, 2, '0'),
        'I' => number(hour12, 2, '0'),
        'M' => number(civil.minute, 2, '0'),
        'S' => number(civil.second, 2, '0'),
        'u' => number(i64::try_from(civil.weekday).unwrap_or_default() + 1, 1, '0'),
        'w' => number(
            (i64::try_from(civil.weekday).unwrap_or_default() + 1) % 7,
            1,
            '0',
        ),
        'B' => out.push_str(MONTHS[civil.month]),
        'b' | 'h' => out.push_str(&MONTHS[civil.month][..3]),
        'A' => out.push_str(DAYS[civil.weekday]),
        'a' => out.push_str(&DAYS[civil.weekday][..3]),
        'p' => out.push_str(if civil.hour < 12 { "AM" } else { "PM" }),
        'F' => out.push_str(&strftime(clock, "%Y-%m-%d")?),
        'D' | 'x' => out.push_str(&strftime(clock, "%m/%d/%y")?),
        'T' | 'X' => out.push_str(&strftime(clock, "%H:%M:%S")?),
        'R' => out.push_str(&strftime(clock, "%H:%M")?),
        'c' => out.push_str(&strftime(clock, "%a %b %e %H:%M:%S %Y")?),
        's' => {
            let _ = write!(out, "{}", clock.unix_seconds);
        }
        // Python's `datetime.now()` knows no time zone: these are empty.
        'z' | 'Z' => {}
        'f' => out.push_str("000000"),
        'n' => out.push('\n'),
        't' => out.push('\t'),
        '%' => out.push('%'),
        other => return Err(format!("%{other}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_seconds: i64, format: &str) -> String {
        strftime(
            Clock {
                unix_seconds,
                utc_offset_seconds: 0,
            },
            format,
        )
        .unwrap()
    }

    #[test]
    fn known_moments() {
        assert_eq!(
            at(0, "%Y-%m-%d %H:%M:%S %A %j"),
            "1970-01-01 00:00:00 Thursday 001"
        );
        assert_eq!(at(951_782_400, "%F %a %j"), "2000-02-29 Tue 060");
        assert_eq!(at(978_220_800, "%F %j"), "2000-12-31 366");
        assert_eq!(
            at(1_796_083_200, "%d %b %Y, %B %-d, %I:%M %p"),
            "01 Dec 2026, December 1, 12:00 AM"
        );
        assert_eq!(at(4_107_542_399, "%F %T %u%w"), "2100-02-28 23:59:59 70");
        assert_eq!(at(4_107_542_400, "%F %j%%"), "2100-03-01 060%");
    }

    #[test]
    fn the_offset_moves_the_day() {
        let clock = Clock {
            unix_seconds: 0,
            utc_offset_seconds: 86_399,
        };
        assert_eq!(strftime(clock, "%d %H:%M:%S").unwrap(), "01 23:59:59");
        let west = Clock {
            unix_seconds: 86_400,
            utc_offset_seconds: -1,
        };
        assert_eq!(strftime(west, "%d").unwrap(), "01");
    }

    #[test]
    fn unknown_directives_are_named() {
        assert_eq!(
            strftime(
                Clock {
                    unix_seconds: 0,
                    utc_offset_seconds: 0
                },
                "%Q"
            ),
            Err("%Q".to_owned())
        );
    }

    #[test]
    fn directives_of_whole_dates_and_times() {
        // Friday, 5 March 2027, 15:04:09.
        let moment = 1_804_259_049;
        for (format, text) in [
            ("%F %T", "2027-03-05 15:04:09"),
            ("%D=%x", "03/05/27=03/05/27"),
            ("%T=%X", "15:04:09=15:04:09"),
            ("%R", "15:04"),
            ("%c", "Fri Mar  5 15:04:09 2027"),
            ("%y|%-y|%e|%-e|%h|%p", "27|27| 5|5|Mar|PM"),
            ("%s", "1804259049"),
            ("%z%Z|%f", "|000000"),
            ("a%nb%tc", "a\nb\tc"),
        ] {
            assert_eq!(at(moment, format), text, "{format}");
        }
    }

    #[test]
    fn a_format_that_ends_in_a_directive_is_refused() {
        for format in ["x%", "x%-"] {
            let clock = Clock {
                unix_seconds: 0,
                utc_offset_seconds: 0,
            };
            assert_eq!(strftime(clock, format), Err(format[1..].to_owned()));
        }
    }

    #[test]
    fn now_is_later_than_this_test_was_written() {
        let now = Clock::now_utc();
        assert_eq!(now.utc_offset_seconds, 0);
        assert!(now.unix_seconds > 1_700_000_000);
    }
}
