//! Beginning a run, and taking its stories on one after the other.
//!
//! A start writes down at once what it is asked for: one [list](crate::folder::lists) of all stories, then
//! `run.json`, which names it. From then on the run can be looked at, and stopped at any moment. A
//! story gets its `story.json` from the program that takes it, under its lease.
//!
//! A later start may ask for more stories, or for the same ones in other words. A story of which
//! nothing was made is simply made as it is asked for now. One of which something was made must be the
//! same; if it is not, it is [set aside](crate::folder::set_aside), and all others go on.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use rayon::prelude::*;
use storyloom_memory::storage::{make_way, move_aside};
use storyloom_story::{Brief, Line, Method, Seed, StoryId};

use crate::config::RunConfig;
use crate::error::RunError;
use crate::folder::folder_file::Found;
use crate::folder::identity::RunIdentity;
use crate::folder::lists::List;
use crate::folder::plan_record::essence;
use crate::folder::records::read_record;
use crate::folder::run_folder::{FOLDER_FORMAT, RunFile, RunFolder, StoryFile};
use crate::folder::terms::RunTerms;
use crate::run::differences::differences;

/// A story that is asked for, as the run folder knows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// Nothing was made of it: it is what is asked for now, whatever was asked for before.
    New(StoryFile),
    /// It is known, and the same is asked for.
    Known(StoryFile),
    /// Something was made of it, and something else is asked for.
    Changed {
        /// The story as it was begun.
        file: StoryFile,
        /// What is another now, as in "its script".
        what: &'static str,
    },
}

impl Asked {
    /// The story's file, whether it is written or not.
    pub fn file(&self) -> &StoryFile {
        match self {
            Self::New(file) | Self::Known(file) | Self::Changed { file, .. } => file,
        }
    }

    /// As [`file`](Self::file).
    pub fn into_file(self) -> StoryFile {
        match self {
            Self::New(file) | Self::Known(file) | Self::Changed { file, .. } => file,
        }
    }
}

