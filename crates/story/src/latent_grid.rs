//! How videos become latents, and latents become tokens.

use serde::{Deserialize, Serialize};

use crate::video::{Resolution, VideoSpec};

/// What the autoencoder and the patches of a network make of pixels and frames. All rules about the
/// sides and the length of what is generated come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct LatentGrid {
    /// Pixels per latent along a side, at least 1.
    pub pixels: u32,
    /// Pixel frames per latent frame after the first, at least 1; the first frame has a latent of its
    /// own.
    pub frames: u32,
    /// Channels of a latent.
    pub channels: u32,
    /// Latents per token along a side, at least 1. A token has one latent frame.
    pub patch: u32,
}

/// A grid as somebody wrote it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    pixels: u32,
    frames: u32,
    channels: u32,
    patch: u32,
}

impl TryFrom<Written> for LatentGrid {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written {
            pixels,
            frames,
            channels,
            patch,
        } = written;
        if [pixels, frames, channels, patch].contains(&0) {
            return Err("pixels, frames, channels and patch must be at least 1");
        }
        Ok(Self {
            pixels,
            frames,
            channels,
            patch,
        })
    }
}

impl Default for LatentGrid {
    /// That of every run whose build knew no other.
    fn default() -> Self {
        Self::WAN_2_1
    }
}

impl LatentGrid {
    /// The autoencoder of Wan 2.1, which the A14B models of Wan 2.2 share (specification `wan22`,
    /// sections 1.1 and 3).
    pub const WAN_2_1: Self = Self {
        pixels: 8,
        frames: 4,
        channels: 16,
        patch: 2,
    };

    /// The autoencoder of Wan 2.2, which its 5B model has.
    pub const WAN_2_2: Self = Self {
        pixels: 16,
        frames: 4,
        channels: 48,
        patch: 2,
    };

    /// Whether it is the one that runs had before there was any other.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Pixels per token along a side: what is generated has sides that are multiples of it.
    pub const fn token_side(self) -> u32 {
        self.pixels.saturating_mul(self.patch)
    }

    /// Latent frames of a clip of `frames` pixel frames.
    pub const fn latent_frames(self, frames: u32) -> u32 {
        1 + frames.saturating_sub(1) / self.frames
    }

    /// Rows and columns of the latents of a picture.
    pub const fn plane(self, picture: Resolution) -> [u32; 2] {
        [picture.height / self.pixels, picture.width / self.pixels]
    }

    /// Latent frames, rows and columns of a clip.
    pub const fn latent_size(self, video: &VideoSpec) -> [u32; 3] {
        self.latent_clip([video.frames, video.height, video.width])
    }

    /// Latent frames, rows and columns of a clip of frames, height and width in pixels.
    pub const fn latent_clip(self, [frames, height, width]: [u32; 3]) -> [u32; 3] {
        let [rows, columns] = self.plane(Resolution { width, height });
        [self.latent_frames(frames), rows, columns]
    }

    /// Tokens of one latent frame of a picture.
    pub const fn frame_tokens(self, picture: Resolution) -> u32 {
        let side = self.token_side();
        (picture.width / side).saturating_mul(picture.height / side)
    }

    /// Whether clips can have `frames` frames: one, and any number of further latent frames.
    pub const fn is_length(self, frames: u32) -> bool {
        frames > 0 && (frames - 1).is_multiple_of(self.frames)
    }

    /// The possible length that is nearest to `frames`.
    pub const fn nearest_length(self, frames: u32) -> u32 {
        let half = frames.saturating_add(self.frames / 2).saturating_sub(1);
        (half / self.frames * self.frames).saturating_add(1)
    }

    /// The smallest possible length above `frames`.
    pub const fn length_above(self, frames: u32) -> u32 {
        match frames {
            0 => 1,
            _ => (self.latent_frames(frames).saturating_mul(self.frames)).saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Resolution = Resolution {
        width: 832,
        height: 480,
    };

    /// Specification `wan22`, section 6.1.
    #[test]
    fn tokens_of_the_published_sizes() {
        let clip = |width, height, frames| VideoSpec {
            width,
            height,
            frames,
            fps: 16,
        };
        for (grid, video, latent, tokens) in [
            (
                LatentGrid::WAN_2_1,
                clip(832, 480, 81),
                [21, 60, 104],
                32_760,
            ),
            (
                LatentGrid::WAN_2_1,
                clip(1280, 720, 81),
                [21, 90, 160],
                75_600,
            ),
            (
                LatentGrid::WAN_2_2,
                clip(1280, 704, 121),
                [31, 44, 80],
                27_280,
            ),
        ] {
            assert_eq!(grid.latent_size(&video), latent);
            let [frames, ..] = latent;
            assert_eq!(frames * grid.frame_tokens(video.resolution()), tokens);
        }
        assert_eq!(LatentGrid::WAN_2_1.token_side(), 16);
        assert_eq!(LatentGrid::WAN_2_1.plane(SMALL), [60, 104]);
    }

    /// Records may have been written by anybody.
    #[test]
    fn a_grid_without_pixels_is_none() {
        let text = r#"{"pixels":8,"frames":4,"channels":16,"patch":2}"#;
        let read = |text: &str| serde_json::from_str::<LatentGrid>(text);
        assert_eq!(read(text).unwrap(), LatentGrid::WAN_2_1);
        assert_eq!(serde_json::to_string(&LatentGrid::WAN_2_1).unwrap(), text);
        for wrong in ["\"pixels\":0", "\"pixels\":8,\"pixel\":8", "\"pixels\":-8"] {
            let found = read(&text.replace("\"pixels\":8", wrong));
            assert!(found.is_err(), "{wrong}: {found:?}");
        }
    }

    #[test]
    fn lengths_are_one_frame_and_whole_latent_frames() {
        let grid = LatentGrid::WAN_2_1;
        let possible: Vec<u32> = (0..14).filter(|&frames| grid.is_length(frames)).collect();
        assert_eq!(possible, [1, 5, 9, 13]);
        let nearest = [0, 1, 2, 3, 4, 6, 7, 80].map(|frames| grid.nearest_length(frames));
        assert_eq!(nearest, [1, 1, 1, 5, 5, 5, 9, 81]);
        assert_eq!(grid.nearest_length(u32::MAX), 4_294_967_293);
        assert_eq!(
            [0, 1, 2, 5].map(|frames| grid.length_above(frames)),
            [1, 5, 5, 9]
        );
        // One latent frame for each frame: everything is possible.
        let plain = LatentGrid { frames: 1, ..grid };
        assert!(plain.is_length(7) && !plain.is_length(0));
        assert_eq!((plain.nearest_length(7), plain.length_above(7)), (7, 8));
    }
}
