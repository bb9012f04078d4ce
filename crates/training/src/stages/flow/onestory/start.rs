//! What the parts that OneStory adds begin as.

use storyloom_models::onestory::{OneStoryConfig, spread_patch};
use storyloom_nn::tch::{Kind, no_grad};

use super::super::{parts, start_of as start_of_transformer};
use crate::error::Result;
use crate::params::{Start, Tensors};

/// From which weights patchifiers begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchStart {
    /// Those of the noisy latents, as with checkpoints that have seen no memory (specification
    /// `onestory`, section 4).
    Noise,
    /// Those that a memory picture goes through at noise level 0: of the noisy latents, of the condition,
    /// and of the mask, which is 1 all over.
    Memory,
}

/// Sizes that keep activations where they are. What tells ages, times and context apart is nothing.
pub(super) fn start_of(name: &str, shape: &[i64]) -> Start {
    let begins_as_nothing = ["shot_age", "frame_time", "context_token"];
    if begins_as_nothing.iter().any(|part| name.ends_with(part)) {
        return Start::Constant(0.0);
    }
    match name.ends_with("selector.queries") {
        true => Start::Normal(1.0),
        false => start_of_transformer(name, shape),
    }
}

/// The patchifiers of `config` that belong to the patches of `transformer`, by their names in training.
pub(super) fn patchifiers(
    transformer: &Tensors,
    config: &OneStoryConfig,
    start: PatchStart,
) -> Result<Tensors> {
    let name = |part: &str| format!("{}.patch_embedding.{part}", parts::TRANSFORMER);
    let (weight, bias) = (&transformer[&name("weight")], &transformer[&name("bias")]);
    let latents = config.latent_channels;
    let mut patch = weight.f_narrow(1, 0, latents)?;
    let mut bias = bias.shallow_clone();
    let rest = weight.size()[1] - 2 * latents;
    if start == PatchStart::Memory && rest >= 0 {
        patch = patch.f_add(&weight.f_narrow(1, latents + rest, latents)?)?;
        let mask = weight.f_narrow(1, latents, rest)?.f_flatten(1, -1)?;
        bias = bias.f_add(&mask.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Float)?)?;
    }
    let mut tensors = Tensors::new();
    for &kernel in &config.kernels {
        let below = format!("{}.patchifiers.{kernel}", parts::ONESTORY);
        let spread = no_grad(|| spread_patch(&patch, kernel))?;
        tensors.insert(format!("{below}.weight"), spread);
        tensors.insert(format!("{below}.bias"), bias.copy());
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use storyloom_nn::tch::{Device, Tensor};
    use storyloom_story::onestory::Kernel;

    use super::*;

    /// A flat picture gives the same token with every kernel: that of a memory picture without noise.
    #[test]
    fn patchifiers_begin_as_memory_pictures() {
        let normal = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let (weight, bias) = (normal(&[6, 8, 1, 2, 2]), normal(&[6]));
        let transformer = [("weight", &weight), ("bias", &bias)]
            .map(|(part, tensor)| (format!("transformer.patch_embedding.{part}"), tensor.copy()));
        let transformer = Tensors::from(transformer);
        let config = OneStoryConfig {
            width: 6,
            latent_channels: 2,
            ..OneStoryConfig::default()
        };
        let colour = normal(&[2]);
        let sum = |weight: &Tensor, channels: &Tensor| {
            let over = weight.sum_dim_intlist([2_i64, 3, 4].as_slice(), false, Kind::Float);
            over.matmul(channels)
        };
        let slot = Tensor::cat(
            &[
                &colour,
                &Tensor::ones([4], (Kind::Float, Device::Cpu)),
                &colour,
            ],
            0,
        );
        let memory = sum(&weight, &slot) + &bias;
        let noise = sum(&weight.narrow(1, 0, 2), &colour) + &bias;
        for (start, token) in [(PatchStart::Memory, memory), (PatchStart::Noise, noise)] {
            let begun = patchifiers(&transformer, &config, start).unwrap();
            assert_eq!(begun.len(), 2 * Kernel::ALL.len());
            for kernel in Kernel::ALL {
                let below = format!("onestory.patchifiers.{kernel}");
                let weight = &begun[&format!("{below}.weight")];
                let found = sum(weight, &colour) + &begun[&format!("{below}.bias")];
                assert!(
                    found.allclose(&token, 1e-4, 1e-4, false),
                    "{kernel} {start:?}"
                );
            }
        }
    }
}
