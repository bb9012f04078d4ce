//! The layers of Wan transformers that adapters change.

use super::Separator;
use crate::checkpoint::KeyMap;

/// The layers of a block in the words of the original code; those of diffusers follow.
pub(super) const BLOCK_LAYERS: [&str; 18] = [
    "self_attn.q",
    "self_attn.k",
    "self_attn.v",
    "self_attn.o",
    "self_attn.norm_q",
    "self_attn.norm_k",
    "cross_attn.q",
    "cross_attn.k",
    "cross_attn.v",
    "cross_attn.o",
    "cross_attn.norm_q",
    "cross_attn.norm_k",
    "cross_attn.k_img",
    "cross_attn.v_img",
    "cross_attn.norm_k_img",
    "ffn.0",
    "ffn.2",
    "norm3",
];

/// The layers outside of the blocks.
const TOP_LAYERS: [&str; 11] = [
    "patch_embedding",
    "text_embedding.0",
    "text_embedding.2",
    "time_embedding.0",
    "time_embedding.2",
    "time_projection.1",
    "head.head",
    "img_emb.proj.0",
    "img_emb.proj.1",
    "img_emb.proj.3",
    "img_emb.proj.4",
];

/// Tensors without a layer that carries them.
const MODULATION: &str = "modulation";
const HEAD_MODULATION: &str = "head.modulation";

/// The diffusers name of a layer that is written in either vocabulary.
pub(super) fn layer(written: &str, separator: Separator) -> Option<String> {
    let spelled = |(original, diffusers): &(String, String)| {
        separator.spells(original, written) || separator.spells(diffusers, written)
    };
    let top = || top_layers().find(spelled);
    let in_block = || {
        let block = separator.block_of(written, "blocks")?;
        block_layers(block).find(spelled)
    };
    top().or_else(in_block).map(|(_, diffusers)| diffusers)
}

/// The modulation of the block or of the head that `written` is.
pub(super) fn modulated(written: &str, separator: Separator) -> Option<String> {
    layer(&separator.joined(written, MODULATION), separator)
}

/// The layers outside of the blocks in the words of the original code and of diffusers.
pub(super) fn top_layers() -> impl Iterator<Item = (String, String)> {
    let layers = TOP_LAYERS.into_iter().map(original_layer);
    layers.chain([(HEAD_MODULATION.to_owned(), "scale_shift_table".to_owned())])
}

/// The layers of a block in the words of the original code and of diffusers.
pub(super) fn block_layers(block: u32) -> impl Iterator<Item = (String, String)> {
    let layers = BLOCK_LAYERS
        .into_iter()
        .map(move |inside| original_layer(format!("blocks.{block}.{inside}")));
    layers.chain([modulation_of(block)])
}

fn modulation_of(block: u32) -> (String, String) {
    let original = format!("blocks.{block}.{MODULATION}");
    let diffusers = KeyMap::WanTransformer.to_diffusers(&original);
    (original, diffusers)
}

/// A layer in the words of the original code and of diffusers.
pub(super) fn original_layer(original: impl AsRef<str>) -> (String, String) {
    let original = original.as_ref();
    // The map works on tensor names, so a leaf is added and taken off again.
    let tensor = KeyMap::WanTransformer.to_diffusers(&format!("{original}.weight"));
    let diffusers = tensor.strip_suffix(".weight").unwrap_or(&tensor).to_owned();
    (original.to_owned(), diffusers)
}
