//! What is wrong with an input file, where, and how to mend it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ids::StoryId;
use crate::manifest::LeftOut;

/// One problem of a script or a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, in lower case without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: String,
    /// Byte offset and length in the file, for showing the offending text.
    pub span: (usize, usize),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
            help,
            ..
        } = self;
        write!(f, "{file}:{line}:{column}: {message}; {help}")
    }
}

/// The name in `known` that `wrong` was most likely meant to be.
///
/// Case, `-` and `_` do not count; otherwise about one wrong letter in three is forgiven.
pub fn nearest<'k>(wrong: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let plain = |name: &str| name.to_lowercase().replace(['-', '_', ' '], "");
    let wanted = plain(wrong);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wanted, &plain(name)), name))
        .min_by_key(|&(distance, _)| distance)
        .filter(|&(distance, name)| distance <= name.len().div_ceil(3) && distance < name.len())
        .map(|(_, name)| name)
}

/// Bytes `start..end` of the text being read.
pub(crate) type Span = (usize, usize);

/// Collects the problems of one file and turns byte offsets into lines and columns.
#[derive(Debug)]
pub(crate) struct Problems<'a> {
    file: &'a str,
    text: &'a str,
    /// Byte offset of each line.
    lines: Vec<usize>,
    /// Added to every span: the part being read may start inside the file.
    base: usize,
    found: Vec<Problem>,
    warned: Vec<Problem>,
}

/// What was found about an input besides its contents: what must be mended, and what works but
/// should be known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What must be mended, in the order of the text; that of other files comes last.
    pub problems: Vec<Problem>,
    /// What was read otherwise than it was written, or is not what other programs read.
    pub warnings: Vec<Problem>,
    /// Stories that are named and left out, in their order; none unless the reader
    /// [lets them](crate::manifest_reader::InputFiles::may_lack_scripts).
    pub left_out: Vec<LeftOut>,
    /// Where the stories of a manifest stand in it, also those with problems.
    pub locations: BTreeMap<StoryId, SourceLocation>,
}

/// Where something stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLocation {
    /// Line, from 1.
    pub line: usize,
    /// Byte offset and length.
    pub span: (usize, usize),
}

impl<'a> Problems<'a> {
    /// Starts an empty collection for the whole text of `file`.
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        let newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            file,
            text,
            lines: std::iter::once(0).chain(newlines).collect(),
            base: 0,
            found: Vec::new(),
            warned: Vec::new(),
        }
    }

    /// Spans given from now on count from byte `base` of the file.
    pub(crate) fn count_from(&mut self, base: usize) {
        self.base = base;
    }

    /// Notes a problem at `span`.
    pub(crate) fn add(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        let problem = self.at(span, message.into(), help.into());
        self.found.push(problem);
    }

    /// Notes something at `span` that is no problem, but that its writer should know.
    pub(crate) fn warn(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        let warning = self.at(span, message.into(), help.into());
        self.warned.push(warning);
    }

    fn at(&self, span: Span, message: String, help: String) -> Problem {
        let SourceLocation { line, span } = self.location(span);
        Problem {
            file: self.file.to_owned(),
            line,
            column: self.text[self.lines[line - 1]..span.0].chars().count() + 1,
            message,
            help,
            span,
        }
    }

    /// Where `span` lies in the file.
    pub(crate) fn location(&self, (start, end): Span) -> SourceLocation {
        let first = floor_char_boundary(self.text, self.base + start);
        SourceLocation {
            line: self.line_of(first),
            span: (first, end.saturating_sub(start).max(1)),
        }
    }

    /// Adds what was found of another file.
    pub(crate) fn append(&mut self, others: Findings) {
        self.found.extend(others.problems);
        self.warned.extend(others.warnings);
    }

    /// The line, from 1, that holds byte `offset` of the file.
    fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|&start| start <= offset)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The number of problems so far.
    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    /// The problems in the order of the text; those of other files come last.
    #[cfg(test)]
    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.into_findings().problems
    }

    /// Everything that was noted, in the order of the text; that of other files comes last.
    pub(crate) fn into_findings(self) -> Findings {
        let sorted = |mut found: Vec<Problem>| {
            found.sort_by_key(|problem| (problem.file != self.file, problem.span.0));
            found
        };
        Findings {
            problems: sorted(self.found),
            warnings: sorted(self.warned),
            ..Findings::default()
        }
    }
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let mut problems = Problems::new("f", "ab\nçé x\n");
        problems.add((0, 1), "a", "");
        problems.add((8, 9), "x", "");
        problems.count_from(3);
        problems.add((0, 2), "ç", "");
        let locations: Vec<_> = problems
            .into_vec()
            .iter()
            .map(|p| (p.line, p.column, p.span))
            .collect();
        assert_eq!(locations, [(1, 1, (0, 1)), (2, 1, (3, 2)), (2, 4, (8, 1))]);
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let known = ["video_prompts", "cut", "scene_num"];
        assert_eq!(nearest("video_prompt", known), Some("video_prompts"));
        assert_eq!(nearest("Video-Prompts", known), Some("video_prompts"));
        assert_eq!(nearest("cuts", known), Some("cut"));
        assert_eq!(nearest("soundtrack", known), None);
    }
}
