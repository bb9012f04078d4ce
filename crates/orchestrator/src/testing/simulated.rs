//! An engine without networks: it draws test patterns that depend on everything a real shot
//! depends on. For tests of the orchestrator and for `engine = "simulated"`.
//!
//! It pretends every method, each in the shape that it has: StoryMem makes a clip in one pass, OneStory scores its
//! memory and then makes a clip of what follows from the scores, Narrative Weaver a picture, and MovieDreamer a keyframe and then the
//! clip that begins with it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use storyloom_memory::OneStoryPolicy;
use storyloom_memory::arrays::LATENTS;
use storyloom_memory::policy::moviedreamer::KEYFRAME;
use storyloom_memory::policy::onestory::SELECT;
use storyloom_story::onestory::{History, scores_table};
use storyloom_story::{
    Clip, ErrorClass, HostTensor, LatentGrid, LoopState, Media, MemoryFrame, Method, PassName,
    Resolution, RgbImage, ShapeMismatch, ShotInputs, ShotRequest, Stage,
};

use crate::engine::{
    Encoded, EngineDescription, EngineError, Kept, KeptContent, Pass, Scores, ShotEngine,
    StepObserver,
};
use crate::forecast::cost::{CostTable, ReplicaShape, Samplings, StageSeconds};

/// Draws test patterns.
#[derive(Debug, Clone)]
pub struct SimulatedEngine {
    /// Steps of the pretended sampling loop.
    pub steps: usize,
    /// How long one step takes, without a pace.
    pub step_time: Duration,
    /// How long every stage takes.
    pub pace: Option<Pace>,
    /// What a pretended shot of OneStory sees.
    pub onestory: OneStoryPolicy,
}

/// How long the stages of a pretended shot take.
#[derive(Debug, Clone)]
pub struct Pace {
    /// What they take.
    pub table: CostTable,
    /// On replicas of this shape.
    pub shape: ReplicaShape,
    /// With these sampling loops.
    pub samplings: Samplings,
}

impl Pace {
    fn stages(&self, inputs: &ShotInputs) -> StageSeconds {
        let request = &inputs.request;
        let video = (request.video, SimulatedEngine::GRID);
        let seen = inputs.memory.len() as f64;
        let work = self
            .samplings
            .work(request.method, request.opening, video, seen);
        self.table.shot(&work, &self.shape)
    }
}

/// Sleeps until `seconds` have passed since `begun`.
fn wait(begun: Instant, seconds: f64) {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    std::thread::sleep(time.saturating_sub(begun.elapsed()));
}

impl Default for SimulatedEngine {
    fn default() -> Self {
        Self {
            steps: 4,
            step_time: Duration::ZERO,
            pace: None,
            onestory: OneStoryPolicy::default(),
        }
    }
}

impl SimulatedEngine {
    /// What it pretends that its networks make of videos.
    pub const GRID: LatentGrid = LatentGrid::WAN_2_1;

    /// Makes a stage that began at `begun` last as long as it should.
    fn keep_pace(
        &self,
        begun: Instant,
        inputs: &ShotInputs,
        stage: impl FnOnce(&StageSeconds) -> f64,
    ) {
        if let Some(pace) = &self.pace {
            wait(begun, stage(&pace.stages(inputs)));
        }
    }
}

fn failed(stage: Stage, class: ErrorClass, message: impl Into<String>) -> EngineError {
    EngineError {
        stage,
        class,
        message: message.into(),
    }
}

const SAMPLE: &str = "sample";

/// The sampling loop of MovieDreamer that makes the clip.
const CLIP: PassName = PassName::new("clip");

/// What a pass is made of.
#[derive(Debug)]
struct Conditions {
    pass: PassName,
    /// Frames that the pass makes.
    frames: u32,
    /// Digest of the request and of everything that is seen.
    digest: [u8; 32],
    /// What the pass makes without a loop: what it says of the history, or a ready-made first shot.
    made: Option<HostTensor>,
}

/// Frames that a pass of a shot makes.
fn frames_of(request: &ShotRequest, pass: &PassName) -> u32 {
    match request.method.profile().media {
        Media::Clip if ![KEYFRAME, SELECT].contains(pass) => request.video.frames,
        Media::Clip | Media::Picture => 1,
    }
}

/// Of something that stands for a whole shot: its latent frames.
fn frames_of_shot(item: &MemoryFrame) -> Option<usize> {
    let latents = item.arrays.get(LATENTS).filter(|_| item.image.is_none())?;
    latents.shape().get(1).copied()
}

/// What a pretended shot of OneStory can choose from.
fn history(inputs: &ShotInputs) -> History {
    let shots: Vec<usize> = inputs.memory.iter().filter_map(frames_of_shot).collect();
    let mut memory = inputs.memory.iter();
    History {
        references: inputs.memory.len() - shots.len(),
        first_shot: memory.position(|item| item.arrays.contains_key(MemoryFrame::FIRST_SHOT)),
        shots,
    }
}

