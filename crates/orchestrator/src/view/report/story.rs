//! The page of one story: everything its records say, ready for the template.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use storyloom_memory::{BlobStore, MemoryItem, ShotRecord};
use storyloom_story::{Media, Method, Opening, Resolution, ShotId, ShotScript, Stage};

use super::attempts::{AttemptView, StoryAttempts};
use super::brief::{self, BriefView};
use super::history::{self, HistoryView};
use super::lineage::{self, Column, Kept, Lineage};
use super::pictures::{Picture, Pictures, keyframe_name, poster};
use super::text::{duration, film};
use crate::config::Videos;
use crate::error::RunError;
use crate::folder::records::{readable_record, references};
use crate::folder::run_folder::{RunFile, RunFolder, StoryFile, StoryState};
use crate::folder::story_cost::StoryCost;
use crate::run::quarantine;
use crate::view::chosen::Offered;
use crate::view::status::{Looks, ObservedState};

/// What the overview says of a story, kept between two reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub id: String,
    pub name: Option<String>,
    pub tenant: Option<String>,
    /// Where it stands by its own files.
    #[serde(rename = "standing")]
    pub observed: ObservedState,
    pub looks: Looks,
    pub shots: usize,
    pub done: usize,
    /// Seconds of work that made its shots.
    pub useful: f64,
    /// Seconds that failed attempts took, by an estimate.
    pub lost: f64,
    /// Seconds of film.
    pub film: f64,
    /// Attempts that ended in nothing.
    pub failed_attempts: usize,
    /// Pictures in its row; 0 if there is none.
    pub pictures: usize,
    /// Why it was given up or set aside.
    pub reason: Option<String>,
    /// Whether it was to remember and kept no keyframe.
    pub no_keyframes: bool,
}

/// A story's page.
#[derive(Debug, Serialize)]
pub(super) struct StoryView {
    pub id: String,
    pub title: String,
    pub named: bool,
    pub overview: Option<String>,
    pub tenant: Option<String>,
    pub seed: Option<String>,
    pub looks: Looks,
    pub shots_total: usize,
    pub shots_done: usize,
    /// Length of its film; none of a story of pictures.
    pub film: Option<String>,
    pub work: String,
    pub video: Option<String>,
    /// Picture of the first shot, below `report/`.
    pub poster: Option<String>,
    pub attention: Option<Attention>,
    /// Why it has kept no keyframe, if it was to.
    pub no_keyframes: Option<String>,
    pub brief: Option<BriefView>,
    pub lineage: Option<Lineage>,
    pub shots: Vec<ShotView>,
}

