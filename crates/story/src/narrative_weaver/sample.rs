//! Samples of Narrative Weaver: what a story is made from, its plan, and what was made of it (specification
//! `narrative-weaver`, section 1.2). They are read by [`read_samples`](super::read_samples).

use std::fmt;

use serde::{Serialize, Serializer};

use crate::brief::Language;
use crate::escape::is_control;
use crate::ids::StoryId;
use crate::video::Resolution;

/// The only value of `schema`.
pub(crate) const SCHEMA: &str = "storyloom.nw.sample/1";

/// One sample, as a line has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// Its name, unique in its file.
    pub id: StoryId,
    /// What it is an example of.
    #[serde(rename = "use")]
    pub use_: Use,
    /// Language of its texts.
    pub lang: Language,
    /// Size of its pictures in pixels, written `[width, height]`.
    #[serde(serialize_with = "sides")]
    pub size: Resolution,
    /// What is asked for, in free words.
    pub instruction: String,
    /// The pictures that the story is to keep to; at least one.
    pub condition_images: Vec<ConditionImage>,
    /// What is known of the product.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<SampleProduct>,
    /// The picture that the pictures of the sample were drawn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// What is to be seen; `None` where the model is to say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<SamplePlan>,
    /// What a judge said of the sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterNotes>,
    /// Seed of its noise.
    pub seed: u64,
    /// How its pictures were made, if a run has made them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunNotes>,
}

/// The three uses of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Pictures by given captions.
    Q1,
    /// A story that the model plans.
    Q2,
    /// An advertisement that the model plans.
    Q3,
}

impl Use {
    pub(crate) const ALL: [(&'static str, Self); 3] =
        [("q1", Self::Q1), ("q2", Self::Q2), ("q3", Self::Q3)];
}

/// A picture that the story is to keep to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConditionImage {
    /// Relative to the file of the sample.
    pub path: String,
    /// The SHA-256 that it must have, in 64 lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// What a condition image shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The product.
    Product,
}

/// What is known of a product.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct SampleProduct {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What speaks for it, the strongest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub selling_points: Vec<String>,
    /// The offer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promo: Option<String>,
}

/// The picture that the pictures of a sample were drawn from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reference {
    /// What it was asked for with.
    pub prompt: String,
    /// Its path, relative to the file of the sample.
    pub image: String,
}

/// What is to be seen, picture by picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SamplePlan {
    /// The story in short: `t_0` of the paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overview: Option<String>,
    /// The pictures in their order, at least one. They are numbered from 1 where they are written.
    #[serde(serialize_with = "numbered")]
    pub shots: Vec<SampleShot>,
}

/// One picture of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SampleShot {
    /// What it shows.
    pub text: String,
    /// How the camera moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
    /// Where it takes place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scene: Option<String>,
    /// The picture, relative to the file of the sample: all pictures of a plan are there, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// What a judge said of a sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FilterNotes {
    /// Who judged.
    pub judge: String,
    /// Whether no limb is malformed, and the like.
    pub artifact_free: bool,
    /// Whether it shows the product throughout.
    pub entity_kept: bool,
    /// Whether the pictures look alike.
    pub style_ok: bool,
}

/// How a run has made the pictures of a sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunNotes {
    /// Digest of the settings, in hexadecimal.
    pub config_hash: String,
    /// Seed of each picture.
    pub seeds: Vec<u64>,
    /// Tokens of the memory that each picture saw.
    pub memory_lengths: Vec<u64>,
    /// Steps of the sampler for each picture.
    pub steps: u32,
    /// Seconds that it took.
    pub wall_seconds: f64,
}

/// What a sample asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// A plan and its pictures.
    PlanAndDraw,
    /// The pictures of the plan that it has.
    Draw,
    /// Nothing: its pictures are there, to train on or to be scored.
    Compare,
}

