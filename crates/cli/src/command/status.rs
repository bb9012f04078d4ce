//! `storyloom status`: how far a run is, and what every program that works on it is at.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use storyloom_orchestrator::status::Looks;
use storyloom_orchestrator::watch::{View, Watcher};

use super::folder;
use crate::exit::{Exit, Outcome};
use crate::output::{draw, print, print_json, print_json_line};
use crate::progress::stories::{Listed, Wanted};
use crate::progress::text::{fit, page};

/// Time between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);
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
    /// List every story. Without this and the options below only the first that were given up are.
    #[arg(long)]
    stories: bool,
    /// List the stories in these states.
    #[arg(long, value_name = "STATE", value_parser = states(), value_delimiter = ',')]
    state: Vec<Looks>,
    /// List the stories that were given up; stands for --state
    /// failed,quarantined,changed.
    #[arg(long)]
    failed: bool,
    /// List the stories of this tenant only.
    #[arg(long, value_name = "NAME")]
    tenant: Vec<String>,
}

fn states() -> impl TypedValueParser<Value = Looks> {
    PossibleValuesParser::new(Looks::ALL.map(Looks::name)).try_map(|text| text.parse())
}

impl Arguments {
    /// The stories to list; `None` if none were asked for.
    fn wanted(&self) -> Option<Wanted> {
        let mut states = self.state.clone();
        if self.failed {
            states.extend([Looks::Failed, Looks::Quarantined, Looks::Changed]);
        }
        let asked = self.stories || !states.is_empty() || !self.tenant.is_empty();
        asked.then(|| Wanted {
            states,
            tenants: self.tenant.clone(),
        })
    }
}

/// A run with the stories that were asked for.
#[derive(Debug, Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    view: &'a View,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<Listed<'a>>>,
}

impl<'a> Document<'a> {
    fn of(view: &'a View, wanted: Option<&Wanted>) -> Self {
        let list = wanted.map(|wanted| wanted.of(&view.status).map(Listed::of).collect());
        Self { view, list }
    }
}

/// Prints the status, once or until every story is done or given up.
pub fn run(arguments: &Arguments) -> Outcome {
    let mut watcher = Watcher::new(folder::open(&arguments.folder));
    let wanted = arguments.wanted();
    let wanted = wanted.as_ref();
    loop {
        let view = watcher.look().map_err(folder::failure)?;
        match (arguments.json, arguments.watch) {
            (true, true) => print_json_line(&Document::of(&view, wanted))?,
            (true, false) => print_json(&Document::of(&view, wanted))?,
            (false, true) if stdout().is_terminal() => draw(&screen(&view, wanted))?,
            (false, _) => print(&page(&view, wanted))?,
        }
        let left = view.status.stories.running + view.status.stories.pending;
        if !arguments.watch || (left == 0 && view.is_begun()) {
            return Ok(Exit::Done);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The whole terminal, drawn anew.
fn screen(view: &View, wanted: Option<&Wanted>) -> String {
    let size = tcgetwinsize(stdout()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    let (columns, rows) = size.map_or(USUAL, |size| (size.ws_col.into(), size.ws_row.into()));
    // The line end after the last row would scroll.
    fit(&page(view, wanted), columns, rows - 1)
}
