//! The whole tower (transformers `CLIPVisionModel` and `CLIPVisionModelWithProjection`).

use std::path::Path;

use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::layers::{LayerNorm, Linear};
use tch::{Device, Kind, Tensor};

use super::config::ClipVisionConfig;
use super::layer::ClipLayer;

/// A CLIP vision tower, with its projection to the shared space where the checkpoint has one.
#[derive(Debug)]
pub struct ClipVision {
    config: ClipVisionConfig,
    class: Tensor,
    patch: Tensor,
    positions: Tensor,
    norm_before: LayerNorm,
    layers: Vec<ClipLayer>,
    norm_after: LayerNorm,
    projection: Option<Linear>,
    device: Device,
}

/// What the tower says of a batch of pictures; all f32.
#[derive(Debug)]
pub struct ClipOutput {
    /// After the last layer, `[batch, tokens, hidden]`, class token first, not normed.
    pub last_hidden_state: Tensor,
    /// Before the last layer, the `hidden_states[-2]` that Wan 2.1 attends to,
    /// `[batch, tokens, hidden]`.
    pub penultimate: Tensor,
    /// The class token after the final norm, `[batch, hidden]`.
    pub pooled: Tensor,
    /// `pooled` in the space shared with text, `[batch, projection]`, not normalised; `None`
    /// where the checkpoint has no projection.
    pub image_embeds: Option<Tensor>,
}

