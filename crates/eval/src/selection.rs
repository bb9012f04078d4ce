//! Which latent frames the shots of a run of OneStory saw.

use std::path::Path;
use std::sync::Arc;

use storyloom_memory::Disk;
use storyloom_orchestrator::memory_view::{ChoiceView, story_memory};
use storyloom_orchestrator::{RunError, RunFolder};
use storyloom_story::onestory::SeenFrame;
use storyloom_story::{Method, ShotId};
use storyloom_tinyworld::Story;

/// What a network chose for a shot.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Latent frames of each earlier shot, oldest first.
    pub history: Vec<usize>,
    /// What it chose of them, in the order of time; shots and frames are counted from 0.
    pub frames: Vec<SeenFrame>,
}

impl Selection {
    fn of(chosen: &ChoiceView) -> Self {
        let shots: Vec<ShotId> = chosen.history.iter().map(|earlier| earlier.shot).collect();
        let frames = chosen.frames.iter().filter_map(|seen| {
            Some(SeenFrame {
                shot: shots.iter().position(|&shot| shot == seen.shot)?,
                frame: seen.frame,
                score: seen.score,
                kernel: seen.kernel,
            })
        });
        Self {
            history: chosen.history.iter().map(|it| it.frames).collect(),
            frames: frames.collect(),
        }
    }
}

/// Reads what was chosen in a run.
pub(crate) struct Selections {
    /// Its folder; `None` of a run in which no network chooses frames.
    folder: Option<RunFolder>,
}

impl Selections {
    /// Those of the run in `folder`; none where no file says what its run is.
    pub fn of(folder: &Path) -> Result<Self, RunError> {
        let is_run = folder.join("run.json").is_file();
        let folder = RunFolder::new(folder, Arc::new(Disk));
        let chooses = is_run && folder.run_file()?.terms(Method::OneStory).is_some();
        Ok(Self {
            folder: chooses.then_some(folder),
        })
    }

    /// For each shot of a story what was chosen; `None` of a shot that was not made or that nothing was chosen
    /// for, and where nobody can say what.
    pub fn story(&self, story: &Story) -> Result<Vec<Option<Selection>>, RunError> {
        let mut selections = vec![None; story.shots.len()];
        if let Some(folder) = &self.folder {
            let script = story.script();
            let ids: Vec<ShotId> = script.shots().map(|(id, _)| id).collect();
            for made in story_memory(folder, &story.id, None)?.shots {
                if let Some(place) = ids.iter().position(|&id| id == made.shot) {
                    selections[place] = made.chosen.as_ref().map(Selection::of);
                }
            }
        }
        Ok(selections)
    }
}

#[cfg(test)]
mod tests {
    use storyloom_memory::OneStoryPolicy;
    use storyloom_orchestrator::pipeline::{PipelineSettings, plain_run};
    use storyloom_orchestrator::run::run;
    use storyloom_orchestrator::simulated::SimulatedEngine;
    use storyloom_orchestrator::{StopFlag, Videos};
    use storyloom_story::VideoSpec;
    use storyloom_story::onestory::{Budget, Kernel, Selector};
    use storyloom_telemetry::Silent;
    use storyloom_tinyworld::{Outline, Pattern, Split};

    use super::*;

    fn recall() -> Story {
        Outline::of(Pattern::InsertRecall).draw(2, Split::HeldOut)
    }

    /// A run of one story whose shots have three latent frames of 12x20 each and see the newest.
    fn make_run(out: &Path, story: &Story, method: Method, units: u32) {
        let settings = PipelineSettings {
            videos: Videos::Placeholders,
            ..PipelineSettings::instant(out, 6, 6)
        };
        let (mut config, mut manifest) = plain_run(out, 1, &settings).unwrap();
        manifest.stories = vec![story.entry()];
        config.method = method;
        config.video = VideoSpec {
            width: 160,
            height: 96,
            frames: 9,
            fps: 8,
        };
        let counts = None;
        config.onestory = OneStoryPolicy::new(Budget { units, counts }, Selector::Recent);
        let engine = SimulatedEngine {
            onestory: config.onestory,
            ..SimulatedEngine::default()
        };
        let stop = StopFlag::default();
        let outcome = run(&config, &manifest, &engine, &Silent, &stop).unwrap();
        assert_eq!(outcome.done, 1);
    }

    fn read(folder: &Path, story: &Story) -> Vec<Option<Selection>> {
        Selections::of(folder).unwrap().story(story).unwrap()
    }

    #[test]
    fn what_a_shot_saw_follows_from_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let story = recall();
        make_run(folder.path(), &story, Method::OneStory, 1);
        let selections = read(folder.path(), &story);
        let counts: Vec<usize> = selections
            .iter()
            .flatten()
            .map(|it| it.frames.len())
            .collect();
        // 60 tokens: three frames of 15 and two of 6.
        assert_eq!(counts, [0, 3, 5, 5, 5, 5]);
        let last = selections[5].as_ref().unwrap();
        assert_eq!(last.history, [3; 5]);
        let found: Vec<_> = last
            .frames
            .iter()
            .map(|it| (it.shot, it.frame, it.kernel))
            .collect();
        let expected = [
            (3, 1, Kernel::P8),
            (3, 2, Kernel::P8),
            (4, 0, Kernel::P4),
            (4, 1, Kernel::P4),
            (4, 2, Kernel::P4),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_budget_of_nothing_sees_nothing_and_other_methods_choose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let story = recall();
        let [none, storymem, bare] =
            ["none", "storymem", "bare"].map(|name| folder.path().join(name));
        make_run(&none, &story, Method::OneStory, 0);
        let selections = read(&none, &story);
        assert_eq!(selections.iter().flatten().count(), 6);
        assert!(selections.iter().flatten().all(|it| it.frames.is_empty()));
        make_run(&storymem, &story, Method::StoryMem, 1);
        assert!(read(&storymem, &story).iter().all(Option::is_none));
        // Pictures that no run made.
        assert!(read(&bare, &story).iter().all(Option::is_none));
    }
}
