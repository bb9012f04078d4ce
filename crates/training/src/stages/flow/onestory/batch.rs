//! The samples of a part of a step as tensors.

use storyloom_models::onestory::{Patchifiers, context_positions};
use storyloom_models::wan::condition_channels;
use storyloom_nn::tch::{Device, Kind, Tensor};
use storyloom_story::onestory::{ChosenFrame, ContextTime, Kernel, Plane};
use storyloom_story::{LatentGrid, Opening};
use storyloom_tinyworld::draws::Draws;

use super::lesson::{Lesson, Past, Plan, shared};
use crate::error::Result;
use crate::latents::Entry;
use crate::latents::tower::similarity;

/// Samples of one part of a step.
#[derive(Debug)]
pub struct Batch {
    /// What is to be made, `[batch, z, frames, h, w]`.
    pub clean: Tensor,
    /// How much each part of it counts, `[batch, 1, frames, h, w]`.
    pub emphasis: Tensor,
    /// Condition channels, `[batch, 4 + z, frames, h, w]`.
    pub condition: Tensor,
    /// The shots before it, oldest first, each `[batch, z, t, h, w]`.
    pub history: Vec<Tensor>,
    /// How relevant each of their frames is, `[batch, t * shots]`.
    pub labels: Tensor,
}

/// Context tokens of a batch, as the transformer takes them.
#[derive(Debug)]
pub struct Context {
    /// `[batch, n, width]`.
    pub tokens: Tensor,
    /// `[batch, n, 3]`, f64 on the host.
    pub positions: Tensor,
}

impl Batch {
    /// The samples of `plan`; videos have `frames` pixel frames.
    pub fn of(
        plan: &Plan,
        draws: &mut Draws,
        entries: &[Entry],
        (grid, frames): (LatentGrid, usize),
        device: Device,
    ) -> Result<Self> {
        let (mut clean, mut emphasis, mut condition) = (Vec::new(), Vec::new(), Vec::new());
        let (mut history, mut labels) = (Vec::new(), Vec::new());
        for lesson in &plan.lessons {
            let entry = &entries[lesson.story];
            let [made, counts] = target(lesson, entry, plan.is_still, draws.chance(0.5))?;
            condition.push(given(lesson, entry, &made, (grid, frames))?);
            clean.push(made);
            emphasis.push(counts);
            let past = lesson.history.iter().map(|past| seen(past, entry, entries));
            history.push(past.collect::<Result<Vec<_>>>()?);
            let frames = entry.latents.clips.size()[2] as usize;
            labels.extend(lesson.labels(frames, |shot| related(lesson, entry, shot))?);
        }
        let stack = |all: &[Tensor]| -> Result<Tensor> {
            Ok(Tensor::f_stack(all, 0)?.f_to_device(device)?)
        };
        let shots = history.first().map_or(0, Vec::len);
        let of_all = |shot: usize| {
            let shots: Vec<Tensor> = history.iter().map(|of| of[shot].shallow_clone()).collect();
            stack(&shots)
        };
        let samples = plan.lessons.len() as i64;
        Ok(Self {
            clean: stack(&clean)?,
            emphasis: stack(&emphasis)?,
            condition: stack(&condition)?,
            history: (0..shots).map(of_all).collect::<Result<_>>()?,
            labels: Tensor::f_from_slice(&labels)?
                .f_view([samples, (labels.len() as i64) / samples])?
                .f_to_device(device)?,
        })
    }
}

/// What a sample is to make, and how much each part of that counts.
fn target(lesson: &Lesson, entry: &Entry, is_still: bool, is_last: bool) -> Result<[Tensor; 2]> {
    let shot = lesson.target as i64;
    let (latents, emphasis) = (&entry.latents, &entry.emphasis);
    let of = |clips: &Tensor, lasts: &Tensor| -> Result<Tensor> {
        Ok(match (is_still, is_last) {
            (false, _) => clips.f_select(0, shot)?,
            (true, true) => lasts.f_select(0, shot)?,
            (true, false) => clips.f_select(0, shot)?.f_narrow(1, 0, 1)?,
        })
    };
    Ok([
        of(&latents.clips, &latents.lasts)?,
        of(&emphasis.clips, &emphasis.lasts)?,
    ])
}

