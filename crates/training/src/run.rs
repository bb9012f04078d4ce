//! A training run: its folder and its stages.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storyloom_models::tch::Device;

use crate::autoencoder::VaeStage;
use crate::error::{Result, TrainError};
use crate::flow::{FlowSettings, FlowShape, FlowStage, FlowStart, text_encoder, widened};
use crate::latents::{LatentCodec, Statistics};
use crate::optimizer::AdamSettings;
use crate::params::{self, Tensors};
use crate::preset::Preset;
use crate::stage::{Rhythm, Stage, StageFiles, train};
use crate::words::Words;

/// The stages, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageName {
    /// The autoencoder.
    Vae,
    /// Text to a picture: transformer and text encoder.
    Pictures,
    /// Text to video.
    Clips,
    /// Memory pictures and text to video.
    Memory,
}

impl StageName {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::Vae, Self::Pictures, Self::Clips, Self::Memory];

    /// As it is written, also the name of its folder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vae => "vae",
            Self::Pictures => "pictures",
            Self::Clips => "clips",
            Self::Memory => "memory",
        }
    }
}

/// A folder in which a model is trained.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    preset: Preset,
    seed: u64,
    device: Device,
}

impl Run {
    /// The run in `folder`, which is made if it is not there.
    pub fn new(folder: &Path, preset: Preset, seed: u64, device: Device) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|error| TrainError::io(folder, error))?;
        Ok(Self {
            folder: folder.to_owned(),
            preset,
            seed,
            device,
        })
    }

    /// Trains one stage from where it stands; whether it is done. It stops early, resumable, after
    /// `time` or when `stop` is set.
    pub fn train(
        &self,
        stage: StageName,
        time: Option<Duration>,
        stop: &AtomicBool,
    ) -> Result<bool> {
        let files = StageFiles::new(&self.folder, stage.name())?;
        let (mut network, settings): (Box<dyn Stage>, AdamSettings) = match stage {
            StageName::Vae => {
                let (settings, adam) = self.preset.vae;
                let config = self.preset.shape.vae()?;
                let source = self.preset.source;
                let saved = files.params()?;
                let stage = VaeStage::new(config, settings, source, self.seed, self.device, saved)?;
                (Box::new(stage), adam)
            }
            StageName::Pictures => self.flow(stage, &files, self.preset.pictures)?,
            StageName::Clips => self.flow(stage, &files, self.preset.clips)?,
            StageName::Memory => self.flow(stage, &files, self.preset.memory)?,
        };
        let rhythm = Rhythm {
            steps: settings.steps,
            log_every: self.preset.log_every,
            save_every: self.preset.save_every,
            preview_every: self.preset.preview_every,
            time,
        };
        train(network.as_mut(), &files, settings, rhythm, stop)
    }

    fn flow(
        &self,
        stage: StageName,
        files: &StageFiles,
        (settings, adam): (FlowSettings, AdamSettings),
    ) -> Result<(Box<dyn Stage>, AdamSettings)> {
        let words = Words::write(&self.folder.join("tokenizer"))?;
        let pictures = stage == StageName::Memory;
        let shape = FlowShape {
            transformer: self.preset.shape.transformer(pictures)?,
            text: self.preset.shape.text_encoder(words.rows())?,
        };
        let mut params = files.params()?;
        let mut frozen = None;
        match stage {
            StageName::Clips if params.is_none() => {
                params = Some(self.average(StageName::Pictures, stage)?);
            }
            StageName::Memory => {
                let teacher = self.average(StageName::Clips, stage)?;
                frozen = Some(text_encoder(&teacher));
                if params.is_none() {
                    params = Some(widened(&teacher, shape.transformer.in_channels)?);
                }
            }
            _ => {}
        }
        let start = FlowStart {
            params,
            frozen,
            state: files.state()?,
        };
        let codec = self.codec()?;
        let name = stage.name();
        let (seed, device) = (self.seed, self.device);
        let stage = FlowStage::new(name, shape, settings, codec, words, start, seed, device)?;
        Ok((Box::new(stage), adam))
    }

    /// The averaged weights of `stage`, which `wants` starts from.
    fn average(&self, stage: StageName, wants: StageName) -> Result<Tensors> {
        let average = StageFiles::new(&self.folder, stage.name())?.average()?;
        let too_early = TrainError::TooEarly {
            stage: wants.name(),
            needs: stage.name(),
        };
        Ok(average.ok_or(too_early)?.0)
    }

    /// The autoencoder that the other stages work with: the averaged weights as they were when the
    /// first of them began, with the statistics of their latents.
    pub fn codec(&self) -> Result<LatentCodec> {
        let config = self.preset.shape.vae()?;
        let (weights, numbers) = (
            self.folder.join("codec.safetensors"),
            self.folder.join("codec.json"),
        );
        if !numbers.exists() {
            let average = self.average(StageName::Vae, StageName::Pictures)?;
            let statistics = LatentCodec::measure(&config, &average, self.preset.source)?;
            params::save(&weights, &average)?;
            let text = serde_json::to_string_pretty(&statistics)
                .map_err(|error| TrainError::bad_file(&numbers, error))?;
            fs::write(&numbers, text).map_err(|error| TrainError::io(&numbers, error))?;
        }
        let text = fs::read(&numbers).map_err(|error| TrainError::io(&numbers, error))?;
        let statistics: Statistics =
            serde_json::from_slice(&text).map_err(|error| TrainError::bad_file(&numbers, error))?;
        let tensors = params::read(&weights)?;
        Ok(LatentCodec::new(
            config,
            &statistics,
            tensors,
            self.preset.source,
            self.device,
        ))
    }
}
