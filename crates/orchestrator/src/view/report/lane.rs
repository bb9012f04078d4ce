//! One lane of the timeline: pieces of time become shapes of an SVG drawing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use storyloom_story::Stage;
use storyloom_telemetry::AttemptEnd;
use storyloom_telemetry::shift::{Attempt, Shift, StageSpan};

/// Width of the drawing; the page stretches it.
const WIDTH: f64 = 1000.0;
/// Top and height of the rows of a lane: what comes before denoising, denoising, what comes after.
/// The engines of these three work side by side.
const ROWS: [(f64, f64); 3] = [(1.0, 6.0), (8.0, 18.0), (27.0, 6.0)];
/// The row of time that is no stage.
const WHOLE: usize = 1;
/// What plans of stories look like, as the stage of a shot does.
pub(super) const PLAN: &str = "plan";
/// Steps of the height of a column.
const LEVELS: f64 = 12.0;

/// The span of time that is drawn, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    pub begun: f64,
    pub end: f64,
}

impl Span {
    pub(super) fn seconds(self) -> f64 {
        (self.end - self.begun).max(1e-3)
    }

    /// Where a moment is, from 0 to 1.
    pub(super) fn share(self, at: f64) -> f64 {
        ((at - self.begun) / self.seconds()).clamp(0.0, 1.0)
    }
}

/// Everything of a lane that has one colour, as an SVG path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Shape {
    /// Its class in the style sheet.
    pub class: &'static str,
    pub path: String,
}

/// Time spent on one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Piece {
    /// Which row it is in.
    row: usize,
    /// What it is, as a class of the style sheet.
    pub class: &'static str,
    begun: f64,
    end: f64,
}

/// What a shift did.
pub(super) fn pieces(shift: &Shift, goes_on: bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let loaded = shift.loaded.unwrap_or_else(|| shift.until());
    pieces.push(Piece {
        row: WHOLE,
        class: "load",
        begun: shift.begun,
        end: loaded,
    });
    for attempt in shift.all_attempts() {
        let kept = kept_until(&attempt, goes_on);
        for stage in &attempt.stages {
            push(&mut pieces, stage, kept);
        }
    }
    for plan in shift.all_plans() {
        let kept = match plan.end {
            Some(AttemptEnd::Committed) => true,
            None => goes_on,
            Some(_) => false,
        };
        pieces.push(Piece {
            // Beside shots it is what comes before denoising.
            row: if shift.start.plans_only { WHOLE } else { 0 },
            class: if kept { PLAN } else { "lost" },
            begun: plan.begun,
            end: plan.ended,
        });
    }
    pieces.retain(|piece| piece.end > piece.begun);
    pieces
}

/// Denoising before this moment is kept; of a shot that exists everything is.
fn kept_until(attempt: &Attempt, goes_on: bool) -> f64 {
    match attempt.end {
        Some(AttemptEnd::Committed) => f64::INFINITY,
        None if goes_on => f64::INFINITY,
        _ => attempt
            .saved
            .last()
            .map_or(f64::NEG_INFINITY, |saved| saved.at),
    }
}

fn push(pieces: &mut Vec<Piece>, stage: &StageSpan, kept: f64) {
    let row = match stage.stage {
        Stage::Plan | Stage::Encode => 0,
        Stage::Denoise => 1,
        Stage::Decode | Stage::Select | Stage::Commit => 2,
    };
    let kept = match stage.stage {
        Stage::Denoise => kept.clamp(stage.begun, stage.end()),
        _ if kept.is_finite() => stage.begun,
        _ => kept.clamp(stage.begun, stage.end()),
    };
    let piece = |class, begun, end| Piece {
        row,
        class,
        begun,
        end,
    };
    pieces.push(piece(stage.stage.name(), stage.begun, kept));
    pieces.push(piece("lost", kept, stage.end()));
}

/// Every piece for itself.
pub(super) fn shapes(pieces: &[Piece], span: Span) -> Vec<Shape> {
    let mut paths: BTreeMap<&'static str, String> = BTreeMap::new();
    for piece in pieces {
        let (top, height) = ROWS[piece.row];
        let left = WIDTH * span.share(piece.begun);
        let width = (WIDTH * span.share(piece.end) - left).max(0.4);
        rectangle(
            paths.entry(piece.class).or_default(),
            left,
            top,
            width,
            height,
        );
    }
    collect(paths)
}

