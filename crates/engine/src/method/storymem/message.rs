//! The stages `encode`, `decode` and `select` as requests, which are answered here or by ranks of
//! their own: both ends of each message.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use storyloom_nn::error::{ModelError, Result};
use storyloom_story::{
    Clip, HostTensor, MemoryFrame, Resolution, RgbImage, ShotInputs, ShotRequest, Stage,
};
use tch::Tensor;

use super::decode::Decoder;
use super::encode::{Conditions, Encoder, TextPair};
use crate::replica::message::Command;
use crate::replica::pool::{FollowerPool, not_for_this_rank};
use crate::replica::station::StageRequest;
use crate::replica::wire::{
    Tensors, array_tensor, picture_tensor, take, tensor_array, tensor_picture,
};

const EMBEDDINGS: &str = "embeddings";
const LATENTS: &str = "latents";
const NEGATIVE: &str = "negative";
const PICTURES: &str = "pictures";
const POSITIVE: &str = "positive";
const QUALITY: &str = "quality";

/// Embeddings and quality of pictures.
pub(super) type Scores = (Vec<Vec<f32>>, Vec<f32>);

/// What the message of a stage says, beside its tensors.
#[derive(Debug, Serialize, Deserialize)]
enum StageMessage {
    /// Prompt and pictures become conditions.
    Encode {
        request: ShotRequest,
        /// Hash of each memory picture.
        memory: Vec<String>,
        /// Frames of the shot before.
        tail: usize,
    },
    /// Conditions of a shot.
    Conditions { memory: usize, positions: Vec<i64> },
    /// Latents become frames.
    Decode { request: ShotRequest },
    /// Decode one's rows of these latents.
    DecodeRows,
    /// Embeddings and quality of this number of pictures.
    Score { pictures: usize },
    /// One picture as a latent frame.
    Remember { size: Resolution },
    /// Only tensors.
    Done,
}

impl StageMessage {
    fn value(&self) -> Result<Value> {
        serde_json::to_value(self).map_err(wrong)
    }

    fn of(value: Value) -> Result<Self> {
        serde_json::from_value(value).map_err(wrong)
    }
}

fn wrong(error: impl std::fmt::Display) -> ModelError {
    ModelError::input("message of a stage", error.to_string())
}

/// Stage `encode` of a shot.
pub(super) struct EncodeRequest<'a>(pub(super) &'a ShotInputs);

impl StageRequest<Encoder> for EncodeRequest<'_> {
    type Output = Conditions;
    const STAGE: Stage = Stage::Encode;

    fn run(&self, encoder: &mut Encoder) -> Result<Conditions> {
        encoder.encode(self.0)
    }

    fn pack(&self) -> Result<(Value, Tensors)> {
        let inputs = self.0;
        let mut tensors = Tensors::new();
        for (place, frame) in inputs.memory.iter().enumerate() {
            if let Some(image) = &frame.image {
                tensors.insert(format!("memory.{place}"), picture_tensor(image)?);
            }
            if let Some(latents) = frame.arrays.get(MemoryFrame::LATENTS) {
                tensors.insert(
                    format!("latents.{place}"),
                    array_tensor(latents.read()?.as_ref())?,
                );
            }
        }
        for (place, frame) in inputs.previous_tail.iter().enumerate() {
            tensors.insert(format!("tail.{place}"), picture_tensor(frame)?);
        }
        let hashes = inputs.memory.iter().map(|frame| frame.hash.clone());
        let message = StageMessage::Encode {
            request: inputs.request.clone(),
            memory: hashes.collect(),
            tail: inputs.previous_tail.len(),
        };
        Ok((message.value()?, tensors))
    }

    fn unpack(message: Value, mut tensors: Tensors) -> Result<Conditions> {
        let message = StageMessage::of(message)?;
        let StageMessage::Conditions { memory, positions } = message else {
            return Err(wrong(format!("{message:?}")));
        };
        Ok(Conditions {
            text: TextPair {
                positive: take(&mut tensors, POSITIVE)?,
                negative: take(&mut tensors, NEGATIVE)?,
            },
            pictures: tensors.remove(PICTURES),
            memory,
            positions,
        })
    }
}

