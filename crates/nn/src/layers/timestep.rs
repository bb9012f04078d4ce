//! The sinusoidal embedding of diffusion timesteps.

use tch::{Device, Tensor};

use crate::error::Result;

/// `[timesteps, width]` in f32: `width / 2` cosines, then as many sines, of
/// `t * 10000^(-i / (width / 2))`. Angles are f64, as in the original Wan code.
pub fn timestep_sinusoid(timesteps: &[f64], width: i64, device: Device) -> Result<Tensor> {
    let half = width / 2;
    let mut values = Vec::with_capacity(timesteps.len() * width as usize);
    for &timestep in timesteps {
        let angle = |i: i64| timestep * 10_000_f64.powf(-(i as f64) / half as f64);
        values.extend((0..half).map(|i| angle(i).cos() as f32));
        values.extend((0..half).map(|i| angle(i).sin() as f32));
    }
    let rows = timesteps.len() as i64;
    Ok(Tensor::f_from_slice(&values)?
        .f_view([rows, 2 * half])?
        .f_to_device(device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Specification `wan22` 1.5.
    #[test]
    fn check_values() {
        let row = timestep_sinusoid(&[999.0], 256, Device::Cpu).unwrap();
        for (column, expected) in [
            (0, 0.999_649_85),
            (1, 0.963_782_49),
            (127, 0.994_243_16),
            (128, -0.026_460_75),
            (129, -0.266_689_58),
            (255, 0.107_147_24),
        ] {
            assert!((row.double_value(&[0, column]) - expected).abs() < 1e-6);
        }
    }
}
