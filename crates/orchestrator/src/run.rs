//! A run: all stories of a manifest, in order of priority.

use std::sync::Arc;

use storyloom_memory::index::open_index;
use storyloom_memory::{BlobStore, Disk, MemoryBank, Storage};
use storyloom_story::{Continuation, ErrorClass, Manifest, StoryEntry};
use storyloom_telemetry::{Event, Reporter};

use crate::config::{RunConfig, StopFlag};
use crate::engine::ShotEngine;
use crate::error::RunError;
use crate::output::VideoFiles;
use crate::run_folder::{RunFolder, StoryFile, StoryState};
use crate::shot::Studio;
use crate::story::{StoryError, make_story};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOutcome {
    /// Stories asked for.
    pub stories: usize,
    /// Stories that are done.
    pub done: usize,
    /// Stories that were given up.
    pub failed: usize,
    /// Whether the run was asked to stop.
    pub stopped: bool,
}

/// Makes everything that is missing of the manifest's stories.
///
/// A story that cannot be made is given up and the run goes on; a full disk, a wrong folder or a
/// missing program ends it. What is committed stays in any case.
pub fn run<E: ShotEngine>(
    config: &RunConfig,
    manifest: &Manifest,
    engine: &E,
    reporter: &dyn Reporter,
    stop: &StopFlag,
) -> Result<RunOutcome, RunError> {
    run_on(Arc::new(Disk), config, manifest, engine, reporter, stop)
}

/// As [`run`], on any storage.
pub fn run_on<E: ShotEngine>(
    storage: Arc<dyn Storage>,
    config: &RunConfig,
    manifest: &Manifest,
    engine: &E,
    reporter: &dyn Reporter,
    stop: &StopFlag,
) -> Result<RunOutcome, RunError> {
    let stories = in_order(manifest);
    check_lengths(config, &stories)?;
    let videos = VideoFiles::new(storage.clone())?;
    let folder = RunFolder::new(&config.out, storage.clone());
    let _lock = folder.lock()?;
    let mut files = folder.begin(config, &engine.describe(), &stories)?;
    let bank = open_bank(config, &folder, storage, reporter)?;
    let studio = Studio {
        engine,
        bank: &bank,
        videos: &videos,
        selection: config.selection,
        reporter,
        stop,
        stop_at: config.stop_at,
    };
    report_start(&studio, &files);
    let mut outcome = RunOutcome {
        stories: files.len(),
        done: 0,
        failed: 0,
        stopped: false,
    };
    for file in &mut files {
        match make_story(&studio, &folder, config, file) {
            Ok(()) => outcome.done += 1,
            Err(StoryError { shot, error }) => match error.class() {
                ErrorClass::Interrupted => {
                    outcome.stopped = true;
                    reporter.report(&Event::RunStopped {
                        shots_done: shots_done(&bank, manifest),
                    });
                    return Ok(outcome);
                }
                ErrorClass::Run | ErrorClass::ServiceAway => return Err(error),
                ErrorClass::Shot | ErrorClass::Transient => {
                    let reason = error.to_string();
                    reporter.report(&Event::StoryFailed {
                        story: &file.id,
                        reason: &reason,
                    });
                    file.state = StoryState::Failed { shot, reason };
                    folder.write_story(file)?;
                    outcome.failed += 1;
                }
            },
        }
    }
    Ok(outcome)
}

/// Larger priorities first; the order of the manifest among equals.
fn in_order(manifest: &Manifest) -> Vec<&StoryEntry> {
    let mut stories: Vec<&StoryEntry> = manifest.stories.iter().collect();
    stories.sort_by_key(|entry| std::cmp::Reverse(entry.priority));
    stories
}

/// A shot that continues another must be longer than what it is given.
fn check_lengths(config: &RunConfig, stories: &[&StoryEntry]) -> Result<(), RunError> {
    config
        .video
        .check()
        .map_err(|error| RunError::Setting(error.to_string()))?;
    let given = match config.continuation {
        Continuation::None => 0,
        Continuation::Mi2v => 1,
        Continuation::Mm2v => 5,
    };
    let continues = stories
        .iter()
        .any(|entry| entry.script.shots().any(|(_, shot)| !shot.cut));
    if continues && config.video.frames <= given {
        return Err(RunError::Setting(format!(
            "video.frames = {} leaves nothing of a shot that continues the one before it, \
             which gives it {given}; use at least {}",
            config.video.frames,
            given + 4
        )));
    }
    Ok(())
}

fn open_bank(
    config: &RunConfig,
    folder: &RunFolder,
    storage: Arc<dyn Storage>,
    reporter: &dyn Reporter,
) -> Result<MemoryBank, RunError> {
    let place = config
        .index_folder
        .clone()
        .unwrap_or_else(|| folder.root().join("bank/0"));
    let opened = open_index(config.index, &place)?;
    if let Some(moved_to) = &opened.moved_aside {
        reporter.report(&Event::IndexRebuilt { moved_to });
    }
    let blobs = BlobStore::new(folder.blobs(), storage.clone());
    let run_id = folder.run_file()?.run_id;
    Ok(MemoryBank::new(
        folder.stories(),
        storage,
        blobs,
        opened.index,
        run_id,
    ))
}

fn report_start<E>(studio: &Studio<E>, files: &[StoryFile]) {
    let shots = files.iter().map(|file| file.script.shot_count()).sum();
    let committed = |file: &StoryFile| {
        file.script
            .shots()
            .filter(|(shot, _)| studio.bank.is_committed(&file.id, *shot))
            .count()
    };
    let shots_done = files.iter().map(committed).sum();
    studio.reporter.report(&Event::RunStarted {
        stories: files.len(),
        shots,
        shots_done,
    });
}

fn shots_done(bank: &MemoryBank, manifest: &Manifest) -> usize {
    let committed = |entry: &StoryEntry| {
        entry
            .script
            .shots()
            .filter(|(shot, _)| bank.is_committed(&entry.id, *shot))
            .count()
    };
    manifest.stories.iter().map(committed).sum()
}
