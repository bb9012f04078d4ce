//! The command that a wrong one was meant to be.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use storyloom_story::nearest;

/// `error` with the nearest command, where the parser has none to offer: it does not count letters
/// that changed places, so that of short names it knows none.
pub fn with_nearest<C: CommandFactory>(mut error: Error) -> Error {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    if error.kind() == ErrorKind::InvalidSubcommand
        && error.get(ContextKind::SuggestedSubcommand).is_none()
        && let Some(near) = nearest_command(&C::command(), wrong, arguments())
    {
        let suggested = ContextValue::Strings(vec![near]);
        error.insert(ContextKind::SuggestedSubcommand, suggested);
    }
    error
}

/// The arguments that are text: others name no command.
fn arguments() -> impl Iterator<Item = String> {
    let all = std::env::args_os().skip(1);
    all.filter_map(|argument| argument.into_string().ok())
}

/// The command like `wrong` among those that may stand in its place behind `arguments`.
fn nearest_command(
    all: &clap::Command,
    wrong: &str,
    arguments: impl Iterator<Item = String>,
) -> Option<String> {
    let mut group = all;
    for argument in arguments.take_while(|argument| argument != wrong) {
        group = group.find_subcommand(&argument).unwrap_or(group);
    }
    let names = group.get_subcommands().map(clap::Command::get_name);
    nearest(wrong, names).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Cli;

    #[test]
    fn swapped_letters_are_known() {
        let near = |arguments: &[&str]| {
            let wrong = arguments.last().copied().unwrap_or_default();
            let arguments = arguments.iter().map(|&argument| argument.to_owned());
            nearest_command(&Cli::command(), wrong, arguments)
        };
        assert_eq!(near(&["rnu"]).as_deref(), Some("run"));
        assert_eq!(near(&["model", "inpsect"]).as_deref(), Some("inspect"));
        assert_eq!(near(&["model", "run"]), None);
        assert_eq!(near(&["dance"]), None);
    }
}
