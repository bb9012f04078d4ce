//! Single files: a network, or all networks of a pipeline, in one file without a config
//! (specification `flux`, sections 1.9, 1.10 and 4).

use std::path::Path;

use serde_json::{Value, json};

use super::files::Checkpoint;
use super::original::{Tensors, count_of};
use crate::error::{ModelError, Result};

/// A network that a single file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SingleFilePart {
    /// A FLUX transformer in the original layout (`flux1-dev.safetensors`).
    FluxTransformer,
    /// FLUX's autoencoder in the original layout (`ae.safetensors`).
    FluxAutoencoder,
    /// CLIP-L's text tower, in the names of transformers.
    ClipText,
    /// The encoder of T5, in the names of transformers.
    T5Encoder,
}

impl SingleFilePart {
    /// Every part.
    pub const ALL: [Self; 4] = [
        Self::FluxTransformer,
        Self::FluxAutoencoder,
        Self::ClipText,
        Self::T5Encoder,
    ];

    /// What the names of its tensors may begin with; without a prefix the file holds nothing else.
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::FluxTransformer => &["", "model.diffusion_model.", "diffusion_model."],
            Self::FluxAutoencoder => &["", "vae."],
            Self::ClipText => &["", "text_encoders.clip_l.transformer."],
            Self::T5Encoder => &["", "text_encoders.t5xxl.transformer."],
        }
    }

    /// A tensor that it has, and no other part.
    fn mark(self) -> &'static str {
        match self {
            Self::FluxTransformer => super::original::flux::MARK,
            Self::FluxAutoencoder => super::original::autoencoder::MARKS[0],
            Self::ClipText => "text_model.embeddings.token_embedding.weight",
            Self::T5Encoder => {
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            }
        }
    }

    /// The class of the network in diffusers or transformers.
    pub fn class(self) -> &'static str {
        match self {
            Self::FluxTransformer => "FluxTransformer2DModel",
            Self::FluxAutoencoder => "AutoencoderKL",
            Self::ClipText => "CLIPTextModel",
            Self::T5Encoder => "T5EncoderModel",
        }
    }

    /// What it is, for messages.
    fn describe(self) -> &'static str {
        match self {
            Self::FluxTransformer => "FLUX transformer in the original layout",
            Self::FluxAutoencoder => "autoencoder of FLUX in the original layout",
            Self::ClipText => "text tower of CLIP",
            Self::T5Encoder => "encoder of T5",
        }
    }

    /// Tensors that files have beside the weights of this part.
    fn beside(self) -> &'static [&'static str] {
        match self {
            Self::ClipText => &["text_projection.weight", "logit_scale"],
            Self::T5Encoder => &["logit_scale"],
            Self::FluxTransformer | Self::FluxAutoencoder => &[],
        }
    }

    /// The prefix under which a file with these tensors has this part.
    fn prefix_in(self, tensors: &Tensors) -> Result<&'static str, String> {
        let has = |prefix: &&&str| tensors.contains_key(&format!("{prefix}{}", self.mark()));
        let found: Vec<&str> = self.prefixes().iter().filter(has).copied().collect();
        match found.as_slice() {
            [prefix] => Ok(prefix),
            [] => Err(format!("there is no {} in this file", self.describe())),
            [first, second, ..] => {
                let mark = self.mark();
                Err(format!(
                    "it has the {} twice: {first}{mark} and {second}{mark}",
                    self.describe()
                ))
            }
        }
    }

    /// The config of the part, which single files have not: what its tensors say, or what is the same in
    /// every such file. `tensors` have the names of diffusers.
    fn config(self, tensors: &Tensors) -> Result<Value, String> {
        match self {
            Self::FluxTransformer => transformer_config(tensors),
            Self::FluxAutoencoder => autoencoder_config(tensors),
            Self::ClipText => Ok(clip_config()),
            Self::T5Encoder => Ok(t5_config()),
        }
    }
}

