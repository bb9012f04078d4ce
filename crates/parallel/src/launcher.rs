//! Starts the ranks of a world on this machine, without MPI.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::discovery::{RENDEZVOUS, TOKEN};
use crate::error::CommError;
use crate::rendezvous;

/// How a world ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every rank by itself; the largest of the codes that are not `resumable`, else `resumable`
    /// if any rank had it, else 0.
    Code(i32),
    /// A rank was killed by this signal; the others were ended.
    Killed(i32),
}

/// Time the other ranks have to end by themselves once one has failed.
const GRACE: Duration = Duration::from_secs(8);

/// Signals that are passed on to all ranks.
const FORWARDED: [i32; 5] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2];

/// Runs `program` `size` times as the ranks of a world and waits for the end of all.
///
/// Signals are passed on to every rank. If a rank fails, the others get a few seconds to notice
/// and end by themselves; `resumable` is the code of those that did.
pub fn launch(
    size: usize,
    program: &OsString,
    arguments: &[OsString],
    resumable: i32,
) -> Result<Ended, CommError> {
    let failed = |what: &str, error: std::io::Error| CommError::Setup(format!("{what}: {error}"));
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| failed("rendezvous", e))?;
    let address = listener.local_addr().map_err(|e| failed("rendezvous", e))?;
    let token = token().map_err(|e| failed("token", e))?;
    let signals = signal_hook::iterator::Signals::new(FORWARDED);
    let mut signals = signals.map_err(|e| failed("signals", e))?;

    let mut ranks = Ranks(Vec::with_capacity(size));
    for rank in 0..size {
        let child = Command::new(program)
            .args(arguments)
            .envs([(RENDEZVOUS, address.to_string()), (TOKEN, token.clone())])
            .envs([("RANK", rank), ("LOCAL_RANK", rank)].map(|(k, v)| (k, v.to_string())))
            .envs(
                [("WORLD_SIZE", size), ("LOCAL_WORLD_SIZE", size)].map(|(k, v)| (k, v.to_string())),
            )
            .spawn()
            .map_err(|error| failed(&format!("rank {rank} cannot be started"), error))?;
        ranks.0.push((child, None));
    }
    // Ranks that never ask, because they fail before, must not keep this waiting.
    let over = Arc::new(AtomicBool::new(false));
    let given_up = Arc::clone(&over);
    let server = std::thread::spawn(move || {
        let stop = || given_up.load(Ordering::Relaxed);
        // Ranks that waited for a list say so themselves.
        let _ = rendezvous::serve(&listener, size, &token, &stop);
    });
    let mut failed_at = None;
    while ranks.are_running()? {
        for signal in signals.pending() {
            ranks.signal(signal);
        }
        if failed_at.is_none() && ranks.codes().any(|code| code != 0) {
            failed_at = Some(Instant::now());
        }
        if failed_at.is_some_and(|at: Instant| at.elapsed() > GRACE) {
            tracing::warn!("a rank has failed and others go on: ending them");
            ranks.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    over.store(true, Ordering::Relaxed);
    // It only ever returns.
    let _ = server.join();
    Ok(ranks.ended(resumable))
}

/// Children, killed when the launcher fails itself.
struct Ranks(Vec<(Child, Option<ExitStatus>)>);

impl Ranks {
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
        for (child, status) in &self.0 {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            if let (None, Some(pid)) = (status, pid) {
                // It may just have ended.
                let _ = kill_process(pid, signal);
            }
        }
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

/// 32 hexadecimal digits that nobody else on the machine can guess.
fn token() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
