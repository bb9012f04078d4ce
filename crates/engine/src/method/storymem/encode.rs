//! Stage `encode`: prompt and pictures become conditions.

use std::collections::HashMap;
use std::path::Path;

use storyloom_models::autoencoder::AutoencoderKlWan;
use storyloom_models::wan::{condition_channels, temporal_positions};
use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::image::pixels;
use storyloom_nn::tensor_file::from_host;
use storyloom_story::{LatentGrid, MemoryFrame, Opening, RgbImage, ShotInputs};
use tch::{Kind, Tensor};

use super::paths::no_image_to_video;
use crate::method::wan::{Prompts, TextPair, encode_clip, encode_picture};

/// What the sampling loop of a shot is conditioned on.
#[derive(Debug)]
pub struct Conditions {
    pub(super) text: TextPair,
    /// `[1, 4 + C, memory + T, h, w]` in f32; `None` for text to video.
    pub(super) pictures: Option<Tensor>,
    /// Memory slots before the latents of the shot.
    pub(super) memory: usize,
    /// Temporal positions of the memory slots and the `T` latent frames of the shot.
    pub(super) positions: Vec<i64>,
}

/// What stage `encode` is made of.
#[derive(Debug)]
pub(super) struct EncoderParts<'a> {
    /// The pipeline whose text encoder, tokenizer and VAE are used.
    pub(super) pipeline: &'a Path,
    /// Whether there is a pipeline for shots that see pictures.
    pub(super) takes_pictures: bool,
    /// The negative prompt; `None` takes that of the original Wan code.
    pub(super) negative_prompt: Option<&'a str>,
    /// Distance of memory pictures on the temporal axis.
    pub(super) memory_stride: i64,
    /// How the pipeline divides videos.
    pub(super) grid: LatentGrid,
    /// Kind and device of the text encoder; the VAE is f32.
    pub(super) target: Target,
}

/// The networks of stage `encode`.
#[derive(Debug)]
pub struct Encoder {
    target: Target,
    memory_stride: i64,
    grid: LatentGrid,
    prompts: Prompts,
    vae: AutoencoderKlWan,
    /// Whether there is a pipeline for shots that see pictures.
    takes_pictures: bool,
    /// Encodings of all-grey clips, by frames, width and height.
    grey: HashMap<(i64, u32, u32), Tensor>,
}

impl Encoder {
    /// Loads text encoder and VAE of a pipeline, which are those of both.
    pub(super) fn open(parts: &EncoderParts) -> Result<Self> {
        let (pipeline, target) = (parts.pipeline, parts.target);
        Ok(Self {
            target,
            memory_stride: parts.memory_stride,
            grid: parts.grid,
            prompts: Prompts::open(pipeline, target, parts.negative_prompt)?,
            vae: AutoencoderKlWan::open(&pipeline.join("vae"), target.device)?,
            takes_pictures: parts.takes_pictures,
            grey: HashMap::new(),
        })
    }

    /// Encodes the prompt, the memory window and the frames that the shot continues.
    pub fn encode(&mut self, inputs: &ShotInputs) -> Result<Conditions> {
        let _guard = tch::no_grad_guard();
        let request = &inputs.request;
        let text = self.prompts.pair(&request.prompt)?;
        let latents = self.grid.latent_frames(request.video.frames) as usize;
        let sees_pictures = match request.opening {
            Opening::Text => false,
            // A shot that remembers nothing needs no pipeline for pictures, where there is none.
            Opening::Memory => self.takes_pictures || !inputs.memory.is_empty(),
            Opening::LastFrame | Opening::Motion => true,
        };
        if sees_pictures && !self.takes_pictures {
            return Err(no_image_to_video());
        }
        if !sees_pictures {
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
        let (frames, opening) = (request.video.frames, request.opening);
        let pictures = condition_channels(self.grid, &memory, &clip, frames, opening)?;
        Ok(Conditions {
            text,
            pictures: Some(pictures.f_unsqueeze(0)?),
            memory: memory.len(),
            positions: temporal_positions(memory.len(), latents, self.memory_stride),
        })
    }

    /// One latent frame per memory picture, as the bank keeps it or encoded anew.
    fn memory_latents(&self, inputs: &ShotInputs) -> Result<Vec<Tensor>> {
        let size = inputs.request.video.resolution();
        inputs
            .memory
            .iter()
            .map(
                |frame| match (frame.arrays.get(MemoryFrame::LATENTS), &frame.image) {
                    (Some(latents), _) => from_host(latents.read()?.as_ref(), self.target.device),
                    (None, Some(image)) => encode_picture(&self.vae, image, size),
                    (None, None) => Err(ModelError::input(
                        format!("the item {} of the memory", frame.hash),
                        "has neither a picture nor latents",
                    )),
                },
            )
            .collect()
    }

    /// The given frames followed by mid grey, encoded and normalised: `[C, T, h, w]`.
    fn given_clip(&mut self, inputs: &ShotInputs) -> Result<Tensor> {
        let request = &inputs.request;
        let given = request.opening.given_frames();
        if inputs.previous_tail.len() != given {
            let found = inputs.previous_tail.len();
            let reason = format!("{given} frames of the shot before are needed, found {found}");
            return Err(ModelError::input("previous frames", reason));
        }
        let video = request.video;
        let device = self.target.device;
        let grey = |frames: i64| {
            let size = [3, frames, i64::from(video.height), i64::from(video.width)];
            Tensor::f_zeros(size, (Kind::Float, device))
        };
        let frames = i64::from(video.frames);
        if given == 0 {
            let key = (frames, video.width, video.height);
            if let Some(known) = self.grey.get(&key) {
                return Ok(known.shallow_clone());
            }
            let latents = encode_clip(&self.vae, &grey(frames)?)?;
            self.grey.insert(key, latents.shallow_clone());
            return Ok(latents);
        }
        let tail: Vec<&RgbImage> = inputs.previous_tail.iter().collect();
        let tail = pixels(&tail, video.resolution(), device)?;
        let clip = Tensor::f_cat(&[tail, grey(frames - given as i64)?], 1)?;
        encode_clip(&self.vae, &clip)
    }
}
