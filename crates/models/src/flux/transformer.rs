//! The whole transformer (diffusers `FluxTransformer2DModel`).

use std::path::Path;

use storyloom_nn::checkpoint::{Checkpoint, SingleFilePart, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use storyloom_nn::layers::{Adaptable, LayerMut, Linear};
use storyloom_nn::shard::{Peers, Shard, TokenShare};
use tch::{Device, Kind, Tensor};

use super::block::{DoubleBlock, Places, SingleBlock};
use super::config::FluxConfig;
use super::embed::ConditionEmbed;
use super::modulation::{ModulationLayer, Modulations, StepModulation};
use super::positions::FluxPositions;

/// A transformer of FLUX.1, with or without guidance as its config says.
#[derive(Debug)]
pub struct FluxTransformer {
    config: FluxConfig,
    image: Linear,
    text: Linear,
    condition: ConditionEmbed,
    doubles: Vec<DoubleBlock>,
    singles: Vec<SingleBlock>,
    last: ModulationLayer,
    output: Linear,
    /// The ranks that hold the other tokens of each forward.
    sequence: Peers,
    device: Device,
    bytes_read: usize,
}

/// What one forward is given, by the names of the reference but for the ids.
#[derive(Debug)]
pub struct FluxInputs<'a> {
    /// Tokens of noise, and of conditions behind them: `[batch, image tokens, in_channels]`, any float kind.
    pub hidden_states: &'a Tensor,
    /// Text `[batch, rows, joint_attention_dim]`, any float kind. Every row counts: there is no mask.
    pub encoder_hidden_states: &'a Tensor,
    /// Pooled text `[batch, pooled_projection_dim]`.
    pub pooled_projections: &'a Tensor,
    /// Noise levels in [0, 1] (not in 0..1000), `[batch]`.
    pub timestep: &'a Tensor,
    /// Guidance scales `[batch]`, as typed; exactly where the model has guidance.
    pub guidance: Option<&'a Tensor>,
    /// Where the tokens of the image stand, in all samples.
    pub image_positions: &'a FluxPositions,
    /// Where the rows of text stand, in all samples.
    pub text_positions: &'a FluxPositions,
}

/// What does not change from step to step: projected text, and where all tokens stand.
#[derive(Debug)]
pub struct FluxContext {
    /// This rank's rows, f32 `[batch, rows, width]`.
    pub(super) text: Tensor,
    /// Of this rank's rows of text and tokens of the image.
    pub(super) places: Places,
    /// The tokens of the image.
    image: TokenShare,
}

impl FluxContext {
    /// Samples of the batch.
    fn batch(&self) -> i64 {
        self.text.size()[0]
    }
}

impl Adaptable for FluxTransformer {
    fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        let (part, rest) = name.split_once('.').unwrap_or((name, ""));
        let inside = || {
            let (block, inside) = rest.split_once('.')?;
            Some((block.parse::<usize>().ok()?, inside))
        };
        match part {
            "transformer_blocks" => {
                let (block, inside) = inside()?;
                return self.doubles.get_mut(block)?.layer_mut(inside);
            }
            "single_transformer_blocks" => {
                let (block, inside) = inside()?;
                return self.singles.get_mut(block)?.layer_mut(inside);
            }
            "time_text_embed" => return self.condition.layer_mut(rest),
            _ => {}
        }
        Some(LayerMut::Linear(match name {
            "x_embedder" => &mut self.image,
            "context_embedder" => &mut self.text,
            "norm_out.linear" => self.last.linear_mut(),
            "proj_out" => &mut self.output,
            _ => return None,
        }))
    }
}

