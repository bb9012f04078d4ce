//! Heeding a signal to stop while a run loads.
//!
//! Reading a long manifest, looking at its pictures and loading networks may take minutes. Nothing that
//! is done then needs to be saved: what is written is written whole or not at all. So the program ends
//! at once, from a thread that has nothing else to do, wherever it is at that moment.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use signal_hook::low_level;
use storyloom_orchestrator::{StopAt, StopFlag};
use storyloom_parallel::World;
use storyloom_telemetry::shift::ShiftEnd;
use storyloom_telemetry::{Event, Reporter};

use crate::config::options::OnPreempt;
use crate::exit::{Exit, Failure};
use crate::logging::Logging;
use crate::shift::Shift;
use crate::signals;
use crate::world::RankSlot;

/// Time between two looks at the flag.
const PAUSE: Duration = Duration::from_millis(50);

/// Ends the program when it is asked to stop, until the run has begun.
#[derive(Debug)]
pub struct LoadingWatch {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stage: Mutex<Stage>,
    loaded: Condvar,
}

#[derive(Debug, Default)]
struct Stage {
    /// Whether it is for the run itself now to stop.
    is_over: bool,
    /// Once there is one.
    shift: Option<Arc<Shift>>,
}

/// What the thread needs to end the program in good order.
struct Ending {
    stop: StopFlag,
    logging: Arc<Logging>,
    on_preempt: OnPreempt,
    /// Whether this rank speaks for its world.
    is_first: bool,
    is_shared: bool,
}

impl LoadingWatch {
    /// Watches `stop`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        stop: &StopFlag,
        logging: &Arc<Logging>,
        on_preempt: OnPreempt,
        slot: &RankSlot,
    ) -> Result<Self, Failure> {
        let state = Arc::<State>::default();
        let ending = Ending {
            stop: stop.clone(),
            logging: logging.clone(),
            on_preempt,
            is_first: slot.is_first(),
            is_shared: slot.is_shared(),
        };
        let watched = state.clone();
        let thread = std::thread::Builder::new()
            .name("loading".to_owned())
            .spawn(move || watched.watch(&ending))
            .map_err(|error| Failure::new(Exit::Unexpected, error))?;
        Ok(Self {
            state,
            thread: Some(thread),
        })
    }

    /// The journal of the program has begun.
    pub fn knows(&self, shift: &Arc<Shift>) {
        self.state.lock().shift = Some(shift.clone());
    }
}

impl Reporter for LoadingWatch {
    fn report(&self, event: &Event) {
        if let Event::RunStarted { .. } = event {
            self.state.end_watch();
        }
    }
}

impl Drop for LoadingWatch {
    fn drop(&mut self) {
        self.state.end_watch();
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_watch(&self) {
        let mut stage = self.lock();
        stage.is_over = true;
        stage.shift = None;
        drop(stage);
        self.loaded.notify_all();
    }

    fn watch(&self, ending: &Ending) {
        let mut stage = self.lock();
        while !stage.is_over {
            if ending.is_due() {
                // With the lock in hand: a rank that has loaded meanwhile begins nothing.
                ending.end(stage.shift.as_deref());
            }
            let waited = self.loaded.wait_timeout(stage, PAUSE);
            (stage, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Ending {
    /// A request to drain may be withdrawn, and is left to the run.
    fn is_due(&self) -> bool {
        match self.stop.asked() {
            Some(StopAt::Step) => true,
            Some(StopAt::Shot) => !self.stop.is_draining(),
            None => false,
        }
    }

    fn end(&self, shift: Option<&Shift>) -> ! {
        if let Some(shift) = shift {
            shift.end_as(ShiftEnd::Stopped);
        }
        tracing::warn!("stopped while loading");
        if self.is_first {
            eprintln!("stopped early; everything is saved, run the same command again");
        }
        self.logging.finish();
        // Nobody is left to be told if this fails.
        let _ = std::io::stderr().flush();
        signals::after_stop(self.on_preempt);
        if self.is_shared {
            World::abort(Exit::Stopped as i32)
        }
        // Without tidying up, which the libraries in the middle of loading would not survive.
        low_level::exit(Exit::Stopped as i32)
    }
}
