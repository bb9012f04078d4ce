//! Signals that this program was told to ignore by who started it, as `nohup` does with SIGHUP and
//! shells with SIGINT for what they start in the background. They are left alone.

use std::fs;

/// Those of `signals` that were not ignored when this was called. To be asked before handlers are
/// set.
pub fn not_ignored(signals: impl IntoIterator<Item = i32>) -> Vec<i32> {
    // Without that file nothing is known of any.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = ignored(&status);
    let is_heard = |signal: &i32| !is_in(mask, *signal);
    signals.into_iter().filter(is_heard).collect()
}

/// The mask of ignored signals in what the kernel tells of a process.
fn ignored(status: &str) -> u64 {
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

/// The bit of signal 1 is the lowest.
fn is_in(mask: u64, signal: i32) -> bool {
    u32::try_from(signal - 1)
        .ok()
        .and_then(|bit| mask.checked_shr(bit))
        .is_some_and(|rest| rest & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_the_kernel() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        let mask = ignored(status);
        let found: Vec<i32> = (-1..70).filter(|&signal| is_in(mask, signal)).collect();
        // SIGHUP and SIGPIPE.
        assert_eq!(found, [1, 13]);
        assert_eq!(ignored("nothing"), 0);
        // Rust ignores SIGPIPE at the start of every program.
        assert_eq!(not_ignored([13, 15]), [15]);
    }
}
