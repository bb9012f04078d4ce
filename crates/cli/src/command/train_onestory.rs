//! `storyloom train onestory`: what matters of earlier shots, learned on top of a finished set.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use storyloom_training::error::TrainError;
use storyloom_training::run::export::OneStoryForm;
use storyloom_training::{Pace, StageName};

use super::train_stages::{self, DeviceName, PresetName};
use crate::exit::{Exit, Failure};
use crate::output::print;

/// Arguments of `train onestory`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder for checkpoints, previews and loss curves; what is there already is gone on with.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// The set of checkpoints to go on from: its autoencoder, text encoder and vision tower are taken, and
    /// the transformer that takes memory pictures is trained on.
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "models/storyloom-tiny",
        conflicts_with = "export"
    )]
    from: PathBuf,
    /// Sizes of the networks and lengths of the stages.
    #[arg(long, value_enum, default_value = "tiny")]
    preset: PresetName,
    /// The stage to train: onestory or fast-onestory; both if not given.
    #[arg(long, value_name = "NAME", value_parser = stage)]
    stage: Option<StageName>,
    /// Steps of the stage named with --stage, or else of onestory, instead of the preset's.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Learning rate of the same stage, instead of the preset's.
    #[arg(long, value_parser = train_stages::rate)]
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
    /// Train nothing more; write what is trained as checkpoints into this folder, which may hold the set.
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,
    /// What is written.
    #[arg(long, value_enum, default_value = "fast", requires = "export")]
    form: FormName,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormName {
    /// Six steps without guidance: fast-onestory.
    Fast,
    /// More steps, with guidance: onestory.
    Guided,
}

fn stage(name: &str) -> Result<StageName, String> {
    train_stages::stage(&StageName::ONESTORY, name)
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
            FormName::Fast => OneStoryForm::Fast,
            FormName::Guided => OneStoryForm::Guided,
        };
        run.export_onestory(folder, form).map_err(&failure)?;
        print(&format!(
            "the pipeline of OneStory is written to {}",
            folder.join("onestory").display()
        ))?;
        return Ok(Exit::Done);
    }
    run.go_on_from(&arguments.from).map_err(&failure)?;
    let time = train_stages::time(arguments.minutes);
    let paced = arguments.stage.unwrap_or(StageName::OneStory);
    let pace = |stage: StageName| {
        let is_paced = stage == paced;
        let pace = Pace {
            steps: arguments.steps.filter(|_| is_paced),
            rate: arguments.rate.filter(|_| is_paced),
            time,
        };
        (stage, pace)
    };
    let mut stages = StageName::ONESTORY.to_vec();
    stages.retain(|stage| arguments.stage.is_none_or(|named| named == *stage));
    let stages = stages.into_iter().map(pace);
    train_stages::train(&run, &arguments.out, stages, stop, failure)
}
