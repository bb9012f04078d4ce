//! The reader of journals.

use std::io;
use std::path::Path;

use super::files::{JournalFiles, LocalFiles};
use super::recovered::recover_attempts;
use super::{Entry, Line, Live, Own, Shift, shifts_folder};

/// Reads all journals of the run folder `run`, in the order in which the shifts began. A line that
/// is not whole, or not known to this version, counts as not there.
///
/// # Errors
/// The folder of the journals cannot be listed or a journal cannot be read; no folder is no error.
pub fn read_shifts(run: &Path) -> io::Result<Vec<Shift>> {
    read_shifts_in(&LocalFiles, run)
}

/// As [`read_shifts`], of a run folder among `files`.
///
/// # Errors
/// As [`read_shifts`].
pub fn read_shifts_in(files: &dyn JournalFiles, run: &Path) -> io::Result<Vec<Shift>> {
    let mut shifts = Vec::new();
    for id in ids(files, run)? {
        shifts.extend(shift_of(files, run, &id)?);
    }
    shifts.sort_by(|one, two| one.begun.total_cmp(&two.begun).then(one.id.cmp(&two.id)));
    recover_attempts(shifts.iter_mut());
    Ok(shifts)
}

/// The shifts that have a journal.
pub(super) fn ids(files: &dyn JournalFiles, run: &Path) -> io::Result<Vec<String>> {
    let names = files.list(&shifts_folder(run))?;
    let id = |name: &String| name.strip_suffix(".jsonl").map(str::to_owned);
    Ok(names.iter().filter_map(id).collect())
}

/// Reads the journal of the shift `id`; `None` if it has not even begun.
///
/// # Errors
/// The journal cannot be read.
pub fn read_shift(run: &Path, id: &str) -> io::Result<Option<Shift>> {
    shift_of(&LocalFiles, run, id)
}

fn shift_of(files: &dyn JournalFiles, run: &Path, id: &str) -> io::Result<Option<Shift>> {
    let folder = shifts_folder(run);
    // Before the lines: an attempt that ended between the two is then in both, not in none.
    let live = live_of(files, &folder, id);
    let bytes = files.read_from(&folder.join(format!("{id}.jsonl")), 0)?;
    Ok(assemble(id, lines_of(&bytes), live))
}

pub(super) fn live_of(files: &dyn JournalFiles, folder: &Path, id: &str) -> Option<Live> {
    let path = folder.join(format!("{id}.live.json"));
    let bytes = files.read_from(&path, 0).ok()?;
    serde_json::from_slice(&bytes).ok()
}

pub(super) fn lines_of(bytes: &[u8]) -> impl Iterator<Item = Line> {
    let lines = bytes.split(|&byte| byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice(line).ok())
}

fn assemble(id: &str, mut lines: impl Iterator<Item = Line>, live: Option<Live>) -> Option<Shift> {
    let mut shift = lines.find_map(|line| Shift::begin(id, line))?;
    lines.for_each(|line| shift.take(line));
    shift.hear(live);
    Some(shift)
}

impl Shift {
    /// The shift that begins with `first`, if that is a beginning.
    pub(super) fn begin(id: &str, first: Line) -> Option<Self> {
        let Entry::Own(Own::Begun(start)) = first.entry else {
            return None;
        };
        Some(Self {
            id: id.to_owned(),
            start,
            begun: first.at,
            loaded: None,
            attempts: Vec::new(),
            recovered: Vec::new(),
            plans: Vec::new(),
            incidents: Vec::new(),
            end: None,
            last_seen: first.at,
            live: None,
        })
    }

    /// Goes on with the next line.
    pub(super) fn take(&mut self, Line { at, entry }: Line) {
        self.last_seen = self.last_seen.max(at);
        match entry {
            Entry::Own(Own::Begun(_)) => {}
            Entry::Own(Own::Loaded { .. }) => self.loaded = Some(at),
            Entry::Own(Own::Shot(mut attempt)) => {
                attempt.ended = at;
                self.attempts.push(attempt);
            }
            Entry::Own(Own::Plan(mut plan)) => {
                plan.ended = at;
                self.plans.push(plan);
            }
            Entry::Own(Own::Ended { how }) => self.end = Some((at, how)),
            Entry::Incident(incident) => self.incidents.push((at, incident)),
        }
    }

    /// What it is at now; nothing if that cannot be read.
    pub(super) fn hear(&mut self, live: Option<Live>) {
        if let Some(live) = live {
            self.last_seen = self.last_seen.max(live.at);
            self.live = Some(live);
        }
    }
}
