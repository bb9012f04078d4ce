//! Stories as latents: a rolling pool, encoded by the finished autoencoder.

pub mod augment;
pub mod emphasis;
pub mod tower;

use std::path::Path;

use serde::{Deserialize, Serialize};
use storyloom_models::autoencoder::{AutoencoderKlWan, VaeConfig};
use storyloom_nn::tch::{Device, Kind, Tensor};
use storyloom_tinyworld::draws::Draws;
use storyloom_tinyworld::{Outline, Pattern, Split, Story};

use crate::clips::ClipSource;
use crate::error::{Result, TrainError};
use crate::params::{Tensors, checkpoint_of, plain_on, shallow};
use crate::stage::in_parallel;
use augment::Augmentation;
use emphasis::Emphasis;
use tower::Tower;

/// Mean and deviation of each latent channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Means.
    pub mean: Vec<f64>,
    /// Deviations.
    pub std: Vec<f64>,
}

/// Encodes clips to normalised latents.
#[derive(Debug)]
pub struct LatentCodec {
    config: VaeConfig,
    tensors: Tensors,
    device: Device,
    source: ClipSource,
}

impl Clone for LatentCodec {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            tensors: shallow(&self.tensors),
            ..*self
        }
    }
}

/// A story in latents.
#[derive(Debug)]
pub struct Encoded {
    /// `[shots, z, t, h, w]`: each shot as a clip, or its first frame alone.
    pub clips: Tensor,
    /// `[shots, z, 1, h, w]`: the last frame of each shot as a picture of its own.
    pub lasts: Tensor,
    /// `[shots, z, t, h, w]`: the given first frame and grey, for shots that go on; grey for others. Of
    /// a [history](Length::History) `[1, z, t, h, w]`: the first frame of the first shot, and grey.
    pub given: Tensor,
    /// Of a history, `[copies, z, t, h, w]`: the [copied](copied_shots) shots, augmented.
    pub copies: Option<Tensor>,
}

/// How much of each shot is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// First frame (and last, as a picture).
    Picture,
    /// All frames.
    Clip,
    /// All frames, of stories whose shots are each other's history; and augmented copies of some.
    History,
}

impl Length {
    /// The story of `seed` that is trained on: in three scenes, or for histories in three of five cases
    /// one that goes back to what it showed.
    fn story(self, seed: u64) -> Story {
        let kind = (seed % 5) as usize;
        match Pattern::ALL.get(kind).filter(|_| self == Self::History) {
            Some(pattern) => Outline::of(*pattern).draw(seed, Split::Train),
            None => Story::draw(seed, Split::Train),
        }
    }
}

/// Shots of a history that have an augmented copy.
const COPIES: usize = 2;

/// The shots of which a history has augmented copies, in the order of these; the last has none.
pub fn copied_shots(story: &Story) -> Vec<usize> {
    copies(story).some_of(COPIES, story.shots.len().saturating_sub(1))
}

/// What is random about the copies of a story.
fn copies(story: &Story) -> Draws {
    Draws::new(0, &format!("copies/{}", story.id), 0)
}

impl LatentCodec {
    /// A codec of these weights and statistics.
    pub fn new(
        mut config: VaeConfig,
        statistics: &Statistics,
        tensors: Tensors,
        source: ClipSource,
        device: Device,
    ) -> Self {
        config.latents_mean.clone_from(&statistics.mean);
        config.latents_std.clone_from(&statistics.std);
        Self {
            config,
            tensors,
            device,
            source,
        }
    }

    /// The autoencoder, to be used by the thread that asks.
    pub fn open(&self) -> Result<AutoencoderKlWan> {
        let checkpoint = checkpoint_of(&self.tensors);
        Ok(AutoencoderKlWan::load(
            &checkpoint.weights(plain_on(self.device)),
            self.config.clone(),
        )?)
    }

