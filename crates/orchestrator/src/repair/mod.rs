//! `storyloom repair`: everything in a run folder is compared with its records, and what is not what they
//! say is put in order.
//!
//! What can be had from what is left is healed at once: names of files that are there under another name,
//! films, the plan of a story that was begun, the index. What only a shot made again can bring back moves
//! out of the way, so that the next start finds it missing and makes it as its record says
//! ([`crate::run::mend`]). Whatever moves keeps its content beside it, with a name that ends in `damaged-N`.
//!
//! A healthy story is only read. One that is not is touched under its lease, as by every other program.

mod index;
mod lost_keys;
mod story;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;
use storyloom_memory::BlobStore;
use storyloom_story::{LatentGrid, Line, ShotId, StoryEntry, StoryId};

use crate::config::Videos;
use crate::error::RunError;
use crate::folder::folder_file::Found;
use crate::folder::output::VideoFiles;
use crate::folder::records::references;
use crate::folder::run_folder::{IN_DOUBT, RunFile, RunFolder, StoryFile, StoryState};
use crate::run::lease::{Claim, Lease, Leases};
use crate::run::planning::{PlannerFile, is_planned};
use crate::view::verify::{VerifyProblem, check_stories};
use story::Healer;

/// What `repair` came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Repaired {
    /// Stories looked at.
    pub stories: usize,
    /// Stories of which shots, or all, are to be made again by the next start.
    pub to_make: Vec<StoryId>,
    /// What was found and done, story by story.
    pub deeds: Vec<Deed>,
}

impl Repaired {
    /// Whether anything came to this.
    pub fn came_to(&self, came_to: CameTo) -> bool {
        self.deeds.iter().any(|deed| deed.came_to == came_to)
    }
}

/// Something that was not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deed {
    /// The story; `None` for what is the whole run's.
    pub story: Option<StoryId>,
    /// The shot, where it is one shot's.
    pub shot: Option<ShotId>,
    /// What came of it.
    pub came_to: CameTo,
    /// What was found and done, in words.
    pub what: String,
}

/// What became of something that was not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CameTo {
    /// It is as it should be.
    Healed,
    /// The next start of the run makes it again.
    ToMake,
    /// Somebody has to see to it.
    Left,
}

/// How a run folder is to be repaired.
#[derive(Debug, Clone, Copy)]
pub struct Repair<'a> {
    /// Only these stories; all if there are none.
    pub stories: &'a [StoryId],
    /// Shots whose files are lost are made anew, with all that come after them in their story, instead of
    /// again as their records say: for those that come out otherwise now.
    pub anew: bool,
    /// How long a program may show no sign of life before its story is taken in hand.
    pub lease_timeout: Duration,
}

/// Puts the run in `folder` in order as far as `repair` says.
///
/// # Errors
/// The folder is no run, a later version of the program has written in it, or the disk fails.
pub fn repair(folder: &RunFolder, repair: &Repair) -> Result<Repaired, RunError> {
    let mut repaired = Repaired::default();
    let run = run_file(folder, &mut repaired)?;
    planner_file(folder, &mut repaired)?;
    let mut stories = match repair.stories {
        [] => all_stories(folder, run.as_ref())?,
        some => some.to_vec(),
    };
    let mut seen = BTreeSet::new();
    stories.retain(|story| seen.insert(story.clone()));
    repaired.stories = stories.len();
    let blobs = BlobStore::new(folder.blobs(), folder.storage().clone());
    let videos = run
        .as_ref()
        .map_or(Videos::Encoded, |run| run.identity.videos);
    let healer = Healer {
        folder,
        blobs,
        // Whether ffmpeg is there is asked when it is needed.
        videos: VideoFiles::unchecked(folder.storage().clone(), videos),
        seed: run.as_ref().map(|run| run.identity.seed),
        film: run.as_ref().map(|run| run.identity.video.resolution()),
        grid: run
            .as_ref()
            .map_or_else(LatentGrid::default, |run| run.identity.grid),
        is_sealed: run.as_ref().is_some_and(RunFile::is_of_sealed_build),
        anew: repair.anew,
    };
    let looked = stories.par_iter().map(|story| healer.is_healthy(story));
    let looked = looked.collect::<Result<Vec<bool>, RunError>>()?;
    let ill = stories
        .iter()
        .zip(looked)
        .filter(|(_, is_healthy)| !is_healthy);
    let ill: Vec<&StoryId> = ill.map(|(story, _)| story).collect();
    let storage = folder.storage().clone();
    let leases = match ill.is_empty() {
        true => None,
        false => Some(Leases::join(folder.leases(), storage, repair.lease_timeout)),
    };
    match leases {
        None => {}
        Some(Ok(leases)) => {
            for &story in &ill {
                in_hand(
                    &healer,
                    &leases,
                    (story, repair.lease_timeout),
                    &mut repaired,
                )?;
            }
        }
        // What was found is told all the same.
        Some(Err(error)) => {
            let what =
                format!("it is not what its records say, and nothing can be written: {error}");
            for &story in &ill {
                repaired.of_story(story, what.clone());
            }
        }
    }
    if let Some(run) = &run {
        let untouched = |story: &&StoryId| {
            !repaired
                .deeds
                .iter()
                .any(|deed| deed.story.as_ref() == Some(*story) && deed.came_to != CameTo::Healed)
        };
        let left: Vec<&StoryId> = stories.iter().filter(untouched).collect();
        for problem in doubts(folder, run, &left)? {
            repaired.deeds.push(problem);
        }
    }
    if let (Some(run), []) = (&run, repair.stories) {
        index::look_after(folder, run, &mut repaired)?;
    }
    Ok(repaired)
}

