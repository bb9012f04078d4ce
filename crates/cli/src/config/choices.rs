//! Choices of single options that only the command line knows.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use storyloom_engine::method::onestory::{Backend, MemorySource};
use storyloom_memory::Disk;
use storyloom_memory::select::SelectionRule;
use storyloom_models::onestory::ScoreNorm;
use storyloom_models::vision::clip::SelectionResize;
use storyloom_orchestrator::{RunFolder, recorded};
use storyloom_parallel::Encryption;
use storyloom_story::onestory::{Budget, ContextTime, Selector};

use super::forms;
use super::options::{OneStory, StoryMem};
use super::value::{Choice, named};

/// What says how good a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScorerKind {
    /// Sharpness and exposure, without a network.
    Rule,
    /// The LAION predictor.
    Aesthetic,
}

impl Choice for ScorerKind {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("rule", Self::Rule), ("aesthetic", Self::Aesthetic)];
}

/// Whose resize of 8-bit frames comes before keyframes are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeChoice {
    /// As the run was begun with; of a new one as the reference of its selection has it.
    Auto,
    /// Pillow's.
    Pillow,
    /// That of torch.
    Torch,
}

impl Choice for ResizeChoice {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("pillow", Self::Pillow),
        ("torch", Self::Torch),
    ];
}

/// How a score is made of what the selector says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreNormChoice {
    /// As the checkpoint says.
    Auto,
    /// In this way.
    By(ScoreNorm),
}

impl ScoreNormChoice {
    /// The way, if it is not the checkpoint's.
    pub fn norm(self) -> Option<ScoreNorm> {
        match self {
            Self::Auto => None,
            Self::By(norm) => Some(norm),
        }
    }
}

impl Choice for ScoreNormChoice {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("cosine", Self::By(ScoreNorm::Cosine)),
        ("scaled_dot", Self::By(ScoreNorm::ScaledDot)),
        ("none", Self::By(ScoreNorm::None)),
    ];
}

/// Where context tokens stand in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeChoice {
    /// Before the shot, at equal distances.
    Shifted,
    /// Where they are in the film.
    TrueDistance,
}

impl Choice for TimeChoice {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("shifted", Self::Shifted),
        ("true_distance", Self::TrueDistance),
    ];
}

/// The timestep of context tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestepChoice {
    /// That of the shot.
    Shared,
    /// That of clean frames.
    Zero,
}

impl Choice for TimestepChoice {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("shared", Self::Shared), ("zero", Self::Zero)];
}

impl Choice for Selector {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("learned", Self::Learned),
        ("recent", Self::Recent),
        ("uniform", Self::Uniform),
        ("clip", Self::Clip),
    ];
}

impl Choice for MemorySource {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("latent", Self::Latent), ("reencode", Self::Reencode)];
}

impl Choice for Backend {
    const CHOICES: &'static [(&'static str, Self)] = &[
        (Self::OneStory.name(), Self::OneStory),
        (Self::Wan14bUntrained.name(), Self::Wan14bUntrained),
        (Self::Wan13bFun.name(), Self::Wan13bFun),
        (Self::StoryMemInject.name(), Self::StoryMemInject),
    ];
}

impl OneStory {
    /// How many tokens of history a shot sees. [`FRAMES_PER_KERNEL`](super::forms::FRAMES_PER_KERNEL) has made
    /// sure that it can be read.
    pub fn budget(&self) -> Budget {
        Budget {
            units: self.budget,
            counts: forms::frames_per_kernel(&self.frames_per_kernel).unwrap_or_default(),
        }
    }

    /// Where context tokens stand in time.
    pub fn time(&self) -> ContextTime {
        match self.ctx_time {
            TimeChoice::Shifted => ContextTime::Shifted {
                stride: self.ctx_stride,
            },
            TimeChoice::TrueDistance => ContextTime::TrueDistance,
        }
    }

    /// Whether context tokens are at timestep 0.
    pub fn is_clean(&self) -> bool {
        self.ctx_timestep == TimestepChoice::Zero
    }
}

