//! What the predictions of a network cost, counted once for estimates, benchmarks and the networks
//! themselves.

/// What decides the work of a diffusion transformer: blocks of self-attention over all tokens,
/// cross-attention to text, and feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransformerShape {
    /// Blocks.
    pub blocks: u32,
    /// Channels of a token.
    pub width: u32,
    /// Hidden channels of the feed-forward layers.
    pub feed_forward: u32,
    /// Rows of text that cross-attention sees.
    pub text_rows: u32,
}

/// Floating-point operations of the parts of all blocks together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartFlops {
    /// What makes queries, keys and values.
    pub input_products: f64,
    /// Attention of the tokens to each other.
    pub self_attention: f64,
    /// Attention of the tokens to the text.
    pub cross_attention: f64,
    /// The products after the attentions.
    pub output_products: f64,
    /// The feed-forward layers.
    pub feed_forward_products: f64,
}

/// What one prediction of a network costs, and what ranks that share it must exchange.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NetworkWork {
    /// Operations per token.
    pub per_token: f64,
    /// Operations per pair of tokens.
    pub per_token_squared: f64,
    /// Blocks.
    pub blocks: u32,
    /// Channels of a token, which travel between ranks.
    pub width: u32,
    /// Sums over the ranks that share each layer, per block, of all channels of each token.
    pub sums_per_block: u32,
    /// Sums per block of one value for each token.
    pub small_sums_per_block: u32,
    /// Exchanges per block of all channels of each token, for ranks that share the tokens.
    pub exchanges_per_block: u32,
}

impl TransformerShape {
    /// Operations by part of one prediction with prepared text on `tokens`, two per multiply-add
    /// (specification `wan22`, section 6.1). Only products and attentions count.
    pub fn part_flops(&self, tokens: f64) -> PartFlops {
        let (blocks, width) = (f64::from(self.blocks), f64::from(self.width));
        let square = 2.0 * blocks * tokens * width * width;
        let attention = |keys: f64| 4.0 * blocks * tokens * keys * width;
        PartFlops {
            // Queries, keys and values, and the queries to the text.
            input_products: 4.0 * square,
            self_attention: attention(tokens),
            cross_attention: attention(f64::from(self.text_rows)),
            output_products: 2.0 * square,
            feed_forward_products: 4.0 * blocks * tokens * width * f64::from(self.feed_forward),
        }
    }

    /// The same as figures of a network.
    pub fn work(&self) -> NetworkWork {
        let one = self.part_flops(1.0);
        NetworkWork {
            per_token: one.sum() - one.self_attention,
            per_token_squared: one.self_attention,
            blocks: self.blocks,
            width: self.width,
            // The outputs of self-attention, of cross-attention and of the feed-forward.
            sums_per_block: 3,
            // Two statistics of the query and key norms (`wan22`, section 6.3).
            small_sums_per_block: 2,
            // Queries, keys and values to the heads, and the result back to the tokens.
            exchanges_per_block: 4,
        }
    }
}

impl PartFlops {
    /// All parts together.
    pub fn sum(&self) -> f64 {
        self.input_products
            + self.self_attention
            + self.cross_attention
            + self.output_products
            + self.feed_forward_products
    }
}

impl NetworkWork {
    /// Operations of one prediction on `tokens`: matrix products, and self-attention, which grows with
    /// the square of the tokens.
    pub fn flops(&self, tokens: f64) -> (f64, f64) {
        (
            self.per_token * tokens,
            self.per_token_squared * tokens * tokens,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 14B at 832x480x81 (specification `wan22`, section 6.1). Whole numbers below 2^53 are exact,
    /// so that the order of the products does not matter.
    #[test]
    fn work_of_the_14b_by_parts_and_as_a_whole() {
        let shape = TransformerShape {
            blocks: 40,
            width: 5120,
            feed_forward: 13_824,
            text_rows: 512,
        };
        let tokens = 32_760.0;
        let (products, attention) = shape.work().flops(tokens);
        let parts = shape.part_flops(tokens);
        assert_eq!(attention, parts.self_attention);
        assert_eq!(products + attention, parts.sum());
        assert!((parts.sum() / 1.678e15 - 1.0).abs() < 0.002);
    }
}
