//! The encoders of T5 v1.1 and UMT5 (transformers `T5EncoderModel` and `UMT5EncoderModel`; specifications
//! `flux`, section 3.1, and `wan22`, section 4.1).
//!
//! They differ in the table of relative positions: every layer of UMT5 has its own, and all layers of T5 use
//! that of the first.

use std::path::Path;

use serde::Deserialize;
use tch::{Kind, Tensor};

use storyloom_nn::checkpoint::{Checkpoint, SingleFilePart, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use storyloom_nn::layers::{Activation, Linear, RmsNorm, attend, merge_heads, split_heads};

use super::ids::checked_ids;

/// Shape of the encoder, `text_encoder/config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct T5Config {
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
    /// Which layers have a table of relative positions; follows from the class.
    #[serde(skip)]
    pub tables: PositionTables,
}

/// Which layers have a table of relative positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PositionTables {
    /// Every layer has its own: UMT5.
    #[default]
    EachLayer,
    /// The first has one, and all use it: T5.
    FirstLayer,
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

impl T5Config {
    /// Reads the config of an encoder, alone or of a whole model.
    ///
    /// # Errors
    /// Another class, and values that are not implemented, by their key.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        const T5: [&str; 3] = ["T5EncoderModel", "T5ForConditionalGeneration", "T5Model"];
        const UMT5: [&str; 3] = [
            "UMT5EncoderModel",
            "UMT5ForConditionalGeneration",
            "UMT5Model",
        ];
        checkpoint.expect_class(&[T5, UMT5].concat())?;
        let mut config: Self = checkpoint.config()?;
        let class = checkpoint.class_name();
        if class.is_some_and(|class| T5.contains(&class)) {
            config.tables = PositionTables::FirstLayer;
        }
        if config.feed_forward_proj != "gated-gelu" {
            let reason = format!(
                "feed_forward_proj {:?} is not gated-gelu",
                config.feed_forward_proj
            );
            let path = checkpoint.folder().join("config.json");
            return Err(ModelError::bad_file(path, reason));
        }
        Ok(config)
    }
}

/// The encoder half of T5 v1.1 or UMT5.
#[derive(Debug)]
pub struct T5Encoder {
    config: T5Config,
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
    /// f32 `[buckets, heads]`; `None` for a layer that uses the table of the first.
    bias: Option<Tensor>,
    feed_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl T5Encoder {
    /// Loads a text encoder folder, or the encoder of a single file; the decoder of a whole model is left aside.
    /// Other missing and unknown tensors are an error that lists them, and f16 is refused for T5.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        let checkpoint = Checkpoint::open_part(folder, SingleFilePart::T5Encoder)?;
        let config = T5Config::of(&checkpoint)?;
        if config.tables == PositionTables::FirstLayer && target.kind == Kind::Half {
            let reason = "the encoder of T5 leaves the range of f16; use bf16 or f32";
            return Err(ModelError::input("dtype", reason));
        }
        let weights = checkpoint.weights(target);
        for name in checkpoint.entries().keys() {
            if name.starts_with("decoder.") || name == "lm_head.weight" {
                weights.ignore(name);
            }
        }
        let model = Self::load(&weights, config)?;
        weights.finish()?;
        Ok(model)
    }

