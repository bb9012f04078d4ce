//! Tensors in host memory, which layers read and write themselves.

use tch::{Device, Kind, Tensor};

use crate::{gradients, stand_in};

/// Whether layers work on tensors of `device` with loops of their own, all in f32; not where
/// gradients are wanted.
pub fn is_host(device: Device) -> bool {
    device == Device::Cpu && !stand_in::is_gpu() && !gradients::are_wanted()
}

/// Whether the functions of this module take `tensor`.
pub fn on_host(tensor: &Tensor) -> bool {
    is_host(tensor.device()) && tensor.kind() == Kind::Float
}

/// The elements of a contiguous f32 tensor in host memory.
///
/// # Panics
/// The tensor is not such a one; see [`on_host`].
pub fn values(tensor: &Tensor) -> &[f32] {
    assert!(on_host(tensor) && tensor.is_contiguous());
    // SAFETY: the tensor is dense, of f32, in host memory, and lives as long as the slice. Layers
    // never write to a tensor while it is borrowed: `values_mut` wants it exclusively.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// The elements of a contiguous f32 tensor in host memory, for writing.
///
/// No other handle on the same storage may be in use: layers call this on tensors that they have
/// just made.
///
/// # Panics
/// The tensor is not such a one; see [`on_host`].
pub fn values_mut(tensor: &mut Tensor) -> &mut [f32] {
    assert!(on_host(tensor) && tensor.is_contiguous());
    // SAFETY: dense, of f32, in host memory, and alive as long as the slice; the caller made the
    // tensor and holds its only handle.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}
