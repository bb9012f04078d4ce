//! Convolutions over video, causal in time and streamed in chunks.

use std::cell::OnceCell;

use tch::{Device, Kind, Tensor};

use crate::checkpoint::Weights;
use crate::error::{ModelError, Result};
use crate::gradients;
use crate::shard::Peers;

/// What causal layers remember of the chunks before, in the order in which a forward meets them.
#[derive(Debug, Default)]
pub struct StreamCache {
    slots: Vec<Option<Tensor>>,
    next: usize,
    chunks: usize,
    rows: Peers,
}

impl StreamCache {
    /// A cache for a clip whose rows lie on this rank and on `rows`.
    pub fn of_strip(rows: Peers) -> Self {
        Self {
            rows,
            ..Self::default()
        }
    }

    /// The ranks that have the other rows.
    pub fn rows(&self) -> &Peers {
        &self.rows
    }

    /// Call at the start of every chunk.
    pub fn begin_chunk(&mut self) {
        self.next = 0;
        self.chunks += 1;
    }

    /// Whether the present chunk is the first of the clip.
    pub fn is_first_chunk(&self) -> bool {
        self.chunks <= 1
    }

    /// The slot of the layer that asks; layers ask once per chunk, always in the same order.
    pub fn slot(&mut self) -> &mut Option<Tensor> {
        if self.next == self.slots.len() {
            self.slots.push(None);
        }
        self.next += 1;
        &mut self.slots[self.next - 1]
    }
}

/// A 3D convolution that sees no later frame: time is padded on the left only.
///
/// Kernels are 3x3x3, 3x1x1 or 1x1x1, stride 1, spatial padding that keeps the size. Results lie
/// in memory with channels innermost, which is what libtorch's CPU convolution is fastest at.
#[derive(Debug)]
pub struct CausalConv3d {
    /// `[outputs, time * inputs, height, width]`, see [`CausalConv3d::forward`].
    weight: Tensor,
    bias: Tensor,
    time: i64,
    spatial: i64,
    /// Weights for several frames at once, made when first needed.
    tiles: [OnceCell<Vec<Tensor>>; 2],
}

impl CausalConv3d {
    /// Loads `weight` `[outputs, inputs, time, spatial, spatial]` and `bias`, in f32.
    pub fn load(
        weights: &Weights,
        inputs: i64,
        outputs: i64,
        [time, spatial]: [i64; 2],
    ) -> Result<Self> {
        let weights = weights.with_kind(Kind::Float);
        let weight = weights.take("weight", &[outputs, inputs, time, spatial, spatial])?;
        Self::new(&weight, weights.take("bias", &[outputs])?)
    }

    fn new(weight: &Tensor, bias: Tensor) -> Result<Self> {
        let (outputs, inputs, time, spatial, _) = weight.size5()?;
        let flat = weight.f_transpose(1, 2)?;
        let flat = flat.f_reshape([outputs, time * inputs, spatial, spatial])?;
        Ok(Self {
            weight: channels_innermost(&flat)?,
            bias,
            time,
            spatial,
            tiles: Default::default(),
        })
    }