    /// Mean and deviation of the latent channels.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            mean: self.config.latents_mean.clone(),
            std: self.config.latents_std.clone(),
        }
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Its weights.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Where clips come from.
    pub fn source(&self) -> ClipSource {
        self.source
    }

    /// Measures the latents of the first training stories.
    pub fn measure(
        config: &VaeConfig,
        tensors: &Tensors,
        source: ClipSource,
    ) -> Result<Statistics> {
        let channels = config.z_dim.unsigned_abs() as usize;
        let plain = Statistics {
            mean: vec![0.0; channels],
            std: vec![1.0; channels],
        };
        let codec = Self::new(
            config.clone(),
            &plain,
            shallow(tensors),
            source,
            Device::Cpu,
        );
        let stories = (0..MEASURED).map(|seed| {
            let codec = codec.clone();
            move || {
                let story = Story::draw(seed, Split::Train);
                Ok(codec.encode(&story, Length::Clip)?.clips)
            }
        });
        let clips = in_parallel(stories)?;
        let all = Tensor::f_cat(&clips, 0)?
            .f_transpose(0, 1)?
            .f_flatten(1, -1)?;
        let (std, mean) = all.f_std_mean_dim([1_i64].as_slice(), false, false)?;
        let numbers = |tensor: &Tensor| -> Result<Vec<f64>> {
            Ok(Vec::try_from(&tensor.f_to_kind(Kind::Double)?)?)
        };
        Ok(Statistics {
            mean: numbers(&mean)?,
            std: numbers(&std)?,
        })
    }

    /// Draws and encodes the pictures of a story.
    pub fn encode(&self, story: &Story, length: Length) -> Result<Encoded> {
        let _guard = no_grad_guard();
        let vae = self.open()?;
        let frames = self.source.frames;
        let (mut clips, mut lasts, mut given) = (Vec::new(), Vec::new(), Vec::new());
        let encode = |video: &Tensor| self.latents(&vae, video);
        let mut grey = None;
        for shot in &story.shots {
            let clip = match length {
                Length::Clip | Length::History => self.source.draw(&shot.scene, 0..frames)?,
                Length::Picture => self.source.draw(&shot.scene, 0..1)?,
            };
            let last = self.source.draw(&shot.scene, frames - 1..frames)?;
            lasts.push(encode(&last)?);
            if length == Length::Clip {
                let is_known = shot.cut && grey.is_some();
                let latents = match &grey {
                    Some(grey) if is_known => Tensor::shallow_clone(grey),
                    _ if shot.cut => encode(&clip.f_zeros_like()?)?,
                    _ => encode(&opened(&clip)?)?,
                };
                if shot.cut {
                    grey = Some(latents.shallow_clone());
                }
                given.push(latents);
            } else if length == Length::History && given.is_empty() {
                given.push(encode(&opened(&clip)?)?);
            }
            clips.push(encode(&clip)?);
        }
        if given.is_empty() {
            given = clips.iter().map(Tensor::zeros_like).collect();
        }
        let copies = match length {
            Length::History => Some(Tensor::f_stack(&self.copies(&vae, story)?, 0)?),
            Length::Picture | Length::Clip => None,
        };
        Ok(Encoded {
            clips: Tensor::f_stack(&clips, 0)?,
            lasts: Tensor::f_stack(&lasts, 0)?,
            given: Tensor::f_stack(&given, 0)?,
            copies,
        })
    }

    /// Normalised latents `[z, t, h, w]` of a video `[3, frames, height, width]`.
    fn latents(&self, vae: &AutoencoderKlWan, video: &Tensor) -> Result<Tensor> {
        let video = video.f_unsqueeze(0)?.f_to_device(self.device)?;
        Ok(vae.normalize(&vae.encode(&video)?)?.f_squeeze_dim(0)?)
    }

    /// Augmented copies of some shots.
    fn copies(&self, vae: &AutoencoderKlWan, story: &Story) -> Result<Vec<Tensor>> {
        let mut draws = copies(story);
        let shots = copied_shots(story);
        let copy = |shot: usize| {
            let clip = self
                .source
                .draw(&story.shots[shot].scene, 0..self.source.frames)?;
            self.latents(vae, &Augmentation::draw(&mut draws).apply(&clip)?)
        };
        shots.into_iter().map(copy).collect()
    }
}

