//! `run.json`: what a run is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use storyloom_memory::PolicySettings;
use storyloom_story::{Method, StoryId};

use crate::engine::EngineDescription;
use crate::folder::folder_file::FolderFile;
use crate::folder::identity::RunIdentity;
use crate::folder::seal::{NO_SEAL, Seal};
use crate::folder::terms::MethodTerms;

/// The first version whose `run.json` and `story.json` carry a [seal](crate::folder::seal).
const SEALED_SINCE: [u64; 3] = [0, 2, 0];

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// [`FOLDER_FORMAT`](crate::folder::folder_file::FOLDER_FORMAT).
    pub format: u32,
    /// Tells the run from others; stays when the folder is moved or copied.
    pub run_id: String,
    /// Version of the program that began the run.
    pub version: String,
    /// What made the pictures.
    pub engine: EngineDescription,
    /// The settings that decide the pictures; a second start must agree in them.
    pub identity: RunIdentity,
    /// What decides the shots of each method, but for StoryMem in a run of its own: `engine` and `identity`
    /// say that, as in runs of earlier builds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub methods: BTreeMap<Method, MethodTerms>,
    /// All resolved settings of the first start.
    pub config: serde_json::Value,
    /// blake3 over the manifest's stories, in order.
    pub manifest_digest: String,
    /// The lists of stories that may have no file of their own yet, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<String>,
    /// The stories in the order in which they are made.
    pub stories: Vec<StoryId>,
}

impl FolderFile for RunFile {
    const IS_SEALED: bool = true;

    /// Only runs of earlier builds have no seal, and neither a method.
    fn check(&self, seal: Seal) -> Result<(), String> {
        let (has_seal, has_method) = (seal != Seal::None, self.identity.method.is_some());
        match (has_seal, has_method || self.is_of_sealed_build()) {
            (false, true) => Err(NO_SEAL.to_owned()),
            (true, _) if !has_method => Err("identity: missing field `method`".to_owned()),
            _ => Ok(()),
        }
    }
}

impl RunFile {
    /// What decides the shots of a method; `None` if it is none of the run's.
    pub fn terms(&self, method: Method) -> Option<MethodTerms> {
        let is_own = (method, self.identity.method()) == (Method::StoryMem, Method::StoryMem);
        match self.methods.get(&method) {
            Some(terms) => Some(terms.clone()),
            None if is_own => {
                let memory = PolicySettings::StoryMem(self.identity.policy());
                Some(MethodTerms::new(method, self.engine.clone(), memory))
            }
            None => None,
        }
    }

    /// Whether the build that began the run puts a seal on what it writes. What is no version is none of
    /// an earlier build.
    pub(crate) fn is_of_sealed_build(&self) -> bool {
        let numbers = self.version.split('.').map(str::parse::<u64>);
        match numbers.collect::<Result<Vec<u64>, _>>() {
            Ok(numbers) => numbers.as_slice() >= SEALED_SINCE.as_slice(),
            Err(_) => true,
        }
    }
}
