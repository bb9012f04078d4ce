//! What a run writes down about itself while it works.

use std::time::Duration;

use storyloom_models::tch;
use storyloom_orchestrator::lease::host_name;
use storyloom_orchestrator::{RunConfig, RunOutcome};
use storyloom_telemetry::Reporters;
use storyloom_telemetry::shift::{Journal, ShiftEnd, ShiftStart, process_start};

use crate::config::Config;
use crate::config::options::EngineKind;
use crate::engine;
use crate::exit::{Exit, Failure};
use crate::world::Place;

/// The life of a leader, for those who look on.
#[derive(Debug)]
pub struct Shift {
    journal: Journal,
}

impl Shift {
    /// Begins the notes of this program on the run of `settings`, before anything is loaded.
    ///
    /// # Errors
    /// The config asks for a GPU and there is none.
    pub fn begin(config: &Config, settings: &RunConfig, place: &Place) -> Result<Self, Failure> {
        let found = place.world.found();
        let run = settings.out.canonicalize();
        let run = run.as_deref().unwrap_or(&settings.out).file_name();
        let start = ShiftStart {
            run: run.unwrap_or_default().to_string_lossy().into_owned(),
            host: host_name(),
            pid: std::process::id(),
            rank: found.rank,
            world_size: found.size,
            replica: place.seat().replica,
            ranks: place.ranks_of_replica(),
            device: device(config, place)?.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let id = settings.worker.as_deref().unwrap_or_default();
        let pulse = Duration::from_millis(u64::from(config.run.note_ms.max(1)));
        let journal = Journal::begin(&settings.out, id, start, process_start(), pulse);
        Ok(Self { journal })
    }

    /// Those who hear of the run's events.
    pub fn reporters(&self) -> Reporters<'_> {
        Reporters::new().and(&self.journal)
    }

    /// The run has ended like this.
    pub fn end(&self, result: &Result<RunOutcome, Failure>) {
        self.journal.end(match result {
            Ok(outcome) if outcome.stopped => ShiftEnd::Stopped,
            Ok(_) => ShiftEnd::Done,
            Err(failure) if failure.exit == Exit::Stopped => ShiftEnd::Stopped,
            Err(_) => ShiftEnd::Failed,
        });
    }
}

/// What computes.
fn device(config: &Config, place: &Place) -> Result<&'static str, Failure> {
    let cuda = config.top.engine == EngineKind::Torch
        && engine::target(config, place)?.device != tch::Device::Cpu;
    Ok(if cuda { "cuda" } else { "cpu" })
}
