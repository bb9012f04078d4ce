//! The one file that plugs the networks of `models` into the trait of the orchestrator.

use storyloom_orchestrator::simulated::SimulatedEngine;

use crate::config::Config;
use crate::exit::{Exit, Failure};

/// Loads the models that the config names.
///
/// # Errors
/// There is no checkpoint, or it is not what the config asks for.
pub fn build_engine(config: &Config) -> Result<SimulatedEngine, Failure> {
    let dir = &config.models.dir;
    if dir.is_empty() {
        let message = "models.dir is empty; set it to a folder of checkpoints, \
                       or write a tiny one with: storyloom model init-tiny DIR";
        return Err(Failure::new(Exit::Config, message));
    }
    Err(Failure::new(Exit::Config, format!("cannot load {dir}")))
}
