//! Shapes of the networks that are trained, as their `config.json` files say them.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use storyloom_models::autoencoder::VaeConfig;
use storyloom_models::onestory::OneStoryConfig;
use storyloom_models::text::T5Config;
use storyloom_models::vision::clip::ClipVisionConfig;
use storyloom_models::wan::WanConfig;
use storyloom_story::onestory::Kernel;

use crate::error::{Result, TrainError};

/// The version of diffusers whose layout is written.
const DIFFUSERS: &str = "0.42.1";

/// Side of the pictures that the vision tower sees, pixels.
pub const SCORED: i64 = 96;

/// Sizes of the networks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Width of the first stage of the autoencoder.
    pub vae_width: i64,
    /// Latent channels.
    pub latent: i64,
    /// Heads of the transformers.
    pub heads: i64,
    /// Channels of a head.
    pub head: i64,
    /// Blocks of the transformers.
    pub layers: i64,
    /// Width of the text encoder.
    pub text: i64,
    /// Layers of the text encoder.
    pub text_layers: i64,
}

impl Shape {
    /// `vae/config.json`: two halvings and a patch of two pixels, with the shortcuts of Wan 2.2.
    /// `statistics` are mean and deviation of every latent channel.
    pub fn vae_json(&self, statistics: &[Vec<f64>; 2]) -> Value {
        json!({
            "_class_name": "AutoencoderKLWan",
            "_diffusers_version": DIFFUSERS,
            "attn_scales": [],
            "base_dim": self.vae_width,
            "decoder_base_dim": self.vae_width,
            "dim_mult": [1, 2, 2],
            "dropout": 0.0,
            "in_channels": 12,
            "is_residual": true,
            "latents_mean": statistics[0],
            "latents_std": statistics[1],
            "num_res_blocks": 2,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 8,
            "scale_factor_temporal": 4,
            "temperal_downsample": [true, true],
            "z_dim": self.latent,
        })
    }

    /// `text_encoder/config.json` for a `vocabulary` of this number of rows.
    pub fn text_json(&self, vocabulary: i64) -> Value {
        json!({
            "architectures": ["UMT5EncoderModel"],
            "d_ff": 2 * self.text,
            "d_kv": 32,
            "d_model": self.text,
            "dense_act_fn": "gelu_new",
            "dropout_rate": 0.1,
            "dtype": "bfloat16",
            "eos_token_id": 1,
            "feed_forward_proj": "gated-gelu",
            "is_encoder_decoder": false,
            "is_gated_act": true,
            "layer_norm_epsilon": 1e-6,
            "model_type": "umt5",
            "num_heads": self.text / 32,
            "num_layers": self.text_layers,
            "pad_token_id": 0,
            "relative_attention_max_distance": 128,
            "relative_attention_num_buckets": 32,
            "tie_word_embeddings": true,
            "use_cache": false,
            "vocab_size": vocabulary,
        })
    }

    /// `transformer/config.json`; with `pictures`, of a model that takes four mask channels and
    /// condition latents behind the noise.
    pub fn transformer_json(&self, pictures: bool) -> Value {
        let condition = if pictures { 4 + self.latent } else { 0 };
        json!({
            "_class_name": "WanTransformer3DModel",
            "_diffusers_version": DIFFUSERS,
            "added_kv_proj_dim": null,
            "attention_head_dim": self.head,
            "cross_attn_norm": true,
            "eps": 1e-6,
            "ffn_dim": 4 * self.heads * self.head,
            "freq_dim": 256,
            "image_dim": null,
            "in_channels": self.latent + condition,
            "num_attention_heads": self.heads,
            "num_layers": self.layers,
            "out_channels": self.latent,
            "patch_size": [1, 2, 2],
            "pos_embed_seq_len": null,
            "qk_norm": "rms_norm_across_heads",
            "rope_max_seq_len": 1024,
            "text_dim": self.text,
        })
    }