    /// `[1, inputs, frames, height, width]` f32 to the same with `outputs` channels. A whole clip or a
    /// chunk: reads and replaces `time - 1` frames of `cache`. Where the rows lie on several ranks, all of
    /// them call it, and fetch the neighbours' rows at the edges of their strips.
    pub fn forward(&self, input: &Tensor, cache: &mut StreamCache) -> Result<Tensor> {
        let frames = input.size()[2];
        // The neighbours' rows take the place of the zeros that pad a whole picture.
        let is_strip = self.spatial > 1 && cache.rows().part().of > 1;
        let padding = if is_strip { 0 } else { self.spatial / 2 };
        let input = &if is_strip {
            cache.rows().with_neighbours(input)?
        } else {
            input.shallow_clone()
        };
        if self.time == 1 {
            return from_frames(&self.conv2d(&to_frames(input)?, padding)?);
        }
        let slot = cache.slot();
        if frames == 1 && slot.is_none() && gradients::are_wanted() {
            // There is nothing before a first frame: training leaves the zeros out.
            *slot = Some(input.shallow_clone());
            let inputs = self.weight.size()[1] / self.time;
            let last = self.weight.f_narrow(1, (self.time - 1) * inputs, inputs)?;
            let frame = to_frames(input)?;
            return from_frames(&self.conv2d_with(&frame, padding, &last, Some(&self.bias))?);
        }
        let history = with_history(input, slot.as_ref(), self.time - 1)?;
        *slot = Some(last_frames(&history, self.time - 1)?);
        let history = to_frames(&history)?;
        let mut parts = Vec::with_capacity(3);
        let mut done = 0;
        // Graphics cards have faster kernels of their own, and gradients need the taps themselves.
        let tiles = history.device() == Device::Cpu && !gradients::are_wanted();
        for (plan, weights) in tile_plans().iter().zip(&self.tiles) {
            let count = (frames - done) / plan.outputs;
            if count == 0 || self.time != 3 || !tiles {
                continue;
            }
            let length = count * plan.outputs;
            let window = history.f_narrow(0, done, length + 2)?;
            parts.push(self.tiled(&window, padding, count, plan, weights)?);
            done += length;
        }
        if done < frames {
            parts.push(self.direct(&history, padding, done, frames - done)?);
        }
        from_frames(&match parts.len() {
            1 => parts.swap_remove(0),
            _ => Tensor::f_cat(&parts, 0)?,
        })
    }

    /// Output frames `from .. from + frames`, of a history of frames `[frames, inputs, h, w]`.
    ///
    /// The time taps are laid side by side as channels, so that one 2D convolution over frames
    /// does the work: libtorch's 2D path is faster than its 3D path on the CPU.
    fn direct(&self, history: &Tensor, padding: i64, from: i64, frames: i64) -> Result<Tensor> {
        let taps: Vec<Tensor> = (0..self.time)
            .map(|tap| history.f_narrow(0, from + tap, frames))
            .collect::<Result<_, _>>()?;
        self.conv2d(&Tensor::f_cat(&taps, 1)?, padding)
    }

    /// `count * plan.outputs` output frames with fewer 2D convolutions than taps times frames:
    /// Winograd's minimal filtering along time.
    fn tiled(
        &self,
        history: &Tensor,
        padding: i64,
        count: i64,
        plan: &TilePlan,
        weights: &OnceCell<Vec<Tensor>>,
    ) -> Result<Tensor> {
        let points = plan.outputs + 2;
        let (_, inputs, height, width) = history.size4()?;
        let windows = windows(history, count, plan)?.f_view([points, -1])?;
        let mixed = matrix(plan.input, points)?
            .f_matmul(&windows)?
            .f_view([points, count, height, width, inputs])?
            .f_permute([0, 1, 4, 2, 3])?;
        let mut products = Vec::with_capacity(plan.outputs as usize + 2);
        for (point, weight) in self.tile_weights(plan, weights)?.iter().enumerate() {
            // Every output of a tile takes the second product exactly once.
            let bias = (point == 1).then_some(&self.bias);
            let frames = mixed.f_select(0, point as i64)?;
            let product = self.conv2d_with(&frames, padding, weight, bias)?;
            products.push(product.f_permute([0, 2, 3, 1])?);
        }
        let height = height + 2 * padding - 2 * (self.spatial / 2);
        let products = Tensor::f_stack(&products, 0)?.f_view([points, -1])?;
        let outputs = matrix(plan.output, plan.outputs)?.f_matmul(&products)?;
        let outputs = outputs
            .f_view([plan.outputs, count, height, width, -1])?
            .f_transpose(0, 1)?
            .f_reshape([plan.outputs * count, height, width, -1])?;
        Ok(outputs.f_permute([0, 3, 1, 2])?)
    }