/// Puts a story in order under its lease.
fn in_hand(
    healer: &Healer,
    leases: &Leases,
    (story, lease_timeout): (&StoryId, Duration),
    repaired: &mut Repaired,
) -> Result<(), RunError> {
    let Some(lease) = claim(leases, story, lease_timeout)? else {
        let what = "a program works on it, and looks after what it needs itself; try again later";
        repaired.of_story(story, what.to_owned());
        return Ok(());
    };
    let deeds = healer.heal(story, &lease)?;
    lease.release()?;
    if deeds.iter().any(|deed| deed.came_to == CameTo::ToMake) {
        repaired.to_make.push(story.clone());
    }
    repaired.deeds.extend(deeds);
    Ok(())
}

/// Waits for the lease of a story as long as its holder may only seem to live.
fn claim<'a>(
    leases: &'a Leases,
    story: &StoryId,
    lease_timeout: Duration,
) -> Result<Option<Lease<'a>>, RunError> {
    const PAUSE: Duration = Duration::from_millis(250);
    let begun = Instant::now();
    loop {
        if let Claim::Held { lease, .. } = leases.claim(story)? {
            return Ok(Some(lease));
        }
        if begun.elapsed() > lease_timeout + 2 * PAUSE {
            return Ok(None);
        }
        std::thread::sleep(PAUSE);
    }
}

/// What asks for the given stories as they were begun, as far as the folder knows it. Those that
/// begin with files which are not in their memory are left out: only the run's own input has them.
pub fn lines(folder: &RunFolder, stories: &[StoryId]) -> Vec<Line> {
    let known = stories
        .iter()
        .filter_map(|story| folder.story_file(story).ok());
    let has_pictures = |file: &StoryFile| {
        !file.has_inputs() || references(folder, &file.id).is_ok_and(|kept| !kept.is_empty())
    };
    let lines = known
        .filter(has_pictures)
        .filter_map(|file| match (file.brief, file.script) {
            (Some(brief), _) => Some(Line::Brief(*brief)),
            (None, Some(script)) => Some(Line::Story(StoryEntry {
                method: file.method,
                seed: file.seed,
                tenant: file.tenant,
                size: file.size,
                fit: file.fit,
                ground: file.ground,
                reference_images: file.reference_images,
                first_shot: file.first_shot,
                notes: file.notes,
                ..StoryEntry::new(file.id, script)
            })),
            (None, None) => None,
        });
    lines.collect()
}

impl Repaired {
    fn of_story(&mut self, story: &StoryId, what: String) {
        self.deeds.push(Deed {
            story: Some(story.clone()),
            shot: None,
            came_to: CameTo::Left,
            what,
        });
    }

    fn of_run(&mut self, came_to: CameTo, what: String) {
        self.deeds.push(Deed {
            story: None,
            shot: None,
            came_to,
            what,
        });
    }
}

