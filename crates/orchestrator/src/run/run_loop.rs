//! A run: all stories of a manifest, in order of priority.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storyloom_memory::blobs::Sweep;
use storyloom_memory::index::open_index;
use storyloom_memory::{BlobStore, Disk, MemoryBank, MemoryError, Storage};
use storyloom_story::{ErrorClass, LeftOut, Line, Manifest, ShotId, StoryId};
use storyloom_telemetry::{Event, Reporter};

use crate::config::{RunConfig, StopAt, StopFlag};
use crate::engine::ShotEngine;
use crate::error::RunError;
use crate::folder::missing::missing;
use crate::folder::output::VideoFiles;
use crate::folder::records::references;
use crate::folder::run_folder::{RunFolder, StoryFile, StoryState};
use crate::folder::set_aside::{self, changed, marks};
use crate::folder::terms::RunTerms;
use crate::run::admission::Asked;
use crate::run::attempt::with_retries;
use crate::run::gate::Gates;
use crate::run::inputs::{self, Pictures};
use crate::run::lease::{Claim, Lease, Leases, new_worker_id};
use crate::run::outcome::RunOutcome;
use crate::run::planning::plan_queue::PlanQueue;
use crate::run::planning::ranks::priority;
use crate::run::planning::{StoryPlanner, settle_planner};
use crate::run::quarantine;
use crate::run::run_queue::{MOMENT, Next, Rank, Ranked, RunQueue, Unplanned};
use crate::run::shot::{Checkpoints, ShotContext};
use crate::run::story::{StoryError, make_story};

/// Who makes the stories of a run.
pub struct Engines<'a> {
    /// Makes the pictures.
    pub engine: &'a dyn ShotEngine,
    /// Makes scripts of briefs, on a thread of its own; `None` where the run has none, or where
    /// [others](crate::run::planning::ranks) plan them.
    pub planner: Option<&'a dyn StoryPlanner>,
}

/// Makes everything that is missing of the manifest's stories.
///
/// A story that cannot be made is given up and the run goes on; a full disk, a wrong folder or a
/// missing program ends it. What is committed stays in any case.
pub fn run(
    config: &RunConfig,
    manifest: &Manifest,
    engine: &dyn ShotEngine,
    reporter: &dyn Reporter,
    stop: &StopFlag,
) -> Result<RunOutcome, RunError> {
    let stories = manifest.stories.iter().cloned();
    let lines: Vec<Line> = stories.map(Line::Story).collect();
    let engines = Engines {
        engine,
        planner: None,
    };
    run_on(Arc::new(Disk), config, &lines, &engines, reporter, stop)
}

/// As [`run`], of stories and briefs, on any storage.
///
/// Several programs may run on one folder at once, on one machine or on many: each story is planned
/// and made by the holder of its lease, and every program returns when there is nothing left to do.
pub fn run_on(
    storage: Arc<dyn Storage>,
    config: &RunConfig,
    lines: &[Line],
    engines: &Engines,
    reporter: &dyn Reporter,
    stop: &StopFlag,
) -> Result<RunOutcome, RunError> {
    check_lengths(config, lines)?;
    let engine = engines.engine;
    let videos = VideoFiles::new(storage.clone(), config.videos)?;
    let folder = RunFolder::new(&config.out, storage.clone());
    let terms = RunTerms::new(config, lines, engine)?;
    let asked = folder.begin(config, &terms, lines)?;
    if let Some(planner) = engines.planner {
        settle_planner(&folder, planner)?;
    }
    let worker = config.worker.clone().unwrap_or_else(new_worker_id);
    let leases = Leases::join_as(
        worker,
        folder.leases(),
        storage.clone(),
        config.lease_timeout,
    )?;
    let bank = open_bank(config, &folder, storage, reporter)?;
    let context = ShotContext {
        engine,
        bank: &bank,
        videos: &videos,
        terms: &terms,
        reporter,
        stop,
        checkpoints: Checkpoints::new(config.checkpoint),
        gates: Gates::new(engine.capacities()),
    };
    let queue = Mutex::new(sort(&context, config, &asked, lines));
    let finished = asked
        .into_iter()
        .map(|asked| Some(asked).filter(is_finished));
    let marked = marked(&folder, config, lines)?;
    let run_loop = RunLoop {
        context: &context,
        folder: &folder,
        config,
        lines,
        marked,
        finished: Mutex::new(finished.collect()),
        gone: Mutex::default(),
        leases: &leases,
        queue: &queue,
    };
    let plan_queue = PlanQueue {
        folder: &folder,
        lines,
        leases: &leases,
        config,
        planner: engines.planner,
        reporter,
        stop,
        queue: &queue,
        ahead: config.planning.ahead.max(1),
    };
    run_loop.leave_out()?;
    let outcome = run_loop.make_all(&plan_queue)?;
    run_loop.warn_of_gone();
    if outcome.stopped {
        reporter.report(&Event::RunStopped {
            shots_done: shots_done(&folder, lines)?,
        });
    }
    Ok(outcome)
}

