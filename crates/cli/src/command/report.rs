//! `storyloom report`: the pages of a run.

use std::path::PathBuf;

use clap::Args;
use storyloom_orchestrator::report::write_report;

use super::folder;
use crate::exit::{Exit, Outcome};
use crate::output::print;

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Run folder.
    folder: PathBuf,
}

/// Writes the pages and prints the path of the first.
pub fn run(arguments: &Arguments) -> Outcome {
    let written = write_report(&folder::open(&arguments.folder)).map_err(folder::failure)?;
    eprintln!(
        "{} stories, {} of them changed",
        written.stories, written.changed
    );
    print(&written.page.display().to_string())?;
    Ok(Exit::Done)
}