/// The first frame of `clip` and grey behind it.
fn opened(clip: &Tensor) -> Result<Tensor> {
    let start = clip.f_zeros_like()?;
    start.f_narrow(1, 0, 1)?.f_copy_(&clip.f_narrow(1, 0, 1)?)?;
    Ok(start)
}

/// Stories that the statistics of latents are measured on.
const MEASURED: u64 = 8;

/// Forbids gradients as long as it lives.
fn no_grad_guard() -> storyloom_nn::tch::NoGradGuard {
    storyloom_nn::tch::no_grad_guard()
}

/// Stories that are used several times, with new noise, before others take their place.
#[derive(Debug)]
pub struct Pool {
    codec: LatentCodec,
    tower: Option<Tower>,
    length: Length,
    seed: u64,
    size: usize,
    entries: Vec<Entry>,
    /// Stories drawn so far.
    drawn: u64,
}

/// A story of the pool.
#[derive(Debug)]
pub struct Entry {
    /// The story itself.
    pub story: Story,
    /// Its pictures.
    pub latents: Encoded,
    /// How much each part of them counts.
    pub emphasis: Emphasis,
    /// What the vision tower of the pool makes of their pictures, `[shots, t, projection]`, if it has one.
    pub embeddings: Option<Tensor>,
}

impl Entry {
    /// Draws, encodes and weighs the story of `seed`.
    fn draw(codec: &LatentCodec, tower: Option<&Tower>, seed: u64, length: Length) -> Result<Self> {
        let story = length.story(seed);
        let latents = codec.encode(&story, length)?;
        let rounded = |tensor: &Tensor| -> Result<Tensor> {
            Ok(tensor.f_to_kind(Kind::BFloat16)?.f_to_kind(Kind::Float)?)
        };
        let latents = Encoded {
            clips: rounded(&latents.clips)?,
            lasts: rounded(&latents.lasts)?,
            given: rounded(&latents.given)?,
            copies: latents.copies.as_ref().map(rounded).transpose()?,
        };
        Self::new(story, latents, codec.source, tower)
    }

    fn new(
        story: Story,
        latents: Encoded,
        source: ClipSource,
        tower: Option<&Tower>,
    ) -> Result<Self> {
        let (_, _, frames, rows, columns) = latents.clips.size5()?;
        let embeddings = tower.map(|tower| tower.embed(&story, frames)).transpose()?;
        let emphasis = Emphasis::of(&story, source, [frames, rows, columns])?;
        Ok(Self {
            story,
            latents,
            emphasis,
            embeddings,
        })
    }
}

impl Pool {
    /// A pool of `size` stories, empty until it is [filled](Pool::fill).
    pub fn new(codec: LatentCodec, length: Length, seed: u64, size: usize) -> Self {
        Self {
            codec,
            tower: None,
            length,
            seed,
            size,
            entries: Vec::new(),
            drawn: 0,
        }
    }

    /// The same, whose pictures `tower` sees as well.
    #[must_use]
    pub fn seen_by(mut self, tower: Tower) -> Self {
        self.tower = Some(tower);
        self
    }

    /// What was [saved](Pool::state), or nothing.
    pub fn restore(&mut self, state: &Tensors) -> Result<()> {
        let Some(drawn) = state.get("pool/drawn") else {
            return Ok(());
        };
        self.drawn = drawn.f_int64_value(&[0])? as u64;
        self.entries.clear();
        let mut rows = Rows::of(state)?;
        let count = self.drawn.min(self.size as u64);
        for place in 0..count {
            // The youngest story of each place.
            let rounds = (self.drawn - 1 - place) / self.size as u64;
            let number = place + rounds * self.size as u64;
            let story = self.length.story(self.story_seed(number));
            let shots = story.shots.len();
            let (given, copies) = match self.length {
                Length::History => (1, Some(copied_shots(&story).len())),
                Length::Picture | Length::Clip => (shots, None),
            };
            let latents = Encoded {
                clips: rows.next("clips", shots)?,
                lasts: rows.next("lasts", shots)?,
                given: rows.next("given", given)?,
                copies: copies.map(|count| rows.next("copies", count)).transpose()?,
            };
            let tower = self.tower.as_ref();
            self.entries
                .push(Entry::new(story, latents, self.codec.source, tower)?);
        }
        Ok(())
    }