/// The other side of stage `encode`.
pub(super) fn encode(
    encoder: &mut Encoder,
    message: Value,
    mut tensors: Tensors,
) -> Result<(Value, Tensors)> {
    let (request, memory, tail) = match StageMessage::of(message)? {
        StageMessage::Encode {
            request,
            memory,
            tail,
        } => (request, memory, tail),
        other => return Err(not_for_this_rank(&other)),
    };
    let mut frames = Vec::with_capacity(memory.len());
    for (place, hash) in memory.into_iter().enumerate() {
        let image = tensors.remove(&format!("memory.{place}"));
        let latents = tensors.remove(&format!("latents.{place}"));
        let latents = latents.as_ref().map(tensor_array).transpose()?;
        let latents = latents.map(|latents| (MemoryFrame::LATENTS.to_owned(), latents.into()));
        frames.push(MemoryFrame {
            hash,
            image: image.as_ref().map(tensor_picture).transpose()?,
            arrays: latents.into_iter().collect(),
        });
    }
    let tail =
        (0..tail).map(|place| tensor_picture(&take(&mut tensors, &format!("tail.{place}"))?));
    let inputs = ShotInputs {
        request,
        memory: frames,
        previous_tail: tail.collect::<Result<_>>()?,
    };
    let conditions = encoder.encode(&inputs)?;
    let mut answer = Tensors::from([
        (POSITIVE.to_owned(), conditions.text.positive),
        (NEGATIVE.to_owned(), conditions.text.negative),
    ]);
    if let Some(pictures) = conditions.pictures {
        answer.insert(PICTURES.to_owned(), pictures);
    }
    let (memory, positions) = (conditions.memory, conditions.positions);
    Ok((
        StageMessage::Conditions { memory, positions }.value()?,
        answer,
    ))
}

/// Stage `decode` of a shot.
pub(super) struct DecodeRequest<'a> {
    pub(super) request: &'a ShotRequest,
    pub(super) latents: &'a HostTensor,
    /// The ranks that have the other rows of every picture, where this rank decodes with them.
    pub(super) rows: Option<&'a FollowerPool>,
}

impl StageRequest<Decoder> for DecodeRequest<'_> {
    type Output = Clip;
    const STAGE: Stage = Stage::Decode;

    fn run(&self, decoder: &mut Decoder) -> Result<Clip> {
        if let Some(pool) = self.rows {
            let command = Command::Stage {
                stage: Self::STAGE,
                message: StageMessage::DecodeRows.value()?,
            };
            pool.send(
                &pool.replica.followers(true),
                &command,
                &latents(self.latents)?,
            )?;
        }
        decoder.decode(self.request, self.latents)
    }

    fn pack(&self) -> Result<(Value, Tensors)> {
        let request = self.request.clone();
        let message = StageMessage::Decode { request };
        Ok((message.value()?, latents(self.latents)?))
    }

    fn unpack(_: Value, tensors: Tensors) -> Result<Clip> {
        let frames = tensors.values().map(tensor_picture);
        let frames = frames.collect::<Result<_>>()?;
        Clip::new(frames).ok_or_else(|| ModelError::input("latents", "they decode to no frame"))
    }
}

/// The latents of which another rank decodes its rows.
pub(super) fn rows_to_decode(message: Value, mut tensors: Tensors) -> Result<Tensor> {
    match StageMessage::of(message)? {
        StageMessage::DecodeRows => take(&mut tensors, LATENTS),
        other => Err(not_for_this_rank(&other)),
    }
}

