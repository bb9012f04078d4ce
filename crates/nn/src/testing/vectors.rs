//! Values of reference packages that need no golden folder: weights follow from the names of
//! tensors, inputs are waves, and `tests/golden/flux-vectors.json` has what comes out.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::golden;
use crate::checkpoint::{Checkpoint, Target, Weights};
use crate::error::Result;
use crate::tensor_file::write_tensors;

/// One entry of `tests/golden/flux-vectors.json`; `path` has the keys on the way, separated by `/`:
/// `modules/cases/t5`.
#[track_caller]
pub fn flux_vector(path: &str) -> Value {
    let file = golden("flux-vectors.json");
    let all: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let found = all.pointer(&format!("/{path}"));
    found
        .unwrap_or_else(|| panic!("there is no vector {path}"))
        .clone()
}

/// `sin(step i + phase)` over flat positions `i`, computed in f64, f32 of `shape`.
pub fn wave(step: f64, phase: f64, shape: &[i64]) -> Tensor {
    sines(step, phase, shape).to_kind(Kind::Float)
}

fn sines(step: f64, phase: f64, shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    let positions = Tensor::arange(count, (Kind::Double, Device::Cpu));
    (positions * step + phase).sin().view(shape)
}

/// What phases are parts of: the rule says 6.28, and not the whole circle.
#[expect(
    clippy::approx_constant,
    reason = "the values of the vectors follow from this very number"
)]
const PHASES: f64 = 6.28;

/// The weight that belongs to the tensor `name` of `shape`, f32.
///
/// With `s = sin(0.7 i + phase)`, the phase being the sum of the name's bytes modulo 997 as a part of 6.28:
/// `s / sqrt(elements of a row)` with two or more axes, `1 + s / 10` for the weights with one, and `s / 10`
/// for the rest.
pub fn vector_weights(name: &str, shape: &[i64]) -> Tensor {
    let sum: u32 = name.bytes().map(u32::from).sum();
    let sines = sines(0.7, f64::from(sum % 997) / 997.0 * PHASES, shape);
    let values = match shape {
        [_, rest @ ..] if !rest.is_empty() => sines / (rest.iter().product::<i64>() as f64).sqrt(),
        _ if name.ends_with("weight") => sines * 0.1 + 1.0,
        _ => sines * 0.1,
    };
    values.to_kind(Kind::Float)
}

/// Writes a checkpoint of the tensors that `load` asks for, with their [`vector_weights`], into
/// `model.safetensors`, and `config.json`.
pub fn write_vector_checkpoint(
    folder: &Path,
    config: &Value,
    load: impl Fn(&Weights) -> Result<()>,
) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let tensors = asked_tensors(folder, config, load);
    let views: Vec<(&str, &Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    write_tensors(&folder.join("model.safetensors"), &views).unwrap();
}

/// The tensors that `load` asks for by name, with their [`vector_weights`]; `folder` needs no files.
pub fn asked_tensors(
    folder: &Path,
    config: &Value,
    load: impl Fn(&Weights) -> Result<()>,
) -> BTreeMap<String, Tensor> {
    let empty = Checkpoint::from_files(folder, config.clone(), &[]).unwrap();
    let weights = empty.weights(Target::CPU_F32);
    load(&weights).unwrap();
    let shapes = weights.asked_for().into_iter();
    shapes
        .map(|(name, shape)| {
            let tensor = vector_weights(&name, &shape);
            (name, tensor)
        })
        .collect()
}

/// All numbers of nested lists, in order.
#[track_caller]
pub fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        Value::Number(number) => vec![number.as_f64().unwrap()],
        other => panic!("{other} is no number and no list of them"),
    }
}

/// Whole numbers of nested lists, in order.
#[track_caller]
pub fn integers(value: &Value) -> Vec<i64> {
    numbers(value).iter().map(|&number| number as i64).collect()
}

/// `found` has the first values `expected`, each within `tolerance`.
#[track_caller]
pub fn assert_begins(what: &str, found: &Tensor, expected: &Value, tolerance: f64) {
    let expected = numbers(expected);
    assert!(!expected.is_empty(), "{what}: nothing is expected");
    let flat = found.to_kind(Kind::Double).reshape([-1]);
    assert!(flat.numel() >= expected.len(), "{what}: too few values");
    let found = Vec::<f64>::try_from(&flat).unwrap();
    assert_near(what, &found[..expected.len()], &expected, tolerance);
}

/// The two lists have one length, and each pair of values differs by `tolerance` at most.
#[track_caller]
pub fn assert_near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        // A value that is no number is not near.
        let is_near = difference <= tolerance;
        assert!(
            is_near,
            "{what}: value {at} is {found}, not {expected}: {difference:.2e}"
        );
    }
}

/// `found` has the `shape` of an entry, if that is there, its `first` and `last` values, `mean` and `rms`;
/// the values within `tolerance`.
#[track_caller]
pub fn assert_vector(what: &str, found: &Tensor, expected: &Value, tolerance: f64) {
    if let Some(shape) = expected.get("shape") {
        assert_eq!(found.size(), integers(shape), "{what}");
    }
    assert_begins(what, found, &expected["first"], tolerance);
    let flat = found.to_kind(Kind::Double).reshape([-1]);
    if let Some(last) = expected.get("last") {
        let count = numbers(last).len() as i64;
        let end = flat.narrow(0, flat.numel() as i64 - count, count);
        assert_begins(what, &end, last, tolerance);
    }
    let mean = |tensor: Tensor| tensor.mean(Kind::Double).double_value(&[]);
    let figures = [
        ("mean", mean(flat.shallow_clone())),
        ("rms", mean(flat.square()).sqrt()),
    ];
    for (name, value) in figures {
        if let Some(expected) = expected.get(name) {
            assert_near(what, &[value], &numbers(expected), tolerance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn weights_follow_from_names_and_shapes() {
        // The bytes of "ab" sum up to 195.
        let phase: f64 = 195.0 / 997.0 * PHASES;
        let matrix = vector_weights("ab", &[2, 4]);
        let expected = (0.7 * 5.0 + phase).sin() / 2.0;
        assert_near("row", &[matrix.double_value(&[1, 1])], &[expected], 1e-7);
        let vector = |name: &str| vector_weights(name, &[1]).double_value(&[0]);
        assert!((0.9..1.1).contains(&vector("norm.weight")));
        assert!((-0.1..0.1).contains(&vector("norm.bias")));
    }

    #[test]
    #[should_panic(expected = "value 1 is")]
    fn another_value_is_not_near() {
        assert_begins("pair", &wave(1.0, 0.0, &[3]), &json!([0.0, 0.8]), 1e-3);
    }

    #[test]
    fn figures_of_an_entry_are_compared() {
        let entry = json!({"shape": [4], "first": [1.0], "last": [4.0], "mean": 2.5});
        let found = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]);
        assert_vector("entry", &found, &entry, 1e-6);
        assert_eq!(numbers(&json!([[1, 2.5], 3])), [1.0, 2.5, 3.0]);
        assert!(flux_vector("modules/cases/t5/config").is_object());
    }
}
