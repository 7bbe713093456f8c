//! Dates and times, as ISO 8601 writes them.

use jiff::civil::{Date, DateTime, Time};
use jiff::{Timestamp, tz};

pub(crate) fn is_date(text: &str) -> bool {
    // A parser of dates takes the date of a longer text as well.
    text.len() == 10 && text.parse::<Date>().is_ok()
}

pub(super) fn is_time(text: &str) -> bool {
    text.as_bytes().get(2) == Some(&b':') && text.parse::<Time>().is_ok()
}

pub(super) fn is_date_time(text: &str) -> bool {
    text.len() > 10 && (text.parse::<Timestamp>().is_ok() || text.parse::<DateTime>().is_ok())
}

/// A moment as [`Type::DateTime`](crate::Type::DateTime) has it, in UTC: nanoseconds since 1970. Beyond the year 9999 it is that
/// year's end.
///
/// ```
/// assert_eq!(corallite_objects::types::date_time(1_500_000_000), "1970-01-01T00:00:01.5Z");
/// ```
pub fn date_time(nanos: u64) -> String {
    Timestamp::from_nanosecond(nanos.into()).unwrap_or(Timestamp::MAX).to_string()
}

/// What dates, times, and dates with times are ordered by, nanoseconds; those without an offset as if they were UTC. `None`
/// for any other text.
pub(super) fn order(text: &str) -> Option<i128> {
    if is_date(text) {
        let date: Date = text.parse().ok()?;
        return civil(date.at(0, 0, 0, 0));
    }
    if is_time(text) {
        let time: Time = text.parse().ok()?;
        return civil(jiff::civil::date(1970, 1, 1).to_datetime(time));
    }
    text.parse::<Timestamp>().map(Timestamp::as_nanosecond).ok().or_else(|| civil(text.parse().ok()?))
}

fn civil(time: DateTime) -> Option<i128> {
    tz::Offset::UTC.to_timestamp(time).ok().map(Timestamp::as_nanosecond)
}
