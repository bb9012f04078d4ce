//! `selector = "clip"`: what the learned selector is trained to say of each latent frame, computed from the decoded
//! frames (specification `onestory`, sections 5.3 and 9).
//!
//! It is an oracle of labels and no OneStory: it knows which shots share a character, by the tags of the story
//! script, and looks at pictures. Each shot is looked at once, when it is kept: what CLIP and DINOv2 see of its frames
//! is kept with its latents.

use std::collections::BTreeMap;
use std::sync::Mutex;

use storyloom_models::text::clip::ClipPrompts;
use storyloom_models::vision::clip::{ClipVision, PixelRule, pixel_values};
use storyloom_models::vision::dino::{DinoPixels, DinoVision};
use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::image::plain_picture;
use storyloom_nn::tensor_file::to_host;
use storyloom_story::onestory::{History, scores_table};
use storyloom_story::{Clip, HostTensor, MemoryFrame, ShotInputs};
use tch::Device;

use super::choose::Chooser;
use super::encode::check_caption;
use super::likeness::{Features, likeness};
use super::paths::OneStoryPaths;
use super::select;
use crate::replica::station::lock;

/// The array of a kept shot with what CLIP sees of its frames, `[T, projection]` of length 1, f32.
const CLIP: &str = "clip";
/// The array of a kept shot with what DINOv2 sees of its frames, `[T, width]` of length 1, f32.
const DINO: &str = "dino";

/// The networks that labels are computed by. Whole on the leader of a replica, in f32.
#[derive(Debug)]
pub(super) struct Labels {
    captions: ClipPrompts,
    clip: ClipVision,
    dino: DinoVision,
    /// Frames between two that are looked at.
    stride: usize,
}

/// One score for each latent frame of the history of a shot, `[F]` in f32; `[1]` with a 0 where there is none.
pub(super) fn scores(
    labels: &Mutex<Labels>,
    chooser: &Chooser,
    inputs: &ShotInputs,
) -> Result<HostTensor> {
    check_caption(&inputs.request)?;
    let history = select::history(inputs)?;
    match chooser.known_scores(inputs, &history)? {
        Some(scores) => Ok(scores),
        None => lock(labels).scores(chooser, inputs, &history),
    }
}

impl Labels {
    /// Loads them. `stride` is the number of frames that a latent frame stands for.
    pub(super) fn open(paths: &OneStoryPaths, target: Target, stride: u32) -> Result<Self> {
        let folders = paths.labels();
        let captions = ClipPrompts::open(&folders.text, &folders.tokenizer, target)?;
        let clip = ClipVision::open(&folders.image, target)?;
        let (text, image) = (
            captions.tower().config().projection_dim,
            clip.config().projection_dim,
        );
        if text != image {
            let reason = format!(
                "captions become {text} numbers and pictures {image}: the two towers are not of one CLIP"
            );
            return Err(ModelError::bad_file(folders.text, reason));
        }
        Ok(Self {
            captions,
            clip,
            dino: DinoVision::open(&folders.dino, target)?,
            stride: stride.max(1) as usize,
        })
    }

    /// What is seen of a shot whose decoded frames are `clip`, as arrays that are kept with it: of the first frame, and
    /// of every one that a further latent frame ends with.
    pub(super) fn features(&self, clip: &Clip) -> Result<BTreeMap<String, HostTensor>> {
        let _guard = tch::no_grad_guard();
        let frames = clip.frames().iter().step_by(self.stride);
        let frames = frames.map(plain_picture).collect::<Result<Vec<_>>>()?;
        let frames: Vec<&image::RgbImage> = frames.iter().collect();
        let side = self.clip.config().image_size as u32;
        let pixels = pixel_values(&frames, side, PixelRule::Processor)?;
        let clip = self.clip.embed_normalised(&pixels)?;
        let pixels = DinoPixels::of_tower(self.dino.config()).values(&frames)?;
        let dino = self.dino.embed_normalised(&pixels)?;
        Ok(BTreeMap::from([
            (CLIP.to_owned(), to_host(&clip)?),
            (DINO.to_owned(), to_host(&dino)?),
        ]))
    }

    fn scores(
        &self,
        chooser: &Chooser,
        inputs: &ShotInputs,
        history: &History,
    ) -> Result<HostTensor> {
        let _guard = tch::no_grad_guard();
        let caption = self
            .captions
            .embed_normalised(&[inputs.request.prompt.as_str()])?;
        let caption = Vec::<f32>::try_from(&caption.f_flatten(0, -1)?.f_to_device(Device::Cpu)?)?;
        let shots = chooser.shots(inputs, history)?;
        let shots = shots.iter().zip(&history.shots);
        let shots = shots
            .map(|(item, &frames)| self.seen_of(item, frames))
            .collect::<Result<Vec<_>>>()?;
        let related = &inputs.request.related;
        Ok(scores_table(likeness(&caption, &shots, related)))
    }

    /// What was seen of an earlier shot of `frames` latent frames.
    fn seen_of(&self, item: &MemoryFrame, frames: usize) -> Result<Features> {
        let widths = [
            self.clip.config().projection_dim,
            self.dino.config().hidden_size,
        ];
        let [clip, dino] = [CLIP, DINO].map(|name| {
            let array = item.arrays.get(name);
            let missing = || format!("nothing is kept of what {name} sees of its frames");
            array.ok_or_else(|| select::of_item(item, missing()))
        });
        let (clip, dino) = (clip?, dino?);
        for (name, array, width) in [(CLIP, clip, widths[0]), (DINO, dino, widths[1])] {
            let wanted = [frames, width as usize];
            if array.shape() != wanted {
                let reason = format!(
                    "what {name} sees of its frames is {:?}, and not {wanted:?}",
                    array.shape()
                );
                return Err(select::of_item(item, reason));
            }
        }
        Ok(Features {
            clip: clip.read()?.as_ref().clone(),
            dino: dino.read()?.as_ref().clone(),
        })
    }
}
