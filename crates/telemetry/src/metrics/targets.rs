//! Where Prometheus finds the leaders of a run.
//!
//! ```text
//! DIR/metrics/targets/WORKER.json   the entry of one leader, written by it alone
//! DIR/metrics/targets.json          all entries, in the form of Prometheus's file_sd_configs
//! ```
//!
//! The second file follows from the first ones: any program that adds or removes an entry makes it anew, and
//! again until it agrees with what is there, so that no lock is needed between machines.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::liveness::Liveness;
use crate::shift::{now, read_shift};

/// The parameters of requests by which a target names its leader, and so its run. Another leader that
/// serves at the same address by now has other values, and answers that it is not the one.
pub(super) const RUN_PARAMETER: &str = "run";
/// See [`RUN_PARAMETER`].
pub(super) const WORKER_PARAMETER: &str = "worker";

/// Whose entries are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tidying {
    /// Of those that were not heard of for long, and of those that have ended.
    Silent,
    /// Also of those that are dead by all that is known.
    Dead,
}

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
    /// folder `run`, and removes those that are dead. Prometheus gives its series the labels `run`, the
    /// name of the run, and `node`, and names the leader in its requests.
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
        let labels = [
            ("run".to_owned(), name.to_owned()),
            ("node".to_owned(), node.to_owned()),
            (format!("__param_{WORKER_PARAMETER}"), id.to_owned()),
        ];
        let target = Self {
            run: run.to_owned(),
            id: id.to_owned(),
            entry: Entry {
                targets: vec![address.to_owned()],
                labels: labels.into(),
            },
        };
        target.stand()?;
        target.tidy(Tidying::Dead)?;
        Ok(target)
    }

    /// Puts the entry back if it is gone, and removes those of leaders that are long dead.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn tend(&self) -> io::Result<()> {
        self.stand()?;
        self.tidy(Tidying::Silent)
    }

    /// Sees to it that the entry is there.
    fn stand(&self) -> io::Result<()> {
        let own = entry_file(&self.run, &self.id);
        if read(&own).as_ref() != Some(&self.entry) {
            fs::create_dir_all(entries_folder(&self.run))?;
            replace(&own, &json(&self.entry)?)?;
        }
        Ok(())
    }

    /// Removes the entries of others that are gone.
    fn tidy(&self, tidying: Tidying) -> io::Result<()> {
        for id in ids(&self.run)? {
            if id != self.id && is_gone(&self.run, &id, tidying) {
                remove(&entry_file(&self.run, &id))?;
            }
        }
        merge(&self.run)
    }

    /// The leader serves no more. Who leaves last leaves nobody on the list that cannot leave by
    /// itself.
    pub(super) fn remove(&self) {
        let removed = remove(&entry_file(&self.run, &self.id));
        let removed = removed.and_then(|()| self.tidy(Tidying::Dead));
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

fn is_gone(run: &Path, id: &str, tidying: Tidying) -> bool {
    // Without a journal nobody knows; it removes itself.
    let Ok(Some(shift)) = read_shift(run, id) else {
        return false;
    };
    let silence = now() - shift.last_seen;
    match tidying {
        Tidying::Silent => shift.end.is_some() || silence > Liveness::UNASKED_S,
        Tidying::Dead => !shift.life(silence).goes_on(),
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
