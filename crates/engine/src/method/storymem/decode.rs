//! The networks of the stages `decode` and `select`.

use std::path::Path;

use storyloom_models::scorer::{self, QualityScorer};
use storyloom_models::vision::clip::{ClipVision, SelectionResize};
use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::Result;
use storyloom_nn::shard::Peers;
use tch::Device;

use crate::method::wan::{FrameDecoder, HasFrames};

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
    frames: FrameDecoder,
    /// Tells keyframes apart, if that is wanted.
    pub(super) clip: Option<ClipVision>,
    pub(super) scorer: Box<dyn QualityScorer>,
    /// What comes before the vision tower.
    pub(super) resize: SelectionResize,
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
            frames: FrameDecoder::open(parts.pipeline, device, rows)?,
            clip: parts
                .clip
                .map(|clip| ClipVision::open(clip, target))
                .transpose()?,
            scorer: scorer::open(parts.aesthetic, target)?,
            resize: parts.resize,
        })
    }
}

impl HasFrames for Decoder {
    fn frames(&self) -> &FrameDecoder {
        &self.frames
    }
}
