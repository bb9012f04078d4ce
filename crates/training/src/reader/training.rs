//! How the reader is trained.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use storyloom_nn::checkpoint::{Checkpoint, Target};
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::tch::{Device, Kind, Tensor, no_grad, set_num_threads};
use storyloom_story::Seed;
use storyloom_tinyworld::draws::Draws;
use storyloom_tinyworld::{Sample, Split};

use super::accuracy::{Accuracy, measure};
use super::{Reader, input, network};
use crate::attribute_head::Answers;
use crate::clips::picture;
use crate::error::Result;
use crate::json;
use crate::optimizer::AdamSettings;
use crate::params::{self, Params, Tensors};
use crate::stage::{Job, Rhythm, Stage, StageFiles, train};

/// Stories that a preview reads.
const PREVIEW_STORIES: u64 = 12;

/// Stories that the finished reader is measured on.
const STORIES: u64 = 100;

/// Parts of a step that are done side by side, and pictures in each.
const PARTS: u64 = 2;
const PICTURES: u64 = 12;

/// The training of a reader as a stage.
#[derive(Debug)]
struct ReaderStage {
    params: Params,
    seed: u64,
    parts: u64,
    pictures: u64,
    /// Normal noise that is used again at other places, `[GRAIN]`.
    grain: Tensor,
}

/// Values of noise that are drawn once.
const GRAIN: i64 = 1 << 20;

impl ReaderStage {
    /// From `saved` parameters, or from random ones. `pictures` in each of `parts` make a step.
    fn new(seed: u64, parts: u64, pictures: u64, saved: Option<Tensors>) -> Result<Self> {
        let start = saved.map_or_else(|| network::start(Seed(seed)), Ok)?;
        Ok(Self {
            params: Params::of(start, Device::Cpu)?,
            seed,
            parts,
            pictures,
            grain: gaussian(Seed(seed), Stream::Memory, &[GRAIN])?,
        })
    }
}

impl Stage for ReaderStage {
    fn name(&self) -> &'static str {
        "reader"
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn jobs(&mut self, step: u64) -> Result<Vec<Job>> {
        let job = |part: u64| -> Job {
            let first = (step * self.parts + part) * self.pictures;
            let part = StepPart {
                seed: self.seed,
                samples: first..first + self.pictures,
                grain: self.grain.shallow_clone(),
            };
            Box::new(move |checkpoint| part.loss(checkpoint))
        };
        Ok((0..self.parts).map(job).collect())
    }

    fn preview(&mut self, average: &Tensors, folder: &Path, step: u64) -> Result<()> {
        let reader = Reader::of(average)?;
        let path = folder.join("accuracy.json");
        let accuracy = measure(&reader, Split::HeldOut, PREVIEW_STORIES)?;
        let figures = [accuracy.least(), accuracy.mean()].map(|share| format!("{share:.4}"));
        tracing::info!(
            stage = "reader",
            step,
            least = figures[0],
            mean = figures[1],
            "held out"
        );
        json::write(&path, &accuracy)
    }
}

/// Trains a reader in `folder` from where it stands there, until its steps or the time are used up
/// or `stop` is set. Returns how well it reads once it is done.
///
/// What is shipped goes to `folder`: `reader.safetensors`, and `reader.json` with its accuracy.
pub fn train_reader(
    folder: &Path,
    seed: u64,
    steps: u64,
    time: Option<Duration>,
    stop: &AtomicBool,
) -> Result<Option<Accuracy>> {
    // Threads that share operations as small as these mostly wait for each other.
    set_num_threads(1);
    let files = StageFiles::new(folder, "reader")?;
    let mut stage = ReaderStage::new(seed, PARTS, PICTURES, files.params()?)?;
    let settings = AdamSettings {
        rate: 2e-3,
        warm_up: 50,
        steps,
        decay: 0.02,
        clip: 1.0,
        average: 0.995,
    };
    let rhythm = Rhythm {
        steps,
        log_every: 100,
        save_every: Duration::from_secs(120),
        preview_every: Duration::from_secs(1200),
        time,
    };
    let done = train(&mut stage, &files, settings, rhythm, stop)?;
    let Some((average, _)) = files.average()?.filter(|_| done) else {
        return Ok(None);
    };
    let path = folder.join("reader.safetensors");
    export(&average, &path)?;
    // What is shipped is measured, rounding and all.
    let accuracy = measure(&Reader::from_file(&path)?, Split::HeldOut, STORIES)?;
    json::write(&folder.join("reader.json"), &accuracy)?;
    Ok(Some(accuracy))
}

/// Writes weights in f16, as they are shipped.
fn export(weights: &Tensors, path: &Path) -> Result<()> {
    network::check(weights)?;
    let half = no_grad(|| {
        let half =
            |(name, tensor): (&String, &Tensor)| Ok((name.clone(), tensor.f_to_kind(Kind::Half)?));
        weights.iter().map(half).collect::<Result<Tensors>>()
    })?;
    params::save(path, &half)
}

/// A part of a step.
struct StepPart {
    seed: u64,
    samples: std::ops::Range<u64>,
    grain: Tensor,
}