    /// `onestory/config.json`: selector and patchifiers beside the transformer that takes pictures.
    pub fn onestory_json(&self) -> Value {
        json!({
            "_class_name": OneStoryConfig::CLASS,
            "eps": 1e-6,
            "frame_times": 21,
            "head_dim": self.head,
            "kernels": Kernel::ALL,
            "latent_channels": self.latent,
            "queries": 16,
            "score_norm": "cosine",
            "shot_ages": 16,
            "text_dim": self.text,
            "vision_width": self.text,
            "width": self.heads * self.head,
        })
    }

    /// The parsed form of [`onestory_json`](Self::onestory_json).
    pub fn onestory(&self) -> Result<OneStoryConfig> {
        parse(self.onestory_json())
    }

    /// `clip/config.json`: a vision tower that sees pictures of 96x96 in patches of 16.
    pub fn clip_json(&self) -> Value {
        json!({
            "architectures": ["CLIPVisionModelWithProjection"],
            "attention_dropout": 0.0,
            "dtype": "float32",
            "hidden_act": "quick_gelu",
            "hidden_size": self.text / 2,
            "image_size": SCORED,
            "intermediate_size": self.text,
            "layer_norm_eps": 1e-5,
            "model_type": "clip_vision_model",
            "num_attention_heads": 4,
            "num_channels": 3,
            "num_hidden_layers": 3,
            "patch_size": 16,
            "projection_dim": self.text / 4,
        })
    }

    /// The parsed form of [`clip_json`](Self::clip_json).
    pub fn clip(&self) -> Result<ClipVisionConfig> {
        parse(self.clip_json())
    }

    /// The parsed form of [`vae_json`](Self::vae_json) with statistics that change nothing.
    pub fn vae(&self) -> Result<VaeConfig> {
        let channels = self.latent.unsigned_abs() as usize;
        parse(self.vae_json(&[vec![0.0; channels], vec![1.0; channels]]))
    }

    /// The parsed form of [`text_json`](Self::text_json).
    pub fn text_encoder(&self, vocabulary: i64) -> Result<T5Config> {
        parse(self.text_json(vocabulary))
    }

    /// The parsed form of [`transformer_json`](Self::transformer_json).
    pub fn transformer(&self, pictures: bool) -> Result<WanConfig> {
        parse(self.transformer_json(pictures))
    }
}

fn parse<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|error| TrainError::bad_file(Path::new("config.json"), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::Preset;

    const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/storyloom-tiny");

    /// The model that is shipped is the one that `storyloom train tiny` makes.
    #[test]
    fn the_shipped_configs_are_those_of_the_preset() {
        let shipped = |file: &str| -> Value {
            let text = std::fs::read_to_string(Path::new(SHIPPED).join(file)).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        let shape = Preset::tiny().shape;
        for (pipeline, pictures) in [("t2v", false), ("i2v", true)] {
            let transformer = shipped(&format!("{pipeline}/transformer/config.json"));
            assert_eq!(transformer, shape.transformer_json(pictures), "{pipeline}");
            let text = shipped(&format!("{pipeline}/text_encoder/config.json"));
            let vocabulary = text["vocab_size"].as_i64().unwrap();
            assert_eq!(text, shape.text_json(vocabulary), "{pipeline}");
            let vae = shipped(&format!("{pipeline}/vae/config.json"));
            let [mean, std] = ["latents_mean", "latents_std"].map(|key| {
                let values = vae[key].as_array().unwrap().iter();
                values.map(|value| value.as_f64().unwrap()).collect()
            });
            assert_eq!(vae, shape.vae_json(&[mean, std]), "{pipeline}");
        }
        assert_eq!(shipped("clip/config.json"), shape.clip_json());
    }

    #[test]
    fn memory_pictures_enter_behind_the_noise() {
        let shape = Preset::tiny().shape;
        let [plain, pictures] = [false, true].map(|pictures| shape.transformer(pictures).unwrap());
        assert_eq!(plain.in_channels, shape.latent);
        assert_eq!(pictures.in_channels, 2 * shape.latent + 4);
        assert_eq!(plain.out_channels, pictures.out_channels);
    }
}
