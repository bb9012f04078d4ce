//! The whole transformer (diffusers `WanTransformer3DModel`, original `WanModel`).

use std::path::Path;

use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use storyloom_nn::layers::{
    Adaptable, LayerMut, Linear, RotaryAxes, RotaryTable, TokenIndex, TokenVectors,
    modulated_layer_norm,
};
use storyloom_nn::shard::{Peers, Shard, TokenShare};
use tch::{Kind, Tensor};

use super::block::{BlockContext, Modulation, Positions, WanBlock};
use super::config::WanConfig;
use super::embed::{ImageEmbed, PatchEmbed, TextEmbed, TimeEmbed, unpatchify};

/// A Wan transformer: text-to-video, image-to-video, per-token timesteps, with or without the
/// image branch of Wan 2.1, as its config says.
#[derive(Debug)]
pub struct WanTransformer {
    config: WanConfig,
    patch: PatchEmbed,
    time: TimeEmbed,
    text: TextEmbed,
    image: Option<ImageEmbed>,
    blocks: Vec<WanBlock>,
    head_table: Tensor,
    head: Linear,
    /// The ranks that hold the other tokens of each forward.
    sequence: Peers,
    bytes_read: usize,
}

/// What one forward is given.
#[derive(Debug)]
pub struct ForwardInputs<'a> {
    /// `[batch, in_channels, frames, height, width]`, any float kind.
    pub hidden_states: &'a Tensor,
    /// `[batch]`, or `[batch, tokens]` for one timestep per token.
    pub timestep: &'a Tensor,
    /// Temporal positions of the latent frames (after patching); `None`: 0, 1, 2, …
    pub temporal_positions: Option<&'a [i64]>,
    /// Tokens behind those of the sample.
    pub appended: Option<AppendedTokens<'a>>,
}

/// Tokens that stand behind those of the sample in every block, and predict nothing (OneStory,
/// arXiv 2512.07802, equation 8).
#[derive(Debug, Clone, Copy)]
pub struct AppendedTokens<'a> {
    /// `[batch, n, model]` f32; `n = 0` is as good as none.
    pub tokens: &'a Tensor,
    /// Where they stand in time, rows and columns, f64 `[1, n, 3]` for all samples, or `[batch, n, 3]`. The
    /// sample's own tokens stand at whole numbers.
    pub positions: &'a Tensor,
    /// Whether they are modulated as at timestep 0, and not as their sample.
    pub is_clean: bool,
}

/// Text (and image) keys and values of all blocks, computed once per prompt and expert.
#[derive(Debug)]
pub struct TextContext {
    batch: i64,
    blocks: Vec<BlockContext>,
}

impl Adaptable for WanTransformer {
    fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        if let Some(rest) = name.strip_prefix("blocks.") {
            let (block, inside) = rest.split_once('.')?;
            let block = self.blocks.get_mut(block.parse::<usize>().ok()?)?;
            return block.layer_mut(inside);
        }
        if let Some(rest) = name.strip_prefix("condition_embedder.") {
            let (part, inside) = rest.split_once('.').unwrap_or((rest, ""));
            return match part {
                "text_embedder" => self.text.layer_mut(inside),
                "image_embedder" => self.image.as_mut()?.layer_mut(inside),
                _ => self.time.layer_mut(rest),
            };
        }
        Some(match name {
            "patch_embedding" => LayerMut::Linear(self.patch.projection_mut()),
            "proj_out" => LayerMut::Linear(&mut self.head),
            "scale_shift_table" => LayerMut::Table(&mut self.head_table),
            _ => return None,
        })
    }

    /// Adapters for Wan 2.1 change its image branch, and are used on Wan 2.2, which has none.
    fn leaves_aside(&self, layer: &str) -> bool {
        const IMAGE_BRANCH: [&str; 4] =
            ["add_k_proj", "add_v_proj", "norm_added_k", "image_embedder"];
        self.image.is_none() && IMAGE_BRANCH.iter().any(|part| layer.contains(part))
    }
}

