//! The layers of FLUX transformers that adapters change (specification `flux`, section 6.2).

use super::{Form, Halves, Layers, Network, Piece, Separator, Spelling};
use crate::checkpoint::original::flux::{LayerKind, LayerPlace, OriginalLayer, layers};

/// Layers of diffusers that the original code calls by other names, outside of the blocks.
const TOP_LAYERS: [&str; 5] = [
    "x_embedder",
    "context_embedder",
    "time_text_embed.",
    "norm_out.",
    "proj_out",
];

/// The layers of XLabs' processors: where they are, what they are called there, and in diffusers.
const PROCESSORS: [(&str, &str, &[&str]); 6] = [
    (
        "double_blocks",
        "qkv_lora1",
        &["attn.to_q", "attn.to_k", "attn.to_v"],
    ),
    (
        "double_blocks",
        "qkv_lora2",
        &["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    ),
    ("double_blocks", "proj_lora1", &["attn.to_out.0"]),
    ("double_blocks", "proj_lora2", &["attn.to_add_out"]),
    (
        "single_blocks",
        "qkv_lora",
        &["attn.to_q", "attn.to_k", "attn.to_v"],
    ),
    ("single_blocks", "proj_lora", &["proj_out"]),
];

/// What stands between the block and the layer in XLabs' names.
const PROCESSOR: &str = "processor";

/// The layers of diffusers that `written` is, in the words of the original code or of diffusers. Norms have no
/// adapters.
pub(super) fn layer(written: &str, separator: Separator) -> Option<Layers> {
    let mut known = places(written, separator)
        .into_iter()
        .flat_map(layers)
        .filter(|layer| layer.kind != LayerKind::Norm);
    known.find_map(|layer| spelled(layer, written, separator))
}

/// Where a layer of this name may be.
fn places(written: &str, separator: Separator) -> Vec<LayerPlace> {
    let block = |words: [&str; 2]| {
        let mut words = words.into_iter();
        words.find_map(|word| separator.block_of(written, word))
    };
    let double = block(["double_blocks", "transformer_blocks"]).map(LayerPlace::Double);
    let single = block(["single_blocks", "single_transformer_blocks"]).map(LayerPlace::Single);
    let places = double.or(single);
    places.map_or_else(|| vec![LayerPlace::Top], |place| vec![place])
}

fn spelled(layer: OriginalLayer, written: &str, separator: Separator) -> Option<Layers> {
    if separator.spells(&layer.name, written) {
        let names = layer.parts;
        return Some(match layer.kind {
            LayerKind::Swapped => Layers::Swapped(names.concat()),
            _ => Layers::of(names),
        });
    }
    let part = layer
        .parts
        .into_iter()
        .find(|part| separator.spells(part, written));
    part.map(Layers::One)
}

/// Every name of a layer at `place`, in both vocabularies.
pub(super) fn spellings(place: LayerPlace) -> impl Iterator<Item = String> {
    let layers = layers(place).filter(|layer| layer.kind != LayerKind::Norm);
    layers.flat_map(|layer| {
        let original = (!layer.parts.contains(&layer.name)).then_some(layer.name);
        original.into_iter().chain(layer.parts)
    })
}

/// Reads a name as XLabs writes it.
pub(super) fn of_processor(name: &str) -> Option<Spelling> {
    let ends = [(".down.weight", Piece::Down), (".up.weight", Piece::Up)];
    let (written, piece) = ends
        .into_iter()
        .find_map(|(end, piece)| Some((name.strip_suffix(end)?, piece)))?;
    let found = PROCESSORS.iter().find_map(|(blocks, layer, parts)| {
        let block = Separator::Dot.block_of(written, blocks)?;
        let is_it = written == format!("{blocks}.{block}.{PROCESSOR}.{layer}");
        let place = match *blocks {
            "double_blocks" => LayerPlace::Double(block),
            _ => LayerPlace::Single(block),
        };
        let [_, diffusers] = place.prefixes();
        let parts = parts.iter().map(|part| format!("{diffusers}{part}"));
        is_it.then(|| Layers::of(parts.collect()))
    });
    Some(Spelling {
        layers: found?,
        written: written.to_owned(),
        piece,
        form: Form::XLabs,
        halves: Some(Halves::Words),
        network: Some(Network::Flux),
    })
}

/// Whether diffusers leaves this layer aside in files of kohya's kind, whose names are those of the original
/// code: it forgets the prefix of all layers outside of the blocks.
pub(super) fn is_left_by_diffusers(form: Form, written: &str, layers: &Layers) -> bool {
    let is_top = |name: &str| TOP_LAYERS.iter().any(|top| name.starts_with(top));
    let mut names = layers.names();
    let is_original =
        names.all(|name| is_top(name) && written != name && written != name.replace('.', "_"));
    matches!(form, Form::Kohya | Form::ComfyUi) && is_original
}
