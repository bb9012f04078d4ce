//! Rotary position embedding over time, rows and columns (specification `wan22`, section 1.4).

use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, Result};

const THETA: f64 = 10_000.0;

/// How the complex pairs of a head are dealt out to the three axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotaryAxes {
    /// Channels (twice the pairs) of time, rows and columns.
    channels: [i64; 3],
}

impl RotaryAxes {
    /// Rows and columns get `2 * (dim / 6)` channels each, time the rest. `dim` is even.
    pub fn of_head(dim: i64) -> Self {
        let side = 2 * (dim / 6);
        Self {
            channels: [dim - 2 * side, side, side],
        }
    }

    /// Angles for every token, `[t * rows * columns, dim / 2]`, time slowest.
    ///
    /// `times` are the temporal positions of the latent frames, which may be negative.
    pub fn table(
        self,
        times: &[i64],
        rows: i64,
        columns: i64,
        device: Device,
    ) -> Result<RotaryTable> {
        let grid = [times.len() as i64, rows, columns];
        let positions = [times.to_vec(), (0..rows).collect(), (0..columns).collect()];
        // An axis has few positions: their angles are computed once, and dealt out to the tokens
        // where the table will lie.
        let spread = |axis: usize, of: fn(f64) -> f64| -> Result<Tensor> {
            let channels = self.channels[axis];
            let inverse = |pair: i64| THETA.powf(-2.0 * pair as f64 / channels as f64);
            let angles = |&position: &i64| {
                (0..channels / 2).map(move |pair| position as f64 * inverse(pair))
            };
            let angles = positions[axis].iter().flat_map(angles);
            let values: Vec<f32> = angles.map(|angle| of(angle) as f32).collect();
            let mut shape = [1, 1, 1, channels / 2];
            shape[axis] = grid[axis];
            let values = Tensor::f_from_slice(&values)?.f_to_device(device)?;
            let [frames, rows, columns] = grid;
            Ok(values
                .f_view(shape)?
                .f_expand([frames, rows, columns, channels / 2], false)?)
        };
        let half = self.channels.iter().sum::<i64>() / 2;
        let table = |of: fn(f64) -> f64| -> Result<Tensor> {
            let axes = [spread(0, of)?, spread(1, of)?, spread(2, of)?];
            Ok(Tensor::f_cat(&axes, -1)?.f_view([grid.iter().product(), half])?)
        };
        Ok(RotaryTable {
            cos: table(f64::cos)?,
            sin: table(f64::sin)?,
        })
    }
}

/// Cosines and sines of every token, f32 `[tokens, dim / 2]`.
#[derive(Debug)]
pub struct RotaryTable {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl RotaryTable {
    /// Rotates adjacent channel pairs of `[batch, heads, tokens, dim]`.
    pub fn rotate(&self, input: &Tensor) -> Result<Tensor> {
        let (batch, heads, tokens, dim) = input.size4()?;
        self.check(tokens, dim)?;
        // Pairs as complex numbers: one product, and one more where gradients flow back.
        let pairs = input
            .f_to_kind(Kind::Float)?
            .f_reshape([batch, heads, tokens, dim / 2, 2])?;
        let turns = Tensor::f_complex(&self.cos, &self.sin)?;
        let turned = pairs.f_view_as_complex()?.f_mul(&turns)?;
        Ok(turned
            .f_view_as_real()?
            .f_reshape([batch, heads, tokens, dim])?)
    }

    /// Refuses a table that is not for `tokens` tokens of heads of `dim`.
    pub(super) fn check(&self, tokens: i64, dim: i64) -> Result<()> {
        if self.cos.size() == [tokens, dim / 2] {
            return Ok(());
        }
        let reason = format!("{tokens} tokens of {dim}, table {:?}", self.cos.size());
        Err(ModelError::input("rotary table", reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_of_the_known_heads() {
        assert_eq!(RotaryAxes::of_head(128).channels, [44, 42, 42]);
        assert_eq!(RotaryAxes::of_head(24).channels, [8, 8, 8]);
        assert_eq!(RotaryAxes::of_head(16).channels, [8, 4, 4]);
    }

    /// StoryMem specification, section 10 item 6.
    #[test]
    fn rotation_at_a_negative_position() {
        let table = RotaryAxes::of_head(128)
            .table(&[-15], 1, 1, Device::Cpu)
            .unwrap();
        for (pair, cos, sin) in [(0, -0.759_688, -0.650_288), (1, -0.902_946, 0.429_754)] {
            assert!((table.cos.double_value(&[0, pair]) - cos).abs() < 1e-6);
            assert!((table.sin.double_value(&[0, pair]) - sin).abs() < 1e-6);
        }
    }

    #[test]
    fn every_token_has_the_angles_of_its_three_positions() {
        let (times, axes) = ([-7, 0, 3], RotaryAxes::of_head(24));
        let table = axes.table(&times, 2, 5, Device::Cpu).unwrap();
        assert_eq!(table.cos.size(), [30, 12]);
        for (frame, row, column) in [(0, 1, 4), (1, 0, 3), (2, 1, 0)] {
            let token = (frame as i64 * 2 + row) * 5 + column;
            for pair in 0..12 {
                let position = [times[frame], row, column][pair as usize / 4] as f64;
                let angle = position * THETA.powf(-2.0 * (pair % 4) as f64 / 8.0);
                assert_eq!(
                    table.cos.double_value(&[token, pair]),
                    f64::from(angle.cos() as f32)
                );
                assert_eq!(
                    table.sin.double_value(&[token, pair]),
                    f64::from(angle.sin() as f32)
                );
            }
        }
    }

    /// Rotary attention scores depend on differences of positions only.
    #[test]
    fn shifted_positions_give_equal_scores() {
        let axes = RotaryAxes::of_head(24);
        let tensor = |phase: f64| {
            (Tensor::arange(6 * 24, (Kind::Float, Device::Cpu)) * 0.37 + phase)
                .sin()
                .view([1, 1, 6, 24])
        };
        let scores = |times: &[i64]| {
            let table = axes.table(times, 1, 2, Device::Cpu).unwrap();
            let query = table.rotate(&tensor(0.0)).unwrap().view([6, 24]);
            let key = table.rotate(&tensor(1.0)).unwrap().view([6, 24]);
            query.matmul(&key.transpose(0, 1))
        };
        assert!(scores(&[-3, -2, -1]).allclose(&scores(&[0, 1, 2]), 1e-5, 1e-5, false));
        assert!(!scores(&[-5, 0, 1]).allclose(&scores(&[0, 1, 2]), 1e-3, 1e-3, false));
    }
}
