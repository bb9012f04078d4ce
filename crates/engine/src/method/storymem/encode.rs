//! Stage `encode`: prompt and pictures become conditions.

use std::collections::HashMap;
use std::path::Path;

use storyloom_models::autoencoder::AutoencoderKlWan;
use storyloom_models::text::{DEFAULT_NEGATIVE_PROMPT, PromptEncoder};
use storyloom_models::wan::{condition_channels, temporal_positions};
use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::image::pixels;
use storyloom_nn::tensor_file::from_host;
use storyloom_story::{LatentGrid, MemoryFrame, Opening, Resolution, RgbImage, ShotInputs};
use tch::{Kind, Tensor};

use super::paths::no_image_to_video;

/// Text rows of both prompts, `[1, rows, text_dim]` in f32, zero after each prompt's end.
#[derive(Debug)]
pub struct TextPair {
    /// The prompt.
    pub positive: Tensor,
    /// What the picture should not be.
    pub negative: Tensor,
}

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
    negative_prompt: String,
    text: PromptEncoder,
    vae: AutoencoderKlWan,
    /// Whether there is a pipeline for shots that see pictures.
    takes_pictures: bool,
    negative: Option<Tensor>,
    /// Encodings of all-grey clips, by frames, width and height.
    grey: HashMap<(i64, u32, u32), Tensor>,
}

impl Encoder {
    /// Loads text encoder and VAE of a pipeline, which are those of both.
    pub(super) fn open(parts: &EncoderParts) -> Result<Self> {
        let negative = parts.negative_prompt.unwrap_or(DEFAULT_NEGATIVE_PROMPT);
        let (pipeline, target) = (parts.pipeline, parts.target);
        Ok(Self {
            target,
            memory_stride: parts.memory_stride,
            grid: parts.grid,
            negative_prompt: negative.to_owned(),
            text: PromptEncoder::open(pipeline, target)?,
            vae: AutoencoderKlWan::open(&pipeline.join("vae"), target.device)?,
            takes_pictures: parts.takes_pictures,
            negative: None,
            grey: HashMap::new(),
        })
    }

    /// Encodes the prompt, the memory window and the frames that the shot continues.
    pub fn encode(&mut self, inputs: &ShotInputs) -> Result<Conditions> {
        let _guard = tch::no_grad_guard();
        let request = &inputs.request;
        let negative = self.negative_text()?;
        let text = TextPair {
            positive: self.text.encode(&request.prompt)?,
            negative,
        };
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

    /// The negative prompt, encoded once.
    fn negative_text(&mut self) -> Result<Tensor> {
        if let Some(known) = &self.negative {
            return Ok(known.shallow_clone());
        }
        let encoded = self.text.encode(&self.negative_prompt)?;
        self.negative = Some(encoded.shallow_clone());
        Ok(encoded)
    }
}

/// A picture as one normalised latent frame `[C, 1, h, w]` at the story's size.
pub(super) fn encode_picture(
    vae: &AutoencoderKlWan,
    picture: &RgbImage,
    size: Resolution,
) -> Result<Tensor> {
    encode_clip(vae, &pixels(&[picture], size, vae.device())?)
}

/// `[3, frames, height, width]` to normalised latents `[C, T, h, w]`.
fn encode_clip(vae: &AutoencoderKlWan, clip: &Tensor) -> Result<Tensor> {
    let latents = vae.encode(&clip.f_unsqueeze(0)?)?;
    Ok(vae.normalize(&latents)?.f_squeeze_dim(0)?)
}