impl SimulatedEngine {
    /// What the pretended selector of OneStory says of each latent frame of the history: something that
    /// depends on the caption and on the frame, unless it follows from the length of the history.
    fn scores(&self, inputs: &ShotInputs) -> Result<HostTensor, EngineError> {
        let plane = Self::GRID.plane(inputs.request.video.resolution());
        let counts = self.onestory.budget.counts(plane);
        let counts = counts.map_err(|error| wrong_choice(&error))?;
        let history = history(inputs);
        if let Some(scores) = self.onestory.selector.scores(history.frames(), counts) {
            return Ok(scores_table(scores));
        }
        let score = |item: &MemoryFrame, frame: usize| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(inputs.request.prompt.as_bytes());
            hasher.update(item.hash.as_bytes());
            hasher.update(&(frame as u64).to_le_bytes());
            f32::from(hasher.finalize().as_bytes()[0]) / 127.5 - 1.0
        };
        let scores = inputs.memory.iter().flat_map(|item| {
            let frames = 0..frames_of_shot(item).unwrap_or(0);
            frames.map(move |frame| score(item, frame))
        });
        Ok(scores_table(scores.collect()))
    }

    /// The places of what a pretended shot of OneStory sees by the scores of its history.
    fn seen(&self, inputs: &ShotInputs, scores: &HostTensor) -> Result<Vec<usize>, EngineError> {
        let plane = Self::GRID.plane(inputs.request.video.resolution());
        let choice = self.onestory.choose(scores, &history(inputs), plane);
        Ok(choice.map_err(|error| wrong_choice(&error))?.places())
    }
}

fn wrong_choice(error: &dyn std::fmt::Display) -> EngineError {
    failed(Stage::Encode, ErrorClass::Shot, error.to_string())
}

fn noise(inputs: &ShotInputs, conditions: &Conditions) -> Result<HostTensor, EngineError> {
    let size = inputs.request.video.resolution();
    latents(conditions.digest, conditions.frames, size)
        .map_err(|error| failed(Stage::Denoise, ErrorClass::Shot, error.to_string()))
}

/// The latents of `frames` frames of a size that follow from a digest.
fn latents(digest: [u8; 32], frames: u32, size: Resolution) -> Result<HostTensor, ShapeMismatch> {
    let grid = SimulatedEngine::GRID;
    let [height, width] = grid.plane(size);
    let frames = grid.latent_frames(frames);
    let shape = [grid.channels, frames, height, width].map(|length| length as usize);
    let count = shape.iter().product::<usize>();
    let mut bytes = vec![0; count * 2];
    blake3::Hasher::new_keyed(&digest)
        .finalize_xof()
        .fill(&mut bytes);
    let values = bytes.as_chunks::<2>().0.iter();
    let values = values
        .map(|b| f32::from(i16::from_le_bytes(*b)) / 16_384.0)
        .collect();
    HostTensor::new(shape.to_vec(), values)
}

/// The latents of a shot that is the ready-made first one of its story.
fn ready_made(inputs: &ShotInputs) -> Result<Option<HostTensor>, EngineError> {
    let Some(place) = history(inputs).ready_made() else {
        return Ok(None);
    };
    let array = inputs.memory[place].arrays.get(MemoryFrame::FIRST_SHOT);
    let array = array.map(|array| array.read()).transpose()?;
    Ok(array.map(|array| array.as_ref().clone()))
}

/// The latents that a ready-made clip would have: something that depends on all of its frames.
fn clip_latents(clip: &Clip, size: Resolution) -> Result<HostTensor, ShapeMismatch> {
    let mut hasher = blake3::Hasher::new();
    for frame in clip.frames() {
        hasher.update(frame.data());
    }
    let frames = clip.frames().len() as u32;
    latents(*hasher.finalize().as_bytes(), frames, size)
}

/// The sample of a loop that was saved, whose only array it is: networks refuse others, too.
fn saved_sample(mut arrays: BTreeMap<String, HostTensor>) -> Result<HostTensor, EngineError> {
    let sample = arrays.remove(SAMPLE);
    match (sample, arrays.first_key_value()) {
        (Some(sample), None) => Ok(sample),
        (None, _) => Err(failed(Stage::Denoise, ErrorClass::Shot, "no sample")),
        (_, Some((name, _))) => {
            let message = format!("the loop has no array {name}");
            Err(failed(Stage::Denoise, ErrorClass::Shot, message))
        }
    }
}

