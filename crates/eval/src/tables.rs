//! Scores as text and CSV. No field needs quotes: names and ids have no commas.

use std::fmt::Write as _;
use std::path::Path;

use storyloom_story::ShotId;
use storyloom_tinyworld::Attribute;

use super::folder::StoryReading;
use super::interval::Interval;
use super::metric::Metric;
use super::score::RunScores;
use super::{Evaluation, Figures, compare::Comparison};

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
                        shot.tells(attribute),
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

/// One line per latent frame that a shot saw; shots as in file names, latent frames from 0. Empty if no network
/// chose any.
pub fn selected_csv(runs: &[Vec<StoryReading>]) -> String {
    let mut csv = String::new();
    for (number, run) in (1..).zip(runs) {
        for reading in run {
            let ids: Vec<ShotId> = reading.story.script().shots().map(|(id, _)| id).collect();
            for (shot, selection) in reading.selections.iter().enumerate() {
                let holders = reading.story.holders(shot);
                for seen in selection.iter().flat_map(|selection| &selection.frames) {
                    let _ = writeln!(
                        csv,
                        "{number},{},{},{},{},{:.6},{},{}",
                        reading.story.id,
                        ids[shot],
                        ids[seen.shot],
                        seen.frame,
                        seen.score,
                        seen.kernel,
                        holders.contains(&seen.shot),
                    );
                }
            }
        }
    }
    match csv.is_empty() {
        true => csv,
        false => format!("run,story,shot,of_shot,frame,score,kernel,holds_it\n{csv}"),
    }
}

/// The figures as a table for documents: a column per run, then the gains of each run over the first one.
pub fn markdown(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    markdown_figures(&mut text, &evaluation.all);
    for (pattern, figures) in &evaluation.patterns {
        let _ = writeln!(text, "\n{}:\n", pattern.name());
        markdown_figures(&mut text, figures);
    }
    text
}

fn markdown_figures(text: &mut String, figures: &Figures) {
    let runs = &figures.runs;
    let names = runs
        .iter()
        .map(|run| format!("{}, {} stories", name(&run.run), run.stories));
    rows(text, names, |metric| {
        let of_runs = runs.iter().map(|run| run.metrics.get(&metric).copied());
        of_runs.collect()
    });
    let others = &figures.comparisons;
    let Some(first) = others.first() else { return };
    let _ = writeln!(text, "\nLess {}, in points:\n", name(&first.baseline));
    let names = others.iter().map(|other| name(&other.run));
    rows(text, names, |metric| {
        let changes = others.iter().map(|other| other.metrics.get(&metric));
        changes.map(|change| Some(change?.difference)).collect()
    });
}

/// A table with a row for every metric that has a figure.
fn rows(
    text: &mut String,
    columns: impl Iterator<Item = String>,
    figures: impl Fn(Metric) -> Vec<Option<Interval>>,
) {
    let columns: Vec<String> = columns.collect();
    let _ = writeln!(text, "| | {} |", columns.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
    for &metric in Metric::ALL {
        let figures = figures(metric);
        if figures.iter().any(Option::is_some) {
            let _ = write!(text, "| {} |", metric.name());
            for figure in figures {
                let cell = figure.map(|figure| shown(&figure, 100.0));
                let words = cell.iter().flat_map(|cell| cell.split_whitespace());
                let _ = write!(text, " {} |", words.collect::<Vec<_>>().join(" "));
            }
            text.push('\n');
        }
    }
}

/// What a run folder is called.
fn name(run: &Path) -> String {
    let name = run.file_name().unwrap_or(run.as_os_str());
    name.to_string_lossy().into_owned()
}

/// The figures for people.
pub fn text(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    figures(&mut text, &evaluation.all);
    for (pattern, of_pattern) in &evaluation.patterns {
        let _ = writeln!(text, "\n{}", pattern.name());
        figures(&mut text, of_pattern);
    }
    text
}

fn figures(text: &mut String, figures: &Figures) {
    for run in &figures.runs {
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
    for comparison in &figures.comparisons {
        compared(text, comparison);
    }
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
            match &change.relative {
                Some(share) => shown(share, 100.0),
                None => "     –    the baseline may have nothing of it".to_owned(),
            }
        );
    }
}

/// "63.1 %  (60.2 to 66.0)".
fn shown(interval: &Interval, scale: f64) -> String {
    let [value, low, high] = [interval.value, interval.low, interval.high].map(|x| x * scale);
    format!("{value:>6.1} %  ({low:.1} to {high:.1})")
}