    fn tile_weights<'a>(
        &self,
        plan: &TilePlan,
        cell: &'a OnceCell<Vec<Tensor>>,
    ) -> Result<&'a [Tensor]> {
        if let Some(weights) = cell.get() {
            return Ok(weights);
        }
        let (outputs, stacked, height, width) = self.weight.size4()?;
        let taps = self
            .weight
            .f_reshape([outputs, 3, stacked / 3, height, width])?
            .f_transpose(0, 1)?
            .f_reshape([3, -1])?;
        let points = plan.outputs + 2;
        let mixed = matrix(plan.taps, points)?.f_matmul(&taps)?;
        let mixed = mixed.f_view([points, outputs, stacked / 3, height, width])?;
        let weights = (0..points)
            .map(|point| channels_innermost(&mixed.f_select(0, point)?))
            .collect::<Result<Vec<_>>>()?;
        Ok(cell.get_or_init(|| weights))
    }

    /// `[1, inputs, frames, height, width]` f32 to every second output in time, `[1, outputs, n, height,
    /// width]`, without padding: `frames` of `2n + 1` give `n`. All rows on this rank; no collective.
    ///
    /// Stateless; the caller puts the last frame of the chunk before in front.
    pub fn forward_stride_two(&self, input: &Tensor) -> Result<Tensor> {
        let outputs = (input.size()[2] - self.time) / 2 + 1;
        let taps: Vec<Tensor> = (0..self.time)
            .map(|tap| to_frames(&input.f_slice(2, tap, tap + 2 * outputs - 1, 2)?))
            .collect::<Result<_>>()?;
        from_frames(&self.conv2d(&Tensor::f_cat(&taps, 1)?, self.spatial / 2)?)
    }

    /// `padding` counts rows; columns are always padded so that the width stays.
    fn conv2d(&self, frames: &Tensor, padding: i64) -> Result<Tensor> {
        self.conv2d_with(frames, padding, &self.weight, Some(&self.bias))
    }

    fn conv2d_with(
        &self,
        frames: &Tensor,
        padding: i64,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let padding = [padding, self.spatial / 2];
        Ok(frames.f_conv2d(weight, bias, [1, 1], padding, [1, 1], 1)?)
    }
}

/// Frames `[frames, channels, h, w]` to `[points * count, h, w, channels]`: the first frame of
/// each of `count` overlapping windows, then the second of each, and so on.
fn windows(history: &Tensor, count: i64, plan: &TilePlan) -> Result<Tensor> {
    let pixels = history.f_permute([0, 2, 3, 1])?.f_contiguous()?;
    if count == 1 {
        return Ok(pixels);
    }
    let span = plan.outputs * (count - 1) + 1;
    let points: Vec<Tensor> = (0..plan.outputs + 2)
        .map(|point| pixels.f_slice(0, point, point + span, plan.outputs))
        .collect::<Result<_, _>>()?;
    Ok(Tensor::f_cat(&points, 0)?)
}

/// Winograd's filtering of three taps: `outputs` frames from `outputs + 2` products, row by row
/// (Lavin and Gray, "Fast algorithms for convolutional neural networks").
struct TilePlan {
    outputs: i64,
    /// `[points, points]`, applied to the frames of a window.
    input: &'static [f32],
    /// `[points, 3]`, applied to the taps.
    taps: &'static [f32],
    /// `[outputs, points]`, applied to the products.
    output: &'static [f32],
}

/// Widest first. Four frames take 6 products instead of 12, two take 4 instead of 6.
#[rustfmt::skip]
fn tile_plans() -> [TilePlan; 2] {
    [
        TilePlan {
            outputs: 4,
            input: &[
                4.0, 0.0, -5.0, 0.0, 1.0, 0.0,
                0.0, -4.0, -4.0, 1.0, 1.0, 0.0,
                0.0, 4.0, -4.0, -1.0, 1.0, 0.0,
                0.0, -2.0, -1.0, 2.0, 1.0, 0.0,
                0.0, 2.0, -1.0, -2.0, 1.0, 0.0,
                0.0, 4.0, 0.0, -5.0, 0.0, 1.0,
            ],
            taps: &[
                1.0 / 4.0, 0.0, 0.0,
                -1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0,
                -1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0,
                1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0,
                1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0,
                0.0, 0.0, 1.0,
            ],
            output: &[
                1.0, 1.0, 1.0, 1.0, 1.0, 0.0,
                0.0, 1.0, -1.0, 2.0, -2.0, 0.0,
                0.0, 1.0, 1.0, 4.0, 4.0, 0.0,
                0.0, 1.0, -1.0, 8.0, -8.0, 1.0,
            ],
        },
        TilePlan {
            outputs: 2,
            input: &[
                1.0, 0.0, -1.0, 0.0,
                0.0, 1.0, 1.0, 0.0,
                0.0, -1.0, 1.0, 0.0,
                0.0, -1.0, 0.0, 1.0,
            ],
            taps: &[1.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, -0.5, 0.5, 0.0, 0.0, 1.0],
            output: &[1.0, 1.0, 1.0, 0.0, 0.0, 1.0, -1.0, 1.0],
        },
    ]
}

