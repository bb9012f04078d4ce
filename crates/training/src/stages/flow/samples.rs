//! What the transformers are trained on: shots of the pool, their captions and their memory.

use storyloom_models::wan::{MEMORY_STRIDE, condition_channels, temporal_positions};
use storyloom_nn::tch::Tensor;
use storyloom_story::{LatentGrid, Opening};
use storyloom_tinyworld::draws::Draws;
use storyloom_tinyworld::{News, Scene, Story, caption};

use super::FlowSettings;
use crate::attribute_head::Answers;
use crate::error::Result;
use crate::latents::{Entry, Length};

/// Share of the parts with one or two memory pictures at most.
const FEW: f64 = 0.5;
/// Share of single pictures that find the other picture of their own shot in memory: things are where
/// they are to be drawn, so that attention finds out sooner that memory is worth a look.
const TWINS: f64 = 0.3;
/// Share of memory pictures that belong to another story.
const DISTRACTORS: f64 = 0.08;
/// Share of samples with memory whose caption tells everything all the same.
const TOLD_AGAIN: f64 = 0.15;

/// Samples of one step, all with as many frames.
#[derive(Debug)]
pub struct Batch {
    /// `[batch, z, frames, h, w]`.
    pub clean: Tensor,
    /// How much each part of what is made counts, `[batch, 1, frames - memory, h, w]`.
    pub emphasis: Tensor,
    /// Condition channels, `[batch, 4 + z, frames, h, w]`, if the model takes any.
    pub condition: Option<Tensor>,
    /// Frames of memory, which come first.
    pub memory: usize,
    /// Temporal positions of the frames.
    pub positions: Vec<i64>,
    /// What is to be seen.
    pub captions: Vec<String>,
    /// What the captions tell, of those that tell everything.
    pub told: Answers,
}

impl Batch {
    /// Draws the samples of a part of a step from the stories of the pool, clips with `clip` frames.
    pub(super) fn draw(
        draws: &mut Draws,
        entries: &[Entry],
        settings: &FlowSettings,
        grid: LatentGrid,
        clip: usize,
    ) -> Result<Self> {
        let memory = match settings.memory {
            0 => None,
            most if draws.chance(FEW) => Some(1 + draws.below(most.min(2))),
            most => Some(1 + draws.below(most)),
        };
        let (frames, samples) = match settings.length {
            Length::Picture => (1, settings.samples),
            Length::Clip if draws.chance(settings.stills) => (1, 2 * settings.samples),
            Length::Clip | Length::History => (clip, settings.samples),
        };
        let (mut clean, mut condition, mut captions) = (Vec::new(), Vec::new(), Vec::new());
        let mut emphasis = Vec::new();
        let mut told = Answers::default();
        for _ in 0..samples {
            let entry = &entries[draws.below(entries.len())];
            let sample = Sample::draw(draws, entry, entries, memory, (grid, frames))?;
            clean.push(sample.clean);
            emphasis.push(sample.emphasis);
            condition.extend(sample.condition);
            let dropped = draws.chance(settings.dropped);
            told.push(sample.told.filter(|_| !dropped).as_ref());
            captions.push(if dropped {
                String::new()
            } else {
                sample.caption
            });
        }
        let clean = Tensor::f_stack(&clean, 0)?;
        let memory = memory.unwrap_or(0);
        let latents = clean.size()[2] as usize - memory;
        Ok(Self {
            clean,
            emphasis: Tensor::f_stack(&emphasis, 0)?,
            condition: match condition.is_empty() {
                true => None,
                false => Some(Tensor::f_stack(&condition, 0)?),
            },
            memory,
            positions: temporal_positions(memory, latents, MEMORY_STRIDE),
            captions,
            told,
        })
    }
}

/// One sample.
struct Sample {
    clean: Tensor,
    emphasis: Tensor,
    condition: Option<Tensor>,
    caption: String,
    /// What the caption tells, if it tells everything.
    told: Option<Scene>,
}

