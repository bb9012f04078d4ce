//! All networks of the method StoryMem, loaded once and kept.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use storyloom_story::{HostTensor, LoopState, Resolution, RgbImage, Seed, ShotInputs};
use tch::Tensor;

use crate::checkpoint::{Checkpoint, Target};
use crate::clip::ClipVision;
use crate::error::{ModelError, Result};
use crate::image::{stretch_bicubic, to_tensor};
use crate::lora::LoraSettings;
use crate::noise::{Stream, gaussian};
use crate::scorer::QualityScorer;
use crate::stage::denoise::{DenoiseInputs, DenoiseSettings, Denoiser, Standing};
use crate::stage::encode::Conditions;
use crate::tensor_file::to_host;
use crate::text::{DEFAULT_NEGATIVE_PROMPT, PromptEncoder};
use crate::vae::AutoencoderKlWan;

/// Where the checkpoints lie.
#[derive(Debug, Clone)]
pub struct StoryMemPaths {
    /// A `WanPipeline` folder, for first shots.
    pub text_to_video: PathBuf,
    /// A `WanImageToVideoPipeline` folder, for all other shots.
    pub image_to_video: PathBuf,
    /// Folder with `backbone_high_noise.safetensors` and `backbone_low_noise.safetensors`.
    pub lora: Option<PathBuf>,
    /// A CLIP vision tower with projection.
    pub clip: PathBuf,
}

/// How shots are sampled.
#[derive(Debug, Clone)]
pub struct StoryMemSettings {
    /// Kind and device of the transformers and the text encoder.
    pub target: Target,
    /// Sampling of first shots.
    pub text_to_video: DenoiseSettings,
    /// Sampling of all other shots.
    pub image_to_video: DenoiseSettings,
    /// How the adapters are applied.
    pub lora: LoraSettings,
    /// Distance of memory pictures on the temporal axis.
    pub memory_stride: i64,
    /// The negative prompt; `None` takes that of the original Wan code.
    pub negative_prompt: Option<String>,
}

/// Makes shots by the method StoryMem.
#[derive(Debug)]
pub struct StoryMemEngine {
    pub(crate) settings: StoryMemSettings,
    pub(crate) text: PromptEncoder,
    pub(crate) vae: AutoencoderKlWan,
    pub(crate) clip: ClipVision,
    pub(crate) scorer: Box<dyn QualityScorer>,
    text_to_video: Denoiser,
    image_to_video: Denoiser,
    digests: Vec<(String, String)>,
    negative: OnceCell<Tensor>,
    /// Encodings of all-grey clips, by frames, width and height.
    grey: RefCell<HashMap<(i64, u32, u32), Tensor>>,
}

impl StoryMemEngine {
    /// Loads everything. Text encoder and VAE are those of the image-to-video pipeline, which
    /// are the same as the other's.
    pub fn open(
        paths: &StoryMemPaths,
        settings: StoryMemSettings,
        scorer: Box<dyn QualityScorer>,
    ) -> Result<Self> {
        let target = settings.target;
        let lora = paths.lora.as_deref().map(|folder| (folder, settings.lora));
        let engine = Self {
            text: PromptEncoder::open(&paths.image_to_video, target)?,
            vae: AutoencoderKlWan::open(&paths.image_to_video.join("vae"), target.device)?,
            clip: ClipVision::open(
                &paths.clip,
                Target {
                    device: target.device,
                    ..Target::CPU_F32
                },
            )?,
            text_to_video: Denoiser::open(
                &paths.text_to_video,
                target,
                settings.text_to_video,
                None,
            )?,
            image_to_video: Denoiser::open(
                &paths.image_to_video,
                target,
                settings.image_to_video,
                lora,
            )?,
            digests: digests(paths)?,
            settings,
            scorer,
            negative: OnceCell::new(),
            grey: RefCell::default(),
        };
        engine.check()?;
        Ok(engine)
    }

