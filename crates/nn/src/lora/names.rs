//! How the tensors of published adapters are called.
//!
//! A name is a prefix that says who wrote the file, a layer in the words of the original Wan code or
//! of diffusers, and an end that says which part of the update the tensor is. The three tables below
//! are all there is to it.

use crate::checkpoint::KeyMap;

/// Who writes tensors under names like these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// peft, also the published files of StoryMem.
    Peft,
    /// ComfyUI, and trainers that write for it.
    ComfyUi,
    /// `save_lora_weights` of diffusers.
    Diffusers,
    /// DiffSynth-Studio.
    DiffSynth,
    /// kohya-ss: the layer's dots are underscores.
    Kohya,
    /// The bare names of the layers.
    Bare,
}

impl Form {
    /// Name of the form and what its tensors look like.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Peft => "peft (base_model.model.LAYER.lora_A.weight)",
            Self::ComfyUi => "ComfyUI (diffusion_model.LAYER.lora_down.weight)",
            Self::Diffusers => "diffusers (transformer.LAYER.lora_A.weight)",
            Self::DiffSynth => "DiffSynth (pipe.dit.LAYER.lora_A.default.weight)",
            Self::Kohya => "kohya (lora_unet_LAYER.lora_down.weight)",
            Self::Bare => "bare names (LAYER.lora_A.weight)",
        }
    }

    /// Every form, for messages.
    pub(super) const ALL: [Self; 6] = [
        Self::Peft,
        Self::ComfyUi,
        Self::Diffusers,
        Self::DiffSynth,
        Self::Kohya,
        Self::Bare,
    ];
}

/// What stands between the words of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Separator {
    Dot,
    Underscore,
}

/// The prefixes, each before those that it begins with.
const PREFIXES: [(&str, Form, Separator); 8] = [
    ("base_model.model.", Form::Peft, Separator::Dot),
    ("model.diffusion_model.", Form::ComfyUi, Separator::Dot),
    ("diffusion_model.", Form::ComfyUi, Separator::Dot),
    ("transformer.", Form::Diffusers, Separator::Dot),
    ("pipe.dit.", Form::DiffSynth, Separator::Dot),
    ("lora_unet_", Form::Kohya, Separator::Underscore),
    ("lycoris_", Form::Kohya, Separator::Underscore),
    ("", Form::Bare, Separator::Dot),
];

/// Which part of the update of a layer a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Piece {
    /// The first product, `[rank, inputs]`.
    Down,
    /// The second product, `[outputs, rank]`.
    Up,
    /// The numerator of the scale.
    Alpha,
    /// Added to the weight as it is.
    WeightDifference,
    /// Added to the bias as it is.
    BiasDifference,
}

/// Who calls the halves how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halves {
    /// `lora_A` and `lora_B`, as peft does.
    Letters,
    /// `lora_down` and `lora_up`, as kohya does.
    Words,
}

/// The ends of names, after the layer.
const ENDS: [(&str, Piece, Option<Halves>); 10] = [
    (".lora_A.weight", Piece::Down, Some(Halves::Letters)),
    (".lora_B.weight", Piece::Up, Some(Halves::Letters)),
    (".lora_down.weight", Piece::Down, Some(Halves::Words)),
    (".lora_up.weight", Piece::Up, Some(Halves::Words)),
    (".lora.down.weight", Piece::Down, Some(Halves::Words)),
    (".lora.up.weight", Piece::Up, Some(Halves::Words)),
    (".alpha", Piece::Alpha, None),
    (".diff", Piece::WeightDifference, None),
    (".diff_b", Piece::BiasDifference, None),
    // The difference of the modulation of a block, which is a tensor without a layer.
    (MODULATION_END, Piece::WeightDifference, None),
];

const MODULATION_END: &str = ".diff_m";

/// The layers of a block in the words of the original code; those of diffusers follow.
const BLOCK_LAYERS: [&str; 18] = [
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

/// Words in the names of adapters of other kinds, and what these are.
const OTHER_KINDS: [(&str, &str); 12] = [
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("hada_w", "LoHa"),
    ("lokr_w", "LoKr"),
    ("lora_mid", "a LoRA of convolutions in three parts"),
    ("lora_embedding_", "a LoRA of an embedding"),
    ("oft_", "OFT"),
    ("vera_", "VeRA"),
    ("ia3_", "IA3"),
    ("lora_te", "an adapter of the text encoder"),
    ("text_encoder.", "an adapter of the text encoder"),
    (
        "transformer_2.",
        "an adapter of the other expert, which belongs into a file of its own",
    ),
];

/// A name that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spelling {
    /// The layer by its diffusers name.
    pub(super) layer: String,
    /// The layer as the file calls it, without prefix.
    pub(super) written: String,
    /// Which part of the update it is.
    pub(super) piece: Piece,
    /// Who writes such names.
    pub(super) form: Form,
    /// How the halves are called, if it is one.
    pub(super) halves: Option<Halves>,
}

