//! Ranks that share a language model: the first one leads, the others follow.
//!
//! Texts, sampling and constraints are the leader's alone. What all ranks do together are the passes
//! through the network, and each is announced before it begins, so that questions may come to the
//! leader at any time and in any order.

use serde::{Deserialize, Serialize};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::host::values;
use tch::{Device, Kind, Tensor};

use super::cache::{CacheSlots, KvCache};
use super::decoder::{ForwardArgs, Input};
use super::model::LanguageModel;
use super::vision::{ImagePatches, prompt_positions};

/// The passes of a batch through the model, with its cache; on every rank that has a part of it.
#[derive(Debug)]
pub(super) struct Passes<'m> {
    model: &'m LanguageModel,
    cache: KvCache,
}

/// What a leader announces.
#[derive(Debug, Serialize, Deserialize)]
enum PassMessage {
    /// A batch begins, with an empty cache for `slots` stories.
    Begin { slots: usize },
    /// A prompt goes into a slot; its pictures follow, each as its numbers.
    Prefill {
        slot: usize,
        tokens: Vec<u32>,
        /// Grid and shape of each picture.
        pictures: Vec<([i64; 3], Vec<i64>)>,
    },
    /// One token more of each of these slots.
    Step {
        slots: Vec<usize>,
        tokens: Vec<i64>,
        positions: Vec<i64>,
    },
    /// Rows of `shape` behind what a slot holds. Their numbers follow, and the mask of `mask` shape, a byte for
    /// each value.
    Append {
        slot: usize,
        shape: Vec<i64>,
        positions: Vec<i64>,
        mask: Vec<i64>,
    },
    /// A slot is free again.
    Free { slot: usize },
    /// The batch is over.
    End,
}

impl<'m> Passes<'m> {
    /// Begins a batch of at most `slots` stories at once. The leader calls it, or who is alone.
    pub(super) fn begin(model: &'m LanguageModel, slots: usize) -> Result<Self> {
        announce(model, || PassMessage::Begin { slots })?;
        Self::open(model, slots)
    }

    fn open(model: &'m LanguageModel, slots: usize) -> Result<Self> {
        Ok(Self {
            cache: model.decoder().cache(slots)?,
            model,
        })
    }

    /// A prompt into an empty slot: the scores of its first token, f32 `[vocabulary]`, and the
    /// position of that.
    pub(super) fn prefill(
        &mut self,
        slot: usize,
        tokens: &[u32],
        images: &[ImagePatches],
    ) -> Result<(Tensor, i64)> {
        let picture = |image: &ImagePatches| (image.grid, image.pixels.size());
        announce(self.model, || PassMessage::Prefill {
            slot,
            tokens: tokens.to_vec(),
            pictures: images.iter().map(picture).collect(),
        })?;
        if self.model.peers().leads() {
            for image in images {
                self.model.peers().broadcast(&bytes(&image.pixels)?)?;
            }
        }
        self.do_prefill(slot, tokens, images)
    }

    fn do_prefill(
        &mut self,
        slot: usize,
        tokens: &[u32],
        images: &[ImagePatches],
    ) -> Result<(Tensor, i64)> {
        let embedded = self.model.embed(tokens, images)?;
        let (positions, next) = match &self.model.config().vision {
            Some(vision) => {
                let grids: Vec<_> = images.iter().map(|image| image.grid).collect();
                let positions = prompt_positions(tokens, &grids, vision)?;
                (Some(positions.tensor()?), positions.next)
            }
            None => (None, tokens.len() as i64),
        };
        let hidden = self.model.decoder().forward(ForwardArgs {
            input: Input::Embeddings(&embedded),
            positions: positions.as_ref(),
            mask: None,
            cache: Some(CacheSlots {
                cache: &mut self.cache,
                slots: &[slot],
            }),
        })?;
        let last = hidden.f_select(1, tokens.len() as i64 - 1)?;
        let logits = self.model.decoder().logits(&last)?.f_squeeze_dim(0)?;
        Ok((logits, next))
    }

    /// The next token of each of `slots`, at these positions: f32 `[slots, vocabulary]`.
    pub(super) fn step(
        &mut self,
        slots: &[usize],
        tokens: &[i64],
        positions: &[i64],
    ) -> Result<Tensor> {
        announce(self.model, || PassMessage::Step {
            slots: slots.to_vec(),
            tokens: tokens.to_vec(),
            positions: positions.to_vec(),
        })?;
        self.do_step(slots, tokens, positions)
    }

    fn do_step(&mut self, slots: &[usize], tokens: &[i64], positions: &[i64]) -> Result<Tensor> {
        let stories = slots.len() as i64;
        let tokens = Tensor::f_from_slice(tokens)?.f_view([stories, 1])?;
        let positions = Tensor::f_from_slice(positions)?.f_view([1, stories, 1])?;
        let hidden = self.model.decoder().forward(ForwardArgs {
            input: Input::Tokens(&tokens),
            positions: Some(&positions),
            mask: None,
            cache: Some(CacheSlots {
                cache: &mut self.cache,
                slots,
            }),
        })?;
        Ok(self.model.decoder().logits(&hidden)?.f_squeeze_dim(1)?)
    }

