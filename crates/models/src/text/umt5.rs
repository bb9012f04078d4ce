//! The UMT5 encoder (transformers `UMT5EncoderModel`; specification `wan22`, section 4.1).

use std::path::Path;

use serde::Deserialize;
use tch::{Kind, Tensor};

use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use storyloom_nn::layers::{Activation, Linear, RmsNorm, attend, merge_heads, split_heads};

use super::ids::checked_ids;

/// Shape of the encoder, `text_encoder/config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Umt5Config {
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub d_model: i64,
    /// Channels of a head.
    pub d_kv: i64,
    /// Hidden width of the feed-forward layers.
    pub d_ff: i64,
    /// Number of layers.
    pub num_layers: i64,
    /// Attention heads.
    pub num_heads: i64,
    /// Buckets of relative distance.
    #[serde(default = "default_buckets")]
    pub relative_attention_num_buckets: i64,
    /// Distance from which all share the last bucket.
    #[serde(default = "default_distance")]
    pub relative_attention_max_distance: i64,
    /// Epsilon of the norms.
    #[serde(default = "default_epsilon")]
    pub layer_norm_epsilon: f64,
    /// `gated-gelu` in all published models.
    #[serde(default = "default_projection")]
    pub feed_forward_proj: String,
}

fn default_buckets() -> i64 {
    32
}

fn default_distance() -> i64 {
    128
}

fn default_epsilon() -> f64 {
    1e-6
}

fn default_projection() -> String {
    "gated-gelu".to_owned()
}

/// The encoder half of UMT5. Every layer has its own table of relative positions.
#[derive(Debug)]
pub struct Umt5Encoder {
    config: Umt5Config,
    embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: RmsNorm,
}

#[derive(Debug)]
struct Layer {
    attention_norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    /// f32 `[buckets, heads]`.
    bias: Tensor,
    feed_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Umt5Encoder {
    /// Loads a text encoder folder. Missing and unknown tensors are an error that lists them.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        checkpoint.expect_class(&[
            "UMT5EncoderModel",
            "UMT5ForConditionalGeneration",
            "UMT5Model",
        ])?;
        let config: Umt5Config = checkpoint.config()?;
        if config.feed_forward_proj != "gated-gelu" {
            let reason = format!(
                "feed_forward_proj {:?} is not gated-gelu",
                config.feed_forward_proj
            );
            return Err(ModelError::bad_file(folder.join("config.json"), reason));
        }
        let weights = checkpoint.weights(target);
        let model = Self::load(&weights, config)?;
        weights.finish()?;
        Ok(model)
    }

    /// Takes all tensors of an encoder of this shape from `weights`.
    pub fn load(weights: &Weights, config: Umt5Config) -> Result<Self> {
        let shape = [config.vocab_size, config.d_model];
        // The two names are tied; files have either or both.
        let tied = "encoder.embed_tokens.weight";
        let embedding = if weights.has("shared.weight") || !weights.has(tied) {
            weights.ignore(tied);
            weights.take("shared.weight", &shape)?
        } else {
            weights.take(tied, &shape)?
        };
        let encoder = weights.sub("encoder");
        let layers = (0..config.num_layers)
            .map(|layer| Layer::load(&encoder.sub("block").sub(layer).sub("layer"), &config));
        let layers = layers.collect::<Result<_>>()?;
        let final_norm = encoder.sub("final_layer_norm");
        let final_norm = RmsNorm::load(&final_norm, config.d_model, config.layer_norm_epsilon)?;
        Ok(Self {
            config,
            embedding,
            layers,
            final_norm,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &Umt5Config {
        &self.config
    }

    /// `input_ids` `[batch, rows]` (integers) and `attention_mask` of the same shape (1: a token,
    /// 0: padding) to hidden states `[batch, rows, d_model]` in f32.
    pub fn forward(&self, input_ids: &Tensor, attention_mask: Option<&Tensor>) -> Result<Tensor> {
        let _guard = gradients::guard();
        let ids = checked_ids(input_ids, &self.embedding)?;
        let (_, rows) = ids.size2()?;
        let mask = attention_mask
            .map(|mask| key_mask(mask, &ids))
            .transpose()?;
        let buckets = self.buckets(rows)?.f_to_device(ids.device())?;
        let mut hidden =
            Tensor::f_embedding(&self.embedding, &ids, -1, false, false)?.f_to_kind(Kind::Float)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, &buckets, mask.as_ref(), self.config.num_heads)?;
        }
        self.final_norm.forward(&hidden)
    }

    /// Bucket of every (query, key) pair, i64 `[rows, rows]`.
    fn buckets(&self, rows: i64) -> Result<Tensor> {
        let config = &self.config;
        let mut buckets = Vec::with_capacity((rows * rows) as usize);
        for query in 0..rows {
            for key in 0..rows {
                buckets.push(relative_bucket(
                    key - query,
                    config.relative_attention_num_buckets,
                    config.relative_attention_max_distance,
                ));
            }
        }
        Ok(Tensor::f_from_slice(&buckets)?.f_view([rows, rows])?)
    }
}

