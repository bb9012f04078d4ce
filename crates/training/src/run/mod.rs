//! A training run: its folder and its stages.

mod card;
pub mod export;
pub mod given;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use storyloom_nn::tch::Device;

use crate::curve;
use crate::error::{Result, TrainError};
use crate::json;
use crate::latents::{LatentCodec, Statistics};
use crate::params::{self, Tensors};
use crate::preset::Preset;
use crate::stage::{Rhythm, StageFiles, train};
use crate::stages::{self, StageName};
use crate::words::Words;
pub use export::Form;
use given::Origin;

/// How long and how fast a stage is trained, where it is not as the preset says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pace {
    /// Steps of the stage in all.
    pub steps: Option<u64>,
    /// Learning rate.
    pub rate: Option<f64>,
    /// Time after which it stops, resumable.
    pub time: Option<Duration>,
}

/// A folder in which a model is trained.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    /// Shapes and settings.
    pub(crate) preset: Preset,
    /// What all random choices follow from.
    pub(crate) seed: u64,
    /// Where networks are trained.
    pub(crate) device: Device,
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

    /// The stages that make what is shipped, in order.
    pub fn stages(&self) -> Result<Vec<StageName>> {
        let mut stages = StageName::shipped();
        if Origin::of(&self.folder)?.is_some() {
            stages.retain(|stage| !stage.comes_finished());
        }
        Ok(stages)
    }

    /// Trains one stage from where it stands; whether it is done. It stops early, resumable, when its
    /// time is over or `stop` is set.
    pub fn train(&self, stage: StageName, pace: Pace, stop: &AtomicBool) -> Result<bool> {
        if stage.comes_finished() && Origin::of(&self.folder)?.is_some() {
            let stage = stage.name();
            return Err(TrainError::Finished { stage });
        }
        let files = self.files(stage)?;
        let (mut network, mut settings) = stage.open(self, &files)?;
        settings.steps = pace.steps.unwrap_or(settings.steps);
        settings.rate = pace.rate.unwrap_or(settings.rate);
        let rhythm = Rhythm {
            steps: settings.steps,
            log_every: self.preset.log_every,
            save_every: self.preset.save_every,
            preview_every: self.preset.preview_every,
            time: pace.time,
        };
        train(network.as_mut(), &files, settings, rhythm, stop)
    }

    pub(crate) fn files(&self, stage: StageName) -> Result<StageFiles> {
        StageFiles::new(&self.folder, stage.name())
    }

    /// The words of the world; their tokenizer is written beside the stages.
    pub(crate) fn words(&self) -> Result<Words> {
        Words::write(&self.folder.join("tokenizer"))
    }

    /// The averaged weights of `stage`, which `wants` starts from.
    pub(crate) fn average(&self, stage: StageName, wants: &'static str) -> Result<Tensors> {
        let average = self.files(stage)?.average()?;
        let too_early = TrainError::TooEarly {
            stage: wants,
            needs: stage.name(),
        };
        Ok(average.ok_or(too_early)?.0)
    }

    /// Writes the loss curves of all stages that have begun, as `curve-STAGE.svg` in `folder`.
    pub fn draw_curves(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).map_err(|error| TrainError::io(folder, error))?;
        for &stage in StageName::ALL {
            let curve = self.folder.join(stage.name()).join("curve.jsonl");
            let points = curve::read(&curve)?;
            if points.is_empty() {
                continue;
            }
            let path = folder.join(format!("curve-{}.svg", stage.name()));
            let svg = curve::draw(&format!("{}: loss", stage.name()), &points);
            fs::write(&path, svg).map_err(|error| TrainError::io(&path, error))?;
        }
        Ok(())
    }

    /// The autoencoder that the other stages work with: the averaged weights as they were when the
    /// first of them began, with the statistics of their latents.
    pub fn codec(&self) -> Result<LatentCodec> {
        let config = self.preset.shape.vae()?;
        let [weights, numbers] = self.codec_files();
        if !numbers.exists() {
            let average = stages::vae::finished(self)?;
            let statistics = LatentCodec::measure(&config, &average, self.preset.source)?;
            self.put_codec(&average, &statistics)?;
        }
        let statistics: Statistics = json::read(&numbers)?;
        let tensors = params::read(&weights)?;
        Ok(LatentCodec::new(
            config,
            &statistics,
            tensors,
            self.preset.source,
            self.device,
        ))
    }

    /// Weights and statistics of the autoencoder that stages work with.
    fn codec_files(&self) -> [PathBuf; 2] {
        ["codec.safetensors", "codec.json"].map(|name| self.folder.join(name))
    }

    fn put_codec(&self, vae: &Tensors, statistics: &Statistics) -> Result<()> {
        let [weights, numbers] = self.codec_files();
        params::save(&weights, vae)?;
        json::write(&numbers, statistics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static STILL: AtomicBool = AtomicBool::new(false);

    fn run(folder: &Path, preset: Preset) -> Run {
        Run::new(folder, preset, 3, Device::Cpu).unwrap()
    }

    fn weights(run: &Run, stage: StageName) -> Tensors {
        let files = StageFiles::new(&run.folder, stage.name()).unwrap();
        files.params().unwrap().unwrap()
    }

    /// The test preset with the `steps` of each stage.
    fn shortened(steps: [u64; 3]) -> Preset {
        let mut preset = Preset::test();
        preset.vae.1.steps = steps[0];
        preset.captions.1.steps = steps[1];
        preset.pictures.1.steps = steps[2];
        preset
    }

    #[test]
    fn every_stage_stopped_and_resumed_gives_the_same_bits() {
        let [calm, broken] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        let whole = run(calm.path(), Preset::test());
        let resumed = run(broken.path(), Preset::test());
        let step = Pace {
            time: Some(Duration::ZERO),
            ..Pace::default()
        };
        for &stage in StageName::ALL {
            assert!(
                whole.train(stage, Pace::default(), &STILL).unwrap(),
                "{stage:?}"
            );
            // No time: one step, and a checkpoint.
            for _ in 0..3 {
                assert!(!resumed.train(stage, step, &STILL).unwrap());
            }
            assert!(resumed.train(stage, Pace::default(), &STILL).unwrap());
            let (one, other) = (weights(&whole, stage), weights(&resumed, stage));
            assert!(!one.is_empty());
            for (name, tensor) in &one {
                assert_eq!(*tensor, other[name], "{stage:?} {name}");
            }
        }
        let points = curve::read(&calm.path().join("vae/curve.jsonl")).unwrap();
        assert_eq!(points.last().unwrap().step, 12);
        whole.draw_curves(calm.path()).unwrap();
        assert!(calm.path().join("curve-fast-memory.svg").exists());
    }

    #[test]
    fn losses_fall() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(folder.path(), shortened([60, 60, 80]));
        for stage in [StageName::Vae, StageName::Captions, StageName::Pictures] {
            run.train(stage, Pace::default(), &STILL).unwrap();
            let points = curve::read(&folder.path().join(stage.name()).join("curve.jsonl"));
            let losses: Vec<f64> = points.unwrap().iter().map(|point| point.loss).collect();
            let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
            let (first, last) = losses.split_at(losses.len() / 2);
            let (first, last) = (mean(&first[..4]), mean(&last[last.len() - 8..]));
            assert!(last < 0.9 * first, "{stage:?}: {losses:?}");
        }
    }

    /// Names and bytes of a file of a set.
    fn tensors(set: &Path, file: &str) -> Tensors {
        params::read(&set.join(file)).unwrap()
    }

    #[test]
    fn a_run_goes_on_from_a_finished_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let first = run(&path("first"), Preset::test());
        for stage in StageName::shipped() {
            first.train(stage, Pace::default(), &STILL).unwrap();
        }
        let (set, guided) = (path("set"), path("guided"));
        first.export(&set, Form::Fast).unwrap();
        first.export(&guided, Form::Guided).unwrap();
        let refused = first.go_on_from(&set).unwrap_err();
        assert!(refused.to_string().contains("begun"), "{refused}");

        let further = run(&path("further"), Preset::test());
        further.go_on_from(&set).unwrap();
        further.go_on_from(&set).unwrap();
        let refused = further.go_on_from(&guided).unwrap_err();
        assert!(refused.to_string().contains("another set"), "{refused}");
        let refused = further.train(StageName::Vae, Pace::default(), &STILL);
        assert!(matches!(refused, Err(TrainError::Finished { .. })));
        let stages = further.stages().unwrap();
        assert_eq!(stages, StageName::shipped()[3..]);
        let pace = Pace {
            steps: Some(3),
            rate: Some(1e-4),
            time: None,
        };
        for stage in stages {
            assert!(further.train(stage, pace, &STILL).unwrap());
            let points = curve::read(&further.files(stage).unwrap().curve()).unwrap();
            assert_eq!(points.last().unwrap().step, 2, "one line of the log");
        }
        let second = path("second");
        further.export(&second, Form::Fast).unwrap();
        for (file, is_kept) in [
            ("clip/model.safetensors", true),
            ("t2v/text_encoder/model.safetensors", true),
            ("t2v/vae/diffusion_pytorch_model.safetensors", true),
            ("t2v/transformer/diffusion_pytorch_model.safetensors", false),
            ("i2v/transformer/diffusion_pytorch_model.safetensors", false),
        ] {
            assert_eq!(
                tensors(&set, file) == tensors(&second, file),
                is_kept,
                "{file}"
            );
        }
        let [before, after] =
            [&set, &second].map(|set| fs::read_to_string(set.join("README.md")).unwrap());
        assert!(after.starts_with(&before), "{after}");
        assert!(after.len() > before.len(), "{after}");
        // A set of another size is not taken.
        let other = run(&path("other"), Preset::tiny());
        let refused = other.go_on_from(&set).unwrap_err();
        assert!(refused.to_string().contains("another size"), "{refused}");
        // Nor is one whose tensors have the right sizes, and whose network divides them otherwise.
        let last = run(&path("last"), Preset::test());
        for (part, key) in [
            ("i2v/transformer", "eps"),
            ("t2v/text_encoder", "layer_norm_epsilon"),
            ("clip", "layer_norm_eps"),
        ] {
            let config = set.join(part).join("config.json");
            let before = fs::read_to_string(&config).unwrap();
            let mut other: serde_json::Value = serde_json::from_str(&before).unwrap();
            other[key] = 0.5.into();
            fs::write(&config, other.to_string()).unwrap();
            let refused = last.go_on_from(&set).unwrap_err().to_string();
            assert!(refused.contains("another network"), "{part}: {refused}");
            fs::write(&config, before).unwrap();
        }
        last.go_on_from(&set).unwrap();
    }

    #[test]
    fn stages_have_an_order() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(folder.path(), Preset::test());
        for stage in &StageName::ALL[3..] {
            let error = run.train(*stage, Pace::default(), &STILL).unwrap_err();
            assert!(matches!(error, TrainError::TooEarly { .. }), "{error}");
        }
        for form in [Form::Fast, Form::Guided, Form::Lora] {
            let error = run.export(&folder.path().join("set"), form).unwrap_err();
            assert!(error.to_string().contains("train that first"), "{error}");
        }
    }
}