/// First half of stage `select`: scores of pictures.
pub(super) struct ScoreRequest<'a>(pub(super) &'a [&'a RgbImage]);

impl StageRequest<Decoder> for ScoreRequest<'_> {
    type Output = Scores;
    const STAGE: Stage = Stage::Select;

    fn run(&self, decoder: &mut Decoder) -> Result<Scores> {
        decoder.score(self.0)
    }

    fn pack(&self) -> Result<(Value, Tensors)> {
        let pictures = self.0.len();
        let message = StageMessage::Score { pictures };
        Ok((message.value()?, self::pictures(self.0)?))
    }

    fn unpack(_: Value, mut tensors: Tensors) -> Result<Scores> {
        let embeddings = tensor_array(&take(&mut tensors, EMBEDDINGS)?)?;
        let width = embeddings.shape().get(1).copied().unwrap_or(1).max(1);
        let rows = embeddings.data().chunks(width).map(<[f32]>::to_vec);
        let quality = tensor_array(&take(&mut tensors, QUALITY)?)?;
        Ok((rows.collect(), quality.into_data()))
    }
}

/// Second half of stage `select`: a picture as a latent frame.
pub(super) struct RememberRequest<'a> {
    pub(super) picture: &'a RgbImage,
    pub(super) size: Resolution,
}

impl StageRequest<Decoder> for RememberRequest<'_> {
    type Output = HostTensor;
    const STAGE: Stage = Stage::Select;

    fn run(&self, decoder: &mut Decoder) -> Result<HostTensor> {
        decoder.remember(self.picture, self.size)
    }

    fn pack(&self) -> Result<(Value, Tensors)> {
        let message = StageMessage::Remember { size: self.size };
        Ok((message.value()?, pictures(&[self.picture])?))
    }

    fn unpack(_: Value, mut tensors: Tensors) -> Result<HostTensor> {
        tensor_array(&take(&mut tensors, LATENTS)?)
    }
}

/// The other side of the stages `decode` and `select`.
pub(super) fn decode(
    decoder: &Decoder,
    message: Value,
    mut tensors: Tensors,
) -> Result<(Value, Tensors)> {
    let answer = match StageMessage::of(message)? {
        StageMessage::Decode { request } => {
            let latents = tensor_array(&take(&mut tensors, LATENTS)?)?;
            let clip = decoder.decode(&request, &latents)?;
            pictures(&clip.frames().iter().collect::<Vec<_>>())?
        }
        StageMessage::Score { pictures } => {
            let pictures: Vec<RgbImage> = (0..pictures)
                .map(|place| tensor_picture(&take(&mut tensors, &name(place))?))
                .collect::<Result<_>>()?;
            let (embeddings, quality) = decoder.score(&pictures.iter().collect::<Vec<_>>())?;
            let rows = embeddings.len() as i64;
            let embeddings = Tensor::f_from_slice(&embeddings.concat())?.f_view([rows, -1])?;
            Tensors::from([
                (EMBEDDINGS.to_owned(), embeddings),
                (QUALITY.to_owned(), Tensor::f_from_slice(&quality)?),
            ])
        }
        StageMessage::Remember { size } => {
            let picture = tensor_picture(&take(&mut tensors, &name(0))?)?;
            latents(&decoder.remember(&picture, size)?)?
        }
        other => return Err(not_for_this_rank(&other)),
    };
    Ok((StageMessage::Done.value()?, answer))
}

/// Latents `[C, T, h, w]`.
fn latents(latents: &HostTensor) -> Result<Tensors> {
    let tensor = array_tensor(latents)?;
    Ok(Tensors::from([(LATENTS.to_owned(), tensor)]))
}

/// Pictures by number.
fn pictures(pictures: &[&RgbImage]) -> Result<Tensors> {
    let named = pictures.iter().enumerate();
    named
        .map(|(place, picture)| Ok((name(place), picture_tensor(picture)?)))
        .collect()
}

fn name(place: usize) -> String {
    format!("picture.{place:06}")
}
