//! `storyloom launch`: a world of ranks on this machine, without MPI.

use std::ffi::OsString;

use clap::Args;
use storyloom_parallel::launcher::{Ended, launch};

use crate::exit::{Exit, Failure, Outcome};
use crate::signals;

/// Arguments of `launch`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Number of ranks.
    #[arg(short = 'n', long, value_name = "N")]
    ranks: usize,
    /// The command of every rank, for example: run --config C --manifest M --out DIR
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Starts this program as all ranks of a world and ends as they do.
pub fn run(arguments: &Arguments) -> Outcome {
    if arguments.ranks == 0 {
        return Err(Failure::new(Exit::Usage, "a world has at least one rank"));
    }
    let program = std::env::current_exe().map_err(|error| {
        Failure::new(
            Exit::Unexpected,
            format!("this program's file is not known: {error}"),
        )
    })?;
    let resumable = Exit::Stopped as i32;
    // The launcher has handlers of its own, which pass on what they hear.
    signals::leave_to_others();
    let ended = launch(
        arguments.ranks,
        &program.into_os_string(),
        &arguments.command,
        resumable,
    )
    .map_err(|error| Failure::new(Exit::Unexpected, error))?;
    match ended {
        Ended::Code(code) => {
            let code = u8::try_from(code).ok().and_then(Exit::of_code);
            Ok(code.unwrap_or(Exit::Unexpected))
        }
        Ended::Killed(signal) => {
            eprintln!("a rank was killed by signal {signal}; run the same command again");
            Ok(Exit::Stopped)
        }
    }
}
