//! How the tensors of published adapters are called.
//!
//! A name is a prefix that says who wrote the file, a layer in the words of the original code or of
//! diffusers, and an end that says which part of the update the tensor is. The tables of prefixes and ends
//! are here, those of layers in `wan` and `flux`.

mod flux;
mod near;
#[cfg(test)]
mod tests;
mod wan;

pub(super) use self::near::{nearest_layer, nearest_name};
use crate::checkpoint::original::number;

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
    /// The same with the layers of diffusers.
    KohyaDiffusers,
    /// XLabs: layers of the processors of attention.
    XLabs,
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
            Self::KohyaDiffusers => "kohya on diffusers (lora_transformer_LAYER.lora_down.weight)",
            Self::XLabs => "XLabs (double_blocks.0.processor.qkv_lora1.down.weight)",
            Self::Bare => "bare names (LAYER.lora_A.weight)",
        }
    }

    /// Every form, for messages.
    pub(super) const ALL: [Self; 8] = [
        Self::Peft,
        Self::ComfyUi,
        Self::Diffusers,
        Self::DiffSynth,
        Self::Kohya,
        Self::KohyaDiffusers,
        Self::XLabs,
        Self::Bare,
    ];
}

/// What stands between the words of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Separator {
    Dot,
    Underscore,
}

impl Separator {
    /// Whether `written` is the layer of this name.
    fn spells(self, layer: &str, written: &str) -> bool {
        match self {
            Self::Dot => layer == written,
            // No name is made for the many layers that it is not.
            Self::Underscore => {
                let plain = layer.chars().map(|it| if it == '.' { '_' } else { it });
                plain.eq(written.chars())
            }
        }
    }

    /// The layer as it is written.
    fn written(self, layer: &str) -> String {
        match self {
            Self::Dot => layer.to_owned(),
            Self::Underscore => layer.replace('.', "_"),
        }
    }

    fn joined(self, written: &str, last: &str) -> String {
        match self {
            Self::Dot => format!("{written}.{last}"),
            Self::Underscore => format!("{written}_{last}"),
        }
    }

    /// The number of the block that a layer is in, if `word` is what its blocks are called.
    fn block_of(self, written: &str, word: &str) -> Option<u32> {
        let separator = match self {
            Self::Dot => '.',
            Self::Underscore => '_',
        };
        let rest = written.strip_prefix(word)?.strip_prefix(separator)?;
        number(rest.split_once(separator)?.0)
    }
}

/// The prefixes, each before those that it begins with.
pub(super) const PREFIXES: [(&str, Form, Separator); 9] = [
    ("base_model.model.", Form::Peft, Separator::Dot),
    ("model.diffusion_model.", Form::ComfyUi, Separator::Dot),
    ("diffusion_model.", Form::ComfyUi, Separator::Dot),
    ("transformer.", Form::Diffusers, Separator::Dot),
    ("pipe.dit.", Form::DiffSynth, Separator::Dot),
    ("lora_unet_", Form::Kohya, Separator::Underscore),
    (
        "lora_transformer_",
        Form::KohyaDiffusers,
        Separator::Underscore,
    ),
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

/// The text encoder CLIP, in the forms of kohya and of diffusers.
const TEXT_ENCODER: &str = "an adapter of the text encoder";
/// What Black Forest Labs publish for Canny and Depth: a LoRA with biases and norms of its own.
const CONTROL: &str = "an adapter for the channels of a control picture";

/// Words in the names of adapters of other kinds, and what these are.
const OTHER_KINDS: [(&str, &str); 22] = [
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("hada_w", "LoHa"),
    ("lokr_w", "LoKr"),
    ("lora_mid", "a LoRA of convolutions in three parts"),
    ("lora_embedding_", "a LoRA of an embedding"),
    ("oft_", "OFT"),
    ("vera_", "VeRA"),
    ("ia3_", "IA3"),
    ("t5xxl", "an adapter of the text encoder T5"),
    ("lora_te", TEXT_ENCODER),
    ("text_encoder.", TEXT_ENCODER),
    ("lora_A.bias", "a LoRA with biases"),
    ("lora_B.bias", "a LoRA with biases"),
    ("query_norm.scale", CONTROL),
    ("key_norm.scale", CONTROL),
    ("distilled_guidance_layer", "an adapter of Chroma"),
    ("double_stream_modulation", "an adapter of FLUX.2"),
    ("controlnet", "a part of ControlNet"),
    ("ip_adapter", "a part of an IP-adapter"),
    ("to_k_ip", "a part of an IP-adapter"),
    (
        "transformer_2.",
        "an adapter of the other expert, which belongs into a file of its own",
    ),
];

/// The network that a layer is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// A Wan transformer.
    Wan,
    /// A FLUX transformer.
    Flux,
}

