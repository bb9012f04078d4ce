//! A small CLIP vision tower whose embedding follows the colours of a picture.

use storyloom_story::Seed;

use super::sheet::Sheet;

const WIDTH: i64 = 48;
/// Width of the space that pictures and texts share.
pub(super) const PROJECTION: i64 = 32;

/// `config.json` of a tower in the manner of ViT-B/32.
pub(super) fn config() -> serde_json::Value {
    serde_json::json!({
        "architectures": ["CLIPVisionModelWithProjection"],
        "attention_dropout": 0.0,
        "dtype": "float32",
        "hidden_act": "quick_gelu",
        "hidden_size": WIDTH,
        "image_size": SIDE,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-5,
        "model_type": "clip_vision_model",
        "num_attention_heads": 4,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": 32,
        "projection_dim": PROJECTION,
    })
}

/// Side of the pictures that the tower sees, pixels.
pub(super) const SIDE: i64 = 224;

/// `preprocessor_config.json`, that of the published models, for pictures of this side.
pub(super) fn preprocessor(side: i64) -> serde_json::Value {
    serde_json::json!({
        "crop_size": {"height": side, "width": side},
        "do_center_crop": true,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.481_454_66, 0.457_827_5, 0.408_210_73],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.268_629_54, 0.261_302_58, 0.275_777_11],
        "resample": 3,
        "rescale_factor": 1.0 / 255.0,
        "size": {"shortest_edge": side},
    })
}

/// The tensors of the tower and their shapes.
pub(super) fn layout() -> Vec<(String, Vec<i64>)> {
    let mut layout = vec![
        ("embeddings.class_embedding".to_owned(), vec![WIDTH]),
        (
            "embeddings.patch_embedding.weight".to_owned(),
            vec![WIDTH, 3, 32, 32],
        ),
        (
            "embeddings.position_embedding.weight".to_owned(),
            vec![50, WIDTH],
        ),
    ];
    let mut affine = |name: String, outputs: i64, inputs: Option<i64>| {
        let shape = std::iter::once(outputs).chain(inputs).collect();
        layout.push((format!("{name}.weight"), shape));
        layout.push((format!("{name}.bias"), vec![outputs]));
    };
    affine("pre_layrnorm".to_owned(), WIDTH, None);
    for layer in 0..2 {
        let place = format!("encoder.layers.{layer}");
        for projection in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            affine(
                format!("{place}.self_attn.{projection}"),
                WIDTH,
                Some(WIDTH),
            );
        }
        affine(format!("{place}.layer_norm1"), WIDTH, None);
        affine(format!("{place}.mlp.fc1"), 96, Some(WIDTH));
        affine(format!("{place}.mlp.fc2"), WIDTH, Some(96));
        affine(format!("{place}.layer_norm2"), WIDTH, None);
    }
    affine("post_layernorm".to_owned(), WIDTH, None);
    let mut layout: Vec<_> = layout
        .into_iter()
        .map(|(name, shape)| (format!("vision_model.{name}"), shape))
        .collect();
    layout.push((
        "visual_projection.weight".to_owned(),
        vec![PROJECTION, WIDTH],
    ));
    layout
}

/// The values of the tensor `name`.
///
/// The class token and the biases start at zero, so that the embedding is what attention gathers
/// from the patches: pictures of other colours point elsewhere.
pub(super) fn fill(seed: Seed, name: &str, shape: &[i64]) -> Sheet {
    let label = format!("clip/{name}");
    let random = |gain: f32| Sheet::layer(seed, &label, shape, gain);
    if name.contains("norm") && name.ends_with("weight") {
        return Sheet::noise(seed, &label, shape, 0.02).plus(&Sheet::constant(shape, 1.0));
    }
    match name.trim_start_matches("vision_model.embeddings.") {
        "class_embedding" => Sheet::constant(shape, 0.0),
        "patch_embedding.weight" => patches(seed, &label, shape),
        "position_embedding.weight" => positions(seed, &label, shape),
        _ if name.ends_with("bias") => Sheet::constant(shape, 0.0),
        _ if name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight") => random(0.5),
        _ if name.ends_with("fc2.weight") => random(0.3),
        _ => random(1.0),
    }
}

/// The head of a predictor of quality: around 5, and another number for other colours.
pub(super) fn predictor(seed: Seed) -> [(String, Sheet); 2] {
    let weight = Sheet::noise(seed, "aesthetic/weight", &[1, PROJECTION], 0.3);
    [
        ("weight".to_owned(), weight),
        ("bias".to_owned(), Sheet::constant(&[1], 5.0)),
    ]
}

/// Small, and none for the class token, which the norm would blow up.
fn positions(seed: Seed, label: &str, shape: &[i64]) -> Sheet {
    let mut sheet = Sheet::noise(seed, label, shape, 0.05);
    sheet.fill_rows([0], 0.0);
    sheet
}

/// Mean colour of the patch, plus a little texture.
fn patches(seed: Seed, label: &str, shape: &[i64]) -> Sheet {
    let mut sheet = Sheet::layer(seed, label, shape, 0.3);
    let colours = Sheet::noise(seed, "clip/colours", &[WIDTH, 3], 0.6 / 1024.0);
    for row in 0..WIDTH {
        for channel in 0..3 {
            let colour = colours.get(&[row, channel]);
            for pixel in 0..1024 {
                let at = [row, channel, pixel / 32, pixel % 32];
                let value = sheet.get(&at) + colour;
                sheet.set(&at, value);
            }
        }
    }
    sheet
}
