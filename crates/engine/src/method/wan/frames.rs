//! Latents to frames and frames to latents.

use std::path::Path;

use storyloom_models::autoencoder::AutoencoderKlWan;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::image::{pixels, story_picture, to_pictures};
use storyloom_nn::shard::Peers;
use storyloom_nn::tensor_file::{from_host, to_host};
use storyloom_story::{Clip, HostTensor, Resolution, RgbImage, ShotRequest};
use tch::{Device, Tensor};

/// Latent frames that go through the decoder at a time.
const CHUNK: i64 = 1;

/// The autoencoder of a pipeline, in f32.
#[derive(Debug)]
pub struct FrameDecoder {
    vae: AutoencoderKlWan,
    /// The ranks that hold the other rows of every picture.
    rows: Peers,
}

/// Networks of stage `decode`.
pub(in crate::method) trait HasFrames {
    /// What makes frames of latents.
    fn frames(&self) -> &FrameDecoder;
}

impl HasFrames for FrameDecoder {
    fn frames(&self) -> &FrameDecoder {
        self
    }
}

impl FrameDecoder {
    /// Loads the autoencoder of `pipeline`. `rows` are the ranks that decode together with this one.
    pub(in crate::method) fn open(pipeline: &Path, device: Device, rows: Peers) -> Result<Self> {
        Ok(Self {
            vae: AutoencoderKlWan::open(&pipeline.join("vae"), device)?,
            rows,
        })
    }

    /// Decodes the latents `[C, T, h, w]` of a shot and drops the frames it was given. With ranks
    /// that share the rows, these call [`decode_rows`](Self::decode_rows) with the same latents at the same
    /// time.
    pub fn decode(&self, request: &ShotRequest, latents: &HostTensor) -> Result<Clip> {
        let latents = from_host(latents, self.vae.device())?;
        let mut frames = Vec::with_capacity(request.video.frames as usize);
        self.decode_rows(&latents, &mut |piece| {
            let pictures = to_pictures(&piece.f_squeeze_dim(0)?)?;
            frames.extend(pictures.into_iter().map(story_picture));
            Ok(())
        })?;
        frames.drain(..request.opening.given_frames().min(frames.len()));
        let frames = frames.into_iter().collect::<Result<_>>()?;
        Clip::new(frames).ok_or_else(|| ModelError::input("latents", "they decode to no frame"))
    }

    /// Decodes normalised latents `[C, T, h, w]` together with the ranks that have the other rows.
    pub(in crate::method) fn decode_rows(
        &self,
        latents: &Tensor,
        each: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let latents = self.vae.denormalize(latents)?.f_unsqueeze(0)?;
        self.vae.decode_shared(&latents, CHUNK, &self.rows, each)
    }

    /// Pictures as the normalised latents `[C, T, h, w]` of one clip at the story's size; one picture is
    /// one latent frame.
    pub fn remember(&self, pictures: &[&RgbImage], size: Resolution) -> Result<HostTensor> {
        let clip = pixels(pictures, size, self.vae.device())?;
        to_host(&encode_clip(&self.vae, &clip)?)
    }
}

/// A picture as one normalised latent frame `[C, 1, h, w]` at the story's size.
pub(in crate::method) fn encode_picture(
    vae: &AutoencoderKlWan,
    picture: &RgbImage,
    size: Resolution,
) -> Result<Tensor> {
    encode_clip(vae, &pixels(&[picture], size, vae.device())?)
}

/// `[3, frames, height, width]` to normalised latents `[C, T, h, w]`.
pub(in crate::method) fn encode_clip(vae: &AutoencoderKlWan, clip: &Tensor) -> Result<Tensor> {
    let latents = vae.encode(&clip.f_unsqueeze(0)?)?;
    Ok(vae.normalize(&latents)?.f_squeeze_dim(0)?)
}
