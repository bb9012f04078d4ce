//! The command line: what can be asked for, and who answers.

mod config;
mod doctor;
mod validate;

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

use crate::exit::{Exit, Outcome};

/// Makes long, consistent, multi-shot stories with diffusion models.
#[derive(Debug, Parser)]
#[command(version, after_help = Exit::TABLE, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show every problem of a manifest, with file, line and fix; loads no model.
    Validate(validate::Arguments),
    /// Show what this machine has, what is missing, and the fix.
    Doctor(doctor::Arguments),
    /// Show the resolved settings, or the reference of all settings.
    Config(config::Arguments),
}

/// The layers of a config that the command line gives.
#[derive(Debug, Args)]
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
    match cli.command {
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Config(arguments) => config::run(&arguments),
    }
}