impl ShotEngine for SimulatedEngine {
    fn describe(&self, method: Method) -> Option<EngineDescription> {
        let steps = self.steps;
        Some(EngineDescription {
            engine: EngineDescription::SIMULATED.to_owned(),
            fingerprint: match method {
                // Records of earlier builds name it so.
                Method::StoryMem => format!("simulated 2, {steps} steps"),
                // Its shots score their memory in a pass of their own.
                Method::OneStory => format!("simulated 3, {steps} steps, {method}"),
                method => format!("simulated 2, {steps} steps, {method}"),
            },
            arithmetic: String::new(),
            models: Vec::new(),
            quality_score: "constant".to_owned(),
        })
    }

    fn passes(&self, inputs: &ShotInputs) -> Vec<PassName> {
        match inputs.request.method {
            Method::MovieDreamer => vec![KEYFRAME, CLIP],
            Method::OneStory => vec![SELECT, PassName::SHOT],
            _ => vec![PassName::SHOT],
        }
    }

    /// Its conditions are a digest of the request and of every picture it sees.
    fn encode(&self, inputs: &ShotInputs, pass: Pass) -> Result<Encoded, EngineError> {
        let begun = Instant::now();
        let mut hasher = blake3::Hasher::new();
        hasher.update(inputs.request.prompt.as_bytes());
        hasher.update(&inputs.request.seed.0.to_le_bytes());
        let scores = (*pass.name == SELECT).then(|| self.scores(inputs));
        let scores = scores.transpose()?;
        let chosen = match (inputs.request.method, &scores, pass.before) {
            (Method::OneStory, Some(scores), _) => Some(self.seen(inputs, scores)?),
            (Method::OneStory, None, [select, ..]) => Some(self.seen(inputs, &select.latents)?),
            _ => None,
        };
        let is_seen = |place: &usize| chosen.as_ref().is_none_or(|chosen| chosen.contains(place));
        for (_, frame) in (0..)
            .zip(&inputs.memory)
            .filter(|(place, _)| is_seen(place))
        {
            hasher.update(frame.hash.as_bytes());
        }
        for frame in &inputs.previous_tail {
            hasher.update(frame.data());
        }
        for before in pass.before {
            hasher.update(before.name.as_str().as_bytes());
            for frame in before.clip.frames() {
                hasher.update(frame.data());
            }
        }
        if scores.is_none() {
            self.keep_pace(begun, inputs, |seconds| seconds.encode);
        }
        let made = match scores {
            None => ready_made(inputs)?,
            scores => scores,
        };
        let conditions = Conditions {
            pass: pass.name.clone(),
            frames: frames_of(&inputs.request, pass.name),
            digest: *hasher.finalize().as_bytes(),
            made,
        };
        Ok(match chosen {
            Some(chosen) => Encoded::of_chosen(chosen, conditions),
            None => Encoded::new(conditions),
        })
    }

    fn denoise(
        &self,
        inputs: &ShotInputs,
        encoded: &Encoded,
        resume: Option<LoopState>,
        observer: &mut dyn StepObserver,
    ) -> Result<HostTensor, EngineError> {
        let conditions: &Conditions = encoded.conditions()?;
        if let Some(made) = &conditions.made {
            return Ok(made.clone());
        }
        let (first, mut sample) = match resume {
            None => (0, noise(inputs, conditions)?),
            Some(state) => (state.done, saved_sample(state.arrays)?),
        };
        let steps = self.steps as f64;
        for step in first..self.steps {
            let begun = Instant::now();
            std::thread::sleep(self.step_time);
            // Every step changes every value, so that a step that is lost or done twice shows.
            let (shape, values) = (sample.shape().to_vec(), sample.into_data());
            let turn = |value: f32| (value * 3.0 + 0.125 * (step + 1) as f32).sin();
            let values = values.into_iter().map(turn).collect();
            sample = HostTensor::new(shape, values)
                .map_err(|error| failed(Stage::Denoise, ErrorClass::Shot, error.to_string()))?;
            self.keep_pace(begun, inputs, |seconds| seconds.denoise / steps);
            let state = || {
                Ok(LoopState {
                    pass: conditions.pass.clone(),
                    done: step + 1,
                    total: self.steps,
                    order: 0,
                    arrays: BTreeMap::from([(SAMPLE.to_owned(), sample.clone())]),
                })
            };
            if !observer.step_finished(step + 1, self.steps, &state) && step + 1 < self.steps {
                return Err(failed(
                    Stage::Denoise,
                    ErrorClass::Interrupted,
                    "asked to stop",
                ));
            }
        }
        Ok(sample)
    }

