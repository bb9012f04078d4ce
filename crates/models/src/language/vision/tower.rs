//! The tower: patches, blocks with attention in windows or over the whole picture, and the merger.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use storyloom_nn::layers::{Activation, Linear, RmsNorm, attend, merge_heads, split_heads};
use storyloom_nn::shard::Peers;
use tch::{Kind, Tensor};

use super::{ImagePatches, VisionConfig};
use crate::language::feed_forward::Gated;
use crate::language::rotary::HalfRotary;

/// The vision tower. Ranks that share a language model each have a whole one.
#[derive(Debug)]
pub struct VisionTower {
    config: VisionConfig,
    patches: Linear,
    blocks: Vec<Block>,
    merger_norm: RmsNorm,
    merger: [Linear; 2],
}

#[derive(Debug)]
struct Block {
    attention_norm: RmsNorm,
    joined: Linear,
    output: Linear,
    feed_norm: RmsNorm,
    feed_forward: Gated,
}

/// Which tokens attend to each other: runs of tokens, one after the other.
type Runs = Vec<i64>;

impl Block {
    fn load(weights: &Weights, config: &VisionConfig) -> Result<Self> {
        let width = config.hidden_size;
        let norm = |name: &str| RmsNorm::load(&weights.sub(name), width, VisionConfig::NORM_EPS);
        let attention = weights.sub("attn");
        let sizes = [width, config.intermediate_size];
        Ok(Self {
            attention_norm: norm("norm1")?,
            joined: Linear::load(&attention.sub("qkv"), width, 3 * width)?,
            output: Linear::load(&attention.sub("proj"), width, width)?,
            feed_norm: norm("norm2")?,
            feed_forward: Gated::load(&weights.sub("mlp"), sizes, &Peers::default(), true)?,
        })
    }

    /// `hidden` `[1, patches, width]` f32 to the same; patches attend within their run. Whole on one rank.
    fn forward(
        &self,
        hidden: Tensor,
        rotary: &HalfRotary,
        runs: &Runs,
        heads: i64,
    ) -> Result<Tensor> {
        let normed = self.attention_norm.forward_rows(&hidden)?;
        let joined = self.joined.forward_rounded(&normed)?.f_chunk(3, -1)?;
        let turned = |input: &Tensor| -> Result<Tensor> {
            let (batch, tokens, width) = input.size3()?;
            let split = input.f_reshape([batch, tokens, heads, width / heads])?;
            let turned = rotary.rotate(&split.f_to_kind(Kind::Float)?)?;
            Ok(turned.f_to_kind(input.kind())?.f_transpose(1, 2)?)
        };
        let (query, key) = (turned(&joined[0])?, turned(&joined[1])?);
        let value = split_heads(&joined[2].f_contiguous()?, heads)?;
        let mut first = 0;
        let mut parts = Vec::with_capacity(runs.len());
        for &length in runs {
            let part = |tensor: &Tensor| tensor.f_narrow(2, first, length);
            parts.push(attend(
                &part(&query)?,
                &part(&key)?,
                &part(&value)?,
                None,
                None,
            )?);
            first += length;
        }
        let attended = merge_heads(&Tensor::f_cat(&parts, 2)?)?;
        let hidden = gradients::add(hidden, &self.output.forward_rounded(&attended)?)?;
        let normed = self.feed_norm.forward_rows(&hidden)?;
        gradients::add(hidden, &self.feed_forward.forward(&normed)?)
    }
}

impl VisionTower {
    /// Takes the tensors of the tower from `weights`, the root of a model's files.
    pub fn load(weights: &Weights, config: VisionConfig) -> Result<Self> {
        let newer = weights.sub("model.visual");
        let tower = match newer.has("merger.ln_q.weight") {
            true => newer,
            false => weights.sub("visual"),
        };
        let width = config.hidden_size;
        let VisionConfig {
            channels,
            frames,
            patch,
            merge,
            ..
        } = config;
        let shape = [width, channels, frames, patch, patch];
        let kernel = tower
            .take("patch_embed.proj.weight", &shape)?
            .f_view([width, -1])?;
        let block = |index| Block::load(&tower.sub("blocks").sub(index), &config);
        let (merger, inner) = (tower.sub("merger"), width * merge * merge);
        Ok(Self {
            patches: Linear::from_tensors(kernel, None),
            blocks: (0..config.depth).map(block).collect::<Result<_>>()?,
            merger_norm: RmsNorm::load(&merger.sub("ln_q"), width, VisionConfig::NORM_EPS)?,
            merger: [
                Linear::load(&merger.sub("mlp.0"), inner, inner)?,
                Linear::load(&merger.sub("mlp.2"), inner, config.out_size)?,
            ],
            config,
        })
    }

