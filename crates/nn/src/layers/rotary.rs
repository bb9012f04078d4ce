//! Rotary position embedding over time, or the number of a picture, rows and columns (specifications `wan22`,
//! section 1.4, and `flux`, 1.7).

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

    /// As many channels for each axis as `channels` says, all of them even and not negative.
    ///
    /// # Errors
    /// A number of channels is odd or negative.
    pub fn of_channels(channels: [i64; 3]) -> Result<Self> {
        match channels.iter().all(|&axis| axis >= 0 && axis % 2 == 0) {
            true => Ok(Self { channels }),
            false => {
                let reason = format!("{channels:?} are not three even numbers");
                Err(ModelError::input("channels of rotary axes", reason))
            }
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
            let inverse = inverse_frequencies(channels);
            let angles = positions[axis].iter().flat_map(|&position| {
                let of_pairs = inverse.iter();
                of_pairs.map(move |inverse| position as f64 * inverse)
            });
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

    /// Angles of tokens anywhere: `positions` are their places in time, rows and columns, `[1, n, 3]` for all
    /// samples, or `[batch, n, 3]`. They may be negative and fractional.
    ///
    /// # Errors
    /// `positions` have another shape, or libtorch refuses.
    pub fn table_at(self, positions: &Tensor, device: Device) -> Result<RotaryTable> {
        let size = positions.size();
        let &[batch, tokens, 3] = size.as_slice() else {
            let reason = format!("[batch, tokens, 3] is needed, found {size:?}");
            return Err(ModelError::input("positions of tokens", reason));
        };
        let positions = positions
            .f_to_kind(Kind::Double)?
            .f_to_device(Device::Cpu)?;
        let positions: Vec<f64> = Vec::try_from(positions.f_flatten(0, -1)?)?;
        let half = self.channels.iter().sum::<i64>() / 2;
        let shape = match batch {
            1 => vec![tokens, half],
            _ => vec![batch, tokens, half],
        };
        let inverse = self.channels.map(inverse_frequencies);
        let angles = positions.as_chunks::<3>().0.iter().flat_map(|place| {
            let axes = place.iter().zip(&inverse);
            axes.flat_map(|(&position, inverse)| inverse.iter().map(move |of| position * of))
        });
        let angles: Vec<f64> = angles.collect();
        let table = |of: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f32> = angles.iter().map(|&angle| of(angle) as f32).collect();
            let values = Tensor::f_from_slice(&values)?.f_view(shape.as_slice())?;
            Ok(values.f_to_device(device)?)
        };
        Ok(RotaryTable {
            cos: table(f64::cos)?,
            sin: table(f64::sin)?,
        })
    }
}

/// By what the position on an axis of `channels` channels turns each of its pairs.
fn inverse_frequencies(channels: i64) -> Vec<f64> {
    let of = |pair: i64| THETA.powf(-2.0 * pair as f64 / channels as f64);
    (0..channels / 2).map(of).collect()
}

/// Cosines and sines of every token, f32 `[tokens, dim / 2]`; `[batch, tokens, dim / 2]` where the samples of a
/// batch differ in where their tokens stand.
#[derive(Debug)]
pub struct RotaryTable {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl RotaryTable {
    /// The tokens of this table, and those of `behind` after them.
    ///
    /// # Errors
    /// They are tables of different heads or batches.
    pub fn followed_by(&self, behind: &Self) -> Result<Self> {
        let batch = [self, behind].into_iter().find_map(Self::batch);
        let join = |first: &Tensor, second: &Tensor| -> Result<Tensor> {
            let Some(batch) = batch else {
                return Ok(Tensor::f_cat(&[first, second], 0)?);
            };
            let spread = |table: &Tensor| -> Result<Tensor> {
                let (tokens, half) = match *table.size().as_slice() {
                    [tokens, half] | [_, tokens, half] => (tokens, half),
                    _ => return Ok(table.shallow_clone()),
                };
                Ok(table.f_expand([batch, tokens, half], false)?)
            };
            Ok(Tensor::f_cat(&[spread(first)?, spread(second)?], 1)?)
        };
        Ok(Self {
            cos: join(&self.cos, &behind.cos)?,
            sin: join(&self.sin, &behind.sin)?,
        })
    }

    /// How many samples it tells apart; `None` where it is the same for all.
    pub fn batch(&self) -> Option<i64> {
        match *self.cos.size().as_slice() {
            [batch, _, _] => Some(batch),
            _ => None,
        }
    }

    /// Rotates adjacent channel pairs of `[batch, heads, tokens, dim]`.
    pub fn rotate(&self, input: &Tensor) -> Result<Tensor> {
        let (batch, heads, tokens, dim) = input.size4()?;
        self.check(batch, tokens, dim)?;
        // Pairs as complex numbers: one product, and one more where gradients flow back.
        let pairs = input
            .f_to_kind(Kind::Float)?
            .f_reshape([batch, heads, tokens, dim / 2, 2])?;
        let mut turns = Tensor::f_complex(&self.cos, &self.sin)?;
        if self.batch().is_some() {
            turns = turns.f_unsqueeze(1)?;
        }
        let turned = pairs.f_view_as_complex()?.f_mul(&turns)?;
        Ok(turned
            .f_view_as_real()?
            .f_reshape([batch, heads, tokens, dim])?)
    }

