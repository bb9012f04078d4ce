//! `storyloom config`: the resolved settings, or the reference of all settings.

use std::fs;

use clap::Args;

use super::ConfigArguments;
use crate::config::{self, Config};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::print;

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Print the reference of all settings, as in docs/config.md.
    #[arg(long)]
    reference: bool,
}

/// Prints the settings as TOML, or the reference as Markdown.
pub fn run(arguments: &Arguments) -> Outcome {
    if arguments.reference {
        print(&config::markdown())?;
    } else {
        print(&load(&arguments.config)?.to_toml())?;
    }
    Ok(Exit::Done)
}

/// Loads the config of a command; problems are told before this returns.
pub fn load(arguments: &ConfigArguments) -> Result<Config, Failure> {
    let file = match &arguments.config {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| {
                Failure::new(
                    Exit::Config,
                    format!("cannot read {}: {error}", path.display()),
                )
            })?;
            Some((path.display().to_string(), text))
        }
        None => None,
    };
    // Names that are no text cannot be ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let file = file
        .as_ref()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    config::load(file, environment, &arguments.sets).map_err(|problems| {
        for problem in problems {
            eprintln!("error: {problem}");
        }
        Failure::told(Exit::Config)
    })
}
