//! What the orchestrator asks the models for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::RgbImage;
use crate::ids::{ShotId, StoryId};
use crate::method::{Method, Opening};
use crate::seed::Seed;
use crate::stored::StoredArray;
use crate::video::VideoSpec;

/// Everything that decides one shot, apart from the pictures it sees; part of its recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShotRequest {
    /// The story.
    pub story: StoryId,
    /// The shot inside the story.
    pub shot: ShotId,
    /// Which attempt this is, from 0; part of the seed.
    pub attempt: u32,
    /// The seed of the initial noise.
    pub seed: Seed,
    /// The method that conditions the shot.
    pub method: Method,
    /// How the shot begins.
    pub opening: Opening,
    /// What the shot shows.
    pub prompt: String,
    /// Earlier shots in which a character of this one is, by their places in the story, from 0, as its tags say;
    /// empty, and not written, where nothing of its method asks for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<u32>,
    /// Size, decoded frames and rate; a picture has one frame. The size is that of the story's first shot,
    /// and the one that is generated: its sides are multiples of the side of a token, and the film may be a
    /// little smaller.
    pub video: VideoSpec,
}

impl ShotRequest {
    /// Frames of the finished shot: what is decoded less what was given.
    pub fn saved_frames(&self) -> u32 {
        self.video
            .frames
            .saturating_sub(self.opening.given_frames() as u32)
    }
}

/// One item that a story remembers, as a shot sees it: a picture, arrays, or both.
#[derive(Debug, Clone)]
pub struct MemoryFrame {
    /// The digest under which lineage records it: blake3 of the PNG file where there is one, in
    /// hexadecimal.
    pub hash: String,
    /// The picture, lossless.
    pub image: Option<RgbImage>,
    /// What networks see of it, by names that the method gives. Values are read when they are asked for.
    pub arrays: BTreeMap<String, StoredArray>,
}

impl MemoryFrame {
    /// The name of the latents among the arrays: those of a picture are one normalised frame
    /// `[channels, 1, height, width]` at the story's size.
    pub const LATENTS: &'static str = "latents";

    /// The name of the latents `[channels, frames, height, width]` of a ready-made first shot, as the autoencoder
    /// encodes it. It is not [`LATENTS`](Self::LATENTS), by which later shots see what was made: they see the
    /// first shot as one of them.
    pub const FIRST_SHOT: &'static str = "first_shot";
}

/// A request together with the pictures that condition it.
#[derive(Debug, Clone)]
pub struct ShotInputs {
    /// The request.
    pub request: ShotRequest,
    /// What the shot is given of its story's memory, oldest first.
    pub memory: Vec<MemoryFrame>,
    /// The last frames of the shot before (`request.opening.given_frames()` of them), in time
    /// order; empty after a cut.
    pub previous_tail: Vec<RgbImage>,
}
