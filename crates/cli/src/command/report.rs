//! `storyloom report`: the page of a run.

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

/// Writes the page and prints its path.
pub fn run(arguments: &Arguments) -> Outcome {
    let page = write_report(&folder::open(&arguments.folder)).map_err(folder::failure)?;
    print(&page.display().to_string())?;
    Ok(Exit::Done)
}
