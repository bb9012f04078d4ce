//! The whole tower (transformers `CLIPTextModel` and `CLIPTextModelWithProjection`).

use std::path::Path;

use storyloom_nn::checkpoint::{Checkpoint, SingleFilePart, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::layers::{LayerNorm, Linear};
use tch::{Device, Kind, Tensor};

use super::config::ClipTextConfig;
use crate::text::ids::checked_ids;
use crate::vision::clip::ClipLayer;

/// A CLIP text tower, with its projection to the shared space where the class has one.
///
/// Attention is causal and the vector of a text is the row of its end: pads behind the end cannot change it,
/// so there is no mask.
#[derive(Debug)]
pub struct ClipText {
    config: ClipTextConfig,
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<ClipLayer>,
    final_norm: LayerNorm,
    projection: Option<Linear>,
}

/// What the tower says of a batch of texts; all f32.
#[derive(Debug)]
pub struct ClipTextOutput {
    /// After the final norm, `[batch, rows, hidden]`.
    pub last_hidden_state: Tensor,
    /// Before the last layer and not normed, the `hidden_states[-2]` that SDXL attends to,
    /// `[batch, rows, hidden]`.
    pub penultimate: Tensor,
    /// The row of `last_hidden_state` at the end of each text, `[batch, hidden]`: the vector that
    /// FLUX takes.
    pub pooled: Tensor,
    /// `pooled` in the space shared with pictures, `[batch, projection]`, not normalised; `None`
    /// for the class without projection.
    pub text_embeds: Option<Tensor>,
}

impl ClipText {
    /// Loads a text tower, alone, out of a single file of FLUX or out of a whole CLIP, whose vision tower is left
    /// aside. The class `CLIPTextModel` leaves a projection aside as well. Other missing and unknown tensors are an
    /// error that lists them.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        let checkpoint = Checkpoint::open_part(folder, SingleFilePart::ClipText)?;
        let config = ClipTextConfig::of(&checkpoint)?;
        let weights = checkpoint.weights(target);
        let projects = checkpoint.class_name() != Some("CLIPTextModel");
        for name in checkpoint.entries().keys() {
            let of_pictures = ["vision_model.", "visual_projection."];
            let is_unused = !projects && name == "text_projection.weight";
            if name == "logit_scale"
                || is_unused
                || of_pictures.iter().any(|tower| name.starts_with(tower))
            {
                weights.ignore(name);
            }
        }
        let model = Self::load(&weights, config, projects)?;
        weights.finish()?;
        Ok(model)
    }

    /// Takes the tensors, those of the projection too if `projects`; the prefix `text_model.` is there or
    /// not, by the writer's version.
    ///
    /// # Errors
    /// Missing tensors and tensors of another shape.
    pub fn load(weights: &Weights, config: ClipTextConfig, projects: bool) -> Result<Self> {
        let bare = weights.has("embeddings.token_embedding.weight");
        let tower = match bare {
            true => weights.clone(),
            false => weights.sub("text_model"),
        };
        let width = config.hidden_size;
        let embeddings = tower.sub("embeddings");
        let layers = (0..config.num_hidden_layers)
            .map(|layer| ClipLayer::load(&tower.sub("encoder.layers").sub(layer), config.layer()));
        let project = || {
            let place = weights.sub("text_projection");
            Linear::load_without_bias(&place, width, config.projection_dim)
        };
        Ok(Self {
            tokens: embeddings.take("token_embedding.weight", &[config.vocab_size, width])?,
            positions: embeddings.with_kind(Kind::Float).take(
                "position_embedding.weight",
                &[config.max_position_embeddings, width],
            )?,
            layers: layers.collect::<Result<_>>()?,
            final_norm: LayerNorm::load(
                &tower.sub("final_layer_norm"),
                width,
                config.layer_norm_eps,
            )?,
            projection: projects.then(project).transpose()?,
            config,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// `input_ids` `[batch, rows]` (integers, start and end token included, at most
    /// `max_position_embeddings` rows) to f32 states `[batch, rows, hidden]`, `pooled` `[batch, hidden]` and
    /// embeddings `[batch, projection]`. Whole on one rank; no collective.
    pub fn forward(&self, input_ids: &Tensor) -> Result<ClipTextOutput> {
        let _guard = storyloom_nn::gradients::guard();
        let ids = checked_ids(input_ids, &self.tokens)?;
        let mut hidden = self.embed(&ids)?;
        let mut penultimate = hidden.shallow_clone();
        for layer in &self.layers {
            let next = layer.forward_causally(&hidden)?;
            penultimate = std::mem::replace(&mut hidden, next);
        }
        let last_hidden_state = self.final_norm.forward(&hidden)?;
        let pooled = self.pool(&last_hidden_state, &ids)?;
        let text_embeds = self
            .projection
            .as_ref()
            .map(|projection| projection.forward(&pooled));
        Ok(ClipTextOutput {
            last_hidden_state,
            penultimate,
            text_embeds: text_embeds.transpose()?,
            pooled,
        })
    }

    /// Embeddings of length 1 for similarities by dot product, `[batch, projection]`.
    ///
    /// # Errors
    /// A checkpoint without projection, and what [`forward`](Self::forward) refuses.
    pub fn embed_normalised(&self, input_ids: &Tensor) -> Result<Tensor> {
        let embeds = self.forward(input_ids)?.text_embeds.ok_or_else(|| {
            let reason = "this checkpoint has no text_projection; \
                use one of CLIPTextModelWithProjection";
            ModelError::input("text tower", reason)
        })?;
        let norm = embeds.f_norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)?;
        Ok(embeds.f_div(&norm.f_clamp_min(1e-12)?)?)
    }

    /// Ids `[batch, rows]` to f32 `[batch, rows, hidden]`.
    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let (rows, most) = (ids.size()[1], self.config.max_position_embeddings);
        if rows > most {
            let reason = format!("{rows} rows, and this tower has positions for {most}");
            return Err(ModelError::input("input_ids", reason));
        }
        let tokens =
            Tensor::f_embedding(&self.tokens, ids, -1, false, false)?.f_to_kind(Kind::Float)?;
        Ok(tokens.f_add(&self.positions.f_narrow(0, 0, rows)?)?)
    }

    /// The row at the end of each text: `[batch, rows, hidden]` to `[batch, hidden]`.
    fn pool(&self, hidden: &Tensor, ids: &Tensor) -> Result<Tensor> {
        let (batch, rows, width) = hidden.size3()?;
        let flat = Vec::<i64>::try_from(&ids.f_flatten(0, -1)?.f_to_device(Device::Cpu)?)?;
        let ends = flat.chunks_exact(rows as usize).zip(0..batch);
        let ends: Vec<i64> = ends
            .map(|(ids, text)| text * rows + end_of(ids, self.config.eos_token_id) as i64)
            .collect();
        let ends = Tensor::f_from_slice(&ends)?.f_to_device(hidden.device())?;
        Ok(hidden
            .f_reshape([batch * rows, width])?
            .f_index_select(0, &ends)?)
    }
}

/// Where a text ends. Configs written before transformers 4.30 say `eos_token_id` 2, which is no end: there
/// it is the first place of the largest id. Otherwise it is the first place of the end token, and 0 if
/// there is none.
fn end_of(ids: &[i64], eos_token_id: i64) -> usize {
    const NO_END: i64 = 2;
    let wanted = match eos_token_id {
        NO_END => ids.iter().copied().max(),
        end => Some(end),
    };
    let found = ids.iter().position(|&id| Some(id) == wanted);
    found.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};
    use storyloom_nn::tensor_file::write_tensors;
    use storyloom_nn::testing::vectors::{
        assert_begins, assert_near, assert_vector, flux_vector, integers, vector_weights,
    };
    use storyloom_nn::testing::{layout_counts, relative_error};

    use super::*;

    type Tensors = BTreeMap<String, Tensor>;

    /// The tensors of a tower of this config, with the values that belong to their names.
    fn tensors(config: &Value, prefix: &str) -> Tensors {
        let config: ClipTextConfig = serde_json::from_value(config.clone()).unwrap();
        let empty = Checkpoint::from_files(Path::new("none"), Value::Null, &[]).unwrap();
        let weights = empty.weights(Target::CPU_F32);
        ClipText::load(&weights, config, true).unwrap();
        let names = weights.asked_for().into_iter();
        names
            .map(|(name, shape)| {
                let name = name.replace("text_model.", prefix);
                let tensor = vector_weights(&name, &shape);
                (name, tensor)
            })
            .collect()
    }

    /// Writes a folder of the class and opens it.
    fn open(class: &str, config: &Value, tensors: &Tensors) -> Result<ClipText> {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config.clone();
        config["architectures"] = json!([class]);
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let views: Vec<(&str, &Tensor)> =
            tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
        write_tensors(&folder.path().join("model.safetensors"), &views).unwrap();
        ClipText::open(folder.path(), Target::CPU_F32)
    }

    fn ids(ids: &[i64]) -> Tensor {
        Tensor::from_slice(ids).unsqueeze(0)
    }

    /// transformers `CLIPTextModel`, keys without prefix; three ways to say where a text ends.
    #[test]
    fn the_pooled_row_of_flux_is_normed_and_not_projected() {
        let case = flux_vector("modules/cases/clip_pooled");
        let ids = ids(&integers(&case["input_ids"]));
        let tensors = tensors(&case["config"], "");
        for (eos, expected) in case["by_eos_token_id"].as_object().unwrap() {
            let mut config = case["config"].clone();
            config["eos_token_id"] = eos.parse::<i64>().unwrap().into();
            let output = open("CLIPTextModel", &config, &tensors)
                .unwrap()
                .forward(&ids)
                .unwrap();
            assert!(output.text_embeds.is_none(), "the projection is left aside");
            assert_begins(eos, &output.pooled, &expected["pooled_first"], 1e-5);
            let rms = output
                .pooled
                .square()
                .mean(Kind::Double)
                .sqrt()
                .double_value(&[]);
            assert_near(eos, &[rms], &[expected["rms"].as_f64().unwrap()], 1e-5);
            let row = output
                .last_hidden_state
                .select(1, expected["position"].as_i64().unwrap());
            assert_eq!(output.pooled, row, "{eos}");
        }
    }

    /// Specification `flux`, section 3.2: the tower of FLUX and the first of SDXL.
    #[test]
    fn the_layout_has_the_counts_of_the_published_model() {
        let config = ClipTextConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_attention_heads: 12,
            ..ClipTextConfig::default()
        };
        let found = layout_counts(|weights| ClipText::load(weights, config, false).map(drop));
        assert_eq!(found, (196, 123_060_480));
    }

    #[test]
    fn a_text_without_its_end_token_gives_its_first_row() {
        assert_eq!(end_of(&[48, 5, 7, 7], 7), 2);
        assert_eq!(end_of(&[48, 5, 7, 7], 9), 0);
        assert_eq!(end_of(&[48, 5, 49, 49], 2), 2);
    }

    fn projecting() -> (Value, Tensors) {
        let config = json!({
            "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "projection_dim": 24,
            "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 12,
            "hidden_act": "quick_gelu", "eos_token_id": 2,
        });
        let tensors = tensors(&config, "text_model.");
        (config, tensors)
    }

    const SENTENCE: [i64; 8] = [97, 5, 6, 98, 98, 98, 98, 98];

    /// transformers `CLIPTextModelWithProjection`, keys with prefix.
    #[test]
    fn rows_and_embeddings_equal_the_reference() {
        let (config, tensors) = projecting();
        let model = open("CLIPTextModelWithProjection", &config, &tensors).unwrap();
        let output = model.forward(&ids(&SENTENCE)).unwrap();
        let embeds = json!({
            "shape": [1, 24], "mean": -0.07765686, "rms": 1.342127,
            "first": [-1.858788, 1.664339, -1.195533, 0.5296516, 0.2235399, -0.9398822, 1.50129, -1.81522],
            "last": [-1.770544, 1.395879, -0.7911111, 0.05593376, 0.6884639, -1.319373, 1.732791, -1.860569],
        });
        assert_vector(
            "text_embeds",
            output.text_embeds.as_ref().unwrap(),
            &embeds,
            1e-5,
        );
        let penultimate = json!({
            "shape": [1, 8, 32], "mean": 0.02315555, "rms": 0.7733567,
            "first": [0.1171183, -0.02661912, 0.2262695, 0.4738184, -0.07258964, 0.3524024, -0.5490661],
            "last": [-0.3373707, -1.728643, -0.4151489, -0.07054506, 0.6553217, 1.363708, 0.1247256, 0.5872184],
        });
        assert_vector("penultimate", &output.penultimate, &penultimate, 1e-5);
        let last = json!({
            "shape": [1, 8, 32], "mean": -0.02710114, "rms": 0.9823994,
            "first": [-0.105119, 0.09805501, 0.8064569, 1.701535, -0.09111947, 0.7886792, -2.241225],
            "last": [-0.5311556, -1.910773, -0.25047, 0.127517, 0.8048503, 1.223013, -0.01348675, 0.3136628],
        });
        assert_vector("last_hidden_state", &output.last_hidden_state, &last, 1e-5);
    }

    #[test]
    fn both_key_styles_and_a_whole_clip_give_the_same_tower() {
        let (config, prefixed) = projecting();
        let class = "CLIPTextModelWithProjection";
        let embeds = |class: &str, config: &Value, tensors: &Tensors| {
            let model = open(class, config, tensors).unwrap();
            model.forward(&ids(&SENTENCE)).unwrap().text_embeds.unwrap()
        };
        let expected = embeds(class, &config, &prefixed);
        let bare: Tensors = prefixed
            .iter()
            .map(|(name, tensor)| (name.replace("text_model.", ""), tensor.copy()))
            .collect();
        assert!(relative_error(&embeds(class, &config, &bare), &expected) < 1e-6);

        let scalar = Tensor::from_slice(&[1.0_f32]);
        let mut whole = prefixed;
        for name in [
            "logit_scale",
            "visual_projection.weight",
            "vision_model.pre_layrnorm.bias",
        ] {
            whole.insert(name.to_owned(), scalar.copy());
        }
        let mut text = config.clone();
        text["projection_dim"] = 7.into();
        let outer = json!({"projection_dim": 24, "text_config": text});
        assert!(relative_error(&embeds("CLIPModel", &outer, &whole), &expected) < 1e-6);
        let error = open(
            class,
            &config,
            &Tensors::from([("other".to_owned(), scalar)]),
        )
        .unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("other") && error.contains("token_embedding"),
            "{error}"
        );
    }

    /// What stands behind the end changes no vector of the text.
    #[test]
    fn embeddings_have_length_one_and_do_not_see_pads() {
        let (config, tensors) = projecting();
        let model = open("CLIPTextModelWithProjection", &config, &tensors).unwrap();
        let embeds = model.embed_normalised(&ids(&SENTENCE)).unwrap();
        let length = embeds.square().sum(Kind::Double).double_value(&[]);
        assert_near("length", &[length], &[1.0], 1e-5);
        let other = model.embed_normalised(&ids(&[97, 5, 6, 98, 0, 0])).unwrap();
        assert!(other.allclose(&embeds, 1e-6, 1e-6, false));
        let long = model.forward(&ids(&[5; 13])).unwrap_err().to_string();
        assert!(long.contains("positions for 12"), "{long}");
        assert!(model.forward(&ids(&[99])).is_err());
        let plain = open("CLIPTextModel", &config, &tensors).unwrap();
        let error = plain.embed_normalised(&ids(&SENTENCE)).unwrap_err();
        assert!(error.to_string().contains("text_projection"), "{error}");
    }
}