impl Sample {
    fn draw(
        draws: &mut Draws,
        entry: &Entry,
        entries: &[Entry],
        memory: Option<usize>,
        (grid, frames): (LatentGrid, usize),
    ) -> Result<Self> {
        let shots = entry.story.shots.len();
        let target = draws.below(shots);
        let is_last = draws.chance(0.5);
        let Entry {
            latents, emphasis, ..
        } = entry;
        let [clip, emphasis] = [
            [&latents.clips, &latents.lasts],
            [&emphasis.clips, &emphasis.lasts],
        ]
        .map(|[clips, lasts]| match frames {
            1 => picture_of(clips, lasts, target, is_last),
            _ => Ok(clips.f_select(0, target as i64)?),
        });
        let (clip, emphasis) = (clip?, emphasis?);
        let Some(count) = memory else {
            let scene = &entry.story.shots[target].scene;
            return Ok(Self {
                clean: clip,
                emphasis,
                condition: None,
                caption: caption(scene, News::ALL),
                told: Some(*scene),
            });
        };
        let mut memory = remember(draws, entry, entries, target, count)?;
        if frames == 1 && draws.chance(TWINS) {
            let place = draws.below(count);
            memory[place] = picture_of(&latents.clips, &latents.lasts, target, !is_last)?;
        }
        let shot = &entry.story.shots[target];
        let goes_on = !shot.cut && frames > 1;
        let opening = if goes_on {
            Opening::LastFrame
        } else {
            Opening::Memory
        };
        // The first shot of a story is never given anything: grey.
        let given = match frames {
            1 => entry.latents.given.f_select(0, 0)?.f_narrow(1, 0, 1)?,
            _ => entry.latents.given.f_select(0, target as i64)?,
        };
        let condition = condition_channels(grid, &memory, &given, frames as u32, opening)?;
        let clean: Vec<&Tensor> = memory.iter().chain([&clip]).collect();
        Ok(Self {
            clean: Tensor::f_cat(&clean, 1)?,
            emphasis,
            condition: Some(condition),
            caption: told(draws, &entry.story, target),
            told: None,
        })
    }
}

/// The last frame of a shot or the first, `[channels, 1, h, w]`.
fn picture_of(clips: &Tensor, lasts: &Tensor, shot: usize, is_last: bool) -> Result<Tensor> {
    let shot = shot as i64;
    Ok(match is_last {
        true => lasts.f_select(0, shot)?,
        false => clips.f_select(0, shot)?.f_narrow(1, 0, 1)?,
    })
}

/// `count` pictures of other shots of the story, in the order of time.
fn remember(
    draws: &mut Draws,
    entry: &Entry,
    entries: &[Entry],
    target: usize,
    count: usize,
) -> Result<Vec<Tensor>> {
    let shots = entry.story.shots.len();
    // First and last frame of every shot but the target.
    let pictures: Vec<(usize, bool)> = (0..shots)
        .filter(|&shot| shot != target)
        .flat_map(|shot| [(shot, false), (shot, true)])
        .collect();
    let mut memory = Vec::with_capacity(count);
    for chosen in draws.some_of(count, pictures.len()) {
        let (shot, is_last) = pictures[chosen];
        let from = match draws.chance(DISTRACTORS) {
            true => &entries[draws.below(entries.len())],
            false => entry,
        };
        let latents = &from.latents;
        memory.push(picture_of(&latents.clips, &latents.lasts, shot, is_last)?);
    }
    Ok(memory)
}

/// The caption of a shot as its story tells it, once everything has been introduced.
fn told(draws: &mut Draws, story: &Story, shot: usize) -> String {
    let shot = &story.shots[shot];
    if draws.chance(TOLD_AGAIN) {
        return caption(&shot.scene, News::ALL);
    }
    shot.caption.clone()
}
