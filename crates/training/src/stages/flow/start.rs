//! What the weights of a transformer begin as.

use storyloom_nn::tch::{Kind, Tensor, no_grad};

use super::parts;
use crate::error::Result;
use crate::params::{Start, Tensors};

/// Sizes that keep activations where they are; blocks begin as the identity, nearly.
pub(crate) fn start_of(name: &str, shape: &[i64]) -> Start {
    if name.contains("norm") && name.ends_with("weight") {
        return Start::Constant(1.0);
    }
    if name.ends_with("bias") && shape.len() == 1 || name.ends_with("proj_out.weight") {
        return Start::Constant(0.0);
    }
    if name.ends_with("scale_shift_table") {
        return Start::Constant(0.0);
    }
    if name.ends_with("relative_attention_bias.weight") {
        return Start::Neighbours;
    }
    if name.ends_with("shared.weight") {
        return Start::Normal(1.0);
    }
    // Scores of the text encoder are not scaled.
    if name.ends_with("SelfAttention.q.weight") {
        return Start::fan_in(shape, 0.2);
    }
    if name.ends_with("time_proj.weight") {
        return Start::fan_in(shape, 0.5);
    }
    Start::fan_in(shape, 1.0)
}

/// The weights of a memory-conditioned model that begins as the text-to-video model `tensors`: its
/// patches have room for the condition. Clean latents begin with half the weights of the noisy ones,
/// so that attention finds in memory what it knows; masks count for nothing at first.
pub fn widened(tensors: &Tensors, channels: i64) -> Result<Tensors> {
    let name = format!("{}.patch_embedding.weight", parts::TRANSFORMER);
    let mut wide = transformer(tensors);
    if let Some(tensor) = wide.get_mut(&name)
        && tensor.size()[1] < channels
    {
        let mut size = tensor.size();
        size[1] = (channels - 2 * size[1]).max(0);
        let masks = Tensor::f_zeros(&size, (Kind::Float, tensor.device()))?;
        let clean = tensor.f_mul_scalar(0.5)?;
        *tensor = no_grad(|| Tensor::f_cat(&[&*tensor, &masks, &clean], 1))?;
    }
    Ok(wide)
}

/// What a memory-conditioned model `memory` had learned beyond its text-to-video model `before`, added
/// to a newer one; all of them [widened]. The memory pictures are used at once, and better than by the
/// newer model alone.
pub fn carried_over(newer: &Tensors, memory: &Tensors, before: &Tensors) -> Result<Tensors> {
    let mut sums = Tensors::new();
    for (name, tensor) in newer {
        let sum = match (memory.get(name), before.get(name)) {
            (Some(memory), Some(before)) => no_grad(|| tensor.f_add(&memory.f_sub(before)?))?,
            _ => tensor.shallow_clone(),
        };
        sums.insert(name.clone(), sum);
    }
    Ok(sums)
}

/// The tensors of the transformer among `tensors`.
pub fn transformer(tensors: &Tensors) -> Tensors {
    below(parts::TRANSFORMER, tensors)
}

/// The tensors of the text encoder among `tensors`.
pub fn text_encoder(tensors: &Tensors) -> Tensors {
    below(parts::TEXT, tensors)
}

fn below(part: &str, tensors: &Tensors) -> Tensors {
    let prefix = format!("{part}.");
    let all = tensors.iter().filter(|(name, _)| name.starts_with(&prefix));
    all.map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
        .collect()
}
