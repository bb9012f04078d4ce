//! `storyloom bench telemetry`: what journals, metrics and pages cost a run, and what a scrape costs.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use storyloom_orchestrator::pipeline::{PipelineSettings, plain_run};
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::{RunConfig, StopFlag, run};
use storyloom_story::{Manifest, VideoSpec};
use storyloom_telemetry::metrics::{GpuReport, RankReport};
use storyloom_telemetry::{Event, Reporter, Silent};

use crate::config::options::EngineKind;
use crate::config::{Config, Resolved};
use crate::exit::{Exit, Failure};
use crate::shift::Shift;
use crate::world;

/// Arguments of `bench telemetry`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder to work in; a new folder in it is filled and removed.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Pairs of runs, one with telemetry and one without, in turn.
    #[arg(long, default_value_t = 10)]
    pairs: usize,
    /// Shots of each run, on the simulated engine at its full speed.
    #[arg(long, default_value_t = 12)]
    shots: usize,
    /// Sampling steps of each shot.
    #[arg(long, default_value_t = 40)]
    steps: usize,
    /// Seconds between two scrapes of the runs with telemetry.
    #[arg(long, default_value_t = 1.0)]
    scrape: f64,
    /// Ranks whose series a leader is given for the figures of a scrape.
    #[arg(long, default_value_t = 64)]
    ranks: usize,
}

/// Figures of `bench telemetry`.
#[derive(Debug, Serialize)]
pub struct Figures {
    pairs: usize,
    /// Sampling steps of a run in a second; each is an event.
    steps_per_second: f64,
    /// Processor time of a run without telemetry, the middle of all, in seconds.
    plain_cpu_seconds: f64,
    /// Processor time with telemetry over that without, less 1: the middle of all pairs.
    cpu_overhead: f64,
    /// The same of the time that passes.
    wall_overhead: f64,
    /// The pairs, as `cpu_overhead`.
    cpu_overheads: Vec<f64>,
    own: OwnFigures,
    scrape: ScrapeFigures,
}

/// Processor time of the telemetry itself, read from the clocks of threads: what the difference of
/// two runs hides on a machine with other work is seen here.
#[derive(Debug, Serialize)]
struct OwnFigures {
    /// Events of all runs.
    events: u64,
    /// Processor time of an event, in microseconds.
    event_us: f64,
    /// Processor time of what goes on beside the events (the live file, pages, scrapes), per second.
    background_s: f64,
    /// Both together over the processor time of a run without telemetry.
    share: f64,
}

/// What a scrape costs.
#[derive(Debug, Serialize)]
struct ScrapeFigures {
    ranks: usize,
    series: usize,
    bytes: usize,
    /// The middle of all scrapes.
    median_ms: f64,
    /// The slowest.
    most_ms: f64,
}

/// Measures.
///
/// # Errors
/// The folder cannot be written, or a run fails.
pub fn measure(arguments: &Arguments) -> Result<Figures, Failure> {
    let name = format!("bench-telemetry-{}", std::process::id());
    let root = arguments.dir.join(name);
    let result = in_folder(&root, arguments);
    // Best effort: what is left is plain files in a folder whose name says what it is.
    let _ = fs::remove_dir_all(&root);
    result
}

/// Time that a run took.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    wall: f64,
}

/// Passes events on and takes the time of it.
struct Timed<'a> {
    inner: &'a dyn Reporter,
    told: &'a Told,
}

/// How many events there were and what they cost.
#[derive(Default)]
struct Told {
    events: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Reporter for Timed<'_> {
    fn report(&self, event: &Event) {
        let begun = seconds(ClockId::ThreadCPUTime);
        self.inner.report(event);
        let spent = (seconds(ClockId::ThreadCPUTime) - begun) * 1e9;
        self.told.events.fetch_add(1, Ordering::Relaxed);
        self.told
            .nanoseconds
            .fetch_add(spent as u64, Ordering::Relaxed);
    }
}

