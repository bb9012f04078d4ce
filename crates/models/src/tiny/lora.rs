//! StoryMem adapters in the names of the published files.

use storyloom_story::Seed;

use super::sheet::Sheet;
use super::transformer;

/// Rank of the adapters.
const RANK: i64 = 4;

/// Names, shapes and values of the adapter of one expert.
pub(super) fn tensors(seed: Seed, expert: &str) -> Vec<(String, Sheet)> {
    let mut tensors = Vec::new();
    for layer in 0..transformer::LAYERS {
        for (target, inputs, outputs) in transformer::adapted() {
            let stem = format!("base_model.model.blocks.{layer}.{target}");
            let label = format!("lora/{expert}/{stem}");
            let down = Sheet::layer(seed, &format!("{label}/a"), &[RANK, inputs], 1.0);
            // Small enough to leave the picture alone, large enough to be seen in a digest.
            let up = Sheet::layer(seed, &format!("{label}/b"), &[outputs, RANK], 0.02);
            tensors.push((format!("{stem}.lora_A.weight"), down));
            tensors.push((format!("{stem}.lora_B.weight"), up));
        }
    }
    tensors
}
