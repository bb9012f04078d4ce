//! The stages of a training run: what a stage trains, and what it starts from. Each has a file, and those
//! of flow matching share a folder.

pub mod captions;
pub mod flow;
pub mod scorer;
pub mod vae;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::optimizer::AdamSettings;
use crate::run::Run;
use crate::stage::{Stage, StageFiles};

/// A stage that is ready to be trained, and how it is.
pub(crate) type Opened = (Box<dyn Stage>, AdamSettings);

// A row has the name as it is written, what opens the stage, and whether a set of checkpoints has its
// result for good, since what comes after is used to it.
macro_rules! stages {
    ($( $(#[doc = $doc:literal])+ $name:ident = $text:literal, $open:path, $finished:literal; )+) => {
        /// The stages, in order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum StageName {
            $(
                $(#[doc = $doc])+
                #[serde(rename = $text)]
                $name,
            )+
        }

        impl StageName {
            /// All, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// As it is written, also the name of its folder.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// Whether a set of checkpoints has its result for good.
            pub(crate) const fn comes_finished(self) -> bool {
                match self {
                    $(Self::$name => $finished,)+
                }
            }

            /// The stage of `run` where it stands, or where it begins.
            pub(crate) fn open(self, run: &Run, files: &StageFiles) -> Result<Opened> {
                match self {
                    $(Self::$name => $open(run, files),)+
                }
            }
        }
    };
}

stages! {
    /// The vision tower that selects keyframes.
    Scorer = "scorer", scorer::open, true;
    /// The autoencoder.
    Vae = "vae", vae::open, true;
    /// The text encoder, from captions alone.
    Captions = "captions", captions::open, true;
    /// Text to a picture: transformer and text encoder.
    Pictures = "pictures", flow::pictures::open, false;
    /// Text to video.
    Clips = "clips", flow::clips::open, false;
    /// Memory pictures and text to video.
    Memory = "memory", flow::memory::open, false;
    /// The same as adapters of the text-to-video model, which stays as it is.
    MemoryLora = "memory-lora", flow::memory_lora::open, false;
    /// Text to video in few steps.
    FastClips = "fast-clips", flow::fast::open_clips, false;
    /// Memory pictures and text to video in few steps.
    FastMemory = "fast-memory", flow::fast::open_memory, false;
    /// What matters of earlier shots, and text to video: OneStory.
    OneStory = "onestory", flow::onestory::open, false;
    /// OneStory in few steps.
    FastOneStory = "fast-onestory", flow::onestory::open_fast, false;
}

impl StageName {
    /// Those of OneStory, which goes on from a set, in order.
    pub const ONESTORY: [Self; 2] = [Self::OneStory, Self::FastOneStory];

    /// Those of a set that is trained from nothing, in order.
    pub fn of_set() -> Vec<Self> {
        let mut stages = Self::ALL.to_vec();
        stages.retain(|stage| !Self::ONESTORY.contains(stage));
        stages
    }

    /// Those of the set that is shipped, in order.
    pub fn shipped() -> Vec<Self> {
        let mut stages = Self::of_set();
        stages.retain(|&stage| stage != Self::MemoryLora);
        stages
    }

    /// The stage of that name.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|stage| stage.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use storyloom_nn::tch::Device;

    use super::*;
    use crate::error::TrainError;
    use crate::preset::Preset;
    use crate::run::Pace;

    /// A stage that is asked for too early says which one comes first, and leaves nothing behind that a
    /// later start would take for a beginning.
    #[test]
    fn a_stage_out_of_order_names_the_one_that_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::new(folder.path(), Preset::test(), 3, Device::Cpu).unwrap();
        let never = AtomicBool::new(false);
        for (stage, first) in [
            (StageName::Pictures, "captions"),
            (StageName::Clips, "pictures"),
            (StageName::Memory, "clips"),
            (StageName::MemoryLora, "clips"),
            (StageName::FastClips, "clips"),
            (StageName::FastMemory, "clips"),
            (StageName::OneStory, "memory"),
            (StageName::FastOneStory, "onestory"),
        ] {
            match run.train(stage, Pace::default(), &never).unwrap_err() {
                TrainError::TooEarly { stage: said, needs } => {
                    assert_eq!((said, needs), (stage.name(), first));
                }
                other => panic!("{other}"),
            }
            assert!(run.files(stage).unwrap().average().unwrap().is_none());
        }
    }

    /// Folders of runs have these names, and users write them.
    #[test]
    fn names_stay_as_they_are() {
        let names: Vec<&str> = StageName::ALL.iter().map(|stage| stage.name()).collect();
        let expected = [
            "scorer",
            "vae",
            "captions",
            "pictures",
            "clips",
            "memory",
            "memory-lora",
            "fast-clips",
            "fast-memory",
            "onestory",
            "fast-onestory",
        ];
        assert_eq!(names, expected);
        for &stage in StageName::ALL {
            assert_eq!(StageName::named(stage.name()), Some(stage));
            let written = serde_json::to_value(stage).unwrap();
            assert_eq!(written, stage.name());
        }
        assert_eq!(StageName::named("clip"), None);
        assert_eq!(StageName::shipped().len(), StageName::ALL.len() - 3);
    }
}
