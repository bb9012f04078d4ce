//! Going on from a finished set of checkpoints: what a run takes over from it.
//!
//! A machine that training was done on may be gone, and its checkpoints with it; what was shipped is
//! still there. A set has no moments of AdamW, and its few-step form has lost its empty captions, but
//! what took hours to learn is in it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use storyloom_models::autoencoder::{AutoencoderKlWan, VaeConfig};
use storyloom_models::text::T5Encoder;
use storyloom_models::tiny::folders;
use storyloom_models::tiny::hub::{DIFFUSION, TRANSFORMERS};
use storyloom_models::wan::{WanConfig, WanTransformer};
use storyloom_nn::ModelError;
use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};

use super::Run;
use crate::error::{Result, TrainError};
use crate::json;
use crate::latents::Statistics;
use crate::params::{Tensors, layout};
use crate::shape::Shape;
use crate::stages::StageName;
use crate::stages::flow::parts;
use crate::stages::scorer::shipped;
use crate::words::Words;

/// What a run notes of the set it goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// blake3 of the weights.
    pub weights: String,
    /// The model card: how these came about.
    pub card: String,
}

/// The weights of a set, in f32.
#[derive(Debug)]
pub struct Given {
    /// The autoencoder.
    pub vae: Tensors,
    /// Mean and deviation of its latents.
    pub statistics: Statistics,
    /// What is in the place of stages, by its [names](parts) in training: the vision tower that selects
    /// keyframes; transformer and text encoder of text to video; the transformer that takes memory
    /// pictures.
    pub stages: [(StageName, Tensors); 3],
    /// What to note of them.
    pub origin: Origin,
}

impl Given {
    /// Reads the set in `folder`, whose networks are to have this shape and whose tokenizer the
    /// `words` in that file.
    ///
    /// # Errors
    /// A file that is missing or damaged, networks of another shape, another vocabulary.
    pub fn read(folder: &Path, shape: &Shape, rows: i64, words: &Path) -> Result<Self> {
        let text_to_video = folder.join(folders::TEXT_TO_VIDEO);
        let image_to_video = folder.join(folders::IMAGE_TO_VIDEO);
        let tokenizer = text_to_video.join("tokenizer/tokenizer.json");
        if bytes(&tokenizer)? != bytes(words)? {
            let reason = "it knows other words than those of the drawn world";
            return Err(TrainError::bad_file(&tokenizer, reason));
        }
        let mut reader = Reader::default();
        let text = shape.text_encoder(rows)?;
        let mut text_to_video_tensors = reader.below(
            parts::TEXT,
            &text_to_video.join("text_encoder").join(TRANSFORMERS),
            |weights| T5Encoder::load(weights, text.clone()).map(drop),
        )?;
        is_of_preset(&text_to_video.join("text_encoder"), &text)?;
        text_to_video_tensors
            .extend(reader.transformer(&text_to_video, shape.transformer(false)?)?);
        let image_to_video = reader.transformer(&image_to_video, shape.transformer(true)?)?;
        let vae = text_to_video.join("vae");
        let (published, config): (VaeConfig, _) =
            (json::read(&vae.join("config.json"))?, shape.vae()?);
        let config = VaeConfig {
            latents_mean: published.latents_mean.clone(),
            latents_std: published.latents_std.clone(),
            ..config
        };
        let codec = reader.tensors(&vae.join(DIFFUSION), |weights| {
            AutoencoderKlWan::load(weights, config.clone()).map(drop)
        })?;
        is_of_preset(&vae, &config)?;
        let statistics = Statistics {
            mean: published.latents_mean,
            std: published.latents_std,
        };
        let clip = shape.clip()?;
        let tower = folder.join(folders::CLIP);
        let scorer =
            reader.tensors(&tower.join(TRANSFORMERS), |weights| shipped(weights, &clip))?;
        is_of_preset(&tower, &clip)?;
        let card = folder.join("README.md");
        let card = fs::read_to_string(&card).map_err(|error| TrainError::io(&card, error))?;
        Ok(Self {
            vae: codec,
            statistics,
            stages: [
                (StageName::Scorer, scorer),
                (StageName::Clips, text_to_video_tensors),
                (StageName::Memory, image_to_video),
            ],
            origin: Origin {
                weights: reader.hash.finalize().to_hex().to_string(),
                card,
            },
        })
    }
}

impl Run {
    /// Goes on from the set of checkpoints in `set` instead of from nothing: autoencoder, text encoder
    /// and vision tower are taken as they are, and the transformers are trained on. Again on the same
    /// run with the same set it does nothing.
    ///
    /// # Errors
    /// A set of another shape or world; a run that has begun without it or from other weights.
    pub fn go_on_from(&self, set: &Path) -> Result<()> {
        let tokenizer = self.folder.join("tokenizer");
        let words = Words::write(&tokenizer)?;
        let tokenizer = tokenizer.join("tokenizer.json");
        let given = Given::read(set, &self.preset.shape, words.rows(), &tokenizer)?;
        match Origin::of(&self.folder)? {
            Some(origin) if origin.weights == given.origin.weights => return Ok(()),
            Some(_) => {
                let reason = "this run goes on from another set; name another folder for it";
                return Err(TrainError::bad_file(&self.folder, reason));
            }
            None => {}
        }
        for &stage in StageName::ALL {
            if self.files(stage)?.average()?.is_some() {
                let reason = format!(
                    "stage {} of this run has begun without a set; name another folder",
                    stage.name()
                );
                return Err(TrainError::bad_file(&self.folder, reason));
            }
        }
        self.put_codec(&given.vae, &given.statistics)?;
        for (stage, tensors) in &given.stages {
            self.files(*stage)?.give(tensors)?;
        }
        given.origin.write(&self.folder)
    }
}