/// Why a story was given up or set aside, and what can be done.
#[derive(Debug, Serialize)]
pub(super) struct Attention {
    pub is_set_aside: bool,
    pub shot: Option<String>,
    pub reason: String,
    pub commands: Vec<(&'static str, String)>,
}

/// A shot of a story's page.
#[derive(Debug, Serialize)]
pub(super) struct ShotView {
    pub id: String,
    pub scene: u32,
    pub number: u32,
    pub prompt: String,
    pub cut: bool,
    pub made: Option<MadeView>,
    pub attempts: Vec<AttemptView>,
}

/// A shot that exists.
#[derive(Debug, Serialize)]
pub(super) struct MadeView {
    pub poster: Option<Picture>,
    /// Its video below the story's folder, unless the run makes none.
    pub video: Option<String>,
    /// Its picture below the story's folder, of a method that makes pictures.
    pub picture: Option<String>,
    pub opening: &'static str,
    /// Length and size, in words.
    pub size: Vec<String>,
    pub width: u32,
    pub height: u32,
    pub seconds: String,
    pub stages: Vec<StageView>,
    pub saw: Vec<SeenView>,
    /// What is said where it saw nothing.
    pub saw_nothing: &'static str,
    /// Which latent frames of that it saw and how finely, where its networks choose by scores.
    pub history: Option<HistoryView>,
    pub kept: Vec<KeptView>,
    /// How much it kept, in a table.
    pub kept_words: String,
    pub recipe: Vec<(&'static str, String)>,
}

/// A stage of a shot.
#[derive(Debug, Serialize)]
pub(super) struct StageView {
    pub name: &'static str,
    pub seconds: String,
    /// Of the whole shot, in percent.
    pub share: f64,
}

/// A picture that a shot saw.
#[derive(Debug, Serialize)]
pub(super) struct SeenView {
    pub name: String,
    /// The shot it comes from.
    pub shot: Option<String>,
    pub small: Option<String>,
    /// Its picture, if it has one.
    pub file: Option<String>,
}

/// Something that a shot kept.
#[derive(Debug, Serialize)]
pub(super) struct KeptView {
    pub name: String,
    pub small: Option<String>,
    /// Its picture, if it has one.
    pub file: Option<String>,
    /// What it is, in words: its frame and quality where it is one of the shot's frames.
    pub words: String,
}

/// Where a file of the memory comes from.
struct Origin {
    column: usize,
    place: usize,
    shot: Option<ShotId>,
    name: String,
    small: Option<String>,
    /// Its picture, if it has one.
    file: Option<String>,
}

/// What is gathered while the shots are read in order.
struct Gathering<'a> {
    folder: &'a RunFolder,
    pictures: Pictures<'a>,
    run: &'a RunFile,
    blobs: BlobStore,
    offered: Offered,
    /// Whether the first shot was there before the story was begun.
    is_ready_made: bool,
    origins: HashMap<String, Origin>,
    columns: Vec<Column>,
    posters: Vec<String>,
    work: StoryCost,
    film: f64,
    aspect: f64,
}

/// Reads a story's records and makes its small pictures. `looks` says of where a story stands how it looks
/// then; beside it is why the story is set aside, if it is.
pub(super) fn view(
    folder: &RunFolder,
    file: &StoryFile,
    run: &RunFile,
    attempts: &StoryAttempts,
    (looks, set_aside): (&dyn Fn(ObservedState) -> Looks, Option<&String>),
) -> Result<(StoryView, Row), RunError> {
    let mut gathering = Gathering {
        folder,
        pictures: Pictures::of(folder, &file.id),
        run,
        blobs: BlobStore::new(folder.blobs(), folder.storage().clone()),
        offered: Offered::default(),
        is_ready_made: false,
        origins: HashMap::new(),
        columns: Vec::new(),
        posters: Vec::new(),
        work: StoryCost::default(),
        film: 0.0,
        aspect: 16.0 / 9.0,
    };
    gathering.references(file)?;
    let mut shots = Vec::with_capacity(file.shot_count());
    for (shot, script) in file.shots() {
        shots.push(gathering.shot(file, shot, script, attempts));
    }
    let done = shots.iter().filter(|shot| shot.made.is_some()).count();
    let observed = ObservedState::of(&file.state, file.shot_count() - done);
    let observed = (observed, looks(observed));
    let row = gathering.row(file, &shots, observed, attempts, set_aside);
    let has_videos = run.identity.videos == Videos::Encoded;
    let video = file.video.as_ref().filter(|_| has_videos);
    let script = file.script.as_ref();
    let media = folder.method_of(file).profile().media;
    let view = StoryView {
        id: file.id.to_string(),
        title: row.name.clone().unwrap_or_else(|| file.id.to_string()),
        named: row.name.is_some(),
        overview: script.and_then(|script| script.overview.clone()),
        tenant: file.tenant.clone(),
        seed: file.seed.map(|seed| seed.to_string()),
        looks: row.looks,
        shots_total: row.shots,
        shots_done: row.done,
        film: (media == Media::Clip).then(|| film(row.film)),
        work: duration(row.useful),
        video: video.map(|video| video.file.clone()),
        poster: gathering.posters.first().cloned(),
        attention: match set_aside {
            Some(reason) => Some(Attention::of_set_aside(reason)),
            None => attention(folder, file),
        },
        no_keyframes: file.no_keyframes.map(|finding| finding.to_string()),
        brief: brief::view(folder, file),
        lineage: lineage::draw(&gathering.columns, gathering.aspect),
        shots,
    };
    Ok((view, row))
}

impl Gathering<'_> {
    fn references(&mut self, file: &StoryFile) -> Result<(), RunError> {
        let references = references(self.folder, &file.id)?;
        self.offered = Offered::new(&references);
        self.is_ready_made = references.iter().any(|item| item.first_shot().is_some());
        if references.is_empty() {
            return Ok(());
        }
        let pictures = references.iter().map(|item| item.picture.as_ref());
        let small: Vec<_> = pictures
            .map(|picture| {
                let picture = picture?;
                self.pictures
                    .keyframe(&picture.file, &picture.content, false)
            })
            .collect();
        let mut column = Column {
            label: "references".to_owned(),
            ..Column::default()
        };
        for (place, (reference, small)) in references.iter().zip(small).enumerate() {
            let small = small.map(|picture| picture.small);
            column.poster = column.poster.or_else(|| small.clone());
            let is_whole = reference.first_shot().is_some();
            let name = match is_whole {
                true => "ready-made first shot".to_owned(),
                false => keyframe_name(None, place),
            };
            column.kept.push(Kept {
                small: small.clone(),
                name: name.clone(),
                is_whole,
            });
            self.origins.insert(
                reference.seen(None).file,
                Origin {
                    column: 0,
                    place,
                    shot: None,
                    name,
                    small,
                    file: reference
                        .picture
                        .as_ref()
                        .map(|picture| picture.file.clone()),
                },
            );
        }
        self.columns.push(column);
        Ok(())
    }

