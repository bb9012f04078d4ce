//! Starts the ranks of a world on this machine, without MPI.
//!
//! Each rank is a process group of its own: what a terminal or a scheduler sends to the group of the
//! launcher reaches the ranks once, through the launcher, and Ctrl-C does not count twice.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::discovery::{LAUNCHER, RENDEZVOUS, TOKEN};
use crate::error::CommError;
use crate::ignored::not_ignored;
use crate::proof::nonce;
use crate::rendezvous::{self, Expected};

/// How a world ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every rank by itself; the largest of the codes that are not `resumable`, else `resumable`
    /// if any rank had it, else 0.
    Code(i32),
    /// A rank was killed by this signal; the others were ended.
    Killed(i32),
}

/// Time the other ranks have to end by themselves once one has failed, and all of them once they
/// were asked to stop a second time.
const GRACE: Duration = Duration::from_secs(8);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Signals that are passed on to all ranks.
const FORWARDED: [i32; 5] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2];
/// Those of them that ask a world to end, whatever its settings say.
const STOPPING: [i32; 2] = [SIGTERM, SIGINT];

/// Runs `program` `size` times as the ranks of a world and waits for the end of all.
///
/// Signals are passed on to every rank, but for those that were ignored when this program started:
/// they are ignored by the ranks too. If a rank fails, the others get a few seconds to notice and
/// end by themselves; `resumable` is the code of those that did.
///
/// # Errors
/// No place to meet can be had, or a rank cannot be started.
pub fn launch(
    size: usize,
    program: &OsString,
    arguments: &[OsString],
    resumable: i32,
) -> Result<Ended, CommError> {
    // Before the first rank: from now on no signal is lost.
    let heard = FORWARDED.into_iter().chain([SIGTSTP]);
    let signals = Signals::new(not_ignored(heard)).map_err(|e| failed("signals", e))?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| failed("rendezvous", e))?;
    let address = listener.local_addr().map_err(|e| failed("rendezvous", e))?;
    let token = nonce().map_err(|e| failed("token", e))?;

    let mut ranks = Ranks(Vec::with_capacity(size));
    for rank in 0..size {
        let mut command = Command::new(program);
        command.args(arguments).envs([
            (RENDEZVOUS, address.to_string()),
            (TOKEN, token.clone()),
            (LAUNCHER, std::process::id().to_string()),
        ]);
        ranks.start(command, rank, size)?;
    }
    // Ranks that never ask, because they fail before, must not keep this waiting.
    let over = AtomicBool::new(false);
    let stop = || over.load(Ordering::Relaxed);
    let expected = Expected {
        size,
        world: token.as_str(),
        encryption: None,
    };
    std::thread::scope(|scope| {
        // Ranks that waited for a list say so themselves.
        scope.spawn(|| rendezvous::serve(&listener, expected, &stop));
        let watched = watch(&mut ranks, signals, &over);
        over.store(true, Ordering::Relaxed);
        watched
    })?;
    Ok(ranks.ended(resumable))
}

fn failed(what: &str, error: std::io::Error) -> CommError {
    CommError::Setup(format!("{what}: {error}"))
}

/// Passes signals on until all ranks have ended. `is_lost` is set when not all ranks will come to
/// where they meet.
fn watch(ranks: &mut Ranks, mut signals: Signals, is_lost: &AtomicBool) -> Result<(), CommError> {
    let mut requests = 0;
    let mut last_call: Option<Instant> = None;
    while ranks.are_running()? {
        for signal in signals.pending() {
            if signal == SIGTSTP {
                ranks.sleep_together();
                continue;
            }
            ranks.signal(signal);
            requests += usize::from(STOPPING.contains(&signal));
        }
        let has_failed = ranks.codes().any(|code| code != 0);
        if has_failed {
            is_lost.store(true, Ordering::Relaxed);
        }
        if has_failed || requests > 1 {
            last_call.get_or_insert_with(Instant::now);
        }
        if last_call.is_some_and(|at| at.elapsed() > GRACE) {
            tracing::warn!("some ranks go on although their world has ended: ending them");
            ranks.kill();
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Children, killed when the launcher fails itself.
struct Ranks(Vec<(Child, Option<ExitStatus>)>);

impl Ranks {
    /// Starts the next rank.
    fn start(&mut self, mut command: Command, rank: usize, size: usize) -> Result<(), CommError> {
        // Outside the group that has the terminal, reading from it would stop the rank.
        if std::io::stdin().is_terminal() {
            command.stdin(Stdio::null());
        }
        let child = command
            .envs([("RANK", rank), ("LOCAL_RANK", rank)].map(|(k, v)| (k, v.to_string())))
            .envs(
                [("WORLD_SIZE", size), ("LOCAL_WORLD_SIZE", size)].map(|(k, v)| (k, v.to_string())),
            )
            .process_group(0)
            .spawn()
            .map_err(|error| failed(&format!("rank {rank} cannot be started"), error))?;
        self.0.push((child, None));
        Ok(())
    }

    fn are_running(&mut self) -> Result<bool, CommError> {
        for (rank, (child, status)) in self.0.iter_mut().enumerate() {
            if status.is_none() {
                *status = child
                    .try_wait()
                    .map_err(|error| CommError::Setup(format!("rank {rank}: {error}")))?;
                if let Some(status) = status.filter(|status| !status.success()) {
                    tracing::debug!("rank {rank} ended: {status}");
                }
            }
        }
        Ok(self.0.iter().any(|(_, status)| status.is_none()))
    }

    /// Exit codes of those that ended; that of a killed one is its signal, negative.
    fn codes(&self) -> impl Iterator<Item = i32> {
        let ended = self.0.iter().filter_map(|(_, status)| *status);
        ended.map(|status| {
            status
                .code()
                .unwrap_or_else(|| -status.signal().unwrap_or(1))
        })
    }

    fn signal(&self, number: i32) {
        let signal = match number {
            SIGTERM => Signal::TERM,
            SIGINT => Signal::INT,
            SIGHUP => Signal::HUP,
            SIGUSR1 => Signal::USR1,
            _ => Signal::USR2,
        };
        self.send(signal);
    }

    fn send(&self, signal: Signal) {
        for (child, status) in &self.0 {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            if let (None, Some(pid)) = (status, pid) {
                // It may just have ended.
                let _ = kill_process(pid, signal);
            }
        }
    }

    /// After Ctrl-Z: stops the ranks and this program, and wakes the ranks when it is woken.
    fn sleep_together(&self) {
        self.send(Signal::STOP);
        // A program may always stop itself.
        let _ = kill_process(getpid(), Signal::STOP);
        self.send(Signal::CONT);
    }

    fn kill(&mut self) {
        for (child, status) in &mut self.0 {
            if status.is_none() {
                let _ = child.kill();
            }
        }
    }

    fn ended(&self, resumable: i32) -> Ended {
        let codes: Vec<i32> = self.codes().collect();
        let worst = codes
            .iter()
            .copied()
            .filter(|&code| code > 0 && code != resumable)
            .max();
        match (worst, codes.iter().find(|&&code| code < 0)) {
            (Some(code), _) => Ended::Code(code),
            (None, Some(signal)) => Ended::Killed(-signal),
            (None, None) if codes.contains(&resumable) => Ended::Code(resumable),
            (None, None) => Ended::Code(0),
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.kill();
        for (child, _) in &mut self.0 {
            let _ = child.wait();
        }
    }
}
