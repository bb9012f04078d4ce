//! Where tokens stand (specification `flux`, 1.7, 1.8, 5.1 and 5.2).

use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::layers::{RotaryAxes, RotaryTable};
use storyloom_nn::shard::TokenShare;
use tch::{Device, Kind, Tensor};

use super::FluxConfig;

/// The places of tokens: which picture, row and column, counted in tokens. The reference calls them ids.
///
/// They are f64 throughout: half steps and fractions of pooled grids are real places, and bf16 would round whole
/// numbers from 257 on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FluxPositions(Vec<[f64; 3]>);

impl FluxPositions {
    /// Tokens at these places: picture, row and column of each.
    pub fn new(places: Vec<[f64; 3]>) -> Self {
        Self(places)
    }

    /// Rows of text: all stand at the origin.
    pub fn text(rows: i64) -> Self {
        Self(vec![[0.0; 3]; rows.unsigned_abs() as usize])
    }

    /// The tokens of a grid of rows and columns in picture `picture`, row by row: 0 is the one that is made, 1 the
    /// condition.
    pub fn grid(picture: f64, [rows, columns]: [i64; 2]) -> Self {
        Self::pooled(picture, [rows, columns], [rows, columns])
    }

    /// The same of the grid `full` pooled to `cells` rows and columns: every cell stands at its centre.
    pub fn pooled(picture: f64, full: [i64; 2], cells: [i64; 2]) -> Self {
        let centre = |axis: usize, cell: i64| {
            let stretch = full[axis] as f64 / cells[axis] as f64;
            (cell as f64 + 0.5) * stretch - 0.5
        };
        let rows = (0..cells[0]).map(|row| centre(0, row));
        let places =
            rows.flat_map(|row| (0..cells[1]).map(move |column| [picture, row, centre(1, column)]));
        Self(places.collect())
    }

    /// Level `level` of a memory of pictures, 1 being the newest: the picture of the condition has number 1, that of
    /// level k number `1 + k`.
    pub fn memory(level: i64, full: [i64; 2], cells: [i64; 2]) -> Self {
        Self::pooled((1 + level) as f64, full, cells)
    }

    /// Places from a tensor `[tokens, 3]`; of one with a batch axis, `[batch, tokens, 3]`, the first sample's.
    ///
    /// # Errors
    /// The tensor has another shape.
    pub fn of_tensor(name: &str, ids: &Tensor) -> Result<Self> {
        let size = ids.size();
        let ids = match *size.as_slice() {
            [_, 3] => ids.shallow_clone(),
            [batch, _, 3] if batch > 0 => ids.f_select(0, 0)?,
            _ => {
                let reason = format!("[tokens, 3] is needed, found {size:?}");
                return Err(ModelError::input(name, reason));
            }
        };
        let flat = ids.f_to_kind(Kind::Double)?.f_contiguous()?.f_view([-1])?;
        let flat = Vec::<f64>::try_from(flat.f_to_device(Device::Cpu)?)?;
        Ok(Self(flat.as_chunks().0.to_vec()))
    }

    /// These tokens, and `behind` after them.
    #[must_use]
    pub fn followed_by(mut self, behind: &Self) -> Self {
        self.0.extend_from_slice(&behind.0);
        self
    }

    /// One rank's run of these tokens; what fills it up stands at the origin.
    pub(super) fn share(&self, share: &TokenShare) -> Self {
        let own = share.first..share.first + share.length;
        let place = |token: i64| self.0.get(token as usize).copied().unwrap_or_default();
        Self(own.map(place).collect())
    }

    /// How many tokens.
    pub fn tokens(&self) -> i64 {
        self.0.len() as i64
    }

    /// Picture, row and column of each token.
    pub fn places(&self) -> &[[f64; 3]] {
        &self.0
    }

    /// The angles of the tokens in the heads of a model.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn rotary(&self, config: &FluxConfig, device: Device) -> Result<RotaryTable> {
        let places = Tensor::f_from_slice(self.0.as_flattened())?.f_view([1, self.tokens(), 3])?;
        RotaryAxes::of_channels(config.axes_dims_rope)?.table_at(&places, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::vectors::{assert_near, flux_vector, numbers};

    #[track_caller]
    fn are(name: &str, found: &FluxPositions) {
        let expected = numbers(&flux_vector("ids")[name]);
        assert_near(name, found.places().as_flattened(), &expected, 1e-12);
    }

    /// Specification `flux`, 1.8 and 5.2.
    #[test]
    fn pictures_stand_behind_each_other() {
        are("noisy", &FluxPositions::grid(0.0, [2, 3]));
        are("condition", &FluxPositions::grid(1.0, [2, 2]));
        are("level2", &FluxPositions::memory(2, [4, 4], [2, 2]));
        are("level3", &FluxPositions::memory(3, [4, 4], [1, 1]));
        assert_eq!(FluxPositions::text(2).places(), [[0.0; 3]; 2]);
        // The vector has eight digits.
        let level = FluxPositions::memory(2, [30, 53], [15, 26]);
        let (first, last) = (level.places()[0], level.places()[15 * 26 - 1]);
        let ends = numbers(&flux_vector("ids/level2_of_30x53_first_last"));
        assert_near("ends", [first, last].as_flattened(), &ends, 1e-6);
    }

    #[test]
    fn places_come_from_tensors_with_and_without_a_batch() {
        let grid = FluxPositions::grid(1.0, [2, 3]);
        let flat = Tensor::from_slice(grid.places().as_flattened()).view([6, 3]);
        let batch = Tensor::stack(&[&flat, &(&flat + 1.0)], 0);
        for ids in [flat, batch.to_kind(Kind::Float)] {
            assert_eq!(FluxPositions::of_tensor("img_ids", &ids).unwrap(), grid);
        }
        let error =
            FluxPositions::of_tensor("img_ids", &Tensor::zeros([6, 4], tch::kind::FLOAT_CPU));
        assert!(error.unwrap_err().to_string().contains("img_ids"));
        let all = FluxPositions::text(1).followed_by(&grid);
        assert_eq!((all.tokens(), all.places()[6]), (7, [1.0, 1.0, 2.0]));
    }

    /// A picture of 4096 pixels a side: every whole number is itself, which bf16 does not do.
    #[test]
    fn places_of_large_pictures_are_exact() {
        let grid = FluxPositions::grid(0.0, [1, 258]);
        let bf16 = Tensor::from_slice(&[257.0_f32]).to_kind(Kind::BFloat16);
        assert_ne!(bf16.double_value(&[0]), 257.0);
        assert_eq!(grid.places()[257], [0.0, 0.0, 257.0]);
    }
}