/// The stories of this run that earlier starts have set aside. Of those that are not asked for any more
/// the marks go.
fn marked(
    folder: &RunFolder,
    config: &RunConfig,
    lines: &[Line],
) -> Result<BTreeSet<StoryId>, RunError> {
    let mut marked: BTreeSet<StoryId> = marks(folder)?.into_keys().collect();
    if marked.is_empty() || config.part {
        return Ok(marked);
    }
    let left_out = config.left_out.iter().map(|left_out| &left_out.story);
    let asked: BTreeSet<&StoryId> = lines.iter().map(Line::id).chain(left_out).collect();
    for story in marked.iter().filter(|story| !asked.contains(story)) {
        set_aside::forget(folder, story)?;
    }
    marked.retain(|story| asked.contains(story));
    Ok(marked)
}

/// All stories of a run, as far as this program makes them: several threads, each with one story
/// at a time.
struct RunLoop<'a> {
    context: &'a ShotContext<'a>,
    folder: &'a RunFolder,
    config: &'a RunConfig,
    lines: &'a [Line],
    /// Stories that earlier starts have set aside.
    marked: BTreeSet<StoryId>,
    /// Stories that were finished when the start looked, by their places: nobody changes these.
    finished: Mutex<Vec<Option<Asked>>>,
    /// Pictures of stories that go on or are done which cannot be read any more: how many, and the first.
    gone: Mutex<(usize, Option<String>)>,
    leases: &'a Leases,
    queue: &'a Mutex<RunQueue>,
}

/// What became of a story.
enum StoryOutcome {
    /// It is done, given up, in quarantine or set aside.
    Over,
    /// Another program works on it.
    Elsewhere,
    /// The run was asked to stop.
    Stopped,
}

