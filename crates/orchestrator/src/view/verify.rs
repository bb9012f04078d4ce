//! The proof: everything that was asked for exists once, is whole, and was made from the memory
//! that it claims.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use storyloom_memory::arrays::LATENTS;
use storyloom_memory::blobs;
use storyloom_memory::ledger::record::v2::MethodRecord;
use storyloom_memory::pictures::decode_picture;
use storyloom_memory::policy::onestory::SELECT;
use storyloom_memory::{
    BlobRef, BlobStore, MemoryItem, PictureRecord, References, SeenRecord, ShotRecord, Storage,
    Stored,
};
use storyloom_story::{
    Media, Method, PlannerDescription, Resolution, Seed, ShotId, ShotScript, StoryId,
};

use crate::config::Videos;
use crate::error::RunError;
use crate::folder::folder_file::Found;
use crate::folder::identity::RunIdentity;
use crate::folder::output::{PLACEHOLDER, decode_frames, is_joined_as_it_is};
use crate::folder::plan_record::PlanRecord;
use crate::folder::plans::read_plan;
use crate::folder::records::read_record;
use crate::folder::run_folder::{IN_DOUBT, RunFile, RunFolder, StoryFile, StoryState};
use crate::folder::set_aside::marks;
use crate::folder::terms::MethodTerms;
use crate::run::chain::opening;
use crate::run::planning::planners_of;
use crate::view::chosen::{self, Offered, Underivable};

/// What the check found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether there is no problem.
    pub ok: bool,
    /// Shots asked for.
    pub shots: usize,
    /// Shots that exist and are whole.
    pub shots_proven: usize,
    /// What is known of the video files.
    pub videos: VideosProven,
    /// Digest over latents and frames of all shots in story order; equal for equal results. Only
    /// there if every shot is.
    pub content_digest: Option<String>,
    /// What is wrong.
    pub problems: Vec<VerifyProblem>,
}

/// How much a verdict says of the video files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VideosProven {
    /// Every frame decodes.
    Decoded,
    /// They are what was recorded when they were made; nobody looked whether they decode.
    Content,
    /// There are none: the run was told to make none.
    Placeholders,
}

/// One thing that is wrong with a run folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifyProblem {
    /// The story; `None` for what is the whole run's.
    pub story: Option<StoryId>,
    /// The shot, where it is one shot's.
    pub shot: Option<ShotId>,
    /// What is wrong.
    pub message: String,
}

/// How closely videos are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Their content is what was recorded when they were made.
    Content,
    /// Also, every frame decodes.
    Frames,
}

/// Checks everything in `folder`, several stories at a time. Errors are only those that keep it from
/// looking.
pub fn verify(folder: &RunFolder, depth: Depth) -> Result<Verdict, RunError> {
    let (run, mut problems) = run_to_prove(folder)?;
    let planners = planners(folder, &mut problems)?;
    let Some(run) = run else {
        return Ok(Verdict::of_nothing(problems));
    };
    let terms = Terms::of(folder, &run, depth, planners);
    let mut stories = run.stories.clone();
    // Story order, not the order of making, which priorities may change.
    stories.sort();
    let mut hasher = blake3::Hasher::new();
    let (mut shots, mut proven) = (0, 0);
    let checked = stories.par_iter().map(|story| check_story(&terms, story));
    for found in checked.collect::<Vec<_>>() {
        problems.extend(found.problems);
        shots += found.shots;
        proven += found.proven;
        hasher.update(&found.content);
    }
    for (story, reason) in marks(folder)? {
        if run.stories.contains(&story) {
            continue;
        }
        problems.push(VerifyProblem {
            message: format!("it was asked for and is set aside: {reason}"),
            story: Some(story),
            shot: None,
        });
    }
    let complete = problems.is_empty() && proven == shots;
    Ok(Verdict {
        ok: complete,
        shots,
        shots_proven: proven,
        videos: terms.videos,
        content_digest: complete.then(|| hasher.finalize().to_hex().to_string()),
        problems,
    })
}

impl Verdict {
    /// Of a run of which nobody can say what it is.
    fn of_nothing(problems: Vec<VerifyProblem>) -> Self {
        Self {
            ok: false,
            shots: 0,
            shots_proven: 0,
            videos: VideosProven::Content,
            content_digest: None,
            problems,
        }
    }
}

