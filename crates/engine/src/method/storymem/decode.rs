//! Stage `decode`: latents become frames. The networks of `select` are here too.

use std::path::Path;

use storyloom_models::autoencoder::AutoencoderKlWan;
use storyloom_models::scorer::{self, QualityScorer};
use storyloom_models::vision::clip::{ClipVision, SelectionResize};
use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::image::{story_picture, to_pictures};
use storyloom_nn::shard::Peers;
use storyloom_nn::tensor_file::{from_host, to_host};
use storyloom_story::{Clip, HostTensor, Resolution, RgbImage, ShotRequest};
use tch::{Device, Tensor};

use super::encode::encode_picture;

/// Latent frames that go through the decoder at a time.
const CHUNK: i64 = 1;

/// What the stages `decode` and `select` are made of.
#[derive(Debug)]
pub(super) struct DecoderParts<'a> {
    /// The pipeline whose VAE is used.
    pub(super) pipeline: &'a Path,
    /// The vision tower that tells keyframes apart, if that is wanted.
    pub(super) clip: Option<&'a Path>,
    /// The predictor of quality; without one the rule serves.
    pub(super) aesthetic: Option<&'a Path>,
    /// Whose resize comes before the vision tower.
    pub(super) resize: SelectionResize,
    /// Where they are computed, all in f32.
    pub(super) device: Device,
}

/// The networks of the stages `decode` and `select`.
#[derive(Debug)]
pub struct Decoder {
    vae: AutoencoderKlWan,
    /// Tells keyframes apart, if that is wanted.
    pub(super) clip: Option<ClipVision>,
    pub(super) scorer: Box<dyn QualityScorer>,
    /// What comes before the vision tower.
    pub(super) resize: SelectionResize,
    /// The ranks that hold the other rows of every picture.
    rows: Peers,
}

impl Decoder {
    /// Loads VAE, vision tower and the score of quality. `rows` are the ranks that decode together with this one.
    pub(super) fn open(parts: &DecoderParts, rows: Peers) -> Result<Self> {
        let device = parts.device;
        let target = Target {
            device,
            ..Target::CPU_F32
        };
        Ok(Self {
            vae: AutoencoderKlWan::open(&parts.pipeline.join("vae"), device)?,
            clip: parts
                .clip
                .map(|clip| ClipVision::open(clip, target))
                .transpose()?,
            scorer: scorer::open(parts.aesthetic, target)?,
            resize: parts.resize,
            rows,
        })
    }

    /// Decodes the latents `[C, T, h, w]` of a shot and drops the frames it was given. With ranks
    /// that share the rows, these call [`decode_rows`] with the same latents at the same time.
    pub fn decode(&self, request: &ShotRequest, latents: &HostTensor) -> Result<Clip> {
        let latents = from_host(latents, self.vae.device())?;
        let mut frames = Vec::with_capacity(request.video.frames as usize);
        decode_rows(&self.vae, &latents, &self.rows, &mut |piece| {
            let pictures = to_pictures(&piece.f_squeeze_dim(0)?)?;
            frames.extend(pictures.into_iter().map(story_picture));
            Ok(())
        })?;
        frames.drain(..request.opening.given_frames().min(frames.len()));
        let frames = frames.into_iter().collect::<Result<_>>()?;
        Clip::new(frames).ok_or_else(|| ModelError::input("latents", "they decode to no frame"))
    }

    /// A picture as one normalised latent frame `[C, 1, h, w]` at the story's size.
    pub fn remember(&self, picture: &RgbImage, size: Resolution) -> Result<HostTensor> {
        to_host(&encode_picture(&self.vae, picture, size)?)
    }
}

/// Decodes normalised latents `[C, T, h, w]` together with the ranks that have the other rows.
pub(super) fn decode_rows(
    vae: &AutoencoderKlWan,
    latents: &Tensor,
    rows: &Peers,
    each: &mut dyn FnMut(Tensor) -> Result<()>,
) -> Result<()> {
    let latents = vae.denormalize(latents)?.f_unsqueeze(0)?;
    vae.decode_shared(&latents, CHUNK, rows, each)
}
