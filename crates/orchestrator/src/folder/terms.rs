//! What decides the shots of each method of a run: the part `methods` of `run.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use storyloom_memory::{PolicySettings, References};
use storyloom_story::{ErrorClass, Line, Method, Stage};

use crate::config::RunConfig;
use crate::engine::{EngineDescription, EngineError, ShotEngine};

/// What decides the shots of one method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodTerms {
    /// What makes the pictures.
    pub engine: EngineDescription,
    /// What is kept of a shot, and what a later one sees of it.
    pub memory: PolicySettings,
    /// The format of the records of its stories.
    pub record_format: u32,
}

/// What decides the shots of a run, by method.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunTerms(BTreeMap<Method, MethodTerms>);

impl MethodTerms {
    /// What decides the shots of a method that `engine` makes.
    pub fn new(method: Method, engine: EngineDescription, memory: PolicySettings) -> Self {
        Self {
            engine,
            memory,
            record_format: method.profile().record_format,
        }
    }

    /// Why a record of reference images is not one of this method, if it is not.
    pub(crate) fn foreign_references(&self, record: &References) -> Option<String> {
        let (found, wanted) = (record.format(), self.record_format);
        match () {
            () if found != wanted => Some(format!(
                "it has format {found}, and records of its story's method have format {wanted}"
            )),
            () if *record.engine() != self.engine.fingerprint => {
                Some("it was made by another engine than its story's".to_owned())
            }
            () => None,
        }
    }
}

impl RunTerms {
    /// What decides the shots of all methods that a run needs: its own, and those of its lines.
    ///
    /// # Errors
    /// The engine has nothing loaded for one of them.
    pub fn new(
        config: &RunConfig,
        lines: &[Line],
        engine: &dyn ShotEngine,
    ) -> Result<Self, EngineError> {
        let own = lines.iter().filter_map(Line::method);
        let methods: BTreeSet<Method> = own.chain([config.method]).collect();
        let terms = methods.into_iter().map(|method| {
            let description = engine.describe(method).ok_or_else(|| not_loaded(method))?;
            let memory = PolicySettings::new(method, &config.memory());
            Ok((method, MethodTerms::new(method, description, memory)))
        });
        terms.collect::<Result<_, _>>().map(Self)
    }

    /// What decides the shots of a method.
    ///
    /// # Errors
    /// It is no method of the run.
    pub fn of(&self, method: Method) -> Result<&MethodTerms, EngineError> {
        self.0.get(&method).ok_or_else(|| not_loaded(method))
    }

    /// Those that `run.json` has no other place for: a run of StoryMem alone writes none, as runs of
    /// earlier builds.
    pub(crate) fn beside(&self, own: Method) -> BTreeMap<Method, MethodTerms> {
        let terms = self.0.iter();
        let beside =
            terms.filter(|(method, _)| (**method, own) != (Method::StoryMem, Method::StoryMem));
        beside
            .map(|(method, terms)| (*method, terms.clone()))
            .collect()
    }
}

impl FromIterator<(Method, MethodTerms)> for RunTerms {
    fn from_iter<I: IntoIterator<Item = (Method, MethodTerms)>>(terms: I) -> Self {
        Self(terms.into_iter().collect())
    }
}

fn not_loaded(method: Method) -> EngineError {
    EngineError {
        stage: Stage::Plan,
        class: ErrorClass::Run,
        message: format!("there are no networks for the method {method} here"),
    }
}
