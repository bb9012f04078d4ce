//! Halving and doubling of space and time, and the parameter-free shortcuts of Wan 2.2.

use tch::{Kind, Tensor};

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::layers::{
    CausalConv3d, StreamCache, channels_innermost, from_frames, last_frames, to_frames,
    with_history,
};

/// Halves rows and columns, then, if it has a time convolution, time.
#[derive(Debug)]
pub(super) struct Downsample {
    weight: Tensor,
    bias: Tensor,
    time: Option<CausalConv3d>,
}

impl Downsample {
    pub(super) fn load(weights: &Weights, channels: i64, halves_time: bool) -> Result<Self> {
        let conv = weights.sub("resample.1").with_kind(Kind::Float);
        let time = halves_time
            .then(|| CausalConv3d::load(&weights.sub("time_conv"), channels, channels, [3, 1]));
        Ok(Self {
            weight: channels_innermost(&conv.take("weight", &[channels, channels, 3, 3])?)?,
            bias: conv.take("bias", &[channels])?,
            time: time.transpose()?,
        })
    }

    /// `[1, channels, t, h, w]` f32 to `[1, channels, t', h / 2, w / 2]`, all rows on this rank. Without
    /// a time convolution `t' = t`; with one the first frame of a clip stays and every two behind it
    /// become one: reads and replaces one frame of `cache`.
    pub(super) fn forward(&self, input: &Tensor, cache: &mut StreamCache) -> Result<Tensor> {
        let frames = to_frames(input)?.f_constant_pad_nd([0, 1, 0, 1])?;
        let halved = frames.f_conv2d(&self.weight, Some(&self.bias), [2, 2], [0, 0], [1, 1], 1)?;
        let halved = from_frames(&halved)?;
        let Some(time) = &self.time else {
            return Ok(halved);
        };
        let first = cache.is_first_chunk();
        let slot = cache.slot();
        let joined = match slot.as_ref() {
            Some(last) => Tensor::f_cat(&[last, &halved], 2)?,
            None => halved.shallow_clone(),
        };
        *slot = Some(last_frames(&halved, 1)?);
        // The very first frame passes as it is; after it every two frames become one.
        let mut outputs = Vec::with_capacity(2);
        if first {
            outputs.push(halved.f_narrow(2, 0, 1)?);
        }
        if joined.size()[2] >= 3 {
            outputs.push(time.forward_stride_two(&joined)?);
        }
        Ok(Tensor::f_cat(&outputs, 2)?)
    }
}

/// Doubles time, if it has a time convolution, then rows and columns.
#[derive(Debug)]
pub(super) struct Upsample {
    weight: Tensor,
    bias: Tensor,
    time: Option<CausalConv3d>,
}

impl Upsample {
    pub(super) fn load(
        weights: &Weights,
        inputs: i64,
        outputs: i64,
        doubles_time: bool,
    ) -> Result<Self> {
        let conv = weights.sub("resample.1").with_kind(Kind::Float);
        let time = doubles_time
            .then(|| CausalConv3d::load(&weights.sub("time_conv"), inputs, 2 * inputs, [3, 1]));
        Ok(Self {
            weight: channels_innermost(&conv.take("weight", &[outputs, inputs, 3, 3])?)?,
            bias: conv.take("bias", &[outputs])?,
            time: time.transpose()?,
        })
    }

    /// `[1, inputs, t, h, w]` f32 to `[1, outputs, t', 2h, 2w]`. Without a time convolution `t' = t`;
    /// with one every frame but the first of a clip becomes two: reads and replaces two frames of
    /// `cache`. Where the rows lie on several ranks, the neighbours' rows at the edges are fetched.
    pub(super) fn forward(&self, input: &Tensor, cache: &mut StreamCache) -> Result<Tensor> {
        let doubled = match &self.time {
            Some(time) => double_time(input, time, cache)?,
            None => input.shallow_clone(),
        };
        let frames = to_frames(&doubled)?;
        let (_, _, height, width) = frames.size4()?;
        // Factors of two exactly, so "nearest" and "nearest-exact" agree.
        let enlarged = frames.f_upsample_nearest2d([2 * height, 2 * width], None, None)?;
        let is_strip = cache.rows().part().of > 1;
        let enlarged = cache.rows().with_neighbours(&enlarged)?;
        let padding = [if is_strip { 0 } else { 1 }, 1];
        let output =
            enlarged.f_conv2d(&self.weight, Some(&self.bias), [1, 1], padding, [1, 1], 1)?;
        from_frames(&output)
    }
}

