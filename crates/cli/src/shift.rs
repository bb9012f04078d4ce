//! What a leader reports to operators: its journal, its metrics, its pages.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use storyloom_memory::Disk;
use storyloom_nn::tch;
use storyloom_orchestrator::status::{Counts, now};
use storyloom_orchestrator::watch::{View, Watcher};
use storyloom_orchestrator::{RunConfig, RunFolder, RunOutcome, StopFlag, drain};
use storyloom_pictures::text_at_most;
use storyloom_telemetry::Reporters;
use storyloom_telemetry::metrics::labels::State;
use storyloom_telemetry::metrics::{
    ByState, Exporter, ExporterSettings, Metrics, RankReport, RankReports, ReplicaFacts, RunView,
    RunWatch, RunWork, Token,
};
use storyloom_telemetry::process::Process;
use storyloom_telemetry::process::host_name;
use storyloom_telemetry::shift::{Journal, ShiftEnd, ShiftStart, process_start};

use crate::config::options::{self, EngineKind};
use crate::config::resolved::EngineConfig;
use crate::config::value::name_of;
use crate::config::{METRICS_TOKEN, Resolved, paths};
use crate::engine;
use crate::exit::{Exit, Failure};
use crate::ranks::OwnRank;
use crate::world::RankSlot;

/// The life of a leader, as operators see it.
#[derive(Debug)]
pub struct Shift {
    journal: Arc<Journal>,
    metrics: Option<Arc<Metrics>>,
    /// Dropped before the journal ends.
    exporter: Mutex<Option<Exporter>>,
}

impl Shift {
    /// Begins the notes of this program on the run of `settings`, before anything is loaded.
    ///
    /// # Errors
    /// The config asks for a GPU and there is none, or names a file with a token that cannot be
    /// read.
    pub fn begin(
        config: &Resolved,
        settings: &RunConfig,
        slot: &RankSlot,
        stop: &StopFlag,
    ) -> Result<Self, Failure> {
        let token = token(&config.metrics)?;
        let start = start(config, settings, slot)?;
        let id = settings.worker.as_deref().unwrap_or_default();
        let pulse = Duration::from_millis(u64::from(config.run.note_ms.max(1)));
        let facts = ReplicaFacts {
            version: start.version.clone(),
            replica: start.replica,
            method: name_of(config.engine.method).to_owned(),
            engine: name_of(config.engine.kind).to_owned(),
            device: start.device.clone(),
            ranks: start.ranks,
        };
        let exporter = ExporterSettings {
            run: settings.out.clone(),
            name: start.run.clone(),
            id: id.to_owned(),
            node: start.host.clone(),
            listen: config.metrics.address(),
            host: match config.metrics.host.as_str() {
                "" => start.host.clone(),
                host => host.to_owned(),
            },
            token,
            push: Some(config.metrics.push.clone()).filter(|push| !push.is_empty()),
            stall: Duration::from_secs_f64(60.0 * config.metrics.stall),
        };
        let begun = process_start();
        let journal = Journal::begin(&settings.out, id, start, begun, pulse);
        let journal = Arc::new(journal);
        let deadline = config.run.deadline();
        let metrics = Metrics::new(&facts, journal.clone(), deadline)
            .inspect_err(|error| tracing::warn!(%error, "no figures; the run goes on"))
            .ok()
            .map(Arc::new);
        let folder = || RunFolder::new(&settings.out, Arc::new(Disk));
        let watch = Arc::new(Watch {
            folder: folder(),
            watcher: Mutex::new(Watcher::new(folder())),
            names: config.metrics.names,
            stop: stop.clone(),
            own: Mutex::new(OwnRank::new(&config.engine, slot)?),
            others: RankReports::gather(&settings.out, id),
        });
        let exporter = metrics
            .clone()
            .map(|metrics| Exporter::start(exporter, metrics, watch));
        Ok(Self {
            journal,
            metrics,
            exporter: Mutex::new(exporter),
        })
    }

    /// Those who hear of the run's events.
    pub fn reporters(&self) -> Reporters<'_> {
        let reporters = Reporters::new().and(self.journal.as_ref());
        match &self.metrics {
            Some(metrics) => reporters.and(metrics.as_ref()),
            None => reporters,
        }
    }

    /// Where figures are served, if they are.
    pub fn address(&self) -> Option<SocketAddr> {
        self.exporter().as_ref()?.address()
    }

    /// Takes over what ranks say of themselves.
    pub fn see_ranks(&self, reports: &[RankReport]) {
        let Some(metrics) = &self.metrics else { return };
        if let Err(error) = metrics.see_ranks(reports) {
            tracing::warn!(%error, "figures of ranks are not complete");
        }
    }

    /// The run has ended like this.
    pub fn end(&self, result: &Result<RunOutcome, Failure>) {
        let how = match result {
            Ok(outcome) if outcome.stopped => ShiftEnd::Stopped,
            Ok(_) => ShiftEnd::Done,
            Err(failure) if failure.exit == Exit::Stopped => ShiftEnd::Stopped,
            Err(_) => ShiftEnd::Failed,
        };
        self.end_as(how);
    }

    /// As [`end`](Self::end), where there is no result.
    pub fn end_as(&self, how: ShiftEnd) {
        drop(self.exporter().take());
        self.journal.end(how);
    }

    fn exporter(&self) -> MutexGuard<'_, Option<Exporter>> {
        self.exporter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(config: &Resolved, settings: &RunConfig, slot: &RankSlot) -> Result<ShiftStart, Failure> {
    let found = slot.world.found();
    let run = settings.out.canonicalize();
    let run = run.as_deref().unwrap_or(&settings.out).file_name();
    Ok(ShiftStart {
        run: run.unwrap_or_default().to_string_lossy().into_owned(),
        host: host_name(),
        pid: std::process::id(),
        rank: found.rank,
        world_size: found.size,
        replica: slot.seat().replica,
        ranks: slot.ranks_of_replica(),
        plans_only: slot.plans_only(),
        device: device(&config.engine, slot)?.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: Some(Process::own().clone()),
        lease_timeout_s: Some(config.run.lease_timeout),
    })
}