    /// What a resume needs: the latents, rounded to bf16 as they always are.
    pub fn state(&self) -> Result<Tensors> {
        let mut state = Tensors::new();
        if self.entries.is_empty() {
            return Ok(state);
        }
        let mut put = |name: &str, of: fn(&Encoded) -> Option<&Tensor>| -> Result<()> {
            let entries = self.entries.iter();
            let parts: Vec<&Tensor> = entries.filter_map(|entry| of(&entry.latents)).collect();
            if !parts.is_empty() {
                let all = Tensor::f_cat(&parts, 0)?.f_to_kind(Kind::BFloat16)?;
                state.insert(format!("pool/{name}"), all);
            }
            Ok(())
        };
        put("clips", |latents| Some(&latents.clips))?;
        put("lasts", |latents| Some(&latents.lasts))?;
        put("given", |latents| Some(&latents.given))?;
        put("copies", |latents| latents.copies.as_ref())?;
        state.insert(
            "pool/drawn".to_owned(),
            Tensor::f_from_slice(&[self.drawn as i64])?,
        );
        Ok(state)
    }

    /// Draws stories until there are `size`, or `count` new ones that take the place of the oldest.
    pub fn fill(&mut self, count: usize) -> Result<()> {
        let missing = self.size.saturating_sub(self.entries.len());
        let mut count = if missing > 0 { missing } else { count };
        while count > 0 {
            let side_by_side = count.min(THREADS);
            let numbers = self.drawn..self.drawn + side_by_side as u64;
            let (length, seeds) = (self.length, numbers.map(|number| self.story_seed(number)));
            let works = seeds.map(|seed| {
                let (codec, tower) = (self.codec.clone(), self.tower.clone());
                move || Entry::draw(&codec, tower.as_ref(), seed, length)
            });
            for entry in in_parallel(works)? {
                self.put(entry);
            }
            count -= side_by_side;
        }
        Ok(())
    }

    fn put(&mut self, entry: Entry) {
        let place = (self.drawn % self.size as u64) as usize;
        if place < self.entries.len() {
            self.entries[place] = entry;
        } else {
            self.entries.push(entry);
        }
        self.drawn += 1;
    }

    fn story_seed(&self, number: u64) -> u64 {
        self.seed.wrapping_add(number)
    }

    /// The stories.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// The saved latents of a pool, handed out from the front, story by story.
struct Rows {
    parts: Tensors,
    begun: std::collections::BTreeMap<String, i64>,
}

impl Rows {
    fn of(state: &Tensors) -> Result<Self> {
        let mut parts = Tensors::new();
        for (name, tensor) in state {
            if let Some(name) = name.strip_prefix("pool/") {
                // Earlier checkpoints had an axis of stories before that of shots.
                let is_stacked = tensor.dim() == 6;
                let rows = match is_stacked {
                    true => tensor.f_flatten(0, 1)?,
                    false => tensor.shallow_clone(),
                };
                parts.insert(name.to_owned(), rows);
            }
        }
        let begun = Default::default();
        Ok(Self { parts, begun })
    }

    /// The next `count` rows of a part, in f32.
    fn next(&mut self, part: &str, count: usize) -> Result<Tensor> {
        let missing = || TrainError::bad_file(Path::new("checkpoint"), "its pool has gaps");
        let rows = self.parts.get(part).ok_or_else(missing)?;
        let (count, first) = (count as i64, self.begun.entry(part.to_owned()).or_default());
        if *first + count > rows.size()[0] {
            return Err(missing());
        }
        let taken = rows.f_narrow(0, *first, count)?;
        *first += count;
        Ok(taken.f_to_kind(Kind::Float)?)
    }
}

/// Stories that are encoded side by side.
const THREADS: usize = 2;
