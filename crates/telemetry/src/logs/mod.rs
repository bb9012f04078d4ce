//! The log files of a run and the spans of its shots.
//!
//! ```text
//! DIR/logs/WORLD.rank-N.jsonl       what rank N of a world says, one JSON object a line
//! DIR/logs/WORLD.rank-N.1.jsonl     what it said before, up to .3
//! ```
//!
//! Every shot is a span (`shot`), with one span in it for every stage. A line in one of them knows
//! its story, shot, attempt and stage, and the trace of the shot, which is the same wherever and
//! however often the shot is tried. That a span has ended is a line too.

mod context;
mod file;
mod layer;
mod line;
mod otlp;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer as Text;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime as Time};

use file::{RotatingFile, prune};
use line::Line;
use otlp::{Ended, SpanExport};

pub use layer::RunLayer;

/// Lines, and spans, that are kept until the run has a folder.
const MOST_WAITING: usize = 1000;
/// Time between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(100);
/// A log file that nobody has written to for so long has no writer.
const QUIET: Duration = Duration::from_secs(3600);

/// How a run is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Folder of the log files; `None` for no files.
    pub folder: Option<PathBuf>,
    /// Most bytes of the files of one rank.
    pub max_bytes: u64,
    /// Most bytes of all files in the folder when a world starts.
    pub max_total_bytes: u64,
    /// Address of a collector that spans are sent to.
    pub otlp: Option<String>,
}

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// What the world is called.
    pub world: String,
    /// Which of its ranks this is.
    pub rank: usize,
}

/// Tells what a run is called, once it has a folder.
type RunName = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The log of a run, on one rank.
///
/// It can be heard from the start of the program: lines and spans wait until it is known who writes
/// ([`RunLog::placed`]) and until the run has a folder. A run that never comes to that leaves no
/// files behind.
#[derive(Debug, Clone)]
pub struct RunLog {
    inner: Arc<Inner>,
}

struct Inner {
    settings: LogSettings,
    name_of_run: RunName,
    run: OnceLock<String>,
    looked: Mutex<Option<Instant>>,
    origin: OnceLock<Origin>,
    writer: Mutex<Writer>,
    export: OnceLock<SpanExport>,
    /// Spans that wait until it is known what the run is called.
    unsent: Mutex<Vec<Ended>>,
}

enum Writer {
    Waiting(Vec<Line>),
    Open(RotatingFile),
    Off,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut inner = f.debug_struct("RunLog");
        inner
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl RunLog {
    /// A log of the run that `name_of_run` names.
    pub fn new(
        settings: LogSettings,
        name_of_run: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let writer = match &settings.folder {
            Some(_) => Writer::Waiting(Vec::new()),
            None => Writer::Off,
        };
        Self {
            inner: Arc::new(Inner {
                settings,
                name_of_run: Box::new(name_of_run),
                run: OnceLock::new(),
                looked: Mutex::default(),
                origin: OnceLock::new(),
                writer: Mutex::new(writer),
                export: OnceLock::new(),
                unsent: Mutex::default(),
            }),
        }
    }

    /// The layer that writes to this log.
    pub fn layer(&self) -> RunLayer {
        RunLayer::new(self.inner.clone())
    }

    /// It is known who writes. Counts once.
    pub fn placed(&self, origin: Origin) {
        if let Some(url) = &self.inner.settings.otlp {
            match SpanExport::start(url, &origin) {
                Ok(export) => drop(self.inner.export.set(export)),
                Err(error) => tracing::warn!(%error, "spans cannot be sent to logs.otlp"),
            }
        }
        drop(self.inner.origin.set(origin));
    }

    /// Writes and sends what waits. Nothing is sent after it.
    pub fn finish(&self) {
        *lock(&self.inner.looked) = None;
        self.inner.settle();
        if let Some(export) = self.inner.export.get() {
            self.inner.send_waiting(export);
            export.finish();
        }
    }
}

/// What the files and the collector hear: this program from `level` on, others when they warn.
pub fn filter(level: LevelFilter) -> Targets {
    let others = level.min(LevelFilter::WARN);
    Targets::new()
        .with_default(others)
        .with_target("storyloom", level)
}

impl Inner {
    /// What the run is called, if that is known by now.
    fn run(&self) -> Option<&str> {
        if let Some(run) = self.run.get() {
            return Some(run);
        }
        {
            let mut looked = lock(&self.looked);
            if looked.is_some_and(|looked| looked.elapsed() < PAUSE) {
                return None;
            }
            *looked = Some(Instant::now());
        }
        let run = (self.name_of_run)()?;
        Some(self.run.get_or_init(|| run))
    }

    fn write(&self, line: Line) {
        {
            let mut writer = lock(&self.writer);
            match &mut *writer {
                Writer::Off => return,
                Writer::Waiting(lines) if lines.len() < MOST_WAITING => lines.push(line),
                Writer::Waiting(_) => {}
                Writer::Open(file) => {
                    let result = file.write_line(&self.signed(line).to_bytes());
                    if let Err(error) = result {
                        *writer = Writer::Off;
                        drop(writer);
                        give_up(&error);
                    }
                    return;
                }
            }
        }
        self.settle();
    }

    /// Opens the file if that can be done by now, and writes what has waited.
    fn settle(&self) {
        if self.origin.get().is_none() || self.run().is_none() {
            return;
        }
        let mut writer = lock(&self.writer);
        let Writer::Waiting(lines) = &mut *writer else {
            return;
        };
        let lines = std::mem::take(lines);
        match self.open(lines) {
            Ok(file) => *writer = Writer::Open(file),
            Err(error) => {
                *writer = Writer::Off;
                drop(writer);
                give_up(&error);
            }
        }
    }

    fn open(&self, lines: Vec<Line>) -> std::io::Result<RotatingFile> {
        let (Some(folder), Some(origin)) = (&self.settings.folder, self.origin.get()) else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        let name = format!("{}.rank-{}", origin.world, origin.rank);
        let mut file = RotatingFile::create(folder, &name, self.settings.max_bytes)?;
        if origin.rank == 0 {
            prune(folder, self.settings.max_total_bytes, QUIET)?;
        }
        for line in lines {
            file.write_line(&self.signed(line).to_bytes())?;
        }
        Ok(file)
    }

    /// The line with who wrote it, in which run, and the trace it belongs to.
    fn signed(&self, line: Line) -> Line {
        let run = self.run.get().cloned().unwrap_or_default();
        let origin = self.origin.get();
        Line {
            world: origin.map_or_else(String::new, |origin| origin.world.clone()),
            rank: origin.map_or(0, |origin| origin.rank),
            trace_id: line.context.trace_id(&run),
            run,
            ..line
        }
    }

    /// Sends a span that has ended, now or when the run is known.
    fn send(&self, span: Ended) {
        let Some(export) = self.export.get() else {
            return;
        };
        {
            let mut unsent = lock(&self.unsent);
            if unsent.len() < MOST_WAITING {
                unsent.push(span);
            }
        }
        self.send_waiting(export);
    }

    fn send_waiting(&self, export: &SpanExport) {
        if let Some(run) = self.run() {
            for span in std::mem::take(&mut *lock(&self.unsent)) {
                export.send(run, span);
            }
        }
    }
}

fn give_up(error: &std::io::Error) {
    tracing::warn!(%error, "no more log lines can be written to the run folder; the run goes on");
}

/// Now, in UTC.
fn rfc3339() -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = Time.format_time(&mut Text::new(&mut text));
    text
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
