//! Where Prometheus finds the leaders of a run.
//!
//! ```text
//! DIR/metrics/targets/WORKER.json   the entry of one leader, written by it alone
//! DIR/metrics/targets.json          all entries, in the form of Prometheus's file_sd_configs
//! ```
//!
//! The second file follows from the first ones: whoever adds or removes an entry makes it anew, and
//! again until it agrees with what is there, so that no lock is needed between machines.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::figures::now;
use crate::shift::read_shift;

/// Seconds without a sign of life after which the entry of a leader is removed by others. One that
/// lives puts it back.
const PATIENCE_S: f64 = 120.0;

/// One entry, as Prometheus reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    targets: Vec<String>,
    labels: BTreeMap<String, String>,
}

/// The entry of one leader.
#[derive(Debug, Clone)]
pub(super) struct Target {
    run: PathBuf,
    id: String,
    entry: Entry,
}

impl Target {
    /// Adds the leader `id`, which serves at `address` (`host:port`), to the targets of the run
    /// folder `run`. Prometheus gives its series the labels `run`, the name of the run, and `node`.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn add(
        run: &Path,
        id: &str,
        address: &str,
        name: &str,
        node: &str,
    ) -> io::Result<Self> {
        let labels = [("run", name), ("node", node)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let target = Self {
            run: run.to_owned(),
            id: id.to_owned(),
            entry: Entry {
                targets: vec![address.to_owned()],
                labels: labels.into(),
            },
        };
        target.tend()?;
        Ok(target)
    }

    /// Puts the entry back if it is gone, and removes those of leaders that are dead.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn tend(&self) -> io::Result<()> {
        let own = entry_file(&self.run, &self.id);
        if read(&own).as_ref() != Some(&self.entry) {
            fs::create_dir_all(entries_folder(&self.run))?;
            replace(&own, &json(&self.entry)?)?;
        }
        for id in ids(&self.run)? {
            if id != self.id && is_dead(&self.run, &id) {
                remove(&entry_file(&self.run, &id))?;
            }
        }
        merge(&self.run)
    }

    /// The leader serves no more.
    pub(super) fn remove(&self) {
        let removed = remove(&entry_file(&self.run, &self.id)).and_then(|()| merge(&self.run));
        if let Err(error) = removed {
            tracing::warn!(%error, "this program still stands in metrics/targets.json");
        }
    }
}

/// Makes the file of all entries agree with them.
fn merge(run: &Path) -> io::Result<()> {
    /// Others may change entries meanwhile, but not for ever.
    const TRIES: usize = 20;
    let file = run.join("metrics").join("targets.json");
    for _ in 0..TRIES {
        let entries: Vec<Entry> = ids(run)?
            .iter()
            .filter_map(|id| read(&entry_file(run, id)))
            .collect();
        let wanted = match entries.is_empty() {
            true => None,
            false => Some(json(&entries)?),
        };
        if fs::read(&file).ok() == wanted {
            return Ok(());
        }
        match wanted {
            Some(text) => replace(&file, &text)?,
            None => remove(&file)?,
        }
    }
    Ok(())
}

fn entries_folder(run: &Path) -> PathBuf {
    run.join("metrics").join("targets")
}

fn entry_file(run: &Path, id: &str) -> PathBuf {
    entries_folder(run).join(format!("{id}.json"))
}

/// Leaders that have an entry, in order.
fn ids(run: &Path) -> io::Result<Vec<String>> {
    let names = match fs::read_dir(entries_folder(run)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names?,
    };
    let id =
        |name: fs::DirEntry| Some(name.file_name().to_str()?.strip_suffix(".json")?.to_owned());
    let mut ids: Vec<String> = names.flatten().filter_map(id).collect();
    ids.sort();
    Ok(ids)
}

fn is_dead(run: &Path, id: &str) -> bool {
    match read_shift(run, id) {
        Ok(Some(shift)) => !shift.goes_on(now(), PATIENCE_S),
        // Without a journal nobody knows; it removes itself.
        Ok(None) | Err(_) => false,
    }
}

fn read(file: &Path) -> Option<Entry> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

/// Writes a whole file under another name first, so that nobody reads half of it.
pub(super) fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Programs on other machines may have the same process id, but not at the same moment.
    let name = format!(
        "{}.{number}.{}.unfinished",
        std::process::id(),
        now().to_bits()
    );
    let unfinished = file.with_extension(name);
    fs::write(&unfinished, text)?;
    fs::rename(&unfinished, file)
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
