//! Size, length and rate of the videos of a run.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::latent_grid::LatentGrid;

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resolution {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl Resolution {
    /// The size at which a film of this size is made: the next one whose sides are multiples of the
    /// side of a token, which is 16 pixels with Wan 2.1.
    ///
    /// Latents, keyframes and the memory have it. The middle of each frame goes into the film.
    pub fn generated(self, grid: LatentGrid) -> Self {
        let multiple = grid.token_side();
        let side = |pixels: u32| pixels.div_ceil(multiple).saturating_mul(multiple);
        Self {
            width: side(self.width),
            height: side(self.height),
        }
    }

    /// The size of a story whose first picture is `reference`, with about as many pixels as
    /// `self` and the shape of `reference`.
    ///
    /// Sides are multiples of the side of a token. This is the
    /// rule of StoryMem's `memory2video` (specification, section 2.3), applied once per story:
    /// applied again to its own result it may drift by one token.
    pub fn shaped_like(self, reference: Self, grid: LatentGrid) -> Self {
        let multiple = grid.token_side();
        let area = f64::from(self.width) * f64::from(self.height);
        let ratio = f64::from(reference.height) / f64::from(reference.width);
        let side = |square: f64| {
            let pixels = square.sqrt().round_ties_even();
            (pixels as u32 / multiple * multiple).max(multiple)
        };
        Self {
            width: side(area / ratio),
            height: side(area * ratio),
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// What every shot is asked to look like: of a run the size of its films, of a request to the models
/// the [generated](Resolution::generated) size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoSpec {
    /// Width in pixels, an even number.
    pub width: u32,
    /// Height in pixels, an even number.
    pub height: u32,
    /// Decoded frames of a shot: one, and whole [latent frames](LatentGrid::is_length) after it.
    pub frames: u32,
    /// Frames per second of the written files.
    pub fps: u32,
}

/// A video specification that no shot can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VideoSpecError {
    /// Width or height is zero or odd: a film has one colour for two pixels.
    #[error("video.{axis} = {value} must be a positive even number; the nearest is {nearest}")]
    Size {
        /// `width` or `height`.
        axis: &'static str,
        /// The given value.
        value: u32,
        /// The nearest legal value.
        nearest: u32,
    },
    /// Frames are not one and whole latent frames after it: `4n + 1` with the models of Wan.
    #[error("video.frames = {frames} must be {each}n + 1; the nearest is {nearest}")]
    Frames {
        /// The given value.
        frames: u32,
        /// Frames of a latent frame.
        each: u32,
        /// The nearest legal value.
        nearest: u32,
    },
    /// More pixels than one shot may have.
    #[error(
        "{width}x{height} pixels in {frames} frames are {pixels} in one shot, at most {most} are possible; \
         make video.frames, video.width or video.height smaller"
    )]
    Pixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Frames.
        frames: u32,
        /// All of them.
        pixels: u128,
        /// The bound.
        most: u128,
    },
    /// Zero frames per second.
    #[error("video.fps must be at least 1")]
    Rate,
}

impl VideoSpec {
    /// Most pixels of all frames of a shot: they are in memory at once. 81 frames of 4096x4096 are less.
    pub const MOST_PIXELS: u128 = 1 << 31;

    /// Refuses sizes that no film can have, and lengths that the video models cannot produce.
    pub fn check(&self, grid: LatentGrid) -> Result<(), VideoSpecError> {
        for (axis, value) in [("width", self.width), ("height", self.height)] {
            if value == 0 || !value.is_multiple_of(2) {
                let nearest = (value.saturating_add(1) / 2 * 2).max(2);
                return Err(VideoSpecError::Size {
                    axis,
                    value,
                    nearest,
                });
            }
        }
        if !grid.is_length(self.frames) {
            return Err(VideoSpecError::Frames {
                frames: self.frames,
                each: grid.frames,
                nearest: grid.nearest_length(self.frames),
            });
        }
        let pixels = u128::from(self.width) * u128::from(self.height) * u128::from(self.frames);
        if pixels > Self::MOST_PIXELS {
            return Err(VideoSpecError::Pixels {
                width: self.width,
                height: self.height,
                frames: self.frames,
                pixels,
                most: Self::MOST_PIXELS,
            });
        }
        if self.fps == 0 {
            return Err(VideoSpecError::Rate);
        }
        Ok(())
    }

    /// The frame size.
    pub const fn resolution(&self) -> Resolution {
        Resolution {
            width: self.width,
            height: self.height,
        }
    }
}

/// An optional size as manifests write it: `[width, height]`.
pub(crate) mod pair {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::video::Resolution;

    pub(crate) fn serialize<S: Serializer>(
        size: &Option<Resolution>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        size.map(|size| [size.width, size.height])
            .serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Resolution>, D::Error> {
        let sides = Option::<[u32; 2]>::deserialize(deserializer)?;
        Ok(sides.map(|[width, height]| Resolution { width, height }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: LatentGrid = LatentGrid::WAN_2_1;

    /// StoryMem specification, section 2.3 and section 10 item 17.
    #[test]
    fn a_story_takes_the_shape_of_its_first_picture() {
        let area = Resolution {
            width: 832,
            height: 480,
        };
        let shaped = |width, height| area.shaped_like(Resolution { width, height }, GRID);
        assert_eq!(shaped(832, 480), area);
        assert_eq!(
            shaped(480, 832),
            Resolution {
                width: 480,
                height: 832
            }
        );
        assert_eq!(
            shaped(1280, 720),
            Resolution {
                width: 832,
                height: 464
            }
        );
        assert_eq!(
            shaped(368, 240),
            Resolution {
                width: 768,
                height: 496
            }
        );
        assert_eq!(
            shaped(768, 496),
            Resolution {
                width: 784,
                height: 496
            }
        );
        assert!(shaped(1, 60_000).width >= 16);
    }

    #[test]
    fn a_film_is_made_at_the_next_size_that_covers_it() {
        let generated = |width, height| {
            let Resolution { width, height } = Resolution { width, height }.generated(GRID);
            (width, height)
        };
        assert_eq!(generated(1080, 1920), (1088, 1920));
        assert_eq!(generated(1920, 1080), (1920, 1088));
        assert_eq!(generated(832, 480), (832, 480));
        assert_eq!(generated(2, 18), (16, 32));
        assert_eq!(generated(16, 4096), (16, 4096));
    }

    #[test]
    fn wrong_specs_name_the_nearest_legal_value() {
        let good = VideoSpec {
            width: 832,
            height: 480,
            frames: 81,
            fps: 16,
        };
        assert_eq!(good.check(GRID), Ok(()));
        let cropped = VideoSpec { width: 830, ..good };
        assert_eq!(cropped.check(GRID), Ok(()));
        let odd = VideoSpec { width: 831, ..good };
        assert_eq!(
            odd.check(GRID),
            Err(VideoSpecError::Size {
                axis: "width",
                value: 831,
                nearest: 832
            })
        );
        let even = VideoSpec { frames: 80, ..good };
        assert_eq!(
            even.check(GRID),
            Err(VideoSpecError::Frames {
                frames: 80,
                each: 4,
                nearest: 81
            })
        );
        assert!(VideoSpec { frames: 0, ..good }.check(GRID).is_err());
    }
}