impl Checkpoint {
    /// Opens one part of a single file, which may hold nothing else or be an all-in-one file.
    ///
    /// There is no config beside such a file. That of a transformer follows from its tensors: it embeds
    /// guidance (FLUX.1-dev, Kontext, Krea) if it has `guidance_in`, and is FLUX.1-schnell if not; dev and
    /// Kontext cannot be told apart.
    ///
    /// # Errors
    /// The file has no such part or has it twice, has tensors of no known part, is of a feature that is not
    /// supported, or is not whole.
    pub fn open_single_file(file: &Path, part: SingleFilePart) -> Result<Self> {
        let mut checkpoint = Self::single_file_with_config(file, part, Value::Null)?;
        let config = part.config(checkpoint.entries());
        checkpoint.config = config.map_err(|reason| ModelError::bad_file(file, reason))?;
        Ok(checkpoint)
    }

    /// Opens a component folder; `part` of a single file, where `path` is a file.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], or as [`Checkpoint::open_single_file`].
    pub fn open_part(path: &Path, part: SingleFilePart) -> Result<Self> {
        match path.is_file() {
            true => Self::open_single_file(path, part),
            false => Self::open(path),
        }
    }

    /// As [`Checkpoint::open_single_file`], with a config from elsewhere.
    ///
    /// # Errors
    /// As there.
    pub fn single_file_with_config(
        file: &Path,
        part: SingleFilePart,
        config: Value,
    ) -> Result<Self> {
        let mut checkpoint = Self::from_files(file, config, &[file.to_owned()])?;
        checkpoint
            .keep_part(part)
            .map_err(|reason| ModelError::bad_file(file, reason))?;
        checkpoint.understood()
    }

    /// The parts that a single file holds.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn parts_of_single_file(file: &Path) -> Result<Vec<SingleFilePart>> {
        let checkpoint = Self::from_files(file, Value::Null, &[file.to_owned()])?;
        let has = |part: &SingleFilePart| part.prefix_in(checkpoint.entries()).is_ok();
        Ok(SingleFilePart::ALL.into_iter().filter(has).collect())
    }

    /// Leaves the tensors of one part, without its prefix.
    fn keep_part(&mut self, part: SingleFilePart) -> Result<(), String> {
        if let Err(reason) = part.prefix_in(&self.entries) {
            // A file of another feature has not what this part is known by.
            super::refused::feature_of_names(&self.entries).map_or(Err(reason), Err)?;
        }
        let prefix = part.prefix_in(&self.entries)?;
        if !prefix.is_empty() {
            refuse_unknown_parts(&self.entries)?;
            for tensors in [&mut self.entries, &mut self.leftovers] {
                let all = std::mem::take(tensors).into_iter();
                tensors.extend(all.filter_map(|(name, entry)| {
                    Some((name.strip_prefix(prefix)?.to_owned(), entry))
                }));
            }
        }
        for name in part.beside() {
            if let Some(entry) = self.entries.remove(*name) {
                self.leftovers.insert((*name).to_owned(), entry);
            }
        }
        Ok(())
    }
}

/// What the names of all parts of an all-in-one file begin with.
const PARTS: [&str; 4] = [
    "model.diffusion_model.",
    "diffusion_model.",
    "vae.",
    "text_encoders.",
];

fn refuse_unknown_parts(tensors: &Tensors) -> Result<(), String> {
    let is_known = |name: &String| PARTS.iter().any(|part| name.starts_with(part));
    match tensors.keys().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(format!(
            "it is an all-in-one file, but the tensor {name} is of none of its parts ({})",
            PARTS.join(", ")
        )),
    }
}

/// Length of an axis of a tensor.
fn length(tensors: &Tensors, name: &str, axis: usize) -> Result<i64, String> {
    let found = tensors
        .get(name)
        .and_then(|entry| entry.shape.get(axis).copied());
    found
        .filter(|length| *length > 0)
        .ok_or_else(|| format!("{name} has no values along axis {axis}"))
}

