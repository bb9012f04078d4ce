//! Small networks for `onestory.selector = "clip"`: a whole CLIP with its tokenizer, and DINOv2.

use std::path::Path;

use serde_json::json;
use storyloom_nn::error::Result;
use storyloom_story::Seed;

use super::hub::{TRANSFORMERS, write_json};
use super::sheet::Sheet;
use super::{clip, clip_text, layout, parse, text, write_component, write_preprocessor};
use crate::text::clip::{ClipText, ClipTextConfig};
use crate::vision::dino::{DinoConfig, DinoPixels, DinoVision};

/// Writes the folders `clip` and `dino` below `root`.
pub(super) fn write(root: &Path, seed: Seed) -> Result<()> {
    write_clip(&root.join("clip"), seed)?;
    write_dino(&root.join("dino"), seed)
}

fn write_clip(folder: &Path, seed: Seed) -> Result<()> {
    let tokens = clip_text::write_tokenizer(folder, &text::words())?;
    let mut text_config = clip_text::config(tokens);
    text_config["projection_dim"] = clip::PROJECTION.into();
    let vision_config = clip::config();
    let config = json!({
        "architectures": ["CLIPModel"],
        "dtype": "bfloat16",
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": clip::PROJECTION,
        "text_config": text_config,
        "vision_config": vision_config,
    });
    let parsed: ClipTextConfig = parse(folder, &text_config)?;
    let mut names = layout(&config, |weights| {
        ClipText::load(weights, parsed, true).map(drop)
    })?;
    names.extend(clip::layout());
    names.push(("logit_scale".to_owned(), Vec::new()));
    let fill = |name: &str, shape: &[i64]| match name {
        "logit_scale" => Sheet::constant(shape, 2.6592),
        _ if name.starts_with("vis") => clip::fill(seed, name, shape),
        _ => clip_text::fill(seed, name, shape),
    };
    write_component(folder, TRANSFORMERS, &config, names, fill)?;
    write_preprocessor(folder, clip::SIDE)
}

fn write_dino(folder: &Path, seed: Seed) -> Result<()> {
    let config = json!({
        "architectures": [DinoConfig::CLASS],
        "dtype": "bfloat16",
        "hidden_act": "gelu",
        "hidden_size": 48,
        "image_size": 56,
        "layer_norm_eps": 1e-6,
        "mlp_ratio": 2,
        "model_type": "dinov2",
        "num_attention_heads": 4,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": 14,
        "qkv_bias": true,
        "use_mask_token": true,
        "use_swiglu_ffn": false,
    });
    let parsed: DinoConfig = parse(folder, &config)?;
    let width = parsed.hidden_size;
    let pixels = DinoPixels::of_tower(&parsed);
    let mut names = layout(&config, |weights| {
        DinoVision::load(weights, parsed).map(drop)
    })?;
    names.push(("embeddings.mask_token".to_owned(), vec![1, width]));
    let fill = |name: &str, shape: &[i64]| fill_dino(seed, name, shape);
    write_component(folder, TRANSFORMERS, &config, names, fill)?;
    let preprocessor = json!({
        "crop_size": {"height": pixels.side, "width": pixels.side},
        "do_center_crop": true,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "BitImageProcessor",
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "rescale_factor": 1.0 / 255.0,
        "size": {"shortest_edge": pixels.shortest},
    });
    write_json(&folder.join("preprocessor_config.json"), &preprocessor)
}

/// Class token and biases begin at zero, so that the embedding is what attention gathers from the patches.
fn fill_dino(seed: Seed, name: &str, shape: &[i64]) -> Sheet {
    let label = format!("dino/{name}");
    let noise = |std: f32| Sheet::noise(seed, &label, shape, std);
    match name {
        "embeddings.cls_token" | "embeddings.mask_token" => Sheet::constant(shape, 0.0),
        "embeddings.position_embeddings" => noise(0.05),
        _ if name.ends_with("lambda1") => noise(0.02).plus(&Sheet::constant(shape, 1.0)),
        _ if name.contains("norm") && name.ends_with("weight") => {
            noise(0.02).plus(&Sheet::constant(shape, 1.0))
        }
        _ if name.ends_with("bias") => Sheet::constant(shape, 0.0),
        _ => Sheet::layer(seed, &label, shape, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};
    use storyloom_nn::checkpoint::Target;
    use tch::Tensor;

    use super::*;
    use crate::text::clip::ClipPrompts;
    use crate::vision::clip::{ClipVision, PixelRule, pixel_values};

    fn cosine(rows: &Tensor) -> f64 {
        rows.select(0, 0).dot(&rows.select(0, 1)).double_value(&[])
    }

    /// Both towers of CLIP give vectors of one space, and other words and pictures other ones.
    #[test]
    fn captions_and_pictures_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), Seed(5)).unwrap();
        let clip = folder.path().join("clip");
        let captions = ClipPrompts::open(&clip, &clip, Target::CPU_F32).unwrap();
        let texts = ["a red boat at night", "An old house, in the snow: ünïcode!"];
        let texts = captions.embed_normalised(&texts).unwrap();
        assert!(cosine(&texts) < 0.99, "{}", cosine(&texts));
        let pictures = [[200, 40, 30], [20, 90, 220]];
        let pictures = pictures.map(|colour| RgbImage::from_pixel(80, 60, Rgb(colour)));
        let pictures: Vec<&RgbImage> = pictures.iter().collect();
        let tower = ClipVision::open(&clip, Target::CPU_F32).unwrap();
        let pixels = pixel_values(&pictures, clip::SIDE as u32, PixelRule::Processor).unwrap();
        let seen = tower.embed_normalised(&pixels).unwrap();
        assert_eq!(seen.size(), texts.size());
        assert!(cosine(&seen) < 0.99, "{}", cosine(&seen));
        let dino = DinoVision::open(&folder.path().join("dino"), Target::CPU_F32).unwrap();
        let pixels = DinoPixels::of_tower(dino.config())
            .values(&pictures)
            .unwrap();
        let seen = dino.embed_normalised(&pixels).unwrap();
        assert!(cosine(&seen) < 0.99, "{}", cosine(&seen));
    }
}
