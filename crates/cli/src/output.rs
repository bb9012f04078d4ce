//! Data on stdout.

use std::io::{self, Write};

use serde::Serialize;
use storyloom_story::escaped;

use crate::exit::{Exit, Failure};

/// Puts the cursor of a terminal at its top left and clears what is below.
const HOME: &str = "\x1b[H\x1b[J";

/// Writes `text` to stdout, with a line end. Control characters in it are shown as text: what others have
/// written must not steer the terminal.
///
/// # Errors
/// Stdout cannot be written to. A reader that has gone away is none: it has what it wanted.
pub fn print(text: &str) -> Result<(), Failure> {
    print_after("", text)
}

/// As [`print`], in place of all that the terminal shows.
///
/// # Errors
/// As [`print`].
pub fn draw(text: &str) -> Result<(), Failure> {
    print_after(HOME, text)
}

fn print_after(begin: &str, text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{begin}{}", escaped(text.trim_end()));
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Storage, format!("stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes `text` to stderr, with a line end and as [`print`] does.
pub fn print_error(text: &str) {
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{}", escaped(text));
}

/// Writes `value` to stdout as JSON.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::Unexpected, error))?;
    print(&text)
}

/// Writes `value` to stdout as JSON on one line.
///
/// # Errors
/// As [`print`].
pub fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string(value).map_err(|error| Failure::new(Exit::Unexpected, error))?;
    print(&text)
}
