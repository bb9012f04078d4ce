//! The stages `encode`, `decode` and `select` on ranks of their own: both ends of each message.

use storyloom_nn::error::{ModelError, Result};
use storyloom_story::{Clip, HostTensor, MemoryFrame, RgbImage, ShotInputs};
use tch::Tensor;

use crate::method::storymem::decode::{Decoder, LATENTS};
use crate::method::storymem::encode::{Conditions, Encoder};
use crate::replica::wire::{
    Tensors, array_tensor, picture_tensor, take, tensor_array, tensor_picture,
};
use crate::replica::{Answer, Command};
use crate::sampling::TextPair;

const EMBEDDINGS: &str = "embeddings";
const QUALITY: &str = "quality";
const POSITIVE: &str = "positive";
const NEGATIVE: &str = "negative";
const PICTURES: &str = "pictures";

fn unexpected(found: &Answer) -> ModelError {
    ModelError::input("answer of a rank", format!("{found:?}"))
}

/// The leader's side of stage `encode`.
pub(crate) fn encode_command(inputs: &ShotInputs) -> Result<(Command, Tensors)> {
    let mut tensors = Tensors::new();
    for (place, frame) in inputs.memory.iter().enumerate() {
        tensors.insert(format!("memory.{place}"), picture_tensor(&frame.image)?);
        if let Some(latents) = &frame.latents {
            tensors.insert(format!("latents.{place}"), array_tensor(latents)?);
        }
    }
    for (place, frame) in inputs.previous_tail.iter().enumerate() {
        tensors.insert(format!("tail.{place}"), picture_tensor(frame)?);
    }
    let command = Command::Encode {
        request: inputs.request.clone(),
        memory: inputs
            .memory
            .iter()
            .map(|frame| frame.hash.clone())
            .collect(),
        tail: inputs.previous_tail.len(),
    };
    Ok((command, tensors))
}

/// The conditions of an answer.
pub(crate) fn conditions((answer, mut tensors): (Answer, Tensors)) -> Result<Conditions> {
    let Answer::Conditions { memory, positions } = answer else {
        return Err(unexpected(&answer));
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

/// The other side of stage `encode`.
pub(crate) fn encode(
    encoder: &mut Encoder,
    command: Command,
    mut tensors: Tensors,
) -> Result<(Answer, Tensors)> {
    let Command::Encode {
        request,
        memory,
        tail,
    } = command
    else {
        return Err(not_mine(&command));
    };
    let mut frames = Vec::with_capacity(memory.len());
    for (place, hash) in memory.into_iter().enumerate() {
        let latents = tensors.remove(&format!("latents.{place}"));
        frames.push(MemoryFrame {
            hash,
            image: tensor_picture(&take(&mut tensors, &format!("memory.{place}"))?)?,
            latents: latents.as_ref().map(tensor_array).transpose()?,
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
    Ok((Answer::Conditions { memory, positions }, answer))
}

/// Latents to decode.
pub(crate) fn latents(latents: &HostTensor) -> Result<Tensors> {
    Ok(Tensors::from([(
        LATENTS.to_owned(),
        array_tensor(latents)?,
    )]))
}

/// Pictures by number.
pub(crate) fn pictures(pictures: &[&RgbImage]) -> Result<Tensors> {
    let named = pictures.iter().enumerate();
    named
        .map(|(place, picture)| Ok((name(place), picture_tensor(picture)?)))
        .collect()
}

fn name(place: usize) -> String {
    format!("picture.{place:06}")
}

/// The leader's side of scoring.
pub(crate) fn score_command(pictures: &[&RgbImage]) -> Result<(Command, Tensors)> {
    let command = Command::Score {
        pictures: pictures.len(),
    };
    Ok((command, self::pictures(pictures)?))
}

/// The frames of an answer.
pub(crate) fn clip((answer, tensors): (Answer, Tensors)) -> Result<Clip> {
    let Answer::Done = answer else {
        return Err(unexpected(&answer));
    };
    let frames = tensors
        .values()
        .map(tensor_picture)
        .collect::<Result<_>>()?;
    Clip::new(frames).ok_or_else(|| ModelError::input("latents", "they decode to no frame"))
}

/// The scores of an answer.
pub(crate) fn scores(
    (answer, mut tensors): (Answer, Tensors),
) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
    let Answer::Done = answer else {
        return Err(unexpected(&answer));
    };
    let embeddings = tensor_array(&take(&mut tensors, EMBEDDINGS)?)?;
    let width = embeddings.shape().get(1).copied().unwrap_or(1).max(1);
    let rows = embeddings
        .data()
        .chunks(width)
        .map(<[f32]>::to_vec)
        .collect();
    Ok((
        rows,
        tensor_array(&take(&mut tensors, QUALITY)?)?.into_data(),
    ))
}

/// The one array of an answer.
pub(crate) fn array((answer, mut tensors): (Answer, Tensors)) -> Result<HostTensor> {
    let Answer::Done = answer else {
        return Err(unexpected(&answer));
    };
    tensor_array(&take(&mut tensors, LATENTS)?)
}

/// The other side of the stages `decode` and `select`.
pub(crate) fn decode(
    decoder: &Decoder,
    command: Command,
    mut tensors: Tensors,
) -> Result<(Answer, Tensors)> {
    let answer = match command {
        Command::Decode { request } => {
            let latents = tensor_array(&take(&mut tensors, LATENTS)?)?;
            let clip = decoder.decode(&request, &latents)?;
            pictures(&clip.frames().iter().collect::<Vec<_>>())?
        }
        Command::Score { pictures } => {
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
        Command::Remember { size } => {
            let picture = tensor_picture(&take(&mut tensors, &name(0))?)?;
            latents(&decoder.remember(&picture, size)?)?
        }
        other => return Err(not_mine(&other)),
    };
    Ok((Answer::Done, answer))
}

fn not_mine(command: &Command) -> ModelError {
    ModelError::input("command", format!("{command:?} is not for this rank"))
}
