//! Which frames of the history a shot sees, and the context tokens that they become.
//!
//! The history is read shot by shot, for the scores and again for the chosen frames: at no time is more than
//! one shot of it in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use storyloom_models::onestory::{OneStoryConfig, OneStoryMemory, context_positions};
use storyloom_models::wan::WanConfig;
use storyloom_nn::checkpoint::{Checkpoint, Target};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::tensor_file::{from_host, to_host};
use storyloom_story::onestory::{
    Budget, Choice, ContextTime, History, Plane, Selector, scores_table,
};
use storyloom_story::{HostTensor, LatentGrid, MemoryFrame, ShotInputs};
use tch::{Device, Tensor};

use super::encode::{Beginning, check_caption};
use super::paths::OneStoryPaths;
use super::select;
use super::settings::OneStorySettings;
use crate::replica::station::lock;

/// What the transformer sees of a shot's conditions.
#[derive(Debug)]
pub struct ShotConditions {
    pub(super) beginning: Beginning,
    /// `None` where nothing of the history is seen.
    pub(super) context: Option<Context>,
}

/// Context tokens and where they stand.
#[derive(Debug)]
pub(super) struct Context {
    /// `[1, N_c, width]` in f32.
    pub(super) tokens: Tensor,
    /// Time, row and column of each, `[N_c, 3]` in f64 on the host.
    pub(super) positions: Tensor,
}

/// One score for each latent frame of the history of a shot, `[F]` in f32; `[1]` with a 0 where there is
/// none. `text` gives the rows of the caption, where the selector is asked.
pub(super) fn scores(
    conditioner: &Mutex<Conditioner>,
    inputs: &ShotInputs,
    text: impl FnOnce() -> Result<Tensor>,
) -> Result<HostTensor> {
    check_caption(&inputs.request)?;
    let history = select::history(inputs)?;
    if let Some(scores) = lock(conditioner).known_scores(inputs, &history)? {
        return Ok(scores);
    }
    let text = text()?;
    lock(conditioner).learned_scores(inputs, &history, &text)
}

/// Selector and patchifiers with their settings. Whole on the leader of a replica.
#[derive(Debug)]
pub(super) struct Conditioner {
    memory: OneStoryMemory,
    budget: Budget,
    selector: Selector,
    time: ContextTime,
    grid: LatentGrid,
    device: Device,
}

impl Conditioner {
    /// Loads selector and patchifiers, which fit the transformer.
    pub(super) fn open(
        paths: &OneStoryPaths,
        settings: &OneStorySettings,
        grid: LatentGrid,
    ) -> Result<Self> {
        let folder = paths.memory();
        let config = OneStoryConfig::of(&Checkpoint::open(&folder)?)?;
        check_memory(&folder, &config, &WanConfig::read(&paths.transformer())?)?;
        let device = settings.compute.target.device;
        let target = Target {
            device,
            ..Target::CPU_F32
        };
        let mut memory = OneStoryMemory::open(&folder, target)?;
        if let Some(norm) = settings.score_norm {
            memory.selector = memory.selector.scored_by(norm);
        }
        Ok(Self {
            memory,
            budget: settings.budget,
            selector: settings.selector,
            time: settings.time,
            grid,
            device,
        })
    }

    /// The scores of a history where no network is asked: there is none, or they follow from its length.
    fn known_scores(&self, inputs: &ShotInputs, history: &History) -> Result<Option<HostTensor>> {
        let frames = history.frames();
        if frames == 0 {
            return Ok(Some(scores_table(Vec::new())));
        }
        let counts = self.budget.counts(self.plane(inputs));
        let counts = counts.map_err(|error| refused(inputs, &error))?;
        Ok(self.selector.scores(frames, counts).map(scores_table))
    }

