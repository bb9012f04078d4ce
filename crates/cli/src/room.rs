//! What a full disk has left, for who meets one.

use std::path::Path;

use crate::exit::{Exit, Failure};

/// Adds to a failure of storage that is full how much room there is, and what tells how much is
/// needed.
pub fn with_free_space(failure: Failure, out: &Path) -> Failure {
    let full = [
        "No space left",
        "os error 28",
        "quota exceeded",
        "os error 122",
    ];
    let is_full = full.iter().any(|words| failure.message.contains(words));
    if failure.exit != Exit::Storage || !is_full {
        return failure;
    }
    let folder = out.display();
    let free = rustix::fs::statvfs(out).map(|found| found.f_bavail.saturating_mul(found.f_frsize));
    let free = free.map_or_else(
        |_| String::new(),
        |bytes| format!("{} are free in {folder}; ", size(bytes as f64)),
    );
    Failure::new(
        failure.exit,
        format!(
            "{}\n{free}`storyloom estimate --out {folder}` with the same --config and --manifest says \
             how much the rest of the run needs. Everything that was committed is kept: make room \
             and run the same command again",
            failure.message
        ),
    )
}

/// Bytes as people read them.
pub fn size(bytes: f64) -> String {
    match bytes {
        ..1e6 => format!("{:.1} kB", bytes / 1e3),
        ..1e9 => format!("{:.1} MB", bytes / 1e6),
        ..1e12 => format!("{:.1} GB", bytes / 1e9),
        _ => format!("{:.2} TB", bytes / 1e12),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_disk_is_measured() {
        let out = std::env::temp_dir();
        let told = |exit, message: &str| with_free_space(Failure::new(exit, message), &out).message;
        let full = told(Exit::Storage, "blob: No space left on device (os error 28)");
        assert!(full.contains(" are free in ") && full.contains("storyloom estimate --out"));
        let quota = told(Exit::Storage, "blob: Disk quota exceeded (os error 122)");
        assert!(quota.contains("storyloom estimate --out"));
        assert_eq!(told(Exit::Storage, "blob: gone"), "blob: gone");
        let other = "ffmpeg: No space left";
        assert_eq!(told(Exit::Unexpected, other), other);
    }
}
