//! Stage `encode`: the prompt, and the image that a story begins with.

use storyloom_models::autoencoder::AutoencoderKlWan;
use storyloom_models::text::clean_prompt;
use storyloom_models::vision::clip::{ClipVision, PixelRule, pixel_values};
use storyloom_models::wan::{WanConfig, condition_channels};
use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::image::{pixels, plain_picture};
use storyloom_story::{LatentGrid, Opening, RgbImage, ShotRequest, VideoSpec};
use tch::{Device, Kind, Tensor};

use super::paths::OneStoryPaths;
use super::settings::OneStorySettings;
use crate::method::wan::{Prompts, TextPair, encode_clip};

/// What a shot begins with, whatever came before it.
#[derive(Debug)]
pub struct Beginning {
    pub(super) text: TextPair,
    /// Mask and latents of the first image, `[1, 4 + C, T, h, w]` in f32; `None` where the transformer takes
    /// none.
    pub(super) channels: Option<Tensor>,
    /// Tokens of the first image, `[1, tokens, image_dim]` in f32; `None` where the transformer has no image
    /// branch.
    pub(super) image: Option<Tensor>,
}

/// The networks of stage `encode`.
#[derive(Debug)]
pub struct Encoder {
    prompts: Prompts,
    grid: LatentGrid,
    device: Device,
    /// Where the transformer takes condition channels.
    vae: Option<AutoencoderKlWan>,
    /// Where the transformer has an image branch.
    tower: Option<ClipVision>,
    /// Tokens of a black image.
    black: Option<Tensor>,
}

/// Fails for a caption that says nothing.
pub(super) fn check_caption(request: &ShotRequest) -> Result<()> {
    match clean_prompt(&request.prompt).is_empty() {
        false => Ok(()),
        true => Err(ModelError::input(
            format!("the caption of shot {}", request.shot),
            "nothing is left of it after clean-up; OneStory chooses by it what the shot sees",
        )),
    }
}

impl Encoder {
    /// Loads what the transformer of the pipeline needs.
    pub(super) fn open(
        paths: &OneStoryPaths,
        settings: &OneStorySettings,
        grid: LatentGrid,
    ) -> Result<Self> {
        let (pipeline, target) = (&paths.pipeline, settings.compute.target);
        let device = target.device;
        let config = WanConfig::read(&paths.transformer())?;
        let takes_channels = config.in_channels > config.out_channels;
        let negative = settings.negative_prompt.as_deref();
        let floats = Target {
            device,
            ..Target::CPU_F32
        };
        Ok(Self {
            prompts: Prompts::open(pipeline, target, negative)?,
            vae: takes_channels
                .then(|| AutoencoderKlWan::open(&pipeline.join("vae"), device))
                .transpose()?,
            tower: config
                .image_dim
                .map(|_| ClipVision::open(&paths.image_encoder(), floats))
                .transpose()?,
            grid,
            device,
            black: None,
        })
    }

    /// Rows of a caption, `[1, rows, text_dim]` in f32.
    pub(super) fn text(&mut self, prompt: &str) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        self.prompts.positive(prompt)
    }

    /// What a shot begins with; `first_image` is its first frame.
    pub(super) fn begin(
        &mut self,
        request: &ShotRequest,
        first_image: Option<&RgbImage>,
    ) -> Result<Beginning> {
        let _guard = tch::no_grad_guard();
        Ok(Beginning {
            text: self.prompts.pair(&request.prompt)?,
            channels: self.channels(request.video, first_image)?,
            image: self.image_tokens(first_image)?,
        })
    }

    /// As Wan has it: the image and mid grey behind it, encoded as one clip, and a mask that is 1 on the
    /// first latent frame. Without an image mask and latents are 0.
    fn channels(&self, video: VideoSpec, first_image: Option<&RgbImage>) -> Result<Option<Tensor>> {
        let Some(vae) = &self.vae else {
            return match first_image {
                None => Ok(None),
                Some(_) => Err(ModelError::input(
                    "the first image",
                    "this transformer is made for text alone and takes no image",
                )),
            };
        };
        let Some(image) = first_image else {
            let [height, width] = self.grid.plane(video.resolution());
            let channels = self.grid.frames + self.grid.channels;
            let size = [
                channels,
                self.grid.latent_frames(video.frames),
                height,
                width,
            ];
            let zeros = Tensor::f_zeros(size.map(i64::from), (Kind::Float, self.device))?;
            return Ok(Some(zeros.f_unsqueeze(0)?));
        };
        let first = pixels(&[image], video.resolution(), self.device)?;
        let (_, _, height, width) = first.size4()?;
        let rest = [3, i64::from(video.frames) - 1, height, width];
        let rest = Tensor::f_zeros(rest, (Kind::Float, self.device))?;
        let clip = encode_clip(vae, &Tensor::f_cat(&[first, rest], 1)?)?;
        let opening = Opening::LastFrame;
        let channels = condition_channels(self.grid, &[], &clip, video.frames, opening)?;
        Ok(Some(channels.f_unsqueeze(0)?))
    }

    /// Hidden states before the last layer of the vision tower; without an image those of a black one.
    fn image_tokens(&mut self, first_image: Option<&RgbImage>) -> Result<Option<Tensor>> {
        let Some(tower) = &self.tower else {
            return Ok(None);
        };
        let side = tower.config().image_size as u32;
        let tokens = |picture: &image::RgbImage| -> Result<Tensor> {
            let pixels = pixel_values(&[picture], side, PixelRule::Processor)?;
            Ok(tower.forward(&pixels)?.penultimate)
        };
        if let Some(image) = first_image {
            return Ok(Some(tokens(&plain_picture(image)?)?));
        }
        let black = match &self.black {
            Some(known) => known.shallow_clone(),
            None => tokens(&image::RgbImage::new(side, side))?,
        };
        self.black = Some(black.shallow_clone());
        Ok(Some(black))
    }
}