    fn shot(
        &mut self,
        file: &StoryFile,
        shot: ShotId,
        script: &ShotScript,
        attempts: &StoryAttempts,
    ) -> ShotView {
        let record = readable_record(self.folder, &file.id, shot);
        let mut column = Column {
            label: shot.to_string(),
            shot: Some(shot.to_string()),
            ..Column::default()
        };
        let made = record.map(|record| self.made(&record, file.film(&record), &mut column));
        self.columns.push(column);
        ShotView {
            id: shot.to_string(),
            scene: shot.scene,
            number: shot.shot,
            prompt: script.prompt.clone(),
            cut: script.cut,
            made,
            attempts: attempts.of(shot),
        }
    }

    fn made(&mut self, record: &ShotRecord, film: Resolution, column: &mut Column) -> MadeView {
        let shot = record.request().shot;
        let Resolution { width, height } = film;
        self.aspect = f64::from(width) / f64::from(height.max(1));
        self.work.add(record);
        let length = f64::from(record.frame_count()) / f64::from(record.request().video.fps.max(1));
        let media = record.request().method.profile().media;
        if media == Media::Clip {
            self.film += length;
        }
        let saw = self.saw(record, column);
        let choice = self.offered.view(record, self.run, &self.blobs);
        self.offered.add(record, self.run.identity.grid);
        let (kept, small) = self.kept(record, column);
        let poster = poster(&self.pictures, record, film, &small);
        column.poster = poster.as_ref().map(|picture| picture.small.clone());
        self.posters.extend(column.poster.clone());
        let seconds = record.seconds().values().sum();
        let beginning = self.beginning(record);
        MadeView {
            poster,
            video: (self.run.identity.videos == Videos::Encoded && media == Media::Clip)
                .then(|| record.file().file.clone()),
            picture: (media == Media::Picture).then(|| record.file().file.clone()),
            opening: beginning.opening(record.request().opening),
            saw_nothing: beginning.saw_nothing(),
            kept_words: kept_count(&record.kept()),
            size: match media {
                Media::Clip => {
                    let frames = record.frame_count();
                    vec![
                        format!("{length:.1} s"),
                        format!("{frames} frames of {width} × {height}"),
                    ]
                }
                Media::Picture => vec![format!("a picture of {width} × {height}")],
            },
            width,
            height,
            seconds: duration(seconds),
            stages: stages(record, seconds),
            saw,
            history: choice.as_ref().and_then(history::draw),
            kept,
            recipe: recipe(record, shot),
        }
    }

