//! What a model can do by now, on held-out stories: the frames that it looks back at, and what it makes.

use std::path::Path;

use storyloom_models::sampler::{Reference, SamplerKind, SamplerSettings, Schedule, Solver};
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::tch::{Device, Kind, Tensor, no_grad_guard};
use storyloom_story::Seed;
use storyloom_story::onestory::{Budget, ChosenFrame, Kernel, choose};
use storyloom_tinyworld::{Outline, Pattern, Split, Story};

use super::batch::{Context, nothing_given};
use super::lesson::{Lesson, Past, shared};
use super::part::{Networks, Shapes};
use crate::error::Result;
use crate::latents::{LatentCodec, Length};
use crate::params::{Tensors, checkpoint_of, plain_on};
use crate::sheet;
use crate::stages::flow::Distil;
use crate::words::Words;

/// A model and what it is used with.
pub(super) struct Model<'a> {
    /// Transformer, selector and patchifiers.
    pub tensors: &'a Tensors,
    /// The text encoder.
    pub frozen: &'a Tensors,
    pub shapes: &'a Shapes,
    pub codec: &'a LatentCodec,
    pub words: &'a Words,
    /// How it is sampled; `None`: as a teacher is, guided and in more steps.
    pub distil: Option<Distil>,
    pub device: Device,
}

/// Held-out stories that are drawn.
const STORIES: u64 = 6;
/// Steps of a sampler with guidance, the guidance, and the flow shift of the steps.
const STEPS: usize = 12;
const GUIDANCE: f64 = 3.0;
const SHIFT: f64 = 3.0;
/// Colours of the frames that mark what is seen with the kernels from the finest to the coarsest, in [-1, 1].
const MARKS: [[f64; 3]; 4] = [
    [1.0, 1.0, 1.0],
    [-0.8, 0.9, -0.8],
    [1.0, 0.4, -1.0],
    [1.0, -0.8, -0.8],
];
/// Width of these frames, pixels.
const MARK: i64 = 3;

impl Model<'_> {
    /// Writes a contact sheet: each row has the frames of the history that its shot sees, framed in the
    /// colour of their kernel, then what is to be seen, and first, middle and last frame of what was made.
    pub fn draw(&self, path: &Path) -> Result<()> {
        let _guard = no_grad_guard();
        let vae = self.codec.open()?;
        let checkpoint = checkpoint_of(self.tensors);
        let weights = checkpoint.weights(plain_on(self.device));
        let networks = Networks::load(&weights, self.frozen, self.shapes)?;
        let (mut rows, mut found) = (Vec::new(), Found::default());
        for seed in 0..STORIES {
            let pattern = Pattern::ALL[seed as usize % Pattern::ALL.len()];
            let story = Outline::of(pattern).draw(seed, Split::HeldOut);
            let shot = Shot::of(self, &networks, &story)?;
            found.count(&shot);
            let made = shot.sample(self, &networks)?;
            let latents = vae.denormalize(&made)?;
            let clip = vae.decode(&latents)?.f_squeeze_dim(0)?;
            let mut row = shot.seen(self, &story)?;
            let scene = &story.shots[shot.target].scene;
            row.push(self.codec.source().draw(scene, 0..1)?.f_select(1, 0)?);
            let last = clip.size()[1] - 1;
            for frame in [0, last / 2, last] {
                row.push(clip.f_select(1, frame)?);
            }
            rows.push(row);
        }
        found.log();
        sheet::write(path, &rows)
    }
}

/// How well the selector finds what matters: sums over frames, and their number.
#[derive(Default)]
struct Found {
    chosen: [f32; 2],
    all: [f32; 2],
}

impl Found {
    fn count(&mut self, shot: &Shot) {
        let add = |[sum, count]: [f32; 2], share: f32| [sum + share, count + 1.0];
        for chosen in &shot.chosen {
            self.chosen = add(self.chosen, shot.shares[chosen.frame]);
        }
        for &share in &shot.shares {
            self.all = add(self.all, share);
        }
    }

    fn log(&self) {
        let mean = |[sum, count]: [f32; 2]| format!("{:.3}", sum / count.max(1.0));
        tracing::info!(
            chosen = mean(self.chosen),
            all = mean(self.all),
            "share of a shot's things that frames of its history show, in held-out stories"
        );
    }
}

/// The last shot of a story, and what it sees.
struct Shot {
    target: usize,
    history: Vec<Tensor>,
    /// The share of the things of the shot that each frame of the history shows.
    shares: Vec<f32>,
    chosen: Vec<ChosenFrame>,
    /// The caption and an empty one.
    rows: Tensor,
    /// Latents of the shot as it should be, `[1, z, t, h, w]`.
    truth: Tensor,
}