/// The bucket of a distance, both directions: small distances have their own, larger ones share
/// logarithmically. Arithmetic is f32, as in the reference.
fn relative_bucket(distance: i64, buckets: i64, max_distance: i64) -> i64 {
    let half = buckets / 2;
    let offset = if distance > 0 { half } else { 0 };
    let distance = distance.abs();
    let exact = half / 2;
    if distance < exact {
        return offset + distance;
    }
    let ratio = (distance as f32 / exact as f32).ln();
    let span = (max_distance as f64 / exact as f64).ln() as f32;
    let large = exact + (ratio / span * (half - exact) as f32) as i64;
    offset + large.min(half - 1)
}

/// Padding keys get the lowest finite score: `[batch, 1, 1, rows]` in f32.
fn key_mask(mask: &Tensor, ids: &Tensor) -> Result<Tensor> {
    if mask.size() != ids.size() {
        let reason = format!("{:?}, but input_ids are {:?}", mask.size(), ids.size());
        return Err(ModelError::input("attention_mask", reason));
    }
    let (batch, rows) = mask.size2()?;
    let padding = mask
        .f_to_device(ids.device())?
        .f_eq(0)?
        .f_view([batch, 1, 1, rows])?;
    Ok(padding
        .f_to_kind(Kind::Float)?
        .f_mul_scalar(f64::from(f32::MIN))?)
}

impl Layer {
    fn load(weights: &Weights, config: &Umt5Config) -> Result<Self> {
        let (width, inner) = (config.d_model, config.num_heads * config.d_kv);
        let attention = weights.sub("0.SelfAttention");
        let feed = weights.sub("1.DenseReluDense");
        let norm = |name: &str| {
            RmsNorm::load(
                &weights.sub(name).sub("layer_norm"),
                width,
                config.layer_norm_epsilon,
            )
        };
        let linear = |place: &Weights, name: &str, inputs, outputs| {
            Linear::load_without_bias(&place.sub(name), inputs, outputs)
        };
        let table = attention
            .sub("relative_attention_bias")
            .with_kind(Kind::Float);
        let table_shape = [config.relative_attention_num_buckets, config.num_heads];
        Ok(Self {
            attention_norm: norm("0")?,
            query: linear(&attention, "q", width, inner)?,
            key: linear(&attention, "k", width, inner)?,
            value: linear(&attention, "v", width, inner)?,
            output: linear(&attention, "o", inner, width)?,
            bias: table.take("weight", &table_shape)?,
            feed_norm: norm("1")?,
            gate: linear(&feed, "wi_0", width, config.d_ff)?,
            up: linear(&feed, "wi_1", width, config.d_ff)?,
            down: linear(&feed, "wo", config.d_ff, width)?,
        })
    }

