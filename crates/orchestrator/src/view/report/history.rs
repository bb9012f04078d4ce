//! The drawing of what a shot of OneStory chose: a row for each earlier shot, a place in it for each of its
//! latent frames, and a mark on those that were seen, the larger the finer.

use serde::Serialize;
use storyloom_story::onestory::Kernel;

use crate::view::chosen::ChoiceView;

/// Distance of two latent frames, in the drawing's units (pixels at full size).
const PITCH: f64 = 11.0;
/// Height of a row, without the gap to the next.
const ROW: f64 = 10.0;
/// Left of the frames, where the shots are named.
const NAMES: f64 = 46.0;

/// The drawing, ready to be written as SVG.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct HistoryView {
    pub width: f64,
    pub height: f64,
    pub names: f64,
    pub row: f64,
    pub rows: Vec<RowView>,
    pub marks: Vec<MarkView>,
    /// The names of all patchifiers, from the finest to the coarsest, for the legend.
    pub kernels: Vec<&'static str>,
    /// The drawing in one sentence.
    pub summary: String,
}

/// An earlier shot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RowView {
    pub shot: String,
    pub top: f64,
    pub width: f64,
}

/// A latent frame that was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct MarkView {
    pub left: f64,
    pub top: f64,
    pub side: f64,
    pub kernel: &'static str,
    pub name: String,
}

/// Draws what was chosen; `None` where there was nothing to choose from.
pub(super) fn draw(choice: &ChoiceView) -> Option<HistoryView> {
    let longest = choice.history.iter().map(|earlier| earlier.frames).max()?;
    let top = |row: usize| row as f64 * (ROW + 2.0) + 1.0;
    let rows = choice.history.iter().enumerate();
    let rows: Vec<RowView> = rows
        .map(|(row, earlier)| RowView {
            shot: earlier.shot.to_string(),
            top: top(row),
            width: earlier.frames as f64 * PITCH,
        })
        .collect();
    let marks = choice.frames.iter().filter_map(|seen| {
        let mut shots = choice.history.iter();
        let row = shots.position(|earlier| earlier.shot == seen.shot)?;
        // The finest fills its place, each coarser one two pixels less.
        let side = ROW - 2.0 * seen.kernel.index() as f64;
        Some(MarkView {
            left: NAMES + seen.frame as f64 * PITCH + (PITCH - side) / 2.0,
            top: top(row) + (ROW - side) / 2.0,
            side,
            kernel: seen.kernel.name(),
            name: seen.to_string(),
        })
    });
    Some(HistoryView {
        width: NAMES + longest as f64 * PITCH,
        height: top(rows.len()),
        names: NAMES - 6.0,
        row: ROW,
        rows,
        marks: marks.collect(),
        kernels: Kernel::ALL.iter().map(|kernel| kernel.name()).collect(),
        summary: summary(choice),
    })
}

fn summary(choice: &ChoiceView) -> String {
    let frames: usize = choice.history.iter().map(|earlier| earlier.frames).sum();
    format!(
        "{} of {frames} latent frames of {} earlier shots were seen. The list below says the same.",
        choice.frames.len(),
        choice.history.len()
    )
}

#[cfg(test)]
mod tests {
    use storyloom_story::ShotId;

    use super::*;
    use crate::view::chosen::{ChosenFrameView, EarlierShot};

    fn shot(shot: u32) -> ShotId {
        ShotId { scene: 1, shot }
    }

    fn seen(of: u32, frame: usize, kernel: Kernel) -> ChosenFrameView {
        ChosenFrameView {
            shot: shot(of),
            frame,
            score: 0.875,
            kernel,
        }
    }

    #[test]
    fn finer_frames_have_larger_marks_in_the_rows_of_their_shots() {
        let frames = [5, 3, 5];
        let history = (1..).zip(frames).map(|(of, frames)| EarlierShot {
            shot: shot(of),
            frames,
        });
        let choice = ChoiceView {
            history: history.collect(),
            frames: vec![
                seen(1, 4, Kernel::P4),
                seen(3, 0, Kernel::P2),
                seen(3, 1, Kernel::P16),
            ],
        };
        let drawn = draw(&choice).unwrap();
        let sides: Vec<f64> = drawn.marks.iter().map(|mark| mark.side).collect();
        assert_eq!(sides, [8.0, 10.0, 4.0]);
        for (mark, row) in drawn.marks.iter().zip([0, 2, 2]) {
            let row = &drawn.rows[row];
            assert!(mark.top >= row.top && mark.top + mark.side <= row.top + drawn.row);
            assert!(mark.left >= NAMES && mark.left + mark.side <= NAMES + row.width);
            assert!(mark.left + mark.side <= drawn.width && mark.top + mark.side <= drawn.height);
        }
        assert_eq!(drawn.kernels, ["p2", "p4", "p8", "p16"]);
        assert!(drawn.marks[1].left < drawn.marks[2].left);
        assert_eq!(
            drawn.marks[0].name,
            "01_01, latent frame 4: p4, score 0.875"
        );
        assert!(
            drawn
                .summary
                .starts_with("3 of 13 latent frames of 3 earlier shots")
        );
    }

    #[test]
    fn without_history_there_is_nothing_to_draw() {
        let nothing = ChoiceView {
            history: Vec::new(),
            frames: Vec::new(),
        };
        assert_eq!(draw(&nothing), None);
    }
}