/// What is wrong with a sample as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SampleError {
    /// A text says nothing, or has control characters in it.
    Text {
        /// The key that it is the value of.
        key: &'static str,
    },
    /// It has no condition image.
    NoConditionImage,
    /// It is of use q1 and has no plan.
    NoPlan,
    /// Its plan has no picture.
    NoShot,
    /// Some shots of its plan have an image, and others do not.
    SomeImages {
        /// The first shot without one, from 1.
        without: usize,
    },
    /// It says how pictures were made that it does not have.
    NothingMade,
    /// A list that has an entry for each picture of the plan has another number of them.
    Counts {
        /// The list.
        key: &'static str,
        /// Its entries.
        found: usize,
        /// Pictures of the plan.
        shots: usize,
    },
    /// A time that is no number of seconds.
    Seconds,
}

impl SampleError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Text { .. } => "write plain text, or leave an optional key out",
            Self::NoConditionImage => "name the picture that the story is to keep to",
            Self::NoPlan => {
                "give the text of every shot, or write \"use\": \"q2\" for a story or \"q3\" for an \
                 advertisement that is to be planned"
            }
            Self::NoShot => "write at least one shot, or leave \"plan\" out to have it planned",
            Self::SomeImages { .. } => {
                "give every shot its image, or none to have all of them drawn"
            }
            Self::NothingMade => "leave \"run\" out: it belongs to samples that a run has made",
            Self::Counts { .. } => "give one entry for each shot of the plan",
            Self::Seconds => "write how many seconds it took",
        }
    }

    /// The key whose value is wrong.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Text { key } => key,
            Self::NoConditionImage => "condition_images",
            Self::NoPlan => "use",
            Self::NoShot | Self::SomeImages { .. } => "plan",
            Self::NothingMade | Self::Counts { .. } | Self::Seconds => "run",
        }
    }
}

impl fmt::Display for SampleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { key } => write!(f, "\"{key}\" is empty or has a control character in it"),
            Self::NoConditionImage => f.write_str("there is no condition image"),
            Self::NoPlan => f.write_str("a sample of use \"q1\" has no \"plan\""),
            Self::NoShot => f.write_str("the plan has no shot"),
            Self::SomeImages { without } => write!(
                f,
                "some shots of the plan have an \"image\", but shot {without} has none"
            ),
            Self::NothingMade => f.write_str("there is a \"run\", but the plan has no images"),
            Self::Counts { key, found, shots } => {
                write!(
                    f,
                    "\"{key}\" has {found} entries, and the plan has {shots} shots"
                )
            }
            Self::Seconds => f.write_str("\"wall_seconds\" is no number of seconds"),
        }
    }
}

impl std::error::Error for SampleError {}

impl Sample {
    /// What it asks for.
    pub fn task(&self) -> Task {
        match &self.plan {
            None => Task::PlanAndDraw,
            Some(plan) if plan.shots.iter().any(|shot| shot.image.is_some()) => Task::Compare,
            Some(_) => Task::Draw,
        }
    }

    /// The sample with what a run has made of it.
    ///
    /// # Errors
    /// The plan has pictures without an image, or what `run` says is not said of each of them.
    pub fn made(self, plan: SamplePlan, run: RunNotes) -> Result<Self, SampleError> {
        let made = Self {
            plan: Some(plan),
            run: Some(run),
            ..self
        };
        made.check().map(|()| made)
    }

