//! Weights of eight bits, and the factors beside them.
//!
//! Programs that store weights in float8 divide them by a factor first and keep it in a tensor
//! beside the weight: ComfyUI calls it `scale_weight`, others `weight_scale`. A weight is its stored
//! number times its factor; without the factor the numbers mean nothing.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::entry::TensorEntry;

/// Names of the factor of `X.weight`, with `X.` before them.
const SCALES: [&str; 4] = [
    "scale_weight",
    "weight_scale",
    "weight_scale_inv",
    "weight.scale",
];

/// Tensors beside a weight that are for products in float8, which are not made here.
const OF_PRODUCTS: [&str; 6] = [
    "scale_input",
    "input_scale",
    "scale_output",
    "output_scale",
    "comfy_quant",
    "weight.input_scale",
];

/// The name of ComfyUI's marker, at the top of a file or behind a prefix.
const MARKER: &str = "scaled_fp8";

/// The tokenizer that ComfyUI packs beside the weights of a text encoder.
const PACKED_TOKENIZER: &str = "spiece_model";

/// Whether weights of this kind may have a factor beside them.
pub(super) fn is_float8(kind: Kind) -> bool {
    matches!(kind, Kind::Float8e4m3fn | Kind::Float8e5m2)
}

/// Takes the factors of float8 weights, and what belongs to them, out of `entries`.
///
/// The factors come back by the name of their weight. Names of the factors may be in either layout,
/// as long as they are those of their weights.
///
/// # Errors
/// The reason why the weights cannot be used: a factor of a shape that is not known, or a file that
/// is marked as scaled and has no factors.
pub(super) fn take_scales(
    entries: &mut BTreeMap<String, TensorEntry>,
) -> Result<BTreeMap<String, TensorEntry>, String> {
    let mut scales = BTreeMap::new();
    let weights: Vec<String> = entries
        .iter()
        .filter(|(name, entry)| is_float8(entry.kind) && name.ends_with(".weight"))
        .map(|(name, _)| name.clone())
        .collect();
    for weight in &weights {
        let stem = weight.strip_suffix("weight").unwrap_or(weight);
        for end in OF_PRODUCTS {
            entries.remove(&format!("{stem}{end}"));
        }
        for end in SCALES {
            let Some(scale) = entries.remove(&format!("{stem}{end}")) else {
                continue;
            };
            check(weight, &entries[weight], &scale)?;
            if scales.insert(weight.clone(), scale).is_some() {
                return Err(format!("there are two factors of {weight}"));
            }
        }
    }
    let is_marker = |name: &str| name == MARKER || name.ends_with(&format!(".{MARKER}"));
    let before = entries.len();
    entries.retain(|name, _| !is_marker(name));
    let is_marked = entries.len() < before;
    entries.remove(PACKED_TOKENIZER);
    if is_marked && scales.is_empty() && !weights.is_empty() {
        return Err(format!(
            "it is marked as {MARKER}, but no weight has its factor (scale_weight) beside it; \
             download it again, or take a version in bf16"
        ));
    }
    Ok(scales)
}

/// A factor is one number for the whole weight, or one for each of its rows.
fn check(name: &str, weight: &TensorEntry, scale: &TensorEntry) -> Result<(), String> {
    let numbers: i64 = scale.shape.iter().product();
    let rows = weight.shape.first().copied().unwrap_or(1);
    let is_column = scale.shape.first() == Some(&rows) && numbers == rows;
    if numbers == 1 || is_column {
        return Ok(());
    }
    Err(format!(
        "{name} of shape {:?} has factors of shape {:?}; one factor, or one for each row, can be \
         used; take a version in bf16, or one with a factor per weight",
        weight.shape, scale.shape
    ))
}

