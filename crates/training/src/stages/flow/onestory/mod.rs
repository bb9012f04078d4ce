//! Stages `onestory` and `fast-onestory`: shots that see what matters of their history (arXiv 2512.07802).
//!
//! The transformer begins as the one that takes memory pictures, which looks for things at negative
//! positions in time already; context tokens stand there in their place. Selector and patchifiers are new.

mod batch;
mod lesson;
mod part;
mod preview;
mod start;

use std::path::Path;

use storyloom_models::onestory::OneStoryMemory;
use storyloom_models::wan::WanTransformer;
use storyloom_nn::checkpoint::Weights;
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::tch::{Device, Tensor};
use storyloom_story::Seed;
use storyloom_tinyworld::Story;
use storyloom_tinyworld::draws::Draws;

use super::open::FlowParts;
use super::{FlowSettings, clips, parts, transformer};
use crate::error::Result;
use crate::latents::tower::Tower;
use crate::latents::{LatentCodec, Pool};
use crate::optimizer::AdamSettings;
use crate::params::{Params, Tensors, shallow};
use crate::run::Run;
use crate::stage::{Job, Stage, StageFiles};
use crate::stages::scorer::{self, vision_tower};
use crate::stages::{Opened, StageName};
use crate::words::Words;
use batch::Batch;
use lesson::{Frames, Phase, Plan};
use part::{Part, Shapes, Teacher};
pub use start::PatchStart;

/// What OneStory is trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OneStorySettings {
    /// What it has in common with the other transformers.
    pub flow: FlowSettings,
    /// Weight of the selector's loss: lambda of the paper.
    pub lambda: f64,
    /// Part of the learning rate that the transformer moves by; what is new moves by all of it.
    pub backbone: f64,
    /// Share of the steps of the warm-up.
    pub warm_up: f64,
    /// Share of the parts with shots that have no history.
    pub opening: f64,
    /// Share of the parts with shots that have a history and see nothing of it.
    pub bare: f64,
    /// Share of the parts with inflated pairs after the warm-up; the others have real histories.
    pub inflated: f64,
    /// What patchifiers begin as.
    pub patches: PatchStart,
}

/// The stage.
pub struct OneStoryStage {
    name: &'static str,
    shapes: Shapes,
    settings: OneStorySettings,
    params: Params,
    /// The text encoder.
    frozen: Tensors,
    /// The networks of the teacher, where there is one.
    teacher: Option<Tensors>,
    pool: Pool,
    codec: LatentCodec,
    words: Words,
    seed: u64,
    device: Device,
    /// Steps of the warm-up.
    warm_up: u64,
}

/// Selector, patchifiers and transformer of a set in the making.
pub(in crate::stages) fn open(run: &Run, files: &StageFiles) -> Result<Opened> {
    let stage = StageName::OneStory;
    let (settings, adam) = run.preset.onestory;
    let parts = FlowParts::begin(run, files, true)?;
    let wants = stage.name();
    let backbone = match run.files(StageName::Memory)? {
        memory if memory.average()?.is_some() => run.average(StageName::Memory, wants)?,
        memory => match memory.given()? {
            Some(given) => given,
            None => run.average(StageName::Memory, wants)?,
        },
    };
    finish(
        run,
        stage,
        parts,
        (settings, adam),
        &transformer(&backbone),
        None,
    )
}

/// The same in few steps: a student learns from the finished model.
pub(in crate::stages) fn open_fast(run: &Run, files: &StageFiles) -> Result<Opened> {
    let stage = StageName::FastOneStory;
    let (settings, adam) = run.preset.fast_onestory();
    let parts = FlowParts::begin(run, files, true)?;
    let teacher = run.average(StageName::OneStory, stage.name())?;
    finish(
        run,
        stage,
        parts,
        (settings, adam),
        &teacher,
        Some(&teacher),
    )
}

fn finish(
    run: &Run,
    stage: StageName,
    parts: FlowParts,
    settings: (OneStorySettings, AdamSettings),
    begun: &Tensors,
    teacher: Option<&Tensors>,
) -> Result<Opened> {
    let stage = assemble(run, stage, parts, settings, begun, teacher)?;
    Ok((Box::new(stage), settings.1))
}

fn assemble(
    run: &Run,
    stage: StageName,
    parts: FlowParts,
    (settings, adam): (OneStorySettings, AdamSettings),
    begun: &Tensors,
    teacher: Option<&Tensors>,
) -> Result<OneStoryStage> {
    let frozen = clips::encoder(run, stage.name())?;
    let (shape, words, saved) = parts.apart();
    let shapes = Shapes {
        flow: shape,
        memory: run.preset.shape.onestory()?,
    };
    let params = match saved.params {
        Some(tensors) => Params::of(tensors, run.device)?,
        None => begin(&shapes, begun, &settings, run)?,
    };
    let codec = run.codec()?;
    let flow = &settings.flow;
    let tower = Tower {
        config: run.preset.shape.clip()?,
        tensors: vision_tower(&scorer::finished(run, stage.name())?),
        source: codec.source(),
        device: run.device,
    };
    let mut pool = Pool::new(codec.clone(), flow.length, run.seed << 32, flow.pool).seen_by(tower);
    pool.restore(&saved.state)?;
    let mut stage = OneStoryStage {
        name: stage.name(),
        shapes,
        settings,
        params,
        frozen,
        teacher: teacher.map(shallow),
        pool,
        codec,
        words,
        seed: run.seed,
        device: run.device,
        warm_up: 0,
    };
    stage.plan(adam.steps);
    Ok(stage)
}

