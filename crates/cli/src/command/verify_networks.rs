//! What only networks can prove: that the scores by which shots of OneStory saw their history are what the
//! selector says of it.

use std::path::Path;

use storyloom_engine::method::onestory::OneStoryScorer;
use storyloom_orchestrator::rescore::{Rescored, rescore};
use storyloom_orchestrator::{EngineDescription, EngineError};
use storyloom_story::{HostTensor, Method, ShotInputs, Stage};

use super::{ConfigArguments, config, folder, repair};
use crate::checkpoints::{self, MethodPaths};
use crate::engine;
use crate::exit::{Exit, Failure};

/// Scores the history of every shot of the run in `out` again, with the checkpoint of the run, or the same one
/// in another folder `models`.
///
/// # Errors
/// The run has no such shots, or the checkpoint is not there or another one.
pub fn score_again(out: &Path, models: Option<&Path>) -> Result<Rescored, Failure> {
    let of_run = engine_of(out)?;
    let mut sets = repair::settings_of(out)?;
    sets.extend(models.map(|folder| format!("models.dir={}", folder.display())));
    let config = config::load_quietly(&ConfigArguments { config: None, sets })?;
    let config = config.with_method(Method::OneStory).engine;
    let set = checkpoints::of(&config)?;
    let MethodPaths::OneStory(paths) = &set.paths else {
        return Err(Failure::new(
            Exit::Unexpected,
            "these are checkpoints of another method",
        ));
    };
    if !set.is_whole() {
        return Err(Failure::new(Exit::Config, set.missing()));
    }
    let settings = engine::onestory_alone(&config)?;
    let scorer = OneStoryScorer::open(paths, &settings)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    for (name, digest) in scorer.digests() {
        if !of_run.models.contains(&(name.clone(), digest)) {
            let message = format!(
                "the weights {name} in {} are not those that the run was made with; name the folder of those \
                 with --models",
                config.models_dir
            );
            return Err(Failure::new(Exit::Config, message));
        }
    }
    let again = |inputs: &ShotInputs| {
        let scores = scorer.scores(inputs).map(HostTensor::into_data);
        scores.map_err(|error| EngineError {
            stage: Stage::Encode,
            class: error.class(),
            message: error.to_string(),
        })
    };
    rescore(&folder::open(out), &again).map_err(folder::failure)
}

/// What made the shots of OneStory of a run.
fn engine_of(out: &Path) -> Result<EngineDescription, Failure> {
    let run = folder::open(out).run_file().map_err(folder::failure)?;
    let nothing = |why: &str| {
        let message = format!(
            "{}: {why}, so that --networks has nothing to prove",
            out.display()
        );
        Failure::new(Exit::Usage, message)
    };
    let terms = run.terms(Method::OneStory);
    let terms = terms.ok_or_else(|| nothing("no story of this run is made by OneStory"))?;
    let name = terms.engine.engine.trim_end_matches(engine::LABEL_ORACLE);
    match name {
        "torch" | "torch, wan14b-untrained" | "torch, wan1.3b-fun" => Ok(terms.engine),
        other => Err(nothing(&format!(
            "it was made by the engine {other}, in which no network scores"
        ))),
    }
}
