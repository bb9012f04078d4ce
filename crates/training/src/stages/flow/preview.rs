//! What a model can do by now, on held-out stories.

use std::path::Path;

use storyloom_models::sampler::{Reference, SamplerKind, SamplerSettings, Schedule, Solver};
use storyloom_models::wan::{MEMORY_STRIDE, condition_channels, temporal_positions};
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::tch::{Device, Tensor, no_grad_guard};
use storyloom_story::{Opening, Seed};
use storyloom_tinyworld::{News, Split, Story, caption};

use super::{Distil, FlowModel, FlowShape};
use crate::error::Result;
use crate::latents::{LatentCodec, Length};
use crate::params::{Tensors, checkpoint_of, plain_on};
use crate::sheet;
use crate::words::Words;

/// A model and what it is used with.
pub struct Model<'a> {
    /// All weights of transformer and text encoder.
    pub tensors: &'a Tensors,
    /// Their shapes.
    pub shape: &'a FlowShape,
    /// The autoencoder.
    pub codec: &'a LatentCodec,
    /// The tokenizer.
    pub words: &'a Words,
    /// Whether pictures or clips are sampled.
    pub length: Length,
    /// Most memory pictures; 0 for text to video.
    pub memory: usize,
    /// How it is sampled; `None`: as a teacher is, guided and in more steps.
    pub distil: Option<Distil>,
    /// Where to compute.
    pub device: Device,
}

/// Held-out stories that are drawn.
const STORIES: u64 = 8;
/// Steps of a sampler with guidance.
const STEPS: usize = 12;
/// That guidance.
const GUIDANCE: f64 = 3.0;
/// Flow shift of its steps.
const SHIFT: f64 = 3.0;

/// Writes a contact sheet: each row has the true picture first, then what the model makes of its
/// caption (for clips first, middle and last frame), after the memory it was given, if any.
pub fn draw(model: &Model, path: &Path) -> Result<()> {
    let _guard = no_grad_guard();
    let vae = model.codec.open()?;
    let checkpoint = checkpoint_of(model.tensors);
    let network = FlowModel::load(&checkpoint.weights(plain_on(model.device)), model.shape)?;
    let memory = model.memory.min(2);
    let (mut captions, mut truths, mut conditions) = (Vec::new(), Vec::new(), Vec::new());
    let mut remembered = Vec::new();
    let frames = match model.length {
        Length::Picture => 1,
        Length::Clip | Length::History => model.codec.source().frames,
    };
    for seed in 0..STORIES {
        let story = Story::draw(seed, Split::HeldOut);
        let latents = model.codec.encode(&story, model.length)?;
        // With memory, a shot that only names its things; without, the first.
        let shot = if memory > 0 { 7 } else { seed as usize % 8 };
        let scene = &story.shots[shot].scene;
        captions.push(match memory {
            0 => caption(scene, News::ALL),
            _ => story.shots[shot].caption.clone(),
        });
        truths.push(latents.clips.f_select(0, shot as i64)?);
        if memory > 0 {
            let of = |shot: i64| latents.clips.f_select(0, shot)?.f_narrow(1, 0, 1);
            let pictures = (0..memory as i64).map(of).collect::<Result<Vec<_>, _>>()?;
            let given = latents.given.f_select(0, shot as i64)?;
            conditions.push(condition_channels(
                model.shape.transformer.latent_grid(),
                &pictures,
                &given,
                frames as u32,
                Opening::Memory,
            )?);
            remembered.push(pictures);
        }
    }
    let clean = Tensor::f_stack(&truths, 0)?;
    let mut size = clean.size();
    size[2] += memory as i64;
    let condition = match conditions.is_empty() {
        true => None,
        false => Some(Tensor::f_stack(&conditions, 0)?.f_to_device(model.device)?),
    };
    let positions = temporal_positions(memory, clean.size()[2] as usize, MEMORY_STRIDE);
    let noise = gaussian(Seed(7), Stream::Shot, &size)?.f_to_device(model.device)?;
    let sampled = sample(
        model,
        &network,
        &captions,
        &noise,
        condition.as_ref(),
        &positions,
    )?;
    let mut rows = Vec::new();
    for place in 0..STORIES as i64 {
        let decode = |latents: &Tensor| -> Result<Tensor> {
            let latents = vae.denormalize(&latents.f_unsqueeze(0)?)?;
            Ok(vae.decode(&latents)?.f_squeeze_dim(0)?)
        };
        let mut row = Vec::new();
        for latents in remembered.get(place as usize).into_iter().flatten() {
            row.push(decode(latents)?.f_select(1, 0)?);
        }
        row.push(decode(&truths[place as usize])?.f_select(1, 0)?);
        let shot = sampled.f_select(0, place)?;
        let shot = shot.f_narrow(1, memory as i64, shot.size()[1] - memory as i64)?;
        let clip = decode(&shot)?;
        let last = clip.size()[1] - 1;
        let mut shown = vec![0, last / 2, last];
        shown.dedup();
        for frame in shown {
            row.push(clip.f_select(1, frame)?);
        }
        rows.push(row);
    }
    sheet::write(path, &rows)
}

fn sample(
    model: &Model,
    network: &FlowModel,
    captions: &[String],
    noise: &Tensor,
    condition: Option<&Tensor>,
    positions: &[i64],
) -> Result<Tensor> {
    let (kind, steps, shift) = match model.distil {
        Some(distil) => (SamplerKind::Euler, distil.steps, distil.shift),
        None => (SamplerKind::UniPc, STEPS, SHIFT),
    };
    let settings = SamplerSettings {
        kind,
        reference: Reference::Wan,
        steps,
        shift,
    };
    let schedule = Schedule::new(&settings)?;
    let mut solver = Solver::new(settings.kind, &schedule);
    let with = network.context(&model.words.encode(captions)?.on(model.device)?)?;
    let empty = vec![String::new(); captions.len()];
    let without = network.context(&model.words.encode(&empty)?.on(model.device)?)?;
    let mut latents = noise.shallow_clone();
    for &time in schedule.timesteps() {
        let hidden = match condition {
            Some(condition) => Tensor::f_cat(&[&latents, condition], 1)?,
            None => latents.shallow_clone(),
        };
        let sigmas = vec![time / 1000.0; captions.len()];
        let wanted = network.velocity(&hidden, &sigmas, positions, &with)?;
        let velocity = if model.distil.is_some() {
            wanted
        } else {
            let base = network.velocity(&hidden, &sigmas, positions, &without)?;
            base.f_add(&wanted.f_sub(&base)?.f_mul_scalar(GUIDANCE)?)?
        };
        latents = solver.step(&velocity, &latents)?;
    }
    Ok(latents)
}
