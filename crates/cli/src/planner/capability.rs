//! Which briefs of an input the planner of a config cannot write, known before it is asked or even
//! loaded.

use std::path::Path;

use storyloom_planner::{BackendKind, CannotWrite};
use storyloom_story::{Brief, Problem, StoryId};

use crate::config::Config;
use crate::config::options::PlannerKind;
use crate::input::{Input, Report};

/// A problem for every brief of `input`, read from `path`, that the planner of a config cannot
/// write; none if it can write all of them.
pub fn unwritable(config: &Config, path: &Path, input: &Input) -> Option<Report> {
    let kind = kind(config)?;
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
        let (line, start, length) = line_of(&text, &brief.id);
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
            span: (start, length),
        }
    });
    Some(Report {
        problems: problems.collect(),
        sources: [(name, text.clone())].into(),
    })
}

/// The kind of the planner; none for the stand-in, which writes anything.
fn kind(config: &Config) -> Option<BackendKind> {
    match config.planner.backend {
        PlannerKind::Rules => Some(BackendKind::Rules),
        PlannerKind::Served => Some(BackendKind::Served),
        PlannerKind::Native => Some(BackendKind::Native),
        PlannerKind::Simulated => None,
    }
}

/// The line that has a brief, from 1, where it starts and how long it is.
fn line_of(text: &str, id: &StoryId) -> (usize, usize, usize) {
    let wanted = format!("\"{id}\"");
    let mut start = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        // Cells of a table have no quotes.
        let mut cells = line.split([',', ';', '\t']).map(str::trim);
        if line.contains(&wanted) || cells.any(|cell| cell == id.as_str()) {
            return (number, start, line.trim_end().len());
        }
        start += line.len();
    }
    (1, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brief_is_found_by_its_line() {
        let text = "{\"id\": \"ad\"}\n\n{\"id\": \"a\"}\n";
        assert_eq!(line_of(text, &StoryId::new("a").unwrap()), (3, 14, 11));
        assert_eq!(line_of(text, &StoryId::new("b").unwrap()), (1, 0, 0));
        let table = "id;title\r\na;Mug\r\n";
        assert_eq!(line_of(table, &StoryId::new("a").unwrap()), (2, 10, 5));
    }
}
