//! What decides the pictures of a run beyond its engine: the part `identity` of `run.json`.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use storyloom_memory::StoryMemPolicy;
use storyloom_memory::select::SelectionSettings;
use storyloom_memory::window::WindowSettings;
use storyloom_story::{Continuation, Fit, Ground, LatentGrid, Method, VideoSpec};

use crate::config::{FilmShape, PictureSettings, RunConfig, Videos};
use crate::folder::seal::{NO_SEAL, Seal, seal, take_seal};

/// The settings that decide the pictures of a run; every start must agree in them.
///
/// A reader has all of it: a key that is missing, unknown or of another type is an error with its
/// name. Only what earlier builds did not write may be absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct RunIdentity {
    /// How the shots of stories are conditioned that do not say it themselves; `None` in runs of earlier
    /// builds, which had [one method](Method::StoryMem) only.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub method: Option<Method>,
    /// Seed from which the seeds of shots are derived.
    #[serde(rename = "run.seed")]
    pub seed: u64,
    /// Size of the films, frames that are decoded for a shot, and rate.
    pub video: VideoSpec,
    /// How the networks divide videos, which decides the size of frames. Not written where it is as in
    /// runs of earlier builds.
    #[serde(default, skip_serializing_if = "LatentGrid::is_default")]
    pub grid: LatentGrid,
    /// What a shot sees of the bank.
    #[serde(rename = "memory.window")]
    pub window: WindowSettings,
    /// How keyframes are chosen.
    #[serde(rename = "memory.selection")]
    pub selection: SelectionSettings,
    /// What a shot without a cut continues from.
    #[serde(rename = "memory.continuation")]
    pub continuation: Continuation,
    /// What happens where the shapes of a picture and a film differ; `None` in runs of earlier builds.
    #[serde(
        rename = "pictures.fit",
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub fit: Option<Fit>,
    /// What stands behind a picture; `None` in runs of earlier builds.
    #[serde(
        rename = "pictures.ground",
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub ground: Option<Ground>,
    /// What decides the shape of a film; `None` in runs of earlier builds.
    #[serde(
        rename = "pictures.shape",
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub shape: Option<FilmShape>,
    /// What the video files are. Not written where there are videos, so that runs of earlier builds go on.
    #[serde(default, skip_serializing_if = "Videos::are_encoded")]
    pub videos: Videos,
}

/// What may be absent, and is not `null` where it is there.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl RunIdentity {
    /// The identity of a run that is begun with these settings.
    pub fn new(config: &RunConfig) -> Self {
        let PictureSettings { fit, ground, shape } = config.pictures;
        Self {
            method: Some(config.method),
            seed: config.seed,
            video: config.video,
            grid: config.grid,
            window: config.window,
            selection: config.selection,
            continuation: config.continuation,
            fit: Some(fit),
            ground: Some(ground),
            shape: Some(shape),
            videos: config.videos,
        }
    }

    /// How the shots of stories are conditioned that do not say it themselves.
    pub fn method(&self) -> Method {
        self.method.unwrap_or(Method::StoryMem)
    }

    /// What is kept of a shot, and what a later one sees of it.
    pub(crate) fn policy(&self) -> StoryMemPolicy {
        StoryMemPolicy {
            window: self.window,
            selection: self.selection,
        }
    }

    /// As a config that says nothing of the things that runs of earlier builds leave out: `config` is what was
    /// noted of all settings at their first start.
    pub(crate) fn completed(&self, config: &Value) -> Self {
        let default = PictureSettings::default();
        Self {
            method: Some(self.method()),
            fit: self
                .fit
                .or(noted(config, "/pictures/fit"))
                .or(Some(default.fit)),
            ground: self
                .ground
                .or(noted(config, "/pictures/ground"))
                .or(Some(default.ground)),
            shape: self
                .shape
                .or(noted(config, "/pictures/shape"))
                .or(Some(default.shape)),
            ..self.clone()
        }
    }

    /// All of it by name, without the digest.
    pub(crate) fn settings(&self) -> Map<String, Value> {
        match Self::serialize(self, serde_json::value::Serializer) {
            Ok(Value::Object(settings)) => settings,
            // Plain data under names is an object.
            _ => Map::new(),
        }
    }
}

/// A setting of the first start, if it is noted and can be read.
fn noted<T: for<'de> Deserialize<'de>>(config: &Value, pointer: &str) -> Option<T> {
    serde_json::from_value(config.pointer(pointer)?.clone()).ok()
}

impl Serialize for RunIdentity {
    /// With its own digest, if it has a method: identities of earlier builds stay as they are.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut settings = self.settings();
        if self.method.is_some() {
            seal(&mut settings);
        }
        settings.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RunIdentity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = |reason: &str| D::Error::custom(format!("identity: {reason}"));
        let mut settings = Map::deserialize(deserializer)?;
        let found = take_seal(&mut settings);
        let identity = Self::deserialize(Value::Object(settings))
            .map_err(|error| wrong(&error.to_string()))?;
        match (found, identity.method) {
            (Seal::Whole, Some(_)) | (Seal::None, None) => Ok(identity),
            (Seal::None, Some(_)) => Err(wrong(NO_SEAL)),
            (Seal::Whole | Seal::Broken, None) => Err(wrong("missing field `method`")),
            (Seal::Broken, Some(_)) => Err(wrong("it was changed after it was written")),
        }
    }
}
