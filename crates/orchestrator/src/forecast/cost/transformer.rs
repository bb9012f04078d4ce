//! Work and traffic of the denoiser, counted (specification `wan22`, sections 6.1 and 6.4).

use serde::{Deserialize, Serialize};
use storyloom_story::{NetworkWork, TransformerShape};

/// Operations in a TFLOP.
const TERA: f64 = 1e12;
/// Bytes in the gigabytes of link speeds.
const GIGA: f64 = 1e9;
/// Bytes of one activation value between ranks.
const BF16: f64 = 2.0;

/// What decides the work of one forward of a Wan transformer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transformer {
    /// Blocks.
    pub layers: u32,
    /// Attention heads.
    pub heads: u32,
    /// Channels of a head.
    pub head_width: u32,
    /// Hidden channels of the feed-forward layers.
    pub ffn: u32,
    /// Rows of text that cross-attention sees.
    pub text_rows: u32,
}

impl Default for Transformer {
    /// The 14B model (`wan22`, section 1.1).
    fn default() -> Self {
        Self {
            layers: 40,
            heads: 40,
            head_width: 128,
            ffn: 13_824,
            text_rows: 512,
        }
    }
}

impl Transformer {
    /// Width of the residual stream.
    fn width(&self) -> f64 {
        f64::from(self.heads) * f64::from(self.head_width)
    }

    /// What one forward costs.
    pub fn work(&self) -> NetworkWork {
        let shape = TransformerShape {
            blocks: self.layers,
            width: self.heads.saturating_mul(self.head_width),
            feed_forward: self.ffn,
            text_rows: self.text_rows,
        };
        shape.work()
    }

    /// Parameters of the blocks and of the parts around them that ranks do not share.
    pub fn parameters(&self) -> (f64, f64) {
        let width = self.width();
        let block = 8.0 * width * width + 2.0 * width * f64::from(self.ffn);
        // Time, text and modulation: 233 million at a width of 5120 (`wan22`, section 6.2), nearly
        // all of it products of the width with itself.
        let around = 233e6 * (width / 5120.0).powi(2);
        (f64::from(self.layers) * block, around)
    }
}

/// How the ranks of a denoiser share a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharing {
    /// Ranks that share each layer, by heads.
    pub tensor: usize,
    /// Ranks that share the tokens (Ulysses).
    pub sequence: usize,
    /// Ranks that share the two halves of guidance.
    pub cfg: usize,
}

impl Sharing {
    /// One rank does it all.
    pub const ONE: Self = Self {
        tensor: 1,
        sequence: 1,
        cfg: 1,
    };

    /// Ranks of the denoiser.
    pub fn ranks(self) -> usize {
        self.tensor * self.sequence * self.cfg
    }
}

/// How fast a GPU computes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Matrix products, in TFLOP/s.
    pub matmul_tflops: f64,
    /// Self-attention, in TFLOP/s.
    pub attention_tflops: f64,
}

impl Default for Rates {
    /// What the best published engines sustain over a whole step on one H100 or H200, and the rate
    /// that `wan22` (section 6.1) says to plan with. A first version on libtorch is expected at
    /// 350 to 400 (section 7).
    fn default() -> Self {
        Self {
            matmul_tflops: 650.0,
            attention_tflops: 650.0,
        }
    }
}

/// How fast ranks talk to each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Links {
    /// GPUs of a node; replicas are not spread over nodes.
    pub gpus_per_node: usize,
    /// Bus bandwidth of an all-reduce by number of ranks, in GB/s.
    pub all_reduce_gb_s: Vec<(usize, f64)>,
    /// Bandwidth of an all-to-all, in GB/s.
    pub all_to_all_gb_s: f64,
    /// What each small collective costs, in microseconds.
    pub latency_us: f64,
}

impl Default for Links {
    /// One NVSwitch node with NVLink 4; assumed in `wan22`, sections 6.3 and 6.4, and still to be
    /// measured.
    fn default() -> Self {
        Self {
            gpus_per_node: 8,
            all_reduce_gb_s: vec![(2, 370.0), (4, 380.0), (8, 420.0)],
            all_to_all_gb_s: 320.0,
            latency_us: 20.0,
        }
    }
}