fn in_folder(root: &Path, arguments: &Arguments) -> Result<Figures, Failure> {
    let (mut plain, mut ratios) = (Vec::new(), Vec::new());
    let told = Told::default();
    for pair in 0..arguments.pairs.max(1) {
        let cost = |with: bool| {
            let out = root.join(format!("{pair}-{with}"));
            let cost = one_run(&out, arguments, with.then_some(&told));
            // The disk should not fill up with them.
            let _ = fs::remove_dir_all(&out);
            cost
        };
        // Whatever changes with time hits both alike.
        let (with, without) = match pair % 2 {
            0 => (cost(true)?, cost(false)?),
            _ => {
                let without = cost(false)?;
                (cost(true)?, without)
            }
        };
        plain.push(without);
        ratios.push(Cost {
            cpu: with.cpu / without.cpu - 1.0,
            wall: with.wall / without.wall - 1.0,
        });
    }
    let middle_of = |list: &[Cost], of: fn(&Cost) -> f64| middle(list.iter().map(of).collect());
    let steps = (arguments.shots * arguments.steps) as f64;
    Ok(Figures {
        pairs: ratios.len(),
        steps_per_second: steps / middle_of(&plain, |cost| cost.wall),
        plain_cpu_seconds: middle_of(&plain, |cost| cost.cpu),
        cpu_overhead: middle_of(&ratios, |cost| cost.cpu),
        wall_overhead: middle_of(&ratios, |cost| cost.wall),
        cpu_overheads: ratios.iter().map(|cost| cost.cpu).collect(),
        own: own(&root.join("idle"), arguments, &plain, &told)?,
        scrape: scrapes(&root.join("scrape"), arguments)?,
    })
}

/// The middle of some numbers; 0 of none.
fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

fn plan(out: &Path, arguments: &Arguments) -> Result<(RunConfig, Manifest), Failure> {
    let settings = PipelineSettings::instant(out, arguments.shots, 4);
    let (mut config, manifest) = plain_run(out, 3, &settings)?;
    // Latents as large as this keep a core busy for some milliseconds a step.
    config.video = VideoSpec {
        width: 832,
        height: 480,
        frames: 17,
        fps: 16,
    };
    config.worker = Some("bench".to_owned());
    Ok((config, manifest))
}

/// What telemetry costs by its own clocks, after as many runs with it as there are in `plain`.
fn own(
    out: &Path,
    arguments: &Arguments,
    plain: &[Cost],
    told: &Told,
) -> Result<OwnFigures, Failure> {
    let events = told.events.load(Ordering::Relaxed);
    let told = told.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
    let background = background(out, arguments)?;
    let total = |of: fn(&Cost) -> f64| plain.iter().map(of).sum::<f64>();
    let spent = told + background * total(|cost| cost.wall);
    Ok(OwnFigures {
        events,
        event_us: told * 1e6 / events.max(1) as f64,
        background_s: background,
        share: spent / total(|cost| cost.cpu),
    })
}

/// Processor time per second of a program that has made some shots, does nothing and is scraped.
fn background(out: &Path, arguments: &Arguments) -> Result<f64, Failure> {
    const LENGTH: Duration = Duration::from_secs(6);
    let shift = after_a_run(out, arguments)?;
    let begun = cpu_seconds();
    scraped(address(&shift)?, every(arguments), || {
        std::thread::sleep(LENGTH)
    });
    let spent = cpu_seconds() - begun;
    Ok(spent / LENGTH.as_secs_f64())
}

/// Time between two scrapes.
fn every(arguments: &Arguments) -> Duration {
    Duration::try_from_secs_f64(arguments.scrape).unwrap_or(Duration::MAX)
}

