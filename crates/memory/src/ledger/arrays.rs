//! Arrays as safetensors bytes.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use storyloom_story::{HostTensor, MemoryFrame, RgbImage};

use crate::error::{MemoryError, Result};

/// The name of the latents among the arrays of a [memory item](crate::MemoryItem).
pub const LATENTS: &str = MemoryFrame::LATENTS;
/// The name of the embedding among them, by which it is compared with others.
pub const EMBEDDING: &str = "embedding";

const NAME: &str = "value";

/// An f32 array as a safetensors file with the one tensor `value`.
pub fn encode_array(array: &HostTensor) -> Result<Vec<u8>> {
    let bytes: Vec<u8> = array
        .data()
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    serialise(Dtype::F32, array.shape().to_vec(), &bytes)
}

/// The inverse of [`encode_array`]; `path` is for messages.
pub fn decode_array(path: &Path, bytes: &[u8]) -> Result<HostTensor> {
    let (shape, data) = deserialise(path, bytes, Dtype::F32)?;
    let values = data
        .as_chunks::<4>()
        .0
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect();
    HostTensor::new(shape, values).map_err(|error| MemoryError::damaged(path, error.to_string()))
}

/// Named f32 arrays as a safetensors file.
pub fn encode_arrays(arrays: &BTreeMap<String, HostTensor>) -> Result<Vec<u8>> {
    let failed = |error: safetensors::SafeTensorError| {
        MemoryError::damaged("arrays to store", error.to_string())
    };
    let little_endian = |array: &HostTensor| -> Vec<u8> {
        let values = array.data().iter();
        values.flat_map(|value| value.to_le_bytes()).collect()
    };
    let bytes: Vec<Vec<u8>> = arrays.values().map(little_endian).collect();
    let mut views = Vec::with_capacity(arrays.len());
    for ((name, array), bytes) in arrays.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, array.shape().to_vec(), bytes).map_err(failed)?;
        views.push((name.as_str(), view));
    }
    safetensors::serialize(views, None).map_err(failed)
}

/// The inverse of [`encode_arrays`]; `path` is for messages.
pub fn decode_arrays(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, HostTensor>> {
    let failed =
        |error: safetensors::SafeTensorError| MemoryError::damaged(path, error.to_string());
    let file = SafeTensors::deserialize(bytes).map_err(failed)?;
    let mut arrays = BTreeMap::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            let reason = format!("the values of {name} are {:?}", view.dtype());
            return Err(MemoryError::damaged(path, reason));
        }
        let words = view.data().as_chunks::<4>().0.iter();
        let values = words.map(|word| f32::from_le_bytes(*word)).collect();
        let array = HostTensor::new(view.shape().to_vec(), values)
            .map_err(|error| MemoryError::damaged(path, error.to_string()))?;
        arrays.insert(name, array);
    }
    Ok(arrays)
}

/// Frames of equal size as one u8 tensor `[frames, height, width, 3]`.
pub fn encode_frames(frames: &[RgbImage]) -> Result<Vec<u8>> {
    let (height, width) = frames
        .first()
        .map_or((0, 0), |frame| (frame.height(), frame.width()));
    let shape = vec![frames.len(), height as usize, width as usize, 3];
    let bytes: Vec<u8> = frames
        .iter()
        .flat_map(|frame| frame.data())
        .copied()
        .collect();
    serialise(Dtype::U8, shape, &bytes)
}

/// The inverse of [`encode_frames`]; `path` is for messages.
pub fn decode_frames(path: &Path, bytes: &[u8]) -> Result<Vec<RgbImage>> {
    let (shape, data) = deserialise(path, bytes, Dtype::U8)?;
    let &[frames, height, width, 3] = shape.as_slice() else {
        return Err(MemoryError::damaged(
            path,
            format!("frames of shape {shape:?}"),
        ));
    };
    let size = height * width * 3;
    let frame = |index: usize| {
        RgbImage::new(
            width as u32,
            height as u32,
            data[index * size..][..size].to_vec(),
        )
        .map_err(|error| MemoryError::damaged(path, error.to_string()))
    };
    (0..frames).map(frame).collect()
}

fn serialise(dtype: Dtype, shape: Vec<usize>, bytes: &[u8]) -> Result<Vec<u8>> {
    let failed = |error: safetensors::SafeTensorError| {
        MemoryError::damaged("an array to store", error.to_string())
    };
    let view = TensorView::new(dtype, shape, bytes).map_err(failed)?;
    safetensors::serialize([(NAME, view)], None).map_err(failed)
}

fn deserialise<'a>(path: &Path, bytes: &'a [u8], dtype: Dtype) -> Result<(Vec<usize>, &'a [u8])> {
    let failed =
        |error: safetensors::SafeTensorError| MemoryError::damaged(path, error.to_string());
    let file = SafeTensors::deserialize(bytes).map_err(failed)?;
    let view = file.tensor(NAME).map_err(failed)?;
    if view.dtype() != dtype {
        return Err(MemoryError::damaged(
            path,
            format!("values are {:?}", view.dtype()),
        ));
    }
    Ok((view.shape().to_vec(), view.data()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arrays_come_back_bit_for_bit(values in prop::collection::vec(any::<f32>(), 0..40)) {
            let array = HostTensor::new(vec![values.len()], values).unwrap();
            let bytes = encode_array(&array).unwrap();
            let back = decode_array(Path::new("x"), &bytes).unwrap();
            let bits = |array: &HostTensor| array.data().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&back), bits(&array));
        }

        #[test]
        fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode_array(Path::new("x"), &bytes).is_err());
            prop_assert!(decode_frames(Path::new("x"), &bytes).is_err());
        }
    }

    #[test]
    fn frames_come_back() {
        let frame = |value| RgbImage::new(2, 1, vec![value; 6]).unwrap();
        let frames = vec![frame(1), frame(200)];
        let bytes = encode_frames(&frames).unwrap();
        assert_eq!(decode_frames(Path::new("x"), &bytes).unwrap(), frames);
    }

    /// Blobs are named by their bytes, so the same values have to give the same bytes for ever.
    #[test]
    fn encodings_of_earlier_builds_stay() {
        let array = HostTensor::new(vec![2, 3], vec![0.0, -1.5, 2.25, 1e-7, 1e7, -0.0]).unwrap();
        let names = ["sample", "estimate.0", "corrected"];
        let arrays = names.map(|name| (name.to_owned(), array.clone())).into();
        let frame = RgbImage::new(2, 1, vec![1, 2, 3, 250, 251, 252]).unwrap();
        let encoded = [
            encode_array(&array).unwrap(),
            encode_arrays(&arrays).unwrap(),
            encode_frames(&[frame.clone(), frame]).unwrap(),
        ];
        let digests = encoded.map(|bytes| blake3::hash(&bytes).to_hex().to_string());
        assert_eq!(
            digests,
            [
                "29df0d9ce695cb45bc5c71ecb967e6c973a8ee58b00c18cedd022a23b768c207",
                "d6e854ccf76d2507232ca731edf875e49b37564467ccdaeb2f27d52a9555190f",
                "4f80104e094f1bf2b28475a1aece482426d1b71b7d2e7fcc27092a3e56180ec1"
            ]
        );
    }
}