impl Shot {
    fn of(model: &Model, networks: &Networks, story: &Story) -> Result<Self> {
        let target = story.shots.len() - 1;
        let clips = model.codec.encode(story, Length::Clip)?.clips;
        let shot = |shot: usize| -> Result<Tensor> {
            Ok(clips
                .f_narrow(0, shot as i64, 1)?
                .f_to_device(model.device)?)
        };
        let lesson = Lesson {
            story: 0,
            target,
            history: (0..target).map(Past::Real).collect(),
            caption: story.shots[target].caption.clone(),
            is_given_image: false,
        };
        let captions = [lesson.caption.clone(), String::new()];
        let rows = networks.rows(&model.words.encode(&captions)?.on(model.device)?)?;
        let history = (0..target).map(shot).collect::<Result<Vec<_>>>()?;
        let selector = &networks.memory.selector;
        let scores = selector.forward(&rows.f_narrow(0, 0, 1)?, &history)?;
        let scores = Vec::<f32>::try_from(&scores.f_flatten(0, -1)?.f_to_device(Device::Cpu)?)?;
        let (_, _, frames, height, width) = clips.size5()?;
        let counts = Budget::default().counts([height as u32, width as u32]);
        Ok(Self {
            target,
            chosen: choose(&scores, counts.unwrap_or_default()),
            shares: lesson.labels(frames as usize, |shot| {
                let scenes = [target, shot].map(|shot| &story.shots[shot].scene);
                Ok(vec![shared(scenes[0], scenes[1]); frames as usize])
            })?,
            history,
            rows,
            truth: shot(target)?,
        })
    }

    /// Samples the shot, `[1, z, t, h, w]`.
    fn sample(&self, model: &Model, networks: &Networks) -> Result<Tensor> {
        let (kind, steps, shift) = match model.distil {
            Some(distil) => (SamplerKind::Euler, distil.steps, distil.shift),
            None => (SamplerKind::UniPc, STEPS, SHIFT),
        };
        let schedule = Schedule::new(&SamplerSettings {
            kind,
            reference: Reference::Wan,
            steps,
            shift,
        })?;
        let mut solver = Solver::new(kind, &schedule);
        let text = |place| {
            networks
                .flow
                .context_of_rows(&self.rows.f_narrow(0, place, 1)?)
        };
        let (with, without) = (text(0)?, text(1)?);
        let patchifiers = &networks.memory.patchifiers;
        let chosen = [self.chosen.clone()];
        let context = Context::of(patchifiers, &self.history, &chosen)?;
        let grid = model.shapes.flow.transformer.latent_grid();
        let condition = nothing_given(&self.truth.f_squeeze_dim(0)?, grid)?.f_unsqueeze(0)?;
        let mut latents =
            gaussian(Seed(7), Stream::Shot, &self.truth.size())?.f_to_device(model.device)?;
        for &time in schedule.timesteps() {
            let hidden = Tensor::f_cat(&[&latents, &condition], 1)?;
            let sigmas = [time / 1000.0];
            let wanted = networks.velocity(&hidden, &sigmas, &with, Some(&context))?;
            let velocity = match model.distil {
                Some(_) => wanted,
                None => {
                    let base = networks.velocity(&hidden, &sigmas, &without, Some(&context))?;
                    base.f_add(&wanted.f_sub(&base)?.f_mul_scalar(GUIDANCE)?)?
                }
            };
            latents = solver.step(&velocity, &latents)?;
        }
        Ok(latents)
    }

    /// The frames that it sees, as they were drawn, each in its mark.
    fn seen(&self, model: &Model, story: &Story) -> Result<Vec<Tensor>> {
        let source = model.codec.source();
        let frames = self.truth.size()[2] as usize;
        let group = (source.frames - 1) / (frames - 1).max(1);
        let one = |chosen: &ChosenFrame| {
            let scene = &story.shots[chosen.frame / frames].scene;
            let frame = chosen.frame % frames * group;
            let picture = source.draw(scene, frame..frame + 1)?.f_select(1, 0)?;
            marked(&picture, chosen.kernel)
        };
        self.chosen.iter().map(one).collect()
    }
}

/// A picture `[3, height, width]` in a frame of the colour of `kernel`.
fn marked(picture: &Tensor, kernel: Kernel) -> Result<Tensor> {
    let (_, height, width) = picture.size3()?;
    let colour = Tensor::f_from_slice(&MARKS[kernel.index()])?.f_to_kind(Kind::Float)?;
    let marked = colour
        .f_view([3, 1, 1])?
        .f_expand([3, height, width], false)?
        .copy();
    let inside = |tensor: &Tensor| -> Result<Tensor> {
        let rows = tensor.f_narrow(1, MARK, height - 2 * MARK)?;
        Ok(rows.f_narrow(2, MARK, width - 2 * MARK)?)
    };
    inside(&marked)?.f_copy_(&inside(picture)?)?;
    Ok(marked)
}
