//! Help for tests: the files-free golden values of specification `wan22`, section 8, and the
//! golden folders of `tests/golden`.
#![allow(clippy::unwrap_used, reason = "only tests use it")]

pub mod flux;
pub mod vectors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use storyloom_parallel::Group;
use tch::{Device, Kind, Tensor};

use crate::checkpoint::{Checkpoint, Target, Weights};
use crate::error::Result;
use crate::tensor_file::{read_tensors, write_tensors};

/// `cos(0.11 i + phase)` over flat positions `i`, computed in f64, f32.
pub fn cosines(shape: &[i64], phase: f64) -> Tensor {
    let count: i64 = shape.iter().product();
    let positions = Tensor::arange(count, (Kind::Double, Device::Cpu));
    ((positions * 0.11 + phase).cos())
        .to_kind(Kind::Float)
        .view(shape)
}

/// Writes a checkpoint with the tensors that `load` asks for, filled by the rule of section 8:
/// the j-th tensor by sorted name has `a sin(0.37 i + 1.3 j)` at flat position i, or 1 plus a
/// tenth of that sine for norms.
pub fn fill_checkpoint(
    folder: &Path,
    config: &str,
    amplitude: f64,
    load: impl Fn(&Weights) -> Result<()>,
) {
    std::fs::write(folder.join("config.json"), config).unwrap();
    let json = serde_json::from_str(config).unwrap();
    let empty = Checkpoint::from_files(folder, json, &[]).unwrap();
    let weights = empty.weights(Target::CPU_F32);
    load(&weights).unwrap();
    let shapes: BTreeMap<String, Vec<i64>> = weights.asked_for().into_iter().collect();
    let filled: Vec<(String, Tensor)> = shapes
        .into_iter()
        .enumerate()
        .map(|(j, (name, shape))| {
            let count: i64 = shape.iter().product();
            let wave =
                (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.37 + 1.3 * j as f64).sin();
            let is_norm =
                name.ends_with("gamma") || (name.contains("norm") && name.ends_with("weight"));
            let values = if is_norm {
                wave * 0.1 + 1.0
            } else {
                wave * amplitude
            };
            (name, values.to_kind(Kind::Float).view(shape.as_slice()))
        })
        .collect();
    let views: Vec<(&str, &Tensor)> = filled
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    write_tensors(&folder.join("diffusion_pytorch_model.safetensors"), &views).unwrap();
}

/// How many tensors `load` asks for, and how many values they have together. Nothing is read or filled, so that
/// large networks can be counted.
pub fn layout_counts(load: impl FnOnce(&Weights) -> Result<()>) -> (usize, i64) {
    let empty = Checkpoint::from_files(Path::new("none"), serde_json::Value::Null, &[]).unwrap();
    let weights = empty.weights(Target {
        kind: Kind::BFloat16,
        ..Target::CPU_F32
    });
    load(&weights).unwrap();
    let asked = weights.asked_for();
    let values = asked.iter().map(|(_, shape)| shape.iter().product::<i64>());
    (asked.len(), values.sum())
}

/// What `load` makes of a checkpoint of these tensors.
pub fn weights_of<T>(tensors: &[(&str, &Tensor)], load: impl FnOnce(&Weights) -> Result<T>) -> T {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    write_tensors(&file, tensors).unwrap();
    let checkpoint = Checkpoint::from_files(folder.path(), serde_json::Value::Null, &[file]);
    load(&checkpoint.unwrap().weights(Target::CPU_F32)).unwrap()
}

/// Values at flat positions, and the sum of absolute values in f64.
pub fn summary(tensor: &Tensor, at: &[i64]) -> (Vec<f64>, f64) {
    let flat = tensor.to_kind(Kind::Double).flatten(0, -1);
    let values = at
        .iter()
        .map(|&position| flat.double_value(&[position]))
        .collect();
    (values, flat.abs().sum(Kind::Double).double_value(&[]))
}

/// The folder of a golden case.
pub fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(case)
}

/// The tensors of a file inside a golden case.
pub fn golden_tensors(case: &str, file: &str) -> BTreeMap<String, Tensor> {
    read_tensors(&golden(case).join(file)).unwrap()
}

/// `||a - b|| / ||b||` in f64.
pub fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let [found, expected] = [found, expected].map(|tensor| tensor.to_kind(Kind::Double));
    let norm = |tensor: &Tensor| tensor.square().sum(Kind::Double).sqrt().double_value(&[]);
    norm(&(found - &expected)) / norm(&expected)
}

/// The folder of the real ST-Bench scripts beside the repository, if it is there.
pub fn st_bench() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/st-bench");
    root.is_dir().then_some(root)
}

/// What each rank of a world of threads makes of its end of it.
pub fn on_ranks<T: Send>(size: usize, role: impl Fn(Group) -> T + Sync) -> Vec<T> {
    let collective_timeout = std::time::Duration::from_secs(120);
    std::thread::scope(|scope| {
        let ranks: Vec<_> = storyloom_parallel::threads::world(size, collective_timeout)
            .into_iter()
            .map(|group| scope.spawn(|| role(group)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}
