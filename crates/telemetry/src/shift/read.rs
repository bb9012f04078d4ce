//! The reader of journals.

use std::fs;
use std::io;
use std::path::Path;

use super::{Entry, Line, Live, Own, Shift, shifts_folder};

/// Reads all journals of the run folder `run`, in the order in which the shifts began. A line that
/// is not whole, or not known to this version, counts as not there.
///
/// # Errors
/// The folder of the journals cannot be listed or a journal cannot be read; no folder is no error.
pub fn read_shifts(run: &Path) -> io::Result<Vec<Shift>> {
    let folder = shifts_folder(run);
    let names = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names?,
    };
    let mut shifts = Vec::new();
    for name in names {
        let name = name?.file_name();
        if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".jsonl")) {
            shifts.extend(read_shift(run, id)?);
        }
    }
    shifts.sort_by(|one, two| one.begun.total_cmp(&two.begun).then(one.id.cmp(&two.id)));
    Ok(shifts)
}

/// Reads the journal of the shift `id`; `None` if it has not even begun.
///
/// # Errors
/// The journal cannot be read.
pub fn read_shift(run: &Path, id: &str) -> io::Result<Option<Shift>> {
    let folder = shifts_folder(run);
    // Before the lines: an attempt that ended between the two is then in both, not in none.
    let live = fs::read(folder.join(format!("{id}.live.json"))).ok();
    let live = live.and_then(|bytes| serde_json::from_slice::<Live>(&bytes).ok());
    let bytes = fs::read(folder.join(format!("{id}.jsonl")))?;
    let lines = bytes
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    Ok(assemble(id, lines, live))
}

fn assemble(id: &str, mut lines: impl Iterator<Item = Line>, live: Option<Live>) -> Option<Shift> {
    let first = lines.next()?;
    let Entry::Own(Own::Begun(start)) = first.entry else {
        return None;
    };
    let mut shift = Shift {
        id: id.to_owned(),
        start,
        begun: first.at,
        loaded: None,
        attempts: Vec::new(),
        incidents: Vec::new(),
        end: None,
        last_seen: live.as_ref().map_or(first.at, |live| live.at.max(first.at)),
        live,
    };
    for Line { at, entry } in lines {
        shift.last_seen = shift.last_seen.max(at);
        match entry {
            Entry::Own(Own::Begun(_)) => {}
            Entry::Own(Own::Loaded { .. }) => shift.loaded = Some(at),
            Entry::Own(Own::Shot(mut attempt)) => {
                attempt.ended = at;
                shift.attempts.push(attempt);
            }
            Entry::Own(Own::Ended { how }) => shift.end = Some((at, how)),
            Entry::Incident(incident) => shift.incidents.push((at, incident)),
        }
    }
    Some(shift)
}
