//! Clips of the world as tensors.

use std::ops::Range;
use std::path::Path;

use storyloom_nn::tch::{Kind, Tensor};
use storyloom_story::RgbImage;
use storyloom_tinyworld::draws::Draws;
use storyloom_tinyworld::{Sample, Scene, Split, Story};

use crate::error::{Result, TrainError};

/// A piece of a clip, in frames and pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Frames.
    pub frames: i64,
    /// Rows, at most those of a frame.
    pub height: i64,
    /// Columns, at most those of a frame.
    pub width: i64,
}

/// Where clips come from: nothing is stored, all is drawn anew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClipSource {
    /// Width and height of a frame, pixels.
    pub size: [u32; 2],
    /// Frames of a clip.
    pub frames: usize,
}

impl ClipSource {
    /// A random piece of a random training clip: `[1, 3, frames, height, width]` in [-1, 1].
    pub fn crop(&self, draws: &mut Draws, window: Window) -> Result<Tensor> {
        let [width, height] = self.size.map(i64::from);
        let (rows, columns) = (window.height.min(height), window.width.min(width));
        let first = draws.below(self.frames - window.frames as usize + 1);
        let top = draws.below((height - rows) as usize + 1) as i64;
        let left = draws.below((width - columns) as usize + 1) as i64;
        let seed = draws.number();
        let frames = first..first + window.frames as usize;
        let sample = Sample::draw(seed, 0, Split::Train);
        let clip = self.draw(&sample.scene, frames)?;
        Ok(clip
            .f_narrow(2, top, rows)?
            .f_narrow(3, left, columns)?
            .f_unsqueeze(0)?
            .f_contiguous()?)
    }

    /// A shot of a held-out story, `[3, frames, height, width]` in [-1, 1].
    pub fn held_out(&self, seed: u64, shot: usize) -> Result<Tensor> {
        let story = Story::draw(seed, Split::HeldOut);
        self.draw(&story.shots[shot % story.shots.len()].scene, 0..self.frames)
    }

    /// Frames of a scene, `[3, frames, height, width]` in [-1, 1].
    pub fn draw(&self, scene: &Scene, frames: Range<usize>) -> Result<Tensor> {
        let [width, height] = self.size;
        let count = frames.len() as i64;
        let mut bytes = Vec::with_capacity(frames.len() * (width * height * 3) as usize);
        for frame in frames {
            // Only a picture without pixels cannot be drawn.
            if let Some(picture) = scene.render(frame, self.frames, width, height) {
                bytes.extend_from_slice(picture.data());
            }
        }
        to_clip(&bytes, count, self.size)
    }
}

/// The picture of `scene` at `moment` of its shot, from 0 to 1.
///
/// # Errors
/// A side of `size` (width and height, pixels) is 0.
pub fn picture(scene: &Scene, moment: f32, [width, height]: [u32; 2]) -> Result<RgbImage> {
    let empty = || TrainError::bad_file(Path::new("a picture of the world"), "it is empty");
    scene.render_at(moment, width, height).ok_or_else(empty)
}

/// Bytes, colours innermost, to `[3, frames, height, width]` in [-1, 1].
fn to_clip(bytes: &[u8], frames: i64, size: [u32; 2]) -> Result<Tensor> {
    let [width, height] = size.map(i64::from);
    let clip = Tensor::f_from_slice(bytes)?
        .f_view([frames, height, width, 3])?
        .f_permute([3, 0, 1, 2])?
        .f_to_kind(Kind::Float)?;
    Ok(clip
        .f_div_scalar(127.5)?
        .f_sub_scalar(1.0)?
        .f_contiguous()?)
}
