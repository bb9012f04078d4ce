//! Which latent frames of earlier shots a shot of OneStory sees, and how finely (arXiv 2512.07802, sections
//! 4.2 and 4.3).
//!
//! A network says how relevant each latent frame of the history is. What follows from these scores is
//! decided here, without tensors, so that a run, its proof, its report and its estimate derive the same.
//!
//! The paper states neither kernels nor counts; those here are ours, and stand behind config keys
//! (specification `onestory`, section 4).

mod history;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use history::{
    Choice, ChoiceError, History, SELECT, SeenFrame, Selector, read_scores, scores_table,
};

/// Rows and columns of a latent frame.
pub type Plane = [u32; 2];

/// A patchifier, by the side of its square kernel in latents. Its stride is its kernel, and frames are
/// filled up with zeros at the right and at the bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// As fine as the tokens of the shot itself.
    P2,
    /// Half of that, along each side.
    P4,
    /// A quarter.
    P8,
    /// An eighth.
    P16,
}

impl Kernel {
    /// All of them, from the finest to the coarsest.
    pub const ALL: [Self; 4] = [Self::P2, Self::P4, Self::P8, Self::P16];

    /// The side of the kernel in latents.
    pub const fn side(self) -> u32 {
        match self {
            Self::P2 => 2,
            Self::P4 => 4,
            Self::P8 => 8,
            Self::P16 => 16,
        }
    }

    /// The name in checkpoints, configs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P2 => "p2",
            Self::P4 => "p4",
            Self::P8 => "p8",
            Self::P16 => "p16",
        }
    }

    /// The place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Rows and columns of tokens of a frame.
    pub const fn grid(self, [rows, columns]: Plane) -> Plane {
        [rows.div_ceil(self.side()), columns.div_ceil(self.side())]
    }

    /// Tokens of a frame.
    pub const fn tokens(self, plane: Plane) -> u32 {
        let [rows, columns] = self.grid(plane);
        rows.saturating_mul(columns)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Frames per kernel, from the finest to the coarsest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(pub [u32; 4]);

impl Counts {
    /// Frames in all: K_sel of the paper.
    pub fn frames(self) -> usize {
        self.0.iter().map(|&count| count as usize).sum()
    }

    /// Tokens of that many frames of a plane: N_c of the paper.
    pub fn tokens(self, plane: Plane) -> u32 {
        let classes = Kernel::ALL.iter().zip(self.0);
        classes.fold(0, |sum: u32, (kernel, count)| {
            sum.saturating_add(kernel.tokens(plane).saturating_mul(count))
        })
    }

    /// The kernels that any frame gets, from the finest to the coarsest.
    pub fn kernels(self) -> impl Iterator<Item = Kernel> {
        let classes = Kernel::ALL.into_iter().zip(self.0);
        classes.filter_map(|(kernel, count)| (count > 0).then_some(kernel))
    }

    /// The kernels in the order in which frames get them, the most relevant frame first.
    fn in_order(self) -> impl Iterator<Item = Kernel> {
        let classes = Kernel::ALL.into_iter().zip(self.0);
        classes.flat_map(|(kernel, count)| std::iter::repeat_n(kernel, count as usize))
    }
}

/// How many tokens of history a shot sees, in units of the tokens of one latent frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Units, at most [`MOST`](Self::MOST); 0 sees nothing.
    pub units: u32,
    /// Frames per kernel, where they are not those of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
}

/// A budget that does not hold what it is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetError {
    /// Tokens that are asked for.
    pub tokens: u32,
    /// Tokens that the budget has.
    pub cap: u32,
    /// The latent frame.
    pub plane: Plane,
}

impl fmt::Display for BudgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, columns] = self.plane;
        write!(
            f,
            "the frames per kernel take {} tokens of latent frames of {rows}x{columns}, and the budget holds \
             {}: name fewer frames or coarser kernels, or raise the budget",
            self.tokens, self.cap
        )
    }
}

impl std::error::Error for BudgetError {}

impl Default for Budget {
    fn default() -> Self {
        Self {
            units: 1,
            counts: None,
        }
    }
}

impl Budget {
    /// The largest budget of the paper's ablation.
    pub const MOST: u32 = 3;

    /// The most frames of any budget of the table.
    pub const MOST_FRAMES: usize = 10;