impl VerifyProblem {
    /// Of a file that belongs to the run as a whole.
    fn of_run(file: &str, reason: impl Display) -> Self {
        Self {
            story: None,
            shot: None,
            message: format!("{file}: {reason}"),
        }
    }
}

/// The run that is to be proven, and what is wrong with what says so. Where `run.json` does not say it, its
/// copy does, which is a problem all the same.
fn run_to_prove(folder: &RunFolder) -> Result<(Option<RunFile>, Vec<VerifyProblem>), RunError> {
    let reason = match folder.find_json::<RunFile>(&folder.run_path())? {
        Found::Sound(run) => {
            folder.note_run(&run);
            let reason = match folder.is_in_doubt(&run)? {
                true => IN_DOUBT,
                false => {
                    "it is not the copy of run.json; the next start and `storyloom repair` put this in order"
                }
            };
            let other = folder.has_other_copy()?;
            let other = other.then(|| VerifyProblem::of_run("lists/run.json", reason));
            return Ok((Some(run), other.into_iter().collect()));
        }
        Found::Damaged(reason) => reason,
        Found::Gone => "it is gone".to_owned(),
    };
    let problem = VerifyProblem::of_run("run.json", &reason);
    match folder.find_run_file()? {
        Found::Sound(copy) => Ok((Some(copy), vec![problem])),
        Found::Damaged(_) => Ok((None, vec![problem])),
        // Perhaps it is no run folder.
        Found::Gone => folder.run_file().map(|run| (Some(run), vec![problem])),
    }
}

/// Who plans the briefs; a file of them that is damaged is a problem.
fn planners(
    folder: &RunFolder,
    problems: &mut Vec<VerifyProblem>,
) -> Result<Vec<PlannerDescription>, RunError> {
    match planners_of(folder) {
        Err(RunError::Folder { reason, .. }) => {
            problems.push(VerifyProblem::of_run("planner.json", reason));
            Ok(Vec::new())
        }
        planners => planners,
    }
}

/// What speaks against stories of a run, by content. Errors are only those that keep it from looking.
pub(crate) fn check_stories(
    folder: &RunFolder,
    run: &RunFile,
    stories: &[StoryId],
) -> Result<Vec<VerifyProblem>, RunError> {
    let terms = Terms::of(folder, run, Depth::Content, planners_of(folder)?);
    let found = stories.par_iter().map(|story| check_story(&terms, story));
    Ok(found.flat_map_iter(|found| found.problems).collect())
}

fn check_story(terms: &Terms, story: &StoryId) -> StoryFound {
    let mut check = Check {
        terms,
        found: StoryFound::default(),
    };
    match terms.folder.story_file(story) {
        Ok(file) => check.story(&file),
        Err(error) => check.problem(story, None, error.to_string()),
    }
    check.found
}

/// What all stories are held against.
struct Terms<'a> {
    folder: &'a RunFolder,
    blobs: BlobStore,
    run: &'a RunFile,
    identity: &'a RunIdentity,
    videos: VideosProven,
    /// Who plans the briefs, and earlier versions of that planner.
    planners: Vec<PlannerDescription>,
}

impl<'a> Terms<'a> {
    fn of(
        folder: &'a RunFolder,
        run: &'a RunFile,
        depth: Depth,
        planners: Vec<PlannerDescription>,
    ) -> Self {
        Self {
            folder,
            blobs: BlobStore::new(folder.blobs(), folder.storage().clone()),
            run,
            identity: &run.identity,
            videos: match (run.identity.videos, depth) {
                (Videos::Placeholders, _) => VideosProven::Placeholders,
                (Videos::Encoded, Depth::Content) => VideosProven::Content,
                (Videos::Encoded, Depth::Frames) => VideosProven::Decoded,
            },
            planners,
        }
    }
}

/// What is found of a story.
#[derive(Default)]
struct StoryFound {
    problems: Vec<VerifyProblem>,
    shots: usize,
    proven: usize,
    /// What is digested of it: latents and frames, named by story and shot.
    content: Vec<u8>,
}

