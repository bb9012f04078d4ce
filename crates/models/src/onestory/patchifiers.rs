//! The adaptive conditioner (arXiv 2512.07802, section 4.3): context tokens, finer for frames that matter more.

use std::collections::BTreeMap;

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use storyloom_nn::layers::Linear;
use storyloom_story::onestory::{ChosenFrame, Kernel};
use tch::{Kind, Tensor};

use super::OneStoryConfig;
use super::selector::patches;

/// A patchifier for each kernel, and what marks a token as context. Whole on every rank; no collective.
#[derive(Debug)]
pub struct Patchifiers {
    kernels: BTreeMap<Kernel, Linear>,
    /// Added to every context token, `[width]` f32.
    context_token: Tensor,
}

impl Patchifiers {
    pub(super) fn load(weights: &Weights, config: &OneStoryConfig) -> Result<Self> {
        let (width, channels) = (config.width, config.latent_channels);
        let kernel = |kernel: &Kernel| -> Result<(Kernel, Linear)> {
            let weights = weights.sub("patchifiers").sub(kernel.name());
            let side = i64::from(kernel.side());
            let weight = weights.take("weight", &[width, channels, 1, side, side])?;
            let weight = weight.f_reshape([width, channels * side * side])?;
            let bias = weights.take("bias", &[width])?;
            Ok((*kernel, Linear::from_tensors(weight, Some(bias))))
        };
        Ok(Self {
            kernels: config.kernels.iter().map(kernel).collect::<Result<_>>()?,
            context_token: weights
                .with_kind(Kind::Float)
                .take("context_token", &[width])?,
        })
    }

    /// All patchifiers as they begin: as the patches of a transformer do, `weight` `[width, channels, 1, 2, 2]` and
    /// `bias` `[width]`, and with nothing that marks a token as context.
    ///
    /// # Errors
    /// The weight has another shape.
    pub fn spread(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let width = bias.size1()?;
        let kernel = |kernel: Kernel| -> Result<(Kernel, Linear)> {
            let spread = spread_patch(weight, kernel)?.f_flatten(1, -1)?;
            let bias = Some(bias.shallow_clone());
            Ok((kernel, Linear::from_tensors(spread, bias)))
        };
        Ok(Self {
            kernels: Kernel::ALL.into_iter().map(kernel).collect::<Result<_>>()?,
            context_token: Tensor::f_zeros([width], (Kind::Float, bias.device()))?,
        })
    }

    /// The kernels there are, from the finest to the coarsest.
    pub fn kernels(&self) -> impl Iterator<Item = Kernel> {
        self.kernels.keys().copied()
    }

    /// Latent frames `[frames, channels, h, w]` f32 to their tokens `[frames, cells, width]` f32, row by row.
    ///
    /// # Errors
    /// There is no such patchifier, or the frames have other channels.
    pub fn tokens(&self, kernel: Kernel, frames: &Tensor) -> Result<Tensor> {
        let _guard = gradients::guard();
        let missing = || {
            let reason = format!("the checkpoint has no patchifier {kernel}");
            ModelError::input("frames per kernel", reason)
        };
        let projection = self.kernels.get(&kernel).ok_or_else(missing)?;
        let frames = frames.f_to_kind(Kind::Float)?;
        let (patches, _) = patches(&frames, i64::from(kernel.side()))?;
        Ok(projection.forward(&patches)?.f_add(&self.context_token)?)
    }

    /// The context tokens `[1, N_c, width]` f32 of the chosen frames, whose latents `[channels, h, w]` f32 come in
    /// the same order: the finest kernel first, inside of it by time, inside a frame row by row.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens); there is no frame.
    pub fn forward(&self, chosen: &[ChosenFrame], latents: &[Tensor]) -> Result<Tensor> {
        let _guard = gradients::guard();
        let mut tokens = Vec::with_capacity(chosen.len());
        for kernel in Kernel::ALL {
            let frames: Vec<&Tensor> = chosen
                .iter()
                .zip(latents)
                .filter(|(chosen, _)| chosen.kernel == kernel)
                .map(|(_, latents)| latents)
                .collect();
            if !frames.is_empty() {
                let of = self.tokens(kernel, &Tensor::f_stack(&frames, 0)?)?;
                tokens.push(of.f_flatten(0, 1)?);
            }
        }
        Ok(Tensor::f_cat(&tokens, 0)?.f_unsqueeze(0)?)
    }
}

/// The weight `[width, channels, 1, side, side]` with which the patchifier of `kernel` begins: that of the
/// transformer's own patches, `[width, channels, 1, 2, 2]`, spread over more latents, so that a constant frame
/// gives the same token with every kernel.
///
/// # Errors
/// `patch` has another shape.
pub fn spread_patch(patch: &Tensor, kernel: Kernel) -> Result<Tensor> {
    let times = i64::from(kernel.side()) / 2;
    let spread = patch
        .f_repeat_interleave_self_int(times, 3, None)?
        .f_repeat_interleave_self_int(times, 4, None)?;
    Ok(spread.f_div_scalar((times * times) as f64)?)
}
