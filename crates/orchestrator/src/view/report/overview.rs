//! The first page: totals, the timeline, what needs attention, and the table of all stories.

use serde::Serialize;
use storyloom_telemetry::shift::{Shift, Split};

use super::story::Row;
use super::text::{duration, film, grouped, percent};
use super::timeline::{self, Timeline};
use crate::config::Videos;
use crate::folder::run_folder::{RunFile, RunFolder};
use crate::view::status::{Counts, Looks};

/// Rows in one file of data.
pub(super) const PART: usize = 500;
/// Rows of the table that stand in the page itself, before any script has run.
const FIRST_ROWS: usize = 50;
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
    /// Stories that were to remember and kept no keyframe.
    pub without_keyframes: usize,
    pub headline: String,
    pub stories: Counts,
    pub shots: Counts,
    /// States that at least one story has, in the order in which they are drawn.
    pub standing: Vec<Part>,
    pub figures: Vec<Figure>,
    pub shares: Option<Vec<Share>>,
    pub attention: Vec<Row>,
    pub attention_more: usize,
    /// Lets those back that were given up, if there are any.
    pub retry: Option<String>,
    pub timeline: Option<Timeline>,
    pub first: Vec<Line>,
    pub parts: usize,
}

/// How many stories are in a state.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub name: Looks,
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

/// What the page is made from.
pub(super) struct Facts<'a> {
    /// What the run is called.
    pub name: &'a str,
    pub folder: &'a RunFolder,
    pub run: &'a RunFile,
    pub rows: &'a [Row],
    pub shifts: &'a [Shift],
    /// Of all ranks, in seconds.
    pub time: Split,
    /// Whether a shift is still at work.
    pub goes_on: &'a dyn Fn(&Shift) -> bool,
}

/// Puts the page together.
pub(super) fn view(facts: Facts) -> Overview {
    let Facts {
        folder, run, rows, ..
    } = facts;
    let (mut stories, mut shots) = (Counts::default(), Counts::default());
    for row in rows {
        row.looks
            .tally(row.shots, row.done, &mut stories, &mut shots);
    }
    let given_up = |row: &Row| matches!(row.looks, Looks::Failed | Looks::Quarantined);
    let lost = |row: &&Row| given_up(row) || row.looks == Looks::Changed;
    let attention: Vec<Row> = rows.iter().filter(lost).take(NAMED).cloned().collect();
    let root = std::path::absolute(folder.root()).unwrap_or_else(|_| folder.root().to_owned());
    let root = root.to_string_lossy();
    let lines = first(rows).iter().zip(1..).map(|(row, place)| Line {
        place,
        row: row.clone(),
        film: film(row.film),
        work: duration(row.useful),
    });
    Overview {
        run: facts.name.to_owned(),
        engine: run.engine.engine.clone(),
        version: run.version.clone(),
        has_videos: run.identity.videos == Videos::Encoded,
        without_keyframes: rows.iter().filter(|row| row.no_keyframes).count(),
        headline: headline(&stories),
        standing: standing(&stories),
        figures: figures(&facts, &stories, &shots),
        shares: shares(&facts.time),
        attention_more: stories.failed + stories.quarantined - attention.len(),
        attention,
        retry: rows.iter().any(given_up).then(|| {
            let root = shlex::try_quote(&root).unwrap_or_default();
            format!("storyloom retry {root}")
        }),
        timeline: timeline::draw(facts.shifts, facts.goes_on),
        first: lines.collect(),
        parts: parts(rows.len()),
        stories,
        shots,
    }
}

/// How many files of data a table of `rows` rows has.
fn parts(rows: usize) -> usize {
    rows.div_ceil(PART)
}

/// The rows that stand in the page itself.
fn first(rows: &[Row]) -> &[Row] {
    &rows[..rows.len().min(FIRST_ROWS)]
}

fn standing(stories: &Counts) -> Vec<Part> {
    let parts = Looks::ALL.map(|looks| (looks, looks.count(stories)));
    let there = parts.into_iter().filter(|(_, count)| *count > 0);
    there.map(|(name, count)| Part { name, count }).collect()
}

fn headline(stories: &Counts) -> String {
    let given_up = stories.failed + stories.quarantined;
    let made = match (stories.total, stories.done) {
        (0, _) => "There is no story in this run.".to_owned(),
        (1, 1) => "The story is made.".to_owned(),
        (total, done) if total == done => {
            format!("All {} stories are made.", grouped(total as u64))
        }
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

fn figures(facts: &Facts, stories: &Counts, shots: &Counts) -> Vec<Figure> {
    let of = |total: usize| format!("of {}", grouped(total as u64));
    let seconds = facts.rows.iter().map(|row| row.film).sum();
    let mut figures = vec![
        figure("Stories", grouped(stories.done as u64), of(stories.total)),
        figure("Shots", grouped(shots.done as u64), of(shots.total)),
        figure("Film", duration(seconds), "of video"),
    ];
    let Some(goodput) = facts.time.goodput() else {
        // Folders of earlier versions have no journals.
        let work = facts.rows.iter().map(|row| row.useful).sum();
        figures.push(figure("Work", duration(work), "that made the shots"));
        return figures;
    };
    let hours = duration(facts.time.total());
    figures.push(figure(
        "Goodput",
        percent(goodput),
        format!("of {hours} of all ranks"),
    ));
    let stopped = facts.shifts.iter();
    let stopped = stopped.filter(|shift| timeline::preempted(shift, (facts.goes_on)(shift)));
    let shifts = match facts.shifts.len() {
        1 => "in one shift".to_owned(),
        count => format!("in {} shifts", grouped(count as u64)),
    };
    figures.push(figure(
        "Preemptions",
        grouped(stopped.count() as u64),
        shifts,
    ));
    figures
}

fn figure(name: &'static str, value: String, note: impl Into<String>) -> Figure {
    Figure {
        name,
        value,
        note: note.into(),
    }
}

/// What the time of all ranks went into; `None` if nobody noted it.
fn shares(time: &Split) -> Option<Vec<Share>> {
    let total = time.total();
    let parts = [
        ("useful", time.useful),
        ("wasted", time.wasted),
        ("load", time.load),
        ("idle", time.idle),
    ];
    let share = |(name, seconds): (&'static str, f64)| Share {
        name,
        percent: (10_000.0 * seconds / total).round() / 100.0,
        text: percent(seconds / total),
        time: duration(seconds),
    };
    (total > 0.0).then(|| parts.into_iter().map(share).collect())
}
