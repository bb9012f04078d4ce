//! Low-rank adapters of the transformer, in the PEFT form of StoryMem
//! (specification `storymem`, section 4.7).

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Kind, Tensor};

use crate::checkpoint::{Checkpoint, KeyMap, Target};
use crate::error::{ModelError, Result};
use crate::layers::LowRank;
use crate::wan::WanTransformer;

const PREFIX: &str = "base_model.model.";

/// How an adapter is applied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraSettings {
    /// The scale is `alpha / sqrt(rank)`, the rank-stabilised form. The files do not hold alpha;
    /// `None` takes the rank itself, as StoryMem trained with.
    pub alpha: Option<f64>,
    /// Add the update into the weights, or apply it beside them at every step.
    pub merge: bool,
}

/// Applies the adapter in `file` to `model` and returns the number of layers it changed.
///
/// Every tensor of the file must be used and every layer it names must have both halves; anything
/// else is an error that lists the names. The adapter counts as 400 layers on the real model.
pub fn apply_lora(
    model: &mut WanTransformer,
    file: &Path,
    target: Target,
    settings: LoraSettings,
) -> Result<usize> {
    let pairs = read_pairs(file, target)?;
    if pairs.is_empty() {
        return Err(ModelError::bad_file(
            file,
            "there is no adapter in this file",
        ));
    }
    let mut unknown = Vec::new();
    let count = pairs.len();
    for (layer, (down, up)) in pairs {
        let rank = down.size().first().copied().unwrap_or(0);
        let Some(linear) = model.linear_mut(&layer) else {
            unknown.push(layer);
            continue;
        };
        let (outputs, inputs) = linear.size();
        if down.size() != [rank, inputs] || up.size() != [outputs, rank] || rank == 0 {
            return Err(ModelError::bad_file(
                file,
                format!(
                    "{layer} is {outputs}x{inputs}, but its adapter is {:?} and {:?}",
                    down.size(),
                    up.size()
                ),
            ));
        }
        let scale = settings.alpha.unwrap_or(rank as f64) / (rank as f64).sqrt();
        let update = LowRank { down, up, scale };
        if settings.merge {
            linear.merge_low_rank(update)?;
        } else {
            linear.add_low_rank(update)?;
        }
    }
    if unknown.is_empty() {
        return Ok(count);
    }
    Err(ModelError::Keys {
        path: file.to_owned(),
        missing: Vec::new(),
        unexpected: unknown,
    })
}

type Pair = (Tensor, Tensor);

/// The two halves of every layer's update, by diffusers name, in f32.
fn read_pairs(file: &Path, target: Target) -> Result<BTreeMap<String, Pair>> {
    let checkpoint = Checkpoint::from_files(file, serde_json::Value::Null, &[file.to_owned()])?;
    let weights = checkpoint.weights(Target {
        kind: Kind::Float,
        ..target
    });
    let mut halves: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
    let mut unexpected = Vec::new();
    for (name, entry) in checkpoint.entries() {
        let Some((layer, half)) = split_name(name) else {
            unexpected.push(name.clone());
            continue;
        };
        halves.entry(layer).or_default()[half] = Some(weights.take(name, &entry.shape)?);
    }
    let mut missing = Vec::new();
    let mut pairs = BTreeMap::new();
    for (layer, halves) in halves {
        match halves {
            [Some(down), Some(up)] => {
                pairs.insert(layer, (down, up));
            }
            [None, _] => missing.push(format!("{layer}.lora_A.weight")),
            [_, None] => missing.push(format!("{layer}.lora_B.weight")),
        }
    }
    if missing.is_empty() && unexpected.is_empty() {
        return Ok(pairs);
    }
    Err(ModelError::Keys {
        path: file.to_owned(),
        missing,
        unexpected,
    })
}

