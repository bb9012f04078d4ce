//! Tensors in plain safetensors files, and on their way to and from host memory.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use storyloom_story::HostTensor;
use tch::{Device, Kind, Tensor};

use crate::checkpoint::{Checkpoint, Target};
use crate::dtype::raw_bytes;
use crate::error::{ModelError, Result};

/// Reads every tensor of a safetensors file to the CPU, in the kind it is stored in.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let file = Checkpoint::from_files(path, serde_json::Value::Null, &[path.to_owned()])?;
    let mut tensors = BTreeMap::new();
    for (name, entry) in file.entries() {
        let weights = file.weights(Target {
            kind: entry.kind,
            device: Device::Cpu,
        });
        tensors.insert(name.clone(), weights.take(name, &entry.shape)?);
    }
    Ok(tensors)
}

/// Writes tensors to a safetensors file beside `path` and renames it into place.
///
/// f32, f64, bf16, f16, the integer kinds, and true and false keep their kind; other kinds are an error.
pub fn write_tensors(path: &Path, tensors: &[(&str, &Tensor)]) -> Result<()> {
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        stored.push((*name, tensor.size(), raw_bytes(tensor)?));
    }
    let mut views = Vec::with_capacity(stored.len());
    for (name, size, (dtype, bytes)) in &stored {
        let shape = size.iter().map(|&axis| axis as usize).collect();
        let view = TensorView::new(*dtype, shape, bytes)
            .map_err(|error| ModelError::bad_file(path, error.to_string()))?;
        views.push((*name, view));
    }
    let temporary = path.with_extension("safetensors.tmp");
    safetensors::serialize_to_file(views, None, &temporary)
        .map_err(|error| ModelError::bad_file(&temporary, error.to_string()))?;
    std::fs::rename(&temporary, path).map_err(|error| ModelError::io(path, error))
}

/// A tensor as an f32 array in host memory.
pub fn to_host(tensor: &Tensor) -> Result<HostTensor> {
    let flat = tensor
        .f_to_device(Device::Cpu)?
        .f_to_kind(Kind::Float)?
        .f_contiguous()?;
    let mut data = vec![0.0_f32; flat.numel()];
    flat.f_copy_data(&mut data, flat.numel())?;
    let shape = tensor.size().iter().map(|&axis| axis as usize).collect();
    HostTensor::new(shape, data).map_err(|error| ModelError::input("tensor", error.to_string()))
}

/// An f32 array as a tensor on `device`.
pub fn from_host(array: &HostTensor, device: Device) -> Result<Tensor> {
    let shape: Vec<i64> = array.shape().iter().map(|&axis| axis as i64).collect();
    Ok(Tensor::f_from_slice(array.data())?
        .f_reshape(&shape)?
        .f_to_device(device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_survive_the_way_through_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("io.safetensors");
        let half = Tensor::from_slice(&[0.5_f32, -2.0, 3.0]).to_kind(Kind::BFloat16);
        let whole = Tensor::from_slice(&[1_i64, 2, 3, 4]).view([2, 2]);
        let flags = Tensor::from_slice(&[true, false, true]);
        let all = [("half", &half), ("whole", &whole), ("flags", &flags)];
        write_tensors(&path, &all).unwrap();
        let read = read_tensors(&path).unwrap();
        assert_eq!(read["half"].kind(), Kind::BFloat16);
        assert_eq!(read["half"], half);
        assert_eq!(read["whole"], whole);
        assert!(read["flags"].kind() == Kind::Bool && read["flags"].equal(&flags));
    }

    #[test]
    fn host_arrays_keep_order() {
        let tensor = Tensor::arange(6, (Kind::Float, Device::Cpu))
            .view([2, 3])
            .transpose(0, 1);
        let host = to_host(&tensor).unwrap();
        assert_eq!(host.shape(), [3, 2]);
        assert_eq!(host.data(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(from_host(&host, Device::Cpu).unwrap(), tensor);
    }
}
