//! `storyloom train tiny`: the small model of the drawn world.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use storyloom_training::error::TrainError;
use storyloom_training::{Form, Pace, StageName};

use super::train_stages::{self, DeviceName, PresetName};
use crate::exit::{Exit, Failure};
use crate::output::print;

/// Arguments of `train tiny`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder for checkpoints, previews and loss curves; what is there already is gone on with.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Sizes of the networks and lengths of the stages.
    #[arg(long, value_enum, default_value = "tiny")]
    preset: PresetName,
    /// The stage to train: scorer, vae, captions, pictures, clips, memory, fast-clips or
    /// fast-memory; may be given several times. All of these, in this order, if not given; and
    /// memory-lora, which learns memory as adapters, only if it is given.
    #[arg(long = "stage", value_name = "NAME", value_parser = stage)]
    stages: Vec<StageName>,
    /// Go on from this set of checkpoints instead of from nothing: scorer, vae and captions are
    /// taken from it, and the transformers are trained on. The folder of --out keeps to it.
    #[arg(long, value_name = "FOLDER", conflicts_with = "export")]
    from: Option<PathBuf>,
    /// Steps of the stages named with --stage, instead of the preset's.
    #[arg(long, requires = "stages", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Learning rate of the stages named with --stage, instead of the preset's.
    #[arg(long, requires = "stages", value_parser = train_stages::rate)]
    rate: Option<f64>,
    /// Go to the next stage, or stop, after this number of minutes of each.
    #[arg(long)]
    minutes: Option<u64>,
    /// Equal seeds give equal models.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << 31))]
    seed: u64,
    /// Where to compute.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceName,
    /// Train nothing more; write what is trained as a set of checkpoints.
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,
    /// What is written.
    #[arg(long, value_enum, default_value = "fast", requires = "export")]
    form: FormName,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormName {
    /// Six steps without guidance: fast-clips and fast-memory.
    Fast,
    /// More steps, with guidance: clips and memory.
    Guided,
    /// The same, with memory as adapters: clips and memory-lora.
    Lora,
}

fn stage(name: &str) -> Result<StageName, String> {
    train_stages::stage(&StageName::of_set(), name)
}

/// Trains, or exports; the end of a stage that was stopped is [`Exit::Stopped`].
///
/// # Errors
/// `failure` makes them of what went wrong.
pub fn run(
    arguments: &Arguments,
    stop: &AtomicBool,
    failure: impl Fn(TrainError) -> Failure,
) -> Result<Exit, Failure> {
    let kind = (arguments.preset, arguments.device);
    let run = train_stages::open(&arguments.out, kind, arguments.seed, &failure)?;
    if let Some(folder) = &arguments.export {
        let form = match arguments.form {
            FormName::Fast => Form::Fast,
            FormName::Guided => Form::Guided,
            FormName::Lora => Form::Lora,
        };
        run.export(folder, form).map_err(&failure)?;
        print(&format!(
            "the set of checkpoints is written to {}",
            folder.display()
        ))?;
        return Ok(Exit::Done);
    }
    if let Some(set) = &arguments.from {
        run.go_on_from(set).map_err(&failure)?;
    }
    let pace = Pace {
        steps: arguments.steps,
        rate: arguments.rate,
        time: train_stages::time(arguments.minutes),
    };
    let stages = match arguments.stages.is_empty() {
        true => run.stages().map_err(&failure)?,
        false => arguments.stages.clone(),
    };
    let stages = stages.into_iter().map(|stage| (stage, pace));
    train_stages::train(&run, &arguments.out, stages, stop, failure)
}