/// `FluxTransformer2DModel` of diffusers.
fn transformer_config(tensors: &Tensors) -> Result<Value, String> {
    /// The width of heads of all published networks.
    const HEAD: i64 = 128;
    let of = |name: &str, axis| length(tensors, name, axis);
    let width = of("x_embedder.weight", 0)?;
    let head = of("transformer_blocks.0.attn.norm_q.weight", 0)?;
    if head != HEAD || width % head != 0 {
        return Err(format!(
            "its heads have {head} values of {width}, so the axes of their rotary positions cannot be told \
             from the tensors; a config.json is needed"
        ));
    }
    let has_guidance = tensors.contains_key("time_text_embed.guidance_embedder.linear_1.weight");
    let blocks = |prefix| count_of(tensors, prefix, u32::MAX);
    Ok(json!({
        "_class_name": SingleFilePart::FluxTransformer.class(),
        "patch_size": 1,
        "in_channels": of("x_embedder.weight", 1)?,
        "out_channels": null,
        "num_layers": blocks("transformer_blocks."),
        "num_single_layers": blocks("single_transformer_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width / head,
        "joint_attention_dim": of("context_embedder.weight", 1)?,
        "pooled_projection_dim": of("time_text_embed.text_embedder.linear_1.weight", 1)?,
        "guidance_embeds": has_guidance,
        "axes_dims_rope": [16, 56, 56],
    }))
}

/// `AutoencoderKL` of diffusers, with the scale and shift of FLUX.
fn autoencoder_config(tensors: &Tensors) -> Result<Value, String> {
    /// Channels of latents, which FLUX's scale and shift belong to.
    const LATENT: i64 = 16;
    let of = |name: &str, axis| length(tensors, name, axis);
    let latent = of("decoder.conv_in.weight", 1)?;
    if latent != LATENT {
        return Err(format!(
            "its latents have {latent} channels, FLUX's have {LATENT}; scale and shift of others cannot be \
             told from the tensors, a config.json is needed"
        ));
    }
    let levels = count_of(tensors, "encoder.down_blocks.", u32::MAX);
    let width = |level| {
        of(
            &format!("encoder.down_blocks.{level}.resnets.0.conv1.weight"),
            0,
        )
    };
    let widths = (0..levels).map(width).collect::<Result<Vec<_>, _>>()?;
    let types = |name: &str| vec![name.to_owned(); widths.len()];
    Ok(json!({
        "_class_name": SingleFilePart::FluxAutoencoder.class(),
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": types("DownEncoderBlock2D"),
        "up_block_types": types("UpDecoderBlock2D"),
        "force_upcast": true,
        "in_channels": of("encoder.conv_in.weight", 1)?,
        "latent_channels": latent,
        "layers_per_block": count_of(tensors, "encoder.down_blocks.0.resnets.", u32::MAX),
        "mid_block_add_attention": true,
        "norm_num_groups": 32,
        "out_channels": of("decoder.conv_out.weight", 0)?,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_post_quant_conv": false,
        "use_quant_conv": false,
    }))
}

/// The text tower of CLIP ViT-L/14, the only one in these files.
fn clip_config() -> Value {
    json!({
        "architectures": [SingleFilePart::ClipText.class()],
        "model_type": "clip_text_model",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 77,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "vocab_size": 49408,
    })
}

/// The encoder of T5 v1.1 XXL, the only one in these files.
fn t5_config() -> Value {
    json!({
        "architectures": [SingleFilePart::T5Encoder.class()],
        "model_type": "t5",
        "d_ff": 10240,
        "d_kv": 64,
        "d_model": 4096,
        "dense_act_fn": "gelu_new",
        "feed_forward_proj": "gated-gelu",
        "is_gated_act": true,
        "layer_norm_epsilon": 1e-6,
        "num_heads": 64,
        "num_layers": 24,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "vocab_size": 32128,
    })
}