impl RunLoop<'_> {
    fn queue(&self) -> MutexGuard<'_, RunQueue> {
        // Nothing panics while holding it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes stories until none is left that this program could make.
    fn make_all(&self, plan_queue: &PlanQueue) -> Result<RunOutcome, RunError> {
        /// What programs of one world give each other to take their next story.
        const HEAD_START: Duration = Duration::from_millis(300);
        std::thread::scope(|scope| {
            if self.queue().has_briefs() {
                scope.spawn(|| plan_queue.run());
            }
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
        let mut queue = self.queue();
        let RunOutcome {
            stories,
            done,
            failed,
            quarantined,
            set_aside,
            ..
        } = queue.outcome;
        // When nothing was left to begin, a request to stop has stopped nothing.
        queue.outcome.stopped &= done + failed + quarantined + set_aside < stories;
        let unplannable = queue.unplannable.take();
        match queue.error.take().or(unplannable) {
            Some(error) => Err(error),
            None => Ok(queue.outcome),
        }
    }

    /// One thread's part.
    fn make_some(&self) {
        loop {
            let next = self.queue().next(Instant::now());
            let story = match next {
                Next::Over => return,
                Next::Wait => {
                    self.wait();
                    continue;
                }
                Next::AwaitPlan => {
                    let begun = Instant::now();
                    self.wait();
                    let seconds = begun.elapsed().as_secs_f64();
                    let awaited = Event::PlanAwaited { seconds };
                    self.context.reporter.report(&awaited);
                    continue;
                }
                Next::Take(story) => story,
            };
            self.report_ahead();
            let turn = self.turn(&story);
            let mut queue = self.queue();
            queue.in_hand -= 1;
            match turn {
                Ok(StoryOutcome::Over) => {}
                Ok(StoryOutcome::Elsewhere) => queue.leave_to_others(story, Instant::now()),
                Ok(StoryOutcome::Stopped) => queue.outcome.stopped = true,
                Err(error) => {
                    // The other threads save what they are at.
                    self.context.stop.set(StopAt::Step);
                    if queue.error.is_none() || matches!(queue.error, Some(RunError::Stopped)) {
                        queue.error = Some(error);
                    }
                }
            }
        }
    }

    /// Says how many planned stories wait, in a run that plans.
    fn report_ahead(&self) {
        let queue = self.queue();
        let stories = queue.plans().then(|| queue.ahead());
        drop(queue);
        if let Some(stories) = stories {
            let ahead = Event::PlansAhead { stories };
            self.context.reporter.report(&ahead);
        }
    }

    /// A moment in which there is nothing to do here.
    fn wait(&self) {
        self.offer_help();
        std::thread::sleep(MOMENT);
        // Somebody may ask to stop meanwhile.
        if self.context.stop.asked().is_some() {
            self.queue().outcome.stopped = true;
        }
    }

    /// Lets the engine work for others while nothing is to be done here.
    fn offer_help(&self) {
        const PAUSE: Duration = Duration::from_millis(500);
        {
            let mut queue = self.queue();
            let lately = queue
                .offered
                .is_some_and(|offered| offered.elapsed() < PAUSE);
            if queue.in_hand > 0 || lately {
                return;
            }
            queue.offered = Some(Instant::now());
        }
        if let Err(error) = self.context.engine.assist() {
            let mut queue = self.queue();
            match error.class {
                ErrorClass::Interrupted => queue.outcome.stopped = true,
                _ => queue.error = Some(error.into()),
            }
        }
    }

    fn turn(&self, story: &Ranked) -> Result<StoryOutcome, RunError> {
        let place = story.rank.place();
        let line = &self.lines[place];
        let known = self.known_finished(place);
        let is_known = known.is_some();
        let asked = match known {
            Some(asked) => asked,
            None => self.folder.asked(line)?,
        };
        if self.is_over(&asked)? {
            self.queue().outcome.finished_before += usize::from(is_known);
            return Ok(StoryOutcome::Over);
        }
        if self.context.stop.asked().is_some() {
            return Ok(StoryOutcome::Stopped);
        }
        let story = line.id();
        let Claim::Held { lease, taken_from } = self.leases.claim(story)? else {
            return Ok(StoryOutcome::Elsewhere);
        };
        let reporter = self.context.reporter;
        reporter.report(&Event::StoryTaken { story });
        let turn = self.hold(line, lease, taken_from);
        reporter.report(&Event::StoryLeft { story });
        turn
    }

    /// A story that was finished when the start looked, at its first turn.
    fn known_finished(&self, place: usize) -> Option<Asked> {
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        finished.get_mut(place)?.take()
    }

    /// A turn with the lease in hand.
    fn hold(
        &self,
        line: &Line,
        lease: Lease,
        taken_from: Option<String>,
    ) -> Result<StoryOutcome, RunError> {
        let story = line.id();
        if let Some(from) = &taken_from {
            let reporter = self.context.reporter;
            reporter.report(&Event::LeaseTaken { story, from });
        }
        // Looked at again: its last holder may have gone on with it.
        let asked = self.folder.take_on(line)?;
        let turn = if self.is_over(&asked)? {
            StoryOutcome::Over
        } else {
            self.go_on(&lease, line, asked)?
        };
        with_retries(self.context, || lease.release())?;
        Ok(turn)
    }

    /// Makes what is missing of a story that is not over.
    fn go_on(&self, lease: &Lease, line: &Line, asked: Asked) -> Result<StoryOutcome, RunError> {
        let is_new = matches!(asked, Asked::New(_));
        let mut file = asked.into_file();
        if !is_new && !self.has_its_pictures(&file)? {
            if self.folder.has_results(&file.id)? {
                return Ok(StoryOutcome::Over);
            }
            // Whatever was noted of pictures that nothing was made of.
            file = StoryFile::pending(line);
        }
        if file.script.is_none() {
            let path = self.folder.story(&file.id);
            let reason = "the plan was there and is gone".to_owned();
            return Err(RunError::Folder { path, reason });
        }
        self.is_as_asked(&file.id)?;
        self.make(lease, &mut file)
    }

    /// Whether nothing is to be done for the story; counts it if so.
    fn is_over(&self, asked: &Asked) -> Result<bool, RunError> {
        let file = match asked {
            Asked::New(_) => return Ok(false),
            Asked::Known(file) => file,
            Asked::Changed { file, what } => {
                let reason = changed(self.folder, &file.id, what);
                self.set_aside(&file.id, &reason)?;
                return Ok(true);
            }
        };
        match &file.state {
            StoryState::Done => {
                if let Some(missing) = missing(self.context.bank, self.folder, file) {
                    tracing::warn!(story = %file.id, "finished, but {missing}; it is looked after");
                    return Ok(false);
                }
                if self.has_its_pictures(file)? {
                    self.is_as_asked(&file.id)?;
                    self.count_done(file);
                }
            }
            StoryState::Quarantined { .. } => {
                self.is_as_asked(&file.id)?;
                self.queue().outcome.quarantined += 1;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn count_done(&self, file: &StoryFile) {
        let mut queue = self.queue();
        queue.outcome.done += 1;
        queue.outcome.without_keyframes += usize::from(file.no_keyframes.is_some());
    }

    /// Whether the pictures of a story are what it was made with. One of which something was made from
    /// another picture is set aside; one that is gone is no matter then.
    fn has_its_pictures(&self, file: &StoryFile) -> Result<bool, RunError> {
        let remembers = |story| {
            let kept = references(self.folder, story);
            kept.is_ok_and(|kept| !kept.is_empty())
        };
        match inputs::compare(self.folder, self.config, file)? {
            Pictures::Same => {}
            // Of a story that has not begun somebody else will say so.
            Pictures::Gone(_) if !remembers(&file.id) => {}
            Pictures::Gone(picture) => {
                let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
                gone.0 += 1;
                gone.1.get_or_insert(picture);
            }
            Pictures::Other(name) => {
                if self.folder.has_results(&file.id)? {
                    let what = format!("the content of {name}");
                    self.set_aside(&file.id, &changed(self.folder, &file.id, &what))?;
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Says once how many pictures are gone that nobody needs any more.
    fn warn_of_gone(&self) {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if let (count, Some(first), false) = (gone.0, &gone.1, self.config.part) {
            tracing::warn!(
                "{count} pictures of stories that have them in their memory cannot be read any more \
                 ({first}); the stories keep what they have"
            );
        }
    }

    /// Sets those aside whose scripts cannot be read.
    fn leave_out(&self) -> Result<(), RunError> {
        let mut left_out = self.config.left_out.iter();
        left_out.try_for_each(|LeftOut { story, reason, .. }| {
            let reason = format!("{reason}; once it can be read again, the next start goes on");
            self.set_aside(story, &reason)
        })
    }

    fn set_aside(&self, story: &StoryId, reason: &str) -> Result<(), RunError> {
        set_aside::set_aside(self.folder, self.context.reporter, story, reason)?;
        self.queue().outcome.set_aside += 1;
        Ok(())
    }

    /// The story is what is asked for, whatever an earlier start has said of it.
    fn is_as_asked(&self, story: &StoryId) -> Result<(), RunError> {
        match self.marked.contains(story) && !self.config.part {
            true => set_aside::forget(self.folder, story),
            false => Ok(()),
        }
    }

    fn make(&self, lease: &Lease, file: &mut StoryFile) -> Result<StoryOutcome, RunError> {
        let made = make_story(self.context, self.folder, self.config, lease, file);
        let Err(StoryError { shot, error }) = made else {
            self.count_done(file);
            return Ok(StoryOutcome::Over);
        };
        let reason = error.to_string();
        let (story, reporter) = (file.id.clone(), self.context.reporter);
        if let RunError::Input { .. } = error {
            self.set_aside(&story, &reason)?;
            return Ok(StoryOutcome::Over);
        }
        match error.class() {
            ErrorClass::Interrupted if matches!(error, RunError::LeaseLost { .. }) => {
                tracing::warn!(%error);
                return Ok(StoryOutcome::Elsewhere);
            }
            ErrorClass::Interrupted => return Ok(StoryOutcome::Stopped),
            ErrorClass::Run | ErrorClass::ServiceAway => return Err(error),
            ErrorClass::Transient => {
                reporter.report(&Event::StoryFailed {
                    story: &story,
                    reason: &reason,
                });
                file.state = StoryState::Failed { shot, reason };
                self.queue().outcome.failed += 1;
            }
            ErrorClass::Shot => {
                reporter.report(&Event::StoryQuarantined {
                    story: &story,
                    reason: &reason,
                });
                file.state = StoryState::Quarantined { shot, reason };
                self.queue().outcome.quarantined += 1;
                quarantine::write_reproducer(self.folder, self.config, file)?;
            }
        }
        lease.check()?;
        self.folder.write_story(file)?;
        let count = self.queue().outcome.quarantined;
        quarantine::check_limit(self.folder, self.config, count)?;
        Ok(StoryOutcome::Over)
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

/// Programs with an index on one machine; more than anybody starts on purpose.
const MOST_PROGRAMS: usize = 256;

/// A shot that continues another must be longer than what it is given.
fn check_lengths(config: &RunConfig, lines: &[Line]) -> Result<(), RunError> {
    config
        .video
        .check(config.grid)
        .map_err(|error| RunError::Setting(error.to_string()))?;
    let given = config.continuation.opening().given_frames() as u32;
    let continues = lines.iter().any(|line| match line {
        Line::Story(entry) => entry.script.shots().any(|(_, shot)| !shot.cut),
        // Nobody knows yet.
        Line::Brief(_) => true,
    });
    if continues && config.video.frames <= given {
        return Err(RunError::Setting(format!(
            "video.frames = {} leaves nothing of a shot that continues the one before it, \
             which gives it {given}; use at least {}",
            config.video.frames,
            config.grid.length_above(given)
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
    let places = config.index_folder.clone().or_else(|| folder.index());
    let places = places.ok_or_else(|| {
        let reason = "the run folder is not on a disk of this machine: memory.path must name a folder \
                      for the index of the memory";
        RunError::Setting(reason.to_owned())
    })?;
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

/// Puts everything in order: stories with a script are ready, briefs wait to be planned.
fn sort(context: &ShotContext, config: &RunConfig, asked: &[Asked], lines: &[Line]) -> RunQueue {
    let mut queue = RunQueue::new(config.replicas);
    queue.outcome.stories = asked.len() + config.left_out.len();
    let (mut shots, mut shots_done) = (0, 0);
    for (place, (asked, line)) in asked.iter().zip(lines).enumerate() {
        let file = asked.file();
        let is_there = |shot: ShotId| context.bank.is_committed(&file.id, shot);
        let committed = match asked {
            Asked::New(_) => 0,
            // Whether its files are there is looked at when its turn comes.
            asked if is_finished(asked) => file.shot_count(),
            _ => file.shots().filter(|(shot, _)| is_there(*shot)).count(),
        };
        let count = file.shot_count();
        (shots, shots_done) = (shots + count, shots_done + committed);
        let rank = match asked {
            // To be told at once.
            Asked::Changed { .. } => Rank::first(place),
            _ => Rank::new(priority(line), count - committed, place),
        };
        let id = file.id.clone();
        match (&file.script, asked) {
            (Some(_), _) | (None, Asked::Changed { .. }) => queue.add(Ranked { rank, id }),
            (None, _) => queue.add_brief(rank, Unplanned::new(id)),
        }
    }
    context.reporter.report(&Event::RunStarted {
        stories: queue.outcome.stories,
        shots,
        shots_done,
    });
    queue
}

/// Whether a story says that it is done, and is what is asked for.
fn is_finished(asked: &Asked) -> bool {
    matches!(asked, Asked::Known(file) if file.state == StoryState::Done)
}

/// Shots that have their record. Records are looked for by their names.
fn shots_done(folder: &RunFolder, lines: &[Line]) -> Result<usize, RunError> {
    let storage = folder.storage();
    let mut done = 0;
    for line in lines {
        // Of a story that nobody has taken there is nothing to look for.
        if !storage.is_taken(&folder.story(line.id())) {
            continue;
        }
        let file = folder.asked(line)?.into_file();
        let commits = folder.story(&file.id).join("commits");
        let is_there = |shot: &ShotId| storage.exists(&commits.join(format!("{shot}.json")));
        done += file.shots().filter(|(shot, _)| is_there(shot)).count();
    }
    Ok(done)
}
