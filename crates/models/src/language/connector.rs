//! Blocks of a language model in which every row sees all others.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::shard::Peers;
use tch::{Kind, Tensor};

use super::attention::{Pass, Sight};
use super::config::{Family, LanguageConfig};
use super::decoder::Block;
use super::rotary::{Rotary, RotaryConfig, Stretch};

/// Blocks of Qwen2 without a mask, for rows of a fixed number such as query slots.
#[derive(Debug)]
pub(super) struct ConnectorBlocks {
    blocks: Vec<Block>,
    rotary: Rotary,
}

impl ConnectorBlocks {
    /// Takes `layers` blocks of width, heads and hidden width from `weights`, which has them by their numbers.
    pub(super) fn load(
        weights: &Weights,
        layers: i64,
        (width, heads, intermediate): (i64, i64, i64),
        eps: f64,
    ) -> Result<Self> {
        let config = config(layers, (width, heads, intermediate), eps);
        let block = |index| Block::load(&weights.sub(index), &config, &Peers::default(), index);
        Ok(Self {
            blocks: (0..layers).map(block).collect::<Result<_>>()?,
            rotary: Rotary::new(&config.rotary, weights.target().device)?,
        })
    }

    /// f32 `[batch, rows, width]` to the same; each row stands at its number. No collective.
    pub(super) fn forward(&self, rows: Tensor) -> Result<Tensor> {
        let (batch, count, _) = rows.size3()?;
        let positions = Tensor::f_arange(count, (Kind::Int64, rows.device()))?;
        let positions = positions.f_view([1, 1, count])?;
        let positions = positions.f_expand([1, batch, count], false)?;
        let all = Tensor::f_ones([1, 1, count, count], (Kind::Bool, rows.device()))?;
        let mut pass = Pass {
            rotary: self.rotary.table(&positions)?,
            cache: None,
            sight: Sight::Masked(all),
        };
        // A copy: the blocks add to it in place.
        let mut hidden = rows.f_contiguous()?.f_add_scalar(0.0)?;
        for (index, block) in self.blocks.iter().enumerate() {
            hidden = block.forward(hidden, &mut pass, index)?;
        }
        Ok(hidden)
    }
}

fn config(
    blocks: i64,
    (hidden_size, heads, intermediate_size): (i64, i64, i64),
    norm_eps: f64,
) -> LanguageConfig {
    let head_dim = hidden_size / heads;
    LanguageConfig {
        family: Family::Qwen2,
        vocab_size: 0,
        hidden_size,
        intermediate_size,
        blocks,
        heads,
        key_heads: heads,
        head_dim,
        norm_eps,
        tied: true,
        max_positions: i64::MAX,
        rotary: RotaryConfig {
            theta: 10_000.0,
            dim: head_dim,
            stretch: Stretch::Plain,
            sections: None,
        },
        input_bias: true,
        output_bias: false,
        feed_bias: false,
        head_norms: false,
        experts: None,
        vision: None,
        end_tokens: Vec::new(),
    }
}