    /// The scores of a history by the selector. `text` has the rows of the caption, `[1, rows, text_dim]`.
    fn learned_scores(
        &self,
        inputs: &ShotInputs,
        history: &History,
        text: &Tensor,
    ) -> Result<HostTensor> {
        let _guard = tch::no_grad_guard();
        let shots = self.shots(inputs, history)?;
        let asked = self.memory.selector.ask(text)?;
        let ages = (1..=shots.len()).rev();
        let glances = shots.iter().zip(ages).map(|(item, age)| {
            let latents = self.read(item)?.f_unsqueeze(0)?;
            self.memory.selector.look(&asked, &latents, age)
        });
        let glances: Vec<_> = glances.collect::<Result<_>>()?;
        let scores = self.memory.selector.scores(&asked, &glances)?;
        to_host(&scores.f_squeeze_dim(0)?)
    }

    /// What follows from the scores.
    pub(super) fn choice(
        &self,
        inputs: &ShotInputs,
        history: &History,
        scores: &HostTensor,
    ) -> Result<Choice> {
        let choice = history.choose(scores, self.budget, self.plane(inputs));
        choice.map_err(|error| refused(inputs, &error))
    }

    /// The context tokens of what was chosen.
    pub(super) fn context(
        &self,
        inputs: &ShotInputs,
        history: &History,
        choice: &Choice,
    ) -> Result<Option<Context>> {
        let _guard = tch::no_grad_guard();
        if choice.frames.is_empty() {
            return Ok(None);
        }
        let shots = self.shots(inputs, history)?;
        let mut frames = Vec::with_capacity(choice.frames.len());
        let mut of_shot = BTreeMap::<usize, Vec<usize>>::new();
        for seen in &choice.frames {
            of_shot.entry(seen.shot).or_default().push(seen.frame);
        }
        // Both are in the order of time.
        for (shot, seen) in of_shot {
            let latents = self.read(&shots[shot])?;
            for frame in seen {
                frames.push(latents.f_select(1, frame as i64)?.f_contiguous()?);
            }
        }
        let (plane, all) = (self.plane(inputs), history.frames());
        Ok(Some(Context {
            tokens: self.memory.patchifiers.forward(&choice.chosen, &frames)?,
            positions: context_positions(&choice.chosen, all, plane, self.time)?,
        }))
    }

    /// Rows and columns of a latent frame of the shot.
    fn plane(&self, inputs: &ShotInputs) -> Plane {
        self.grid.plane(inputs.request.video.resolution())
    }

    /// The earlier shots, which all have latent frames of the size of this one.
    fn shots<'a>(&self, inputs: &'a ShotInputs, history: &History) -> Result<&'a [MemoryFrame]> {
        let shots = &inputs.memory[history.references..];
        let [rows, columns] = self.plane(inputs).map(|length| length as usize);
        let wanted = [self.grid.channels as usize, rows, columns];
        for item in shots {
            let [channels, _, height, width] = select::shape(item)?;
            if [channels, height, width] != wanted {
                let reason = format!(
                    "its latent frames are {channels}x{height}x{width}, and those of the story are \
                     {}x{rows}x{columns}: all shots of a story have one size",
                    wanted[0]
                );
                return Err(select::of_item(item, reason));
            }
        }
        Ok(shots)
    }

    /// The latents of an earlier shot, `[C, T, h, w]` in f32.
    fn read(&self, item: &MemoryFrame) -> Result<Tensor> {
        from_host(select::latents(item)?.read()?.as_ref(), self.device)
    }
}

/// Fails if the parts of OneStory in `folder` were made for another transformer.
fn check_memory(folder: &Path, memory: &OneStoryConfig, transformer: &WanConfig) -> Result<()> {
    let of_transformer = [
        ("width", memory.width, transformer.width()),
        ("text_dim", memory.text_dim, transformer.text_dim),
        (
            "latent_channels",
            memory.latent_channels,
            transformer.out_channels,
        ),
    ];
    for (name, found, wanted) in of_transformer {
        if found != wanted {
            let reason = format!("{name} = {found}, but that of the transformer is {wanted}");
            return Err(ModelError::bad_file(folder.join("config.json"), reason));
        }
    }
    Ok(())
}

fn refused(inputs: &ShotInputs, error: &dyn std::fmt::Display) -> ModelError {
    let story = &inputs.request.story;
    ModelError::input(
        format!("what the story {story} sees of its history"),
        error.to_string(),
    )
}
