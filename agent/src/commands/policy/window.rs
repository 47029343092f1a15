//! Hours of a week, such as `Mon-Fri 08:00-18:00`.

use std::str::FromStr;

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use thiserror::Error;

use protocol::timestamp::Timestamp;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MINUTES_A_DAY: u16 = 24 * 60;

/// Hours on some days of the week. Hours that end before they begin reach into the next day, and
/// belong to the day they began on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Monday first.
    days: [bool; 7],
    /// Minutes of the day: the first that is in, and the first that is out.
    from: u16,
    to: u16,
}

/// Text that gives no hours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no time window: write days, hours or both, such as `Mon-Fri 08:00-18:00`, `Sat,Sun` \
     or `22:00-06:00`"
)]
pub struct WindowError(String);

impl Window {
    /// Whether the moment lies in it, by the clocks of the zone.
    pub fn contains(&self, now: Timestamp, zone: &TimeZone) -> bool {
        let Ok(now) = jiff::Timestamp::from_millisecond(now.millis()) else { return false };
        let local = now.to_zoned(zone.clone());
        let minute = minute_of(local.hour(), local.minute());
        let today = index(local.weekday());
        let yesterday = (today + 6) % 7;
        if self.from < self.to {
            return self.days[today] && (self.from..self.to).contains(&minute);
        }
        (self.days[today] && minute >= self.from) || (self.days[yesterday] && minute < self.to)
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let refuse = || WindowError(text.to_owned());
        let mut window = Self { days: [true; 7], from: 0, to: MINUTES_A_DAY };
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, hours) = match *words.as_slice() {
            [hours] if hours.contains(':') => (None, Some(hours)),
            [days] => (Some(days), None),
            [days, hours] => (Some(days), Some(hours)),
            _ => return Err(refuse()),
        };
        if let Some(days) = days {
            window.days = parse_days(days).ok_or_else(refuse)?;
        }
        if let Some(hours) = hours {
            (window.from, window.to) = parse_hours(hours).ok_or_else(refuse)?;
        }
        Ok(window)
    }
}

fn parse_days(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (day(first)?, day(last)?),
            None => (day(part)?, day(part)?),
        };
        // Fri-Mon goes over the end of the week.
        let length = (last + 7 - first) % 7;
        (0..=length).for_each(|n| days[(first + n) % 7] = true);
    }
    Some(days)
}

fn parse_hours(text: &str) -> Option<(u16, u16)> {
    let minute = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let digits = |s: &str| s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit());
        let (hour, minute) = Some((hour, minute)).filter(|(h, m)| digits(h) && digits(m))?;
        let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
        let fits = minute < 60 && hour * 60 + minute <= MINUTES_A_DAY;
        fits.then_some(hour * 60 + minute)
    };
    let (from, to) = text.split_once('-')?;
    let (from, to) = (minute(from)?, minute(to)?);
    (from != to && from < MINUTES_A_DAY).then_some((from, to))
}

fn minute_of(hour: i8, minute: i8) -> u16 {
    u16::from(hour.unsigned_abs()) * 60 + u16::from(minute.unsigned_abs())
}

fn index(day: Weekday) -> usize {
    usize::from(day.to_monday_zero_offset().unsigned_abs()) % DAYS.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_in(window: &str, moment: &str) -> bool {
        let window: Window = window.parse().unwrap();
        window.contains(Timestamp::parse(moment).unwrap(), &TimeZone::UTC)
    }

    // 2026-01-05 was a Monday.
    #[test]
    fn hours_on_days() {
        let window = "Mon-Fri 08:00-18:00";
        assert!(is_in(window, "2026-01-05T08:00:00Z"));
        assert!(!is_in(window, "2026-01-05T07:59:59Z"));
        assert!(is_in(window, "2026-01-09T17:59:59Z"));
        assert!(!is_in(window, "2026-01-09T18:00:00Z"));
        assert!(!is_in(window, "2026-01-10T12:00:00Z"));
    }

    #[test]
    fn a_night_belongs_to_the_day_it_began_on() {
        let window = "fri 22:00-06:00";
        assert!(is_in(window, "2026-01-09T22:00:00Z"));
        assert!(is_in(window, "2026-01-10T05:59:00Z"));
        assert!(!is_in(window, "2026-01-10T06:00:00Z"));
        assert!(!is_in(window, "2026-01-10T22:00:00Z"));
        assert!(!is_in(window, "2026-01-09T05:00:00Z"));
    }

    #[test]
    fn days_alone_hours_alone_and_weeks_that_wrap() {
        assert!(is_in("Sat,Sun", "2026-01-11T00:00:00Z"));
        assert!(!is_in("Sat,Sun", "2026-01-12T00:00:00Z"));
        assert!(is_in("Fri-Mon", "2026-01-11T00:00:00Z"));
        assert!(!is_in("Fri-Mon", "2026-01-13T00:00:00Z"));
        assert!(is_in("00:00-24:00", "2026-01-13T23:59:00Z"));
    }

    #[test]
    fn the_clocks_of_the_zone_count() {
        let window: Window = "08:00-09:00".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let at = |text| Timestamp::parse(text).unwrap();
        assert!(window.contains(at("2026-01-05T06:30:00Z"), &zone));
        assert!(!window.contains(at("2026-01-05T08:30:00Z"), &zone));
    }

    #[test]
    fn anything_else_is_refused() {
        let bad = [
            "",
            "8-18",
            "08:00",
            "08:00-08:00",
            "Mo 08:00-09:00",
            "Mon 8:00-9:00",
            "25:00-26:00",
            "08:60-09:00",
            "Mon 08:00-09:00 x",
            "24:00-01:00",
            "Mon-",
            "-08:00",
            "+8:00-09:00",
        ];
        for text in bad {
            assert!(text.parse::<Window>().is_err(), "{text:?}");
        }
    }
}
