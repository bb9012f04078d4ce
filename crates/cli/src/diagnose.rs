//! Showing problems of input files with the line they are on.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};

use miette::{Diagnostic, GraphicalReportHandler, LabeledSpan, NamedSource, SourceCode};
use storyloom_story::{Problem, escaped};

use crate::input::Report;
use crate::output::print_error;
use crate::prompts::LongPrompt;

/// Writes every problem to stderr: drawn on a terminal, plain lines otherwise.
pub fn show(report: &Report) {
    let mut stderr = io::stderr().lock();
    let fancy = stderr.is_terminal();
    for problem in &report.problems {
        let source = report.sources.get(&problem.file).map(String::as_str);
        let source = source.unwrap_or_default();
        // The drawing shows the source as it is.
        let text = if fancy && matches!(escaped(source), Cow::Borrowed(_)) {
            drawn(problem, source)
        } else {
            plain(problem, source)
        };
        // Nobody is left to tell when stderr is gone.
        let _ = writeln!(stderr, "{text}");
    }
    let count = report.problems.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    let _ = writeln!(stderr, "{count} {noun}");
}

/// Writes which prompts are not read to their end to stderr.
pub fn warn_of_prompts(prompts: &[LongPrompt]) {
    const SHOWN: usize = 20;
    for prompt in prompts.iter().take(SHOWN) {
        print_error(&format!("warning: {prompt}"));
    }
    if prompts.len() > SHOWN {
        let more = prompts.len() - SHOWN;
        eprintln!("warning: and {more} more prompts; `storyloom validate --json` has all");
    }
}

/// Writes what the writer of an input should know, though it can be used, to stderr.
pub fn warn(warnings: &[Problem]) {
    const SHOWN: usize = 20;
    let mut stderr = io::stderr().lock();
    for Problem {
        file,
        line,
        message,
        help,
        ..
    } in warnings.iter().take(SHOWN)
    {
        // Nobody is left to tell when stderr is gone.
        let warning = format!("warning: {file}:{line}: {message}; {help}");
        let _ = writeln!(stderr, "{}", escaped(&warning));
    }
    if warnings.len() > SHOWN {
        let more = warnings.len() - SHOWN;
        let _ = writeln!(
            stderr,
            "warning: and {more} more; `storyloom validate --json` has all"
        );
    }
}

/// `file:line:column: message`, the line itself, and the help.
fn plain(problem: &Problem, source: &str) -> String {
    const SHOWN: usize = 160;
    let Problem {
        file,
        line,
        column,
        message,
        help,
        ..
    } = problem;
    let error = format!("error: {file}:{line}:{column}: {message}\n");
    let mut text = escaped(&error).into_owned();
    if let Some(shown) = source.lines().nth(line - 1) {
        let start = column.saturating_sub(SHOWN / 2);
        let part: String = shown.chars().skip(start).take(SHOWN).collect();
        let before: String = part
            .chars()
            .take((column - 1).saturating_sub(start))
            .collect();
        let mark = " ".repeat(escaped(&before).chars().count());
        let part = escaped(&part);
        text.push_str(&format!("  | {part}\n  | {mark}^\n"));
    }
    text.push_str(&escaped(&format!("  help: {help}")));
    text
}

fn drawn(problem: &Problem, source: &str) -> String {
    let diagnostic = Drawn {
        problem,
        source: NamedSource::new(&problem.file, source.to_owned()),
        // Bytes beyond the text cannot be drawn: a file may end where a value is missing.
        span: clamp(problem.span, source),
    };
    let mut text = String::new();
    let drawn = GraphicalReportHandler::new().render_report(&mut text, &diagnostic);
    drawn.map_or_else(|_| plain(problem, source), |()| text)
}

fn clamp((start, length): (usize, usize), source: &str) -> (usize, usize) {
    let start = start.min(source.len());
    (start, length.min(source.len() - start))
}

#[derive(Debug)]
struct Drawn<'a> {
    problem: &'a Problem,
    source: NamedSource<String>,
    span: (usize, usize),
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Drawn<'_> {}

impl Diagnostic for Drawn<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.problem.help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        (!self.source.inner().is_empty()).then_some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new_with_span(Some("here".to_owned()), self.span);
        Some(Box::new(std::iter::once(label)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_show_the_offending_line() {
        let source = "{\n  \"scenes\": 3\n}";
        let problem = storyloom_story::parse_script("s.json", source)
            .unwrap_err()
            .remove(0);
        let text = plain(&problem, source);
        assert_eq!(
            text,
            "error: s.json:2:13: \"scenes\" must be a list, but is a number\n  |   \"scenes\": 3\n  |             ^\n  help: write it in square brackets"
        );
        let text = drawn(&problem, source);
        assert!(
            text.contains("\"scenes\": 3") && text.contains("s.json:2:13"),
            "{text}"
        );
    }

    /// The line is somebody else's.
    #[test]
    fn what_is_quoted_does_not_steer_the_terminal() {
        let source = "{\"\u{1b}[2Jx\": \u{9b}31m3}";
        for problem in storyloom_story::parse_script("a\u{1b}[31m.json", source).unwrap_err() {
            let text = plain(&problem, source);
            assert!(
                !text.contains(|c: char| c.is_control() && c != '\n'),
                "{text:?}"
            );
            assert!(text.contains("\\u{1b}[31m.json"), "{text}");
        }
        let problem = Problem {
            file: "m".to_owned(),
            line: 1,
            column: 4,
            message: "wrong".to_owned(),
            help: "mend it".to_owned(),
            span: (3, 1),
        };
        let text = plain(&problem, "a\u{1b}b!");
        assert_eq!(
            text,
            "error: m:1:4: wrong\n  | a\\u{1b}b!\n  |         ^\n  help: mend it"
        );
    }

    #[test]
    fn places_outside_of_the_text_are_shown_too() {
        for source in ["", "{", "\u{feff}[", "é"] {
            for problem in storyloom_story::parse_script("s.json", source).unwrap_err() {
                assert!(!plain(&problem, source).is_empty());
                assert!(!drawn(&problem, source).is_empty());
                assert!(!drawn(&problem, "").is_empty());
            }
        }
    }
}