fn one_run(out: &Path, arguments: &Arguments, with: Option<&Told>) -> Result<Cost, Failure> {
    let (settings, manifest) = plan(out, arguments)?;
    let engine = SimulatedEngine {
        steps: arguments.steps,
        ..SimulatedEngine::default()
    };
    let stop = StopFlag::default();
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    if let Some(told) = with {
        let shift = begin(&settings, &stop)?;
        let run = || {
            let inner = &shift.reporters();
            let reporter = Timed { inner, told };
            run(&settings, &manifest, &engine, &reporter, &stop).map_err(Failure::from)
        };
        let result = scraped(address(&shift)?, every(arguments), run);
        shift.end(&result);
        result?;
    } else {
        run(&settings, &manifest, &engine, &Silent, &stop)?;
    }
    Ok(Cost {
        cpu: cpu_seconds() - cpu,
        wall: begun.elapsed().as_secs_f64(),
    })
}

/// Everything that `storyloom run` reports to operators.
fn begin(settings: &RunConfig, stop: &StopFlag) -> Result<Shift, Failure> {
    let mut config = Config::default();
    config.top.engine = EngineKind::Simulated;
    let config = Resolved::new(config);
    let place = world::join(&config.world)?;
    Shift::begin(&config, settings, &place, stop)
}

/// What operators see after some shots of small pictures.
fn after_a_run(out: &Path, arguments: &Arguments) -> Result<Shift, Failure> {
    let (mut settings, manifest) = plan(out, arguments)?;
    settings.video.width = 64;
    let (engine, stop) = (SimulatedEngine::default(), StopFlag::default());
    let shift = begin(&settings, &stop)?;
    run(&settings, &manifest, &engine, &shift.reporters(), &stop)?;
    Ok(shift)
}

fn address(shift: &Shift) -> Result<SocketAddr, Failure> {
    let none = || Failure::new(Exit::Unexpected, "no port is free for the metrics");
    shift.address().ok_or_else(none)
}

/// Does `work` while somebody scrapes.
fn scraped<T>(address: SocketAddr, every: Duration, work: impl FnOnce() -> T) -> T {
    let (over, is_over) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while is_over.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                // A scrape that fails shows in the figures of scrapes.
                let _ = scrape(address);
            }
        });
        let result = work();
        drop(over);
        result
    })
}

/// The figures, as Prometheus gets them.
fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Scrapes of a leader that has everything it can have.
fn scrapes(out: &Path, arguments: &Arguments) -> Result<ScrapeFigures, Failure> {
    const SCRAPES: usize = 200;
    let failed = |error: std::io::Error| Failure::new(Exit::Unexpected, error);
    let shift = after_a_run(out, arguments)?;
    shift.see_ranks(&(0..arguments.ranks).map(rank).collect::<Vec<_>>());
    let address = address(&shift)?;
    let (mut times, mut text) = (Vec::new(), String::new());
    for _ in 0..SCRAPES {
        let begun = Instant::now();
        text = scrape(address).map_err(failed)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let series = body.lines().filter(|line| !line.starts_with('#'));
    Ok(ScrapeFigures {
        ranks: arguments.ranks,
        series: series.count(),
        bytes: body.len(),
        most_ms: times.iter().copied().fold(0.0, f64::max),
        median_ms: middle(times),
    })
}

/// A rank with a GPU that has seen errors.
fn rank(rank: usize) -> RankReport {
    RankReport {
        rank,
        collectives: 123_456,
        collective_wait_seconds: 1_234.567_891,
        gpu: Some(GpuReport {
            host: format!("node-{:03}.farm.example", rank / 8),
            uuid: format!("GPU-{rank:08x}-0000-0000-0000-000000000000"),
            energy_joules: Some(12_345_678.9),
            memory_used_bytes: Some(98_765_432_100),
            memory_bytes: Some(150_000_000_000),
            temperature_celsius: Some(67.0),
            xid_errors: vec![(31, 2), (79, 1)],
        }),
    }
}

/// Processor time of this process.
fn cpu_seconds() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