    /// The rows of `count` tokens from `first` on, of a table that all samples share.
    pub(super) fn run(&self, first: i64, count: i64) -> Result<Self> {
        Ok(Self {
            cos: self.cos.f_narrow(0, first, count)?,
            sin: self.sin.f_narrow(0, first, count)?,
        })
    }

    /// Refuses a table that is not for `tokens` tokens of heads of `dim` in `batch` samples.
    pub(super) fn check(&self, batch: i64, tokens: i64, dim: i64) -> Result<()> {
        let size = self.cos.size();
        if size == [tokens, dim / 2] || size == [batch, tokens, dim / 2] {
            return Ok(());
        }
        let reason = format!("{batch} samples of {tokens} tokens of {dim}, table {size:?}");
        Err(ModelError::input("rotary table", reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::vectors::{assert_begins, flux_vector, integers, numbers, wave};

    /// Specification `flux`, 1.7: fractional and negative places, heads of 16 + 56 + 56 channels.
    #[test]
    fn tables_of_given_axes_are_those_of_the_vectors() {
        let axes = RotaryAxes::of_channels([16, 56, 56]).unwrap();
        let vector = flux_vector("rope_table");
        let places = Tensor::from_slice(&numbers(&vector["ids"])).view([1, -1, 3]);
        let table = axes.table_at(&places, Device::Cpu).unwrap();
        let columns = Tensor::from_slice(&integers(&vector["columns"]));
        for (name, found) in [("cos", &table.cos), ("sin", &table.sin)] {
            let found = found.index_select(1, &columns);
            assert_begins(name, &found, &vector[name], 1e-7);
        }
        assert!(RotaryAxes::of_channels([16, 55, 56]).is_err());
        assert!(RotaryAxes::of_channels([-2, 56, 56]).is_err());
    }

    /// Specification `flux`, 1.7: neighbours are a pair, and not channels half a head apart.
    #[test]
    fn neighbours_are_rotated_together() {
        let vector = flux_vector("rope_apply");
        let axes = RotaryAxes::of_channels([4, 6, 6]).unwrap();
        let place = Tensor::from_slice(&[1.0, 3.0, 5.0]).view([1, 1, 3]);
        let table = axes.table_at(&place, Device::Cpu).unwrap();
        let head = wave(0.7, 0.3, &[1, 1, 1, 16]);
        let found = table.rotate(&head).unwrap();
        assert_begins("rotated", &found, &vector["output"], 1e-6);
        let half = numbers(&vector["half_split"]);
        assert!((found.double_value(&[0, 0, 0, 0]) - half[0]).abs() > 0.1);
    }

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

    /// Tokens of a grid and the same tokens one by one, in a table of all samples and in one of each.
    #[test]
    fn tokens_anywhere_have_the_angles_of_the_grid() {
        let axes = RotaryAxes::of_head(24);
        let grid = axes.table(&[-7, 3], 2, 3, Device::Cpu).unwrap();
        let mut places = Vec::new();
        for time in [-7.0, 3.0] {
            for row in [0.0, 1.0] {
                places.extend([0.0, 1.0, 2.0].map(|column| [time, row, column]));
            }
        }
        let places = Tensor::from_slice(places.as_flattened()).view([1, 12, 3]);
        let single = axes.table_at(&places, Device::Cpu).unwrap();
        assert_eq!(single.batch(), None);
        assert_eq!((&single.cos, &single.sin), (&grid.cos, &grid.sin));
        let moved = Tensor::cat(&[&places, &(&places + 0.5)], 0);
        let each = axes.table_at(&moved, Device::Cpu).unwrap();
        assert_eq!(each.batch(), Some(2));
        let input = Tensor::arange(2 * 4 * 12 * 24, (Kind::Float, Device::Cpu)).cos();
        let input = input.view([2, 4, 12, 24]);
        let (shared, own) = (grid.rotate(&input).unwrap(), each.rotate(&input).unwrap());
        assert_eq!(shared.get(0), own.get(0));
        assert!(!shared.get(1).allclose(&own.get(1), 1e-3, 1e-3, false));
        let half = RotaryTable {
            cos: each.cos.select(0, 1),
            sin: each.sin.select(0, 1),
        };
        let rotated = half.rotate(&input.narrow(0, 1, 1)).unwrap();
        assert_eq!(rotated.get(0), own.get(1));
        let joined = grid.followed_by(&each).unwrap();
        assert_eq!(joined.cos.size(), [2, 24, 12]);
        assert_eq!(joined.cos.narrow(1, 12, 12), each.cos);
        let joined = grid.followed_by(&single).unwrap();
        assert_eq!((joined.batch(), joined.sin.size()), (None, vec![24, 12]));
        assert!(each.rotate(&input.narrow(0, 0, 1)).is_err());
        assert!(axes.table_at(&places.view([12, 3]), Device::Cpu).is_err());
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