impl FluxTransformer {
    /// Loads a transformer folder, or the transformer of a single file. Missing and unknown tensors are an error that
    /// lists them.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        Self::open_shard(folder, target, &Shard::default())
    }

    /// Loads the slices that `shard` leaves to this rank; nothing else is read. Modulations, embedders and the
    /// last layer are whole on every rank.
    pub fn open_shard(folder: &Path, target: Target, shard: &Shard) -> Result<Self> {
        let checkpoint = Checkpoint::open_part(folder, SingleFilePart::FluxTransformer)?;
        let config = FluxConfig::of(&checkpoint)?;
        Self::of_checkpoint(&checkpoint, config, target, shard)
    }

    /// As [`open_shard`](Self::open_shard), of a checkpoint that is open and whose shape is known.
    pub fn of_checkpoint(
        checkpoint: &Checkpoint,
        config: FluxConfig,
        target: Target,
        shard: &Shard,
    ) -> Result<Self> {
        config.check_shard(shard)?;
        let weights = checkpoint.weights(target);
        let model = Self::load_shard(&weights, config, shard)?;
        weights.finish()?;
        tracing::debug!(
            folder = %checkpoint.folder().display(),
            read = weights.bytes_read(),
            of = checkpoint.bytes(),
            "weights loaded"
        );
        Ok(model)
    }

    /// A transformer of this shape with random weights that are drawn on the device, and the number of its
    /// parameters. It predicts nothing, but takes as long as a trained one.
    pub fn random(config: FluxConfig, target: Target) -> Result<(Self, usize)> {
        Checkpoint::random(target, |weights| Self::load(weights, config))
    }

    /// Takes all tensors of a model of this shape from `weights`.
    pub fn load(weights: &Weights, config: FluxConfig) -> Result<Self> {
        Self::load_shard(weights, config, &Shard::default())
    }

    fn load_shard(weights: &Weights, config: FluxConfig, shard: &Shard) -> Result<Self> {
        let width = config.width();
        let double = weights.sub("transformer_blocks");
        let single = weights.sub("single_transformer_blocks");
        let linear = |name, inputs, outputs| Linear::load(&weights.sub(name), inputs, outputs);
        Ok(Self {
            image: linear("x_embedder", config.in_channels, width)?,
            text: linear("context_embedder", config.joint_attention_dim, width)?,
            condition: ConditionEmbed::load(&weights.sub("time_text_embed"), &config)?,
            doubles: (0..config.num_layers)
                .map(|block| DoubleBlock::load(&double.sub(block), &config, shard))
                .collect::<Result<_>>()?,
            singles: (0..config.num_single_layers)
                .map(|block| SingleBlock::load(&single.sub(block), &config, shard))
                .collect::<Result<_>>()?,
            last: ModulationLayer::load(&weights.sub("norm_out.linear"), width, 2)?,
            output: linear("proj_out", width, config.output_channels())?,
            sequence: shard.sequence.clone(),
            device: weights.target().device,
            bytes_read: weights.bytes_read(),
            config,
        })
    }

    /// The same, rounding noise levels and guidance scales to bf16 before and behind their factor of 1000, as a bf16
    /// run of the reference does: guidance 3.5 enters as 3504. Only for comparing with such a run.
    #[must_use]
    pub fn with_reference_rounding(mut self) -> Self {
        self.condition.rounds = true;
        self
    }

    /// The shape of the model.
    pub fn config(&self) -> &FluxConfig {
        &self.config
    }

    /// Bytes of the files that this rank's weights were read from.
    pub fn bytes_read(&self) -> usize {
        self.bytes_read
    }

    /// Projects text `[batch, rows, joint_attention_dim]` and computes the angles of all tokens.
    ///
    /// # Errors
    /// The text has another width, or another number of rows than of positions.
    pub fn context(
        &self,
        text: &Tensor,
        text_positions: &FluxPositions,
        image_positions: &FluxPositions,
    ) -> Result<FluxContext> {
        let _guard = gradients::guard();
        let (rows, width) = (text_positions.tokens(), self.config.joint_attention_dim);
        expect(
            "encoder_hidden_states",
            text,
            [None, Some(rows), Some(width)],
        )?;
        let peers = &self.sequence;
        let (of_text, of_image) = (
            TokenShare::of(rows, peers),
            TokenShare::of(image_positions.tokens(), peers),
        );
        let own = text_positions.share(&of_text);
        let own = own.followed_by(&image_positions.share(&of_image));
        let text = self.text.forward(text)?;
        Ok(FluxContext {
            text: of_text.tokens(&text, 1)?,
            places: Places {
                rotary: own.rotary(&self.config, self.device)?,
                real: real_tokens([of_text, of_image], peers.part().of, self.device)?,
            },
            image: of_image,
        })
    }

    /// Projects tokens `[batch, tokens, in_channels]` to `[batch, tokens, width]` in f32: noise at every step,
    /// conditions once.
    ///
    /// # Errors
    /// The tokens have other channels.
    pub fn embed(&self, tokens: &Tensor) -> Result<Tensor> {
        let _guard = gradients::guard();
        let channels = self.config.in_channels;
        expect("hidden_states", tokens, [None, None, Some(channels)])?;
        self.image.forward(tokens)
    }

    /// The vectors that noise levels `sigmas`, one for each step, give the norms of all blocks, for samples with
    /// these guidance scales and pooled text `[batch, pooled_projection_dim]`.
    ///
    /// # Errors
    /// A model with guidance gets none, one without gets some, or the sizes differ.
    pub fn modulations(
        &self,
        sigmas: &[f32],
        guidance: Option<&[f32]>,
        pooled: &Tensor,
    ) -> Result<Modulations> {
        let _guard = gradients::guard();
        let batch = self.check_conditions(guidance, pooled)?;
        let time = self.condition.of_time(sigmas, self.device)?;
        let prompt = self.condition.of_prompt(guidance, pooled)?;
        let both = time.f_unsqueeze(1)?.f_add(&prompt.f_unsqueeze(0)?)?;
        let all = self.vectors(&both.f_flatten(0, 1)?)?;
        Ok(Modulations::new(all, sigmas.len(), batch))
    }

    /// The same for one step at which every sample has a noise level of its own.
    pub(super) fn step_modulation(
        &self,
        sigmas: &[f32],
        guidance: Option<&[f32]>,
        pooled: &Tensor,
    ) -> Result<StepModulation> {
        let batch = self.check_conditions(guidance, pooled)?;
        if sigmas.len() as i64 != batch {
            let reason = format!("[{batch}] is needed, found [{}]", sigmas.len());
            return Err(ModelError::input("timestep", reason));
        }
        self.vectors(&self.embed_conditions(sigmas, guidance, pooled)?)
    }

    /// What conditions each sample, `[batch, width]` f32 (`temb` of the reference).
    pub(super) fn embed_conditions(
        &self,
        sigmas: &[f32],
        guidance: Option<&[f32]>,
        pooled: &Tensor,
    ) -> Result<Tensor> {
        let time = self.condition.of_time(sigmas, self.device)?;
        Ok(time.f_add(&self.condition.of_prompt(guidance, pooled)?)?)
    }

    /// All vectors of `conditions`, `[rows, width]`.
    fn vectors(&self, conditions: &Tensor) -> Result<StepModulation> {
        let active = conditions.f_silu()?;
        let doubles = self.doubles.iter().map(|block| block.modulation(&active));
        let singles = self.singles.iter().map(|block| block.modulation(&active));
        Ok(StepModulation {
            doubles: doubles.collect::<Result<_>>()?,
            singles: singles.collect::<Result<_>>()?,
            last: self.last.last(&active)?,
        })
    }

    fn check_conditions(&self, guidance: Option<&[f32]>, pooled: &Tensor) -> Result<i64> {
        let width = self.config.pooled_projection_dim;
        let size = pooled.size();
        let &[batch, found] = size.as_slice() else {
            let reason = format!("[batch, {width}] is needed, found {size:?}");
            return Err(ModelError::input("pooled_projections", reason));
        };
        if found != width {
            let reason = format!("[batch, {width}] is needed, found {size:?}");
            return Err(ModelError::input("pooled_projections", reason));
        }
        let reason = match guidance {
            None if self.config.guidance_embeds => "this model needs it".to_owned(),
            Some(_) if !self.config.guidance_embeds => {
                "this model has no guidance (FLUX.1-schnell has none)".to_owned()
            }
            Some(scales) if scales.len() as i64 != batch => {
                format!("[{batch}] is needed, found [{}]", scales.len())
            }
            _ => return Ok(batch),
        };
        Err(ModelError::input("guidance", reason))
    }

    /// Tokens to their velocity `[batch, image tokens, out_channels]` in f32 (noise minus clean), for the tokens of
    /// conditions too. All ranks that share the model call it with the same inputs, and all get the whole output.
    ///
    /// # Errors
    /// An input has another size, or guidance is missing or too much.
    pub fn forward(&self, inputs: &FluxInputs) -> Result<Tensor> {
        let _guard = gradients::guard();
        let (text, pooled) = (inputs.encoder_hidden_states, inputs.pooled_projections);
        let context = self.context(text, inputs.text_positions, inputs.image_positions)?;
        let sigmas = floats(inputs.timestep)?;
        let guidance = inputs.guidance.map(floats).transpose()?;
        let modulation = self.step_modulation(&sigmas, guidance.as_deref(), pooled)?;
        if pooled.size()[0] != context.batch() {
            let (samples, batch) = (pooled.size()[0], context.batch());
            let reason = format!("{samples} samples, but the text has {batch}");
            return Err(ModelError::input("pooled_projections", reason));
        }
        let image = self.embed(inputs.hidden_states)?;
        self.velocity(
            image,
            &modulation,
            &context,
            inputs.image_positions.tokens(),
        )
    }

    /// The velocity `[batch, keep, out_channels]` in f32 of the first `keep` of the embedded tokens
    /// `[batch, image tokens, width]` f32, which nothing else may use. All ranks that share the model call it with
    /// the same inputs, and all get the whole output: each computes its tokens and its part of the layers, and the
    /// tokens are gathered at the end. Where ranks share the tokens and these do not divide by the ranks, the last
    /// rank is filled up with zeros that no token attends to, in the text and in the image.
    ///
    /// # Errors
    /// The tokens are of another number than the positions of `context`, or of another batch.
    pub fn velocity(
        &self,
        image: Tensor,
        modulation: &StepModulation,
        context: &FluxContext,
        keep: i64,
    ) -> Result<Tensor> {
        let _guard = gradients::guard();
        let size = [context.batch(), context.image.all, self.config.width()];
        expect("hidden_states", &image, size.map(Some))?;
        if !(0..=size[1]).contains(&keep) {
            let reason = format!("{keep} of {} are to be kept", size[1]);
            return Err(ModelError::input("tokens", reason));
        }
        // The blocks add in place, and the text serves the next step as well.
        let mut streams = [
            context.image.tokens(&image, 1)?,
            context.text.f_alias_copy()?,
        ];
        drop(image);
        for (block, vectors) in self.doubles.iter().zip(&modulation.doubles) {
            streams = block.forward(streams, vectors, &context.places)?;
        }
        let [image, text] = streams;
        let rows = text.size()[1];
        let mut hidden = Tensor::f_cat(&[text, image], 1)?;
        for (block, vectors) in self.singles.iter().zip(&modulation.singles) {
            hidden = block.forward(hidden, vectors, &context.places)?;
        }
        let alone = self.sequence.part().of == 1;
        let own = if alone { keep } else { context.image.length };
        let kept = hidden.f_narrow(1, rows, own)?.f_contiguous()?;
        let normed = modulation.last.normed(&kept, self.output.kind())?;
        let tokens = self.output.forward(&normed)?;
        Ok(self.sequence.gather(&tokens, 1)?.f_narrow(1, 0, keep)?)
    }

    #[cfg(test)]
    pub(super) fn blocks(&self) -> (&[DoubleBlock], &[SingleBlock]) {
        (&self.doubles, &self.singles)
    }
}

