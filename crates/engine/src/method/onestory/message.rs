//! What stage `encode` of OneStory is asked for, here or on ranks of its own: both ends of each message.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use storyloom_nn::error::Result;
use storyloom_story::{RgbImage, ShotRequest, Stage};
use tch::Tensor;

use super::encode::{Beginning, Encoder};
use crate::method::wan::TextPair;
use crate::method::wan::message::{of_value, to_value};
use crate::replica::station::StageRequest;
use crate::replica::wire::{Tensors, picture_tensor, take, tensor_picture};

const CHANNELS: &str = "channels";
const FIRST_IMAGE: &str = "first_image";
const IMAGE: &str = "image";
const NEGATIVE: &str = "negative";
const POSITIVE: &str = "positive";

/// What the message says, beside its tensors.
#[derive(Debug, Serialize, Deserialize)]
enum EncodeMessage {
    /// A caption for the selector.
    Text { prompt: String },
    /// What a shot begins with.
    Begin { request: ShotRequest },
}

/// The rows of a caption.
pub(super) struct TextRequest<'a>(pub(super) &'a str);

impl StageRequest<Encoder> for TextRequest<'_> {
    type Output = Tensor;
    const STAGE: Stage = Stage::Encode;

    fn run(&self, encoder: &mut Encoder) -> Result<Tensor> {
        encoder.text(self.0)
    }

    fn pack(&self) -> Result<(Value, Tensors)> {
        let prompt = self.0.to_owned();
        Ok((to_value(&EncodeMessage::Text { prompt })?, Tensors::new()))
    }

    fn unpack(_: Value, mut tensors: Tensors) -> Result<Tensor> {
        take(&mut tensors, POSITIVE)
    }
}

/// What a shot begins with.
pub(super) struct BeginningRequest<'a> {
    pub(super) request: &'a ShotRequest,
    pub(super) first_image: Option<&'a RgbImage>,
}

impl StageRequest<Encoder> for BeginningRequest<'_> {
    type Output = Beginning;
    const STAGE: Stage = Stage::Encode;

    fn run(&self, encoder: &mut Encoder) -> Result<Beginning> {
        encoder.begin(self.request, self.first_image)
    }

    fn pack(&self) -> Result<(Value, Tensors)> {
        let mut tensors = Tensors::new();
        if let Some(image) = self.first_image {
            tensors.insert(FIRST_IMAGE.to_owned(), picture_tensor(image)?);
        }
        let request = self.request.clone();
        Ok((to_value(&EncodeMessage::Begin { request })?, tensors))
    }

    fn unpack(_: Value, mut tensors: Tensors) -> Result<Beginning> {
        Ok(Beginning {
            text: TextPair {
                positive: take(&mut tensors, POSITIVE)?,
                negative: take(&mut tensors, NEGATIVE)?,
            },
            channels: tensors.remove(CHANNELS),
            image: tensors.remove(IMAGE),
        })
    }
}

/// The other side.
pub(super) fn encode(
    encoder: &mut Encoder,
    message: Value,
    tensors: Tensors,
) -> Result<(Value, Tensors)> {
    let answer = match of_value(message)? {
        EncodeMessage::Text { prompt } => {
            Tensors::from([(POSITIVE.to_owned(), encoder.text(&prompt)?)])
        }
        EncodeMessage::Begin { request } => {
            let first_image = tensors.get(FIRST_IMAGE).map(tensor_picture).transpose()?;
            let Beginning {
                text,
                channels,
                image,
            } = encoder.begin(&request, first_image.as_ref())?;
            let parts = [
                (POSITIVE, Some(text.positive)),
                (NEGATIVE, Some(text.negative)),
                (CHANNELS, channels),
                (IMAGE, image),
            ];
            let parts = parts.into_iter();
            parts
                .filter_map(|(name, tensor)| Some((name.to_owned(), tensor?)))
                .collect()
        }
    };
    Ok((Value::Null, answer))
}
