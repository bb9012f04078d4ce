//! The tower (transformers `Dinov2Model`).

use std::path::Path;

use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::layers::LayerNorm;
use tch::{Device, Kind, Tensor};

use super::config::DinoConfig;
use super::layer::DinoLayer;

/// A DINOv2 tower.
#[derive(Debug)]
pub struct DinoVision {
    config: DinoConfig,
    /// `[1, 1, width]` f32.
    class: Tensor,
    /// `[width, 3, patch, patch]` f32.
    patch: Tensor,
    /// `[width]` f32.
    patch_bias: Tensor,
    /// Of the class token, `[1, 1, width]` f32.
    class_position: Tensor,
    /// Of the patches, `[1, width, grid, grid]` f32.
    positions: Tensor,
    layers: Vec<DinoLayer>,
    norm: LayerNorm,
    device: Device,
}

/// What the tower says of pictures; f32.
#[derive(Debug)]
pub struct DinoOutput {
    /// All tokens after the last norm, the class token first, `[batch, tokens, width]`.
    pub last_hidden_state: Tensor,
    /// The class token of them, `[batch, width]`.
    pub pooled: Tensor,
}

impl DinoVision {
    /// Loads a tower. Missing and unknown tensors are an error that lists them; the token that stands for hidden
    /// patches in training is left aside.
    ///
    /// # Errors
    /// As said, and a checkpoint of another class or shape.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let config = DinoConfig::of(&checkpoint)?;
        let weights = checkpoint.weights(target);
        weights.ignore("embeddings.mask_token");
        let model = Self::load(&weights, config)?;
        weights.finish()?;
        Ok(model)
    }

    /// Takes the tensors.
    ///
    /// # Errors
    /// Missing tensors and tensors of another shape.
    pub fn load(weights: &Weights, config: DinoConfig) -> Result<Self> {
        let width = config.hidden_size;
        let embeddings = weights.sub("embeddings").with_kind(Kind::Float);
        let patches = embeddings.sub("patch_embeddings.projection");
        let side = config.patch_size;
        let grid = config.grid();
        let positions = embeddings.take("position_embeddings", &[1, 1 + grid * grid, width])?;
        let layers = weights.sub("encoder.layer");
        let layers =
            (0..config.num_hidden_layers).map(|layer| DinoLayer::load(&layers.sub(layer), &config));
        Ok(Self {
            class: embeddings.take("cls_token", &[1, 1, width])?,
            patch: patches.take("weight", &[width, config.num_channels, side, side])?,
            patch_bias: patches.take("bias", &[width])?,
            class_position: positions.f_narrow(1, 0, 1)?,
            positions: positions
                .f_narrow(1, 1, grid * grid)?
                .f_reshape([1, grid, grid, width])?
                .f_permute([0, 3, 1, 2])?
                .f_contiguous()?,
            layers: layers.collect::<Result<_>>()?,
            norm: LayerNorm::load(&weights.sub("layernorm"), width, config.layer_norm_eps)?,
            device: weights.target().device,
            config,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &DinoConfig {
        &self.config
    }

    /// `pixel_values` `[batch, 3, height, width]`, normalised, sides of at least a patch, to f32 states `[batch, 1 +
    /// patches, width]` and `pooled` `[batch, width]`. What is left of a side behind its last whole patch is not
    /// seen. Whole on one rank; no collective.
    ///
    /// # Errors
    /// Pixels of another shape.
    pub fn forward(&self, pixel_values: &Tensor) -> Result<DinoOutput> {
        let _guard = storyloom_nn::gradients::guard();
        let mut hidden = self.embed(pixel_values)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden)?;
        }
        let last_hidden_state = self.norm.forward(&hidden)?;
        Ok(DinoOutput {
            pooled: last_hidden_state.f_select(1, 0)?,
            last_hidden_state,
        })
    }

    /// The class tokens of length 1, for similarities by dot product, `[batch, width]` f32.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn embed_normalised(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let pooled = self.forward(pixel_values)?.pooled;
        let norm = pooled.f_norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)?;
        Ok(pooled.f_div(&norm.f_clamp_min(1e-12)?)?)
    }

    /// `[batch, 3, height, width]` to tokens with their positions, `[batch, 1 + patches, width]` f32.
    fn embed(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let size = pixel_values.size();
        let (channels, side) = (self.config.num_channels, self.config.patch_size);
        let fits = size.len() == 4 && size[0] > 0 && size[1] == channels;
        if !fits || size[2].min(size[3]) < side {
            let reason = format!(
                "[batch, {channels}, height, width] with sides of at least {side} is needed, found {size:?}"
            );
            return Err(ModelError::input("pixel_values", reason));
        }
        let pixels = pixel_values
            .f_to_device(self.device)?
            .f_to_kind(Kind::Float)?;
        let patches = pixels.f_conv2d(
            &self.patch,
            Some(&self.patch_bias),
            [side, side],
            [0, 0],
            [1, 1],
            1,
        )?;
        let grid = [size[2] / side, size[3] / side];
        let patches = patches.f_add(&self.positions_of(grid)?)?;
        let patches = patches.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let class = self.class.f_add(&self.class_position)?;
        let class = class.f_expand([size[0], 1, self.config.hidden_size], false)?;
        Ok(Tensor::f_cat(&[class, patches], 1)?)
    }

    /// Position embeddings of a grid of patches, `[1, width, rows, columns]`: those of the checkpoint, stretched by
    /// bicubic interpolation where it has others (`interpolate_pos_encoding`).
    fn positions_of(&self, grid: [i64; 2]) -> Result<Tensor> {
        match grid == [self.config.grid(); 2] {
            true => Ok(self.positions.shallow_clone()),
            false => Ok(self
                .positions
                .f_upsample_bicubic2d(grid, false, None, None)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::{golden, golden_tensors, relative_error};

    fn open(case: &str) -> DinoVision {
        DinoVision::open(&golden(case).join("image_encoder"), Target::CPU_F32).unwrap()
    }

    /// transformers `Dinov2Model`, on pictures whose patches have positions of their own and on larger ones that
    /// are not square.
    #[test]
    fn both_kinds_of_feed_forward_equal_the_reference() {
        for case in ["dino-b14", "dino-swiglu"] {
            let model = open(case);
            for file in ["io.safetensors", "wide.safetensors"] {
                let io = golden_tensors(case, file);
                let output = model.forward(&io["pixel_values"]).unwrap();
                for (name, found) in [
                    ("output", &output.last_hidden_state),
                    ("pooled", &output.pooled),
                ] {
                    let error = relative_error(found, &io[name]);
                    assert!(error < 1e-5, "{case} {file} {name}: {error}");
                }
            }
        }
    }

    #[test]
    fn embeddings_have_length_one_and_sizes_are_checked() {
        let io = golden_tensors("dino-b14", "io.safetensors");
        let model = open("dino-b14");
        let embeds = model.embed_normalised(&io["pixel_values"]).unwrap();
        let lengths = embeds.square().sum_dim_intlist(-1_i64, false, Kind::Float);
        assert!(lengths.allclose(&Tensor::ones_like(&lengths), 1e-5, 1e-5, false));
        for wrong in [
            io["pixel_values"].narrow(2, 0, 5),
            io["pixel_values"].narrow(1, 0, 2),
        ] {
            let error = model.forward(&wrong).unwrap_err().to_string();
            assert!(error.contains("pixel_values"), "{error}");
        }
    }

    /// A tower whose tensors are not those that its config asks for is refused, and so is one of another class.
    #[test]
    fn tensors_are_those_of_the_config_and_no_others() {
        let source = golden("dino-b14").join("image_encoder");
        let folder = tempfile::tempdir().unwrap();
        let weights = "model.safetensors";
        std::fs::copy(source.join(weights), folder.path().join(weights)).unwrap();
        let text = std::fs::read_to_string(source.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (key, value, wanted) in [
            ("num_hidden_layers", serde_json::json!(1), "encoder.layer.1"),
            ("use_swiglu_ffn", serde_json::json!(true), "weights_in"),
            (
                "architectures",
                serde_json::json!(["Dinov2WithRegistersModel"]),
                "Registers",
            ),
        ] {
            let mut other = config.clone();
            other[key] = value;
            std::fs::write(folder.path().join("config.json"), other.to_string()).unwrap();
            let error = DinoVision::open(folder.path(), Target::CPU_F32).unwrap_err();
            assert!(error.to_string().contains(wanted), "{key}: {error}");
        }
    }
}
