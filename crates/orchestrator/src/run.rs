//! A run: all stories of a manifest, in order of priority.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storyloom_memory::blobs::Sweep;
use storyloom_memory::index::open_index;
use storyloom_memory::{BlobStore, Disk, MemoryBank, MemoryError, Storage};
use storyloom_story::{Continuation, ErrorClass, Manifest, ShotId, StoryEntry, StoryId};
use storyloom_telemetry::{Event, Reporter};

use crate::config::{RunConfig, StopAt, StopFlag};
use crate::engine::ShotEngine;
use crate::error::RunError;
use crate::gate::Gates;
use crate::lease::{Claim, Lease, Leases, new_worker_id};
use crate::output::VideoFiles;
use crate::quarantine;
use crate::run_folder::{RunFolder, StoryFile, StoryState};
use crate::shot::{Checkpoints, Studio};
use crate::story::{StoryError, WHOLE_VIDEO, make_story};

/// How a run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunOutcome {
    /// Stories asked for.
    pub stories: usize,
    /// Stories that are done.
    pub done: usize,
    /// Stories that were given up for now.
    pub failed: usize,
    /// Stories that nobody tries again before they are released.
    pub quarantined: usize,
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
///
/// Several programs may run on one folder at once, on one machine or on many: each story is made
/// by whoever holds its lease, and every program returns when there is nothing left to do.
pub fn run_on<E: ShotEngine>(
    storage: Arc<dyn Storage>,
    config: &RunConfig,
    manifest: &Manifest,
    engine: &E,
    reporter: &dyn Reporter,
    stop: &StopFlag,
) -> Result<RunOutcome, RunError> {
    let stories: Vec<&StoryEntry> = manifest.stories.iter().collect();
    check_lengths(config, &stories)?;
    let videos = VideoFiles::new(storage.clone(), config.videos)?;
    let folder = RunFolder::new(&config.out, storage.clone());
    let files = folder.begin(config, &engine.describe(), &stories)?;
    let worker = config.worker.clone().unwrap_or_else(new_worker_id);
    let leases = Leases::join_as(worker, folder.leases(), storage.clone(), config.patience)?;
    let bank = open_bank(config, &folder, storage, reporter)?;
    let studio = Studio {
        engine,
        bank: &bank,
        videos: &videos,
        selection: config.selection,
        reporter,
        stop,
        checkpoints: Checkpoints::new(config.checkpoint),
        gates: Gates::new(engine.capacities()),
    };
    let files = longest_first(&studio, files, manifest);
    let outcome = RunOutcome {
        stories: files.len(),
        ..RunOutcome::default()
    };
    let night = Night {
        studio: &studio,
        folder: &folder,
        config,
        leases: &leases,
        work: Mutex::new(Work {
            ready: files.into(),
            replicas: config.replicas.max(1),
            outcome,
            ..Work::default()
        }),
    };
    let outcome = night.make_all()?;
    if outcome.stopped {
        reporter.report(&Event::RunStopped {
            shots_done: shots_done(&bank, manifest),
        });
    }
    Ok(outcome)
}

/// All stories of a run, as far as this program makes them: several threads, each with one story
/// at a time.
struct Night<'a, E> {
    studio: &'a Studio<'a, E>,
    folder: &'a RunFolder,
    config: &'a RunConfig,
    leases: &'a Leases,
    work: Mutex<Work>,
}

/// What is to be done.
#[derive(Default)]
struct Work {
    /// The next is in front.
    ready: VecDeque<StoryFile>,
    /// Others work on them; and when they were looked at last.
    elsewhere: Vec<StoryFile>,
    looked: Option<Instant>,
    /// Programs that share the stories.
    replicas: usize,
    /// Stories in the hands of this program.
    in_hand: usize,
    /// When others were offered help last.
    offered: Option<Instant>,
    outcome: RunOutcome,
    /// What ends the run.
    error: Option<RunError>,
}

/// Stories that a program takes at most, of so many that are not over: none shall have all places
/// full while another has nothing to do.
pub(crate) fn fair_share(unfinished: usize, replicas: usize) -> usize {
    unfinished.div_ceil(replicas.max(1)).max(1)
}

impl Work {
    /// Stories that are not over, as far as this program knows.
    fn unfinished(&self) -> usize {
        self.ready.len() + self.elsewhere.len() + self.in_hand
    }

