//! Original single files of FLUX give what the folders of diffusers give.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use storyloom_nn::checkpoint::{Checkpoint, SingleFilePart, Target};
use storyloom_nn::tensor_file::{read_tensors, write_tensors};
use storyloom_nn::testing::flux::{AutoencoderSizes, Made, made_of};
use storyloom_nn::testing::vectors::{asked_tensors, assert_vector, flux_vector, wave};
use tch::{Device, Kind, Tensor};

use crate::autoencoder::AutoencoderKl;
use crate::forward::forward_file;
use crate::text::T5Config;
use crate::text::clip::ClipTextConfig;

type Named = BTreeMap<String, Tensor>;

fn write(file: &Path, tensors: &Named, prefix: &str) {
    let named: Vec<(String, &Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| (format!("{prefix}{name}"), tensor))
        .collect();
    let views: Vec<_> = named
        .iter()
        .map(|(name, it)| (name.as_str(), *it))
        .collect();
    write_tensors(file, &views).unwrap();
}

/// The tiny autoencoder of the vectors as an original file has it.
fn original_autoencoder() -> Named {
    let config = json!({
        "_class_name": "AutoencoderKL", "block_out_channels": [32, 64], "layers_per_block": 1,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
        "latent_channels": 16, "use_quant_conv": false, "use_post_quant_conv": false,
    });
    let diffusers = asked_tensors(Path::new("none"), &config, |weights| {
        let config = serde_json::from_value(config.clone()).unwrap();
        AutoencoderKl::load(weights, config).map(drop)
    });
    let sizes = AutoencoderSizes {
        widths: &[32, 64],
        blocks: 1,
    };
    let recipe: Vec<(String, Made)> = sizes
        .tensors()
        .into_iter()
        .map(|(name, made, _)| (name, made))
        .collect();
    assert_eq!(recipe.len(), diffusers.len());
    made_of(&recipe, &diffusers)
}

/// Specification `flux`, vector `ae`, from `ae.safetensors` and out of an all-in-one file.
#[test]
fn the_autoencoder_of_a_single_file_equals_the_reference() {
    let case = flux_vector("modules/cases/ae");
    let original = original_autoencoder();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ae.safetensors");
    for prefix in ["", "vae."] {
        write(&file, &original, prefix);
        let vae = AutoencoderKl::open(&file, Target::CPU_F32).unwrap();
        let latents = vae.encode(&wave(0.3, 0.5, &[1, 3, 8, 12])).unwrap();
        let latents = vae.normalize(&latents).unwrap();
        assert_vector("latents", &latents, &case["encode"]["latents"], 1e-5);
        let latents = vae.denormalize(&wave(0.3, 1.0, &[1, 16, 4, 6])).unwrap();
        let pixels = vae.decode(&latents).unwrap();
        assert_vector("pixels", &pixels, &case["decode"]["output"], 3e-5);
        // The command runs a file as well as a folder.
        let [input, output] = ["i", "o"].map(|name| folder.path().join(name));
        write_tensors(&input, &[("latents", &latents)]).unwrap();
        forward_file(&file, "vae.decode", Target::CPU_F32, &input, &output).unwrap();
        assert_eq!(read_tensors(&output).unwrap()["output"], pixels);
    }
}

/// A file with one tensor of each text encoder.
fn text_file(folder: &Path) -> PathBuf {
    let names = [
        "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.\
         relative_attention_bias.weight",
    ];
    let one = Tensor::ones([1], (Kind::Float, Device::Cpu));
    let file = folder.join("all.safetensors");
    write_tensors(&file, &names.map(|name| (name, &one))).unwrap();
    file
}

/// The configs of single files are those of the published folders.
#[test]
fn text_encoders_of_single_files_have_the_published_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let file = text_file(folder.path());
    let open = |part| Checkpoint::open_single_file(&file, part).unwrap();
    let published = |config: Value| {
        let path = folder.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        Checkpoint::of_config(&path).unwrap()
    };
    let t5 = published(json!({
        "architectures": ["T5EncoderModel"], "d_model": 4096, "d_kv": 64, "d_ff": 10240,
        "num_heads": 64, "num_layers": 24, "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
    }));
    let found = T5Config::of(&open(SingleFilePart::T5Encoder)).unwrap();
    assert_eq!(found, T5Config::of(&t5).unwrap());
    let clip = published(json!({
        "architectures": ["CLIPTextModel"], "hidden_size": 768, "intermediate_size": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 49408,
        "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1, "projection_dim": 768,
    }));
    let found = ClipTextConfig::of(&open(SingleFilePart::ClipText)).unwrap();
    assert_eq!(found, ClipTextConfig::of(&clip).unwrap());
}
