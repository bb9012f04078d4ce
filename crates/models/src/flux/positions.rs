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
        let places = (0..rows).flat_map(|row| {
            let row = row as f64;
            (0..columns).map(move |column| [picture, row, column as f64])
        });
        Self(places.collect())
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
    use storyloom_story::narrative_weaver::{BankSettings, TokenGrid};

    #[track_caller]
    fn are(name: &str, found: &FluxPositions) {
        let expected = numbers(&flux_vector("ids")[name]);
        assert_near(name, found.places().as_flattened(), &expected, 1e-12);
    }

    /// The levels of a memory of pictures of this grid, the newest first.
    fn levels(frames: u32, grid: TokenGrid) -> Vec<FluxPositions> {
        let memory = BankSettings {
            lambda: 4.0,
            frames,
        };
        let levels = memory.levels(grid).unwrap();
        let ids = levels.all().iter().map(|level| levels.ids(*level));
        ids.map(FluxPositions::new).collect()
    }

    /// Specification `flux`, 1.8 and 5.2.
    #[test]
    fn pictures_stand_behind_each_other() {
        are("noisy", &FluxPositions::grid(0.0, [2, 3]));
        are("condition", &FluxPositions::grid(1.0, [2, 2]));
        let [newest, second, third] = &levels(3, [4, 4])[..] else {
            panic!("three levels are needed");
        };
        assert_eq!(newest, &FluxPositions::grid(2.0, [4, 4]));
        are("level2", second);
        are("level3", third);
        assert_eq!(FluxPositions::text(2).places(), [[0.0; 3]; 2]);
        // The vector has eight digits.
        let uneven = levels(2, [30, 53]).remove(1);
        let (first, last) = (uneven.places()[0], uneven.places()[15 * 26 - 1]);
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

    /// Specification `flux`, test 6, at the edge of a picture of more than 4096 pixels and in a pooled grid: bf16 would
    /// round both places.
    #[test]
    fn angles_of_far_and_fractional_places_are_exact() {
        let config = FluxConfig::default();
        let places = [257.0, 7.766];
        let rounded = Tensor::from_slice(&places).to_kind(Kind::BFloat16);
        let positions = FluxPositions::new(places.map(|column| [0.0, 0.0, column]).to_vec());
        let table = positions.rotary(&config, Device::Cpu).unwrap();
        // The first pair of the last axis turns by the place itself.
        let pair = config.axes_dims_rope[..2].iter().sum::<i64>() / 2;
        for (token, place) in (0..).zip(places) {
            let found = [&table.cos, &table.sin].map(|it| it.double_value(&[token, pair]));
            assert_near("angle", &found, &[place.cos(), place.sin()], 1e-7);
            assert!((rounded.double_value(&[token]).cos() - place.cos()).abs() > 1e-3);
        }
    }
}
