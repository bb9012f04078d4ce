//! Reading journals while they grow.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{JournalFiles, LocalFiles};
use super::read::{ids, lines_of, live_of};
use super::recovered::recover_attempts;
use super::{Shift, shifts_folder};

/// Reads the journals of a run again and again, each time only what is new in them.
#[derive(Debug)]
pub struct Follower {
    files: Arc<dyn JournalFiles>,
    run: PathBuf,
    known: BTreeMap<String, Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Bytes of its lines that were read; they end with a line.
    offset: u64,
    /// `None` while it has not even begun.
    shift: Option<Shift>,
}

impl Follower {
    /// Follows the journals of the run folder `run`. Nothing is read yet.
    pub fn new(run: impl Into<PathBuf>) -> Self {
        Self::among(Arc::new(LocalFiles), run)
    }

    /// As [`new`](Self::new), of a run folder among `files`.
    pub fn among(files: Arc<dyn JournalFiles>, run: impl Into<PathBuf>) -> Self {
        Self {
            files,
            run: run.into(),
            known: BTreeMap::new(),
        }
    }

    /// Reads what is new. Journals that cannot be read now are tried again at the next look.
    ///
    /// # Errors
    /// The folder of the journals cannot be listed; no folder is no error.
    pub fn look(&mut self) -> io::Result<()> {
        let files = self.files.as_ref();
        for id in ids(files, &self.run)? {
            self.known.entry(id).or_default();
        }
        let folder = shifts_folder(&self.run);
        for (id, known) in &mut self.known {
            if known.shift.as_ref().is_none_or(|shift| shift.end.is_none()) {
                // Before the lines, as the reader of whole journals does.
                let live = live_of(files, &folder, id);
                known.read(files, &folder.join(format!("{id}.jsonl")), id);
                if let Some(shift) = &mut known.shift {
                    shift.hear(live);
                }
            }
        }
        let known = self.known.values_mut();
        recover_attempts(known.filter_map(|known| known.shift.as_mut()));
        Ok(())
    }

    /// All shifts as of the last look. Ended attempts and incidents are only ever added to a shift.
    pub fn shifts(&self) -> impl Iterator<Item = &Shift> {
        self.known.values().filter_map(|known| known.shift.as_ref())
    }
}

impl Known {
    fn read(&mut self, files: &dyn JournalFiles, path: &Path, id: &str) {
        let Ok(new) = files.read_from(path, self.offset) else {
            return;
        };
        // What comes after the last line end is read when it is whole.
        let whole = new.iter().rposition(|&byte| byte == b'\n');
        let new = &new[..whole.map_or(0, |end| end + 1)];
        self.offset += new.len() as u64;
        for line in lines_of(new) {
            match &mut self.shift {
                Some(shift) => shift.take(line),
                None => self.shift = Shift::begin(id, line),
            }
        }
    }
}