    fn check(&self) -> Result<()> {
        let z_dim = self.vae.config().z_dim;
        let wanted = 4 + z_dim;
        for (name, denoiser, condition) in [
            ("text-to-video", &self.text_to_video, 0),
            ("image-to-video", &self.image_to_video, wanted),
        ] {
            let found = (denoiser.latent_channels(), denoiser.condition_channels());
            if found != (z_dim, condition) {
                let reason = format!(
                    "its transformers take {} latent and {} condition channels, {z_dim} and \
                     {condition} are needed",
                    found.0, found.1
                );
                return Err(ModelError::input(format!("the {name} pipeline"), reason));
            }
        }
        Ok(())
    }

    /// Name and digest of each component.
    pub fn digests(&self) -> &[(String, String)] {
        &self.digests
    }

    /// The name of the quality score.
    pub fn quality_score(&self) -> &'static str {
        self.scorer.name()
    }

    /// Digest of everything that decides the numbers: weights, sampling, precision.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, digest) in &self.digests {
            hasher.update(format!("{name}={digest}\n").as_bytes());
        }
        let settings = &self.settings;
        let kind = settings.target.kind;
        let decisive = (
            kind,
            settings.text_to_video,
            settings.image_to_video,
            settings.lora,
            settings.memory_stride,
            &settings.negative_prompt,
            self.scorer.name(),
        );
        hasher.update(format!("{decisive:?}").as_bytes());
        hasher.finalize().to_hex().to_string()
    }

    /// Stage `denoise`: noise to normalised latents `[C, T, h, w]`, memory slots dropped.
    pub fn denoise(
        &self,
        inputs: &ShotInputs,
        conditions: &Conditions,
        resume: Option<&LoopState>,
        observer: &mut dyn FnMut(&Standing) -> bool,
    ) -> Result<HostTensor> {
        let denoiser = match conditions.pictures {
            Some(_) => &self.image_to_video,
            None => &self.text_to_video,
        };
        let noise = self.noise(inputs, conditions)?;
        let start = DenoiseInputs {
            noise: &noise,
            text: &conditions.text,
            condition: conditions.pictures.as_ref(),
            temporal_positions: &conditions.positions,
        };
        let latents = denoiser.sample(&start, resume, observer)?;
        let memory = conditions.memory as i64;
        let frames = latents.size()[2] - memory;
        to_host(&latents.f_narrow(2, memory, frames)?.f_squeeze_dim(0)?)
    }

    /// Memory slots and the shot draw from streams of their own, so that the shot's noise does
    /// not depend on how much it remembers.
    fn noise(&self, inputs: &ShotInputs, conditions: &Conditions) -> Result<Tensor> {
        let factor = self.vae.config().spatial_factor();
        let video = inputs.request.video;
        let [height, width] = [video.height, video.width].map(|side| i64::from(side) / factor);
        let frames = (conditions.positions.len() - conditions.memory) as i64;
        let channels = self.vae.config().z_dim;
        let seed: Seed = inputs.request.seed;
        let draw = |stream, frames| gaussian(seed, stream, &[1, channels, frames, height, width]);
        let shot = draw(Stream::Shot, frames)?;
        let noise = match conditions.memory as i64 {
            0 => shot,
            memory => Tensor::f_cat(&[draw(Stream::Memory, memory)?, shot], 2)?,
        };
        Ok(noise.f_to_device(self.settings.target.device)?)
    }

    /// A picture as one normalised latent frame `[C, 1, h, w]` at the story's size.
    pub fn remember(&self, picture: &RgbImage, size: Resolution) -> Result<HostTensor> {
        to_host(&self.encode_picture(picture, size)?)
    }

    pub(crate) fn encode_picture(&self, picture: &RgbImage, size: Resolution) -> Result<Tensor> {
        self.encode_clip(&self.pixels(&[picture], size)?)
    }

    /// `[3, frames, height, width]` to normalised latents `[C, T, h, w]`.
    pub(crate) fn encode_clip(&self, clip: &Tensor) -> Result<Tensor> {
        let latents = self.vae.encode(&clip.f_unsqueeze(0)?)?;
        Ok(self.vae.normalize(&latents)?.f_squeeze_dim(0)?)
    }

    /// Pictures as f32 `[3, pictures, height, width]` in [-1, 1]; those of another size are
    /// stretched, bicubic without antialias (StoryMem specification, section 4.1).
    pub(crate) fn pixels(&self, pictures: &[&RgbImage], size: Resolution) -> Result<Tensor> {
        let frame = |picture: &&RgbImage| -> Result<Tensor> {
            let pixels = to_tensor(&plain_picture(picture)?)?;
            let fits = (picture.width(), picture.height()) == (size.width, size.height);
            if fits {
                Ok(pixels)
            } else {
                stretch_bicubic(&pixels, size)
            }
        };
        let frames = pictures.iter().map(frame).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_stack(&frames, 1)?.f_to_device(self.settings.target.device)?)
    }

    pub(crate) fn negative_text(&self) -> Result<Tensor> {
        if let Some(known) = self.negative.get() {
            return Ok(known.shallow_clone());
        }
        let prompt = self
            .settings
            .negative_prompt
            .as_deref()
            .unwrap_or(DEFAULT_NEGATIVE_PROMPT);
        let encoded = self.text.encode(prompt)?;
        Ok(self.negative.get_or_init(|| encoded).shallow_clone())
    }

    /// The encoding of an all-grey clip, computed once per size.
    pub(crate) fn grey_latents(
        &self,
        key: (i64, u32, u32),
        clip: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        if let Some(known) = self.grey.borrow().get(&key) {
            return Ok(known.shallow_clone());
        }
        let latents = self.encode_clip(&clip()?)?;
        self.grey.borrow_mut().insert(key, latents.shallow_clone());
        Ok(latents)
    }
}

