//! What is wrong with an input file, where, and how to mend it.

use serde::Serialize;

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

/// Collects the problems of one file and turns byte offsets into lines and columns.
#[derive(Debug)]
pub(crate) struct Problems<'a> {
    file: &'a str,
    text: &'a str,
    /// Added to the line of every problem: the text may be one line of a larger file.
    first_line: usize,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    /// Starts an empty collection for `text`, whose first line is line `first_line` of `file`.
    pub(crate) fn new(file: &'a str, text: &'a str, first_line: usize) -> Self {
        Self {
            file,
            text,
            first_line,
            found: Vec::new(),
        }
    }

    /// Notes a problem at the bytes `start..end` of the text.
    pub(crate) fn add(
        &mut self,
        (start, end): (usize, usize),
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let start = floor_char_boundary(self.text, start);
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.found.push(Problem {
            file: self.file.to_owned(),
            line: self.first_line + before.matches('\n').count(),
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
            help: help.into(),
            span: (start, end.saturating_sub(start).max(1)),
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.found
    }
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}