/// Reads the name of a tensor; `None` if it is in no form that is known.
pub(super) fn read(name: &str) -> Option<Spelling> {
    let (stem, end, piece, halves) = split_end(name)?;
    PREFIXES.iter().find_map(|(prefix, form, separator)| {
        let written = stem.strip_prefix(prefix)?;
        let layer = match end == MODULATION_END {
            true => modulated(written, *separator),
            false => layer(written, *separator),
        };
        Some(Spelling {
            layer: layer?,
            written: written.to_owned(),
            piece,
            form: *form,
            halves,
        })
    })
}

/// What kind of adapter has a tensor of this name, if it is one that cannot be applied.
pub(super) fn other_kind(name: &str) -> Option<&'static str> {
    let found = OTHER_KINDS.iter().find(|(word, _)| name.contains(word));
    found.map(|(_, kind)| *kind)
}

/// The name without its end, and what the end says.
fn split_end(name: &str) -> Option<(&str, &'static str, Piece, Option<Halves>)> {
    let known = |name: &str| {
        let found = ENDS.iter().find(|(end, ..)| name.ends_with(end));
        found.copied()
    };
    if let Some((end, piece, halves)) = known(name) {
        return Some((name.strip_suffix(end)?, end, piece, halves));
    }
    // peft puts the name of the adapter between: `lora_A.default.weight`.
    let (half, _adapter) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    ENDS.iter().find_map(|(end, piece, halves)| {
        let stem = half.strip_suffix(end.strip_suffix(".weight")?)?;
        Some((stem, *end, *piece, *halves))
    })
}

/// The diffusers name of a layer that is written in either vocabulary.
fn layer(written: &str, separator: Separator) -> Option<String> {
    let top = TOP_LAYERS.into_iter().map(original_layer);
    let top = top.chain([(HEAD_MODULATION.to_owned(), "scale_shift_table".to_owned())]);
    if let Some(found) = first_spelled(written, separator, top) {
        return Some(found);
    }
    let block = block_of(written, separator)?;
    let layers = BLOCK_LAYERS
        .into_iter()
        .map(|inside| original_layer(format!("blocks.{block}.{inside}")));
    first_spelled(written, separator, layers.chain([modulation_of(block)]))
}

/// The modulation of the block or of the head that `written` is.
fn modulated(written: &str, separator: Separator) -> Option<String> {
    let written = match separator {
        Separator::Dot => format!("{written}.{MODULATION}"),
        Separator::Underscore => format!("{written}_{MODULATION}"),
    };
    layer(&written, separator)
}

fn modulation_of(block: u32) -> (String, String) {
    let original = format!("blocks.{block}.{MODULATION}");
    let diffusers = KeyMap::WanTransformer.to_diffusers(&original);
    (original, diffusers)
}

/// A layer in the words of the original code and of diffusers.
fn original_layer(original: impl AsRef<str>) -> (String, String) {
    let original = original.as_ref();
    // The map works on tensor names, so a leaf is added and taken off again.
    let tensor = KeyMap::WanTransformer.to_diffusers(&format!("{original}.weight"));
    let diffusers = tensor.strip_suffix(".weight").unwrap_or(&tensor).to_owned();
    (original.to_owned(), diffusers)
}

/// The diffusers name of the layer among `layers` that is spelled like `written`.
fn first_spelled(
    written: &str,
    separator: Separator,
    layers: impl IntoIterator<Item = (String, String)>,
) -> Option<String> {
    let spelled = |layer: &str| match separator {
        Separator::Dot => layer == written,
        Separator::Underscore => layer.replace('.', "_") == written,
    };
    let mut layers = layers.into_iter();
    let found = layers.find(|(original, diffusers)| spelled(original) || spelled(diffusers));
    found.map(|(_, diffusers)| diffusers)
}