impl RunFolder {
    /// Begins a run in this folder, or goes on with the one that is there.
    ///
    /// A second start must agree in everything that decides the pictures. Stories may be added. The
    /// answer is in the order of `lines`.
    pub fn begin(
        &self,
        config: &RunConfig,
        terms: &RunTerms,
        lines: &[Line],
    ) -> Result<Vec<Asked>, RunError> {
        let list = List::of(lines);
        let mut run = RunFile {
            format: FOLDER_FORMAT,
            run_id: new_run_id(self.root()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: terms.of(config.method)?.engine.clone(),
            identity: RunIdentity::new(config),
            methods: terms.beside(config.method),
            config: config.resolved.clone(),
            manifest_digest: list.digest.clone(),
            lists: Vec::new(),
            stories: lines.iter().map(|line| line.id().clone()).collect(),
        };
        self.note_method(config.method);
        let path = self.run_path();
        self.bring_back(&path)?;
        match self.find_run_file()? {
            Found::Sound(before) => self.check_same(&before, &run)?,
            Found::Gone => self.check_records(&run, lines)?,
            Found::Damaged(reason) => {
                self.check_records(&run, lines)?;
                self.give_way::<RunFile>(&path, &reason)?;
            }
        }
        let asked = self.look_at(lines)?;
        // Before the run that names it.
        if asked.iter().any(|asked| matches!(asked, Asked::New(_))) {
            list.write(self.root(), self.storage().as_ref())?;
            run.lists.push(list.digest);
        }
        // Of several programs that begin together one writes; the others join it.
        if !self.create_json(&path, &run)? {
            let before = self.run_file()?;
            self.check_same(&before, &run)?;
            if let Some(longer) = joined(&before, run) {
                self.write_json(&path, &longer)?;
            }
        }
        self.keep_copy(&path)?;
        Ok(asked)
    }

    /// Puts the copy of `run.json` in its place, if it is gone or damaged.
    pub(crate) fn bring_back(&self, path: &Path) -> Result<(), RunError> {
        let found = self.find_json::<RunFile>(path)?;
        if !matches!(
            self.find_json::<RunFile>(&self.run_copy())?,
            Found::Sound(_)
        ) {
            return Ok(());
        }
        match found {
            Found::Sound(_) => return Ok(()),
            Found::Gone => tracing::warn!("run.json is gone; its copy takes its place"),
            Found::Damaged(reason) => self.give_way::<RunFile>(path, &reason)?,
        }
        // As it stands there: that of an earlier build has no seal, and gets none.
        let bytes = self.storage().read(&self.run_copy())?;
        if !self.storage().exists(path) {
            self.storage().create(path, &bytes)?;
        }
        Ok(())
    }

    /// Keeps what `run.json` says now a second time.
    pub(crate) fn keep_copy(&self, path: &Path) -> Result<(), RunError> {
        let bytes = self.storage().read(path)?;
        let copy = self.run_copy();
        if self.storage().read(&copy).is_ok_and(|kept| kept == bytes) {
            return Ok(());
        }
        make_way(self.storage().as_ref(), &copy)?;
        Ok(self.storage().write(&copy, &bytes)?)
    }

    /// As [`begin`](Self::begin) for a program that makes no shots: the run is begun by those who
    /// make them.
    pub fn admit(&self, config: &RunConfig, lines: &[Line]) -> Result<Vec<Asked>, RunError> {
        self.note_method(config.method);
        // A damaged one is the matter of those who begin runs.
        if let Found::Sound(before) = self.find_run_file()? {
            let now = RunFile {
                identity: RunIdentity::new(config),
                ..before.clone()
            };
            self.check_same(&before, &now)?;
        }
        self.look_at(lines)
    }

    /// How all stories stand, in their order.
    fn look_at(&self, lines: &[Line]) -> Result<Vec<Asked>, RunError> {
        // By a listing, those without a folder need not be looked for one by one. The program that takes one looks
        // again.
        let there = self.storage().list(&self.stories())?;
        let there: HashSet<String> = there.into_iter().collect();
        let look = |line: &Line| match there.contains(line.id().as_str()) {
            true => self.asked(line),
            false => Ok(Asked::New(StoryFile::pending(line))),
        };
        lines.par_iter().map(look).collect()
    }

    /// How a story stands that is asked for now. Nothing is written.
    ///
    /// All that a `story.json` says is in the manifest, the records and the plan. So one that is gone or
    /// damaged is what they say.
    pub(crate) fn asked(&self, line: &Line) -> Result<Asked, RunError> {
        let written = match self.written_story(line.id()) {
            Err(error) if self.has_damaged_file(line.id()) => {
                tracing::warn!(story = %line.id(), "the story is as its records say: {error}");
                None
            }
            written => written?,
        };
        let Some(mut file) = written else {
            let file = self.with_plan(StoryFile::pending(line))?;
            return Ok(match self.recorded_otherwise(&file) {
                Some(what) => Asked::Changed { file, what },
                None => Asked::New(file),
            });
        };
        match file.difference(line, self.method()) {
            None => {
                // The same files may have other names now.
                let asked = StoryFile::pending(line);
                file.reference_images = asked.reference_images;
                file.first_shot = asked.first_shot;
                Ok(Asked::Known(file))
            }
            Some(what) if self.has_results(line.id())? => Ok(Asked::Changed { file, what }),
            Some(_) => Ok(Asked::New(StoryFile::pending(line))),
        }
    }

    /// As [`asked`](Self::asked) by the holder of the story's lease: the story has its file then.
    pub(crate) fn take_on(&self, line: &Line) -> Result<Asked, RunError> {
        let asked = self.asked(line)?;
        let Asked::New(file) = &asked else {
            return Ok(asked);
        };
        let path = self.story(&file.id).join("story.json");
        if self.has_damaged_file(&file.id) {
            let aside = move_aside(self.storage().as_ref(), &path)?;
            tracing::warn!(story = %file.id, kept = %aside.display(), "story.json is written anew");
        }
        if self.create_json(&path, file)? {
            return Ok(asked);
        }
        let story = &file.id;
        tracing::info!(%story, "made as it is asked for now; nothing was made of it before");
        self.write_story(file)?;
        Ok(asked)
    }

    /// Whether a story has a `story.json` that says nothing of it: cut, changed, another story's, or no
    /// file at all.
    fn has_damaged_file(&self, story: &StoryId) -> bool {
        let path = self.story(story).join("story.json");
        let storage = self.storage();
        if !storage.is_taken(&path) {
            return false;
        }
        match self.read_story(story) {
            Ok(_) => false,
            Err(RunError::Folder { .. }) => true,
            // A file that cannot be read may be readable tomorrow.
            Err(_) => !storage.exists(&path),
        }
    }

    /// What of a story is another now than when its records were made, if anything is.
    fn recorded_otherwise(&self, file: &StoryFile) -> Option<&'static str> {
        let method = self.method_of(file);
        file.shots().find_map(|(shot, script)| {
            let record = read_record(self, &file.id, shot).ok().flatten()?;
            let request = record.request();
            match () {
                () if request.method != method => Some("its method"),
                () if request.prompt != script.prompt => Some("its script"),
                () => None,
            }
        })
    }

