//! Stage `decode`: latents become frames.

use storyloom_story::{Clip, HostTensor, ShotInputs};

use crate::engine::{StoryMemEngine, story_picture};
use crate::error::{ModelError, Result};
use crate::image::to_pictures;
use crate::tensor_file::from_host;

/// Latent frames that go through the decoder at a time.
const CHUNK: i64 = 1;

impl StoryMemEngine {
    /// Decodes the latents `[C, T, h, w]` of a shot and drops the frames it was given.
    pub fn decode(&self, inputs: &ShotInputs, latents: &HostTensor) -> Result<Clip> {
        let latents = from_host(latents, self.settings.target.device)?;
        let latents = self.vae.denormalize(&latents)?.f_unsqueeze(0)?;
        let mut frames = Vec::with_capacity(inputs.request.video.frames as usize);
        self.vae.decode_stream(&latents, CHUNK, &mut |piece| {
            let pictures = to_pictures(&piece.f_squeeze_dim(0)?)?;
            frames.extend(pictures.into_iter().map(story_picture));
            Ok(())
        })?;
        frames.drain(..inputs.request.opening.given_frames().min(frames.len()));
        let frames = frames.into_iter().collect::<Result<_>>()?;
        Clip::new(frames).ok_or_else(|| ModelError::input("latents", "they decode to no frame"))
    }
}
