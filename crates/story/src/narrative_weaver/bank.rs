//! The memory bank: which earlier pictures a picture sees, and on how many tokens (specification
//! `narrative-weaver`, sections 3.5 to 3.7).
//!
//! The newest picture keeps all its tokens, and each older one has a lambda-th of those of the picture after it,
//! so that what a picture sees is bounded however long the story is. The condition image is outside of the bank.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Rows and columns of the tokens of a picture.
pub type TokenGrid = [u32; 2];

/// How the bank shrinks with age. Lambda and T of the paper, which could not be read; the defaults are ours.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BankSettings {
    /// By how much the tokens of a picture become fewer with each picture that follows it; above 1. With the
    /// square of a whole number every level is a grid of rows and columns.
    pub lambda: f64,
    /// How many of the newest pictures are remembered, at most [`MOST_FRAMES`](Self::MOST_FRAMES): T of the paper.
    pub frames: u32,
}

impl Default for BankSettings {
    fn default() -> Self {
        Self {
            lambda: 4.0,
            frames: 4,
        }
    }
}

/// How the tokens of one picture become those of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Adaptive means of rows and columns.
    Grid {
        /// Rows and columns of the level.
        grid: TokenGrid,
    },
    /// Adaptive means along the tokens, row after row.
    Line {
        /// Tokens of the level.
        tokens: u64,
    },
}

impl Pooling {
    /// Tokens of the level: `len(k)` of the paper.
    pub fn tokens(self) -> u64 {
        match self {
            Self::Grid { grid } => tokens_of(grid),
            Self::Line { tokens } => tokens,
        }
    }
}

/// One level of the bank: the tokens of one earlier picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// How many pictures ago it was made, from 1: k of the paper.
    pub age: u32,
    /// How it is pooled.
    pub pooling: Pooling,
}

/// Settings that do not fit each other or the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BankError {
    /// Lambda is not a number above 1.
    Lambda {
        /// What was asked for.
        lambda: f64,
    },
    /// The picture has no tokens.
    Empty {
        /// Its grid.
        grid: TokenGrid,
    },
    /// Some level would have no token left.
    Frames {
        /// What was asked for.
        settings: BankSettings,
        /// The picture.
        grid: TokenGrid,
        /// The largest number of pictures that would do with this lambda.
        most: u32,
        /// The largest lambda that would do for this number of pictures, if one above 1 would: the square of a
        /// whole number where there is one.
        lambda: Option<f64>,
    },
}

