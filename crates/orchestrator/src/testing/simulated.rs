//! An engine without networks: it draws test patterns that depend on everything a real shot
//! depends on. For tests of the orchestrator and for `engine = "simulated"`.
//!
//! It pretends every method, each in the shape that it has: StoryMem makes a clip in one pass, OneStory one of
//! what a network chose of its memory, Narrative Weaver a picture, and MovieDreamer a keyframe and then the
//! clip that begins with it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use storyloom_story::{
    Clip, ErrorClass, HostTensor, LatentGrid, LoopState, Media, Method, PassName, Resolution,
    RgbImage, ShapeMismatch, ShotInputs, ShotRequest, Stage,
};

use crate::engine::{
    Encoded, EngineDescription, EngineError, Kept, KeptContent, Pass, Scores, ShotEngine,
    StepObserver,
};
use crate::forecast::cost::{CostTable, ReplicaShape, Samplings, StageSeconds};
use storyloom_memory::arrays::LATENTS;
use storyloom_memory::policy::moviedreamer::KEYFRAME;

/// Draws test patterns.
#[derive(Debug, Clone)]
pub struct SimulatedEngine {
    /// Steps of the pretended sampling loop.
    pub steps: usize,
    /// How long one step takes, without a pace.
    pub step_time: Duration,
    /// How long every stage takes.
    pub pace: Option<Pace>,
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

/// Most items of a memory that the pretended network chooses.
const CHOSEN: usize = 3;

/// What a pass is made of.
#[derive(Debug)]
struct Conditions {
    pass: PassName,
    /// Frames that the pass makes.
    frames: u32,
    /// Digest of the request and of everything that is seen.
    digest: [u8; 32],
}

/// Frames that a pass of a shot makes.
fn frames_of(request: &ShotRequest, pass: &PassName) -> u32 {
    match request.method.profile().media {
        Media::Clip if *pass != KEYFRAME => request.video.frames,
        Media::Clip | Media::Picture => 1,
    }
}

/// What the pretended network of OneStory chooses: by the caption and by what is offered, in its order.
fn choose(inputs: &ShotInputs) -> Vec<usize> {
    let score = |frame: &storyloom_story::MemoryFrame| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(inputs.request.prompt.as_bytes());
        hasher.update(frame.hash.as_bytes());
        *hasher.finalize().as_bytes()
    };
    let mut places: Vec<usize> = (0..inputs.memory.len()).collect();
    places.sort_by_key(|&place| score(&inputs.memory[place]));
    places.truncate(CHOSEN);
    places.sort_unstable();
    places
}

fn noise(inputs: &ShotInputs, conditions: &Conditions) -> Result<HostTensor, EngineError> {
    let grid = SimulatedEngine::GRID;
    let [height, width] = grid.plane(inputs.request.video.resolution());
    let frames = grid.latent_frames(conditions.frames);
    let shape = [grid.channels, frames, height, width].map(|length| length as usize);
    let count = shape.iter().product::<usize>();
    let mut bytes = vec![0; count * 2];
    blake3::Hasher::new_keyed(&conditions.digest)
        .finalize_xof()
        .fill(&mut bytes);
    let values = bytes.as_chunks::<2>().0.iter();
    let values = values
        .map(|b| f32::from(i16::from_le_bytes(*b)) / 16_384.0)
        .collect();
    HostTensor::new(shape.to_vec(), values)
        .map_err(|error| failed(Stage::Denoise, ErrorClass::Shot, error.to_string()))
}

impl ShotEngine for SimulatedEngine {
    fn describe(&self, method: Method) -> Option<EngineDescription> {
        let steps = self.steps;
        Some(EngineDescription {
            engine: "simulated".to_owned(),
            fingerprint: match method {
                // Records of earlier builds name it so.
                Method::StoryMem => format!("simulated 2, {steps} steps"),
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
            _ => vec![PassName::SHOT],
        }
    }

    /// Its conditions are a digest of the request and of every picture it sees.
    fn encode(&self, inputs: &ShotInputs, pass: Pass) -> Result<Encoded, EngineError> {
        let begun = Instant::now();
        let mut hasher = blake3::Hasher::new();
        hasher.update(inputs.request.prompt.as_bytes());
        hasher.update(&inputs.request.seed.0.to_le_bytes());
        let chosen = (inputs.request.method == Method::OneStory).then(|| choose(inputs));
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
        self.keep_pace(begun, inputs, |seconds| seconds.encode);
        let conditions = Conditions {
            pass: pass.name.clone(),
            frames: frames_of(&inputs.request, pass.name),
            digest: *hasher.finalize().as_bytes(),
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
        let (first, mut sample) = match resume {
            None => (0, noise(inputs, conditions)?),
            Some(mut state) => (
                state.done,
                state
                    .arrays
                    .remove(SAMPLE)
                    .ok_or_else(|| failed(Stage::Denoise, ErrorClass::Shot, "no sample"))?,
            ),
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