fn matrix(values: &[f32], rows: i64) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_view([rows, -1])?)
}

/// The same `[n, channels, h, w]`, laid out in memory with channels innermost.
pub fn channels_innermost(tensor: &Tensor) -> Result<Tensor> {
    let moved = tensor.f_permute([0, 2, 3, 1])?.f_contiguous()?;
    Ok(moved.f_permute([0, 3, 1, 2])?)
}

/// `[1, channels, frames, height, width]` to `[frames, channels, height, width]`.
pub fn to_frames(video: &Tensor) -> Result<Tensor> {
    let batch = video.size().first().copied().unwrap_or(0);
    if batch != 1 {
        return Err(ModelError::input(
            "video",
            format!("a batch of 1 is needed, found {batch}"),
        ));
    }
    Ok(video.f_squeeze_dim(0)?.f_transpose(0, 1)?)
}

/// The inverse of [`to_frames`].
pub fn from_frames(frames: &Tensor) -> Result<Tensor> {
    Ok(frames.f_transpose(0, 1)?.f_unsqueeze(0)?)
}

/// Puts the remembered frames, and zeros for those that never were, before `input`.
pub fn with_history(input: &Tensor, remembered: Option<&Tensor>, wanted: i64) -> Result<Tensor> {
    let known = remembered.map_or(0, |tensor| tensor.size()[2]);
    let frames = to_frames(input)?;
    let mut parts = Vec::with_capacity(3);
    if known < wanted {
        let (_, channels, height, width) = frames.size4()?;
        let size = [wanted - known, height, width, channels];
        let zeros = Tensor::f_zeros(size, (input.kind(), input.device()))?;
        parts.push(zeros.f_permute([0, 3, 1, 2])?);
    }
    if let Some(remembered) = remembered {
        parts.push(to_frames(remembered)?);
    }
    parts.push(frames);
    // Laid together as frames: only so does libtorch keep channels innermost.
    from_frames(&Tensor::f_cat(&parts, 0)?)
}

/// A copy of the last `count` frames, or of all if there are fewer.
pub fn last_frames(video: &Tensor, count: i64) -> Result<Tensor> {
    let frames = video.size()[2];
    let count = count.min(frames);
    let view = video.f_narrow(2, frames - count, count)?;
    let mut copy = view.f_empty_like()?;
    copy.f_copy_(&view)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cosines, relative_error};

    fn conv() -> (CausalConv3d, Tensor) {
        let weight = cosines(&[4, 3, 3, 3, 3], 0.3);
        let conv = CausalConv3d::new(&weight, cosines(&[4], 0.1)).unwrap();
        (conv, weight)
    }

    #[test]
    fn equals_a_padded_3d_convolution() {
        let (conv, weight) = conv();
        for frames in 1..12 {
            let video = cosines(&[1, 3, frames, 4, 6], 1.0);
            let padded = video.constant_pad_nd([1, 1, 1, 1, 2, 0]);
            let expected = padded.conv3d(&weight, Some(&conv.bias), [1; 3], [0; 3], [1; 3], 1);
            let mut cache = StreamCache::default();
            cache.begin_chunk();
            let found = conv.forward(&video, &mut cache).unwrap();
            let error = relative_error(&found, &expected);
            assert!(error < 2e-6, "{frames} frames: {error:.1e}");
        }
    }

    #[test]
    fn chunks_equal_the_whole() {
        let (conv, _) = conv();
        let video = cosines(&[1, 3, 7, 4, 6], 1.0);
        let run = |lengths: &[i64]| {
            let mut cache = StreamCache::default();
            let mut start = 0;
            let parts: Vec<Tensor> = lengths
                .iter()
                .map(|&length| {
                    cache.begin_chunk();
                    start += length;
                    conv.forward(&video.narrow(2, start - length, length), &mut cache)
                        .unwrap()
                })
                .collect();
            Tensor::cat(&parts, 2)
        };
        let whole = run(&[7]);
        for lengths in [&[1, 1, 1, 1, 1, 1, 1][..], &[1, 4, 2], &[2, 5]] {
            assert!(relative_error(&run(lengths), &whole) < 1e-6, "{lengths:?}");
        }
    }
}
