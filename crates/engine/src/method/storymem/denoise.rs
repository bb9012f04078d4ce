//! Stage `denoise`: the loops of StoryMem on Wan2.2, over one or two experts each.

use std::path::Path;

use storyloom_models::sampler::Prediction;
use storyloom_models::wan::WanTransformer;
use storyloom_nn::checkpoint::{Target, component_folder};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::lora::{LoraSettings, apply_lora};
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::shard::Shard;
use storyloom_nn::tensor_file::to_host;
use storyloom_story::{HostTensor, LatentGrid, LoopState, PassName, ShotInputs};
use tch::{Device, Tensor};

use super::encode::Conditions;
use super::paths::{StoryMemPaths, no_image_to_video};
use super::settings::{DenoiseSettings, StoryMemSettings};
use crate::backbone::{CHANNELS, Conditioning, NetworkId, Networks, POSITIONS, TEXT};
use crate::guidance::Guidance;
use crate::method::wan::adapters::{AdaptedExpert, adapter_file};
use crate::replica::conditions::LoopConditions;
use crate::replica::team::Team;
use crate::sampling::{LoopPlan, LoopProgress, LoopStart, Phase};

/// The experts of both pipelines, by their numbers.
const TEXT_TO_VIDEO: [NetworkId; 2] = [NetworkId(0), NetworkId(1)];
const IMAGE_TO_VIDEO: [NetworkId; 2] = [NetworkId(2), NetworkId(3)];

/// The transformers of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Experts {
    high: NetworkId,
    low: Option<NetworkId>,
    /// Channels of the latents that are sampled.
    latents: i64,
    /// Channels of the condition that the transformers expect behind the latents.
    condition: i64,
}

impl Experts {
    /// Loads `transformer` and, where the pipeline has one, `transformer_2`, with their adapters.
    pub(super) fn open(
        networks: &mut Networks,
        [high, low]: [NetworkId; 2],
        pipeline: &Path,
        target: Target,
        lora: Option<(&Path, LoraSettings)>,
        shard: &Shard,
    ) -> Result<Self> {
        let has_low = component_folder(pipeline, AdaptedExpert::Low.component()).is_dir();
        let expert = |expert: AdaptedExpert| {
            let folder = component_folder(pipeline, expert.component());
            let mut model = WanTransformer::open_shard(&folder, target, shard)?;
            if let Some((lora, settings)) = lora {
                let file = adapter_file(lora, expert, !has_low)?;
                apply_lora(&mut model, &file, target, settings)?;
            }
            Ok::<_, ModelError>(model)
        };
        let first = expert(AdaptedExpert::High)?;
        let config = first.config();
        let latents = config.out_channels;
        let experts = Self {
            high,
            low: has_low.then_some(low),
            latents,
            condition: config.in_channels - latents,
        };
        networks.insert(high, Box::new(first));
        if has_low {
            networks.insert(low, Box::new(expert(AdaptedExpert::Low)?));
        }
        Ok(experts)
    }

    /// How they sample. `folder` is that of their pipeline.
    pub(super) fn plan(&self, folder: &Path, settings: &DenoiseSettings) -> Result<LoopPlan> {
        let phase = |network, scale, down_to| Phase {
            network,
            guidance: Guidance::classifier(scale),
            down_to,
        };
        let phases = match (settings.boundary, self.low) {
            (Some(_), None) if !has_one_expert(folder)? => {
                let reason = "a boundary between two experts is set, but there is no transformer_2";
                return Err(ModelError::bad_file(folder, reason));
            }
            // Nothing is below a boundary of 0.
            (Some(boundary), Some(low)) if boundary > 0.0 => vec![
                phase(self.high, settings.guidance_high, boundary),
                phase(low, settings.guidance_low, 0.0),
            ],
            _ => vec![phase(self.high, settings.guidance_high, 0.0)],
        };
        LoopPlan::new(
            PassName::SHOT,
            &settings.sampler,
            Prediction::Velocity,
            phases,
        )
    }

    /// Fails if a pipeline of this name needs other channels of latents and of its condition.
    fn check(&self, name: &str, latents: i64, condition: i64) -> Result<()> {
        if (self.latents, self.condition) == (latents, condition) {
            return Ok(());
        }
        let reason = format!(
            "its transformers take {} latent and {} condition channels, {latents} and {condition} \
             are needed",
            self.latents, self.condition
        );
        Err(ModelError::input(format!("the {name} pipeline"), reason))
    }
}

/// Whether the pipeline says itself that it has no second expert.
pub(super) fn has_one_expert(pipeline: &Path) -> Result<bool> {
    let path = pipeline.join("model_index.json");
    if !path.exists() {
        return Ok(false);
    }
    let text = std::fs::read(&path).map_err(|error| ModelError::io(&path, error))?;
    let index: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| ModelError::bad_file(&path, error.to_string()))?;
    Ok(index["transformer_2"][1].is_null())
}

