//! All metrics of one leader.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::families::{Families, Result};
use super::labels::DiskRole;
use super::machine::{Disk, MachineFigures, RankReport};
use super::replica::{ReplicaFacts, ReplicaFigures};
use super::run::{RunFigures, RunView};
use crate::shift::{Journal, now};
use crate::{Event, Reporter, ShotEvent};

/// All metrics of the leader of a replica. It counts what is reported to it; what has to be asked
/// for it asks its journal at every scrape, and is given by the code that watches the run folder.
#[derive(Debug)]
pub struct Metrics {
    families: Families,
    replica: ReplicaFigures,
    run: RunFigures,
    machine: MachineFigures,
    journal: Arc<Journal>,
    /// Bits of the moment of the last progress, in seconds since 1970.
    progress: AtomicU64,
    /// Folder of the open index of the memory bank.
    index: Mutex<Option<PathBuf>>,
}

impl Metrics {
    /// Metrics of a leader that keeps `journal`. `deadline` (seconds since 1970) is when the run is
    /// to be done.
    ///
    /// # Errors
    /// The catalogue has a metric that the library does not take.
    pub fn new(
        facts: &ReplicaFacts,
        journal: Arc<Journal>,
        deadline: Option<f64>,
    ) -> prometheus::Result<Self> {
        let mut families = Families::default();
        let metrics = Self {
            replica: ReplicaFigures::new(&mut families, facts)?,
            run: RunFigures::new(&mut families)?,
            machine: MachineFigures::new(&mut families)?,
            families,
            journal,
            progress: AtomicU64::new(now().to_bits()),
            index: Mutex::default(),
        };
        if let Some(at) = deadline {
            metrics.run.set_deadline(at)?;
        }
        Ok(metrics)
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Names of all metrics, with series or without.
    #[cfg(test)]
    pub(super) fn names(&self) -> &std::collections::BTreeSet<&'static str> {
        self.families.names()
    }

    /// When the replica last ended a step, a stage or loading, in seconds since 1970.
    pub fn last_progress(&self) -> f64 {
        f64::from_bits(self.progress.load(Ordering::Relaxed))
    }

    /// Takes over what is known of the run.
    ///
    /// # Errors
    /// A label has a value that the library does not take.
    pub fn see_run(&self, view: &RunView) -> prometheus::Result<()> {
        self.run.set(view)
    }

    /// Takes over what the ranks of the replica say of themselves.
    ///
    /// # Errors
    /// As [`Metrics::see_run`].
    pub fn see_ranks(&self, reports: &[RankReport]) -> prometheus::Result<()> {
        let mut reports = reports.iter();
        reports.try_for_each(|report| self.machine.set_rank(report))
    }

    /// Looks at the disks of the run folder `run` and of the memory bank, which may take long.
    ///
    /// # Errors
    /// As [`Metrics::see_run`].
    pub fn look_at_disks(&self, run: &Path) -> prometheus::Result<()> {
        if let Some(disk) = Disk::of(run) {
            self.machine.set_disk(DiskRole::Run, disk)?;
        }
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = index.clone() else {
            return Ok(());
        };
        if let Some(disk) = Disk::of(&index) {
            self.machine.set_disk(DiskRole::Bank, disk)?;
        }
        self.machine.set_bank(bytes_in(&index))
    }

    /// Everything in the text format of Prometheus. Reads no file.
    ///
    /// # Errors
    /// As [`Metrics::see_run`].
    pub fn text(&self, draining: bool) -> Result<String> {
        let (live, settled) = (self.journal.live(), self.journal.settled());
        let progress = self.last_progress();
        self.replica.refresh(&live, &settled, draining, progress)?;
        self.families.text()
    }
}

impl Reporter for Metrics {
    fn report(&self, event: &Event) {
        match event {
            Event::RunStarted { .. }
            | Event::Shot {
                event: ShotEvent::StageFinished { .. },
                ..
            }
            | Event::Shot {
                event: ShotEvent::StepFinished { .. },
                ..
            }
            | Event::PlanEnded { .. } => {
                self.progress.store(now().to_bits(), Ordering::Relaxed);
            }
            Event::IndexOpened { folder } => {
                let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
                *index = Some(folder.to_path_buf());
            }
            _ => {}
        }
        self.replica.report(event);
    }
}

/// Size of all files below a folder, as far as they can be seen.
fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes_in(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