/// The layers of diffusers that an update changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layers {
    /// The layer of this name.
    One(String),
    /// These layers share the first factor; the rows of the second one are theirs, one below the other.
    Stacked(Vec<String>),
    /// The layer of this name, in whose rows the second half comes first.
    Swapped(String),
}

impl Layers {
    fn of(names: Vec<String>) -> Self {
        match <[String; 1]>::try_from(names) {
            Ok([name]) => Self::One(name),
            Err(names) => Self::Stacked(names),
        }
    }

    /// Their names, in the order of the rows.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let names = match self {
            Self::One(name) | Self::Swapped(name) => std::slice::from_ref(name),
            Self::Stacked(names) => names.as_slice(),
        };
        names.iter().map(String::as_str)
    }

    /// One name for all of them: that of the layer, or those of several joined.
    pub(super) fn key(&self) -> String {
        self.names().collect::<Vec<_>>().join("+")
    }
}

/// A name that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spelling {
    /// The layers by their diffusers names.
    pub(super) layers: Layers,
    /// The layer as the file calls it, without prefix.
    pub(super) written: String,
    /// Which part of the update it is.
    pub(super) piece: Piece,
    /// Who writes such names.
    pub(super) form: Form,
    /// How the halves are called, if it is one.
    pub(super) halves: Option<Halves>,
    /// The network that has such a layer; `None` if both have one.
    pub(super) network: Option<Network>,
}

impl Spelling {
    /// Whether diffusers leaves the update of this layer aside although the network has it.
    pub(super) fn is_left_by_diffusers(&self) -> bool {
        self.network != Some(Network::Wan)
            && flux::is_left_by_diffusers(self.form, &self.written, &self.layers)
    }
}

/// Reads the name of a tensor; `None` if it is in no form that is known.
pub(super) fn read(name: &str) -> Option<Spelling> {
    if let Some(found) = flux::of_processor(name) {
        return Some(found);
    }
    let (stem, end, piece, halves) = split_end(name)?;
    PREFIXES.iter().find_map(|(prefix, form, separator)| {
        let written = stem.strip_prefix(prefix)?;
        let is_modulation = end == MODULATION_END;
        let wan = match is_modulation {
            true => wan::modulated(written, *separator),
            false => wan::layer(written, *separator),
        };
        let flux = flux::layer(written, *separator).filter(|_| !is_modulation);
        let (layers, network) = match (wan, flux) {
            (Some(layer), None) => (Layers::One(layer), Some(Network::Wan)),
            (None, Some(layers)) => (layers, Some(Network::Flux)),
            // Layers that both networks have under the same name.
            (Some(layer), Some(_)) => (Layers::One(layer), None),
            (None, None) => return None,
        };
        Some(Spelling {
            layers,
            written: written.to_owned(),
            piece,
            form: *form,
            halves,
            network,
        })
    })
}

/// Whether a tensor of this name is of an adapter of the text encoder CLIP.
pub(super) fn is_of_text_encoder(name: &str) -> bool {
    other_kind(name) == Some(TEXT_ENCODER)
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