/// Layer by diffusers name, and which half: 0 for A (down), 1 for B (up).
fn split_name(name: &str) -> Option<(String, usize)> {
    let layer = name.strip_prefix(PREFIX)?;
    let (layer, half) = match layer.strip_suffix(".lora_A.weight") {
        Some(layer) => (layer, 0),
        None => (layer.strip_suffix(".lora_B.weight")?, 1),
    };
    // The map works on tensor names, so a leaf is added and taken off again.
    let tensor = KeyMap::WanTransformer.to_diffusers(&format!("{layer}.weight"));
    Some((tensor.strip_suffix(".weight")?.to_owned(), half))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_file::{read_tensors, write_tensors};
    use crate::testing::{golden, golden_tensors, relative_error};
    use crate::wan::ForwardInputs;

    const SETTINGS: LoraSettings = LoraSettings {
        alpha: None,
        merge: false,
    };

    fn model() -> WanTransformer {
        WanTransformer::open(&golden("lora/transformer"), Target::CPU_F32).unwrap()
    }

    fn forward(model: &WanTransformer) -> Tensor {
        let io = golden_tensors("lora", "io.safetensors");
        let context = model
            .prepare_context(&io["encoder_hidden_states"], None)
            .unwrap();
        let inputs = ForwardInputs {
            hidden_states: &io["hidden_states"],
            timestep: &io["timestep"],
            temporal_positions: None,
        };
        model.forward(&inputs, &context).unwrap()
    }

    #[test]
    fn equals_peft_merged_and_beside() {
        let io = golden_tensors("lora", "io.safetensors");
        assert!(relative_error(&forward(&model()), &io["output_without_lora"]) < 2e-5);
        assert!(relative_error(&io["output"], &io["output_without_lora"]) > 1e-2);
        for merge in [true, false] {
            let mut model = model();
            let settings = LoraSettings { merge, ..SETTINGS };
            let file = golden("lora/lora.safetensors");
            let count = apply_lora(&mut model, &file, Target::CPU_F32, settings).unwrap();
            assert_eq!(count, 20);
            let error = relative_error(&forward(&model), &io["output"]);
            assert!(error < 2e-5, "merge {merge}: {error}");
        }
    }

    /// Specification, section 4.7: rank 128, alpha 128.
    #[test]
    fn the_scale_is_rank_stabilised() {
        let rank = 128.0_f64;
        assert!((rank / rank.sqrt() - 11.313_708_5).abs() < 1e-6);
    }

    /// Specification, section 10 item 23: a wrong name must fail.
    #[test]
    fn wrong_names_are_errors_that_list_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lora.safetensors");
        let good = read_tensors(&golden("lora/lora.safetensors")).unwrap();
        let attempt = |rename: &dyn Fn(&str) -> Option<String>| {
            let renamed: Vec<(String, &Tensor)> = good
                .iter()
                .filter_map(|(name, tensor)| Some((rename(name)?, tensor)))
                .collect();
            let views: Vec<(&str, &Tensor)> = renamed
                .iter()
                .map(|(name, tensor)| (name.as_str(), *tensor))
                .collect();
            write_tensors(&path, &views).unwrap();
            apply_lora(&mut model(), &path, Target::CPU_F32, SETTINGS).map_err(|e| e.to_string())
        };
        assert_eq!(attempt(&|name| Some(name.to_owned())), Ok(20));
        let error = attempt(&|name| Some(name.replace("base_model.model.", ""))).unwrap_err();
        assert!(error.contains("not known: blocks.0."), "{error}");
        let error = attempt(&|name| Some(name.replace("blocks.1.", "blocks.7."))).unwrap_err();
        assert!(error.contains("blocks.7.attn1.to_q"), "{error}");
        let half = |name: &str| (!name.contains("1.ffn.2.lora_B")).then(|| name.to_owned());
        let error = attempt(&half).unwrap_err();
        assert!(
            error.contains("blocks.1.ffn.net.2.lora_B.weight"),
            "{error}"
        );
        let error = attempt(&|_| None).unwrap_err();
        assert!(error.contains("no adapter"), "{error}");
    }
}
