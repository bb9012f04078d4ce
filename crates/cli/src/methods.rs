//! The method of a run whose stories are made by networks.

use std::collections::BTreeSet;

use storyloom_story::{Line, Method};

use crate::config::Resolved;
use crate::config::options::EngineKind;
use crate::exit::{Exit, Failure};
use crate::input::Input;

/// The settings for the one method that the stories of `input` are made by: that of the config, or the one
/// that all lines name. The simulated engine pretends all of them side by side.
///
/// # Errors
/// Networks would have to make stories of several methods.
pub fn for_input(config: &Resolved, input: &Input) -> Result<Resolved, Failure> {
    let own = config.engine.method;
    if config.engine.kind == EngineKind::Simulated {
        return Ok(config.clone());
    }
    let methods = input.lines.iter().map(Line::method);
    let methods: BTreeSet<Method> = methods.map(|method| method.unwrap_or(own)).collect();
    let mut methods = methods.into_iter();
    match (methods.next(), methods.next()) {
        (None, _) => Ok(config.clone()),
        (Some(method), None) if method == own => Ok(config.clone()),
        (Some(method), None) => Ok(config.with_method(method)),
        (Some(first), Some(second)) => {
            let message = format!(
                "there are stories of the methods {first} and {second}, and networks make those of one method \
                 in a run: make a manifest for each, with a run folder of its own. A line without a method \
                 has that of the config, {own}; engine = \"simulated\" rehearses all of them together"
            );
            Err(Failure::new(Exit::Input, message))
        }
    }
}
