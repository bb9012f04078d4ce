//! What the commands have in common that train stages: their arguments' types, and going through the stages.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use storyloom_nn::tch::{Device, set_num_threads};
use storyloom_training::error::TrainError;
use storyloom_training::{Pace, Preset, Run, StageName};

use crate::engine::first_gpu;
use crate::exit::{Exit, Failure};

/// Sizes of the networks and lengths of the stages.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PresetName {
    /// The model that is shipped; hours on two cores.
    Tiny,
    /// Next to nothing, in seconds.
    Test,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// The first GPU.
    Cuda,
}

/// Reads a learning rate.
pub fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate < 1.0 => Ok(rate),
        _ => Err("a learning rate is a number between 0 and 1, such as 1e-3".to_owned()),
    }
}

/// Reads the name of one of `stages`.
pub fn stage(stages: &[StageName], name: &str) -> Result<StageName, String> {
    let found = StageName::named(name).filter(|stage| stages.contains(stage));
    found.ok_or_else(|| {
        let names: Vec<&str> = stages.iter().map(|stage| stage.name()).collect();
        format!("the stages are {}", names.join(", "))
    })
}

/// `minutes` as a time.
pub fn time(minutes: Option<u64>) -> Option<Duration> {
    minutes.map(|minutes| Duration::from_secs(60 * minutes))
}

/// The run in `folder`.
///
/// # Errors
/// The folder cannot be made, or there is no such device.
pub fn open(
    folder: &Path,
    (preset, device): (PresetName, DeviceName),
    seed: u64,
    failure: impl Fn(TrainError) -> Failure,
) -> Result<Run, Failure> {
    let preset = match preset {
        PresetName::Tiny => Preset::tiny(),
        PresetName::Test => Preset::test(),
    };
    let device = match device {
        DeviceName::Cpu => Device::Cpu,
        DeviceName::Cuda => first_gpu()?,
    };
    // The parts of a step have threads of their own.
    set_num_threads(1);
    Run::new(folder, preset, seed, device).map_err(failure)
}

/// Trains `stages` one after the other, each at its pace, and draws the loss curves into `folder`; the end
/// of a stage that was stopped is [`Exit::Stopped`].
///
/// # Errors
/// `failure` makes them of what went wrong.
pub fn train(
    run: &Run,
    folder: &Path,
    stages: impl IntoIterator<Item = (StageName, Pace)>,
    stop: &AtomicBool,
    failure: impl Fn(TrainError) -> Failure,
) -> Result<Exit, Failure> {
    for (stage, pace) in stages {
        let done = run.train(stage, pace, stop).map_err(&failure)?;
        run.draw_curves(folder).map_err(&failure)?;
        let is_stopped = stop.load(Ordering::Relaxed);
        if is_stopped || (!done && pace.time.is_none()) {
            if std::io::stderr().is_terminal() {
                eprintln!("stopped early; everything is saved, run the same command again");
            }
            return Ok(Exit::Stopped);
        }
    }
    Ok(Exit::Done)
}