/// blake3 of every component's tensors and of the adapters.
fn digests(paths: &StoryMemPaths) -> Result<Vec<(String, String)>> {
    let mut digests = Vec::new();
    for (pipeline, folder) in [
        ("t2v", &paths.text_to_video),
        ("i2v", &paths.image_to_video),
    ] {
        for part in ["transformer", "transformer_2", "vae", "text_encoder"] {
            let component = folder.join(part);
            if component.is_dir() {
                let digest = Checkpoint::open(&component)?.digest()?;
                digests.push((format!("{pipeline}/{part}"), digest));
            }
        }
    }
    digests.push(("clip".to_owned(), Checkpoint::open(&paths.clip)?.digest()?));
    for name in ["backbone_high_noise", "backbone_low_noise"] {
        if let Some(lora) = &paths.lora {
            let file = lora.join(format!("{name}.safetensors"));
            let adapter = Checkpoint::from_files(
                &file,
                serde_json::Value::Null,
                std::slice::from_ref(&file),
            )?;
            digests.push((format!("lora/{name}"), adapter.digest()?));
        }
    }
    Ok(digests)
}

/// A picture of a story as one of the image library.
pub(crate) fn plain_picture(picture: &RgbImage) -> Result<image::RgbImage> {
    let data = picture.data().to_vec();
    image::RgbImage::from_raw(picture.width(), picture.height(), data)
        .ok_or_else(|| ModelError::input("picture", "its size does not fit its data"))
}

/// The inverse of [`plain_picture`].
pub(crate) fn story_picture(picture: image::RgbImage) -> Result<RgbImage> {
    let (width, height) = picture.dimensions();
    RgbImage::new(width, height, picture.into_raw())
        .map_err(|error| ModelError::input("picture", error.to_string()))
}

/// The folders below `models.dir`: `t2v`, `i2v`, `clip`, and `lora` or where the user has it.
pub fn storymem_paths(dir: &Path, lora: Option<PathBuf>) -> StoryMemPaths {
    use crate::tiny::folders;
    StoryMemPaths {
        text_to_video: dir.join(folders::TEXT_TO_VIDEO),
        image_to_video: dir.join(folders::IMAGE_TO_VIDEO),
        lora,
        clip: dir.join(folders::CLIP),
    }
}
