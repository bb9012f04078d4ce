//! The first page: totals, the night, what needs attention, and the table of all stories.

use serde::Serialize;
use storyloom_telemetry::shift::Shift;

use super::night::{self, Night};
use super::pages::{first, parts};
use super::story::Row;
use super::text::{duration, film, grouped, percent};
use crate::config::Videos;
use crate::run_folder::{RunFile, RunFolder};
use crate::status::{Counts, Standing};

/// Stories named under what needs attention; the table has all.
const NAMED: usize = 6;

/// The page.
#[derive(Debug, Serialize)]
pub(super) struct Overview {
    /// What the run is called.
    pub run: String,
    pub engine: String,
    pub version: String,
    pub has_videos: bool,
    pub headline: String,
    pub stories: Counts,
    pub shots: Counts,
    /// States that at least one story has, in the order in which they are drawn.
    pub standing: Vec<Part>,
    pub figures: Vec<Figure>,
    pub shares: Option<Vec<Share>>,
    pub trouble: Vec<Row>,
    pub trouble_more: usize,
    pub retry: String,
    pub night: Option<Night>,
    pub first: Vec<Line>,
    pub parts: usize,
}

/// How many stories are in a state.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub name: Standing,
    pub count: usize,
}

/// A number at the top of the page.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    pub name: &'static str,
    pub value: String,
    pub note: String,
}

/// A part of the time that the ranks were there.
#[derive(Debug, Serialize)]
pub(super) struct Share {
    pub name: &'static str,
    pub percent: f64,
    pub text: String,
    pub time: String,
}

/// A row of the table, as the page shows it.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub place: usize,
    pub row: Row,
    pub film: String,
    pub work: String,
}

/// Puts the page together.
pub(super) fn view(
    name: &str,
    folder: &RunFolder,
    run: &RunFile,
    rows: &[Row],
    shifts: &[Shift],
    goes_on: impl Fn(&Shift) -> bool,
) -> Overview {
    let (mut stories, mut shots) = (Counts::default(), Counts::default());
    for row in rows {
        row.standing.tally(row.shots, row.done, &mut stories, &mut shots);
    }
    let lost = |row: &&Row| matches!(row.standing, Standing::Failed | Standing::Quarantined);
    let trouble: Vec<Row> = rows.iter().filter(lost).take(NAMED).cloned().collect();
    let root = std::path::absolute(folder.root()).unwrap_or_else(|_| folder.root().to_owned());
    let root = root.to_string_lossy();
    let lines = first(rows).iter().zip(1..).map(|(row, place)| Line {
        place,
        row: row.clone(),
        film: film(row.film),
        work: duration(row.useful),
    });
    Overview {
        run: name.to_owned(),
        engine: run.engine.engine.clone(),
        version: run.version.clone(),
        has_videos: run.videos() == Videos::Encoded,
        headline: headline(&stories),
        standing: standing(&stories),
        figures: figures(rows, &stories, &shots, shifts, &goes_on),
        shares: None,
        trouble_more: stories.failed + stories.quarantined - trouble.len(),
        trouble,
        retry: format!("storyloom retry {}", shlex::try_quote(&root).unwrap_or_default()),
        night: night::draw(shifts, &goes_on),
        first: lines.collect(),
        parts: parts(rows.len()),
        stories,
        shots,
    }
}

fn standing(stories: &Counts) -> Vec<Part> {
    let parts = [
        (Standing::Done, stories.done),
        (Standing::Running, stories.running),
        (Standing::Pending, stories.pending),
        (Standing::Failed, stories.failed),
        (Standing::Quarantined, stories.quarantined),
    ];
    let there = parts.into_iter().filter(|(_, count)| *count > 0);
    there.map(|(name, count)| Part { name, count }).collect()
}

fn headline(stories: &Counts) -> String {
    let given_up = stories.failed + stories.quarantined;
    let made = match (stories.total, stories.done) {
        (0, _) => "There is no story in this run.".to_owned(),
        (1, 1) => "The story is made.".to_owned(),
        (total, done) if total == done => format!("All {} stories are made.", grouped(total as u64)),
        (total, done) => format!(
            "{} of {} stories are made.",
            grouped(done as u64),
            grouped(total as u64)
        ),
    };
    match given_up {
        0 => made,
        1 => format!("{made} One needs attention."),
        _ => format!("{made} {} need attention.", grouped(given_up as u64)),
    }
}

fn figures(
    rows: &[Row],
    stories: &Counts,
    shots: &Counts,
    shifts: &[Shift],
    goes_on: impl Fn(&Shift) -> bool,
) -> Vec<Figure> {
    let useful: f64 = rows.iter().map(|row| row.useful).sum();
    let lost: f64 = rows.iter().map(|row| row.lost).sum();
    let of = |done: usize, total: usize| format!("of {}", grouped(total.max(done) as u64));
    let mut figures = vec![
        Figure {
            name: "Stories",
            value: grouped(stories.done as u64),
            note: of(stories.done, stories.total),
        },
        Figure {
            name: "Shots",
            value: grouped(shots.done as u64),
            note: of(shots.done, shots.total),
        },
        Figure {
            name: "Film",
            value: duration(rows.iter().map(|row| row.film).sum()),
            note: "of video".to_owned(),
        },
    ];
    if useful > 0.0 {
        figures.push(Figure {
            name: "Goodput",
            value: percent(useful / (useful + lost)),
            note: format!("{} of work kept", duration(useful)),
        });
    }
    if !shifts.is_empty() {
        let stopped = shifts.iter().filter(|shift| night::preempted(shift, goes_on(shift)));
        figures.push(Figure {
            name: "Preemptions",
            value: grouped(stopped.count() as u64),
            note: format!("in {} shifts", grouped(shifts.len() as u64)),
        });
    }
    figures
}