/// Loads the transformers of both pipelines, whole or this rank's slices.
fn open_networks(
    paths: &StoryMemPaths,
    settings: &StoryMemSettings,
    shard: &Shard,
) -> Result<(Networks, Experts, Option<Experts>)> {
    let lora = paths.lora.as_deref().map(|folder| (folder, settings.lora));
    let mut networks = Networks::default();
    let (folder, target) = (&paths.text_to_video, settings.compute.target);
    let first = Experts::open(&mut networks, TEXT_TO_VIDEO, folder, target, None, shard)?;
    let others = paths
        .image_to_video
        .as_deref()
        .map(|folder| Experts::open(&mut networks, IMAGE_TO_VIDEO, folder, target, lora, shard));
    let others = others.transpose()?;
    Ok((networks, first, others))
}

/// How the loops of both pipelines walk, and what their latents look like.
#[derive(Debug)]
pub(super) struct Loops {
    text_to_video: LoopPlan,
    image_to_video: Option<LoopPlan>,
    grid: LatentGrid,
    device: Device,
}

impl Loops {
    /// Loads the transformers of both pipelines, whole or this rank's slices.
    pub(super) fn open(
        paths: &StoryMemPaths,
        settings: &StoryMemSettings,
        grid: LatentGrid,
        shard: &Shard,
    ) -> Result<(Networks, Self)> {
        let (networks, first, others) = open_networks(paths, settings, shard)?;
        let pictures = paths.image_to_video.as_deref().zip(others);
        let text_to_video = first.plan(&paths.text_to_video, &settings.text_to_video)?;
        let image_to_video = pictures
            .map(|(folder, experts)| experts.plan(folder, &settings.image_to_video))
            .transpose()?;
        let latents = i64::from(grid.channels);
        first.check("text-to-video", latents, 0)?;
        if let Some(experts) = others {
            // The mask of the pixel frames of each latent frame, and the latents of what is given.
            let condition = i64::from(grid.frames) + latents;
            experts.check("image-to-video", latents, condition)?;
        }
        let loops = Self {
            text_to_video,
            image_to_video,
            grid,
            device: settings.compute.target.device,
        };
        Ok((networks, loops))
    }

    /// Noise to normalised latents `[C, T, h, w]`, memory slots dropped.
    pub(super) fn denoise(
        &self,
        (networks, team): (&Networks, &Team),
        inputs: &ShotInputs,
        conditions: &Conditions,
        resume: Option<&LoopState>,
        observer: &mut dyn FnMut(&LoopProgress) -> bool,
    ) -> Result<HostTensor> {
        let plan = match conditions.pictures {
            Some(_) => self.image_to_video.as_ref().ok_or_else(no_image_to_video)?,
            None => &self.text_to_video,
        };
        let start = LoopStart {
            noise: &self.noise(inputs, conditions)?,
            conditions: &loop_conditions(conditions)?,
            resume,
        };
        let latents = plan.sample(networks, team, &start, observer)?;
        let memory = conditions.memory as i64;
        let frames = latents.size()[2] - memory;
        to_host(&latents.f_narrow(2, memory, frames)?.f_squeeze_dim(0)?)
    }

    /// Memory slots and the shot draw from streams of their own, so that the shot's noise does
    /// not depend on how much it remembers. `[1, C, memory + T, h, w]` in f32.
    fn noise(&self, inputs: &ShotInputs, conditions: &Conditions) -> Result<Tensor> {
        let [height, width] = self.grid.plane(inputs.request.video.resolution());
        let [channels, height, width] = [self.grid.channels, height, width].map(i64::from);
        let frames = (conditions.positions.len() - conditions.memory) as i64;
        let seed = inputs.request.seed;
        let draw = |stream, frames| gaussian(seed, stream, &[1, channels, frames, height, width]);
        let shot = draw(Stream::Shot, frames)?;
        let noise = match conditions.memory as i64 {
            0 => shot,
            memory => Tensor::f_cat(&[draw(Stream::Memory, memory)?, shot], 2)?,
        };
        Ok(noise.f_to_device(self.device)?)
    }
}

/// What the transformers see of the conditions of a shot; both prompts with the same pictures.
fn loop_conditions(conditions: &Conditions) -> Result<LoopConditions> {
    let positions = Tensor::f_from_slice(&conditions.positions)?;
    let mut shared = Conditioning::default().with(POSITIONS, positions);
    if let Some(pictures) = &conditions.pictures {
        shared = shared.with(CHANNELS, pictures.shallow_clone());
    }
    let text = |rows: &Tensor| Conditioning::default().with(TEXT, rows.shallow_clone());
    Ok(LoopConditions {
        shared,
        positive: text(&conditions.text.positive),
        negative: text(&conditions.text.negative),
    })
}

#[cfg(test)]
#[path = "denoise_test.rs"]
mod tests;
