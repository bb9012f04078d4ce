//! The report of a run: static pages below `DIR/report/` that open from disk, made from the records
//! of the shots and the journals of the shifts only.
//!
//! ```text
//! report/index.html        overview: totals, the timeline, what needs attention, all stories
//! report/stories/ID.html   a story: its shots, what each saw, how it was made
//! report/data/N.js         rows of the table of stories, a part in each
//! report/pictures/ID/      small copies of keyframes
//! report/assets/           style sheet and scripts
//! report/cache.json        what the next report need not read again
//! ```
//!
//! A second report writes again only what changed.

mod attempts;
mod brief;
mod cache;
mod files;
mod history;
mod lane;
mod lineage;
mod overview;
mod pages;
mod pictures;
mod story;
mod text;
mod timeline;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use storyloom_story::StoryId;
use storyloom_telemetry::shift::{Extent, Shift, accounting};

use attempts::AllAttempts;
use cache::{Cache, Known};
use overview::Facts;
use pages::{Neighbours, Pages};
use story::Row;

use crate::error::RunError;
use crate::folder::run_folder::{RunFile, RunFolder};
use crate::folder::set_aside::marks;
use crate::view::status::{Hands, Looks, ObservedState, now, shifts};

/// What a report has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The overview.
    pub page: PathBuf,
    /// Stories of the run.
    pub stories: usize,
    /// Pages of stories that were made again, since something about them had changed.
    pub changed: usize,
}

/// Writes the report of the run in `folder`.
///
/// # Errors
/// The folder is no run, a story's file cannot be read, or the report cannot be written. A damaged
/// commit record counts as not there, and a picture that cannot be read is left out.
pub fn write_report(folder: &RunFolder) -> Result<Written, RunError> {
    let run = folder.run_file()?;
    let shifts = shifts(folder);
    let now = now();
    let goes_on = |shift: &Shift| shift.goes_on(now);
    let report = Report {
        folder,
        run: &run,
        pages: Pages::new(folder)?,
        attempts: AllAttempts::of(&shifts, goes_on),
        hands: Hands::of(folder, shifts.iter(), goes_on),
        marks: marks(folder)?,
    };
    let (rows, changed) = report.stories()?;
    let overview = overview::view(Facts {
        name: report.pages.run(),
        folder,
        run: &run,
        rows: &rows,
        shifts: &shifts,
        time: accounting(&shifts, now, Extent::Everything).total(),
        goes_on: &goes_on,
    });
    report.pages.write_overview(&overview)?;
    report.pages.write_rows(&rows)?;
    Ok(Written {
        page: report.pages.index(),
        stories: rows.len(),
        changed,
    })
}

struct Report<'a> {
    folder: &'a RunFolder,
    run: &'a RunFile,
    pages: Pages,
    attempts: AllAttempts,
    hands: Hands<'a>,
    /// Why stories are set aside.
    marks: BTreeMap<StoryId, String>,
}

impl Report<'_> {
    /// Writes the pages of stories that changed; returns every story's row, and how many changed.
    fn stories(&self) -> Result<(Vec<Row>, usize), RunError> {
        let path = self.pages.root().join("cache.json");
        let storage = self.folder.storage().as_ref();
        let before = Cache::read(storage, &path, &self.pages.form(self.run));
        let changed = AtomicUsize::new(0);
        let known: Vec<Known> = (0..self.run.stories.len())
            .into_par_iter()
            .map(|place| {
                let fingerprint = self.fingerprint(place);
                let id = &self.run.stories[place];
                let known = before.row(id, &fingerprint);
                match known.filter(|row| self.looks(id, row.observed) == row.looks) {
                    Some(row) if storage.exists(&self.pages.story_path(id)) => Ok(Known {
                        fingerprint,
                        row: row.clone(),
                    }),
                    _ => {
                        changed.fetch_add(1, Ordering::Relaxed);
                        let row = self.story(place)?;
                        Ok(Known { fingerprint, row })
                    }
                }
            })
            .collect::<Result<_, RunError>>()?;
        let rows = known.iter().map(|known| known.row.clone()).collect();
        Cache::write(storage, &path, self.pages.form(self.run), known)?;
        Ok((rows, changed.into_inner()))
    }

    fn story(&self, place: usize) -> Result<Row, RunError> {
        let id = &self.run.stories[place];
        let file = self.folder.story_to_show(id);
        let attempts = self.attempts.story(id);
        let set_aside = self.marks.get(id);
        let looks = |observed| self.looks(id, observed);
        let (view, row) = story::view(self.folder, &file, self.run, attempts, (&looks, set_aside))?;
        self.pages.write_story(&view, self.neighbours(place))?;
        Ok(row)
    }

    /// How a story stands, as `status` has it.
    fn looks(&self, id: &StoryId, observed: ObservedState) -> Looks {
        let set_aside = self.marks.contains_key(id);
        let is_begun = observed == ObservedState::Running && !set_aside;
        Looks::of(observed, is_begun && !self.hands.have(id), set_aside)
    }

    /// Changes when anything does that the page of the story shows, but for how it [looks](Self::looks).
    fn fingerprint(&self, place: usize) -> String {
        let id = &self.run.stories[place];
        let Neighbours { before, after } = self.neighbours(place);
        let mut hasher = cache::files(self.folder.storage().as_ref(), &self.folder.story(id));
        hasher.update(&self.attempts.story(id).fingerprint().to_le_bytes());
        hasher.update(self.marks.get(id).map_or(b"", |reason| reason.as_bytes()));
        for neighbour in [before, after] {
            hasher.update(neighbour.map_or("", StoryId::as_str).as_bytes());
            hasher.update(b"\0");
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    fn neighbours(&self, place: usize) -> Neighbours<'_> {
        Neighbours {
            before: place.checked_sub(1).map(|place| &self.run.stories[place]),
            after: self.run.stories.get(place + 1),
        }
    }
}