/// The first frame of a clip passes as it is, and is not part of the history of the second;
/// every later frame becomes two.
fn double_time(input: &Tensor, time: &CausalConv3d, cache: &mut StreamCache) -> Result<Tensor> {
    let (batch, channels, frames, height, width) = input.size5()?;
    if !cache.is_first_chunk() {
        return interleave(&time.forward(input, cache)?, channels);
    }
    let first = input.f_narrow(2, 0, 1)?;
    if frames == 1 {
        // Claims the slot, so that the order of slots is the same in every chunk.
        *cache.slot() = None;
        return Ok(first);
    }
    let rest = input.f_narrow(2, 1, frames - 1)?;
    let rest = interleave(&time.forward(&rest, cache)?, channels)?;
    debug_assert_eq!(
        rest.size(),
        [batch, channels, 2 * (frames - 1), height, width]
    );
    Ok(Tensor::f_cat(&[first, rest], 2)?)
}

/// `[1, 2c, t, h, w]` to `[1, c, 2t, h, w]`: the first half of the channels is the earlier frame.
fn interleave(input: &Tensor, channels: i64) -> Result<Tensor> {
    let (_, _, frames, height, width) = input.size5()?;
    let doubled = to_frames(input)?
        .f_permute([0, 2, 3, 1])?
        .f_reshape([frames, height, width, 2, channels])?
        .f_permute([0, 3, 1, 2, 4])?
        .f_reshape([2 * frames, height, width, channels])?;
    from_frames(&doubled.f_permute([0, 3, 1, 2])?)
}

/// The averaging shortcut around a down stage of Wan 2.2.
#[derive(Debug)]
pub(super) struct AverageDown {
    outputs: i64,
    time: i64,
    space: i64,
}

impl AverageDown {
    pub(super) fn new(inputs: i64, outputs: i64, time: i64, space: i64) -> Result<Self> {
        if (inputs * time * space * space) % outputs != 0 {
            let reason = format!("{inputs} channels do not average into {outputs}");
            return Err(ModelError::input("VAE config", reason));
        }
        Ok(Self {
            outputs,
            time,
            space,
        })
    }

    /// `[1, inputs, t, h, w]` f32 to `[1, outputs, t / time, h / space, w / space]`, rounded up in time.
    /// Time is padded with zeros in front of a clip's first chunk, the only one of odd length.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let missing = (self.time - input.size()[2] % self.time) % self.time;
        let frames = input.size()[2] + missing;
        let padded = with_history(input, None, missing)?;
        let (batch, channels, _, height, width) = padded.size5()?;
        let (ft, fs) = (self.time, self.space);
        let groups = channels * ft * fs * fs / self.outputs;
        let [t, h, w] = [frames / ft, height / fs, width / fs];
        Ok(padded
            .f_reshape([batch, channels, t, ft, h, fs, w, fs])?
            .f_permute([0, 1, 3, 5, 7, 2, 4, 6])?
            .f_reshape([batch, self.outputs, groups, t, h, w])?
            .f_mean_dim([2_i64].as_slice(), false, None::<Kind>)?)
    }
}

/// The duplicating shortcut around an up stage of Wan 2.2.
#[derive(Debug)]
pub(super) struct DuplicateUp {
    outputs: i64,
    repeats: i64,
    time: i64,
    space: i64,
}

impl DuplicateUp {
    pub(super) fn new(inputs: i64, outputs: i64, time: i64, space: i64) -> Result<Self> {
        let copies = outputs * time * space * space;
        if copies % inputs != 0 {
            let reason = format!("{inputs} channels do not repeat into {outputs}");
            return Err(ModelError::input("VAE config", reason));
        }
        Ok(Self {
            outputs,
            repeats: copies / inputs,
            time,
            space,
        })
    }

    /// `[1, inputs, t, h, w]` f32 to `[1, outputs, t * time, h * space, w * space]`; of the first chunk
    /// of a clip the first `time - 1` frames are dropped. Strips of rows are done on their own.
    pub(super) fn forward(&self, input: &Tensor, first_chunk: bool) -> Result<Tensor> {
        let (batch, _, frames, height, width) = input.size5()?;
        let (ft, fs) = (self.time, self.space);
        let output = input
            .f_repeat_interleave_self_int(self.repeats, 1, None)?
            .f_reshape([batch, self.outputs, ft, fs, fs, frames, height, width])?
            .f_permute([0, 1, 5, 2, 6, 3, 7, 4])?
            .f_reshape([batch, self.outputs, frames * ft, height * fs, width * fs])?;
        let dropped = if first_chunk { ft - 1 } else { 0 };
        Ok(output.f_narrow(2, dropped, frames * ft - dropped)?)
    }
}