    /// The next story to try, or how long to wait for one; nothing when all is over.
    fn next(&mut self) -> Option<Result<StoryFile, Duration>> {
        /// Time between two looks at stories that others work on, and what each adds to it.
        const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1));
        /// Time between two looks at the work that other threads may hand back.
        const MOMENT: Duration = Duration::from_millis(20);
        if self.error.is_some() || self.outcome.stopped {
            return None;
        }
        if self.ready.is_empty() && !self.elsewhere.is_empty() {
            let pause = PAUSE.0 + PAUSE.1 * self.elsewhere.len() as u32;
            if self.looked.is_none_or(|looked| looked.elapsed() >= pause) {
                self.looked = Some(Instant::now());
                self.ready.extend(self.elsewhere.drain(..));
            }
        }
        if self.in_hand >= fair_share(self.unfinished(), self.replicas) {
            return Some(Err(MOMENT));
        }
        match self.ready.pop_front() {
            Some(file) => {
                self.in_hand += 1;
                Some(Ok(file))
            }
            None if self.in_hand == 0 && self.elsewhere.is_empty() => None,
            None => Some(Err(MOMENT)),
        }
    }
}

/// What became of a story.
enum Turn {
    /// It is done, given up or in quarantine.
    Over,
    /// Another program works on it.
    Elsewhere,
    /// The run was asked to stop.
    Stopped,
}

impl<E: ShotEngine> Night<'_, E> {
    fn work(&self) -> MutexGuard<'_, Work> {
        // Nothing panics while holding it.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes stories until none is left that this program could make.
    fn make_all(&self) -> Result<RunOutcome, RunError> {
        /// What programs of one world give each other to take their next story.
        const HEAD_START: Duration = Duration::from_millis(300);
        std::thread::scope(|scope| {
            for place in 1..self.config.interleave.max(1) {
                scope.spawn(move || {
                    // First one story for everybody, then a second.
                    if self.config.replicas > 1 {
                        std::thread::sleep(HEAD_START * place as u32);
                    }
                    self.make_some();
                });
            }
            self.make_some();
        });
        let mut work = self.work();
        match work.error.take() {
            Some(error) => Err(error),
            None => Ok(work.outcome),
        }
    }

    /// One thread's part.
    fn make_some(&self) {
        loop {
            let next = self.work().next();
            let file = match next {
                None => return,
                Some(Err(wait)) => {
                    self.offer_help();
                    std::thread::sleep(wait);
                    // Somebody may ask to stop while there is nothing to do.
                    if self.studio.stop.asked().is_some() {
                        self.work().outcome.stopped = true;
                    }
                    continue;
                }
                Some(Ok(file)) => file,
            };
            let turn = self.turn(&file);
            let mut work = self.work();
            work.in_hand -= 1;
            match turn {
                Ok(Turn::Over) => {}
                Ok(Turn::Elsewhere) => {
                    work.looked.get_or_insert_with(Instant::now);
                    work.elsewhere.push(file);
                }
                Ok(Turn::Stopped) => work.outcome.stopped = true,
                Err(error) => {
                    // The other threads save what they are at.
                    self.studio.stop.set(StopAt::Step);
                    if work.error.is_none() || matches!(work.error, Some(RunError::Stopped)) {
                        work.error = Some(error);
                    }
                }
            }
        }
    }

    /// Lets the engine work for others while nothing is to be done here.
    fn offer_help(&self) {
        const PAUSE: Duration = Duration::from_millis(500);
        {
            let mut work = self.work();
            let lately = work
                .offered
                .is_some_and(|offered| offered.elapsed() < PAUSE);
            if work.in_hand > 0 || lately {
                return;
            }
            work.offered = Some(Instant::now());
        }
        if let Err(error) = self.studio.engine.assist() {
            let mut work = self.work();
            match error.class {
                ErrorClass::Interrupted => work.outcome.stopped = true,
                _ => work.error = Some(error.into()),
            }
        }
    }

    fn turn(&self, file: &StoryFile) -> Result<Turn, RunError> {
        let story = &file.id;
        if self.is_over(&self.folder.story_file(story)?) {
            return Ok(Turn::Over);
        }
        if self.studio.stop.asked().is_some() {
            return Ok(Turn::Stopped);
        }
        let Claim::Held { lease, taken_from } = self.leases.claim(story)? else {
            return Ok(Turn::Elsewhere);
        };
        let reporter = self.studio.reporter;
        reporter.report(&Event::StoryTaken { story });
        let turn = self.hold(file, lease, taken_from);
        reporter.report(&Event::StoryLeft { story });
        turn
    }

    /// A turn with the lease in hand.
    fn hold(
        &self,
        file: &StoryFile,
        lease: Lease,
        taken_from: Option<String>,
    ) -> Result<Turn, RunError> {
        let story = &file.id;
        if let Some(from) = &taken_from {
            let reporter = self.studio.reporter;
            reporter.report(&Event::LeaseTaken { story, from });
        }
        // Read again: its last holder may have gone on with it.
        let mut file = self.folder.story_file(story)?;
        let turn = if self.is_over(&file) {
            Turn::Over
        } else {
            self.make(&lease, &mut file)?
        };
        lease.release()?;
        Ok(turn)
    }

    /// Whether nothing is to be done for the story; counts it if so.
    fn is_over(&self, file: &StoryFile) -> bool {
        match &file.state {
            StoryState::Done if is_complete(self.studio, self.folder, file) => {
                self.work().outcome.done += 1;
            }
            StoryState::Quarantined { .. } => self.work().outcome.quarantined += 1,
            _ => return false,
        }
        true
    }

    fn make(&self, lease: &Lease, file: &mut StoryFile) -> Result<Turn, RunError> {
        let made = make_story(self.studio, self.folder, self.config, lease, file);
        let Err(StoryError { shot, error }) = made else {
            self.work().outcome.done += 1;
            return Ok(Turn::Over);
        };
        let reason = error.to_string();
        let (story, reporter) = (file.id.clone(), self.studio.reporter);
        match error.class() {
            ErrorClass::Interrupted if matches!(error, RunError::LeaseLost { .. }) => {
                tracing::warn!(%error);
                return Ok(Turn::Elsewhere);
            }
            ErrorClass::Interrupted => return Ok(Turn::Stopped),
            ErrorClass::Run | ErrorClass::ServiceAway => return Err(error),
            ErrorClass::Transient => {
                reporter.report(&Event::StoryFailed {
                    story: &story,
                    reason: &reason,
                });
                file.state = StoryState::Failed { shot, reason };
                self.work().outcome.failed += 1;
            }
            ErrorClass::Shot => {
                reporter.report(&Event::StoryQuarantined {
                    story: &story,
                    reason: &reason,
                });
                file.state = StoryState::Quarantined { shot, reason };
                self.work().outcome.quarantined += 1;
                quarantine::write_reproducer(self.folder, self.config, file)?;
            }
        }
        lease.check()?;
        self.folder.write_story(file)?;
        self.check_quarantine()?;
        Ok(Turn::Over)
    }

    fn check_quarantine(&self) -> Result<(), RunError> {
        let count = self.work().outcome.quarantined;
        match self.config.quarantine_limit {
            Some(limit) if count > limit => Err(RunError::Quarantine {
                path: self.folder.root().to_owned(),
                count,
                limit,
            }),
            _ => Ok(()),
        }
    }
}

