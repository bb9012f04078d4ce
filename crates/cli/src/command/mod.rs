//! The command line: what can be asked for, and who answers.

mod bench;
mod config;
mod control;
mod convert;
mod doctor;
mod drain;
mod estimate;
mod eval;
pub mod folder;
mod instrumentation;
mod launch;
mod memory;
mod model;
mod plan;
mod preempt;
mod quarantine;
mod repair;
mod report;
mod run;
mod status;
mod suggest;
mod train;
mod train_onestory;
mod train_stages;
mod train_tiny;
mod validate;
mod verify;
mod verify_networks;

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

use crate::exit::{Exit, Outcome};
use crate::logging;

/// What `--version` says; scripts ask it before they start ranks by MPI.
const VERSION: &str = match cfg!(feature = "mpi") {
    true => concat!(env!("CARGO_PKG_VERSION"), "\nMPI: built in"),
    false => concat!(env!("CARGO_PKG_VERSION"), "\nMPI: not built in"),
};

/// Makes long, consistent, multi-shot stories with diffusion models.
#[derive(Debug, Parser)]
#[command(version, long_version = VERSION, after_help = Exit::table(), max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// What the command line asks for. A wrong one ends the program with code 2, and with the
    /// command that may have been meant.
    pub fn from_command_line() -> Self {
        Self::try_parse().unwrap_or_else(|error| suggest::with_nearest::<Self>(error).exit())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the stories of a manifest; started again on the same folder, go on.
    Run(run::Arguments),
    /// Make story scripts of briefs: a manifest for `run`.
    Plan(plan::Arguments),
    /// Start the ranks of a world on this machine, without MPI.
    Launch(launch::Arguments),
    /// Show every problem of a manifest, with file, line and fix; loads no model.
    Validate(validate::Arguments),
    /// Compute what a run will take: time, GPU-hours, disk, the best layout; loads no model.
    Estimate(estimate::Arguments),
    /// Show how far a run is.
    Status(status::Arguments),
    /// Ask all programs of a run to finish the shots in flight and to take no new ones.
    Drain(drain::Arguments),
    /// Prove that a run is complete, whole, and made from the memory it claims.
    Verify(verify::Arguments),
    /// Compare everything in a run folder with its records, and put in order what is not as they say.
    Repair(repair::Arguments),
    /// Write DIR/report/index.html.
    Report(report::Arguments),
    /// Measure how consistent stories of the drawn world are, and how they follow their prompts.
    Eval(eval::Arguments),
    /// Show what the memory bank held for the shots of a story.
    Memory(memory::Arguments),
    /// List the stories that cannot be made, each with its reason and how to try it alone.
    Quarantine(quarantine::ListArguments),
    /// Let stories back that failed or are in quarantine; the next start tries them again.
    Retry(quarantine::RetryArguments),
    /// Write the stories of an input as story scripts of another method.
    Convert(convert::Arguments),
    /// Look at checkpoints, make tiny ones, run one module.
    Model(model::Arguments),
    /// Draw stories of a little world, and train on them.
    Train(train::Arguments),
    /// Measure this machine; figures as JSON.
    Bench(bench::Arguments),
    /// Show what this machine has, what is missing, and the fix.
    Doctor(doctor::Arguments),
    /// Show the resolved settings, or the reference of all settings.
    Config(config::Arguments),
}

/// The layers of a config that the command line gives.
#[derive(Debug, Clone, Args)]
pub struct ConfigArguments {
    /// Config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one option, over the file and the environment; may be given more than once.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// Answers a command.
pub fn run(cli: Cli) -> Outcome {
    // A run has logs of its own.
    if !matches!(cli.command, Command::Run(_)) {
        logging::to_stderr();
    }
    match cli.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Launch(arguments) => launch::run(&arguments),
        Command::Estimate(arguments) => estimate::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Repair(arguments) => repair::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Train(arguments) => train::run(&arguments),
        Command::Memory(arguments) => memory::run(&arguments),
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Convert(arguments) => convert::run(&arguments),
        Command::Quarantine(arguments) => quarantine::list(&arguments),
        Command::Retry(arguments) => quarantine::retry(&arguments),
        Command::Model(arguments) => model::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Config(arguments) => config::run(&arguments),
    }
}
