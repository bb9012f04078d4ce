//! Heeding a request to drain that lies in the run folder.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use storyloom_memory::Disk;
use storyloom_orchestrator::drain::is_requested;
use storyloom_orchestrator::{RunConfig, RunFolder, StopFlag};

use crate::exit::{Exit, Failure};
use crate::world::RankSlot;

/// Time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks for the request as long as it lives.
#[derive(Debug)]
pub struct DrainWatch {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DrainWatch {
    /// Sets `stop` while the request is there.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(settings: &RunConfig, stop: &StopFlag) -> Result<Self, Failure> {
        let (over, is_over) = channel();
        let (folder, stop) = (folder(settings), stop.clone());
        let look = move || {
            while is_over.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                let asked = is_requested(&folder);
                if asked != stop.is_draining() {
                    match asked {
                        true => tracing::warn!("asked to drain: no new shots are begun"),
                        false => tracing::warn!("not asked to drain any more"),
                    }
                    stop.set_drain(asked);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("drain".to_owned())
            .spawn(look);
        let thread = thread.map_err(|error| Failure::new(Exit::Unexpected, error))?;
        Ok(Self {
            over: Some(over),
            thread: Some(thread),
        })
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        self.over.take();
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

fn folder(settings: &RunConfig) -> RunFolder {
    RunFolder::new(&settings.out, Arc::new(Disk))
}

/// Whether the run is not to be begun: all ranks of a world get the same answer.
///
/// # Errors
/// A rank is missing.
pub fn is_forbidden(settings: &RunConfig, slot: &RankSlot) -> Result<bool, Failure> {
    let asked = is_requested(&folder(settings));
    slot.as_first_says(asked)
}

/// What to do about it, for those who find a run that does not go on.
pub fn hint(settings: &RunConfig) -> String {
    let dir = settings.out.display();
    format!("the run is asked to drain; it goes on after: storyloom drain {dir} --undo")
}
