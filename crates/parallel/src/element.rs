//! What buffers hold and how it is reduced.

use bytemuck::Pod;
use half::bf16;

/// Type of a buffer's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Dtype {
    /// IEEE single precision.
    F32 = 0,
    /// The upper half of a single; sums are taken in f32 and rounded once.
    Bf16 = 1,
    /// Signed integers of 64 bits.
    I64 = 2,
    /// Plain bytes, which are moved and never reduced.
    Bytes = 3,
}

impl Dtype {
    /// Size of an element in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::I64 => 8,
            Self::Bytes => 1,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::I64 => "i64",
            Self::Bytes => "bytes",
        }
    }
}

/// How the elements of all ranks become one. The order is that of the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reduction {
    /// Their sum; integers wrap.
    Sum = 0,
    /// The largest.
    Max = 1,
    /// The smallest.
    Min = 2,
}

/// An element that can be reduced.
pub trait Element: Pod + Send + Sync + sealed::Sealed {
    /// Its type.
    const DTYPE: Dtype;

    /// Reduces `parts`, one slice per rank and of equal lengths, into `output`.
    fn reduce(parts: &[&[Self]], reduction: Reduction, output: &mut [Self]);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for i64 {}
}

fn fold<T: Copy>(parts: &[&[T]], output: &mut [T], combine: impl Fn(T, T) -> T) {
    let Some((first, rest)) = parts.split_first() else {
        return;
    };
    output.copy_from_slice(first);
    for part in rest {
        for (sum, &value) in output.iter_mut().zip(*part) {
            *sum = combine(*sum, value);
        }
    }
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;

    fn reduce(parts: &[&[Self]], reduction: Reduction, output: &mut [Self]) {
        match reduction {
            Reduction::Sum => fold(parts, output, |a, b| a + b),
            Reduction::Max => fold(parts, output, f32::max),
            Reduction::Min => fold(parts, output, f32::min),
        }
    }
}

impl Element for i64 {
    const DTYPE: Dtype = Dtype::I64;

    fn reduce(parts: &[&[Self]], reduction: Reduction, output: &mut [Self]) {
        match reduction {
            Reduction::Sum => fold(parts, output, i64::wrapping_add),
            Reduction::Max => fold(parts, output, i64::max),
            Reduction::Min => fold(parts, output, i64::min),
        }
    }
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;

    fn reduce(parts: &[&[Self]], reduction: Reduction, output: &mut [Self]) {
        for (place, output) in output.iter_mut().enumerate() {
            let values = parts.iter().map(|part| part[place].to_f32());
            let reduced = match reduction {
                Reduction::Sum => values.reduce(|a, b| a + b),
                Reduction::Max => values.reduce(f32::max),
                Reduction::Min => values.reduce(f32::min),
            };
            *output = bf16::from_f32(reduced.unwrap_or_default());
        }
    }
}

/// As [`Element::reduce`] on bytes of `dtype`; bytes themselves are left as they are.
pub(crate) fn reduce_bytes(dtype: Dtype, parts: &[&[u8]], reduction: Reduction, output: &mut [u8]) {
    match dtype {
        Dtype::F32 => reduce_as::<f32>(parts, reduction, output),
        Dtype::Bf16 => reduce_as::<bf16>(parts, reduction, output),
        Dtype::I64 => reduce_as::<i64>(parts, reduction, output),
        Dtype::Bytes => {}
    }
}

fn reduce_as<T: Element>(parts: &[&[u8]], reduction: Reduction, output: &mut [u8]) {
    // Buffers come from the allocator, which aligns them; what does not is copied.
    let copies: Vec<Vec<T>> = parts
        .iter()
        .filter(|part| bytemuck::try_cast_slice::<u8, T>(part).is_err())
        .map(|part| bytemuck::allocation::pod_collect_to_vec(part))
        .collect();
    let mut copies = copies.iter();
    let parts: Vec<&[T]> = parts
        .iter()
        .map(|part| match bytemuck::try_cast_slice(part) {
            Ok(elements) => elements,
            Err(_) => copies.next().map_or(&[][..], Vec::as_slice),
        })
        .collect();
    match bytemuck::try_cast_slice_mut(output) {
        Ok(output) => T::reduce(&parts, reduction, output),
        Err(_) => {
            let mut reduced: Vec<T> = bytemuck::allocation::pod_collect_to_vec(output);
            T::reduce(&parts, reduction, &mut reduced);
            output.copy_from_slice(bytemuck::cast_slice(&reduced));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::useless_vec, reason = "an array may lie anywhere")]
    fn unaligned_bytes_reduce_alike() {
        let values = [1.5_f32, -2.0, 7.0];
        let mut shifted = vec![0_u8; 13];
        shifted[1..].copy_from_slice(bytemuck::cast_slice(&values));
        let mut output = vec![0_u8; 13];
        let parts = [&shifted[1..], bytemuck::cast_slice(&values)];
        reduce_bytes(Dtype::F32, &parts, Reduction::Sum, &mut output[1..]);
        let sums: Vec<f32> = bytemuck::allocation::pod_collect_to_vec(&output[1..]);
        assert_eq!(sums, [3.0, -4.0, 14.0]);
    }

    #[test]
    fn sums_of_bf16_are_rounded_once() {
        let small = bf16::from_f32(1.0 / 256.0);
        let one = bf16::ONE;
        // Rounded after every addition, one would swallow both.
        let mut output = [bf16::ZERO];
        bf16::reduce(&[&[one], &[small], &[small]], Reduction::Sum, &mut output);
        assert_eq!(output[0].to_f32(), 1.0 + 1.0 / 128.0);
    }
}
