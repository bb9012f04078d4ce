//! Stage `encode`: prompt and pictures become conditions.

use storyloom_story::{Opening, RgbImage, ShotInputs};
use tch::{Kind, Tensor};

use super::denoise::TextPair;
use crate::engine::StoryMemEngine;
use crate::error::{ModelError, Result};
use crate::method::storymem::{condition_channels, latent_frames, temporal_positions};
use crate::tensor_file::from_host;

/// What the sampling loop of a shot is conditioned on.
#[derive(Debug)]
pub struct Conditions {
    pub(crate) text: TextPair,
    /// `[1, 4 + C, memory + T, h, w]`; `None` for text to video.
    pub(crate) pictures: Option<Tensor>,
    /// Memory slots before the latents of the shot.
    pub(crate) memory: usize,
    pub(crate) positions: Vec<i64>,
}

impl StoryMemEngine {
    /// Encodes the prompt, the memory window and the frames that the shot continues.
    pub fn encode(&self, inputs: &ShotInputs) -> Result<Conditions> {
        let _guard = tch::no_grad_guard();
        let request = &inputs.request;
        let negative = self.negative_text()?;
        let text = TextPair {
            positive: self.text.encode(&request.prompt)?,
            negative,
        };
        let latents = latent_frames(request.video.frames as usize);
        if request.opening == Opening::Text {
            let positions = temporal_positions(0, latents, 1);
            return Ok(Conditions {
                text,
                pictures: None,
                memory: 0,
                positions,
            });
        }
        let memory = self.memory_latents(inputs)?;
        let clip = self.given_clip(inputs)?;
        let frames = request.video.frames as usize;
        let pictures = condition_channels(&memory, &clip, frames, request.opening)?;
        Ok(Conditions {
            text,
            pictures: Some(pictures.f_unsqueeze(0)?),
            memory: memory.len(),
            positions: temporal_positions(memory.len(), latents, self.settings.memory_stride),
        })
    }

    /// One latent frame per memory picture, as the bank keeps it or encoded anew.
    fn memory_latents(&self, inputs: &ShotInputs) -> Result<Vec<Tensor>> {
        let size = inputs.request.video.resolution();
        inputs
            .memory
            .iter()
            .map(|frame| match &frame.latents {
                Some(latents) => from_host(latents, self.settings.target.device),
                None => self.encode_picture(&frame.image, size),
            })
            .collect()
    }

    /// The given frames followed by mid grey, encoded and normalised: `[C, T, h, w]`.
    fn given_clip(&self, inputs: &ShotInputs) -> Result<Tensor> {
        let request = &inputs.request;
        let given = request.opening.given_frames();
        if inputs.previous_tail.len() != given {
            let found = inputs.previous_tail.len();
            let reason = format!("{given} frames of the shot before are needed, found {found}");
            return Err(ModelError::input("previous frames", reason));
        }
        let video = request.video;
        let grey = |frames: i64| {
            let size = [3, frames, i64::from(video.height), i64::from(video.width)];
            Tensor::f_zeros(size, (Kind::Float, self.settings.target.device))
        };
        let frames = i64::from(video.frames);
        if given == 0 {
            let key = (frames, video.width, video.height);
            return self.grey_latents(key, || Ok(grey(frames)?));
        }
        let tail: Vec<&RgbImage> = inputs.previous_tail.iter().collect();
        let tail = self.pixels(&tail, video.resolution())?;
        let clip = Tensor::f_cat(&[tail, grey(frames - given as i64)?], 1)?;
        self.encode_clip(&clip)
    }
}
