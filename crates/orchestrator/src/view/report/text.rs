//! Numbers and moments as people read them.

use time::OffsetDateTime;

/// A length of time: `0.14 s`, `8.2 s`, `3 min 20 s`, `7 h 5 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match seconds {
        _ if seconds < 0.0005 => "0 s".to_owned(),
        _ if seconds < 0.9995 => format!("{seconds:.3} s"),
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        _ if whole < 60 => format!("{whole} s"),
        _ if whole < 3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => {
            let minutes = (seconds / 60.0).round() as u64;
            format!("{} h {} min", grouped(minutes / 60), minutes % 60)
        }
    }
}

/// The length of a film: `0:05`, `12:40`, `1:02:40`.
pub(super) fn film(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{}:{minutes:02}:{seconds:02}", grouped(hours)),
    }
}

/// A count with its thousands apart: `10,000`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share as percent; never rounded up to 100 or down to nothing, which would claim too much.
pub(super) fn percent(share: f64) -> String {
    let tenths = (share.clamp(0.0, 1.0) * 1000.0).floor() as u64;
    match tenths {
        1000 => "100 %".to_owned(),
        0 if share > 0.0 => "< 0.1 %".to_owned(),
        _ => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

/// A moment, given in seconds since 1970, in UTC.
pub(super) fn moment(unix: f64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(unix as i64).ok()
}

/// `20 Nov 2026`.
pub(super) fn day(at: OffsetDateTime) -> String {
    let month = at.month().to_string();
    let month = month.get(..3).unwrap_or(&month);
    format!("{} {month} {}", at.day(), at.year())
}

/// `19:04`.
pub(super) fn clock(at: OffsetDateTime) -> String {
    format!("{:02}:{:02}", at.hour(), at.minute())
}

/// `20 Nov 2026, 19:04 UTC`; empty for moments that no calendar has.
pub(super) fn stamp(unix: f64) -> String {
    moment(unix).map_or_else(String::new, |at| format!("{}, {} UTC", day(at), clock(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        let cases = [
            (0.0, "0 s"),
            (0.1404, "0.140 s"),
            (8.24, "8.2 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (59.6, "1 min 0 s"),
            (200.0, "3 min 20 s"),
            (25_500.0, "7 h 5 min"),
            (7199.0, "2 h 0 min"),
            (36e6, "10,000 h 0 min"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(film(5.2), "0:05");
        assert_eq!(film(3760.0), "1:02:40");
    }

    #[test]
    fn counts_and_shares_read_well() {
        let counts = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(counts, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.999_99), "99.9 %");
        assert_eq!(percent(0.0704), "7.0 %");
        assert_eq!(percent(0.0), "0.0 %");
        assert_eq!(percent(1e-5), "< 0.1 %");
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(stamp(1_795_000_000.0), "18 Nov 2026, 11:06 UTC");
        assert_eq!(stamp(f64::MAX), "");
    }
}