    /// Takes all tensors of an encoder of this shape from `weights`.
    pub fn load(weights: &Weights, config: T5Config) -> Result<Self> {
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
        let layers = (0..config.num_layers).map(|layer| {
            let has_table = layer == 0 || config.tables == PositionTables::EachLayer;
            Layer::load(
                &encoder.sub("block").sub(layer).sub("layer"),
                &config,
                has_table,
            )
        });
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
    pub fn config(&self) -> &T5Config {
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
        let mut scores = Tensor::new();
        for layer in &self.layers {
            if let Some(table) = &layer.bias {
                scores = position_scores(table, &buckets, mask.as_ref())?;
            }
            hidden = layer.forward(&hidden, &scores, self.config.num_heads)?;
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

/// What is added to the scores: the `table` `[buckets, heads]` at `buckets` `[rows, rows]`, and the `mask`
/// `[batch, 1, 1, rows]`; f32 `[1 or batch, heads, rows, rows]`.
fn position_scores(table: &Tensor, buckets: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    // [rows, rows, heads] to [1, heads, rows, rows].
    let bias = Tensor::f_embedding(table, buckets, -1, false, false)?;
    let bias = bias.f_permute([2, 0, 1])?.f_unsqueeze(0)?;
    Ok(match mask {
        Some(mask) => bias.f_add(mask)?.f_clamp_min(f64::from(f32::MIN))?,
        None => bias,
    })
}

impl Layer {
    fn load(weights: &Weights, config: &T5Config, has_table: bool) -> Result<Self> {
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
            bias: has_table
                .then(|| table.take("weight", &table_shape))
                .transpose()?,
            feed_norm: norm("1")?,
            gate: linear(&feed, "wi_0", width, config.d_ff)?,
            up: linear(&feed, "wi_1", width, config.d_ff)?,
            down: linear(&feed, "wo", config.d_ff, width)?,
        })
    }

    /// `hidden` `[batch, rows, width]` f32 to the same. `scores` `[1 or batch, heads, rows, rows]` are added
    /// to those of the attention. Whole on one rank.
    fn forward(&self, hidden: &Tensor, scores: &Tensor, heads: i64) -> Result<Tensor> {
        let normed = self.attention_norm.forward(hidden)?;
        let part = |linear: &Linear| split_heads(&linear.forward(&normed)?, heads);
        // T5 does not scale its scores.
        let attended = attend(
            &part(&self.query)?,
            &part(&self.key)?,
            &part(&self.value)?,
            Some(scores),
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
    use serde_json::json;
    use storyloom_nn::testing::vectors::{
        assert_begins, assert_vector, flux_vector, integers, write_vector_checkpoint,
    };
    use storyloom_nn::testing::{fill_checkpoint, layout_counts, summary};

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
        let config: T5Config = serde_json::from_str(text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fill_checkpoint(folder.path(), text, 0.2, |weights| {
            T5Encoder::load(weights, config.clone()).map(drop)
        });
        let model = T5Encoder::open(folder.path(), Target::CPU_F32).unwrap();
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

    /// transformers `T5EncoderModel`: one table, no mask, scores that are not scaled.
    #[test]
    fn all_layers_of_t5_use_the_table_of_the_first() {
        let case = flux_vector("modules/cases/t5");
        let folder = tempfile::tempdir().unwrap();
        let mut config = case["config"].clone();
        config["architectures"] = json!(["T5EncoderModel"]);
        write_vector_checkpoint(folder.path(), &config, |weights| {
            let config = T5Config {
                tables: PositionTables::FirstLayer,
                ..serde_json::from_value(config.clone()).unwrap()
            };
            T5Encoder::load(weights, config).map(drop)
        });
        let model = T5Encoder::open(folder.path(), Target::CPU_F32).unwrap();
        let ids = Tensor::from_slice(&integers(&case["input_ids"])).unsqueeze(0);
        let output = model.forward(&ids, None).unwrap();
        assert_vector("no mask", &output, &case["output_no_mask"], 1e-5);
        let masked = model.forward(&ids, Some(&ids.ne(0))).unwrap();
        assert_begins("mask", &masked, &case["with_mask_first"], 1e-5);

        let half = Target {
            kind: Kind::Half,
            ..Target::CPU_F32
        };
        let error = T5Encoder::open(folder.path(), half).unwrap_err();
        assert!(error.to_string().contains("bf16 or f32"), "{error}");
        config["architectures"] = json!(["UMT5EncoderModel"]);
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let error = T5Encoder::open(folder.path(), Target::CPU_F32).unwrap_err();
        assert!(error.to_string().contains("block.1"), "{error}");
        config["feed_forward_proj"] = json!("relu");
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let error = T5Encoder::open(folder.path(), Target::CPU_F32).unwrap_err();
        assert!(error.to_string().contains("feed_forward_proj"), "{error}");
    }

    /// Specification `flux`, section 3.1: the encoder of XXL by what one layer more adds to it.
    #[test]
    fn the_layout_has_the_counts_of_the_published_model() {
        let counts = |num_layers: i64| {
            let config = json!({
                "vocab_size": 32_128, "d_model": 4096, "d_kv": 64, "d_ff": 10_240, "num_heads": 64,
                "num_layers": num_layers,
            });
            let config = T5Config {
                tables: PositionTables::FirstLayer,
                ..serde_json::from_value(config).unwrap()
            };
            layout_counts(|weights| T5Encoder::load(weights, config).map(drop))
        };
        let (one, two) = (counts(1), counts(2));
        let all = (one.0 + 23 * (two.0 - one.0), one.1 + 23 * (two.1 - one.1));
        assert_eq!(all, (219, 4_762_310_656));
    }

    #[test]
    fn buckets_are_those_of_the_reference() {
        let vector = flux_vector("t5_buckets");
        let (distances, buckets) = (integers(&vector["distance"]), integers(&vector["bucket"]));
        for (distance, bucket) in distances.into_iter().zip(buckets) {
            assert_eq!(relative_bucket(distance, 32, 128), bucket, "{distance}");
        }
    }
}