/// Removes blobs that nothing in the run names and that are older than `grace`; safe beside running
/// programs.
pub fn sweep(folder: &RunFolder, grace: Duration) -> Result<Sweep, RunError> {
    let blobs = BlobStore::new(folder.blobs(), folder.storage().clone());
    Ok(storyloom_memory::bank::sweep(
        &folder.stories(),
        folder.storage().as_ref(),
        &blobs,
        grace,
    )?)
}

/// Whether every shot of a story that says it is done has its record, and the whole video is there.
fn is_complete<E>(studio: &Studio<E>, folder: &RunFolder, file: &StoryFile) -> bool {
    let story = folder.story(&file.id);
    let is_there = |shot: ShotId| {
        studio.bank.is_committed(&file.id, shot) && story.join(format!("{shot}.mp4")).is_file()
    };
    file.script.shots().all(|(shot, _)| is_there(shot)) && story.join(WHOLE_VIDEO).is_file()
}

/// Programs with an index on one machine; more than anybody starts on purpose.
const MOST_PROGRAMS: usize = 256;

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
    let places = config
        .index_folder
        .clone()
        .unwrap_or_else(|| folder.root().join("bank"));
    // A database has one program; every further one at work takes the next.
    let mut opened = None;
    for place in 0..MOST_PROGRAMS {
        let place = places.join(place.to_string());
        match open_index(config.index, &place) {
            Err(MemoryError::IndexBusy { .. }) => {}
            result => {
                opened = Some(result?);
                reporter.report(&Event::IndexOpened { folder: &place });
                break;
            }
        }
    }
    let opened = opened.ok_or(MemoryError::IndexBusy { path: places })?;
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

/// Larger priorities first, then longer chains of shots that are missing, since a chain is made one
/// shot after the other and a long one begun late is what the night ends with. The order of the
/// manifest among equals.
fn longest_first<E>(
    studio: &Studio<E>,
    files: Vec<StoryFile>,
    manifest: &Manifest,
) -> Vec<StoryFile> {
    let priorities: HashMap<&StoryId, i64> = manifest
        .stories
        .iter()
        .map(|entry| (&entry.id, entry.priority))
        .collect();
    let (mut shots, mut shots_done) = (0, 0);
    let mut ordered: Vec<(Reverse<(i64, usize)>, StoryFile)> = files
        .into_iter()
        .map(|file| {
            let committed = file
                .script
                .shots()
                .filter(|(shot, _)| studio.bank.is_committed(&file.id, *shot))
                .count();
            let count = file.script.shot_count();
            (shots, shots_done) = (shots + count, shots_done + committed);
            let priority = priorities.get(&file.id).copied().unwrap_or(0);
            (Reverse((priority, count - committed)), file)
        })
        .collect();
    ordered.sort_by_key(|(key, _)| *key);
    studio.reporter.report(&Event::RunStarted {
        stories: ordered.len(),
        shots,
        shots_done,
    });
    ordered.into_iter().map(|(_, file)| file).collect()
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