impl Links {
    /// Bandwidth of an all-reduce of `ranks`: that of the nearest known number below.
    fn all_reduce(&self, ranks: usize) -> f64 {
        let known = self.all_reduce_gb_s.iter();
        let below = known.clone().filter(|(count, _)| *count <= ranks);
        let nearest = below
            .max_by_key(|(count, _)| *count)
            .or_else(|| known.min_by_key(|(count, _)| *count));
        nearest.map_or(f64::INFINITY, |(_, speed)| speed * GIGA)
    }
}

/// Seconds that one rank is at one forward on `tokens`, without overlap of work and traffic.
pub fn forward_seconds(
    transformer: &Transformer,
    rates: &Rates,
    links: &Links,
    sharing: Sharing,
    tokens: f64,
) -> f64 {
    let (linear, attention) = transformer.work().flops(tokens);
    let work = linear / (rates.matmul_tflops * TERA) + attention / (rates.attention_tflops * TERA);
    let ranks = (sharing.tensor * sharing.sequence) as f64;
    work / ranks + traffic_seconds(transformer, links, sharing, tokens)
}

/// Bytes that one rank sends in one forward: all-reduces of tensor ranks, all-to-alls of sequence
/// ranks.
pub fn traffic(transformer: &Transformer, sharing: Sharing, tokens: f64) -> (f64, f64) {
    let [tensor, sequence] = [sharing.tensor, sharing.sequence].map(|ranks| ranks as f64);
    let work = transformer.work();
    let blocks = f64::from(work.blocks);
    let [sums, exchanges] = [work.sums_per_block, work.exchanges_per_block].map(f64::from);
    let own = tokens / sequence * f64::from(work.width) * BF16;
    // A ring of ranks.
    let reduced = blocks * sums * own * 2.0 * (tensor - 1.0) / tensor;
    let exchanged = blocks * exchanges * own / tensor * (sequence - 1.0) / sequence;
    (reduced, exchanged)
}