impl StepPart {
    fn loss(&self, checkpoint: &Checkpoint) -> Result<Tensor> {
        let (pictures, answers) = self.pictures()?;
        let mut draws = Draws::new(self.seed, "wear", self.samples.start);
        let pictures = no_grad(|| worn(&pictures, &self.grain, &mut draws))?;
        let weights = checkpoint.weights(Target::CPU_F32);
        let mut tensors = Tensors::new();
        for (name, shape) in network::layout() {
            tensors.insert(name.clone(), weights.take(&name, &shape)?);
        }
        answers.loss(&network::forward(&tensors, &pictures)?)
    }

    /// The pictures, and what they show.
    fn pictures(&self) -> Result<(Tensor, Answers)> {
        let mut pictures = Vec::new();
        let mut answers = Answers::default();
        for index in self.samples.clone() {
            let sample = Sample::draw(self.seed, index, part_of(index));
            // Any moment of a shot may be read.
            let moment = (index % 9) as f32 / 8.0;
            pictures.push(input(&picture(&sample.scene, moment, network::SIZE)?)?);
            answers.push(Some(&sample.scene));
        }
        Ok((Tensor::f_cat(&pictures, 0)?, answers))
    }
}

/// The reader is an instrument: it has to know all combinations as they are drawn, one fifth of
/// them held out from the models that it measures. Trained on the others alone, it learns which
/// combinations there are not, and reads something else where they occur.
const fn part_of(index: u64) -> Split {
    if index.is_multiple_of(5) {
        Split::HeldOut
    } else {
        Split::Train
    }
}

/// One number for each of `count` pictures, `[count, channels, 1, 1]`.
fn each(count: i64, channels: i64, mut number: impl FnMut() -> f64) -> Result<Tensor> {
    let numbers: Vec<f32> = (0..count * channels).map(|_| number() as f32).collect();
    Ok(Tensor::f_from_slice(&numbers)?.f_view([count, channels, 1, 1])?)
}

/// The pictures as a tired generator might have made them: bent, blurred, discoloured, noisy, each
/// by an amount of its own from none to strong.
fn worn(pictures: &Tensor, grain: &Tensor, draws: &mut Draws) -> Result<Tensor> {
    let count = pictures.size()[0];
    let mut amount = |most: f64| each(count, 1, || most * draws.unit().powi(2));
    let (bending, soft, noise) = (amount(1.0)?, amount(1.0)?, amount(0.15)?);
    // A picture of a part has one of these, which costs half of what both would.
    let x = match draws.below(3) {
        0 => bend(pictures, &bending, draws)?,
        factor => {
            let blurred = blurred(pictures, factor as i64 + 1)?;
            pictures.f_lerp_tensor(&blurred, &soft)?
        }
    };
    let gain = each(count, 3, || 1.0 + 0.05 * draws.normal())?;
    let shift = each(count, 3, || 0.04 * draws.normal())?;
    let grains = (0..count).map(|_| {
        let values: i64 = pictures.size()[1..].iter().product();
        let start = draws.below((GRAIN - values) as usize) as i64;
        grain.f_narrow(0, start, values)
    });
    let grains = Tensor::f_stack(&grains.collect::<Result<Vec<_>, _>>()?, 0)?;
    let grains = grains.f_view_as(pictures)?.f_mul(&noise)?;
    Ok(x.f_mul(&gain)?
        .f_add(&shift)?
        .f_add(&grains)?
        .f_clamp(-1.0, 1.0)?)
}

fn blurred(pictures: &Tensor, factor: i64) -> Result<Tensor> {
    let size = [network::HEIGHT, network::WIDTH];
    let small = size.map(|side| side / factor);
    let small = pictures.f_internal_upsample_bilinear2d_aa(small, false, None, None)?;
    Ok(small.f_upsample_bilinear2d(size, false, None, None)?)
}

/// Moves pixels by up to a few, smoothly over the picture.
fn bend(pictures: &Tensor, amount: &Tensor, draws: &mut Draws) -> Result<Tensor> {
    let size = [network::HEIGHT, network::WIDTH];
    let count = pictures.size()[0];
    let coarse = each(count, 2 * 6 * 10, || draws.normal())?.f_view([count, 2, 6, 10])?;
    // Two pixels of the longer side, in the units of the grid, at full amount.
    let flow = coarse
        .f_mul(amount)?
        .f_mul_scalar(4.0 / network::WIDTH as f64)?
        .f_upsample_bilinear2d(size, false, None, None)?
        .f_permute([0, 2, 3, 1])?;
    let still = Tensor::f_from_slice(&[1.0_f32, 0.0, 0.0, 0.0, 1.0, 0.0])?
        .f_view([1, 2, 3])?
        .f_expand([count, 2, 3], false)?;
    let grid = Tensor::f_affine_grid_generator(&still, [count, 3, size[0], size[1]], false)?;
    // Bilinear, the border repeated.
    Ok(pictures.f_grid_sampler_2d(&grid.f_add(&flow)?, 0, 1, false)?)
}