impl WanTransformer {
    /// Loads a transformer folder. Missing and unknown tensors are an error that lists them.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        Self::open_shard(folder, target, &Shard::default())
    }

    /// Loads the slices that `shard` leaves to this rank; nothing else is read.
    pub fn open_shard(folder: &Path, target: Target, shard: &Shard) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let config = WanConfig::of(&checkpoint)?;
        config.check_shard(shard)?;
        let weights = checkpoint.weights(target);
        let model = Self::load_shard(&weights, config, shard)?;
        weights.finish()?;
        tracing::debug!(
            folder = %folder.display(),
            read = weights.bytes_read(),
            of = checkpoint.bytes(),
            "weights loaded"
        );
        Ok(model)
    }

    /// A transformer of this shape with random weights that are drawn on the device, and the number
    /// of its parameters. It predicts nothing, but takes as long as a trained one.
    pub fn random(config: WanConfig, target: Target) -> Result<(Self, usize)> {
        Checkpoint::random(target, |weights| Self::load(weights, config))
    }

    /// Takes all tensors of a model of this shape from `weights`.
    pub fn load(weights: &Weights, config: WanConfig) -> Result<Self> {
        Self::load_shard(weights, config, &Shard::default())
    }

    fn load_shard(weights: &Weights, config: WanConfig, shard: &Shard) -> Result<Self> {
        let condition = weights.sub("condition_embedder");
        let width = config.width();
        let image = config.image_dim.map(|image_dim| {
            ImageEmbed::load(&condition.sub("image_embedder"), &config, image_dim)
        });
        let blocks = (0..config.num_layers)
            .map(|layer| WanBlock::load(&weights.sub("blocks").sub(layer), &config, shard));
        let patch_values = config.patch_size.iter().product::<i64>();
        Ok(Self {
            patch: PatchEmbed::load(&weights.sub("patch_embedding"), &config)?,
            time: TimeEmbed::load(&condition, &config)?,
            text: TextEmbed::load(&condition.sub("text_embedder"), &config)?,
            image: image.transpose()?,
            blocks: blocks.collect::<Result<_>>()?,
            head_table: weights
                .with_kind(Kind::Float)
                .take("scale_shift_table", &[1, 2, width])?,
            head: Linear::load(
                &weights.sub("proj_out"),
                width,
                patch_values * config.out_channels,
            )?,
            sequence: shard.sequence.clone(),
            bytes_read: weights.bytes_read(),
            config,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &WanConfig {
        &self.config
    }

    /// Bytes of the files that this rank's weights were read from.
    pub fn bytes_read(&self) -> usize {
        self.bytes_read
    }

    /// Whether the model is conditioned on image tokens (Wan 2.1 image-to-video).
    pub fn has_image_branch(&self) -> bool {
        self.image.is_some()
    }

    /// Projects text `[batch, rows, text_dim]` (zero rows after the prompt's end count) and image
    /// tokens `[batch, tokens, image_dim]` to the keys and values of every block.
    pub fn prepare_context(&self, text: &Tensor, image: Option<&Tensor>) -> Result<TextContext> {
        let _guard = gradients::guard();
        let size = text.size();
        if size.len() != 3 || size[2] != self.config.text_dim {
            let reason = format!(
                "[batch, rows, {}] is needed, found {size:?}",
                self.config.text_dim
            );
            return Err(ModelError::input("encoder_hidden_states", reason));
        }
        let image = match (&self.image, image) {
            (Some(embed), Some(image)) => Some(embed.forward(image)?),
            (None, None) => None,
            (Some(_), None) => {
                let reason = "this model is conditioned on image tokens, but none are given";
                return Err(ModelError::input("encoder_hidden_states_image", reason));
            }
            (None, Some(_)) => {
                let reason = "this model has no image branch";
                return Err(ModelError::input("encoder_hidden_states_image", reason));
            }
        };
        let text = self.text.forward(&text.f_to_kind(Kind::Float)?)?;
        let blocks = self
            .blocks
            .iter()
            .map(|block| block.context(&text, image.as_ref()));
        Ok(TextContext {
            batch: size[0],
            blocks: blocks.collect::<Result<_>>()?,
        })
    }

    /// As [`prepare_context`](Self::prepare_context) without image tokens, where the last row of
    /// `text` stands for `padding` equal rows: the rows behind a prompt's end are all zero, so that
    /// one key whose score is raised by `ln padding` does the work of all.
    pub fn prepare_short_context(&self, text: &Tensor, padding: i64) -> Result<TextContext> {
        let _guard = gradients::guard();
        let (batch, rows, _) = text.size3()?;
        let mut bias = vec![0.0_f32; rows.unsigned_abs() as usize];
        if let Some(last) = bias.last_mut() {
            *last = (padding as f32).ln();
        }
        let bias = Tensor::f_from_slice(&bias)?
            .f_view([1, 1, 1, rows])?
            .f_to_device(text.device())?;
        let text = self.text.forward(&text.f_to_kind(Kind::Float)?)?;
        let blocks = self.blocks.iter();
        let blocks = blocks.map(|block| block.biased_context(&text, &bias));
        Ok(TextContext {
            batch,
            blocks: blocks.collect::<Result<_>>()?,
        })
    }

    /// Latents `[batch, in_channels, frames, height, width]` to the velocity `[batch, out_channels, frames,
    /// height, width]` in f32, whole on every rank. All ranks that share the model call it with the same
    /// inputs: each computes its tokens and its part of the layers, and the tokens are gathered at the end.
    /// Where ranks share the tokens and these do not divide by the ranks, the last rank is filled up with
    /// zeros that no token attends to.
    pub fn forward(&self, inputs: &ForwardInputs, context: &TextContext) -> Result<Tensor> {
        let _guard = gradients::guard();
        let grid = self.check(inputs, context)?;
        let hidden_states = inputs.hidden_states.f_to_kind(Kind::Float)?;
        let mut hidden = self.patch.forward(&hidden_states, grid)?;
        let own = grid.iter().product::<i64>();
        let appended = inputs
            .appended
            .filter(|appended| appended.tokens.size()[1] > 0);
        if let Some(appended) = &appended {
            let tokens = appended.tokens.f_to_kind(Kind::Float)?;
            hidden = Tensor::f_cat(&[hidden, tokens.f_to_device(hidden_states.device())?], 1)?;
        }

        let steps = Timesteps::of(inputs.timestep)?;
        let steps = match &appended {
            Some(appended) if appended.is_clean => steps.followed_by_clean(own, hidden.size()[1]),
            _ => steps,
        };
        let (embedding, modulation) = self.time.forward(&steps.distinct, &hidden)?;
        let share = TokenShare::of(hidden.size()[1], &self.sequence);
        hidden = share.tokens(&hidden, 1)?;
        let index = steps.per_token.then(|| {
            let rows = steps.distinct.len() as i64;
            TokenIndex::new(share.places(&steps.places), rows, hidden.device())
        });
        let index = index.transpose()?;
        let (embedding, modulation) = match index {
            Some(_) => (embedding, modulation),
            None => steps.per_sample(&embedding, &modulation)?,
        };

        let rotary = self.rotary(inputs, grid, appended.as_ref())?;
        let axis = i64::from(rotary.batch().is_some());
        let positions = Positions {
            rotary: RotaryTable {
                cos: share.tokens(&rotary.cos, axis)?,
                sin: share.tokens(&rotary.sin, axis)?,
            },
            tokens: share.all,
        };
        let modulation = Modulation {
            rows: &modulation,
            index: index.as_ref(),
        };
        for (block, context) in self.blocks.iter().zip(&context.blocks) {
            hidden = block.forward(hidden, &modulation, &positions, context)?;
        }
        let tokens = self.project(&hidden, &embedding, index.as_ref())?;
        let tokens = self.sequence.gather(&tokens, 1)?.f_narrow(1, 0, own)?;
        unpatchify(&tokens, grid, &self.config)
    }

    fn rotary(
        &self,
        inputs: &ForwardInputs,
        [frames, rows, columns]: [i64; 3],
        appended: Option<&AppendedTokens>,
    ) -> Result<RotaryTable> {
        let counted: Vec<i64>;
        let times = match inputs.temporal_positions {
            Some(positions) => positions,
            None => {
                counted = (0..frames).collect();
                &counted
            }
        };
        let axes = RotaryAxes::of_head(self.config.attention_head_dim);
        let device = inputs.hidden_states.device();
        let table = axes.table(times, rows, columns, device)?;
        match appended {
            Some(appended) => table.followed_by(&axes.table_at(appended.positions, device)?),
            None => Ok(table),
        }
    }

    /// The head: modulated by `e` itself, without activation.
    fn project(
        &self,
        hidden: &Tensor,
        embedding: &Tensor,
        index: Option<&TokenIndex>,
    ) -> Result<Tensor> {
        let vectors = |which: i64, plus: f64| -> Result<TokenVectors> {
            let rows = embedding.f_add(&self.head_table.f_select(1, which)?)?;
            Ok(TokenVectors {
                rows: rows.f_add_scalar(plus)?,
                index,
            })
        };
        let (scale, shift) = (vectors(1, 1.0)?, vectors(0, 0.0)?);
        let (eps, kind) = (self.config.eps, self.head.kind());
        let normed = modulated_layer_norm(hidden, eps, &scale, &shift, kind)?;
        self.head.forward(&normed)
    }

    fn check(&self, inputs: &ForwardInputs, context: &TextContext) -> Result<[i64; 3]> {
        let wrong = |what: &str, reason: String| Err(ModelError::input(what, reason));
        let size = inputs.hidden_states.size();
        let channels = self.config.in_channels;
        let &[batch, found, frames, height, width] = size.as_slice() else {
            let reason =
                format!("[batch, {channels}, frames, height, width] is needed, found {size:?}");
            return wrong("hidden_states", reason);
        };
        if found != channels {
            let reason = format!("{found} channels, but the model takes {channels}");
            return wrong("hidden_states", reason);
        }
        let grid = self.config.grid([frames, height, width]);
        if grid.contains(&0) || batch == 0 {
            let reason = format!(
                "{size:?} does not fill one patch {:?}",
                self.config.patch_size
            );
            return wrong("hidden_states", reason);
        }
        let tokens: i64 = grid.iter().product();
        let steps = inputs.timestep.size();
        if steps != [batch] && steps != [batch, tokens] {
            let reason = format!("[{batch}] or [{batch}, {tokens}] is needed, found {steps:?}");
            return wrong("timestep", reason);
        }
        if context.batch != batch {
            let reason = format!("made for a batch of {}, used with {batch}", context.batch);
            return wrong("encoder_hidden_states", reason);
        }
        if let Some(positions) = inputs.temporal_positions
            && positions.len() as i64 != grid[0]
        {
            let reason = format!(
                "{} positions for {} latent frames",
                positions.len(),
                grid[0]
            );
            return wrong("temporal positions", reason);
        }
        if let Some(appended) = &inputs.appended {
            self.check_appended(appended, batch, steps.len() == 1)?;
        }
        Ok(grid)
    }

    fn check_appended(
        &self,
        appended: &AppendedTokens,
        batch: i64,
        has_one_step: bool,
    ) -> Result<()> {
        let wrong = |reason: String| Err(ModelError::input("appended tokens", reason));
        let (size, width) = (appended.tokens.size(), self.config.width());
        let &[found, tokens, model] = size.as_slice() else {
            return wrong(format!(
                "[{batch}, tokens, {width}] is needed, found {size:?}"
            ));
        };
        if (found, model) != (batch, width) {
            return wrong(format!(
                "[{batch}, tokens, {width}] is needed, found {size:?}"
            ));
        }
        let positions = appended.positions.size();
        if positions != [1, tokens, 3] && positions != [batch, tokens, 3] {
            let reason =
                format!("positions [{batch}, {tokens}, 3] are needed, found {positions:?}");
            return wrong(reason);
        }
        match has_one_step || appended.is_clean {
            true => Ok(()),
            false => wrong("a sample with a timestep per token has none for them".to_owned()),
        }
    }
}

/// The distinct timesteps of a forward and where each is used.
struct Timesteps {
    distinct: Vec<f64>,
    /// For each sample, or for each token of each sample, its place in `distinct`.
    places: Vec<i64>,
    per_token: bool,
}

impl Timesteps {
    /// Tokens share a handful of timesteps: rows are computed once per distinct value.
    fn of(timestep: &Tensor) -> Result<Self> {
        let per_token = timestep.dim() == 2;
        let values: Vec<f64> = Vec::try_from(timestep.f_to_kind(Kind::Double)?.f_flatten(0, -1)?)?;
        let mut distinct: Vec<f64> = Vec::new();
        let mut places = Vec::with_capacity(values.len());
        for value in values {
            let known = distinct
                .iter()
                .position(|&seen| seen.to_bits() == value.to_bits());
            places.push(known.unwrap_or_else(|| {
                distinct.push(value);
                distinct.len() - 1
            }) as i64);
        }
        Ok(Self {
            distinct,
            places,
            per_token,
        })
    }

    /// The same for `all` tokens of each sample, of which those after the first `own` are at timestep 0.
    fn followed_by_clean(self, own: i64, all: i64) -> Self {
        let mut distinct = self.distinct;
        let known = distinct.iter().position(|value| value.to_bits() == 0);
        let clean = known.unwrap_or_else(|| {
            distinct.push(0.0);
            distinct.len() - 1
        }) as i64;
        let (own, all) = (own as usize, all as usize);
        let per_sample = if self.per_token { own } else { 1 };
        let sample = |places: &[i64]| -> Vec<i64> {
            let mut every = match places {
                [place] if !self.per_token => vec![*place; own],
                _ => places.to_vec(),
            };
            every.resize(all, clean);
            every
        };
        Self {
            places: self.places.chunks(per_sample).flat_map(sample).collect(),
            distinct,
            per_token: true,
        }
    }

    fn per_sample(&self, embedding: &Tensor, modulation: &Tensor) -> Result<(Tensor, Tensor)> {
        let index = Tensor::f_from_slice(&self.places)?.f_to_device(embedding.device())?;
        Ok((
            embedding.f_index_select(0, &index)?,
            modulation.f_index_select(0, &index)?,
        ))
    }
}

#[cfg(test)]
#[path = "transformer_test.rs"]
mod tests;