    /// Rows f32 `[1, rows, width]` behind what a slot holds, at positions i64 `[axes, 1, rows]`, with a mask of what
    /// they see of the slot and of each other, true or false, `[1, 1, rows, held + rows]`: their last hidden
    /// states, f32 `[1, rows, width]`. A step after it would see all of them: text goes on in another slot.
    pub(super) fn append(
        &mut self,
        slot: usize,
        rows: &Tensor,
        positions: &Tensor,
        mask: &Tensor,
    ) -> Result<Tensor> {
        let places = Vec::<i64>::try_from(&positions.f_flatten(0, -1)?)?;
        announce(self.model, || PassMessage::Append {
            slot,
            shape: rows.size(),
            positions: places,
            mask: mask.size(),
        })?;
        if self.model.peers().leads() {
            self.model.peers().broadcast(&bytes(rows)?)?;
            let flags = Vec::<bool>::try_from(&mask.f_flatten(0, -1)?)?;
            let flags: Vec<u8> = flags.into_iter().map(u8::from).collect();
            self.model.peers().broadcast(&flags)?;
        }
        self.do_append(slot, rows, positions, mask)
    }

    fn do_append(
        &mut self,
        slot: usize,
        rows: &Tensor,
        positions: &Tensor,
        mask: &Tensor,
    ) -> Result<Tensor> {
        self.model.decoder().forward(ForwardArgs {
            input: Input::Embeddings(rows),
            positions: Some(positions),
            mask: Some(mask),
            cache: Some(CacheSlots {
                cache: &mut self.cache,
                slots: &[slot],
            }),
        })
    }

    /// Rows, positions and mask that are on their way, into a slot.
    fn follow_append(
        &mut self,
        slot: usize,
        (shape, positions, mask): (&[i64], &[i64], &[i64]),
    ) -> Result<()> {
        let rows = numbers(self.model, shape)?;
        let flags = self.model.peers().receive()?;
        let flags: Vec<bool> = flags.into_iter().map(|flag| flag != 0).collect();
        let flags = Tensor::f_from_slice(&flags)?.f_view(mask)?;
        let count = shape.get(1).copied().unwrap_or(0);
        let positions = Tensor::f_from_slice(positions)?.f_view([-1, 1, count])?;
        self.do_append(slot, &rows, &positions, &flags).map(drop)
    }

    /// Forgets the story of a slot.
    ///
    /// # Errors
    /// The other ranks cannot be reached.
    pub(super) fn free(&mut self, slot: usize) -> Result<()> {
        self.cache.truncate(slot, 0);
        announce(self.model, || PassMessage::Free { slot })
    }

    /// Follows the leader's batch to its end.
    fn follow(&mut self) -> Result<()> {
        loop {
            match receive(self.model)? {
                PassMessage::End => return Ok(()),
                PassMessage::Free { slot } => self.cache.truncate(slot, 0),
                PassMessage::Step {
                    slots,
                    tokens,
                    positions,
                } => drop(self.do_step(&slots, &tokens, &positions)?),
                PassMessage::Append {
                    slot,
                    shape,
                    positions,
                    mask,
                } => self.follow_append(slot, (&shape, &positions, &mask))?,
                PassMessage::Prefill {
                    slot,
                    tokens,
                    pictures,
                } => {
                    let taken = |(grid, shape): ([i64; 3], Vec<i64>)| {
                        let pixels = numbers(self.model, &shape)?;
                        Ok::<_, ModelError>(ImagePatches { pixels, grid })
                    };
                    let images = pictures.into_iter().map(taken);
                    let images: Vec<_> = images.collect::<Result<_>>()?;
                    drop(self.do_prefill(slot, &tokens, &images)?);
                }
                other @ PassMessage::Begin { .. } => return Err(unexpected(&other)),
            }
        }
    }
}

impl Drop for Passes<'_> {
    fn drop(&mut self) {
        // A rank that cannot be reached is gone.
        let _ = announce(self.model, || PassMessage::End);
    }
}

impl LanguageModel {
    /// Takes part in the next batch of the rank that leads, to its end. For all ranks that share
    /// this model but the first.
    ///
    /// # Errors
    /// The leader is gone, or the model could not be computed.
    pub fn follow(&self) -> Result<()> {
        match receive(self)? {
            PassMessage::Begin { slots } => Passes::open(self, slots)?.follow(),
            other => Err(unexpected(&other)),
        }
    }
}

/// Announces a pass, if other ranks follow.
fn announce(model: &LanguageModel, message: impl FnOnce() -> PassMessage) -> Result<()> {
    if !model.peers().leads() {
        return Ok(());
    }
    let bytes = serde_json::to_vec(&message())
        .map_err(|error| ModelError::input("message between ranks", error.to_string()))?;
    model.peers().broadcast(&bytes)
}

fn receive(model: &LanguageModel) -> Result<PassMessage> {
    let bytes = model.peers().receive()?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ModelError::input("message between ranks", error.to_string()))
}

/// The numbers of a tensor as they are sent.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    let tensor = tensor.f_contiguous()?;
    let bytes = values(&tensor).iter().flat_map(|value| value.to_le_bytes());
    Ok(bytes.collect())
}

/// A tensor whose numbers are on their way, f32.
fn numbers(model: &LanguageModel, shape: &[i64]) -> Result<Tensor> {
    let bytes = model.peers().receive()?;
    let numbers = bytes.as_chunks::<4>().0.iter();
    let numbers: Vec<f32> = numbers.map(|value| f32::from_le_bytes(*value)).collect();
    Ok(Tensor::f_from_slice(&numbers)?.f_view(shape)?)
}

fn unexpected(message: &PassMessage) -> ModelError {
    ModelError::input(
        "message between ranks",
        format!("{message:?} makes no sense here"),
    )
}