/// Reads weights and remembers what it has read.
#[derive(Default)]
struct Reader {
    hash: blake3::Hasher,
}

impl Reader {
    /// Everything that `load` asks for, from a file that has it in these sizes.
    fn tensors(
        &mut self,
        path: &Path,
        load: impl FnOnce(&Weights) -> storyloom_nn::Result<()>,
    ) -> Result<Tensors> {
        self.hash.update(&bytes(path)?);
        let file = Checkpoint::from_files(path, Value::Null, &[path.to_owned()])?;
        let weights = file.weights(Target::CPU_F32);
        let mut tensors = Tensors::new();
        for (name, shape) in layout(load)? {
            let tensor = weights.take(&name, &shape).map_err(|error| match error {
                ModelError::WeightShape {
                    name,
                    wanted,
                    found,
                    ..
                } => TrainError::bad_file(path, of_another_size(&name, &wanted, &found)),
                _ => error.into(),
            })?;
            tensors.insert(name, tensor);
        }
        weights.finish()?;
        Ok(tensors)
    }

    /// The same, with names below `part`.
    fn below(
        &mut self,
        part: &str,
        path: &Path,
        load: impl FnOnce(&Weights) -> storyloom_nn::Result<()>,
    ) -> Result<Tensors> {
        let tensors = self.tensors(path, load)?;
        let named = |(name, tensor)| (format!("{part}.{name}"), tensor);
        Ok(tensors.into_iter().map(named).collect())
    }

    fn transformer(&mut self, pipeline: &Path, config: WanConfig) -> Result<Tensors> {
        let folder = pipeline.join("transformer");
        let tensors = self.below(parts::TRANSFORMER, &folder.join(DIFFUSION), |weights| {
            WanTransformer::load(weights, config.clone()).map(drop)
        })?;
        is_of_preset(&folder, &config)?;
        Ok(tensors)
    }
}

/// Fails if the config of a network says another one than the preset's: tensors of equal sizes are not enough,
/// since it is trained and exported as the preset has it.
fn is_of_preset<C: PartialEq + DeserializeOwned>(folder: &Path, wanted: &C) -> Result<()> {
    let path = folder.join("config.json");
    match json::read::<C>(&path)? == *wanted {
        true => Ok(()),
        false => {
            let reason = "the tensors have the sizes of the preset, but this says another network";
            Err(TrainError::bad_file(&path, reason))
        }
    }
}

/// Why a tensor of a set is not the preset's, and which set is.
fn of_another_size(name: &str, wanted: &[i64], found: &[i64]) -> String {
    format!(
        "the set is of another size than the preset: {name} has the shape {found:?}, and the preset asks for \
         {wanted:?}; give --from a set that `train tiny` made with the same preset"
    )
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| TrainError::io(path, error))
}

/// Where a run notes its [`Origin`].
fn note(run: &Path) -> PathBuf {
    run.join("given.json")
}

impl Origin {
    /// What the run in `folder` has noted, if it goes on from a set.
    pub fn of(folder: &Path) -> Result<Option<Self>> {
        let path = note(folder);
        if !path.exists() {
            return Ok(None);
        }
        json::read(&path).map(Some)
    }

    /// Notes it for the run in `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        json::write(&note(folder), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::Preset;

    const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/storyloom-tiny");

    /// A set that training cannot go on from is refused by the file that says so.
    #[test]
    fn a_set_of_other_words_or_another_size_is_refused() {
        let set = Path::new(SHIPPED);
        let words = set.join("t2v/tokenizer/tokenizer.json");
        let shape = Preset::tiny().shape;
        let text: Value = json::read(&set.join("t2v/text_encoder/config.json")).unwrap();
        let rows = text["vocab_size"].as_i64().unwrap();
        let given = Given::read(set, &shape, rows, &words).unwrap();
        assert_eq!(given.statistics.mean.len() as i64, shape.latent);
        assert_eq!(given.origin.weights.len(), 64);

        let other = set.join("clip/config.json");
        let said = Given::read(set, &shape, rows, &other)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("tokenizer.json") && said.contains("other words"),
            "{said}"
        );
        let wider = Shape { heads: 8, ..shape };
        let said = Given::read(set, &wider, rows, &words)
            .unwrap_err()
            .to_string();
        assert!(said.contains("another size than the preset"), "{said}");
        assert_eq!(said.matches("t2v/transformer").count(), 1, "{said}");
        assert!(
            said.ends_with("give --from a set that `train tiny` made with the same preset"),
            "{said}"
        );
        let said = Given::read(&set.join("clip"), &shape, rows, &words)
            .unwrap_err()
            .to_string();
        assert!(said.contains("clip/t2v/tokenizer"), "{said}");
    }

    /// A run that goes on from a set knows it again, and any other run has noted none.
    #[test]
    fn a_run_notes_where_it_goes_on_from() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Origin::of(folder.path()).unwrap(), None);
        let origin = Origin {
            weights: "ab".repeat(32),
            card: "# A card".to_owned(),
        };
        origin.write(folder.path()).unwrap();
        assert_eq!(Origin::of(folder.path()).unwrap(), Some(origin));
        fs::write(note(folder.path()), "{").unwrap();
        let said = Origin::of(folder.path()).unwrap_err().to_string();
        assert!(said.contains("given.json"), "{said}");
    }
}