/// The number of the block that a layer is in.
fn block_of(written: &str, separator: Separator) -> Option<u32> {
    let separator = match separator {
        Separator::Dot => '.',
        Separator::Underscore => '_',
    };
    let rest = written.strip_prefix("blocks")?.strip_prefix(separator)?;
    let (number, _) = rest.split_once(separator)?;
    // Only the way the number is written here: no sign, no zeros in front.
    number
        .parse()
        .ok()
        .filter(|block: &u32| block.to_string() == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Names as they stand in published files.
    #[test]
    fn published_names_are_read() {
        for (name, layer, piece, form) in [
            (
                "base_model.model.blocks.0.self_attn.q.lora_A.weight",
                "blocks.0.attn1.to_q",
                Piece::Down,
                Form::Peft,
            ),
            (
                "diffusion_model.blocks.39.ffn.0.lora_up.weight",
                "blocks.39.ffn.net.0.proj",
                Piece::Up,
                Form::ComfyUi,
            ),
            (
                "diffusion_model.blocks.3.cross_attn.k.alpha",
                "blocks.3.attn2.to_k",
                Piece::Alpha,
                Form::ComfyUi,
            ),
            (
                "transformer.blocks.1.attn1.to_out.0.lora_B.weight",
                "blocks.1.attn1.to_out.0",
                Piece::Up,
                Form::Diffusers,
            ),
            (
                "lora_unet_blocks_10_cross_attn_k_img.lora_down.weight",
                "blocks.10.attn2.add_k_proj",
                Piece::Down,
                Form::Kohya,
            ),
            (
                "lora_unet_blocks_1_attn1_to_out_0.alpha",
                "blocks.1.attn1.to_out.0",
                Piece::Alpha,
                Form::Kohya,
            ),
            (
                "blocks.7.self_attn.o.lora_A.default.weight",
                "blocks.7.attn1.to_out.0",
                Piece::Down,
                Form::Bare,
            ),
            (
                "pipe.dit.blocks.7.ffn.2.lora_B.default.weight",
                "blocks.7.ffn.net.2",
                Piece::Up,
                Form::DiffSynth,
            ),
            (
                "diffusion_model.blocks.2.self_attn.norm_k.diff",
                "blocks.2.attn1.norm_k",
                Piece::WeightDifference,
                Form::ComfyUi,
            ),
            (
                "diffusion_model.time_embedding.0.diff_b",
                "condition_embedder.time_embedder.linear_1",
                Piece::BiasDifference,
                Form::ComfyUi,
            ),
            (
                "diffusion_model.blocks.2.diff_m",
                "blocks.2.scale_shift_table",
                Piece::WeightDifference,
                Form::ComfyUi,
            ),
            (
                "diffusion_model.head.diff_m",
                "scale_shift_table",
                Piece::WeightDifference,
                Form::ComfyUi,
            ),
            (
                "diffusion_model.head.head.lora_down.weight",
                "proj_out",
                Piece::Down,
                Form::ComfyUi,
            ),
        ] {
            let found = read(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(
                (found.layer.as_str(), found.piece, found.form),
                (layer, piece, form)
            );
        }
    }

    #[test]
    fn other_names_are_not() {
        for name in [
            "blocks.0.self_attn.q.weight",
            "blocks.0.self_attn.q",
            "blocks.00.self_attn.q.lora_A.weight",
            "blocks.+1.self_attn.q.lora_A.weight",
            "lora_unet_blocks.0.self_attn.q.lora_down.weight",
            "base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight",
            "lora_A.weight",
            ".alpha",
            "",
        ] {
            assert_eq!(read(name), None, "{name}");
        }
        assert_eq!(other_kind("x.lora_magnitude_vector.weight"), Some("DoRA"));
        assert_eq!(other_kind("blocks.0.self_attn.q.weight"), None);
    }

    proptest! {
        /// Every prefix with every layer in either vocabulary and every end is read as just that.
        #[test]
        fn every_combination_is_read_as_what_it_is(
            prefix in 0..PREFIXES.len(),
            inside in 0..BLOCK_LAYERS.len(),
            end in 0..ENDS.len() - 1,
            block in 0_u32..100,
            in_diffusers in any::<bool>(),
        ) {
            let (prefix, form, separator) = PREFIXES[prefix];
            let (end, piece, halves) = ENDS[end];
            let (original, diffusers) =
                original_layer(format!("blocks.{block}.{}", BLOCK_LAYERS[inside]));
            let word = if in_diffusers { &diffusers } else { &original };
            let written = match separator {
                Separator::Dot => word.clone(),
                Separator::Underscore => word.replace('.', "_"),
            };
            let found = read(&format!("{prefix}{written}{end}"));
            let wanted = Spelling { layer: diffusers, written, piece, form, halves };
            prop_assert_eq!(found, Some(wanted));
        }

        /// No two layers of a model have the same name, in any spelling.
        #[test]
        fn layers_are_not_confused(a in 0..BLOCK_LAYERS.len(), b in 0..BLOCK_LAYERS.len()) {
            let flat = |layer: &str| layer.replace('.', "_");
            let [a, b] = [a, b].map(|layer| original_layer(format!("blocks.1.{}", BLOCK_LAYERS[layer])));
            let names = |(x, y): &(String, String)| [flat(x), flat(y)];
            if a.1 != b.1 {
                for name in names(&a) {
                    prop_assert!(!names(&b).contains(&name), "{}", name);
                }
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(name in ".{0,60}") {
            let _ = read(&name);
            let _ = other_kind(&name);
        }
    }
}