struct Check<'a> {
    terms: &'a Terms<'a>,
    found: StoryFound,
}

/// The video of a shot that was decoded, and the digest of its frames.
struct DecodedShot {
    path: PathBuf,
    record: ShotRecord,
    frames: Option<blake3::Hash>,
}

/// What is known of a story before a shot.
#[derive(Default)]
struct Lineage {
    bank: Vec<SeenRecord>,
    /// Reference images, the first of the bank.
    references: usize,
    /// The latents of a ready-made first shot.
    first_shot: Option<BlobRef>,
    /// What networks choose from, where they do.
    offered: Offered,
    previous: Option<String>,
    tail: Option<BlobRef>,
}

impl Check<'_> {
    fn storage(&self) -> &dyn Storage {
        self.terms.folder.storage().as_ref()
    }

    fn problem(&mut self, story: &StoryId, shot: Option<ShotId>, message: impl Into<String>) {
        self.found.problems.push(VerifyProblem {
            story: Some(story.clone()),
            shot,
            message: message.into(),
        });
    }

    fn story(&mut self, file: &StoryFile) {
        let mut lineage = Lineage::default();
        if let Err(error) = self.references(file, &mut lineage) {
            self.problem(&file.id, None, error.to_string());
        }
        self.extra_records(file);
        let plan = self.plan(file);
        if file.script.is_none() {
            self.found.shots += file.shot_count();
        }
        let mut made = Vec::new();
        for (shot, script) in file.shots() {
            self.found.shots += 1;
            let before = self.found.problems.len();
            match read_record(self.terms.folder, &file.id, shot) {
                Err(error) => self.problem(&file.id, Some(shot), error.to_string()),
                Ok(None) => self.problem(&file.id, Some(shot), "the shot was not made"),
                Ok(Some(record)) => {
                    if record.request().prompt != script.prompt {
                        self.problem(&file.id, Some(shot), "it was made from another prompt");
                    }
                    if *record.plan() != plan {
                        self.problem(&file.id, Some(shot), "it does not follow the story's plan");
                    }
                    self.recipe(file, shot, script, &record, lineage.previous.is_some());
                    let frames = self.shot(file, shot, &record, &lineage);
                    self.extend(&mut lineage, &record);
                    self.digest(&record);
                    made.push(DecodedShot {
                        path: self.terms.folder.story(&file.id).join(&record.file().file),
                        record,
                        frames,
                    });
                }
            }
            self.found.proven += usize::from(self.found.problems.len() == before);
        }
        self.whole_video(file, &made);
    }

    /// The digest of the plan of a story that has a brief; whatever is wrong with it is a problem.
    fn plan(&mut self, file: &StoryFile) -> Option<String> {
        file.brief.as_ref()?;
        let plan = match read_plan(self.terms.folder, &file.id) {
            Ok(Some(plan)) => plan,
            Ok(None) => {
                self.problem(&file.id, None, "its brief was not planned");
                return None;
            }
            Err(error) => {
                self.problem(&file.id, None, error.to_string());
                return None;
            }
        };
        for message in self.doubts(file, &plan) {
            self.problem(&file.id, None, message);
        }
        Some(plan.name().clone())
    }

    /// What speaks against a plan, derived again from the brief and the settings.
    fn doubts(&self, file: &StoryFile, plan: &PlanRecord) -> Vec<&'static str> {
        let mut wrong = Vec::new();
        let method = self.terms.identity.method();
        let brief = file.brief.as_deref();
        if !brief.is_some_and(|brief| plan.is_of(brief, method)) {
            wrong.push("it was planned from another brief");
        }
        if file.script.as_ref() != Some(&plan.script) || file.plan.as_ref() != Some(plan.name()) {
            wrong.push("its script is not that of its plan");
        }
        let run_seed = file.seed.unwrap_or(self.terms.identity.seed);
        if plan.seed != Seed::derive_plan(run_seed, &file.id, plan.attempt) {
            wrong.push("the seed of its plan is not the one that the run gives it");
        }
        let mut planners = self.terms.planners.iter();
        if !planners.any(|planner| planner.is_same_as(&plan.planner)) {
            wrong.push("it was planned by another planner than the run's");
        }
        wrong
    }

    fn references(&mut self, file: &StoryFile, lineage: &mut Lineage) -> Result<(), RunError> {
        if !file.has_inputs() || file.state == StoryState::Pending {
            return Ok(());
        }
        let path = self
            .terms
            .folder
            .story(&file.id)
            .join("commits/references.json");
        let record = References::open(&path, &self.terms.folder.storage().read(&path)?)?;
        let terms = self.terms.run.terms(self.terms.folder.method_of(file));
        if let Some(terms) = terms
            && let Some(what) = terms.foreign_references(&record)
        {
            self.problem(&file.id, None, format!("{}: {what}", path.display()));
        }
        let items = record.kept();
        for item in &items {
            self.item(file, None, item);
            lineage.bank.push(item.seen(None));
        }
        lineage.references = lineage.bank.len();
        lineage.offered = Offered::new(&items);
        lineage.first_shot = items.iter().find_map(|item| item.first_shot().cloned());
        if file.first_shot.is_some() != lineage.first_shot.is_some() {
            let message = format!(
                "{}: it does not begin as the story does, with its first shot or without",
                path.display()
            );
            self.problem(&file.id, None, message);
        }
        Ok(())
    }

    /// Records of shots that nobody asked for.
    ///
    /// Only a listing can show these. It proves nothing: the shots that were asked for are looked for by
    /// name, and what a listing leaves out is nothing that they need.
    fn extra_records(&mut self, file: &StoryFile) {
        let folder = self.terms.folder.story(&file.id).join("commits");
        let names = match self.terms.folder.storage().list(&folder) {
            Ok(names) => names,
            Err(error) => return self.problem(&file.id, None, error.to_string()),
        };
        for name in names {
            let shot = name
                .strip_suffix(".json")
                .and_then(|stem| stem.parse::<ShotId>().ok());
            if let Some(shot) = shot
                && !file.shots().any(|(asked, _)| asked == shot)
            {
                self.problem(
                    &file.id,
                    Some(shot),
                    "there is a record, but nobody asked for it",
                );
            }
        }
    }

    /// What the settings and the script ask for, derived again.
    fn recipe(
        &mut self,
        file: &StoryFile,
        shot: ShotId,
        script: &ShotScript,
        record: &ShotRecord,
        has_previous: bool,
    ) {
        let request = record.request();
        let references = file.has_inputs();
        let mut wrong = Vec::new();
        let method = self.terms.folder.method_of(file);
        if request.method != method {
            wrong.push("it was made by another method than its story's");
        }
        let continuation = self.terms.identity.continuation;
        if request.opening != opening(method, script, has_previous, references, continuation) {
            wrong.push("it does not begin as the script asks");
        }
        let run_seed = file.seed.unwrap_or(self.terms.identity.seed);
        if request.seed != Seed::derive(run_seed, &file.id, shot, request.attempt) {
            wrong.push("its seed is not the one that the run gives it");
        }
        let grid = self.terms.identity.grid;
        if Some(request.video.resolution()) != file.size.map(|film| film.generated(grid)) {
            wrong.push("it has another size than its story");
        }
        let frames = method
            .profile()
            .media
            .frames(self.terms.identity.video.frames);
        let terms = self.terms.run.terms(method);
        let related = match terms.is_some_and(|terms| terms.memory.policy().wants_characters()) {
            true => file.related(shot),
            false => Vec::new(),
        };
        if request.related != related {
            wrong.push("it names other shots of its characters than the story's tags say");
        }
        if record.frame_count() != request.saved_frames() || request.video.frames != frames {
            wrong.push("it has another number of frames than was asked for");
        }
        for message in wrong {
            self.problem(&file.id, Some(shot), message);
        }
    }

    /// The digest of its decoded frames, if they were decoded.
    fn shot(
        &mut self,
        file: &StoryFile,
        shot: ShotId,
        record: &ShotRecord,
        lineage: &Lineage,
    ) -> Option<blake3::Hash> {
        let mut wrong = Vec::new();
        let request = record.request();
        if request.story != file.id || request.shot != shot {
            let other = format!("{} {}", request.story, request.shot);
            wrong.push(format!("it is the record of {other}"));
        }
        wrong.extend(self.of_method(record, lineage));
        if *record.previous() != lineage.previous {
            wrong.push("it was not made after the shot before it".to_owned());
        }
        if file.shots().next().map(|(first, _)| first) == Some(shot)
            && let Some(ready_made) = &lineage.first_shot
            && record.passes().last().map(|pass| pass.latents) != Some(ready_made)
        {
            wrong.push("it is not the ready-made first shot of its story".to_owned());
        }
        let continued = request.opening.given_frames() > 0;
        let tail = lineage.tail.as_ref().filter(|_| continued);
        if record.continues() != tail {
            wrong.push("it does not continue the shot before it".to_owned());
        }
        for message in wrong {
            self.problem(&file.id, Some(shot), message);
        }
        self.contents(file, shot, record)
    }

    /// What speaks against a shot by what its method is in this run: its engine, what it saw, and what only
    /// this method says.
    fn of_method(&self, record: &ShotRecord, lineage: &Lineage) -> Vec<String> {
        let method = record.request().method;
        let Some(terms) = self.terms.run.terms(method) else {
            return vec![format!("the run does not say what its method {method} is")];
        };
        let MethodTerms {
            engine,
            memory,
            record_format,
        } = &terms;
        let mut wrong = Vec::new();
        if *record.engine() != engine.fingerprint {
            wrong.push("it was made by another engine than the run's".to_owned());
        }
        if record.format() != *record_format {
            wrong.push(format!(
                "its record has format {}, and those of {method} have format {record_format}",
                record.format()
            ));
        }
        let bank = &lineage.bank;
        let stored = Stored {
            items: bank.len(),
            references: lineage.references,
        };
        let visible = memory.policy().visible(record.request().opening, stored);
        if !visible.allows(record.seen(), bank) {
            wrong.push("the memory it claims is not what the bank held".to_owned());
        }
        if let ShotRecord::V2(record) = record
            && MethodRecord::new(method, bank.len() as u32).as_ref() != Some(&record.method)
        {
            wrong.push(format!(
                "what it says of {method} is not what the bank held"
            ));
        }
        wrong.extend(self.choice(record, lineage, &terms));
        wrong
    }

    /// Whether a shot saw what follows from the scores that it stored, where its networks choose by scores.
    fn choice(
        &self,
        record: &ShotRecord,
        lineage: &Lineage,
        terms: &MethodTerms,
    ) -> Option<String> {
        let policy = chosen::policy_of(terms)?;
        let grid = self.terms.identity.grid;
        match lineage
            .offered
            .choice(record, policy, &self.terms.blobs, grid)
        {
            Ok(Some(choice)) => {
                let places = choice.places();
                let derived = places.iter().map(|&place| lineage.bank.get(place));
                let is_same = derived.clone().eq(record.seen().iter().map(Some));
                (!is_same).then(|| differing_choice(derived.flatten(), record.seen()))
            }
            // Its engine pretended a network, and noted no scores.
            Ok(None) if terms.engine.is_simulated() => None,
            Ok(None) => Some(format!(
                "it has no pass {SELECT}, whose scores say what it has to see"
            )),
            // The pass whose latents they are is looked at with all others.
            Err(Underivable::Scores(_)) => None,
            Err(Underivable::Choice(error)) => Some(format!(
                "what it had to see does not follow from its pass {SELECT}: {error}"
            )),
        }
    }

    /// Every file and blob of a shot, by content; the digest of its decoded frames.
    fn contents(
        &mut self,
        file: &StoryFile,
        shot: ShotId,
        record: &ShotRecord,
    ) -> Option<blake3::Hash> {
        let latents = record
            .passes()
            .into_iter()
            .map(|pass| ("latents", pass.latents));
        let tail = record.tail().map(|tail| ("last frames", tail));
        for (what, blob) in latents.chain(tail) {
            if let Err(error) = self.terms.blobs.get(blob) {
                self.problem(&file.id, Some(shot), format!("{what}: {error}"));
            }
        }
        for item in &record.kept() {
            let latents = self.item(file, Some(shot), item);
            self.history(record, item, latents);
        }
        let path = self.file(file, Some(shot), record.file())?;
        if record.request().method.profile().media == Media::Picture {
            self.picture(file, shot, &path, record);
            return None;
        }
        let frames = [u64::from(record.frame_count())];
        let decoded = self.decodes(file, Some(shot), &path, file.film(record), &frames);
        decoded.first().copied()
    }

    /// Whether the picture of a shot decodes, in the film's size, and shows what its record says.
    fn picture(&mut self, file: &StoryFile, shot: ShotId, path: &Path, record: &ShotRecord) {
        let bytes = self.terms.folder.storage().read(path);
        let wrong = match bytes.and_then(|bytes| decode_picture(path, &bytes)) {
            Err(error) => Some(error.to_string()),
            Ok(picture) => {
                let (width, height) = (picture.width(), picture.height());
                let size = file.film(record);
                let shown = blake3::hash(picture.data()).to_hex();
                let is_whole = (width, height) == record.frame_size();
                match (width, height) == (size.width, size.height) {
                    false => Some(format!("is a picture of {width}x{height}, not {size}")),
                    // A film that is smaller than its frames shows the middle of them.
                    true if is_whole && shown.as_str() != record.frames_blake3() => {
                        Some("shows another picture than was decoded".to_owned())
                    }
                    true => None,
                }
                .map(|wrong| format!("{} {wrong}", path.display()))
            }
        };
        if let Some(wrong) = wrong {
            self.problem(&file.id, Some(shot), wrong);
        }
    }

    /// The picture and the arrays of something that was kept; the shape of its latents, if they can be read.
    fn item(
        &mut self,
        file: &StoryFile,
        shot: Option<ShotId>,
        item: &MemoryItem,
    ) -> Option<Vec<usize>> {
        let mut latents = None;
        if let Some(picture) = &item.picture {
            self.file(file, shot, picture);
        }
        for (name, blob) in &item.arrays {
            match self.terms.blobs.array(blob) {
                Ok(array) if name == LATENTS => latents = Some(array.shape().to_vec()),
                Ok(_) => {}
                Err(error) => {
                    let message = format!("{}: {error}", item.seen(shot).file);
                    self.problem(&file.id, shot, message);
                }
            }
        }
        latents
    }

    /// Whether later shots find as many latent frames of a shot as it has.
    fn history(&mut self, record: &ShotRecord, item: &MemoryItem, latents: Option<Vec<usize>>) {
        let request = record.request();
        if request.method != Method::OneStory {
            return;
        }
        let wanted = chosen::latent_frames(record, self.terms.identity.grid);
        let wrong = match latents {
            Some(shape) if shape.get(1) != Some(&wanted) => format!(
                "latents of shape {shape:?} are kept of it, and it has {wanted} latent frames"
            ),
            None if !item.arrays.contains_key(LATENTS) => "no latents are kept of it".to_owned(),
            // What cannot be read was told.
            Some(_) | None => return,
        };
        self.problem(&request.story, Some(request.shot), wrong);
    }

    /// Checks a file of a story against its record.
    fn file(
        &mut self,
        file: &StoryFile,
        shot: Option<ShotId>,
        record: &PictureRecord,
    ) -> Option<PathBuf> {
        let path = self.terms.folder.story(&file.id).join(&record.file);
        let content = self.terms.folder.storage().read(&path);
        let checked = content.and_then(|content| blobs::check(&path, &content, &record.content));
        match checked {
            Ok(()) => Some(path),
            Err(error) => {
                self.problem(&file.id, shot, error.to_string());
                None
            }
        }
    }

    /// Whether a video has as many frames as `parts` say in all; the digests of these parts.
    fn decodes(
        &mut self,
        file: &StoryFile,
        shot: Option<ShotId>,
        path: &Path,
        size: Resolution,
        parts: &[u64],
    ) -> Vec<blake3::Hash> {
        match self.terms.videos {
            VideosProven::Decoded => {}
            VideosProven::Content => return Vec::new(),
            VideosProven::Placeholders => {
                self.is_placeholder(file, shot, path);
                return Vec::new();
            }
        }
        let frames: u64 = parts.iter().sum();
        match decode_frames(self.storage(), path, (size.width, size.height), parts) {
            Ok(decoded) if decoded.frames == frames => return decoded.parts,
            Ok(decoded) => {
                let found = decoded.frames;
                let message = format!("{} has {found} frames, not {frames}", path.display());
                self.problem(&file.id, shot, message);
            }
            Err(error) => self.problem(&file.id, shot, error.to_string()),
        }
        Vec::new()
    }

    /// In a run without videos, nothing may pass for one.
    fn is_placeholder(&mut self, file: &StoryFile, shot: Option<ShotId>, path: &Path) {
        let content = self.terms.folder.storage().read(path);
        if content.is_ok_and(|content| content != PLACEHOLDER) {
            let message = format!("{} is no placeholder", path.display());
            self.problem(&file.id, shot, message);
        }
    }

    fn extend(&self, lineage: &mut Lineage, record: &ShotRecord) {
        let shot = record.request().shot;
        let kept = record.kept();
        lineage
            .bank
            .extend(kept.iter().map(|item| item.seen(Some(shot))));
        lineage.offered.add(record, self.terms.identity.grid);
        lineage.previous = Some(record.digest().clone());
        lineage.tail = record.tail().cloned();
    }

    /// Latents and frames, named by story and shot.
    fn digest(&mut self, record: &ShotRecord) {
        let request = record.request();
        let content = &mut self.found.content;
        content.extend_from_slice(format!("{}/{}\0", request.story, request.shot).as_bytes());
        for pass in record.passes() {
            content.extend_from_slice(pass.latents.blake3.as_bytes());
            content.extend_from_slice(pass.frames_blake3.as_bytes());
        }
    }

    fn whole_video(&mut self, file: &StoryFile, made: &[DecodedShot]) {
        let method = self.terms.folder.method_of(file);
        let is_of_pictures = method.profile().media == Media::Picture;
        match (&file.state, &file.video) {
            (StoryState::Done, Some(video)) if is_of_pictures => {
                let message = format!("{} is noted, and its method makes no film", video.file);
                self.problem(&file.id, None, message);
            }
            (StoryState::Done, Some(video)) => {
                if let Some(film) = self.file(file, None, video) {
                    self.film(file, &film, made);
                }
            }
            (StoryState::Failed { reason, .. } | StoryState::Quarantined { reason, .. }, _) => {
                self.problem(&file.id, None, format!("the story was given up: {reason}"));
            }
            (StoryState::Done, None) if is_of_pictures => {}
            _ => self.problem(&file.id, None, "the story is not finished"),
        }
    }

    /// Whether a film is its shots: joined from these files, and with their frames.
    fn film(&mut self, file: &StoryFile, film: &Path, made: &[DecodedShot]) {
        let Some(first) = made.first() else { return };
        let clips = made.iter().map(|shot| &shot.record.file().content.blake3);
        if !file.joined.is_empty() && !file.joined.iter().eq(clips) {
            let message = format!(
                "{} was joined from other videos of its shots",
                film.display()
            );
            self.problem(&file.id, None, message);
        }
        let counts = made.iter().map(|shot| u64::from(shot.record.frame_count()));
        let counts: Vec<u64> = counts.collect();
        let parts = self.decodes(file, None, film, file.film(&first.record), &counts);
        for (shot, part) in made.iter().zip(parts) {
            let differs = shot.frames.is_some_and(|own| own != part);
            if differs && is_joined_as_it_is(self.storage(), film, &shot.path) {
                let message = format!("{} shows other pictures there", film.display());
                self.problem(&file.id, Some(shot.record.request().shot), message);
            }
        }
    }
}

/// What follows from the scores of a shot, and what its record says instead.
fn differing_choice<'a>(
    derived: impl Iterator<Item = &'a SeenRecord>,
    seen: &[SeenRecord],
) -> String {
    let files = |seen: &mut dyn Iterator<Item = &SeenRecord>| {
        let files: Vec<&str> = seen.map(|seen| seen.file.as_str()).collect();
        match files.is_empty() {
            true => "nothing".to_owned(),
            false => files.join(", "),
        }
    };
    format!(
        "by the scores of its pass {SELECT} it had to see {}, and its record says {}",
        files(&mut derived.into_iter()),
        files(&mut seen.iter())
    )
}
