//! Tensors that published files have beside their weights: tables that are computed anyway, masks, and
//! what an older version of a network stored. All loaders leave them aside.

use tch::Kind;

use super::entry::TensorEntry;

/// What such a tensor looks like. A weight that happens to have the name of one does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A row of floating-point numbers.
    Row,
    /// Floating-point numbers of two axes or more.
    Table,
    /// Whole numbers, one or two axes.
    Positions,
    /// One number.
    Number,
    /// `[1, 1, n, n]`.
    Mask,
}

/// The last parts of their names.
const LEFTOVERS: &[(&str, Form)] = &[
    // Frequencies and angles of rotary positions: LLaMA-2 and others of its time, in every block.
    ("rotary_emb.inv_freq", Form::Row),
    ("rotary_emb.original_inv_freq", Form::Row),
    ("rotary_emb.cos_cached", Form::Table),
    ("rotary_emb.sin_cached", Form::Table),
    ("rope.freqs", Form::Row),
    // Causal masks and the number that stands for minus infinity in them.
    ("attn.bias", Form::Mask),
    ("attention.bias", Form::Mask),
    ("self_attn.bias", Form::Mask),
    ("attn.masked_bias", Form::Number),
    ("attention.masked_bias", Form::Number),
    ("self_attn.masked_bias", Form::Number),
    // 0, 1, 2, …: CLIP before transformers 4.31.
    ("position_ids", Form::Positions),
    ("num_batches_tracked", Form::Number),
    // Old exports of Wan carry a query norm of the image branch that nothing uses.
    ("attn2.norm_added_q.weight", Form::Row),
];

/// Whether a tensor is no weight.
pub(super) fn is_leftover(entry: &TensorEntry) -> bool {
    let ends = |ending: &str| {
        let before = entry.name.strip_suffix(ending);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    let mut known = LEFTOVERS.iter();
    known.any(|&(ending, form)| ends(ending) && has_form(entry, form))
}

fn has_form(entry: &TensorEntry, form: Form) -> bool {
    let floating = matches!(
        entry.kind,
        Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double
    );
    let whole = matches!(entry.kind, Kind::Int | Kind::Int64);
    let shape = entry.shape.as_slice();
    match form {
        Form::Row => floating && shape.len() == 1,
        Form::Table => floating && shape.len() >= 2,
        Form::Positions => whole && matches!(shape.len(), 1 | 2),
        Form::Number => shape.iter().product::<i64>() == 1,
        Form::Mask => matches!(*shape, [1, 1, rows, columns] if rows == columns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: Kind, shape: &[i64]) -> TensorEntry {
        TensorEntry {
            file: 0,
            name: name.to_owned(),
            kind,
            shape: shape.to_vec(),
            ranges: Vec::new(),
        }
    }

    #[test]
    fn tables_and_masks_of_published_files_are_leftovers() {
        for (name, kind, shape) in [
            (
                "model.layers.3.self_attn.rotary_emb.inv_freq",
                Kind::Float,
                &[64][..],
            ),
            ("rope.freqs", Kind::BFloat16, &[64]),
            ("text_model.embeddings.position_ids", Kind::Int64, &[1, 77]),
            ("embeddings.position_ids", Kind::Int64, &[50]),
            ("position_ids", Kind::Int, &[50]),
            ("h.0.attn.bias", Kind::Bool, &[1, 1, 8, 8]),
            ("h.0.attn.masked_bias", Kind::Float, &[]),
            ("blocks.0.attn2.norm_added_q.weight", Kind::Float, &[16]),
        ] {
            assert!(is_leftover(&entry(name, kind, shape)), "{name}");
        }
    }

    #[test]
    fn weights_are_none_whatever_they_are_called() {
        for (name, kind, shape) in [
            ("h.0.attn.bias", Kind::Float, &[64][..]),
            ("model.layers.0.self_attn.q_proj.bias", Kind::Float, &[64]),
            (
                "embeddings.position_embedding.weight",
                Kind::Float,
                &[50, 8],
            ),
            ("x.position_ids", Kind::Float, &[1, 77]),
            ("my_position_ids", Kind::Int64, &[1, 77]),
            ("blocks.0.attn1.norm_added_q.weight", Kind::Float, &[16]),
            ("inv_freq", Kind::Float, &[64]),
            ("model.rotary_emb.inv_freq.weight", Kind::Float, &[64]),
        ] {
            assert!(!is_leftover(&entry(name, kind, shape)), "{name}");
        }
    }
}
