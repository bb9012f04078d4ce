//! Stories as latents: a rolling pool, encoded by the finished autoencoder.

pub mod emphasis;

use std::path::Path;

use serde::{Deserialize, Serialize};
use storyloom_models::autoencoder::{AutoencoderKlWan, VaeConfig};
use storyloom_nn::tch::{Device, Kind, Tensor};
use storyloom_tinyworld::{Split, Story};

use crate::clips::ClipSource;
use crate::error::{Result, TrainError};
use crate::params::{Tensors, checkpoint_of, plain_on, shallow};
use crate::stage::in_parallel;
use emphasis::Emphasis;

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
    /// `[shots, z, t, h, w]`: the given first frame and grey, for shots that go on; grey for others.
    pub given: Tensor,
}

/// How much of each shot is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// First frame (and last, as a picture).
    Picture,
    /// All frames.
    Clip,
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
            move || Ok(codec.encode(seed, Split::Train, Length::Clip)?.clips)
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

    /// Draws and encodes a story.
    pub fn encode(&self, seed: u64, split: Split, length: Length) -> Result<Encoded> {
        let _guard = no_grad_guard();
        let vae = self.open()?;
        let story = Story::draw(seed, split);
        let frames = self.source.frames;
        let (mut clips, mut lasts, mut given) = (Vec::new(), Vec::new(), Vec::new());
        let encode = |video: &Tensor| -> Result<Tensor> {
            let video = video.f_unsqueeze(0)?.f_to_device(self.device)?;
            Ok(vae.normalize(&vae.encode(&video)?)?.f_squeeze_dim(0)?)
        };
        let mut grey = None;
        for shot in &story.shots {
            let clip = match length {
                Length::Clip => self.source.draw(&shot.scene, 0..frames)?,
                Length::Picture => self.source.draw(&shot.scene, 0..1)?,
            };
            let last = self.source.draw(&shot.scene, frames - 1..frames)?;
            lasts.push(encode(&last)?);
            if length == Length::Clip {
                let mut start = clip.f_zeros_like()?;
                if !shot.cut {
                    start.f_narrow(1, 0, 1)?.f_copy_(&clip.f_narrow(1, 0, 1)?)?;
                } else if let Some(grey) = &grey {
                    start = Tensor::shallow_clone(grey);
                }
                let is_known = shot.cut && grey.is_some();
                let latents = if is_known { start } else { encode(&start)? };
                if shot.cut {
                    grey = Some(latents.shallow_clone());
                }
                given.push(latents);
            }
            clips.push(encode(&clip)?);
        }
        if given.is_empty() {
            given = clips.iter().map(Tensor::zeros_like).collect();
        }
        Ok(Encoded {
            clips: Tensor::f_stack(&clips, 0)?,
            lasts: Tensor::f_stack(&lasts, 0)?,
            given: Tensor::f_stack(&given, 0)?,
        })
    }
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
}

impl Entry {
    /// Draws, encodes and weighs the story of `seed`.
    fn draw(codec: &LatentCodec, seed: u64, length: Length) -> Result<Self> {
        let latents = codec.encode(seed, Split::Train, length)?;
        let rounded = |tensor: &Tensor| -> Result<Tensor> {
            Ok(tensor.f_to_kind(Kind::BFloat16)?.f_to_kind(Kind::Float)?)
        };
        let latents = Encoded {
            clips: rounded(&latents.clips)?,
            lasts: rounded(&latents.lasts)?,
            given: rounded(&latents.given)?,
        };
        Self::new(Story::draw(seed, Split::Train), latents, codec.source)
    }

    fn new(story: Story, latents: Encoded, source: ClipSource) -> Result<Self> {
        let (_, _, frames, rows, columns) = latents.clips.size5()?;
        let emphasis = Emphasis::of(&story, source, [frames, rows, columns])?;
        Ok(Self {
            story,
            latents,
            emphasis,
        })
    }
}

impl Pool {
    /// A pool of `size` stories, empty until it is [filled](Pool::fill).
    pub fn new(codec: LatentCodec, length: Length, seed: u64, size: usize) -> Self {
        Self {
            codec,
            length,
            seed,
            size,
            entries: Vec::new(),
            drawn: 0,
        }
    }

    /// What was [saved](Pool::state), or nothing.
    pub fn restore(&mut self, state: &Tensors) -> Result<()> {
        let Some(drawn) = state.get("pool/drawn") else {
            return Ok(());
        };
        self.drawn = drawn.f_int64_value(&[0])? as u64;
        self.entries.clear();
        let part = |name: &str, place: i64| -> Result<Tensor> {
            let missing = || TrainError::bad_file(Path::new("checkpoint"), "its pool has gaps");
            let stack = state.get(&format!("pool/{name}")).ok_or_else(missing)?;
            Ok(stack.f_select(0, place)?.f_to_kind(Kind::Float)?)
        };
        let count = self.drawn.min(self.size as u64);
        for place in 0..count {
            // The youngest story of each place.
            let rounds = (self.drawn - 1 - place) / self.size as u64;
            let number = place + rounds * self.size as u64;
            let place = place as i64;
            let latents = Encoded {
                clips: part("clips", place)?,
                lasts: part("lasts", place)?,
                given: part("given", place)?,
            };
            let story = Story::draw(self.story_seed(number), Split::Train);
            self.entries
                .push(Entry::new(story, latents, self.codec.source)?);
        }
        Ok(())
    }

    /// What a resume needs: the latents, rounded to bf16 as they always are.
    pub fn state(&self) -> Result<Tensors> {
        let mut state = Tensors::new();
        if self.entries.is_empty() {
            return Ok(state);
        }
        let mut put = |name: &str, of: fn(&Encoded) -> &Tensor| -> Result<()> {
            let parts: Vec<&Tensor> = self
                .entries
                .iter()
                .map(|entry| of(&entry.latents))
                .collect();
            let stack = Tensor::f_stack(&parts, 0)?.f_to_kind(Kind::BFloat16)?;
            state.insert(format!("pool/{name}"), stack);
            Ok(())
        };
        put("clips", |latents| &latents.clips)?;
        put("lasts", |latents| &latents.lasts)?;
        put("given", |latents| &latents.given)?;
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
                let codec = self.codec.clone();
                move || Entry::draw(&codec, seed, length)
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

/// Stories that are encoded side by side.
const THREADS: usize = 2;
