//! What the libraries read from the environment once, before this program's first line.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Settings with the names whose presence says that somebody has decided.
const SETTINGS: [(&str, &str, &[&str]); 2] = [
    // Idle threads sleep. By default they spin at every barrier, and on a machine with other work
    // on it the thread that is waited for is then often not running: a shot of the tiny
    // checkpoint took ten times as long beside other jobs.
    (
        "OMP_WAIT_POLICY",
        "PASSIVE",
        &["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"],
    ),
    // Activations are tens of megabytes, and every one of them is a new mapping by default, whose
    // pages the kernel clears at first touch. Freed memory is kept and used again instead.
    (
        "GLIBC_TUNABLES",
        "glibc.malloc.mmap_threshold=17179869184:glibc.malloc.trim_threshold=17179869184",
        &["GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_"],
    ),
];

/// Starts this program again, as the same process, with the settings that it lacks.
///
/// Where that fails the program goes on as it is.
pub fn settle() {
    let missing: Vec<_> = SETTINGS
        .iter()
        .filter(|(_, _, decided)| decided.iter().all(|name| env::var_os(name).is_none()))
        .map(|(name, value, _)| (name, value))
        .collect();
    if missing.is_empty() {
        return;
    }
    if let Ok(program) = env::current_exe() {
        let error = Command::new(program)
            .args(env::args_os().skip(1))
            .envs(missing)
            .exec();
        tracing::debug!("running with the libraries' defaults: {error}");
    }
}
