//! Frame selection (arXiv 2512.07802, section 4.2, equations 3 to 5): how relevant each latent frame of the
//! history is for a caption.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use storyloom_nn::layers::{LayerNorm, Linear, RmsNorm};
use storyloom_nn::threads::on_one_thread;
use tch::{Kind, Tensor};

use super::cross_attention::{CrossAttention, Part};
use super::{OneStoryConfig, ScoreNorm};

/// Scores the frames of the history. Whole on every rank; nothing of it runs a collective.
///
/// On a CPU it computes on one thread: scores are stored and proven, and programs with other numbers of threads
/// are to agree about every bit. It works once per shot, on little.
///
/// The history is looked at shot by shot, so that the memory it takes does not grow with the history.
#[derive(Debug)]
pub struct Selector {
    queries: Tensor,
    text_norm: RmsNorm,
    text_proj: Linear,
    vision: Vision,
    text_attention: CrossAttention,
    vision_attention: CrossAttention,
    frame_norm: LayerNorm,
    frame_proj: Linear,
    score_norm: ScoreNorm,
    width: i64,
}

/// The queries after they have read the caption.
#[derive(Debug)]
pub struct Asked {
    /// `[batch, queries, width]` f32: Q' of equation 3.
    queries: Tensor,
    /// The same as heads of the attention to frames.
    heads: Tensor,
}

/// What was seen of one shot of the history.
#[derive(Debug)]
pub struct Glance {
    part: Part,
    /// One vector for each frame, `[batch, frames, width]` f32: phi_P of equation 5.
    frames: Tensor,
}

impl Selector {
    pub(super) fn load(weights: &Weights, config: &OneStoryConfig) -> Result<Self> {
        let width = config.width;
        let norm = weights.sub("text_norm");
        Ok(Self {
            queries: weights
                .with_kind(Kind::Float)
                .take("queries", &[config.queries, width])?,
            text_norm: RmsNorm::load(&norm, config.text_dim, config.eps)?,
            text_proj: Linear::load(&weights.sub("text_proj"), config.text_dim, width)?,
            vision: Vision::load(weights, config)?,
            text_attention: CrossAttention::load(&weights.sub("text_attention"), config)?,
            vision_attention: CrossAttention::load(&weights.sub("vision_attention"), config)?,
            frame_norm: LayerNorm::load(&weights.sub("frame_norm"), width, config.eps)?,
            frame_proj: Linear::load(&weights.sub("frame_proj"), width, width)?,
            score_norm: config.score_norm,
            width,
        })
    }

    /// Scores by `score_norm` from now on, whatever the checkpoint says.
    #[must_use]
    pub fn scored_by(mut self, score_norm: ScoreNorm) -> Self {
        self.score_norm = score_norm;
        self
    }

    /// Takes all shots for equally old.
    #[cfg(test)]
    pub(super) fn forget_ages(&mut self) {
        self.vision.shot_age = self.vision.shot_age.zeros_like();
        self.vision.frame_time = self.vision.frame_time.zeros_like();
    }

    /// Lets the queries read captions `[batch, rows, text_dim]`. Rows of zeros are the padding behind a
    /// prompt's end, and nobody attends to them.
    ///
    /// # Errors
    /// The rows have another width, or a caption has none.
    pub fn ask(&self, text: &Tensor) -> Result<Asked> {
        on_one_thread(|| self.asked(text))
    }

    fn asked(&self, text: &Tensor) -> Result<Asked> {
        let _guard = gradients::guard();
        let text = text.f_to_kind(Kind::Float)?;
        let (batch, _, _) = text.size3()?;
        let padding = text.f_eq(0.0)?.f_all_dim(-1, false)?;
        if padding.f_all_dim(-1, false)?.f_any()?.f_int64_value(&[])? != 0 {
            let reason = "a caption has no rows but padding";
            return Err(ModelError::input("text of the selector", reason));
        }
        let rows = self.text_proj.forward(&self.text_norm.forward(&text)?)?;
        let queries = self.queries.f_unsqueeze(0)?;
        let queries = queries.f_expand([batch, -1, -1], false)?;
        let attention = &self.text_attention;
        let part = attention.look(&attention.ask(&queries)?, &rows, Some(&padding))?;
        let queries = attention.add(&queries, &[&part])?;
        Ok(Asked {
            heads: self.vision_attention.ask(&queries)?,
            queries,
        })
    }

