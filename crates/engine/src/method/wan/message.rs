//! What the stages of all methods on Wan are asked for, here or on ranks of their own: both ends of each
//! message.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use storyloom_nn::error::{ModelError, Result};
use storyloom_story::{Clip, HostTensor, Resolution, RgbImage, ShotRequest, Stage};
use tch::Tensor;

use super::{FrameDecoder, HasFrames};
use crate::replica::message::Command;
use crate::replica::pool::{FollowerPool, not_for_this_rank};
use crate::replica::station::StageRequest;
use crate::replica::wire::{
    Tensors, array_tensor, picture_tensor, take, tensor_array, tensor_picture,
};

/// Name of latents in messages.
const LATENTS: &str = "latents";

/// What the message of a stage says, beside its tensors.
#[derive(Debug, Serialize, Deserialize)]
enum FramesMessage {
    /// Latents become frames.
    Decode { request: ShotRequest },
    /// Decode one's rows of these latents.
    DecodeRows,
    /// This number of pictures as the latents of one clip.
    Remember { size: Resolution, pictures: usize },
}

/// A message as it is sent.
pub(in crate::method) fn to_value(message: &impl Serialize) -> Result<Value> {
    serde_json::to_value(message).map_err(wrong)
}

/// A message that was sent.
pub(in crate::method) fn of_value<M: DeserializeOwned>(value: Value) -> Result<M> {
    serde_json::from_value(value).map_err(wrong)
}

/// A message that nobody understands.
pub(in crate::method) fn wrong(error: impl std::fmt::Display) -> ModelError {
    ModelError::input("message of a stage", error.to_string())
}

/// Stage `decode` of a shot.
pub(in crate::method) struct DecodeRequest<'a> {
    pub(in crate::method) request: &'a ShotRequest,
    pub(in crate::method) latents: &'a HostTensor,
    /// The ranks that have the other rows of every picture, where this rank decodes with them.
    pub(in crate::method) rows: Option<&'a FollowerPool>,
}

impl<D: HasFrames> StageRequest<D> for DecodeRequest<'_> {
    type Output = Clip;
    const STAGE: Stage = Stage::Decode;

    fn run(&self, decoder: &mut D) -> Result<Clip> {
        if let Some(pool) = self.rows {
            let command = Command::Stage {
                stage: Stage::Decode,
                message: to_value(&FramesMessage::DecodeRows)?,
            };
            let followers = pool.replica.followers(true);
            pool.send(&followers, &command, &latents(self.latents)?)?;
        }
        decoder.frames().decode(self.request, self.latents)
    }

    fn pack(&self) -> Result<(Value, Tensors)> {
        let request = self.request.clone();
        let message = FramesMessage::Decode { request };
        Ok((to_value(&message)?, latents(self.latents)?))
    }

    fn unpack(_: Value, tensors: Tensors) -> Result<Clip> {
        let frames = tensors.values().map(tensor_picture);
        let frames = frames.collect::<Result<_>>()?;
        Clip::new(frames).ok_or_else(|| ModelError::input("latents", "they decode to no frame"))
    }
}

/// The latents of which another rank decodes its rows.
pub(in crate::method) fn rows_to_decode(message: Value, mut tensors: Tensors) -> Result<Tensor> {
    match of_value(message)? {
        FramesMessage::DecodeRows => take(&mut tensors, LATENTS),
        other => Err(not_for_this_rank(&other)),
    }
}

/// Second half of stage `select`: pictures as latents.
pub(in crate::method) struct RememberRequest<'a> {
    pub(in crate::method) pictures: &'a [&'a RgbImage],
    pub(in crate::method) size: Resolution,
}

impl<D: HasFrames> StageRequest<D> for RememberRequest<'_> {
    type Output = HostTensor;
    const STAGE: Stage = Stage::Select;

    fn run(&self, decoder: &mut D) -> Result<HostTensor> {
        decoder.frames().remember(self.pictures, self.size)
    }

    fn pack(&self) -> Result<(Value, Tensors)> {
        let message = FramesMessage::Remember {
            size: self.size,
            pictures: self.pictures.len(),
        };
        Ok((to_value(&message)?, pictures(self.pictures)?))
    }

    fn unpack(_: Value, mut tensors: Tensors) -> Result<HostTensor> {
        tensor_array(&take(&mut tensors, LATENTS)?)
    }
}

/// The other side of what every method asks its autoencoder for.
pub(in crate::method) fn answer_frames(
    frames: &FrameDecoder,
    message: Value,
    mut tensors: Tensors,
) -> Result<(Value, Tensors)> {
    let answer = match of_value(message)? {
        FramesMessage::Decode { request } => {
            let latents = tensor_array(&take(&mut tensors, LATENTS)?)?;
            let clip = frames.decode(&request, &latents)?;
            pictures(&clip.frames().iter().collect::<Vec<_>>())?
        }
        FramesMessage::Remember {
            size,
            pictures: count,
        } => {
            let pictures = take_pictures(&mut tensors, count)?;
            latents(&frames.remember(&pictures.iter().collect::<Vec<_>>(), size)?)?
        }
        other @ FramesMessage::DecodeRows => return Err(not_for_this_rank(&other)),
    };
    Ok((Value::Null, answer))
}

/// Latents `[C, T, h, w]`.
fn latents(latents: &HostTensor) -> Result<Tensors> {
    let tensor = array_tensor(latents)?;
    Ok(Tensors::from([(LATENTS.to_owned(), tensor)]))
}

/// Pictures by number.
pub(in crate::method) fn pictures(pictures: &[&RgbImage]) -> Result<Tensors> {
    let named = pictures.iter().enumerate();
    named
        .map(|(place, picture)| Ok((name(place), picture_tensor(picture)?)))
        .collect()
}

/// The inverse of [`pictures`].
pub(in crate::method) fn take_pictures(
    tensors: &mut Tensors,
    count: usize,
) -> Result<Vec<RgbImage>> {
    let places = 0..count;
    places
        .map(|place| tensor_picture(&take(tensors, &name(place))?))
        .collect()
}

fn name(place: usize) -> String {
    format!("picture.{place:06}")
}
