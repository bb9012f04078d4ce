//! The layers of the FLUX transformer in the words of the original code and of diffusers
//! (specification `flux`, section 1.9; `FluxTransformer2DModel`).
//!
//! The original code joins projections of one input in one layer, one below the other: their rows are
//! those of several layers of diffusers. Files and adapters are both read by these tables.

use std::collections::BTreeMap;

use super::{Misfit, Pieces, Tensors, count_of};
use crate::checkpoint::TensorEntry;

/// The most blocks of one kind that a file may have.
const MOST_BLOCKS: u32 = 4096;

/// A tensor that every original file has and no file of another layout.
pub(crate) const MARK: &str = "double_blocks.0.img_attn.norm.key_norm.scale";

/// What a layer is, as far as its tensors go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerKind {
    /// A product with a bias, of one layer of diffusers or of several.
    Linear,
    /// A product whose halves are the other way round in diffusers.
    Swapped,
    /// A norm, whose weight is called `scale`.
    Norm,
}

/// A layer of the original code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OriginalLayer {
    /// Its name there.
    pub(crate) name: String,
    /// The layers of diffusers that its rows are, in their order.
    pub(crate) parts: Vec<String>,
    /// What its tensors are.
    pub(crate) kind: LayerKind,
}

/// A row of a table: the layer in the original code and in diffusers, without the block.
type Row = (&'static str, &'static [&'static str], LayerKind);

const TOP: [Row; 10] = [
    ("img_in", &["x_embedder"], LayerKind::Linear),
    ("txt_in", &["context_embedder"], LayerKind::Linear),
    (
        "time_in.in_layer",
        &["time_text_embed.timestep_embedder.linear_1"],
        LayerKind::Linear,
    ),
    (
        "time_in.out_layer",
        &["time_text_embed.timestep_embedder.linear_2"],
        LayerKind::Linear,
    ),
    (
        "guidance_in.in_layer",
        &["time_text_embed.guidance_embedder.linear_1"],
        LayerKind::Linear,
    ),
    (
        "guidance_in.out_layer",
        &["time_text_embed.guidance_embedder.linear_2"],
        LayerKind::Linear,
    ),
    (
        "vector_in.in_layer",
        &["time_text_embed.text_embedder.linear_1"],
        LayerKind::Linear,
    ),
    (
        "vector_in.out_layer",
        &["time_text_embed.text_embedder.linear_2"],
        LayerKind::Linear,
    ),
    ("final_layer.linear", &["proj_out"], LayerKind::Linear),
    // The original holds shift and scale, diffusers scale and shift. Every other modulation has the same
    // order in both.
    (
        "final_layer.adaLN_modulation.1",
        &["norm_out.linear"],
        LayerKind::Swapped,
    ),
];

const DOUBLE: [Row; 14] = [
    ("img_mod.lin", &["norm1.linear"], LayerKind::Linear),
    ("txt_mod.lin", &["norm1_context.linear"], LayerKind::Linear),
    (
        "img_attn.qkv",
        &["attn.to_q", "attn.to_k", "attn.to_v"],
        LayerKind::Linear,
    ),
    (
        "txt_attn.qkv",
        &["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
        LayerKind::Linear,
    ),
    (
        "img_attn.norm.query_norm",
        &["attn.norm_q"],
        LayerKind::Norm,
    ),
    ("img_attn.norm.key_norm", &["attn.norm_k"], LayerKind::Norm),
    (
        "txt_attn.norm.query_norm",
        &["attn.norm_added_q"],
        LayerKind::Norm,
    ),
    (
        "txt_attn.norm.key_norm",
        &["attn.norm_added_k"],
        LayerKind::Norm,
    ),
    ("img_attn.proj", &["attn.to_out.0"], LayerKind::Linear),
    ("txt_attn.proj", &["attn.to_add_out"], LayerKind::Linear),
    ("img_mlp.0", &["ff.net.0.proj"], LayerKind::Linear),
    ("img_mlp.2", &["ff.net.2"], LayerKind::Linear),
    ("txt_mlp.0", &["ff_context.net.0.proj"], LayerKind::Linear),
    ("txt_mlp.2", &["ff_context.net.2"], LayerKind::Linear),
];

const SINGLE: [Row; 5] = [
    ("modulation.lin", &["norm.linear"], LayerKind::Linear),
    (
        "linear1",
        &["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
        LayerKind::Linear,
    ),
    ("linear2", &["proj_out"], LayerKind::Linear),
    ("norm.query_norm", &["attn.norm_q"], LayerKind::Norm),
    ("norm.key_norm", &["attn.norm_k"], LayerKind::Norm),
];

/// Where a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerPlace {
    /// Outside of the blocks.
    Top,
    /// In the double block of this number.
    Double(u32),
    /// In the single block of this number.
    Single(u32),
}

impl LayerPlace {
    /// What the names of its layers begin with, in the original code and in diffusers.
    pub(crate) fn prefixes(self) -> [String; 2] {
        match self {
            Self::Top => [String::new(), String::new()],
            Self::Double(block) => [
                format!("double_blocks.{block}."),
                format!("transformer_blocks.{block}."),
            ],
            Self::Single(block) => [
                format!("single_blocks.{block}."),
                format!("single_transformer_blocks.{block}."),
            ],
        }
    }
}

/// The layers at `place`.
pub(crate) fn layers(place: LayerPlace) -> impl Iterator<Item = OriginalLayer> {
    let rows: &'static [Row] = match place {
        LayerPlace::Top => &TOP,
        LayerPlace::Double(_) => &DOUBLE,
        LayerPlace::Single(_) => &SINGLE,
    };
    let [original, diffusers] = place.prefixes();
    rows.iter().map(move |(name, parts, kind)| OriginalLayer {
        name: format!("{original}{name}"),
        parts: parts
            .iter()
            .map(|part| format!("{diffusers}{part}"))
            .collect(),
        kind: *kind,
    })
}

/// How many blocks of each kind a file names, and whether guidance is embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) doubles: u32,
    pub(crate) singles: u32,
    pub(crate) guidance: bool,
}

impl Size {
    /// By the names of a file.
    pub(crate) fn of(tensors: &Tensors) -> Self {
        Self {
            doubles: count_of(tensors, "double_blocks.", MOST_BLOCKS),
            singles: count_of(tensors, "single_blocks.", MOST_BLOCKS),
            guidance: tensors.keys().any(|name| name.starts_with("guidance_in.")),
        }
    }

    /// Every layer of a network of this size.
    pub(crate) fn layers(self) -> impl Iterator<Item = OriginalLayer> {
        let places = std::iter::once(LayerPlace::Top)
            .chain((0..self.doubles).map(LayerPlace::Double))
            .chain((0..self.singles).map(LayerPlace::Single));
        places
            .flat_map(layers)
            .filter(move |layer| self.guidance || !layer.name.starts_with("guidance_in."))
    }
}

/// What becomes of the tensors of a file, by their names in it.
///
/// # Errors
/// A fused tensor has another number of rows than the width of the network makes.
pub(super) fn plan(tensors: &Tensors) -> Result<BTreeMap<String, Pieces>, Misfit> {
    // Without it the tensor is missing, which is told later.
    let width = tensors
        .get("img_in.weight")
        .map_or(0, TensorEntry::row_count);
    let mut plan = BTreeMap::new();
    for layer in Size::of(tensors).layers() {
        let leaves: &[[&str; 2]] = match layer.kind {
            LayerKind::Norm => &[["scale", "weight"]],
            LayerKind::Linear | LayerKind::Swapped => &[["weight", "weight"], ["bias", "bias"]],
        };
        for [original, diffusers] in leaves {
            let name = format!("{}.{original}", layer.name);
            let rows = tensors.get(&name).map(TensorEntry::row_count);
            let pieces = match (layer.parts.as_slice(), layer.kind) {
                ([part], LayerKind::Swapped) => Pieces::Swapped(format!("{part}.{diffusers}")),
                ([part], _) => Pieces::Whole(format!("{part}.{diffusers}")),
                (parts, _) => {
                    let parts = parts.iter().map(|part| format!("{part}.{diffusers}"));
                    Pieces::Rows(fused(&name, parts.collect(), rows, width)?)
                }
            };
            plan.insert(name, pieces);
        }
    }
    Ok(plan)
}

/// The parts of a fused tensor with the number of their rows: queries, keys and values are as wide as the
/// network; what is left is the MLP's.
fn fused(
    name: &str,
    parts: Vec<String>,
    rows: Option<i64>,
    width: i64,
) -> Result<Vec<(String, i64)>, Misfit> {
    /// Queries, keys and values.
    const PROJECTIONS: usize = 3;
    let has_rest = parts.len() > PROJECTIONS;
    let rest = rows.map_or(0, |rows| rows - PROJECTIONS as i64 * width);
    let fits = match has_rest {
        true => rest > 0,
        false => rest == 0,
    };
    if let Some(rows) = rows.filter(|_| !fits && width > 0) {
        let reason = format!(
            "{name} has {rows} rows, which are not those of {} in a network of width {width}",
            parts.join(", ")
        );
        return Err(Misfit::Reason(reason));
    }
    let count = |index: usize| if index < PROJECTIONS { width } else { rest };
    let counted = parts.into_iter().enumerate();
    Ok(counted.map(|(index, part)| (part, count(index))).collect())
}
