//! `storyloom status`: how far a run is, and what every program that works on it is at.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::termios::tcgetwinsize;
use storyloom_orchestrator::watch::{View, Watcher};

use super::folder;
use crate::exit::{Exit, Outcome};
use crate::output::{print, print_json, print_json_line};
use crate::progress::text::{fit, page};

/// Time between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);
/// Puts the cursor of a terminal at its top left and clears what is below.
const HOME: &str = "\x1b[H\x1b[J";
/// What a terminal has that does not say.
const USUAL: (usize, usize) = (80, 24);

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Run folder.
    folder: PathBuf,
    /// Print the status as JSON; with --watch, one document a line.
    #[arg(long)]
    json: bool,
    /// Look again every two seconds until no story is left.
    #[arg(long)]
    watch: bool,
}

/// Prints the status, once or until every story is done or given up.
pub fn run(arguments: &Arguments) -> Outcome {
    let mut watcher = Watcher::new(folder::open(&arguments.folder));
    loop {
        let view = watcher.look().map_err(folder::failure)?;
        match (arguments.json, arguments.watch) {
            (true, true) => print_json_line(&view)?,
            (true, false) => print_json(&view)?,
            (false, true) if stdout().is_terminal() => print(&screen(&view))?,
            (false, watch) => print(&page(&view, !watch))?,
        }
        let left = view.status.stories.running + view.status.stories.pending;
        if !arguments.watch || left == 0 {
            return Ok(Exit::Done);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The whole terminal, drawn anew.
fn screen(view: &View) -> String {
    let size = tcgetwinsize(stdout()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    let (columns, rows) = size.map_or(USUAL, |size| (size.ws_col.into(), size.ws_row.into()));
    // The line end after the last row would scroll.
    format!("{HOME}{}", fit(&page(view, false), columns, rows - 1))
}
