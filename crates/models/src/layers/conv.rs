//! Convolutions over video, causal in time and streamed in chunks.

use tch::{Kind, Tensor};

use crate::checkpoint::Weights;
use crate::error::{ModelError, Result};

/// What causal layers remember of the chunks before, in the order in which a forward meets them.
#[derive(Debug, Default)]
pub struct StreamCache {
    slots: Vec<Option<Tensor>>,
    next: usize,
    chunks: usize,
}

impl StreamCache {
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
/// Kernels are 3x3x3, 3x1x1 or 1x1x1, stride 1, spatial padding that keeps the size.
#[derive(Debug)]
pub struct CausalConv3d {
    /// `[outputs, time * inputs, height, width]`, see [`CausalConv3d::forward`].
    weight: Tensor,
    bias: Tensor,
    time: i64,
    spatial: i64,
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
        let weight =
            weight
                .f_transpose(1, 2)?
                .f_reshape([outputs, time * inputs, spatial, spatial])?;
        Ok(Self {
            weight,
            bias: weights.take("bias", &[outputs])?,
            time,
            spatial,
        })
    }

    /// `[1, inputs, frames, height, width]` to the same with `outputs` channels.
    ///
    /// The time taps are laid side by side as channels, so that one 2D convolution over frames
    /// does the work: libtorch's 2D path is faster than its 3D path on the CPU.
    pub fn forward(&self, input: &Tensor, cache: &mut StreamCache) -> Result<Tensor> {
        let frames = input.size()[2];
        if self.time == 1 {
            return from_frames(&self.conv2d(&to_frames(input)?)?);
        }
        let slot = cache.slot();
        let history = with_history(input, slot.as_ref(), self.time - 1)?;
        *slot = Some(last_frames(&history, self.time - 1)?);
        let taps: Vec<Tensor> = (0..self.time)
            .map(|tap| to_frames(&history.f_narrow(2, tap, frames)?))
            .collect::<Result<_>>()?;
        from_frames(&self.conv2d(&Tensor::f_cat(&taps, 1)?)?)
    }

    /// Every second output, without padding: `frames` of `2n + 1` give `n`.
    ///
    /// Stateless; the caller puts the last frame of the chunk before in front.
    pub fn forward_stride_two(&self, input: &Tensor) -> Result<Tensor> {
        let outputs = (input.size()[2] - self.time) / 2 + 1;
        let taps: Vec<Tensor> = (0..self.time)
            .map(|tap| to_frames(&input.f_slice(2, tap, tap + 2 * outputs - 1, 2)?))
            .collect::<Result<_>>()?;
        from_frames(&self.conv2d(&Tensor::f_cat(&taps, 1)?)?)
    }

    fn conv2d(&self, frames: &Tensor) -> Result<Tensor> {
        let padding = self.spatial / 2;
        Ok(frames.f_conv2d(
            &self.weight,
            Some(&self.bias),
            [1, 1],
            [padding, padding],
            [1, 1],
            1,
        )?)
    }
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
    let mut parts = Vec::with_capacity(3);
    if known < wanted {
        let mut size = input.size();
        size[2] = wanted - known;
        parts.push(Tensor::f_zeros(&size, (input.kind(), input.device()))?);
    }
    parts.extend(remembered.map(Tensor::shallow_clone));
    parts.push(input.shallow_clone());
    Ok(Tensor::f_cat(&parts, 2)?)
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
        let flat = weight.transpose(1, 2).reshape([4, 9, 3, 3]);
        let bias = cosines(&[4], 0.1);
        (
            CausalConv3d {
                weight: flat,
                bias,
                time: 3,
                spatial: 3,
            },
            weight,
        )
    }

    #[test]
    fn equals_a_padded_3d_convolution() {
        let (conv, weight) = conv();
        let video = cosines(&[1, 3, 5, 4, 6], 1.0);
        let padded = video.constant_pad_nd([1, 1, 1, 1, 2, 0]);
        let expected = padded.conv3d(&weight, Some(&conv.bias), [1; 3], [0; 3], [1; 3], 1);
        let mut cache = StreamCache::default();
        cache.begin_chunk();
        let found = conv.forward(&video, &mut cache).unwrap();
        assert!(relative_error(&found, &expected) < 1e-6);
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