    /// How a shot begins that is not only text and what a story remembers: the first of OneStory.
    fn beginning(&self, record: &ShotRecord) -> Beginning {
        let request = record.request();
        let is_first = request.method == Method::OneStory && record.previous().is_none();
        match (is_first, self.is_ready_made, request.opening) {
            (true, true, _) => Beginning::ReadyMade,
            (true, false, Opening::Memory) => Beginning::Image,
            _ => Beginning::Plain,
        }
    }

    fn saw(&self, record: &ShotRecord, column: &mut Column) -> Vec<SeenView> {
        let mut saw = Vec::with_capacity(record.seen().len());
        for seen in record.seen() {
            let origin = self.origins.get(&seen.file);
            column
                .saw
                .extend(origin.map(|origin| (origin.column, origin.place)));
            let shot = origin.and_then(|origin| origin.shot);
            saw.push(SeenView {
                name: origin.map_or_else(|| seen.file.clone(), |origin| origin.name.clone()),
                shot: shot.map(|shot| shot.to_string()),
                small: origin.and_then(|origin| origin.small.clone()),
                file: origin.and_then(|origin| origin.file.clone()),
            });
        }
        saw
    }

    fn kept(
        &mut self,
        record: &ShotRecord,
        column: &mut Column,
    ) -> (Vec<KeptView>, Vec<Option<Picture>>) {
        let shot = record.request().shot;
        let (mut kept, mut copies) = (Vec::new(), Vec::new());
        for (place, item) in record.kept().iter().enumerate() {
            let file = item.seen(Some(shot)).file;
            let copy = item.picture.as_ref().and_then(|picture| {
                self.pictures
                    .keyframe(&picture.file, &picture.content, place == 0)
            });
            let small = copy.as_ref().map(|picture| picture.small.clone());
            let name = match item.frame {
                Some(_) => keyframe_name(Some(shot), place),
                None => format!("shot {shot}"),
            };
            column.kept.push(Kept {
                small: small.clone(),
                name: name.clone(),
                is_whole: item.frame.is_none(),
            });
            self.origins.insert(
                file.clone(),
                Origin {
                    column: self.columns.len(),
                    place,
                    shot: Some(shot),
                    name: name.clone(),
                    small: small.clone(),
                    file: item.picture.as_ref().map(|picture| picture.file.clone()),
                },
            );
            kept.push(KeptView {
                name,
                small,
                file: item.picture.as_ref().map(|picture| picture.file.clone()),
                words: kept_words(item),
            });
            copies.push(copy);
        }
        (kept, copies)
    }

    fn row(
        &self,
        file: &StoryFile,
        shots: &[ShotView],
        (observed, looks): (ObservedState, Looks),
        attempts: &StoryAttempts,
        set_aside: Option<&String>,
    ) -> Row {
        let posters: Vec<&str> = self.posters.iter().map(String::as_str).collect();
        let reason = match &file.state {
            _ if set_aside.is_some() => set_aside.cloned(),
            StoryState::Failed { reason, .. } | StoryState::Quarantined { reason, .. } => {
                Some(reason.clone())
            }
            _ => None,
        };
        Row {
            id: file.id.to_string(),
            name: name(file),
            tenant: file.tenant.clone(),
            observed,
            looks,
            shots: file.shot_count(),
            done: shots.iter().filter(|shot| shot.made.is_some()).count(),
            useful: self.work.useful,
            lost: self.work.lost,
            film: self.film,
            failed_attempts: attempts.failed(),
            pictures: self.pictures.row(&posters),
            reason,
            no_keyframes: file.no_keyframes.is_some(),
        }
    }
}

/// What the story is called: by its script, or by its brief while it has none.
fn name(file: &StoryFile) -> Option<String> {
    match (&file.script, &file.brief) {
        (Some(script), _) => script.name.clone(),
        (None, Some(brief)) => brief.title.clone(),
        (None, None) => None,
    }
}

impl Attention {
    /// The reason says what to do; no command does it.
    fn of_set_aside(reason: &str) -> Self {
        Self {
            is_set_aside: true,
            shot: None,
            reason: reason.to_owned(),
            commands: Vec::new(),
        }
    }
}