    /// `hidden` `[batch, rows, width]` f32 to the same. `buckets` `[rows, rows]` are those of the
    /// relative positions, `mask` `[batch, 1, 1, rows]` is added to the scores. Whole on one rank.
    fn forward(
        &self,
        hidden: &Tensor,
        buckets: &Tensor,
        mask: Option<&Tensor>,
        heads: i64,
    ) -> Result<Tensor> {
        let normed = self.attention_norm.forward(hidden)?;
        let part = |linear: &Linear| split_heads(&linear.forward(&normed)?, heads);
        // [rows, rows, heads] to [1, heads, rows, rows].
        let bias = Tensor::f_embedding(&self.bias, buckets, -1, false, false)?;
        let bias = bias.f_permute([2, 0, 1])?.f_unsqueeze(0)?;
        let scores = match mask {
            Some(mask) => bias.f_add(mask)?.f_clamp_min(f64::from(f32::MIN))?,
            None => bias,
        };
        // T5 does not scale its scores.
        let attended = attend(
            &part(&self.query)?,
            &part(&self.key)?,
            &part(&self.value)?,
            Some(&scores),
            Some(1.0),
        )?;
        let hidden = hidden.f_add(&self.output.forward(&merge_heads(&attended)?)?)?;

        let normed = self.feed_norm.forward(&hidden)?;
        let gate = Activation::GeluTanh.apply(self.gate.forward(&normed)?)?;
        let fed = self
            .down
            .forward(&gate.f_mul(&self.up.forward(&normed)?)?)?;
        Ok(hidden.f_add(&fed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::{fill_checkpoint, summary};

    /// Specification `wan22`, section 4.1.
    #[test]
    fn first_distance_of_each_bucket() {
        for (bucket, distance) in [
            (7, 7),
            (8, 8),
            (9, 12),
            (10, 16),
            (11, 23),
            (12, 32),
            (13, 46),
            (14, 64),
            (15, 91),
        ] {
            assert_eq!(relative_bucket(-distance, 32, 128), bucket);
            assert_eq!(relative_bucket(distance, 32, 128), 16 + bucket);
            assert_ne!(relative_bucket(1 - distance, 32, 128), bucket);
        }
        assert_eq!(relative_bucket(0, 32, 128), 0);
        assert_eq!(relative_bucket(-4000, 32, 128), 15);
    }

    /// Specification `wan22`, section 8: values computed with transformers.
    #[test]
    fn files_free_golden_values() {
        let text = r#"{"architectures": ["UMT5EncoderModel"], "vocab_size": 70, "d_model": 32,
            "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}"#;
        let config: Umt5Config = serde_json::from_str(text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fill_checkpoint(folder.path(), text, 0.2, |weights| {
            Umt5Encoder::load(weights, config.clone()).map(drop)
        });
        let model = Umt5Encoder::open(folder.path(), Target::CPU_F32).unwrap();
        let mut ids = vec![4_i64, 3, 8, 56, 19, 5, 4, 3, 1];
        ids.resize(16, 0);
        let ids = Tensor::from_slice(&ids).view([1, 16]);
        let mask = ids.ne(0);
        let output = model.forward(&ids, Some(&mask)).unwrap().narrow(1, 0, 9);
        let (values, sum) = summary(&output, &[0, 1, 100, 287]);
        for (value, expected) in values
            .iter()
            .zip([1.121_532, 0.114_642, -1.057_538, 0.302_516])
        {
            assert!((value - expected).abs() < 1e-5, "{values:?}");
        }
        assert!((sum - 256.584_81).abs() < 1e-3, "{sum}");

        // Encoding at the true length gives the same rows.
        let short = model.forward(&ids.narrow(1, 0, 9), None).unwrap();
        assert!(storyloom_nn::testing::relative_error(&short, &output) < 1e-6);
        assert!(
            model
                .forward(&Tensor::from_slice(&[70_i64]).view([1, 1]), None)
                .is_err()
        );
    }
}