impl Choice for Encryption {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("noise", Self::Noise)];
}

impl StoryMem {
    /// Whose resize a new run has with these settings.
    pub fn resize(&self) -> SelectionResize {
        match (self.selection_resize, self.selection) {
            (ResizeChoice::Pillow, _) => SelectionResize::Pillow,
            (ResizeChoice::Torch, _) | (ResizeChoice::Auto, SelectionRule::Semantic) => {
                SelectionResize::Torch
            }
            (ResizeChoice::Auto, SelectionRule::FirstFrame) => SelectionResize::Pillow,
        }
    }

    /// As [`resize`](Self::resize) for the run in the folder `out`: one that is there goes on with what
    /// it has, which is Pillow's where nothing is written of it, as in earlier builds.
    pub fn resize_in(&self, out: &Path) -> ResizeChoice {
        // A damaged file has a copy; where neither is sound, the start says so.
        let begun = RunFolder::new(out, Arc::new(Disk)).run_file().ok();
        let begun = begun.map(|run| {
            let noted = recorded(&run.config, "storymem.selection_resize");
            let noted = noted.and_then(Value::as_str).and_then(named);
            noted.unwrap_or(ResizeChoice::Pillow)
        });
        match (self.selection_resize, begun) {
            (ResizeChoice::Auto, Some(begun)) if begun != ResizeChoice::Auto => begun,
            _ => match self.resize() {
                SelectionResize::Pillow => ResizeChoice::Pillow,
                SelectionResize::Torch => ResizeChoice::Torch,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_goes_on_with_the_resize_that_it_was_begun_with() {
        use ResizeChoice::{Auto, Pillow, Torch};
        use SelectionRule::{FirstFrame, Semantic};
        let memory = |selection_resize, selection| StoryMem {
            selection_resize,
            selection,
            ..StoryMem::default()
        };
        let out = tempfile::tempdir().unwrap();
        let in_out = |choice, rule| memory(choice, rule).resize_in(out.path());
        assert_eq!(in_out(Auto, Semantic), Torch);
        assert_eq!(in_out(Auto, FirstFrame), Pillow);
        assert_eq!(in_out(Pillow, Semantic), Pillow);
        assert_eq!(in_out(Torch, FirstFrame), Torch);
        let of_earlier_build = |config: Value| {
            let text = include_str!("../../../../tests/fixtures/run-v1/finished/run.json");
            let mut run: Value = serde_json::from_str(text).unwrap();
            run["config"] = config;
            run.to_string()
        };
        let begun = |name: &str, resize: &str| {
            of_earlier_build(json!({name: {"selection_resize": resize}}))
        };
        for (run, found) in [
            (
                of_earlier_build(json!({"memory": {"selection": "semantic"}})),
                Pillow,
            ),
            (begun("memory", "pillow"), Pillow),
            (begun("storymem", "torch"), Torch),
            // Changed after it was written, or no run at all.
            (sealed_and_changed(), Torch),
            ("not JSON".to_owned(), Torch),
        ] {
            std::fs::write(out.path().join("run.json"), &run).unwrap();
            assert_eq!(in_out(Auto, Semantic), found, "{run}");
            // What somebody asks for is refused later, if it is another.
            assert_eq!(in_out(Torch, Semantic), Torch, "{run}");
        }
        // What is damaged has a copy.
        std::fs::create_dir(out.path().join("lists")).unwrap();
        std::fs::write(out.path().join("lists/run.json"), begun("memory", "pillow")).unwrap();
        assert_eq!(in_out(Auto, Semantic), Pillow);
    }

    /// A `run.json` whose seal is that of other settings.
    fn sealed_and_changed() -> String {
        let text = include_str!("../../../../tests/fixtures/run-v1/finished/run.json");
        let mut run: Value = serde_json::from_str(text).unwrap();
        run["config"] = json!({"memory": {"selection_resize": "pillow"}});
        run["digest"] = json!("0".repeat(64));
        run.to_string()
    }
}
