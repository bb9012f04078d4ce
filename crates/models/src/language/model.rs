//! A language model as the hub stores it: weights, tokenizer, chat template, defaults.

use std::path::{Path, PathBuf};

use image::RgbImage;
use storyloom_nn::checkpoint::{Checkpoint, Target};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::shard::Peers;
use tch::{Device, Kind, Tensor};

use super::chat::{ChatOptions, ChatTemplate, Content, Manner, Message, Role};
use super::config::LanguageConfig;
use super::decoder::Decoder;
use super::generation::GenerationConfig;
use super::tokenizer::LanguageTokenizer;
use super::vision::{ImagePatches, PixelLimits, VisionTower};

/// Sides of the picture that a template is tried with, in pixels.
const PROBE_SIDE: u32 = 56;

/// Where a model is computed.
#[derive(Debug, Clone)]
pub struct LanguageSettings {
    /// The device.
    pub device: Device,
    /// Element type of the weights. On the CPU bf16 weights compute in f32.
    pub kind: Kind,
    /// The ranks that hold the other parts of every layer; alone by default. All of them load the same folder;
    /// then the first one makes texts, and the others [follow](LanguageModel::follow).
    pub peers: Peers,
}

impl Default for LanguageSettings {
    /// f32 on the CPU, alone.
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            kind: Kind::Float,
            peers: Peers::default(),
        }
    }
}

/// A language model that is ready.
#[derive(Debug)]
pub struct LanguageModel {
    folder: PathBuf,
    decoder: Decoder,
    vision: Option<(VisionTower, PixelLimits)>,
    tokenizer: LanguageTokenizer,
    template: Option<ChatTemplate>,
    generation: GenerationConfig,
    peers: Peers,
}

/// A conversation as a model takes it.
#[derive(Debug)]
pub struct Prompt {
    /// What the chat template made of it.
    pub text: String,
    /// Its tokens; every picture has as many places as it has parts.
    pub tokens: Vec<u32>,
    /// The pictures, in order.
    pub images: Vec<ImagePatches>,
}

