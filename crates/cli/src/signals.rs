//! Asking a run to stop, and what follows.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;
use storyloom_orchestrator::StopFlag;

use crate::config::options::{OnPreempt, Run};
use crate::exit::{Exit, Failure};

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

/// A flag that the signals of the config set. A second signal to stop ends the program at once;
/// what is committed or saved stays.
///
/// # Errors
/// The system refused a signal handler.
pub fn stop_flag(settings: &Run) -> Result<StopFlag, Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Unexpected, error);
    let wrong = |name: String| Failure::new(Exit::Config, format!("{name} is not a signal"));
    let (step, shot) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    for signal in parse(&settings.stop_signals).map_err(wrong)? {
        // In this order: the second handler arms the first for the next signal.
        flag::register_conditional_shutdown(signal, Exit::Stopped as i32, Arc::clone(&step))
            .and_then(|_| flag::register(signal, Arc::clone(&step)))
            .map_err(failed)?;
    }
    for signal in parse(&settings.drain_signals).map_err(wrong)? {
        flag::register(signal, Arc::clone(&shot)).map_err(failed)?;
    }
    Ok(StopFlag::new(step, shot))
}

/// After a stop, with everything saved: returns to exit, or does not return.
pub fn after_stop(on_preempt: OnPreempt) {
    let job = slurm_job();
    let wait = match (on_preempt, job) {
        (OnPreempt::Exit, _) | (OnPreempt::Auto, None) => false,
        (OnPreempt::Wait, _) | (OnPreempt::Auto, Some(_)) => true,
        (OnPreempt::Requeue, None) => {
            tracing::warn!("not a Slurm job: there is nothing to requeue");
            false
        }
        (OnPreempt::Requeue, Some(job)) => requeue(&job),
    };
    if wait {
        tracing::info!("everything is saved; waiting for the end, another signal exits");
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
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
    fn lists_of_signals() {
        assert_eq!(parse("TERM, SIGUSR1,").unwrap(), [SIGTERM, SIGUSR1]);
        assert_eq!(parse("").unwrap(), [0; 0]);
        assert_eq!(parse("TERM,KILL").unwrap_err(), "KILL");
    }
}
