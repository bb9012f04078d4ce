//! Moments of this process, on a clock that never jumps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Tells moments in seconds since 1970. Differences of two are true even when somebody sets the
/// system's clock between them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    origin: Instant,
    at_origin: f64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            at_origin: now(),
        }
    }

    pub(super) fn now(&self) -> f64 {
        self.at_origin + self.origin.elapsed().as_secs_f64()
    }

    /// The moment `seconds` before `now`, where `now` is one of this clock.
    pub(super) fn before(now: f64, seconds: f64) -> f64 {
        now - seconds.max(0.0)
    }
}

fn unix(moment: SystemTime) -> f64 {
    moment
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs_f64()
}

/// The present, in seconds since 1970.
pub fn now() -> f64 {
    unix(SystemTime::now())
}

/// When this process began, in seconds since 1970, to about 10 ms; the present where the system
/// does not tell. Linking a tensor library can take a second before the first line of the program.
pub fn process_start() -> f64 {
    now() - age().unwrap_or(0.0)
}

/// How old this process is, in seconds.
fn age() -> Option<f64> {
    // The kernel counts these in hundredths for programs, whatever its own clock.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; the fields after it are plain.
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    let started: f64 = started.parse().ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let age = uptime - started / TICKS_PER_SECOND;
    (age >= 0.0).then_some(age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_began_a_moment_ago() {
        let begun = process_start();
        let age = now() - begun;
        // Tests of this crate take seconds, not hours.
        assert!((0.0..3600.0).contains(&age), "{age}");
    }
}
