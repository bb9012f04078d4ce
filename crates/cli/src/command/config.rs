//! `storyloom config`: the resolved settings, or the reference of all settings.

use clap::Args;
use storyloom_parallel::discovery::discover;
use storyloom_pictures::text_at_most;

use super::ConfigArguments;
use crate::config::{self, Resolved, paths};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{print, print_error};

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

/// Loads the config of a command; problems are told before this returns, and what is odd about the
/// environment.
pub fn load(arguments: &ConfigArguments) -> Result<Resolved, Failure> {
    let config = load_quietly(arguments)?;
    warn_of_strays();
    Ok(config)
}

/// Warns of variables that look like options and are none. One rank says it for all.
pub fn warn_of_strays() {
    let variable = |name: &str| std::env::var(name).ok();
    if discover(&variable).is_ok_and(|found| found.rank > 0) {
        return;
    }
    for line in config::strays(&environment()) {
        tracing::warn!("{line}");
    }
}

/// The variables whose names and values are text: others cannot be ours.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// As [`load`], for who warns later.
pub fn load_quietly(arguments: &ConfigArguments) -> Result<Resolved, Failure> {
    let file = match &arguments.config {
        Some(path) => {
            let text = text_at_most(path, paths::LARGEST).map_err(|problem| {
                let message = format!("cannot read {}: {problem}", path.display());
                Failure::new(Exit::Config, message)
            })?;
            Some((path.display().to_string(), text))
        }
        None => None,
    };
    let file = file
        .as_ref()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    let loaded = config::load_layers(file, environment(), &arguments.sets);
    let (mut config, from_file) = loaded.map_err(|problems| {
        for problem in problems {
            print_error(&format!("error: {problem}"));
        }
        Failure::told(Exit::Config)
    })?;
    for warning in paths::settle(&mut config, arguments.config.as_deref(), &from_file) {
        print_error(&format!("warning: {warning}"));
    }
    Ok(Resolved::new(config))
}
