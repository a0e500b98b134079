//! The wall clock as a log tells it, in this machine's time zone, worked out once a second.

use std::io::Write;
use std::time::Duration;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Renders times that come in order, several a second.
#[derive(Default, Debug)]
pub struct LocalClock {
    /// The second that the texts are of; none yet if they are empty.
    second: u64,
    common: Vec<u8>,
    rfc3339: Vec<u8>,
    offset: Vec<u8>,
}

impl LocalClock {
    /// As access logs have it: `10/Oct/2000:13:55:36 +0000`.
    pub fn common_log_time(&mut self, since_epoch: Duration) -> &[u8] {
        self.set(since_epoch.as_secs());
        &self.common
    }

    /// RFC 3339 up to the seconds: `2000-10-10T13:55:36`.
    pub fn rfc3339_seconds(&mut self, since_epoch: Duration) -> &[u8] {
        self.set(since_epoch.as_secs());
        &self.rfc3339
    }

    /// What follows the fraction, of the time asked for last: `+00:00`.
    pub fn rfc3339_offset(&self) -> &[u8] {
        &self.offset
    }

    fn set(&mut self, second: u64) {
        if self.second == second && !self.common.is_empty() {
            return;
        }
        self.second = second;
        let time = local_time(second);
        let (year, month, day) = (time.tm_year + 1900, time.tm_mon + 1, time.tm_mday);
        let (hour, minute, seconds) = (time.tm_hour, time.tm_min, time.tm_sec);
        let name = usize::try_from(time.tm_mon).ok().and_then(|index| MONTHS.get(index)).unwrap_or(&"Jan");
        let sign = if time.tm_gmtoff < 0 { '-' } else { '+' };
        let minutes = time.tm_gmtoff.abs() / 60;
        let (hours, rest) = (minutes / 60, minutes % 60);
        [&mut self.common, &mut self.rfc3339, &mut self.offset].into_iter().for_each(Vec::clear);
        // Writing to a Vec cannot fail.
        let _ =
            write!(self.common, "{day:02}/{name}/{year}:{hour:02}:{minute:02}:{seconds:02} {sign}{hours:02}{rest:02}");
        let _ = write!(self.rfc3339, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{seconds:02}");
        let _ = write!(self.offset, "{sign}{hours:02}:{rest:02}");
    }
}

fn local_time(second: u64) -> libc::tm {
    let second = libc::time_t::try_from(second).unwrap_or_default();
    // SAFETY: a tm is numbers and a pointer to a static name, for which zero is a value; localtime_r fills it in, and
    // leaves it alone if it fails. Both pointers are to locals.
    unsafe {
        let mut time: libc::tm = std::mem::zeroed();
        libc::localtime_r(&second, &mut time);
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_both_forms_and_anew_each_second() {
        let mut clock = LocalClock::default();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let first = text(clock.common_log_time(Duration::from_secs(1_000_000_000)));
        assert!(first.contains("/Sep/2001:") && first.len() == 26, "{first}");
        assert!(text(clock.rfc3339_seconds(Duration::from_secs(1_000_000_000))).starts_with("2001-09-0"));
        let (hours, minutes) = first[21..].split_at(3);
        assert_eq!(text(clock.rfc3339_offset()), format!("{hours}:{minutes}"));
        let next = text(clock.common_log_time(Duration::from_secs(1_000_000_001)));
        assert_ne!(first, next);
    }
}
