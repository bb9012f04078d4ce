//! Asking a run to stop, and what follows.
//!
//! Signals that were ignored when this program started stay so: `nohup` and shells mean it.

mod early;

use std::io::IsTerminal;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::{flag, low_level};
use storyloom_orchestrator::StopFlag;
use storyloom_parallel::ignored::not_ignored;

use crate::config::options::{OnPreempt, Run};
use crate::environment;
use crate::exit::{Exit, Failure};

/// When there begins to be something to save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavingBegins {
    /// At once.
    Now,
    /// With [`begin`]. Until then the first request ends the program: it may be waiting for ranks
    /// that never come.
    Later,
}

/// Requests closer together than this are one: `timeout` and some schedulers send each signal to
/// the program and to its group, and a terminal sends it beside the launcher of the program.
const ONE_REQUEST: u64 = 500;

/// What signals have asked for. Nothing else is touched when one arrives.
#[derive(Debug)]
struct Heard {
    has_begun: AtomicBool,
    /// Milliseconds of the system's clock at the first request to stop; 0 if there was none.
    first: AtomicU64,
    /// The signal of that request.
    signal: AtomicI32,
}

static HEARD: Heard = Heard {
    has_begun: AtomicBool::new(false),
    first: AtomicU64::new(0),
    signal: AtomicI32::new(0),
};

impl Heard {
    /// Whether there is something to save.
    fn is_there_work(&self) -> bool {
        self.has_begun.load(Ordering::SeqCst)
    }

    /// What follows a signal to stop: all of it may be done inside a signal handler.
    fn hear(&self, signal: i32, stop: &AtomicBool) {
        if !self.is_there_work() {
            low_level::exit(Exit::Stopped as i32);
        }
        let now = milliseconds();
        let first = self
            .first
            .compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
        match first {
            Ok(_) => {
                self.signal.store(signal, Ordering::SeqCst);
                stop.store(true, Ordering::SeqCst);
            }
            Err(first) if now.saturating_sub(first) >= ONE_REQUEST => {
                low_level::exit(Exit::Stopped as i32);
            }
            Err(_) => {}
        }
    }

    /// Everything is saved: the next request ends the program, however soon it comes.
    fn expect_the_end(&self) {
        const LONG_AGO: u64 = 1;
        self.first.store(LONG_AGO, Ordering::SeqCst);
    }
}

/// A clock that only goes forward; never 0.
fn milliseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let millis = now.tv_sec * 1000 + now.tv_nsec / 1_000_000;
    u64::try_from(millis).unwrap_or_default().max(1)
}

/// From now on the first request to stop is noted and heeded at the next good moment.
pub fn begin() {
    HEARD.has_begun.store(true, Ordering::SeqCst);
}

/// Leaves all signals to code that sets handlers of its own.
pub fn leave_to_others() {
    early::forget_others(&[]);
}

/// The signals of a list like `TERM,USR1`.
///
/// # Errors
/// The name that is none.
pub fn parse(list: &str) -> Result<Vec<i32>, String> {
    let signal = |name: &str| match name.trim().trim_start_matches("SIG") {
        "TERM" => Ok(SIGTERM),
        "INT" => Ok(SIGINT),
        "HUP" => Ok(SIGHUP),
        "USR1" => Ok(SIGUSR1),
        "USR2" => Ok(SIGUSR2),
        other => Err(other.to_owned()),
    };
    let names = list.split(',').filter(|name| !name.trim().is_empty());
    names.map(signal).collect()
}

/// The signals that the settings name and that this program hears, to stop and to drain.
fn heard(settings: &Run) -> Result<(Vec<i32>, Vec<i32>), Failure> {
    let wrong = |name: String| Failure::new(Exit::Config, format!("{name} is not a signal"));
    let stop = parse(&settings.stop_signals).map_err(wrong)?;
    let drain = parse(&settings.drain_signals).map_err(wrong)?;
    Ok((not_ignored(stop), not_ignored(drain)))
}

/// All of them.
///
/// # Errors
/// A setting is no list of signals.
pub fn all_heard(settings: &Run) -> Result<Vec<i32>, Failure> {
    let (stop, drain) = heard(settings)?;
    Ok([stop, drain].concat())
}

