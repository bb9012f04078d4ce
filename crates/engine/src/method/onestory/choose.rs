//! Which frames of the history a shot sees, as far as no network is asked.

use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::tensor_file::from_host;
use storyloom_story::onestory::{Budget, Choice, Counts, History, Plane, Selector, scores_table};
use storyloom_story::{HostTensor, LatentGrid, MemoryFrame, ShotInputs};
use tch::{Device, Tensor};

use super::select;

/// The budget and what fills it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chooser {
    pub(super) budget: Budget,
    pub(super) selector: Selector,
    /// How the pipeline divides videos.
    pub(super) grid: LatentGrid,
}

impl Chooser {
    /// The scores of a history where no network is asked: there is none, or they follow from its length.
    pub(super) fn known_scores(
        &self,
        inputs: &ShotInputs,
        history: &History,
    ) -> Result<Option<HostTensor>> {
        let frames = history.frames();
        if frames == 0 {
            return Ok(Some(scores_table(Vec::new())));
        }
        let counts = self.counts(inputs)?;
        Ok(self.selector.scores(frames, counts).map(scores_table))
    }

    /// Frames per kernel for the size of the shot.
    pub(super) fn counts(&self, inputs: &ShotInputs) -> Result<Counts> {
        let counts = self.budget.counts(self.plane(inputs));
        counts.map_err(|error| refused(inputs, &error))
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

    /// The latents `[C, T, h, w]` of a shot that is the ready-made first one of its story.
    pub(super) fn ready_made(
        &self,
        inputs: &ShotInputs,
        history: &History,
    ) -> Result<Option<HostTensor>> {
        let Some(place) = history.ready_made() else {
            return Ok(None);
        };
        let [rows, columns] = self.plane(inputs);
        let frames = self.grid.latent_frames(inputs.request.video.frames);
        let wanted = [self.grid.channels, frames, rows, columns].map(|length| length as usize);
        select::first_shot(&inputs.memory[place], wanted).map(Some)
    }

    /// The chosen frames in the order of time, each `[C, h, w]` in f32. Of each shot that is seen the latents
    /// are read once, and let go before the next.
    pub(super) fn frames(
        &self,
        inputs: &ShotInputs,
        history: &History,
        choice: &Choice,
        device: Device,
    ) -> Result<Vec<Tensor>> {
        let shots = self.shots(inputs, history)?;
        let mut frames = Vec::with_capacity(choice.frames.len());
        for of_shot in choice.frames.chunk_by(|one, other| one.shot == other.shot) {
            let latents = read(&shots[of_shot[0].shot], device)?;
            for seen in of_shot {
                frames.push(latents.f_select(1, seen.frame as i64)?.f_contiguous()?);
            }
        }
        Ok(frames)
    }

    /// Rows and columns of a latent frame of the shot.
    pub(super) fn plane(&self, inputs: &ShotInputs) -> Plane {
        self.grid.plane(inputs.request.video.resolution())
    }

    /// The earlier shots, which all have latent frames of the size of this one.
    pub(super) fn shots<'a>(
        &self,
        inputs: &'a ShotInputs,
        history: &History,
    ) -> Result<&'a [MemoryFrame]> {
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
}

/// The latents of an earlier shot, `[C, T, h, w]` in f32.
pub(super) fn read(item: &MemoryFrame, device: Device) -> Result<Tensor> {
    from_host(select::latents(item)?.read()?.as_ref(), device)
}

pub(super) fn refused(inputs: &ShotInputs, error: &dyn std::fmt::Display) -> ModelError {
    let story = &inputs.request.story;
    ModelError::input(
        format!("what the story {story} sees of its history"),
        error.to_string(),
    )
}