/// The numbers of the tokens that are there among those of all ranks, rows of text before tokens of the image on
/// each; `None` where no rank is filled up.
fn real_tokens(
    [text, image]: [TokenShare; 2],
    ranks: i64,
    device: Device,
) -> Result<Option<Tensor>> {
    let is_full = |share: &TokenShare| share.length * ranks == share.all;
    if is_full(&text) && is_full(&image) {
        return Ok(None);
    }
    let mut real = Vec::new();
    for rank in 0..ranks {
        let begin = rank * (text.length + image.length);
        for (share, first) in [(text, begin), (image, begin + text.length)] {
            let there = (share.all - rank * share.length).clamp(0, share.length);
            real.extend(first..first + there);
        }
    }
    Ok(Some(Tensor::f_from_slice(&real)?.f_to_device(device)?))
}

/// All values of a small tensor.
fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    let flat = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    Ok(Vec::try_from(flat.f_flatten(0, -1)?)?)
}

/// Refuses a tensor that has not these three axes; `None` is any length.
fn expect(name: &str, tensor: &Tensor, axes: [Option<i64>; 3]) -> Result<()> {
    let size = tensor.size();
    let fits = size.len() == 3
        && size
            .iter()
            .zip(axes)
            .all(|(&length, axis)| axis.is_none_or(|axis| axis == length));
    if fits {
        return Ok(());
    }
    let axes = axes.map(|axis| axis.map_or("any".to_owned(), |axis| axis.to_string()));
    let reason = format!("[{}] is needed, found {size:?}", axes.join(", "));
    Err(ModelError::input(name, reason))
}
