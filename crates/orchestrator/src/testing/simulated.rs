//! An engine without networks: it draws test patterns that depend on everything a real shot
//! depends on. For tests of the orchestrator and for `engine = "simulated"`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use storyloom_story::{
    Clip, ErrorClass, HostTensor, LoopState, PassName, Resolution, RgbImage, ShotInputs, Stage,
};

use crate::forecast::cost::{CostTable, ReplicaShape, Samplings, ShotWork, StageSeconds};
use crate::run::engine::{
    Encoded, EngineDescription, EngineError, Pass, Scores, ShotEngine, StepObserver,
};

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
        let sampling = self.samplings.of(request.opening);
        let work = ShotWork {
            video: request.video,
            opening: request.opening,
            memory: inputs.memory.len() as f64,
            steps: sampling.steps,
            forwards: sampling.forwards,
        };
        self.table.shot(&work, &self.shape)
    }
}

/// Sleeps until `seconds` have passed since `begun`.
fn wait(begun: Instant, seconds: f64) {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    std::thread::sleep(time.saturating_sub(begun.elapsed()));
}

/// Latent channels, as in Wan 2.1.
const CHANNELS: usize = 16;
/// Pixels per latent along a side.
const FACTOR: u32 = 8;

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

fn noise(inputs: &ShotInputs, conditions: &[u8; 32]) -> Result<HostTensor, EngineError> {
    let video = inputs.request.video;
    let frames = 1 + (video.frames as usize - 1) / 4;
    let [height, width] = [video.height / FACTOR, video.width / FACTOR].map(|v| v as usize);
    let count = CHANNELS * frames * height * width;
    let mut bytes = vec![0; count * 2];
    blake3::Hasher::new_keyed(conditions)
        .finalize_xof()
        .fill(&mut bytes);
    let values = bytes.as_chunks::<2>().0.iter();
    let values = values
        .map(|b| f32::from(i16::from_le_bytes(*b)) / 16_384.0)
        .collect();
    HostTensor::new(vec![CHANNELS, frames, height, width], values)
        .map_err(|error| failed(Stage::Denoise, ErrorClass::Shot, error.to_string()))
}

impl ShotEngine for SimulatedEngine {
    fn describe(&self) -> EngineDescription {
        EngineDescription {
            engine: "simulated".to_owned(),
            fingerprint: format!("simulated 2, {} steps", self.steps),
            arithmetic: String::new(),
            models: Vec::new(),
            quality_score: "constant".to_owned(),
        }
    }

    /// Its conditions are a digest of the request and of every picture it sees.
    fn encode(&self, inputs: &ShotInputs, _pass: Pass) -> Result<Encoded, EngineError> {
        let begun = Instant::now();
        let mut hasher = blake3::Hasher::new();
        hasher.update(inputs.request.prompt.as_bytes());
        hasher.update(&inputs.request.seed.0.to_le_bytes());
        for frame in &inputs.memory {
            hasher.update(frame.hash.as_bytes());
        }
        for frame in &inputs.previous_tail {
            hasher.update(frame.data());
        }
        self.keep_pace(begun, inputs, |seconds| seconds.encode);
        Ok(Encoded::new(*hasher.finalize().as_bytes()))
    }

    fn denoise(
        &self,
        inputs: &ShotInputs,
        encoded: &Encoded,
        resume: Option<LoopState>,
        observer: &mut dyn StepObserver,
    ) -> Result<HostTensor, EngineError> {
        let (first, mut sample) = match resume {
            None => (0, noise(inputs, encoded.conditions()?)?),
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
                    pass: PassName::SHOT,
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
        _pass: Pass,
        latents: &HostTensor,
    ) -> Result<Clip, EngineError> {
        let begun = Instant::now();
        let wrong = |message: &str| failed(Stage::Decode, ErrorClass::Shot, message);
        let request = &inputs.request;
        let base = latents.data().get(..6).ok_or_else(|| wrong("no latents"))?;
        let colour = |index: usize| (base[index].abs() * 127.0) as u32;
        let frames = request.opening.given_frames() as u32..request.video.frames;
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

    fn remember(&self, picture: &RgbImage, size: Resolution) -> Result<HostTensor, EngineError> {
        let [height, width] = [size.height / FACTOR, size.width / FACTOR].map(|v| v as usize);
        let value = f32::from(picture.data()[0]) / 255.0;
        HostTensor::new(
            vec![CHANNELS, 1, height, width],
            vec![value; CHANNELS * height * width],
        )
        .map_err(|error| failed(Stage::Select, ErrorClass::Shot, error.to_string()))
    }
}