impl LanguageModel {
    /// Loads a folder of the hub: `config.json`, safetensors files, `tokenizer.json`, and where
    /// they are there `generation_config.json`, a chat template and `preprocessor_config.json`.
    ///
    /// # Errors
    /// The class is not supported, a file is missing or damaged, tensors are missing or unknown,
    /// or the ranks cannot share the model; the message names what and where.
    pub fn load(folder: &Path, settings: &LanguageSettings) -> Result<Self> {
        let (decoder, tower) = open_networks(folder, settings)?;
        let tokenizer = LanguageTokenizer::open(folder)?;
        let template = ChatTemplate::open(folder)?;
        let generation = GenerationConfig::open(folder, &decoder.config().end_tokens)?;
        let limits = PixelLimits::open(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            vision: tower.map(|tower| (tower, limits)),
            decoder,
            tokenizer,
            template,
            generation,
            peers: settings.peers.clone(),
        })
    }

    /// The ranks that share this model.
    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The shape of the model.
    pub fn config(&self) -> &LanguageConfig {
        self.decoder.config()
    }

    /// The network, for hidden states, masks and embeddings of one's own.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The vision tower, if there is one.
    pub fn vision(&self) -> Option<&VisionTower> {
        self.vision.as_ref().map(|(tower, _)| tower)
    }

    /// Text to tokens and back.
    pub fn tokenizer(&self) -> &LanguageTokenizer {
        &self.tokenizer
    }

    /// How conversations are written out.
    ///
    /// # Errors
    /// The folder has no template.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            let reason = "there is no chat template: no chat_template.jinja, and no \
                          chat_template in tokenizer_config.json";
            ModelError::bad_file(&self.folder, reason)
        })
    }

    /// How its chat template takes a conversation, with a picture where the model sees any: found
    /// out by trying, see [`ChatTemplate::manner`].
    ///
    /// # Errors
    /// There is no template, or no conversation can be held with it.
    pub fn manner(&self, options: &ChatOptions) -> Result<Manner> {
        let manner = self.chat_template()?.manner(options)?;
        if self.vision.is_some() {
            let options = ChatOptions {
                manner,
                ..options.clone()
            };
            let picture = Content::Image(RgbImage::new(PROBE_SIDE, PROBE_SIDE));
            let mut question = Message::text(Role::User, "What is this?");
            question.content.insert(0, picture);
            let rules = Message::text(Role::System, "Be brief.");
            let tried = self.prompt(&[rules, question], &options);
            tried.map_err(|error| ModelError::bad_file(&self.folder, error.to_string()))?;
        }
        Ok(manner)
    }

    /// How its makers want it to be sampled.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Writes a conversation out and cuts it into tokens and its pictures into patches.
    ///
    /// # Errors
    /// There is no template, it refuses the messages or leaves pictures out, or the model does not
    /// see pictures.
    pub fn prompt(&self, messages: &[Message], options: &ChatOptions) -> Result<Prompt> {
        let pictures = messages.iter().flat_map(|message| &message.content);
        let pictures = pictures.filter_map(|part| match part {
            Content::Image(picture) => Some(picture),
            Content::Text(_) => None,
        });
        let pictures: Vec<&RgbImage> = pictures.collect();
        if self.vision.is_none() && !pictures.is_empty() {
            let reason = "this model does not see pictures; use a Qwen2.5-VL";
            return Err(ModelError::input("prompt", reason));
        }
        let text = self.chat_template()?.render(messages, options)?;
        let tokens = self.tokenizer.encode(&text)?;
        let Some((tower, limits)) = &self.vision else {
            return Ok(Prompt {
                text,
                tokens,
                images: Vec::new(),
            });
        };
        let patches = |picture: &&RgbImage| ImagePatches::new(picture, tower.config(), *limits);
        let images: Vec<ImagePatches> = pictures.iter().map(patches).collect::<Result<_>>()?;
        let image_token = tower.config().image_token;
        let places = tokens.iter().filter(|&&token| token == image_token).count();
        if places != images.len() {
            let reason = format!(
                "the chat template made {places} places for {} pictures; \
                 texts must not contain the token for pictures",
                images.len()
            );
            return Err(ModelError::input("prompt", reason));
        }
        let mut grids = images.iter().map(|image| image.grid);
        let mut expanded = Vec::with_capacity(tokens.len());
        for token in tokens {
            let grid = if token == image_token {
                grids.next()
            } else {
                None
            };
            let count = grid.map_or(1, |grid| tower.config().tokens(grid));
            expanded.extend(std::iter::repeat_n(token, count as usize));
        }
        Ok(Prompt {
            text,
            tokens: expanded,
            images,
        })
    }

    /// Rows of the embedding of `tokens`, with those of the pictures in their places: f32
    /// `[1, tokens, width]`.
    pub fn embed(&self, tokens: &[u32], images: &[ImagePatches]) -> Result<Tensor> {
        embed_with_pictures(&self.decoder, self.vision(), tokens, images)
    }

    /// blake3 over all that decides what the model says: tensors, config, tokenizer, template and
    /// defaults, in hexadecimal. Reads the whole checkpoint.
    pub fn digest(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(Checkpoint::open(&self.folder)?.digest()?.as_bytes());
        for name in [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "chat_template.json",
            "generation_config.json",
            "preprocessor_config.json",
        ] {
            let path = self.folder.join(name);
            if path.exists() {
                let bytes = std::fs::read(&path).map_err(|error| ModelError::io(&path, error))?;
                hasher.update(format!("\n{name} {}\n", bytes.len()).as_bytes());
                hasher.update(&bytes);
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// The networks of a folder without what belongs to texts.
pub(crate) fn open_networks(
    folder: &Path,
    settings: &LanguageSettings,
) -> Result<(Decoder, Option<VisionTower>)> {
    let checkpoint = Checkpoint::open(folder)?;
    let config = LanguageConfig::of(&checkpoint)?;
    let target = Target {
        kind: settings.kind,
        device: settings.device,
    };
    let weights = checkpoint.weights(target);
    let vision = config.vision.clone();
    let tower = vision
        .map(|vision| VisionTower::load(&weights, vision))
        .transpose()?;
    let decoder = Decoder::load(&weights, config, &settings.peers)?;
    weights.finish()?;
    Ok((decoder, tower))
}

/// See [`LanguageModel::embed`].
pub(crate) fn embed_with_pictures(
    decoder: &Decoder,
    tower: Option<&VisionTower>,
    tokens: &[u32],
    images: &[ImagePatches],
) -> Result<Tensor> {
    let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    let rows = decoder.embed(&Tensor::f_from_slice(&ids)?.f_unsqueeze(0)?)?;
    let Some(tower) = tower.filter(|_| !images.is_empty()) else {
        return Ok(rows);
    };
    let token = i64::from(tower.config().image_token);
    let places = (0_i64..).zip(&ids).filter(|(_, id)| **id == token);
    let places: Vec<i64> = places.map(|(place, _)| place).collect();
    let seen = images.iter().map(|image| tower.forward(image));
    let seen = Tensor::f_cat(&seen.collect::<Result<Vec<_>>>()?, 0)?;
    if seen.size()[0] != places.len() as i64 {
        let reason = format!("{} places for {} parts", places.len(), seen.size()[0]);
        return Err(ModelError::input("pictures of a prompt", reason));
    }
    let places = Tensor::f_from_slice(&places)?.f_to_device(rows.device())?;
    let flat = rows.f_squeeze_dim(0)?;
    Ok(flat.f_index_copy(0, &places, &seen)?.f_unsqueeze(0)?)
}
