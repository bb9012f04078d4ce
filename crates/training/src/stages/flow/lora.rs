//! The memory stage in its LoRA form: the transformer stays, adapters learn.
//!
//! Adapters are those of StoryMem (specification `storymem`, section 4.7): every projection of
//! attention and feed-forward layers, rank-stabilised with alpha equal to the rank, in the names of
//! the published files.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::tch::Tensor;

use super::parts;
use crate::error::Result;
use crate::params::{Start, Tensors, shallow};

/// Layers of a block that are adapted: their names in checkpoints of diffusers and in adapters.
const LAYERS: [(&str, &str); 10] = [
    ("attn1.to_q", "self_attn.q"),
    ("attn1.to_k", "self_attn.k"),
    ("attn1.to_v", "self_attn.v"),
    ("attn1.to_out.0", "self_attn.o"),
    ("attn2.to_q", "cross_attn.q"),
    ("attn2.to_k", "cross_attn.k"),
    ("attn2.to_v", "cross_attn.v"),
    ("attn2.to_out.0", "cross_attn.o"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
];

/// A weight that is adapted.
struct Adapted {
    /// Its name among the tensors of the model.
    weight: String,
    /// The two halves of its adapter, A and B.
    halves: [String; 2],
    /// Outputs and inputs.
    size: [i64; 2],
}

/// The weights among `base` that are adapted.
fn adapted(base: &Tensors) -> Vec<Adapted> {
    let prefix = format!("{}.blocks.", parts::TRANSFORMER);
    let of = |(name, tensor): (&String, &Tensor)| {
        let (block, inside) = name.strip_prefix(&prefix)?.split_once('.')?;
        let inside = inside.strip_suffix(".weight")?;
        let (_, published) = LAYERS.iter().find(|(layer, _)| *layer == inside)?;
        let half =
            |half: &str| format!("base_model.model.blocks.{block}.{published}.lora_{half}.weight");
        let &[outputs, inputs] = tensor.size().as_slice() else {
            return None;
        };
        Some(Adapted {
            weight: name.clone(),
            halves: ["A", "B"].map(half),
            size: [outputs, inputs],
        })
    };
    base.iter().filter_map(of).collect()
}

/// Asks `weights` for the adapters of `base`, which a new stage makes so.
pub fn load(weights: &Weights, base: &Tensors, rank: i64) -> storyloom_nn::Result<()> {
    for layer in adapted(base) {
        drop(pair(weights, &layer, rank)?);
    }
    Ok(())
}

/// How adapters start: their update is nothing.
pub fn start_of(name: &str, shape: &[i64]) -> Start {
    match name.contains("lora_B") {
        true => Start::Constant(0.0),
        false => Start::fan_in(shape, 1.0),
    }
}

fn pair(weights: &Weights, layer: &Adapted, rank: i64) -> storyloom_nn::Result<(Tensor, Tensor)> {
    let ([down, up], [outputs, inputs]) = (&layer.halves, layer.size);
    Ok((
        weights.take(down, &[rank, inputs])?,
        weights.take(up, &[outputs, rank])?,
    ))
}

/// `base` with the adapters of `weights` added to it; gradients flow to these.
pub fn applied(base: &Tensors, weights: &Weights, rank: i64) -> Result<Tensors> {
    let mut tensors = shallow(base);
    for layer in adapted(base) {
        let (down, up) = pair(weights, &layer, rank)?;
        let update = up.f_matmul(&down)?.f_mul_scalar((rank as f64).sqrt())?;
        let weight = base[&layer.weight].f_add(&update)?;
        tensors.insert(layer.weight, weight);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::checkpoint_of;
    use storyloom_nn::checkpoint::Target;
    use storyloom_nn::tch::{Device, Kind};

    #[test]
    fn adapters_are_those_that_the_engine_takes() {
        let mut base = Tensors::new();
        let ones = |size: [i64; 2]| Tensor::ones(size, (Kind::Float, Device::Cpu));
        for (layer, _) in LAYERS {
            base.insert(format!("transformer.blocks.3.{layer}.weight"), ones([2, 4]));
        }
        base.insert("transformer.blocks.3.norm2.weight".into(), ones([2, 4]));
        let mut adapters = Tensors::new();
        for layer in adapted(&base) {
            let [down, up] = layer.halves;
            adapters.insert(down, ones([4, 4]));
            adapters.insert(up, ones([2, 4]));
        }
        assert_eq!(adapters.len(), 20);
        assert!(adapters.contains_key("base_model.model.blocks.3.ffn.0.lora_A.weight"));
        let checkpoint = checkpoint_of(&adapters);
        let weights = checkpoint.weights(Target::CPU_F32);
        let tensors = applied(&base, &weights, 4).unwrap();
        // 1 + sqrt(4) * 4.
        assert_eq!(
            tensors["transformer.blocks.3.ffn.net.2.weight"],
            9.0 * ones([2, 4])
        );
        assert_eq!(tensors["transformer.blocks.3.norm2.weight"], ones([2, 4]));
    }
}