    /// Where `run.json` cannot say whether a run is the same, its records can: the first that is found
    /// must be one that `now` would have made. A listing finds it; one that it missed is compared when its
    /// story is taken.
    fn check_records(&self, now: &RunFile, lines: &[Line]) -> Result<(), RunError> {
        let there: HashSet<String> = self.storage().list(&self.stories())?.into_iter().collect();
        let begun = lines
            .iter()
            .filter(|line| there.contains(line.id().as_str()));
        for line in begun {
            let story = line.id();
            let names = self.storage().list(&self.story(story).join("commits"))?;
            let mut shots = names
                .iter()
                .filter_map(|name| name.strip_suffix(".json")?.parse().ok());
            let record = shots.find_map(|shot| read_record(self, story, shot).ok().flatten());
            let Some(record) = record else { continue };
            let request = record.request();
            let seed = StoryFile::pending(line).seed.unwrap_or(now.identity.seed);
            let of_seed = Seed::derive(seed, story, request.shot, request.attempt);
            let (video, asked) = (request.video, now.identity.video);
            let engine = now
                .terms(request.method)
                .map(|terms| terms.engine.fingerprint);
            let frames = request.method.profile().media.frames(asked.frames);
            let other = match () {
                () if engine.is_none() => "another method",
                () if engine.as_ref() != Some(record.engine()) => "another engine",
                () if of_seed != request.seed => "another run.seed",
                () if (video.frames, video.fps) != (frames, asked.fps) => {
                    "other video.frames or video.fps"
                }
                () => return Ok(()),
            };
            return Err(self.wrong(format!(
                "run.json is gone or damaged, and the record of {story} {} was made with {other} than \
                 this start has; use the settings of the run again, or another --out folder",
                request.shot
            )));
        }
        Ok(())
    }

    fn check_same(&self, before: &RunFile, now: &RunFile) -> Result<(), RunError> {
        let whole = RunFile {
            identity: before.identity.completed(&before.config),
            ..before.clone()
        };
        let differences = differences(&whole, now);
        if differences.is_empty() {
            return Ok(());
        }
        let rates = [before, now].map(|run| run.identity.video.fps);
        let rate = match rates[0] == rates[1] {
            true => "",
            false => {
                "; a film has one rate, which the records of its clips name: \"Another rate\" in \
                 docs/videos.md changes that of finished films without making them again"
            }
        };
        Err(self.wrong(format!(
            "this run was begun with other settings: {}; use them again or another --out folder{rate}",
            differences.join(", ")
        )))
    }
}

