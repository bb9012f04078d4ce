//! The tensors of FLUX's autoencoder in the original file `ae.safetensors` (specification `flux`, section
//! 4; `AutoencoderKL` of diffusers).
//!
//! The decoder's levels are numbered from the output there: the one that runs first has the highest number.

use std::collections::BTreeMap;

use super::{Pieces, Tensors, count_of};

/// The most levels, and blocks of a level, that a file may have.
const MOST: u32 = 64;

/// Tensors that every original file has and no file of another layout.
pub(crate) const MARKS: [&str; 2] = [
    "encoder.down.0.block.0.conv1.weight",
    "decoder.up.0.block.0.conv1.weight",
];

/// Levels and blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Resolutions.
    pub(crate) levels: u32,
    /// Residual blocks of a level of the encoder; the decoder has one more.
    pub(crate) blocks: u32,
}

impl Size {
    /// By the names of a file.
    pub(crate) fn of(tensors: &Tensors) -> Self {
        Self {
            levels: count_of(tensors, "encoder.down.", MOST),
            blocks: count_of(tensors, "encoder.down.0.block.", MOST),
        }
    }
}

/// What becomes of the tensors of a file, by their names in it.
pub(super) fn plan(tensors: &Tensors) -> BTreeMap<String, Pieces> {
    let Size { levels, blocks } = Size::of(tensors);
    let mut plan = Plan {
        tensors,
        found: BTreeMap::new(),
    };
    for (half, count) in [("encoder", blocks), ("decoder", blocks.saturating_add(1))] {
        plan.pair(&format!("{half}.conv_in"), &format!("{half}.conv_in"));
        plan.middle(half);
        plan.pair(
            &format!("{half}.norm_out"),
            &format!("{half}.conv_norm_out"),
        );
        plan.pair(&format!("{half}.conv_out"), &format!("{half}.conv_out"));
        for level in 0..levels {
            plan.level(half, level, levels, count);
        }
    }
    plan.found
}

struct Plan<'a> {
    tensors: &'a Tensors,
    found: BTreeMap<String, Pieces>,
}

impl Plan<'_> {
    /// A layer with weight and bias.
    fn pair(&mut self, original: &str, diffusers: &str) {
        for leaf in ["weight", "bias"] {
            let pieces = Pieces::Whole(format!("{diffusers}.{leaf}"));
            self.found.insert(format!("{original}.{leaf}"), pieces);
        }
    }

    /// A convolution of one pixel, which is a product in diffusers.
    fn product(&mut self, original: &str, diffusers: &str) {
        self.pair(original, diffusers);
        let weight = Pieces::Matrix(format!("{diffusers}.weight"));
        self.found.insert(format!("{original}.weight"), weight);
    }

    /// A residual block. It has a shortcut where its width changes.
    fn block(&mut self, original: &str, diffusers: &str) {
        for layer in ["norm1", "conv1", "norm2", "conv2"] {
            self.pair(
                &format!("{original}.{layer}"),
                &format!("{diffusers}.{layer}"),
            );
        }
        let first = self.tensors.get(&format!("{original}.conv1.weight"));
        let changes = first.is_some_and(|entry| entry.shape.first() != entry.shape.get(1));
        if changes {
            let shortcut = format!("{diffusers}.conv_shortcut");
            self.pair(&format!("{original}.nin_shortcut"), &shortcut);
        }
    }

    fn middle(&mut self, half: &str) {
        let (original, diffusers) = (format!("{half}.mid"), format!("{half}.mid_block"));
        for index in 0..2 {
            self.block(
                &format!("{original}.block_{}", index + 1),
                &format!("{diffusers}.resnets.{index}"),
            );
        }
        let attention = format!("{diffusers}.attentions.0");
        self.pair(
            &format!("{original}.attn_1.norm"),
            &format!("{attention}.group_norm"),
        );
        for (layer, name) in [
            ("q", "to_q"),
            ("k", "to_k"),
            ("v", "to_v"),
            ("proj_out", "to_out.0"),
        ] {
            self.product(
                &format!("{original}.attn_1.{layer}"),
                &format!("{attention}.{name}"),
            );
        }
    }

    /// Level number `level` of diffusers. The last one keeps its resolution.
    fn level(&mut self, half: &str, level: u32, levels: u32, blocks: u32) {
        let (original, diffusers, sampler) = match half {
            "encoder" => (
                format!("encoder.down.{level}"),
                format!("encoder.down_blocks.{level}"),
                ("downsample", "downsamplers"),
            ),
            _ => (
                format!("decoder.up.{}", levels - 1 - level),
                format!("decoder.up_blocks.{level}"),
                ("upsample", "upsamplers"),
            ),
        };
        for block in 0..blocks {
            self.block(
                &format!("{original}.block.{block}"),
                &format!("{diffusers}.resnets.{block}"),
            );
        }
        if level + 1 < levels {
            self.pair(
                &format!("{original}.{}.conv", sampler.0),
                &format!("{diffusers}.{}.0.conv", sampler.1),
            );
        }
    }
}