    /// Frames per kernel for each budget. A budget of 1 holds no frame at the finest kernel beside others.
    const TABLE: [[u32; 4]; 4] = [[0, 0, 0, 0], [0, 3, 3, 2], [1, 3, 3, 2], [2, 3, 3, 2]];

    /// Tokens that a shot with latent frames of `plane` may see at most.
    pub fn cap(self, plane: Plane) -> u32 {
        Kernel::P2.tokens(plane).saturating_mul(self.units)
    }

    /// Frames per kernel for latent frames of `plane`. Those of the table lose frames of the coarsest kernel
    /// until they fit.
    ///
    /// # Errors
    /// Counts that somebody named do not fit.
    pub fn counts(self, plane: Plane) -> Result<Counts, BudgetError> {
        let cap = self.cap(plane);
        if let Some(counts) = self.counts {
            let tokens = counts.tokens(plane);
            return match tokens <= cap {
                true => Ok(counts),
                false => Err(BudgetError { tokens, cap, plane }),
            };
        }
        let mut counts = Counts(Self::TABLE[self.units.min(Self::MOST) as usize]);
        while counts.tokens(plane) > cap {
            let Some(coarsest) = counts.0.iter().rposition(|&count| count > 0) else {
                break;
            };
            counts.0[coarsest] -= 1;
        }
        Ok(counts)
    }

    /// The most frames that a shot of any size sees.
    pub fn at_most(self) -> usize {
        let table = Counts(Self::TABLE[self.units.min(Self::MOST) as usize]);
        self.counts.unwrap_or(table).frames()
    }
}

/// A latent frame that a shot sees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChosenFrame {
    /// Its number in the history, from 0, in the order of shots and then of time.
    pub frame: usize,
    /// How relevant the selector finds it.
    pub score: f32,
    /// How finely it is seen.
    pub kernel: Kernel,
}

/// The frames with the highest of `scores`, one score per frame of the history, in the order of time. Of equal
/// scores the later frame wins. The finest kernels go to the highest scores; where there are fewer frames
/// than `counts` has, the coarsest are left over.
pub fn choose(scores: &[f32], counts: Counts) -> Vec<ChosenFrame> {
    let mut ranked: Vec<usize> = (0..scores.len()).collect();
    ranked.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(b.cmp(&a)));
    let mut chosen: Vec<ChosenFrame> = ranked
        .into_iter()
        .zip(counts.in_order())
        .map(|(frame, kernel)| ChosenFrame {
            frame,
            score: scores[frame],
            kernel,
        })
        .collect();
    chosen.sort_by_key(|chosen| chosen.frame);
    chosen
}

/// Scores by which the newest frames are the most relevant: the paper's baseline of recent frames.
pub fn recent_scores(frames: usize) -> Vec<f32> {
    (0..frames).map(|frame| share(frame + 1, frames)).collect()
}

/// Scores by which `count` frames are chosen at equal distances, the newest of them the most relevant: the
/// paper's baseline of uniform sampling. All others score 0.
pub fn uniform_scores(frames: usize, count: usize) -> Vec<f32> {
    let mut scores = vec![0.0; frames];
    let count = count.min(frames);
    for place in 0..count {
        // The middles of `count` equal parts.
        let frame = (2 * place + 1) * frames / (2 * count);
        scores[frame] = share(place + 1, count);
    }
    scores
}

fn share(part: usize, of: usize) -> f32 {
    part as f32 / of.max(1) as f32
}

/// Where context tokens stand in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextTime {
    /// The j-th of K chosen frames stands at `-stride * (K - j)`, as memory does in StoryMem.
    Shifted {
        /// Distance of neighbours.
        stride: u32,
    },
    /// Each stands where it would if all shots followed each other without a gap.
    TrueDistance,
}

impl Default for ContextTime {
    fn default() -> Self {
        Self::Shifted { stride: 5 }
    }
}

impl ContextTime {
    /// The temporal position of each of the `chosen` of a history of `frames` latent frames; the shot itself
    /// begins at 0.
    pub fn positions(self, chosen: &[ChosenFrame], frames: usize) -> Vec<f64> {
        let count = chosen.len();
        let place = |(place, chosen): (usize, &ChosenFrame)| match self {
            Self::Shifted { stride } => -f64::from(stride) * (count - place) as f64,
            Self::TrueDistance => chosen.frame as f64 - frames as f64,
        };
        chosen.iter().enumerate().map(place).collect()
    }
}

