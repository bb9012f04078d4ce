//! Checkpoints of features that are not supported, told by the names of their tensors or of their class
//! (specification `flux`, sections 1.9 to 1.11).

use serde_json::Value;
use tch::Kind;

use super::files::Checkpoint;
use super::original::Tensors;
use crate::error::{ModelError, Result};

/// What the path of a tensor has at one of its points, and what has such tensors.
const FEATURES: [(&str, &str); 12] = [
    ("distilled_guidance_layer.", "Chroma"),
    ("double_stream_modulation_img.", "FLUX.2"),
    ("encoder_hid_proj.", "IP-adapter"),
    ("processor.to_k_ip", "IP-adapter"),
    ("processor.to_v_ip", "IP-adapter"),
    ("processor.ip_adapter_", "IP-adapter"),
    ("ip_adapter_proj_model.", "IP-adapter"),
    ("controlnet_", "ControlNet"),
    ("input_hint_block.", "ControlNet"),
    ("redux_up.", "Redux"),
    ("redux_down.", "Redux"),
    ("quant_state.bitsandbytes", "NF4 (bitsandbytes)"),
];

/// Tensors beside weights that bitsandbytes has quantised in blocks.
const BLOCK_FACTORS: [&str; 2] = [".absmax", ".quant_map"];

/// Classes whose networks are not those of FLUX.1, or are added to it.
const CLASSES: [(&str, &str); 5] = [
    ("FluxControlNetModel", "ControlNet"),
    ("FluxMultiControlNetModel", "ControlNet"),
    ("Flux2Transformer2DModel", "FLUX.2"),
    ("ChromaTransformer2DModel", "Chroma"),
    ("ReduxImageEncoder", "Redux"),
];

/// The end of the name of the tensor in which ComfyUI says how it has quantised a weight.
const QUANTISATION: &str = "comfy_quant";
/// Longest of these tensors, in bytes.
const LONGEST_QUANTISATION: usize = 1 << 16;
/// The ways that are read.
const PLAIN_QUANTISATIONS: [&str; 2] = ["float8_e4m3fn", "float8_e5m2"];

/// Refuses a checkpoint of a feature that is not supported.
///
/// # Errors
/// It is one; the reason names the feature and a tensor.
pub(super) fn check(checkpoint: &Checkpoint) -> Result<()> {
    let reason = feature_of_class(checkpoint.class_name())
        .or_else(|| feature_of_names(checkpoint.entries()))
        .or_else(|| feature_of_channels(checkpoint.entries()));
    if let Some(reason) = reason {
        return Err(ModelError::bad_file(checkpoint.folder(), reason));
    }
    check_quantisation(checkpoint)
}

fn feature_of_class(class: Option<&str>) -> Option<String> {
    let class = class?;
    let (_, feature) = CLASSES.iter().find(|(known, _)| *known == class)?;
    Some(format!(
        "this is a checkpoint of {class}: {feature} is not supported"
    ))
}

pub(super) fn feature_of_names(tensors: &Tensors) -> Option<String> {
    let found = tensors.keys().find_map(|name| {
        let is_at = |part: &str| {
            let mut ends = name.match_indices(part);
            ends.any(|(at, _)| at == 0 || name.as_bytes().get(at - 1) == Some(&b'.'))
        };
        let by_name = FEATURES.iter().find(|(part, _)| is_at(part));
        let is_factor = BLOCK_FACTORS.iter().any(|end| name.ends_with(end));
        let blocks = is_factor.then_some("NF4 (bitsandbytes)");
        by_name
            .map(|(_, feature)| *feature)
            .or(blocks)
            .map(|feature| (name, feature))
    });
    found.map(|(name, feature)| {
        format!("by its tensor {name} it is {feature}, which is not supported")
    })
}

/// Networks that take the channels of a condition beside those of the picture, in the original layout.
fn feature_of_channels(tensors: &Tensors) -> Option<String> {
    let shape = |name: &str| tensors.get(name).map(|entry| entry.shape.as_slice());
    let (&[_, inputs], &[outputs, _]) =
        (shape("img_in.weight")?, shape("final_layer.linear.weight")?)
    else {
        return None;
    };
    let feature = match inputs {
        _ if inputs == outputs => return None,
        _ if inputs == 2 * outputs => "Canny or Depth control",
        _ if inputs == 6 * outputs => "Fill",
        _ => "a network with channels of a condition",
    };
    Some(format!(
        "img_in takes {inputs} channels, of which {outputs} are the picture's: this is {feature}, which \
         is not supported"
    ))
}

/// What ComfyUI says of its weights must be plain float8.
fn check_quantisation(checkpoint: &Checkpoint) -> Result<()> {
    for (name, entry) in checkpoint.entries() {
        let stem = name.strip_suffix(QUANTISATION);
        let is_told = stem.is_some_and(|stem| stem.is_empty() || stem.ends_with('.'));
        if !is_told || entry.kind != Kind::Uint8 || entry.bytes() > LONGEST_QUANTISATION {
            continue;
        }
        let mut text = vec![0; entry.bytes()];
        checkpoint.file(entry).read_entry(&mut text, entry, 0)?;
        let content: Option<Value> = serde_json::from_slice(&text).ok();
        let format = content.as_ref().and_then(|it| it.get("format")?.as_str());
        if format.is_some_and(|format| PLAIN_QUANTISATIONS.contains(&format)) {
            continue;
        }
        let reason = format!(
            "{name} says that the weight is quantised as {}, which is not supported; take a version in \
             bf16, or one in {}",
            format.unwrap_or("something that cannot be read"),
            PLAIN_QUANTISATIONS.join(" or ")
        );
        return Err(ModelError::bad_file(checkpoint.folder(), reason));
    }
    Ok(())
}
