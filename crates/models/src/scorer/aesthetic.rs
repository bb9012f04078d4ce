//! The LAION aesthetic predictor: a linear head on CLIP embeddings.

use std::path::{Path, PathBuf};

use storyloom_nn::checkpoint::{Checkpoint, Target};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::image::plain_picture;
use storyloom_nn::layers::Linear;
use storyloom_nn::loaded::Source;
use storyloom_nn::tensor_file::to_host;
use storyloom_story::RgbImage;

use super::QualityScorer;
use crate::vision::clip::{ClipVision, ClipVisionConfig, PixelRule, pixel_values};

/// CLIP embedding of unit length, then one linear layer (`sa_0_4_vit_l_14_linear` of LAION, stored
/// as safetensors with `weight` `[1, width]` and `bias` `[1]`); about 1 to 10.
///
/// A folder of it has the vision tower in [`CLIP`](Self::CLIP) and the head in
/// [`HEAD`](Self::HEAD).
#[derive(Debug)]
pub struct AestheticHead {
    clip: ClipVision,
    head: Linear,
}

impl AestheticHead {
    /// What its score is called in recipes.
    pub const NAME: &'static str = "LAION aesthetic predictor";
    /// The folder of the vision tower, a CLIP ViT-L/14 with its projection.
    pub const CLIP: &'static str = "clip";
    /// The file of the linear layer.
    pub const HEAD: &'static str = "head.safetensors";

    /// Loads tower and head of the predictor in `folder`.
    ///
    /// # Errors
    /// One of them is missing, is something else, or they do not fit each other.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        let width = Self::check_clip(folder)?;
        Self::check_head(folder, Some(width))?;
        let clip = ClipVision::open(&folder.join(Self::CLIP), target)?;
        let file = Self::head_file(folder)?;
        let weights = file.weights(target);
        let head = Linear::load(&weights, width, 1)?;
        weights.finish()?;
        Ok(Self { clip, head })
    }

    /// Width of the embeddings of the tower in `folder`, by its config and the headers of its files.
    ///
    /// # Errors
    /// It is missing, or is no tower that gives embeddings.
    pub fn check_clip(folder: &Path) -> Result<i64> {
        let folder = folder.join(Self::CLIP);
        if !folder.is_dir() {
            let reason = "there is no such folder; it is to hold the vision tower of CLIP ViT-L/14 \
                          (openai/clip-vit-large-patch14)";
            return Err(ModelError::bad_file(folder, reason));
        }
        let checkpoint = Checkpoint::open(&folder)?;
        let config = ClipVisionConfig::of(&checkpoint)?;
        if !checkpoint
            .entries()
            .contains_key("visual_projection.weight")
        {
            let reason = "the tower has no visual_projection, so that it gives no embeddings; save it \
                          as CLIPVisionModelWithProjection";
            return Err(ModelError::bad_file(folder, reason));
        }
        Ok(config.projection_dim)
    }

    /// Whether the head in `folder` is for embeddings of `width` numbers; of any width if that is not
    /// known.
    ///
    /// # Errors
    /// It is missing, is no head, or is one for another tower.
    pub fn check_head(folder: &Path, width: Option<i64>) -> Result<()> {
        let path = folder.join(Self::HEAD);
        if !path.is_file() {
            let reason = "there is no such file; it is to hold LAION's sa_0_4_vit_l_14_linear";
            return Err(ModelError::bad_file(path, reason));
        }
        let file = Self::head_file(folder)?;
        let shape = |name| file.entries().get(name).map(|entry| entry.shape.as_slice());
        let found = match (shape("weight"), shape("bias")) {
            (Some(&[1, found]), Some([1])) => found,
            (weight, bias) => {
                let reason = format!(
                    "a head has a weight of shape [1, width] and a bias of shape [1], here they are \
                     {weight:?} and {bias:?}"
                );
                return Err(ModelError::bad_file(path, reason));
            }
        };
        match width {
            Some(width) if width != found => {
                let reason = format!(
                    "this head is for embeddings of {found} numbers, but the CLIP in {} beside it \
                     gives {width}; sa_0_4_vit_l_14_linear goes with openai/clip-vit-large-patch14, \
                     which gives 768",
                    Self::CLIP
                );
                Err(ModelError::bad_file(path, reason))
            }
            _ => Ok(()),
        }
    }

    /// Tower and head by the names that they have in recipes.
    pub fn parts(folder: &Path) -> [(String, Source); 2] {
        [
            (
                "aesthetic/clip".to_owned(),
                Source::Folder(folder.join(Self::CLIP)),
            ),
            (
                "aesthetic/head".to_owned(),
                Source::File(folder.join(Self::HEAD)),
            ),
        ]
    }

    fn head_file(folder: &Path) -> Result<Checkpoint> {
        let path: PathBuf = folder.join(Self::HEAD);
        Checkpoint::from_files(&path, serde_json::Value::Null, std::slice::from_ref(&path))
    }
}