    /// The line that is read as this sample, without its end.
    ///
    /// # Errors
    /// It is none that a line can have.
    pub fn line(&self) -> Result<String, SampleError> {
        #[derive(Serialize)]
        struct Line<'a> {
            schema: &'static str,
            #[serde(flatten)]
            sample: &'a Sample,
        }
        self.check()?;
        let line = Line {
            schema: SCHEMA,
            sample: self,
        };
        // Serialising plain data into memory does not fail.
        Ok(serde_json::to_string(&line).unwrap_or_default())
    }

    /// Whether its parts go together; texts are looked at one by one.
    pub(crate) fn check(&self) -> Result<(), SampleError> {
        if let Some((key, _)) = self.texts().into_iter().find(|(_, text)| !is_plain(text)) {
            return Err(SampleError::Text { key });
        }
        if self.condition_images.is_empty() {
            return Err(SampleError::NoConditionImage);
        }
        let images = match &self.plan {
            None if self.use_ == Use::Q1 => return Err(SampleError::NoPlan),
            None => 0,
            Some(plan) => plan.check()?,
        };
        match &self.run {
            Some(_) if images == 0 => Err(SampleError::NothingMade),
            Some(run) => run.check(images),
            None => Ok(()),
        }
    }

    /// Every text with its key.
    fn texts(&self) -> Vec<(&'static str, &str)> {
        let mut texts = vec![("instruction", self.instruction.as_str())];
        for image in &self.condition_images {
            texts.push(("path", &image.path));
        }
        if let Some(product) = &self.product {
            let points = product.selling_points.iter();
            texts.extend(product.title.iter().map(|text| ("title", text.as_str())));
            texts.extend(points.map(|text| ("selling_points", text.as_str())));
            texts.extend(product.promo.iter().map(|text| ("promo", text.as_str())));
        }
        if let Some(reference) = &self.reference {
            texts.extend([
                ("prompt", reference.prompt.as_str()),
                ("image", reference.image.as_str()),
            ]);
        }
        if let Some(plan) = &self.plan {
            texts.extend(plan.overview.iter().map(|text| ("overview", text.as_str())));
            texts.extend(plan.shots.iter().flat_map(SampleShot::texts));
        }
        texts.extend(
            self.filter
                .iter()
                .map(|filter| ("judge", filter.judge.as_str())),
        );
        texts.extend(
            self.run
                .iter()
                .map(|run| ("config_hash", run.config_hash.as_str())),
        );
        texts
    }
}

impl SamplePlan {
    /// How many images it has: one for each shot, or none.
    fn check(&self) -> Result<usize, SampleError> {
        if self.shots.is_empty() {
            return Err(SampleError::NoShot);
        }
        let images = self
            .shots
            .iter()
            .filter(|shot| shot.image.is_some())
            .count();
        match self.shots.iter().position(|shot| shot.image.is_none()) {
            Some(first) if images > 0 => Err(SampleError::SomeImages { without: first + 1 }),
            _ => Ok(images),
        }
    }
}

impl SampleShot {
    fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let optional = [
            ("camera", &self.camera),
            ("scene", &self.scene),
            ("image", &self.image),
        ];
        let given = optional
            .into_iter()
            .filter_map(|(key, text)| Some((key, text.as_deref()?)));
        std::iter::once(("text", self.text.as_str())).chain(given)
    }
}

impl RunNotes {
    fn check(&self, shots: usize) -> Result<(), SampleError> {
        let lists = [
            ("seeds", self.seeds.len()),
            ("memory_lengths", self.memory_lengths.len()),
        ];
        if let Some((key, found)) = lists.into_iter().find(|(_, found)| *found != shots) {
            return Err(SampleError::Counts { key, found, shots });
        }
        match self.wall_seconds.is_finite() && self.wall_seconds >= 0.0 {
            true => Ok(()),
            false => Err(SampleError::Seconds),
        }
    }
}

/// Whether a text says something and does nothing to a terminal.
fn is_plain(text: &str) -> bool {
    !text.trim().is_empty() && !text.contains(is_control)
}

fn sides<S: Serializer>(size: &Resolution, serializer: S) -> Result<S::Ok, S::Error> {
    [size.width, size.height].serialize(serializer)
}

fn numbered<S: Serializer>(shots: &[SampleShot], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Numbered<'a> {
        n: usize,
        #[serde(flatten)]
        shot: &'a SampleShot,
    }
    let shots = shots.iter().zip(1..);
    serializer.collect_seq(shots.map(|(shot, n)| Numbered { n, shot }))
}