    /// Looks at one shot of the history, latents `[batch, channels, frames, h, w]` f32, which is `age` shots
    /// old; 1 is the newest.
    ///
    /// # Errors
    /// The latents have other channels.
    pub fn look(&self, asked: &Asked, shot: &Tensor, age: usize) -> Result<Glance> {
        on_one_thread(|| self.glance(asked, shot, age))
    }

    fn glance(&self, asked: &Asked, shot: &Tensor, age: usize) -> Result<Glance> {
        let _guard = gradients::guard();
        let tokens = self.vision.forward(shot, age)?;
        let (batch, frames, cells, width) = tokens.size4()?;
        let rows = tokens.f_reshape([batch, frames * cells, width])?;
        let part = self.vision_attention.look(&asked.heads, &rows, None)?;
        let normed = self.frame_norm.forward(&tokens)?;
        let mean = normed.f_mean_dim([2_i64].as_slice(), false, Kind::Float)?;
        let frames = self.frame_proj.forward(&mean)?;
        Ok(Glance { part, frames })
    }

    /// A score for every frame of the history, `[batch, F]` f32, in the order of `glances`, of which there is
    /// at least one: the mean over the queries of equation 5.
    ///
    /// # Errors
    /// There is nothing to score, or libtorch refuses.
    pub fn scores(&self, asked: &Asked, glances: &[Glance]) -> Result<Tensor> {
        let _guard = gradients::guard();
        if glances.is_empty() {
            let reason = "a shot without history has nothing to select";
            return Err(ModelError::input("history", reason));
        }
        on_one_thread(|| self.scores_of(asked, glances))
    }

    fn scores_of(&self, asked: &Asked, glances: &[Glance]) -> Result<Tensor> {
        let (parts, frames): (Vec<&Part>, Vec<&Tensor>) = glances
            .iter()
            .map(|glance| (&glance.part, &glance.frames))
            .unzip();
        let queries = self.vision_attention.add(&asked.queries, &parts)?;
        let frames = Tensor::f_cat(&frames, 1)?;
        let product = |frames: &Tensor, queries: &Tensor| -> Result<Tensor> {
            let products = frames.f_matmul(&queries.f_transpose(-2, -1)?)?;
            Ok(products.f_mean_dim([-1_i64].as_slice(), false, Kind::Float)?)
        };
        match self.score_norm {
            ScoreNorm::Cosine => product(&unit(&frames)?, &unit(&queries)?),
            ScoreNorm::ScaledDot => {
                let scale = (self.width as f64).powf(-0.5);
                Ok(product(&frames, &queries)?.f_mul_scalar(scale)?)
            }
            ScoreNorm::None => product(&frames, &queries),
        }
    }

    /// All of it at once: captions `[batch, rows, text_dim]` and the shots of the history, oldest first, each
    /// `[batch, channels, frames, h, w]`, to scores `[batch, F]` f32.
    ///
    /// # Errors
    /// As its parts.
    pub fn forward(&self, text: &Tensor, history: &[Tensor]) -> Result<Tensor> {
        let asked = self.ask(text)?;
        let ages = (1..=history.len()).rev();
        let glances = history.iter().zip(ages);
        let glances = glances.map(|(shot, age)| self.look(&asked, shot, age));
        self.scores(&asked, &glances.collect::<Result<Vec<_>>>()?)
    }
}

/// Rows of length 1.
fn unit(rows: &Tensor) -> Result<Tensor> {
    let length = rows.f_norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)?;
    Ok(rows.f_div(&length.f_clamp_min(1e-12)?)?)
}

/// phi_V of the paper: two convolutions in a row, and what tells shots and frames apart.
#[derive(Debug)]
struct Vision {
    first: Convolution,
    second: Convolution,
    /// `[ages, width]` f32.
    shot_age: Tensor,
    /// `[frames, width]` f32.
    frame_time: Tensor,
}

