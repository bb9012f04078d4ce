//! StoryMem: keyframes injected into the latents of Wan2.2 (arXiv 2512.19539).
//!
//! A shot with `M` memory pictures is sampled as `M + T` latent frames, memory first. The clean
//! memory enters only through the condition channels; its noise slots are sampled along and
//! dropped. Memory stands at negative temporal positions, so that the shot itself always starts
//! at zero. This follows the reference after its fix of January 2026 (specification, R2).

use storyloom_story::{LatentGrid, Opening};
use tch::{Kind, Tensor};

use storyloom_nn::error::{ModelError, Result};

/// Distance between memory slots on the temporal axis of the rotary embedding (paper 4.1).
pub const MEMORY_STRIDE: i64 = 5;

/// Temporal positions of `memory` slots followed by `latents` frames of the shot:
/// `-stride * memory, …, -stride, 0, 1, …` (specification, section 4.5).
///
/// With `stride` 1 attention equals that of consecutive positions, the behaviour of the first
/// release.
pub fn temporal_positions(memory: usize, latents: usize, stride: i64) -> Vec<i64> {
    let memory = memory as i64;
    (-memory..0)
        .map(|slot| slot * stride)
        .chain(0..latents as i64)
        .collect()
}

/// The condition mask, one row per latent frame with a channel for each of its pixel frames: four with
/// the models of Wan (section 4.3).
///
/// A row entry is 1 where its pixel frame is given: every memory picture, and the first frames of
/// a continued shot. The first `memory + 1` entries of the pixel sequence count for all channels.
pub fn condition_mask(
    grid: LatentGrid,
    memory: usize,
    frames: u32,
    opening: Opening,
) -> Vec<Vec<f32>> {
    let given = opening.given_frames();
    let pixel = |frame: usize| f32::from(u8::from(frame < given));
    let channels = grid.frames as usize;
    let memory_rows = std::iter::repeat_n(vec![1.0; channels], memory);
    let first = std::iter::once(vec![pixel(0); channels]);
    let rest = (1..grid.latent_frames(frames) as usize).map(|latent| {
        let start = 1 + (latent - 1) * channels;
        (start..start + channels).map(pixel).collect()
    });
    memory_rows.chain(first).chain(rest).collect()
}

/// Puts mask and condition latents together: `[4 + C, M + T, h, w]` in f32, four being the pixel
/// frames of a latent frame.
///
/// `memory` are `M` latents `[C, 1, h, w]`, oldest first; `clip` is the encoding `[C, T, h, w]`
/// of the given frames followed by grey, all normalised.
pub fn condition_channels(
    grid: LatentGrid,
    memory: &[Tensor],
    clip: &Tensor,
    frames: u32,
    opening: Opening,
) -> Result<Tensor> {
    let latents: Vec<&Tensor> = memory.iter().chain(std::iter::once(clip)).collect();
    let latents = Tensor::f_cat(&latents, 1)?;
    let (_, slots, height, width) = latents.size4()?;
    let mask = condition_mask(grid, memory.len(), frames, opening);
    if mask.len() as i64 != slots {
        return Err(ModelError::input(
            "condition latents",
            format!(
                "{slots} latent frames, but {frames} pixel frames make {}",
                mask.len()
            ),
        ));
    }
    let channels = i64::from(grid.frames);
    let mask = Tensor::f_from_slice(&mask.concat())?
        .f_view([slots, channels])?
        .f_transpose(0, 1)?
        .f_reshape([channels, slots, 1, 1])?
        .f_expand([channels, slots, height, width], false)?
        .f_to_device(latents.device())?;
    Ok(Tensor::f_cat(&[mask, latents.f_to_kind(Kind::Float)?], 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: LatentGrid = LatentGrid::WAN_2_1;

    /// Specification, section 10, items 1 to 4.
    #[test]
    fn memory_stands_at_negative_positions() {
        let shot: Vec<i64> = (0..21).collect();
        for (memory, expected) in [
            (0, vec![]),
            (1, vec![-5]),
            (3, vec![-15, -10, -5]),
            (10, (1..=10).rev().map(|slot| -5 * slot).collect()),
        ] {
            let positions = temporal_positions(memory, 21, MEMORY_STRIDE);
            assert_eq!(positions[..memory], expected[..]);
            assert_eq!(positions[memory..], shot[..]);
        }
        assert_eq!(temporal_positions(2, 2, 1), [-2, -1, 0, 1]);
    }

    /// Specification, section 10, item 7, and two longer clips.
    #[test]
    fn masks_mark_what_is_given() {
        let ones = [1.0; 4];
        let zeros = [0.0; 4];
        for (opening, third, fourth) in [
            (Opening::Memory, zeros, zeros),
            (Opening::LastFrame, ones, zeros),
            (Opening::Motion, ones, ones),
        ] {
            let mask = condition_mask(GRID, 2, 9, opening);
            assert_eq!(mask, [ones, ones, third, fourth, zeros], "{opening:?}");
        }
        assert_eq!(condition_mask(GRID, 10, 81, Opening::Memory).len(), 31);
        let given: f32 = condition_mask(GRID, 0, 81, Opening::Motion)
            .concat()
            .iter()
            .sum();
        assert_eq!(given, 8.0);
    }

    /// Specification, section 4.6: tokens of a shot at 480x832.
    #[test]
    fn sequence_lengths_of_the_full_size() {
        for (memory, tokens) in [
            (0, 32_760),
            (1, 34_320),
            (3, 37_440),
            (8, 45_240),
            (10, 48_360),
        ] {
            let slots =
                temporal_positions(memory, GRID.latent_frames(81) as usize, MEMORY_STRIDE).len();
            assert_eq!(slots * 30 * 52, tokens);
        }
    }

    #[test]
    fn channels_are_mask_then_latents_and_lengths_must_agree() {
        let memory = [Tensor::ones([2, 1, 3, 5], (Kind::Float, tch::Device::Cpu)) * 7.0];
        let clip = Tensor::zeros([2, 3, 3, 5], (Kind::Float, tch::Device::Cpu));
        let joined = condition_channels(GRID, &memory, &clip, 9, Opening::LastFrame).unwrap();
        assert_eq!(joined.size(), [6, 4, 3, 5]);
        let column: Vec<f32> =
            Vec::try_from(joined.select(3, 4).select(2, 2).reshape([-1])).unwrap();
        let expected = [
            [1.0, 1.0, 0.0, 0.0],
            [1.0, 1.0, 0.0, 0.0],
            [1.0, 1.0, 0.0, 0.0],
            [1.0, 1.0, 0.0, 0.0],
            [7.0, 0.0, 0.0, 0.0],
            [7.0, 0.0, 0.0, 0.0],
        ];
        assert_eq!(column, expected.as_flattened());
        assert!(condition_channels(GRID, &memory, &clip, 17, Opening::LastFrame).is_err());
    }
}
