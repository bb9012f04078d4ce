//! What the ranks of a replica tell their leader of themselves, through the run folder: they may be
//! on other machines, and MPI is busy with the work.
//!
//! ```text
//! DIR/metrics/ranks/WORKER/RANK.json   written every few seconds by a rank that follows WORKER
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::machine::RankReport;
use super::targets::replace;
use crate::bystander;

fn folder(run: &Path, leader: &str) -> PathBuf {
    run.join("metrics").join("ranks").join(leader)
}

/// The place where the ranks of one leader report, there as long as this value lives.
#[derive(Debug)]
pub struct RankReports {
    folder: PathBuf,
}

impl RankReports {
    /// For the ranks that follow `leader` in the run folder `run`. Best effort: without the folder
    /// nobody reports.
    pub fn gather(run: &Path, leader: &str) -> Self {
        let folder = folder(run, leader);
        if let Err(error) = fs::create_dir_all(&folder) {
            tracing::debug!(%error, "no reports of ranks");
        }
        Self { folder }
    }

    /// What they said last, as far as it can be read.
    pub fn read(&self) -> Vec<RankReport> {
        let Ok(names) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let files = names.flatten().map(|name| name.path());
        let reports = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
        reports
            .filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok())
            .collect()
    }
}

impl Drop for RankReports {
    fn drop(&mut self) {
        // Best effort: what stays is a few small files with the figures of the end.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Reports on one rank as long as it lives.
#[derive(Debug)]
pub struct RankPulse {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RankPulse {
    /// Writes what `report` says to the leader `leader` of the run folder `run` once every `pause`.
    /// No thread, no reports: the rank works in any case.
    pub fn start(
        run: &Path,
        leader: &str,
        pause: Duration,
        mut report: impl FnMut() -> RankReport + Send + 'static,
    ) -> Self {
        let (over, is_over) = channel();
        let folder = folder(run, leader);
        let beat = move || {
            loop {
                let now = report();
                let file = folder.join(format!("{}.json", now.rank));
                // Plain data into memory does not fail, and without the folder nobody listens.
                let text = serde_json::to_vec(&now).unwrap_or_default();
                if let Err(error) = replace(&file, &text) {
                    tracing::debug!(%error, "no report of this rank");
                }
                if is_over.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        Self {
            over: Some(over),
            thread: bystander::spawn("rank-report", beat).ok(),
        }
    }
}

impl Drop for RankPulse {
    fn drop(&mut self) {
        self.over.take();
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_hears_of_its_ranks() {
        let run = tempfile::tempdir().unwrap();
        let reports = RankReports::gather(run.path(), "w1");
        let pulses: Vec<_> = (1..3)
            .map(|rank| {
                let report = move || RankReport {
                    rank,
                    collectives: 7,
                    ..RankReport::default()
                };
                RankPulse::start(run.path(), "w1", Duration::from_secs(3600), report)
            })
            .collect();
        // Dropping waits for the first report.
        drop(pulses);
        let mut ranks: Vec<_> = reports.read().iter().map(|report| report.rank).collect();
        ranks.sort_unstable();
        assert_eq!(ranks, [1, 2]);
        drop(reports);
        assert!(!folder(run.path(), "w1").exists());
    }
}
