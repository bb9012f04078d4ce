//! Scores as text and CSV. No field needs quotes: names and ids have no commas.

use std::fmt::Write as _;

use storyloom_tinyworld::Attribute;

use super::folder::StoryReading;
use super::interval::Interval;
use super::metric::{Metric, is_told};
use super::score::RunScores;
use super::{Evaluation, compare::Comparison};

/// One line per story, one column per metric.
pub fn stories_csv(runs: &[RunScores]) -> String {
    let mut csv = "run,story,shots_missing".to_owned();
    for metric in Metric::ALL {
        let _ = write!(csv, ",{}", metric.name().replace(", ", " "));
    }
    csv.push('\n');
    for (number, run) in (1..).zip(runs) {
        for story in &run.by_story {
            let _ = write!(csv, "{number},{},{}", story.story, story.shots_missing);
            for metric in Metric::ALL {
                let score = story.metrics.get(metric);
                let score = score.map_or_else(String::new, |score| format!("{score:.6}"));
                let _ = write!(csv, ",{score}");
            }
            csv.push('\n');
        }
    }
    csv
}

/// One line per shot and attribute: what should be seen and what is.
pub fn shots_csv(runs: &[Vec<StoryReading>]) -> String {
    let mut csv = "run,story,shot,attribute,told,true,read,sure\n".to_owned();
    for (number, run) in (1..).zip(runs) {
        for reading in run {
            let ids = reading.story.script();
            let ids = ids.shots().map(|(id, _)| id);
            let shots = reading.story.shots.iter().zip(&reading.shots);
            for (id, (shot, read)) in ids.zip(shots) {
                let Some(read) = read else { continue };
                for &attribute in Attribute::ALL {
                    let Some(class) = attribute.of(&shot.scene) else {
                        continue;
                    };
                    let classes = attribute.classes();
                    let best = read.best(attribute);
                    let _ = writeln!(
                        csv,
                        "{number},{},{id},{},{},{},{},{:.4}",
                        reading.story.id,
                        attribute.name(),
                        is_told(shot, attribute),
                        classes[class],
                        classes[best],
                        read.shares(attribute)[best],
                    );
                }
            }
        }
    }
    csv
}

/// The figures for people.
pub fn text(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    for run in &evaluation.runs {
        let _ = writeln!(
            text,
            "{}: {} stories, {} shots{}",
            run.run.display(),
            run.stories,
            run.shots,
            match run.shots_missing {
                0 => String::new(),
                missing => format!(", {missing} not made"),
            },
        );
        for (metric, interval) in &run.metrics {
            let _ = writeln!(text, "  {:<38}{}", metric.name(), shown(interval, 100.0));
        }
    }
    for comparison in &evaluation.comparisons {
        compared(&mut text, comparison);
    }
    text
}

fn compared(text: &mut String, comparison: &Comparison) {
    let _ = writeln!(
        text,
        "{} against {}, {} stories, relative gain",
        comparison.run.display(),
        comparison.baseline.display(),
        comparison.stories,
    );
    for (metric, change) in &comparison.metrics {
        let _ = writeln!(
            text,
            "  {:<38}{}",
            metric.name(),
            shown(&change.relative, 100.0)
        );
    }
}

/// "63.1 %  (60.2 to 66.0)".
fn shown(interval: &Interval, scale: f64) -> String {
    let [value, low, high] = [interval.value, interval.low, interval.high].map(|x| x * scale);
    format!("{value:>6.1} %  ({low:.1} to {high:.1})")
}