/// The condition channels of a sample: nothing, or the first frame of a story as Wan takes it.
fn given(
    lesson: &Lesson,
    entry: &Entry,
    made: &Tensor,
    (grid, frames): (LatentGrid, usize),
) -> Result<Tensor> {
    if lesson.is_given_image {
        let first = entry.latents.given.f_select(0, 0)?;
        return Ok(condition_channels(
            grid,
            &[],
            &first,
            frames as u32,
            Opening::LastFrame,
        )?);
    }
    nothing_given(made, grid)
}

/// Condition channels `[4 + z, frames, h, w]` that give nothing, for latents `[z, frames, h, w]`.
pub(super) fn nothing_given(latents: &Tensor, grid: LatentGrid) -> Result<Tensor> {
    let mut size = latents.size();
    size[0] += i64::from(grid.frames);
    Ok(Tensor::f_zeros(&size, (Kind::Float, latents.device()))?)
}

/// How much each frame of a shot has in common with what is to be made: as the vision tower of the pool sees
/// it, or else the share of its things that the shot shows.
fn related(lesson: &Lesson, entry: &Entry, shot: usize) -> Result<Vec<f32>> {
    if let Some(embeddings) = &entry.embeddings {
        return similarity(embeddings, lesson.target, shot);
    }
    let [target, scene] = [lesson.target, shot].map(|shot| &entry.story.shots[shot].scene);
    let frames = entry.latents.clips.size()[2] as usize;
    Ok(vec![shared(target, scene); frames])
}

/// The latents `[z, t, h, w]` of a shot of a history.
fn seen(past: &Past, entry: &Entry, entries: &[Entry]) -> Result<Tensor> {
    Ok(match *past {
        Past::Real(shot) => entry.latents.clips.f_select(0, shot as i64)?,
        Past::Inserted { story, shot } => entries[story].latents.clips.f_select(0, shot as i64)?,
        Past::Copied(copy) => {
            let copies = entry.latents.copies.as_ref();
            copies
                .unwrap_or(&entry.latents.clips)
                .f_select(0, copy as i64)?
        }
    })
}

impl Context {
    /// The tokens of the `chosen` frames of each sample, as many with each kernel in all samples.
    pub fn of(
        patchifiers: &Patchifiers,
        history: &[Tensor],
        chosen: &[Vec<ChosenFrame>],
    ) -> Result<Self> {
        let frames = Tensor::f_cat(history, 2)?;
        let (samples, _, count, rows, columns) = frames.size5()?;
        let plane: Plane = [rows as u32, columns as u32];
        let mut tokens = Vec::new();
        for kernel in Kernel::ALL {
            let mut of_kernel = Vec::new();
            for (sample, chosen) in (0..).zip(chosen) {
                let own = frames.f_select(0, sample)?;
                for chosen in chosen.iter().filter(|chosen| chosen.kernel == kernel) {
                    of_kernel.push(own.f_select(1, chosen.frame as i64)?);
                }
            }
            if !of_kernel.is_empty() {
                let made = patchifiers.tokens(kernel, &Tensor::f_stack(&of_kernel, 0)?)?;
                let width = made.size()[2];
                tokens.push(made.f_reshape([samples, -1, width])?);
            }
        }
        let positions = chosen
            .iter()
            .map(|chosen| context_positions(chosen, count as usize, plane, ContextTime::default()));
        let positions = positions.collect::<storyloom_nn::Result<Vec<_>>>()?;
        Ok(Self {
            tokens: Tensor::f_cat(&tokens, 1)?,
            positions: Tensor::f_stack(&positions, 0)?,
        })
    }

    /// The context of the next sample for each.
    pub fn of_others(&self) -> Result<Self> {
        Ok(Self {
            tokens: self.tokens.f_roll([1], [0])?,
            positions: self.positions.f_roll([1], [0])?,
        })
    }
}
