//! `storyloom drain`: no new shots.

use std::path::PathBuf;

use clap::Args;
use storyloom_orchestrator::drain::{request, withdraw};

use super::folder;
use crate::exit::{Exit, Outcome};

/// Arguments of `drain`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Run folder.
    folder: PathBuf,
    /// Withdraw the request: programs that have not ended yet go on, and others may be started.
    #[arg(long)]
    undo: bool,
}

/// Asks all programs of the run, on whatever machine, or withdraws that.
pub fn run(arguments: &Arguments) -> Outcome {
    let opened = folder::open(&arguments.folder);
    let dir = arguments.folder.display();
    let told = if arguments.undo {
        match withdraw(&opened).map_err(folder::failure)? {
            true => format!("{dir} takes shots again; start it where it has ended"),
            false => format!("{dir} was not asked to drain"),
        }
    } else {
        let again = match request(&opened).map_err(folder::failure)? {
            true => "",
            false => " (it was asked to before)",
        };
        format!(
            "{dir} takes no new shots{again}; its programs end with code 75 after the shots in \
             flight, and so do new ones until: storyloom drain {dir} --undo"
        )
    };
    eprintln!("{told}");
    Ok(Exit::Done)
}
