//! What the libraries read from the environment once, before this program's first line.

use std::env;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null_mut;

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

/// Starts this program again, as the same process, with the settings that it lacks. The signals
/// `held` wait until the program lets them in ([`let_in`]): without that, one that comes while the
/// libraries are loaded would kill it.
///
/// Where that fails the program goes on as it is.
pub fn settle(heaps: Heaps, held: &[i32]) {
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
        let error = restart(Command::new(program).envs(missing), held);
        tracing::debug!("running with the libraries' defaults: {error}");
    }
}

/// Returns only if it fails.
fn restart(command: &mut Command, held: &[i32]) -> io::Error {
    let held = held.to_vec();
    // The standard library lets all signals in before it runs what is given here.
    let hold = move || mask(libc::SIG_BLOCK, &held);
    command.args(env::args_os().skip(1));
    // SAFETY: the closure calls only `sigemptyset`, `sigaddset` and `pthread_sigmask`, which are
    // allowed between fork and exec; here there is no fork at all.
    unsafe { command.pre_exec(hold) };
    command.exec()
}

/// Lets signals in that were held back since before the program started.
pub fn let_in(signals: &[i32]) {
    if let Err(error) = mask(libc::SIG_UNBLOCK, signals) {
        tracing::warn!("signals may not be heard: {error}");
    }
}

/// Changes which signals this thread holds back.
fn mask(how: i32, signals: &[i32]) -> io::Result<()> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set that it is given a place for.
    let mut set: libc::sigset_t = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for &signal in signals {
        // SAFETY: the set is initialised; a number that is no signal is refused.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: the set is initialised and lives until the call returns; the old mask is not asked
    // for.
    match unsafe { libc::pthread_sigmask(how, &raw const set, null_mut()) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}