    fn decode(
        &self,
        inputs: &ShotInputs,
        pass: Pass,
        latents: &HostTensor,
    ) -> Result<Clip, EngineError> {
        let begun = Instant::now();
        let wrong = |message: &str| failed(Stage::Decode, ErrorClass::Shot, message);
        let request = &inputs.request;
        if *pass.name == SELECT {
            return map_of(latents).ok_or_else(|| wrong("no scores"));
        }
        let base = latents.data().get(..6).ok_or_else(|| wrong("no latents"))?;
        let colour = |index: usize| (base[index].abs() * 127.0) as u32;
        let frames = frames_of(request, pass.name);
        let frames = request.opening.given_frames() as u32..frames;
        let draw = |frame: u32| {
            let (width, height) = (request.video.width, request.video.height);
            let mut data = Vec::with_capacity(width as usize * height as usize * 3);
            for y in 0..height {
                for x in 0..width {
                    let sweep = (x + frame * 3) * 80 / width.max(1);
                    let rows = y * 80 / height.max(1);
                    data.push((colour(0) + sweep) as u8);
                    data.push((colour(1) + rows) as u8);
                    data.push((colour(2) + (sweep ^ rows) + frame) as u8);
                }
            }
            RgbImage::new(width, height, data).map_err(|error| wrong(&error.to_string()))
        };
        let frames = frames.map(draw).collect::<Result<_, _>>()?;
        self.keep_pace(begun, inputs, |seconds| seconds.decode);
        Clip::new(frames).ok_or_else(|| wrong("no frames"))
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Scores, EngineError> {
        let begun = Instant::now();
        let embed = |picture: &&RgbImage| {
            let mut values: Vec<f32> = blake3::hash(picture.data())
                .as_bytes()
                .iter()
                .map(|byte| f32::from(*byte) - 127.5)
                .collect();
            let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
            values.iter_mut().for_each(|value| *value /= length);
            values
        };
        let embeddings = pictures.iter().map(embed).collect();
        if let (Some(pace), Some(first)) = (&self.pace, pictures.first()) {
            let frames = pictures.len() as f64;
            let megapixels = frames * f64::from(first.width()) * f64::from(first.height()) / 1e6;
            wait(begun, pace.table.select(frames, megapixels));
        }
        Ok(Scores {
            embeddings,
            quality: vec![5.0; pictures.len()],
        })
    }

    /// A picture is its first value, everywhere; a whole shot is the latents of its last pass, and of
    /// MovieDreamer the tokens that its keyframe would have.
    fn remember(&self, kept: &Kept) -> Result<BTreeMap<String, HostTensor>, EngineError> {
        let wrong = |message: String| failed(Stage::Select, ErrorClass::Shot, message);
        let (name, array) = match kept.what {
            KeptContent::Picture(picture) => (LATENTS, picture_latents(picture, kept.size)),
            KeptContent::Clip(clip) if kept.method == Method::OneStory => {
                (MemoryFrame::FIRST_SHOT, clip_latents(clip, kept.size))
            }
            KeptContent::Clip(_) => {
                let reason = format!("{} does not begin with a ready-made shot", kept.method);
                return Err(wrong(reason));
            }
            KeptContent::Shot(made) => match (kept.method, made) {
                (_, []) => return Err(wrong("there is no pass to remember".to_owned())),
                (Method::MovieDreamer, [keyframe, ..]) => (TOKENS, tokens(&keyframe.latents)),
                (_, [.., shot]) => (LATENTS, Ok(shot.latents.clone())),
            },
        };
        let array = array.map_err(|error| wrong(error.to_string()))?;
        Ok(BTreeMap::from([(name.to_owned(), array)]))
    }
}

/// The name of what a language model remembers of a shot.
const TOKENS: &str = "tokens";

/// Scores as a picture: a row with one dot per latent frame, the brighter the higher.
fn map_of(scores: &HostTensor) -> Option<Clip> {
    let dots = scores
        .data()
        .iter()
        .map(|score| (score.clamp(-1.0, 1.0) * 127.0 + 127.0) as u8);
    let data: Vec<u8> = dots.flat_map(|dot| [dot; 3]).collect();
    let row = RgbImage::new(scores.data().len() as u32, 1, data).ok()?;
    Clip::new(vec![row])
}

fn picture_latents(picture: &RgbImage, size: Resolution) -> Result<HostTensor, ShapeMismatch> {
    let [height, width] = SimulatedEngine::GRID.plane(size);
    let shape = [SimulatedEngine::GRID.channels, 1, height, width].map(|length| length as usize);
    let value = f32::from(picture.data()[0]) / 255.0;
    let values = vec![value; shape.iter().product()];
    HostTensor::new(shape.to_vec(), values)
}

/// Two tokens of four values each.
fn tokens(latents: &HostTensor) -> Result<HostTensor, ShapeMismatch> {
    let values = latents.data().iter().copied().chain(std::iter::repeat(0.0));
    HostTensor::new(vec![2, 4], values.take(8).collect())
}
