//! Where log lines go: to stderr for people, and those of a run to its folder as well.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressDrawTarget};
use storyloom_memory::Disk;
use storyloom_orchestrator::RunFolder;
use storyloom_telemetry::logs::{self, LogSettings, Origin, RunLog};
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer as Text;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::options::{LogLevel, Logs};

/// The part of the program that says how far a run is.
pub const PROGRESS: &str = "storyloom::progress";

/// Set in worlds of more than one rank.
static RANK: OnceLock<usize> = OnceLock::new();
/// Whether lines go to files as well.
static HAS_FILES: AtomicBool = AtomicBool::new(false);
/// Whether stderr belongs to another rank.
static SILENT: AtomicBool = AtomicBool::new(false);

/// Lines to stderr begin with the time and the rank.
struct RankTime;

impl FormatTime for RankTime {
    fn format_time(&self, writer: &mut Text<'_>) -> std::fmt::Result {
        SystemTime.format_time(writer)?;
        match RANK.get() {
            Some(rank) => write!(writer, " rank {rank}"),
            None => Ok(()),
        }
    }
}

/// Stderr, with or without bars at its end. Clones are the same.
#[derive(Debug, Clone)]
pub struct Screen {
    bars: MultiProgress,
}

impl Screen {
    fn new() -> Self {
        // Hidden where stderr is no terminal.
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { bars }
    }

    /// Where to put bars.
    pub fn bars(&self) -> &MultiProgress {
        &self.bars
    }
}

impl Write for Screen {
    /// The bars make room for the line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if SILENT.load(Ordering::Relaxed) {
            return Ok(line.len());
        }
        self.bars.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Screen {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Lines for people, without spans; `STORYLOOM_LOG` takes the filters of `tracing`, `info` if
/// unset, without what the parser of AVIF remarks on files that it reads all the same.
fn for_people(screen: &Screen) -> impl Layer<Registry> {
    let filter = EnvFilter::try_from_env("STORYLOOM_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,mp4parse=error"));
    let is_terminal = io::stderr().is_terminal();
    // On a terminal bars say how far it is.
    let wanted = move |metadata: &Metadata<'_>| {
        metadata.is_event() && !(is_terminal && metadata.target() == PROGRESS)
    };
    tracing_subscriber::fmt::layer()
        .with_writer(screen.clone())
        .with_ansi(is_terminal)
        .with_target(false)
        .with_timer(RankTime)
        .with_filter(filter.and(filter_fn(wanted)))
}

/// Everything goes to stderr.
pub fn to_stderr() {
    tracing_subscriber::registry()
        .with(for_people(&Screen::new()))
        .init();
}

/// The logs of a run on this rank.
#[derive(Debug)]
pub struct Logging {
    /// Stderr.
    pub screen: Screen,
    run: RunLog,
}

/// Lines of a run go to stderr and, once `out` is a run folder, to files in it.
pub fn of_run(logs: &Logs, out: &Path) -> Logging {
    let Logs {
        json,
        level,
        max_bytes,
        max_total_bytes,
        otlp,
        ..
    } = logs;
    let folder = RunFolder::new(out, std::sync::Arc::new(Disk));
    let settings = LogSettings {
        folder: json.then(|| out.join("logs")),
        max_bytes: *max_bytes,
        max_total_bytes: *max_total_bytes,
        otlp: (!otlp.is_empty()).then(|| otlp.clone()),
    };
    let run = RunLog::new(settings, move || {
        folder.run_file().ok().map(|file| file.run_id)
    });
    let screen = Screen::new();
    tracing_subscriber::registry()
        .with(for_people(&screen))
        .with(run.layer().with_filter(logs::filter(filter(*level))))
        .init();
    HAS_FILES.store(*json, Ordering::Relaxed);
    Logging { screen, run }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Lines to stderr tell this rank from others from now on. On a terminal only the first rank
/// speaks, since the lines of others would tear its bars; theirs are in the files.
pub fn set_rank(rank: usize) {
    // Joined once in a process.
    let _ = RANK.set(rank);
    let has_files = HAS_FILES.load(Ordering::Relaxed);
    let silent = rank > 0 && has_files && io::stderr().is_terminal();
    SILENT.store(silent, Ordering::Relaxed);
}

impl Logging {
    /// This is `rank` of the world `world`.
    pub fn placed(&self, world: &str, rank: usize) {
        self.run.placed(Origin {
            world: world.to_owned(),
            rank,
        });
    }

    /// Writes and sends what waits.
    pub fn finish(&self) {
        self.run.finish();
    }
}
