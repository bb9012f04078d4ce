//! Loss curves as a picture.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::error::{Result, TrainError};
use crate::stage::Point;

/// Size of the drawing and of its margins.
const SIZE: [f64; 2] = [640.0, 320.0];
const MARGIN: f64 = 48.0;

/// The points of a loss curve, one JSON object a line; none if the file is not there. A line that
/// was cut short is left out, and of equal steps the last counts: a resumed run may repeat some.
pub fn read(path: &Path) -> Result<Vec<Point>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).map_err(|error| TrainError::io(path, error))?;
    let mut points: Vec<Point> = Vec::new();
    for point in text
        .lines()
        .filter_map(|line| serde_json::from_str::<Point>(line).ok())
    {
        while points.last().is_some_and(|last| last.step >= point.step) {
            points.pop();
        }
        points.push(point);
    }
    Ok(points)
}

/// Draws the loss over the steps, both axes logarithmic, as SVG.
pub fn draw(title: &str, points: &[Point]) -> String {
    let [width, height] = SIZE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    let usable = |point: &&Point| point.step > 0 && point.loss > 0.0;
    let logs: Vec<[f64; 2]> = points
        .iter()
        .filter(usable)
        .map(|point| [(point.step as f64).ln(), point.loss.ln()])
        .collect();
    let range = |axis: usize| {
        let values = logs.iter().map(move |log| log[axis]);
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        (low, (high - low).max(1e-6))
    };
    if !logs.is_empty() {
        let (x, y) = (range(0), range(1));
        let place = |log: &[f64; 2]| {
            let across = (log[0] - x.0) / x.1 * (width - 2.0 * MARGIN) + MARGIN;
            let down = (1.0 - (log[1] - y.0) / y.1) * (height - 2.0 * MARGIN) + MARGIN;
            format!("{across:.1},{down:.1}")
        };
        let line: Vec<String> = logs.iter().map(place).collect();
        // Writing to a text cannot fail.
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"#2b6cb0\" stroke-width=\"1.5\" points=\"{}\"/>",
            line.join(" ")
        );
        let labels = [
            (MARGIN, height - 24.0, format!("{:.0}", x.0.exp())),
            (
                width - 2.0 * MARGIN,
                height - 24.0,
                format!("{:.0} steps", (x.0 + x.1).exp()),
            ),
            (4.0, height - MARGIN, format!("{:.4}", y.0.exp())),
            (4.0, MARGIN, format!("{:.4}", (y.0 + y.1).exp())),
        ];
        for (x, y, text) in labels {
            let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\">{text}</text>");
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64, loss: f64) -> Point {
        Point {
            step,
            loss,
            gradient: 1.0,
            seconds: 0.0,
        }
    }

    #[test]
    fn steps_that_a_resume_repeats_count_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curve.jsonl");
        let mut text = String::new();
        for point in [
            point(2, 0.5),
            point(4, 0.4),
            point(6, 0.9),
            point(4, 0.3),
            point(6, 0.2),
        ] {
            text += &format!("{}\n", serde_json::to_string(&point).unwrap());
        }
        text += "{\"step\":8,\"lo";
        fs::write(&path, text).unwrap();
        let points = read(&path).unwrap();
        assert_eq!(points, [point(2, 0.5), point(4, 0.3), point(6, 0.2)]);
        let svg = draw("t", &points);
        assert!(svg.contains("polyline") && svg.contains("6 steps"), "{svg}");
        assert!(!draw("nothing", &[]).contains("polyline"));
    }
}
