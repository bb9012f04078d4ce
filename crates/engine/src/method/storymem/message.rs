//! What only StoryMem asks of the stages `encode` and `select`, here or on ranks of their own: both ends of
//! each message.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use storyloom_nn::error::Result;
use storyloom_story::{MemoryFrame, RgbImage, ShotInputs, ShotRequest, Stage};
use tch::Tensor;

use super::decode::Decoder;
use super::encode::{Conditions, Encoder};
use crate::method::wan::message::{
    answer_frames, of_value, pictures, take_pictures, to_value, wrong,
};
use crate::method::wan::{HasFrames, TextPair};
use crate::replica::pool::not_for_this_rank;
use crate::replica::station::StageRequest;
use crate::replica::wire::{
    Tensors, array_tensor, picture_tensor, take, tensor_array, tensor_picture,
};

const EMBEDDINGS: &str = "embeddings";
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
}

/// What only StoryMem asks of stage `select`: embeddings and quality of this number of pictures.
#[derive(Debug, Serialize, Deserialize)]
struct Score {
    score: usize,
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
        Ok((to_value(&message)?, tensors))
    }

    fn unpack(message: Value, mut tensors: Tensors) -> Result<Conditions> {
        let message: StageMessage = of_value(message)?;
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
    let (request, memory, tail) = match of_value(message)? {
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
        to_value(&StageMessage::Conditions { memory, positions })?,
        answer,
    ))
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
        let score = self.0.len();
        Ok((to_value(&Score { score })?, pictures(self.0)?))
    }

    fn unpack(_: Value, mut tensors: Tensors) -> Result<Scores> {
        let embeddings = tensor_array(&take(&mut tensors, EMBEDDINGS)?)?;
        let width = embeddings.shape().get(1).copied().unwrap_or(1).max(1);
        let rows = embeddings.data().chunks(width).map(<[f32]>::to_vec);
        let quality = tensor_array(&take(&mut tensors, QUALITY)?)?;
        Ok((rows.collect(), quality.into_data()))
    }
}

/// The other side of the stages `decode` and `select`.
pub(super) fn decode(
    decoder: &Decoder,
    message: Value,
    mut tensors: Tensors,
) -> Result<(Value, Tensors)> {
    let Ok(Score { score }) = of_value(message.clone()) else {
        return answer_frames(decoder.frames(), message, tensors);
    };
    let pictures = take_pictures(&mut tensors, score)?;
    let (embeddings, quality) = decoder.score(&pictures.iter().collect::<Vec<_>>())?;
    let rows = embeddings.len() as i64;
    let embeddings = Tensor::f_from_slice(&embeddings.concat())?.f_view([rows, -1])?;
    let answer = Tensors::from([
        (EMBEDDINGS.to_owned(), embeddings),
        (QUALITY.to_owned(), Tensor::f_from_slice(&quality)?),
    ]);
    Ok((Value::Null, answer))
}
