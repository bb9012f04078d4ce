//! Which briefs of an input the planner of a config cannot write, known before it is asked or even
//! loaded.

use std::path::Path;

use storyloom_planner::{BackendKind, CannotWrite};
use storyloom_story::{Brief, Problem, SourceLocation};

use crate::config::options::PlannerKind;
use crate::input::{Input, Report};

/// A problem for every brief of `input`, read from `path`, that `planner` cannot
/// write; none if it can write all of them.
pub fn unwritable(planner: PlannerKind, path: &Path, input: &Input) -> Option<Report> {
    let kind = kind(planner)?;
    let found: Vec<(&Brief, CannotWrite)> = input
        .briefs()
        .filter_map(|brief| Some((brief, kind.can_write(brief).err()?)))
        .collect();
    if found.is_empty() {
        return None;
    }
    let name = path.display().to_string();
    // It was read a moment ago; without it the problems are told all the same.
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let problems = found.iter().map(|(brief, reason)| {
        // A brief comes from a manifest, where it stands somewhere.
        let first = SourceLocation {
            line: 1,
            span: (0, 0),
        };
        let SourceLocation { line, span } = *input.locations.get(&brief.id).unwrap_or(&first);
        Problem {
            file: name.clone(),
            line,
            column: 1,
            message: format!(
                "the brief {} cannot be planned: {}",
                brief.id,
                reason.what()
            ),
            help: reason.help(),
            span,
        }
    });
    Some(Report {
        problems: problems.collect(),
        sources: [(name, text.clone())].into(),
    })
}

/// The kind of the planner; none for the stand-in, which writes anything.
fn kind(planner: PlannerKind) -> Option<BackendKind> {
    match planner {
        PlannerKind::Rules => Some(BackendKind::Rules),
        PlannerKind::Served => Some(BackendKind::Served),
        PlannerKind::Native => Some(BackendKind::Native),
        PlannerKind::Simulated => None,
    }
}