/// What computes.
fn device(engine: &EngineConfig, slot: &RankSlot) -> Result<&'static str, Failure> {
    let cuda = engine.kind == EngineKind::Torch
        && engine::target(engine.compute, slot)?.device != tch::Device::Cpu;
    Ok(if cuda { "cuda" } else { "cpu" })
}

/// The token of those who may ask for changes.
fn token(options: &options::Metrics) -> Result<Option<Token>, Failure> {
    let wrong = |reason: &dyn std::fmt::Display| {
        Failure::new(Exit::Config, format!("metrics.token_file: {reason}"))
    };
    let text = match (options.token_file.as_str(), std::env::var(METRICS_TOKEN)) {
        ("", Ok(text)) => text,
        ("", Err(_)) => return Ok(None),
        (file, _) if !Path::new(file).exists() => {
            let message = paths::missing("metrics.token_file", file);
            return Err(Failure::new(Exit::Config, message));
        }
        (file, _) => {
            let text = text_at_most(Path::new(file), paths::LARGEST);
            text.map_err(|problem| wrong(&format!("{file}: {problem}")))?
        }
    };
    match Token::new(&text) {
        None => Err(wrong(&"the token is empty")),
        token => Ok(token),
    }
}

/// The run folder, for the exporter.
struct Watch {
    folder: RunFolder,
    watcher: Mutex<Watcher>,
    /// Whether the page of the status names stories.
    names: bool,
    stop: StopFlag,
    own: Mutex<OwnRank>,
    others: RankReports,
}

impl RunWatch for Watch {
    fn look(&self) -> Result<(RunView, String), String> {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = watcher.look().map_err(|error| error.to_string())?;
        if !seen.is_begun() {
            return Err("the run is not begun yet".to_owned());
        }
        let mut json = serde_json::to_value(&seen).map_err(|error| error.to_string())?;
        if !self.names {
            leave_names_out(&mut json);
        }
        let work = RunWork::of(&watcher.shifts(), now());
        Ok((view(&seen, work), json.to_string()))
    }

    fn ranks(&self) -> Vec<RankReport> {
        let mut reports = self.others.read();
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        reports.push(own.report());
        reports
    }

    fn is_draining(&self) -> bool {
        self.stop.asked().is_some()
    }

    fn drain(&self) -> Result<(), String> {
        drain::request(&self.folder)
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

/// Takes out of a status what names stories, shots and tenants: the page has no accounts.
fn leave_names_out(json: &mut Value) {
    const NAMES: [&str; 3] = ["story", "shot", "tenants"];
    match json {
        Value::Object(map) => {
            map.retain(|key, _| !NAMES.contains(&key.as_str()));
            map.values_mut().for_each(leave_names_out);
        }
        Value::Array(list) => list.iter_mut().for_each(leave_names_out),
        _ => {}
    }
}

fn view(seen: &View, work: RunWork) -> RunView {
    let status = &seen.status;
    let likely = status.eta_seconds;
    let range = seen.eta_range_seconds.zip(likely);
    RunView {
        stories: by_state(&status.stories),
        shots: by_state(&status.shots),
        methods: status
            .methods
            .iter()
            .map(|(method, counts)| (*method, by_state(counts)))
            .collect(),
        set_aside: status.stories.set_aside,
        eta_seconds: range.map(|([low, high], likely)| [low, likely, high]),
        work,
    }
}

fn by_state(counts: &Counts) -> ByState {
    vec![
        (State::Done, counts.done),
        (State::Running, counts.running),
        (State::Pending, counts.pending),
        (State::Failed, counts.failed),
        (State::Quarantined, counts.quarantined),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_without_names_still_counts() {
        let now = json!({"story": "neo", "shot": "01_02", "stage": "denoise", "step": 3});
        let mut status = json!({
            "stories": {"total": 4, "done": 1},
            "tenants": {"acme": {"done": 1}},
            "workers": [{"id": "w1", "now": [now], "planning": [{"story": "neo", "attempt": 0}]}],
        });
        leave_names_out(&mut status);
        let left = json!({
            "stories": {"total": 4, "done": 1},
            "workers": [{
                "id": "w1",
                "now": [{"stage": "denoise", "step": 3}],
                "planning": [{"attempt": 0}],
            }],
        });
        assert_eq!(status, left);
    }
}
