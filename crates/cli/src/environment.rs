//! What the libraries read from the environment once, before this program's first line.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// How threads hold freed memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heaps {
    /// Each thread has a heap of its own, so that none waits for another.
    Own,
    /// All share one. The threads of a training step end with it, and their heaps would go back to
    /// the kernel each time: a step of the small model took 15 % longer.
    One,
}

/// Idle threads sleep. By default they spin at every barrier, and on a machine with other work on
/// it the thread that is waited for is then often not running: a shot of the tiny checkpoint took
/// ten times as long beside other jobs.
const WAITING: Setting = Setting {
    name: "OMP_WAIT_POLICY",
    value: "PASSIVE",
    decided: &["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"],
};

/// Activations are tens of megabytes, and every one of them is a new mapping by default, whose
/// pages the kernel clears at first touch. Freed memory is kept and used again instead.
const OWN_HEAPS: Setting = Setting {
    name: "GLIBC_TUNABLES",
    value: "glibc.malloc.mmap_threshold=17179869184:glibc.malloc.trim_threshold=17179869184",
    decided: &["GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_"],
};

/// The same, and one heap that grows in large steps.
const ONE_HEAP: Setting = Setting {
    value: "glibc.malloc.mmap_threshold=17179869184:glibc.malloc.trim_threshold=17179869184:\
            glibc.malloc.arena_max=1:glibc.malloc.top_pad=268435456",
    ..OWN_HEAPS
};

/// A variable, unless somebody has decided.
struct Setting {
    name: &'static str,
    value: &'static str,
    /// The names whose presence says so.
    decided: &'static [&'static str],
}

/// Starts this program again, as the same process, with the settings that it lacks.
///
/// Where that fails the program goes on as it is.
pub fn settle(heaps: Heaps) {
    let heap = match heaps {
        Heaps::Own => OWN_HEAPS,
        Heaps::One => ONE_HEAP,
    };
    let missing: Vec<_> = [WAITING, heap]
        .into_iter()
        .filter(|setting| {
            setting
                .decided
                .iter()
                .all(|name| env::var_os(name).is_none())
        })
        .map(|setting| (setting.name, setting.value))
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