/// New parameters beside those that have `begun`.
fn begin(
    shapes: &Shapes,
    begun: &Tensors,
    settings: &OneStorySettings,
    run: &Run,
) -> Result<Params> {
    let load = |weights: &Weights| trained(weights, shapes);
    let params = Params::start(
        Seed(run.seed),
        "onestory",
        run.device,
        load,
        start::start_of,
    )?;
    let is_new = !begun.keys().any(|name| name.starts_with(parts::ONESTORY));
    let patchifiers = match is_new {
        true => start::patchifiers(begun, &shapes.memory, settings.patches)?,
        false => Tensors::new(),
    };
    params.replaced(shallow(begun))?.replaced(patchifiers)
}

/// Asks `weights` for everything that is trained.
fn trained(weights: &Weights, shapes: &Shapes) -> storyloom_nn::Result<()> {
    WanTransformer::load(
        &weights.sub(parts::TRANSFORMER),
        shapes.flow.transformer.clone(),
    )?;
    OneStoryMemory::load(&weights.sub(parts::ONESTORY), &shapes.memory).map(drop)
}

impl OneStoryStage {
    fn phase(&self, step: u64) -> Phase {
        match step < self.warm_up {
            true => Phase::WarmUp,
            false => Phase::Selection,
        }
    }

    fn part(&self, part: usize, step: u64) -> Result<Part> {
        let mut draws = Draws::new(self.seed, &format!("{}/{part}", self.name), step);
        let entries = self.pool.entries();
        let stories: Vec<&Story> = entries.iter().map(|entry| &entry.story).collect();
        let frames = Frames::of(&entries[0].latents.clips)?;
        let (settings, flow) = (&self.settings, &self.settings.flow);
        let plan = Plan::draw(&mut draws, &stories, settings, self.phase(step), frames);
        let grid = self.shapes.flow.transformer.latent_grid();
        let video = (grid, self.codec.source().frames);
        let batch = Batch::of(&plan, &mut draws, entries, video, self.device)?;
        let count = plan.lessons.len();
        let mut captions: Vec<String> = plan.lessons.iter().map(|l| l.caption.clone()).collect();
        captions.push(String::new());
        let (sigmas, teacher) = match (&self.teacher, flow.distil) {
            (Some(teacher), Some(distil)) => {
                let [sigmas, next] = distil.steps_of(&mut draws, count)?;
                let tensors = shallow(teacher);
                let teacher = Teacher {
                    tensors,
                    distil,
                    next,
                };
                (sigmas, Some(teacher))
            }
            _ => ((0..count).map(|_| flow.sigma(&mut draws)).collect(), None),
        };
        let asked_by = (0..count).map(|sample| match draws.chance(flow.dropped) {
            true => count as i64,
            false => sample as i64,
        });
        Ok(Part {
            shapes: self.shapes.clone(),
            tokens: self.words.encode(&captions)?.on(self.device)?,
            asked_by: asked_by.collect(),
            noise: gaussian(Seed(draws.number()), Stream::Shot, &batch.clean.size())?
                .f_to_device(self.device)?,
            batch,
            sees: plan.sees,
            sigmas,
            teacher,
            frozen: shallow(&self.frozen),
            lambda: self.settings.lambda,
            device: self.device,
        })
    }
}

impl Frames {
    /// Those of shots `[shots, z, t, h, w]`.
    fn of(clips: &Tensor) -> Result<Self> {
        let (_, _, count, rows, columns) = clips.size5()?;
        Ok(Self {
            plane: [rows as u32, columns as u32],
            count: count as usize,
        })
    }
}

impl Stage for OneStoryStage {
    fn name(&self) -> &'static str {
        self.name
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn plan(&mut self, steps: u64) {
        let is_taught = self.teacher.is_some();
        let share = if is_taught {
            0.0
        } else {
            self.settings.warm_up
        };
        self.warm_up = (steps as f64 * share).round() as u64;
    }

    fn share_of_rate(&self, name: &str) -> f64 {
        match name.starts_with(parts::TRANSFORMER) {
            true => self.settings.backbone,
            false => 1.0,
        }
    }

    fn jobs(&mut self, step: u64) -> Result<Vec<Job>> {
        // Two by two, for they are encoded side by side.
        let due = step > 0 && step.is_multiple_of(2 * self.settings.flow.renew_every);
        self.pool.fill(if due { 2 } else { 0 })?;
        let mut jobs: Vec<Job> = Vec::new();
        for number in 0..self.settings.flow.parts {
            let part = self.part(number, step)?;
            jobs.push(Box::new(move |checkpoint| part.loss(checkpoint)));
        }
        Ok(jobs)
    }

    fn state(&self) -> Result<Tensors> {
        self.pool.state()
    }

    fn preview(&mut self, average: &Tensors, folder: &Path, step: u64) -> Result<()> {
        let model = preview::Model {
            tensors: average,
            frozen: &self.frozen,
            shapes: &self.shapes,
            codec: &self.codec,
            words: &self.words,
            distil: self.settings.flow.distil,
            device: self.device,
        };
        model.draw(&folder.join(format!("preview-{step:06}.png")))
    }
}

#[cfg(test)]
mod tests;