/// `run.json`, if it is sound. A damaged one moves out of the way of the next start.
fn run_file(folder: &RunFolder, repaired: &mut Repaired) -> Result<Option<RunFile>, RunError> {
    let path = folder.run_path();
    let before = folder.find_json::<RunFile>(&path)?;
    if !matches!(before, Found::Sound(_))
        && let Found::Sound(copy) = folder.find_run_file()?
    {
        folder.bring_back(&path)?;
        repaired.of_run(
            CameTo::Healed,
            format!("{} has its copy in its place", path.display()),
        );
        return Ok(Some(copy));
    }
    let reason = match folder.find_run_file()? {
        Found::Sound(run) => {
            if folder.is_in_doubt(&run)? {
                let copy = folder.run_copy();
                repaired.of_run(CameTo::Left, format!("{}: {IN_DOUBT}", copy.display()));
                return Ok(None);
            }
            if folder.has_other_copy()? {
                folder.keep_copy(&path)?;
                let copy = folder.run_copy();
                let what = format!("{} was not the copy of run.json, and is", copy.display());
                repaired.of_run(CameTo::Healed, what);
            }
            return Ok(Some(run));
        }
        Found::Gone if !folder.storage().is_taken(&folder.stories()) => {
            return folder.run_file().map(Some);
        }
        Found::Gone => "it is gone".to_owned(),
        Found::Damaged(reason) => {
            folder.give_way::<RunFile>(&path, &reason)?;
            reason
        }
    };
    let what = "start the run again with its own command, which writes it anew";
    repaired.of_run(
        CameTo::Left,
        format!("{}: {reason}; {what}", path.display()),
    );
    Ok(None)
}

/// A damaged `planner.json` moves out of the way of the next start.
fn planner_file(folder: &RunFolder, repaired: &mut Repaired) -> Result<(), RunError> {
    let path = folder.root().join("planner.json");
    let reason = match folder.find_json::<PlannerFile>(&path)? {
        Found::Sound(_) => return Ok(()),
        Found::Gone if !has_plans(folder)? => return Ok(()),
        Found::Gone => "it is gone".to_owned(),
        Found::Damaged(reason) => {
            folder.give_way::<PlannerFile>(&path, &reason)?;
            reason
        }
    };
    let what = "the next start of the run writes it anew from its plans";
    let told = format!("{}: {reason}; {what}", path.display());
    repaired.of_run(CameTo::ToMake, told);
    Ok(())
}

/// Whether any story of the run has a plan: `run.json` may be gone, and a listing is all there is. It only
/// decides whether the loss of `planner.json` is told.
fn has_plans(folder: &RunFolder) -> Result<bool, RunError> {
    let names = folder.storage().list(&folder.stories())?;
    let mut stories = names.iter().filter_map(|name| StoryId::new(name).ok());
    Ok(stories.any(|story| is_planned(folder, &story)))
}

/// What speaks against stories that are finished or given up, though all their files are what their
/// records say: nothing of it can be healed here.
fn doubts(folder: &RunFolder, run: &RunFile, stories: &[&StoryId]) -> Result<Vec<Deed>, RunError> {
    let over = stories.par_iter().filter(|story| {
        let state = folder.read_story(story).map(|file| file.state);
        !matches!(
            state,
            Ok(StoryState::Pending | StoryState::Running) | Err(_)
        )
    });
    let over: Vec<StoryId> = over.map(|story| (*story).clone()).collect();
    let problems = check_stories(folder, run, &over)?.into_iter();
    let deed = |problem: VerifyProblem| Deed {
        what: match problem.message.starts_with("the story was given up") {
            true => format!("{}; `storyloom retry` lets it back", problem.message),
            false => problem.message,
        },
        story: problem.story,
        shot: problem.shot,
        came_to: CameTo::Left,
    };
    Ok(problems.map(deed).collect())
}

/// The stories of a run; where `run.json` and its copy are gone, those of a listing, which are all that can
/// be looked after then.
fn all_stories(folder: &RunFolder, run: Option<&RunFile>) -> Result<Vec<StoryId>, RunError> {
    let mut stories = run.map(|run| run.stories.clone()).unwrap_or_default();
    if run.is_none() {
        let names = folder.storage().list(&folder.stories())?;
        stories.extend(names.iter().filter_map(|name| StoryId::new(name).ok()));
    }
    Ok(stories)
}

/// A path as the deeds of `repair` name it.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