impl fmt::Display for BankError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lambda { lambda } => write!(
                f,
                "lambda is {lambda}, but pictures shrink with age only by a number above 1: write 4, 9 or another \
                 square to keep rows and columns, or a number such as 1.5"
            ),
            Self::Empty {
                grid: [rows, columns],
            } => write!(
                f,
                "pictures of {rows}x{columns} tokens have nothing to remember"
            ),
            Self::Frames {
                settings: BankSettings { lambda, frames },
                grid: [rows, columns],
                most,
                lambda: other,
            } => {
                write!(
                    f,
                    "a memory of {frames} pictures with lambda {lambda} does not fit pictures of {rows}x{columns} \
                     tokens: remember 0 to {most} pictures"
                )?;
                match other {
                    Some(lambda) => write!(f, ", or use a lambda of at most {lambda}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for BankError {}

impl BankSettings {
    /// More pictures than this are refused, whatever their size.
    pub const MOST_FRAMES: u32 = 64;

    /// The levels for pictures of `grid`, the newest picture first.
    ///
    /// # Errors
    /// Lambda is not above 1, or a level would have no token along an axis.
    pub fn levels(self, grid: TokenGrid) -> Result<BankLevels, BankError> {
        if !(self.lambda.is_finite() && self.lambda > 1.0) {
            let lambda = self.lambda;
            return Err(BankError::Lambda { lambda });
        }
        if grid.contains(&0) {
            return Err(BankError::Empty { grid });
        }
        let levels = filled(self.lambda, self.frames, grid);
        if levels.len() < self.frames as usize {
            let most = filled(self.lambda, Self::MOST_FRAMES, grid).len() as u32;
            return Err(BankError::Frames {
                settings: self,
                grid,
                most,
                lambda: largest_lambda(self.frames, grid),
            });
        }
        Ok(BankLevels {
            settings: self,
            grid,
            levels,
        })
    }

    /// The earlier pictures that picture `n` of a story sees, from 1, the oldest first.
    pub fn seen(self, n: u32) -> Range<u32> {
        let n = n.max(1);
        n.saturating_sub(self.frames).max(1)..n
    }
}

fn tokens_of([rows, columns]: TokenGrid) -> u64 {
    u64::from(rows) * u64::from(columns)
}

/// The whole number whose square `lambda` is.
fn root(lambda: f64) -> Option<u32> {
    let root = lambda.sqrt().round();
    (root >= 2.0 && root * root == lambda && root <= f64::from(u32::MAX)).then_some(root as u32)
}

/// At most `most` levels that have a token along every axis.
fn filled(lambda: f64, most: u32, grid: TokenGrid) -> Vec<Level> {
    let most = most.min(BankSettings::MOST_FRAMES);
    let mut levels = Vec::new();
    // Products instead of powers: these are the same on every machine.
    let mut shrink = 1.0;
    for age in 1..=most {
        let Some(pooling) = pooling(lambda, shrink, grid) else {
            break;
        };
        levels.push(Level { age, pooling });
        shrink *= lambda;
    }
    levels
}

/// How a picture is pooled to the `shrink`-th of its tokens, which is a power of `lambda`; `None` if nothing
/// would be left along an axis.
fn pooling(lambda: f64, shrink: f64, grid: TokenGrid) -> Option<Pooling> {
    let pooling = match root(lambda) {
        // The root of a power of a square is a whole number, and exact.
        Some(_) => Pooling::Grid {
            grid: grid.map(|side| (f64::from(side) / shrink.sqrt()) as u32),
        },
        None => Pooling::Line {
            tokens: (tokens_of(grid) as f64 / shrink) as u64,
        },
    };
    (pooling.tokens() > 0).then_some(pooling)
}

/// The largest lambda with which `frames` pictures of `grid` are remembered, with two digits behind the point
/// where it is no square.
fn largest_lambda(frames: u32, grid: TokenGrid) -> Option<f64> {
    let fits = |lambda: &f64| {
        frames <= BankSettings::MOST_FRAMES
            && filled(*lambda, frames, grid).len() == frames as usize
    };
    let side = grid.into_iter().min().unwrap_or(0);
    let squares = (2..=side).map(|root| f64::from(root) * f64::from(root));
    // Larger ones do not fit once one does not.
    let square = squares.take_while(fits).last();
    let hundredths = (101..1000).map(|lambda| f64::from(lambda) / 100.0);
    let lines = hundredths.filter(|lambda| root(*lambda).is_none());
    square.or_else(|| lines.take_while(fits).last())
}

/// The levels of the bank for pictures of one size.
#[derive(Debug, Clone, PartialEq)]
pub struct BankLevels {
    settings: BankSettings,
    grid: TokenGrid,
    levels: Vec<Level>,
}

impl BankLevels {
    /// What they follow from.
    pub fn settings(&self) -> BankSettings {
        self.settings
    }

    /// Rows and columns of a picture.
    pub fn grid(&self) -> TokenGrid {
        self.grid
    }

    /// All of them, the newest picture first.
    pub fn all(&self) -> &[Level] {
        &self.levels
    }

    /// Those that picture `n` of a story sees, from 1, the newest picture first: none for the first picture.
    pub fn of_picture(&self, n: u32) -> &[Level] {
        let earlier = n.saturating_sub(1) as usize;
        &self.levels[..earlier.min(self.levels.len())]
    }

    /// Tokens of the memory of picture `n`: `L_n` of the paper.
    pub fn tokens(&self, n: u32) -> u64 {
        let levels = self.of_picture(n).iter();
        levels.map(|level| level.pooling.tokens()).sum()
    }

    /// What the tokens of a memory stay below, however many pictures are remembered: the paper's bound.
    pub fn bound(&self) -> f64 {
        let lambda = self.settings.lambda;
        tokens_of(self.grid) as f64 * lambda / (lambda - 1.0)
    }

    /// Rows of the transformer for picture `n` of a story: `queries`, the picture itself, the condition image where
    /// there is one, and the memory.
    pub fn sequence_length(&self, n: u32, queries: u64, has_condition: bool) -> u64 {
        let pictures = 1 + u64::from(has_condition);
        queries + pictures * tokens_of(self.grid) + self.tokens(n)
    }

    /// Where the tokens of a level stand: axis 0, row, column. Axis 0 is one more than the age, since the picture
    /// itself has 0 and the condition image 1; rows and columns are those of the whole picture, at the middles of
    /// what a token is the mean of.
    pub fn ids(&self, level: Level) -> Vec<[f64; 3]> {
        let axis = f64::from(level.age) + 1.0;
        match level.pooling {
            Pooling::Grid { grid } => grid_ids(axis, self.grid, grid),
            Pooling::Line { tokens } => line_ids(axis, self.grid, tokens),
        }
    }

    /// Where all tokens of the image stream of picture `n` stand, in their order: the picture itself, the condition
    /// image where there is one, and the memory from the newest picture to the oldest.
    pub fn stream_ids(&self, n: u32, has_condition: bool) -> Vec<[f64; 3]> {
        let mut ids = frame_ids(0.0, self.grid);
        if has_condition {
            ids.extend(frame_ids(1.0, self.grid));
        }
        for level in self.of_picture(n) {
            ids.extend(self.ids(*level));
        }
        ids
    }
}

/// Where the tokens of a whole picture stand, row after row; `axis` is 0 for the picture that is made, and 1 for
/// the condition image.
pub fn frame_ids(axis: f64, grid: TokenGrid) -> Vec<[f64; 3]> {
    grid_ids(axis, grid, grid)
}

/// The middles of the cells of a `level` of a picture.
fn grid_ids(axis: f64, whole: TokenGrid, level: TokenGrid) -> Vec<[f64; 3]> {
    let middle = |cell: u32, side: usize| {
        (f64::from(cell) + 0.5) * f64::from(whole[side]) / f64::from(level[side]) - 0.5
    };
    let [rows, columns] = level;
    let rows = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    rows.map(|(row, column)| [axis, middle(row, 0), middle(column, 1)])
        .collect()
}

/// The mean places of the tokens that each of `tokens` means along a picture is made of.
fn line_ids(axis: f64, grid: TokenGrid, tokens: u64) -> Vec<[f64; 3]> {
    let (whole, columns) = (tokens_of(grid), u64::from(grid[1]));
    let middle = |cell: u64| {
        // The cells of libtorch's adaptive means.
        let (first, end) = (cell * whole / tokens, ((cell + 1) * whole).div_ceil(tokens));
        let mean = |place: &dyn Fn(u64) -> u64| {
            (first..end).map(place).sum::<u64>() as f64 / (end - first) as f64
        };
        [
            axis,
            mean(&|token| token / columns),
            mean(&|token| token % columns),
        ]
    };
    (0..tokens).map(middle).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bank(lambda: f64, frames: u32, grid: TokenGrid) -> Result<BankLevels, BankError> {
        BankSettings { lambda, frames }.levels(grid)
    }

    fn lengths(levels: &BankLevels) -> Vec<u64> {
        let levels = levels.all().iter();
        levels.map(|level| level.pooling.tokens()).collect()
    }

    /// Specification `narrative-weaver`, section 3.5: tokens of the levels, and of four of them.
    #[test]
    fn the_table_of_the_specification() {
        for (grid, lambda, expected, of_four, bound) in [
            ([32, 32], 4.0, &[1024, 256, 64, 16, 4, 1][..], 1360, 1365.33),
            ([32, 32], 9.0, &[1024, 100, 9, 1], 1134, 1152.0),
            ([30, 53], 4.0, &[1590, 390, 91, 18, 3], 2089, 2120.0),
            (
                [64, 64],
                4.0,
                &[4096, 1024, 256, 64, 16, 4, 1],
                5440,
                5461.33,
            ),
            ([32, 32], 2.0, &[1024, 512, 256, 128, 64, 32], 1920, 2048.0),
            (
                [32, 32],
                1.5,
                &[1024, 682, 455, 303, 202, 134],
                2464,
                3072.0,
            ),
            ([4, 4], 4.0, &[16, 4, 1], 21, 21.33),
        ] {
            let levels = bank(lambda, expected.len() as u32, grid).unwrap();
            assert_eq!(lengths(&levels), expected, "{grid:?}, {lambda}");
            assert_eq!(levels.tokens(5), of_four, "{grid:?}, {lambda}");
            assert!((levels.bound() - bound).abs() < 0.005);
        }
        let all = |lambda, frames, grid| bank(lambda, frames, grid).unwrap().tokens(99);
        assert_eq!(all(4.0, 6, [32, 32]), 1365);
        assert_eq!(all(4.0, 5, [30, 53]), 2092);
        assert_eq!(all(4.0, 7, [64, 64]), 5461);
        assert_eq!((all(2.0, 6, [32, 32]), all(1.5, 6, [32, 32])), (2016, 2800));
    }

    /// Specification `narrative-weaver`, section 3.7.
    #[test]
    fn the_transformer_has_as_many_rows_as_the_specification_says() {
        let levels = BankSettings::default().levels([32, 32]).unwrap();
        let rows: Vec<u64> = (1..=6)
            .map(|n| levels.sequence_length(n, 256, true))
            .collect();
        assert_eq!(rows, [2304, 3328, 3584, 3648, 3664, 3664]);
        assert_eq!(levels.sequence_length(1, 256, false), 256 + 1024);
        for n in 1..7 {
            let ids = levels.stream_ids(n, true).len() as u64;
            assert_eq!(ids + 256, levels.sequence_length(n, 256, true));
        }
    }

    #[test]
    fn a_memory_of_nothing_is_one() {
        let levels = bank(4.0, 0, [32, 32]).unwrap();
        assert_eq!((levels.tokens(9), levels.all()), (0, &[][..]));
        assert_eq!(levels.stream_ids(9, true).len(), 2048);
        assert_eq!(levels.settings().seen(9), 9..9);
    }

    #[test]
    fn the_newest_pictures_are_seen() {
        let settings = BankSettings::default();
        let seen: Vec<_> = (1..=7).map(|n| settings.seen(n)).collect();
        assert_eq!(seen, [1..1, 1..2, 1..3, 1..4, 1..5, 2..6, 3..7]);
    }

    #[test]
    fn errors_name_what_would_do() {
        for lambda in [1.0, 0.25, -4.0, f64::NAN, f64::INFINITY] {
            let error = bank(lambda, 2, [32, 32]).unwrap_err();
            assert!(error.to_string().contains("above 1"), "{error}");
        }
        let said = |lambda, frames, grid| bank(lambda, frames, grid).unwrap_err().to_string();
        let four = said(4.0, 4, [4, 4]);
        assert!(
            four.contains("0 to 3 pictures") && four.contains("at most 2.51"),
            "{four}"
        );
        let coarse = said(16.0, 3, [15, 40]);
        assert!(
            coarse.contains("0 to 2 pictures") && coarse.contains("at most 9"),
            "{coarse}"
        );
        let long = said(4.0, 65, [512, 512]);
        assert!(long.ends_with("0 to 10 pictures"), "{long}");
        assert!(said(4.0, 1, [0, 32]).contains("0x32"));
        // What an error names is what is accepted.
        for (lambda, frames, grid) in [(2.51, 4, [4, 4]), (4.0, 3, [4, 4]), (9.0, 3, [15, 40])] {
            assert!(bank(lambda, frames, grid).is_ok());
        }
        assert!(bank(2.52, 4, [4, 4]).is_err());
    }

    /// Specification `narrative-weaver`, section 3.6; vectors `flux_nw_like`.
    #[test]
    fn tokens_stand_at_the_middles_of_what_they_are_the_mean_of() {
        let levels = bank(4.0, 3, [4, 4]).unwrap();
        let ids = |age: usize| levels.ids(levels.all()[age - 1]);
        assert_eq!(ids(1)[5], [2.0, 1.0, 1.0]);
        let second = [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]];
        assert_eq!(ids(2), second.map(|[row, column]| [3.0, row, column]));
        assert_eq!(ids(3), [[4.0, 1.5, 1.5]]);
        assert_eq!(levels.stream_ids(2, true).len(), 48);
        assert_eq!(levels.stream_ids(4, true).len(), 53);
        assert_eq!(
            levels.stream_ids(4, true)[16..18],
            [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
        );
        // Sides that do not divide: 53 columns to 26.
        let wide = bank(4.0, 2, [30, 53]).unwrap();
        let place = wide.ids(wide.all()[1])[1];
        assert_eq!(place, [3.0, 0.5, 1.5 * 53.0 / 26.0 - 0.5]);
        // Along the tokens: pairs, and one across the end of a row.
        let line = bank(2.0, 2, [2, 3]).unwrap();
        let places = [[0.0, 0.5], [0.5, 1.0], [1.0, 1.5]];
        assert_eq!(
            line.ids(line.all()[1]),
            places.map(|[row, column]| [3.0, row, column])
        );
    }

    #[test]
    fn settings_are_written_as_they_are_read() {
        let text = serde_json::to_string(&BankSettings::default()).unwrap();
        assert_eq!(text, r#"{"lambda":4.0,"frames":4}"#);
        assert!(serde_json::from_str::<BankSettings>(r#"{"lambda":4,"frames":4,"t":1}"#).is_err());
    }

    fn settings() -> impl Strategy<Value = (f64, u32, TokenGrid)> {
        let lambda = prop_oneof![
            (2_u32..7).prop_map(|root| f64::from(root * root)),
            1.05_f64..20.0
        ];
        (lambda, 0_u32..9, prop::array::uniform2(1_u32..130))
    }

    proptest! {
        /// Specification `narrative-weaver`, section 7, item 1.
        #[test]
        fn a_memory_grows_up_to_its_length_and_stays_below_the_bound((lambda, frames, grid) in settings()) {
            let Ok(levels) = bank(lambda, frames, grid) else {
                return Ok(());
            };
            let tokens: Vec<u64> = (1..frames + 4).map(|n| levels.tokens(n)).collect();
            prop_assert_eq!(tokens[0], 0);
            prop_assert!(tokens.is_sorted());
            let last = levels.tokens(frames + 1);
            prop_assert!((last as f64) < levels.bound());
            for n in frames + 1..frames + 9 {
                prop_assert_eq!(levels.tokens(n), last);
                prop_assert_eq!(levels.settings().seen(n).len(), frames as usize);
            }
            for n in 1..frames + 4 {
                prop_assert_eq!(levels.of_picture(n).len(), levels.settings().seen(n).len());
            }
        }

        #[test]
        fn every_level_has_its_places_inside_the_picture((lambda, frames, grid) in settings()) {
            let Ok(levels) = bank(lambda, frames, grid) else {
                return Ok(());
            };
            for (level, age) in levels.all().iter().zip(1..) {
                prop_assert_eq!(level.age, age);
                let ids = levels.ids(*level);
                prop_assert_eq!(ids.len() as u64, level.pooling.tokens());
                for [axis, row, column] in ids {
                    prop_assert_eq!(axis, f64::from(age) + 1.0);
                    prop_assert!((0.0..f64::from(grid[0])).contains(&row));
                    prop_assert!((0.0..f64::from(grid[1])).contains(&column));
                }
            }
            if let Some(first) = levels.all().first() {
                prop_assert_eq!(levels.ids(*first), frame_ids(2.0, grid));
            }
        }

        /// A number of pictures is refused exactly where a level would have nothing left, and what the error offers
        /// is accepted.
        #[test]
        fn what_is_offered_instead_is_accepted((lambda, frames, grid) in settings()) {
            match bank(lambda, frames, grid) {
                Ok(levels) => prop_assert!(lengths(&levels).iter().all(|&tokens| tokens > 0)),
                Err(BankError::Frames { most, lambda: other, .. }) => {
                    prop_assert!(most < frames && most > 0);
                    prop_assert!(bank(lambda, most, grid).is_ok());
                    prop_assert!(bank(lambda, most + 1, grid).is_err());
                    if let Some(other) = other {
                        prop_assert!(bank(other, frames, grid).is_ok());
                    }
                }
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
        }
    }
}
