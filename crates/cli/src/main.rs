//! `storyloom`: story scripts in, consistent multi-shot videos out.
//!
//! Data goes to stdout, everything else to stderr. The exit codes are in [`exit`].

mod command;
mod config;
mod costs;
mod diagnose;
mod engine;
mod environment;
mod exit;
mod input;
mod output;
mod shift;
mod signals;
mod world;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use command::Cli;
use exit::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    match command::run(cli) {
        Ok(exit) => exit.into(),
        Err(Failure { exit, message }) => {
            if !message.is_empty() {
                eprintln!("error: {message}");
            }
            exit.into()
        }
    }
}

/// Log lines go to stderr; `STORYLOOM_LOG` takes the filters of `tracing`, `info` if unset.
fn log_to_stderr() {
    let filter =
        EnvFilter::try_from_env("STORYLOOM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_timer(world::RankTime)
        .init();
}
