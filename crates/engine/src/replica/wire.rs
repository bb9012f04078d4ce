//! Messages between ranks: a header and tensors, as the bytes of a safetensors file.

use std::collections::{BTreeMap, HashMap};

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Serialize;
use serde::de::DeserializeOwned;
use storyloom_story::{HostTensor, RgbImage};
use tch::{Device, Kind, Tensor};

use storyloom_nn::dtype::{kind_of, raw_bytes};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::tensor_file::{from_host, to_host};

const HEADER: &str = "header";

/// Tensors of a message by name.
pub type Tensors = BTreeMap<String, Tensor>;

fn wrong(error: impl std::fmt::Display) -> ModelError {
    ModelError::input("message between ranks", error.to_string())
}

/// Packs a header and tensors; these are copied to the host.
pub(crate) fn pack<H: Serialize>(header: &H, tensors: &Tensors) -> Result<Vec<u8>> {
    let header = serde_json::to_string(header).map_err(wrong)?;
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        stored.push((name, tensor.size(), raw_bytes(tensor)?));
    }
    let mut views = Vec::with_capacity(stored.len());
    for (name, size, (dtype, bytes)) in &stored {
        let shape = size.iter().map(|&axis| axis as usize).collect();
        views.push((*name, TensorView::new(*dtype, shape, bytes).map_err(wrong)?));
    }
    let header = HashMap::from([(HEADER.to_owned(), header)]);
    safetensors::serialize(views, Some(header)).map_err(wrong)
}

/// The inverse of [`pack`]; tensors lie on `device`.
pub(crate) fn unpack<H: DeserializeOwned>(bytes: &[u8], device: Device) -> Result<(H, Tensors)> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
    let header = metadata.metadata().as_ref().and_then(|map| map.get(HEADER));
    let header = header.ok_or_else(|| wrong("no header"))?;
    let header = serde_json::from_str(header).map_err(wrong)?;
    let mut tensors = Tensors::new();
    for (name, view) in SafeTensors::deserialize(bytes).map_err(wrong)?.iter() {
        let kind = kind_of(view.dtype()).ok_or_else(|| wrong("an unknown element type"))?;
        let shape: Vec<i64> = view.shape().iter().map(|&axis| axis as i64).collect();
        let tensor = if view.data().is_empty() {
            Tensor::f_empty(&shape, (kind, Device::Cpu))?
        } else {
            Tensor::f_from_data_size(view.data(), &shape, kind)?
        };
        tensors.insert(name.to_owned(), tensor.f_to_device(device)?);
    }
    Ok((header, tensors))
}

/// Takes a tensor that must be there.
pub(crate) fn take(tensors: &mut Tensors, name: &str) -> Result<Tensor> {
    tensors
        .remove(name)
        .ok_or_else(|| wrong(format!("no tensor {name}")))
}

/// A picture as u8 `[height, width, 3]`.
pub(crate) fn picture_tensor(picture: &RgbImage) -> Result<Tensor> {
    let size = [i64::from(picture.height()), i64::from(picture.width()), 3];
    Ok(Tensor::f_from_data_size(
        picture.data(),
        &size,
        Kind::Uint8,
    )?)
}

/// The inverse of [`picture_tensor`].
pub(crate) fn tensor_picture(tensor: &Tensor) -> Result<RgbImage> {
    let (height, width, _) = tensor.size3()?;
    let (_, bytes) = raw_bytes(tensor)?;
    RgbImage::new(width as u32, height as u32, bytes).map_err(wrong)
}

/// An array as a tensor in host memory.
pub(crate) fn array_tensor(array: &HostTensor) -> Result<Tensor> {
    from_host(array, Device::Cpu)
}

/// The inverse of [`array_tensor`].
pub(crate) fn tensor_array(tensor: &Tensor) -> Result<HostTensor> {
    to_host(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::cosines;

    #[test]
    fn messages_survive_the_way() {
        let half = cosines(&[3, 2], 0.1).to_kind(Kind::BFloat16);
        let picture = RgbImage::new(2, 3, (0..18).collect()).unwrap();
        let tensors = Tensors::from([
            ("half".to_owned(), half.shallow_clone()),
            (
                "none".to_owned(),
                Tensor::zeros([0, 4], (Kind::Float, Device::Cpu)),
            ),
            ("picture".to_owned(), picture_tensor(&picture).unwrap()),
        ]);
        let bytes = pack(&("name", 7), &tensors).unwrap();
        let (header, mut found): ((String, u32), _) = unpack(&bytes, Device::Cpu).unwrap();
        assert_eq!(header, ("name".to_owned(), 7));
        assert_eq!(take(&mut found, "half").unwrap(), half);
        assert_eq!(take(&mut found, "none").unwrap().size(), [0, 4]);
        let back = tensor_picture(&take(&mut found, "picture").unwrap()).unwrap();
        assert_eq!(back, picture);
        assert!(take(&mut found, "picture").is_err());
        assert!(unpack::<u32>(&bytes, Device::Cpu).is_err());
        assert!(unpack::<u32>(&bytes[..9], Device::Cpu).is_err());
    }
}
