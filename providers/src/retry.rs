//! How long a provider asks to wait, from the headers of its answer.
//! It must not know a clock: dates are read against the answer's own `date` header.

use std::time::Duration;

use http::HeaderMap;

/// Longer waits than this are not believed.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The wait in `retry-after-ms`, or in `retry-after` as seconds or as an HTTP date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let header = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let exact = header("retry-after-ms").and_then(|text| seconds(text, 1000.0));
    let coarse = || header("retry-after").and_then(|text| seconds(text, 1.0).or_else(|| until(text, header("date")?)));
    exact.or_else(coarse).map(|wait| wait.min(LONGEST_WAIT))
}

fn seconds(text: &str, per_second: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse::<f64>().ok()? / per_second).ok()
}

fn until(date: &str, now: &str) -> Option<Duration> {
    Some(Duration::from_secs(unix_time(date)?.saturating_sub(unix_time(now)?)))
}

/// Unix time of a date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
fn unix_time(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = date.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)?;
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut clock = words.next()?.splitn(3, ':').map(|part| part.parse::<u64>().ok().filter(|part| *part < 61));
    let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days_before_year: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let days = days_before_year + lengths[..month].iter().sum::<u64>() + day.checked_sub(1)?;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}