impl QualityScorer for AestheticHead {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Vec<f32>> {
        let _guard = tch::no_grad_guard();
        let side = self.clip.config().image_size as u32;
        let plain = pictures.iter().map(|picture| plain_picture(picture));
        let plain = plain.collect::<Result<Vec<_>>>()?;
        let pixels = pixel_values(
            &plain.iter().collect::<Vec<_>>(),
            side,
            PixelRule::Processor,
        )?;
        let embeddings = self.clip.embed_normalised(&pixels)?;
        Ok(to_host(&self.head.forward(&embeddings)?)?.into_data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny::{folders, init_tiny};
    use storyloom_nn::tensor_file::{read_tensors, write_tensors};
    use storyloom_story::{Method, Seed};
    use tch::{Kind, Tensor};

    fn tiny() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        init_tiny(folder.path(), Method::StoryMem, Seed(3)).unwrap();
        let predictor = folder.path().join(folders::AESTHETIC);
        (folder, predictor)
    }

    fn picture(colour: [u8; 3]) -> RgbImage {
        RgbImage::new(64, 48, colour.repeat(64 * 48)).unwrap()
    }

    /// The score by hand: the embedding of the tower alone, times the numbers of the file.
    #[test]
    fn the_score_is_the_head_of_the_embedding() {
        let (_folder, predictor) = tiny();
        let scorer = AestheticHead::open(&predictor, Target::CPU_F32).unwrap();
        let pictures = [picture([200, 40, 30]), picture([20, 60, 190])];
        let scores = scorer.score(&[&pictures[0], &pictures[1]]).unwrap();
        let clip = ClipVision::open(&predictor.join("clip"), Target::CPU_F32).unwrap();
        let head = read_tensors(&predictor.join("head.safetensors")).unwrap();
        let number = |tensor: &Tensor| Vec::<f32>::try_from(tensor.to_kind(Kind::Float).view(-1));
        let (weight, bias) = (
            number(&head["weight"]).unwrap(),
            number(&head["bias"]).unwrap(),
        );
        for (picture, score) in pictures.iter().zip(&scores) {
            let plain = plain_picture(picture).unwrap();
            let pixels = pixel_values(&[&plain], 224, PixelRule::Processor).unwrap();
            let embedding = number(&clip.embed_normalised(&pixels).unwrap()).unwrap();
            let terms = embedding.iter().zip(&weight).map(|(a, b)| a * b);
            let expected = bias[0] + terms.sum::<f32>();
            assert!((score - expected).abs() < 1e-5, "{score} {expected}");
        }
        assert!((scores[0] - scores[1]).abs() > 1e-3, "{scores:?}");
        assert_eq!(scorer.name(), "LAION aesthetic predictor");
    }

    #[test]
    fn what_is_missing_or_does_not_fit_is_told() {
        let (_folder, predictor) = tiny();
        let said = || {
            AestheticHead::open(&predictor, Target::CPU_F32)
                .unwrap_err()
                .to_string()
        };
        let head = predictor.join("head.safetensors");
        let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, tch::Device::Cpu));
        write_tensors(
            &head,
            &[("weight", &ones(&[1, 768])), ("bias", &ones(&[1]))],
        )
        .unwrap();
        let text = said();
        assert!(
            text.contains("head.safetensors")
                && text.contains("768 numbers")
                && text.contains("gives 32"),
            "{text}"
        );
        write_tensors(&head, &[("weight", &ones(&[768]))]).unwrap();
        let text = said();
        assert!(
            text.contains("[1, width]") && text.contains("[768]"),
            "{text}"
        );
        std::fs::remove_file(&head).unwrap();
        let text = said();
        assert!(text.contains("sa_0_4_vit_l_14_linear"), "{text}");
        std::fs::remove_dir_all(predictor.join("clip")).unwrap();
        let text = said();
        assert!(text.contains("openai/clip-vit-large-patch14"), "{text}");
    }
}