/// The middle of cell `cell` of a kernel along a side, in units of the shot's own tokens, the first of which
/// stands at 0.
pub fn cell_position(kernel: Kernel, cell: u32) -> f64 {
    f64::from(kernel.side()) / 2.0 * (f64::from(cell) + 0.5) - 0.5
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Latent frames of 480x832 pixels.
    const FULL: Plane = [60, 104];

    fn units(units: u32) -> Budget {
        Budget {
            units,
            counts: None,
        }
    }

    /// Specification `onestory`, section 8, items 1 and 2.
    #[test]
    fn the_grids_and_budgets_of_the_full_size() {
        let tokens = Kernel::ALL.map(|kernel| kernel.tokens(FULL));
        assert_eq!(tokens, [1560, 390, 104, 28]);
        for (budget, frames, tokens) in [(0, 0, 0), (1, 8, 1538), (2, 9, 3098), (3, 10, 4658)] {
            let counts = units(budget).counts(FULL).unwrap();
            assert_eq!((counts.frames(), counts.tokens(FULL)), (frames, tokens));
            assert_eq!(units(budget).cap(FULL), 1560 * budget);
            assert_eq!(units(budget).at_most(), frames);
            assert!(frames <= Budget::MOST_FRAMES);
        }
        // Section 8, item 18: two kernels of six and two tokens, three frames each, are one unit.
        let counts = units(1).counts([8, 12]).unwrap();
        assert_eq!((counts, counts.tokens([8, 12])), (Counts([0, 3, 3, 0]), 24));
        assert_eq!(Counts([0, 1, 0, 1]).tokens(FULL), 418);
    }

    #[test]
    fn counts_that_somebody_names_must_fit() {
        let named = |units, counts| Budget {
            units,
            counts: Some(Counts(counts)),
        };
        assert_eq!(
            named(1, [0, 4, 0, 0]).counts(FULL),
            Ok(Counts([0, 4, 0, 0]))
        );
        assert_eq!(
            named(1, [1, 0, 0, 0]).counts(FULL),
            Ok(Counts([1, 0, 0, 0]))
        );
        let error = named(1, [0, 4, 0, 1]).counts(FULL).unwrap_err();
        assert_eq!((error.tokens, error.cap), (1588, 1560));
        let said = error.to_string();
        assert!(said.contains("1588") && said.contains("60x104"), "{said}");
        assert!(named(0, [0, 0, 0, 1]).counts(FULL).is_err());
        assert_eq!(named(1, [0, 4, 0, 0]).at_most(), 4);
        let kernels: Vec<Kernel> = Counts([0, 4, 0, 1]).kernels().collect();
        assert_eq!(kernels, [Kernel::P4, Kernel::P16]);
    }

    #[test]
    fn the_most_relevant_are_seen_finest_and_stand_in_the_order_of_time() {
        let counts = Counts([1, 1, 2, 0]);
        let chosen = choose(&[0.1, 0.9, 0.5, 0.5, -0.3, 0.2], counts);
        let found: Vec<(usize, Kernel)> = chosen.iter().map(|c| (c.frame, c.kernel)).collect();
        let expected = [
            (1, Kernel::P2),
            (2, Kernel::P8),
            (3, Kernel::P4),
            (5, Kernel::P8),
        ];
        assert_eq!(found, expected);
        assert_eq!(chosen[1].score, 0.5);
        // Fewer frames than kernels: the finest first.
        let few = choose(&[0.0, 1.0], counts);
        assert_eq!(
            few.iter().map(|c| c.kernel).collect::<Vec<_>>(),
            [Kernel::P4, Kernel::P2]
        );
        assert!(choose(&[], counts).is_empty() && choose(&[1.0], Counts::default()).is_empty());
    }

    #[test]
    fn baselines_choose_the_newest_and_at_equal_distances() {
        let frames = |scores: &[f32], count| -> Vec<usize> {
            let chosen = choose(scores, Counts([0, count, 0, 0]));
            chosen.iter().map(|chosen| chosen.frame).collect()
        };
        assert_eq!(frames(&recent_scores(63), 3), [60, 61, 62]);
        assert_eq!(frames(&uniform_scores(63, 3), 3), [10, 31, 52]);
        assert_eq!(frames(&uniform_scores(2, 3), 3), [0, 1]);
        assert!(recent_scores(0).is_empty() && uniform_scores(0, 4).is_empty());
    }

    /// Specification `onestory`, section 4.1.
    #[test]
    fn positions_are_negative_in_time_and_the_middles_of_cells_in_space() {
        let chosen = choose(&[0.3, 0.1, 0.2], Counts([0, 1, 1, 1]));
        let shifted = ContextTime::default().positions(&chosen, 3);
        assert_eq!(shifted, [-15.0, -10.0, -5.0]);
        let two = choose(&[0.3, 0.1, 0.2], Counts([0, 1, 1, 0]));
        assert_eq!(ContextTime::TrueDistance.positions(&two, 3), [-3.0, -1.0]);
        let cells = |kernel| [0, 1].map(|cell| cell_position(kernel, cell));
        assert_eq!(cells(Kernel::P2), [0.0, 1.0]);
        assert_eq!(cells(Kernel::P4), [0.5, 2.5]);
        assert_eq!(cells(Kernel::P8), [1.5, 5.5]);
        assert_eq!(cells(Kernel::P16), [3.5, 11.5]);
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let budget = Budget {
            units: 2,
            counts: Some(Counts([1, 3, 0, 2])),
        };
        let text = serde_json::to_string(&budget).unwrap();
        assert_eq!(text, r#"{"units":2,"counts":[1,3,0,2]}"#);
        assert_eq!(serde_json::from_str::<Budget>(&text).unwrap(), budget);
        assert_eq!(
            serde_json::to_string(&Budget::default()).unwrap(),
            r#"{"units":1}"#
        );
        let kernel = serde_json::to_string(&Kernel::P16).unwrap();
        assert_eq!(kernel, format!("\"{}\"", Kernel::P16));
    }

    fn scores() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec((-8_i8..8).prop_map(f32::from), 0..40)
    }

    proptest! {
        /// Specification `onestory`, section 8, item 2: for every size.
        #[test]
        fn budgets_hold_for_every_size(rows in 1_u32..200, columns in 1_u32..200, budget in 0_u32..4) {
            let plane = [rows, columns];
            let counts = units(budget).counts(plane).unwrap();
            prop_assert!(counts.tokens(plane) <= units(budget).cap(plane));
            prop_assert!(counts.frames() <= units(budget).at_most());
            prop_assert_eq!(counts.frames() == 0, budget == 0);
        }

        /// Specification `onestory`, section 8, item 4.
        #[test]
        fn finer_classes_have_higher_scores(scores in scores(), counts in prop::array::uniform4(0_u32..4)) {
            let counts = Counts(counts);
            let chosen = choose(&scores, counts);
            prop_assert_eq!(chosen.len(), counts.frames().min(scores.len()));
            prop_assert!(chosen.is_sorted_by(|a, b| a.frame < b.frame));
            for kernel in Kernel::ALL {
                let of = chosen.iter().filter(|chosen| chosen.kernel == kernel);
                prop_assert!(of.count() <= counts.0[kernel.index()] as usize);
            }
            for (a, b) in chosen.iter().flat_map(|a| chosen.iter().map(move |b| (a, b))) {
                prop_assert!(a.kernel >= b.kernel || a.score >= b.score);
            }
            let left_out = (0..scores.len()).filter(|frame| chosen.iter().all(|c| c.frame != *frame));
            let lowest = chosen.iter().map(|c| c.score).fold(f32::INFINITY, f32::min);
            prop_assert!(left_out.map(|frame| scores[frame]).all(|score| score <= lowest));
        }

        #[test]
        fn a_higher_score_never_makes_a_frame_coarser(
            scores in prop::collection::vec((-8_i8..8).prop_map(f32::from), 1..40),
            counts in prop::array::uniform4(0_u32..4),
            which in any::<prop::sample::Index>(),
            more in 0.0_f32..9.0,
        ) {
            let kernel_of = |scores: &[f32], frame: usize| {
                let chosen = choose(scores, Counts(counts));
                let found = chosen.iter().find(|chosen| chosen.frame == frame);
                found.map_or(Kernel::ALL.len(), |chosen| chosen.kernel.index())
            };
            let frame = which.index(scores.len());
            let before = kernel_of(&scores, frame);
            let mut raised = scores.clone();
            raised[frame] += more;
            prop_assert!(kernel_of(&raised, frame) <= before);
        }
    }
}