impl ClipVision {
    /// Loads a vision tower, alone or out of a whole CLIP, whose text tower is left aside. Other
    /// missing and unknown tensors are an error that lists them.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let config = ClipVisionConfig::of(&checkpoint)?;
        let weights = checkpoint.weights(target);
        for name in checkpoint.entries().keys() {
            let stored = ["text_model.", "text_projection."];
            if name == "logit_scale" || stored.iter().any(|tower| name.starts_with(tower)) {
                weights.ignore(name);
            }
        }
        let model = Self::load(&weights, config)?;
        weights.finish()?;
        Ok(model)
    }

    /// Takes the tensors; the prefix `vision_model.` is there or not, by the writer's version.
    ///
    /// # Errors
    /// Missing tensors and tensors of another shape.
    pub fn load(weights: &Weights, config: ClipVisionConfig) -> Result<Self> {
        let bare = weights.has("embeddings.class_embedding");
        let tower = if bare {
            weights.clone()
        } else {
            weights.sub("vision_model")
        };
        let width = config.hidden_size;
        let embeddings = tower.sub("embeddings");
        let norm = |name| LayerNorm::load(&tower.sub(name), width, config.layer_norm_eps);
        let patch = [
            width,
            config.num_channels,
            config.patch_size,
            config.patch_size,
        ];
        let layers = (0..config.num_hidden_layers)
            .map(|layer| ClipLayer::load(&tower.sub("encoder.layers").sub(layer), config.layer()));
        let projection = weights.sub("visual_projection");
        let projection = projection
            .has("weight")
            .then(|| Linear::load_without_bias(&projection, width, config.projection_dim));
        Ok(Self {
            class: embeddings
                .with_kind(Kind::Float)
                .take("class_embedding", &[width])?,
            patch: embeddings
                .with_kind(Kind::Float)
                .take("patch_embedding.weight", &patch)?,
            positions: embeddings
                .with_kind(Kind::Float)
                .take("position_embedding.weight", &[config.tokens(), width])?,
            // The name is misspelt in the reference.
            norm_before: norm("pre_layrnorm")?,
            layers: layers.collect::<Result<_>>()?,
            norm_after: norm("post_layernorm")?,
            projection: projection.transpose()?,
            device: weights.target().device,
            config,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// `pixel_values` `[batch, 3, image_size, image_size]`, normalised, to f32 states `[batch, tokens,
    /// width]`, `pooled` `[batch, width]` and embeddings `[batch, projection]`. Whole on one rank; no
    /// collective.
    pub fn forward(&self, pixel_values: &Tensor) -> Result<ClipOutput> {
        let _guard = storyloom_nn::gradients::guard();
        let mut hidden = self.embed(pixel_values)?;
        let mut penultimate = hidden.shallow_clone();
        for layer in &self.layers {
            let next = layer.forward(&hidden)?;
            penultimate = std::mem::replace(&mut hidden, next);
        }
        let pooled = self.norm_after.forward(&hidden.f_select(1, 0)?)?;
        let image_embeds = self
            .projection
            .as_ref()
            .map(|projection| projection.forward(&pooled));
        Ok(ClipOutput {
            last_hidden_state: hidden,
            penultimate,
            image_embeds: image_embeds.transpose()?,
            pooled,
        })
    }

    /// Embeddings of length 1 for similarities by dot product, `[batch, projection]`.
    ///
    /// Fails for a checkpoint without projection.
    pub fn embed_normalised(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let embeds = self.forward(pixel_values)?.image_embeds.ok_or_else(|| {
            let reason = "this checkpoint has no visual_projection; \
                use one of CLIPVisionModelWithProjection";
            ModelError::input("vision tower", reason)
        })?;
        let norm = embeds.f_norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)?;
        Ok(embeds.f_div(&norm.f_clamp_min(1e-12)?)?)
    }

    fn embed(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let size = pixel_values.size();
        let side = self.config.image_size;
        let channels = self.config.num_channels;
        if size.len() != 4 || size[0] < 1 || size[1..] != [channels, side, side] {
            let reason = format!("[batch, {channels}, {side}, {side}] is needed, found {size:?}");
            return Err(ModelError::input("pixel_values", reason));
        }
        let pixels = pixel_values
            .f_to_device(self.device)?
            .f_to_kind(Kind::Float)?;
        let stride = [self.config.patch_size; 2];
        let patches = pixels
            .f_conv2d::<Tensor>(&self.patch, None, stride, [0, 0], [1, 1], 1)?
            .f_flatten(2, 3)?
            .f_transpose(1, 2)?;
        let class = self
            .class
            .f_expand([size[0], 1, self.config.hidden_size], false)?;
        let tokens = Tensor::f_cat(&[class, patches], 1)?.f_add(&self.positions)?;
        self.norm_before.forward(&tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::{golden, golden_tensors, relative_error};

    fn open(case: &str) -> ClipVision {
        ClipVision::open(&golden(case).join("image_encoder"), Target::CPU_F32).unwrap()
    }

    /// transformers `CLIPVisionModelWithProjection`, keys with prefix.
    #[test]
    fn quick_gelu_with_projection_equals_the_reference() {
        let io = golden_tensors("clip-b32", "io.safetensors");
        let output = open("clip-b32").forward(&io["pixel_values"]).unwrap();
        let embeds = output.image_embeds.unwrap();
        assert!(relative_error(&embeds, &io["output"]) < 1e-5);
        let last = relative_error(&output.last_hidden_state, &io["last_hidden_state"]);
        assert!(last < 1e-5, "{last}");
    }

    /// transformers `CLIPVisionModel`, keys without prefix.
    #[test]
    fn gelu_without_projection_equals_the_reference() {
        let io = golden_tensors("clip-h14", "io.safetensors");
        let model = open("clip-h14");
        let output = model.forward(&io["pixel_values"]).unwrap();
        assert!(output.image_embeds.is_none());
        for (name, found) in [
            ("output", &output.last_hidden_state),
            ("penultimate", &output.penultimate),
            ("pooled", &output.pooled),
        ] {
            let error = relative_error(found, &io[name]);
            assert!(error < 1e-5, "{name}: {error}");
        }
        let error = model.embed_normalised(&io["pixel_values"]).unwrap_err();
        assert!(error.to_string().contains("visual_projection"), "{error}");
    }

    #[test]
    fn embeddings_have_length_one_and_sizes_are_checked() {
        let io = golden_tensors("clip-b32", "io.safetensors");
        let model = open("clip-b32");
        let embeds = model.embed_normalised(&io["pixel_values"]).unwrap();
        let lengths = embeds.square().sum_dim_intlist(-1_i64, false, Kind::Float);
        assert!(lengths.allclose(&Tensor::ones_like(&lengths), 1e-5, 1e-5, false));
        let low = io["pixel_values"].narrow(2, 0, 39);
        let error = model.forward(&low).unwrap_err().to_string();
        assert!(
            error.contains("pixel_values") && error.contains("40"),
            "{error}"
        );
    }

    #[test]
    fn a_whole_clip_gives_its_vision_tower() {
        let source = golden("clip-b32").join("image_encoder");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut tensors =
            storyloom_nn::tensor_file::read_tensors(&source.join("model.safetensors")).unwrap();
        let scalar = Tensor::from_slice(&[1.0_f32]);
        tensors.insert("logit_scale".to_owned(), scalar.copy());
        tensors.insert("text_model.final_layer_norm.bias".to_owned(), scalar);
        let views: Vec<(&str, &Tensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
        storyloom_nn::tensor_file::write_tensors(&path, &views).unwrap();
        let text = std::fs::read_to_string(source.join("config.json")).unwrap();
        let mut vision: serde_json::Value = serde_json::from_str(&text).unwrap();
        vision["projection_dim"] = 7.into();
        let config = serde_json::json!({
            "architectures": ["CLIPModel"], "projection_dim": 20, "vision_config": vision,
        });
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let whole = ClipVision::open(folder.path(), Target::CPU_F32).unwrap();
        let io = golden_tensors("clip-b32", "io.safetensors");
        let embeds = whole.forward(&io["pixel_values"]).unwrap().image_embeds;
        assert!(relative_error(&embeds.unwrap(), &io["output"]) < 1e-5);
    }
}
