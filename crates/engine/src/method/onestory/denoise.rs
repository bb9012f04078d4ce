//! Stage `denoise`: the loop of OneStory on Wan, with one transformer.

use std::path::Path;

use storyloom_models::sampler::Prediction;
use storyloom_models::wan::{WanConfig, WanTransformer};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::lora::apply_lora;
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::shard::Shard;
use storyloom_nn::tensor_file::to_host;
use storyloom_story::{HostTensor, LatentGrid, LoopState, PassName, ShotInputs};
use tch::{Device, Tensor};

use super::condition::ShotConditions;
use super::paths::{self, OneStoryPaths};
use super::settings::OneStorySettings;
use crate::backbone::{
    CHANNELS, CONTEXT, CONTEXT_IS_CLEAN, CONTEXT_POSITIONS, Conditioning, IMAGE, NetworkId,
    Networks, TEXT,
};
use crate::guidance::Guidance;
use crate::replica::conditions::LoopConditions;
use crate::replica::team::Team;
use crate::sampling::{LoopPlan, LoopProgress, LoopStart, Phase};

/// The only transformer.
const TRANSFORMER: NetworkId = NetworkId(0);

/// How the loop walks, and what its latents look like.
#[derive(Debug)]
pub(super) struct Loop {
    plan: LoopPlan,
    grid: LatentGrid,
    device: Device,
    context_is_clean: bool,
}

impl Loop {
    /// Loads the transformer, whole or this rank's slices.
    pub(super) fn open(
        paths: &OneStoryPaths,
        settings: &OneStorySettings,
        grid: LatentGrid,
        shard: &Shard,
    ) -> Result<(Networks, Self)> {
        let (folder, target) = (paths.transformer(), settings.compute.target);
        let mut model = WanTransformer::open_shard(&folder, target, shard)?;
        if let Some(lora) = paths::lora(paths, settings.lora)? {
            apply_lora(&mut model, &lora.file, target, settings.lora)?;
        }
        check_channels(&folder, model.config(), grid)?;
        let phase = Phase {
            network: TRANSFORMER,
            guidance: Guidance::classifier(settings.guidance),
            down_to: 0.0,
        };
        let (sampler, shot) = (&settings.sampler, PassName::SHOT);
        let mut networks = Networks::default();
        networks.insert(TRANSFORMER, Box::new(model));
        let plan = LoopPlan::new(shot, sampler, Prediction::Velocity, vec![phase])?;
        let walk = Self {
            plan,
            grid,
            device: target.device,
            context_is_clean: settings.context_is_clean,
        };
        Ok((networks, walk))
    }

    /// Noise to normalised latents `[C, T, h, w]`.
    pub(super) fn denoise(
        &self,
        (networks, team): (&Networks, &Team),
        inputs: &ShotInputs,
        conditions: &ShotConditions,
        resume: Option<&LoopState>,
        observer: &mut dyn FnMut(&LoopProgress) -> bool,
    ) -> Result<HostTensor> {
        let start = LoopStart {
            noise: &self.noise(inputs)?,
            conditions: &self.loop_conditions(conditions),
            resume,
        };
        let latents = self.plan.sample(networks, team, &start, observer)?;
        to_host(&latents.f_squeeze_dim(0)?)
    }

    /// `[1, C, T, h, w]` in f32.
    fn noise(&self, inputs: &ShotInputs) -> Result<Tensor> {
        let video = inputs.request.video;
        let [height, width] = self.grid.plane(video.resolution());
        let frames = self.grid.latent_frames(video.frames);
        let size = [1, self.grid.channels, frames, height, width].map(i64::from);
        let noise = gaussian(inputs.request.seed, Stream::Shot, &size)?;
        Ok(noise.f_to_device(self.device)?)
    }

    /// What the transformer sees; both prompts with the same image and context.
    fn loop_conditions(&self, conditions: &ShotConditions) -> LoopConditions {
        let beginning = &conditions.beginning;
        let mut shared = Conditioning::default();
        let parts = [(CHANNELS, &beginning.channels), (IMAGE, &beginning.image)];
        for (name, part) in parts {
            if let Some(part) = part {
                shared = shared.with(name, part.shallow_clone());
            }
        }
        if let Some(context) = &conditions.context {
            shared = shared
                .with(CONTEXT, context.tokens.shallow_clone())
                .with(CONTEXT_POSITIONS, context.positions.shallow_clone());
            if self.context_is_clean {
                shared = shared.with(CONTEXT_IS_CLEAN, Tensor::from(1.0_f32));
            }
        }
        let text = |rows: &Tensor| Conditioning::default().with(TEXT, rows.shallow_clone());
        LoopConditions {
            shared,
            positive: text(&beginning.text.positive),
            negative: text(&beginning.text.negative),
        }
    }
}

/// Fails for a transformer that samples other latents than the autoencoder makes, or is conditioned in a way
/// of its own.
fn check_channels(folder: &Path, config: &WanConfig, grid: LatentGrid) -> Result<()> {
    let latents = i64::from(grid.channels);
    let condition = config.in_channels - config.out_channels;
    // The mask of the pixel frames of each latent frame, and the latents of what is given.
    let image = i64::from(grid.frames) + latents;
    if config.out_channels == latents && (condition == 0 || condition == image) {
        return Ok(());
    }
    let reason = format!(
        "it takes {} latent and {condition} condition channels; {latents} and {image} are needed, or no \
         condition where no story begins with an image",
        config.out_channels
    );
    Err(ModelError::bad_file(folder.join("config.json"), reason))
}

#[cfg(test)]
#[path = "denoise_test.rs"]
mod tests;