/// A flag that the signals of the config set. A second signal to stop ends the program at once;
/// what is committed or saved stays. Signals that were held back until now arrive.
///
/// # Errors
/// The system refused a signal handler.
pub fn stop_flag(settings: &Run, begins: SavingBegins) -> Result<StopFlag, Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Unexpected, error);
    if begins == SavingBegins::Now {
        begin();
    }
    let (step, shot) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (stop, drain) = heard(settings)?;
    for &signal in &stop {
        let flag = Arc::clone(&step);
        let hear = move || HEARD.hear(signal, &flag);
        // SAFETY: the handler reads the clock, reads and writes atomic numbers, and ends the
        // program by `_exit`: all of them are allowed in a signal handler. It takes no lock,
        // allocates nothing and cannot panic.
        unsafe { low_level::register(signal, hear) }.map_err(failed)?;
    }
    for &signal in &drain {
        flag::register(signal, Arc::clone(&shot)).map_err(failed)?;
    }
    let named = [stop, drain].concat();
    early::forget_others(&named);
    environment::let_in(&named);
    Ok(StopFlag::new(step, shot))
}

/// After a stop, with everything saved: returns to exit, or does not return.
pub fn after_stop(on_preempt: OnPreempt) {
    let wait = match (on_preempt, slurm_job()) {
        (OnPreempt::Exit, _) | (OnPreempt::Auto, None) => false,
        // Somebody wants the prompt of an interactive allocation back.
        (OnPreempt::Auto, Some(_)) => !is_interactive(),
        (OnPreempt::Wait, _) => true,
        (OnPreempt::Requeue, None) => {
            tracing::warn!("not a Slurm job: there is nothing to requeue");
            false
        }
        (OnPreempt::Requeue, Some(job)) => requeue(&job),
    };
    if wait {
        HEARD.expect_the_end();
        tracing::info!("everything is saved; waiting for the end, another signal exits");
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
}

/// Whether a person asked: by Ctrl-C, or where there is a terminal at all.
fn is_interactive() -> bool {
    HEARD.signal.load(Ordering::SeqCst) == SIGINT
        || std::io::stdin().is_terminal()
        || std::io::stderr().is_terminal()
}

/// What Slurm calls this job. A task of an array has a name of its own: its plain number may stand
/// for the whole array.
fn slurm_job() -> Option<String> {
    let variable = |name| std::env::var(name).ok();
    let array = variable("SLURM_ARRAY_JOB_ID").zip(variable("SLURM_ARRAY_TASK_ID"));
    match array {
        Some((job, task)) => Some(format!("{job}_{task}")),
        None => variable("SLURM_JOB_ID"),
    }
}

/// Whether Slurm will end this job and start it again.
fn requeue(job: &str) -> bool {
    let asked = Command::new("scontrol").args(["requeue", job]).status();
    match asked {
        Ok(status) if status.success() => true,
        Ok(status) => {
            tracing::warn!("scontrol requeue {job} failed: {status}");
            false
        }
        Err(error) => {
            tracing::warn!("scontrol cannot be started: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_sent_twice_is_one() {
        let (heard, stop) = (
            Heard {
                has_begun: AtomicBool::new(true),
                first: AtomicU64::new(0),
                signal: AtomicI32::new(0),
            },
            AtomicBool::new(false),
        );
        heard.hear(SIGTERM, &stop);
        assert!(stop.load(Ordering::SeqCst));
        // As late as can be, whatever the machine is at: this test goes on living.
        heard.first.store(milliseconds() + 60_000, Ordering::SeqCst);
        heard.hear(SIGINT, &stop);
        assert_eq!(heard.signal.load(Ordering::SeqCst), SIGTERM);
    }

    #[test]
    fn lists_of_signals() {
        assert_eq!(parse("TERM, SIGUSR1,").unwrap(), [SIGTERM, SIGUSR1]);
        assert_eq!(parse("").unwrap(), [0; 0]);
        assert_eq!(parse("TERM,KILL").unwrap_err(), "KILL");
    }
}