/// What another start adds to a run, if it adds anything: stories, or what is asked for of stories that
/// nobody has taken yet.
fn joined(before: &RunFile, now: RunFile) -> Option<RunFile> {
    let known: BTreeSet<&StoryId> = before.stories.iter().collect();
    let is_longer = now.stories.iter().any(|id| !known.contains(id));
    let is_listed = now.lists.iter().all(|list| before.lists.contains(list));
    let mut methods = before.methods.clone();
    methods.extend(now.methods.clone());
    if !is_longer && is_listed && methods == before.methods {
        return None;
    }
    let mine: BTreeSet<&StoryId> = now.stories.iter().collect();
    let old = before.stories.iter().filter(|id| !mine.contains(id));
    let old: Vec<StoryId> = old.cloned().collect();
    let mut lists = now.lists.clone();
    // Where nothing is left that only they have, nobody needs the lists of earlier starts.
    if !old.is_empty() || lists.is_empty() {
        let earlier = before.lists.iter().filter(|list| !now.lists.contains(list));
        lists.extend(earlier.cloned());
    }
    let common = RunFile {
        run_id: before.run_id.clone(),
        version: before.version.clone(),
        config: before.config.clone(),
        lists,
        methods,
        ..now
    };
    Some(match is_longer {
        true => RunFile {
            stories: [common.stories, old].concat(),
            ..common
        },
        false => RunFile {
            stories: before.stories.clone(),
            manifest_digest: before.manifest_digest.clone(),
            ..common
        },
    })
}

impl StoryFile {
    /// What `line` asks for otherwise in a run with this method, if anything. Pictures are compared by content, elsewhere: only
    /// their number is looked at.
    pub(crate) fn difference(&self, line: &Line, run: Method) -> Option<&'static str> {
        match (line, &self.brief) {
            (Line::Brief(brief), Some(before)) => {
                // Earlier builds kept the tags of feeds.
                let before = words(&before.in_plain_words(), run);
                (before != words(brief, run)).then_some("its brief")
            }
            (Line::Story(entry), None) => {
                let differs = [
                    (self.script.as_ref() != Some(&entry.script), "its script"),
                    (
                        self.method.unwrap_or(run) != entry.method.unwrap_or(run),
                        "its method",
                    ),
                    (self.seed != entry.seed, "its seed"),
                    (
                        (self.fit, self.ground) != (entry.fit, entry.ground),
                        "how its reference images are put into the film",
                    ),
                    (
                        self.reference_images.len() != entry.reference_images.len(),
                        "the number of its reference images",
                    ),
                    (
                        self.first_shot.is_some() != entry.first_shot.is_some(),
                        "whether its first shot is ready-made",
                    ),
                    (
                        entry.size.is_some_and(|size| self.size != Some(size)),
                        "its size",
                    ),
                ];
                let mut differs = differs.into_iter();
                differs.find(|(differs, _)| *differs).map(|(_, what)| what)
            }
            (Line::Brief(_), None) => Some("what it is made from, a brief instead of a script,"),
            (Line::Story(_), Some(_)) => Some("what it is made from, a script instead of a brief,"),
        }
    }
}

/// What of a brief decides the script and how it is made in a run with this method, but for the picture,
/// whose content is compared.
fn words(brief: &Brief, run: Method) -> Brief {
    Brief {
        method: Some(brief.method.unwrap_or(run)),
        product_image: brief.product_image.as_ref().map(|_| String::new()),
        product_image_sha256: None,
        ..essence(brief)
    }
}

fn new_run_id(root: &Path) -> String {
    let now = std::time::SystemTime::now();
    let name = format!("{now:?} {} {}", std::process::id(), root.display());
    blake3::hash(name.as_bytes()).to_hex()[..16].to_owned()
}
