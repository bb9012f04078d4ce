//! The sinusoidal embedding of diffusion timesteps.

use tch::{Device, Kind, Tensor};

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

/// As [`timestep_sinusoid`] with frequencies and angles in f32, as diffusers computes them
/// (`get_timestep_embedding` without a shift of the frequencies, cosines first): at timestep 1000 single values
/// differ by up to 4e-5 from those of f64 angles.
///
/// libtorch computes them on the CPU, so that every device gets the same values.
pub fn timestep_sinusoid_f32(timesteps: &[f32], width: i64, device: Device) -> Result<Tensor> {
    let half = width / 2;
    let exponents = Tensor::f_arange(half, (Kind::Float, Device::Cpu))?
        .f_mul_scalar(-(10_000_f64.ln()))?
        .f_div_scalar(half)?;
    let angles = Tensor::f_from_slice(timesteps)?
        .f_unsqueeze(1)?
        .f_mul(&exponents.f_exp()?.f_unsqueeze(0)?)?;
    Ok(Tensor::f_cat(&[angles.f_cos()?, angles.f_sin()?], 1)?.f_to_device(device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::vectors::{assert_near, flux_vector, integers, numbers};

    /// Specification `flux`, 1.3, and what f64 angles differ by.
    #[test]
    fn angles_in_f32_are_those_of_diffusers() {
        let vector = flux_vector("timestep_embedding");
        let columns = integers(&vector["columns"]);
        for (time, row) in vector["rows"].as_object().unwrap() {
            let value: f64 = time.parse().unwrap();
            let found = timestep_sinusoid_f32(&[value as f32], 256, Device::Cpu).unwrap();
            let at = |table: &Tensor| -> Vec<f64> {
                let columns = columns.iter();
                columns
                    .map(|&column| table.double_value(&[0, column]))
                    .collect()
            };
            assert_near(time, &at(&found), &numbers(&row["values"]), 1e-6);
            let exact = timestep_sinusoid(&[value], 256, Device::Cpu).unwrap();
            let difference = (found - exact).abs().max().double_value(&[]);
            let expected = row["largest_difference_to_f64_angles"].as_f64().unwrap();
            assert!(
                (difference / expected - 1.0).abs() < 0.2,
                "{time}: {difference}"
            );
        }
    }

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
