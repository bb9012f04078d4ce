//! Kinds of numbers in safetensors files and in tensors.

use safetensors::Dtype;
use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, Result};

/// The libtorch kind of a safetensors dtype, where there is one.
pub fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::BOOL => Kind::Bool,
        Dtype::U8 => Kind::Uint8,
        Dtype::I8 => Kind::Int8,
        Dtype::I16 => Kind::Int16,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F8_E4M3 => Kind::Float8e4m3fn,
        Dtype::F8_E5M2 => Kind::Float8e5m2,
        _ => return None,
    })
}

/// Element type and bytes of a tensor in host memory, rows first.
///
/// # Errors
/// The kind has no place in a safetensors file.
pub fn raw_bytes(tensor: &Tensor) -> Result<(Dtype, Vec<u8>)> {
    let dtype = match tensor.f_kind()? {
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Half => Dtype::F16,
        Kind::Int64 => Dtype::I64,
        Kind::Int => Dtype::I32,
        Kind::Uint8 => Dtype::U8,
        Kind::Bool => Dtype::BOOL,
        other => {
            return Err(ModelError::input(
                "tensor to write",
                format!("kind {other:?}"),
            ));
        }
    };
    let flat = tensor.f_to_device(Device::Cpu)?.f_contiguous()?;
    let elements = flat.numel();
    let mut bytes = vec![0_u8; elements * flat.kind().elt_size_in_bytes()];
    flat.f_copy_data_u8(&mut bytes, elements)?;
    Ok((dtype, bytes))
}