/// Stored rows from `first` on times their factors, in f32.
pub(super) fn scaled(rows: &Tensor, scale: &Tensor, first: i64) -> tch::Result<Tensor> {
    let rows = rows.f_to_kind(Kind::Float)?;
    if scale.numel() == 1 {
        return rows.f_mul(&scale.f_reshape([1])?);
    }
    let size = rows.size();
    let mut column = vec![1; size.len()];
    column[0] = size[0];
    let factors = scale.f_reshape([-1])?.f_narrow(0, first, size[0])?;
    rows.f_mul(&factors.f_reshape(&column)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    use serde_json::json;
    use tch::{Device, Tensor};

    use super::*;
    use crate::checkpoint::{Checkpoint, Target};
    use crate::shard::Part;

    /// 1, -2, 0.5 and 448 in e4m3; 1, -2, 0.5 and 57344 in e5m2.
    const E4M3: [u8; 4] = [0x38, 0xc0, 0x30, 0x7e];
    const E5M2: [u8; 4] = [0x3c, 0xc0, 0x38, 0x7b];

    type Stored<'a> = (&'a str, Dtype, &'a [usize], &'a [u8]);

    fn write(folder: &Path, tensors: &[Stored]) {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (
                *name,
                TensorView::new(*dtype, shape.to_vec(), bytes).unwrap(),
            )
        });
        let file = folder.join("model.safetensors");
        safetensors::serialize_to_file(views, None, &file).unwrap();
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    fn take(folder: &Path, axis: usize, part: Part) -> Result<Vec<f32>, String> {
        let open = Checkpoint::with_config(folder, json!({})).map_err(|error| error.to_string())?;
        let weights = open.weights(Target::CPU_F32);
        let tensor = weights.take_part("a.weight", &[2, 2], axis, part).unwrap();
        weights.finish().map_err(|error| error.to_string())?;
        Ok(Vec::try_from(tensor.contiguous().view([-1])).unwrap())
    }

    #[test]
    fn numbers_are_multiplied_by_their_factors() {
        let folder = tempfile::tempdir().unwrap();
        let (one, rows) = (bytes(&[0.25]), bytes(&[0.25, 2.0]));
        let half = Part { index: 1, of: 2 };
        for (dtype, codes, most) in [
            (Dtype::F8_E4M3, E4M3, 448.0),
            (Dtype::F8_E5M2, E5M2, 57_344.0),
        ] {
            for name in ["a.scale_weight", "a.weight_scale"] {
                let weight: Stored = ("a.weight", dtype, &[2, 2], &codes);
                let marker: Stored = ("scaled_fp8", Dtype::F8_E4M3, &[0], &[]);
                let input: Stored = ("a.scale_input", Dtype::F32, &[], &one);
                write(
                    folder.path(),
                    &[weight, marker, input, (name, Dtype::F32, &[], &one)],
                );
                let whole = take(folder.path(), 0, Part::WHOLE).unwrap();
                assert_eq!(whole, [0.25, -0.5, 0.125, most / 4.0]);
                assert_eq!(take(folder.path(), 0, half).unwrap(), [0.125, most / 4.0]);
                assert_eq!(take(folder.path(), 1, half).unwrap(), [-0.5, most / 4.0]);
                write(folder.path(), &[weight, (name, Dtype::F32, &[2, 1], &rows)]);
                let whole = take(folder.path(), 0, Part::WHOLE).unwrap();
                assert_eq!(whole, [0.25, -0.5, 1.0, most * 2.0]);
                assert_eq!(take(folder.path(), 0, half).unwrap(), [1.0, most * 2.0]);
                assert_eq!(take(folder.path(), 1, half).unwrap(), [-0.5, most * 2.0]);
            }
            write(folder.path(), &[("a.weight", dtype, &[2, 2], &codes)]);
            let plain = take(folder.path(), 0, Part::WHOLE).unwrap();
            assert_eq!(plain, [1.0, -2.0, 0.5, most]);
        }
    }

    #[test]
    fn factors_that_are_lost_or_strange_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let weight: Stored = ("a.weight", Dtype::F8_E4M3, &[2, 2], &E4M3);
        let marker: Stored = ("scaled_fp8", Dtype::F8_E4M3, &[0], &[]);
        write(folder.path(), &[weight, marker]);
        let error = take(folder.path(), 0, Part::WHOLE).unwrap_err();
        assert!(error.contains("marked as scaled_fp8"), "{error}");
        let factors = bytes(&[1.0; 4]);
        write(
            folder.path(),
            &[
                weight,
                ("a.weight_scale_inv", Dtype::F32, &[2, 2], &factors),
            ],
        );
        let error = take(folder.path(), 0, Part::WHOLE).unwrap_err();
        assert!(error.contains("factors of shape [2, 2]"), "{error}");
    }

    /// A factor of a weight that is not float8 is a tensor that nobody knows.
    #[test]
    fn factors_of_other_weights_are_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (values, one) = (bytes(&[1.0; 4]), bytes(&[0.25]));
        let weight: Stored = ("a.weight", Dtype::F32, &[2, 2], &values);
        write(
            folder.path(),
            &[weight, ("a.weight_scale", Dtype::F32, &[], &one)],
        );
        let error = take(folder.path(), 0, Part::WHOLE).unwrap_err();
        assert!(error.contains("not known: a.weight_scale"), "{error}");
    }

    #[test]
    fn digests_cover_the_factors() {
        let folder = tempfile::tempdir().unwrap();
        let digest = |scale: f32| {
            let scale = bytes(&[scale]);
            let weight: Stored = ("a.weight", Dtype::F8_E4M3, &[2, 2], &E4M3);
            write(
                folder.path(),
                &[weight, ("a.scale_weight", Dtype::F32, &[], &scale)],
            );
            Checkpoint::with_config(folder.path(), json!({}))
                .unwrap()
                .digest()
                .unwrap()
        };
        assert_ne!(digest(0.25), digest(0.5));
    }

    #[test]
    fn rows_begin_where_they_are_told() {
        let options = (Kind::Float, Device::Cpu);
        let scale = Tensor::arange(4, options);
        let rows = Tensor::ones([2, 3], options);
        let found = scaled(&rows, &scale, 2).unwrap();
        assert_eq!(found.select(1, 0), Tensor::from_slice(&[2.0_f32, 3.0]));
    }
}
