//! A program that plans the briefs of a run and makes no shots: a planner rank.
//!
//! It finds its work in the run folder, by leases, as everybody does; those who make stories find
//! the plans there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use storyloom_memory::Storage;
use storyloom_story::Line;
use storyloom_telemetry::{Event, Reporter};

use super::plan_queue::{PlanQueue, Step};
use super::{StoryPlanner, away, is_planned, settle_planner};
use crate::config::{RunConfig, StopFlag};
use crate::error::RunError;
use crate::folder::run_folder::{RunFolder, StoryState};
use crate::folder::set_aside::{forget, marks};
use crate::run::admission::Asked;
use crate::run::lease::{Leases, new_worker_id};
use crate::run::outcome::RunOutcome;
use crate::run::run_queue::{MOMENT, Rank, RunQueue, Unplanned};

/// Time between two looks at which planned stories were begun.
const PAUSE: Duration = Duration::from_millis(250);

/// Plans what is not planned of the briefs among `lines`, as far ahead of those who make the
/// stories as [`RunConfig::planning`] says for each of [`RunConfig::replicas`].
///
/// # Errors
/// What ends the run: a full disk, a folder that belongs to another run, a planner that nobody can use.
/// One that is away is asked again until those who make stories have nothing else to do.
pub fn plan_briefs(
    storage: Arc<dyn Storage>,
    config: &RunConfig,
    lines: &[Line],
    planner: &dyn StoryPlanner,
    reporter: &dyn Reporter,
    stop: &StopFlag,
) -> Result<RunOutcome, RunError> {
    let folder = RunFolder::new(&config.out, storage.clone());
    let asked = folder.admit(config, lines)?;
    settle_planner(&folder, planner)?;
    let worker = config.worker.clone().unwrap_or_else(new_worker_id);
    let leases = Leases::join_as(worker, folder.leases(), storage, config.lease_timeout)?;
    let mut queue = RunQueue::new(config.replicas);
    queue.others_make = true;
    queue.outcome.stories = asked.len();
    for (place, (asked, line)) in asked.into_iter().zip(lines).enumerate() {
        // What has changed is set aside by those who make stories.
        let is_as_asked = !matches!(asked, Asked::Changed { .. });
        let file = asked.into_file();
        if is_as_asked && file.script.is_none() {
            let rank = Rank::new(priority(line), file.shot_count(), place);
            queue.add_brief(rank, Unplanned::new(file.id));
        }
    }
    reporter.report(&Event::RunStarted {
        stories: queue.outcome.stories,
        shots: 0,
        shots_done: 0,
    });
    let queue = Mutex::new(queue);
    let plan_queue = PlanQueue {
        folder: &folder,
        lines,
        leases: &leases,
        config,
        planner: Some(planner),
        reporter,
        stop,
        queue: &queue,
        ahead: config.planning.ahead.max(1) * config.replicas.max(1),
    };
    let mut looked = Instant::now();
    loop {
        let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
        if stop.asked().is_some() {
            lock().outcome.stopped = true;
            break;
        }
        match plan_queue.step()? {
            Step::Over => break,
            Step::Taken => {}
            Step::Idle => std::thread::sleep(MOMENT),
        }
        if looked.elapsed() >= PAUSE {
            looked = Instant::now();
            let waiting = lock().waiting();
            for story in waiting {
                if folder.story_file(&story.id)?.state != StoryState::Pending {
                    lock().forget(story.rank);
                }
            }
            let stories = lock().ahead();
            reporter.report(&Event::PlansAhead { stories });
        }
    }
    let queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    if queue.tries() > 0 {
        away::forget(&folder)?;
    }
    Ok(queue.outcome)
}

pub(crate) fn priority(line: &Line) -> i64 {
    match line {
        Line::Story(entry) => entry.priority,
        Line::Brief(brief) => brief.priority,
    }
}

/// Lets briefs be planned again that were given up for now or set aside when the run was last tried. In a world
/// with planner ranks one rank does so, before any other looks.
///
/// # Errors
/// A story's file cannot be read or written.
pub fn reopen(folder: &RunFolder, lines: &[Line]) -> Result<(), RunError> {
    away::forget(folder)?;
    let marked = marks(folder)?;
    for line in lines {
        let Line::Brief(brief) = line else { continue };
        if marked.contains_key(&brief.id) && !is_planned(folder, &brief.id) {
            forget(folder, &brief.id)?;
        }
        let path = folder.story(&brief.id).join("story.json");
        if !folder.storage().exists(&path) {
            continue;
        }
        let mut file = folder.story_file(&brief.id)?;
        if let (None, StoryState::Failed { .. }) = (&file.script, &file.state) {
            file.state = StoryState::Pending;
            folder.write_story(&file)?;
        }
    }
    Ok(())
}