fn traffic_seconds(transformer: &Transformer, links: &Links, sharing: Sharing, tokens: f64) -> f64 {
    let (reduced, exchanged) = traffic(transformer, sharing, tokens);
    let mut seconds = exchanged / (links.all_to_all_gb_s * GIGA);
    if sharing.tensor > 1 {
        let work = transformer.work();
        let small = f64::from(work.small_sums_per_block) * f64::from(work.blocks);
        let small = small * links.latency_us * 1e-6;
        seconds += reduced / links.all_reduce(sharing.tensor) + small;
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::cost::tests::close;

    const SMALL: Transformer = Transformer {
        layers: 30,
        heads: 12,
        head_width: 128,
        ffn: 8_960,
        text_rows: 512,
    };
    const MIDDLE: Transformer = Transformer {
        layers: 30,
        heads: 24,
        head_width: 128,
        ffn: 14_336,
        text_rows: 512,
    };

    /// Specification `wan22`, section 6.1: TFLOP of one forward.
    #[test]
    fn work_of_the_published_models() {
        for (model, tokens, linear, attention, total) in [
            (SMALL, 32_760.0, 82.0, 198.0, 283.0),
            (SMALL, 75_600.0, 189.0, 1_054.0, 1_250.0),
            (MIDDLE, 8_190.0, 71.0, 25.0, 98.0),
            (MIDDLE, 18_480.0, 160.0, 126.0, 291.0),
            (MIDDLE, 27_280.0, 237.0, 274.0, 517.0),
            (Transformer::default(), 32_760.0, 783.0, 879.0, 1_678.0),
            (Transformer::default(), 75_600.0, 1_807.0, 4_682.0, 6_523.0),
        ] {
            let (products, squares) = model.work().flops(tokens);
            // What is left out (patches, head, time) counts most in the short sequence of the 5B.
            close((products + squares) / TERA, total, 0.007);
            close(squares / TERA, attention, 0.02);
            // The specification's column leaves the text out.
            assert!(
                (1.0..1.04).contains(&(products / TERA / linear)),
                "{products}"
            );
        }
    }

    /// The 14B at 832x480x81, which everything else is derived from.
    #[test]
    fn work_of_the_14b() {
        let (products, squares) = Transformer::default().work().flops(32_760.0);
        close(products + squares, 1.678e15, 0.002);
    }

    /// Specification `storymem`, section 7: PFLOP of one forward with memory pictures.
    #[test]
    fn memory_makes_shots_longer() {
        for (memory, petaflops) in [(0.0, 1.68), (3.0, 2.06), (8.0, 2.78), (10.0, 3.09)] {
            let (linear, attention) = Transformer::default()
                .work()
                .flops((21.0 + memory) * 30.0 * 52.0);
            close((linear + attention) / 1e15, petaflops, 0.005);
        }
    }

    /// Specification `wan22`, section 6.1, and the exact counts of section 1.1.
    #[test]
    fn parameters_of_the_14b() {
        let (blocks, around) = Transformer::default().parameters();
        close(blocks + around, 14_288_491_584.0, 0.001);
        let (blocks, around) = SMALL.parameters();
        close(blocks + around, 1_418_996_800.0, 0.01);
    }

    fn sharing(tensor: usize, sequence: usize, cfg: usize) -> Sharing {
        Sharing {
            tensor,
            sequence,
            cfg,
        }
    }

    /// Specification `wan22`, section 6.4: GB that one GPU sends in a step of two forwards.
    #[test]
    fn traffic_of_the_14b() {
        let model = Transformer::default();
        for (tokens, tensor, gigabytes) in [
            (32_760.0, 2, 80.5),
            (32_760.0, 4, 120.8),
            (32_760.0, 8, 140.9),
            (75_600.0, 2, 185.8),
            (75_600.0, 4, 278.7),
            (75_600.0, 8, 325.1),
        ] {
            let (reduced, exchanged) = traffic(&model, sharing(tensor, 1, 1), tokens);
            close(2.0 * reduced / GIGA, gigabytes, 0.002);
            assert_eq!(exchanged, 0.0);
        }
        for (tokens, sequence, gigabytes) in [
            (32_760.0, 2, 26.8),
            (32_760.0, 4, 20.1),
            (32_760.0, 8, 11.7),
            (75_600.0, 2, 61.9),
            (75_600.0, 4, 46.4),
            (75_600.0, 8, 27.1),
        ] {
            let (reduced, exchanged) = traffic(&model, sharing(1, sequence, 1), tokens);
            close(2.0 * exchanged / GIGA, gigabytes, 0.005);
            assert_eq!(reduced, 0.0);
        }
    }

    /// Specification `wan22`, section 6.4: seconds of a guided step by layout.
    #[test]
    fn steps_of_the_14b_by_layout() {
        let step = |sharing: Sharing, tokens: f64| {
            let (rates, links) = (Rates::default(), Links::default());
            let model = Transformer::default();
            let forward = forward_seconds(&model, &rates, &links, sharing, tokens);
            forward * (2 / sharing.cfg) as f64
        };
        for (layout, small, large) in [
            (sharing(1, 1, 1), 5.16, 20.1),
            (sharing(2, 1, 1), 2.80, 10.5),
            (sharing(1, 2, 1), 2.67, 10.2),
            (sharing(1, 1, 2), 2.58, 10.0),
            (sharing(4, 1, 1), 1.61, 5.75),
            (sharing(1, 4, 1), 1.35, 5.16),
            (sharing(2, 1, 2), 1.40, 5.27),
            (sharing(1, 2, 2), 1.33, 5.11),
            (sharing(8, 1, 1), 0.98, 3.28),
            (sharing(1, 8, 1), 0.68, 2.59),
            (sharing(4, 1, 2), 0.80, 2.88),
            (sharing(1, 4, 2), 0.68, 2.58),
        ] {
            close(step(layout, 32_760.0), small, 0.01);
            close(step(layout, 75_600.0), large, 0.01);
        }
    }
}