impl Vision {
    /// Sides of the kernels; strides are the same.
    const SIDES: [i64; 2] = [4, 2];

    fn load(weights: &Weights, config: &OneStoryConfig) -> Result<Self> {
        let floats = weights.with_kind(Kind::Float);
        let (width, between) = (config.width, config.vision_width);
        let [first, second] = Self::SIDES;
        let vision = weights.sub("vision");
        Ok(Self {
            first: Convolution::load(&vision.sub(0), config.latent_channels, between, first)?,
            second: Convolution::load(&vision.sub(1), between, width, second)?,
            shot_age: floats.take("shot_age", &[config.shot_ages, width])?,
            frame_time: floats.take("frame_time", &[config.frame_times, width])?,
        })
    }

    /// `[batch, channels, frames, h, w]` f32 to `[batch, frames, cells, width]` f32. Whole on every rank; no
    /// collective.
    fn forward(&self, shot: &Tensor, age: usize) -> Result<Tensor> {
        let (batch, _, frames, _, _) = shot.size5()?;
        let planes = shot.f_to_kind(Kind::Float)?.f_transpose(1, 2)?;
        let hidden = self.first.forward(&planes.f_flatten(0, 1)?)?.f_silu()?;
        let cells = self.second.forward(&hidden)?;
        let cells = cells.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let (_, count, width) = cells.size3()?;
        let cells = cells.f_reshape([batch, frames, count, width])?;
        let last = self.shot_age.size()[0] - 1;
        let age = (age.saturating_sub(1) as i64).min(last);
        let known = self.frame_time.size()[0];
        let times: Vec<i64> = (0..frames).map(|time| time.min(known - 1)).collect();
        let times = Tensor::f_from_slice(&times)?.f_to_device(self.frame_time.device())?;
        let times = self.frame_time.f_index_select(0, &times)?;
        let told = times.f_add(&self.shot_age.f_select(0, age)?)?;
        Ok(cells.f_add(&told.f_unsqueeze(1)?)?)
    }
}

/// A convolution whose stride is its kernel; pictures are filled up with zeros at the right and at the bottom.
#[derive(Debug)]
struct Convolution {
    projection: Linear,
    side: i64,
}

impl Convolution {
    fn load(weights: &Weights, inputs: i64, outputs: i64, side: i64) -> Result<Self> {
        let weight = weights.take("weight", &[outputs, inputs, side, side])?;
        let weight = weight.f_reshape([outputs, inputs * side * side])?;
        let bias = weights.take("bias", &[outputs])?;
        Ok(Self {
            projection: Linear::from_tensors(weight, Some(bias)),
            side,
        })
    }

    /// `[n, inputs, h, w]` f32 to `[n, outputs, ceil(h / side), ceil(w / side)]` f32.
    fn forward(&self, planes: &Tensor) -> Result<Tensor> {
        let (patches, [rows, columns]) = patches(planes, self.side)?;
        let projected = self.projection.forward(&patches)?;
        let (count, _, outputs) = projected.size3()?;
        let planes = projected.f_transpose(1, 2)?;
        Ok(planes.f_reshape([count, outputs, rows, columns])?)
    }
}

/// The patches of planes `[n, channels, h, w]`, `[n, cells, channels * side * side]` row by row, and the rows and
/// columns of the cells. Planes are filled up with zeros at the right and at the bottom.
pub(super) fn patches(planes: &Tensor, side: i64) -> Result<(Tensor, [i64; 2])> {
    let (count, channels, height, width) = planes.size4()?;
    let [rows, columns] = [height, width].map(|length| (length + side - 1) / side);
    let (below, right) = (rows * side - height, columns * side - width);
    let padded = match (below, right) {
        (0, 0) => planes.shallow_clone(),
        _ => planes.f_constant_pad_nd([0, right, 0, below])?,
    };
    let patches = padded
        .f_reshape([count, channels, rows, side, columns, side])?
        .f_permute([0, 2, 4, 1, 3, 5])?
        .f_reshape([count, rows * columns, channels * side * side])?;
    Ok((patches, [rows, columns]))
}