/// Columns of equal time: the higher, the more of the time of `seats` replicas.
pub(super) fn columns(pieces: &[Piece], span: Span, number: usize, seats: usize) -> Vec<Shape> {
    let mut filled: BTreeMap<(usize, &'static str), Vec<f64>> = BTreeMap::new();
    for piece in pieces {
        let bins = filled
            .entry((piece.row, piece.class))
            .or_insert_with(|| vec![0.0; number]);
        fill(bins, span, piece);
    }
    let most = span.seconds() / number as f64 * seats as f64;
    let mut below: [Vec<f64>; 3] = std::array::from_fn(|_| vec![0.0; number]);
    let mut paths: BTreeMap<&'static str, String> = BTreeMap::new();
    for ((row, class), bins) in filled {
        let path = paths.entry(class).or_default();
        stack(path, row, &bins, most, &mut below[row]);
    }
    collect(paths)
}

/// Adds the seconds of a piece to the columns it lies in.
fn fill(bins: &mut [f64], span: Span, piece: &Piece) {
    let count = bins.len() as f64;
    let (from, to) = (
        span.share(piece.begun) * count,
        span.share(piece.end) * count,
    );
    let column = span.seconds() / count;
    let last = (to as usize).min(bins.len().saturating_sub(1));
    for (place, bin) in bins
        .iter_mut()
        .enumerate()
        .take(last + 1)
        .skip(from as usize)
    {
        let inside = to.min(place as f64 + 1.0) - from.max(place as f64);
        *bin += inside.max(0.0) * column;
    }
}

/// Draws columns on top of what is `below`; equal neighbours become one.
fn stack(path: &mut String, row: usize, bins: &[f64], most: f64, below: &mut [f64]) {
    let (top, height) = ROWS[row];
    let width = WIDTH / bins.len() as f64;
    let level = |share: f64| (share.clamp(0.0, 1.0) * LEVELS).round() / LEVELS * height;
    let spans: Vec<(f64, f64)> = bins
        .iter()
        .zip(below)
        .map(|(seconds, below)| {
            let bottom = level(*below);
            *below += seconds / most;
            (bottom, level(*below))
        })
        .collect();
    let mut place = 0;
    for run in spans.chunk_by(|one, two| one == two) {
        let (from, to) = run[0];
        if to > from {
            let left = place as f64 * width;
            rectangle(
                path,
                left,
                top + height - to,
                run.len() as f64 * width,
                to - from,
            );
        }
        place += run.len();
    }
}

fn rectangle(path: &mut String, left: f64, top: f64, width: f64, height: f64) {
    // Writing to a text cannot fail.
    let _ = write!(
        path,
        "M{left:.1} {top:.1}h{width:.1}v{height:.1}h-{width:.1}z"
    );
}

fn collect(paths: BTreeMap<&'static str, String>) -> Vec<Shape> {
    let paths = paths.into_iter().filter(|(_, path)| !path.is_empty());
    paths.map(|(class, path)| Shape { class, path }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span {
        begun: 0.0,
        end: 100.0,
    };

    fn piece(row: usize, class: &'static str, begun: f64, end: f64) -> Piece {
        Piece {
            row,
            class,
            begun,
            end,
        }
    }

    #[test]
    fn columns_add_up_to_the_time() {
        let mut bins = vec![0.0; 10];
        let pieces = [
            piece(1, "denoise", 5.0, 25.0),
            piece(1, "denoise", 95.0, 100.0),
        ];
        for piece in &pieces {
            fill(&mut bins, SPAN, piece);
        }
        assert_eq!(bins, [5.0, 10.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0]);
    }

    #[test]
    fn a_full_column_fills_its_row_and_equal_ones_are_one() {
        let shapes = columns(&[piece(1, "denoise", 0.0, 50.0)], SPAN, 10, 1);
        assert_eq!(shapes.len(), 1);
        assert_eq!(shapes[0].path, "M0.0 8.0h500.0v18.0h-500.0z");
    }

    #[test]
    fn what_was_lost_stands_on_what_was_kept() {
        let pieces = [piece(1, "denoise", 0.0, 5.0), piece(1, "lost", 5.0, 10.0)];
        let shapes = columns(&pieces, SPAN, 10, 1);
        let paths: Vec<_> = shapes
            .iter()
            .map(|shape| (shape.class, shape.path.as_str()))
            .collect();
        let wanted = [
            ("denoise", "M0.0 17.0h100.0v9.0h-100.0z"),
            ("lost", "M0.0 8.0h100.0v9.0h-100.0z"),
        ];
        assert_eq!(paths, wanted);
    }

    #[test]
    fn several_replicas_share_a_column() {
        let pieces = [
            piece(1, "denoise", 0.0, 10.0),
            piece(1, "denoise", 0.0, 10.0),
        ];
        let shapes = columns(&pieces, SPAN, 10, 4);
        assert_eq!(shapes[0].path, "M0.0 17.0h100.0v9.0h-100.0z");
    }
}