    /// The shape of the tower.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Pixels `[patches, values of a patch]` to the rows that take the places of a picture's tokens, f32
    /// `[tokens, width of the language model]`, row by row of the picture. Whole on one rank; no collective.
    ///
    /// # Errors
    /// The patches are not those of a picture of this grid.
    pub fn forward(&self, picture: &ImagePatches) -> Result<Tensor> {
        let _guard = gradients::guard();
        let config = &self.config;
        let pixels = &picture.pixels;
        let [frames, rows, columns] = picture.grid;
        let pixel_values = config.channels * config.frames * config.patch * config.patch;
        let cells = rows % config.merge == 0 && columns % config.merge == 0;
        if pixels.size() != [frames * rows * columns, pixel_values] || !cells || pixels.numel() == 0
        {
            let reason = format!("{:?} for the grid {:?}", pixels.size(), picture.grid);
            return Err(ModelError::input("patches", reason));
        }
        let device = self.merger_norm.weight().device();
        let windows = Windows::new(picture.grid, config);
        let order = Tensor::f_from_slice(&windows.order)?.f_to_device(device)?;
        let unit = config.merge * config.merge;
        let in_windows = |tensor: &Tensor| -> Result<Tensor> {
            let width = tensor.size().last().copied().unwrap_or(1);
            let cells = tensor
                .f_view([-1, unit, width])?
                .f_index_select(0, &order)?;
            Ok(cells.f_view([1, -1, width])?)
        };
        let embedded = self.patches.forward(&pixels.f_to_device(device)?)?;
        let mut hidden = in_windows(&embedded)?;
        let angles = rotary_angles(picture.grid, config)?.f_to_device(device)?;
        let rotary = HalfRotary::of_angles(&in_windows(&angles)?, 1.0)?;
        let whole = vec![rows * columns; frames as usize];
        for (index, block) in self.blocks.iter().enumerate() {
            let full = config.full_blocks.contains(&(index as i64));
            let runs = if full { &whole } else { &windows.runs };
            hidden = block.forward(hidden, &rotary, runs, config.heads)?;
        }
        let normed = self.merger_norm.forward_rows(&hidden)?;
        let inner = self.merger[0].forward(&normed.f_view([-1, unit * config.hidden_size])?)?;
        let merged = self.merger[1].forward(&Activation::Gelu.apply(inner)?)?;
        Ok(merged.f_index_select(0, &order.f_argsort(0, false)?)?)
    }
}

/// The cells of a picture in the order of its windows.
struct Windows {
    /// Cell at each place.
    order: Vec<i64>,
    /// Patches of each window.
    runs: Runs,
}

impl Windows {
    fn new([frames, rows, columns]: [i64; 3], config: &VisionConfig) -> Self {
        let (rows, columns) = (rows / config.merge, columns / config.merge);
        let side = config.window / config.cell();
        let mut order = Vec::with_capacity((frames * rows * columns) as usize);
        let mut runs = Runs::new();
        let starts = |length: i64| (0..length).step_by(side as usize);
        for frame in 0..frames {
            for top in starts(rows) {
                for left in starts(columns) {
                    let before = order.len();
                    for row in top..rows.min(top + side) {
                        let line = (frame * rows + row) * columns;
                        order.extend((left..columns.min(left + side)).map(|column| line + column));
                    }
                    let cells = (order.len() - before) as i64;
                    runs.push(cells * config.merge * config.merge);
                }
            }
        }
        Self { order, runs }
    }
}

/// Angles of every patch, f32 `[patches, channels of a head / 2]`, patches in the order in which
/// they are cut: half of the pairs turn with the row, half with the column.
fn rotary_angles([frames, rows, columns]: [i64; 3], config: &VisionConfig) -> Result<Tensor> {
    let pairs = config.hidden_size / config.heads / 4;
    let frequency = |pair: i64| {
        let exponent = pair as f64 / pairs as f64;
        1.0 / VisionConfig::THETA.powf(exponent) as f32
    };
    let frequencies: Vec<f32> = (0..pairs).map(frequency).collect();
    let merge = config.merge;
    let mut angles = Vec::new();
    for cell in 0..frames * rows * columns / (merge * merge) {
        let line = columns / merge;
        let (top, left) = (cell / line % (rows / merge) * merge, cell % line * merge);
        for place in 0..merge * merge {
            for position in [top + place / merge, left + place % merge] {
                angles.extend(
                    frequencies
                        .iter()
                        .map(|frequency| position as f32 * frequency),
                );
            }
        }
    }
    Ok(Tensor::f_from_slice(&angles)?.f_view([-1, 2 * pairs])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> VisionConfig {
        let json = serde_json::json!({
            "image_token_id": 7,
            "vision_config": {
                "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
                "out_hidden_size": 8, "window_size": 56, "fullatt_block_indexes": [1],
            },
        });
        VisionConfig::parse(&json, std::path::Path::new("config.json")).unwrap()
    }

    /// A picture of 3 x 5 cells in windows of 2 x 2.
    #[test]
    fn windows_take_every_cell_once() {
        let windows = Windows::new([1, 6, 10], &config());
        assert_eq!(
            windows.order,
            [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
        );
        assert_eq!(windows.runs, [16, 16, 8, 8, 8, 4]);
    }

    #[test]
    fn patches_of_a_cell_turn_with_their_own_places() {
        let angles = rotary_angles([1, 4, 4], &config()).unwrap();
        assert_eq!(angles.size(), [16, 4]);
        // The third patch of the second cell is the lower left one: row 1, column 2.
        let row: Vec<f32> = Vec::try_from(angles.get(6)).unwrap();
        assert_eq!((row[0], row[2]), (1.0, 2.0));
        assert!((row[1] - 0.01).abs() < 1e-6 && (row[3] - 0.02).abs() < 1e-6);
    }
}