fn attention(folder: &RunFolder, file: &StoryFile) -> Option<Attention> {
    let root = std::path::absolute(folder.root()).unwrap_or_else(|_| folder.root().to_owned());
    // A path with a zero byte in it cannot be, and would not be quoted.
    let root = root.to_string_lossy();
    let root = shlex::try_quote(&root).unwrap_or_default();
    let retry = (
        "Let it back, then start the run again with its own command:",
        format!("storyloom retry {root} {}", file.id),
    );
    let (shot, reason, mut commands) = match &file.state {
        StoryState::Failed { shot, reason } => (shot, reason, Vec::new()),
        StoryState::Quarantined { shot, reason } => {
            let alone = quarantine::command(folder, &file.id);
            (
                shot,
                reason,
                vec![("Try it alone, in a folder of its own:", alone)],
            )
        }
        _ => return None,
    };
    commands.push(retry);
    Some(Attention {
        is_set_aside: false,
        shot: shot.map(|shot| shot.to_string()),
        reason: reason.clone(),
        commands,
    })
}

/// What a shot begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// What its [`Opening`] says.
    Plain,
    /// The image that its story begins with.
    Image,
    /// It is the ready-made first shot of its story.
    ReadyMade,
}

impl Beginning {
    fn opening(self, opening: Opening) -> &'static str {
        match (self, opening) {
            (Self::ReadyMade, _) => "ready-made",
            (Self::Image, _) => "from an image",
            (Self::Plain, Opening::Text) => "from text",
            (Self::Plain, Opening::Memory) => "cut, from memory",
            (Self::Plain, Opening::LastFrame) => "continues the last frame",
            (Self::Plain, Opening::Motion) => "continues the last five frames",
        }
    }

    fn saw_nothing(self) -> &'static str {
        match self {
            Self::Image => "the image that the story begins with",
            Self::Plain | Self::ReadyMade => "nothing",
        }
    }
}

/// How much a shot kept: the number of its frames, or all of it.
fn kept_count(kept: &[MemoryItem]) -> String {
    match kept {
        [whole] if whole.frame.is_none() => "the whole shot".to_owned(),
        frames => frames.len().to_string(),
    }
}

/// What a shot kept, beside its name.
fn kept_words(item: &MemoryItem) -> String {
    let frame = match item.frame {
        Some(frame) => format!("frame {frame}"),
        None => "the whole shot".to_owned(),
    };
    match item.quality {
        Some(quality) => format!("{frame}, quality {quality:.2}"),
        None => frame,
    }
}

fn stages(record: &ShotRecord, whole: f64) -> Vec<StageView> {
    let stages = Stage::ALL.into_iter();
    stages
        .filter_map(|stage| {
            let seconds = *record.seconds().get(&stage)?;
            Some(StageView {
                name: stage.name(),
                seconds: duration(seconds),
                share: 100.0 * seconds / whole.max(f64::MIN_POSITIVE),
            })
        })
        .collect()
}

fn recipe(record: &ShotRecord, shot: ShotId) -> Vec<(&'static str, String)> {
    let request = record.request();
    let mut recipe = vec![
        ("seed", request.seed.0.to_string()),
        ("attempt", (request.attempt + 1).to_string()),
        ("method", request.method.to_string()),
        ("engine", record.engine().to_owned()),
    ];
    if !record.arithmetic().is_empty() {
        recipe.push(("arithmetic", record.arithmetic().clone()));
    }
    if let Some(plan) = record.plan() {
        recipe.push(("plan blake3", plan.clone()));
    }
    recipe.push(("frames blake3", record.frames_blake3().to_owned()));
    recipe.push(("record", format!("commits/{shot}.json")));
    recipe.push(("record blake3", record.digest().clone()));
    recipe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shot_that_does_not_begin_with_memory_says_what_it_begins_with() {
        let words =
            |beginning: Beginning| (beginning.opening(Opening::Memory), beginning.saw_nothing());
        assert_eq!(words(Beginning::Plain), ("cut, from memory", "nothing"));
        let image = ("from an image", "the image that the story begins with");
        assert_eq!(words(Beginning::Image), image);
        assert_eq!(words(Beginning::ReadyMade), ("ready-made", "nothing"));
    }
}
