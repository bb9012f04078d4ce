//! `storyloom`: story scripts in, consistent multi-shot videos out.
//!
//! Data goes to stdout, everything else to stderr. The exit codes are in [`exit`].

mod checkpoints;
mod command;
mod config;
mod costs;
mod cropped;
mod diagnose;
#[cfg(test)]
mod documents;
mod drain;
mod engine;
mod environment;
mod exit;
mod input;
mod lengths;
mod loading;
mod logging;
mod methods;
mod output;
mod plain_shots;
mod planner;
mod progress;
mod prompts;
mod ranks;
mod ready_made;
mod room;
mod seen_history;
mod shift;
mod signals;
mod storage;
mod world;
mod written;

use std::process::ExitCode;

use command::Cli;
use exit::Failure;
use storyloom_story::guard;

fn main() -> ExitCode {
    guard::print_only_unguarded_panics();
    let cli = Cli::from_command_line();
    match command::run(cli) {
        Ok(exit) => exit.into(),
        Err(Failure { exit, message }) => {
            if !message.is_empty() {
                output::print_error(&format!("error: {message}"));
            }
            exit.into()
        }
    }
}
